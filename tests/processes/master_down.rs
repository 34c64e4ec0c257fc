//! "One machine is down, so everything is down." Without the master reads and writes go on with the last known
//! routes; when it is back, it finds its workers again.

use crate::common::load::{Load, Writer};
use crate::common::{Cluster, Dice, Node, within};
use std::time::Duration;

/// True once the master sees worker `index` alive.
fn is_alive(master: &Node, index: usize) -> bool {
    let status = master.get("/master").must_be(200).json();
    status["workers"][index]["alive"] == true
}

#[test]
fn reads_and_writes_go_on_without_the_master() {
    let mut cluster = Cluster::start();
    let mut second = cluster.home.worker(&cluster.master);
    cluster.run(&["put", "A", "before"]).exits(0);
    // The second founder has to know the routes too, before the one who tells them goes.
    assert_eq!(second.value("A").as_deref(), Some(b"before".as_slice()));
    let writer = Writer::new("w", cluster.worker.port, Dice::fresh().throw(), 1000);
    let load = Load::start(vec![writer]);
    cluster.master.stop();

    let before = load.done();
    within(Duration::from_secs(20), "writes go on", || (load.done() > before + 50).then_some(()));
    let mut writers = load.finish();
    writers[0].check(&cluster.worker);
    cluster.worker.get("/health").must_be(200);
    assert_eq!(
        second.value("A").as_deref(),
        Some(b"before".as_slice()),
        "the second founder forwards without it"
    );

    // The command line remembers the nodes of the cluster: it still names the master that is down.
    cluster.run(&["put", "A", "without"]).exits(0);
    assert_eq!(cluster.run(&["get", "A"]).exits(0).text(), "without");
    assert_eq!(cluster.run(&["list"]).exits(0).text().lines().filter(|line| line.contains('A')).count(), 1);
    // And finds the owner through any worker that it is told.
    assert_eq!(cluster.home.run_at(&second, &["get", "A"]).exits(0).text(), "without");
    assert_eq!(cluster.home.run_at(&cluster.worker, &["get", "A"]).exits(0).text(), "without");

    // Workers that lived before start without it, killed or stopped.
    cluster.worker.kill();
    cluster.worker.restart();
    assert!(cluster.worker.ready.starts_with("ready worker 0 at "), "{}", cluster.worker.ready);
    second.stop();
    second.restart();
    assert!(second.ready.starts_with("ready worker 1 at "), "{}", second.ready);
    assert_eq!(cluster.worker.value("A").as_deref(), Some(b"without".as_slice()));
    assert_eq!(second.value("A").as_deref(), Some(b"without".as_slice()));
    second.put("A", "after the restart");
    assert_eq!(cluster.run(&["get", "A"]).exits(0).text(), "after the restart");
    writers[0].check(&cluster.worker);

    // The master comes back, and within 5 seconds (some more on a loaded machine) so are its workers.
    cluster.master.restart();
    within(Duration::from_secs(8), "the workers are back in status", || {
        (is_alive(&cluster.master, 0) && is_alive(&cluster.master, 1)).then_some(())
    });
    let status = cluster.run(&["status", "--json"]).exits(0).json().to_string();
    assert!(status.contains(&cluster.worker.port.to_string()), "{status}");
    assert_eq!(cluster.master.value("A").as_deref(), Some(b"after the restart".as_slice()));
}

#[test]
fn a_master_that_comes_back_knows_who_is_down_and_how_to_start_it() {
    let mut cluster = Cluster::start();
    within(Duration::from_secs(10), "the worker is alive", || is_alive(&cluster.master, 0).then_some(()));
    cluster.worker.kill();
    within(Duration::from_secs(20), "the worker is seen to be down", || {
        (!is_alive(&cluster.master, 0)).then_some(())
    });
    let said = cluster.run(&["status"]).exits(0).text();
    assert!(said.contains(&cluster.worker.data.display().to_string()), "where is its folder? {said}");
    assert!(said.contains(&format!("catstore worker {}", cluster.worker.port)), "how to start it? {said}");

    // The line that it names works.
    let status = cluster.master.get("/master").json();
    let line = status["workers"][0]["restart"].as_str().unwrap_or_else(|| panic!("{status}")).to_owned();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[0], "catstore", "{line}");
    let mut launch = cluster.worker.launch.clone();
    launch.words = words[1..].iter().map(|word| (*word).to_owned()).collect();
    let again = launch.serve();
    assert!(again.ready.starts_with("ready worker 0 at "), "{}", again.ready);
}
