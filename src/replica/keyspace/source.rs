//! The source's steps of a move. Each checks that it fits what the group knows of the move; one that does not comes late
//! or twice, and changes nothing.

use super::adopt::LOST_VERSIONS;
use super::travel::slot_of;
use super::{Keyspace, encode_slots};
use crate::cluster::moves::SlotSet;
use crate::cluster::slots::SlotTable;
use crate::error::{Error, Kind, Result};
use crate::replica::changes::Changes;
use crate::replica::command::{MoveStep, Reply};
use crate::replica::moves::{Moves, OutPhase, Outgoing};
use crate::store::keys;
use std::ops::ControlFlow;
use std::sync::Arc;

/// A step looks at so many rows at most, and removes those that have to go.
pub(super) const STEP_ROWS: usize = 4000;

impl Keyspace {
    pub(super) fn step_as_source(&mut self, changes: &mut Changes<'_>, step: MoveStep) -> Result<Reply> {
        match step {
            MoveStep::Begin { id, attempt, slots, to } => self.begin(changes, id, attempt, slots, to)?,
            MoveStep::Trim { id, first } => self.trim(changes, id, first)?,
            MoveStep::Freeze { id } => self.freeze(changes, id)?,
            MoveStep::Give { id } => self.give(changes, id)?,
            MoveStep::Withdraw { id } => self.withdraw(changes, id)?,
            MoveStep::Release { id } => self.release(changes, id)?,
            MoveStep::Forget { id } => self.forget(changes, id)?,
            MoveStep::Reclaim { id, group } => self.reclaim(changes, id, group)?,
            // The target's.
            _ => {}
        }
        Ok(Reply::MoveNoted)
    }

    /// The move `id` at this source, if it is in one of `phases`.
    fn outgoing(&mut self, id: u64, phases: &[OutPhase]) -> Option<&mut Outgoing> {
        let fits = |out: &Outgoing| out.id == id && phases.contains(&out.phase);
        self.moves.outgoing.as_ref().filter(|out| fits(out))?;
        Arc::make_mut(&mut self.moves).outgoing.as_mut()
    }

    fn begin(
        &mut self,
        changes: &mut Changes<'_>,
        id: u64,
        attempt: u64,
        slots: SlotSet,
        to: u32,
    ) -> Result<()> {
        if let Some(out) = self.outgoing(id, &[OutPhase::Following]) {
            if attempt <= out.attempt {
                return Ok(());
            }
            (out.attempt, out.base, out.first) = (attempt, out.next, out.next);
            return self.write_moves(changes);
        }
        let idle = self.moves.outgoing.is_none() && id > self.moves.last_out && attempt > 0;
        let owns = !slots.is_empty() && slots.iter().all(|slot| self.slots.owner(slot).is_some());
        if !idle || !owns || slots.check().is_err() {
            return Ok(());
        }
        Arc::make_mut(&mut self.moves).outgoing =
            Some(Outgoing::bare(id, attempt, slots, to, OutPhase::Following));
        self.write_moves(changes)
    }

    fn trim(&mut self, changes: &mut Changes<'_>, id: u64, first: u64) -> Result<()> {
        let Some(out) = self.outgoing(id, &[OutPhase::Following, OutPhase::Frozen]) else { return Ok(()) };
        out.first = out.first.max(first.min(out.next));
        let until = out.first;
        sweep_outbox(changes, out, until);
        self.write_moves(changes)
    }

    fn freeze(&mut self, changes: &mut Changes<'_>, id: u64) -> Result<()> {
        let Some(out) = self.outgoing(id, &[OutPhase::Following]) else { return Ok(()) };
        out.phase = OutPhase::Frozen;
        self.shifts += 1;
        self.write_moves(changes)
    }

    fn give(&mut self, changes: &mut Changes<'_>, id: u64) -> Result<()> {
        let Some(out) = self.outgoing(id, &[OutPhase::Frozen]) else { return Ok(()) };
        out.phase = OutPhase::Given;
        let slots = out.slots.clone();
        self.own(changes, |own| own.take(&slots))?;
        self.write_moves(changes)
    }

    /// A move that was not begun is declined: it never begins.
    fn withdraw(&mut self, changes: &mut Changes<'_>, id: u64) -> Result<()> {
        if let Some(out) = self.outgoing(id, &[OutPhase::Following, OutPhase::Frozen]) {
            out.phase = OutPhase::Withdrawn;
            self.shifts += 1;
        } else if self.moves.outgoing.is_none() && id > self.moves.last_out {
            Arc::make_mut(&mut self.moves).last_out = id;
        } else {
            return Ok(());
        }
        self.write_moves(changes)
    }

