//! The target's steps of a move. Its log is the arbiter: the slots are the target's once an `Activate` is applied, and
//! never by a move of which a `Refuse` was applied first. What is not the next thing to come changes nothing; the reply
//! says what is.

use super::Keyspace;
use crate::cluster::moves::SlotSet;
use crate::cluster::slots::slot;
use crate::error::Result;
use crate::replica::changes::Changes;
use crate::replica::command::{MoveStep, MovedRow, Reply, TargetWord};
use crate::replica::moves::{InPhase, Incoming, Moves, OutPhase};
use crate::replica::repeats::{Last, Remembered};
use crate::store::keys;
use crate::store::record;
use serde_bytes::ByteBuf;
use std::sync::Arc;

/// The arguments of an `Accept`.
struct Offer {
    id: u64,
    attempt: u64,
    slots: SlotSet,
    from: u32,
    to: u32,
    next: u64,
}

impl Keyspace {
    pub(super) fn step_as_target(&mut self, changes: &mut Changes<'_>, step: MoveStep) -> Result<Reply> {
        let id = step.id();
        match step {
            MoveStep::Accept { id, attempt, slots, from, to, next } => {
                self.accept(changes, Offer { id, attempt, slots, from, to, next })?;
            }
            MoveStep::Copy { attempt, after, end, rows, .. } => {
                self.take_copy(changes, (id, attempt), &after, end, rows)?;
            }
            MoveStep::Follow { attempt, first, next, rows, .. } => {
                self.take_changes(changes, (id, attempt), (first, next), rows)?;
            }
            MoveStep::Activate { attempt, next, version, clock, .. } => {
                self.activate(changes, (id, attempt), next, version, clock)?;
            }
            MoveStep::Refuse { .. } => self.refuse(changes, id)?,
            MoveStep::Settle { .. } => self.settle(changes, id)?,
            // The source's.
            _ => {}
        }
        Ok(Reply::MoveTarget(target_word(&self.moves, id)))
    }

    /// Changes the move that comes in; nothing if there is none.
    pub(super) fn count_received(&mut self, change: impl FnOnce(&mut Incoming)) {
        if let Some(incoming) = &mut Arc::make_mut(&mut self.moves).incoming {
            change(incoming);
        }
    }

    /// The move that comes in, if it is this attempt of it and receives.
    fn receiving(&self, (id, attempt): (u64, u64)) -> Option<&Incoming> {
        let incoming = self.moves.incoming.as_ref()?;
        (incoming.id == id && incoming.attempt == attempt && incoming.phase == InPhase::Receiving)
            .then_some(incoming)
    }

    fn accept(&mut self, changes: &mut Changes<'_>, offer: Offer) -> Result<()> {
        let Offer { id, attempt, slots, from, to, next } = offer;
        let gives =
            self.moves.outgoing.as_ref().is_some_and(|out| !matches!(out.phase, OutPhase::Done { .. }));
        let owns = slots.iter().any(|slot| self.slots.owner(slot).is_some());
        // What came by a move whose end is not known here may be all that there is of it.
        let waits = self.moves.pending != 0 && self.moves.pending != id;
        if waits || id <= self.moves.last_in || gives || owns || slots.is_empty() || slots.check().is_err() {
            return Ok(());
        }
        let begins = match &self.moves.incoming {
            None => Some(slots.clone()),
            Some(old) if old.id == id && old.attempt < attempt && old.phase != InPhase::Refused => {
                (old.phase != InPhase::Active).then(|| slots.clone())
            }
            // Its source is gone: nobody comes for it any more.
            Some(old) if old.id < id && old.phase != InPhase::Active => {
                Some(slots.union(&old.slots).union(&old.purge))
            }
            Some(_) => None,
        };
        if let Some(purge) = begins {
            let phase = InPhase::Purging;
            let (cursor, complete) = (Vec::new(), false);
            Arc::make_mut(&mut self.moves).incoming = Some(Incoming {
                id,
                attempt,
                slots,
                from,
                to,
                phase,
                purge,
                cursor,
                complete,
                next,
                keys: 0,
                bytes: 0,
                expiring: 0,
            });
        }
        let purges = |incoming: &Incoming| incoming.id == id && incoming.phase == InPhase::Purging;
        if self.moves.incoming.as_ref().is_some_and(purges) && self.purge(changes)? {
            self.count_received(|incoming| {
                incoming.phase = InPhase::Receiving;
                incoming.purge = SlotSet::default();
                (incoming.keys, incoming.bytes, incoming.expiring) = (0, 0, 0);
            });
        }
        self.write_moves(changes)
    }

