//! How waiting commands become an entry, and whether a log and a state belong together.

use super::machine::{Machine, Position};
use super::outputs::Ticket;
use crate::error::{Error, Kind, Result};
use crate::store::log::RaftLog;
use std::collections::VecDeque;

/// An entry holds at most so many bytes of commands, or one larger command.
const ENTRY_BYTES: usize = 1 << 20;
/// An entry holds at most so many commands.
const ENTRY_COMMANDS: usize = 4096;

/// Takes as many commands from the front of `queue` as one entry holds, and their callers.
pub(super) fn take_entry<M: Machine>(
    queue: &mut VecDeque<(Ticket, M::Command)>,
) -> (Vec<Ticket>, Vec<M::Command>) {
    let (mut tickets, mut commands) = (Vec::new(), Vec::new());
    let mut bytes = 0;
    while let Some((ticket, command)) = queue.pop_front() {
        let size = M::size(&command);
        let alone = M::alone(&command);
        if !tickets.is_empty() && (alone || bytes + size > ENTRY_BYTES || tickets.len() >= ENTRY_COMMANDS) {
            queue.push_front((ticket, command));
            break;
        }
        bytes += size;
        tickets.push(ticket);
        commands.push(command);
        if alone {
            break;
        }
    }
    (tickets, commands)
}

/// Checks that `log` continues a state that has applied up to `applied`.
pub(super) fn reconcile<L: RaftLog>(log: &L, applied: Position) -> Result<()> {
    let damaged = |what: String| {
        Error::new(Kind::Damaged, what)
            .hint("keep the folder as it is; docs/operations.md, Backup, says how to restore a copy or read its keys")
    };
    let (first, last) = (log.truncated().0, log.last_index());
    if applied.index < first {
        return Err(damaged(format!(
            "the state ends at entry {}, the log begins only after entry {first}",
            applied.index
        )));
    }
    if applied.index > last {
        return Err(damaged(format!(
            "the log ends at entry {last}, but the state has applied entry {}",
            applied.index
        )));
    }
    if log.term(applied.index)? != Some(applied.term) {
        return Err(damaged(format!(
            "entry {} of the log is not the one that the state has applied",
            applied.index
        )));
    }
    Ok(())
}
