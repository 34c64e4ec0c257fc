//! The workers' machine: keys with versions, conditions, time to live, request ids, and the group's own slots.
//!
//! Every command reads the rows as the commands before it in the same entry left them (`Changes`), so that an
//! entry of a thousand commands does what a thousand entries would. What is counted (keys, bytes, records that
//! expire, remembered requests) is counted in the same batch that changes it.
//!
//! Slots come and go by moves (`source.rs`, `target.rs`); which rows go with a slot is known to `travel.rs`.

mod adopt;
mod counters;
mod source;
mod sweep;
mod target;
mod travel;

pub use counters::Counters;
pub use travel::{Chunk, copy_rows, manifest_of, outbox_rows};

use super::changes::Changes;
use super::command::{BatchCommand, Command, Condition, MoveStep, Put, PutChunks, Reply, Request, Secured};
use super::machine::{Applied, DigestOrder, Machine, Position, begin_payload, open_payload};
use super::moves::Moves;
use super::repeats::{Last, Remembered, RequestId, Session, fingerprint};
use crate::cluster::slots::{SlotTable, slot};
use crate::error::{Error, Kind, Result};
use crate::store::chunk::Manifest;
use crate::store::keys;
use crate::store::record::{self, Meta};
use crate::store::state::{Batch, State};
use std::ops::ControlFlow;
use std::sync::Arc;

/// The first byte of the payload of entries that carry keyspace commands.
pub const PAYLOAD: u8 = 1;
/// Request ids are remembered for so long, in milliseconds of the group's clock; sessions so long at least, and twice as
/// long at most, after their last request.
pub const REMEMBER_MS: u64 = 10 * 60 * 1000;
/// At most so many request ids and sessions are remembered; beyond it a request with a new one is refused.
pub const MAX_REQUESTS: u64 = 1 << 20;
/// The group's clock moves on at least so often while records with a time to live exist, in milliseconds.
const CLOCK_STEP_MS: u64 = 1000;
/// Request ids that are too old are forgotten about so often while no record expires, in milliseconds.
const FORGET_STEP_MS: u64 = 60_000;
/// Stands for the slot where a command has no key.
const NO_SLOT: u16 = crate::cluster::slots::SLOTS;

/// The rows of a new group that owns `slots`.
pub fn founding_rows(slots: &SlotTable) -> Result<Batch> {
    let mut rows = Batch::default();
    rows.put(keys::COUNTERS_ROW.to_vec(), Counters::default().encode());
    rows.put(keys::SLOTS_ROW.to_vec(), encode_slots(slots)?);
    Ok(rows)
}

fn encode_slots(slots: &SlotTable) -> Result<Vec<u8>> {
    serde_json::to_vec(slots).map_err(|error| Error::new(Kind::Failed, "slots do not encode").cause(error))
}

/// What readers need of the machine.
#[derive(Debug, Clone, Default)]
pub struct Published {
    /// The counters after the last applied entry.
    pub counters: Counters,
    /// The slots that the group owns.
    pub slots: Arc<SlotTable>,
    /// The moves that the group is in.
    pub moves: Arc<Moves>,
    /// Counts changes of what the group serves, since this member was opened.
    pub shifts: u64,
}

impl Published {
    /// Whether the group serves `slot`. Errors: `Moved` if it does not own it; `Frozen` while it is on its way to another
    /// group.
    pub fn serves(&self, slot: u16) -> Result<()> {
        if self.slots.owner(slot).is_none() {
            return Err(Error::new(Kind::Moved, format!("this group does not own slot {slot}")));
        }
        if self.moves.freezes(slot) {
            return Err(frozen(slot));
        }
        Ok(())
    }
}

/// The error of a request for a slot that is on its way to another group.
pub fn frozen(slot: u16) -> Error {
    Error::new(Kind::Frozen, format!("slot {slot} is on its way to another group; nothing was done"))
        .hint("ask again in a moment")
}

