//! What Raft reads of the log: a [`RaftLog`] behind raft-rs's `Storage` trait. raft-rs panics where a read of the
//! log fails; the error is kept, so that whoever catches the panic can say what it was.
//!
//! The rows that a group was founded with are in no entry, so that a member that starts with nothing cannot be built
//! from the log alone: the log counts as cut behind its first entry, and such a member gets a snapshot.

use crate::error::Error;
use crate::store::log::{LogWrite, RaftLog};
use raft::eraftpb::{Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use std::cell::{Cell, RefCell};

/// The log as Raft sees it.
pub struct LogStorage<L> {
    log: L,
    commit: u64,
    applied: u64,
    offered: Option<Snapshot>,
    requested: Cell<bool>,
    error: RefCell<Option<Error>>,
}

impl<L: RaftLog> LogStorage<L> {
    /// Wraps `log`. The log's note of the commit index lags behind. It is raised to `applied`, since raft-rs takes an applied
    /// index beyond it for a fault, and the state only ever holds committed entries; and to the entry of the membership, which
    /// was synced when that took effect: others may need to hear that it is committed, and who left is not there to tell.
    pub fn new(log: L, applied: u64) -> LogStorage<L> {
        let made_at = log.membership().1.min(log.last_index());
        let commit = log.hard_state().commit.max(applied).max(made_at);
        let (requested, error) = (Cell::default(), RefCell::default());
        LogStorage { log, commit, applied, offered: None, requested, error }
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

    /// The machine has applied up to `index`.
    pub fn set_applied(&mut self, index: u64) {
        self.applied = index;
    }

    /// The snapshot to hand to Raft from now on.
    pub fn offer(&mut self, snapshot: Option<Snapshot>) {
        self.offered = snapshot;
    }

    /// True once after Raft asked for a snapshot that was not there.
    pub fn take_request(&mut self) -> bool {
        self.requested.take()
    }

    /// The commit index that Raft starts from.
    pub fn initial_hard_state(&self) -> HardState {
        let mut hard_state = self.log.hard_state();
        hard_state.commit = self.commit;
        hard_state
    }

    /// Writes to the log.
    pub fn write(&mut self, write: LogWrite) -> Result<(), Error> {
        self.log.write(write)
    }

    /// The error of a read that made Raft give up, if there was one.
    pub fn take_error(&self) -> Option<Error> {
        self.error.borrow_mut().take()
    }

    fn failed(&self, error: Error) -> raft::Error {
        let text = error.to_string();
        *self.error.borrow_mut() = Some(error);
        raft::Error::Store(StorageError::Other(text.into()))
    }

    /// The index before the first one that may be sent to others.
    fn cut(&self) -> u64 {
        self.log.truncated().0.max(self.applied.min(1))
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
        if low <= self.cut() {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        let max_bytes = max_size.into().unwrap_or(u64::MAX);
        self.log.entries(low, high, max_bytes).map_err(|error| self.failed(error))
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        match self.log.term(index) {
            Ok(Some(term)) => Ok(term),
            Ok(None) if index < self.log.truncated().0 => Err(raft::Error::Store(StorageError::Compacted)),
            Ok(None) => Err(raft::Error::Store(StorageError::Unavailable)),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.cut() + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.log.last_index())
    }

    /// A snapshot serves member `to` if it holds `request_index`, reaches the log, and knows that member.
    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let fits = |snapshot: &&Snapshot| {
            let meta = snapshot.get_metadata();
            let membership = meta.get_conf_state();
            let knows = [&membership.voters, &membership.learners, &membership.voters_outgoing]
                .iter()
                .any(|ids| ids.contains(&to));
            meta.index >= request_index && meta.index >= self.cut() && knows
        };
        match self.offered.as_ref().filter(fits) {
            Some(snapshot) => Ok(snapshot.clone()),
            None => {
                self.requested.set(true);
                Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::doubles::Disk;
    use crate::store::state::Batch;
    use raft::eraftpb::ConfState;

    #[test]
    fn what_made_the_membership_is_known_to_be_committed() {
        let membership = ConfState { voters: vec![1, 2, 3], ..ConfState::default() };
        let disk = Disk::new(1, membership.clone(), &Batch::default());
        let mut log = disk.open(false).0;
        let entry = |index| Entry { index, term: 2, ..Entry::default() };
        let entries = (1..=12).map(entry).collect();
        let hard_state = Some(HardState { term: 2, vote: 1, commit: 7, ..HardState::default() });
        log.write(LogWrite { entries, hard_state, membership: Some((membership, 10)), sync: true }).unwrap();
        let log = LogStorage::new(log, 5);
        assert_eq!(log.initial_hard_state().commit, 10);
        assert_eq!(LogStorage::new(log.into_log(), 11).initial_hard_state().commit, 11);
    }
}