    /// Requests for the slots wait again, and the target is asked once more; what it served meanwhile, if it did, is lost with
    /// its versions.
    fn reclaim(&mut self, changes: &mut Changes<'_>, id: u64, group: u32) -> Result<()> {
        let Some(out) = self.outgoing(id, &[OutPhase::Given]).filter(|out| out.cursor.is_empty()) else {
            return Ok(());
        };
        out.phase = OutPhase::Frozen;
        out.first = out.first.max(out.swept);
        let slots = out.slots.clone();
        self.counters.version += LOST_VERSIONS;
        self.own(changes, |own| own.give(&slots, group))?;
        self.write_moves(changes)
    }

    fn release(&mut self, changes: &mut Changes<'_>, id: u64) -> Result<()> {
        let Some(out) = self.outgoing(id, &[OutPhase::Given, OutPhase::Withdrawn]) else { return Ok(()) };
        let withdrawn = out.phase == OutPhase::Withdrawn;
        let until = out.next;
        let mut done = sweep_outbox(changes, out, until);
        if done && !withdrawn {
            let (slots, cursor) = (out.slots.clone(), std::mem::take(&mut out.cursor));
            let left = self.remove_rows(changes, &slots, cursor)?;
            done = left.is_none();
            if let Some(out) = self.outgoing(id, &[OutPhase::Given]) {
                out.cursor = left.unwrap_or_default();
            }
        }
        if done && let Some(out) = self.outgoing(id, &[OutPhase::Given, OutPhase::Withdrawn]) {
            out.phase = OutPhase::Done { withdrawn };
            self.frees = !withdrawn;
        }
        self.write_moves(changes)
    }

    fn forget(&mut self, changes: &mut Changes<'_>, id: u64) -> Result<()> {
        let done = [OutPhase::Done { withdrawn: false }, OutPhase::Done { withdrawn: true }];
        if self.outgoing(id, &done).is_none() {
            return Ok(());
        }
        let moves = Arc::make_mut(&mut self.moves);
        moves.outgoing = None;
        moves.last_out = id;
        self.write_moves(changes)
    }

    /// Changes which slots the group owns.
    pub(super) fn own(
        &mut self,
        changes: &mut Changes<'_>,
        change: impl FnOnce(&mut SlotTable),
    ) -> Result<()> {
        change(Arc::make_mut(&mut self.slots));
        self.slots.check().map_err(|why| Error::new(Kind::Failed, why))?;
        self.shifts += 1;
        changes.put(keys::SLOTS_ROW.to_vec(), encode_slots(&self.slots)?);
        Ok(())
    }

    pub(super) fn write_moves(&mut self, changes: &mut Changes<'_>) -> Result<()> {
        changes.put(keys::MOVES_ROW.to_vec(), Moves::encode(&self.moves)?);
        Ok(())
    }

    /// Removes what is here of `slots`, behind the row `cursor`, of the next rows. Returns where it stopped, or none
    /// if nothing is left.
    pub(super) fn remove_rows(
        &mut self,
        changes: &mut Changes<'_>,
        slots: &SlotSet,
        cursor: Vec<u8>,
    ) -> Result<Option<Vec<u8>>> {
        let mut behind = cursor.clone();
        behind.push(0);
        let (mut looked_at, mut stopped, mut gone) = (0, None, Vec::new());
        let [records, requests, _] = keys::movable();
        for (from, to) in [records, requests] {
            let from = if cursor.is_empty() { from } else { from.max(behind.clone()) };
            if from >= to || stopped.is_some() {
                continue;
            }
            let mut problem = None;
            changes.state().scan(&from, &to, &mut |row, value| {
                looked_at += 1;
                match slot_of(row, Some(value)) {
                    Ok(Some(slot)) if slots.contains(slot) => gone.push(row.to_vec()),
                    Ok(_) => {}
                    Err(error) => problem = Some(error),
                }
                if problem.is_none() && looked_at < STEP_ROWS {
                    return ControlFlow::Continue(());
                }
                stopped = Some(row.to_vec());
                ControlFlow::Break(())
            })?;
            if let Some(error) = problem {
                return Err(error);
            }
        }
        for row in gone {
            self.remove_row(changes, row)?;
        }
        Ok(stopped)
    }

    /// Removes a record, or what is remembered of a request, with what belongs to it.
    pub(super) fn remove_row(&mut self, changes: &mut Changes<'_>, row: Vec<u8>) -> Result<()> {
        if let Some(key) = keys::record_key(&row) {
            if let Some(old) = self.current(changes, key)? {
                self.remove(changes, key, &old);
            }
        } else if changes.get(&row)?.is_some() {
            // The row that orders it by age goes with a sweep, which finds that there is nothing to forget.
            changes.delete(row);
            self.counters.requests = self.counters.requests.saturating_sub(1);
        }
        Ok(())
    }
}

/// Removes the next rows of the outbox below `until`. Returns true if none is left below it.
fn sweep_outbox(changes: &mut Changes<'_>, out: &mut Outgoing, until: u64) -> bool {
    let end = until.min(out.swept.saturating_add(STEP_ROWS as u64));
    (out.swept..end).for_each(|number| changes.delete(keys::outbox(number)));
    out.swept = out.swept.max(end);
    out.swept >= until
}
