//! The collector: removes chunks that nothing refers to.
//!
//! One round: the ledger begins to gather what comes; then every chunk that a value of the state names is noted, and those
//! that are not are candidates if no upload holds them and nobody touched them for a while. Whoever began to read a value
//! before that, be it before an earlier round that was given up, must have ended; who begins later finds one that was
//! noted. Then the candidates are removed, each batch under the ledger's lock, after what came meanwhile was noted too: an
//! entry that is applied, or an upload that finds its chunk here, comes before or after a removal, never in the middle.

use super::talk::{self, Question};
use super::{Keeper, lock};
use crate::error::{Error, Kind, Result};
use crate::replica::shared::yield_to_others;
use crate::store::chunk::Name;
use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// A round begins so often, if anything may have become free.
const EVERY: Duration = Duration::from_secs(5);
/// A round takes at most one part in so many of the time.
const PART: u32 = 30;
/// An upload of which nothing was heard for so long is over, at least: a client may take long for a chunk.
const FORGOTTEN: Duration = Duration::from_secs(20);
/// So many candidates at most in one round.
const MOST: usize = 200_000;
/// So many chunks are removed under one lock.
const REMOVED_AT_ONCE: usize = 8;
/// So long a round waits for readers. Meanwhile it costs something: what is written is noted.
const READERS: Duration = Duration::from_secs(600);
const POLL: Duration = Duration::from_millis(20);

/// What a round did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Chunks that were looked at.
    pub seen: u64,
    /// Chunks that were removed.
    pub removed: u64,
    /// Chunks that nothing names and that stay for now: they are too young, or held by uploads.
    pub left: u64,
}

/// A round that has found what may be removed.
pub struct Round {
    /// By [`Name::short`].
    named: HashSet<u64>,
    candidates: Vec<Name>,
    seen: u64,
    unnamed: u64,
    readers: Vec<Weak<()>>,
}

impl Round {
    /// True while somebody reads who began before all was found.
    pub fn is_read(&self) -> bool {
        self.readers.iter().any(|readers| readers.strong_count() > 0)
    }
}

/// Who reads.
#[derive(Debug, Default)]
pub(super) struct Readers {
    /// Held by those who began after the last round had found what may be removed.
    pub(super) now: Arc<()>,
    /// Held by those who began before.
    before: Vec<Weak<()>>,
}

impl Readers {
    /// From here on others count as those who read now. Returns all who began before.
    fn part(&mut self) -> Vec<Weak<()>> {
        let readers = std::mem::take(&mut self.now);
        self.before.push(Arc::downgrade(&readers));
        drop(readers);
        self.before.retain(|readers| readers.strong_count() > 0);
        self.before.clone()
    }
}

impl Keeper {
    pub(super) fn collect_until_closed(&self) {
        yield_to_others();
        let (mut pause, mut said) = (EVERY, String::new());
        while self.standing.check_open().is_ok() {
            self.wait(pause);
            if self.standing.check_open().is_err() {
                return;
            }
            self.expire_uploads(self.keep.max(FORGOTTEN));
            let began = Instant::now();
            // What comes while the round looks is for the next one.
            if !self.stirred.swap(false, Ordering::AcqRel) {
                continue;
            }
            self.hear_of_uploads();
            let mut waited = Duration::ZERO;
            match self.collect(self.keep, &mut waited) {
                Ok(done) => {
                    if done.removed > 0 {
                        log::info!("{} chunks of {} were removed", done.removed, done.seen);
                    }
                    if done.left > 0 {
                        self.stir();
                    }
                }
                Err(error) => {
                    // Whoever goes through all rows is the first to find what is rotten.
                    if let Some(damage) = self.standing.state().ok().and_then(|state| state.failure()) {
                        self.standing.renew(&damage);
                    }
                    let says = error.to_string();
                    match says == said || error.kind() == Kind::Overloaded {
                        true => log::debug!("chunks are not collected now: {says}"),
                        false => log::warn!("chunks are not collected now: {says}"),
                    }
                    said = says;
                    self.stir();
                }
            }
            // A round must not take more than a small part of the time.
            pause = EVERY.max(PART * began.elapsed().saturating_sub(waited));
        }
    }

    /// Asks the leader which uploads are under way, if that would free something.
    pub fn hear_of_uploads(&self) {
        let status = self.standing.status();
        let leader = status.leader;
        if leader == 0 || !lock(&self.ledger).is_curious() {
            return;
        }
        if leader == self.own.id {
            // A lone voter may have begun its term before its ledger was there.
            if self.standing.may_read() {
                lock(&self.ledger).hear_oneself(status.term);
            }
            return;
        }
        let word = self.ask(leader, &Question::Word.encode()).and_then(|word| talk::decode_word(&word));
        match word {
            Ok(word) => lock(&self.ledger).hear(word),
            Err(error) => log::debug!("the leader does not say which uploads are under way: {error}"),
        }
    }

    /// One round; chunks that were touched less than `keep` ago stay. Adds how long it waited for readers. Errors: `Overloaded` if
    /// it had to be given up, and the disk's.
    fn collect(&self, keep: Duration, waited: &mut Duration) -> Result<Collected> {
        let done = self.collect_once(keep, waited);
        // Whatever came of it: what is gathered for a round costs the replica's thread reads.
        lock(&self.ledger).end_collection();
        done
    }

