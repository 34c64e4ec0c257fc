//! The Raft log on raft-engine: beside `zero_filled.rs` the only file that names that crate.
//!
//! raft-engine panics where it cannot go on (a failed fsync, a hole between entries): every call is caught, and the
//! first error of a write latches. It needs unwinding: a build with `panic = "abort"` would lose the error.

use super::files;
use super::log::{LogWrite, RaftLog};
use super::recent::Recent;
use super::zero_filled::ZeroFilled;
use crate::error::{Error, Kind, Result};
use ::raft_engine::{Command, Config, Engine, LogBatch, MessageExt, ReadableSize, RecoveryMode};
use protobuf::Message;
use raft::eraftpb::{ConfState, Entry, HardState};
use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The largest entry, in bytes of its data and context.
pub const MAX_ENTRY: usize = 16 << 20;

const REGION: u64 = 1;
const FILE_BYTES: u64 = 32 << 20;
const PURGE_BYTES: u64 = 64 << 20;
/// Entries are read back in pieces of about this size when the log is opened.
const READ_BYTES: u64 = 1 << 20;

const HARD_STATE: &[u8] = b"h";
const MEMBERSHIP: &[u8] = b"m";
const TRUNCATED: &[u8] = b"t";
/// (index, term) of the last entry, in every batch that changes it: what raft-engine brings back beyond it was
/// forgotten by `reset`, what it lacks before it is damage.
const LAST: &[u8] = b"l";

/// raft-engine on our files.
type Log = Engine<ZeroFilled>;

struct Entries;

impl MessageExt for Entries {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

/// What a log that is cut or reset begins with.
struct Start {
    truncated: (u64, u64),
    last: (u64, u64),
    hard_state: HardState,
    membership: (ConfState, u64),
}

/// The Raft log of one member, on raft-engine.
pub struct EngineLog {
    engine: ManuallyDrop<Log>,
    folder: PathBuf,
    /// Tells this log from others that a thread reads.
    id: u64,
    truncated: (u64, u64),
    last: (u64, u64),
    hard_state: HardState,
    membership: (ConfState, u64),
    recent: Recent,
    syncs: u64,
    failure: Option<Error>,
}

impl EngineLog {
    /// Opens the log in `folder`, or makes an empty one in an empty folder, and reads every entry once: damage
    /// before the tail shows here.
    ///
    /// Errors: [`Kind::Damaged`] naming the folder, [`Kind::System`] if it cannot be used.
    pub fn open(folder: &Path) -> Result<EngineLog> {
        EngineLog::open_sized(folder, FILE_BYTES, PURGE_BYTES)
    }

    /// As [`EngineLog::open`], with files of `file` bytes, purged beyond `purge` bytes.
    pub(super) fn open_sized(folder: &Path, file: u64, purge: u64) -> Result<EngineLog> {
        let engine = open_engine(folder, file, purge)?;
        // raft-engine does not sync the names of the first files that it makes.
        files::sync_folder(folder)?;
        let pair = |key| -> Result<(u64, u64)> {
            match engine.get(REGION, key) {
                None => Ok((0, 0)),
                Some(bytes) => {
                    decode_pair(&bytes).ok_or_else(|| files::damaged(folder, "a position has no form"))
                }
            }
        };
        let (truncated, last) = (pair(TRUNCATED)?, pair(LAST)?);
        let hard_state = message::<HardState>(&engine, HARD_STATE, folder)?.unwrap_or_default();
        let membership = match engine.get(REGION, MEMBERSHIP) {
            None => (ConfState::default(), 0),
            Some(bytes) => decode_membership(&bytes)
                .ok_or_else(|| files::damaged(folder, "the membership has no form"))?,
        };
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let mut log = EngineLog {
            engine: ManuallyDrop::new(engine),
            folder: folder.to_owned(),
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            truncated,
            last,
            hard_state,
            membership,
            recent: Recent::new(truncated),
            syncs: 0,
            failure: None,
        };
        log.read_all()?;
        Ok(log)
    }

    /// Syncs what was written and closes the files.
    pub fn close(mut self) -> Result<()> {
        let batch = LogBatch::default();
        self.put(batch, true)
    }

