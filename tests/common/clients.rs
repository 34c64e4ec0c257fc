//! Clients at work whose every operation is recorded: reads, puts, deletes and conditional puts on a few keys, and
//! keys that are written once and must be there at the end.
//!
//! Each operation goes to a node by chance. Whatever was certainly not done (503) is tried again elsewhere; a write of
//! unknown outcome is repeated only if it carries a request id, and with the same one.

use super::history::{Ask, Event, History, If, Told, stamp_of};
use super::http::{Reply, Session};
use super::node::kv;
use super::{Dice, until};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Keys that all clients fight for.
const SHARED_KEYS: u64 = 6;
/// An operation that nobody answers is given up after so long.
const GIVE_UP: Duration = Duration::from_secs(25);
/// A node promises an answer within 10 s.
const SILENCE: Duration = Duration::from_secs(11);

/// How the clients behave.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    /// How many clients.
    pub clients: usize,
    /// Of 100 writes so many carry a request id.
    pub with_id: u64,
    /// A client that waited so long for an answer tries another node.
    pub silence: Duration,
    /// Pause between two operations of a client, in milliseconds at most.
    pub pause: u64,
}

impl Default for Habits {
    fn default() -> Self {
        Habits { clients: 8, with_id: 70, silence: SILENCE, pause: 4 }
    }
}

/// What became of attempts and operations, by name.
pub type Counts = BTreeMap<&'static str, u64>;

/// Clients at work.
pub struct Clients {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    habits: Habits,
    history: History,
    ports: RwLock<Vec<u16>>,
    epoch: AtomicU64,
    stop: AtomicBool,
    /// Acknowledged writes.
    written: AtomicU64,
    /// Answered reads.
    read: AtomicU64,
    /// Keys that were written once, with the acknowledged version.
    once: Mutex<BTreeSet<String>>,
    counts: Mutex<Counts>,
    /// The last attempt that came to nothing.
    failure: Mutex<String>,
}

impl Clients {
    /// Sets clients to work on the nodes at `ports`.
    pub fn start(ports: &[u16], habits: Habits) -> Clients {
        let mut dice = Dice::fresh();
        let shared = Arc::new(Shared {
            habits,
            history: History::default(),
            ports: RwLock::new(ports.to_vec()),
            epoch: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            written: AtomicU64::new(0),
            read: AtomicU64::new(0),
            once: Mutex::default(),
            counts: Mutex::default(),
            failure: Mutex::default(),
        });
        let threads = (0..habits.clients)
            .map(|number| {
                let mut client = Client {
                    number,
                    shared: shared.clone(),
                    dice: Dice::new(dice.throw()),
                    count: 0,
                    sessions: HashMap::new(),
                    known: HashMap::new(),
                    events: Vec::new(),
                };
                std::thread::spawn(move || client.work())
            })
            .collect();
        Clients { shared, threads }
    }

    /// The clients talk to these nodes from now on.
    pub fn talk_to(&self, ports: &[u16]) {
        *self.shared.ports.write().expect("the ports") = ports.to_vec();
    }

    /// The clients go on with fresh keys, which keeps the histories of single keys short.
    pub fn turn_the_page(&self) {
        self.shared.epoch.fetch_add(1, Ordering::Relaxed);
    }

    /// Acknowledged writes so far.
    pub fn written(&self) -> u64 {
        self.shared.written.load(Ordering::Relaxed)
    }

    /// Answered reads so far.
    pub fn read(&self) -> u64 {
        self.shared.read.load(Ordering::Relaxed)
    }

    /// What became of attempts and operations so far.
    pub fn counts(&self) -> Counts {
        self.shared.counts.lock().expect("the counts").clone()
    }

    /// Attempts that came to nothing so far.
    pub fn failures(&self) -> u64 {
        let counts = self.counts();
        let of = |name: &str| counts.get(name).copied().unwrap_or_default();
        of("attempts refused") + of("attempts of unknown outcome")
    }

    /// The last attempt that came to nothing.
    pub fn last_failure(&self) -> String {
        self.shared.failure.lock().expect("the last failure").clone()
    }

    /// Waits until `more` writes and as many reads were answered from now on.
    #[track_caller]
    pub fn progress(&self, more: u64) {
        let (written, read) = (self.written() + more, self.read() + more);
        until("reads and writes go on", || {
            assert!(!self.threads.iter().any(JoinHandle::is_finished), "a client gave up");
            (self.written() >= written && self.read() >= read).then_some(())
        });
    }

