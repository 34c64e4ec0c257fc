//! Commands to the keyspace and their replies, and how entries carry them.

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
    /// A later request of the same session was executed. Nothing was written now; whether the request was executed
    /// before is not known any more.
    RequestIdPassed,
}
