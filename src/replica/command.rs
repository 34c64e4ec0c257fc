//! Commands to the keyspace and their replies, and how entries carry them.

use crate::cluster::moves::{MoveOrder, SlotSet};
use crate::cluster::slots::SlotTable;
use serde::{Deserialize, Serialize};

/// A condition on the record that a command would replace or delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum Condition {
    /// No condition.
    #[default]
    Any,
    /// The key does not exist (`If-None-Match: *`).
    Absent,
    /// The key exists (`If-Match: *`).
    Exists,
    /// The key has this version (`If-Match: "V"`).
    Version(u64),
}

/// One write as a client means it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Stores a value.
    Put(Put),
    /// Removes a key.
    Delete {
        /// The key.
        #[serde(with = "serde_bytes")]
        key: Vec<u8>,
        /// What must hold.
        condition: Condition,
    },
    /// All or nothing, within one slot.
    Batch(Vec<BatchCommand>),
    /// Removes every key of the group.
    Clear,
    /// Removes records that have expired and request ids that are too old; a bounded number of each.
    Sweep,
    /// Changes nothing: members take a digest of their rows as this entry leaves them.
    Digest {
        /// Tells it from others.
        id: u64,
        /// The Raft ids of the members that take it.
        members: Vec<u64>,
    },
    /// A step of a move of slots, at its source or at its target.
    Move(MoveStep),
    /// Stores a value that is in chunks.
    PutChunks(PutChunks),
}

impl Command {
    /// True for what clients ask for; the others are the group's own.
    pub fn is_of_client(&self) -> bool {
        match self {
            Command::Put(_)
            | Command::PutChunks(_)
            | Command::Delete { .. }
            | Command::Batch(_)
            | Command::Clear => true,
            Command::Sweep | Command::Digest { .. } | Command::Move(_) => false,
        }
    }
}

/// A step of the move with this id. The source proposes its own and asks the target's leader to propose the target's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MoveStep {
    /// Source: begins the move, or another attempt of it: from here on each change of these slots is noted in the outbox.
    Begin {
        /// The move.
        id: u64,
        /// Which attempt: of the same incarnation of the source one more than the last, so that a repeat begins nothing;
        /// the first one of each incarnation is later than all before.
        attempt: u64,
        /// The slots.
        slots: SlotSet,
        /// The target's group.
        to: u32,
    },
    /// Source: the target has what the outbox held below `first`. Removes some of those rows.
    Trim {
        /// The move.
        id: u64,
        /// The first change that the target does not have.
        first: u64,
    },
    /// Source: from here on requests for the slots wait.
    Freeze {
        /// The move.
        id: u64,
    },
    /// Source: the target owns the slots.
    Give {
        /// The move.
        id: u64,
    },
    /// Source: the target has refused and never takes the slots by this move: they are served again. Also declines a
    /// move that was not begun.
    Withdraw {
        /// The move.
        id: u64,
    },
    /// Source: removes some of what is left of a move that was given or withdrawn.
    Release {
        /// The move.
        id: u64,
    },
    /// Source: the masters know that the move is done.
    Forget {
        /// The move.
        id: u64,
    },
    /// Target: makes ready for these slots, by removing some of what is left of them here, until nothing is.
    Accept {
        /// The move.
        id: u64,
        /// Which attempt of the source.
        attempt: u64,
        /// The slots.
        slots: SlotSet,
        /// The source's group.
        from: u32,
        /// The target's group.
        to: u32,
        /// The number of the first change that follows the copy.
        next: u64,
    },
    /// Target: takes records as they were copied, if they are the next.
    Copy {
        /// The move.
        id: u64,
        /// Which attempt.
        attempt: u64,
        /// The row behind which they begin: where the last ones ended.
        #[serde(with = "serde_bytes")]
        after: Vec<u8>,
        /// The row where they end; none if there are no more.
        end: Option<serde_bytes::ByteBuf>,
        /// The rows.
        rows: Vec<MovedRow>,
        /// Who has the chunks of their values. It does not go into the log.
        #[serde(skip)]
        secured: Secured,
    },
    /// Target: takes changes from the source's outbox, if they are the next.
    Follow {
        /// The move.
        id: u64,
        /// Which attempt.
        attempt: u64,
        /// The number of the first change.
        first: u64,
        /// The number behind the last one.
        next: u64,
        /// The rows that changed, as they were later.
        rows: Vec<MovedRow>,
        /// Who has the chunks of their values. It does not go into the log.
        #[serde(skip)]
        secured: Secured,
    },
    /// Target: owns the slots from here on, if it has everything.
    Activate {
        /// The move.
        id: u64,
        /// Which attempt.
        attempt: u64,
        /// The number behind the source's last change.
        next: u64,
        /// The source's version counter.
        version: u64,
        /// The source's clock.
        clock: u64,
    },
    /// Target: never takes the slots by this move, unless it did already; removes some of what came.
    Refuse {
        /// The move.
        id: u64,
    },
    /// Target: the source knows that it gave the slots away.
    Settle {
        /// The move.
        id: u64,
    },
    /// Source: the target goes on from a copy that lacks the end of the move. What was given, and is still whole here, is the
    /// source's again, and frozen: the target is asked once more.
    Reclaim {
        /// The move.
        id: u64,
        /// The source's group.
        group: u32,
    },
    /// A group that goes on as another incarnation takes the masters' word on its slots, or does the next thing that has to
    /// be done before.
    Adopt(Adopt),
}

