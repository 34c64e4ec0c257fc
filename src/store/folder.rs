//! A node's data folder: its lock, its identity, and the stores inside.
//!
//! The folder is locked while it is in use (see `lock.rs`). `log/` and `state/` count only once
//! `identity.json` says that the stores are whole.

use super::files::{self, damaged, system};
use super::generation::{LastRun, LevelGenerations};
use super::identity::{self, CleanClose, Identity, Role};
use super::log::{LogWrite, RaftLog};
use super::raft_engine::EngineLog;
use super::state::{Batch, Generations};
use super::{install, keys, lock, raft_files};
use crate::error::{Error, Kind, Result};
use raft::eraftpb::ConfState;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The environment variable that overrides the machine's boot id, for tests that pretend a power loss: a start after
/// a crash under another boot id drops the state's write-ahead logs and lets the Raft log replay.
pub const BOOT_ID_VARIABLE: &str = "CATSTORE_BOOT_ID";

pub(super) const LOG: &str = "log";
pub(super) const STATE: &str = "state";
/// How long a close waits for readers. A read is short; a scan that takes longer is stuck.
const CLOSE_PATIENCE: Duration = Duration::from_secs(30);

/// For stores that are open for a moment.
const SMALL: Sizes = Sizes { cache: 1 << 20 };

/// Sizes that a node gives its stores.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Bytes of memory for rows that were read or written lately.
    pub cache: usize,
}

/// A data folder whose lock this process holds until the value is dropped, and nobody holds its state any more.
pub struct Folder {
    path: PathBuf,
    identity: Identity,
    lock: Arc<File>,
    /// The start that is under way is counted already.
    counted: bool,
}

/// The log and the state of a folder, opened.
pub struct Stores {
    /// The Raft log.
    pub log: EngineLog,
    /// The state.
    pub state: LevelGenerations,
}

impl Folder {
    /// Creates the folder with its parents if needed (mode 0700), locks it, reads its identity, or makes one with a
    /// fresh uuid for `role`. A master's identity gets its cluster later, by [`Folder::save`].
    ///
    /// Errors: `Foreign` if another process holds it (says so), it belongs to the other role, it was written by a
    /// newer format, or it is not empty and not a data folder; `Damaged`; `System` if it cannot be created or written.
    pub fn open(path: &Path, role: Role) -> Result<Folder> {
        let path = create(path)?;
        let stranger = || {
            Error::new(Kind::Foreign, format!("{} is not a catstore data folder", path.display()))
                .hint("choose another --data")
        };
        // A stranger's folder is left exactly as it was, without a lock file.
        if !path.join(lock::NAME).exists() && holds_others(&path)? && !path.join(identity::NAME).exists() {
            return Err(if has_store_folders(&path) { missing_identity(&path) } else { stranger() });
        }
        let lock = lock::take(&path)?;
        let identity = match identity::read(&path)? {
            Some(identity) if identity.role != role => {
                let detail = format!(
                    "{} belongs to a {}, not to a {}",
                    path.display(),
                    identity.role.word(),
                    role.word()
                );
                return Err(Error::new(Kind::Foreign, detail).hint("choose another --data"));
            }
            Some(identity) => identity,
            None if has_store_folders(&path) => return Err(missing_identity(&path)),
            None if holds_others(&path)? => return Err(stranger()),
            None => {
                let identity = Identity::fresh(role)?;
                identity::write(&path, &identity)?;
                identity
            }
        };
        lock::sign(&lock, &path, &identity)?;
        Ok(Folder { path, identity, lock: Arc::new(lock), counted: false })
    }

    /// Its absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its identity as last read or saved.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Writes the identity durably.
    pub fn save(&mut self, identity: Identity) -> Result<()> {
        identity::write(&self.path, &identity)?;
        self.identity = identity;
        lock::sign(&self.lock, &self.path, &self.identity)
    }

