//! What the keepers of chunks reach each other by: questions that are asked and answered at one instant of virtual time, if
//! the network and whoever is asked let them.
//!
//! A keeper is called inside [`System::keeping`]: there the network, chance and the time are lent to the ether.

use crate::bug::Bug;
use crate::event::{Event, Place};
use crate::forgery;
use crate::node::Clock;
use crate::system::{MS, Net, System};
use catstore::error::{Error, Kind, Result};
use catstore::replica::Name;
use catstore::replica::blobs::{Keeper, Standing};
use catstore::replica::copies::SnapshotName;
use catstore::replica::core::Status;
use catstore::replica::parcel::{self, Gate};
use catstore::replica::shared::Members;
use catstore::replica::transport::Wire;
use catstore::store::doubles::{Disk, Random};
use catstore::store::state::State;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// One question in so many is lost, whatever the network does.
const LOST: u64 = 60;

/// A member that keeps chunks, as long as its process lives.
pub struct Room {
    /// Its keeper.
    pub keeper: Keeper,
    /// How it stands in its group.
    pub stand: Arc<Stand>,
    /// Whom it lets in.
    pub gate: Arc<Gate>,
}

/// What all keepers share.
pub struct Ether(Mutex<Inner>);

struct Inner {
    now: u64,
    faults: bool,
    bug: Bug,
    net: Net,
    random: Random,
    rooms: BTreeMap<u64, Weak<Room>>,
    disks: BTreeMap<u64, Disk>,
    /// Members whose disk has failed.
    fallen: BTreeSet<u64>,
    /// Questions that arrive after whoever asked has given up.
    late: Vec<(u64, Vec<u8>)>,
    counts: Vec<&'static str>,
    began: Instant,
}

