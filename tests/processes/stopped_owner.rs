//! "One stuck machine makes the others hang." The owner of the keys is stopped in its tracks, a thousand requests
//! for it wait at a node that forwards: that node stays quick and small, and each request gets an honest end.
//! Nobody waits for ever: neither does a command, nor a worker whose master is not there.

use crate::common;
use crate::common::http::{connect, read_reply, request};
use crate::common::{Cluster, Group, Node, Session, resident, until};
use rustix::process::Signal;
use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const WAITING: usize = 1000;

/// The 99th percentile of how long `/health` and `/cluster` take.
fn percentile(node: &Node) -> Duration {
    let mut session = Session::new(node.port);
    let mut times: Vec<Duration> = (0..200)
        .map(|number| {
            let start = Instant::now();
            let path = if number % 2 == 0 { "/health" } else { "/cluster" };
            let reply = session.ask("GET", path, &[], None);
            // A member that knows nobody who leads says so at once.
            assert!(
                reply.status == 200 || reply.word() == "no_majority",
                "{} {}",
                reply.status,
                reply.text()
            );
            start.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() * 99 / 100]
}

/// Sends a thousand reads and writes to `node` while `owner`, without whom nobody can answer, is stopped, and waits for
/// the end of each.
fn a_thousand_wait_at(node: &Node, owner: &Node) {
    let before = percentile(node);
    let memory = resident(node.pid());
    owner.signal(Signal::STOP);

    let mut waiting: Vec<(bool, TcpStream)> = Vec::with_capacity(WAITING);
    for number in 0..WAITING {
        let is_write = number % 2 == 0;
        let (method, body) = if is_write { ("PUT", Some([b'v'; 4096])) } else { ("GET", None) };
        let bytes = request(
            node.port,
            method,
            &format!("/kv/key{number}"),
            &[],
            body.as_ref().map(<[u8; 4096]>::as_slice),
        );
        let mut stream = connect(node.port).unwrap_or_else(|error| panic!("connection {number}: {error}"));
        stream.write_all(&bytes).expect("the request is sent");
        waiting.push((is_write, stream));
    }
    let sent = Instant::now();

    // The median of five looks: the first may still see the thousand arrive.
    let mut looks = [(); 5].map(|()| percentile(node));
    looks.sort();
    let during = looks[2];
    let grown = resident(node.pid()).saturating_sub(memory);
    println!("p99 {before:?} before, {looks:?} while {WAITING} wait; {} KiB more", grown >> 10);
    // Twice would be the promise on a quiet machine; this catches a node that is tied up.
    assert!(during < before * 2 + Duration::from_millis(100), "p99 went from {before:?} to {during:?}");
    assert!(grown < 150 << 20, "{grown} bytes more are resident");

    let mut words = std::collections::BTreeMap::new();
    for (is_write, stream) in waiting {
        let reply = read_reply(&mut BufReader::new(stream), false).expect("each waiting request is answered");
        let word = reply.word();
        match word.as_str() {
            "unknown_outcome" => {
                assert!(is_write && reply.status == 504, "{} {}", reply.status, reply.text())
            }
            "no_majority" => assert_eq!(reply.status, 503, "{}", reply.text()),
            _ => panic!("{} {word}: {}", reply.status, reply.text()),
        }
        *words.entry((is_write, word)).or_insert(0) += 1;
    }
    let took = sent.elapsed();
    println!("all ended after {took:?}: {words:?} (true: writes)");
    // 10 seconds are the promise, the rest is for a loaded machine that reads a thousand replies.
    assert!(took < Duration::from_secs(15), "the last one ended after {took:?}");

    owner.signal(Signal::CONT);
    until("it is served again", || {
        (node.ask("PUT", "/kv/again", &[], Some(b"v")).status / 100 == 2).then_some(())
    });
    assert_eq!(owner.value("again").as_deref(), Some(b"v".as_slice()));
    percentile(node);
}

#[test]
fn a_worker_without_a_master_says_so_and_gives_up() {
    let home = common::Home::new();
    let nobody = common::free_port();
    let start = std::time::Instant::now();
    let outcome =
        home.launch("worker", common::free_port(), &["--master", &nobody.to_string()]).refuse().exits(3);
    assert!(
        start.elapsed() > Duration::from_secs(20),
        "it waits 30 seconds for a master that is just starting"
    );
    assert!(outcome.err.contains(&nobody.to_string()), "{}", outcome.err);
    assert!(outcome.out.is_empty());
}

#[test]
fn a_command_tells_an_unknown_outcome_from_a_failure() {
    let cluster = Cluster::start();
    cluster.run(&["put", "A", "happy"]).exits(0);
    cluster.worker.signal(Signal::STOP);
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let write = cluster.run(&["put", "A", "sad"]).exits(6);
            println!("put gave up after {:?}: {}", start.elapsed(), write.err.trim());
            assert_eq!(write.err.lines().count(), 1, "one line, please: {}", write.err);
        });
        scope.spawn(|| {
            let read = cluster.run(&["get", "A"]).exits(3);
            println!("get gave up after {:?}: {}", start.elapsed(), read.err.trim());
            assert!(read.out.is_empty());
            assert_eq!(read.err.lines().count(), 1, "one line, please: {}", read.err);
            // Ten seconds are meant, the rest is for a loaded machine.
            assert!(start.elapsed() < Duration::from_secs(20), "a read waits for 30 seconds again");
        });
    });
    cluster.worker.signal(Signal::CONT);
    let value = until("it answers again", || {
        let outcome = cluster.run(&["get", "A"]);
        (outcome.code == 0).then(|| outcome.text())
    });
    assert!(value == "happy" || value == "sad", "{value}");
}

#[test]
fn a_write_outlasts_a_pause_of_its_owner_and_is_done_once() {
    let cluster = Cluster::start();
    let before = cluster.worker.put("A", "happy").version();
    cluster.worker.signal(Signal::STOP);
    std::thread::scope(|scope| {
        let write = scope.spawn(|| cluster.run(&["put", "A", "again"]));
        common::pause(1500);
        cluster.worker.signal(Signal::CONT);
        write.join().expect("a command").exits(0);
    });
    assert_eq!(cluster.worker.value("A").as_deref(), Some(b"again".as_slice()));
    assert_eq!(cluster.worker.get("/kv/A").version(), before + 1);
}

#[test]
fn at_the_master() {
    let cluster = Cluster::start();
    cluster.master.put("A", "happy");
    a_thousand_wait_at(&cluster.master, &cluster.worker);
}

#[test]
fn at_a_founder_without_slots() {
    let cluster = Cluster::start();
    let second = cluster.home.worker(&cluster.master);
    second.put("A", "happy");
    a_thousand_wait_at(&second, &cluster.worker);
}

#[test]
fn at_the_standby_of_a_stopped_voter() {
    let group = Group::start(2, &[]);
    let voter = group.settle();
    group.master.put("A", "happy");
    a_thousand_wait_at(&group.workers[1 - voter], &group.workers[voter]);
}

#[test]
fn at_the_master_of_a_group_whose_voter_is_stopped() {
    let group = Group::start(2, &[]);
    let voter = group.settle();
    group.master.put("A", "happy");
    a_thousand_wait_at(&group.master, &group.workers[voter]);
}