    /// Removes some of what is here of the slots to be purged. Returns true if nothing is left.
    fn purge(&mut self, changes: &mut Changes<'_>) -> Result<bool> {
        let Some(incoming) = &self.moves.incoming else { return Ok(true) };
        let (purge, cursor) = (incoming.purge.clone(), incoming.cursor.clone());
        let stopped = self.remove_rows(changes, &purge, cursor)?;
        let done = stopped.is_none();
        self.count_received(|incoming| incoming.cursor = stopped.unwrap_or_default());
        Ok(done)
    }

    fn take_copy(
        &mut self,
        changes: &mut Changes<'_>,
        attempt: (u64, u64),
        after: &[u8],
        end: Option<ByteBuf>,
        rows: Vec<MovedRow>,
    ) -> Result<()> {
        let Some(incoming) = self.receiving(attempt) else { return Ok(()) };
        if incoming.complete || incoming.cursor != after || !fits(incoming, &rows) {
            return Ok(());
        }
        for row in rows {
            self.take_row(changes, row)?;
        }
        self.count_received(|incoming| {
            incoming.complete = end.is_none();
            incoming.cursor = end.map(ByteBuf::into_vec).unwrap_or_default();
        });
        self.write_moves(changes)
    }

    fn take_changes(
        &mut self,
        changes: &mut Changes<'_>,
        attempt: (u64, u64),
        (first, next): (u64, u64),
        rows: Vec<MovedRow>,
    ) -> Result<()> {
        let Some(incoming) = self.receiving(attempt) else { return Ok(()) };
        if !incoming.complete || incoming.next != first || next < first || !fits(incoming, &rows) {
            return Ok(());
        }
        for row in rows {
            self.take_row(changes, row)?;
        }
        self.count_received(|incoming| incoming.next = next);
        self.write_moves(changes)
    }

    /// Sets a row to what it is at the source.
    fn take_row(&mut self, changes: &mut Changes<'_>, moved: MovedRow) -> Result<()> {
        let MovedRow { row, value } = moved;
        if let Some(session) = keys::session_of(&row) {
            return match value {
                Some(value) => self.take_session(changes, session, row, value.into_vec()),
                None => Ok(()),
            };
        }
        self.remove_row(changes, row.clone())?;
        let Some(value) = value.map(ByteBuf::into_vec) else { return Ok(()) };
        if let Some(key) = keys::record_key(&row) {
            let (meta, _) = record::decode_meta(&value)?;
            let bytes = key.len() as u64 + meta.size;
            if let Some(at) = meta.expires {
                changes.put(keys::expiry(at, key), Vec::new());
            }
            if meta.in_chunks {
                changes.put(keys::chunked(key), Vec::new());
            }
            self.count_received(|incoming| {
                incoming.keys += 1;
                incoming.bytes += bytes;
                incoming.expiring += u64::from(meta.expires.is_some());
            });
        } else if let Some((slot, id)) = keys::request_parts(&row) {
            let at = Remembered::decode(&value)?.at;
            self.counters.requests += 1;
            changes.put(keys::request_age(at, slot, id), Vec::new());
        }
        changes.put(row, value);
        Ok(())
    }

    /// Of two rows of a session the one with the higher number counts.
    fn take_session(
        &mut self,
        changes: &mut Changes<'_>,
        session: [u8; 16],
        row: Vec<u8>,
        value: Vec<u8>,
    ) -> Result<()> {
        let number = Last::decode(&value)?.number;
        match changes.get(&row)?.map(|row| Last::decode(&row)).transpose()? {
            Some(known) if known.number >= number => return Ok(()),
            Some(_) => {}
            None => {
                self.counters.requests += 1;
                changes.put(keys::session_age(self.counters.clock, &session), Vec::new());
            }
        }
        changes.put(row, value);
        Ok(())
    }