    /// Stops the clients; reads everything through each of `ports`, and asserts that nothing that was acknowledged is
    /// lost and that the history of every key is linearizable.
    pub fn finish_and_check(self, ports: &[u16]) -> Counts {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        let shared = self.shared;
        shared.history.read_all(ports);
        let name = format!("history-{}-{}.txt", std::process::id(), shared.history.len());
        shared.history.check(&PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name));
        let once = shared.once.lock().expect("the keys written once");
        for port in ports {
            let there = keys_below("once/", *port);
            let lost: Vec<&String> = once.difference(&there).take(10).collect();
            assert!(lost.is_empty(), "acknowledged and lost, read through port {port}: {lost:?}");
        }
        println!("{} keys that were written once are there", once.len());
        let counts = shared.counts.lock().expect("the counts").clone();
        println!("{counts:?}");
        counts
    }
}

/// All keys with the prefix, page by page.
pub fn keys_below(prefix: &str, port: u16) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let mut after = String::new();
    loop {
        let page = until("a page of keys is listed", || {
            let path = format!("/kv?prefix={prefix}&limit=5000&after={after}");
            let path = if after.is_empty() { format!("/kv?prefix={prefix}&limit=5000") } else { path };
            let reply = Session::new(port).send("GET", &path, &[], None).ok()?;
            (reply.status == 200).then(|| reply.json())
        });
        let keys = super::listed(&page);
        let Some(last) = keys.last() else { return all };
        after = super::encode(last);
        all.extend(keys);
    }
}

/// One client.
struct Client {
    number: usize,
    shared: Arc<Shared>,
    dice: Dice,
    count: u64,
    sessions: HashMap<u16, Session>,
    /// Stamp and version that this client saw last, by key.
    known: HashMap<String, (u64, u64)>,
    events: Vec<Event>,
}

/// A request as it is sent, any number of times.
struct Sending {
    method: &'static str,
    key: String,
    ask: Ask,
    body: Option<Vec<u8>>,
    headers: Vec<(&'static str, String)>,
    repeatable: bool,
}

/// What one attempt brought.
enum Attempt {
    Told(Told),
    /// Certainly not done.
    Refused,
    /// It may have been done.
    Unknown,
}

impl Client {
    fn work(&mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let sending = self.choose();
            self.run(sending);
            if self.events.len() >= 64 {
                self.shared.history.add(std::mem::take(&mut self.events));
            }
            let pause = self.dice.below(self.shared.habits.pause + 1);
            super::pause(pause);
        }
        self.shared.history.add(std::mem::take(&mut self.events));
    }

    fn choose(&mut self) -> Sending {
        self.count += 1;
        let stamp = ((self.number as u64 + 1) << 40) | self.count;
        let choice = self.dice.below(100);
        if choice < 20 {
            return self.sending(
                "PUT",
                format!("once/{}/{}", self.number, self.count),
                Ask::Put(stamp, If::Always),
                0,
            );
        }
        let epoch = self.shared.epoch.load(Ordering::Relaxed);
        let key = format!("shared/{epoch}/{}", self.dice.below(SHARED_KEYS));
        let (known, version) = self.known.get(&key).copied().unwrap_or_default();
        match choice {
            0..55 => self.sending("GET", key, Ask::Get, 0),
            55..75 => self.sending("PUT", key, Ask::Put(stamp, If::Always), 0),
            75..80 => self.sending("PUT", key, Ask::Put(stamp, If::Absent), 0),
            80..90 if version > 0 => self.sending("PUT", key, Ask::Put(stamp, If::Holds(known)), version),
            90..93 if version > 0 => self.sending("DELETE", key, Ask::Delete(If::Holds(known)), version),
            _ => self.sending("DELETE", key, Ask::Delete(If::Always), 0),
        }
    }

    fn sending(&mut self, method: &'static str, key: String, ask: Ask, version: u64) -> Sending {
        let mut headers = Vec::new();
        match ask {
            Ask::Put(_, If::Holds(_)) | Ask::Delete(If::Holds(_)) => {
                headers.push(("If-Match", format!("\"{version}\"")));
            }
            Ask::Put(_, If::Absent) => headers.push(("If-None-Match", "*".to_owned())),
            _ => {}
        }
        let with_id = ask != Ask::Get && self.dice.below(100) < self.shared.habits.with_id;
        if with_id {
            let run = std::process::id();
            headers.push(("Catstore-Request-Id", format!("{run}-{}-{}", self.number, self.count)));
        }
        let body = match ask {
            Ask::Put(stamp, _) => {
                let padding = self.dice.below(400) as usize;
                Some(format!("{stamp} {}", "x".repeat(padding)).into_bytes())
            }
            _ => None,
        };
        Sending { method, key, ask, body, headers, repeatable: with_id || ask == Ask::Get }
    }

