//! The bindings to LevelDB: the only file that names the `leveldb` crate.
//!
//! Every read verifies checksums. The first error of a write, and the first damage that a read meets, latch: the
//! database is never written again. LevelDB itself latches only some errors, and what is synced behind a failed
//! append may be unreadable later.

use super::state::{Batch, State, View, Visit};
use super::tables::{self, Left};
use super::warm::{Rows, Warm};
use super::{files, keys};
use crate::error::{Error, Kind, Result};
use ::leveldb::batch::{Batch as _, Writebatch};
use ::leveldb::compaction::Compaction;
use ::leveldb::database::Database;
use ::leveldb::database::cache::Cache;
use ::leveldb::iterator::{Iterable, LevelDBIterator};
use ::leveldb::kv::KV;
use ::leveldb::options::{Options, ReadOptions, WriteOptions};
use ::leveldb::snapshots::{Snapshot, Snapshots};
use leveldb_sys as sys;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once, OnceLock};

/// What a memtable holds before it becomes a table, in bytes; there are two of them for a moment. The larger, the less often a
/// row that is written again is written to tables and compacted, and the longer the disk is busy with one table. Measured
/// (docs/benchmarks.md): with 16 MiB a sixth more batches than with 4, and as many single writes; with 32 MiB hardly more.
const WRITE_BUFFER: usize = 16 << 20;
/// Each read that rows in memory do not spare reads a block and checks its checksum, so that small blocks are read faster;
/// the price is a larger index, in memory for each open table. Measured: no slower than 1 KiB, with half of the index.
pub(super) const BLOCK: usize = 2 << 10;
/// Their indices are in memory.
const OPEN_FILES: i32 = 1000;

unsafe extern "C" {
    /// `leveldb::EnvPosixTestHelper::SetReadOnlyMMapLimit(int)` (LevelDB, util/env_posix_test_helper.h), which neither
    /// LevelDB's C interface nor the bindings have. A LevelDB without it does not link.
    #[link_name = "_ZN7leveldb18EnvPosixTestHelper20SetReadOnlyMMapLimitEi"]
    fn limit_mapped_tables(tables: c_int);
}

/// LevelDB would map its first thousand tables into memory, and a sector that cannot be read, or a table that is cut, would
/// kill the process by a signal, without a word. Where it reads by a call of the system it gets an error instead.
fn map_no_tables() {
    static ONCE: Once = Once::new();
    // SAFETY: it sets a number that LevelDB reads once, when its first options are made. In a node only this file makes any,
    // behind this call, and whoever comes at the same time waits for it.
    ONCE.call_once(|| unsafe { limit_mapped_tables(0) });
}

/// A row's key, as the bindings want it: owned.
struct Row(Vec<u8>);

impl db_key::Key for Row {
    fn from_u8(key: &[u8]) -> Row {
        Row(key.to_vec())
    }

    fn as_slice<T, F: Fn(&[u8]) -> T>(&self, f: F) -> T {
        f(&self.0)
    }
}

/// One LevelDB database. It is closed once neither it nor a view of it is held any more.
pub struct LevelState(Arc<Opened>);

struct Opened {
    database: Database<Row>,
    warm: Warm,
    folder: PathBuf,
    failure: OnceLock<Error>,
}

/// Whether a database is expected in the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// A new one is made; one that is there is an error.
    None,
    /// One is there, left in this way; a missing one is an error.
    One(Left),
}

impl LevelState {
    /// Opens the database in `folder` with `cache` bytes of memory for rows that were read or written lately.
    ///
    /// Errors: [`Kind::Damaged`] naming the damaged file, [`Kind::System`] if the folder cannot be used.
    pub fn open(folder: &Path, expect: Expect, cache: usize) -> Result<LevelState> {
        if folder.to_str().is_none_or(|path| path.contains('\0')) {
            let detail = format!("the folder {} is not UTF-8, which LevelDB needs", folder.display());
            return Err(Error::new(Kind::System, detail).hint("choose another --data"));
        }
        if let Expect::One(left) = expect {
            tables::check_before_open(folder, left).map_err(|damage| damaged_file(&damage))?;
        }
        map_no_tables();
        let options = Options {
            create_if_missing: expect == Expect::None,
            error_if_exists: expect == Expect::None,
            paranoid_checks: true,
            write_buffer_size: Some(WRITE_BUFFER),
            block_size: Some(BLOCK),
            max_open_files: Some(OPEN_FILES),
            // Nothing goes into it: memory holds more rows than blocks of them.
            cache: Some(Cache::new(0)),
            ..Options::new()
        };
        // The bindings unwrap the text of LevelDB's errors, which may quote bytes of a damaged key.
        let opened = catch_unwind(AssertUnwindSafe(|| Database::open(folder, options)));
        match opened {
            Ok(Ok(database)) => {
                // LevelDB renames its CURRENT at every open, and does not sync the folder afterwards.
                files::sync_folder(folder)?;
                let warm = Warm::new(cache);
                let opened = Opened { database, warm, folder: folder.to_owned(), failure: OnceLock::new() };
                Ok(LevelState(Arc::new(opened)))
            }
            Ok(Err(error)) => Err(open_error(folder, &message(&error))),
            Err(_) => Err(open_error(folder, UNREADABLE)),
        }
    }

