//! What people ask the leading master for, about slots and those who leave.

use super::planning::Plan;
use serde::{Deserialize, Serialize};

/// `POST /internal/rebalance`: slots move until every group has its share. The answer is a [`Plan`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebalanceRequest {
    /// True: only say what would move where.
    #[serde(default)]
    pub dry_run: bool,
    /// True if slots may go to groups with fewer voters.
    #[serde(default)]
    pub accept_fewer_copies: bool,
    /// From now on slots move by themselves, or do not; with false, moves that can be called off are.
    #[serde(default)]
    pub auto: Option<bool>,
}

/// `POST /internal/drain`: a group gives its slots away and is dissolved, or one worker leaves its group. One of `group`
/// and `index` is given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainRequest {
    /// The worker that leaves.
    #[serde(default)]
    pub index: Option<u32>,
    /// The group that is drained.
    #[serde(default)]
    pub group: Option<u32>,
    /// True: only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
    /// True: the group keeps what it still has.
    #[serde(default)]
    pub undo: bool,
}

/// The answer to a [`DrainRequest`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainReply {
    /// The group.
    pub group: u32,
    /// The workers that leave, ascending.
    pub leaves: Vec<u32>,
    /// True if nothing is left to do.
    pub done: bool,
    /// What moves where, for a group.
    pub plan: Plan,
}

/// `POST /internal/cancel-move`: calls a move off, unless its target owns the slots. The answer is a [`Plan`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelMoveRequest {
    /// The move.
    pub id: u64,
}
