//! "I gave the cluster a second worker, and my videos?" Files go with their slots while clients read and write, a clone
//! brings them along, and where they were the space comes back.

// A test stops at the first surprise, in its helpers too.
#![allow(clippy::unwrap_used)]

use crate::common::group::Group;
use crate::common::node::kv;
use crate::common::{Dice, Node, Session, files_below, shares, within};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const CHUNK: usize = 1 << 20;
const FILES: usize = 24;
const LONG: Duration = Duration::from_secs(120);

fn value(number: usize) -> Vec<u8> {
    Dice::new(number as u64 + 1).bytes((1 + number % 3) * CHUNK + number)
}

fn key(number: usize) -> String {
    format!("film {number}")
}

fn check(node: &Node) {
    let mut session = Session::patient(node.port, Duration::from_secs(30));
    for number in 0..FILES {
        let reply = session.ask("GET", &kv(key(number)), &[], None).must_be(200);
        assert!(reply.body == value(number), "{} is not what was put", key(number));
    }
}

fn chunks_of(node: &Node) -> usize {
    files_below(&node.data.join("blobs")).len()
}

#[test]
fn files_go_with_their_slots_and_with_a_clone() {
    let group = Group::start(1, &["--keep-uploads", "1s"]);
    let first = &group.workers[0];
    let mut session = Session::patient(first.port, Duration::from_secs(30));
    for number in 0..FILES {
        session.ask("PUT", &kv(key(number)), &[], Some(&value(number))).must_be(201);
    }
    let all = chunks_of(first);
    let stop = Arc::new(AtomicBool::new(false));
    let reader = std::thread::spawn({
        let (stop, port) = (stop.clone(), first.port);
        move || {
            let (mut session, mut number) = (Session::patient(port, Duration::from_secs(30)), 0);
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                let film = number % FILES;
                if number % 5 == 0 {
                    let put = session.ask("PUT", &kv(key(film)), &[], Some(&value(film)));
                    assert!(matches!(put.status, 200 | 201), "{} {}", put.status, put.text());
                }
                let reply = session.ask("GET", &kv(key(film)), &[], None).must_be(200);
                assert!(reply.body == value(film), "{} while slots move", key(film));
            }
            number
        }
    });
    let second = group.home.worker_with(&group.master, &["--keep-uploads", "1s"]);
    within(LONG, "both have half of the slots", || {
        let (shares, moves) = shares(group.master.port);
        (moves == 0 && shares.len() == 2 && shares.iter().all(|(_, slots)| *slots == 8192)).then_some(())
    });
    let clone = group.home.worker_with(&group.master, &["--clone", "0", "--keep-uploads", "1s"]);
    stop.store(true, Ordering::Relaxed);
    println!("{} reads meanwhile", reader.join().unwrap());
    check(first);
    check(&second);
    check(&clone);
    let mut last = (0, 0, 0);
    within(LONG, "each chunk is where it belongs, and nowhere else", || {
        let (one, two, copy) = (chunks_of(first), chunks_of(&second), chunks_of(&clone));
        if std::mem::replace(&mut last, (one, two, copy)) != last {
            println!("chunks: {one} at the first, {two} at the second, {copy} at the clone, of {all}");
        }
        (one + two == all && one == copy && one > 0 && two > 0).then_some(())
    });
}