/// What becomes of a question.
enum Way {
    Arrives(Arc<Room>, bool),
    Lost(&'static str),
}

impl Ether {
    /// Nobody is there yet.
    pub fn new(bug: Bug) -> Arc<Ether> {
        Arc::new(Ether(Mutex::new(Inner {
            now: 0,
            faults: true,
            bug,
            net: Net::default(),
            random: Random::new(0),
            rooms: BTreeMap::new(),
            disks: BTreeMap::new(),
            fallen: BTreeSet::new(),
            late: Vec::new(),
            counts: Vec::new(),
            began: Instant::now(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Worker `id` has this disk.
    pub fn has_disk(&self, id: u64, disk: Disk) {
        self.lock().disks.insert(id, disk);
    }

    /// Worker `id` runs.
    pub fn opens(&self, id: u64, room: &Arc<Room>) {
        let mut inner = self.lock();
        inner.rooms.insert(id, Arc::downgrade(room));
        inner.fallen.remove(&id);
    }

    /// The workers whose disks have failed since the last call.
    pub fn take_fallen(&self) -> BTreeSet<u64> {
        std::mem::take(&mut self.lock().fallen)
    }

    /// Whether the chunk is on the disk of worker `id`, whether that runs or not.
    pub fn is_on_disk(&self, id: u64, name: &Name) -> bool {
        self.lock().disks.get(&id).is_some_and(|disk| disk.has_chunk(name))
    }

    /// A member of another group gives a chunk.
    pub fn give(&self, to: u64, from: &[u64], name: &Name) -> Option<Vec<u8>> {
        from.iter().find_map(|from| match self.way(to, *from) {
            Way::Arrives(room, true) => room.keeper.read_here(name).ok().flatten(),
            _ => None,
        })
    }

    /// A question that was given up arrives.
    pub fn straggle(&self, to: u64, envelope: &[u8]) {
        let room = self.lock().rooms.get(&to).and_then(Weak::upgrade);
        if let Some(room) = room.filter(|room| room.stand.check_open().is_ok())
            && let Ok(question) = parcel::open_envelope(envelope, &room.gate)
        {
            // Nobody waits for the answer.
            let _ = room.keeper.answer(question);
        }
    }

    /// Whether a question arrives, and its answer.
    fn way(&self, from: u64, to: u64) -> Way {
        let mut inner = self.lock();
        let (one, other, now) = (Place::Worker(from), Place::Worker(to), inner.now);
        if inner.net.is_cut(one, other, now) {
            return Way::Lost("question about chunks cut off");
        }
        let mut lost = || {
            let chance = inner.net.lose + if inner.faults { 1000 / LOST } else { 0 };
            inner.random.draw() % 1000 < chance
        };
        let (question, answer) = (lost(), lost());
        if question {
            return Way::Lost("question about chunks lost");
        }
        let answer = answer || inner.net.is_cut(other, one, now);
        let room = inner.rooms.get(&to).and_then(Weak::upgrade);
        drop(inner);
        match room.filter(|room| room.stand.answers(now)) {
            Some(room) => Way::Arrives(room, !answer),
            None => Way::Lost("question about chunks not answered"),
        }
    }

    fn count(&self, what: &'static str) {
        self.lock().counts.push(what);
    }
}

impl System {
    /// Lends the ether what it needs while `call` calls a keeper.
    pub fn keeping<T>(&mut self, call: impl FnOnce() -> T) -> T {
        let ether = self.ether.clone();
        {
            let mut inner = ether.lock();
            (inner.now, inner.faults) = (self.now, self.faults);
            inner.random = self.random.clone();
            inner.net = std::mem::take(&mut self.net);
        }
        let done = call();
        let mut inner = ether.lock();
        self.net = std::mem::take(&mut inner.net);
        self.random = inner.random.clone();
        let (counts, late) = (std::mem::take(&mut inner.counts), std::mem::take(&mut inner.late));
        drop(inner);
        counts.into_iter().for_each(|what| self.count(what));
        for (to, envelope) in late {
            let delay = self.between(MS, 3000 * MS);
            self.after(delay, Event::Straggler(Place::Worker(to), envelope));
        }
        done
    }
}

/// The way of one member to the others.
pub struct Line {
    /// The member.
    pub from: u64,
    /// What carries its questions.
    pub ether: Arc<Ether>,
}

impl Wire for Line {
    fn deliver(&self, _: u64, _: &[u8]) -> Result<()> {
        Err(unreachable("parcels travel elsewhere"))
    }

    fn pull(&self, _: u64, _: SnapshotName, _: Option<&[u8]>) -> Result<Vec<u8>> {
        Err(unreachable("snapshots travel elsewhere"))
    }

    fn ask(&self, to: u64, envelope: &[u8]) -> Result<Vec<u8>> {
        match self.ether.way(self.from, to) {
            Way::Arrives(room, returns) => {
                let bug = self.ether.lock().bug;
                let question = parcel::open_envelope(envelope, &room.gate)?;
                let answer = match forgery::answered_by_nobody(bug, question) {
                    Some(answer) => answer,
                    None => forgery::word(bug, question, room.keeper.answer(question)?),
                };
                if returns {
                    return Ok(answer);
                }
                self.ether.count("answer about chunks lost");
                Err(unreachable("an answer is lost"))
            }
            Way::Lost(why) => {
                self.ether.count(why);
                let mut inner = self.ether.lock();
                if inner.faults && inner.random.draw().is_multiple_of(3) {
                    inner.late.push((to, envelope.to_vec()));
                }
                Err(unreachable(why))
            }
        }
    }

    /// One after the other, so that a seed replays.
    fn ask_all(&self, questions: &[(u64, Vec<u8>)], meanwhile: &mut dyn FnMut()) -> Vec<Result<Vec<u8>>> {
        let early = self.ether.lock().random.draw().is_multiple_of(2);
        if early {
            meanwhile();
        }
        let answers = questions.iter().map(|(to, envelope)| self.ask(*to, envelope)).collect();
        if !early {
            meanwhile();
        }
        answers
    }
}

fn unreachable(why: &str) -> Error {
    Error::new(Kind::Unreachable, why)
}

/// How a member stands in its group, as its keeper sees it.
pub struct Stand {
    id: u64,
    ether: Arc<Ether>,
    clock: Clock,
    seen: Mutex<Seen>,
}

struct Seen {
    closed: bool,
    paused_until: u64,
    status: Status,
    lease: u64,
    members: Arc<Members>,
    state: Arc<dyn State>,
}

impl Stand {
    /// The member `id` is opened, with these rows.
    pub fn new(id: u64, ether: Arc<Ether>, clock: Clock, state: Arc<dyn State>) -> Stand {
        let seen = Seen {
            closed: false,
            paused_until: 0,
            status: Status::default(),
            lease: 0,
            members: Arc::default(),
            state,
        };
        Stand { id, ether, clock, seen: Mutex::new(seen) }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its place, and until when it reads by lease.
    pub fn publish(&self, status: Status, lease: u64) {
        let mut seen = self.seen();
        (seen.status, seen.lease) = (status, lease);
    }

    /// Its rows.
    pub fn shows(&self, state: Arc<dyn State>) {
        self.seen().state = state;
    }

    /// Who votes, and who answers.
    pub fn knows(&self, members: Members) {
        let mut seen = self.seen();
        if *seen.members != members {
            seen.members = Arc::new(members);
        }
    }

    /// It does nothing before then.
    pub fn pause(&self, until: u64) {
        self.seen().paused_until = until;
    }

    /// The process does nothing more.
    pub fn close(&self) {
        self.seen().closed = true;
    }

    fn answers(&self, now: u64) -> bool {
        let seen = self.seen();
        !seen.closed && seen.paused_until <= now
    }
}

impl Standing for Stand {
    fn check_open(&self) -> Result<()> {
        match self.seen().closed {
            true => Err(Error::new(Kind::Closed, "this node is closed")),
            false => Ok(()),
        }
    }

    fn status(&self) -> Status {
        self.seen().status
    }

    fn may_read(&self) -> bool {
        let now = self.ether.lock().now;
        self.seen().lease > self.clock.ms(now)
    }

    fn members(&self) -> Arc<Members> {
        self.seen().members.clone()
    }

    fn state(&self) -> Result<Arc<dyn State>> {
        self.check_open()?;
        Ok(self.seen().state.clone())
    }

    fn fail(&self, _: Error) {
        self.seen().closed = true;
        self.ether.lock().fallen.insert(self.id);
    }

    fn renew(&self, _: &Error) -> bool {
        false
    }

    fn renews(&self) -> bool {
        false
    }

    /// All that a keeper does happens at one instant.
    fn sleep(&self, _: Duration) {}

    fn now(&self) -> Instant {
        let inner = self.ether.lock();
        inner.began + Duration::from_micros(inner.now)
    }
}

/// The time of files.
pub fn file_time(ether: &Arc<Ether>) -> Arc<dyn Fn() -> Duration + Send + Sync> {
    let ether = ether.clone();
    Arc::new(move || Duration::from_micros(ether.lock().now))
}
