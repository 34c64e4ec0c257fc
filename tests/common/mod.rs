//! The harness of the tests with real processes: the built binary on free ports in temporary folders, killed with
//! -9, stopped with SIGSTOP, restarted; spoken to over plain sockets.
//!
//! A [`Home`] is one test's own machine: its folders, caches and current folder, so that nothing of the user's is
//! touched. A [`Node`] is one process in it; it is killed when it goes out of scope, and a panic that it left on
//! standard error fails the test. [`Cluster`] is a master and one worker, which most stories begin with.
//! Nothing here sleeps for a fixed time: [`until`] polls with a deadline.

// Each program that has this module uses its own part of it.
#![allow(dead_code, unused_imports)]

pub mod clients;
pub mod disk;
pub mod fleet;
pub mod group;
pub mod history;
pub mod home;
pub mod http;
pub mod library;
pub mod linear;
pub mod load;
pub mod net;
pub mod node;
pub mod six;
pub mod three;

pub use fleet::Fleet;
pub use group::Group;
pub use home::{Home, Outcome, PROGRAM, finish, free_port};
pub use http::{Reply, Session, encode};
pub use node::{Launch, Node};

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a thing may take on a loaded machine before a test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks `probe` again and again until it gives a value, at most [`PATIENCE`] long.
pub fn until<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, probe)
}

/// Asks `probe` again and again until it gives a value, at most `limit` long.
pub fn within<T>(limit: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} in vain until {what}");
        pause(10);
    }
}

/// The step of a poll.
pub fn pause(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

/// A master and one worker.
pub struct Cluster {
    // Dropped in this order: the processes first, then their folders.
    pub worker: Node,
    pub master: Node,
    pub home: Home,
}

impl Cluster {
    /// A master and the worker that holds every slot; other founders get none.
    pub fn start() -> Cluster {
        Cluster::with(&[])
    }

    /// The same; the worker gets `arguments` too.
    pub fn with(arguments: &[&str]) -> Cluster {
        let home = Home::new();
        let master = home.start("master", &["--no-rebalance"]);
        let worker = home.worker_with(&master, arguments);
        Cluster { worker, master, home }
    }

    /// Runs a client subcommand against the master.
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        self.home.run_at(&self.master, arguments)
    }
}

/// A source of seeded randomness (xorshift64*), so that a failing run can be repeated.
pub struct Dice(u64);

impl Dice {
    /// A generator that always throws the same for the same `seed`.
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A generator whose seed is `CATSTORE_TEST_SEED`, else the clock; the seed is printed.
    pub fn fresh() -> Dice {
        let seed = std::env::var("CATSTORE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(1, |since| since.subsec_nanos().into())
        });
        println!("CATSTORE_TEST_SEED={seed} repeats this run's choices");
        Dice::new(seed)
    }

    /// Any number.
    pub fn throw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number in `0..limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        (self.throw() >> 11) % limit
    }

    /// `length` random bytes.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.throw().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}

/// Every regular file below `folder`, in a stable order.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(folder) = open.pop() {
        // A folder may vanish while it is walked: a generation that is deleted in the background.
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    files
}

/// Bytes on disk below `folder`.
pub fn disk_usage(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    files_below(folder)
        .iter()
        .filter_map(|file| fs::metadata(file).ok())
        .map(|meta| meta.blocks() * 512)
        .sum()
}

/// Copies a folder with everything in it.
pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the copy's folder");
    for entry in fs::read_dir(from).expect("the folder to copy") {
        let entry = entry.expect("an entry of the folder to copy");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("its type").is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).expect("a copied file");
        }
    }
}

/// Resident memory of the process `pid` in bytes.
pub fn resident(pid: u32) -> u64 {
    memory(pid, "VmRSS:")
}

/// The memory of a process' own at this moment, in bytes. Files that are mapped are the system's, which takes them back.
pub fn private_memory(pid: u32) -> u64 {
    memory(pid, "RssAnon:")
}

fn memory(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the state of a process");
    let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}"));
    let kibibytes: u64 = line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number");
    kibibytes * 1024
}

/// How many slots each group owns, as the node on `port` knows, and how many moves are under way.
pub fn shares(port: u16) -> (Vec<(u64, u64)>, usize) {
    let view = Session::new(port).ask("GET", "/cluster", &[], None).must_be(200).json();
    let mut shares = std::collections::BTreeMap::new();
    for range in view["slots"].as_array().expect("slots") {
        let number = |name: &str| range[name].as_u64().expect("a number");
        *shares.entry(number("group")).or_default() += number("last") - number("first") + 1;
    }
    (shares.into_iter().collect(), view["moves"].as_array().map_or(0, Vec::len))
}

/// The sum of all samples of the counter `name` in a page of Prometheus text.
pub fn counter(page: &str, name: &str) -> f64 {
    let samples = page.lines().filter(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ') || rest.starts_with('{'))
    });
    let values: Vec<f64> =
        samples.filter_map(|line| line.rsplit(' ').next()).filter_map(|value| value.parse().ok()).collect();
    assert!(!values.is_empty(), "/metrics has no {name}:\n{page}");
    values.iter().sum()
}

/// The keys of one list page, which must all be text.
pub fn listed(page: &Value) -> Vec<String> {
    let keys = page["keys"].as_array().unwrap_or_else(|| panic!("a page without keys: {page}"));
    keys.iter()
        .map(|key| key["key"].as_str().unwrap_or_else(|| panic!("not a text key: {key}")).to_owned())
        .collect()
}
