//! One machine with a disk and a clock, and the member that lives on it: the rim of the production code, on virtual
//! time. A member acts when something is there for it, unless it is busy or paused; what a run does takes time, and
//! what it sends before a sync leaves before what it sends after it.

mod chunks;
mod clock;
mod end;
mod post;
mod pull;
mod up;
mod upkeep;

use crate::bug::Bug;
use crate::ether::Stand;
use crate::event::{Answer, Caller, Death, Effect, Event, Place, Question};
use crate::stores::{Log, Probe, Root};
use crate::system::{MS, System};
use catstore::cluster::membership::Wanted;
use catstore::error::{Error, Kind, Result};
use catstore::replica::command::Reply;
use catstore::replica::core::{Role, Status, TICK_MS};
use catstore::replica::digest;
use catstore::replica::machine::Machine;
use catstore::replica::member::{Flush, Member, NOBODY, Outputs, Rim, Setup, Ticket};
use catstore::replica::parcel::{Gate, Sender};
use catstore::replica::snapshot::Held;
use catstore::store::doubles::{Disk, MemoryBuilding};
use catstore::store::state::State;
use raft::eraftpb::Message;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

pub use chunks::{Order, is_of_chunks};
pub use clock::Clock;
use end::or_crashed;
use pull::Pull;
use upkeep::Upkeep;

/// A machine that the simulator knows how to ask.
pub trait Subject: Machine {
    /// True if its values may be in chunks.
    const KEEPS_CHUNKS: bool;
    /// Where the member with that Raft id is.
    fn place(id: u64) -> Place;
    /// A reply as an answer.
    fn answer(reply: Self::Reply, published: &Self::Published) -> Answer;
    /// A question as a command; none if it is none.
    fn command(question: Question) -> Option<Self::Command>;
    /// What a reader finds.
    fn read(state: &dyn State, published: &Self::Published, key: &[u8]) -> Result<Answer>;
    /// The keys behind this one, so many at most.
    fn page(state: &dyn State, published: &Self::Published, after: &[u8], limit: usize) -> Result<Answer>;
    /// The answer to a reader that may not read, if so.
    fn refuses(published: &Self::Published, wish: &Wish) -> Option<Answer>;
    /// The version counter.
    fn version(published: &Self::Published) -> u64;
}

/// What a machine is and has, whether its process runs or not.
pub struct Node<M: Subject> {
    /// The Raft id.
    pub id: u64,
    /// The group's number on the wire.
    pub group: u32,
    /// The uuid of the folder.
    pub uuid: String,
    /// The disk.
    pub disk: Disk,
    /// What the stores tell.
    pub probe: Arc<Probe>,
    /// Its clocks.
    pub clock: Clock,
    /// How often the folder was opened.
    pub starts: u64,
    /// Counts the lives of the process.
    pub life: u64,
    /// The process, if it runs.
    pub up: Option<Up<M>>,
    /// True while it may not run: it was lost, or told that it was removed.
    pub gone: bool,
    /// True once another one is to take its place.
    pub given_up: bool,
    /// The last parcel that it sent, and to whom: it may arrive after a restart.
    pub last_sent: Option<(u64, Arc<Vec<u8>>)>,
    /// True if the power failed since the last start.
    pub power_lost: bool,
    /// It does nothing before then.
    pub paused_until: u64,
    /// Its syncs take so long until then: microseconds, and when.
    pub slow_disk: (u64, u64),
    /// How a planned fault of the disk ends the process.
    pub planned: Option<Death>,
    /// True once such a fault has happened: the process does nothing more.
    pub dying: bool,
    /// After so many bytes of entries the state is flushed, and the log cut at the latest.
    pub sizes: (u64, u64),
}

/// A process.
pub struct Up<M: Subject> {
    /// The member.
    pub member: Member<M, Log, Root>,
    /// Who it is to the others.
    pub own: Sender,
    gate: Arc<Gate>,
    mail: VecDeque<Arc<Vec<u8>>>,
    jobs: VecDeque<Job>,
    queue: VecDeque<(Ticket, M::Command)>,
    callers: BTreeMap<Ticket, Caller>,
    readers: BTreeMap<Ticket, (Caller, Wish, u64)>,
    next_ticket: Ticket,
    next_tick: u64,
    wake_at: Option<u64>,
    finishing: Option<Finishing<M>>,
    /// Until when it reads by lease, as readers see it.
    pub lease: u64,
    /// What readers see of its place.
    pub status: Status,
    live: (Arc<dyn State>, M::Published),
    held: BTreeMap<u64, Held>,
    pull: Option<Pull>,
    flush: Option<Flush>,
    /// True if it was asked to hand over.
    leaving: bool,
    /// For so many ticks it waits for rows in the place of rotten ones, and none are on their way.
    rotten_ticks: u32,
    /// What it had applied before the run.
    applied: u64,
    /// True while a run changes which slots are served: who reads must look again.
    shifting: bool,
    /// True if a tick came since others last heard who votes.
    ticked: bool,
    /// Its chunks, if its values may be in some.
    pub upkeep: Option<Upkeep>,
}

