//! Verification: everything that this member holds is read once. A scan of all rows makes LevelDB check its blocks, and each
//! record is compared with its own checksum; then each chunk that a record names is compared with its name, and one that is
//! rotten or missing is pulled from another member and written anew.
//!
//! It runs on a thread that yields to those that serve, one at a time, and ends when the member stops. Rows are read a page
//! at a time, and the right to read chunks is taken for a stretch of them, so that nobody waits long for it to let go.
//! Where a row is rotten, all rows are pulled anew from whoever leads: which else of them lie is not known. Where nobody
//! else has them the member stops, as always when its store is damaged.

use super::{Keeper, lock};
use crate::cluster::membership::index_of;
use crate::cluster::verifying::{Course, Findings, Seen, Verification};
use crate::error::{Error, Kind, Result};
use crate::replica::shared::yield_to_others;
use crate::store::blobs::Found;
use crate::store::chunk::{Manifest, NODE_NAMES, Name};
use crate::store::{keys, record};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A page of rows ends after so many.
const PAGE_ROWS: u64 = 2000;
/// A page of rows ends after so many bytes.
const PAGE_BYTES: usize = 1 << 20;
/// So many chunks are read under one right to read them.
const STRETCH: u64 = 64;
/// So often a verification has the rows pulled anew.
const MOST_RENEWALS: u64 = 3;
/// How often it looks whether they are here.
const LOOK: Duration = Duration::from_millis(50);
/// After so many chunks of one value that nobody gave, the rest of it is left alone.
const MOST_FAILURES: u32 = 8;
/// How long a member that must stop waits until somebody has heard why.
const LAST_WORD: Duration = Duration::from_secs(2);
/// An end of which nobody has heard is told for so long.
const UNHEARD: Duration = Duration::from_secs(3600);

/// A verification, under way or ended.
#[derive(Debug)]
pub(super) struct Run {
    number: u64,
    began: Instant,
    keys_about: u64,
    bytes_about: u64,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    findings: Findings,
    ended: Option<(Instant, Result<()>)>,
    /// True once somebody was told of the end.
    heard: bool,
}

/// Where the verification of one value stands.
#[derive(Default)]
struct Walk {
    version: Option<u64>,
    /// The number of the next chunk.
    next: u64,
    /// The node that was read last, by its number.
    node: Option<(usize, Vec<Name>)>,
    failures: u32,
    last_error: Option<Error>,
}

/// What a page of rows held.
#[derive(Default)]
struct Page {
    rows: u64,
    weight: usize,
    findings: Findings,
    /// The keys whose values are in chunks.
    chunked: Vec<Vec<u8>>,
    /// The row behind the last one, if the page ended before the rows did.
    next: Option<Vec<u8>>,
    rotten: Option<Error>,
}

impl Run {
    fn note(&self, change: impl FnOnce(&mut Findings)) {
        change(&mut lock(&self.told).findings);
    }

    fn is_over(&self) -> bool {
        lock(&self.told).ended.is_some()
    }

    /// True if it has ended lately, and nobody was told.
    fn is_unheard(&self) -> bool {
        let told = lock(&self.told);
        !told.heard && told.ended.as_ref().is_some_and(|(at, _)| at.elapsed() < UNHEARD)
    }

    fn end(&self, outcome: Result<()>) {
        lock(&self.told).ended = Some((Instant::now(), outcome));
    }

    /// The document; whoever gets the end of it has heard of the end.
    fn tell(&self, worker: u32) -> Verification {
        let mut told = lock(&self.told);
        told.heard |= told.ended.is_some();
        let ended = told.ended.as_ref();
        let error = ended.and_then(|(_, outcome)| outcome.as_ref().err());
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Verification {
            worker,
            number: self.number,
            course: match (ended, error) {
                (None, _) => Course::Running,
                (Some(_), None) => Course::Done,
                (Some(_), Some(_)) => Course::Failed,
            },
            keys_about: self.keys_about,
            bytes_about: self.bytes_about,
            findings: told.findings.clone(),
            milliseconds: milliseconds(
                ended.map_or_else(|| self.began.elapsed(), |(at, _)| *at - self.began),
            ),
            ended_ms: ended.map(|(at, _)| milliseconds(at.elapsed())),
            failure: error.map(|error| error.kind().word().to_owned()),
            error: error.map(Error::to_string),
        }
    }
}

