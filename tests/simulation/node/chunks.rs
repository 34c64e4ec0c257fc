//! What happens to a worker's chunks: uploads that come in and are committed, values that are read chunk by chunk, looks at
//! what is missing, and rounds of the collector. Each is several events, as it is in production.

use super::upkeep::Ending;
use super::{Node, Subject, refusal, respond};
use crate::bug::Bug;
use crate::ether::Room;
use crate::event::{Answer, Caller, Event, Question};
use crate::system::{MS, SECOND, System};
use catstore::error::Kind;
use catstore::replica::blobs::Mark;
use catstore::replica::command::{Command, MoveStep, Request, Secured};
use catstore::replica::keyspace::{Keyspace, manifest_of};
use catstore::replica::machine::Machine as _;
use catstore::replica::{Manifest, Name};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// An upload of which nothing was heard for so long is over.
const FORGOTTEN: Duration = Duration::from_secs(5);
/// So often a round waits for readers.
const WAITS: u64 = 100;
/// So often it is tried to find out what became of a command.
const SETTLES: u64 = 30;

/// Somebody who reads a value chunk by chunk.
pub struct Reader {
    caller: Caller,
    names: Vec<Name>,
    /// Which of them were here when it began.
    here: Vec<bool>,
    next: usize,
    stamp: u64,
    version: u64,
    slow: bool,
    _reading: Arc<()>,
}

/// True if what is asked is about chunks, or brings some.
pub fn is_of_chunks(question: &Question) -> bool {
    match question {
        Question::Store(..) | Question::Commit(..) => true,
        Question::Write(Request { command: Command::Move(step), .. }) => !manifests(step).is_empty(),
        _ => false,
    }
}

fn manifests(step: &MoveStep) -> Vec<Manifest> {
    match step {
        MoveStep::Copy { rows, .. } | MoveStep::Follow { rows, .. } => {
            rows.iter().filter_map(manifest_of).collect()
        }
        _ => Vec::new(),
    }
}

fn names_of(manifests: &[Manifest]) -> Vec<Name> {
    manifests.iter().flat_map(|manifest| manifest.names.iter().copied()).collect()
}

impl Node<Keyspace> {
    /// A question about chunks arrives; `source`: the members of the group that asks, if it is another one.
    pub fn chunk_question(&mut self, sys: &mut System, caller: Caller, question: Question, source: &[u64]) {
        let place = self.place();
        if self.paused_until > sys.now && self.up.is_some() {
            sys.at(self.paused_until, Event::Question(place, caller, question));
            return;
        }
        let up = self.up.as_ref().filter(|_| !self.dying);
        let Some((room, leader)) =
            up.and_then(|up| Some((up.upkeep.as_ref()?.room.clone(), up.status.leader)))
        else {
            if sys.one_in(2) {
                respond(sys, place, caller, Answer::Refused(Kind::Unreachable, None));
            }
            return;
        };
        match question {
            Question::Store(upload, bytes) => {
                let stored = sys.keeping(|| room.keeper.store(upload, &Name::of(&bytes), &bytes));
                let answer = stored.map_or_else(|error| refusal(&error, leader), |()| Answer::Stored);
                respond(sys, place, caller, answer);
            }
            Question::Commit(upload, request) => {
                let Command::PutChunks(put) = &request.command else { return };
                let manifests: Vec<Manifest> = Manifest::decode(&put.manifest).into_iter().collect();
                // As in production, each attempt has a number of its own.
                let commit = sys.random.draw();
                self.secure(sys, &room, (caller, commit, Some(upload)), request, &manifests, &[]);
            }
            Question::Write(request) => {
                let Command::Move(step) = &request.command else { return };
                let (upload, manifests) = (sys.random.draw(), manifests(step));
                self.secure(sys, &room, (caller, upload, None), request, &manifests, source);
            }
            _ => {}
        }
    }

