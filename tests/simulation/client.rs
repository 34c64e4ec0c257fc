//! Clients: each does one operation after another, follows hints, asks again where that is safe, and writes down what
//! it was answered and when. Where there are several groups it finds the one of a key by routes that may be old; who
//! is asked in vain says so, and it looks at newer ones.

mod cargo;
mod routes;
mod wishes;

use crate::event::{Answer, Caller, Event, Place, Question};
use crate::history::{Did, History};
use crate::keys;
use crate::system::{MS, SECOND, System};
use catstore::cluster::slots::SlotTable;
use catstore::error::Kind;
use catstore::replica::command::{BatchCommand, Command, Put, Reply, Request};
use std::collections::BTreeMap;
use std::sync::Arc;

use cargo::Cargo;
pub use routes::Atlas;
use routes::slot_of;

/// A client.
pub struct Client {
    number: u64,
    /// It likes to ask this worker.
    home: u64,
    /// True if it stays with its worker as long as that one answers.
    stays: bool,
    /// Who leads each group, as far as it knows.
    leaders: BTreeMap<u32, u64>,
    /// True if there are several groups.
    several: bool,
    /// Who owns which slot, as far as it knows.
    table: Arc<SlotTable>,
    /// Slots that somebody said are another group's by now.
    hints: BTreeMap<u16, u32>,
    task: Option<Task>,
    attempts: u64,
    /// The last value that it knows of a key: key number, stamp, version.
    known: Option<(u64, u64, u64)>,
    /// A request with an id that was answered, to send it again some time.
    past: Option<(Request, Answer)>,
    /// The number of the last request of its session.
    session: u64,
    /// Milliseconds between operations.
    pub pause: u64,
    /// It hurries until then: it reads from this worker only, and writes there or wherever it can.
    pub hurry: (u64, u64),
    /// It writes nothing before then.
    pub quiet: u64,
    /// Operations that came to an end.
    pub done: u64,
    /// Requests to send again, and what they must be answered.
    pub audit: Vec<(Request, Answer)>,
    /// When an operation was answered last.
    answered: u64,
    /// The chunks of the value that it is about to put, if that is in chunks.
    cargo: Option<Cargo>,
}

/// An operation under way.
struct Task {
    question: Question,
    invoked: u64,
    attempt: u64,
    tries: u64,
    /// The group that it is for, of a command without keys.
    group: Option<u32>,
    /// The group that was asked last.
    asked: Option<u32>,
    /// True if some attempt may have been done.
    uncertain: bool,
    /// The answer that a repeat of an old request must get.
    repeats: Option<Answer>,
    /// The chunks of the value that it puts, if that is in chunks.
    cargo: Option<Cargo>,
}

impl Task {
    /// True while chunks are on their way, and no command is.
    fn is_arriving(&self) -> bool {
        self.cargo.as_ref().is_some_and(Cargo::is_arriving)
    }
}

impl Client {
    /// A client that likes the worker `home`.
    pub fn new(number: u64, home: u64, stays: bool, pause: u64, several: bool) -> Client {
        Client {
            number,
            home,
            stays,
            leaders: BTreeMap::new(),
            several,
            table: Arc::default(),
            hints: BTreeMap::new(),
            task: None,
            attempts: 0,
            known: None,
            past: None,
            session: 0,
            pause,
            hurry: (0, 0),
            quiet: 0,
            done: 0,
            audit: Vec::new(),
            answered: 0,
            cargo: None,
        }
    }

    /// What must hold at the end: it was answered lately, and every repeat was.
    pub fn judge(&self, now: u64) -> Result<(), String> {
        if self.answered + 10 * SECOND < now || !self.audit.is_empty() {
            return Err(format!(
                "client {} was answered {} ms ago, {} requests are not repeated yet",
                self.number,
                (now - self.answered) / MS,
                self.audit.len()
            ));
        }
        Ok(())
    }

