//! Memory doubles of the stores, which lose what was not synced.
//!
//! A [`Disk`] is what survives a crash: it keeps apart what is durable from what a power loss may take. The log
//! loses a suffix of its unsynced writes, each of them whole. The state loses the tail of *each* write-ahead log on its
//! own, because LevelDB drops a full memtable's log without syncing it: a later batch may survive an earlier one. A
//! generation that is not live goes with every crash. A step that a crash or an error of the disk hits happened or
//! not. Everything random comes from seeds, so that a run replays.

mod blobs;
mod generations;
mod images;
mod stores;

use super::chunk::Name;
use super::state::{Batch, Installed};
use crate::error::{Error, Kind, Result};
use images::{GenerationImage, LogChange, LogImage};
use raft::eraftpb::ConfState;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use blobs::{FileTime, MemoryBlobs};
pub use generations::{MemoryBuilding, MemoryGenerations};
pub use stores::{MemoryLog, MemoryState};

/// A disk with one member's log, state and chunks. Clones share it.
#[derive(Clone)]
pub struct Disk(Arc<Mutex<Contents>>);

/// A source of random numbers that replays: SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
/// Generators, 2014).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The numbers of `seed`.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `limit` inclusive.
    pub fn up_to(&mut self, limit: usize) -> usize {
        (self.draw() % (limit as u64 + 1)) as usize
    }
}

/// What a step of a store (a write, a sync, a flush, a switch) meets. It may then have happened on the disk, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The disk returns an error; the store latches.
    Error,
    /// The process dies in the middle of the step.
    Crash,
}

/// A step that is under way: [`Contents::step`] begins it, [`Contents::end`] ends it.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step {
    fault: Option<Fault>,
    /// Whether the disk has it.
    happened: bool,
}

struct Contents {
    random: Random,
    /// Raised by every crash and every open: what was opened before is dead.
    epoch: u64,
    fault: Option<(u64, Fault)>,
    failure: Option<Error>,
    durable_log: LogImage,
    unsynced: Vec<LogChange>,
    log: LogImage,
    syncs: u64,
    generations: BTreeMap<u64, GenerationImage>,
    live: u64,
    next: u64,
    installed: Option<Installed>,
    /// Chunks, each with the time when it was written or touched last.
    blobs: BTreeMap<Name, (Vec<u8>, Duration)>,
    batches_per_log: usize,
    trust_logs: bool,
}

impl Disk {
    /// A disk with an empty log of `membership` (of nobody, for a member that joins) and a first generation that holds
    /// `rows`. Memtables are full after a small number of batches that depends on `seed`.
    pub fn new(seed: u64, membership: ConfState, rows: &Batch) -> Disk {
        let mut random = Random::new(seed);
        let log = LogImage { membership: (membership, 0), ..LogImage::default() };
        let batches_per_log = 1 + random.up_to(7);
        Disk(Arc::new(Mutex::new(Contents {
            random,
            epoch: 0,
            fault: None,
            failure: None,
            durable_log: log.clone(),
            unsynced: Vec::new(),
            log,
            syncs: 0,
            generations: [(1, GenerationImage::of(rows))].into(),
            live: 1,
            next: 2,
            installed: None,
            blobs: BTreeMap::new(),
            batches_per_log,
            trust_logs: false,
        })))
    }

    /// Opens both stores. `power_lost` is what a changed boot id says: the write-ahead logs of the state are dropped.
    /// What was opened before is dead.
    pub fn open(&self, power_lost: bool) -> (MemoryLog, MemoryGenerations) {
        let mut disk = self.lock();
        if power_lost && !disk.trust_logs {
            disk.live_mut().logs.clear();
        }
        let live = disk.live;
        disk.generations.retain(|number, _| *number == live);
        disk.live_mut().replay_logs();
        disk.epoch += 1;
        disk.failure = None;
        let epoch = disk.epoch;
        let log = MemoryLog { disk: self.clone(), epoch, opened_syncs: disk.syncs };
        (log, MemoryGenerations { disk: self.clone(), epoch })
    }

