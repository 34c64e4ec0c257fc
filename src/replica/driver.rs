//! The replica thread: an inbox before it, a [`Member`] that it steps, and what it publishes for readers.
//!
//! The thread is the rim: it has the clock, the waiting and the disk. While an entry is on its way (to the disk, to a
//! majority) the next one gathers in the inbox, and for a part of that time whoever was just answered may join it:
//! group commit. Nothing is acknowledged before it is applied, and what is published (the live generation, the
//! counters) is published before the replies leave. That a lease is gone is published before the messages leave that
//! allow somebody else to lead.

mod background;

use super::blobs::Chunks;
use super::clock::{now_ms, wall_clock};
use super::core::{Status, TICK_MS};
use super::inbox::{INBOX, Inbox, Job, Submitted};
use super::machine::Machine;
use super::mailbox::{Receiver, Waited, mailbox};
use super::member::{Member, NOBODY, Outputs, Rim, Ticket};
use super::parcel::Progress;
use super::shared::{Live, Members, SHIFTING, Shared, as_refusal, lock};
use super::snapshot::Held;
use super::space::Space;
use super::transport::{Transport, Wire};
use crate::error::{Error, Kind, Result};
use crate::store::log::RaftLog;
use crate::store::state::Generations;
use raft::eraftpb::Message;
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// What gathers for an entry waits at most for this part of the time that an entry takes, and never longer than this.
const GATHER_PART: u32 = 2;
const LONGEST_GATHER: Duration = Duration::from_millis(1);
/// Enough commands to make a sync worth while.
const MOST_GATHERED: usize = 1024;
/// So many entries of this leader may wait for a majority; what comes meanwhile gathers for the next one. Two were
/// measured too: smaller entries, more messages, and fewer writes a second.
const IN_FLIGHT: usize = 1;
/// A failed thread that nobody asks anything wakes up so often, for nothing.
const FOREVER: Duration = Duration::from_secs(3600);
/// The size of the log is looked up on disk every so many ticks.
const TICKS_PER_LOOK: u64 = 10;

/// What a replica needs of the world around it.
pub struct World {
    /// How members reach each other.
    pub wire: Arc<dyn Wire>,
    /// Who this member is to the others.
    pub own: super::parcel::Sender,
    /// How much room the disk has; none if it cannot tell.
    pub free_bytes: Box<dyn Fn() -> Option<u64> + Send>,
    /// Free bytes below which nothing is stored.
    pub reserve: u64,
    /// Who keeps the chunks of large values, where there are any.
    pub chunks: Option<Arc<dyn Chunks>>,
}

/// What the thread for `member` will share.
pub fn share<M, L, G>(member: &Member<M, L, G>) -> Arc<Shared<M>>
where
    M: Machine,
    L: RaftLog,
    G: Generations,
{
    let live = Live { state: member.state(), published: member.machine().publish() };
    Arc::new(Shared::new(member.core().id(), live))
}

/// Starts the thread for `member`.
pub fn start<M, L, G>(
    member: Member<M, L, G>,
    shared: Arc<Shared<M>>,
    world: World,
) -> Result<Inbox<M, (L, G), G::Building>>
where
    M: Machine,
    L: RaftLog + 'static,
    G: Generations + 'static,
{
    let (sender, receiver) = mailbox(INBOX);
    let inbox = Inbox { sender, mail: Arc::default(), shared };
    let lost = {
        let inbox = inbox.clone();
        move |peer| inbox.post(Job::Unreachable(peer))
    };
    let World { wire, own, free_bytes, reserve, chunks } = world;
    let space = Space::new(free_bytes(), reserve);
    let mut driver = Driver {
        member: Some(member),
        transport: Some(Transport::new(own, wire.clone(), lost)),
        wire,
        inbox: inbox.clone(),
        receiver,
        free_bytes,
        reserve,
        chunks,
        queue: VecDeque::new(),
        callers: HashMap::new(),
        readers: HashMap::new(),
        next_ticket: NOBODY + 1,
        next_tick: Instant::now() + Duration::from_millis(TICK_MS),
        ticks: 0,
        space,
        pulling: None,
        rotten_ticks: 0,
        leaving: None,
        proposed: None,
        pace: Duration::ZERO,
        writers: 0,
    };
    std::thread::Builder::new()
        .name("replica".into())
        .spawn(move || driver.live())
        .map_err(|error| Error::new(Kind::System, "the replica thread does not start").cause(error))?;
    Ok(inbox)
}