    /// Gives away what is in memory, and keeps nothing there any more; LevelDB has it all.
    pub(super) fn retire(&self) -> Rows {
        self.0.warm.retire()
    }

    /// Stops all writes from now on, because of `error`. The first reason is kept.
    pub fn latch(&self, error: Error) {
        self.0.latch(error);
    }
}

impl Opened {
    fn latch(&self, error: Error) {
        if self.failure.set(error.clone()).is_ok() {
            log::error!("{} is not written any more: {error}", self.folder.display());
        }
    }

    fn check_latch(&self) -> Result<()> {
        match self.failure.get() {
            None => Ok(()),
            Some(error) => {
                let detail = format!("{} failed earlier and is not written any more", self.folder.display());
                Err(Error::new(Kind::Failed, detail).cause(error.clone()))
            }
        }
    }

    /// The error for LevelDB's `message`; damage, and any error of a write, latches.
    fn fail(&self, what: &str, message: &str, write: bool) -> Error {
        let known = self.failure.get().filter(|failure| failure.kind() == Kind::Damaged);
        let error = if is_damage(message) {
            // Finding the file reads every table: once is enough.
            known.cloned().unwrap_or_else(|| name_damage(&self.folder, message))
        } else {
            let detail = format!("cannot {what} {}: LevelDB says: {message}", self.folder.display());
            Error::new(Kind::Failed, detail).hint("check the disk, then start again")
        };
        if write || error.kind() == Kind::Damaged {
            self.latch(error.clone());
        }
        error
    }

    /// The only way of a write: the rows in memory follow it.
    fn write(&self, batch: &Batch, sync: bool) -> Result<()> {
        let mut changes = Writebatch::new();
        for (row, value) in &batch.changes {
            match value {
                Some(value) => changes.put(Row(row.clone()), value),
                None => changes.delete(Row(row.clone())),
            }
        }
        self.warm.write(batch, || self.put(&changes, sync))
    }

    fn put(&self, batch: &Writebatch<Row>, sync: bool) -> Result<()> {
        self.check_latch()?;
        let written = catch_unwind(AssertUnwindSafe(|| self.database.write(WriteOptions { sync }, batch)));
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.fail("write to", &message(&error), true)),
            Err(_) => Err(self.fail("write to", UNREADABLE, true)),
        }
    }

    fn get(&self, row: &[u8], moment: Option<&Snapshot<'_, Row>>) -> Result<Option<Vec<u8>>> {
        let key = Row(row.to_vec());
        let read = catch_unwind(AssertUnwindSafe(|| self.database.get_bytes(read_options(moment), &key)));
        match read {
            Ok(Ok(value)) => Ok(value.map(Vec::from)),
            Ok(Err(error)) => Err(self.fail("read", &message(&error), false)),
            Err(_) => Err(self.fail("read", UNREADABLE, false)),
        }
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        moment: Option<&Snapshot<'_, Row>>,
        visit: &mut Visit<'_>,
    ) -> Result<()> {
        let iterator = self.database.iter(read_options(moment));
        let mut cursor = Cursor { iterator: iterator.raw_iterator(), lifetime: &iterator };
        cursor.seek(from);
        // At a damaged block an iterator goes on without a word: older versions of the block's rows come to light,
        // later it just ends. So its error is asked for before each row is believed, and at the end.
        loop {
            if let Some(message) = cursor.error() {
                return Err(self.fail("read", &message, false));
            }
            match cursor.row() {
                Some((row, value)) if row < to && visit(row, value) == ControlFlow::Continue(()) => {
                    cursor.next()
                }
                _ => return Ok(()),
            }
        }
    }
}

impl State for LevelState {
    fn get(&self, row: &[u8]) -> Result<Option<Vec<u8>>> {
        self.0.warm.get(row, || self.0.get(row, None))
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        // A LevelDB iterator sees the rows of the moment at which it was made: no snapshot is needed.
        self.0.scan(from, to, None, visit)
    }

    fn write(&self, batch: &Batch) -> Result<()> {
        self.0.write(batch, false)
    }

    fn flush(&self) -> Result<()> {
        self.0.check_latch()?;
        // Compacting a range without rows turns the memtable into a table (synced, and named in a synced manifest)
        // and returns when that is done, or has failed without a word. After a failure LevelDB takes no write, so a
        // synced write that succeeds proves the flush.
        let nowhere = Row(vec![0xff, 0xff]);
        self.0.database.compact(&nowhere, &nowhere);
        let mut mark = Batch::default();
        mark.put(keys::FLUSH_ROW.to_vec(), Vec::new());
        self.0.write(&mark, true)
    }

    fn compact(&self, from: &[u8], to: &[u8]) {
        self.0.database.compact(&Row(from.to_vec()), &Row(to.to_vec()));
    }

