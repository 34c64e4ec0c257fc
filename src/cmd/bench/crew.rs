//! Many connections that do one thing after the other.

use super::drive::drive;
use super::pace::Pace;
use super::plan::{MOST_IN_BATCH, Next, Plan};
use super::tally::Tally;
use crate::client::lane::MOST_BYTES;
use crate::client::{Client, Lane, PutOptions, Reply, Value};
use crate::cluster::view::{BatchBody, BatchOp, BatchReply, JsonBytes};
use crate::cmd::{output, text};
use crate::error::{Error, Kind, Result};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often whoever watches is told how far it is.
const TOLD: Duration = Duration::from_millis(500);

/// The connections, and what they know of what they wrote.
pub struct Crew<'a> {
    /// One for each connection.
    clients: Vec<Client>,
    plan: &'a Plan,
    /// Raised by Ctrl-C.
    stop: &'a AtomicBool,
    /// The highest version that was acknowledged, by key; 0 before the first.
    acknowledged: Vec<AtomicU64>,
    /// The number of the next write.
    stamps: AtomicU64,
}

impl<'a> Crew<'a> {
    /// Connections that know what `client` knows.
    pub fn new(client: &Client, plan: &'a Plan, stop: &'a AtomicBool) -> Crew<'a> {
        let clients = (0..plan.measure.connections).map(|_| client.twin()).collect();
        let acknowledged = (0..plan.measure.keys).map(|_| AtomicU64::new(0)).collect();
        Crew { clients, plan, stop, acknowledged, stamps: AtomicU64::new(1) }
    }

    /// Puts every key.
    pub fn fill(&self) -> Result<()> {
        self.every(
            "filling",
            self.plan.fill_count(),
            &|client, from, count| self.write(client, from, count),
            self.stop,
        )
    }

    /// Reads every key and compares it with what was written, also after Ctrl-C.
    pub fn read_back(&self) -> Result<()> {
        let check = |client: &Client, from, count| {
            (from..from + count).try_for_each(|number| self.read(client, number))
        };
        self.every("reading back", MOST_IN_BATCH, &check, &AtomicBool::new(false))
    }

    /// Removes every key, also after Ctrl-C.
    pub fn remove(&self) -> Result<()> {
        let remove = |client: &Client, from: u64, count: u64| {
            let key = |number| JsonBytes(self.plan.key(number).into_bytes());
            let ops = (from..from + count).map(|number| BatchOp::Delete { key: key(number) }).collect();
            client.batch(&BatchBody { ops }).map(drop)
        };
        self.every("removing", MOST_IN_BATCH, &remove, &AtomicBool::new(false)).map_err(|error| {
            let detail = format!("keys below {} are left: {}", self.plan.prefix, error.detail());
            Error::new(error.kind(), detail).hint(error.hint_text().unwrap_or("delete them"))
        })
    }

    /// Reads and writes by chance until the time is over, or until Ctrl-C.
    pub fn measure(&self) -> Result<Tally> {
        let (measure, done) = (&self.plan.measure, AtomicU64::new(0));
        let (start, time) = (Instant::now(), measure.time);
        let said = || {
            let left = time.saturating_sub(start.elapsed()).as_secs_f64().ceil();
            let rate = done.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64();
            format!("measuring: {rate:.0} requests a second, {left} s left")
        };
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let share = self.clients.len().div_ceil((processors / 2).max(1));
        let shares: Vec<_> = self.clients.chunks(share).collect();
        let parts = self.all(shares.len(), &said, &|part| {
            let pace = || Pace::new(measure.rate, (Instant::now(), time), (part, shares.len()), self.stop);
            drive(self, shares[part], pace, &done)
        })?;
        let mut all = Tally::new();
        parts.into_iter().for_each(|part| all.merge(part));
        all.elapsed = start.elapsed().min(time);
        Ok(all)
    }

    /// Ctrl-C was pressed.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// What is asked for.
    pub fn plan(&self) -> &Plan {
        self.plan
    }

    /// Asks for `next` on a lane: the version that a read has to find at least. `None` if that is nothing for a lane.
    pub fn ask(&self, lane: &mut Lane<'_>, next: Next) -> Option<u64> {
        let count = if let Next::Write(_, count) = next { count as usize } else { 1 };
        if self.plan.measure.size.saturating_mul(count) > MOST_BYTES / 2 {
            return None;
        }
        let (wanted, asked) = match next {
            Next::Read(number) => (self.acknowledged(number), lane.get(self.plan.key(number).as_bytes())),
            Next::Write(from, 1) => {
                (0, lane.put(self.plan.key(from).as_bytes(), &self.plan.value(from, self.stamp())))
            }
            Next::Write(from, count) => (0, lane.batch(&self.puts(from, count))),
        };
        asked.then_some(wanted)
    }

    /// Takes what was answered. Errors: `Damaged` as [`Crew::once`].
    pub fn check(&self, next: Next, wanted: u64, reply: Reply) -> Result<()> {
        match (next, reply) {
            (Next::Read(number), Reply::Value(value)) => self.judge(number, wanted, value),
            (Next::Write(from, _), Reply::Stored(stored)) => {
                self.note(from, stored.version);
                Ok(())
            }
            (Next::Write(from, count), Reply::Batch(reply)) => {
                self.note_all(from, count, &reply);
                Ok(())
            }
            _ => Err(Error::new(Kind::System, "an answer came to what was not asked")),
        }
    }

    /// Asks for `next`, and waits. Errors: `Damaged` if a key does not hold what was put last, or something put since.
    pub fn once(&self, client: &Client, next: Next) -> Result<()> {
        match next {
            Next::Read(number) => self.read(client, number),
            Next::Write(from, count) => self.write(client, from, count),
        }
    }

    /// Puts new values under `count` keys.
    fn write(&self, client: &Client, from: u64, count: u64) -> Result<()> {
        if count == 1 {
            let value = self.plan.value(from, self.stamp());
            let stored = client.put(self.plan.key(from), value, PutOptions::default())?;
            self.note(from, stored.version);
        } else {
            self.note_all(from, count, &client.batch(&self.puts(from, count))?);
        }
        Ok(())
    }

    /// Reads a key.
    fn read(&self, client: &Client, number: u64) -> Result<()> {
        let wanted = self.acknowledged(number);
        self.judge(number, wanted, client.get(self.plan.key(number))?)
    }

    /// New values under `count` keys.
    fn puts(&self, from: u64, count: u64) -> BatchBody {
        let stamp = self.stamp();
        let ops = (from..from + count).map(|number| BatchOp::Put {
            key: JsonBytes(self.plan.key(number).into_bytes()),
            value: JsonBytes(self.plan.value(number, stamp)),
            content_type: None,
            ttl: None,
        });
        BatchBody { ops: ops.collect() }
    }

    fn stamp(&self) -> u64 {
        self.stamps.fetch_add(1, Ordering::Relaxed)
    }

    fn acknowledged(&self, number: u64) -> u64 {
        self.acknowledged[number as usize].load(Ordering::Relaxed)
    }

    /// Notes that a write was acknowledged.
    fn note(&self, number: u64, version: u64) {
        self.acknowledged[number as usize].fetch_max(version, Ordering::Relaxed);
    }

    fn note_all(&self, from: u64, count: u64, reply: &BatchReply) {
        for (number, version) in (from..from + count).zip(&reply.versions) {
            self.note(number, version.unwrap_or_default());
        }
    }

    /// What a read found, compared with what was put. Errors: `Damaged`.
    fn judge(&self, number: u64, wanted: u64, found: Option<Value>) -> Result<()> {
        let key = self.plan.key(number);
        let wrong =
            |what: String| Err(Error::new(Kind::Damaged, format!("a promise is broken: {key} {what}")));
        match found {
            None => wrong(format!("is not there; version {wanted} was acknowledged")),
            Some(value) if value.version < wanted => {
                wrong(format!("has version {}; version {wanted} was acknowledged", value.version))
            }
            Some(value) if !self.plan.is_right(number, &value.bytes) => {
                wrong(format!("in version {} holds bytes that nobody put there", value.version))
            }
            Some(_) => Ok(()),
        }
    }

    /// Does `work` with all keys, `count` of one slot at a time.
    fn every(
        &self,
        what: &str,
        count: u64,
        work: &(dyn Fn(&Client, u64, u64) -> Result<()> + Sync),
        stop: &AtomicBool,
    ) -> Result<()> {
        let (turn, keys) = (AtomicU64::new(0), AtomicU64::new(0));
        let total = self.plan.measure.keys;
        let said = || format!("{what}: {} of {}", keys.load(Ordering::Relaxed), text::plural(total, "key"));
        let failed = AtomicBool::new(false);
        let one = |connection: usize| {
            while !failed.load(Ordering::Relaxed) {
                let turn = turn.fetch_add(1, Ordering::Relaxed);
                if turn >= self.plan.steps(count) {
                    break;
                }
                let Some((from, some)) = self.plan.step(turn, count).filter(|(_, some)| *some > 0) else {
                    continue;
                };
                let done = match stop.load(Ordering::Relaxed) {
                    true => Err(Error::new(Kind::System, "stopped before there was anything to say")),
                    false => work(&self.clients[connection], from, some),
                };
                done.inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
                keys.fetch_add(some, Ordering::Relaxed);
            }
            Ok(())
        };
        self.all(self.clients.len(), &said, &one).map(drop)
    }

    /// Does `work` on `count` threads at once; meanwhile tells whoever watches what `said` says.
    fn all<T: Send>(
        &self,
        count: usize,
        said: &(dyn Fn() -> String + Sync),
        work: &(dyn Fn(usize) -> Result<T> + Sync),
    ) -> Result<Vec<T>> {
        let running = Mutex::new(count);
        let over = std::sync::Condvar::new();
        std::thread::scope(|scope| {
            let begin = |connection| {
                let (running, over) = (&running, &over);
                let leave = move || {
                    *running.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
                    over.notify_all();
                };
                let thread = std::thread::Builder::new().spawn_scoped(scope, move || {
                    let done = work(connection);
                    leave();
                    done
                });
                thread.map_err(|error| Error::new(Kind::System, "a thread does not start").cause(error))
            };
            let threads: Vec<_> = (0..count).map(begin).collect::<Result<_>>()?;
            let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
            while *running > 0 {
                running = over.wait_timeout(running, TOLD).unwrap_or_else(PoisonError::into_inner).0;
                output::waiting(Some(&said()));
            }
            drop(running);
            let panicked = |_| Err(Error::new(Kind::System, "a connection's thread panicked"));
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect()
        })
    }
}
