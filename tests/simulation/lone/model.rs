//! What a client expects of a group, written down without looking at the machine: a map, and a counter.

use catstore::replica::command::{BatchCommand, Command, Condition, Put, Reply, Request};
use catstore::replica::repeats::{RequestId, Session};
use std::collections::BTreeMap;

/// A key's value and version.
pub type Entry = (Vec<u8>, u64);

/// The keys of a group as a client may expect them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    /// Key to value and version.
    pub keys: BTreeMap<Vec<u8>, Entry>,
    /// The version counter.
    pub version: u64,
    /// First replies by plain request id.
    pub replies: BTreeMap<String, Reply>,
    /// The last request of each session: its number and its first reply.
    pub sessions: BTreeMap<Session, (u64, Reply)>,
}

impl Model {
    /// Executes one request and says what the reply must be.
    pub fn apply(&mut self, request: &Request) -> Reply {
        match request.id.as_deref().map(RequestId::parse) {
            None => self.execute(&request.command),
            Some(RequestId::Plain(id)) => {
                if let Some(reply) = self.replies.get(id) {
                    return reply.clone();
                }
                let reply = self.execute(&request.command);
                self.replies.insert(id.to_owned(), reply.clone());
                reply
            }
            Some(RequestId::Numbered(session, number)) => {
                match self.sessions.get(&session) {
                    Some((last, reply)) if *last == number => return reply.clone(),
                    Some((last, _)) if *last > number => return Reply::RequestIdPassed,
                    _ => {}
                }
                let reply = self.execute(&request.command);
                self.sessions.insert(session, (number, reply.clone()));
                reply
            }
        }
    }

    fn execute(&mut self, command: &Command) -> Reply {
        match command {
            Command::Put(put) => {
                let current = self.current(&put.key);
                if !holds(put.condition, current) {
                    return Reply::ConditionFailed { current, op: None };
                }
                Reply::Stored { version: self.put(put), created: current.is_none() }
            }
            Command::Delete { key, condition } => {
                let current = self.current(key);
                if !holds(*condition, current) {
                    return Reply::ConditionFailed { current, op: None };
                }
                if self.keys.remove(key).is_none() {
                    return Reply::Absent;
                }
                self.version += 1;
                Reply::Deleted { version: self.version }
            }
            Command::Batch(commands) => self.batch(commands),
            // A group of one in a cluster of one group moves nothing.
            Command::Move(_) => Reply::MoveNoted,
            Command::PutChunks(_) => unreachable!("nobody asks for it here"),
            Command::Clear => {
                let keys = self.keys.len() as u64;
                self.keys.clear();
                self.version += 1;
                Reply::Cleared { keys }
            }
            Command::Sweep => Reply::Swept { rows: 0 },
            Command::Digest { .. } => Reply::DigestOrdered,
        }
    }

    fn batch(&mut self, commands: &[BatchCommand]) -> Reply {
        for (position, command) in commands.iter().enumerate() {
            if let BatchCommand::Check { key, condition } = command {
                let current = self.current(key);
                if !holds(*condition, current) {
                    return Reply::ConditionFailed { current, op: Some(position as u32) };
                }
            }
        }
        let mut versions = Vec::new();
        for command in commands {
            versions.push(match command {
                BatchCommand::Put(put) => Some(self.put(put)),
                BatchCommand::Delete { key } => {
                    if self.keys.remove(key).is_some() {
                        self.version += 1;
                    }
                    None
                }
                BatchCommand::Check { .. } => None,
            });
        }
        Reply::Batch(versions)
    }

    fn put(&mut self, put: &Put) -> u64 {
        self.version += 1;
        self.keys.insert(put.key.clone(), (put.value.clone(), self.version));
        self.version
    }

    fn current(&self, key: &[u8]) -> Option<u64> {
        self.keys.get(key).map(|(_, version)| *version)
    }
}

fn holds(condition: Condition, current: Option<u64>) -> bool {
    match condition {
        Condition::Any => true,
        Condition::Absent => current.is_none(),
        Condition::Exists => current.is_some(),
        Condition::Version(version) => current == Some(version),
    }
}