/// The error of a request to a group that goes on as another incarnation and does not know yet which slots are its own.
pub fn awaiting() -> Error {
    Error::new(
        Kind::Frozen,
        "this group was promoted and does not know yet which slots are its own; nothing was done",
    )
    .hint("ask again in a moment; if it lasts, see whether a master runs")
}

/// The workers' machine.
#[derive(Debug)]
pub struct Keyspace {
    counters: Counters,
    slots: Arc<SlotTable>,
    moves: Arc<Moves>,
    shifts: u64,
    /// True if the entry that is applied was the last one that removed what had moved.
    frees: bool,
    more_to_sweep: bool,
    swept_at: u64,
}

impl Machine for Keyspace {
    type Command = Request;
    type Reply = Reply;
    type Published = Published;

    fn load(state: &dyn State) -> Result<Keyspace> {
        let missing = |what: &str| Error::new(Kind::Damaged, format!("the state has no row of {what}"));
        let counters = state.get(&keys::COUNTERS_ROW)?.ok_or_else(|| missing("counters"))?;
        let slots = state.get(&keys::SLOTS_ROW)?.ok_or_else(|| missing("slots"))?;
        let slots: SlotTable = serde_json::from_slice(&slots)
            .map_err(|error| Error::new(Kind::Damaged, "the row of slots is not readable").cause(error))?;
        slots.check().map_err(|why| Error::new(Kind::Damaged, why))?;
        // A group that was in no move has no such row.
        let moves = state.get(&keys::MOVES_ROW)?.map(|row| Moves::decode(&row)).transpose()?;
        Ok(Keyspace {
            counters: Counters::decode(&counters)?,
            slots: Arc::new(slots),
            moves: Arc::new(moves.unwrap_or_default()),
            shifts: 0,
            frees: false,
            more_to_sweep: false,
            swept_at: 0,
        })
    }

    fn position(&self) -> Position {
        Position { index: self.counters.index, term: self.counters.term }
    }

    fn clock(&self) -> u64 {
        self.counters.clock
    }

    fn size(request: &Request) -> usize {
        let put = |put: &Put| put.key.len() + put.value.len() + put.content_type.len() + 32;
        let id = request.id.as_ref().map_or(0, String::len);
        id + match &request.command {
            Command::Put(command) => put(command),
            Command::Delete { key, .. } => key.len() + 16,
            Command::Batch(commands) => commands
                .iter()
                .map(|command| match command {
                    BatchCommand::Put(command) => put(command),
                    BatchCommand::Delete { key } | BatchCommand::Check { key, .. } => key.len() + 16,
                })
                .sum(),
            Command::PutChunks(put) => put.key.len() + put.manifest.len() + put.content_type.len() + 32,
            Command::Digest { members, .. } => 16 + 8 * members.len(),
            Command::Move(step) => travel::size(step),
            Command::Clear | Command::Sweep => 16,
        }
    }

    fn alone(request: &Request) -> bool {
        matches!(request.command, Command::Clear | Command::Sweep | Command::Digest { .. } | Command::Move(_))
    }

    fn needs_space(request: &Request) -> bool {
        match &request.command {
            Command::Put(_) | Command::PutChunks(_) => true,
            Command::Batch(commands) => {
                commands.iter().any(|command| matches!(command, BatchCommand::Put(_)))
            }
            // What is written for a move is bounded by what the source holds; it must come to its end.
            Command::Move(step) => matches!(step, MoveStep::Copy { .. }),
            Command::Delete { .. } | Command::Clear | Command::Sweep | Command::Digest { .. } => false,
        }
    }

    fn secured(request: &Request) -> Option<&Secured> {
        match &request.command {
            Command::PutChunks(put) => Some(&put.secured),
            Command::Move(MoveStep::Copy { rows, secured, .. } | MoveStep::Follow { rows, secured, .. }) => {
                rows.iter().any(travel::is_chunked).then_some(secured)
            }
            _ => None,
        }
    }

