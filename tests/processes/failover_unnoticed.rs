//! "The leader died and my program crashed." Writes that carry a request id, and reads, sent through the members that
//! live and the master by clients that never repeat anything: the leader is killed, or stands still, and
//! none of them fails.

use crate::common::node::kv;
use crate::common::{Group, Node, Session, until};
use rustix::process::Signal;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Writes and reads one key until `stop`; returns the last value that was acknowledged.
fn client(name: &str, port: u16, stop: &AtomicBool, pulse: &AtomicU64) -> u64 {
    let mut session = Session::new(port);
    let path = kv(name);
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let id = format!("{name}-{}", number + 1);
        let body = (number + 1).to_string();
        let reply = session.ask("PUT", &path, &[("Catstore-Request-Id", &id)], Some(body.as_bytes()));
        if !matches!(reply.status, 200 | 201) {
            // The others end before the test does.
            stop.store(true, Ordering::Relaxed);
            panic!("write {number} of {name}: {} {}", reply.status, reply.text());
        }
        number += 1;
        let reply = session.ask("GET", &path, &[], None);
        if reply.status != 200 || reply.text() != body {
            stop.store(true, Ordering::Relaxed);
            panic!("read {number} of {name}: {} {}", reply.status, reply.text());
        }
        pulse.fetch_add(1, Ordering::Relaxed);
    }
    number
}

/// Runs clients at all nodes but the leader while `trouble` and then `cure` befall it; none of their requests may fail,
/// and what they wrote last is there.
fn nobody_fails(
    group: &mut Group,
    round: u32,
    trouble: impl FnOnce(&mut Node),
    cure: impl FnOnce(&mut Node),
) {
    let leader = group.settle();
    let ports = group.ports_without(leader);
    let (stop, pulse) = (AtomicBool::new(false), AtomicU64::new(0));
    let last: Vec<(String, u64)> = std::thread::scope(|scope| {
        let clients: Vec<_> = ports
            .iter()
            .flat_map(|port| [(port, 0), (port, 1)])
            .map(|(port, part)| {
                let (stop, pulse) = (&stop, &pulse);
                scope.spawn(move || {
                    let name = format!("{round}.{port}.{part}");
                    let last = client(&name, *port, stop, pulse);
                    (name, last)
                })
            })
            .collect();
        let more = |what: &str| {
            let before = pulse.load(Ordering::Relaxed);
            until(what, || {
                let done = pulse.load(Ordering::Relaxed) > before + 100;
                (done || stop.load(Ordering::Relaxed)).then_some(())
            });
        };
        more("all are at work");
        trouble(&mut group.workers[leader]);
        more("all are at work without it");
        cure(&mut group.workers[leader]);
        more("all are at work with it");
        stop.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().expect("no request failed")).collect()
    });
    group.settle();
    for (name, last) in last {
        for (other, node) in group.nodes() {
            let value = node.value(&name).unwrap_or_default();
            assert_eq!(value, last.to_string().as_bytes(), "{name} read through {other}");
        }
    }
}

#[test]
fn the_leader_is_killed() {
    let mut group = Group::start(3, &[]);
    for round in 0..3 {
        nobody_fails(&mut group, round, Node::kill, Node::restart);
    }
}

#[test]
fn the_leader_stands_still_for_a_while() {
    let mut group = Group::start(3, &[]);
    nobody_fails(&mut group, 0, |node| node.signal(Signal::STOP), |node| node.signal(Signal::CONT));
}