    fn collect_once(&self, keep: Duration, waited: &mut Duration) -> Result<Collected> {
        // One that must wait may have something to remove later.
        let Some(mut round) = self.begin_round(keep)? else {
            return Ok(Collected { left: 1, ..Collected::default() });
        };
        if round.candidates.is_empty() {
            return Ok(Collected { seen: round.seen, removed: 0, left: round.unnamed });
        }
        while *waited < READERS {
            if !round.is_read() {
                return self.end_round(&mut round);
            }
            self.standing.check_open()?;
            self.standing.sleep(POLL);
            *waited += POLL;
        }
        Err(Error::new(Kind::Overloaded, "somebody still reads"))
    }

    /// Finds what may be removed; none if nothing can be before more is heard of the leader.
    pub fn begin_round(&self, keep: Duration) -> Result<Option<Round>> {
        {
            let mut ledger = lock(&self.ledger);
            if ledger.waits() {
                return Ok(None);
            }
            ledger.begin_collection();
        }
        let mut named = HashSet::new();
        let mut after = None;
        loop {
            let keys = self.chunked_keys(after.as_deref())?;
            for key in &keys {
                self.standing.check_open()?;
                self.note_names(key, &mut named).map_err(|error| unnamed(key, error))?;
            }
            match keys.into_iter().next_back() {
                Some(key) => after = Some(key),
                None => break,
            }
        }
        let mut round = Round { named, candidates: Vec::new(), seen: 0, unnamed: 0, readers: Vec::new() };
        self.find_candidates(&mut round, keep)?;
        round.readers = lock(&self.readers).part();
        Ok(Some(round))
    }

    /// Removes what a round found, once nobody reads who began before it: [`Round::is_read`]. Errors: `Overloaded` if all
    /// rows changed meanwhile, and the disk's.
    pub fn end_round(&self, round: &mut Round) -> Result<Collected> {
        let mut removed = 0;
        for batch in std::mem::take(&mut round.candidates).chunks(REMOVED_AT_ONCE) {
            removed += self.remove(batch, &mut round.named)?;
        }
        self.gauges.collected.fetch_add(removed, Ordering::Relaxed);
        lock(&self.ledger).end_collection();
        Ok(Collected { seen: round.seen, removed, left: round.unnamed.saturating_sub(removed) })
    }

    /// These keys got values in chunks while a collection is under way. Somebody may read them even if they are replaced
    /// before it ends. What cannot be read is nobody's to read here.
    pub(super) fn note_meanwhile(&self, chunked: &[Vec<u8>]) {
        let manifests = chunked.iter().filter_map(|key| self.record(key).ok()??.manifest());
        for manifest in manifests {
            lock(&self.ledger).note_named(&manifest.names);
            for (number, node) in manifest.names.iter().enumerate().filter(|_| manifest.depth > 0) {
                let names = self.read_here(node).ok().flatten();
                if let Some(names) = names.and_then(|bytes| manifest.read_node(number, &bytes).ok()) {
                    lock(&self.ledger).note_named(&names);
                }
            }
        }
    }

    fn note_names(&self, key: &[u8], named: &mut HashSet<u64>) -> Result<()> {
        let Some(manifest) = self.record(key)?.and_then(|record| record.manifest()) else { return Ok(()) };
        self.names(&manifest, &mut |names| {
            named.extend(names.iter().map(Name::short));
            Ok(())
        })
    }

    fn find_candidates(&self, round: &mut Round, keep: Duration) -> Result<()> {
        let Round { named, candidates, seen, unnamed, .. } = round;
        for first in 0..=u8::MAX {
            self.standing.check_open()?;
            self.blobs.each(first, &mut |name, age| {
                *seen += 1;
                if named.contains(&name.short()) {
                    return;
                }
                *unnamed += 1;
                if age >= keep && candidates.len() < MOST {
                    candidates.push(name);
                }
            })?;
        }
        Ok(())
    }

    fn remove(&self, batch: &[Name], named: &mut HashSet<u64>) -> Result<u64> {
        loop {
            let touched = {
                let mut ledger = lock(&self.ledger);
                match ledger.take_touched() {
                    None => return Err(Error::new(Kind::Overloaded, "all rows changed meanwhile")),
                    Some(touched) if touched.is_empty() => {
                        let free =
                            batch.iter().filter(|name| !named.contains(&name.short()) && !ledger.holds(name));
                        let mut removed = 0;
                        for name in free {
                            self.blobs.remove(name)?;
                            removed += 1;
                        }
                        return Ok(removed);
                    }
                    Some(touched) => touched,
                }
            };
            for key in touched {
                self.note_names(&key, named)?;
            }
        }
    }
}

/// The error for a value that does not tell which chunks it needs: until it does, none is removed.
fn unnamed(key: &[u8], error: Error) -> Error {
    let detail = format!("the chunks of {} are not known: {}", key.escape_ascii(), error.detail());
    Error::new(error.kind(), detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reads_is_waited_for_by_every_later_round() {
        let mut readers = Readers::default();
        let round = |readers: &mut Readers| Round {
            named: HashSet::new(),
            candidates: Vec::new(),
            seen: 0,
            unnamed: 0,
            readers: readers.part(),
        };
        assert!(!round(&mut readers).is_read());
        let slow = readers.now.clone();
        assert!(round(&mut readers).is_read(), "this one is given up");
        let later = readers.now.clone();
        let next = round(&mut readers);
        drop(later);
        assert!(next.is_read(), "the first still reads");
        let after = readers.now.clone();
        drop(slow);
        assert!(!next.is_read(), "who began later is not waited for");
        drop(after);
    }
}