impl Page {
    /// Takes a row; breaks where the page ends.
    fn take(&mut self, row: &[u8], value: &[u8]) -> ControlFlow<()> {
        self.rows += 1;
        self.weight += row.len() + value.len();
        if let Some(key) = keys::record_key(row) {
            let checked = record::decode_meta(value)
                .and_then(|(meta, offset)| record::check(value, &meta, offset).map(|()| meta));
            match checked {
                Ok(meta) if meta.in_chunks => {
                    self.findings.note_record(key.len() as u64);
                    self.chunked.push(key.to_vec());
                }
                Ok(meta) => self.findings.note_record(key.len() as u64 + meta.size),
                Err(error) => {
                    self.rotten = Some(rotten_record(key, &error));
                    return ControlFlow::Break(());
                }
            }
        }
        if self.rows < PAGE_ROWS && self.weight < PAGE_BYTES {
            return ControlFlow::Continue(());
        }
        self.next = Some([row, &[0]].concat());
        ControlFlow::Break(())
    }
}

fn rotten_record(key: &[u8], error: &Error) -> Error {
    let shown: String = String::from_utf8_lossy(key).chars().take(100).collect();
    let detail = format!("the record of the key {} is rotten: {}", shown.escape_debug(), error.detail());
    Error::new(Kind::Damaged, detail)
        .hint("put another worker in this one's place with --replace IDX, or see docs/operations.md, Backup")
}

impl Keeper {
    /// Begins a verification and says how far it is. One that is under way goes on, and one that has ended without
    /// anybody hearing of it is told instead. `keys_about` and `bytes_about` are what there is to read, about.
    ///
    /// Errors: `System` if no thread starts, `Closed`, `Failed`.
    pub fn verify(self: &Arc<Keeper>, keys_about: u64, bytes_about: u64) -> Result<Verification> {
        self.standing.check_open()?;
        let mut last = lock(&self.verification);
        if let Some(run) = last.as_ref().filter(|run| !run.is_over() || run.is_unheard()) {
            return Ok(run.tell(self.index()));
        }
        let run = Arc::new(Run {
            number: last.as_ref().map_or(1, |run| run.number + 1),
            began: Instant::now(),
            keys_about,
            bytes_about,
            told: Mutex::default(),
        });
        let (keeper, running) = (Arc::clone(self), Arc::clone(&run));
        std::thread::Builder::new()
            .name("verifier".into())
            .spawn(move || keeper.run_verification(&running))
            .map_err(|error| {
                Error::new(Kind::System, "a thread that verifies does not start").cause(error)
            })?;
        let document = run.tell(self.index());
        *last = Some(run);
        Ok(document)
    }

    /// How far the verification under way is, or how the last one ended; none if there was none since the member was
    /// opened.
    pub fn verification(&self) -> Option<Verification> {
        lock(&self.verification).as_ref().map(|run| run.tell(self.index()))
    }

    fn index(&self) -> u32 {
        index_of(self.own.id).unwrap_or_default()
    }

    fn run_verification(&self, run: &Run) {
        yield_to_others();
        let panicked =
            || Err(Error::new(Kind::Failed, "the verification came to an end that nobody expected"));
        let outcome =
            catch_unwind(AssertUnwindSafe(|| self.verify_everything(run))).unwrap_or_else(|_| panicked());
        let findings = lock(&run.told).findings.clone();
        let Findings { keys, chunks, mended, hurt, .. } = findings;
        match &outcome {
            Ok(()) if hurt == 0 => log::info!("{keys} keys and {chunks} chunks verified, {mended} mended"),
            Ok(()) => {
                log::error!("{keys} keys and {chunks} chunks verified, {mended} mended: {hurt} keys are hurt")
            }
            Err(error) => log::warn!("the verification ended early: {error}"),
        }
        let damage =
            outcome.as_ref().err().filter(|error| matches!(error.kind(), Kind::Damaged | Kind::Failed));
        let damage = damage.cloned();
        run.end(outcome);
        let Some(damage) = damage else { return };
        // Whoever follows it is told why before the process ends.
        let ended = Instant::now();
        while !lock(&run.told).heard && ended.elapsed() < LAST_WORD && self.standing.check_open().is_ok() {
            self.standing.sleep(LAST_WORD / 100);
        }
        if self.standing.check_open().is_ok() {
            self.standing.fail(damage);
        }
    }

