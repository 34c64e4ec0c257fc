//! The thread that drives this group's move of slots to another group, while this worker leads. What to do next is decided
//! by the [`Mover`]; here are its clock, its reads, and its calls. A named value: `/worker` shows its last error.
//!
//! The other side of the wire is here too: `POST /internal/move`, by which the leader of the target is asked to propose a
//! step. Strangers (another cluster, another group, an older incarnation of either) are refused.

use super::body;
use super::call::Caller;
use super::door::{Asked, Door};
use super::forward;
use super::node::Mode;
use super::respond;
use super::site::{Member, Site};
use super::upload;
use super::worker::Worker;
use crate::cluster::moves::{MoveFacts, Phase};
use crate::cluster::view::ClusterView;
use crate::error::{Error, Kind, Result};
use crate::replica::command::{Command, MoveStep, Reply, Request, TargetWord};
use crate::replica::handle::{Applied, KeyspaceHandle, Lead};
use crate::replica::keyspace::{Published, awaiting};
use crate::replica::mover::{Act, CHUNK_BYTES, Mover, Sight, copy_step, follow_step};
use crate::replica::parcel;
use actix_web::HttpResponse;
use actix_web::dev::Payload;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// How often a worker that has no move to drive looks again.
const LOOK: Duration = Duration::from_millis(100);
/// How long one question to a member of the target's group may take.
const CALL: Duration = Duration::from_secs(5);
/// How long a majority may take to confirm that this worker leads.
const CONFIRM: Duration = Duration::from_secs(1);
/// The path that takes steps.
const PATH: &str = "/internal/move";

/// A step that another group is asked for.
#[derive(Debug, Serialize, Deserialize)]
struct Question {
    cluster: String,
    /// The source's group and its incarnation.
    from: (u32, u64),
    /// The target's group and its incarnation, as far as the source knows.
    to: (u32, u64),
    step: MoveStep,
}

/// What others see of the thread.
#[derive(Default)]
pub(crate) struct Moving {
    state: Mutex<Told>,
    woken: Condvar,
}

#[derive(Default)]
struct Told {
    facts: Option<MoveFacts>,
    error: Option<String>,
    now: bool,
}

impl Moving {
    /// Starts the thread.
    pub(crate) fn spawn(&self, site: Arc<Site>, caller: Caller) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(|error| Error::new(Kind::System, "cannot wait for the replica").cause(error))?;
        std::thread::Builder::new()
            .name("mover".into())
            .spawn(move || run(&site, &caller, &runtime))
            .map(drop)
            .map_err(|error| Error::new(Kind::System, "cannot start the mover thread").cause(error))
    }

    /// There may be news: a move that was ordered, called off, or noted as done.
    pub(crate) fn wake(&self) {
        self.told().now = true;
        self.woken.notify_all();
    }

    /// How far the move is that this worker drives.
    pub(crate) fn facts(&self) -> Option<MoveFacts> {
        self.told().facts.clone()
    }

    /// What `/worker` shows.
    pub(crate) fn describe(&self) -> serde_json::Value {
        let told = self.told();
        serde_json::json!({ "move": told.facts, "last_error": told.error })
    }

    fn pause(&self, time: Duration) {
        let waited = self.woken.wait_timeout_while(self.told(), time, |told| !told.now);
        waited.unwrap_or_else(PoisonError::into_inner).0.now = false;
    }

    /// Notes how far the move is; true if others should hear of it at once.
    fn note(&self, facts: Option<MoveFacts>) -> bool {
        let mut told = self.told();
        let phase = |facts: &Option<MoveFacts>| facts.as_ref().map(|facts| (facts.id, facts.phase));
        let news = phase(&told.facts) != phase(&facts);
        told.facts = facts;
        news
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn run(site: &Site, caller: &Caller, runtime: &Runtime) {
    let Member::Worker(worker) = &site.member else { return };
    let began = Instant::now();
    let (mut mover, mut term) = (Mover::default(), 0);
    while !*site.stopping.borrow() {
        let pause = match ground(worker, runtime) {
            Some(Footing::Firm(ground)) => {
                // What was heard in another term may be of the past.
                if std::mem::replace(&mut term, ground.term) != ground.term {
                    mover = Mover::default();
                }
                let trip = Trip { site, worker, caller, runtime, ground, view: site.view(), began };
                trip.step(&mut mover)
            }
            Some(Footing::Loose) => LOOK,
            None => {
                mover = Mover::default();
                worker.moving.note(None);
                LOOK
            }
        };
        if !pause.is_zero() {
            worker.moving.pause(pause.min(LOOK));
        }
    }
}

/// What a step needs of this member.
struct Ground {
    replica: KeyspaceHandle,
    term: u64,
    applied: Applied,
}

/// Whether a leader knows what there is to know.
enum Footing {
    /// Everything is applied that was proposed before it led.
    Firm(Ground),
    /// Steps of those who led before may wait to be applied, or no majority answers.
    Loose,
}

/// None unless this worker leads its group.
fn ground(worker: &Worker, runtime: &Runtime) -> Option<Footing> {
    let mode = worker.node.mode();
    let Mode::Open(replica) = &*mode else { return None };
    let (Lead::Here, term) = (replica.lead(), replica.term()) else { return None };
    // While members change there is no lease: then a majority is asked.
    let asked = || runtime.block_on(replica.reader_confirmed(Instant::now() + CONFIRM)).is_ok();
    if !replica.may_read() && !asked() {
        return Some(Footing::Loose);
    }
    Some(Footing::Firm(Ground { replica: replica.clone(), term, applied: replica.applied().ok()? }))
}

/// One step of the move.
struct Trip<'a> {
    site: &'a Site,
    worker: &'a Worker,
    caller: &'a Caller,
    runtime: &'a Runtime,
    ground: Ground,
    view: Arc<ClusterView>,
    began: Instant,
}

