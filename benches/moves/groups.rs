//! How throughput grows with the number of groups, when a worker has a fifth of a core.

use crate::common::{Home, Node, pause, shares};
use crate::shared::figures::{machine, today};
use crate::shared::plot::{Line, Plot, draw};
use crate::shared::{Result, document};
use catstore::client::{Client, PutOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Threads that write and read.
const THREADS: usize = 24;
/// Keys that they use.
const KEYS: u64 = 10_000;
/// A fifth of a core: microseconds of a period, and the period.
const QUOTA: (u64, u64) = (20_000, 100_000);

/// Prints, draws and writes the section `growth`.
pub fn measure(seconds: Duration) -> Result<()> {
    let Some(fence) = Fence::new() else {
        println!("groups: skipped, this system has no control groups for processors");
        return Ok(());
    };
    let rates: Vec<f64> = (1..=4).map(|groups| with(groups, &fence, seconds)).collect();
    let title = format!(
        "{THREADS} clients, half writes, by groups of one: linearizable reads, writes synced before the answer"
    );
    let numbered = rates.iter().zip(1..).map(|(rate, groups)| (f64::from(groups), *rate));
    let line = Line { name: "catstore".into(), points: numbered.collect() };
    let plot = Plot {
        title: &title,
        x: "groups, each worker held to a fifth of a core",
        y: "operations a second",
        lines: vec![line],
    };
    document::keep_plot("groups", &draw(&plot)?)?;
    let mut text = format!(
        "`make bench-moves` on {}: `cargo bench --bench moves -- groups`. {}; {} s each. Reads are linearizable, writes synced \
         before the answer.\n\n| groups | operations a second | to one group |\n|---|---|---|\n",
        today(),
        machine(),
        seconds.as_secs()
    );
    for (rate, groups) in rates.iter().zip(1..) {
        text += &format!("| {groups} | {rate:.0} | {:.2} |\n", rate / rates[0]);
    }
    document::publish("growth", &format!("{text}\n![{title}](benchmarks/groups.svg)"))?;
    Ok(())
}

/// Operations a second with so many groups.
fn with(groups: usize, fence: &Fence, seconds: Duration) -> f64 {
    let home = Home::new();
    let master = home.start("master", &[]);
    let workers: Vec<Node> = (0..groups).map(|_| home.worker(&master)).collect();
    let began = Instant::now();
    while shares(master.port).0.len() != groups || shares(master.port).1 > 0 {
        assert!(began.elapsed() < Duration::from_secs(120), "{:?}", shares(master.port));
        pause(50);
    }
    let fences: Vec<Fence> = workers.iter().map(|worker| fence.around(worker.pid())).collect();
    let rate = run(master.port, seconds);
    drop(workers);
    drop(fences);
    rate
}

/// Operations a second, half of them writes.
fn run(port: u16, seconds: Duration) -> f64 {
    let client = Client::builder(vec![port.to_string()]).memory(None).build().expect("a client");
    let client = Arc::new(client);
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let threads: Vec<_> = (0..THREADS as u64)
        .map(|number| {
            let (client, stop, done) = (client.clone(), stop.clone(), done.clone());
            std::thread::spawn(move || {
                let mut at = number * 7919;
                while !stop.load(Ordering::Relaxed) {
                    at = (at + 1) % KEYS;
                    let key = format!("key{at}");
                    match at % 2 {
                        0 => drop(client.put(&key, [b'v'; 100], PutOptions::default()).expect("a write")),
                        _ => drop(client.get(&key)),
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    pause(1000);
    let (began, before) = (Instant::now(), done.load(Ordering::Relaxed));
    std::thread::sleep(seconds);
    let rate = (done.load(Ordering::Relaxed) - before) as f64 / began.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().expect("a client"));
    rate
}

/// A control group that holds processes to a part of a processor; gone when it is dropped.
struct Fence(PathBuf);

impl Fence {
    /// A place for fences, if this process may make them.
    fn new() -> Option<Fence> {
        let parent = Path::new("/sys/fs/cgroup/cpu");
        let own = parent.join(format!("catstore-bench-{}", std::process::id()));
        std::fs::create_dir(&own).ok()?;
        own.join("cpu.cfs_quota_us").exists().then_some(Fence(own))
    }

    /// Holds the process `pid` to the quota.
    fn around(&self, pid: u32) -> Fence {
        let own = self.0.join(pid.to_string());
        std::fs::create_dir(&own).expect("a control group");
        let write = |name: &str, text: String| std::fs::write(own.join(name), text).expect("a control group");
        write("cpu.cfs_period_us", QUOTA.1.to_string());
        write("cpu.cfs_quota_us", QUOTA.0.to_string());
        write("cgroup.procs", pid.to_string());
        Fence(own)
    }
}

impl Drop for Fence {
    fn drop(&mut self) {
        // Its processes have ended by now.
        let _ = std::fs::remove_dir(&self.0);
    }
}
