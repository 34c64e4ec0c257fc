//! "I restarted one machine after the other, by the book, and requests failed all the same." Clients that never repeat
//! anything write and read through the nodes that stay, while a member is told to stop, or closed, and comes back.

use crate::common::load::{Load, Writer};
use crate::common::node::kv;
use crate::common::{Dice, Group, Session, until};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Runs `trouble` while writers and readers work through all nodes but worker `index`; none of their requests may fail.
fn nobody_notices(group: &mut Group, index: usize, trouble: impl FnOnce(&mut Group)) {
    let ports = group.ports_without(index);
    let mut dice = Dice::fresh();
    let writers = ports.iter().enumerate().flat_map(|(number, port)| {
        [0, 1].map(|part| Writer::new(&format!("{index}.{number}.{part}"), *port, dice.throw(), 2000))
    });
    let load = Load::start(writers.collect());
    group.master.put("read me", "always");
    let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for port in &ports {
            let (stop, reads) = (&stop, &reads);
            scope.spawn(move || {
                let mut session = Session::new(*port);
                while !stop.load(Ordering::Relaxed) {
                    let reply = session.ask("GET", &kv("read me"), &[], None);
                    if reply.status != 200 {
                        // The other threads end before the test does.
                        stop.store(true, Ordering::Relaxed);
                    }
                    assert_eq!(reply.must_be(200).text(), "always");
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let (written, read) = (load.done(), reads.load(Ordering::Relaxed));
        until("all are at work", || {
            (load.done() > written + 100 && reads.load(Ordering::Relaxed) > read + 100).then_some(())
        });
        trouble(group);
        let (written, read) = (load.done(), reads.load(Ordering::Relaxed));
        until("all are at work after it", || {
            let done = load.done() > written + 100 && reads.load(Ordering::Relaxed) > read + 100;
            (done || stop.load(Ordering::Relaxed)).then_some(())
        });
        stop.store(true, Ordering::Relaxed);
    });
    for mut writer in load.finish() {
        assert!(
            writer.complaints.is_empty(),
            "of {} requests: {:?}",
            writer.endings.len(),
            writer.complaints
        );
        writer.check(&group.master);
    }
}

/// Stops worker `index`, waits until the others serve without it, and starts it again.
fn restart(group: &mut Group, index: usize) {
    nobody_notices(group, index, |group| {
        let begun = std::time::Instant::now();
        group.workers[index].stop();
        assert!(begun.elapsed() < Duration::from_secs(6), "it took {:?} to stop", begun.elapsed());
        println!("worker {index} stopped after {:?}:\n{}", begun.elapsed(), group.workers[index].log());
        group.workers[index].restart();
        group.settle_under_load();
    });
    group.settle();
}

#[test]
fn each_member_of_a_group_of_three() {
    let mut group = Group::start(3, &[]);
    let leader = group.settle();
    restart(&mut group, leader);
    let leader = group.settle();
    restart(&mut group, (leader + 1) % 3);
}

#[test]
fn the_voter_of_a_group_of_two_and_then_its_standby() {
    let mut group = Group::start(2, &[]);
    let voter = group.settle();
    restart(&mut group, voter);
    let voter = group.settle();
    restart(&mut group, 1 - voter);
}

#[test]
fn a_leader_that_is_closed_and_opened() {
    let mut group = Group::start(3, &[]);
    let leader = group.settle();
    nobody_notices(&mut group, leader, |group| {
        let node = &group.workers[leader];
        node.get(&format!("/close/{leader}")).must_be(200);
        node.get("/kv/A").must_be_problem(503, "closed");
        until("another one leads", || {
            let view = group.master.get("/cluster").must_be(200).json();
            (view["groups"][0]["leader"] != leader).then_some(())
        });
        node.get(&format!("/worker/{leader}")).must_be(200);
        group.settle_under_load();
    });
    group.settle();
}
