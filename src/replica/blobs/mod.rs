//! The chunks of a member: what it stores of uploads, what it lacks, and what it may throw away.
//!
//! The way of a large value: whoever gets its bytes cuts them into chunks and gives them one by one to the group's leader
//! ([`Keeper::store`]), which writes each and sends it to the voters; when a majority has it synced, it is acknowledged.
//! At the end the leader makes sure that a majority has *all* chunks ([`Keeper::secure`]), and only then is the command
//! that names them proposed, with the names of those who have them: the member checks them against the configuration in
//! force (`member.rs`). A member that applies the command and lacks a chunk pulls it from another one (`checking`); until
//! then it reads it from there ([`Keeper::read`]). What no record names any more is removed (`collecting`). A person may ask
//! that everything be read and mended (`verifying`).
//!
//! Invariants: a chunk is synced before anybody is told of it; what a record of the state, an entry that may still be
//! applied, or an upload under way refers to is never removed (`ledger`); bytes that do not match their name are never
//! given to anybody.
//!
//! Left out: HTTP and how values are cut (`server`), files (`store/blobs.rs`).

mod checking;
mod collecting;
mod ledger;
mod recent;
mod securing;
pub mod talk;
mod verifying;

pub use collecting::{Collected, Round};
pub use ledger::{Ledger, Mark, Statement};
pub use securing::{NO_UPLOAD, is_majority};

use super::core::{Role, Status};
use super::keyspace::Keyspace;
use super::parcel::{self, Sender};
use super::shared::{Members, Shared, lock};
use super::transport::Wire;
use crate::cluster::verifying::ChunkFacts;
use crate::error::{Error, Kind, Result};
use crate::store::blobs::{Blobs, Found};
use crate::store::buffers;
use crate::store::chunk::{Manifest, Name};
use crate::store::state::State;
use bytes::Bytes;
use checking::Needs;
use collecting::Readers;
use recent::Recent;
use securing::Uploads;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use talk::Question;

/// What the replica thread tells of what it applied, before anybody is answered.
pub trait Chunks: Send + Sync {
    /// Entries up to this one are applied, and with them these keys got values in chunks.
    fn applied(&self, index: u64, term: u64, chunked: Vec<Vec<u8>>);

    /// A value in chunks was removed.
    fn freed(&self) {}

    /// All rows were replaced, as of this entry.
    fn replaced(&self, index: u64, term: u64);

    /// The last entry up to which every chunk is here, as far as this has been told of entries: what was applied since may
    /// name chunks that are not here, and a snapshot may name nothing but such.
    fn complete(&self) -> u64;
}

/// How a member stands in its group at the moment.
pub trait Standing: Send + Sync {
    /// Errors: `Closed`, `Failed` if the member has stopped.
    fn check_open(&self) -> Result<()>;

    /// Its role and term.
    fn status(&self) -> Status;

    /// True if it leads for certain.
    fn may_read(&self) -> bool;

    /// Who votes and who answers.
    fn members(&self) -> Arc<Members>;

    /// The rows as they are applied. Errors as [`Standing::check_open`].
    fn state(&self) -> Result<Arc<dyn State>>;

    /// The member must stop.
    fn fail(&self, error: Error);

    /// Has all rows pulled anew because some are rotten; false if nobody else has them.
    fn renew(&self, error: &Error) -> bool;

    /// True until rows that are to be pulled anew are here.
    fn renews(&self) -> bool;

    /// Lets time pass.
    fn sleep(&self, time: Duration);

    /// The time.
    fn now(&self) -> Instant {
        Instant::now()
    }
}

impl Standing for Shared<Keyspace> {
    fn check_open(&self) -> Result<()> {
        Shared::check_open(self)
    }

    fn status(&self) -> Status {
        Shared::status(self)
    }

    fn may_read(&self) -> bool {
        Shared::may_read(self)
    }

    fn members(&self) -> Arc<Members> {
        Shared::members(self)
    }

