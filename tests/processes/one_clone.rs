//! "I added a copy and now two machines can break it." With one clone there are two members and one voter: the death
//! of the standby stops nothing; that of the voter stops writes, and says how to go on; and what is started again comes
//! back by itself.

use crate::common;
use crate::common::clients::{Clients, Habits};
use crate::common::fleet::ask;
use crate::common::node::kv;
use crate::common::{Fleet, Node, Session, within};
use serde_json::json;
use std::time::{Duration, Instant};

const HABITS: Habits = Habits { clients: 4, with_id: 70, silence: Duration::from_secs(11), pause: 4 };

#[test]
fn the_standby_dies() {
    let mut fleet = Fleet::of(1, 2);
    assert_eq!(fleet.facts(0).expect("facts")["voters"], json!([0]));
    assert_eq!(fleet.facts(0).expect("facts")["standbys"], json!([1]));
    let clients = Clients::start(&[fleet.workers[0].port, fleet.masters[0].port], HABITS);
    clients.progress(30);
    fleet.workers[1].kill();
    // Not for a moment: a lone voter asks nobody.
    let mut session = Session::new(fleet.workers[0].port);
    for number in 0..50 {
        let reply = session.ask("PUT", &kv(format!("meanwhile {number}")), &[], Some(b"x"));
        assert_eq!(reply.status, 201, "{}", reply.text());
        session.ask("GET", &kv(format!("meanwhile {number}")), &[], None).must_be(200);
    }
    clients.progress(30);
    fleet.workers[1].restart();
    fleet.await_equal();
    clients.finish_and_check(&fleet.ports());
    fleet.all_run();
}

/// Asserts that a write is refused through `node`, with the two ways to go on.
fn refuses(node: &Node, voter: &Node, standby: usize) {
    let start = Instant::now();
    let reply =
        node.ask("PUT", &kv("A"), &[], Some(b"nobody keeps this")).must_be_problem(503, "no_majority");
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    let hint = reply.json()["hint"].as_str().unwrap_or_default().to_owned();
    let restart = format!("catstore worker {} ", voter.port);
    assert!(hint.contains(&restart), "the restart command: {hint:?}");
    assert!(hint.contains(&voter.data.display().to_string()), "the restart command names the data: {hint:?}");
    let promote = format!("catstore promote {standby} --accept-data-loss");
    assert!(hint.contains(&promote), "{hint:?}");
}

#[test]
fn the_voter_dies() {
    let mut fleet = Fleet::of(1, 2);
    let clients = Clients::start(&fleet.ports(), HABITS);
    clients.progress(30);
    fleet.workers[0].put("A", "happy");
    fleet.await_equal();
    fleet.workers[0].kill();
    // Each of these waits as long as it may.
    std::thread::scope(|scope| {
        for node in [&fleet.workers[1], &fleet.masters[0]] {
            let voter = &fleet.workers[0];
            scope.spawn(move || refuses(node, voter, 1));
            scope.spawn(move || drop(node.get("/kv/A").must_be_problem(503, "no_majority")));
        }
        let outcome = fleet.home.run_at(&fleet.masters[0], &["put", "A", "x"]).exits(3);
        assert!(outcome.err.contains("promote 1"), "{}", outcome.err);
    });
    let stale = ask(fleet.workers[1].port, "/kv/A?consistency=stale").expect("an answer").must_be(200);
    assert_eq!(stale.text(), "happy");
    // It stays a standby, however long it waits.
    common::pause(3000);
    assert_eq!(fleet.facts(1).expect("facts")["role"], "standby");

    fleet.workers[0].restart();
    within(Duration::from_secs(20), "it comes back by itself", || {
        let mut session = Session::new(fleet.workers[1].port);
        (session.send("PUT", &kv("A"), &[], Some(b"again")).ok()?.status == 200).then_some(())
    });
    clients.progress(30);
    fleet.await_equal();
    clients.finish_and_check(&fleet.ports());
    fleet.all_run();
}
