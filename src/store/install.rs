//! The end of a snapshot install: the log follows the state.
//!
//! An install switches the state to the generation that the snapshot filled and notes where it stands, in one step.
//! Only then is the log reset to that place, and only then is the note removed. A crash before the switch leaves the
//! old state with the old log. A crash behind it leaves the new state, and the note says that the log is old, not
//! short: the next start resets it, where a log that is short without a note is damaged.

use super::keys;
use super::log::RaftLog;
use super::state::{Generations, Installed, State};
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

/// Refuses to write to a generation that is finished. Errors: `Conflict`.
pub(super) fn check_unfinished(finished: bool) -> Result<()> {
    if finished { Err(Error::new(Kind::Conflict, "a finished generation is not written")) } else { Ok(()) }
}

/// Refuses to install a generation that is not finished, or whose counters do not say that it has applied `at`.
/// Errors: `Conflict`.
pub(super) fn check(finished: bool, built: &dyn State, at: &Installed) -> Result<()> {
    if !finished {
        return Err(Error::new(Kind::Conflict, "a generation that is not finished is not installed"));
    }
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