/// What the masters say of the slots of a group that goes on as another incarnation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopt {
    /// The group.
    pub group: u32,
    /// The incarnation.
    pub incarnation: u64,
    /// Who owns which slot.
    pub slots: SlotTable,
    /// The unfinished move that the group is in.
    pub order: Option<MoveOrder>,
    /// Moves below this number are known to the masters, as orders or as done.
    pub next_move: u64,
}

impl Adopt {
    /// The unfinished move in which the group gives.
    pub fn gives(&self) -> Option<&MoveOrder> {
        self.order.as_ref().filter(|order| order.from == self.group)
    }

    /// The unfinished move in which it takes.
    pub fn takes(&self) -> Option<&MoveOrder> {
        self.order.as_ref().filter(|order| order.to == self.group)
    }
}

impl MoveStep {
    /// The move.
    pub fn id(&self) -> u64 {
        match self {
            MoveStep::Begin { id, .. }
            | MoveStep::Trim { id, .. }
            | MoveStep::Freeze { id }
            | MoveStep::Give { id }
            | MoveStep::Withdraw { id }
            | MoveStep::Release { id }
            | MoveStep::Forget { id }
            | MoveStep::Accept { id, .. }
            | MoveStep::Copy { id, .. }
            | MoveStep::Follow { id, .. }
            | MoveStep::Activate { id, .. }
            | MoveStep::Refuse { id }
            | MoveStep::Settle { id }
            | MoveStep::Reclaim { id, .. } => *id,
            MoveStep::Adopt(word) => word.order.as_ref().map_or(0, |order| order.id),
        }
    }

    /// True for the steps that a target takes: another group may ask for these.
    pub fn is_of_target(&self) -> bool {
        matches!(
            self,
            MoveStep::Accept { .. }
                | MoveStep::Copy { .. }
                | MoveStep::Follow { .. }
                | MoveStep::Activate { .. }
                | MoveStep::Refuse { .. }
                | MoveStep::Settle { .. }
        )
    }
}

/// A row on its way to another group: its key as the store has it, and its value or none if it is gone. Only records,
/// remembered requests and sessions travel; what follows from them is made anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedRow {
    /// The row.
    #[serde(with = "serde_bytes")]
    pub row: Vec<u8>,
    /// Its value.
    pub value: Option<serde_bytes::ByteBuf>,
}

/// How a target stands to a move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetWord {
    /// Something of these slots is left here; ask again.
    Purging,
    /// It takes what comes.
    Receiving {
        /// Of which attempt.
        attempt: u64,
        /// The row up to which the copy came.
        #[serde(with = "serde_bytes")]
        copied: Vec<u8>,
        /// True once the copy is complete.
        complete: bool,
        /// The number of the next change.
        next: u64,
    },
    /// It owns the slots, and remembers the move.
    Active,
    /// It refused, and something of what came is left here.
    Refused,
    /// The move is over for it: it took the slots, or refused them and has nothing left of them.
    Ended {
        /// True if it took them.
        took: bool,
    },
    /// It knows nothing of this move.
    Unknown,
    /// It knows a later move: this one is of the past.
    Late,
    /// It is still in this other move.
    Busy {
        /// That move.
        id: u64,
    },
}

