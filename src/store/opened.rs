//! One generation of the state, opened: its LevelDB, and what happens when nobody holds it any more.

use super::keys::{FORMAT, FORMAT_ROW};
use super::leveldb::{Expect, LevelState};
use super::state::{Batch, State, View, Visit};
use super::{files, identity};
use crate::error::{Error, Result};
use std::fs::{self, File};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

/// One generation. Its LevelDB is closed, and its folder removed if it was given up, once nobody holds it or a view of
/// it.
pub(super) struct Generation {
    state: ManuallyDrop<LevelState>,
    folder: PathBuf,
    given_up: AtomicBool,
    /// Handed to the thread that closes LevelDB, if one does.
    counted: Option<Counted>,
    /// The lock of the data folder, held from the time when this generation goes live until nobody holds it.
    lock: OnceLock<Arc<File>>,
    itself: Weak<Generation>,
}

/// A view, and the generation that it keeps open. Fields are dropped in their order.
struct Held {
    view: Arc<dyn View>,
    _generation: Option<Arc<Generation>>,
}

/// How many LevelDBs (and removals) of this folder are still under way.
#[derive(Default)]
pub(super) struct OpenCount {
    count: Mutex<usize>,
    changed: Condvar,
}

impl OpenCount {
    /// Counts one more, until what it returns is dropped.
    pub(super) fn enter(self: &Arc<OpenCount>) -> Counted {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Counted(self.clone())
    }

    /// Waits until all are closed; false if that takes longer than `patience`.
    pub(super) fn wait(&self, patience: Duration) -> bool {
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

/// Is counted.
pub(super) struct Counted(Arc<OpenCount>);

impl Drop for Counted {
    fn drop(&mut self) {
        *self.0.count.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.changed.notify_all();
    }
}

impl Generation {
    /// Opens the LevelDB in `folder`. Errors as [`LevelState::open`].
    pub(super) fn open(
        folder: PathBuf,
        expect: Expect,
        cache: usize,
        open: &Arc<OpenCount>,
    ) -> Result<Arc<Generation>> {
        let state = LevelState::open(&folder, expect, cache)?;
        Ok(Arc::new_cyclic(|itself| Generation {
            state: ManuallyDrop::new(state),
            folder,
            given_up: AtomicBool::new(false),
            counted: Some(open.enter()),
            lock: OnceLock::new(),
            itself: itself.clone(),
        }))
    }

    /// Builds one in a new folder whose rows and whose name survive a power loss.
    pub(super) fn build(
        folder: PathBuf,
        rows: &Batch,
        cache: usize,
        open: &Arc<OpenCount>,
    ) -> Result<Arc<Generation>> {
        let generation = Generation::open(folder, Expect::None, cache, open)?;
        if let Err(error) = generation.write(rows).and_then(|()| generation.finish()) {
            generation.give_up();
            return Err(error);
        }
        Ok(generation)
    }

    /// Refuses one of a newer format. Errors: `Foreign`, `Damaged`.
    pub(super) fn check_format(&self) -> Result<()> {
        let row = self.get(&FORMAT_ROW)?;
        match row.as_deref().map(<[u8; 4]>::try_from) {
            Some(Ok(bytes)) if u32::from_be_bytes(bytes) > FORMAT => {
                Err(identity::newer(&self.folder, u32::from_be_bytes(bytes).into()))
            }
            Some(Ok(_)) => Ok(()),
            _ => Err(files::damaged(&self.folder, "it has no format")),
        }
    }

    /// Keeps the lock of the data folder as long as somebody holds this generation. The first one is kept.
    pub(super) fn hold(&self, lock: &Arc<File>) {
        // There is one lock of a folder: a second one would be the same.
        let _ = self.lock.set(lock.clone());
    }

    /// Stops all writes from now on, because of `error`.
    pub(super) fn latch(&self, error: Error) {
        self.state.latch(error);
    }

    /// It is removed once nobody holds it. What it has in memory is let go of now: a copy of it that is on its way, or a
    /// digest, may hold it for long.
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Release);
        let rows = self.state.retire();
        // Without another thread this one lets go of them.
        let _ = std::thread::Builder::new().name("forget-rows".into()).spawn(move || drop(rows));
    }

    /// Makes its rows and its name in the folder above survive a power loss.
    pub(super) fn finish(&self) -> Result<()> {
        let mut format = Batch::default();
        format.put(FORMAT_ROW.to_vec(), FORMAT.to_be_bytes().to_vec());
        self.state.write(&format)?;
        self.state.flush()?;
        files::sync_folder(&self.folder)?;
        self.folder.parent().map_or(Ok(()), files::sync_folder)
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        let counted = self.counted.take();
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

    fn compact(&self, from: &[u8], to: &[u8]) {
        self.state.compact(from, to);
    }

    fn view(&self) -> Result<Arc<dyn View>> {
        Ok(Arc::new(Held { view: self.state.view()?, _generation: self.itself.upgrade() }))
    }

    fn failure(&self) -> Option<Error> {
        self.state.failure()
    }
}

impl View for Held {
    fn get(&self, row: &[u8]) -> Result<Option<Vec<u8>>> {
        self.view.get(row)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        self.view.scan(from, to, visit)
    }
}

/// Removes the folder of a generation that is not live; what is left is removed at the next start.
pub(super) fn remove(folder: &Path) {
    if let Err(error) = fs::remove_dir_all(folder) {
        log::warn!("cannot remove the old generation {}: {error}", folder.display());
    }
}
