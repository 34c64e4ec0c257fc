//! What the rest of the process holds of a running replica: a bounded inbox, reads, and numbers.

use super::command::{Reply, Request};
use super::directory::DirectoryMachine;
use super::driver::{self, Inbox, Live, Shared};
use super::keyspace::Keyspace;
use super::machine::Machine;
use super::member::Member;
use super::reader::Reader;
use crate::cluster::directory::{Directory, DirectoryCommand, DirectoryReply};
use crate::error::{Error, Kind, Result};
use crate::replica::{Folder, Sizes};
use crate::store::folder::Stores;
use crate::store::generation::LevelGenerations;
use crate::store::raft_engine::EngineLog;
use crate::store::state::Generations as _;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A close waits so long for the thread to finish what it accepted, and so long for readers to let go.
const CLOSE_PATIENCE: Duration = Duration::from_secs(8);
/// How often a wait looks again.
const POLL: Duration = Duration::from_millis(1);

/// How to open a replica.
#[derive(Debug, Clone)]
pub struct Options {
    /// Sizes of the stores.
    pub sizes: Sizes,
}

/// Plain numbers of a replica, for facts and metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Numbers {
    /// `leader`, `follower`, `candidate` or `standby`.
    pub role: &'static str,
    /// Raft term.
    pub term: u64,
    /// Index of the last applied entry.
    pub applied: u64,
    /// Keys stored.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// The version counter.
    pub version: u64,
    /// Log syncs since it was opened.
    pub syncs: u64,
    /// Entries applied since it was opened.
    pub entries: u64,
    /// Commands applied since it was opened.
    pub commands: u64,
    /// Commands waiting in the inbox now.
    pub queue: u64,
    /// Bytes of the Raft log on disk.
    pub log_bytes: u64,
}

/// A running replica of machine `M` on the stores of a folder.
struct Replica<M: Machine> {
    inbox: Inbox<M, (EngineLog, LevelGenerations)>,
    shared: Arc<Shared<M>>,
    folder: Arc<Mutex<Option<Folder>>>,
    path: PathBuf,
}

impl<M: Machine> Replica<M> {
    fn open(mut folder: Folder, options: &Options) -> Result<Arc<Replica<M>>> {
        let path = folder.path().to_owned();
        let id = member_id(folder.identity().index)?;
        let Stores { log, state } = folder.open_stores(options.sizes)?;
        let member = Member::open(id, random_seed()?, log, state).map_err(|error| in_folder(error, &path))?;
        let folder = Arc::new(Mutex::new(Some(folder)));
        let watched = folder.clone();
        let free = move || driver::lock(&watched).as_ref().and_then(|folder| folder.free_bytes().ok());
        let inbox = driver::start(member, Box::new(free))?;
        let shared = inbox.shared().clone();
        Ok(Arc::new(Replica { inbox, shared, folder, path }))
    }