    /// Sees to it that a majority has what the command names; then it is submitted, a little later.
    fn secure(
        &mut self,
        sys: &mut System,
        room: &Room,
        (caller, upload, brought): (Caller, u64, Option<u64>),
        request: Request,
        manifests: &[Manifest],
        source: &[u64],
    ) {
        let (place, own, ether) = (self.place(), self.id, sys.ether.clone());
        let give = |name: &Name| Ok(ether.give(own, source, name));
        let secured = sys.keeping(|| room.keeper.secure(upload, manifests, &give));
        let leader = self.up.as_ref().map_or(0, |up| up.status.leader);
        let secured = match secured {
            Ok(secured) => secured,
            Err(error) => {
                match error.kind() {
                    Kind::Moved => {}
                    Kind::ChunkMissing if source.is_empty() => sys.count("chunk of an upload missing"),
                    _ if source.is_empty() => sys.count("upload not secured"),
                    _ => sys.count("chunks of a move not secured"),
                }
                end(room, upload);
                respond(sys, place, caller, refusal(&error, leader));
                return;
            }
        };
        if !source.is_empty() {
            sys.count("chunks moved");
            if sys.bug == Bug::CollectorIgnoresMove {
                end(room, upload);
            }
        }
        let (names, request) = (names_of(manifests), with(request, &secured));
        let order = Order { caller, upload, brought, names, request, secured };
        let pause = if sys.one_in(4) { 300 * MS } else { 3 * MS };
        let pause = sys.between(0, pause);
        sys.after(pause, Event::Submit(place, self.life, Box::new(order)));
    }

    /// Something happens to the chunks of this worker. Errors say what must not be.
    pub fn chunk_event(&mut self, sys: &mut System, event: Event) -> Result<(), String> {
        let life = match &event {
            Event::Submit(_, life, _)
            | Event::GiveUp(_, life, _)
            | Event::Settle(_, life, ..)
            | Event::Check(_, life)
            | Event::Collect(_, life)
            | Event::EndRound(_, life)
            | Event::ReadOn(_, life, _) => *life,
            _ => self.life,
        };
        if life != self.life || self.up.is_none() || self.dying {
            return Ok(());
        }
        if self.paused_until > sys.now {
            sys.at(self.paused_until, event);
            return Ok(());
        }
        match event {
            Event::Submit(_, _, order) => self.submit(sys, *order),
            Event::GiveUp(_, _, upload) => self.give_up(sys, upload),
            Event::Settle(_, _, mark, tries) => self.settle(sys, mark, tries),
            Event::Check(..) => self.check(sys),
            Event::Collect(..) => self.collect(sys),
            Event::EndRound(..) => return self.end_round(sys),
            Event::ReadOn(_, _, reader) => return self.read_on(sys, reader),
            Event::Straggler(_, envelope) => {
                sys.count("question about chunks late");
                let (ether, id) = (sys.ether.clone(), self.id);
                sys.keeping(|| ether.straggle(id, &envelope));
            }
            _ => {}
        }
        Ok(())
    }

    fn submit(&mut self, sys: &mut System, order: Order) {
        let Order { caller, upload, brought, names, request, secured } = order;
        let Some(up) = &mut self.up else { return };
        let ticket = up.ticket();
        up.callers.insert(ticket, caller);
        up.queue.push_back((ticket, request));
        if let Some(upkeep) = &mut up.upkeep {
            upkeep.endings.insert(ticket, Ending { upload, brought, names, secured });
        }
        if sys.one_in(12) {
            let longest = if sys.one_in(3) { 400 * MS } else { 2 * MS };
            let later = sys.between(0, longest);
            sys.after(later, Event::GiveUp(self.place(), self.life, upload));
        }
        self.want_wake(sys, sys.now);
    }

    /// Whoever waits for the command of this upload goes away.
    fn give_up(&mut self, sys: &mut System, upload: u64) {
        let (place, life) = (self.place(), self.life);
        let Some(up) = &mut self.up else { return };
        let Some(upkeep) = &mut up.upkeep else { return };
        let Some(ticket) =
            upkeep.endings.iter().find(|(_, ending)| ending.upload == upload).map(|(at, _)| *at)
        else {
            return;
        };
        upkeep.endings.remove(&ticket);
        if let Some(mark) = upkeep.room.keeper.end(upload) {
            sys.after(0, Event::Settle(place, life, mark, 0));
        }
        if let Some(caller) = up.callers.remove(&ticket) {
            respond(sys, place, caller, Answer::Refused(Kind::UnknownOutcome, None));
        }
    }