    /// A digest of the rows of the live generation as a reader sees them: equal rows have equal digests, and others, as
    /// far as 64 bits can tell, do not. It is kept along and costs nothing.
    pub fn digest(&self) -> u64 {
        let disk = self.lock();
        disk.generations.get(&disk.live).map_or(0, |live| live.rows.digest())
    }

    /// Plants a bug: after a power loss, [`Disk::open`] replays what is left of the write-ahead logs.
    pub fn trust_logs(&self, trust: bool) {
        self.lock().trust_logs = trust;
    }

    /// The power fails: of what was not synced, some is lost, as `seed` says.
    pub fn crash(&self, seed: u64) {
        let mut disk = self.lock();
        let mut random = Random::new(seed);
        let kept = random.up_to(disk.unsynced.len());
        disk.unsynced.truncate(kept);
        for generation in disk.generations.values_mut() {
            for log in &mut generation.logs {
                let kept = random.up_to(log.len());
                log.truncate(kept);
            }
        }
        disk.die();
    }

    /// The process is killed: the page cache keeps everything.
    pub fn kill(&self) {
        self.lock().die();
    }

    /// The `steps`-th step from now (1 is the next) returns an error of the disk; the stores latch.
    pub fn fail_at(&self, steps: u64) {
        self.lock().fault = Some((steps, Fault::Error));
    }

    /// In the middle of the `steps`-th step from now (1 is the next) the process dies: this and every later call
    /// returns an error. Say with [`Disk::crash`] or [`Disk::kill`] what that leaves.
    pub fn crash_at(&self, steps: u64) {
        self.lock().fault = Some((steps, Fault::Crash));
    }

    /// Whether a planned fault has not happened yet.
    pub fn fault_is_pending(&self) -> bool {
        self.lock().fault.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Contents {
    fn die(&mut self) {
        self.durable_log.change_all(&self.unsynced);
        self.unsynced.clear();
        self.log = self.durable_log.clone();
        self.epoch += 1;
        self.fault = None;
        self.failure = None;
    }

    fn check(&self, epoch: u64) -> Result<()> {
        if epoch != self.epoch {
            return Err(Error::new(Kind::Failed, "crashed"));
        }
        Ok(())
    }

    /// Begins a step.
    fn step(&mut self, epoch: u64) -> Result<Step> {
        self.check(epoch)?;
        if let Some(error) = &self.failure {
            return Err(Error::new(Kind::Failed, "the store failed earlier").cause(error.clone()));
        }
        let fault = match &mut self.fault {
            Some((steps, _)) if *steps > 1 => {
                *steps -= 1;
                None
            }
            _ => self.fault.take().map(|(_, fault)| fault),
        };
        Ok(Step { fault, happened: fault.is_none() || self.random.up_to(1) == 1 })
    }

    /// Ends a step. After a crash everything that is open is dead, after an error it latches.
    fn end(&mut self, step: Step) -> Result<()> {
        match step.fault {
            None => Ok(()),
            Some(Fault::Crash) => {
                self.epoch += 1;
                Err(Error::new(Kind::Failed, "crashed"))
            }
            Some(Fault::Error) => {
                let error = Error::new(Kind::Failed, "the disk returned an error");
                self.failure = Some(error.clone());
                Err(error)
            }
        }
    }

    fn live_mut(&mut self) -> &mut GenerationImage {
        self.generations.entry(self.live).or_default()
    }

    fn change_log(&mut self, epoch: u64, change: LogChange, sync: bool) -> Result<()> {
        let step = self.step(epoch)?;
        if step.fault.is_none() {
            self.log.change(&change);
        }
        if step.happened {
            self.unsynced.push(change);
        }
        self.end(step)?;
        if sync {
            self.syncs += 1;
            self.durable_log = self.log.clone();
            self.unsynced.clear();
        }
        Ok(())
    }
}
