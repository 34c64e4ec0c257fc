//! Writers with a ledger: each knows what was acknowledged to it and what it must not be sure of, so that after a
//! crash every key can be called right or wrong.
//!
//! A writer alone writes its keys, one request at a time. Its units are single keys, which are put and deleted,
//! and threes of keys that are only ever written together, by a batch.

use super::http::{Reply, Session};
use super::node::kv;
use super::{Dice, Node};
use serde_json::json;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

/// What a key may hold: its value, or nothing.
type Content = Option<Vec<u8>>;

/// Keys that change together and what they may hold.
struct Unit {
    keys: Vec<String>,
    acknowledged: Content,
    /// The versions of the acknowledged write, one for each key; empty after a delete.
    versions: Vec<u64>,
    /// Writes of unknown outcome since.
    maybe: Vec<Content>,
}

/// How one request ended.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Ending {
    /// Acknowledged.
    Done,
    /// Certainly not written.
    Refused,
    /// Nobody listens any more; certainly not written.
    Gone,
    /// It may have been written.
    Unknown,
}

/// One writer and its ledger.
pub struct Writer {
    name: String,
    port: u16,
    units: Vec<Unit>,
    dice: Dice,
    count: u64,
    largest: u64,
    /// How many requests were acknowledged.
    pub done: u64,
    /// When each request of the last run began to be sent, and how it ended.
    pub endings: Vec<(Instant, Ending)>,
    /// What was said of each request of the last run that was not acknowledged.
    pub complaints: Vec<String>,
}

impl Writer {
    /// A writer that talks to the node on `port`; its values have up to `largest` bytes.
    pub fn new(name: &str, port: u16, seed: u64, largest: u64) -> Writer {
        let single = |number: usize| vec![format!("{name}/single {number}")];
        let three = |number: usize| ["a", "b", "c"].map(|part| format!("{{{name}}}/{number}{part}")).to_vec();
        let keys = (0..6).map(single).chain((0..3).map(three));
        let units = keys
            .map(|keys| Unit { keys, acknowledged: None, versions: Vec::new(), maybe: Vec::new() })
            .collect();
        let dice = Dice::new(seed);
        let name = name.to_owned();
        Writer {
            name,
            port,
            units,
            dice,
            count: 0,
            largest,
            done: 0,
            endings: Vec::new(),
            complaints: Vec::new(),
        }
    }

    /// Writes until `stop` is set or nobody listens any more. `pulse` counts acknowledged writes.
    pub fn run(&mut self, stop: &AtomicBool, pulse: &AtomicU64) {
        let mut session = Session::new(self.port);
        self.endings.clear();
        self.complaints.clear();
        while !stop.load(Ordering::Relaxed) {
            let start = Instant::now();
            let ending = self.step(&mut session);
            self.endings.push((start, ending));
            match ending {
                Ending::Done => {
                    self.done += 1;
                    pulse.fetch_add(1, Ordering::Relaxed);
                }
                Ending::Gone => return,
                Ending::Refused | Ending::Unknown => super::pause(5),
            }
        }
    }

    fn step(&mut self, session: &mut Session) -> Ending {
        self.count += 1;
        let place = self.dice.below(self.units.len() as u64) as usize;
        let unit = &mut self.units[place];
        let is_delete = unit.keys.len() == 1 && self.dice.below(8) == 0;
        let value = (!is_delete).then(|| {
            // Mostly small, now and then large: the length is skewed on purpose.
            let length = self.dice.below(self.largest + 1) >> self.dice.below(8);
            let mut value = format!("{} {} ", self.name, self.count).into_bytes();
            value.resize(value.len() + length as usize, b'a' + (self.count % 26) as u8);
            value
        });
        let result = match (&value, unit.keys.as_slice()) {
            (Some(value), [key]) => session.send("PUT", &kv(key), &[], Some(value)),
            (None, [key]) => session.send("DELETE", &kv(key), &[], None),
            (value, keys) => {
                let text = String::from_utf8(value.clone().unwrap_or_default()).expect("text");
                let ops: Vec<_> =
                    keys.iter().map(|key| json!({"op": "put", "key": key, "value": text})).collect();
                let body = json!({ "ops": ops }).to_string();
                session.send("POST", "/batch", &[], Some(body.as_bytes()))
            }
        };
        let (ending, complaint) = match result {
            Ok(reply) => (unit.note(&reply, value), reply.text()),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => (Ending::Gone, error.to_string()),
            Err(error) => {
                unit.maybe.push(value);
                (Ending::Unknown, error.to_string())
            }
        };
        if ending != Ending::Done {
            self.complaints.push(complaint);
        }
        ending
    }

