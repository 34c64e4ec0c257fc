//! What the rest of the process holds of a running replica: a bounded inbox, reads, and numbers.

mod applied;
mod numbers;

pub use applied::Applied;
pub use numbers::Numbers;

use super::blobs::{Chunks, Ground, Keeper};
use super::clock::now_ms;
use super::command::{Reply, Request};
use super::digest::Digest;
use super::directory::DirectoryMachine;
use super::driver::{self, World};
use super::fetch::Copied;
use super::inbox::{Inbox, Job};
use super::keyspace::{self, Keyspace, Published};
use super::machine::Machine;
use super::member::{Member, Setup};
use super::moves::InPhase;
use super::parcel::{self, Gate, MASTERS, Sender};
use super::reader::Reader;
use super::shared::{Live, Shared, lock};
use super::transport::Wire;
use crate::cluster::directory::{Directory, DirectoryCommand, DirectoryReply};
use crate::cluster::membership::{Wanted, index_of, raft_id};
use crate::error::{Error, Kind, Result};
use crate::replica::{Folder, Role, Sizes};
use crate::store::blobs::ChunkFolder;
use crate::store::folder::Stores;
use crate::store::generation::{LevelBuilding, LevelGenerations};
use crate::store::log::RaftLog as _;
use crate::store::raft_engine::EngineLog;
use crate::store::state::Generations as _;
use std::cell::Cell;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A close waits so long for the thread to finish what it accepted, and so long for readers to let go.
const CLOSE_PATIENCE: Duration = Duration::from_secs(8);
/// So many chunks are pulled from other members at once.
const LANES: usize = 4;
/// A lone voter serves so soon after its start that whoever started it waits for it.
const POLL: Duration = Duration::from_millis(1);

/// How to open a replica.
#[derive(Clone)]
pub struct Options {
    /// Sizes of the stores.
    pub sizes: Sizes,
    /// How this member reaches the others.
    pub wire: Arc<dyn Wire>,
    /// Every read asks a majority (`--reads quorum`).
    pub quorum_reads: bool,
    /// Free bytes of the disk below which nothing is stored (`--reserve`).
    pub reserve: u64,
    /// How long a chunk stays that nothing refers to.
    pub keep: Duration,
}

/// Who orders the writes of a group, as a member sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lead {
    /// This member.
    Here,
    /// The member with this index.
    There(u32),
    /// Nobody, as far as this member knows.
    Nobody,
}

/// A member that is about to run, as whoever keeps its chunks sees it.
struct Beginning<'a, M: Machine> {
    path: &'a std::path::Path,
    own: &'a Sender,
    shared: &'a Arc<Shared<M>>,
    applied: (u64, u64),
    term: u64,
}

/// A running replica of machine `M` on the stores of a folder.
struct Replica<M: Machine> {
    inbox: Inbox<M, (EngineLog, LevelGenerations), LevelBuilding>,
    shared: Arc<Shared<M>>,
    gate: Gate,
    incarnation: u64,
    /// [`crate::store::identity::Identity::adopts`], or 0.
    began: u64,
    quorum_reads: bool,
    folder: Arc<Mutex<Option<Folder>>>,
    path: PathBuf,
}

