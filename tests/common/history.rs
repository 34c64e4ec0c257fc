//! What clients asked for and what they were told, and whether there is any order of events that explains it.

use super::linear::{self, Effect, Need, Op, Verdict};
use super::node::kv;
use super::{Session, until};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// The value.
    Get,
    /// To store the value with this stamp.
    Put(u64, If),
    /// To remove the value.
    Delete(If),
}

/// A condition of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum If {
    /// None.
    Always,
    /// The key holds nothing.
    Absent,
    /// The key holds the value with this stamp.
    Holds(u64),
}

/// What the answer said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// The value with this stamp and version; or none.
    Found(Option<(u64, u64)>),
    /// Stored where nothing was, in this version.
    Created(u64),
    /// Stored over another value, in this version.
    Replaced(u64),
    /// Removed.
    Removed,
    /// There was nothing to remove.
    Missing,
    /// The condition did not hold.
    Failed,
    /// Nothing: it may have been done, or be done at any time from now on.
    Unknown,
}

/// One operation. Times are nanoseconds since the history began.
#[derive(Debug, Clone)]
pub struct Event {
    pub key: String,
    pub client: usize,
    pub ask: Ask,
    pub told: Told,
    pub invoked: u64,
    pub returned: u64,
    /// The port of the node that answered last, and how many attempts there were.
    pub through: u16,
    pub attempts: u32,
}

/// All operations of a run.
pub struct History {
    start: Instant,
    events: Mutex<Vec<Event>>,
}

impl Default for History {
    fn default() -> Self {
        History { start: Instant::now(), events: Mutex::default() }
    }
}

impl History {
    /// Nanoseconds since it began.
    pub fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Adds operations.
    pub fn add(&self, events: impl IntoIterator<Item = Event>) {
        self.events.lock().expect("the history").extend(events);
    }

    /// How many operations it holds.
    pub fn len(&self) -> usize {
        self.events.lock().expect("the history").len()
    }

    /// Reads every key through each of `ports`; the answers join the history.
    pub fn read_all(&self, ports: &[u16]) {
        let keys: BTreeSet<String> =
            self.events.lock().expect("the history").iter().map(|event| event.key.clone()).collect();
        for port in ports {
            let mut session = Session::new(*port);
            let events: Vec<Event> = keys.iter().map(|key| self.read(key, &mut session, *port)).collect();
            self.add(events);
        }
    }

    fn read(&self, key: &str, session: &mut Session, port: u16) -> Event {
        until(&format!("{key} is read through port {port}"), || {
            let invoked = self.now();
            let reply = session.send("GET", &kv(key), &[], None).ok()?;
            let found = match reply.status {
                200 => Some((stamp_of(&reply.body), reply.version())),
                404 => None,
                503 => return None,
                status => panic!("{status} for {key}: {}", reply.text()),
            };
            let (ask, told, returned) = (Ask::Get, Told::Found(found), self.now());
            let (client, through, attempts) = (usize::MAX, port, 1);
            Some(Event { key: key.to_owned(), client, ask, told, invoked, returned, through, attempts })
        })
    }

    /// Asserts that every key's operations are linearizable; writes the history to `file` if they are not.
    pub fn check(&self, file: &Path) {
        let events = self.events.lock().expect("the history").clone();
        let mut keys: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
        for event in &events {
            keys.entry(&event.key).or_default().push(event);
        }
        let mut wrong = Vec::new();
        let mut given_up = 0;
        for (key, events) in &keys {
            check_versions(key, events, &mut wrong);
            match linear::check(&ops(events, u64::MAX)) {
                Verdict::Linearizable => {}
                Verdict::Not => wrong.push(explain(key, events)),
                Verdict::GivenUp => given_up += 1,
            }
        }
        println!("checked {} operations on {} keys; gave up on {given_up}", events.len(), keys.len());
        if wrong.is_empty() && given_up == 0 {
            return;
        }
        let mut all = String::new();
        for event in keys.values().flatten() {
            let _ = writeln!(all, "{}", line(event));
        }
        std::fs::write(file, all).expect("a file for the history");
        let shown = wrong.iter().take(3).cloned().collect::<Vec<_>>().join("\n");
        panic!(
            "{} keys are wrong, {given_up} were not decided; everything is in {}\n{shown}",
            wrong.len(),
            file.display()
        );
    }
}

