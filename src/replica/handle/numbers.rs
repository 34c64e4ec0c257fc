//! Plain numbers of a replica.

use crate::cluster::moves::SlotSet;
use crate::cluster::verifying::ChunkFacts;

/// Plain numbers of a replica, for facts and metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Numbers {
    /// `leader`, `follower`, `candidate` or `standby`.
    pub role: &'static str,
    /// Raft term.
    pub term: u64,
    /// The index of the member that leads, as far as this one knows.
    pub leader: Option<u32>,
    /// The indices of those who vote.
    pub voters: Vec<u32>,
    /// The indices of the outgoing voters of a joint configuration.
    pub outgoing: Vec<u32>,
    /// The indices of those who stand by.
    pub standbys: Vec<u32>,
    /// The incarnation of the group.
    pub incarnation: u64,
    /// Index of the last applied entry.
    pub applied: u64,
    /// Index of the last entry of the log.
    pub last: u64,
    /// Its term.
    pub last_term: u64,
    /// The indices of the others that this member, which leads, has heard of lately.
    pub active: Vec<u32>,
    /// Keys stored.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// The version counter.
    pub version: u64,
    /// The slots that the group owns.
    pub slots: SlotSet,
    /// The last move that the group has done with as its source.
    pub moves_done: u64,
    /// A move by which the group took slots, and which its source has not settled yet.
    pub received: Option<u64>,
    /// True if its group does not know yet which slots are its own.
    pub awaits: bool,
    /// Log syncs since it was opened.
    pub syncs: u64,
    /// Entries applied since it was opened.
    pub entries: u64,
    /// Commands applied since it was opened.
    pub commands: u64,
    /// Commands waiting in the inbox now.
    pub queue: u64,
    /// Bytes of the Raft log on disk.
    pub log_bytes: u64,
    /// How often rows were found rotten, and all of them were pulled anew, since it was opened.
    pub renewals: u64,
    /// How the chunks of large values are; none for a master.
    pub chunks: Option<ChunkFacts>,
}