    /// Begins the next operation, or the next attempt of the one under way.
    pub fn act(&mut self, sys: &mut System, history: &mut History, atlas: &Atlas) {
        if self.task.is_none() {
            let (question, repeats) = self.choose(sys, history);
            let invoked = sys.now;
            let group = self.group_of_all(sys, &question, atlas);
            self.task = Some(Task {
                question,
                invoked,
                attempt: 0,
                tries: 0,
                group,
                asked: None,
                uncertain: false,
                repeats,
                cargo: self.cargo.take(),
            });
        }
        let owner = self.owner(atlas);
        let workers = match owner.and_then(|owner| atlas.groups.get(&owner)) {
            Some(members) if !members.is_empty() => members.clone(),
            _ => atlas.everybody(),
        };
        let leader = owner.and_then(|owner| self.leaders.get(&owner).copied());
        self.attempts += 1;
        let Some(task) = &mut self.task else { return };
        task.attempt = self.attempts;
        task.tries += 1;
        let commits = !task.uncertain && task.cargo.as_ref().is_some_and(|cargo| !cargo.is_arriving());
        if commits || matches!(task.question, Question::Read(_)) {
            // Nothing is written before its command is on its way, and of reads the last attempt counts.
            task.invoked = sys.now;
        }
        let hurries = self.hurry.0 > sys.now && (!self.several || workers.contains(&self.hurry.1));
        let to = match (&task.question, leader) {
            (Question::ReadStale(_), _) => workers[sys.random.up_to(workers.len() - 1)],
            (Question::Read(_), _) if hurries => self.hurry.1,
            (_, _) if hurries && sys.one_in(2) => self.hurry.1,
            (_, _) if hurries => workers[sys.random.up_to(workers.len() - 1)],
            (_, _) if self.several && sys.one_in(20) => {
                // Anybody may be asked.
                let everybody = atlas.everybody();
                everybody[sys.random.up_to(everybody.len() - 1)]
            }
            (_, _) if self.stays && task.tries == 1 && workers.contains(&self.home) => self.home,
            (_, Some(leader)) if !sys.one_in(12) => leader,
            _ => workers[sys.random.up_to(workers.len() - 1)],
        };
        task.asked = atlas.group_of(to).or(owner);
        let caller = Caller::Client { client: self.number, attempt: self.attempts };
        if let Some(delay) = sys.send(Place::Client(self.number), Place::Worker(to)).first() {
            let asked = match &task.cargo {
                Some(cargo) => cargo.question(&task.question),
                None => task.question.clone(),
            };
            if matches!(&asked, Question::Commit(_, request) if request.id.is_some()) && sys.one_in(24) {
                // Whoever carries it asks again, before it knows what became of it: that may be done after a refusal.
                task.uncertain = true;
                sys.count("commit repeated");
                let later = delay + sys.between(0, 40 * MS);
                sys.after(later, Event::Question(Place::Worker(to), caller, asked.clone()));
            }
            sys.after(*delay, Event::Question(Place::Worker(to), caller, asked));
        }
        let patience = if hurries {
            sys.between(20, 120)
        } else if sys.one_in(4) {
            sys.between(50, 500)
        } else {
            sys.between(500, 3000)
        };
        sys.after(patience * MS, Event::Patience(self.number, self.attempts));
    }

    /// An attempt was not answered in time.
    pub fn lose_patience(&mut self, sys: &mut System, history: &mut History, attempt: u64) {
        if self.task.as_ref().is_some_and(|task| task.attempt == attempt) {
            let asked = self.task.as_ref().and_then(|task| task.asked);
            asked.and_then(|asked| self.leaders.remove(&asked));
            self.unknown(sys, history);
        }
    }