/// The stamp at the beginning of a value.
pub fn stamp_of(value: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(value);
    let word = text.split(' ').next().unwrap_or_default();
    word.parse().unwrap_or_else(|_| panic!("a value that nobody wrote: {:?}", &text[..text.len().min(60)]))
}

/// The operations up to the moment `until` as the checker takes them; what returned later is unknown.
fn ops(events: &[&Event], until: u64) -> Vec<Op> {
    let known = events.iter().filter(|event| event.invoked <= until);
    known.filter_map(|event| op(event, event.returned <= until)).collect()
}

fn op(event: &Event, in_time: bool) -> Option<Op> {
    let told = if in_time { event.told } else { Told::Unknown };
    let condition = match event.ask {
        Ask::Get => None,
        Ask::Put(_, condition) | Ask::Delete(condition) => Some(condition),
    };
    let need = match (condition, told) {
        (_, Told::Found(None) | Told::Created(_) | Told::Missing) => Need::Absent,
        (_, Told::Found(Some((stamp, _)))) => Need::Is(stamp),
        // It cannot tell anything: it need not be explained.
        (None, _) => return None,
        (Some(If::Holds(stamp)), Told::Failed) => Need::Not(stamp),
        (Some(If::Holds(stamp)), _) => Need::Is(stamp),
        (Some(If::Absent), Told::Failed) => Need::Present,
        (Some(If::Absent), _) => Need::Absent,
        (Some(If::Always), Told::Replaced(_) | Told::Removed) => Need::Present,
        (Some(If::Always), _) => Need::Nothing,
    };
    let effect = match (event.ask, told) {
        (Ask::Get, _) | (_, Told::Failed | Told::Missing) => Effect::Keep,
        (Ask::Put(stamp, _), _) => Effect::Set(stamp),
        (Ask::Delete(_), _) => Effect::Remove,
    };
    let returned = (told != Told::Unknown).then_some(event.returned);
    Some(Op { invoked: event.invoked, returned, need, effect })
}

/// A version belongs to one value, and a value that was stored later has a higher one.
fn check_versions(key: &str, events: &[&Event], wrong: &mut Vec<String>) {
    let mut stamps: BTreeMap<u64, u64> = BTreeMap::new();
    let mut stored: Vec<(u64, u64, u64)> = Vec::new();
    for event in events {
        let pair = match (event.ask, event.told) {
            (_, Told::Found(Some(pair))) => pair,
            (Ask::Put(stamp, _), Told::Created(version) | Told::Replaced(version)) => {
                stored.push((event.invoked, event.returned, version));
                (stamp, version)
            }
            _ => continue,
        };
        if *stamps.entry(pair.1).or_insert(pair.0) != pair.0 {
            wrong.push(format!("{key}: version {} is of two values: {}", pair.1, line(event)));
        }
    }
    stored.sort_by_key(|(_, returned, _)| *returned);
    let mut highest: Vec<(u64, u64)> = Vec::new();
    for (invoked, returned, version) in stored {
        let before = highest.partition_point(|(earlier, _)| *earlier < invoked);
        if before > 0 && highest[before - 1].1 >= version {
            wrong.push(format!("{key}: version {version} came after {}", highest[before - 1].1));
        }
        let top = highest.last().map_or(version, |(_, top)| version.max(*top));
        highest.push((returned, top));
    }
}

/// The last operations before the first moment at which nothing explains the answers any more.
fn explain(key: &str, events: &[&Event]) -> String {
    let mut ends: Vec<u64> = events.iter().map(|event| event.returned).collect();
    ends.sort_unstable();
    let good = |end: &u64| linear::check(&ops(events, *end)) == Verdict::Linearizable;
    let first = ends.partition_point(good);
    let end = ends.get(first).copied().unwrap_or(u64::MAX);
    let mut shown: Vec<&&Event> = events.iter().filter(|event| event.invoked <= end).collect();
    shown.sort_by_key(|event| event.invoked);
    let tail = shown[shown.len().saturating_sub(40)..].iter().map(|event| line(event));
    format!("{key}: no order explains what was told up to {end}:\n{}", tail.collect::<Vec<_>>().join("\n"))
}

fn line(event: &Event) -> String {
    let Event { key, client, ask, told, invoked, returned, through, attempts } = event;
    format!(
        "{key} {invoked}..{returned} client {client} {ask:?} -> {told:?} (port {through}, attempt {attempts})"
    )
}