    /// Reads every entry: fills the terms, finds damage and holes.
    fn read_all(&mut self) -> Result<()> {
        if self.last.0 < self.truncated.0 {
            return Err(files::damaged(&self.folder, "its last entry lies before its first"));
        }
        let (first, last) = (self.truncated.0 + 1, self.last.0);
        if first <= last {
            let kept = (self.engine.first_index(REGION), self.engine.last_index(REGION));
            if !matches!(kept, (Some(low), Some(high)) if low <= first && last <= high) {
                let reason = format!("entries {first} to {last} should be there, found {kept:?}");
                return Err(files::damaged(&self.folder, reason));
            }
        }
        if let (true, Some(high)) = (first > last, self.engine.last_index(REGION)) {
            // Entries that were forgotten came back with an old file: they must not look like a beginning.
            let mut batch = LogBatch::default();
            batch.add_command(REGION, Command::Compact { index: high + 1 });
            self.put(batch, true)?;
        }
        let mut next = first;
        let mut term = self.truncated.1;
        while next <= last {
            for entry in self.read(next, last + 1, READ_BYTES)? {
                if entry.index != next || entry.term < term {
                    return Err(files::damaged(&self.folder, format!("entry {next} is not in its place")));
                }
                (next, term) = (entry.index + 1, entry.term);
                self.recent.append(vec![entry]);
            }
        }
        if term != self.last.1 {
            return Err(files::damaged(&self.folder, format!("entry {last} has another term than noted")));
        }
        Ok(())
    }

    /// Reads entries from the files.
    fn read(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>> {
        let fetch = || {
            let mut entries = Vec::new();
            let max_bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX);
            self.engine
                .fetch_entries_to::<Entries>(REGION, low, high, Some(max_bytes), &mut entries)
                .map(|_| entries)
        };
        let caught = || catch_unwind(AssertUnwindSafe(fetch));
        // raft-engine keeps the last block that a thread read, under the block's place in a file, whichever log the
        // file belongs to. A thread that read another log reads this one on a new thread.
        thread_local!(static LAST_READ: Cell<u64> = const { Cell::new(0) });
        let result = if matches!(LAST_READ.get(), 0) || LAST_READ.get() == self.id {
            LAST_READ.set(self.id);
            caught()
        } else {
            std::thread::scope(|scope| scope.spawn(caught).join().and_then(|result| result))
        };
        match result {
            Ok(Ok(entries)) if entries.is_empty() => {
                Err(files::damaged(&self.folder, format!("entry {low} is missing")))
            }
            Ok(Ok(entries)) => Ok(entries),
            Ok(Err(::raft_engine::Error::Io(cause))) => {
                let detail = format!("cannot read the log in {}", self.folder.display());
                Err(Error::new(Kind::Failed, detail).cause(cause))
            }
            Ok(Err(error)) => Err(files::damaged(&self.folder, error)),
            Err(_) => Err(files::damaged(&self.folder, format!("entry {low} cannot be read"))),
        }
    }

    /// Writes a batch, together with the position of the last entry if it would be empty: an empty batch is not
    /// even synced.
    fn put(&mut self, mut batch: LogBatch, sync: bool) -> Result<()> {
        if let Some(error) = &self.failure {
            let detail = format!("{} failed earlier and is not written any more", self.folder.display());
            return Err(Error::new(Kind::Failed, detail).cause(error.clone()));
        }
        let write = || -> ::raft_engine::Result<()> {
            if batch.is_empty() {
                batch.put(REGION, LAST.to_vec(), encode_pair(self.last))?;
            }
            self.engine.write(&mut batch, sync).map(drop)
        };
        let result = catch_unwind(AssertUnwindSafe(write));
        self.settle(result)?;
        self.syncs += u64::from(sync);
        Ok(())
    }

    /// Latches if `result` is an error or a panic.
    fn settle<T>(&mut self, result: std::thread::Result<::raft_engine::Result<T>>) -> Result<T> {
        let reason = match result {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic_text(&*panic),
        };
        let detail = format!("cannot write the log in {}: {reason}", self.folder.display());
        let error = Error::new(Kind::Failed, detail).hint("check the disk, then start again");
        log::error!("{error}");
        self.failure = Some(error.clone());
        Err(error)
    }

    /// Refuses what raft-engine would panic at, before anything is written.
    fn check(&self, entries: &[Entry]) -> Result<()> {
        let Some(first) = entries.first() else {
            return Ok(());
        };
        if first.index <= self.truncated.0 || first.index > self.last.0 + 1 {
            let detail = format!(
                "entry {} does not follow the log in {}, which has {} to {}",
                first.index,
                self.folder.display(),
                self.truncated.0 + 1,
                self.last.0
            );
            return Err(Error::new(Kind::Failed, detail));
        }
        for (expected, entry) in (first.index..).zip(entries) {
            if entry.index != expected {
                return Err(Error::new(Kind::Failed, format!("entry {expected} is missing in a write")));
            }
            let size = entry.data.len() + entry.context.len();
            if size > MAX_ENTRY {
                let detail = format!("an entry of {size} bytes is larger than {MAX_ENTRY}");
                return Err(Error::new(Kind::TooLarge, detail));
            }
        }
        Ok(())
    }

