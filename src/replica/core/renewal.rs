//! A member whose state is not to be trusted asks whoever leads for a snapshot of it (raft-rs's `request_snapshot`).

use super::Core;
use crate::store::log::RaftLog;
use raft::eraftpb::{Message, MessageType};
use raft::{INVALID_INDEX, ProgressState};

impl<L: RaftLog> Core<L> {
    /// While it is barred this member votes and does not campaign.
    pub fn bar(&mut self, barred: bool) {
        self.barred = barred;
    }

    /// Asks whoever leads for a snapshot that reaches the end of this log. Until it has come, or the request is withdrawn,
    /// this member takes no entries. Asking again changes nothing.
    pub fn request_snapshot(&mut self) {
        // Dropped while nobody leads, or the last entry is of an earlier term: the next tick asks again.
        if let Err(error) = self.node.request_snapshot() {
            log::trace!("a snapshot is not asked for now: {error}");
        }
    }

    /// Takes entries again.
    pub fn withdraw_request(&mut self) {
        self.node.raft.pending_request_snapshot = INVALID_INDEX;
    }

    /// True if a snapshot at `index` has everything that this member has acknowledged: the log ends there once it is
    /// installed, because it was asked for.
    pub fn may_be_replaced_at(&self, index: u64) -> bool {
        index >= self.last_index()
    }

    /// Who takes entries, or answers a heartbeat as such, needs no snapshot, though it may have asked for one before: raft-rs
    /// leaves it to its user to say so, and would send snapshots for ever, or wait for ever to have one that reaches as far as was
    /// asked for. Whoever asked for one that reaches no further than what it was known to have
    /// says nothing new by having it: raft-rs would send nothing until the snapshot is given up.
    pub(super) fn note_answer(&mut self, message: &Message) {
        let takes = message.get_msg_type() == MessageType::MsgAppendResponse && !message.reject;
        let asks_nothing = takes || message.get_msg_type() == MessageType::MsgHeartbeatResponse;
        if asks_nothing
            && message.term == self.node.raft.term
            && let Some(progress) = self.node.raft.mut_prs().get_mut(message.from)
        {
            progress.pending_request_snapshot = INVALID_INDEX;
            let has_it =
                takes && message.index >= progress.pending_snapshot && progress.matched >= message.index;
            if progress.state == ProgressState::Snapshot && has_it {
                progress.become_probe();
            }
        }
    }
}
