//! Reads that wait for a round of heartbeats: one round for all that wait at that moment. No I/O.

use super::core::Core;
use super::member::Ticket;
use crate::error::{Error, Kind, Result};
use crate::store::log::RaftLog;

/// A round that was not answered for so long is asked again.
const PATIENCE_MS: u64 = 300;

/// Reads on their way through a round.
#[derive(Debug, Default)]
pub struct WaitingReads {
    /// Came after the round under way was sent.
    next: Vec<Ticket>,
    /// Wait for the round under way: its number, when it was sent, who waits.
    round: Option<(u64, u64, Vec<Ticket>)>,
    /// Their round was answered; the state must have applied this index.
    confirmed: Vec<(u64, Vec<Ticket>)>,
    /// The term in which they wait.
    term: u64,
}

impl WaitingReads {
    /// A read begins to wait.
    pub fn add(&mut self, ticket: Ticket) {
        self.next.push(ticket);
    }

    /// Sends a round if reads wait and none is under way, or the last one was lost.
    pub fn ask<L: RaftLog>(&mut self, now: u64, core: &mut Core<L>) {
        if self.term != core.term() {
            // Who waits now came before the term did; `failed` sends them away if this member does not lead.
            self.term = core.term();
            self.take_back();
        }
        let late = self.round.as_ref().is_some_and(|(_, sent, _)| now.saturating_sub(*sent) > PATIENCE_MS);
        if late {
            self.take_back();
        }
        if self.round.is_none()
            && !self.next.is_empty()
            && let Some(number) = core.ask_round(now)
        {
            self.round = Some((number, now, std::mem::take(&mut self.next)));
        }
    }

    /// A majority has answered a round; reads that waited for it, or for an earlier one, may read from `index` on.
    pub fn confirm(&mut self, number: u64, index: u64) {
        if self.round.as_ref().is_some_and(|(round, _, _)| *round <= number)
            && let Some((_, _, tickets)) = self.round.take()
        {
            self.confirmed.push((index, tickets));
        }
    }

    /// Reads that may go on now that the state has applied `index`.
    pub fn ready(&mut self, index: u64) -> Vec<Ticket> {
        let mut ready = Vec::new();
        self.confirmed.retain_mut(|(needed, tickets)| {
            let done = *needed <= index;
            if done {
                ready.append(tickets);
            }
            !done
        });
        ready
    }

    /// This member does not lead: everybody who waits must ask elsewhere.
    pub fn fail(&mut self) -> Vec<(Ticket, Result<()>)> {
        self.take_back();
        let mut tickets = std::mem::take(&mut self.next);
        tickets.extend(self.confirmed.drain(..).flat_map(|(_, tickets)| tickets));
        let moved = || Error::new(Kind::Moved, "this member does not lead its group");
        tickets.into_iter().map(|ticket| (ticket, Err(moved()))).collect()
    }

    /// True if nobody waits.
    pub fn is_empty(&self) -> bool {
        self.next.is_empty() && self.round.is_none() && self.confirmed.is_empty()
    }

    fn take_back(&mut self) {
        if let Some((_, _, mut tickets)) = self.round.take() {
            self.next.append(&mut tickets);
        }
    }
}
