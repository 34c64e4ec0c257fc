//! Writers at a fixed rate, whose latency counts from when a write was due: one that waits makes the next ones late.

use crate::shared::Result;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// So many writers share the rate.
const WRITERS: usize = 8;

/// Writers that go on until they are stopped.
pub struct Writers {
    stop: Arc<AtomicBool>,
    latencies: Arc<Mutex<Vec<Duration>>>,
    failed: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Writers {
    /// Writes values of `size` bytes to `address`, `rate` a second.
    pub fn start(address: &str, rate: usize, size: usize) -> Writers {
        let (stop, latencies, failed) = (Arc::default(), Arc::default(), Arc::default());
        let mut writers = Writers { stop, latencies, failed, threads: Vec::new() };
        let began = Instant::now();
        for writer in 0..WRITERS {
            let (address, stop) = (address.to_owned(), writers.stop.clone());
            let (latencies, failed) = (writers.latencies.clone(), writers.failed.clone());
            writers.threads.push(std::thread::spawn(move || {
                let agent = ureq::Agent::new_with_defaults();
                let value = vec![b'w'; size];
                for number in 0.. {
                    let due =
                        began + Duration::from_secs_f64((number * WRITERS + writer) as f64 / rate as f64);
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let url = format!("http://{address}/kv/writer-{writer}-{}", number % 1000);
                    let answer = agent
                        .put(url)
                        .send(&value[..])
                        .and_then(|mut answer| answer.body_mut().read_to_vec());
                    if answer.is_err() {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                    if let Ok(mut latencies) = latencies.lock() {
                        latencies.push(due.elapsed());
                    }
                }
            }));
        }
        writers
    }

    /// The p99 in milliseconds of what was written since the last call, and how many writes that were.
    pub fn p99(&self) -> (f64, usize) {
        let mut seen = self.latencies.lock().map(|mut all| std::mem::take(&mut *all)).unwrap_or_default();
        seen.sort();
        let at = (seen.len() * 99 / 100).min(seen.len().saturating_sub(1));
        (seen.get(at).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1000.0), seen.len())
    }

    /// Stops them. Errors if a write failed.
    pub fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| "a writer panicked")?;
        }
        match self.failed.load(Ordering::Relaxed) {
            0 => Ok(()),
            failed => Err(format!("{failed} writes failed").into()),
        }
    }
}
