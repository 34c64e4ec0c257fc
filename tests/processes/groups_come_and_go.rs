//! "More machines, then fewer." A new founder gets its share of the slots, a group that is drained gives them back and
//! its workers end, a member leaves its group, and every key is where it is looked for.

use crate::common;
use crate::common::{Cluster, Home, Node, until};
use serde_json::{Value, json};

const KEYS: usize = 200;

fn status(home: &Home, master: &Node) -> Value {
    home.run_at(master, &["status", "--json"]).exits(0).json()
}

/// How many slots each group owns.
fn slots(home: &Home, master: &Node) -> Vec<(u64, u64)> {
    let status = status(home, master);
    let groups = status["groups"].as_array().expect("groups");
    let number = |group: &Value, name: &str| group[name].as_u64().expect("a number");
    groups.iter().map(|group| (number(group, "group"), number(group, "slots"))).collect()
}

fn fill(node: &Node) {
    for key in 0..KEYS {
        node.put(format!("key {key}"), format!("value {key}"));
    }
}

#[track_caller]
fn all_there(node: &Node) {
    for key in 0..KEYS {
        let value = node.value(format!("key {key}"));
        assert_eq!(value.as_deref(), Some(format!("value {key}").as_bytes()), "key {key}");
    }
}

#[test]
fn a_new_founder_gets_its_share_and_a_drained_group_gives_it_back() {
    let home = Home::new();
    let master = home.start("master", &["--move-rate", "100m"]);
    let first = home.worker(&master);
    fill(&first);
    let mut second = home.worker(&master);
    until("half of the slots have moved", || (slots(&home, &master) == [(0, 8192), (1, 8192)]).then_some(()));
    let said = home.run_at(&master, &["rebalance"]).exits(0).text();
    assert!(said.contains("nothing has to move") || said.contains("every group has its share"), "{said}");
    all_there(&first);
    all_there(&second);

    let said = home.run_at(&master, &["drain", "1"]).exits(4).err;
    assert!(said.contains("the last member of group 1") && said.contains("drain --group 1"), "{said}");
    let said = home.run_at(&master, &["drain", "--group", "1", "--dry-run"]).exits(0).text();
    assert!(
        said.contains("8192 slots from group 1 to 0: about ") && said.contains("worker 1 may go"),
        "{said}"
    );
    assert_eq!(slots(&home, &master), [(0, 8192), (1, 8192)], "that was only a question");
    let said = home.run_at(&master, &["drain", "--group", "0", "--no-wait"]).exits(0).text();
    assert!(said.contains("group 0 is dissolved"), "{said}");
    let said = home.run_at(&master, &["drain", "--group", "1"]).exits(4).err;
    assert!(said.contains("no group that could take the slots of group 1"), "{said}");
    home.run_at(&master, &["drain", "--group", "0", "--undo"]).exits(0);
    let said = home.run_at(&master, &["drain", "--group", "1"]).exits(0).text();
    assert!(said.ends_with("group 1 is dissolved\n"), "{said}");
    assert_eq!(second.wait(common::PATIENCE), 0);
    assert_eq!(slots(&home, &master), [(0, 16384)]);
    all_there(&first);
    all_there(&master);
    home.run_at(&master, &["drain", "--group", "1"]).exits(0);
    let said = second.launch.refuse().exits(4).err;
    assert!(said.contains("worker 1 was removed: it left its group"), "{said}");
}

#[test]
fn slots_do_not_go_where_fewer_vote_unless_that_is_accepted() {
    let cluster = Cluster::start();
    fill(&cluster.worker);
    let clone = || cluster.home.worker_with(&cluster.master, &["--clone", "0"]);
    let (_one, _two) = (clone(), clone());
    let _lone = cluster.home.worker(&cluster.master);
    let waits = until("the new group waits for members", || {
        let status = status(&cluster.home, &cluster.master);
        status["groups"][1]["waits_for"].as_str().map(str::to_owned)
    });
    assert_eq!(waits, "group 3 waits for 2 more members");
    let said = cluster.run(&["rebalance"]).exits(0).text();
    assert!(said.starts_with("group 3 waits for 2 more members\n"), "{said}");
    assert_eq!(slots(&cluster.home, &cluster.master), [(0, 16384), (3, 0)]);
    let said = cluster.run(&["rebalance", "--accept-fewer-copies", "--dry-run"]).exits(0).text();
    assert!(said.starts_with("8192 slots from group 0 to 3: about "), "{said}");
    let said = cluster.run(&["rebalance", "--accept-fewer-copies"]).exits(0).text();
    assert!(said.ends_with("every group has its share\n"), "{said}");
    assert_eq!(slots(&cluster.home, &cluster.master), [(0, 8192), (3, 8192)]);
    all_there(&cluster.master);
}

#[test]
fn a_member_leaves_its_group_without_another_in_its_place() {
    let cluster = Cluster::start();
    fill(&cluster.worker);
    let clone = || cluster.home.worker_with(&cluster.master, &["--clone", "0"]);
    let (mut one, two) = (clone(), clone());
    until("all three vote", || {
        let status = status(&cluster.home, &cluster.master);
        (status["groups"][0]["voters"] == json!([0, 1, 2])).then_some(())
    });
    let said = cluster.run(&["drain", "1", "--dry-run"]).exits(0).text();
    assert!(said.contains("would leave"), "{said}");
    let said = cluster.run(&["drain", "1"]).exits(0).text();
    assert!(said.ends_with("worker 1 has left group 0\n"), "{said}");
    assert_eq!(one.wait(common::PATIENCE), 0);
    all_there(&two);
    let status = status(&cluster.home, &cluster.master);
    assert_eq!(status["groups"][0]["members"], json!([0, 2]), "{status}");
    cluster.worker.put("A", "happy");
}
