//! What a member knows of the others, and what may be proposed because of it.

use super::{ACTIVE_MS, CAUGHT_UP, Core};
use crate::cluster::membership::{Current, Peer};
use crate::replica::blobs::is_majority;
use crate::store::log::RaftLog;
use raft::ProgressState;
use raft::eraftpb::ConfState;

impl<L: RaftLog> Core<L> {
    /// True if the group has no other member, not even one that stands by.
    pub fn is_only_member(&self) -> bool {
        self.membership.voters.len() + self.membership.learners.len() <= 1
    }

    /// The configuration and its members as this leader knows them.
    pub fn current(&self, now: u64) -> Current {
        let raft = &self.node.raft;
        let last = raft.raft_log.last_index();
        let changed = self.node.store().log().membership().1;
        let peers = raft.prs().iter().map(|(id, progress)| {
            let own = *id == raft.id;
            let active =
                own || self.heard.get(id).is_some_and(|heard| now.saturating_sub(*heard) < ACTIVE_MS);
            // After a snapshot Raft probes until there is something to send.
            let caught_up = own
                || progress.state != ProgressState::Snapshot
                    && progress.matched > 0
                    && progress.matched + CAUGHT_UP >= last
                    && self.complete.get(id).is_none_or(|complete| *complete >= self.earlier.0.min(last));
            // Who has told of no chunks keeps none.
            let whole = self.complete.get(id).map_or(active, |complete| *complete >= changed);
            (*id, Peer { active, caught_up, whole })
        });
        let set = |ids: &[u64]| ids.iter().copied().collect();
        Current {
            me: raft.id,
            voters: set(&self.membership.voters),
            outgoing: set(&self.membership.voters_outgoing),
            learners: set(&self.membership.learners),
            learners_next: set(&self.membership.learners_next),
            peers: peers.collect(),
        }
    }

    /// Member `peer`, which may be this one, says that it has the chunks of all values up to the entry `complete`.
    pub fn hear_complete(&mut self, peer: u64, complete: u64) {
        self.complete.insert(peer, complete);
    }

    /// True if `holders` are a majority of those who may commit what is proposed now: of the configuration in force, with
    /// no change of it under way.
    pub fn is_secured(&self, term: u64, holders: &[u64]) -> bool {
        let ConfState { voters, voters_outgoing, .. } = &self.membership;
        term == self.node.raft.term
            && !self.node.raft.has_pending_conf()
            && is_majority(holders, voters, voters_outgoing)
    }
}
