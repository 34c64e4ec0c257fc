//! Values that may lack chunks here: what was just applied, and after a start or a snapshot every value. A thread looks at
//! each, and pulls what is missing from other members.

use super::{Keeper, lock};
use crate::error::{Error, Kind, Result};
use crate::replica::shared::yield_to_others;
use crate::store::chunk::Name;
use crate::store::keys;
use crate::store::record::Record;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So many keys wait to be looked at; beyond, every value is.
const MOST_KEYS: usize = 10_000;
/// So many keys are taken from the state at once.
const PAGE: usize = 1000;
/// Values with a chunk that nobody has are looked at so often.
const HURT: Duration = Duration::from_secs(60);
/// How long to wait after a chunk that nobody gave.
const PAUSE: Duration = Duration::from_millis(500);

/// What is to be looked at.
#[derive(Debug, Default)]
pub(super) struct Needs {
    /// Keys, with the entry that put them; that of the first entry is the first.
    keys: VecDeque<(u64, Vec<u8>)>,
    /// Keys of hurt values that are looked at again when there are no others. Nobody is made to wait for these.
    again: VecDeque<Vec<u8>>,
    /// The entry as of which every value is to be looked at.
    everything: Option<u64>,
    /// The entry that the look under way is about.
    looking: Option<u64>,
    /// Those that lack a chunk which nobody who may have it answers for: they are looked at again.
    stuck: Vec<(u64, Vec<u8>)>,
    /// Values that lack a chunk that nobody has; looked at again now and then, for the state may only be behind.
    hurt: Vec<Vec<u8>>,
    /// When that was done last.
    hurt_seen: Option<Instant>,
}

impl Needs {
    /// Everything is to be looked at.
    pub(super) fn everything(index: u64) -> Needs {
        Needs { everything: Some(index), ..Needs::default() }
    }

    /// Takes up what had to wait, once nothing else is to be looked at.
    fn take_up(&mut self, now: Instant) {
        if !self.keys.is_empty() {
            return;
        }
        self.stuck.sort_by_key(|(index, _)| *index);
        self.keys = std::mem::take(&mut self.stuck).into();
        let due = self.hurt_seen.is_none_or(|seen| now.saturating_duration_since(seen) >= HURT);
        if due && self.again.is_empty() {
            self.hurt_seen = Some(now);
            self.again.extend(self.hurt.drain(..));
        }
    }

    /// The next key, with the entry that put it unless nobody waits for it.
    fn next(&mut self) -> Option<(Option<u64>, Vec<u8>)> {
        match self.keys.pop_front() {
            Some((index, key)) => Some((Some(index), key)),
            None => self.again.pop_front().map(|key| (None, key)),
        }
    }

    fn note_hurt(&mut self, key: Vec<u8>) {
        if self.hurt.len() < MOST_KEYS {
            self.hurt.push(key);
        }
    }

    /// True if nothing is to be looked at now; what is stuck has its turn after a pause.
    fn is_idle(&self) -> bool {
        self.keys.is_empty() && self.again.is_empty() && self.everything.is_none()
    }

    /// The last entry of which, and before which, nothing is missing that somebody may have.
    pub(super) fn complete(&self) -> u64 {
        if self.everything.is_some() {
            return 0;
        }
        let waiting = self.keys.front().map(|(index, _)| *index);
        let stuck = self.stuck.iter().map(|(index, _)| *index).min();
        let first = [waiting, stuck, self.looking].into_iter().flatten().min();
        first.map_or(u64::MAX, |index| index.saturating_sub(1))
    }
}

impl Keeper {
    pub(super) fn need(&self, index: u64, chunked: Vec<Vec<u8>>) {
        let mut needs = lock(&self.needs);
        if needs.keys.len() + needs.stuck.len() + chunked.len() > MOST_KEYS {
            *needs = Needs::everything(index);
        } else {
            needs.keys.extend(chunked.into_iter().map(|key| (index, key)));
        }
        self.needed.notify_all();
    }

    pub(super) fn need_everything(&self, index: u64) {
        *lock(&self.needs) = Needs::everything(index);
        self.needed.notify_all();
    }

