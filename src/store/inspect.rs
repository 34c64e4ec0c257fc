//! A closed data folder, read to its last byte and left exactly as it is: no start is counted, nothing is opened for
//! writing, and LevelDB, which writes to what it opens, is not asked.
//!
//! First the files: the identity, the tables, the write-ahead logs, the files of the Raft log. Then, if the state is whole,
//! what it means: each record against its checksum, and each chunk that a record names against its name.

use super::blobs::{self, Blobs, ChunkFolder, Found};
use super::chunk::{Manifest, Name};
use super::current::Current;
use super::generation::generation_path;
use super::identity::{self, Identity};
use super::record::{self, Record};
use super::rows::ClosedRows;
use super::tables::{self, Left};
use super::{folder, keys, lock, raft_files};
use crate::cluster::verifying::{Findings, Seen};
use crate::error::{Error, Kind, Result};
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

/// What was found in a data folder.
#[derive(Debug, Default, Serialize)]
pub struct Inspection {
    /// The folder.
    pub data: PathBuf,
    /// `master` or `worker`.
    pub role: &'static str,
    /// The index of the node, once it has one.
    pub index: Option<u32>,
    /// Damaged files, and what is wrong with each.
    pub damage: Vec<String>,
    /// What is no damage and should be known.
    pub remarks: Vec<String>,
    /// Records and chunks. None if the state is damaged: then nobody knows which rows count.
    pub findings: Option<Findings>,
    /// Records that do not match their checksums; their keys are among the hurt ones.
    pub rotten_records: u64,
    /// Bytes that were read.
    pub bytes: u64,
}

impl Inspection {
    /// True if nothing is damaged or missing.
    pub fn is_whole(&self) -> bool {
        self.damage.is_empty() && self.findings.as_ref().is_some_and(Findings::is_whole)
    }
}

/// Counts what is read, and tells it.
struct Reading<'a> {
    done: u64,
    total: u64,
    tell: &'a mut dyn FnMut(u64, u64),
}

impl Reading<'_> {
    fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        (self.tell)(self.done, self.total.max(self.done));
    }
}

/// Reads the folder `path`; `tell` hears how many bytes were read, of how many.
///
/// Errors: `Foreign` if it is in use or no data folder, `Damaged` if its identity or `state/CURRENT` is, `System` if it
/// cannot be read.
pub fn inspect(path: &Path, tell: &mut dyn FnMut(u64, u64)) -> Result<Inspection> {
    let path = path.canonicalize().map_err(|cause| super::files::system("read", path, cause))?;
    if !path.join(identity::NAME).exists() {
        let detail = format!("{} is not a catstore data folder", path.display());
        return Err(Error::new(Kind::Foreign, detail).hint("name the folder of a worker with --data"));
    }
    // Held until everything is read.
    let _lock = lock::take_quietly(&path)?;
    let missing = || super::files::damaged(&path.join(identity::NAME), "it is missing");
    let identity = identity::read(&path)?.ok_or_else(missing)?;
    let mut found = Inspection {
        data: path.clone(),
        role: identity.role.word(),
        index: identity.index,
        ..Inspection::default()
    };
    if !identity.stores {
        found.remarks.push("it holds no stores yet".into());
        found.findings = Some(Findings::default());
        return Ok(found);
    }
    let (log, state) = (path.join(folder::LOG), path.join(folder::STATE));
    // The state is read twice: its blocks, and what they mean.
    let total = size_below(&log) + 2 * size_below(&state) + size_below(&path.join(blobs::FOLDER));
    let mut reading = Reading { done: 0, total, tell };
    look_at_log(&log, &identity, &mut found);
    reading.advance(size_below(&log));
    look_at_state(&path, &state, &identity, &mut found, &mut reading)?;
    found.bytes = reading.done;
    Ok(found)
}

fn look_at_log(log: &Path, identity: &Identity, found: &mut Inspection) {
    let damage = match identity.clean {
        Some(_) => raft_files::find_damage(log),
        None => {
            found.remarks.push(
                "it was not closed: the end of the Raft log may be torn, which the next start judges".into(),
            );
            raft_files::find_damage_after_crash(log)
        }
    };
    found.damage.extend(damage.map(|damage| damage.to_string()));
}