    /// Writes `start`, synced. `forget` is the first index that raft-engine keeps. All key-values are written anew, so
    /// that none holds an old file.
    fn restart(&mut self, start: Start, forget: u64) -> Result<()> {
        let Start { truncated, last, hard_state, membership } = start;
        let mut batch = LogBatch::default();
        batch.add_command(REGION, Command::Compact { index: forget });
        let pairs = [
            (TRUNCATED, encode_pair(truncated)),
            (LAST, encode_pair(last)),
            (HARD_STATE, encode(&hard_state)?),
            (MEMBERSHIP, encode_membership(&membership)?),
        ];
        for (key, value) in pairs {
            batch.put(REGION, key.to_vec(), value).map_err(unencodable)?;
        }
        self.put(batch, true)?;
        (self.truncated, self.last) = (truncated, last);
        (self.hard_state, self.membership) = (hard_state, membership);
        let purged = catch_unwind(AssertUnwindSafe(|| self.engine.purge_expired_files()));
        self.settle(purged).map(drop)
    }
}

impl RaftLog for EngineLog {
    fn truncated(&self) -> (u64, u64) {
        self.truncated
    }

    fn last_index(&self) -> u64 {
        self.last.0
    }

    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>> {
        let high = high.min(self.last.0 + 1);
        if low <= self.truncated.0 || low >= high {
            return Ok(Vec::new());
        }
        match self.recent.entries(low, high, max_bytes) {
            Some(entries) => Ok(entries),
            None => self.read(low, high, max_bytes),
        }
    }

    fn term(&self, index: u64) -> Result<Option<u64>> {
        Ok(if index <= self.last.0 { self.recent.term(index) } else { None })
    }

    fn hard_state(&self) -> HardState {
        self.hard_state.clone()
    }

    fn membership(&self) -> (ConfState, u64) {
        self.membership.clone()
    }

    fn write(&mut self, write: LogWrite) -> Result<()> {
        self.check(&write.entries)?;
        let mut batch = LogBatch::default();
        let mut last = self.last;
        if let Some(entry) = write.entries.last() {
            last = (entry.index, entry.term);
            // raft-engine forgets entries at and behind the first of these, in the same batch.
            batch.add_entries::<Entries>(REGION, &write.entries).map_err(unencodable)?;
            batch.put(REGION, LAST.to_vec(), encode_pair(last)).map_err(unencodable)?;
        }
        if let Some(hard_state) = &write.hard_state {
            batch.put(REGION, HARD_STATE.to_vec(), encode(hard_state)?).map_err(unencodable)?;
        }
        if let Some(membership) = &write.membership {
            batch.put(REGION, MEMBERSHIP.to_vec(), encode_membership(membership)?).map_err(unencodable)?;
        }
        if batch.is_empty() && !write.sync {
            return Ok(());
        }
        self.put(batch, write.sync)?;
        self.last = last;
        self.recent.append(write.entries);
        self.hard_state = write.hard_state.unwrap_or_else(|| std::mem::take(&mut self.hard_state));
        self.membership = write.membership.unwrap_or_else(|| std::mem::take(&mut self.membership));
        Ok(())
    }

    fn cut(&mut self, index: u64) -> Result<()> {
        let index = index.min(self.last.0);
        let Some(term) = self.recent.term(index).filter(|_| index > self.truncated.0) else {
            return Ok(());
        };
        let (hard_state, membership) = (self.hard_state.clone(), self.membership.clone());
        let start = Start { truncated: (index, term), last: self.last, hard_state, membership };
        self.restart(start, index + 1)?;
        self.recent.cut(index);
        Ok(())
    }

    fn reset(&mut self, index: u64, term: u64, membership: (ConfState, u64)) -> Result<()> {
        let kept = self.engine.last_index(REGION).unwrap_or(0);
        let mut hard_state = self.hard_state.clone();
        hard_state.commit = hard_state.commit.max(index);
        let start = Start { truncated: (index, term), last: (index, term), hard_state, membership };
        self.restart(start, kept.max(index) + 1)?;
        self.recent = Recent::new((index, term));
        Ok(())
    }

    fn syncs(&self) -> u64 {
        self.syncs
    }

