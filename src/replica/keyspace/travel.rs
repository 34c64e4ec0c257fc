//! What goes with a slot when it moves: which rows, how they are read at the source, and how their changes are noted.
//!
//! Records, remembered requests and sessions travel. Rows that follow from them (expiries, ages) are made anew.

use super::Keyspace;
use crate::cluster::moves::SlotSet;
use crate::cluster::slots::slot;
use crate::error::{Error, Kind, Result};
use crate::replica::changes::Changes;
use crate::replica::command::{MoveStep, MovedRow};
use crate::replica::repeats::Last;
use crate::store::chunk::Manifest;
use crate::store::keys;
use crate::store::record;
use crate::store::state::State;
use serde_bytes::ByteBuf;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

/// A chunk of a copy ends after so many rows were looked at, whether they travel or not.
const LOOKED_AT: usize = 20_000;
/// What a row costs beside its bytes, about.
const OVERHEAD: usize = 16;

/// Rows on their way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chunk {
    /// The rows.
    pub rows: Vec<MovedRow>,
    /// For a copy the row where it ended, or none if nothing is behind it.
    pub end: Option<Vec<u8>>,
    /// For changes the number behind the last one.
    pub next: u64,
    /// The bytes of rows and values, those in chunks too.
    pub bytes: usize,
}

impl Chunk {
    fn push(&mut self, row: &[u8], value: Option<&[u8]>) {
        let moved = MovedRow { row: row.to_vec(), value: value.map(|value| ByteBuf::from(value.to_vec())) };
        // The chunks of a value travel too.
        let chunks = manifest_of(&moved).map_or(0, |manifest| manifest.size as usize);
        self.bytes += row.len() + value.map_or(0, <[u8]>::len) + OVERHEAD + chunks;
        self.rows.push(moved);
    }
}

/// The slot that a row goes with; none for a row that stays, or for a session of which only the row is known.
pub(super) fn slot_of(row: &[u8], value: Option<&[u8]>) -> Result<Option<u16>> {
    if let Some(key) = keys::record_key(row) {
        return Ok(Some(slot(key)));
    }
    if let Some((slot, _)) = keys::request_parts(row) {
        return Ok(Some(slot));
    }
    match (keys::session_of(row), value) {
        (Some(_), Some(value)) => Ok(Some(Last::decode(value)?.slot)),
        _ => Ok(None),
    }
}

/// The rows of `slots` behind the row `after` (empty: from the beginning), of about `limit` bytes or one larger row.
/// What they are by now is what is read: changes since the move began are in the outbox and follow.
///
/// Errors: `Damaged` for a record that does not match its checksum, and the disk's.
pub fn copy_rows(state: &dyn State, slots: &SlotSet, after: &[u8], limit: usize) -> Result<Chunk> {
    let mut chunk = Chunk::default();
    let (mut looked_at, mut problem) = (0, None);
    let mut behind = after.to_vec();
    behind.push(0);
    for (from, to) in keys::movable() {
        let from = if after.is_empty() { from } else { from.max(behind.clone()) };
        if from >= to {
            continue;
        }
        let mut full = None;
        state.scan(&from, &to, &mut |row, value| {
            if let Err(error) = add(&mut chunk, slots, row, value) {
                problem = Some(error);
                return ControlFlow::Break(());
            }
            looked_at += 1;
            if chunk.bytes < limit && looked_at < LOOKED_AT {
                return ControlFlow::Continue(());
            }
            full = Some(row.to_vec());
            ControlFlow::Break(())
        })?;
        if let Some(error) = problem {
            return Err(error);
        }
        if full.is_some() {
            chunk.end = full;
            return Ok(chunk);
        }
    }
    Ok(chunk)
}

fn add(chunk: &mut Chunk, slots: &SlotSet, row: &[u8], value: &[u8]) -> Result<()> {
    if slot_of(row, Some(value))?.is_some_and(|slot| slots.contains(slot)) {
        check(row, value)?;
        chunk.push(row, Some(value));
    }
    Ok(())
}

