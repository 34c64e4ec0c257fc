//! What a client does next.

use super::Client;
use super::cargo::Cargo;
use crate::event::{Answer, Question};
use crate::history::History;
use crate::keys::{self, key};
use crate::system::System;
use catstore::replica::command::{BatchCommand, Command, Condition, Put, Request};
use catstore::store::record::checksum;

impl Client {
    pub(super) fn choose(&mut self, sys: &mut System, history: &mut History) -> (Question, Option<Answer>) {
        if let Some((request, answer)) = self.audit.pop() {
            return (Question::Write(request), Some(answer));
        }
        let (first, last) = keys::used(self.several);
        let number = sys.between(first, last);
        let kind = match self.number % 2 {
            _ if self.quiet > sys.now => 0,
            0 if self.hurry.0 > sys.now => 0,
            1 if self.hurry.0 > sys.now => 99,
            _ => sys.between(0, 99),
        };
        match kind {
            0..=44 => return (Question::Read(key(number)), None),
            45..=49 => return (Question::ReadStale(key(number)), None),
            50 if self.past.is_some() => {
                if let Some((request, answer)) = self.past.take() {
                    return (Question::Write(request), Some(answer));
                }
            }
            _ => {}
        }
        let command = match sys.between(0, 199) {
            0..=119 => Command::Put(self.put(sys, history, number)),
            120..=149 => Command::Delete { key: key(number), condition: self.condition(sys, number) },
            150..=197 => self.batch(sys, history, number),
            198 => {
                sys.count("clear");
                Command::Clear
            }
            _ => Command::Digest { id: sys.random.draw(), members: vec![1, 2, 3] },
        };
        let command = match command {
            // Only a whole group's keys go with a clear.
            Command::Clear => Command::Clear,
            _ if keys::stays(number) => {
                let put = self.put(sys, history, number);
                Command::Put(Put { key: key(number), ttl: None, condition: Condition::Any, ..put })
            }
            command => command,
        };
        if matches!(command, Command::Put(_)) && self.hurry.0 <= sys.now && sys.one_in(3) {
            self.cargo = Some(Cargo::new(sys, history));
        }
        let cleared = self.several && command == Command::Clear;
        let id = match sys.between(0, 3) {
            _ if cleared => Some(format!("{}-{}", self.number, history.next_stamp())),
            0 => Some(format!("{}-{}", self.number, history.next_stamp())),
            1 => {
                self.session += 1;
                Some(format!("{:032x}:{}", self.number + 1, self.session))
            }
            _ => None,
        };
        if id.is_some() {
            // Of a session only the last request may be repeated.
            self.past = None;
        }
        (Question::Write(Request { id, command }), None)
    }

    fn put(&mut self, sys: &mut System, history: &mut History, number: u64) -> Put {
        let stamp = history.next_stamp();
        let value = stamp.to_string().into_bytes();
        let ttl = (sys.ttl && sys.one_in(10)).then(|| sys.between(500, 12_000));
        let (number, condition) = match self.known {
            Some((known, _, version)) if sys.one_in(6) => (known, Condition::Version(version)),
            _ => (number, self.condition(sys, number)),
        };
        Put {
            key: key(number),
            checksum: checksum(&value),
            value,
            content_type: String::new(),
            ttl,
            condition,
        }
    }

    fn condition(&mut self, sys: &mut System, number: u64) -> Condition {
        match (sys.between(0, 9), self.known) {
            (0, _) => Condition::Absent,
            (1, _) => Condition::Exists,
            (2, Some((known, _, version))) if known == number => Condition::Version(version),
            _ => Condition::Any,
        }
    }

    /// All keys of a batch are in one slot, that of `number`.
    fn batch(&mut self, sys: &mut System, history: &mut History, number: u64) -> Command {
        let mut numbers = keys::family(number);
        let mut commands = Vec::new();
        for _ in 0..sys.between(1, 3).min(numbers.len() as u64) {
            let number = numbers.swap_remove(sys.random.up_to(numbers.len() - 1));
            commands.push(match sys.between(0, 5) {
                0 => BatchCommand::Check { key: key(number), condition: self.condition(sys, number) },
                1 => BatchCommand::Delete { key: key(number) },
                _ => {
                    let put = self.put(sys, history, number);
                    BatchCommand::Put(Put { key: key(number), condition: Condition::Any, ..put })
                }
            });
        }
        Command::Batch(commands)
    }
}