impl<M: Machine> Replica<M> {
    fn open(
        mut folder: Folder,
        options: &Options,
        run: u64,
        keeper: impl FnOnce(Beginning<'_, M>) -> Result<Option<Arc<dyn Chunks>>>,
    ) -> Result<Arc<Replica<M>>> {
        let path = folder.path().to_owned();
        if let Some(incarnation) = folder.identity().promoting {
            let detail =
                format!("the promotion of {} to incarnation {incarnation} was cut short", path.display());
            return Err(Error::new(Kind::Failed, detail).hint("start this worker again while a master is up"));
        }
        let Stores { log, state } = folder.open_stores(options.sizes)?;
        let own = sender(&folder, run)?;
        let began = folder.identity().adopts.unwrap_or_default();
        let setup = Setup::new(own.id, own.incarnation, random_seed()?, now_ms());
        let member: Member<M, _, _> =
            Member::open(setup, log, state).map_err(|error| in_folder(error, &path))?;
        let folder = Arc::new(Mutex::new(Some(folder)));
        let watched = folder.clone();
        // While somebody writes the identity the last number is good enough: the replica does not wait for a disk.
        let last = Cell::new(None);
        let free = move || {
            if let Ok(folder) = watched.try_lock() {
                last.set(folder.as_ref().and_then(|folder| folder.free_bytes().ok()));
            }
            last.get()
        };
        let shared = driver::share(&member);
        let at = member.machine().position();
        let chunks = keeper(Beginning {
            path: &path,
            own: &own,
            shared: &shared,
            applied: (at.index, at.term),
            // A lone voter has begun the next one already.
            term: member.core().log().hard_state().term,
        })?;
        let (wire, reserve) = (options.wire.clone(), options.reserve);
        let world = World { wire, own: own.clone(), free_bytes: Box::new(free), reserve, chunks };
        let inbox = driver::start(member, shared.clone(), world)?;
        let (incarnation, gate) = (own.incarnation, Gate::new(own));
        let quorum_reads = options.quorum_reads;
        Ok(Arc::new(Replica { inbox, shared, gate, incarnation, began, quorum_reads, folder, path }))
    }

    /// Waits until the log is replayed and, for a lone voter, until it serves: nobody else can make it wait for long.
    fn wait_ready(&self, deadline: Instant) -> Result<()> {
        loop {
            self.shared.check_open()?;
            let started = self.shared.started.load(Ordering::Acquire);
            let alone = self.shared.members().voters == [self.shared.id];
            if started && (!alone || self.shared.may_read()) {
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

    fn lead(&self) -> Lead {
        let status = self.shared.status();
        match status.leader {
            0 => Lead::Nobody,
            leader if leader == self.shared.id => Lead::Here,
            leader => index_of(leader).map_or(Lead::Nobody, Lead::There),
        }
    }

    /// What is applied here, if this member may read it without asking anybody; none if it must ask.
    fn live_now(&self) -> Result<Option<Live<M>>> {
        self.shared.check_open()?;
        if !self.shared.may_read() || self.quorum_reads && !self.shared.reads_alone() {
            return Ok(None);
        }
        self.shared.applied_here().map(Some)
    }

    /// What is applied here once a majority has confirmed that this member leads. Errors: `Moved`, `NoMajority`.
    async fn live_confirmed(&self, deadline: Instant) -> Result<Live<M>> {
        let receiver = self.inbox.confirm_read()?;
        match tokio::time::timeout_at(deadline.into(), receiver).await {
            Ok(Ok(right)) => right?,
            Ok(Err(_)) => return Err(self.shared.closed_error()),
            Err(_) => {
                return Err(Error::new(Kind::NoMajority, "no majority of the group answered in time")
                    .hint("try again a little later"));
            }
        }
        self.shared.applied_here()
    }

    fn receive(&self, bytes: &[u8]) -> Result<()> {
        let parcel = parcel::open(bytes, &self.gate)?;
        self.inbox.receive(parcel.sender.id, parcel.progress, parcel.messages, bytes.len())
    }

    fn chunk(&self, id: u64, peer: u64, after: Option<&[u8]>) -> Result<Vec<u8>> {
        self.shared.check_open()?;
        self.inbox.post(Job::SnapshotUsed { id, peer });
        match after {
            Some(after) => self.shared.snapshots.chunk(id, after),
            None => Ok(Vec::new()),
        }
    }

    fn numbers(&self) -> Numbers {
        let gauges = &self.shared.gauges;
        let (status, members) = (self.shared.status(), self.shared.members());
        // Raft keeps them in sets, in no order that means anything.
        let indices = |ids: &[u64]| {
            let mut indices: Vec<u32> = ids.iter().filter_map(|id| index_of(*id)).collect();
            indices.sort_unstable();
            indices
        };
        Numbers {
            role: status.role.word(),
            term: status.term,
            leader: index_of(status.leader),
            voters: indices(&members.voters),
            outgoing: indices(&members.outgoing),
            standbys: indices(&members.standbys),
            active: indices(&members.active),
            last_term: gauges.last_term.load(Ordering::Relaxed),
            incarnation: self.incarnation,
            applied: gauges.applied.load(Ordering::Relaxed),
            last: gauges.last.load(Ordering::Relaxed),
            syncs: gauges.syncs.load(Ordering::Relaxed),
            entries: gauges.entries.load(Ordering::Relaxed),
            commands: gauges.commands.load(Ordering::Relaxed),
            queue: gauges.queued.load(Ordering::Relaxed),
            log_bytes: gauges.log_bytes.load(Ordering::Relaxed),
            renewals: gauges.renewals.load(Ordering::Relaxed),
            ..Numbers::default()
        }
    }

    fn starts(&self) -> u64 {
        lock(&self.folder).as_ref().map_or(0, |folder| folder.identity().starts)
    }

    /// The first close wins; others find it closed. The folder comes back even if the replica had failed: then
    /// without the note of a clean close, so that the next start checks log and state against each other.
    fn close(&self) -> Result<Folder> {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.stop_serving();
        let mut folder = lock(&self.folder).take().ok_or_else(|| self.shared.closed_error())?;
        match self.inbox.close(CLOSE_PATIENCE) {
            Ok((log, state)) => {
                wait_for_readers(&state)?;
                folder.close_stores(Stores { log, state })?;
            }
            // It stopped by itself, and left the stores as a crash would: the next start checks them.
            Err(error) if self.shared.failure().is_some() => {
                log::warn!("closed without a note of a clean close: {error}");
            }
            // It still runs, and may still write.
            Err(error) => return Err(error),
        }
        Ok(folder)
    }
}

impl<M: Machine> Drop for Replica<M> {
    /// A replica that nobody holds any longer ends without a note of a clean close, as if it had been killed.
    fn drop(&mut self) {
        if lock(&self.folder).is_some() {
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

/// Who the member of `folder` is to the others.
fn sender(folder: &Folder, run: u64) -> Result<Sender> {
    let identity = folder.identity();
    let missing = |what: &str| Error::new(Kind::Failed, format!("this folder has no {what} yet"));
    let index = identity.index.ok_or_else(|| missing("index"))?;
    let group = match identity.role {
        Role::Master => MASTERS,
        Role::Worker => identity.group.ok_or_else(|| missing("group"))?,
    };
    Ok(Sender {
        cluster: identity.cluster.clone().ok_or_else(|| missing("cluster"))?,
        group,
        incarnation: identity.incarnation,
        id: raft_id(index),
        starts: identity.starts,
        run,
    })
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

/// What handles of both kinds of replica have in common.
macro_rules! common {
    ($handle:ty) => {
        impl $handle {
            /// Blocks until the log is replayed and, for a lone voter, until it serves; or the replica failed, or the
            /// deadline passes (`NoMajority`).
            pub fn wait_ready(&self, deadline: Instant) -> Result<()> {
                self.replica.wait_ready(deadline)
            }

            /// Who orders the writes.
            pub fn lead(&self) -> Lead {
                self.replica.lead()
            }

            /// A parcel of another member. Errors: `Conflict` for a stranger, `BadRequest`, `Overloaded`, `Closed`.
            pub fn receive(&self, parcel: &[u8]) -> Result<()> {
                self.replica.receive(parcel)
            }

            /// A chunk of the snapshot `id` that this member holds for member `peer`, behind the row `after`; none only
            /// says that the snapshot is still needed. Blocks. Errors: `NotFound`, `Damaged`, `Closed`.
            pub fn chunk(&self, id: u64, peer: u64, after: Option<&[u8]>) -> Result<Vec<u8>> {
                self.replica.chunk(id, peer, after)
            }

            /// Hands the lead over, if there is somebody to take it; returns when that is done or `patience` is over.
            /// Blocks.
            pub fn leave(&self, patience: Duration) {
                self.replica.inbox.leave(patience);
            }

            /// The copy of a snapshot into this member: under way, or the last one.
            pub fn copying(&self) -> Option<Copied> {
                self.replica.shared.copying.get()
            }

            /// How often the folder was opened, this time included; 0 once it is closed.
            pub fn starts(&self) -> u64 {
                self.replica.starts()
            }

            /// Why the replica stopped by itself, if it did. `Damaged` asks for exit code 5.
            pub fn failure(&self) -> Option<Error> {
                self.replica.shared.failure()
            }

            /// Finishes what was accepted, closes the stores cleanly and gives the folder back. Blocks. Later calls
            /// on any clone get `Closed`.
            pub fn close(&self) -> Result<Folder> {
                self.replica.close()
            }

            /// The incarnation of the group that it belongs to.
            pub fn incarnation(&self) -> u64 {
                self.replica.incarnation
            }

            /// The data folder.
            pub fn path(&self) -> PathBuf {
                self.replica.path.clone()
            }

            /// Notes that a master has confirmed this start: [`Folder::confirm_start`]. Blocks for a sync.
            pub fn confirm_start(&self) -> Result<()> {
                lock(&self.replica.folder).as_mut().map_or(Ok(()), Folder::confirm_start)
            }
        }
    };
}

common!(KeyspaceHandle);
common!(DirectoryHandle);

/// A running replica of the keyspace. Cheap to clone; all clones are the same replica.
#[derive(Clone)]
pub struct KeyspaceHandle {
    replica: Arc<Replica<Keyspace>>,
    keeper: Arc<Keeper>,
    /// True once the group is known to have adopted its slots.
    adopted: Arc<AtomicBool>,
}

impl KeyspaceHandle {
    /// Opens the stores of `folder` (which must have been founded) and starts the replica thread, in the run of the process
    /// with the random number `run`. Returns once the thread runs.
    pub fn open(folder: Folder, options: &Options, run: u64) -> Result<KeyspaceHandle> {
        let mut keeper = None;
        let replica = Replica::open(folder, options, run, |beginning| {
            let Beginning { path, own, shared, applied, term } = beginning;
            let blobs = Box::new(ChunkFolder::open(path, options.reserve)?);
            let (own, wire, standing) = (own.clone(), options.wire.clone(), shared.clone());
            let ground =
                Ground { blobs, own, wire, standing, applied, term, keep: options.keep, lanes: LANES };
            let started = Keeper::start(ground)?;
            keeper = Some(started.clone());
            Ok(Some(started as Arc<dyn Chunks>))
        })?;
        let keeper = keeper.ok_or_else(|| Error::new(Kind::Failed, "the keeper of chunks did not start"))?;
        Ok(KeyspaceHandle { replica, keeper, adopted: Arc::default() })
    }

    /// Who keeps the chunks of large values.
    pub fn keeper(&self) -> &Arc<Keeper> {
        &self.keeper
    }

    /// Answers another member's question about chunks. Blocks. Errors: `Conflict` for a stranger, `BadRequest`, `Moved`,
    /// and those of the disk.
    pub fn answer_chunks(&self, envelope: &[u8]) -> Result<Vec<u8>> {
        self.replica.shared.check_open()?;
        self.keeper.answer(parcel::open_envelope(envelope, &self.replica.gate)?)
    }

    /// Hands a command to the replica and waits for its reply.
    ///
    /// Errors: `Overloaded` (inbox full), `DiskFull`, `NoMajority`, `Moved` (this member does not lead), `Closed`,
    /// `Failed`, `Frozen` (a promoted group does not know its slots yet): certainly not written. `UnknownOutcome`: it may
    /// have been written; also when the deadline passes first.
    pub async fn submit(&self, request: Request, deadline: Instant) -> Result<Reply> {
        if request.command.is_of_client() && self.awaits()? {
            return Err(keyspace::awaiting());
        }
        self.replica.submit(request, deadline).await
    }

    /// True if the incarnation that began with this member has not adopted its slots: it serves nobody until it has, and from
    /// then on this does not change. Errors: `Closed`, `Failed`.
    pub fn awaits(&self) -> Result<bool> {
        if self.replica.began == 0 || self.adopted.load(Ordering::Acquire) {
            return Ok(false);
        }
        let awaits = self.replica.shared.applied_here()?.published.moves.awaits(self.replica.began);
        self.adopted.store(!awaits, Ordering::Release);
        Ok(awaits)
    }

    /// The incarnation that began with this member; 0: none did.
    pub fn began(&self) -> u64 {
        self.replica.began
    }

    /// True while this member may read what is applied here without asking anybody: then that is everything that those who led
    /// before it have proposed.
    pub fn may_read(&self) -> bool {
        self.replica.shared.may_read()
    }

    /// The Raft term.
    pub fn term(&self) -> u64 {
        self.replica.shared.status().term
    }

    /// A right to read linearizably, now; none if a majority must be asked first. Errors: `Closed`, `Failed`.
    pub fn reader(&self) -> Result<Option<Reader>> {
        Ok(self.replica.live_now()?.map(|live| self.read(live)))
    }

    /// A right to read linearizably once a majority has confirmed that this member leads. Errors: `Moved`,
    /// `NoMajority`, `Overloaded`, `Closed`, `Failed`.
    pub async fn reader_confirmed(&self, deadline: Instant) -> Result<Reader> {
        Ok(self.read(self.replica.live_confirmed(deadline).await?))
    }

    /// A right to read what is applied here, and how many milliseconds that may lag behind the leader, not counting the
    /// way of its last message; none if nobody can tell.
    pub fn stale_reader(&self) -> Result<(Reader, Option<u64>)> {
        self.replica.shared.check_open()?;
        let shared = &self.replica.shared;
        // Before what is applied is looked up: that may be newer then, never older.
        let lag = match shared.gauges.fresh_at.load(Ordering::Acquire) {
            _ if shared.may_read() => Some(0),
            0 => None,
            at => Some(now_ms().saturating_sub(at)),
        };
        Ok((self.read(self.replica.shared.applied_here()?), lag))
    }

    /// What is applied here, for whoever moves slots. Errors: `Closed`, `Failed`.
    pub fn applied(&self) -> Result<Applied> {
        let Live { state, published } = self.replica.shared.applied_here()?;
        Ok(Applied { state, published })
    }

    fn read(&self, live: Live<Keyspace>) -> Reader {
        Reader::new(live.state, live.published, self.replica.shared.clone(), self.replica.began)
    }

    /// What the directory wants of this group.
    pub fn want(&self, wanted: Wanted) {
        self.replica.inbox.post(Job::Want(wanted));
    }

    /// The digest of the order `id`, once it is taken here.
    pub fn digest(&self, id: u64) -> Option<Digest> {
        self.replica.shared.digests.get(id)
    }

    /// Numbers for facts and metrics.
    pub fn numbers(&self) -> Numbers {
        let mut numbers = self.replica.numbers();
        numbers.chunks = Some(self.keeper.facts());
        if let Ok(live) = self.replica.shared.applied_here() {
            numbers.keys = live.published.counters.keys;
            numbers.bytes = live.published.counters.bytes;
            numbers.version = live.published.counters.version;
            let Published { slots, moves, .. } = &live.published;
            numbers.slots = slots.owned();
            numbers.moves_done = moves.last_out;
            numbers.awaits = moves.awaits(self.replica.began);
            let active = moves.incoming.as_ref().filter(|incoming| incoming.phase == InPhase::Active);
            numbers.received = active.map(|incoming| incoming.id);
        }
        numbers
    }
}

/// A running replica of the directory, on a master.
#[derive(Clone)]
pub struct DirectoryHandle {
    replica: Arc<Replica<DirectoryMachine>>,
}

impl DirectoryHandle {
    /// As [`KeyspaceHandle::open`].
    pub fn open(folder: Folder, options: &Options, run: u64) -> Result<DirectoryHandle> {
        Ok(DirectoryHandle { replica: Replica::open(folder, options, run, |_| Ok(None))? })
    }

    /// As [`KeyspaceHandle::submit`].
    pub async fn submit(&self, command: DirectoryCommand, deadline: Instant) -> Result<DirectoryReply> {
        self.replica.submit(command, deadline).await
    }

    /// The directory as it is now, if this master may say so without asking; none if it must ask. Errors: `Closed`,
    /// `Failed`.
    pub fn directory(&self) -> Result<Option<Arc<Directory>>> {
        Ok(self.replica.live_now()?.map(|live| live.published))
    }

    /// The directory as last applied here, however old that is. Errors: `Closed`, `Failed`.
    pub fn directory_here(&self) -> Result<Arc<Directory>> {
        Ok(self.replica.shared.applied_here()?.published)
    }

    /// As [`KeyspaceHandle::numbers`]; keys and bytes are 0.
    pub fn numbers(&self) -> Numbers {
        self.replica.numbers()
    }
}
