//! How commands become entries.

use super::{Member, NOBODY, Ticket};
use crate::error::{Error, Kind};
use crate::replica::entry::take_entry;
use crate::replica::machine::Machine;
use crate::store::log::RaftLog;
use crate::store::state::Generations;
use std::collections::VecDeque;

impl<M: Machine, L: RaftLog, G: Generations> Member<M, L, G> {
    /// Takes as many commands from the front of `queue` as one entry holds and proposes them. `clock` is the time of
    /// day in milliseconds. Returns the callers that were refused: certainly not written.
    pub fn propose(
        &mut self,
        clock: u64,
        queue: &mut VecDeque<(Ticket, M::Command)>,
    ) -> Vec<(Ticket, Error)> {
        let (mut tickets, mut commands) = take_entry::<M>(queue);
        if self.renews() {
            let error = Error::new(
                Kind::Moved,
                "rows of this member are rotten: it hands over the lead of its group",
            );
            return tickets.into_iter().map(|ticket| (ticket, error.clone())).collect();
        }
        let mut refused = self.refuse_unsecured(&mut tickets, &mut commands);
        if tickets.is_empty() {
            return refused;
        }
        let clock = clock.max(self.machine.clock());
        match M::encode(clock, &commands).and_then(|payload| self.core.propose(payload)) {
            Ok((index, term)) => {
                self.waiting.insert((index, term), tickets);
            }
            Err(error) => refused.extend(tickets.into_iter().map(|ticket| (ticket, error.clone()))),
        }
        refused
    }

    /// Takes out what refers to chunks which a majority may not have, and returns whom that refuses.
    fn refuse_unsecured(
        &self,
        tickets: &mut Vec<Ticket>,
        commands: &mut Vec<M::Command>,
    ) -> Vec<(Ticket, Error)> {
        let mut refused = Vec::new();
        let mut at = 0;
        while let Some(command) = commands.get(at) {
            if M::secured(command).is_none_or(|secured| self.core.is_secured(secured.term, &secured.holders))
            {
                at += 1;
                continue;
            }
            commands.remove(at);
            let error = Error::new(
                Kind::NoMajority,
                "the group changed while the value was on its way; nothing was written",
            );
            let hint = "send it again; put-file --resume sends only what is missing";
            refused.push((tickets.remove(at), error.hint(hint)));
        }
        refused
    }

    /// Proposes what the machine does by itself, if it is due and this member leads.
    pub fn propose_due(&mut self, clock: u64) {
        if self.core.may_change()
            && let Some(command) = self.machine.due(clock)
        {
            // Refused only while too much waits; it is due again at the next tick.
            let _ = self.propose(clock, &mut VecDeque::from([(NOBODY, command)]));
        }
    }
}