    /// Sends it until it is answered, or may not be sent again, or the client gives up.
    fn run(&mut self, sending: Sending) {
        let start = Instant::now();
        let invoked = self.shared.history.now();
        let mut is_unknown = false;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let port = self.pick();
            let attempt = self.attempt(&sending, port);
            let returned = self.shared.history.now();
            let told = match attempt {
                Attempt::Told(told) => Some(told),
                Attempt::Refused => {
                    self.tally("attempts refused");
                    None
                }
                Attempt::Unknown => {
                    self.tally("attempts of unknown outcome");
                    is_unknown = true;
                    (!sending.repeatable).then_some(Told::Unknown)
                }
            };
            let over = start.elapsed() > GIVE_UP || self.shared.stop.load(Ordering::Relaxed);
            // What was certainly not done leaves no trace.
            let told = told.or_else(|| (over && is_unknown).then_some(Told::Unknown));
            if let Some(told) = told {
                self.note(&sending, told, invoked, returned, port, attempts);
                return;
            }
            if over {
                self.tally("given up");
                return;
            }
            super::pause(10 + self.dice.below(40));
        }
    }

    fn pick(&mut self) -> u16 {
        let ports = self.shared.ports.read().expect("the ports");
        ports[self.dice.below(ports.len() as u64) as usize]
    }

    fn attempt(&mut self, sending: &Sending, port: u16) -> Attempt {
        let silence = self.shared.habits.silence;
        let session = self.sessions.entry(port).or_insert_with(|| Session::patient(port, silence));
        let headers: Vec<(&str, &str)> =
            sending.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        match session.send(sending.method, &kv(&sending.key), &headers, sending.body.as_deref()) {
            Ok(reply) => {
                let attempt = understand(sending, &reply);
                if !matches!(attempt, Attempt::Told(_)) {
                    let body = String::from_utf8_lossy(&reply.body).into_owned();
                    self.fail(sending, port, &format!("{} {body}", reply.status));
                }
                attempt
            }
            Err(error) => {
                self.fail(sending, port, &error.to_string());
                if error.kind() == ErrorKind::ConnectionRefused { Attempt::Refused } else { Attempt::Unknown }
            }
        }
    }

    /// Remembers an attempt that came to nothing, for messages.
    fn fail(&self, sending: &Sending, port: u16, why: &str) {
        let text = format!("{} {} at {port}: {why}", sending.method, sending.key);
        *self.shared.failure.lock().expect("the last failure") = text;
    }

    fn note(
        &mut self,
        sending: &Sending,
        told: Told,
        invoked: u64,
        returned: u64,
        through: u16,
        attempts: u32,
    ) {
        let key = sending.key.clone();
        let shared = self.shared.clone();
        self.tally(match (sending.ask, told) {
            (_, Told::Unknown) => "unknown",
            (Ask::Get, _) => "reads",
            (Ask::Put(_, If::Always), _) => "puts",
            (Ask::Put(..), Told::Failed) | (Ask::Delete(_), Told::Failed) => "conditions that failed",
            (Ask::Put(..), _) => "conditional puts",
            (Ask::Delete(_), _) => "deletes",
        });
        match (sending.ask, told) {
            (_, Told::Unknown) => {}
            (Ask::Get, _) => drop(shared.read.fetch_add(1, Ordering::Relaxed)),
            _ => drop(shared.written.fetch_add(1, Ordering::Relaxed)),
        }
        let seen = match (sending.ask, told) {
            (_, Told::Found(found)) => found,
            (Ask::Put(stamp, _), Told::Created(version) | Told::Replaced(version)) => Some((stamp, version)),
            _ => None,
        };
        if key.starts_with("once/") {
            if matches!(told, Told::Created(_)) {
                shared.once.lock().expect("the keys written once").insert(key);
            } else {
                assert_eq!(told, Told::Unknown, "{key} was there before it was written");
            }
            return;
        }
        match seen {
            Some(seen) => drop(self.known.insert(key.clone(), seen)),
            None => drop(self.known.remove(&key)),
        }
        let (client, ask) = (self.number, sending.ask);
        self.events.push(Event { key, client, ask, told, invoked, returned, through, attempts });
    }

    fn tally(&self, what: &'static str) {
        *self.shared.counts.lock().expect("the counts").entry(what).or_default() += 1;
    }
}

fn understand(sending: &Sending, reply: &Reply) -> Attempt {
    let told = match (sending.ask, reply.status) {
        (Ask::Get, 200) => Told::Found(Some((stamp_of(&reply.body), reply.version()))),
        (Ask::Get, 404) => Told::Found(None),
        (Ask::Put(..), 200) => Told::Replaced(reply.version()),
        (Ask::Put(..), 201) => Told::Created(reply.version()),
        (Ask::Put(..) | Ask::Delete(_), 412) => Told::Failed,
        (Ask::Delete(_), 204) => Told::Removed,
        (Ask::Delete(_), 404) => Told::Missing,
        // 408: its head had not arrived when its time was up, as after a long sleep.
        (_, 408 | 503 | 507) => return Attempt::Refused,
        (_, 504) => return Attempt::Unknown,
        (ask, status) => panic!("{status} for {ask:?}: {}", reply.text()),
    };
    Attempt::Told(told)
}
