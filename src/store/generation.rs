//! Generations of the state: `state/CURRENT` names the live one.
//!
//! Folders that it does not name are half-made or given up, and are removed.

use super::bulk::Bulk;
use super::current::Current;
use super::install::InOrder;
use super::leveldb::{BLOCK, Expect};
use super::opened::{Counted, Generation, OpenCount, remove};
use super::state::{Batch, Building, Generations, Installed, State};
use super::tables::{self, Left};
use super::{files, install};
use crate::error::{Error, Kind, Result};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The generations of one folder, on LevelDB.
pub struct LevelGenerations {
    folder: PathBuf,
    cache: usize,
    live: Arc<Generation>,
    current: Current,
    open: Arc<OpenCount>,
    /// The lock of the data folder, if there is one.
    lock: Option<Arc<File>>,
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

/// A generation that a snapshot fills: tables first, and a LevelDB over them once it is finished.
pub struct LevelBuilding {
    stage: Stage,
    order: InOrder,
    path: PathBuf,
    cache: usize,
    number: u64,
    installed: bool,
    open: Arc<OpenCount>,
    /// A close waits until it is gone.
    _counted: Counted,
}

enum Stage {
    Filling(Box<Bulk>),
    Finished(Arc<Generation>),
    /// After an error of the disk.
    Failed,
    /// After one of LevelDB, which closes it and removes its folder.
    GivenUp,
}

impl Building for LevelBuilding {
    fn write(&mut self, batch: &Batch) -> Result<()> {
        let Stage::Filling(bulk) = &mut self.stage else {
            return Err(install::finished());
        };
        self.order.check(batch)?;
        let values = batch.changes.iter().filter_map(|(row, value)| Some((row, value.as_ref()?)));
        for (row, value) in values {
            bulk.add(row, value)?;
        }
        Ok(())
    }

    /// Without the copies of a batch: a snapshot has many rows.
    fn add(&mut self, row: &[u8], value: &[u8]) -> Result<()> {
        let Stage::Filling(bulk) = &mut self.stage else {
            return Err(install::finished());
        };
        self.order.check_row(row)?;
        bulk.add(row, value)
    }

    fn finish(&mut self) -> Result<()> {
        let Stage::Filling(bulk) = std::mem::replace(&mut self.stage, Stage::Failed) else {
            return Err(install::finished());
        };
        bulk.finish()?;
        let expect = Expect::One(Left::Closed);
        let generation = Generation::open(self.path.clone(), expect, self.cache, &self.open)?;
        if let Err(error) = generation.finish() {
            generation.give_up();
            self.stage = Stage::GivenUp;
            return Err(error);
        }
        self.stage = Stage::Finished(generation);
        Ok(())
    }
}

impl Drop for LevelBuilding {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.stage, Stage::GivenUp) {
            Stage::Finished(generation) if !self.installed => generation.give_up(),
            Stage::Finished(_) | Stage::GivenUp => {}
            Stage::Filling(bulk) => {
                // No table is still being written then.
                drop(bulk);
                remove(&self.path);
            }
            Stage::Failed => remove(&self.path),
        }
    }
}

impl LevelGenerations {
    /// Makes `folder` with a first generation that holds `rows`. Nothing may be there yet.
    ///
    /// Errors: [`Kind::System`] and as for [`State`].
    pub fn create(folder: &Path, rows: &Batch, cache: usize) -> Result<LevelGenerations> {
        fs::create_dir(folder).map_err(|cause| files::system("create", folder, cause))?;
        let open = Arc::new(OpenCount::default());
        let live = Generation::build(generation_path(folder, 1), rows, cache, &open)?;
        let current = Current { live: 1, next: 2, installed: None };
        current.write(folder)?;
        Ok(LevelGenerations { folder: folder.to_owned(), cache, live, current, open, lock: None })
    }

