//! Programs that use the client library.

use catstore::client::{Client, PutOptions};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Threads that write and read through one client of the library, without a pause worth the name.
pub struct Library {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Done>>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Done {
    /// Writes, each with a read after it.
    pub writes: u64,
    /// Requests that failed.
    pub failed: Vec<String>,
    /// The longest that one request took.
    pub longest: Duration,
}

impl Library {
    /// Starts three of them, which know the nodes at `ports`.
    pub fn start(ports: &[u16]) -> Library {
        let stop = Arc::new(AtomicBool::new(false));
        let seeds: Vec<String> = ports.iter().map(u16::to_string).collect();
        let client = Client::builder(seeds).memory(None).deadline(Duration::from_secs(60)).build();
        let client = Arc::new(client.expect("a client"));
        let threads = (0..3)
            .map(|number| {
                let (client, stop) = (client.clone(), stop.clone());
                std::thread::spawn(move || work(number, &client, &stop))
            })
            .collect();
        Library { stop, threads }
    }

    /// Stops them.
    pub fn finish(self) -> Done {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Done::default();
        for thread in self.threads {
            let done = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            all.writes += done.writes;
            all.failed.extend(done.failed);
            all.longest = all.longest.max(done.longest);
        }
        all
    }
}

impl Done {
    /// Asserts that requests were made and none failed.
    #[track_caller]
    pub fn must_be_flawless(&self) {
        assert!(self.failed.is_empty(), "requests through the library failed: {:?}", self.failed);
        assert!(self.writes > 10, "{} writes through the library", self.writes);
    }
}

fn work(number: usize, client: &Client, stop: &AtomicBool) -> Done {
    let mut done = Done::default();
    let key = format!("library/{number}");
    while !stop.load(Ordering::Relaxed) {
        let value = done.writes.to_string();
        let start = Instant::now();
        if let Err(error) = client.put(&key, value.clone(), PutOptions::default()) {
            done.failed.push(format!("put {value} of {key}: {error}"));
        }
        done.longest = done.longest.max(start.elapsed());
        let start = Instant::now();
        match client.get(&key) {
            Ok(read) if read.as_ref().is_some_and(|read| read.bytes == value.as_bytes()) => {}
            other => done.failed.push(format!("get {key} instead of {value}: {other:?}")),
        }
        done.longest = done.longest.max(start.elapsed());
        done.writes += 1;
        super::pause(5);
    }
    done
}