    fn bytes(&self) -> u64 {
        // raft-engine itself counts every file as a full one.
        let sizes = |folder: std::fs::ReadDir| {
            folder
                .filter_map(|entry| entry.and_then(|entry| entry.metadata()).ok())
                .map(|file| file.len())
                .sum()
        };
        std::fs::read_dir(&self.folder).map_or(0, sizes)
    }
}

impl Drop for EngineLog {
    fn drop(&mut self) {
        if self.failure.is_some() {
            // Closing syncs both queues, and raft-engine panics where a sync fails: two panics at once would end the
            // process without a word. The files stay open until it ends by itself.
            return;
        }
        // SAFETY: `drop` runs once, and nothing reads `engine` after it.
        let engine = unsafe { ManuallyDrop::take(&mut self.engine) };
        if catch_unwind(AssertUnwindSafe(|| drop(engine))).is_err() {
            log::error!("the log in {} was not closed cleanly", self.folder.display());
        }
    }
}

fn open_engine(folder: &Path, file: u64, purge: u64) -> Result<Log> {
    let Some(path) = folder.to_str() else {
        let detail = format!("the folder {} is not UTF-8, which raft-engine needs", folder.display());
        return Err(Error::new(Kind::System, detail).hint("choose another --data"));
    };
    let config = Config {
        dir: path.to_owned(),
        recovery_mode: RecoveryMode::TolerateTailCorruption,
        // One thread replays the files in order. More would be faster with many files, of which there are few.
        recovery_threads: 1,
        // Values are often compressed already, and the entries are read back soon.
        batch_compression_threshold: ReadableSize(0),
        target_file_size: ReadableSize(file),
        purge_threshold: ReadableSize(purge),
        // Recycling writes over old files: a sync need not write a new file's size and blocks, which is faster, but
        // old batches then lie behind the tail, and the disk space never shrinks. `ZeroFilled` gains the same without that.
        enable_log_recycle: false,
        ..Config::default()
    };
    match catch_unwind(AssertUnwindSafe(|| Engine::open_with_file_system(config, Arc::new(ZeroFilled)))) {
        Ok(Ok(engine)) => Ok(engine),
        // A file that is not the last one is opened for reading only; raft-engine tries to cut damage off its end.
        Ok(Err(::raft_engine::Error::Io(cause))) if cause.to_string() != "ftruncate" => {
            Err(files::system("open the log in", folder, cause))
        }
        Ok(Err(::raft_engine::Error::Other(cause))) => {
            Err(Error::new(Kind::System, format!("cannot open the log in {}: {cause}", folder.display())))
        }
        Ok(Err(error)) => Err(files::damaged(folder, error)),
        Err(panic) => Err(files::damaged(folder, panic_text(&*panic))),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("raft-engine gave up without a reason").to_owned()
}

fn unencodable(error: ::raft_engine::Error) -> Error {
    Error::new(Kind::Failed, format!("raft-engine does not take a write: {error}"))
}

pub(super) fn encode(message: &impl Message) -> Result<Vec<u8>> {
    message
        .write_to_bytes()
        .map_err(|cause| Error::new(Kind::Failed, "cannot encode a message for the log").cause(cause))
}

fn message<M: Message>(engine: &Log, key: &[u8], folder: &Path) -> Result<Option<M>> {
    engine.get_message(REGION, key).map_err(|error| files::damaged(folder, error))
}

fn encode_pair((index, term): (u64, u64)) -> Vec<u8> {
    [index.to_le_bytes(), term.to_le_bytes()].concat()
}

fn decode_pair(bytes: &[u8]) -> Option<(u64, u64)> {
    let (index, term) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*index), u64::from_le_bytes(term.try_into().ok()?)))
}

fn encode_membership((membership, index): &(ConfState, u64)) -> Result<Vec<u8>> {
    let mut bytes = index.to_le_bytes().to_vec();
    bytes.extend_from_slice(&encode(membership)?);
    Ok(bytes)
}

fn decode_membership(bytes: &[u8]) -> Option<(ConfState, u64)> {
    let (index, membership) = bytes.split_first_chunk::<8>()?;
    Some((ConfState::parse_from_bytes(membership).ok()?, u64::from_le_bytes(*index)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = (decode_pair(&bytes), decode_membership(&bytes));
        }

        #[test]
        fn positions_and_memberships_come_back(index: u64, term: u64, voters: Vec<u64>) {
            prop_assert_eq!(decode_pair(&encode_pair((index, term))), Some((index, term)));
            let membership = (ConfState { voters, ..ConfState::default() }, index);
            prop_assert_eq!(decode_membership(&encode_membership(&membership).unwrap()), Some(membership));
        }
    }
}