    fn state(&self) -> Result<Arc<dyn State>> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner).clone();
        live.map(|live| live.state).ok_or_else(|| self.closed_error())
    }

    fn fail(&self, error: Error) {
        Shared::fail(self, error);
    }

    fn renew(&self, error: &Error) -> bool {
        Shared::renew(self, error)
    }

    fn renews(&self) -> bool {
        lock(&self.rot).is_some()
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// Numbers for others.
#[derive(Debug, Default)]
pub struct ChunkGauges {
    /// Chunks that were found rotten or missing and were pulled from another member.
    pub mended: AtomicU64,
    /// Chunks that were found rotten.
    pub rotten: AtomicU64,
    /// Chunks that were pulled because they were missing.
    pub fetched: AtomicU64,
    /// Their bytes.
    pub fetched_bytes: AtomicU64,
    /// Chunks that were removed because nothing refers to them.
    pub collected: AtomicU64,
    /// Values that lack a chunk here.
    pub lacking: AtomicU64,
}

/// The chunks of one member.
pub struct Keeper {
    blobs: Box<dyn Blobs>,
    own: Sender,
    wire: Arc<dyn Wire>,
    standing: Arc<dyn Standing>,
    ledger: Mutex<Ledger>,
    uploads: Mutex<Uploads>,
    needs: Mutex<Needs>,
    needed: Condvar,
    /// Held by whoever reads a value; replaced by each round of the collector.
    readers: Mutex<Readers>,
    recent: Mutex<Recent>,
    gauges: ChunkGauges,
    /// The verification under way, or the last one.
    verification: Mutex<Option<Arc<verifying::Run>>>,
    /// How long a chunk stays that nothing has ever referred to: for uploads that broke off and are resumed.
    keep: Duration,
    /// So many chunks are pulled at once.
    lanes: usize,
    /// True if something may have become free since the last round of the collector.
    stirred: AtomicBool,
}

/// What a keeper works on.
pub struct Ground {
    /// The chunks.
    pub blobs: Box<dyn Blobs>,
    /// This member, as the others know it.
    pub own: Sender,
    /// How it reaches them.
    pub wire: Arc<dyn Wire>,
    /// How the member stands in its group.
    pub standing: Arc<dyn Standing>,
    /// (index, term) of the last applied entry.
    pub applied: (u64, u64),
    /// The term that the log knows.
    pub term: u64,
    /// How long a chunk stays that nothing refers to.
    pub keep: Duration,
    /// So many chunks are pulled at once; with one there are no threads.
    pub lanes: usize,
}

impl Keeper {
    /// A keeper on `ground` whose work somebody else does step by step: [`Keeper::check_one`], [`Keeper::begin_round`].
    pub fn new_without_threads(ground: Ground) -> Keeper {
        Keeper::new(ground)
    }

    /// A keeper on `ground`, with its threads, which end when the member stops. Errors: `System` if they do not start.
    pub fn start(ground: Ground) -> Result<Arc<Keeper>> {
        let keeper = Arc::new(Keeper::new(ground));
        checking::spawn(&keeper, "chunk-checker", Keeper::check_until_closed)?;
        checking::spawn(&keeper, "collector", Keeper::collect_until_closed)?;
        Ok(keeper)
    }

    fn new(ground: Ground) -> Keeper {
        let Ground { blobs, own, wire, standing, applied, term, keep, lanes } = ground;
        Keeper {
            keep,
            lanes,
            stirred: AtomicBool::new(true),
            blobs,
            own,
            wire,
            standing,
            ledger: Mutex::new(Ledger::new(applied, term)),
            uploads: Mutex::default(),
            needs: Mutex::new(Needs::everything(applied.0)),
            needed: Condvar::new(),
            readers: Mutex::default(),
            recent: Mutex::default(),
            gauges: ChunkGauges::default(),
            verification: Mutex::default(),
        }
    }

    /// Numbers for others.
    pub fn gauges(&self) -> &ChunkGauges {
        &self.gauges
    }

    /// The numbers as they are now.
    pub fn facts(&self) -> ChunkFacts {
        let now = |gauge: &AtomicU64| gauge.load(Ordering::Relaxed);
        let ChunkGauges { mended, rotten, fetched, collected, lacking, .. } = &self.gauges;
        ChunkFacts {
            mended: now(mended),
            rotten: now(rotten),
            fetched: now(fetched),
            collected: now(collected),
            lacking: now(lacking),
        }
    }

    /// True if every value that this has been told of has its chunks here.
    pub fn lacks_nothing(&self) -> bool {
        lock(&self.needs).complete() == u64::MAX
    }

    /// Whoever holds this may read the chunks of any record that it reads afterwards: none is removed meanwhile.
    pub fn reading(&self) -> Arc<()> {
        lock(&self.readers).now.clone()
    }

    /// As [`Keeper::read`], for many readers: what another one read a moment ago is not read again.
    pub fn share(&self, name: &Name) -> Result<Bytes> {
        let known = lock(&self.recent).find(name, self.standing.now());
        if let Some(bytes) = known {
            return Ok(bytes);
        }
        let bytes = buffers::share(self.read(name)?);
        lock(&self.recent).note(name, &bytes, self.standing.now());
        Ok(bytes)
    }

    /// The bytes of a chunk, from here or from another member. What is rotten or missing here is mended.
    ///
    /// Errors: `Damaged` if no member that answers has it whole; `System` and `Failed` for the disk.
    pub fn read(&self, name: &Name) -> Result<Vec<u8>> {
        if let Some(bytes) = self.read_here(name)? {
            return Ok(bytes);
        }
        let bytes = self.pull(name)?;
        self.gauges.mended.fetch_add(1, Ordering::Relaxed);
        // It is whole, whether or not there is room for it.
        if let Err(error) = self.put(name, &bytes) {
            log::warn!("chunk {name:?} cannot be mended: {error}");
        }
        Ok(bytes)
    }

    /// The bytes of a chunk if it is whole here.
    pub fn read_here(&self, name: &Name) -> Result<Option<Vec<u8>>> {
        Ok(match self.look(name)? {
            Found::Whole(bytes) => Some(bytes),
            Found::Rotten | Found::Missing => None,
        })
    }

    /// How a chunk is here; one that is rotten is counted.
    fn look(&self, name: &Name) -> Result<Found> {
        let found = self.blobs.read(name)?;
        if found == Found::Rotten {
            self.gauges.rotten.fetch_add(1, Ordering::Relaxed);
            log::warn!("chunk {name:?} is rotten here");
        }
        Ok(found)
    }

    /// Names the chunks of a value, in order, a node's worth at a time; of a tree, the nodes come first. Errors as
    /// [`Keeper::read`] for nodes.
    pub fn names(&self, manifest: &Manifest, visit: &mut dyn FnMut(&[Name]) -> Result<()>) -> Result<()> {
        visit(&manifest.names)?;
        if manifest.depth == 0 {
            return Ok(());
        }
        for (number, node) in manifest.names.iter().enumerate() {
            visit(&manifest.read_node(number, &self.read(node)?)?)?;
        }
        Ok(())
    }

    /// Answers another member. Errors: `BadRequest`, and those of the disk.
    pub fn answer(&self, question: &[u8]) -> Result<Vec<u8>> {
        match Question::decode(question)? {
            Question::Take(mark, name, bytes) => {
                if Name::of(&bytes) != name {
                    return Err(Error::new(Kind::BadRequest, "a chunk does not match its name"));
                }
                self.check_term(mark)?;
                lock(&self.ledger).mark(&name, mark);
                self.put(&name, &bytes)?;
                Ok(Vec::new())
            }
            Question::Held(mark, names) => {
                self.check_term(mark)?;
                let mut ledger = lock(&self.ledger);
                names.iter().for_each(|name| ledger.mark(name, mark));
                drop(ledger);
                Ok(names.iter().map(|name| u8::from(self.blobs.touch(name))).collect())
            }
            Question::Give(name) => Ok(talk::encode_gift(self.read_here(&name)?)),
            Question::Word => {
                let status = self.standing.status();
                if status.role != Role::Leader || !self.standing.may_read() {
                    return Err(Error::new(Kind::Moved, "this member does not lead its group"));
                }
                Ok(talk::encode_word(&lock(&self.ledger).statement(status.term)))
            }
        }
    }

    /// A member that has not heard of the term of a mark would forget the mark by a restart, and would not know what it forgot.
    fn check_term(&self, mark: Mark) -> Result<()> {
        match mark.term <= self.standing.status().term {
            true => Ok(()),
            false => Err(Error::new(Kind::Moved, "this member has not heard of the leader yet")),
        }
    }

    /// Pulls a chunk from any other member. Errors: `Damaged` if all of them say that they do not have it, `Unreachable` if one
    /// does not answer, or if this member does not know the others yet.
    fn pull(&self, name: &Name) -> Result<Vec<u8>> {
        let question = Question::Give(*name).encode();
        if !self.knows_its_group() {
            return Err(Error::new(Kind::Unreachable, "the other members of the group are not known yet"));
        }
        let mut last = Error::new(Kind::Damaged, format!("no member has chunk {} whole", name.hex()))
            .hint("catstore verify says which keys are hurt; put them again");
        for member in self.others() {
            match self.ask(member, &question).and_then(|answer| talk::decode_gift(name, answer)) {
                Ok(Some(bytes)) => return Ok(bytes),
                Ok(None) => {}
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// False for a member that has just joined: nobody else counts as asked.
    fn knows_its_group(&self) -> bool {
        let members = self.standing.members();
        members.voters.iter().any(|voter| *voter != self.own.id) || members.voters == [self.own.id]
    }

    /// The other members, those first that were heard of lately.
    fn others(&self) -> Vec<u64> {
        let members = self.standing.members();
        let leader = self.standing.status().leader;
        let mut others: Vec<u64> =
            members.voters.iter().chain(&members.outgoing).chain(&members.standbys).copied().collect();
        others.sort_by_key(|id| (*id != leader, !members.active.contains(id), *id));
        others.dedup();
        others.retain(|id| *id != self.own.id);
        others
    }

    fn ask(&self, member: u64, question: &[u8]) -> Result<Vec<u8>> {
        self.wire.ask(member, &parcel::envelope(&self.own, member, question))
    }

    /// Something may have become free, or will be.
    fn stir(&self) {
        self.stirred.store(true, Ordering::Release);
    }

    /// Stores a chunk; an error of the disk stops the member.
    fn put(&self, name: &Name, bytes: &[u8]) -> Result<()> {
        self.stir();
        self.blobs.put(name, bytes).inspect_err(|error| {
            if error.kind() == Kind::Failed {
                self.standing.fail(error.clone());
            }
        })
    }
}

impl Chunks for Keeper {
    fn applied(&self, index: u64, term: u64, chunked: Vec<Vec<u8>>) {
        let collecting = {
            let mut ledger = lock(&self.ledger);
            ledger.applied(index, term, &chunked);
            ledger.is_collecting()
        };
        if collecting {
            self.note_meanwhile(&chunked);
        }
        if !chunked.is_empty() {
            self.need(index, chunked);
            // One that was there before may have been replaced.
            self.stir();
        }
    }

    fn freed(&self) {
        self.stir();
    }

    fn replaced(&self, index: u64, term: u64) {
        lock(&self.ledger).replaced(index, term);
        self.need_everything(index);
        self.stir();
    }

    fn complete(&self) -> u64 {
        let told = lock(&self.ledger).last_applied();
        lock(&self.needs).complete().min(told)
    }
}
