//! What a process does: the rounds of the production thread, and reads.

use super::{Answer, Bug, Finishing, Job, Notes, Subject, Up, Wish};
use crate::stores::Probe;
use crate::system::System;
use catstore::error::{Error, Kind, Result};
use catstore::replica::core::{Role, Status, TICK_MS};
use catstore::replica::member::Ticket;
use catstore::replica::parcel::{self, Parcel};
use catstore::store::log::RaftLog;
use catstore::store::state::State;

impl<M: Subject> Up<M> {
    /// What waits here, for messages.
    pub fn describe(&self) -> String {
        format!(
            "{} callers, {} readers, {} commands, {} jobs, pull {:?}, {} held",
            self.callers.len(),
            self.readers.len(),
            self.queue.len(),
            self.jobs.len(),
            self.pull.as_ref().map(|pull| (pull.id, pull.from, pull.number)),
            self.held.len()
        )
    }

    /// True if it was asked to hand over.
    pub fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// [`Bug::LeaseAfterHandOver`]: a leader that hands over keeps the lease that it had.
    pub(super) fn keeps_lease(&self, sys: &System, status: &Status) -> bool {
        let membership = self.member.core().membership();
        sys.bug == Bug::LeaseAfterHandOver
            && self.leaving
            && (status.role, status.term) == (Role::Leader, self.status.term)
            && membership.voters_outgoing.is_empty()
            && membership.voters.contains(&self.own.id)
    }

    pub(super) fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        self.next_ticket
    }

    pub(super) fn round(
        &mut self,
        now: u64,
        day: u64,
        sys: &mut System,
        notes: &mut Notes<'_>,
    ) -> Result<Finishing<M>> {
        while let Some(job) = self.jobs.pop_front() {
            match job {
                Job::Flushed(index) => self.member.flushed(now, index)?,
                Job::Fetched(id, built) => self.member.fetched(id, built),
                Job::Used(id, peer) => self.member.snapshot_used(now, id, peer),
                Job::Want(wanted) => self.member.want(wanted),
                Job::Leave => self.member.leave(now),
                // False if nobody else has the rows: production would stop then.
                Job::Renew => drop(self.member.renew(now)),
                Job::Read(ticket) => self.member.read(ticket),
                Job::Unreachable(peer) => self.member.unreachable(peer),
                Job::Forged(message) => self.member.step(now, message),
            }
        }
        while let Some(bytes) = self.mail.pop_front() {
            match parcel::open(&bytes, &self.gate) {
                Ok(parcel) => {
                    self.check_sender(&parcel)?;
                    for message in parcel.messages {
                        self.member.step(now, message);
                    }
                    self.member.hear_progress(now, parcel.sender.id, parcel.progress);
                }
                Err(_) => sys.count("parcel refused at the gate"),
            }
        }
        if now >= self.next_tick {
            if now >= self.next_tick + TICK_MS {
                sys.count("ticks dropped");
            }
            self.next_tick = now + TICK_MS;
            self.ticked = true;
            self.member.tick(now);
            let waits = self.member.renews() && !self.member.is_pulling();
            self.rotten_ticks = if waits { self.rotten_ticks + 1 } else { 0 };
            self.member.propose_due(day);
        }
        let refused = if self.member.uncommitted() < sys.in_flight {
            self.member.propose(day, &mut self.queue)
        } else {
            Vec::new()
        };
        let outputs = self.member.run(now, notes)?;
        Ok(Finishing { outputs, refused })
    }

    /// Only members are let in.
    fn check_sender(&self, Parcel { sender, .. }: &Parcel) -> Result<()> {
        let own = &self.own;
        let same = (&sender.cluster, sender.group, sender.incarnation);
        if same != (&own.cluster, own.group, own.incarnation) {
            return Err(Error::new(Kind::Failed, format!("the gate let in a stranger: {sender:?}")));
        }
        Ok(())
    }

    /// Compares what was applied in this run with what others applied.
    pub(super) fn note_committed(&mut self, probe: &Probe) -> Result<(), String> {
        let applied = self.member.machine().position().index;
        if applied < self.applied {
            return Err(format!("member {} went back from entry {} to {applied}", probe.id, self.applied));
        }
        if applied > self.applied {
            let log = self.member.core().log();
            let first = (self.applied + 1).max(log.truncated().0 + 1);
            let entries = log.entries(first, applied + 1, u64::MAX);
            probe.committed(&entries.map_err(|error| error.to_string())?);
            self.applied = applied;
        }
        Ok(())
    }

    /// A linearizable read. `due`: what was acknowledged before it.
    pub(super) fn look(&self, sys: &mut System, wish: &Wish, due: u64, how: &str) -> Result<Answer, String> {
        let version = M::version(&self.live.1);
        if version < due {
            return Err(format!(
                "member {} reads {how} at version {version}, but version {due} was acknowledged",
                self.own.id
            ));
        }
        sys.acknowledge(self.own.group, version);
        self.read(sys, wish).map_err(|error| format!("a read {how} fails: {error}"))
    }

    /// True while a run changes which slots are served.
    pub fn is_shifting(&self) -> bool {
        self.shifting
    }

    /// What readers see: the rows, and what the machine published.
    pub fn live(&self) -> (&dyn State, &M::Published) {
        (&*self.live.0, &self.live.1)
    }

    /// A read of what is here. The group must serve the slot, before the record is read and behind that.
    pub(super) fn read(&self, sys: &mut System, wish: &Wish) -> Result<Answer> {
        if let Some(refusal) = M::refuses(&self.live.1, wish).filter(|_| sys.bug != Bug::ReadGivenAway) {
            return Ok(refusal);
        }
        if self.shifting {
            sys.count("read while slots change hands");
            return Ok(Answer::Frozen);
        }
        match wish {
            Wish::Key(key) => M::read(&*self.live.0, &self.live.1, key),
            Wish::Page(after, limit) => M::page(&*self.live.0, &self.live.1, after, *limit),
        }
    }
}
