//! What clients did and were answered, and whether one order explains it all.

use crate::event::Answer;
use crate::linear::{self, Effect, Need, Op, Verdict};
use crate::system::MS;
use catstore::replica::command::{BatchCommand, Command, Condition, Put, Reply, Request};
use std::collections::BTreeMap;

/// Clocks of day differ by so much at most, milliseconds: twice what a clock may be wrong by.
const SKEW_MS: u64 = 4000;

/// One operation and its answer.
#[derive(Debug, Clone)]
pub enum Did {
    /// A write; no reply if its outcome is unknown.
    Write(Request, Option<Reply>),
    /// A read of a key, and the stamp of what it found.
    Read(Vec<u8>, Option<u64>),
}

/// Everything that clients saw.
#[derive(Default)]
pub struct History {
    done: Vec<(u64, Option<u64>, Did)>,
    stamps: u64,
    versions: BTreeMap<u64, u64>,
    stamps_by_version: BTreeMap<u64, u64>,
    /// Requests with ids and their first answers.
    pub past: Vec<(Request, Answer)>,
}

impl History {
    /// A number that no other write has.
    pub fn next_stamp(&mut self) -> u64 {
        self.stamps += 1;
        self.stamps
    }

    /// The number of a key.
    pub fn number(key: &[u8]) -> Option<u64> {
        std::str::from_utf8(key.strip_prefix(b"{t}")?).ok()?.parse().ok()
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
        self.pair(stamp, version)?;
        Ok(Some(stamp))
    }

    /// A value has one version, and a version one value.
    fn pair(&mut self, stamp: u64, version: u64) -> Result<(), String> {
        let known = *self.versions.entry(stamp).or_insert(version);
        let owner = *self.stamps_by_version.entry(version).or_insert(stamp);
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
            history.pair(stamp, version)?;
            known = History::number(&put.key).map(|number| (number, stamp, version));
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
                Did::Read(name, stamp) if History::number(name) == Some(key) => {
                    let need = stamp.map_or(Need::Absent, Need::Is);
                    ops.push(Op { invoked, returned, need, effect: Effect::Keep });
                }
                Did::Read(..) => {}
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
        let mine = |name: &[u8]| History::number(name) == Some(key);
        let mut expires = None;
        match (command, reply) {
            (Command::Put(put), None) if mine(&put.key) => {
                push(self.need(put.condition), Effect::Set(stamp_of(put)));
                expires = Some(put);
            }
            (Command::Put(put), Some(Reply::Stored { created, .. })) if mine(&put.key) => {
                let need = match put.condition {
                    Condition::Version(version) => self.found(Some(version)),
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
                push(self.found(*current), Effect::Keep);
            }
            (Command::Delete { key: name, condition }, None) if mine(name) => {
                push(self.need(*condition), Effect::Remove);
            }
            (Command::Delete { key: name, condition }, Some(Reply::Deleted { .. })) if mine(name) => {
                let need = match condition {
                    Condition::Version(version) => self.found(Some(*version)),
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
                    push(self.found(*current), Effect::Keep);
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
                            push(self.need(*condition), Effect::Keep);
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

    fn need(&self, condition: Condition) -> Need {
        match condition {
            Condition::Any => Need::Nothing,
            Condition::Absent => Need::Absent,
            Condition::Exists => Need::Present,
            Condition::Version(version) => self.found(Some(version)),
        }
    }

    fn found(&self, version: Option<u64>) -> Need {
        match version {
            None => Need::Absent,
            Some(version) => {
                self.stamps_by_version.get(&version).map_or(Need::Present, |stamp| Need::Is(*stamp))
            }
        }
    }
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
