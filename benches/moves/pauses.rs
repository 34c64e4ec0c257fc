//! What those who read and write notice of a move.

use crate::common::node::kv;
use crate::common::{Dice, Home, Node, Session, disk_usage, pause, shares};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Clients.
const CLIENTS: usize = 16;
/// Bytes of every value that is loaded.
const VALUE: usize = 100;
/// Operations of one batch while values are loaded.
const BATCH: u64 = 1000;
/// How long a move may take.
const LONGEST: Duration = Duration::from_secs(600);

pub fn measure(keys: u64, seconds: Duration) {
    let home = Home::new();
    let master = home.start("master", &[]);
    let first = home.worker(&master);
    println!("loading {keys} keys of {VALUE} bytes");
    load(first.port, keys);
    let ports = vec![master.port, first.port];
    println!(
        "\n| {keys} keys, {CLIENTS} clients | longest request | requests | failed | stale | shares | disk of worker 0 |"
    );
    println!("|---|---|---|---|---|---|---|");
    let checkers = Checkers::start(&ports);
    std::thread::sleep(seconds);
    let base = checkers.take();
    base.print("no move", &master, &first);
    let second = home.worker(&master);
    checkers.talk_to(&[master.port, first.port, second.port]);
    await_shares(&master, |shares| shares.len() == 2 && shares.iter().all(|(_, slots)| *slots == 8192));
    let joined = checkers.take();
    joined.print("a second founder joins", &master, &first);
    let before = disk_usage(&first.data);
    pause(15_000);
    checkers.take().print("15 s later", &master, &first);
    println!("\ndisk of the source: {} MiB, then {} MiB\n", before >> 20, disk_usage(&first.data) >> 20);
    checkers.talk_to(&ports);
    pause(500);
    checkers.take();
    home.run_at(&master, &["drain", "--group", "1"]).exits(0);
    await_shares(&master, |shares| *shares == [(0, 16384)]);
    let drained = checkers.take();
    drained.print("the second is drained", &master, &first);
    checkers.stop();
    let bound = |seen: &Seen| {
        let limit = Duration::from_millis(250).max(3 * base.longest);
        format!("{:.0} ms (at most {:.0} ms)", millis(seen.longest), millis(limit))
    };
    println!("\nlongest request while slots moved: {}, {}", bound(&joined), bound(&drained));
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn await_shares(master: &Node, done: impl Fn(&Vec<(u64, u64)>) -> bool) {
    let began = Instant::now();
    loop {
        let (shares, moves) = shares(master.port);
        if moves == 0 && done(&shares) {
            println!("<!-- the shares are {shares:?} after {:.1} s -->", began.elapsed().as_secs_f64());
            return;
        }
        assert!(began.elapsed() < LONGEST, "the shares stay at {shares:?}, {moves} moves under way");
        pause(50);
    }
}

/// Loads values, in batches: a batch stays within one slot, so that each has a tag.
fn load(port: u16, keys: u64) {
    let next = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut session = Session::new(port);
                loop {
                    let first = next.fetch_add(BATCH, Ordering::Relaxed);
                    if first >= keys {
                        return;
                    }
                    let ops: Vec<Value> = (first..keys.min(first + BATCH))
                        .map(|number| json!({"op": "put", "key": format!("{{{first}}}-{number}"), "value": "v".repeat(VALUE)}))
                        .collect();
                    let body = json!({ "ops": ops }).to_string();
                    session.ask("POST", "/batch", &[], Some(body.as_bytes())).must_be(200);
                }
            });
        }
    });
}

/// What the clients have seen.
#[derive(Default, Clone)]
struct Seen {
    longest: Duration,
    requests: u64,
    failed: u64,
    stale: u64,
    complaint: Option<String>,
}

impl Seen {
    fn print(&self, what: &str, master: &Node, first: &Node) {
        let shares: Vec<String> =
            shares(master.port).0.iter().map(|(group, slots)| format!("{group}: {slots}")).collect();
        println!(
            "| {what} | {:.0} ms | {} | {} | {} | {} | {} MiB |",
            millis(self.longest),
            self.requests,
            self.failed,
            self.stale,
            shares.join(", "),
            disk_usage(&first.data) >> 20
        );
        if let Some(complaint) = &self.complaint {
            println!("<!-- {complaint} -->");
        }
    }
}

/// Clients that write keys of their own and read them back at once, through any node.
struct Checkers {
    ports: Arc<Mutex<Vec<u16>>>,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Checkers {
    fn start(ports: &[u16]) -> Checkers {
        let ports = Arc::new(Mutex::new(ports.to_vec()));
        let (seen, stop) = (Arc::new(Mutex::new(Seen::default())), Arc::new(AtomicBool::new(false)));
        let threads = (0..CLIENTS)
            .map(|number| {
                let (ports, seen, stop) = (Arc::clone(&ports), Arc::clone(&seen), Arc::clone(&stop));
                std::thread::spawn(move || check(number, &ports, &seen, &stop))
            })
            .collect();
        Checkers { ports, seen, stop, threads }
    }

    fn talk_to(&self, ports: &[u16]) {
        *self.ports.lock().expect("the ports") = ports.to_vec();
    }

    /// What was seen since the last call.
    fn take(&self) -> Seen {
        std::mem::take(&mut *self.seen.lock().expect("what was seen"))
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("a client"));
    }
}

fn check(number: usize, ports: &Mutex<Vec<u16>>, seen: &Mutex<Seen>, stop: &AtomicBool) {
    let mut dice = Dice::new(number as u64 + 1);
    let mut sessions = std::collections::HashMap::new();
    let mut stamps = vec![0u64; 64];
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        count += 1;
        let place = dice.below(stamps.len() as u64) as usize;
        let key = format!("checked/{number}/{place}");
        let write = dice.below(2) == 0;
        let port = {
            let ports = ports.lock().expect("the ports");
            ports[dice.below(ports.len() as u64) as usize]
        };
        let session: &mut Session = sessions.entry(port).or_insert_with(|| Session::new(port));
        let began = Instant::now();
        let reply = match write {
            true => session.send("PUT", &kv(&key), &[], Some(count.to_string().as_bytes())),
            false => session.send("GET", &kv(&key), &[], None),
        };
        let took = began.elapsed();
        let mut seen = seen.lock().expect("what was seen");
        seen.requests += 1;
        seen.longest = seen.longest.max(took);
        match reply {
            Ok(reply) if write && matches!(reply.status, 200 | 201) => stamps[place] = count,
            Ok(reply) if !write && reply.status == 200 && reply.text() == stamps[place].to_string() => {}
            Ok(reply) if !write && reply.status == 404 && stamps[place] == 0 => {}
            Ok(reply) if !write && matches!(reply.status, 200 | 404) => {
                seen.stale += 1;
                seen.complaint = Some(format!("{key}: {} instead of {}", reply.text(), stamps[place]));
            }
            Ok(reply) => {
                seen.failed += 1;
                seen.complaint = Some(format!("{key}: {} {}", reply.status, reply.text()));
            }
            Err(error) => {
                seen.failed += 1;
                seen.complaint = Some(format!("{key}: {error}"));
            }
        }
    }
}