    /// Counts a start of the process durably before anybody hears of it, and returns the number of this run: `fresh`,
    /// or that of an earlier start that no master confirmed. A folder without an index counts each start: of two copies
    /// of it only one can be the one that registered.
    pub fn begin_start(&mut self, fresh: u64) -> Result<u64> {
        self.counted = true;
        if let Some(run) = self.identity.pending.filter(|_| self.identity.index.is_some()) {
            return Ok(run);
        }
        let starts = self.identity.starts + 1;
        self.save(Identity { starts, pending: Some(fresh), ..self.identity.clone() })?;
        Ok(fresh)
    }

    /// A master has confirmed the start.
    pub fn confirm_start(&mut self) -> Result<()> {
        if self.identity.pending.is_none() {
            return Ok(());
        }
        self.save(Identity { pending: None, ..self.identity.clone() })
    }

    /// Notes durably that the group has `incarnation` now; one that is noted already costs nothing.
    ///
    /// Errors: [`Kind::Conflict`] if it is lower than the noted one, which it never becomes again.
    pub fn set_incarnation(&mut self, incarnation: u64) -> Result<()> {
        let noted = self.identity.incarnation;
        if incarnation < noted {
            let detail = format!("{} is of incarnation {noted}, not {incarnation}", self.path.display());
            return Err(Error::new(Kind::Conflict, detail));
        }
        if incarnation == noted {
            return Ok(());
        }
        self.save(Identity { incarnation, ..self.identity.clone() })
    }

    /// Makes the member `id` the only voter, and with it its copy the beginning of `incarnation` of its group. Nothing
    /// else of the copy is changed. A crash in the middle leaves a note ([`Identity::promoting`]) with which the folder
    /// must not serve before it was done again: half of a promotion would be a lone voter that nobody fences.
    ///
    /// Errors: as [`Folder::set_incarnation`] and [`Folder::force_lone_voter`].
    pub fn promote(&mut self, id: u64, incarnation: u64) -> Result<()> {
        let (promoting, adopts) = (Some(incarnation), Some(incarnation));
        self.save(Identity { promoting, adopts, ..self.identity.clone() })?;
        self.force_lone_voter(id)?;
        self.set_incarnation(incarnation)?;
        self.save(Identity { promoting: None, ..self.identity.clone() })
    }

    /// True once [`Folder::found`] finished.
    pub fn has_stores(&self) -> bool {
        self.identity.stores
    }

