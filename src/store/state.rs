//! The state of a machine as ordered rows, behind a trait: LevelDB in production, memory in the simulator.

use crate::error::Result;
use raft::eraftpb::ConfState;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Changes to rows that happen together or not at all. A later change of a row replaces an earlier one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Row key, and the new value or `None` to remove the row, in order.
    pub changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Batch {
    /// Sets a row.
    pub fn put(&mut self, row: Vec<u8>, value: Vec<u8>) {
        self.changes.push((row, Some(value)));
    }

    /// Removes a row.
    pub fn delete(&mut self, row: Vec<u8>) {
        self.changes.push((row, None));
    }
}

/// What a scan calls for each row; `Break` ends the scan.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// One generation of rows. All methods may be called from any thread.
///
/// Errors: [`crate::error::Kind::Damaged`] when stored bytes fail their check (the detail names the file where it
/// can), [`crate::error::Kind::Failed`] when the disk returns an error, or after any earlier error of a write.
pub trait State: Send + Sync {
    /// The row, if it exists.
    fn get(&self, row: &[u8]) -> Result<Option<Vec<u8>>>;

    /// Visits rows with `from <= row < to` in byte order, all as of one moment. After an error every row that was
    /// visited is right, but rows are missing.
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<()>;

    /// Applies a batch atomically, without a sync.
    fn write(&self, batch: &Batch) -> Result<()>;

    /// Returns once everything written before this call survives a power loss *in tables* (not only in a
    /// write-ahead log). Writers go on meanwhile. May take seconds: never call it on the replica's thread.
    fn flush(&self) -> Result<()>;

    /// Gives back the space of rows from `from` up to `to` that are gone. Blocks, for as long as it takes to write what is
    /// left of them anew; others read and write meanwhile. Changes no row.
    fn compact(&self, from: &[u8], to: &[u8]) {
        let _ = (from, to);
    }

    /// All rows as of now.
    fn view(&self) -> Result<Arc<dyn View>>;

    /// Why this store no longer writes, if it latched.
    fn failure(&self) -> Option<crate::error::Error>;
}

/// All rows of a generation as of one moment, for as long as it is held: later writes do not show, nor does another
/// generation that takes its place. All methods may be called from any thread.
///
/// A view keeps its generation open, also one that was given up, and keeps the space of the rows that only it sees. A
/// close waits for it. Errors are as for [`State`].
pub trait View: Send + Sync {
    /// The row, if it existed then.
    fn get(&self, row: &[u8]) -> Result<Option<Vec<u8>>>;

    /// Visits rows as [`State::scan`] does.
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<()>;
}

/// A generation that a snapshot fills, in any one thread, while another one is live. Dropped before it was installed,
/// it goes, and its folder with it.
pub trait Building: Send {
    /// Adds rows, without a sync. Rows come in ascending order, over all batches, and none is removed. Needs memory for
    /// a few batches, however many there are.
    ///
    /// Errors: `Conflict` if they do not come in order, and as for [`State`].
    fn write(&mut self, batch: &Batch) -> Result<()>;

    /// Adds one row, as [`Building::write`] does.
    fn add(&mut self, row: &[u8], value: &[u8]) -> Result<()> {
        let mut batch = Batch::default();
        batch.put(row.to_vec(), value.to_vec());
        self.write(&batch)
    }

    /// Returns once everything written, and the generation's name, survives a power loss in tables. May take
    /// seconds: never call it on the replica's thread. Nothing is written afterwards.
    fn finish(&mut self) -> Result<()>;
}

/// Where a generation that a snapshot filled stands in Raft's log.
#[derive(Debug, Clone, PartialEq)]
pub struct Installed {
    /// Index of the last entry that it has applied.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
    /// The membership at that entry, and the index of the entry that made it.
    pub membership: (ConfState, u64),
}

/// The generations of a state: one is live, and can be replaced as a whole.
///
/// An install is a switch and a note of where the new generation stands, in one atomic step; then the log is reset to
/// that place; then the note is removed. [`super::install::settle`] does the last two, also at a start after a crash.
pub trait Generations: Send {
    /// A generation that is not live yet.
    type Building: Building + 'static;

    /// The live generation.
    fn live(&self) -> Arc<dyn State>;

    /// Builds a generation that holds exactly `rows`, makes it durable in tables, switches to it atomically and
    /// removes the old one in the background once its last reader is gone. Returns the new live generation. After an
    /// error the old one is written no more: the next start may find the new one.
    fn replace(&mut self, rows: &Batch) -> Result<Arc<dyn State>>;

    /// Begins an empty generation beside the live one. Several may be under way.
    fn begin(&mut self) -> Result<Self::Building>;

    /// Switches to a finished generation atomically, notes `at` in the same step, durably, and removes the old one as
    /// [`Generations::replace`] does. Returns the new live generation.
    ///
    /// Errors: `Conflict` if it is not finished, or its counters do not say that it has applied `at`: nothing is
    /// changed then, and it is dropped. As for [`State`]: then the next start finds the old one, or the new one and the
    /// note.
    fn install(&mut self, built: Self::Building, at: Installed) -> Result<Arc<dyn State>>;

    /// The note of an install whose log was perhaps not reset yet.
    fn installed(&self) -> Option<Installed>;

    /// The log was reset: removes the note, durably.
    fn settled(&mut self) -> Result<()>;
}
