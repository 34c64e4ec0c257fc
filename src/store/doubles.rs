//! Memory doubles of the stores, which lose what was not synced.
//!
//! A [`Disk`] is what survives a crash: it keeps apart what is durable from what a power loss may take. The log
//! loses a suffix of its unsynced writes. The state loses the tail of *each* write-ahead log on its own, because
//! LevelDB drops a full memtable's log without syncing it: a later batch may survive an earlier one. Everything
//! random comes from seeds, so that a run replays.

use super::log::{LogWrite, RaftLog};
use super::state::{Batch, Generations, State, Visit};
use crate::error::{Error, Kind, Result};
use raft::eraftpb::{ConfState, Entry, HardState};
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// A disk with one member's log and state. Clones share it.
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

/// What a step of a store (a write, a sync, a flush, a switch) meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The disk returns an error; the store latches.
    Error,
    /// The process dies in the middle of the step: it may have happened or not.
    Crash,
}

#[derive(Clone, Default)]
struct LogImage {
    truncated: (u64, u64),
    entries: Vec<Entry>,
    hard_state: HardState,
    membership: (ConfState, u64),
}

#[derive(Clone)]
enum LogChange {
    Write(LogWrite),
    Cut(u64),
    Reset(u64, u64),
}

#[derive(Clone, Default)]
struct GenerationImage {
    /// What lies in tables.
    tables: Rows,
    /// Batches that lie only in write-ahead logs, oldest log first.
    logs: Vec<Vec<Batch>>,
    /// What a reader sees.
    rows: Rows,
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
    batches_per_log: usize,
    trust_logs: bool,
}

impl Disk {
    /// A disk with an empty log of `membership` and a first generation that holds `rows`. Memtables are full after a
    /// small number of batches that depends on `seed`.
    pub fn new(seed: u64, membership: ConfState, rows: &Batch) -> Disk {
        let mut random = Random::new(seed);
        let log = LogImage { membership: (membership, 0), ..LogImage::default() };
        let mut first = GenerationImage::default();
        apply(&mut first.tables, rows);
        first.rows = first.tables.clone();
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
            generations: [(1, first)].into(),
            live: 1,
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

    /// Counts a step. `Ok(true)`: it happens; `Ok(false)`: the process dies, and by chance it happens or not.
    fn step(&mut self, epoch: u64) -> Result<bool> {
        self.check(epoch)?;
        if let Some(error) = &self.failure {
            return Err(Error::new(Kind::Failed, "the store failed earlier").cause(error.clone()));
        }
        match &mut self.fault {
            Some((steps, _)) if *steps > 1 => *steps -= 1,
            Some((_, Fault::Error)) => {
                self.fault = None;
                let error = Error::new(Kind::Failed, "the disk returned an error");
                self.failure = Some(error.clone());
                return Err(error);
            }
            Some((_, Fault::Crash)) => {
                self.fault = None;
                return Ok(false);
            }
            None => {}
        }
        Ok(true)
    }

    /// Ends a step in which the process died: everything that is open is dead.
    fn died(&mut self) -> Error {
        self.epoch += 1;
        Error::new(Kind::Failed, "crashed")
    }

    fn live_mut(&mut self) -> &mut GenerationImage {
        self.generations.entry(self.live).or_default()
    }

    fn change_log(&mut self, epoch: u64, change: LogChange, sync: bool) -> Result<()> {
        let alive = self.step(epoch)?;
        self.log.change(&change);
        self.unsynced.push(change);
        if !alive {
            return Err(self.died());
        }
        if sync {
            self.syncs += 1;
            self.durable_log = self.log.clone();
            self.unsynced.clear();
        }
        Ok(())
    }
}

impl LogImage {
    fn last(&self) -> u64 {
        self.truncated.0 + self.entries.len() as u64
    }

    fn position(&self, index: u64) -> usize {
        index.saturating_sub(self.truncated.0 + 1) as usize
    }

