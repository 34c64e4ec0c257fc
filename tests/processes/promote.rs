//! "The machine with the vote is gone for good, and my keys are on the other one." A group of two: what a refused write
//! says, that it comes back by itself, and what `promote` says and does when it cannot.

use crate::common;
use crate::common::{Cluster, Home, Node, Reply, until};

/// A cluster, and a clone of its worker that is a live copy.
fn two() -> (Cluster, Node) {
    let cluster = Cluster::start();
    cluster.worker.put("A", "happy");
    let clone = cluster.home.worker_with(&cluster.master, &["--clone", "0"]);
    until("the clone is a live copy", || {
        let status = cluster.run(&["status", "--json"]).exits(0).json();
        (status["groups"][0]["standbys"] == serde_json::json!([1])).then_some(())
    });
    (cluster, clone)
}

fn put(node: &Node, key: &str, value: &str) -> Reply {
    node.ask("PUT", &format!("/kv/{key}"), &[], Some(value.as_bytes()))
}

#[test]
fn the_standby_may_die_and_the_voter_comes_back_by_itself() {
    let (mut cluster, mut clone) = two();
    clone.kill();
    cluster.worker.put("A", "without the standby");
    clone.restart();
    until("the standby has it", || {
        let reply = clone.get("/kv/A?consistency=stale");
        (reply.status == 200 && reply.body == b"without the standby").then_some(())
    });

    cluster.worker.kill();
    let (port, data) = (cluster.worker.port, cluster.worker.data.display().to_string());
    for node in [&clone, &cluster.master] {
        // What is refused while nobody knows yet says less.
        let hint = until("a refusal with a hint that helps", || {
            let reply = put(node, "A", "refused");
            assert!(reply.status == 503 || reply.status == 504, "{} {}", reply.status, reply.text());
            let hint = reply.json()["hint"].as_str().unwrap_or_default().to_owned();
            (reply.word() == "no_majority" && hint.contains("promote")).then_some(hint)
        });
        assert!(hint.contains(&format!("catstore worker {port} ")) && hint.contains(&data), "{hint}");
        assert!(hint.contains("catstore promote 1 --accept-data-loss"), "{hint}");
    }
    cluster.worker.restart();
    until("writes go on by themselves", || (put(&clone, "A", "back").status == 200).then_some(()));
    assert_eq!(cluster.worker.value("A").as_deref(), Some(b"back".as_slice()));
}

#[test]
fn promote_says_what_may_be_missing_and_the_survivor_goes_on_alone() {
    let (mut cluster, clone) = two();
    let run = |cluster: &Cluster, words: &[&str]| cluster.run(words);
    let said = run(&cluster, &["promote", "1", "--accept-data-loss"]).exits(4).err;
    assert!(said.contains("nothing needs to be lost"), "{said}");
    assert_eq!(run(&cluster, &["promote", "7"]).exits(1).out, b"");

    cluster.worker.kill();
    until("the master knows that the voter is down", || {
        let outcome = run(&cluster, &["promote", "1"]).exits(4);
        assert!(outcome.out.is_empty(), "{}", outcome.text());
        assert_eq!(outcome.err.lines().count(), 1, "{}", outcome.err);
        outcome.err.contains("may be lost").then_some(())
    });
    let said = run(&cluster, &["promote", "1"]).exits(4).err;
    for part in [
        "worker 1's log ends at entry",
        "what was written after that",
        "worker 0 may never come back",
        "nothing was done",
        "catstore promote 1 --accept-data-loss",
    ] {
        assert!(said.contains(part), "no {part:?}: {said}");
    }
    // The command is complete: with the options that lead to this cluster.
    let port = cluster.master.port.to_string();
    let elsewhere = cluster.home.run(&["promote", "1", "--master", &port]).exits(4).err;
    assert!(elsewhere.contains(&format!("--accept-data-loss --master {port}")), "{elsewhere}");
    let refusal = run(&cluster, &["promote", "1", "--json"]).exits(4).json();
    assert_eq!((&refusal["type"], &refusal["left_behind"]), (&"conflict".into(), &serde_json::json!([0])));
    assert!(refusal["incarnation"].is_null() && refusal["missing"].is_string(), "{refusal}");
    let said = run(&cluster, &["promote", "0", "--accept-data-loss"]).exits(4).err;
    assert!(said.contains("worker 0 is not alive"), "{said}");

    let done = run(&cluster, &["promote", "1", "--accept-data-loss"]).exits(0);
    assert_eq!(done.text(), "group 0 serves again: incarnation 2, from worker 1's copy\n");
    assert!(done.err.contains("worker 0 may never come back"), "what it cost is said again: {}", done.err);
    // It serves: the first requests go through.
    assert_eq!(run(&cluster, &["get", "A"]).exits(0).text(), "happy");
    run(&cluster, &["put", "A", "alone"]).exits(0);
    // A repeat changes nothing.
    let again = run(&cluster, &["promote", "1", "--accept-data-loss", "--json"]).exits(0).json();
    assert_eq!((&again["incarnation"], &again["group"]), (&2.into(), &0.into()), "{again}");

    let refused = cluster.worker.launch.refuse().exits(4);
    assert!(
        refused.err.contains("worker 0 was removed: left behind when worker 1 was promoted"),
        "{}",
        refused.err
    );
    assert!(refused.err.contains("--clone 1"), "what to do instead: {}", refused.err);

    let third = cluster.home.worker_with(&cluster.master, &["--clone", "1"]);
    assert!(third.ready.starts_with("ready worker 2 at "), "{}", third.ready);
    assert!(third.log().contains("hold the same"), "{}", third.log());
    third.put("A", "three");
    assert_eq!(clone.value("A").as_deref(), Some(b"three".as_slice()));
    let text = run(&cluster, &["status"]).exits(0).text();
    assert!(text.contains("removed for good: worker 0 (left behind when worker 1 was promoted)"), "{text}");
}

