//! "What if somebody dies in the middle of it?" Leaders of the source, of the target and of the masters are killed one
//! after the other while slots move: nothing that was acknowledged is lost, every history is linearizable, and the move
//! ends.

use crate::common::clients::{Clients, Habits};
use crate::common::six::Six;
use crate::common::{Node, Session, pause, until};
use serde_json::{Value, json};
use std::time::Duration;

/// How long a node is left dead.
const DEAD: u64 = 700;

fn fill(node: &Node) {
    let mut session = Session::new(node.port);
    for number in 0..20 {
        let key = |part: usize| format!("{{tag{number}}}still/{number:03}{part:02}");
        let value = "x".repeat(500);
        let ops: Vec<Value> =
            (0..100).map(|part| json!({"op": "put", "key": key(part), "value": value})).collect();
        let body = json!({ "ops": ops }).to_string();
        assert_eq!(session.ask("POST", "/batch", &[], Some(body.as_bytes())).status, 200);
    }
}

#[test]
fn leaders_of_all_sides_are_killed_in_turn() {
    let mut six = Six::begin(&["--move-rate", "150000"]);
    fill(&six.workers[0]);
    let habits = Habits { clients: 8, silence: Duration::from_secs(4), pause: 20, ..Habits::default() };
    let clients = Clients::start(&six.ports(), habits);
    clients.progress(50);
    six.add_group();
    clients.talk_to(&six.ports());
    until("a move is under way", || (six.shares()?.2 > 0).then_some(()));
    let mut turn = 0;
    // Until the shares are even; at least once around.
    until("the shares are even, whoever dies", || {
        let even = six.shares().is_some_and(|shares| shares == (8192, 8192, 0));
        if even && turn >= 3 {
            return Some(());
        }
        turn += usize::from(six.kill_one(turn, DEAD));
        pause(DEAD);
        None
    });
    clients.progress(50);
    clients.finish_and_check(&six.ports());
    six.all_run();
}

#[test]
fn a_move_that_was_begun_ends_without_any_master() {
    let mut six = Six::begin(&["--move-rate", "150000"]);
    fill(&six.workers[0]);
    six.add_group();
    let workers: Vec<u16> = six.workers.iter().map(|node| node.port).collect();
    let clients = Clients::start(&workers, Habits { clients: 4, pause: 10, ..Habits::default() });
    until("the source has begun the move", || {
        let begun = |node: &Node| node.get("/worker").must_be(200).json()["moving"].is_object();
        six.workers[..3].iter().any(begun).then_some(())
    });
    six.masters.iter_mut().for_each(Node::kill);
    let owned = |node: &Node| -> Option<u64> {
        let facts = node.get("/worker").must_be(200).json();
        let spans = facts["slots"].as_array()?;
        Some(
            spans
                .iter()
                .map(|span| span["last"].as_u64().unwrap() - span["first"].as_u64().unwrap() + 1)
                .sum(),
        )
    };
    until("the target owns its share", || (owned(&six.workers[3])? == 8192).then_some(()));
    until("the source has given it away", || (owned(&six.workers[0])? == 8192).then_some(()));
    // Whoever is asked finds the owner, with routes of before.
    clients.progress(100);
    assert_eq!(clients.failures(), 0, "{:?}", clients.counts());
    six.masters.iter_mut().for_each(Node::restart);
    until("the masters have heard of it", || (six.shares()? == (8192, 8192, 0)).then_some(()));
    clients.progress(50);
    clients.finish_and_check(&six.ports());
}