    /// Looks at what is to be looked at until the member stops.
    pub(super) fn check_until_closed(&self) {
        yield_to_others();
        while self.standing.check_open().is_ok() {
            lock(&self.recent).forget(self.standing.now());
            let idle = |needs: &mut Needs| needs.is_idle();
            drop(self.needed.wait_timeout_while(lock(&self.needs), PAUSE, idle));
            if let Err(error) = self.check_one() {
                if self.standing.check_open().is_ok() {
                    log::warn!("chunks are missing here: {error}");
                }
                self.wait(PAUSE);
            }
        }
    }

    /// Sleeps, unless the member stops.
    pub(super) fn wait(&self, pause: Duration) {
        const STEP: Duration = Duration::from_millis(250);
        let mut left = pause;
        while !left.is_zero() && self.standing.check_open().is_ok() {
            self.standing.sleep(left.min(STEP));
            left = left.saturating_sub(STEP);
        }
    }

    /// Looks at the next value that is to be looked at, or at all of them. Errors: a chunk that nobody gave, and the disk's.
    pub fn check_one(&self) -> Result<()> {
        let everything = {
            let mut needs = lock(&self.needs);
            needs.take_up(self.standing.now());
            needs.everything
        };
        match everything {
            Some(index) => self.look_at_everything(index),
            None => self.look_at_next(),
        }
    }

    fn look_at_next(&self) -> Result<()> {
        let next = {
            let mut needs = lock(&self.needs);
            let next = needs.next();
            needs.looking = next.as_ref().and_then(|(index, _)| *index);
            next
        };
        let Some((index, key)) = next else { return Ok(()) };
        let looked = self.look_at(&key);
        let mut needs = lock(&self.needs);
        needs.looking = None;
        match &looked {
            Ok(()) => {}
            Err(error) if is_lost(error) => needs.note_hurt(key),
            Err(_) => match index {
                Some(index) => needs.stuck.push((index, key)),
                None => needs.note_hurt(key),
            },
        }
        let lacking = needs.hurt.len() + needs.again.len() + needs.stuck.len();
        self.gauges.lacking.store(lacking as u64, Ordering::Relaxed);
        looked
    }

    fn look_at_everything(&self, index: u64) -> Result<()> {
        let mut after = None;
        let mut last = Ok(());
        let (mut hurt, mut lacking) = (Vec::new(), 0);
        loop {
            let keys = self.chunked_keys(after.as_deref())?;
            for key in &keys {
                self.standing.check_open()?;
                match self.look_at(key) {
                    Ok(()) => {}
                    Err(error) if is_lost(&error) => hurt.push(key.clone()),
                    Err(error) => {
                        lacking += 1;
                        last = Err(error);
                    }
                }
            }
            self.gauges.lacking.store(hurt.len() as u64 + lacking, Ordering::Relaxed);
            match keys.into_iter().next_back() {
                Some(key) => after = Some(key),
                None => break,
            }
        }
        let mut needs = lock(&self.needs);
        needs.hurt.clear();
        needs.again.clear();
        hurt.into_iter().for_each(|key| needs.note_hurt(key));
        // If rows were replaced meanwhile all is to be done again.
        needs.everything.take_if(|of| *of == index && last.is_ok());
        last
    }

