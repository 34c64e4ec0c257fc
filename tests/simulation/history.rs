//! What clients did and were answered, and whether one order explains it all.

use crate::event::Answer;
use crate::keys;
use crate::linear::{self, Effect, Need, Op, Verdict};
use crate::system::MS;
use catstore::cluster::moves::SlotSet;
use catstore::cluster::slots::slot;
use catstore::replica::command::{BatchCommand, Command, Condition, Put, Reply, Request};
use std::collections::BTreeMap;

/// Clocks of day differ by so much at most, milliseconds: twice what a clock may be wrong by.
const SKEW_MS: u64 = 4000;

/// One operation and its answer.
#[derive(Debug, Clone)]
pub enum Did {
    /// A write; no reply if its outcome is unknown.
    Write(Request, Option<Reply>),
    /// A clear of a group that owned these slots.
    Clear(SlotSet),
    /// A read of a key, and the stamp of what it found.
    Read(Vec<u8>, Option<u64>),
}

/// Everything that clients saw.
#[derive(Default)]
pub struct History {
    done: Vec<(u64, Option<u64>, Did)>,
    stamps: u64,
    /// True if there are several groups: versions are then unique for each key only.
    several: bool,
    versions: BTreeMap<u64, u64>,
    stamps_by_version: BTreeMap<(u64, u64), u64>,
    /// Versions of keys as they were seen: number of the key, when it was asked for, when it was answered, version.
    seen: Vec<(u64, u64, u64, u64)>,
    /// Complete lists: when each began and ended, and the numbers of the keys in it.
    lists: Vec<(u64, u64, Vec<u64>)>,
    /// Requests with ids and their first answers.
    pub past: Vec<(Request, Answer)>,
}

impl History {
    /// An empty one of a world with several groups, or with one.
    pub fn new(several: bool) -> History {
        History { several, ..History::default() }
    }

    /// A number that no other write has.
    pub fn next_stamp(&mut self) -> u64 {
        self.stamps += 1;
        self.stamps
    }

    /// How many operations came to an end.
    pub fn len(&self) -> usize {
        self.done.len()
    }

    /// Writes down an operation.
    pub fn add(&mut self, invoked: u64, returned: Option<u64>, did: Did) {
        self.done.push((invoked, returned, did));
    }

    /// A record was read: returns its stamp. Errors: nobody wrote it, or it has two versions.
    pub fn seen(&mut self, key: &[u8], record: Option<(u64, u64)>) -> Result<Option<u64>, String> {
        let Some((stamp, version)) = record else { return Ok(None) };
        if stamp == 0 || stamp > self.stamps {
            return Err(format!("key {:?} holds {stamp}, which nobody wrote", String::from_utf8_lossy(key)));
        }
        self.pair(key, stamp, version)?;
        Ok(Some(stamp))
    }

    /// Among what versions are unique: all of a group's, or, where keys go from group to group, those of a key.
    fn realm(&self, key: &[u8]) -> u64 {
        if self.several { keys::number(key).unwrap_or(0) } else { 0 }
    }

    /// A value has one version, and a version one value.
    fn pair(&mut self, key: &[u8], stamp: u64, version: u64) -> Result<(), String> {
        let realm = self.realm(key);
        let known = *self.versions.entry(stamp).or_insert(version);
        let owner = *self.stamps_by_version.entry((realm, version)).or_insert(stamp);
        if known == version && owner == stamp {
            return Ok(());
        }
        Err(format!(
            "value {stamp} has version {version}, but it had version {known}, and that version value {owner}: something took effect twice, or was lost"
        ))
    }

    /// Learns the versions of what was written. Returns what is known of one key: number, stamp, version.
    pub fn learn(&mut self, request: &Request, reply: &Reply) -> Result<Option<(u64, u64, u64)>, String> {
        let mut known = None;
        let mut note = |history: &mut History, put: &Put, version: u64| {
            let stamp = stamp_of(put);
            history.pair(&put.key, stamp, version)?;
            known = keys::number(&put.key).map(|number| (number, stamp, version));
            Ok::<(), String>(())
        };
        match (&request.command, reply) {
            (Command::Put(put), Reply::Stored { version, .. }) => note(self, put, *version)?,
            (Command::Batch(commands), Reply::Batch(versions)) => {
                for (command, version) in commands.iter().zip(versions) {
                    if let (BatchCommand::Put(put), Some(version)) = (command, version) {
                        note(self, put, *version)?;
                    }
                }
            }
            _ => {}
        }
        Ok(known)
    }