struct Driver<M: Machine, L: RaftLog, G: Generations> {
    member: Option<Member<M, L, G>>,
    transport: Option<Transport>,
    wire: Arc<dyn Wire>,
    inbox: Inbox<M, (L, G), G::Building>,
    receiver: Receiver<Job<M, (L, G), G::Building>>,
    free_bytes: Box<dyn Fn() -> Option<u64> + Send>,
    reserve: u64,
    chunks: Option<Arc<dyn Chunks>>,
    queue: VecDeque<(Ticket, M::Command)>,
    callers: HashMap<Ticket, Caller<M>>,
    readers: HashMap<Ticket, oneshot::Sender<Result<()>>>,
    next_ticket: Ticket,
    next_tick: Instant,
    ticks: u64,
    space: Space,
    /// Ends the copy under way.
    pulling: Option<Arc<AtomicBool>>,
    /// For so many ticks rotten rows have waited for others to come in their place, and none were on their way.
    rotten_ticks: u32,
    /// Who waits for the lead to be handed over.
    leaving: Option<Sender<()>>,
    /// When the oldest entry under way was proposed.
    proposed: Option<Instant>,
    /// How long an entry takes from its proposal to its replies, smoothed.
    pace: Duration,
    /// How many writers there were when the last entry was done.
    writers: usize,
}

struct Caller<M: Machine> {
    size: u64,
    reply: oneshot::Sender<Result<M::Reply>>,
}

/// The world as a running member reaches it.
struct DriverRim<'a, M: Machine> {
    shared: &'a Shared<M>,
    transport: Option<&'a Transport>,
}

impl<M: Machine> Rim for DriverRim<'_, M> {
    fn publish(&mut self, status: &Status) {
        self.shared.withdraw(status);
    }

    fn send(&mut self, messages: Vec<Message>) {
        if let Some(transport) = self.transport {
            transport.send(messages);
        }
    }

    fn shift(&mut self) {
        self.shared.shifts.store(SHIFTING, Ordering::SeqCst);
    }
}