impl Trip<'_> {
    /// Does what is next; returns how long to wait after it.
    fn step(&self, mover: &mut Mover) -> Duration {
        let act = mover.next(&self.sight());
        self.tell(mover);
        let outcome = match act {
            Act::Rest(until) => return Duration::from_millis(until.saturating_sub(self.now()).max(1)),
            Act::Propose(step) => self.propose(step).map(|()| mover.proposed()),
            Act::Ask { to, step } => self.ask(mover, to, step),
            Act::Copy { to, attempt, slots, after } => {
                self.ground.applied.copy_rows(&slots, &after, CHUNK_BYTES).and_then(|chunk| {
                    mover.sends(&chunk, chunk.end.is_none());
                    self.ask(mover, to, copy_step(attempt, after, chunk))
                })
            }
            Act::Follow { to, attempt, first, next } => {
                match self.ground.applied.outbox_rows(first, next, CHUNK_BYTES) {
                    Ok(chunk) => {
                        mover.sends(&chunk, chunk.next == next);
                        self.ask(mover, to, follow_step(attempt, first, chunk))
                    }
                    Err(error) => {
                        log::warn!(
                            "changes of slots that move cannot be sent, so the move does not go on: {error}"
                        );
                        mover.lost(&self.sight()).map_or(Ok(()), |step| self.propose(step))
                    }
                }
            }
        };
        let mut told = self.worker.moving.told();
        match outcome {
            Ok(()) => told.error = None,
            Err(error) => {
                if told.error.replace(error.to_string()).is_none() {
                    log::warn!("the move of slots does not go on: {error}");
                }
                drop(told);
                mover.failed(&self.sight());
            }
        }
        Duration::ZERO
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn sight(&self) -> Sight<'_> {
        let Published { counters, moves, .. } = &self.ground.applied.published;
        let group = self.worker.group().unwrap_or_default();
        let incarnation = self.ground.replica.incarnation();
        let knows = self.view.group(group).is_some_and(|group| group.incarnation >= incarnation);
        Sight {
            now: self.now(),
            group,
            incarnation,
            began: self.ground.replica.began(),
            moves,
            version: counters.version,
            clock: counters.clock,
            order: self.view.moves.iter().find(|order| order.from == group),
            takes: self.view.moves.iter().find(|order| order.to == group),
            next_move: self.view.next_move,
            slots: knows.then_some(&self.view.slots),
            rate: self.view.move_rate,
        }
    }

    /// Notes how far it is; the masters hear at once of what they wait for.
    fn tell(&self, mover: &Mover) {
        let Published { counters, moves, slots, .. } = &self.ground.applied.published;
        let owned: u64 = slots.ranges().iter().map(|range| u64::from(range.last - range.first) + 1).sum();
        let moving = moves.outgoing.as_ref().map_or(0, |out| u64::from(out.slots.count()));
        let total = counters.bytes * moving / owned.max(moving).max(1);
        let facts = mover.facts(moves, total);
        let awaited = facts.as_ref().is_some_and(|facts| matches!(facts.phase, Phase::Given | Phase::Done));
        if let Some(facts) = &facts
            && self.worker.moving.facts().is_none_or(|before| before.phase != facts.phase)
        {
            log::info!("move {}: {:?}", facts.id, facts.phase);
        }
        if self.worker.moving.note(facts) && awaited {
            self.worker.beat.wake();
        }
    }

    fn propose(&self, step: MoveStep) -> Result<()> {
        let adopts = matches!(step, MoveStep::Adopt(_));
        let request = Request { id: None, command: Command::Move(step) };
        match self.runtime.block_on(self.ground.replica.submit(request, Instant::now() + CALL))? {
            Reply::MoveNoted | Reply::MoveTarget(_) => {
                if adopts {
                    self.worker.follow(self.site);
                }
                Ok(())
            }
            reply => Err(Error::new(Kind::Failed, format!("a step of a move was answered with {reply:?}"))),
        }
    }

    /// Asks the leader of `to`, and passes its word on.
    fn ask(&self, mover: &mut Mover, to: u32, step: MoveStep) -> Result<()> {
        let id = step.id();
        let word = self.send(to, step)?;
        mover.heard(&self.sight(), id, word);
        Ok(())
    }

    fn send(&self, to: u32, step: MoveStep) -> Result<TargetWord> {
        let registered = self.worker.registered().ok_or_else(forward::starting)?;
        let incarnation = |group: u32| self.view.group(group).map_or(1, |group| group.incarnation);
        let question = Question {
            cluster: registered.cluster.clone(),
            from: (registered.group, self.ground.replica.incarnation()),
            to: (to, incarnation(to)),
            step,
        };
        let body = postcard::to_allocvec(&question)
            .map_err(|error| Error::new(Kind::Failed, "a step does not encode").cause(error))?;
        let mut tried = Vec::new();
        let mut last = Error::new(Kind::Unreachable, format!("no member of group {to} is known"));
        while let Some(target) = self.site.next_member(to, &tried) {
            tried.push(target.index);
            match self.caller.post_bytes(&target.address, PATH, &body, CALL) {
                Ok(answer) => {
                    self.site.leaders.heard(to, target.index);
                    return serde_json::from_slice(&answer).map_err(|error| {
                        Error::new(Kind::Unreachable, "the target's word is not readable").cause(error)
                    });
                }
                Err(error) => {
                    match error.kind() {
                        Kind::Moved => self.site.leaders.deny(to, target.index),
                        Kind::Unreachable => self.site.leaders.avoid(to, target.index),
                        _ => {}
                    }
                    last = error;
                }
            }
        }
        Err(last)
    }
}

