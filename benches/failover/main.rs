//! How long nobody leads, and what a planned restart costs: `make bench-failover`, or `cargo bench --bench failover`.
//!
//! The leader of a group of three is killed with -9, and writers that begin at that moment try through the nodes that
//! are left until the first of them is acknowledged; with default timeouts, again and again. Then each member of a group of
//! three, and of one of two, is stopped with SIGTERM and started again under load, and requests that fail are counted,
//! through the nodes that stay (each request sent once) and through the client library.
//!
//! `CATSTORE_BENCH_ROUNDS` (30) changes the measure; figures are only comparable at the default.

#[path = "../../tests/common/mod.rs"]
mod common;

use common::clients::{Clients, Habits};
use common::library::Library;
use common::node::kv;
use common::{Fleet, Session, fleet, pause};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const ROUNDS: usize = 30;

fn main() {
    // `cargo test --benches` starts benchmarks too, to see that they run; that is not worth minutes.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("a benchmark: run it by `cargo bench --bench failover`");
        return;
    }
    let rounds = match std::env::var("CATSTORE_BENCH_ROUNDS") {
        Ok(text) => text.parse().expect("CATSTORE_BENCH_ROUNDS is a number"),
        Err(_) => ROUNDS,
    };
    kills(rounds);
    for members in [3, 2] {
        planned(members);
    }
}

/// Kills the leader again and again.
fn kills(rounds: usize) {
    let mut fleet = Fleet::of(1, 3);
    fleet.await_writes(&fleet.ports());
    let mut times: Vec<Duration> = (0..rounds).map(|_| kill_once(&mut fleet)).collect();
    times.sort();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    println!(
        "from kill -9 of the leader to the first acknowledged write, {rounds} rounds: \
         median {:.2} s, worst {:.2} s",
        median.as_secs_f64(),
        worst.as_secs_f64()
    );
}

fn kill_once(fleet: &mut Fleet) -> Duration {
    let leader = fleet.leader();
    let ports: Vec<u16> =
        fleet.ports().into_iter().filter(|port| *port != fleet.workers[leader].port).collect();
    // Its lease and its heartbeats may be at any point.
    pause(700 + u64::from(ports[0]) % 200);
    let killed = Instant::now();
    fleet.workers[leader].kill();
    let done = AtomicBool::new(false);
    let first = std::thread::scope(|scope| {
        let writers: Vec<_> = ports
            .iter()
            .map(|port| {
                let done = &done;
                scope.spawn(move || write_once(*port, done))
            })
            .collect();
        writers.into_iter().filter_map(|writer| writer.join().expect("a writer")).min()
    });
    let took = first.expect("an acknowledged write").saturating_duration_since(killed);
    println!("worker {leader} killed: {:.2} s", took.as_secs_f64());
    fleet.workers[leader].restart();
    fleet.await_equal();
    fleet.await_voters(3);
    took
}

/// Writes through the node on `port` until it is acknowledged, or somebody else's write is.
fn write_once(port: u16, done: &AtomicBool) -> Option<Instant> {
    let mut session = Session::new(port);
    while !done.load(Ordering::Relaxed) {
        let reply = session.send("PUT", &kv(format!("failover {port}")), &[], Some(b"x"));
        if reply.is_ok_and(|reply| matches!(reply.status, 200 | 201)) {
            done.store(true, Ordering::Relaxed);
            return Some(Instant::now());
        }
        pause(10);
    }
    None
}

/// Restarts each member once, by the book.
fn planned(members: usize) {
    let mut fleet = Fleet::of(1, members);
    let clients = Clients::start(&fleet.ports(), Habits { with_id: 0, ..Habits::default() });
    let library = Library::start(&fleet.ports());
    clients.progress(100);
    let (mut failed, mut requests) = (0, 0);
    for index in 0..members {
        let stays: Vec<u16> =
            fleet.ports().into_iter().filter(|port| *port != fleet.workers[index].port).collect();
        clients.talk_to(&stays);
        clients.progress(100);
        pause(300);
        let (was, began) = (clients.failures(), clients.written() + clients.read());
        fleet.workers[index].stop();
        clients.progress(100);
        fleet.workers[index].restart();
        clients.progress(100);
        fleet.await_equal();
        fleet.await_voters(fleet::odd(members));
        failed += clients.failures() - was;
        requests += clients.written() + clients.read() - began;
        clients.talk_to(&fleet.ports());
    }
    let done = library.finish();
    println!(
        "planned restart of each of {members} members: {failed} of {requests} requests failed through the nodes that stay; \
         {} of {} through the client library, the longest took {:.2} s",
        done.failed.len(),
        2 * done.writes,
        done.longest.as_secs_f64()
    );
    clients.finish_and_check(&fleet.ports());
    fleet.all_run();
}
