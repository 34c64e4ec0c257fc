//! What Raft reads of the log: a [`RaftLog`] behind raft-rs's `Storage` trait, with the newest entries kept in
//! memory, so that a committed entry is not read back from the disk that just took it.

use crate::error::Error;
use crate::store::log::{LogWrite, RaftLog};
use raft::eraftpb::{Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use std::cell::RefCell;
use std::collections::VecDeque;

/// At most so many bytes of entries are kept in memory.
const CACHE_BYTES: usize = 16 << 20;

/// The log as Raft sees it.
pub struct LogStorage<L> {
    log: L,
    commit: u64,
    cache: VecDeque<Entry>,
    cached_bytes: usize,
    error: RefCell<Option<Error>>,
}

impl<L: RaftLog> LogStorage<L> {
    /// Wraps `log`. The commit index is raised to `applied`, since raft-rs takes an applied index beyond it for
    /// a fault: the state only ever holds committed entries, and the log's note of the commit index lags behind.
    pub fn new(log: L, applied: u64) -> LogStorage<L> {
        let commit = log.hard_state().commit.max(applied);
        LogStorage { log, commit, cache: VecDeque::new(), cached_bytes: 0, error: RefCell::new(None) }
    }

    /// The log itself.
    pub fn log(&self) -> &L {
        &self.log
    }

    /// The log itself, to cut it.
    pub fn log_mut(&mut self) -> &mut L {
        &mut self.log
    }

    /// Gives the log back.
    pub fn into_log(self) -> L {
        self.log
    }

    /// The commit index that Raft starts from.
    pub fn initial_hard_state(&self) -> HardState {
        let mut hard_state = self.log.hard_state();
        hard_state.commit = self.commit;
        hard_state
    }

    /// Writes to the log and remembers the entries.
    pub fn write(&mut self, write: LogWrite) -> Result<(), Error> {
        let entries = write.entries.clone();
        self.log.write(write)?;
        for entry in entries {
            self.remember(entry);
        }
        Ok(())
    }

    /// The error of a read that made Raft give up, if there was one.
    pub fn take_error(&self) -> Option<Error> {
        self.error.borrow_mut().take()
    }

    fn remember(&mut self, entry: Entry) {
        while self.cache.back().is_some_and(|last| last.index >= entry.index) {
            if let Some(dropped) = self.cache.pop_back() {
                self.cached_bytes -= dropped.data.len();
            }
        }
        if self.cache.back().is_some_and(|last| last.index + 1 != entry.index) {
            self.cache.clear();
            self.cached_bytes = 0;
        }
        self.cached_bytes += entry.data.len();
        self.cache.push_back(entry);
        while self.cached_bytes > CACHE_BYTES && self.cache.len() > 1 {
            if let Some(dropped) = self.cache.pop_front() {
                self.cached_bytes -= dropped.data.len();
            }
        }
    }

    fn cached(&self, low: u64, high: u64, max_bytes: u64) -> Option<Vec<Entry>> {
        let first = self.cache.front()?.index;
        if low < first {
            return None;
        }
        let mut bytes = 0u64;
        let mut found = Vec::new();
        for entry in self.cache.range((low - first) as usize..).take((high - low) as usize) {
            bytes = bytes.saturating_add(entry.data.len() as u64);
            if bytes > max_bytes && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        Some(found)
    }

    fn failed(&self, error: Error) -> raft::Error {
        let text = error.to_string();
        *self.error.borrow_mut() = Some(error);
        raft::Error::Store(StorageError::Other(text.into()))
    }
}

impl<L: RaftLog> Storage for LogStorage<L> {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.initial_hard_state(), self.log.membership().0))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.log.truncated().0 {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        let max_bytes = max_size.into().unwrap_or(u64::MAX);
        if low < high
            && let Some(found) = self.cached(low, high, max_bytes)
        {
            return Ok(found);
        }
        self.log.entries(low, high, max_bytes).map_err(|error| self.failed(error))
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if let Some(first) = self.cache.front()
            && index >= first.index
            && let Some(entry) = self.cache.get((index - first.index) as usize)
        {
            return Ok(entry.term);
        }
        match self.log.term(index) {
            Ok(Some(term)) => Ok(term),
            Ok(None) if index < self.log.truncated().0 => Err(raft::Error::Store(StorageError::Compacted)),
            Ok(None) => Err(raft::Error::Store(StorageError::Unavailable)),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.log.truncated().0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.log.last_index())
    }

    fn snapshot(&self, _request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}
