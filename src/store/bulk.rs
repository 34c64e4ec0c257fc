//! A LevelDB folder made of rows that arrive in order: tables and the manifest that names them, written once.
//!
//! Each table is written and synced by a thread of its own while the next one is filled, so that neither the processor
//! nor the disk waits, and no burst of unsynced bytes holds up the syncs of others. A folder is a database only once
//! [`Bulk::finish`] has returned; what a crash leaves of one before is thrown away with its generation.

use super::files;
use super::table_writer::{SEQUENCE, Table, TableWriter, varint};
use super::tables::{LOG_BLOCK, LOG_HEADER, masked_crc};
use crate::error::{Error, Kind, Result};
use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

/// A table ends after so many bytes, or holds one larger row.
const TABLE: usize = 4 << 20;
/// LevelDB wants at most so many bytes in its first level of sorted tables, and ten times as many in each next one.
const FIRST_LEVEL: u64 = 10 << 20;
/// The levels where tables may lie: LevelDB itself puts no new one above the first of them, and has none below the last.
const LEVELS: std::ops::RangeInclusive<u32> = 2..=6;
/// A table is written in pieces of so many bytes.
const PIECE: usize = 1 << 20;
/// Behind a piece the disk is left to others for this part of the time that it took.
const PAUSE_PART: u32 = 8;
const MANIFEST: &str = "MANIFEST-000001";
/// The number of the first table.
const FIRST_TABLE: u64 = 2;

/// A LevelDB folder in the making.
pub(super) struct Bulk {
    folder: PathBuf,
    block: usize,
    table: TableWriter,
    disk: Disk,
}

/// The thread that writes tables.
struct Disk {
    tables: Option<SyncSender<Table>>,
    thread: Option<JoinHandle<Result<Vec<Written>>>>,
}

/// A table that is durable, as the manifest names it.
struct Written {
    number: u64,
    size: u64,
    first: Vec<u8>,
    last: Vec<u8>,
}

impl Bulk {
    /// Makes `folder`. Blocks of tables end after `block` bytes. Errors: `System`.
    pub(super) fn begin(folder: &Path, block: usize) -> Result<Bulk> {
        fs::create_dir(folder).map_err(|cause| files::system("create", folder, cause))?;
        // One table waits, one is written, one is filled.
        let (sender, receiver) = sync_channel(1);
        let place = folder.to_owned();
        let thread = std::thread::Builder::new()
            .name("write-tables".into())
            .spawn(move || write_tables(&place, &receiver))
            .map_err(|cause| files::system("start a thread for", folder, cause))?;
        let disk = Disk { tables: Some(sender), thread: Some(thread) };
        Ok(Bulk { folder: folder.to_owned(), block, table: TableWriter::new(block), disk })
    }

    /// Adds a row behind all that were added. Errors: `Conflict` if it does not come behind them, `System`.
    pub(super) fn add(&mut self, row: &[u8], value: &[u8]) -> Result<()> {
        if self.table.len() >= TABLE {
            self.end_table()?;
        }
        self.table.add(row, value);
        Ok(())
    }

    /// Returns once everything is durable and a database that LevelDB opens. Errors: `System`.
    pub(super) fn finish(mut self) -> Result<()> {
        if self.table.len() > 0 {
            self.end_table()?;
        }
        let tables = self.disk.finish()?;
        write_synced(&self.folder.join(MANIFEST), &log_record(&version_edit(&tables)))?;
        write_synced(&self.folder.join("CURRENT"), format!("{MANIFEST}\n").as_bytes())?;
        files::sync_folder(&self.folder)
    }

    fn end_table(&mut self) -> Result<()> {
        let table = std::mem::replace(&mut self.table, TableWriter::new(self.block));
        self.disk.write(table.finish())
    }
}

impl Disk {
    /// Waits for room. An error is that of an earlier table.
    fn write(&mut self, table: Table) -> Result<()> {
        match &self.tables {
            Some(tables) if tables.send(table).is_ok() => Ok(()),
            _ => self.finish().map(drop),
        }
    }

    fn finish(&mut self) -> Result<Vec<Written>> {
        self.tables = None;
        let gone = || Error::new(Kind::Failed, "the thread that writes tables is gone");
        self.thread.take().ok_or_else(gone)?.join().unwrap_or_else(|_| Err(gone()))
    }
}

impl Drop for Disk {
    /// Nobody may remove the folder while a table is still written to it.
    fn drop(&mut self) {
        self.tables = None;
        if let Some(thread) = self.thread.take() {
            // What it says is of no interest any more.
            let _ = thread.join();
        }
    }
}

fn write_tables(folder: &Path, tables: &Receiver<Table>) -> Result<Vec<Written>> {
    let mut written = Vec::new();
    for (number, Table { bytes, first, last }) in (FIRST_TABLE..).zip(tables) {
        write_gently(&folder.join(format!("{number:06}.ldb")), &bytes)?;
        written.push(Written { number, size: bytes.len() as u64, first, last });
    }
    Ok(written)
}