    fn wait_ready(&self, deadline: Instant) -> Result<()> {
        loop {
            self.shared.check_open()?;
            if self.shared.serving.load(Ordering::Acquire) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(no_leader());
            }
            std::thread::sleep(POLL);
        }
    }

    async fn submit(&self, command: M::Command, deadline: Instant) -> Result<M::Reply> {
        let receiver = self.inbox.send(command, deadline)?;
        let lost = || {
            Error::new(Kind::UnknownOutcome, "the replica ended before it answered: it may have been written")
        };
        match tokio::time::timeout_at(deadline.into(), receiver).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) => Err(lost()),
            Err(_) => Err(Error::new(Kind::UnknownOutcome, "no answer in time: it may have been written")
                .hint("read the key to find out")),
        }
    }

    fn live(&self) -> Result<Live<M>> {
        self.shared.check_open()?;
        if !self.shared.serving.load(Ordering::Acquire) {
            return Err(no_leader());
        }
        let live = self.shared.live.read().unwrap_or_else(PoisonError::into_inner).clone();
        live.ok_or_else(|| self.shared.closed_error())
    }

    fn numbers(&self) -> Numbers {
        let gauges = &self.shared.gauges;
        Numbers {
            role: *gauges.role.read().unwrap_or_else(PoisonError::into_inner),
            term: gauges.term.load(Ordering::Relaxed),
            applied: gauges.applied.load(Ordering::Relaxed),
            syncs: gauges.syncs.load(Ordering::Relaxed),
            entries: gauges.entries.load(Ordering::Relaxed),
            commands: gauges.commands.load(Ordering::Relaxed),
            queue: gauges.queued.load(Ordering::Relaxed),
            log_bytes: gauges.log_bytes.load(Ordering::Relaxed),
            ..Numbers::default()
        }
    }

    fn starts(&self) -> u64 {
        driver::lock(&self.folder).as_ref().map_or(0, |folder| folder.identity().starts)
    }

    /// The first close wins; others find it closed. The folder comes back even if the replica had failed: then
    /// without the note of a clean close, so that the next start checks log and state against each other.
    fn close(&self) -> Result<Folder> {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.serving.store(false, Ordering::Release);
        let mut folder = driver::lock(&self.folder).take().ok_or_else(|| self.shared.closed_error())?;
        match self.inbox.close(CLOSE_PATIENCE) {
            Ok((log, state)) => {
                wait_for_readers(&state)?;
                folder.close_stores(Stores { log, state })?;
            }
            Err(error) => log::warn!("closed without a note of a clean close: {error}"),
        }
        Ok(folder)
    }
}

impl<M: Machine> Drop for Replica<M> {
    /// A replica that nobody holds any longer ends without a note of a clean close, as if it had been killed.
    fn drop(&mut self) {
        if driver::lock(&self.folder).is_some() {
            let _ = self.inbox.close(CLOSE_PATIENCE);
        }
    }
}