    fn encode(clock: u64, requests: &[Request]) -> Result<Vec<u8>> {
        postcard::to_extend(requests, begin_payload(PAYLOAD, clock))
            .map_err(|error| Error::new(Kind::Failed, "a command does not encode").cause(error))
    }

    fn apply(&mut self, state: &dyn State, at: Position, payload: &[u8]) -> Result<Applied<Reply>> {
        let mut changes = Changes::new(state);
        let mut replies = Vec::new();
        let shifts = self.shifts;
        if !payload.is_empty() {
            let (clock, commands) = open_payload(payload, PAYLOAD)?;
            let requests: Vec<Request> = postcard::from_bytes(commands).map_err(|error| {
                Error::new(Kind::Damaged, "an entry's commands do not decode").cause(error)
            })?;
            self.counters.clock = self.counters.clock.max(clock);
            for request in requests {
                replies.push(self.answer(&mut changes, request)?);
            }
            self.note_changes(&mut changes)?;
        }
        self.counters.index = at.index;
        self.counters.term = at.term;
        let counters = (keys::COUNTERS_ROW.to_vec(), self.counters.encode());
        let digest = changes.take_digest();
        let shifts = self.shifts != shifts;
        let frees = std::mem::take(&mut self.frees);
        let (chunked, unchunked) = chunked_by(&changes);
        Ok(Applied {
            effect: changes.into_effect(counters),
            replies,
            digest,
            shifts,
            frees,
            chunked,
            unchunked,
        })
    }

    fn due(&self, now: u64) -> Option<Request> {
        let pause = match &self.counters {
            counters if counters.expiring > 0 => CLOCK_STEP_MS,
            counters if counters.requests > 0 => FORGET_STEP_MS,
            _ => return None,
        };
        let due = self.more_to_sweep || now >= self.swept_at.saturating_add(pause);
        due.then_some(Request { id: None, command: Command::Sweep })
    }

    fn size_of_state(&self) -> (u64, u64) {
        (self.counters.keys, self.counters.bytes)
    }

    fn shifts(&self) -> u64 {
        self.shifts
    }

    fn publish(&self) -> Published {
        Published {
            counters: self.counters.clone(),
            slots: self.slots.clone(),
            moves: self.moves.clone(),
            shifts: self.shifts,
        }
    }
}

impl Keyspace {
    /// A request with an id that is remembered gets the first reply; any other is executed, and remembered.
    fn answer(&mut self, changes: &mut Changes<'_>, request: Request) -> Result<Reply> {
        let Some(slot) = self.one_owned_slot(&request.command) else {
            return Ok(Reply::NotOwner { slot: first_slot(&request.command) });
        };
        if self.moves.freezes(slot) {
            return Ok(Reply::Frozen { slot });
        }
        if let (Command::Clear, Some(id)) = (&request.command, self.moves.touches()) {
            return Ok(Reply::Moving { id });
        }
        let Some(id) = request.id else {
            return self.execute(changes, request.command);
        };
        match RequestId::parse(&id) {
            RequestId::Plain(id) => self.answer_once(changes, slot, id, request.command),
            RequestId::Numbered(session, number) => {
                self.answer_in_session(changes, slot, (session, number), request.command)
            }
        }
    }

    fn answer_once(
        &mut self,
        changes: &mut Changes<'_>,
        slot: u16,
        id: &str,
        command: Command,
    ) -> Result<Reply> {
        let row = keys::request(slot, id.as_bytes());
        let fingerprint = fingerprint(&command)?;
        if let Some(remembered) = changes.get(&row)? {
            return Ok(Remembered::decode(&remembered)?.answer(fingerprint));
        }
        if self.counters.requests >= MAX_REQUESTS {
            return Ok(Reply::TooManyRequestIds);
        }
        let reply = self.execute(changes, command)?;
        self.counters.requests += 1;
        let at = self.counters.clock;
        changes.put(row, Remembered { at, fingerprint, reply: reply.clone() }.encode()?);
        changes.put(keys::request_age(at, slot, id.as_bytes()), Vec::new());
        Ok(reply)
    }

