//! The Raft log behind a trait: raft-engine in production, memory with a tail that a crash loses in the simulator.

use crate::error::Result;
use raft::eraftpb::{ConfState, Entry, HardState};

/// Everything that one `Ready` of Raft wants on disk; written atomically.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LogWrite {
    /// Entries to append, contiguous; entries beyond the last of them are deleted.
    pub entries: Vec<Entry>,
    /// Term, vote and commit index.
    pub hard_state: Option<HardState>,
    /// Membership and the index of the entry that made it.
    pub membership: Option<(ConfState, u64)>,
    /// Only what must not be lost asks for a sync.
    pub sync: bool,
}

/// The entries, the hard state and the membership of one member. One thread owns it.
///
/// Indices start at 1. `truncated` is the (index, term) before the first entry: (0, 0) in a new log. Errors are as
/// for [`super::state::State`]; after an error of a write every later write fails.
pub trait RaftLog: Send {
    /// (index, term) of the entry before the first one that is kept.
    fn truncated(&self) -> (u64, u64);

    /// Index of the last entry; `truncated().0` if there is none.
    fn last_index(&self) -> u64;

    /// Entries with `low <= index < high`, at least one if any exists, at most about `max_bytes`.
    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>>;

    /// The term of the entry at `index`, for `truncated().0 <= index <= last_index()`; `None` outside.
    fn term(&self, index: u64) -> Result<Option<u64>>;

    /// Term, vote and commit index as last written.
    fn hard_state(&self) -> HardState;

    /// Membership as last written, and the index of the entry that made it.
    fn membership(&self) -> (ConfState, u64);

    /// Writes; with `write.sync` it returns after the disk has everything written so far.
    fn write(&mut self, write: LogWrite) -> Result<()>;

    /// Forgets entries up to and including `index` and frees their space. Entries must be applied and in tables.
    fn cut(&mut self, index: u64) -> Result<()>;

    /// Forgets every entry, starts behind (index, term) and writes the membership, in one synced step: after a
    /// snapshot install. Term and vote stay, the commit index is raised to `index` at least.
    fn reset(&mut self, index: u64, term: u64, membership: (ConfState, u64)) -> Result<()>;

    /// How many syncs this log did since it was opened.
    fn syncs(&self) -> u64;

    /// Bytes that the log takes on disk, about.
    fn bytes(&self) -> u64;
}