    fn activate(
        &mut self,
        changes: &mut Changes<'_>,
        attempt: (u64, u64),
        next: u64,
        version: u64,
        clock: u64,
    ) -> Result<()> {
        let Some(incoming) = self.receiving(attempt) else { return Ok(()) };
        if !incoming.complete || incoming.next != next {
            return Ok(());
        }
        let (slots, to) = (incoming.slots.clone(), incoming.to);
        self.count_in();
        self.counters.version = self.counters.version.max(version);
        self.counters.clock = self.counters.clock.max(clock);
        self.count_received(|incoming| incoming.phase = InPhase::Active);
        self.own(changes, |own| own.give(&slots, to))?;
        self.write_moves(changes)
    }

    /// What came is counted among the group's own.
    pub(super) fn count_in(&mut self) {
        let Some(incoming) = &mut Arc::make_mut(&mut self.moves).incoming else { return };
        self.counters.keys += std::mem::take(&mut incoming.keys);
        self.counters.bytes += std::mem::take(&mut incoming.bytes);
        self.counters.expiring += std::mem::take(&mut incoming.expiring);
    }

    fn refuse(&mut self, changes: &mut Changes<'_>, id: u64) -> Result<()> {
        if id <= self.moves.last_in {
            return Ok(());
        }
        let (done, begins) = match &self.moves.incoming {
            None => (true, false),
            Some(incoming) if incoming.id == id && incoming.phase != InPhase::Active => {
                (false, incoming.phase != InPhase::Refused)
            }
            Some(_) => return Ok(()),
        };
        if begins {
            self.count_received(|incoming| {
                incoming.phase = InPhase::Refused;
                incoming.purge = incoming.purge.union(&incoming.slots);
                incoming.cursor = Vec::new();
            });
        }
        if done || self.purge(changes)? {
            let moves = Arc::make_mut(&mut self.moves);
            moves.incoming = None;
            (moves.last_in, moves.took) = (id, false);
            self.frees = !done;
        }
        self.write_moves(changes)
    }

    fn settle(&mut self, changes: &mut Changes<'_>, id: u64) -> Result<()> {
        let active = |incoming: &Incoming| incoming.id == id && incoming.phase == InPhase::Active;
        if !self.moves.incoming.as_ref().is_some_and(active) {
            return Ok(());
        }
        let moves = Arc::make_mut(&mut self.moves);
        moves.incoming = None;
        (moves.last_in, moves.took) = (id, true);
        self.write_moves(changes)
    }
}

/// How a target stands to the move `id`.
pub(super) fn target_word(moves: &Moves, id: u64) -> TargetWord {
    match &moves.incoming {
        Some(incoming) if incoming.id == id => match incoming.phase {
            InPhase::Purging => TargetWord::Purging,
            InPhase::Receiving => TargetWord::Receiving {
                attempt: incoming.attempt,
                copied: incoming.cursor.clone(),
                complete: incoming.complete,
                next: incoming.next,
            },
            InPhase::Active => TargetWord::Active,
            InPhase::Refused => TargetWord::Refused,
        },
        _ if id == moves.last_in => TargetWord::Ended { took: moves.took },
        _ if id < moves.last_in => TargetWord::Late,
        Some(incoming) if incoming.id < id => TargetWord::Busy { id: incoming.id },
        Some(_) => TargetWord::Late,
        None => match &moves.outgoing {
            Some(out) if !matches!(out.phase, OutPhase::Done { .. }) => TargetWord::Busy { id: out.id },
            _ => TargetWord::Unknown,
        },
    }
}

/// True if every row is one that goes with these slots and is whole; a session may have moved on to another slot.
fn fits(incoming: &Incoming, rows: &[MovedRow]) -> bool {
    rows.iter().all(|moved| {
        let value = moved.value.as_ref().map(|value| value.as_slice());
        if let Some(key) = keys::record_key(&moved.row) {
            incoming.slots.contains(slot(key))
                && value.is_none_or(|value| super::travel::check(&moved.row, value).is_ok())
        } else if let Some((slot, _)) = keys::request_parts(&moved.row) {
            incoming.slots.contains(slot) && value.is_none_or(|value| Remembered::decode(value).is_ok())
        } else {
            keys::session_of(&moved.row).is_some() && value.is_none_or(|value| Last::decode(value).is_ok())
        }
    })
}