    /// Only the last request of a session is remembered. Its age row is written once and moved by sweeps: a request of a
    /// session that is known costs one row.
    fn answer_in_session(
        &mut self,
        changes: &mut Changes<'_>,
        slot: u16,
        (session, number): (Session, u64),
        command: Command,
    ) -> Result<Reply> {
        let row = keys::session(&session);
        let fingerprint = fingerprint(&command)?;
        let last = changes.get(&row)?.map(|row| Last::decode(&row)).transpose()?;
        let is_new = last.is_none();
        if let Some(reply) = last.and_then(|last| last.answer(number, fingerprint)) {
            return Ok(reply);
        }
        if is_new && self.counters.requests >= MAX_REQUESTS {
            return Ok(Reply::TooManyRequestIds);
        }
        let reply = self.execute(changes, command)?;
        let at = self.counters.clock;
        if is_new {
            self.counters.requests += 1;
            changes.put(keys::session_age(at, &session), Vec::new());
        }
        let request = Remembered { at, fingerprint, reply: reply.clone() };
        changes.put(row, Last { number, slot, request }.encode()?);
        Ok(reply)
    }

    /// The slot of the command's keys if the group owns it; a slot of its own for commands without keys.
    fn one_owned_slot(&self, command: &Command) -> Option<u16> {
        let mut slots = keys_of(command).map(slot);
        let Some(first) = slots.next() else { return Some(NO_SLOT) };
        (self.slots.owner(first).is_some() && slots.all(|other| other == first)).then_some(first)
    }

    fn execute(&mut self, changes: &mut Changes<'_>, command: Command) -> Result<Reply> {
        match command {
            Command::Put(put) => self.put(changes, &put),
            Command::PutChunks(put) => self.put_chunks(changes, put),
            Command::Delete { key, condition } => self.delete(changes, &key, condition),
            Command::Batch(commands) => self.batch(changes, &commands),
            Command::Clear => self.clear(changes),
            Command::Sweep => self.sweep(changes),
            Command::Digest { id, members } => {
                changes.order_digest(DigestOrder { id, members });
                Ok(Reply::DigestOrdered)
            }
            Command::Move(MoveStep::Adopt(word)) => self.adopt(changes, word),
            Command::Move(step) if step.is_of_target() => self.step_as_target(changes, step),
            Command::Move(step) => self.step_as_source(changes, step),
        }
    }

    fn put(&mut self, changes: &mut Changes<'_>, put: &Put) -> Result<Reply> {
        let old = self.current(changes, &put.key)?;
        let current =
            old.as_ref().filter(|meta| !expired(meta, self.counters.clock)).map(|meta| meta.version);
        if !holds(put.condition, current) {
            return Ok(Reply::ConditionFailed { current, op: None });
        }
        let version = self.store(changes, put, old);
        Ok(Reply::Stored { version, created: current.is_none() })
    }

    /// A put of the value's manifest.
    fn put_chunks(&mut self, changes: &mut Changes<'_>, put: PutChunks) -> Result<Reply> {
        let PutChunks { key, manifest, checksum, content_type, ttl, condition, .. } = put;
        let size = Manifest::decode(&manifest)?.size;
        let old = self.current(changes, &key)?;
        let current =
            old.as_ref().filter(|meta| !expired(meta, self.counters.clock)).map(|meta| meta.version);
        if !holds(condition, current) {
            return Ok(Reply::ConditionFailed { current, op: None });
        }
        let put = Put { key, value: manifest, checksum, content_type, ttl, condition };
        let version = self.store_as(changes, &put, old, Some(size));
        Ok(Reply::Stored { version, created: current.is_none() })
    }