    fn view(&self) -> Result<Arc<dyn View>> {
        let opened = self.0.clone();
        // SAFETY: what the snapshot borrows is the database in `opened`. It does not move, and `Moment` keeps it open
        // for longer than the snapshot.
        let snapshot = unsafe {
            std::mem::transmute::<Snapshot<'_, Row>, Snapshot<'static, Row>>(opened.database.snapshot())
        };
        Ok(Arc::new(Moment { snapshot, opened }))
    }

    fn failure(&self) -> Option<Error> {
        self.0.failure.get().cloned()
    }
}

/// A LevelDB snapshot. It is released before what it borrows: fields are dropped in their order.
struct Moment {
    snapshot: Snapshot<'static, Row>,
    opened: Arc<Opened>,
}

// SAFETY: a LevelDB snapshot is a sequence number in a list that the database's own lock guards; any thread may read
// with it, many at once, and release it (LevelDB, doc/index.md, Concurrency).
unsafe impl Send for Moment {}
// SAFETY: as above.
unsafe impl Sync for Moment {}

impl View for Moment {
    fn get(&self, row: &[u8]) -> Result<Option<Vec<u8>>> {
        self.opened.get(row, Some(&self.snapshot))
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        self.opened.scan(from, to, Some(&self.snapshot), visit)
    }
}

const UNREADABLE: &str = "Corruption: an error whose text cannot be read";

fn read_options<'a>(snapshot: Option<&'a Snapshot<'a, Row>>) -> ReadOptions<'a, Row> {
    ReadOptions { verify_checksums: true, fill_cache: false, snapshot }
}

fn message(error: &::leveldb::error::Error) -> String {
    let text = error.to_string();
    text.strip_prefix("LevelDB error: ").unwrap_or(&text).to_owned()
}

/// LevelDB says `NotFound` of a missing file as of a missing row; the bindings turn only the latter into `None`.
fn is_damage(message: &str) -> bool {
    message.starts_with("Corruption") || message.starts_with("NotFound")
}

fn open_error(folder: &Path, message: &str) -> Error {
    if is_damage(message) || message.starts_with("Invalid argument") {
        return name_damage(folder, message);
    }
    Error::new(Kind::System, format!("cannot open {}: LevelDB says: {message}", folder.display()))
}

fn name_damage(folder: &Path, message: &str) -> Error {
    match tables::find_damage(folder) {
        Some(damage) => damaged_file(&damage),
        None => files::damaged(folder, format_args!("LevelDB says: {message}")),
    }
}

fn damaged_file(damage: &tables::Damage) -> Error {
    files::damaged(&damage.file, &damage.reason)
}

/// A LevelDB iterator without the copies that the bindings make. It borrows what owns the iterator.
struct Cursor<'a, T> {
    iterator: *mut sys::leveldb_iterator_t,
    lifetime: &'a T,
}

impl<T> Cursor<'_, T> {
    fn seek(&mut self, row: &[u8]) {
        // SAFETY: the iterator lives as long as `lifetime`; LevelDB only reads `row.len()` bytes during the call.
        unsafe { sys::leveldb_iter_seek(self.iterator, row.as_ptr().cast::<c_char>(), row.len()) }
    }

    fn next(&mut self) {
        let _ = self.lifetime;
        // SAFETY: as above; `next` is only called after `row` returned a row, so the iterator is valid.
        unsafe { sys::leveldb_iter_next(self.iterator) }
    }

    /// The row and value at the cursor. They borrow the cursor, whose moves invalidate them.
    fn row(&self) -> Option<(&[u8], &[u8])> {
        // SAFETY: the iterator lives as long as `lifetime`.
        if unsafe { sys::leveldb_iter_valid(self.iterator) } == 0 {
            return None;
        }
        let (mut row, mut value) = (0usize, 0usize);
        // SAFETY: the iterator is valid, so both calls return a pointer to as many bytes as they store in the
        // length (declared const by the binding, written by LevelDB). They stay until the iterator moves, which
        // needs `&mut self` and so ends the borrow.
        unsafe {
            let row_start = sys::leveldb_iter_key(self.iterator, &raw mut row);
            let value_start = sys::leveldb_iter_value(self.iterator, &raw mut value);
            Some((slice(row_start, row), slice(value_start, value)))
        }
    }

    /// The error that ended the iteration, if one did.
    fn error(&self) -> Option<String> {
        let mut text: *mut c_char = std::ptr::null_mut();
        // SAFETY: the iterator lives; LevelDB stores a C string of its own in `text`, or leaves it null. The string
        // is copied before it is freed, once.
        unsafe {
            sys::leveldb_iter_get_error(self.iterator, (&raw mut text).cast::<*const c_char>());
            if text.is_null() {
                return None;
            }
            let message = CStr::from_ptr(text).to_string_lossy().into_owned();
            sys::leveldb_free(text.cast::<c_void>());
            Some(message)
        }
    }
}

/// # Safety
///
/// `start` points to `length` readable bytes for as long as `'a`; it may be anything if `length` is 0.
unsafe fn slice<'a>(start: *const c_char, length: usize) -> &'a [u8] {
    if length == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(start.cast::<u8>(), length) }
}