    /// An answer. Errors say what a client must not see.
    pub fn answer(
        &mut self,
        sys: &mut System,
        history: &mut History,
        attempt: u64,
        answer: Answer,
    ) -> Result<(), String> {
        if self.task.as_ref().is_none_or(|task| task.attempt != attempt) {
            return Ok(());
        }
        match answer {
            Answer::Refused(Kind::UnknownOutcome, _) => {
                sys.count("unknown outcome");
                self.unknown(sys, history);
            }
            Answer::Stored => self.chunk_stored(sys),
            Answer::Refused(kind, leader) => {
                if let Some(cargo) = self.task.as_mut().and_then(|task| task.cargo.as_mut()) {
                    cargo.again(sys, kind == Kind::ChunkMissing);
                }
                let asked = self.task.as_ref().and_then(|task| task.asked);
                match (asked, leader) {
                    (Some(asked), Some(leader)) => self.leaders.insert(asked, leader),
                    (Some(asked), None) => self.leaders.remove(&asked),
                    _ => None,
                };
                self.again_or_end(sys, history);
            }
            Answer::Moved(hint) if self.several => {
                sys.count("asked the wrong group");
                self.moved(sys, hint);
                self.again_or_end(sys, history);
            }
            Answer::Key(Reply::NotOwner { .. }) if self.several => {
                sys.count("asked the wrong group");
                self.moved(sys, None);
                self.again_or_end(sys, history);
            }
            Answer::Key(Reply::Moving { .. }) if self.several => {
                sys.count("clear put off by a move");
                self.again_or_end(sys, history);
            }
            Answer::Frozen if self.several => {
                sys.count("slot frozen");
                self.again_or_end(sys, history);
            }
            answer => {
                let Some(task) = self.task.take() else { return Ok(()) };
                self.close(sys, history, task, answer)?;
                self.rest(sys);
            }
        }
        Ok(())
    }

    /// Nobody knows whether the attempt was done: only a request with an id, or a read, is asked again.
    fn unknown(&mut self, sys: &mut System, history: &mut History) {
        let Some(task) = &mut self.task else { return };
        if task.is_arriving() {
            // A chunk may be stored twice.
            return self.again_or_end(sys, history);
        }
        let exact = match &task.question {
            Question::Write(request) => request.id.is_some(),
            _ => true,
        };
        task.uncertain = true;
        if exact {
            self.again_or_end(sys, history);
        } else {
            self.end(sys, history);
        }
    }

    fn again_or_end(&mut self, sys: &mut System, history: &mut History) {
        let Some(task) = &mut self.task else { return };
        // Until it asks again it hears nothing.
        task.attempt = 0;
        if task.tries < 12 {
            let most = if self.hurry.0 > sys.now { 4 } else { task.tries };
            let pause = sys.between(5, 40) * task.tries.min(most);
            sys.after(pause * MS, Event::Client(self.number));
        } else {
            self.end(sys, history);
        }
    }

    /// A chunk of the value is stored.
    fn chunk_stored(&mut self, sys: &mut System) {
        let Some(task) = &mut self.task else { return };
        task.attempt = 0;
        if !task.uncertain {
            task.tries = 0;
        }
        let goes_on = task.cargo.as_mut().is_none_or(Cargo::chunk_stored);
        if !goes_on && !task.uncertain {
            sys.count("upload broken off");
            self.task = None;
            return self.rest(sys);
        }
        let pause = if sys.one_in(10) { 2000 * MS } else { 20 * MS };
        let pause = sys.between(0, pause);
        sys.after(pause, Event::Client(self.number));
    }

    /// Gives up.
    fn end(&mut self, sys: &mut System, history: &mut History) {
        if let Some(task) = self.task.take()
            && let Question::Write(request) = task.question
            && task.uncertain
            && task.repeats.is_none()
        {
            sys.count("write given up");
            history.add(task.invoked, None, Did::Write(request, None));
        }
        self.rest(sys);
    }

    fn rest(&mut self, sys: &mut System) {
        self.done += 1;
        let pause = if self.hurry.0 > sys.now { 8 } else { self.pause };
        let pause = sys.between(0, 2 * pause * MS);
        sys.after(pause, Event::Client(self.number));
    }