/// What a run left to do at its end.
struct Finishing<M: Subject> {
    outputs: Outputs<M::Reply, MemoryBuilding>,
    refused: Vec<(Ticket, Error)>,
}

enum Job {
    Flushed(u64),
    Fetched(u64, Option<MemoryBuilding>),
    Used(u64, u64),
    Want(Wanted),
    Leave,
    Renew,
    Read(Ticket),
    Unreachable(u64),
    Forged(Message),
}

/// A member stops after so many ticks in which nobody gave it rows; production waits for longer.
const MOST_ROTTEN_TICKS: u32 = 50;

/// What a reader wants to read.
#[derive(Debug, Clone)]
pub enum Wish {
    /// A record.
    Key(Vec<u8>),
    /// So many keys behind this one.
    Page(Vec<u8>, usize),
}

/// Notes what a run does, and how far into the run.
struct Notes<'a> {
    probe: &'a Probe,
    shifts: bool,
    effects: Vec<(u64, Effect)>,
}

impl Rim for Notes<'_> {
    fn publish(&mut self, status: &Status) {
        self.effects.push((self.probe.elapsed(), Effect::Publish(*status)));
    }
    fn send(&mut self, messages: Vec<Message>) {
        self.effects.push((self.probe.elapsed(), Effect::Send(messages)));
    }
    fn shift(&mut self) {
        self.shifts = true;
    }
}

impl<M: Subject> Node<M> {
    /// Where it is.
    pub fn place(&self) -> Place {
        M::place(self.id)
    }

    /// Starts the process. Errors say what must not happen at a start.
    pub fn start(&mut self, sys: &mut System) -> Result<(), String> {
        if self.up.is_some() || self.gone {
            return Ok(());
        }
        self.life += 1;
        self.starts += 1;
        self.pause(0);
        self.dying = false;
        sys.count("start");
        let (log, generations) = self.disk.open(self.power_lost);
        let now = self.clock.ms(sys.now);
        let seed = sys.random.draw();
        let run = sys.random.draw();
        let setup = Setup {
            now: if sys.bug == Bug::VoteAfterRestart { now.saturating_sub(10_000) } else { now },
            flush_bytes: self.sizes.0,
            keep_bytes: self.sizes.1,
            ..Setup::new(self.id, 1, seed, now)
        };
        self.probe.begin(0, 0);
        let fault = self.disk.fault_is_pending();
        let opened: Result<Member<M, Log, Root>> = or_crashed(|| {
            let root = Root::new(generations, self.probe.clone())?;
            Member::open(setup, Log::new(log, self.probe.clone()), root)
        });
        let member = match opened {
            Ok(member) => member,
            Err(_) if fault && !self.disk.fault_is_pending() => {
                // The planned fault hit the start.
                self.fall(sys, Death::Power);
                return Ok(());
            }
            Err(error) => return Err(format!("{:?} does not open: {error}", self.place())),
        };
        self.power_lost = false;
        let own = Sender {
            cluster: "c".into(),
            group: self.group,
            incarnation: 1,
            id: self.id,
            starts: self.starts,
            run,
        };
        let live = (member.state(), member.machine().publish());
        let (at, term) = (member.machine().position(), member.core().term());
        let gate = Arc::new(Gate::new(own.clone()));
        let upkeep = M::KEEPS_CHUNKS.then(|| {
            let stand = Stand::new(self.id, sys.ether.clone(), self.clock, member.state());
            Upkeep::open(sys, self, &own, &gate, (at, term), stand)
        });
        self.up = Some(Up {
            member,
            gate,
            own,
            mail: VecDeque::new(),
            jobs: VecDeque::new(),
            queue: VecDeque::new(),
            callers: BTreeMap::new(),
            readers: BTreeMap::new(),
            next_ticket: NOBODY + 1,
            next_tick: now + TICK_MS,
            wake_at: None,
            finishing: None,
            lease: 0,
            status: Status::default(),
            live,
            held: BTreeMap::new(),
            pull: None,
            flush: None,
            leaving: false,
            rotten_ticks: 0,
            applied: at.index,
            shifting: false,
            ticked: true,
            upkeep,
        });
        self.want_wake(sys, sys.now);
        self.plan_check(sys, 0);
        self.deliver_late(sys);
        Ok(())
    }

