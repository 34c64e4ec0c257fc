//! The end of a snapshot install: the log follows the state.
//!
//! An install switches the state to the generation that the snapshot filled and notes where it stands, in one step.
//! Only then is the log reset to that place, and only then is the note removed. A crash before the switch leaves the
//! old state with the old log. A crash behind it leaves the new state, and the note says that the log is old, not
//! short: the next start resets it, where a log that is short without a note is damaged.

use super::keys;
use super::log::RaftLog;
use super::state::{Batch, Generations, Installed, State};
use crate::error::{Error, Kind, Result};

/// Ends an install, if one is noted: resets the log to where the live generation stands, unless it begins there, and
/// removes the note. Both are durable when it returns. The log's term and vote stay.
///
/// Errors: `Damaged` if the live generation does not stand where the note says, and nothing is changed; as for
/// [`State`] and [`RaftLog`], and the note stays: it is done again at the next start.
pub fn settle<L: RaftLog, G: Generations>(log: &mut L, generations: &mut G) -> Result<()> {
    let Some(at) = generations.installed() else {
        return Ok(());
    };
    // Nothing is appended to the log, nor cut, while the note is there: one that begins here was reset.
    if log.truncated().0 < at.index {
        let applied = applied(&*generations.live())?;
        if applied != Some((at.index, at.term)) {
            let detail = format!(
                "the state was installed at entry {} of term {}, but has applied {applied:?}",
                at.index, at.term
            );
            return Err(Error::new(Kind::Damaged, detail));
        }
        log.reset(at.index, at.term, at.membership)?;
    }
    generations.settled()
}

/// Why a generation is not written once it is finished.
pub(super) fn finished() -> Error {
    Error::new(Kind::Conflict, "a finished generation is not written")
}

/// Sees to it that what fills a generation comes in order, over all batches, and removes nothing.
#[derive(Default)]
pub(super) struct InOrder {
    last: Vec<u8>,
}

impl InOrder {
    /// Errors: `Conflict`.
    pub(super) fn check_row(&mut self, row: &[u8]) -> Result<()> {
        if row <= &self.last[..] {
            return Err(out_of_order());
        }
        self.last.clear();
        self.last.extend_from_slice(row);
        Ok(())
    }

    /// Errors: `Conflict`, and then no row counts.
    pub(super) fn check(&mut self, batch: &Batch) -> Result<()> {
        let mut last = &self.last;
        for (row, value) in &batch.changes {
            if row <= last || value.is_none() {
                return Err(out_of_order());
            }
            last = row;
        }
        if let Some((row, _)) = batch.changes.last() {
            self.last.clone_from(row);
        }
        Ok(())
    }
}

fn out_of_order() -> Error {
    Error::new(Kind::Conflict, "the rows of a snapshot do not come in order")
}

/// Why a generation is not installed before it is finished.
pub(super) fn unfinished() -> Error {
    Error::new(Kind::Conflict, "a generation that is not finished is not installed")
}

/// Refuses to install a generation whose counters do not say that it has applied `at`. Errors: `Conflict`.
pub(super) fn check(built: &dyn State, at: &Installed) -> Result<()> {
    let applied = applied(built)?;
    if applied == Some((at.index, at.term)) {
        return Ok(());
    }
    let detail = format!(
        "a snapshot of entry {} of term {} was to be installed, but it has applied {applied:?}",
        at.index, at.term
    );
    Err(Error::new(Kind::Conflict, detail))
}

/// (index, term) of the last entry that `state` has applied; `None` if it has no counters.
fn applied(state: &dyn State) -> Result<Option<(u64, u64)>> {
    state.get(&keys::COUNTERS_ROW)?.map(|counters| keys::applied_of(&counters)).transpose()
}