/// `POST /internal/move`, at the member that leads the target.
pub(crate) async fn take(door: &Door, asked: &Asked<'_>, payload: &mut Payload) -> Result<HttpResponse> {
    let site = &door.site;
    let worker = site.worker()?;
    let body = body::read(site, asked.request, payload, parcel::LARGEST, Kind::TooLarge).await?;
    let question: Question = postcard::from_bytes(&body.bytes)
        .map_err(|error| Error::new(Kind::BadRequest, "this is no step of a move").cause(error))?;
    let replica = site.with_open(&worker.node.mode(), |replica| Ok(replica.clone()))?;
    let registered = worker.registered().ok_or_else(forward::starting)?;
    let own = (registered.group, replica.incarnation());
    let known = site.view().group(question.from.0).map_or(0, |group| group.incarnation);
    if question.cluster != registered.cluster || question.to != own || question.from.1 < known {
        return Err(Error::new(
            Kind::Conflict,
            format!(
                "this is group {} in incarnation {}; the step of incarnation {} of group {} is for another one",
                own.0, own.1, question.from.1, question.from.0
            ),
        ));
    }
    if !question.step.is_of_target() {
        return Err(Error::new(Kind::BadRequest, "this step of a move is none of its target"));
    }
    if replica.lead() != Lead::Here {
        return Err(super::owner::does_not_lead(own.0));
    }
    if matches!(question.step, MoveStep::Accept { .. }) && replica.awaits()? {
        // What its copy holds may be all that there is of slots that are its own.
        return Err(awaiting());
    }
    let deadline = asked.deadline()?;
    match upload::take_moved(door, &replica, question.from.0, question.step, deadline).await? {
        Reply::MoveTarget(word) => Ok(respond::json(&word, false)),
        reply => {
            Err(Error::new(Kind::UnknownOutcome, format!("a step of a move was answered with {reply:?}")))
        }
    }
}