    /// Makes the stores of a new member: a log with the given membership (of nobody, for a member that joins) and an
    /// empty term, and a first generation that holds `rows`. A crash in the middle leaves a folder on which it can be
    /// called again.
    pub fn found(&mut self, membership: ConfState, rows: &Batch, sizes: Sizes) -> Result<()> {
        if self.has_stores() {
            let detail = format!("{} holds the stores of a member already", self.path.display());
            return Err(Error::new(Kind::Conflict, detail));
        }
        for name in [LOG, STATE] {
            let path = self.path.join(name);
            match fs::remove_dir_all(&path) {
                Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                    return Err(system("remove", &path, cause));
                }
                _ => {}
            }
        }
        let folder = self.path.join(LOG);
        fs::create_dir(&folder).map_err(|cause| system("create", &folder, cause))?;
        let mut log = EngineLog::open(&folder)?;
        log.write(LogWrite { membership: Some((membership, 0)), sync: true, ..LogWrite::default() })?;
        log.close()?;
        LevelGenerations::create(&self.path.join(STATE), rows, sizes.cache)?.close(CLOSE_PATIENCE)?;
        files::sync_folder(&self.path)?;
        self.save(Identity { stores: true, ..self.identity.clone() })
    }

    /// Opens the stores. Raises the start counter, unless [`Folder::begin_start`] did, and removes the note of a clean
    /// close, durably, before it returns. After a crash, if the boot id differs from the last run's, removes the
    /// state's write-ahead logs first. Ends a snapshot install that a crash interrupted. Compares the log with what a
    /// clean close noted, or after a crash with the applied index of the state and the commit index: a log that is
    /// shorter is [`crate::error::Kind::Damaged`].
    ///
    /// Writes the last files of the log anew before they are read, as a sync of them may have failed: after a crash, or
    /// in a start that failed behind a clean close and left its note.
    ///
    /// The note is removed last, so that a folder that is found damaged is found damaged again.
    pub fn open_stores(&mut self, sizes: Sizes) -> Result<Stores> {
        if !self.has_stores() {
            let detail = format!("{} holds no stores yet", self.path.display());
            return Err(Error::new(Kind::Conflict, detail));
        }
        let (log_folder, state_folder) = (self.path.join(LOG), self.path.join(STATE));
        for folder in [&log_folder, &state_folder] {
            if !folder.is_dir() {
                return Err(damaged(folder, "it is missing"));
            }
        }
        let boot = boot_id();
        let same_boot = !boot.is_empty() && boot == self.identity.boot;
        let note = self.identity.clean;
        if let Some(damage) = note.and_then(|_| raft_files::find_damage(&log_folder)) {
            return Err(damaged(&damage.file, &damage.reason));
        }
        // A clean close left everything in tables, so that its write-ahead logs cannot have holes.
        let last_run = match note {
            Some(_) => LastRun::Closed,
            None if same_boot => LastRun::Killed,
            None => LastRun::PowerLost,
        };
        let mut state = LevelGenerations::open(&state_folder, sizes.cache, last_run)?;
        state.hold(self.lock.clone());
        raft_files::renew_last(&log_folder)?;
        let log = EngineLog::open(&log_folder)?;
        let mut stores = Stores { log, state };
        install::settle(&mut stores.log, &mut stores.state).map_err(|error| {
            if error.kind() == Kind::Damaged { damaged(&state_folder, error.detail()) } else { error }
        })?;
        self.check(&stores, note)?;
        let starts = self.identity.starts + u64::from(!std::mem::take(&mut self.counted));
        self.save(Identity { starts, boot, clean: None, ..self.identity.clone() })?;
        Ok(stores)
    }

    /// Closes the stores: flushes the state into tables, then notes the log's last index and term as a clean close.
    ///
    /// Errors: [`Kind::Failed`] if a store failed, or a reader does not let go of the state. Then there is no note,
    /// and the next start treats the folder as after a crash.
    pub fn close_stores(&mut self, stores: Stores) -> Result<()> {
        let Stores { mut log, mut state } = stores;
        // The note says where the log ends: an install that is not finished would move that end at the next start.
        let note = install::settle(&mut log, &mut state).and_then(|()| note_of(&log, &state));
        // Both are closed, whatever else fails.
        let log_closed = log.close();
        let state_closed = state.close(CLOSE_PATIENCE);
        let note = note?;
        log_closed?;
        state_closed?;
        self.save(Identity { clean: Some(note), ..self.identity.clone() })
    }

    /// Makes member `id` the only voter of its group, with no other member, on closed stores: for a group that has lost
    /// its majority for good. Durable when it returns. Counts a start, unless one is under way; leaves the note of a
    /// clean close.
    ///
    /// Entries are not touched, nor is the index of the membership's entry: changes of membership that wait behind it
    /// are meant for the old membership, and the caller sees to it that they are void.
    ///
    /// Errors: as [`Folder::open_stores`] and [`Folder::close_stores`].
    pub fn force_lone_voter(&mut self, id: u64) -> Result<()> {
        let counted = self.counted;
        let mut stores = self.open_stores(SMALL)?;
        self.counted = counted;
        let alone = ConfState { voters: vec![id], ..ConfState::default() };
        let membership = Some((alone, stores.log.membership().1));
        stores.log.write(LogWrite { membership, sync: true, ..LogWrite::default() })?;
        self.close_stores(stores)
    }

    /// Free bytes on the folder's file system.
    pub fn free_bytes(&self) -> Result<u64> {
        files::free_bytes(&self.path)
    }

    /// Holds the log against what it must reach.
    fn check(&self, stores: &Stores, note: Option<CleanClose>) -> Result<()> {
        let folder = self.path.join(LOG);
        let log = &stores.log;
        let last = log.last_index();
        let applied = applied(&stores.state, &self.path)?;
        let shorter = |what: &str, index: u64| {
            Err(damaged(
                &folder,
                format!("the log is shorter than {what}: it ends at entry {last}, not {index}"),
            ))
        };
        if let Some(note) = note {
            let end = (last, log.term(last)?.unwrap_or(0));
            if end != (note.last_index, note.last_term) {
                let reason = format!(
                    "the log ends at entry {} of term {}, but was closed at entry {} of term {}",
                    end.0, end.1, note.last_index, note.last_term
                );
                return Err(damaged(&folder, reason));
            }
            if applied.0 > note.applied {
                let reason = format!("it holds entry {}, but was closed at {}", applied.0, note.applied);
                return Err(damaged(&self.path.join(STATE), reason));
            }
        }
        if last < applied.0 {
            return shorter("the state", applied.0);
        }
        if last < log.hard_state().commit {
            return shorter("its own commit index", log.hard_state().commit);
        }
        if applied.0 < log.truncated().0 {
            let reason =
                format!("it ends at entry {}, but the log begins behind {}", applied.0, log.truncated().0);
            return Err(damaged(&self.path.join(STATE), reason));
        }
        match log.term(applied.0)? {
            Some(term) if term == applied.1 => Ok(()),
            other => {
                let reason = format!("entry {} has term {other:?}, the state has {}", applied.0, applied.1);
                Err(damaged(&folder, reason))
            }
        }
    }
}

