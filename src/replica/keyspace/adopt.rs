//! A group that goes on as another incarnation takes the masters' word on its slots.
//!
//! Its copy may lack the end of a move, or whole moves. Of those that are over the masters know how they ended. Of the one
//! that is not, the other side's log says: what the group was to give is frozen until the target has said whether it owns
//! it, and what it was to take is not its own until the source has given it for good or got it back. Until all that is in
//! its rows the group serves nothing ([`Moves::awaits`]).
//!
//! What has to go first goes first, a step at a time: what came and is not to stay is refused, and what is left of a move
//! that is over is removed. So one entry never has more than one thing to put in the place of the move.

use super::Keyspace;
use crate::cluster::moves::{MoveOrder, SlotSet};
use crate::cluster::slots::{SLOTS, SlotTable};
use crate::error::Result;
use crate::replica::changes::Changes;
use crate::replica::command::{Adopt, Reply};
use crate::replica::moves::{InPhase, Moves, OutPhase, Outgoing, first_attempt};
use std::sync::Arc;

/// So many versions are left out where writes may be lost: a client that saw one of those never meets its number again, at
/// another value. It is more than a group writes in a hundred days at 100,000 a second.
pub(super) const LOST_VERSIONS: u64 = 1 << 40;

impl Keyspace {
    pub(super) fn adopt(&mut self, changes: &mut Changes<'_>, word: Adopt) -> Result<Reply> {
        if self.may_adopt(&word) {
            self.take_word(changes, &word)?;
        }
        Ok(Reply::MoveNoted)
    }

    /// True if the word is due, is no older than what the group knows, and nothing has to go first.
    fn may_adopt(&self, word: &Adopt) -> bool {
        let open = word.order.as_ref().map(|order| order.id);
        let due = self.moves.awaits(word.incarnation) || self.moves.lacks_an_end(open);
        let own = word.slots.of(word.group);
        let is_whole = word.slots.check().is_ok()
            && word.slots.owned().count() == SLOTS
            && word.order.as_ref().is_none_or(|order| order.slots.check().is_ok());
        let ends = self.moves.outgoing.as_ref().is_some_and(|out| {
            let withdrawn = matches!(out.phase, OutPhase::Withdrawn | OutPhase::Done { withdrawn: true });
            word.gives().map(|order| order.id) != Some(out.id) && withdrawn
        });
        due && is_whole
            && !ends
            && self.moves.latest() < word.next_move
            && self.moves.leftover(&own, open).is_none()
    }

    fn take_word(&mut self, changes: &mut Changes<'_>, word: &Adopt) -> Result<()> {
        let (gives, takes) = (word.gives(), word.takes());
        let held = self.slots.owned().union(&self.settle_received(takes.map(|order| order.id)));
        let mut keeps = self.keeps(word, gives, takes);
        let given = gives.map(|order| held.minus(&held.minus(&order.slots))).unwrap_or_default();
        let stray = held.minus(&keeps).minus(&given);
        let moves = Arc::make_mut(&mut self.moves);
        if moves.put_away(word, &keeps, stray) {
            if let Some(order) = gives {
                moves.freeze_or_give(order, word.incarnation);
            }
            moves.adopted = word.incarnation;
            moves.pending = takes.map_or(0, |order| order.id);
            self.counters.version =
                self.counters.version.max(word.incarnation * LOST_VERSIONS) + LOST_VERSIONS;
        } else {
            // What is here of those is not forgotten before its move is noted.
            keeps = keeps.union(&given);
        }
        self.own(changes, |own| {
            *own = SlotTable::default();
            own.give(&keeps, word.group);
        })?;
        self.write_moves(changes)
    }

    /// The move that came in is over, unless it is `open`: what came is counted. Returns its slots.
    fn settle_received(&mut self, open: Option<u64>) -> SlotSet {
        let Some(incoming) = self.moves.incoming.clone().filter(|incoming| Some(incoming.id) != open) else {
            return SlotSet::default();
        };
        self.count_in();
        let moves = Arc::make_mut(&mut self.moves);
        moves.incoming = None;
        (moves.last_in, moves.took) = (incoming.id, true);
        incoming.slots
    }

    /// The slots that are the group's own from here on.
    fn keeps(&self, word: &Adopt, gives: Option<&MoveOrder>, takes: Option<&MoveOrder>) -> SlotSet {
        let own = word.slots.of(word.group);
        let Some(order) = gives.or(takes) else { return own };
        match self.moves.owns_of(order, takes.is_some()) {
            Some(true) => own.union(&order.slots),
            Some(false) => own.minus(&order.slots),
            None => own,
        }
    }
}

impl Moves {
    /// Whether the group owns the slots of a move that is not over, if it knows better than the masters.
    fn owns_of(&self, order: &MoveOrder, takes: bool) -> Option<bool> {
        if takes {
            let is_active = self
                .incoming
                .as_ref()
                .is_some_and(|incoming| incoming.id == order.id && incoming.phase == InPhase::Active);
            return Some(is_active || self.last_in == order.id && self.took);
        }
        match self.outgoing.as_ref().filter(|out| out.id == order.id)?.phase {
            OutPhase::Given | OutPhase::Done { withdrawn: false } => Some(false),
            OutPhase::Withdrawn | OutPhase::Done { withdrawn: true } => Some(true),
            OutPhase::Following | OutPhase::Frozen => None,
        }
    }

    /// Begins to remove what is here of slots that the group does not own: `stray`, and what it gave by a move that is over.
    /// Returns true if there is nothing of that kind.
    fn put_away(&mut self, word: &Adopt, keeps: &SlotSet, stray: SlotSet) -> bool {
        let open = word.gives().map(|order| order.id);
        match &mut self.outgoing {
            // Nothing else is left of the moves before it.
            Some(out) if Some(out.id) == open => true,
            Some(out) => {
                let given = matches!(out.phase, OutPhase::Given | OutPhase::Done { withdrawn: false });
                let left = if given { out.slots.minus(keeps) } else { SlotSet::default() };
                (out.slots, out.cursor) = (left.union(&stray), Vec::new());
                out.phase = if out.slots.is_empty() { OutPhase::Withdrawn } else { OutPhase::Given };
                false
            }
            None => {
                let Some(first) = stray.spans().first() else { return true };
                let to = word.slots.owner(first.first).unwrap_or_default();
                let id = open.unwrap_or(word.next_move).saturating_sub(1);
                self.outgoing = Some(Outgoing::bare(id, 0, stray, to, OutPhase::Given));
                false
            }
        }
    }

    /// The slots of a move that is not over wait for the target's word, unless the masters have it.
    fn freeze_or_give(&mut self, order: &MoveOrder, incarnation: u64) {
        let phase = if order.switched { OutPhase::Given } else { OutPhase::Frozen };
        // What the target has got by an earlier attempt may come from a copy that is left behind.
        let attempt = first_attempt(incarnation);
        match &mut self.outgoing {
            Some(out) => {
                if matches!(out.phase, OutPhase::Following | OutPhase::Frozen) {
                    (out.phase, out.attempt) = (phase, out.attempt.max(attempt));
                }
            }
            None if order.id > self.last_out => {
                self.outgoing = Some(Outgoing::bare(order.id, attempt, order.slots.clone(), order.to, phase));
            }
            None => {}
        }
    }
}