    /// Opens the live generation of `folder` and removes the others.
    ///
    /// Errors: [`Kind::Damaged`] naming the damaged file, [`Kind::Foreign`] if a newer format wrote it,
    /// [`Kind::System`].
    pub fn open(folder: &Path, cache: usize, last_run: LastRun) -> Result<LevelGenerations> {
        let mut current = Current::read(folder)?;
        let path = generation_path(folder, current.live);
        if !path.is_dir() {
            return Err(files::damaged(&path, "the live generation is missing"));
        }
        if last_run == LastRun::PowerLost || last_run == LastRun::Killed && !logs_are_whole(&path) {
            remove_write_ahead_logs(&path)?;
        }
        let left = if last_run == LastRun::Closed { Left::Closed } else { Left::Crashed };
        let open = Arc::new(OpenCount::default());
        let live = Generation::open(path, Expect::One(left), cache, &open)?;
        live.check_format()?;
        // CURRENT may have been renamed by a run that died before its name was on disk: it must be, before what it no
        // longer names is gone.
        files::sync_folder(folder)?;
        let orphans = orphans(folder, current.live)?;
        let highest = orphans.iter().map(|(number, _)| *number).max();
        if let Some(highest) = highest.filter(|number| *number >= current.next) {
            current.next = highest + 1;
            current.write(folder)?;
        }
        orphans.iter().for_each(|(_, orphan)| remove(orphan));
        Ok(LevelGenerations { folder: folder.to_owned(), cache, live, current, open, lock: None })
    }

    /// Keeps the lock of the data folder until nobody holds a generation that is or was live, be it by a reader or a
    /// view: whoever gets the folder then finds no LevelDB open that it wants to open.
    pub(super) fn hold(&mut self, lock: Arc<File>) {
        self.live.hold(&lock);
        self.lock = Some(lock);
    }

    /// Closes LevelDB: returns once no reader or view holds a generation any more and removals are done.
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

    /// Makes the contents of `CURRENT` durable. After an error the next start finds the old or the new ones.
    fn write_current(&mut self, current: Current) -> Result<()> {
        current.write(&self.folder)?;
        self.current = current;
        Ok(())
    }

    /// Makes `generation`, which is durable, the live one.
    fn switch(&mut self, current: Current, generation: Arc<Generation>) -> Result<()> {
        if let Some(lock) = &self.lock {
            generation.hold(lock);
        }
        self.write_current(current)?;
        std::mem::replace(&mut self.live, generation).give_up();
        Ok(())
    }

    fn try_replace(&mut self, rows: &Batch) -> Result<()> {
        let number = self.current.next;
        // Not given again in this run, and known from the folder's name in the next.
        self.current.next += 1;
        let generation =
            Generation::build(generation_path(&self.folder, number), rows, self.cache, &self.open)?;
        self.switch(Current { live: number, ..self.current.clone() }, generation)
    }

    /// The live generation, after a switch that succeeded. After one that failed it may be that the next start finds
    /// the new generation: nothing may be added to the old one.
    fn switched(&self, result: Result<()>) -> Result<Arc<dyn State>> {
        match result {
            Ok(()) => Ok(self.live()),
            Err(error) => {
                self.live.latch(error.clone());
                Err(error)
            }
        }
    }
}

impl Generations for LevelGenerations {
    type Building = LevelBuilding;

    fn live(&self) -> Arc<dyn State> {
        self.live.clone()
    }

    fn replace(&mut self, rows: &Batch) -> Result<Arc<dyn State>> {
        let result = self.try_replace(rows);
        self.switched(result)
    }

    fn begin(&mut self) -> Result<LevelBuilding> {
        let number = self.current.next;
        // Durable before the folder is there: it may be gone again before the next start could know it by its name.
        self.write_current(Current { next: number + 1, ..self.current.clone() })?;
        let path = generation_path(&self.folder, number);
        Ok(LevelBuilding {
            stage: Stage::Filling(Box::new(Bulk::begin(&path, BLOCK)?)),
            order: InOrder::default(),
            path,
            cache: self.cache,
            number,
            installed: false,
            open: self.open.clone(),
            _counted: self.open.enter(),
        })
    }

    fn install(&mut self, mut built: LevelBuilding, at: Installed) -> Result<Arc<dyn State>> {
        let Stage::Finished(generation) = &built.stage else {
            return Err(install::unfinished());
        };
        let generation = generation.clone();
        install::check(&*generation, &at)?;
        // If the switch fails it stays, because the next start may find it live.
        built.installed = true;
        let current = Current { live: built.number, installed: Some(at), ..self.current.clone() };
        let result = self.switch(current, generation);
        self.switched(result)
    }

    fn installed(&self) -> Option<Installed> {
        self.current.installed.clone()
    }

    fn settled(&mut self) -> Result<()> {
        self.write_current(Current { installed: None, ..self.current.clone() })
    }
}

pub(super) fn generation_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:06}"))
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
