//! Bugs that are put in on purpose, at the seams of what is tested, to see that the simulator finds them.

/// A bug put in on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// None.
    None,
    /// Acknowledges before the log is synced.
    NoSync,
    /// Reads from whoever thinks that it leads.
    ReadWithoutLease,
    /// Votes right after a restart.
    VoteAfterRestart,
    /// Goes on reading by lease after MsgTimeoutNow was sent.
    LeaseAfterHandOver,
    /// Writes the rows and the applied index in two batches.
    AppliedApart,
    /// Cuts the log up to what is applied, without a flush.
    CutBeyondTables,
    /// Replays the state's write-ahead logs after a power loss.
    TrustLogs,
    /// Keeps the membership where a power loss takes it.
    UnsyncedMembership,
    /// Sends before term and vote are synced.
    SendBeforeTerm,
    /// Counts a standby in the majority.
    StandbyCounts,
    /// Asks only the incoming half of a joint configuration.
    HalfJoint,
    /// Leaves request ids out of snapshots.
    RequestsLost,
    /// Two groups are asked to take the slots of a move.
    ActivateTwice,
    /// The last change of an outbox does not travel.
    OutboxTail,
    /// The source takes back what the target has taken.
    WithdrawGiven,
    /// The target's version counter is not raised to the source's.
    VersionRestarts,
    /// The source reads slots for clients that it gave away.
    ReadGivenAway,
    /// Records that were sent before travel once more, as if they were the next changes.
    LateChunk,
    /// The target is cleared in the middle of a move.
    ClearWhileMoving,
    /// What a move is done with is removed once more when its slots have come back.
    ReleaseOwned,
    /// What travels is decided anew at the target: it gets versions of its own.
    DecidedAnew,
    /// A command is proposed though voters do not have the chunks that it names.
    ChunksUnsecured,
    /// The leader's word on its uploads counts though the member has not applied what the leader had.
    CollectorIgnoresLog,
    /// The leader says that all of its uploads have ended.
    CollectorIgnoresUploads,
    /// Chunks are removed though somebody reads who began before.
    CollectorIgnoresReaders,
    /// The uploads of a move end before its step is applied.
    CollectorIgnoresMove,
}