    fn delete(&mut self, changes: &mut Changes<'_>, key: &[u8], condition: Condition) -> Result<Reply> {
        let old = self.current(changes, key)?;
        let current =
            old.as_ref().filter(|meta| !expired(meta, self.counters.clock)).map(|meta| meta.version);
        if !holds(condition, current) {
            return Ok(Reply::ConditionFailed { current, op: None });
        }
        if let Some(old) = old {
            self.remove(changes, key, &old);
        }
        if current.is_none() {
            return Ok(Reply::Absent);
        }
        self.counters.version += 1;
        Ok(Reply::Deleted { version: self.counters.version })
    }

    /// Every condition is decided on the state before the batch; then everything is done, or nothing.
    fn batch(&mut self, changes: &mut Changes<'_>, commands: &[BatchCommand]) -> Result<Reply> {
        for (position, command) in commands.iter().enumerate() {
            let (key, condition) = match command {
                BatchCommand::Put(put) => (&put.key, put.condition),
                BatchCommand::Delete { key } => (key, Condition::Any),
                BatchCommand::Check { key, condition } => (key, *condition),
            };
            if condition == Condition::Any {
                continue;
            }
            let current = self.current(changes, key)?.filter(|meta| !expired(meta, self.counters.clock));
            let current = current.map(|meta| meta.version);
            if !holds(condition, current) {
                return Ok(Reply::ConditionFailed { current, op: u32::try_from(position).ok() });
            }
        }
        let mut versions = Vec::with_capacity(commands.len());
        for command in commands {
            versions.push(match command {
                BatchCommand::Put(put) => {
                    let old = self.current(changes, &put.key)?;
                    Some(self.store(changes, put, old))
                }
                BatchCommand::Delete { key } => {
                    self.delete(changes, key, Condition::Any)?;
                    None
                }
                BatchCommand::Check { .. } => None,
            });
        }
        Ok(Reply::Batch(versions))
    }

    /// Replaces all rows by those that are not user data: counters, slots, remembered requests.
    fn clear(&mut self, changes: &mut Changes<'_>) -> Result<Reply> {
        let cleared = self.counters.keys;
        self.counters.version += 1;
        self.counters.keys = 0;
        self.counters.bytes = 0;
        self.counters.expiring = 0;
        let mut rows = Batch::default();
        for (from, to) in keys::carried_over() {
            changes.state().scan(&from, &to, &mut |row, value| {
                rows.put(row.to_vec(), value.to_vec());
                ControlFlow::Continue(())
            })?;
        }
        rows.put(keys::SLOTS_ROW.to_vec(), encode_slots(&self.slots)?);
        if *self.moves != Moves::default() {
            rows.put(keys::MOVES_ROW.to_vec(), self.moves.encode()?);
        }
        changes.replace(rows);
        Ok(Reply::Cleared { keys: cleared })
    }

    fn current(&self, changes: &Changes<'_>, key: &[u8]) -> Result<Option<Meta>> {
        match changes.get(&keys::record(key))? {
            Some(row) => {
                let (meta, _) = record::decode_meta(&row)?;
                Ok(Some(meta))
            }
            None => Ok(None),
        }
    }

    fn store(&mut self, changes: &mut Changes<'_>, put: &Put, old: Option<Meta>) -> u64 {
        self.store_as(changes, put, old, None)
    }

