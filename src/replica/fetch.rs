//! Pulling a snapshot: chunk by chunk into a new generation, in constant memory, on threads of their own. A connection
//! that breaks is taken up where it was, as long as the leader holds the snapshot.

use super::copies::{Fetch, SnapshotName};
use super::shared::lock;
use super::snapshot::Packed;
use super::transport::Wire;
use crate::error::{Error, Kind, Result};
use crate::store::state::Building;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A leader that does not answer is asked again for so long.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(200);
/// While the generation is made durable the leader hears so often that its snapshot is still needed.
const ALIVE: Duration = Duration::from_secs(3);
/// So many chunks wait to be written.
const AHEAD: usize = 2;

/// How far a copy is, for those who watch.
#[derive(Debug, Default)]
pub struct Progress {
    state: Mutex<Option<Copied>>,
}

/// How far a copy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Bytes of rows that arrived.
    pub bytes: u64,
    /// Bytes of the whole, about.
    pub total: u64,
    /// Rows that arrived.
    pub rows: u64,
    /// True once all rows are durable.
    pub done: bool,
}

impl Progress {
    /// The copy under way, or the last one.
    pub fn get(&self) -> Option<Copied> {
        lock(&self.state).clone()
    }

    fn set(&self, copied: Copied) {
        *lock(&self.state) = Some(copied);
    }
}

/// Pulls `fetch` and returns the finished generation. `cancelled` ends it early.
///
/// Errors: `NotFound` if the leader no longer holds the snapshot, `Unreachable`, `Damaged`, and those of the disk.
pub fn pull<B: Building>(
    fetch: Fetch<B>,
    wire: &Arc<dyn Wire>,
    progress: &Progress,
    cancelled: &AtomicBool,
) -> Result<B> {
    let Fetch { from, name, mut building } = fetch;
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(AHEAD);
        let stop = || cancelled.load(Ordering::Relaxed) || over.load(Ordering::Relaxed);
        scope.spawn(move || read_chunks(from, name, wire, &sender, &stop));
        let built = write_chunks(&receiver, &mut building, progress);
        over.store(true, Ordering::Relaxed);
        // A reader that waits for room must find nobody there.
        drop(receiver);
        built
    })?;
    let finished = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| keep_alive(from, name, wire, &finished));
        let result = building.finish();
        finished.store(true, Ordering::Relaxed);
        result
    })?;
    let copied = progress.get();
    progress
        .set(Copied { done: true, ..copied.unwrap_or(Copied { bytes: 0, total: 0, rows: 0, done: true }) });
    Ok(building)
}

fn read_chunks(
    from: u64,
    name: SnapshotName,
    wire: &Arc<dyn Wire>,
    sender: &SyncSender<Result<Packed>>,
    stop: &dyn Fn() -> bool,
) {
    let mut after = Vec::new();
    loop {
        let chunk = read_chunk(from, name, &after, wire, stop);
        let (next, ended) = match &chunk {
            Ok(chunk) => (chunk.end.clone(), chunk.last),
            Err(_) => (None, true),
        };
        if sender.send(chunk).is_err() || ended {
            return;
        }
        after = next.unwrap_or_default();
    }
}

fn read_chunk(
    from: u64,
    name: SnapshotName,
    after: &[u8],
    wire: &Arc<dyn Wire>,
    stop: &dyn Fn() -> bool,
) -> Result<Packed> {
    let began = Instant::now();
    loop {
        if stop() {
            return Err(Error::new(Kind::Unreachable, "another snapshot is wanted"));
        }
        let chunk = wire.pull(from, name, Some(after)).and_then(Packed::open);
        match chunk {
            Ok(chunk) => return Ok(chunk),
            Err(error) if error.kind() == Kind::NotFound || began.elapsed() > PATIENCE => return Err(error),
            Err(error) => log::warn!("a chunk of the snapshot did not arrive, asking again: {error}"),
        }
        std::thread::sleep(PAUSE);
    }
}

fn write_chunks<B: Building>(
    receiver: &Receiver<Result<Packed>>,
    building: &mut B,
    progress: &Progress,
) -> Result<()> {
    let mut copied = Copied { bytes: 0, total: 0, rows: 0, done: false };
    progress.set(copied.clone());
    loop {
        let lost = |_| Error::new(Kind::Unreachable, "the snapshot ended early");
        let chunk = receiver.recv().map_err(lost)??;
        for (row, value) in chunk.rows() {
            building.add(row, value)?;
        }
        copied.rows += chunk.count;
        copied.bytes += chunk.size;
        copied.total = chunk.bytes.max(copied.bytes);
        progress.set(copied.clone());
        if chunk.last {
            return Ok(());
        }
    }
}

fn keep_alive(from: u64, name: SnapshotName, wire: &Arc<dyn Wire>, finished: &AtomicBool) {
    let mut told = Instant::now();
    while !finished.load(Ordering::Relaxed) {
        if told.elapsed() > ALIVE {
            // If the leader does not hear it, it offers another snapshot, and this one may still be taken.
            let _ = wire.pull(from, name, None);
            told = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
