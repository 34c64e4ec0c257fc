//! The stores on a simulated disk.

use super::super::log::{LogWrite, RaftLog};
use super::super::state::{Batch, State, View, Visit};
use super::images::{GenerationImage, LogChange, Rows};
use super::{Contents, Disk};
use crate::error::{Error, Kind, Result};
use raft::eraftpb::{ConfState, Entry, HardState};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

/// A log on a [`Disk`].
pub struct MemoryLog {
    pub(super) disk: Disk,
    pub(super) epoch: u64,
    pub(super) opened_syncs: u64,
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

    fn reset(&mut self, index: u64, term: u64, membership: (ConfState, u64)) -> Result<()> {
        self.disk.lock().change_log(self.epoch, LogChange::Reset(index, term, membership), true)
    }

    fn syncs(&self) -> u64 {
        self.disk.lock().syncs - self.opened_syncs
    }

    fn bytes(&self) -> u64 {
        self.disk.lock().log.entries.iter().map(|entry| entry.data.len() as u64 + 16).sum()
    }
}

/// A generation on a [`Disk`]. One that was replaced stays readable until the next open.
pub struct MemoryState {
    pub(super) disk: Disk,
    pub(super) epoch: u64,
    pub(super) number: u64,
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
        self.with(|_, generation| Ok(generation.rows.map().get(row).cloned()))
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        self.view()?.scan(from, to, visit)
    }

    fn write(&self, batch: &Batch) -> Result<()> {
        self.with(|disk, generation| {
            let step = disk.step(self.epoch)?;
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
            if let Some(log) = generation.logs.last_mut().filter(|_| step.happened) {
                log.push(batch.clone());
            }
            if step.fault.is_none() {
                generation.rows.apply(batch);
            }
            disk.end(step)
        })
    }

    fn flush(&self) -> Result<()> {
        self.with(|disk, generation| {
            let step = disk.step(self.epoch)?;
            let logs = generation.logs.len();
            let written = if step.fault.is_none() { logs } else { disk.random.up_to(logs) };
            (0..written).for_each(|_| generation.write_table());
            disk.end(step)
        })
    }

    fn view(&self) -> Result<Arc<dyn View>> {
        let rows = self.with(|_, generation| Ok(generation.rows.clone()))?;
        Ok(Arc::new(MemoryView { disk: self.disk.clone(), epoch: self.epoch, rows }))
    }

    fn failure(&self) -> Option<Error> {
        self.disk.lock().failure.clone()
    }
}

/// The rows of a generation as of one moment. It is dead after the next crash or open.
struct MemoryView {
    disk: Disk,
    epoch: u64,
    rows: Rows,
}

impl View for MemoryView {
    fn get(&self, row: &[u8]) -> Result<Option<Vec<u8>>> {
        self.disk.lock().check(self.epoch)?;
        Ok(self.rows.map().get(row).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        self.disk.lock().check(self.epoch)?;
        if from >= to {
            return Ok(());
        }
        // Visited outside the lock: a visitor may read and write.
        for (row, value) in self.rows.map().range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))) {
            if visit(row, value) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }
}