    fn want_wake(&mut self, sys: &mut System, at: u64) {
        let at = at.max(sys.now).max(self.paused_until);
        let (place, life) = (self.place(), self.life);
        if let Some(up) = &mut self.up
            && up.finishing.is_none()
            && up.wake_at.is_none_or(|planned| at < planned)
        {
            up.wake_at = Some(at);
            sys.at(at, Event::Wake(place, life));
        }
    }

    fn job(&mut self, sys: &mut System, job: Job) {
        if let Some(up) = &mut self.up {
            up.jobs.push_back(job);
            self.want_wake(sys, sys.now);
        }
    }

    /// The process looks at what there is to do. Errors say what must not happen.
    pub fn wake(&mut self, sys: &mut System) -> Result<(), String> {
        let Some(up) = &mut self.up else { return Ok(()) };
        if up.wake_at != Some(sys.now) {
            return Ok(());
        }
        up.wake_at = None;
        if up.finishing.is_some() || self.dying {
            return Ok(());
        }
        if self.paused_until > sys.now {
            self.want_wake(sys, sys.now);
            return Ok(());
        }
        self.run(sys)
    }

    /// One round, as the production thread does it.
    fn run(&mut self, sys: &mut System) -> Result<(), String> {
        let spent = sys.between(10, 40);
        let slow = self.slow_disk.1 > sys.now;
        let sync =
            if slow { sys.between(self.slow_disk.0 / 2, self.slow_disk.0) } else { sys.between(80, 500) };
        if slow {
            sys.count("run on a slow disk");
        }
        self.probe.begin(spent, sync);
        let now = self.clock.ms(sys.now);
        let day = self.clock.day_ms(sys.now);
        let fault = self.disk.fault_is_pending();
        let probe = self.probe.clone();
        let mut notes = Notes { probe: &probe, shifts: false, effects: Vec::new() };
        let Some(up) = &mut self.up else { return Ok(()) };
        let result = or_crashed(|| up.round(now, day, sys, &mut notes));
        up.shifting |= notes.shifts;
        let effects = notes.effects;
        let (installs, cuts) = probe.take_counts();
        (0..installs).for_each(|_| sys.count("snapshot installed"));
        (0..cuts).for_each(|_| sys.count("log truncated"));
        self.spread(sys, effects, spent);
        let elapsed = self.probe.elapsed();
        let struck = fault && !self.disk.fault_is_pending();
        match result {
            Ok(finishing) if !struck => {
                let Some(up) = &mut self.up else { return Ok(()) };
                up.note_committed(&self.probe)?;
                up.finishing = Some(finishing);
                if up.rotten_ticks > MOST_ROTTEN_TICKS {
                    // Production stops, and is started again by somebody.
                    sys.count("rotten rows that nobody replaced");
                    sys.after(0, Event::Die(M::place(self.id), self.life, Death::Kill));
                }
                sys.after(elapsed, Event::Finish(self.place(), self.life));
                Ok(())
            }
            _ if struck => {
                // What it did before the fault happened; then the process is gone.
                self.disk_failed(sys, elapsed);
                Ok(())
            }
            Err(error) => Err(format!("{:?} fails: {error}", self.place())),
            Ok(_) => Ok(()),
        }
    }

    /// Does at once what happens before the first sync, and plans the rest.
    fn spread(&mut self, sys: &mut System, effects: Vec<(u64, Effect)>, spent: u64) {
        for (at, effect) in effects {
            if at <= spent {
                self.effect(sys, effect);
            } else {
                sys.after(at, Event::Effect(self.place(), self.life, effect));
            }
        }
    }

    /// Something that a run does to the world.
    pub fn effect(&mut self, sys: &mut System, effect: Effect) {
        let (place, life) = (self.place(), self.life);
        if self.paused_until > sys.now {
            sys.at(self.paused_until, Event::Effect(place, life, effect));
            return;
        }
        match effect {
            Effect::Publish(status) => self.publish(sys, &status),
            Effect::Send(messages) => self.send(sys, messages),
        }
    }