    fn term(&self, index: u64) -> Option<u64> {
        if index == self.truncated.0 {
            return Some(self.truncated.1);
        }
        if index < self.truncated.0 {
            return None;
        }
        self.entries.get(self.position(index)).map(|entry| entry.term)
    }

    fn change_all(&mut self, changes: &[LogChange]) {
        changes.iter().for_each(|change| self.change(change));
    }

    fn change(&mut self, change: &LogChange) {
        match change {
            LogChange::Write(write) => {
                if let Some(first) = write.entries.first() {
                    self.entries.truncate(self.position(first.index));
                    self.entries.extend_from_slice(&write.entries);
                }
                if let Some(hard_state) = &write.hard_state {
                    self.hard_state = hard_state.clone();
                }
                if let Some(membership) = &write.membership {
                    self.membership = membership.clone();
                }
            }
            LogChange::Cut(index) => {
                if let Some(term) = self.term(*index).filter(|_| *index > self.truncated.0) {
                    self.entries.drain(..=self.position(*index));
                    self.truncated = (*index, term);
                }
            }
            LogChange::Reset(index, term) => {
                self.entries.clear();
                self.truncated = (*index, *term);
            }
        }
    }
}

impl GenerationImage {
    /// What an open finds: the tables, and what is left of each log, in order.
    fn replay_logs(&mut self) {
        self.rows = self.tables.clone();
        self.logs.iter().flatten().for_each(|batch| apply(&mut self.rows, batch));
    }

    /// The oldest log's memtable becomes a table.
    fn write_table(&mut self) {
        if !self.logs.is_empty() {
            let log = self.logs.remove(0);
            log.iter().for_each(|batch| apply(&mut self.tables, batch));
        }
    }
}

fn apply(rows: &mut Rows, batch: &Batch) {
    for (row, value) in &batch.changes {
        match value {
            Some(value) => rows.insert(row.clone(), value.clone()),
            None => rows.remove(row),
        };
    }
}

/// A log on a [`Disk`].
pub struct MemoryLog {
    disk: Disk,
    epoch: u64,
    opened_syncs: u64,
}

impl RaftLog for MemoryLog {
    fn truncated(&self) -> (u64, u64) {
        self.disk.lock().log.truncated
    }

    fn last_index(&self) -> u64 {
        self.disk.lock().log.last()
    }

    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>> {
        let disk = self.disk.lock();
        disk.check(self.epoch)?;
        let high = high.min(disk.log.last() + 1);
        if low <= disk.log.truncated.0 || low >= high {
            return Ok(Vec::new());
        }
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            let first = bytes == 0;
            bytes += entry.data.len() as u64 + 16;
            first || bytes <= max_bytes
        };
        let range = disk.log.position(low)..disk.log.position(high);
        Ok(disk.log.entries[range].iter().take_while(fits).cloned().collect())
    }

    fn term(&self, index: u64) -> Result<Option<u64>> {
        let disk = self.disk.lock();
        disk.check(self.epoch)?;
        Ok(disk.log.term(index))
    }

    fn hard_state(&self) -> HardState {
        self.disk.lock().log.hard_state.clone()
    }

    fn membership(&self) -> (ConfState, u64) {
        self.disk.lock().log.membership.clone()
    }

    fn write(&mut self, write: LogWrite) -> Result<()> {
        let mut disk = self.disk.lock();
        if let Some(first) = write.entries.first() {
            let follows = first.index > disk.log.truncated.0 && first.index <= disk.log.last() + 1;
            let contiguous = (first.index..).zip(&write.entries).all(|(index, entry)| index == entry.index);
            if !follows || !contiguous {
                let detail =
                    format!("entry {} does not follow the log, or has a hole behind it", first.index);
                return Err(Error::new(Kind::Failed, detail));
            }
        }
        let sync = write.sync;
        disk.change_log(self.epoch, LogChange::Write(write), sync)
    }

