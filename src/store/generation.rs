//! Generations of the state: `state/CURRENT` names the live one.
//!
//! `CURRENT` is a sealed text (see `files.rs`): the format, the number of the live generation, and the next number,
//! which only grows, so that no number is used twice. Folders that it does not name are half-made or given up, and
//! are removed.

use super::keys::{FORMAT, FORMAT_ROW};
use super::leveldb::{Expect, LevelState};
use super::state::{Batch, Generations, State, Visit};
use super::tables::{self, Left};
use super::{files, identity};
use crate::error::{Error, Kind, Result};
use std::fs;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The name of the file that names the live generation.
pub const CURRENT: &str = "CURRENT";

/// The generations of one folder, on LevelDB.
pub struct LevelGenerations {
    folder: PathBuf,
    cache: usize,
    live: Arc<Generation>,
    next: u64,
    open: Arc<OpenCount>,
}

/// How the last run ended, as far as the state's files can tell a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastRun {
    /// It closed the stores.
    Closed,
    /// The process died. What it wrote is there, unless the disk refused it unnoticed.
    Killed,
    /// The machine may have lost power: write-ahead logs may have holes.
    PowerLost,
}

/// One generation. Its LevelDB is closed, and its folder removed if it was given up, once nobody holds it.
struct Generation {
    state: ManuallyDrop<LevelState>,
    folder: PathBuf,
    given_up: AtomicBool,
    open: Arc<OpenCount>,
}

/// How many LevelDBs (and removals) of this folder are still under way.
#[derive(Default)]
struct OpenCount {
    count: Mutex<usize>,
    changed: Condvar,
}

impl OpenCount {
    fn enter(self: &Arc<OpenCount>) -> Counted {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Counted(self.clone())
    }

