//! The state of a machine as ordered rows, behind a trait: LevelDB in production, memory in the simulator.

use crate::error::Result;
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

    /// Why this store no longer writes, if it latched.
    fn failure(&self) -> Option<crate::error::Error>;
}

/// The generations of a state: one is live, and can be replaced as a whole.
pub trait Generations: Send {
    /// The live generation.
    fn live(&self) -> Arc<dyn State>;

    /// Builds a generation that holds exactly `rows`, makes it durable in tables, switches to it atomically and
    /// removes the old one in the background once its last reader is gone. Returns the new live generation.
    fn replace(&mut self, rows: &Batch) -> Result<Arc<dyn State>>;
}