    fn cut(&mut self, index: u64) -> Result<()> {
        let mut disk = self.disk.lock();
        let index = index.min(disk.log.last());
        disk.change_log(self.epoch, LogChange::Cut(index), true)
    }

    fn reset(&mut self, index: u64, term: u64) -> Result<()> {
        self.disk.lock().change_log(self.epoch, LogChange::Reset(index, term), true)
    }

    fn syncs(&self) -> u64 {
        self.disk.lock().syncs - self.opened_syncs
    }

    fn bytes(&self) -> u64 {
        self.disk.lock().log.entries.iter().map(|entry| entry.data.len() as u64 + 16).sum()
    }
}

/// Generations on a [`Disk`].
pub struct MemoryGenerations {
    disk: Disk,
    epoch: u64,
}

impl Generations for MemoryGenerations {
    fn live(&self) -> Arc<dyn State> {
        let number = self.disk.lock().live;
        Arc::new(MemoryState { disk: self.disk.clone(), epoch: self.epoch, number })
    }

    fn replace(&mut self, rows: &Batch) -> Result<Arc<dyn State>> {
        let mut disk = self.disk.lock();
        let alive = disk.step(self.epoch)?;
        let switched = alive || disk.random.up_to(1) == 1;
        if switched {
            let mut generation = GenerationImage::default();
            apply(&mut generation.tables, rows);
            generation.rows = generation.tables.clone();
            disk.live += 1;
            *disk.live_mut() = generation;
        }
        if !alive {
            return Err(disk.died());
        }
        drop(disk);
        Ok(self.live())
    }
}

/// A generation on a [`Disk`]. One that was replaced stays readable until the next open.
pub struct MemoryState {
    disk: Disk,
    epoch: u64,
    number: u64,
}

impl MemoryState {
    fn with<T>(&self, change: impl FnOnce(&mut Contents, &mut GenerationImage) -> Result<T>) -> Result<T> {
        let mut disk = self.disk.lock();
        disk.check(self.epoch)?;
        let mut generation = disk.generations.remove(&self.number).unwrap_or_default();
        let result = change(&mut disk, &mut generation);
        disk.generations.insert(self.number, generation);
        result
    }
}

impl State for MemoryState {
    fn get(&self, row: &[u8]) -> Result<Option<Vec<u8>>> {
        self.with(|_, generation| Ok(generation.rows.get(row).cloned()))
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        if from >= to {
            return Ok(());
        }
        // Visited outside the lock: a visitor may read.
        let rows: Vec<_> = self.with(|_, generation| {
            let range = generation.rows.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)));
            Ok(range.map(|(row, value)| (row.clone(), value.clone())).collect())
        })?;
        for (row, value) in &rows {
            if visit(row, value) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, batch: &Batch) -> Result<()> {
        self.with(|disk, generation| {
            let alive = disk.step(self.epoch)?;
            let full = generation.logs.last().is_none_or(|log| log.len() >= disk.batches_per_log);
            if full {
                generation.logs.push(Vec::new());
            }
            // A full memtable becomes a table some time later, in the background.
            if generation.logs.len() > 2 || (full && disk.random.up_to(3) == 0) {
                while generation.logs.len() > 1 {
                    generation.write_table();
                }
            }
            let happened = alive || disk.random.up_to(1) == 1;
            if let Some(log) = generation.logs.last_mut().filter(|_| happened) {
                log.push(batch.clone());
                apply(&mut generation.rows, batch);
            }
            if alive { Ok(()) } else { Err(disk.died()) }
        })
    }

    fn flush(&self) -> Result<()> {
        self.with(|disk, generation| {
            let alive = disk.step(self.epoch)?;
            let logs = generation.logs.len();
            let written = if alive { logs } else { disk.random.up_to(logs) };
            (0..written).for_each(|_| generation.write_table());
            if alive { Ok(()) } else { Err(disk.died()) }
        })
    }

    fn failure(&self) -> Option<Error> {
        self.disk.lock().failure.clone()
    }
}
