//! What others must know of a member.

/// What a member is in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// It orders the writes.
    Leader,
    /// It votes, and follows a leader.
    #[default]
    Follower,
    /// It votes, and asks for votes.
    Candidate,
    /// It holds a copy and does not vote.
    Standby,
}

impl Role {
    /// `leader`, `follower`, `candidate` or `standby`.
    pub fn word(self) -> &'static str {
        match self {
            Role::Leader => "leader",
            Role::Follower => "follower",
            Role::Candidate => "candidate",
            Role::Standby => "standby",
        }
    }
}

/// What others need to know of a member before they act on its behalf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status {
    /// Its role.
    pub role: Role,
    /// Its term.
    pub term: u64,
    /// The Raft id of the leader that it follows, itself included; 0 if it knows none.
    pub leader: u64,
    /// Until when it may read its own state without asking: 0 never, `u64::MAX` as long as this status holds.
    pub lease: u64,
}
