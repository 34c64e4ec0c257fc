//! "I cloned it while it was busy, and the copy misses something." Workers join a group that holds data and is written
//! to all the time: they catch up, compare themselves with their source, and hold every key.

use crate::common::clients::{Clients, Habits, keys_below};
use crate::common::node::kv;
use crate::common::{Fleet, Node, Session, until};

/// Values that are there before.
const VALUES: usize = 400;

fn value(number: usize) -> Vec<u8> {
    vec![b'a' + (number % 26) as u8; 50_000 + number]
}

/// The digest that a clone says it shares with its source.
fn digest(clone: &Node) -> Option<String> {
    let log = clone.log();
    let line = log.lines().find(|line| line.contains("hold the same"))?;
    assert!(log.lines().any(|line| line.starts_with("copied ")), "{log}");
    line.rsplit("digest ").next().map(|hash| hash.trim().to_owned()).filter(|hash| hash.len() == 64)
}

#[test]
fn the_copy_is_complete() {
    let mut fleet = Fleet::of(1, 1);
    let mut session = Session::new(fleet.workers[0].port);
    for number in 0..VALUES {
        let reply = session.ask("PUT", &kv(format!("early/{number}")), &[], Some(&value(number)));
        reply.must_be(201);
    }
    let clients = Clients::start(&fleet.ports(), Habits::default());
    clients.progress(30);
    for members in 2..=3 {
        fleet.add_worker();
        clients.talk_to(&fleet.ports());
        clients.progress(30);
        // It says so itself, and names the digest of both.
        let hash = until("the clone names the digest", || digest(&fleet.workers[members - 1]));
        let source = &fleet.workers[fleet.leader()];
        until("so does the source", || source.log().contains(&hash).then_some(()));
    }
    fleet.await_voters(3);
    // Those who wrote before are gone: the copies have it all.
    fleet.workers[0].kill();
    clients.progress(30);
    let left = [fleet.workers[1].port, fleet.workers[2].port];
    for port in left {
        assert_eq!(keys_below("early/", port).len(), VALUES);
        let mut session = Session::new(port);
        for number in 0..VALUES {
            let body = until("a value is read", || {
                let reply = session.send("GET", &kv(format!("early/{number}")), &[], None).ok()?;
                (reply.status == 200).then_some(reply.body)
            });
            assert!(body == value(number), "early/{number} came back changed");
        }
    }
    clients.finish_and_check(&left);
}
