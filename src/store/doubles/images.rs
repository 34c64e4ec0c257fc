//! What lies on a simulated disk: a log, and the tables and write-ahead logs of a generation.

use super::super::log::LogWrite;
use super::super::state::Batch;
use raft::eraftpb::{ConfState, Entry, HardState};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// Rows, and a digest of them. Clones share the rows until one of them changes.
#[derive(Clone, Default)]
pub(super) struct Rows {
    map: Arc<BTreeMap<Vec<u8>, Vec<u8>>>,
    digest: u64,
}

#[derive(Clone, Default)]
pub(super) struct LogImage {
    pub(super) truncated: (u64, u64),
    pub(super) entries: Vec<Entry>,
    pub(super) hard_state: HardState,
    pub(super) membership: (ConfState, u64),
}

#[derive(Clone)]
pub(super) enum LogChange {
    Write(LogWrite),
    Cut(u64),
    Reset(u64, u64, (ConfState, u64)),
}

#[derive(Clone, Default)]
pub(super) struct GenerationImage {
    /// What lies in tables.
    pub(super) tables: Rows,
    /// Batches that lie only in write-ahead logs, oldest log first.
    pub(super) logs: Vec<Vec<Batch>>,
    /// What a reader sees.
    pub(super) rows: Rows,
}

impl LogImage {
    pub(super) fn last(&self) -> u64 {
        self.truncated.0 + self.entries.len() as u64
    }

    pub(super) fn position(&self, index: u64) -> usize {
        index.saturating_sub(self.truncated.0 + 1) as usize
    }

    pub(super) fn term(&self, index: u64) -> Option<u64> {
        if index == self.truncated.0 {
            return Some(self.truncated.1);
        }
        if index < self.truncated.0 {
            return None;
        }
        self.entries.get(self.position(index)).map(|entry| entry.term)
    }

    pub(super) fn change_all(&mut self, changes: &[LogChange]) {
        changes.iter().for_each(|change| self.change(change));
    }

    pub(super) fn change(&mut self, change: &LogChange) {
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
            LogChange::Reset(index, term, membership) => {
                self.entries.clear();
                self.truncated = (*index, *term);
                self.hard_state.commit = self.hard_state.commit.max(*index);
                self.membership = membership.clone();
            }
        }
    }
}

impl GenerationImage {
    /// One whose rows all lie in tables.
    pub(super) fn of(rows: &Batch) -> GenerationImage {
        let mut tables = Rows::default();
        tables.apply(rows);
        GenerationImage { rows: tables.clone(), tables, logs: Vec::new() }
    }

    /// What an open finds: the tables, and what is left of each log, in order.
    pub(super) fn replay_logs(&mut self) {
        self.rows = self.tables.clone();
        self.logs.iter().flatten().for_each(|batch| self.rows.apply(batch));
    }

    /// The oldest log's memtable becomes a table.
    pub(super) fn write_table(&mut self) {
        if !self.logs.is_empty() {
            let log = self.logs.remove(0);
            log.iter().for_each(|batch| self.tables.apply(batch));
        }
    }
}

impl Rows {
    pub(super) fn map(&self) -> &Arc<BTreeMap<Vec<u8>, Vec<u8>>> {
        &self.map
    }

    /// A number that two sets of rows share only if they are equal, as far as 64 bits can tell.
    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    pub(super) fn apply(&mut self, batch: &Batch) {
        let map = Arc::make_mut(&mut self.map);
        for (row, value) in &batch.changes {
            let old = match value {
                Some(value) => {
                    self.digest = self.digest.wrapping_add(digest_of(row, value));
                    map.insert(row.clone(), value.clone())
                }
                None => map.remove(row),
            };
            if let Some(old) = old {
                self.digest = self.digest.wrapping_sub(digest_of(row, &old));
            }
        }
    }
}

/// The same in every process of one build: the hasher has fixed keys.
fn digest_of(row: &[u8], value: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (row, value).hash(&mut hasher);
    hasher.finish()
}