    fn close(
        &mut self,
        sys: &mut System,
        history: &mut History,
        task: Task,
        answer: Answer,
    ) -> Result<(), String> {
        let (invoked, returned) = (task.invoked, Some(sys.now));
        sys.count("operation");
        let answer = match answer {
            Answer::Cleared(reply, _) if !self.several => Answer::Key(reply),
            answer => answer,
        };
        self.answered = sys.now;
        match (task.question, answer) {
            (Question::Write(request), answer @ Answer::Key(_)) => {
                if let Some(first) = task.repeats {
                    sys.count("request repeated");
                    if first != answer {
                        return Err(format!(
                            "request {request:?} was answered {first:?}, its repeat {answer:?}"
                        ));
                    }
                    return Ok(());
                }
                if task.tries > 1 && task.uncertain {
                    sys.count("request repeated");
                }
                let of_group = self.several && slot_of(&Question::Write(request.clone())).is_none();
                let in_chunks = task.cargo.is_some();
                if request.id.is_some() && !of_group && !in_chunks {
                    self.past = Some((request.clone(), answer.clone()));
                }
                if request.id.as_ref().is_some_and(|id| id.contains('-')) && !of_group && !in_chunks {
                    history.past.push((request.clone(), answer.clone()));
                }
                let Answer::Key(reply) = answer else { return Ok(()) };
                if matches!(
                    reply,
                    Reply::NotOwner { .. }
                        | Reply::TooManyRequestIds
                        | Reply::RequestIdReused
                        | Reply::RequestIdPassed
                ) {
                    return Err(format!("{request:?} was answered {reply:?}"));
                }
                count_moving(sys, &request);
                if in_chunks && matches!(reply, Reply::Stored { .. }) {
                    sys.count("value in chunks put");
                }
                see_versions(history, &request, &reply, (invoked, sys.now));
                self.known = history.learn(&request, &reply)?.or(self.known);
                history.add(invoked, returned, Did::Write(request, Some(reply)));
            }
            // What the group owned when it was cleared nobody knows by now.
            (Question::Write(request), Answer::Cleared(..)) if task.uncertain => {
                history.add(invoked, None, Did::Write(request, None));
            }
            (Question::Write(_), Answer::Cleared(_, slots)) => {
                history.add(invoked, returned, Did::Clear(slots));
            }
            (Question::Read(key), Answer::Record(record)) => {
                let stamp = history.seen(&key, record)?;
                if let (Some(number), Some((stamp, version))) = (keys::number(&key), record) {
                    history.saw(&key, invoked, sys.now, version);
                    self.known = Some((number, stamp, version));
                }
                history.add(invoked, returned, Did::Read(key, stamp));
            }
            // A copy that is not there yet owns no slot.
            (Question::ReadStale(_), Answer::Moved(_)) => {}
            (Question::ReadStale(key), Answer::Record(record)) => {
                history.seen(&key, record)?;
            }
            (question, answer) => return Err(format!("{question:?} was answered {answer:?}")),
        }
        Ok(())
    }
}

/// Counts what is written to slots that are on their way.
fn count_moving(sys: &mut System, request: &Request) {
    let slot = slot_of(&Question::Write(request.clone()));
    if !slot.is_some_and(|slot| sys.moving.values().any(|slots| slots.contains(slot))) {
        return;
    }
    match &request.command {
        Command::Batch(_) => sys.count("batch across a move"),
        Command::Delete { .. } => sys.count("delete across a move"),
        Command::Put(Put { ttl: Some(_), .. }) => sys.count("ttl across a move"),
        _ => sys.count("put across a move"),
    }
    if request.id.is_some() {
        sys.count("request id across a move");
    }
}

/// Notes what versions an answered write shows.
fn see_versions(history: &mut History, request: &Request, reply: &Reply, (invoked, returned): (u64, u64)) {
    match (&request.command, reply) {
        (Command::Put(put), Reply::Stored { version, .. }) => {
            history.saw(&put.key, invoked, returned, *version)
        }
        (Command::Delete { key, .. }, Reply::Deleted { version }) => {
            history.saw(key, invoked, returned, *version)
        }
        (Command::Batch(commands), Reply::Batch(versions)) => {
            for (command, version) in commands.iter().zip(versions) {
                if let (BatchCommand::Put(put), Some(version)) = (command, version) {
                    history.saw(&put.key, invoked, returned, *version);
                }
            }
        }
        _ => {}
    }
}
