//! A state of which rows do not match their checksums is neither written nor served any more. Where the group has other members
//! it is replaced: the member applies nothing, hands over the lead if it has it, and pulls a snapshot from whoever leads, as a
//! member does that has fallen far behind. Term, vote and log stay, and it goes on voting; the snapshot, which reaches the end of
//! the log, then takes the place of state and log. So whatever it had acknowledged stays acknowledged.

use super::{Member, Outputs, named};
use crate::cluster::membership::Change;
use crate::error::{Error, Kind, Result};
use crate::replica::machine::Machine;
use crate::store::log::RaftLog;
use crate::store::state::Generations;

/// A member that asks for a snapshot takes no entries meanwhile, and a leader cannot make one if it needs this member for a
/// majority of what the log holds already. So it asks for this part of each round only, in milliseconds.
const ASKS_MS: u64 = 3000;
const ROUND_MS: u64 = 4500;

impl<M: Machine, L: RaftLog, G: Generations> Member<M, L, G> {
    /// The state is not to be trusted. False if nobody else has all of it for certain: nobody else votes.
    pub fn renew(&mut self, now: u64) -> bool {
        let membership = self.core.membership();
        let mut voters = membership.voters.iter().chain(&membership.voters_outgoing);
        if voters.all(|id| *id == self.core.id()) {
            return false;
        }
        self.renewal.get_or_insert(now);
        self.core.bar(true);
        true
    }

    /// True while the state waits to be replaced.
    pub fn renews(&self) -> bool {
        self.renewal.is_some()
    }

    /// True while the rows of a snapshot are on their way.
    pub fn is_pulling(&self) -> bool {
        self.arriving.is_some()
    }

    /// Takes an error that the state gave. If it is damage that others can mend, the state waits to be replaced from here on, and
    /// the damage is returned. Errors: any other.
    pub fn suffer(&mut self, now: u64, error: Error) -> Result<Error> {
        let damage = match error.kind() {
            Kind::Damaged => Some(error.clone()),
            // What somebody else read latched it.
            _ => self.state.failure().filter(|failure| failure.kind() == Kind::Damaged),
        };
        match damage {
            Some(damage) if self.renew(now) => Ok(damage),
            _ => Err(error),
        }
    }

    /// Another state has taken the place of the rotten one.
    pub(super) fn end_renewal(&mut self) {
        if self.renewal.take().is_some() {
            self.flushing = false;
            self.core.bar(false);
        }
    }

    /// Hands over the lead, or asks for the snapshot, unless one is on its way.
    pub(super) fn pursue_renewal(&mut self, now: u64) {
        let Some(since) = self.renewal else { return };
        let leader = self.core.status().leader;
        if leader == self.core.id() {
            return self.abdicate(now);
        }
        if leader == 0 || self.arriving.is_some() {
            return;
        }
        match now.saturating_sub(since) % ROUND_MS < ASKS_MS {
            true => self.core.request_snapshot(),
            false => self.core.withdraw_request(),
        }
    }

    /// A leader that applies nothing cannot change who votes: it hands over to somebody who votes already.
    fn abdicate(&mut self, now: u64) {
        let current = self.core.current(now);
        let could_lead = |id: &&u64| {
            **id != current.me && current.peers.get(*id).is_some_and(|peer| peer.active && peer.caught_up)
        };
        if let Some(heir) = current.voters.iter().find(could_lead) {
            self.core.change(&Change::HandOver(*heir));
        }
    }

    /// Who waits for an entry of this member will not see it applied here.
    pub(super) fn let_go_of_callers(&mut self, outputs: &mut Outputs<M::Reply, G::Building>) {
        let error = Error::new(
            Kind::UnknownOutcome,
            "rows of this member were found rotten before it could answer: it may have been written",
        );
        for tickets in std::mem::take(&mut self.waiting).into_values() {
            outputs.replies.extend(named(tickets).map(|ticket| (ticket, Err(error.clone()))));
        }
    }

    /// False for a snapshot that would take back what this member has acknowledged.
    pub(super) fn may_take(&self, index: u64) -> bool {
        self.renewal.is_none() || self.core.may_be_replaced_at(index)
    }
}
