//! "The disk was replaced by an empty one." A member whose folder is gone never votes as its former self: it is refused
//! with the way out, another takes its place under a new index, and the old folder never comes back.

use crate::common;
use crate::common::{Cluster, Node, copy_folder, until};
use serde_json::json;

/// A cluster of three members that all vote.
fn three() -> (Cluster, Node, Node) {
    let cluster = Cluster::start();
    cluster.worker.put("A", "happy");
    let clone = || cluster.home.worker_with(&cluster.master, &["--clone", "0"]);
    let (one, two) = (clone(), clone());
    voters(&cluster, json!([0, 1, 2]));
    (cluster, one, two)
}

fn voters(cluster: &Cluster, wanted: serde_json::Value) {
    until("the voters are as they should be", || {
        let status = cluster.run(&["status", "--json"]).exits(0).json();
        (status["groups"][0]["voters"] == wanted && status["groups"][0]["leader"].is_number()).then_some(())
    });
}

/// The launch once the masters have seen that its predecessor is down: what it leaves, and a live one says otherwise.
fn refused_once_it_is_down(launch: &common::Launch, part: &str) -> String {
    until("a refusal that knows it is down", || {
        let said = launch.refuse().exits(4).err;
        said.contains(part).then_some(said)
    })
}

#[test]
fn an_empty_disk_is_refused_and_replace_takes_the_place() {
    let (cluster, mut one, two) = three();
    // A live member needs no replacement.
    let port = cluster.master.port.to_string();
    let words = ["--master", port.as_str(), "--replace", "1"];
    let elsewhere = cluster.home.launch("worker", common::free_port(), &words);
    let said = elsewhere.refuse().exits(4).err;
    assert!(said.contains("worker 1 is alive") && said.contains("no replacement"), "{said}");

    one.kill();
    let rescued = cluster.home.path("rescued");
    copy_folder(&one.data, &rescued);
    std::fs::remove_dir_all(&one.data).unwrap();
    let said = refused_once_it_is_down(&one.launch, "worker 1 lived here");
    assert!(said.contains("--replace 1") && said.contains(&one.data.display().to_string()), "{said}");
    let said = one.launch.clone().data(&cluster.home.path("another")).refuse().exits(4).err;
    assert!(said.contains(&format!("use --data {}, or --replace 1", one.data.display())), "{said}");

    let mut launch = one.launch.clone();
    launch.words.extend(["--replace".into(), "1".into()]);
    let mut third = until("it may be replaced", || match launch.start() {
        Ok(node) => Some(node),
        Err(outcome) => {
            assert!(outcome.err.contains("worker 1 is alive"), "{}", outcome.err);
            None
        }
    });
    assert!(third.ready.starts_with("ready worker 3 at "), "{}", third.ready);
    assert!(third.log().contains("hold the same"), "{}", third.log());
    voters(&cluster, json!([0, 2, 3]));
    cluster.worker.put("A", "replaced");
    assert_eq!(third.value("A").as_deref(), Some(b"replaced".as_slice()));

    // The same line again is fine.
    third.stop();
    third.restart();
    assert!(third.ready.starts_with("ready worker 3 at "), "{}", third.ready);
    // The old folder turns up: it never comes back, wherever it is started.
    for launch in [one.launch.clone().data(&rescued).port(common::free_port()), {
        third.stop();
        one.launch.clone().data(&rescued)
    }] {
        let said = launch.refuse().exits(4).err;
        assert!(said.contains("worker 1 was removed: replaced by worker 3"), "{said}");
    }
    assert_eq!(two.value("A").as_deref(), Some(b"replaced".as_slice()));
}

#[test]
fn the_only_copy_is_replaced_by_nothing_only_if_that_is_said() {
    let mut cluster = Cluster::start();
    cluster.worker.put("A", "gone");
    cluster.worker.kill();
    std::fs::remove_dir_all(&cluster.worker.data).unwrap();
    let mut launch = cluster.worker.launch.clone();
    launch.words.extend(["--replace".into(), "0".into()]);
    let said = refused_once_it_is_down(&launch, "--accept-data-loss");
    assert!(said.contains("EMPTY") && said.contains("all its keys are lost"), "{said}");
    launch.words.push("--accept-data-loss".into());
    let anew = launch.serve();
    assert!(anew.ready.starts_with("ready worker 1 at "), "{}", anew.ready);
    assert!(anew.log().contains("its former keys are lost"), "{}", anew.log());
    assert_eq!(anew.value("A"), None);
    cluster.run(&["put", "A", "anew"]).exits(0);
    assert_eq!(anew.value("A").as_deref(), Some(b"anew".as_slice()));
}

#[test]
fn a_master_with_an_empty_disk_takes_its_own_place() {
    let cluster = Cluster::start();
    let first = cluster.master.port.to_string();
    let join = || cluster.home.start("master", &["--join", &first]);
    let (one, mut two) = (join(), join());
    let masters = |status: &serde_json::Value| -> Vec<u64> {
        let masters = status["masters"].as_array().cloned().unwrap_or_default();
        masters.iter().filter_map(|master| master["index"].as_u64()).collect()
    };
    two.kill();
    std::fs::remove_dir_all(&two.data).unwrap();
    let anew = until("the others see that it is gone", || match two.launch.start() {
        Ok(node) => Some(node),
        Err(outcome) => {
            assert!(outcome.code == 4 && outcome.err.contains("is alive"), "{}", outcome.err);
            None
        }
    });
    assert!(anew.log().contains("takes the place of master 2"), "{}", anew.log());
    let status = cluster.home.run_at(&one, &["status", "--json"]).exits(0).json();
    assert_eq!(masters(&status), [0, 1, 3], "{status}");
    until("the new one votes", || {
        let status = cluster.home.run_at(&one, &["status", "--json"]).exits(0).json();
        let changed = status["master_outgoing"] == serde_json::json!([]);
        (status["master_voters"] == serde_json::json!([0, 1, 3]) && changed).then_some(())
    });
    // Two of three are a majority, the new one among them.
    drop(one);
    until("a worker is taken", || {
        let launch =
            cluster.home.launch("worker", common::free_port(), &["--master", &first, "--clone", "0"]);
        launch.start().ok()
    });
}