    /// Stores a value; `in_chunks`: what is put is the manifest of one of so many bytes.
    fn store_as(
        &mut self,
        changes: &mut Changes<'_>,
        put: &Put,
        old: Option<Meta>,
        in_chunks: Option<u64>,
    ) -> u64 {
        let size = in_chunks.unwrap_or(put.value.len() as u64);
        if let Some(old) = old {
            self.retire(changes, &put.key, &old);
        }
        let counters = &mut self.counters;
        counters.version += 1;
        counters.keys += 1;
        counters.bytes += put.key.len() as u64 + size;
        let expires = put.ttl.map(|ttl| counters.clock.saturating_add(ttl).max(1));
        if let Some(at) = expires {
            counters.expiring += 1;
            changes.put(keys::expiry(at, &put.key), Vec::new());
        }
        let meta = Meta {
            version: counters.version,
            modified: counters.clock,
            expires,
            checksum: put.checksum,
            content_type: put.content_type.clone(),
            size,
            in_chunks: in_chunks.is_some(),
        };
        if meta.in_chunks {
            changes.put(keys::chunked(&put.key), Vec::new());
        }
        changes.put(keys::record(&put.key), record::encode(&meta, &put.value));
        counters.version
    }

    fn remove(&mut self, changes: &mut Changes<'_>, key: &[u8], old: &Meta) {
        self.retire(changes, key, old);
        changes.delete(keys::record(key));
    }

    /// Removes what a record has besides its own row, and no longer counts it.
    fn retire(&mut self, changes: &mut Changes<'_>, key: &[u8], old: &Meta) {
        let bytes = key.len() as u64 + old.size;
        let expires = u64::from(old.expires.is_some());
        if self.moves.incoming.is_some() && self.moves.receives(slot(key)) {
            // Not ours yet: counted beside our own.
            self.count_received(|incoming| {
                incoming.keys = incoming.keys.saturating_sub(1);
                incoming.bytes = incoming.bytes.saturating_sub(bytes);
                incoming.expiring = incoming.expiring.saturating_sub(expires);
            });
        } else {
            self.counters.keys = self.counters.keys.saturating_sub(1);
            self.counters.bytes = self.counters.bytes.saturating_sub(bytes);
            self.counters.expiring = self.counters.expiring.saturating_sub(expires);
        }
        if let Some(at) = old.expires {
            changes.delete(keys::expiry(at, key));
        }
        if old.in_chunks {
            changes.delete(keys::chunked(key));
        }
    }
}

/// The keys whose values an entry has put in chunks, and whether it removed such a value.
fn chunked_by(changes: &Changes<'_>) -> (Vec<Vec<u8>>, bool) {
    let rows = || changes.changed().iter().filter_map(|(row, value)| Some((keys::chunked_key(row)?, value)));
    let put = rows().filter(|(_, value)| value.is_some()).map(|(key, _)| key.to_vec());
    (put.collect(), rows().any(|(_, value)| value.is_none()))
}

/// True once the group's clock has reached the record's end.
pub fn expired(meta: &Meta, clock: u64) -> bool {
    meta.expires.is_some_and(|at| at <= clock)
}

fn holds(condition: Condition, current: Option<u64>) -> bool {
    match condition {
        Condition::Any => true,
        Condition::Absent => current.is_none(),
        Condition::Exists => current.is_some(),
        Condition::Version(version) => current == Some(version),
    }
}

/// The keys that a command names, in order.
pub fn keys_of(command: &Command) -> Box<dyn Iterator<Item = &[u8]> + '_> {
    match command {
        Command::Put(put) => Box::new(std::iter::once(&put.key[..])),
        Command::PutChunks(put) => Box::new(std::iter::once(&put.key[..])),
        Command::Delete { key, .. } => Box::new(std::iter::once(&key[..])),
        Command::Batch(commands) => Box::new(commands.iter().map(|command| match command {
            BatchCommand::Put(put) => &put.key[..],
            BatchCommand::Delete { key } | BatchCommand::Check { key, .. } => &key[..],
        })),
        Command::Clear | Command::Sweep | Command::Digest { .. } | Command::Move(_) => {
            Box::new(std::iter::empty())
        }
    }
}

fn first_slot(command: &Command) -> u16 {
    keys_of(command).next().map_or(NO_SLOT, slot)
}

#[cfg(test)]
#[path = "keyspace_tests.rs"]
mod tests;