/// The arguments of a put.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Put {
    /// The key.
    #[serde(with = "serde_bytes")]
    pub key: Vec<u8>,
    /// The value.
    #[serde(with = "serde_bytes")]
    pub value: Vec<u8>,
    /// CRC-32 of the value, made where the client's bytes arrived.
    pub checksum: u32,
    /// Its content type; empty if none.
    pub content_type: String,
    /// Milliseconds to live.
    pub ttl: Option<u64>,
    /// What must hold.
    pub condition: Condition,
}

/// The arguments of a put of a value that is in chunks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutChunks {
    /// The key.
    #[serde(with = "serde_bytes")]
    pub key: Vec<u8>,
    /// The encoded manifest of the value.
    #[serde(with = "serde_bytes")]
    pub manifest: Vec<u8>,
    /// CRC-32 of the value, made where the client's bytes arrived.
    pub checksum: u32,
    /// Its content type; empty if none.
    pub content_type: String,
    /// Milliseconds to live.
    pub ttl: Option<u64>,
    /// What must hold.
    pub condition: Condition,
    /// Who has the chunks. It does not go into the log.
    #[serde(skip)]
    pub secured: Secured,
}

/// Which members have all chunks of what a command refers to, synced, as the leader of a term knows. Nothing that refers
/// to chunks is proposed unless a majority has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Secured {
    /// The term in which the leader saw to it; what it knows is void in any other.
    pub term: u64,
    /// The Raft ids of the members.
    pub holders: Vec<u64>,
}

/// One operation of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BatchCommand {
    /// Stores a value.
    Put(Put),
    /// Removes a key; no error if it does not exist.
    Delete {
        /// The key.
        #[serde(with = "serde_bytes")]
        key: Vec<u8>,
    },
    /// Requires a condition.
    Check {
        /// The key.
        #[serde(with = "serde_bytes")]
        key: Vec<u8>,
        /// What must hold.
        condition: Condition,
    },
}

/// A command with its request id, as submitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// 1 to 128 bytes; a repeat of the same id on a key of the same slot gets the first reply for 10 minutes. A numbered
    /// one (`super::repeats`) does until a later request of its session is executed.
    pub id: Option<String>,
    /// The command.
    pub command: Command,
}

/// The keyspace's reply to one command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Stored.
    Stored {
        /// The new version.
        version: u64,
        /// True if the key did not exist before.
        created: bool,
    },
    /// Removed.
    Deleted {
        /// The version that the deletion took.
        version: u64,
    },
    /// A delete of a key that does not exist.
    Absent,
    /// The condition did not hold; nothing was written.
    ConditionFailed {
        /// The version that the key has, if it exists.
        current: Option<u64>,
        /// For a batch, the position of the operation that failed.
        op: Option<u32>,
    },
    /// A batch was applied: the version of each put, in order of operations.
    Batch(Vec<Option<u64>>),
    /// The group was cleared of so many keys.
    Cleared {
        /// How many keys it held.
        keys: u64,
    },
    /// A sweep removed so many rows.
    Swept {
        /// How many rows.
        rows: u64,
    },
    /// The group does not own the slot; nothing was written.
    NotOwner {
        /// The slot.
        slot: u16,
    },
    /// Too many request ids are remembered; nothing was written.
    TooManyRequestIds,
    /// The request id belongs to another command of the last ten minutes; nothing was written.
    RequestIdReused,
    /// Members were told to take a digest.
    DigestOrdered,
    /// The slot is on its way to another group: ask again in a moment; nothing was written.
    Frozen {
        /// The slot.
        slot: u16,
    },
    /// A move touches the group: it cannot be cleared now; nothing was written.
    Moving {
        /// The move.
        id: u64,
    },
    /// A step of a move was taken at its source, or came too late to matter.
    MoveNoted,
    /// How the target stands to the move.
    MoveTarget(TargetWord),
    /// A later request of the same session was executed. Nothing was written now; whether the request was executed
    /// before is not known any more.
    RequestIdPassed,
}