/// LevelDB is closed when its last reader lets go; reads take milliseconds.
fn wait_for_readers(state: &LevelGenerations) -> Result<()> {
    let live = Arc::downgrade(&state.live());
    let deadline = Instant::now() + CLOSE_PATIENCE;
    while live.strong_count() > 1 {
        if Instant::now() >= deadline {
            return Err(Error::new(Kind::Failed, "a read does not end; the store cannot be closed"));
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

fn member_id(index: Option<u32>) -> Result<u64> {
    index
        .map(|index| u64::from(index) + 1)
        .ok_or_else(|| Error::new(Kind::Failed, "this folder has no index yet"))
}

fn random_seed() -> Result<u64> {
    random_bytes::<8>().map(u64::from_le_bytes)
}

/// Bytes from the system's random source.
pub(super) fn random_bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::new(Kind::System, format!("the system gives no random bytes: {error}")))?;
    Ok(bytes)
}

fn in_folder(error: Error, path: &std::path::Path) -> Error {
    if error.kind() != Kind::Damaged {
        return error;
    }
    let hint = error.hint_text().unwrap_or("restore the folder from a copy").to_owned();
    Error::new(Kind::Damaged, format!("{}: {}", path.display(), error.detail())).hint(hint)
}

fn no_leader() -> Error {
    Error::new(Kind::NoMajority, "the group has no leader yet").hint("try again a little later")
}

/// A running replica of the keyspace. Cheap to clone; all clones are the same replica.
#[derive(Clone)]
pub struct KeyspaceHandle {
    replica: Arc<Replica<Keyspace>>,
}

impl KeyspaceHandle {
    /// Opens the stores of `folder` (which must have been founded) and starts the replica thread. Returns once the
    /// thread runs; [`KeyspaceHandle::wait_ready`] waits until it serves.
    pub fn open(folder: Folder, options: &Options) -> Result<KeyspaceHandle> {
        Ok(KeyspaceHandle { replica: Replica::open(folder, options)? })
    }

    /// Blocks until the replica serves, it failed, or the deadline passes (`NoMajority`).
    pub fn wait_ready(&self, deadline: Instant) -> Result<()> {
        self.replica.wait_ready(deadline)
    }

    /// Hands a command to the replica and waits for its reply.
    ///
    /// Errors: `Overloaded` (inbox full), `DiskFull`, `NoMajority`, `Closed`, `Failed`: certainly not written.
    /// `UnknownOutcome`: it may have been written; also when the deadline passes first.
    pub async fn submit(&self, request: Request, deadline: Instant) -> Result<Reply> {
        self.replica.submit(request, deadline).await
    }

    /// A right to read linearizably, now. Errors: `NoMajority`, `Closed`, `Failed`.
    pub fn reader(&self) -> Result<Reader> {
        let live = self.replica.live()?;
        Ok(Reader::new(live.state, live.published, self.replica.shared.clone()))
    }

    /// Numbers for facts and metrics.
    pub fn numbers(&self) -> Numbers {
        let mut numbers = self.replica.numbers();
        if let Ok(live) = self.replica.live() {
            numbers.keys = live.published.counters.keys;
            numbers.bytes = live.published.counters.bytes;
            numbers.version = live.published.counters.version;
        }
        numbers
    }

    /// How often the folder was opened, this time included; 0 once it is closed.
    pub fn starts(&self) -> u64 {
        self.replica.starts()
    }

    /// Why the replica stopped by itself, if it did. `Damaged` asks for exit code 5.
    pub fn failure(&self) -> Option<Error> {
        self.replica.shared.failure()
    }

    /// Finishes what was accepted, closes the stores cleanly and gives the folder back. Blocks. Later calls of
    /// `submit` and `reader` on any clone get `Closed`.
    pub fn close(&self) -> Result<Folder> {
        self.replica.close()
    }

    /// The data folder.
    pub fn path(&self) -> PathBuf {
        self.replica.path.clone()
    }

    /// Notes that a master has confirmed this start: [`Folder::confirm_start`]. Blocks for a sync.
    pub fn confirm_start(&self) -> Result<()> {
        driver::lock(&self.replica.folder).as_mut().map_or(Ok(()), Folder::confirm_start)
    }
}

/// A running replica of the directory, on a master.
#[derive(Clone)]
pub struct DirectoryHandle {
    replica: Arc<Replica<DirectoryMachine>>,
}

impl DirectoryHandle {
    /// As [`KeyspaceHandle::open`].
    pub fn open(folder: Folder, options: &Options) -> Result<DirectoryHandle> {
        Ok(DirectoryHandle { replica: Replica::open(folder, options)? })
    }

    /// As [`KeyspaceHandle::wait_ready`].
    pub fn wait_ready(&self, deadline: Instant) -> Result<()> {
        self.replica.wait_ready(deadline)
    }

    /// As [`KeyspaceHandle::submit`].
    pub async fn submit(&self, command: DirectoryCommand, deadline: Instant) -> Result<DirectoryReply> {
        self.replica.submit(command, deadline).await
    }

    /// The directory as last applied. Errors: `NoMajority`, `Closed`, `Failed`.
    pub fn directory(&self) -> Result<Arc<Directory>> {
        Ok(self.replica.live()?.published)
    }

    /// As [`KeyspaceHandle::numbers`]; keys and bytes are 0.
    pub fn numbers(&self) -> Numbers {
        self.replica.numbers()
    }

    /// As [`KeyspaceHandle::starts`].
    pub fn starts(&self) -> u64 {
        self.replica.starts()
    }

    /// As [`KeyspaceHandle::failure`].
    pub fn failure(&self) -> Option<Error> {
        self.replica.shared.failure()
    }

    /// As [`KeyspaceHandle::close`].
    pub fn close(&self) -> Result<Folder> {
        self.replica.close()
    }

    /// The data folder.
    pub fn path(&self) -> PathBuf {
        self.replica.path.clone()
    }
}