const KEYS: usize = 200;

fn fill(node: &Node, word: &str) {
    for key in 0..KEYS {
        node.put(format!("key {key}"), format!("{word} {key}"));
    }
}

/// A group whose copy slept while slots moved, and a founder that gave or took them.
struct Slept {
    home: Home,
    master: Node,
    first: Node,
    clone: Node,
}

impl Slept {
    fn start() -> Slept {
        let home = Home::new();
        let master = home.start("master", &["--move-rate", "100m"]);
        let first = home.worker(&master);
        fill(&first, "old");
        let clone = home.worker_with(&master, &["--clone", "0"]);
        let slept = Slept { home, master, first, clone };
        until("the clone is a live copy", || {
            (slept.status()["groups"][0]["standbys"] == serde_json::json!([1])).then_some(())
        });
        slept
    }

    fn status(&self) -> serde_json::Value {
        self.home.run_at(&self.master, &["status", "--json"]).exits(0).json()
    }

    fn of_each(&self, what: &str) -> Vec<u64> {
        let groups = self.status()["groups"].as_array().expect("groups").clone();
        groups.iter().map(|group| group[what].as_u64().unwrap_or_default()).collect()
    }

    fn await_slots(&self, slots: &[u64]) {
        until("slots are where they belong", || (self.of_each("slots") == slots).then_some(()));
        until("nothing moves", || (self.status()["moves"] == serde_json::json!([])).then_some(()));
    }

    fn promote(&self, index: &str) {
        until("the promotion", || {
            let outcome = self.home.run_at(&self.master, &["promote", index, "--accept-data-loss"]);
            (outcome.code == 0).then_some(())
        });
    }

    /// Every key is in one group, takes a value, and has it wherever it is read.
    fn writes_go_on(&self, nodes: [&Node; 2]) {
        fill(nodes[0], "newest");
        for key in 0..KEYS {
            for node in nodes {
                let value = node.value(format!("key {key}")).expect("a value");
                assert_eq!(value, format!("newest {key}").as_bytes());
            }
        }
        until("each key is counted once", || {
            (self.of_each("keys").iter().sum::<u64>() == KEYS as u64).then_some(())
        });
    }
}

#[test]
fn a_copy_that_slept_while_slots_went_does_not_serve_them() {
    let mut slept = Slept::start();
    slept.clone.kill();
    let second = slept.home.worker(&slept.master);
    slept.await_slots(&[8192, 8192]);
    fill(&second, "new");
    slept.first.kill();
    slept.clone.restart();
    slept.promote("1");
    // What moved away is not touched by the loss, and the copy does not serve what it has of it.
    let values: Vec<Vec<u8>> =
        (0..KEYS).map(|key| slept.clone.value(format!("key {key}")).expect("a value")).collect();
    let new = values.iter().filter(|value| value.starts_with(b"new")).count();
    assert!((KEYS / 3..KEYS).contains(&new), "{new} of {KEYS} are new");
    slept.writes_go_on([&slept.clone, &second]);
    assert_eq!(slept.of_each("slots"), [8192, 8192]);
}

#[test]
fn a_copy_that_slept_while_slots_came_serves_them() {
    let mut slept = Slept::start();
    let mut second = slept.home.worker(&slept.master);
    slept.await_slots(&[8192, 8192]);
    slept.clone.kill();
    slept.home.run_at(&slept.master, &["drain", "--group", "2"]).exits(0);
    assert_eq!(second.wait(common::PATIENCE), 0);
    slept.await_slots(&[16384]);
    slept.first.kill();
    slept.clone.restart();
    slept.promote("1");
    slept.writes_go_on([&slept.clone, &slept.master]);
    assert_eq!(slept.of_each("slots"), [16384]);
}