    fn publish(&mut self, sys: &mut System, status: &Status) {
        let Some(up) = &mut self.up else { return };
        if !up.keeps_lease(sys, status) {
            up.lease = up.lease.min(status.lease);
        }
        if status.role == Role::Leader {
            self.probe.watch().leads(status.term, self.id);
            if up.status.role != Role::Leader {
                sys.count("leader elected");
            }
        }
        up.status = *status;
        if let Some(upkeep) = &up.upkeep {
            upkeep.room.stand.publish(up.status, up.lease);
        }
    }

    /// A run has come to its end: what was applied is visible, and replies leave.
    pub fn finish(&mut self, sys: &mut System) -> Result<(), String> {
        let (place, life) = (self.place(), self.life);
        if self.paused_until > sys.now {
            sys.at(self.paused_until, Event::Finish(place, life));
            return Ok(());
        }
        let Some(up) = &mut self.up else { return Ok(()) };
        let Some(Finishing { outputs, refused }) = up.finishing.take() else { return Ok(()) };
        up.live = (up.member.state(), up.member.machine().publish());
        up.shifting = false;
        let status = up.member.status();
        up.lease = if up.keeps_lease(sys, &status) { up.lease.max(status.lease) } else { status.lease };
        let leader = up.status.leader;
        let times = (life, self.clock.ms(sys.now));
        up.tell_of_chunks(times.1, &outputs);
        let mut begun = Vec::new();
        for (ticket, reply) in outputs.replies {
            up.end_upload(sys, times, ticket, &reply)?;
            if let Some(caller) = up.callers.remove(&ticket) {
                let answer =
                    reply.map_or_else(|error| refusal(&error, leader), |reply| M::answer(reply, &up.live.1));
                sys.acknowledge(self.group, version_of(&answer));
                respond(sys, place, caller, answer);
            }
        }
        for (ticket, error) in refused {
            up.refuse_upload(sys, times, ticket, &error)?;
            if let Some(caller) = up.callers.remove(&ticket) {
                respond(sys, place, caller, refusal(&error, leader));
            }
        }
        for (ticket, right) in outputs.reads {
            let Some((caller, wish, since)) = up.readers.remove(&ticket) else { continue };
            let answer = match right {
                Ok(()) => {
                    sys.count("read by round");
                    up.look(sys, &wish, since, "by a round")?
                }
                Err(error) => refusal(&error, leader),
            };
            begun.push((caller, answer));
        }
        for id in outputs.released {
            up.held.remove(&id);
        }
        for offer in outputs.offers {
            up.held
                .insert(offer.name.id, Held { view: offer.view, keys: 0, bytes: 0, ahead: Arc::default() });
        }
        if let Some(fetch) = outputs.fetch {
            sys.count("snapshot pulled");
            up.pull = Some(Pull::begin(sys, place, life, fetch));
        }
        for look in outputs.looks {
            sys.count("digest taken");
            let digest =
                digest::take(&*look.view, look.index, &|| false).map_err(|error| error.to_string())?;
            let digest = digest.ok_or("a digest was given up")?;
            self.probe.watch().looked(self.id, digest.index, digest.hash);
        }
        if let Some(flush) = outputs.flush {
            up.flush = Some(flush);
            let takes = sys.between(MS, 100 * MS);
            sys.after(takes, Event::Flushed(place, life));
        }
        let more = !up.queue.is_empty() && up.member.uncommitted() < sys.in_flight;
        let waits = more || !up.jobs.is_empty() || !up.mail.is_empty();
        let next = if waits { sys.now } else { sys.now + self.clock.until(sys.now, up.next_tick) };
        self.want_wake(sys, next);
        for (caller, answer) in begun {
            self.answer_read(sys, caller, answer, false);
        }
        self.plan_check(sys, 0);
        Ok(())
    }

    /// A parcel arrives.
    pub fn parcel(&mut self, sys: &mut System, bytes: Arc<Vec<u8>>) {
        if let Some(up) = &mut self.up {
            up.mail.push_back(bytes);
            self.want_wake(sys, sys.now);
        }
    }

    /// A message that a planted bug made up arrives.
    pub fn forged(&mut self, sys: &mut System, message: Message) {
        self.job(sys, Job::Forged(message));
    }

