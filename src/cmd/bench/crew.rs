//! Many connections that do one thing after the other.

use super::plan::{MOST_IN_BATCH, Next, Plan};
use super::tally::Tally;
use crate::client::{Client, PutOptions};
use crate::cluster::view::{BatchBody, BatchOp, JsonBytes};
use crate::cmd::{output, text};
use crate::error::{Error, Kind, Result};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often whoever watches is told how far it is.
const TOLD: Duration = Duration::from_millis(500);
/// A connection that waits for its turn looks so often whether it is to stop.
const NAP: Duration = Duration::from_millis(100);

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
        let (begun, done) = (AtomicU64::new(0), AtomicU64::new(0));
        let (start, time) = (Instant::now(), self.plan.measure.time);
        let said = || {
            let left = time.saturating_sub(start.elapsed()).as_secs_f64().ceil();
            let rate = done.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64();
            format!("measuring: {rate:.0} requests a second, {left} s left")
        };
        let parts = self.all(&said, &|connection| self.take_part(connection, start, &begun, &done))?;
        let mut all = Tally::new();
        parts.into_iter().for_each(|part| all.merge(part));
        all.elapsed = start.elapsed().min(time);
        let due = self.plan.measure.rate.map_or(0, |rate| (rate as f64 * all.elapsed.as_secs_f64()) as u64);
        all.behind = due.saturating_sub(begun.into_inner());
        Ok(all)
    }

    /// What one connection does meanwhile.
    fn take_part(
        &self,
        connection: usize,
        start: Instant,
        begun: &AtomicU64,
        done: &AtomicU64,
    ) -> Result<Tally> {
        let (client, plan, end) = (&self.clients[connection], self.plan, start + self.plan.measure.time);
        let (mut dice, mut tally) = (plan.dice(connection), Tally::new());
        while let Some(due) = self.next_due(start, end, begun) {
            let request = plan.next(&mut dice);
            let (times, keys, outcome) = match request {
                Next::Read(number) => (&mut tally.reads, 1, self.read(client, number)),
                Next::Write(from, count) => (&mut tally.writes, count, self.write(client, from, count)),
            };
            match outcome {
                Ok(()) => times.add(due.elapsed(), keys),
                Err(error) if error.kind() == Kind::Damaged => return Err(error),
                Err(error) => tally.fail(error),
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(tally)
    }

    /// Waits until the next request is due, and says since when it is. None once it is over.
    fn next_due(&self, start: Instant, end: Instant, begun: &AtomicU64) -> Option<Instant> {
        let now = Instant::now();
        if now >= end || self.stop.load(Ordering::Relaxed) {
            return None;
        }
        let Some(rate) = self.plan.measure.rate else { return Some(now) };
        let number = begun.fetch_add(1, Ordering::Relaxed);
        let due = start + Duration::from_secs_f64(number as f64 / rate as f64);
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if due >= end || self.stop.load(Ordering::Relaxed) {
                begun.fetch_sub(1, Ordering::Relaxed);
                return None;
            }
            if left.is_zero() {
                return Some(due);
            }
            std::thread::sleep(left.min(NAP));
        }
    }

    /// Puts new values under `count` keys.
    fn write(&self, client: &Client, from: u64, count: u64) -> Result<()> {
        let stamp = self.stamps.fetch_add(1, Ordering::Relaxed);
        let note = |number: u64, version: u64| {
            self.acknowledged[number as usize].fetch_max(version, Ordering::Relaxed);
        };
        if count == 1 {
            let value = self.plan.value(from, stamp);
            let stored = client.put(self.plan.key(from), value, PutOptions::default())?;
            note(from, stored.version);
            return Ok(());
        }
        let ops = (from..from + count).map(|number| BatchOp::Put {
            key: JsonBytes(self.plan.key(number).into_bytes()),
            value: JsonBytes(self.plan.value(number, stamp)),
            content_type: None,
            ttl: None,
        });
        let reply = client.batch(&BatchBody { ops: ops.collect() })?;
        for (number, version) in (from..from + count).zip(reply.versions) {
            note(number, version.unwrap_or_default());
        }
        Ok(())
    }

    /// Reads a key. Errors: `Damaged` if it does not hold what was put last, or something put since.
    fn read(&self, client: &Client, number: u64) -> Result<()> {
        let wanted = self.acknowledged[number as usize].load(Ordering::Relaxed);
        let key = self.plan.key(number);
        let wrong =
            |what: String| Err(Error::new(Kind::Damaged, format!("a promise is broken: {key} {what}")));
        match client.get(&key)? {
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
        self.all(&said, &one).map(drop)
    }

    /// Does `work` on every connection at once; meanwhile tells whoever watches what `said` says.
    fn all<T: Send>(
        &self,
        said: &(dyn Fn() -> String + Sync),
        work: &(dyn Fn(usize) -> Result<T> + Sync),
    ) -> Result<Vec<T>> {
        let running = Mutex::new(self.plan.measure.connections);
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
            let threads: Vec<_> = (0..self.plan.measure.connections).map(begin).collect::<Result<_>>()?;
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