    /// Commands are decided in the order in which they were submitted: once a later one is applied, so is the upload's.
    fn settle(&mut self, sys: &mut System, mark: Mark, tries: u64) {
        let Some(up) = self.up.as_mut().filter(|_| tries < SETTLES) else { return };
        let ticket = up.ticket();
        up.queue.push_back((ticket, Request { id: None, command: Command::Sweep }));
        if let Some(upkeep) = &mut up.upkeep {
            upkeep.settling.insert(ticket, (mark, tries));
        }
        self.want_wake(sys, sys.now);
    }

    fn check(&mut self, sys: &mut System) {
        let Some(room) = self.begin_check() else { return };
        let fetched = &room.keeper.gauges().fetched;
        let before = fetched.load(Ordering::Relaxed);
        let looked = sys.keeping(|| room.keeper.check_one());
        (before..fetched.load(Ordering::Relaxed)).for_each(|_| sys.count("chunk fetched"));
        if looked.is_err() {
            sys.count("chunk that nobody gave");
        }
        self.plan_check(sys, if looked.is_err() { 300 * MS } else { 0 });
    }

    fn collect(&mut self, sys: &mut System) {
        let next = if sys.faults { sys.between(300 * MS, 4 * SECOND) } else { sys.between(300 * MS, SECOND) };
        sys.after(next, Event::Collect(self.place(), self.life));
        let Some(upkeep) = self.up.as_mut().and_then(|up| up.upkeep.as_mut()) else { return };
        if upkeep.round.is_some() {
            return;
        }
        let keeper = &upkeep.room.keeper;
        let begun = sys.keeping(|| {
            keeper.expire_uploads(FORGOTTEN);
            keeper.hear_of_uploads();
            keeper.begin_round(Duration::ZERO)
        });
        match begun {
            Ok(Some(round)) => {
                upkeep.round = Some((round, 0));
                let longest = if sys.one_in(3) { 1500 * MS } else { 30 * MS };
                let later = sys.between(0, longest);
                sys.after(later, Event::EndRound(self.place(), self.life));
            }
            Ok(None) => sys.count("collection waits for the leader's word"),
            Err(_) => sys.count("collection given up"),
        }
    }

    fn end_round(&mut self, sys: &mut System) -> Result<(), String> {
        let (place, life) = (self.place(), self.life);
        let Some(up) = &mut self.up else { return Ok(()) };
        let Some(upkeep) = &mut up.upkeep else { return Ok(()) };
        let Some((mut round, tries)) = upkeep.round.take() else { return Ok(()) };
        if round.is_read() && sys.bug != Bug::CollectorIgnoresReaders {
            sys.count("collection held up by a reader");
            if tries < WAITS {
                upkeep.round = Some((round, tries + 1));
                sys.after(50 * MS, Event::EndRound(place, life));
            }
            return Ok(());
        }
        let room = upkeep.room.clone();
        let ended = sys.keeping(|| room.keeper.end_round(&mut round));
        let applied = up.member.machine().position().index;
        match ended {
            Ok(collected) => (0..collected.removed).for_each(|_| sys.count("chunk collected")),
            // The disk: as after any error of it.
            Err(error) if error.kind() == Kind::Failed => {
                self.disk_failed(sys, 0);
                return Ok(());
            }
            Err(_) => sys.count("collection given up"),
        }
        sys.still_there(self.group, self.id, applied)
    }

    /// At the end: everything that is missing is fetched, and what nobody needs is removed. Errors: that is not possible.
    pub fn clean(&mut self, sys: &mut System) -> Result<(), String> {
        let Some(upkeep) = self.up.as_mut().and_then(|up| up.upkeep.as_mut()) else { return Ok(()) };
        // Nobody reads any longer.
        upkeep.readers.clear();
        upkeep.round = None;
        let room = upkeep.room.clone();
        let keeper = &room.keeper;
        let cleaned = sys.keeping(|| {
            for _ in 0..50 {
                keeper.check_one()?;
            }
            // Nobody brings anything any more; the last upload that broke off may be younger than the usual wait.
            keeper.expire_uploads(Duration::ZERO);
            keeper.hear_of_uploads();
            match keeper.begin_round(Duration::ZERO)? {
                Some(mut round) if !round.is_read() => keeper.end_round(&mut round).map(drop),
                _ => Ok(()),
            }
        });
        cleaned.map_err(|error| format!("worker {} cannot clean up its chunks at the end: {error}", self.id))
    }