    /// A parcel to `peer` did not arrive.
    pub fn unreachable(&mut self, sys: &mut System, peer: u64) {
        self.job(sys, Job::Unreachable(peer));
    }

    /// What the directory wants.
    pub fn want(&mut self, sys: &mut System, wanted: Wanted) {
        self.job(sys, Job::Want(wanted));
    }

    /// It is about to stop.
    pub fn leave(&mut self, sys: &mut System) {
        if let Some(up) = &mut self.up {
            up.leaving = true;
        }
        self.job(sys, Job::Leave);
    }

    /// Rows of its state are rotten.
    pub fn rot(&mut self, sys: &mut System) {
        self.job(sys, Job::Renew);
    }

    /// The flush that was asked for is done, or fails.
    pub fn flushed(&mut self, sys: &mut System) -> Result<(), String> {
        let fault = self.disk.fault_is_pending();
        let up = self.up.as_mut().filter(|_| !self.dying);
        let Some(flush) = up.and_then(|up| up.flush.take()) else { return Ok(()) };
        match flush.state.flush() {
            Ok(()) => {
                sys.count("state flushed");
                self.job(sys, Job::Flushed(flush.index));
                Ok(())
            }
            Err(_) if fault && !self.disk.fault_is_pending() => {
                self.disk_failed(sys, 0);
                Ok(())
            }
            Err(error) => Err(format!("{:?} does not flush: {error}", self.place())),
        }
    }

    /// A question arrives. One that nobody hears gets no answer, or a refused connection.
    pub fn question(&mut self, sys: &mut System, caller: Caller, question: Question) -> Result<(), String> {
        let place = self.place();
        if self.paused_until > sys.now && self.up.is_some() {
            sys.at(self.paused_until, Event::Question(place, caller, question));
            return Ok(());
        }
        let now = self.clock.ms(sys.now);
        let Some(up) = self.up.as_mut().filter(|_| !self.dying) else {
            if sys.one_in(2) {
                respond(sys, place, caller, Answer::Refused(Kind::Unreachable, None));
            }
            return Ok(());
        };
        match question {
            Question::Read(_) | Question::List(..) => {
                let wish = match question {
                    Question::List(after, limit) => Wish::Page(after, limit),
                    Question::Read(key) => Wish::Key(key),
                    _ => return Ok(()),
                };
                let leads = sys.bug == Bug::ReadWithoutLease && up.status.role == Role::Leader;
                if up.lease > now || leads {
                    sys.count("read by lease");
                    let answer = up.look(sys, &wish, sys.acknowledged(self.group), "by lease")?;
                    self.answer_read(sys, caller, answer, false);
                    return Ok(());
                }
                let ticket = up.ticket();
                let since = sys.acknowledged(self.group);
                up.readers.insert(ticket, (caller, wish, since));
                self.job(sys, Job::Read(ticket));
            }
            Question::ReadStale(key) => {
                sys.count("stale read");
                let answer = up
                    .read(sys, &Wish::Key(key))
                    .map_err(|error| format!("{place:?} cannot read: {error}"))?;
                self.answer_read(sys, caller, answer, true);
            }
            question => {
                if let Some(command) = M::command(question) {
                    let ticket = up.ticket();
                    up.callers.insert(ticket, caller);
                    up.queue.push_back((ticket, command));
                    self.want_wake(sys, sys.now);
                }
            }
        }
        Ok(())
    }
}

fn refusal(error: &Error, leader: u64) -> Answer {
    Answer::Refused(error.kind(), (leader != 0).then_some(leader))
}

/// The version that an answer acknowledges.
fn version_of(answer: &Answer) -> u64 {
    match answer {
        Answer::Key(Reply::Stored { version, .. } | Reply::Deleted { version }) => *version,
        Answer::Key(Reply::Batch(versions)) => versions.iter().flatten().copied().max().unwrap_or(0),
        _ => 0,
    }
}

/// Sends an answer on its way.
fn respond(sys: &mut System, from: Place, caller: Caller, answer: Answer) {
    let to = match caller {
        Caller::Client { client, .. } => Place::Client(client),
        Caller::Operator(_) => Place::Client(u64::MAX),
        Caller::Mover { worker, .. } => Place::Worker(worker),
        Caller::Lister { .. } => crate::lister::PLACE,
    };
    if from == to {
        sys.after(0, Event::Answer(caller, answer));
        return;
    }
    if let Some(delay) = sys.send(from, to).first() {
        sys.after(*delay, Event::Answer(caller, answer));
    }
}
