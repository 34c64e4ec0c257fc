//! What a member is opened with, and what it gives back to whoever steps it: the thread in production, the simulation.

use super::copies::{Fetch, Offer};
use super::status::Status;
use crate::error::{Error, Result};
use crate::store::state::{State, View};
use raft::eraftpb::Message;
use std::sync::Arc;

/// Names a waiting caller. [`NOBODY`] waits for nothing.
pub type Ticket = u64;
/// The ticket of commands that the member proposes by itself.
pub const NOBODY: Ticket = 0;

/// How a member is opened.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// Its Raft id: index + 1.
    pub id: u64,
    /// The incarnation of its group.
    pub incarnation: u64,
    /// Random, another one for each run.
    pub seed: u64,
    /// Milliseconds of a clock that goes on while the machine sleeps.
    pub now: u64,
    /// The state is flushed into tables, and the log cut, after so many bytes of entries.
    pub flush_bytes: u64,
    /// A log of more bytes is cut even if a live member still needs it: that one gets a snapshot.
    pub keep_bytes: u64,
}

impl Setup {
    /// The sizes of production.
    pub fn new(id: u64, incarnation: u64, seed: u64, now: u64) -> Setup {
        Setup { id, incarnation, seed, now, flush_bytes: 32 << 20, keep_bytes: 512 << 20 }
    }
}

/// What a member does to the world while it runs, in order.
pub trait Rim {
    /// Others must see this before what is sent next leaves.
    fn publish(&mut self, status: &Status);
    /// Messages to other members.
    fn send(&mut self, messages: Vec<Message>);
    /// An entry is about to change which slots the group serves: whoever reads beside this thread must look again.
    /// Nobody does where a member is stepped in one piece.
    fn shift(&mut self) {}
}

/// Asks for [`State::flush`] on another thread; [`super::member::Member::flushed`] takes the answer.
pub struct Flush {
    /// The generation to flush.
    pub state: Arc<dyn State>,
    /// What is applied now, and will be in tables then.
    pub index: u64,
}

/// Asks for a digest of the rows, on another thread.
pub struct Look {
    /// Which one.
    pub id: u64,
    /// The last entry that the rows hold.
    pub index: u64,
    /// The rows.
    pub view: Arc<dyn View>,
}

/// What came out of a step.
pub struct Outputs<R, B> {
    /// Replies to waiting callers.
    pub replies: Vec<(Ticket, Result<R>)>,
    /// Reads that may go on, or must ask elsewhere (`Moved`).
    pub reads: Vec<(Ticket, Result<()>)>,
    /// A flush to do.
    pub flush: Option<Flush>,
    /// Snapshots to hold for others.
    pub offers: Vec<Offer>,
    /// Snapshots that need not be held any longer, by id.
    pub released: Vec<u64>,
    /// A snapshot to pull; whatever is being pulled is no longer wanted.
    pub fetch: Option<Fetch<B>>,
    /// Digests to take.
    pub looks: Vec<Look>,
    /// How many entries were applied.
    pub entries: u64,
    /// How many commands they held.
    pub commands: u64,
    /// True if a snapshot replaced the state.
    pub installed: bool,
    /// What is rotten in the state, which waits to be replaced from here on.
    pub rot: Option<Error>,
    /// True if an entry replaced all rows.
    pub replaced: bool,
    /// True if many rows are gone whose space should come back soon.
    pub frees: bool,
    /// Keys whose values are in chunks from here on.
    pub chunked: Vec<Vec<u8>>,
    /// True if a value in chunks was removed.
    pub unchunked: bool,
}

impl<R, B> Default for Outputs<R, B> {
    fn default() -> Self {
        Outputs {
            replies: Vec::new(),
            reads: Vec::new(),
            flush: None,
            offers: Vec::new(),
            released: Vec::new(),
            fetch: None,
            looks: Vec::new(),
            entries: 0,
            commands: 0,
            installed: false,
            rot: None,
            replaced: false,
            frees: false,
            chunked: Vec::new(),
            unchunked: false,
        }
    }
}
