//! What a deterministic state machine is to the member that applies entries to it: the [`super::keyspace`] on
//! workers, the [`super::directory`] on masters. A machine reads the state and returns what to write; it does no
//! I/O of its own and knows no clock but the one in the entries.
//!
//! An entry's payload: one byte that names the machine and format, the leader's clock (u64 little-endian,
//! milliseconds since 1970), and the machine's commands. A byte that a machine does not know stops the node: an
//! entry is never skipped.

use super::command::Secured;
use crate::cluster::membership::Wanted;
use crate::error::{Error, Kind, Result};
use crate::store::state::{Batch, State};

/// Where an entry stands in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// Its index.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// What applying an entry does to the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Changes rows of the live generation.
    Write(Batch),
    /// Replaces every row by these: a new generation.
    Replace(Batch),
}

/// The result of applying one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied<R> {
    /// What happens to the rows; it includes the new position, so that both change together.
    pub effect: Effect,
    /// One reply per command of the entry, in order.
    pub replies: Vec<R>,
    /// Members that are to take a digest of their rows as this entry leaves them.
    pub digest: Option<DigestOrder>,
    /// True if readers must look again at what they may read before the rows are written.
    pub shifts: bool,
    /// True if many rows are gone whose space should come back soon.
    pub frees: bool,
    /// Keys whose values are in chunks from here on.
    pub chunked: Vec<Vec<u8>>,
    /// True if a value in chunks was removed.
    pub unchunked: bool,
}

/// Asks members for a digest of their rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DigestOrder {
    /// Tells it from others.
    pub id: u64,
    /// The Raft ids of those that take it.
    pub members: Vec<u64>,
}

/// A deterministic state machine over rows. After an error of [`Machine::apply`] the member stops: the machine's
/// memory may then be ahead of its rows.
pub trait Machine: Send + Sized + 'static {
    /// One write as a client means it.
    type Command: Send + 'static;
    /// The answer to one command.
    type Reply: Send + 'static;
    /// What readers on other threads need of the machine besides its rows.
    type Published: Clone + Send + Sync + 'static;

    /// Reads the machine's memory from its rows.
    fn load(state: &dyn State) -> Result<Self>;

    /// The last applied entry.
    fn position(&self) -> Position;

    /// The highest clock in applied entries, milliseconds.
    fn clock(&self) -> u64;

    /// About how many bytes a command takes in an entry.
    fn size(command: &Self::Command) -> usize;

    /// True if the command must have an entry for itself.
    fn alone(command: &Self::Command) -> bool;

    /// True if the command is refused while the disk is nearly full; one that frees space is not.
    fn needs_space(command: &Self::Command) -> bool;

    /// Who has the chunks that the command refers to; none if it refers to no chunks.
    fn secured(_command: &Self::Command) -> Option<&Secured> {
        None
    }

    /// Encodes commands as the payload of an entry.
    fn encode(clock: u64, commands: &[Self::Command]) -> Result<Vec<u8>>;

    /// Applies an entry. An empty payload (a new leader's first entry) only moves the position.
    fn apply(&mut self, state: &dyn State, at: Position, payload: &[u8]) -> Result<Applied<Self::Reply>>;

    /// A command that the leader should propose by itself at `now` milliseconds, if one is due.
    fn due(&self, now: u64) -> Option<Self::Command>;

    /// What this machine itself says of who should be a member of the group that it runs in; the directory does.
    fn wanted(&self) -> Option<Wanted> {
        None
    }

    /// Keys, and bytes of keys and values.
    fn size_of_state(&self) -> (u64, u64) {
        (0, 0)
    }

    /// Counts the entries that changed what the group serves, since the machine was loaded.
    fn shifts(&self) -> u64 {
        0
    }

    /// What readers need.
    fn publish(&self) -> Self::Published;
}

/// Splits a payload into clock and commands after checking its first byte.
pub fn open_payload(payload: &[u8], format: u8) -> Result<(u64, &[u8])> {
    let unknown = |what: String| {
        Error::new(Kind::Foreign, what).hint("a newer catstore wrote it: run that version on this folder")
    };
    let (first, rest) = payload.split_first().ok_or_else(|| unknown("an entry without a kind".into()))?;
    if *first != format {
        return Err(unknown(format!("an entry of kind {first} is not known to this version")));
    }
    let (clock, rest) = rest
        .split_first_chunk::<8>()
        .ok_or_else(|| Error::new(Kind::Damaged, "an entry ends before its clock"))?;
    Ok((u64::from_le_bytes(*clock), rest))
}

/// The beginning of a payload.
pub fn begin_payload(format: u8, clock: u64) -> Vec<u8> {
    let mut payload = Vec::with_capacity(256);
    payload.push(format);
    payload.extend_from_slice(&clock.to_le_bytes());
    payload
}