    /// The next keys whose values are in chunks.
    pub(super) fn chunked_keys(&self, after: Option<&[u8]>) -> Result<Vec<Vec<u8>>> {
        let (mut from, to) = keys::all_chunked();
        if let Some(after) = after {
            from = keys::chunked(after);
            from.push(0);
        }
        let mut found = Vec::new();
        self.standing.state()?.scan(&from, &to, &mut |row, _| {
            found.extend(keys::chunked_key(row).map(<[u8]>::to_vec));
            if found.len() < PAGE { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(found)
    }

    /// Pulls what the value of `key` lacks here.
    fn look_at(&self, key: &[u8]) -> Result<()> {
        let _reading = self.reading();
        let Some(record) = self.record(key)? else { return Ok(()) };
        let Some(manifest) = record.manifest() else { return Ok(()) };
        let mut lost = None;
        let looked = self.names(&manifest, &mut |names| {
            lost = self.fetch_all(names)?.or(lost.take());
            Ok(())
        });
        let looked = looked.and_then(|()| lost.map_or(Ok(()), Err));
        match looked {
            // It may have been replaced meanwhile, and its chunks removed everywhere.
            Err(_) if self.record(key)?.is_none_or(|now| now.meta.version != record.meta.version) => Ok(()),
            looked => looked,
        }
    }

    /// Pulls what is missing of these, several at once. One that nobody has keeps none of the others waiting: its error is what
    /// is given back.
    fn fetch_all(&self, names: &[Name]) -> Result<Option<Error>> {
        // From here on they stay as long as something refers to them, and no longer.
        let missing: Vec<&Name> = names.iter().filter(|name| !self.blobs.settle(name)).collect();
        let lost = Mutex::new(None);
        self.in_lanes(&missing, &|name| match self.fetch(name) {
            Err(error) if is_lost(&error) => {
                lock(&lost).get_or_insert(error);
                Ok(())
            }
            fetched => fetched,
        })?;
        Ok(lost.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Does `each` for all of these, several at once; after an error begins with no more of them.
    pub(super) fn in_lanes(
        &self,
        names: &[&Name],
        each: &(dyn Fn(&Name) -> Result<()> + Sync),
    ) -> Result<()> {
        let lanes = self.lanes.min(names.len());
        if lanes < 2 {
            return names.iter().try_for_each(|name| each(name));
        }
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let work = || {
            while !failed.load(Ordering::Relaxed) {
                let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                each(name).inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let lanes: Vec<_> = (0..lanes).map(|_| scope.spawn(work)).collect();
            let lost = |_| Err(Error::new(Kind::Failed, "a thread that brings chunks panicked"));
            // All of them are waited for, and the first error is told.
            let done: Vec<Result<()>> =
                lanes.into_iter().map(|lane| lane.join().unwrap_or_else(lost)).collect();
            done.into_iter().collect()
        })
    }

    fn fetch(&self, name: &Name) -> Result<()> {
        self.standing.check_open()?;
        let bytes = self.pull(name)?;
        self.gauges.fetched.fetch_add(1, Ordering::Relaxed);
        self.gauges.fetched_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.put(name, &bytes)?;
        self.blobs.settle(name);
        Ok(())
    }

    /// The record of `key` as it is applied here.
    pub(super) fn record(&self, key: &[u8]) -> Result<Option<Record>> {
        let row = self.standing.state()?.get(&keys::record(key))?;
        match row.map(Record::decode).transpose() {
            Err(error) if error.kind() == Kind::Damaged => {
                if !self.standing.renew(&error) {
                    self.standing.fail(error.clone());
                }
                Err(error)
            }
            record => record,
        }
    }
}

/// True if every other member has said that it does not have the chunk: nobody who joins can be made to wait for it.
fn is_lost(error: &Error) -> bool {
    error.kind() == Kind::Damaged
}

/// Starts the threads of a keeper; they end when its member stops.
pub(super) fn spawn(keeper: &Arc<Keeper>, name: &str, work: fn(&Keeper)) -> Result<()> {
    let keeper = Arc::clone(keeper);
    let spawned = std::thread::Builder::new().name(name.into()).spawn(move || work(&keeper));
    spawned
        .map(drop)
        .map_err(|error| Error::new(Kind::System, "a thread for chunks does not start").cause(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stuck_counts_as_missing_and_what_is_lost_does_not() {
        let mut needs = Needs::default();
        assert_eq!(needs.complete(), u64::MAX);
        needs.keys.push_back((9, b"b".to_vec()));
        needs.stuck.push((7, b"a".to_vec()));
        assert_eq!(needs.complete(), 6);
        needs.stuck.clear();
        needs.note_hurt(b"c".to_vec());
        assert_eq!(needs.complete(), 8);
        needs.keys.clear();
        needs.stuck.extend([(5, b"e".to_vec()), (4, b"d".to_vec())]);
        needs.take_up(Instant::now());
        // What comes meanwhile is missing, whatever is looked at again before.
        needs.keys.push_back((7, b"f".to_vec()));
        let next: Vec<_> = (0..4).map(|_| (needs.complete(), needs.next().unwrap().0)).collect();
        assert_eq!(next, [(3, Some(4)), (4, Some(5)), (6, Some(7)), (u64::MAX, None)]);
        assert_eq!(Needs::everything(5).complete(), 0);
    }
}