    fn verify_everything(&self, run: &Run) -> Result<()> {
        let (mut from, mut renewals) = (Vec::new(), 0);
        loop {
            match self.verify_page(&from, run) {
                Ok(Some(next)) => from = next,
                Ok(None) => return Ok(()),
                Err(error) if renewals < MOST_RENEWALS && self.standing.renew(&error) => {
                    renewals += 1;
                    self.await_renewal()?;
                    run.note(Findings::note_renewed);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads and checks the next rows, and the chunks that they name; where the rows behind them begin.
    fn verify_page(&self, from: &[u8], run: &Run) -> Result<Option<Vec<u8>>> {
        let page = self.verify_rows(from, run)?;
        for key in &page.chunked {
            self.verify_value(key, run)?;
        }
        Ok(page.next)
    }

    /// Errors: the member has stopped, since nobody gave it rows.
    fn await_renewal(&self) -> Result<()> {
        while self.standing.renews() {
            self.standing.check_open()?;
            self.standing.sleep(LOOK);
        }
        self.standing.check_open()
    }

    /// Reads and checks the next rows. Errors: those of the state.
    fn verify_rows(&self, from: &[u8], run: &Run) -> Result<Page> {
        self.standing.check_open()?;
        let mut page = Page::default();
        let scanned =
            self.standing.state()?.scan(from, &keys::end(), &mut |row, value| page.take(row, value));
        scanned.and(page.rotten.take().map_or(Ok(()), Err))?;
        run.note(|findings| {
            findings.keys += page.findings.keys;
            findings.bytes += page.findings.bytes;
        });
        Ok(page)
    }

    /// Checks and mends the chunks of the value of `key`. Errors: those of the state.
    fn verify_value(&self, key: &[u8], run: &Run) -> Result<()> {
        let mut walk = Walk::default();
        loop {
            self.standing.check_open()?;
            // Before the record is read: from here on its chunks stay.
            let _reading = self.reading();
            let Some(record) = self.record(key)? else { return Ok(()) };
            let Some(manifest) = record.manifest() else { return Ok(()) };
            // Another value: it was checked when it came.
            if walk.version.replace(record.meta.version).is_some_and(|before| before != record.meta.version) {
                return Ok(());
            }
            self.verify_stretch(&manifest, &mut walk, run);
            if walk.next >= manifest.chunks() || walk.failures >= MOST_FAILURES {
                break;
            }
        }
        let Some(error) = walk.last_error else { return Ok(()) };
        self.standing.check_open()?;
        // It may have been replaced meanwhile, and its chunks removed everywhere.
        if self.record(key)?.is_some_and(|now| Some(now.meta.version) == walk.version) {
            run.note(|findings| findings.note_hurt(key, &error.to_string()));
        }
        Ok(())
    }

    fn verify_stretch(&self, manifest: &Manifest, walk: &mut Walk, run: &Run) {
        let until = walk.next.saturating_add(STRETCH).min(manifest.chunks());
        while walk.next < until && walk.failures < MOST_FAILURES && self.standing.check_open().is_ok() {
            let checked = match self.name_of(manifest, walk, run) {
                Ok(name) => {
                    walk.next += 1;
                    self.verify_chunk(&name, run).map(drop)
                }
                Err(error) => {
                    // Nobody knows what its node names.
                    walk.next = (walk.next / NODE_NAMES as u64 + 1) * NODE_NAMES as u64;
                    Err(error)
                }
            };
            if let Err(error) = checked {
                walk.failures += 1;
                walk.last_error = Some(error);
            }
        }
    }

    /// The name of the next chunk; its node is checked too.
    fn name_of(&self, manifest: &Manifest, walk: &mut Walk, run: &Run) -> Result<Name> {
        let short = || Error::new(Kind::Damaged, "a manifest names too few chunks");
        if manifest.depth == 0 {
            return manifest.names.get(walk.next as usize).copied().ok_or_else(short);
        }
        let number = (walk.next / NODE_NAMES as u64) as usize;
        if walk.node.as_ref().is_none_or(|(known, _)| *known != number) {
            let bytes = self.verify_chunk(manifest.names.get(number).ok_or_else(short)?, run)?;
            walk.node = Some((number, manifest.read_node(number, &bytes)?));
        }
        let names = walk.node.as_ref().map(|(_, names)| names).ok_or_else(short)?;
        names.get((walk.next % NODE_NAMES as u64) as usize).copied().ok_or_else(short)
    }

    /// Reads a chunk, and mends it if it is not whole. Errors: it could not be mended.
    fn verify_chunk(&self, name: &Name, run: &Run) -> Result<Vec<u8>> {
        let seen = match self.look(name)? {
            Found::Whole(bytes) => {
                run.note(|findings| findings.note_chunk(Seen::Whole, bytes.len() as u64));
                return Ok(bytes);
            }
            Found::Rotten => Seen::Rotten,
            Found::Missing => Seen::Missing,
        };
        run.note(|findings| findings.note_chunk(seen, 0));
        let bytes = self.pull(name)?;
        self.put(name, &bytes)?;
        self.gauges.mended.fetch_add(1, Ordering::Relaxed);
        run.note(|findings| {
            findings.note_mended();
            findings.bytes += bytes.len() as u64;
        });
        Ok(bytes)
    }
}

#[cfg(test)]
#[path = "verifying_tests.rs"]
mod tests;