impl<M, L, G> Driver<M, L, G>
where
    M: Machine,
    L: RaftLog + 'static,
    G: Generations + 'static,
{
    /// The thread's life: until a close, or until an error; then it answers what still comes in.
    fn live(&mut self) {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.work()));
        self.transport = None;
        if let Some(pulling) = self.pulling.take() {
            pulling.store(true, Ordering::Relaxed);
        }
        let failure = match outcome {
            Ok(Ok(closed)) => {
                self.inbox.shared.stop_reads();
                if let (Some(closed), Some(member)) = (closed, self.member.take()) {
                    // A receiver that is gone gave up waiting; the stores are then simply dropped.
                    let _ = closed.send(member.into_stores());
                }
                return;
            }
            Ok(Err(error)) => error,
            Err(panic) => self.explain(panic),
        };
        self.inbox.shared.fail(failure.clone());
        self.answer_all(&failure);
    }

    fn explain(&self, panic: Box<dyn std::any::Any + Send>) -> Error {
        if let Some(error) = self.member.as_ref().and_then(|member| member.core().take_log_error()) {
            return error;
        }
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_default();
        Error::new(Kind::Failed, format!("the replica thread panicked: {text}"))
    }

    /// Steps the member until a close is asked for; returns whom to give the stores to.
    fn work(&mut self) -> Result<Option<Sender<(L, G)>>> {
        self.step()?;
        self.inbox.shared.started.store(true, Ordering::Release);
        loop {
            if self.receiver.wait(1, self.next_tick) == Waited::Alone {
                return Ok(None);
            }
            let mut close = None;
            loop {
                if close.is_none() {
                    close = self.drain()?;
                }
                if close.is_none() {
                    close = self.gather()?;
                }
                self.step()?;
                if self.queue.is_empty() || !self.may_propose() {
                    break;
                }
            }
            if close.is_some() {
                self.refuse_unfinished();
                return Ok(close);
            }
        }
    }

    fn may_propose(&self) -> bool {
        self.member.as_ref().is_some_and(|member| member.uncommitted() < IN_FLIGHT)
    }

    /// Whoever was just answered is likely to write again at once. Waiting for a small part of the time that an entry
    /// takes lets those writes share the next sync instead of the one after it. It ends as soon as as many commands
    /// wait as there were writers a moment ago, so that a lone writer never waits.
    fn gather(&mut self) -> Result<Option<Sender<(L, G)>>> {
        let under_way = self.member.as_ref().is_some_and(|member| member.uncommitted() > 0);
        if self.queue.is_empty() || under_way {
            return Ok(None);
        }
        let until = Instant::now() + (self.pace / GATHER_PART).min(LONGEST_GATHER);
        // Where nobody else has a copy, half of them will do: while those are synced and applied, the handlers are at work for
        // the other half. Where entries travel, fewer and larger ones are better. (Both were measured.)
        let alone = self.member.as_ref().is_some_and(|member| member.core().is_only_member());
        let enough = (if alone { self.writers / 2 } else { self.writers }).min(MOST_GATHERED);
        while self.queue.len() < enough {
            let waited = self.receiver.wait(enough - self.queue.len(), until);
            let close = self.drain()?;
            if close.is_some() || waited == Waited::Alone || Instant::now() >= until {
                return Ok(close);
            }
        }
        Ok(None)
    }

    /// Takes what waits in the inbox, as far as there is room in the queue; stops behind a close.
    fn drain(&mut self) -> Result<Option<Sender<(L, G)>>> {
        while self.queue.len() < INBOX {
            let mut jobs = self.receiver.take(INBOX - self.queue.len());
            if jobs.is_empty() {
                break;
            }
            while let Some(job) = jobs.pop_front() {
                let taken = self.take(job);
                if !matches!(taken, Ok(None)) {
                    // Those behind it are told by whoever ends the thread.
                    self.receiver.put_back(jobs);
                    return taken;
                }
            }
        }
        Ok(None)
    }

    fn take(&mut self, job: Job<M, (L, G), G::Building>) -> Result<Option<Sender<(L, G)>>> {
        let Some(member) = &mut self.member else { return Ok(None) };
        match job {
            Job::Command(command) => self.accept(command),
            Job::Read(reply) => {
                let ticket = self.next_ticket;
                self.next_ticket += 1;
                self.readers.insert(ticket, reply);
                member.read(ticket);
            }
            Job::Wake => {}
            Job::Unreachable(peer) => member.unreachable(peer),
            Job::SnapshotUsed { id, peer } => member.snapshot_used(now_ms(), id, peer),
            Job::Fetched(id, built) => member.fetched(id, built),
            Job::Flushed(Ok(index)) => member.flushed(now_ms(), index)?,
            Job::Flushed(Err(error)) => {
                let damage = member.suffer(now_ms(), error)?;
                self.inbox.shared.renew(&damage);
            }
            Job::Want(wanted) => member.want(wanted),
            Job::Leave(left) => {
                member.leave(now_ms());
                self.leaving = Some(left);
            }
            Job::Close(closed) => return Ok(Some(closed)),
        }
        Ok(None)
    }

    fn accept(&mut self, command: Submitted<M>) {
        let gauges = &self.inbox.shared.gauges;
        gauges.queued.fetch_sub(1, Ordering::Relaxed);
        let refusal = if command.deadline <= Instant::now() {
            Some(Error::new(
                Kind::NoMajority,
                "the request waited longer than its deadline; nothing was written",
            ))
        } else {
            self.space.admit(command.size, M::needs_space(&command.command)).err()
        };
        if let Some(error) = refusal {
            gauges.queued_bytes.fetch_sub(command.size, Ordering::Relaxed);
            // A caller that is gone needs no answer.
            let _ = command.reply.send(Err(error));
            return;
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.callers.insert(ticket, Caller { size: command.size, reply: command.reply });
        self.queue.push_back((ticket, command.command));
    }

    /// One round: what other members sent, a tick that is due, one entry from the queue, and everything that Raft asks
    /// for.
    fn step(&mut self) -> Result<()> {
        if Instant::now() >= self.next_tick {
            self.replace_rotten()?;
        }
        let Some(member) = &mut self.member else { return Ok(()) };
        // The clock is read behind what came: a promise that is made of it ends late rather than early.
        let letters = lock(&self.inbox.mail).take();
        let now = now_ms();
        for letter in letters {
            for message in letter.messages {
                member.step(now, message);
            }
            member.hear_progress(now, letter.from, letter.progress);
        }
        let instant = Instant::now();
        let ticks = instant >= self.next_tick;
        if ticks {
            // Ticks that were missed are dropped, never caught up in a burst.
            self.next_tick = instant + Duration::from_millis(TICK_MS);
            member.tick(now);
            self.space = Space::new((self.free_bytes)(), self.reserve);
            if self.space.admit(0, false).is_ok() {
                member.propose_due(wall_clock());
            }
            self.ticks += 1;
            if self.ticks % TICKS_PER_LOOK == 1 {
                self.inbox.shared.gauges.log_bytes.store(member.core().log().bytes(), Ordering::Relaxed);
            }
        }
        let refused = if member.uncommitted() < IN_FLIGHT {
            member.propose(wall_clock(), &mut self.queue)
        } else {
            Vec::new()
        };
        if member.uncommitted() > 0 {
            self.proposed.get_or_insert(instant);
        }
        let mut rim = DriverRim { shared: &*self.inbox.shared, transport: self.transport.as_ref() };
        let outputs = member.run(now, &mut rim)?;
        if let Some(error) = &outputs.rot {
            self.inbox.shared.renew(error);
        }
        let complete = self.chunks.as_ref().map_or(u64::MAX, |chunks| chunks.complete());
        let complete = member.note_complete(complete);
        // Before the replies leave: a follower that hears less than what was acknowledged would count as fresh.
        if let Some(transport) = &self.transport {
            transport.set_progress(Progress { commit: member.core().commit(), complete });
        }
        self.measure(&outputs);
        // In this order: who is told that all rows are others looks at them at once.
        self.publish(&outputs);
        self.tell_of_chunks(&outputs);
        if ticks || !self.inbox.shared.started.load(Ordering::Relaxed) {
            self.publish_members();
        }
        for (ticket, error) in refused {
            self.reply(ticket, Err(error));
        }
        self.finish(outputs)
    }

    /// Learns how long an entry takes, and how many writers there are.
    fn measure(&mut self, outputs: &Outputs<M::Reply, G::Building>) {
        if outputs.commands == 0 {
            return;
        }
        if let Some(proposed) = self.proposed.take() {
            self.pace = (7 * self.pace + proposed.elapsed()) / 8;
        }
        // Those who are answered now, and those who came meanwhile.
        let waiting = self.inbox.shared.gauges.queued.load(Ordering::Relaxed) as usize;
        self.writers = outputs.replies.len() + self.queue.len() + waiting;
    }

    /// Whoever keeps chunks hears of what was applied before anybody is answered.
    fn tell_of_chunks(&self, outputs: &Outputs<M::Reply, G::Building>) {
        let (Some(member), Some(chunks)) = (&self.member, &self.chunks) else { return };
        let at = member.machine().position();
        if outputs.installed || outputs.replaced {
            chunks.replaced(at.index, at.term);
        } else if outputs.entries > 0 {
            chunks.applied(at.index, at.term, outputs.chunked.clone());
            if outputs.unchunked {
                chunks.freed();
            }
        }
    }

    /// Lets readers see what was applied, before the replies leave.
    fn publish(&self, outputs: &Outputs<M::Reply, G::Building>) {
        let Some(member) = &self.member else { return };
        let shared = &*self.inbox.shared;
        let (core, gauges) = (member.core(), &shared.gauges);
        gauges.last.store(core.last_index(), Ordering::Relaxed);
        gauges.last_term.store(core.last_term(), Ordering::Relaxed);
        gauges.applied.store(member.machine().position().index, Ordering::Relaxed);
        if outputs.entries > 0 && !member.renews() || outputs.installed {
            let live = Live { state: member.state(), published: member.machine().publish() };
            let before = shared.live.write().unwrap_or_else(PoisonError::into_inner).replace(live);
            // Whoever lets go of a generation last closes it, and readers do not wait for that.
            drop(before);
            if outputs.installed {
                shared.renewed();
            }
            shared.shifts.store(member.machine().shifts(), Ordering::SeqCst);
            gauges.entries.fetch_add(outputs.entries, Ordering::Relaxed);
            gauges.commands.fetch_add(outputs.commands, Ordering::Relaxed);
            gauges.syncs.store(core.log().syncs(), Ordering::Relaxed);
        }
        // Only now: who reads how old the state is, and then the state, must not find an older one.
        gauges.fresh_at.store(member.fresh_at().unwrap_or(0), Ordering::Release);
        // Unless somebody stopped the reads meanwhile.
        if shared.check_open().is_ok() {
            shared.grant(member.status().lease);
        }
    }

    /// Lets others see who votes and who answers; once in each tick.
    fn publish_members(&self) {
        let Some(member) = &self.member else { return };
        let (core, shared) = (member.core(), &*self.inbox.shared);
        let membership = core.membership();
        let now = Members {
            voters: membership.voters.clone(),
            outgoing: membership.voters_outgoing.clone(),
            standbys: membership.learners.clone(),
            active: if shared.leads() { core.active(now_ms()) } else { Vec::new() },
        };
        if *shared.members() != now {
            *shared.members.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(now);
        }
    }

    /// Hands out what a round brought.
    fn finish(&mut self, outputs: Outputs<M::Reply, G::Building>) -> Result<()> {
        for (ticket, reply) in outputs.replies {
            self.reply(ticket, reply);
        }
        for (ticket, right) in outputs.reads {
            if let Some(reader) = self.readers.remove(&ticket) {
                // A reader that is gone needs no answer.
                let _ = reader.send(right);
            }
        }
        let shared = &self.inbox.shared;
        for id in outputs.released {
            shared.snapshots.release(id);
        }
        for offer in outputs.offers {
            let (keys, bytes) =
                self.member.as_ref().map_or((0, 0), |member| member.machine().size_of_state());
            log::info!("snapshot {:016x} at entry {} is offered", offer.name.id, offer.name.index);
            shared
                .snapshots
                .hold(offer.name.id, Held { view: offer.view, keys, bytes, ahead: Arc::default() });
        }
        if let Some(fetch) = outputs.fetch {
            self.pull(fetch)?;
        }
        for look in outputs.looks {
            self.look(look)?;
        }
        if let Some(flush) = outputs.flush {
            self.flush(flush)?;
        }
        if outputs.frees {
            self.compact()?;
        }
        if self.leaving.is_some()
            && self.member.as_ref().is_none_or(|member| member.has_left(now_ms()))
            && let Some(leaving) = self.leaving.take()
        {
            // Who asked may have stopped waiting.
            let _ = leaving.send(());
        }
        Ok(())
    }

    fn reply(&mut self, ticket: Ticket, reply: Result<M::Reply>) {
        if let Some(caller) = self.callers.remove(&ticket) {
            self.inbox.shared.gauges.queued_bytes.fetch_sub(caller.size, Ordering::Relaxed);
            // A caller that is gone needs no answer.
            let _ = caller.reply.send(reply);
        }
    }

    /// At a close: what came behind it was certainly not written; what the group has not agreed on has an unknown
    /// outcome, which a lone voter never leaves.
    fn refuse_unfinished(&mut self) {
        let closed = self.inbox.shared.closed_error();
        for job in self.receiver.take(usize::MAX) {
            refuse(job, &closed);
        }
        for (ticket, _) in std::mem::take(&mut self.queue) {
            self.reply(ticket, Err(closed.clone()));
        }
        for ticket in self.callers.keys().copied().collect::<Vec<_>>() {
            self.reply(ticket, Err(unknown("the node was closed before the group agreed")));
        }
        for (_, reader) in self.readers.drain() {
            let _ = reader.send(Err(closed.clone()));
        }
    }

    /// After a failure: what was proposed has an unknown outcome, everything else was certainly not written.
    fn answer_all(&mut self, failure: &Error) {
        let refusal = as_refusal(failure);
        for (ticket, _) in std::mem::take(&mut self.queue) {
            self.reply(ticket, Err(refusal.clone()));
        }
        for ticket in self.callers.keys().copied().collect::<Vec<_>>() {
            self.reply(ticket, Err(unknown("the disk failed while it was being written")));
        }
        for (_, reader) in self.readers.drain() {
            let _ = reader.send(Err(refusal.clone()));
        }
        // The stores go first: a failed disk must not be written again, and the folder's lock can then be released.
        self.member = None;
        // Without a sender of its own the thread ends with the last handle.
        self.inbox.sender = mailbox(1).0;
        while self.receiver.wait(1, Instant::now() + FOREVER) != Waited::Alone {
            for job in self.receiver.take(usize::MAX) {
                // Dropping a close tells the closer that there is nothing to close.
                if let Job::Close(_) = job {
                    return;
                }
                refuse(job, &refusal);
            }
        }
    }
}

fn refuse<M: Machine, S, B>(job: Job<M, S, B>, error: &Error) {
    // Callers that are gone need no answer.
    match job {
        Job::Command(command) => drop(command.reply.send(Err(error.clone()))),
        Job::Read(reply) => drop(reply.send(Err(error.clone()))),
        _ => {}
    }
}

fn unknown(why: &str) -> Error {
    Error::new(Kind::UnknownOutcome, format!("{why}: it may have been written"))
        .hint("read the key to find out")
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