/// Flushes the state and says where it and the log end.
fn note_of(log: &EngineLog, state: &LevelGenerations) -> Result<CleanClose> {
    let live = state.live();
    live.flush()?;
    let applied = keys::applied_of(&live.get(&keys::COUNTERS_ROW)?.unwrap_or_default())?.0;
    let last_index = log.last_index();
    Ok(CleanClose { last_index, last_term: log.term(last_index)?.unwrap_or(0), applied })
}

/// (index, term) of the last applied entry.
fn applied(state: &LevelGenerations, path: &Path) -> Result<(u64, u64)> {
    let counters = state.live().get(&keys::COUNTERS_ROW)?;
    let counters = counters.ok_or_else(|| damaged(&path.join(STATE), "it has no counters"))?;
    keys::applied_of(&counters)
}

/// Makes the folder, and returns its absolute path.
fn create(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|cause| system("create the data folder", path, cause))?;
    }
    let path = path.canonicalize().map_err(|cause| system("use the data folder", path, cause))?;
    if path.to_str().is_none() {
        let detail = format!("the path of the data folder {} is not UTF-8", path.display());
        return Err(Error::new(Kind::System, detail).hint("choose another --data"));
    }
    if let Some(parent) = path.parent() {
        // The name of a folder that we did not make may lie where we may not read.
        let _ = files::sync_folder(parent);
    }
    Ok(path)
}

fn has_store_folders(folder: &Path) -> bool {
    [LOG, STATE].iter().any(|name| folder.join(name).exists())
}

fn missing_identity(folder: &Path) -> Error {
    damaged(&folder.join(identity::NAME), "it is missing")
}

/// Whether anything lies in the folder that a first start could not have left.
fn holds_others(folder: &Path) -> Result<bool> {
    let unreadable = |cause| system("read the data folder", folder, cause);
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        if name != lock::NAME && name != files::temporary_name(identity::NAME).as_str() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The machine's boot id, or what [`BOOT_ID_VARIABLE`] says; empty if there is none, which counts as another boot.
pub(super) fn boot_id() -> String {
    match std::env::var(BOOT_ID_VARIABLE) {
        Ok(boot) => boot,
        Err(_) => fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned(),
    }
}
