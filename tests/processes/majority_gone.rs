//! "Two of three are down: does the third one lie?" Without a majority writes are refused, or of unknown outcome at
//! worst, nobody reads what may be old unless he says that he does not mind, nothing is lost, and service returns by
//! itself.

use crate::common::clients::{Clients, Habits};
use crate::common::fleet::ask;
use crate::common::node::kv;
use crate::common::{Fleet, Session};
use std::time::{Duration, Instant};

/// A node answers within 10 s; the rest is for a loaded machine.
const ANSWERED: Duration = Duration::from_secs(15);

/// Asserts that nothing is acknowledged or read through the node on `port`.
fn refuses(port: u16) {
    for _ in 0..2 {
        let start = Instant::now();
        let mut session = Session::new(port);
        let reply = session.ask("PUT", &kv("B"), &[], Some(b"never acknowledged"));
        assert!(start.elapsed() < ANSWERED, "{:?}", start.elapsed());
        match reply.status {
            503 => assert_eq!(reply.word(), "no_majority", "{}", reply.text()),
            504 => assert_eq!(reply.word(), "unknown_outcome", "{}", reply.text()),
            status => panic!("{status} without a majority: {}", reply.text()),
        }
        let hint = reply.json()["hint"].as_str().unwrap_or_default().to_owned();
        assert!(!hint.is_empty(), "what to do now? {}", reply.text());
        session.ask("GET", &kv("A"), &[], None).must_be_problem(503, "no_majority");
    }
}

fn lose_the_majority(keep_the_leader: bool) {
    let mut fleet = Fleet::of(1, 3);
    let clients = Clients::start(&fleet.ports(), Habits::default());
    clients.progress(50);
    fleet.workers[0].put("A", "happy");
    fleet.await_equal();
    let leader = fleet.leader();
    let followers = fleet.others(leader);
    let (lost, survivor) = match keep_the_leader {
        true => (followers, leader),
        false => (vec![leader, followers[0]], followers[1]),
    };
    for index in &lost {
        fleet.workers[*index].kill();
    }
    // What was on its way may still be acknowledged; what comes after cannot be.
    let through = [fleet.workers[survivor].port, fleet.masters[0].port];
    std::thread::scope(|scope| {
        for port in through {
            scope.spawn(move || refuses(port));
        }
    });
    // Whoever does not mind reads what the survivor holds.
    let stale = ask(fleet.workers[survivor].port, "/kv/A?consistency=stale").expect("an answer").must_be(200);
    assert_eq!(stale.text(), "happy");
    assert!(stale.header("catstore-applied-lag").is_some(), "{:?}", stale.headers);

    fleet.workers[lost[0]].restart();
    clients.progress(50);
    fleet.workers[lost[1]].restart();
    fleet.await_equal();
    clients.progress(50);
    clients.finish_and_check(&fleet.ports());
    fleet.all_run();
}

#[test]
fn the_leader_is_left_alone() {
    lose_the_majority(true);
}

#[test]
fn a_follower_is_left_alone() {
    lose_the_majority(false);
}