    /// The version of a key was seen, by an operation that was asked for and answered then.
    pub fn saw(&mut self, key: &[u8], invoked: u64, returned: u64, version: u64) {
        if let Some(number) = keys::number(key) {
            self.seen.push((number, invoked, returned, version));
        }
    }

    /// A list was complete.
    pub fn listed(&mut self, began: u64, ended: u64, numbers: Vec<u64>) {
        self.lists.push((began, ended, numbers));
    }

    /// A list holds every key that existed from its beginning to its end. Errors say which one it lacks.
    pub fn lists_are_full(&self) -> Result<(), String> {
        for number in 0..keys::KEYS {
            let ops = self.of_key(number);
            for (began, ended, listed) in self.lists.iter().filter(|(_, _, listed)| !listed.contains(&number))
            {
                if let Some(op) = ops.iter().find(|op| stays(op, &ops, *began, *ended)) {
                    return Err(format!(
                        "the list from {began} to {ended} lacks key {number}, which {op:?} wrote: {listed:?}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Versions of a key never go back, whichever group has it. Errors say which did.
    pub fn versions_grow(&self) -> Result<(), String> {
        for number in 0..keys::KEYS {
            let own = || self.seen.iter().filter(|(key, ..)| *key == number);
            let mut ended: Vec<(u64, u64)> =
                own().map(|(_, _, returned, version)| (*returned, *version)).collect();
            ended.sort_unstable();
            let mut begun: Vec<(u64, u64)> =
                own().map(|(_, invoked, _, version)| (*invoked, *version)).collect();
            begun.sort_unstable();
            let (mut before, mut highest) = (ended.into_iter().peekable(), (0, 0));
            for (invoked, version) in begun {
                while let Some((at, seen)) = before.next_if(|(returned, _)| *returned < invoked) {
                    highest = highest.max((seen, at));
                }
                if version < highest.0 {
                    return Err(format!(
                        "key {number} was seen at version {} until {}, and at version {version} by who asked at {invoked}",
                        highest.0, highest.1
                    ));
                }
            }
        }
        Ok(())
    }

    /// Is there one order for each key that explains every answer? Errors say for which key there is none.
    pub fn check(&self, keys: u64) -> Result<u64, String> {
        let mut given_up = 0;
        for key in 0..keys {
            let ops = self.of_key(key);
            match linear::check(&ops) {
                Verdict::Linearizable => {}
                Verdict::Not => {
                    return Err(format!("the history of key {key} is not linearizable:\n{}", tell(&ops)));
                }
                Verdict::GivenUp => given_up += 1,
            }
        }
        Ok(given_up)
    }

    /// What was done to one key.
    pub fn of_key(&self, key: u64) -> Vec<Op> {
        let mut ops = Vec::new();
        for (invoked, returned, did) in &self.done {
            let (invoked, returned) = (*invoked, *returned);
            match did {
                Did::Read(name, stamp) if keys::number(name) == Some(key) => {
                    let need = stamp.map_or(Need::Absent, Need::Is);
                    ops.push(Op { invoked, returned, need, effect: Effect::Keep });
                }
                Did::Read(..) => {}
                Did::Clear(slots) if slots.contains(slot(&keys::key(key))) => {
                    ops.push(Op { invoked, returned, need: Need::Nothing, effect: Effect::Remove });
                }
                Did::Clear(_) => {}
                Did::Write(request, reply) => {
                    self.write(&mut ops, key, (invoked, returned), &request.command, reply.as_ref());
                }
            }
        }
        ops
    }

    fn write(
        &self,
        ops: &mut Vec<Op>,
        key: u64,
        (invoked, returned): (u64, Option<u64>),
        command: &Command,
        reply: Option<&Reply>,
    ) {
        let mut push = |need, effect| ops.push(Op { invoked, returned, need, effect });
        let mine = |name: &[u8]| keys::number(name) == Some(key);
        let mut expires = None;
        match (command, reply) {
            (Command::Put(put), None) if mine(&put.key) => {
                push(self.need(&put.key, put.condition), Effect::Set(stamp_of(put)));
                expires = Some(put);
            }
            (Command::Put(put), Some(Reply::Stored { created, .. })) if mine(&put.key) => {
                let need = match put.condition {
                    Condition::Version(version) => self.found(&put.key, Some(version)),
                    _ if *created => Need::Absent,
                    _ => Need::Present,
                };
                push(need, Effect::Set(stamp_of(put)));
                expires = Some(put);
            }
            (Command::Put(Put { key: name, .. }), Some(Reply::ConditionFailed { current, .. }))
            | (Command::Delete { key: name, .. }, Some(Reply::ConditionFailed { current, .. }))
                if mine(name) =>
            {
                push(self.found(name, *current), Effect::Keep);
            }
            (Command::Delete { key: name, condition }, None) if mine(name) => {
                push(self.need(name, *condition), Effect::Remove);
            }
            (Command::Delete { key: name, condition }, Some(Reply::Deleted { .. })) if mine(name) => {
                let need = match condition {
                    Condition::Version(version) => self.found(name, Some(*version)),
                    _ => Need::Present,
                };
                push(need, Effect::Remove);
            }
            (Command::Delete { key: name, .. }, Some(Reply::Absent)) if mine(name) => {
                push(Need::Absent, Effect::Keep);
            }
            (Command::Clear, _) => push(Need::Nothing, Effect::Remove),
            (Command::Batch(commands), Some(Reply::ConditionFailed { current, op })) => {
                let failed = op.and_then(|op| commands.get(op as usize));
                if let Some(BatchCommand::Check { key: name, .. }) = failed
                    && mine(name)
                {
                    push(self.found(name, *current), Effect::Keep);
                }
            }
            (Command::Batch(commands), reply) => {
                for command in commands {
                    match command {
                        BatchCommand::Put(put) if mine(&put.key) => {
                            push(Need::Nothing, Effect::Set(stamp_of(put)));
                            expires = Some(put);
                        }
                        BatchCommand::Delete { key: name } if mine(name) => {
                            push(Need::Nothing, Effect::Remove)
                        }
                        BatchCommand::Check { key: name, condition } if mine(name) && reply.is_some() => {
                            push(self.need(name, *condition), Effect::Keep);
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        if let Some((put, ttl)) = expires.and_then(|put| Some((put, put.ttl?))) {
            // It ends by itself, not before its time; nobody is told when.
            let invoked = invoked + ttl.saturating_sub(SKEW_MS) * MS;
            ops.push(Op { invoked, returned: None, need: Need::Is(stamp_of(put)), effect: Effect::Remove });
        }
    }

    fn need(&self, key: &[u8], condition: Condition) -> Need {
        match condition {
            Condition::Any => Need::Nothing,
            Condition::Absent => Need::Absent,
            Condition::Exists => Need::Present,
            Condition::Version(version) => self.found(key, Some(version)),
        }
    }

    fn found(&self, key: &[u8], version: Option<u64>) -> Need {
        match version {
            None => Need::Absent,
            Some(version) => self
                .stamps_by_version
                .get(&(self.realm(key), version))
                .map_or(Need::Present, |stamp| Need::Is(*stamp)),
        }
    }
}

/// True if what `op` wrote, or something that followed it, was there from `began` to `ended`.
fn stays(op: &Op, ops: &[Op], began: u64, ended: u64) -> bool {
    let wrote = matches!(op.effect, Effect::Set(_)) && op.returned.is_some_and(|returned| returned <= began);
    let removes = |other: &&Op| {
        let before = other.returned.is_some_and(|returned| returned < op.invoked);
        other.effect == Effect::Remove && other.invoked <= ended && !before
    };
    wrote && !ops.iter().any(|other| removes(&other))
}

/// The stamp of what a put writes.
pub fn stamp_of(put: &Put) -> u64 {
    stamp(&put.value).unwrap_or(0)
}

/// The stamp that a value is.
pub fn stamp(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn tell(ops: &[Op]) -> String {
    let mut ops = ops.to_vec();
    ops.sort_by_key(|op| op.invoked);
    ops.iter().map(|op| format!("{op:?}\n")).collect()
}
