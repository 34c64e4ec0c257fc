//! A clone and a move of a worker full of files, against `cp -r` with a sync.

use crate::common::node::kv;
use crate::common::{Cluster, Node, Session, private_memory, shares, within};
use crate::{make_file, timed};
use std::process::Command;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(1200);
/// MiB of each file.
const FILE: usize = 256;

pub fn measure(gibibytes: usize) {
    let cluster = Cluster::with(&["--keep-uploads", "1s"]);
    let home = &cluster.home;
    let file = home.path("file");
    for number in 0..gibibytes * 1024 / FILE {
        make_file(&file, FILE);
        cluster.run(&["put-file", &format!("film {number}"), &file.display().to_string()]).exits(0);
    }
    let copy = home.path("copy");
    let script = format!("cp -r '{}' '{1}' && sync -f '{1}'", cluster.worker.data.display(), copy.display());
    let cp = timed(Command::new("sh").args(["-c", &script]));
    std::fs::remove_dir_all(&copy).expect("a copy");
    println!("\n{gibibytes} GiB in files of {FILE} MiB; `cp -r` with a sync: {:.1} s\n", cp.as_secs_f64());
    println!("| what | time | / cp | memory of source and target, at most above before |\n|---|---|---|---|");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Somebody reads and writes meanwhile.
        scope.spawn(|| {
            let mut session = Session::patient(cluster.worker.port, Duration::from_secs(30));
            for number in 0.. {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                let reply = session.ask("PUT", &kv(format!("small {}", number % 1000)), &[], Some(b"x"));
                assert!(matches!(reply.status, 200 | 201), "{}", reply.text());
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let clone = watched(&cluster, "a clone", cp, || {
            home.worker_with(&cluster.master, &["--clone", "0", "--keep-uploads", "1s"])
        });
        cluster.run(&["drain", clone.ready.split(' ').nth(2).expect("an index")]).exits(0);
        drop(clone);
        watched(&cluster, "half of the slots to a new group", cp, || {
            let second = home.worker_with(&cluster.master, &["--keep-uploads", "1s"]);
            cluster.run(&["rebalance"]).exits(0);
            within(LONG, "both have half of the slots", || {
                let (shares, moves) = shares(cluster.master.port);
                (moves == 0 && shares.len() == 2 && shares.iter().all(|(_, slots)| *slots == 8192))
                    .then_some(())
            });
            second
        });
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

/// Does `work` and says how long it took, and how much memory the source took meanwhile.
fn watched(cluster: &Cluster, what: &str, cp: Duration, work: impl FnOnce() -> Node) -> Node {
    let (began, pid) = (Instant::now(), cluster.worker.pid());
    let before = private_memory(pid);
    let done = std::sync::atomic::AtomicBool::new(false);
    let (node, took, most) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut most = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                most = most.max(private_memory(pid));
                std::thread::sleep(Duration::from_millis(50));
            }
            most
        });
        let node = work();
        let took = began.elapsed();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        (node, took, watcher.join().expect("the watcher"))
    });
    let target = private_memory(node.pid()) >> 20;
    println!(
        "| {what} | {:.1} s | **{:.2}** (target 2) | {} MiB, {target} MiB in all |",
        took.as_secs_f64(),
        took.as_secs_f64() / cp.as_secs_f64(),
        most.saturating_sub(before) >> 20,
    );
    node
}