/// Writes a file in pieces and leaves the disk to others behind each of them: whoever syncs a log meanwhile waits for
/// one piece at most. The next piece goes to the system's memory during the pause, which is none of the disk's business.
fn write_gently(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = File::create_new(path)?;
        let mut offset = 0;
        let mut pause_ends = Instant::now();
        for piece in bytes.chunks(PIECE) {
            file.write_all(piece)?;
            std::thread::sleep(pause_ends.saturating_duration_since(Instant::now()));
            let began = Instant::now();
            write_back(&file, offset, piece.len())?;
            pause_ends = Instant::now() + began.elapsed() / PAUSE_PART;
            offset += piece.len();
        }
        std::thread::sleep(pause_ends.saturating_duration_since(Instant::now()));
        file.sync_all()?;
        forget(&file);
        Ok(())
    };
    write().map_err(|cause| files::system("write", path, cause))
}

/// Lets the system take back the memory in which it keeps a durable file: the next table is written in the same, and a
/// copy pushes nothing out that readers use. It is advice: a system that does not take it loses nothing.
fn forget(file: &File) {
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and the call takes no memory.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
}

/// Returns once that part of the file is on its way through the disk: the sync that makes it durable finds little to do.
/// An error of the disk is reported here or by that sync.
fn write_back(file: &File, offset: usize, length: usize) -> std::io::Result<()> {
    let how =
        libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and the call takes no memory.
    let done = unsafe { libc::sync_file_range(file.as_raw_fd(), offset as i64, length as i64, how) };
    let error = std::io::Error::last_os_error();
    match error.raw_os_error() {
        _ if done == 0 => Ok(()),
        // Not every file system can.
        Some(libc::EINVAL | libc::ENOSYS | libc::ESPIPE) => Ok(()),
        _ => Err(error),
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = File::create_new(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|cause| files::system("write", path, cause))
}

/// The level that so many bytes fill to a tenth at most: LevelDB has room above it for what is written later, and does
/// not begin by moving what is there.
fn level(bytes: u64) -> u32 {
    let fits = |level: &u32| bytes <= FIRST_LEVEL.saturating_mul(10u64.saturating_pow(level - 2));
    LEVELS.clone().find(fits).unwrap_or(*LEVELS.end())
}

/// What a manifest says of a new database with these tables (LevelDB, `db/version_edit.cc`).
fn version_edit(tables: &[Written]) -> Vec<u8> {
    let mut edit = Vec::new();
    varint(&mut edit, 1);
    text(&mut edit, b"leveldb.BytewiseComparator");
    // No write-ahead log; the next free number of a file; the last sequence number.
    for (tag, number) in [(2, 0), (3, FIRST_TABLE + tables.len() as u64), (4, SEQUENCE)] {
        varint(&mut edit, tag);
        varint(&mut edit, number);
    }
    let level = level(tables.iter().map(|table| table.size).sum());
    for table in tables {
        for number in [7, u64::from(level), table.number, table.size] {
            varint(&mut edit, number);
        }
        text(&mut edit, &table.first);
        text(&mut edit, &table.last);
    }
    edit
}

fn text(edit: &mut Vec<u8>, bytes: &[u8]) {
    varint(edit, bytes.len() as u64);
    edit.extend_from_slice(bytes);
}

/// One record of LevelDB's log format, over as many blocks as it needs.
fn log_record(payload: &[u8]) -> Vec<u8> {
    let mut log = Vec::new();
    let mut rest = payload;
    let mut is_first = true;
    loop {
        let left = LOG_BLOCK - log.len() % LOG_BLOCK;
        if left < LOG_HEADER {
            log.resize(log.len() + left, 0);
            continue;
        }
        let (part, behind) = rest.split_at(rest.len().min(left - LOG_HEADER));
        let kind = match (is_first, behind.is_empty()) {
            (true, true) => 1,
            (true, false) => 2,
            (false, false) => 3,
            (false, true) => 4,
        };
        log.extend_from_slice(&masked_crc(&[&[kind], part]).to_le_bytes());
        log.extend_from_slice(&(part.len() as u16).to_le_bytes());
        log.push(kind);
        log.extend_from_slice(part);
        if behind.is_empty() {
            return log;
        }
        (rest, is_first) = (behind, false);
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::is_local;
    use super::super::leveldb::{Expect, LevelState};
    use super::super::state::{Batch, State as _};
    use super::super::tables::{Left, find_damage, log_records};
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::ops::ControlFlow;

    type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

    fn build(folder: &Path, rows: &Rows, block: usize) {
        let mut bulk = Bulk::begin(folder, block).unwrap();
        rows.iter().try_for_each(|(row, value)| bulk.add(row, value)).unwrap();
        bulk.finish().unwrap();
        assert_eq!(find_damage(folder), None);
    }

    fn read(state: &LevelState) -> Rows {
        let mut rows = Rows::new();
        let all = state.scan(&[], &[0xff; 40], &mut |row, value| {
            if !is_local(row) {
                rows.insert(row.to_vec(), value.to_vec());
            }
            ControlFlow::Continue(())
        });
        all.unwrap();
        rows
    }

    fn open(folder: &Path) -> LevelState {
        LevelState::open(folder, Expect::One(Left::Closed), 1 << 20).unwrap()
    }

    #[test]
    fn leveldb_opens_it_reads_every_row_and_goes_on_writing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("000002");
        let mut rows = Rows::new();
        for number in 0..3000u32 {
            rows.insert(format!("key {number:05}").into_bytes(), vec![number as u8; 5000]);
        }
        // Larger than a table, in the middle; and an empty one.
        rows.insert(b"key 01000 large".to_vec(), vec![7; TABLE + 1]);
        rows.insert(b"key 01000 empty".to_vec(), Vec::new());
        build(&path, &rows, 1024);
        let tables = fs::read_dir(&path).unwrap().filter(|entry| {
            entry.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "ldb")
        });
        assert!(tables.count() >= 4);
        for _ in 0..2 {
            let state = open(&path);
            assert!(read(&state) == rows);
            for (row, value) in &rows {
                assert_eq!(state.get(row).unwrap().as_ref(), Some(value));
            }
            assert_eq!(state.get(b"key 02000 absent").unwrap(), None);
            let mut batch = Batch::default();
            batch.put(b"key 00500".to_vec(), b"newer".to_vec());
            batch.delete(b"key 00501".to_vec());
            rows.insert(b"key 00500".to_vec(), b"newer".to_vec());
            rows.remove(&b"key 00501"[..]);
            state.write(&batch).unwrap();
            assert!(read(&state) == rows);
            state.flush().unwrap();
        }
    }

    #[test]
    fn golden_table_and_manifest() {
        let mut table = TableWriter::new(1024);
        table.add(b"ab", b"1");
        table.add(b"ac", b"");
        let Table { bytes, first, last } = table.finish();
        assert_eq!((&first[..], &last[..]), (&b"ab\x01\x01\0\0\0\0\0\0"[..], &b"ac\x01\x01\0\0\0\0\0\0"[..]));
        // Shared, unshared and value length; key; value. Then one restart at 0, and the kind of block.
        let block =
            b"\0\x0a\x01ab\x01\x01\0\0\0\0\0\0\x31\x01\x09\0c\x01\x01\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0";
        assert_eq!(&bytes[..block.len()], block);
        assert_eq!(bytes[bytes.len() - 8..], 0xdb47_7524_8b80_fb57_u64.to_le_bytes());
        let written = Written { number: 2, size: 300, first: b"a".to_vec(), last: b"bc".to_vec() };
        let golden =
            b"\x01\x1aleveldb.BytewiseComparator\x02\0\x03\x03\x04\x01\x07\x02\x02\xac\x02\x01a\x02bc";
        assert_eq!(version_edit(&[written]), golden);
        assert_eq!([0, 10 << 20, 11 << 20, 1 << 30, 10 << 30, u64::MAX].map(level), [2, 2, 3, 5, 6, 6]);
    }

    #[test]
    fn a_long_record_of_a_log_comes_back() {
        for length in [0, 1, LOG_BLOCK - LOG_HEADER, LOG_BLOCK - LOG_HEADER + 1, 5 * LOG_BLOCK] {
            let payload: Vec<u8> = (0..length).map(|number| number as u8).collect();
            assert_eq!(log_records(&log_record(&payload), Left::Closed).unwrap(), [payload]);
        }
    }

    #[test]
    fn a_disk_that_refuses_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("000002");
        let mut bulk = Bulk::begin(&path, 1024).unwrap();
        // In the way of the second table.
        fs::create_dir(path.join("000003.ldb")).unwrap();
        let result = (0..10u8).try_for_each(|number| bulk.add(&[number], &vec![0; TABLE]));
        let error = result.and_then(|()| bulk.finish()).unwrap_err();
        assert!(error.to_string().contains("000003.ldb"), "{error}");
        assert!(!path.join("CURRENT").exists());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn any_rows_come_back(
            rows in prop::collection::btree_map(
                prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xff), any::<u8>()], 1..20),
                prop::collection::vec(any::<u8>(), 0..300),
                0..200,
            ),
            block in 1usize..4096,
        ) {
            // Chance finds names of rows that `read` leaves out.
            let rows: Rows = rows.into_iter().filter(|(row, _)| !is_local(row)).collect();
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("000002");
            build(&path, &rows, block);
            prop_assert_eq!(read(&open(&path)), rows);
        }
    }
}