    fn read_on(&mut self, sys: &mut System, number: u64) -> Result<(), String> {
        let (place, life, id) = (self.place(), self.life, self.id);
        let Some(up) = &mut self.up else { return Ok(()) };
        let leader = up.status.leader;
        let Some(upkeep) = &mut up.upkeep else { return Ok(()) };
        let Some(mut reader) = upkeep.readers.remove(&number) else { return Ok(()) };
        let Some(name) = reader.names.get(reader.next).copied() else {
            let answer = Answer::Record(Some((reader.stamp, reader.version)));
            respond(sys, place, reader.caller, answer);
            return Ok(());
        };
        if reader.here[reader.next] && !sys.ether.is_on_disk(id, &name) {
            return Err(format!("{place:?} removed chunk {name:?}, which somebody reads"));
        }
        let room = upkeep.room.clone();
        match sys.keeping(|| room.keeper.read(&name)) {
            Ok(_) => {
                if !reader.here[reader.next] {
                    sys.count("chunk read from another member");
                }
                reader.next += 1;
                let slow = reader.slow;
                upkeep.readers.insert(number, reader);
                let pause = read_pause(sys, slow);
                sys.after(pause, Event::ReadOn(place, life, number));
            }
            Err(error) => {
                sys.count("chunk that cannot be read now");
                respond(sys, place, reader.caller, refusal(&error, leader));
            }
        }
        Ok(())
    }
}

impl<M: Subject> Node<M> {
    /// Answers a reader. A value in chunks is read first: one after another, with pauses.
    pub(super) fn answer_read(&mut self, sys: &mut System, caller: Caller, answer: Answer, slow: bool) {
        let Answer::Chunked(manifest, stamp, version) = answer else {
            respond(sys, self.place(), caller, answer);
            return;
        };
        sys.count("value in chunks read");
        let (place, life) = (self.place(), self.life);
        let Some(upkeep) = self.up.as_mut().and_then(|up| up.upkeep.as_mut()) else { return };
        upkeep.read += 1;
        let names = manifest.names;
        let here = names.iter().map(|name| sys.ether.is_on_disk(self.id, name)).collect();
        let reading = upkeep.room.keeper.reading();
        let reader = Reader { caller, names, here, next: 0, stamp, version, slow, _reading: reading };
        upkeep.readers.insert(upkeep.read, reader);
        let pause = read_pause(sys, slow);
        sys.after(pause, Event::ReadOn(place, life, upkeep.read));
    }
}

/// Who reads what is there, however old, may be slow: others would make histories that are hard to check.
fn read_pause(sys: &mut System, slow: bool) -> u64 {
    match sys.between(0, 7) {
        0 | 1 if slow => sys.between(0, 1500 * MS),
        0 => sys.between(0, 60 * MS),
        _ => 0,
    }
}

/// A command whose chunks a majority has.
#[derive(Debug)]
pub struct Order {
    caller: Caller,
    upload: u64,
    brought: Option<u64>,
    names: Vec<Name>,
    request: Request,
    secured: Secured,
}

fn with(mut request: Request, secured: &Secured) -> Request {
    match &mut request.command {
        Command::PutChunks(put) => put.secured = secured.clone(),
        Command::Move(MoveStep::Copy { secured: noted, .. } | MoveStep::Follow { secured: noted, .. }) => {
            *noted = secured.clone()
        }
        _ => {}
    }
    request
}

/// The upload is over, and nothing came of it.
fn end(room: &Room, upload: u64) {
    if let Some(mark) = room.keeper.end(upload) {
        room.keeper.settle(mark);
    }
}