    /// Waits until all are closed; false if that takes longer than `patience`.
    fn wait(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        while *count > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            count = self.changed.wait_timeout(count, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

struct Counted(Arc<OpenCount>);

impl Drop for Counted {
    fn drop(&mut self) {
        *self.0.count.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.changed.notify_all();
    }
}

impl Generation {
    fn open(folder: PathBuf, expect: Expect, cache: usize, open: &Arc<OpenCount>) -> Result<Generation> {
        let state = LevelState::open(&folder, expect, cache)?;
        // Counted by hand: `drop` below hands the count to the thread that closes LevelDB.
        std::mem::forget(open.enter());
        let given_up = AtomicBool::new(false);
        Ok(Generation { state: ManuallyDrop::new(state), folder, given_up, open: open.clone() })
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        let counted = Counted(self.open.clone());
        // SAFETY: `drop` runs once, and nothing reads `state` after it.
        let state = unsafe { ManuallyDrop::take(&mut self.state) };
        if !*self.given_up.get_mut() {
            drop(state);
            return;
        }
        // Closing waits for a compaction and removing takes time: neither belongs on a reader's thread. If there is
        // no thread to be had, the closure is dropped, which closes LevelDB; the next open removes the folder.
        let folder = std::mem::take(&mut self.folder);
        let close = move || {
            drop(state);
            remove(&folder);
            drop(counted);
        };
        if let Err(error) = std::thread::Builder::new().name("remove-generation".into()).spawn(close) {
            log::warn!("an old generation is removed at the next start only: {error}");
        }
    }
}

impl State for Generation {
    fn get(&self, row: &[u8]) -> Result<Option<Vec<u8>>> {
        self.state.get(row)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        self.state.scan(from, to, visit)
    }

    fn write(&self, batch: &Batch) -> Result<()> {
        self.state.write(batch)
    }

    fn flush(&self) -> Result<()> {
        self.state.flush()
    }

    fn failure(&self) -> Option<Error> {
        self.state.failure()
    }
}

impl LevelGenerations {
    /// Makes `folder` with a first generation that holds `rows`. Nothing may be there yet.
    ///
    /// Errors: [`Kind::System`] and as for [`State`].
    pub fn create(folder: &Path, rows: &Batch, cache: usize) -> Result<LevelGenerations> {
        fs::create_dir(folder).map_err(|cause| files::system("create", folder, cause))?;
        let open = Arc::new(OpenCount::default());
        let live = build(folder, 1, rows, cache, &open)?;
        write_current(folder, 1, 2)?;
        Ok(LevelGenerations { folder: folder.to_owned(), cache, live: Arc::new(live), next: 2, open })
    }

    /// Opens the live generation of `folder` and removes the others.
    ///
    /// Errors: [`Kind::Damaged`] naming the damaged file, [`Kind::Foreign`] if a newer format wrote it,
    /// [`Kind::System`].
    pub fn open(folder: &Path, cache: usize, last_run: LastRun) -> Result<LevelGenerations> {
        let (number, mut next) = read_current(folder)?;
        let path = generation_path(folder, number);
        if !path.is_dir() {
            return Err(files::damaged(&path, "the live generation is missing"));
        }
        if last_run == LastRun::PowerLost || last_run == LastRun::Killed && !logs_are_whole(&path) {
            remove_write_ahead_logs(&path)?;
        }
        let left = if last_run == LastRun::Closed { Left::Closed } else { Left::Crashed };
        let open = Arc::new(OpenCount::default());
        let live = Generation::open(path, Expect::One(left), cache, &open)?;
        check_format(&live)?;
        // CURRENT may have been renamed by a run that died before its name was on disk: it must be, before what it no
        // longer names is gone.
        files::sync_folder(folder)?;
        let orphans = orphans(folder, number)?;
        if let Some(highest) =
            orphans.iter().map(|(number, _)| *number).max().filter(|number| *number >= next)
        {
            next = highest + 1;
            write_current(folder, number, next)?;
        }
        orphans.iter().for_each(|(_, orphan)| remove(orphan));
        Ok(LevelGenerations { folder: folder.to_owned(), cache, live: Arc::new(live), next, open })
    }

    /// Closes LevelDB: returns once no reader holds a generation any more and removals are done.
    ///
    /// Errors: [`Kind::Failed`] if a reader does not let go within `patience`.
    pub fn close(self, patience: Duration) -> Result<()> {
        let LevelGenerations { folder, live, open, .. } = self;
        drop(live);
        if open.wait(patience) {
            return Ok(());
        }
        let detail = format!("{} is still being read after {patience:?}", folder.display());
        Err(Error::new(Kind::Failed, detail).hint("stop this process before the folder is used elsewhere"))
    }

    fn switch(&mut self, rows: &Batch) -> Result<Generation> {
        let number = self.next;
        self.next += 1;
        let generation = build(&self.folder, number, rows, self.cache, &self.open)?;
        write_current(&self.folder, number, self.next)?;
        Ok(generation)
    }
}

impl Generations for LevelGenerations {
    fn live(&self) -> Arc<dyn State> {
        self.live.clone()
    }

    fn replace(&mut self, rows: &Batch) -> Result<Arc<dyn State>> {
        match self.switch(rows) {
            Ok(generation) => {
                let old = std::mem::replace(&mut self.live, Arc::new(generation));
                old.given_up.store(true, Ordering::Release);
                Ok(self.live())
            }
            Err(error) => {
                // It may be that the next start finds the new generation: nothing may be added to the old one.
                self.live.state.latch(error.clone());
                Err(error)
            }
        }
    }
}

/// Builds a generation whose rows and whose name survive a power loss.
fn build(
    folder: &Path,
    number: u64,
    rows: &Batch,
    cache: usize,
    open: &Arc<OpenCount>,
) -> Result<Generation> {
    let path = generation_path(folder, number);
    let mut generation = Generation::open(path, Expect::None, cache, open)?;
    let fill = || {
        generation.write(rows)?;
        let mut format = Batch::default();
        format.put(FORMAT_ROW.to_vec(), FORMAT.to_be_bytes().to_vec());
        generation.write(&format)?;
        generation.flush()?;
        files::sync_folder(&generation.folder)?;
        files::sync_folder(folder)
    };
    if let Err(error) = fill() {
        *generation.given_up.get_mut() = true;
        return Err(error);
    }
    Ok(generation)
}

fn check_format(generation: &Generation) -> Result<()> {
    let row = generation.get(&FORMAT_ROW)?;
    match row.as_deref().map(<[u8; 4]>::try_from) {
        Some(Ok(bytes)) if u32::from_be_bytes(bytes) > FORMAT => {
            Err(identity::newer(&generation.folder, u32::from_be_bytes(bytes).into()))
        }
        Some(Ok(_)) => Ok(()),
        _ => Err(files::damaged(&generation.folder, "it has no format")),
    }
}

fn generation_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:06}"))
}

fn write_current(folder: &Path, live: u64, next: u64) -> Result<()> {
    files::write_sealed(folder, CURRENT, &format!("format {FORMAT}\nlive {live:06}\nnext {next:06}\n"))
}

/// (live, next) of `folder/CURRENT`.
fn read_current(folder: &Path) -> Result<(u64, u64)> {
    let path = folder.join(CURRENT);
    let content = files::read_sealed(&path)?.ok_or_else(|| files::damaged(&path, "it is missing"))?;
    let number = |word: &str| -> Option<u64> {
        content.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(' ')?.parse().ok())
    };
    match number("format") {
        Some(format) if format > u64::from(FORMAT) => return Err(identity::newer(folder, format)),
        Some(_) => {}
        None => return Err(files::damaged(&path, "it names no format")),
    }
    number("live").zip(number("next")).ok_or_else(|| files::damaged(&path, "it names no generation"))
}

/// Number and path of every generation but the live one.
fn orphans(folder: &Path, live: u64) -> Result<Vec<(u64, PathBuf)>> {
    let unreadable = |cause| files::system("read", folder, cause);
    let mut orphans = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let number = entry.file_name().to_str().and_then(|name| name.parse::<u64>().ok());
        if let Some(number) = number.filter(|number| *number != live) {
            orphans.push((number, entry.path()));
        }
    }
    Ok(orphans)
}

fn logs_are_whole(folder: &Path) -> bool {
    match tables::check_write_ahead_logs(folder, Left::Crashed) {
        Ok(()) => true,
        Err(damage) => {
            log::warn!("{damage}; the write-ahead logs are dropped, the Raft log replays what they held");
            false
        }
    }
}

/// LevelDB drops a full memtable's write-ahead log unsynced, so after a power loss a later log may be there while an
/// earlier one is not. The tables alone are a true prefix; the Raft log replays the rest.
fn remove_write_ahead_logs(folder: &Path) -> Result<()> {
    let logs = tables::write_ahead_logs(folder).map_err(|cause| files::system("read", folder, cause))?;
    for path in &logs {
        fs::remove_file(path).map_err(|cause| files::system("remove", path, cause))?;
    }
    files::sync_folder(folder)
}

fn remove(folder: &Path) {
    if let Err(error) = fs::remove_dir_all(folder) {
        log::warn!("cannot remove the old generation {}: {error}", folder.display());
    }
}