    /// Reads every key from `node` and compares it with the ledger; panics on anything lost, wrong or half. What
    /// was unknown is known afterwards.
    pub fn check(&mut self, node: &Node) {
        let mut session = Session::new(node.port);
        for unit in &mut self.units {
            unit.check(&mut session);
        }
    }
}

impl Unit {
    fn note(&mut self, reply: &Reply, value: Content) -> Ending {
        match reply.status {
            200 | 201 | 204 => {
                self.versions = match (&value, self.keys.len()) {
                    (None, _) => Vec::new(),
                    (Some(_), 1) => vec![reply.version()],
                    (Some(_), _) => {
                        let versions = reply.json()["versions"].as_array().cloned().unwrap_or_default();
                        versions.iter().map(|version| version.as_u64().expect("a version")).collect()
                    }
                };
            }
            // Nothing was there to delete.
            404 if value.is_none() => self.versions = Vec::new(),
            503 => return Ending::Refused,
            504 => {
                self.maybe.push(value);
                return Ending::Unknown;
            }
            status => panic!("{status} for a write to {:?}: {}", self.keys, reply.text()),
        }
        self.acknowledged = value;
        self.maybe.clear();
        Ending::Done
    }

    fn check(&mut self, session: &mut Session) {
        let mut found: Vec<(Content, u64)> = Vec::new();
        for key in &self.keys {
            let reply = session.ask("GET", &kv(key), &[], None);
            found.push(match reply.status {
                200 => (Some(reply.body.clone()), reply.version()),
                404 => (None, 0),
                status => panic!("{status} for {key}: {}", reply.text()),
            });
        }
        let first = found[0].0.clone();
        let keys = &self.keys;
        assert!(
            found.iter().all(|(content, _)| *content == first),
            "half a batch: {keys:?} {}",
            shown(&found)
        );
        let versions: Vec<u64> = found.iter().map(|(_, version)| *version).filter(|v| *v > 0).collect();
        if first != self.acknowledged || versions != self.versions {
            assert!(
                self.maybe.contains(&first),
                "{keys:?} hold {} instead of what was acknowledged, {}; {} writes were of unknown outcome",
                shown(&found),
                shown(&[(self.acknowledged.clone(), self.versions.first().copied().unwrap_or(0))]),
                self.maybe.len()
            );
            assert!(
                versions.iter().max() >= self.versions.iter().max() || versions.is_empty(),
                "the versions of {keys:?} went back from {:?} to {versions:?}",
                self.versions
            );
        }
        self.acknowledged = first;
        self.versions = versions;
        self.maybe.clear();
    }
}

fn shown(found: &[(Content, u64)]) -> String {
    let shown = found.iter().map(|(content, version)| match content {
        None => "nothing".to_owned(),
        Some(value) => {
            let head = String::from_utf8_lossy(&value[..value.len().min(24)]).into_owned();
            format!("{head:?}… ({} bytes, version {version})", value.len())
        }
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// Writers at work, each in its own thread.
pub struct Load {
    stop: Arc<AtomicBool>,
    pulse: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Writer>>,
}

impl Load {
    /// Sets the writers to work.
    pub fn start(writers: Vec<Writer>) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let pulse = Arc::new(AtomicU64::new(0));
        let threads = writers
            .into_iter()
            .map(|mut writer| {
                let (stop, pulse) = (Arc::clone(&stop), Arc::clone(&pulse));
                std::thread::spawn(move || {
                    writer.run(&stop, &pulse);
                    writer
                })
            })
            .collect();
        Load { stop, pulse, threads }
    }

    /// Acknowledged writes so far.
    pub fn done(&self) -> u64 {
        self.pulse.load(Ordering::Relaxed)
    }

    /// Tells the writers to stop after the request that each is at.
    pub fn wind_down(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Stops the writers and gives them back.
    pub fn finish(self) -> Vec<Writer> {
        self.wind_down();
        self.threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    }
}
