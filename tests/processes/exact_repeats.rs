//! "It was sent twice, and the second one undid what came in between." Writers of the client library go on while the
//! worker is killed with -9 again and again: each write is repeated until it is answered, and executed once. Each
//! depends on the version that the one before it made, so a repeat that were executed anew would fail its condition.

use crate::common;
use crate::common::{Cluster, Dice, until};
use catstore::client::{Client, Condition, PutOptions};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const WRITERS: usize = 4;
const ROUNDS: usize = 12;

struct Shared {
    stop: AtomicBool,
    done: AtomicU64,
}

/// Writes a chain of versions below `key` and returns how many there are.
fn write_chain(client: &Client, key: &str, shared: &Shared) -> u64 {
    let mut last: Option<u64> = None;
    let mut count = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        let condition = last.map_or(Condition::Absent, Condition::Version);
        let options = PutOptions { condition, ..PutOptions::default() };
        let stored = client
            .put(key, format!("{}", count + 1), options)
            .unwrap_or_else(|error| panic!("write {} of {key} after version {last:?}: {error}", count + 1));
        assert_eq!(stored.created, last.is_none(), "{key}");
        last = Some(stored.version);
        count += 1;
        shared.done.fetch_add(1, Ordering::Relaxed);
    }
    count
}

#[test]
fn every_write_is_executed_once_while_the_worker_is_killed() {
    let mut cluster = Cluster::start();
    let mut dice = Dice::fresh();
    let seeds = vec![cluster.master.port.to_string(), cluster.worker.port.to_string()];
    // One client for all, as threads of a program share it.
    let client =
        Client::builder(seeds).memory(None).deadline(Duration::from_secs(120)).build().expect("a client");
    let shared = Shared { stop: AtomicBool::new(false), done: AtomicU64::new(0) };
    let counts: Vec<u64> = std::thread::scope(|scope| {
        let (client, shared) = (&client, &shared);
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| scope.spawn(move || write_chain(client, &format!("chain {number}"), shared)))
            .collect();
        let stop = StopAtEnd(&shared.stop);
        for _ in 0..ROUNDS {
            let enough = shared.done.load(Ordering::Relaxed) + 20 + dice.below(100);
            until("enough writes are answered", || {
                assert!(!writers.iter().any(|writer| writer.is_finished()), "a writer failed");
                (shared.done.load(Ordering::Relaxed) >= enough).then_some(())
            });
            common::pause(dice.below(20));
            cluster.worker.kill();
            cluster.worker.restart();
        }
        drop(stop);
        writers.into_iter().map(|writer| writer.join().expect("a writer")).collect()
    });
    println!("{counts:?} writes, {ROUNDS} kills");
    for (number, count) in counts.iter().enumerate() {
        let value = cluster.worker.value(format!("chain {number}")).expect("the chain's value");
        assert_eq!(String::from_utf8_lossy(&value), count.to_string(), "chain {number}");
    }
    let version = cluster.worker.get("/kv/chain%200").version();
    assert!(version <= counts.iter().sum(), "{version} is more than was written: a repeat was executed");
    assert_eq!(cluster.worker.put("probe", "x").version(), counts.iter().sum::<u64>() + 1);
}

/// Ends the writers also when the test fails.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