/// A value that does not match its checksum does not travel.
pub(super) fn check(row: &[u8], value: &[u8]) -> Result<()> {
    if keys::record_key(row).is_none() {
        return Ok(());
    }
    let (meta, offset) = record::decode_meta(value)?;
    record::check(value, &meta, offset)
}

/// True for a record whose value is in chunks.
pub(super) fn is_chunked(moved: &MovedRow) -> bool {
    manifest_of(moved).is_some()
}

/// The manifest that a row on its way carries.
pub fn manifest_of(moved: &MovedRow) -> Option<Manifest> {
    keys::record_key(&moved.row)?;
    let value = moved.value.as_ref()?;
    let (meta, offset) = record::decode_meta(value).ok()?;
    meta.in_chunks.then(|| Manifest::decode(&value[offset..]).ok())?
}

/// What the changes from number `first` up to `next` name, as it is now, of about `limit` bytes or one larger row. A row
/// that several changes name is there once.
///
/// Errors: `Conflict` if change `first` is not in the outbox; `Damaged`, and the disk's.
pub fn outbox_rows(state: &dyn State, first: u64, next: u64, limit: usize) -> Result<Chunk> {
    let mut chunk = Chunk { next: first, ..Chunk::default() };
    let (mut seen, mut problem) = (BTreeSet::new(), None);
    state.scan(&keys::outbox(first), &keys::outbox(next), &mut |number, row| {
        if keys::outbox_number(number) != Some(chunk.next) {
            problem = Some(missing(chunk.next));
            return ControlFlow::Break(());
        }
        if seen.insert(row.to_vec()) {
            match state.get(row).and_then(|value| {
                value.as_ref().map_or(Ok(()), |value| check(row, value))?;
                Ok(value)
            }) {
                // Of a session that was forgotten nothing is to be told.
                Ok(None) if keys::session_of(row).is_some() => {}
                Ok(value) => chunk.push(row, value.as_deref()),
                Err(error) => {
                    problem = Some(error);
                    return ControlFlow::Break(());
                }
            }
        }
        chunk.next += 1;
        if chunk.bytes < limit && seen.len() < LOOKED_AT {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })?;
    match problem {
        Some(error) => Err(error),
        None if chunk.next == first && first < next => Err(missing(first)),
        None => Ok(chunk),
    }
}

fn missing(number: u64) -> Error {
    Error::new(Kind::Conflict, format!("change {number} is not in the outbox"))
}

/// About how many bytes a step takes in an entry.
pub(super) fn size(step: &MoveStep) -> usize {
    let rows = |rows: &[MovedRow]| -> usize {
        let value = |row: &MovedRow| row.value.as_ref().map_or(0, |value| value.len());
        rows.iter().map(|row| row.row.len() + value(row) + OVERHEAD).sum()
    };
    match step {
        MoveStep::Copy { rows: moved, after, .. } => 64 + after.len() + rows(moved),
        MoveStep::Follow { rows: moved, .. } => 64 + rows(moved),
        MoveStep::Begin { slots, .. } | MoveStep::Accept { slots, .. } => 64 + 8 * slots.spans().len(),
        MoveStep::Adopt(word) => {
            let order = word.order.as_ref().map_or(0, |order| order.slots.spans().len());
            64 + 12 * word.slots.ranges().len() + 8 * order
        }
        _ => 64,
    }
}

impl Keyspace {
    /// Notes each row of a slot on its way that the entry changes: its name goes to the outbox, in the same batch.
    pub(super) fn note_changes(&mut self, changes: &mut Changes<'_>) -> Result<()> {
        if self.moves.outgoing.is_none() {
            return Ok(());
        }
        let mut named = Vec::new();
        for (row, value) in changes.changed() {
            if slot_of(row, value.as_deref())?.is_some_and(|slot| self.moves.follows(slot)) {
                named.push(row.clone());
            }
        }
        if named.is_empty() {
            return Ok(());
        }
        let moves = Arc::make_mut(&mut self.moves);
        let Some(out) = &mut moves.outgoing else { return Ok(()) };
        for row in named {
            changes.put(keys::outbox(out.next), row);
            out.next += 1;
        }
        changes.put(keys::MOVES_ROW.to_vec(), moves.encode()?);
        Ok(())
    }
}