fn look_at_state(
    path: &Path,
    state: &Path,
    identity: &Identity,
    found: &mut Inspection,
    reading: &mut Reading<'_>,
) -> Result<()> {
    let live = generation_path(state, Current::read(state)?.live);
    let left = if identity.clean.is_some() { Left::Closed } else { Left::Crashed };
    let rows = match ClosedRows::open(&live, left) {
        Ok(rows) => rows,
        Err(damage) => {
            found.damage.push(damage.to_string());
            return Ok(());
        }
    };
    let mut damage = rows.check_tables(&mut |bytes| reading.advance(bytes));
    let logs = tables::check_write_ahead_logs(&live, left);
    let boot = folder::boot_id();
    let mut with_logs = identity.clean.is_some() || !boot.is_empty() && boot == identity.boot;
    match logs {
        Err(torn) if identity.clean.is_some() => damage.push(torn),
        Err(torn) => {
            found.remarks.push(format!("{torn}; the next start drops it, and the Raft log brings it back"));
            with_logs = false;
        }
        Ok(()) if !with_logs => found.remarks.push(
            "the machine was started anew since: the write-ahead logs are left aside, as the next start does"
                .into(),
        ),
        Ok(()) => {}
    }
    if !damage.is_empty() {
        found.damage.extend(damage.iter().map(ToString::to_string));
        return Ok(());
    }
    let mut check =
        Check { blobs: ChunkFolder::look_at(path), findings: Findings::default(), rotten_records: 0 };
    let mut chunk_bytes = 0;
    let reading = std::cell::RefCell::new(reading);
    rows.visit(with_logs, &mut |bytes| reading.borrow_mut().advance(bytes), &mut |row, value| {
        if let Some(key) = keys::record_key(row) {
            check.record(key, value, &mut |bytes| {
                chunk_bytes += bytes;
                reading.borrow_mut().advance(bytes);
            });
        }
        Ok(())
    })?;
    found.findings = Some(check.findings);
    found.rotten_records = check.rotten_records;
    Ok(())
}

/// What records and chunks are compared with.
struct Check {
    blobs: ChunkFolder,
    findings: Findings,
    rotten_records: u64,
}

impl Check {
    fn record(&mut self, key: &[u8], row: &[u8], read: &mut dyn FnMut(u64)) {
        let record = match Record::decode(row.to_vec()) {
            Ok(record) => record,
            Err(error) => {
                self.rotten_records += 1;
                return self.findings.note_hurt(key, error.detail());
            }
        };
        let record::Meta { in_chunks, size, .. } = record.meta;
        self.findings.note_record(key.len() as u64 + if in_chunks { 0 } else { size });
        let Some(manifest) = record.manifest() else { return };
        if let Err(error) = self.value(&manifest, read) {
            self.findings.note_hurt(key, &error.to_string());
        }
    }

    /// Reads all chunks of a value. Errors: the first that is not whole.
    fn value(&mut self, manifest: &Manifest, read: &mut dyn FnMut(u64)) -> Result<()> {
        let mut outcome = Ok(());
        for (number, name) in manifest.names.iter().enumerate() {
            let checked = self.chunk(name, read).and_then(|bytes| match manifest.depth {
                0 => Ok(()),
                _ => {
                    let mut all = Ok(());
                    for name in manifest.read_node(number, &bytes)? {
                        let checked = self.chunk(&name, read).map(drop);
                        all = all.and(checked);
                    }
                    all
                }
            });
            outcome = outcome.and(checked);
        }
        outcome
    }

    fn chunk(&mut self, name: &Name, read: &mut dyn FnMut(u64)) -> Result<Vec<u8>> {
        let hurt = |what: &str| Error::new(Kind::Damaged, format!("chunk {} is {what}", name.hex()));
        match self.blobs.read(name)? {
            Found::Whole(bytes) => {
                self.findings.note_chunk(Seen::Whole, bytes.len() as u64);
                read(bytes.len() as u64);
                Ok(bytes)
            }
            Found::Rotten => {
                self.findings.note_chunk(Seen::Rotten, 0);
                Err(hurt("rotten"))
            }
            Found::Missing => {
                self.findings.note_chunk(Seen::Missing, 0);
                Err(hurt("missing"))
            }
        }
    }
}

/// Bytes of the files below `folder`; what cannot be read counts as nothing.
fn size_below(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(facts) if facts.is_dir() => size_below(&entry.path()),
            Ok(facts) => facts.len(),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
#[path = "inspect_tests.rs"]
mod tests;
