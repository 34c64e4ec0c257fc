//! "A burst of large values ate the machine." Under any load memory is bounded: what does not fit is refused with
//! `overloaded`, and nothing acknowledged gets lost over it.

use crate::common::http::{connect, read_reply, request};
use crate::common::node::kv;
use crate::common::{Cluster, Node, Session, encode, pause, private_memory, until};
use std::io::{BufReader, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

const LARGE: usize = 8 << 20;
/// Less than what all the requests of a burst carry together.
const BOUND: u64 = 700 << 20;

/// Looks at the memory of nodes again and again.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Watch {
    fn begin(nodes: &[&Node]) -> Watch {
        let nodes: Vec<u32> = nodes.iter().map(|node| node.pid()).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut most = 0;
            while !stopped.load(Ordering::Relaxed) {
                most = nodes.iter().map(|node| private_memory(*node)).fold(most, u64::max);
                pause(5);
            }
            most
        });
        Watch { stop, thread }
    }

    /// The most that one of them had.
    fn end(self, what: &str) {
        self.stop.store(true, Ordering::Relaxed);
        let most = self.thread.join().expect("a thread");
        println!("{what}: peak {} MiB", most >> 20);
        assert!(most < BOUND, "{what}: {} MiB", most >> 20);
    }
}

/// A hundred puts of 8 MiB at once through `node`.
fn burst(cluster: &Cluster, node: &Node, name: &str) {
    let port = node.port;
    let threads: Vec<_> = (0..100)
        .map(|number: usize| {
            let path = kv(format!("{name} {number}"));
            std::thread::spawn(move || {
                let value = vec![number as u8; LARGE];
                Session::new(port).send("PUT", &path, &[], Some(&value)).ok()
            })
        })
        .collect();
    let start = std::time::Instant::now();
    let replies: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("a writer")).collect();
    let took = start.elapsed();
    let mut stored = 0;
    let mut session = Session::new(cluster.worker.port);
    for (number, reply) in replies.into_iter().enumerate() {
        // A node may cut off a body that it refuses; then nobody knows from the outside.
        let Some(reply) = reply else { continue };
        match reply.status {
            201 => {
                let found = session
                    .ask("GET", &format!("/kv/{}", encode(format!("{name} {number}"))), &[], None)
                    .must_be(200);
                assert!(found.body == vec![number as u8; LARGE], "value {number} came back changed");
                stored += 1;
            }
            503 => {
                let reply = reply.must_be_problem(503, "overloaded");
                assert!(reply.header("retry-after").is_some(), "when again? {:?}", reply.headers);
            }
            504 => drop(reply.must_be_problem(504, "unknown_outcome")),
            status => panic!("{status}: {}", reply.text()),
        }
    }
    println!("{name}: {stored} of 100 stored in {took:?}");
    assert!(stored > 0);
    node.get("/health").must_be(200);
}

/// One after the other: each alone keeps the disk busy for seconds.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn a_burst_of_large_values() {
    let _alone = alone();
    let cluster = Cluster::start();
    let watch = Watch::begin(&[&cluster.worker, &cluster.master]);
    burst(&cluster, &cluster.worker, "at the owner");
    burst(&cluster, &cluster.master, "forwarded");
    watch.end("two bursts");
}

#[test]
fn readers_that_do_not_read() {
    let _alone = alone();
    let cluster = Cluster::start();
    cluster.worker.put("large", vec![b'x'; LARGE]);
    for node in [&cluster.worker, &cluster.master] {
        let watch = Watch::begin(&[node]);
        let mut lazy: Vec<_> = (0..150)
            .map(|_| {
                let mut stream = connect(node.port).unwrap();
                stream.write_all(&request(node.port, "GET", "/kv/large", &[], None)).unwrap();
                stream
            })
            .collect();
        for number in 0..20 {
            // A node that is busy may say so, but never blames the client (408); it must not stay busy for as long as
            // they do not read.
            until("somebody else is served", || {
                let health = node.get("/health");
                let put = node.ask("PUT", "/kv/busy", &[], Some(number.to_string().as_bytes()));
                for reply in [&health, &put] {
                    assert!(
                        matches!(reply.status, 200 | 201 | 503 | 504),
                        "{} {}",
                        reply.status,
                        reply.text()
                    );
                }
                (health.status == 200 && put.status < 300).then_some(())
            });
        }
        watch.end("150 readers of 8 MiB that do not read");
        // One that only was slow to begin gets it all, or a clean refusal.
        let reply = read_reply(&mut BufReader::new(lazy.pop().unwrap()), false).unwrap();
        assert!(reply.status == 503 || reply.body.len() == LARGE, "{}", reply.status);
    }
}
