//! The replica thread: a bounded inbox before it, a [`Member`] that it steps, and what it publishes for readers.
//!
//! The thread is the rim: it has the clock, the waiting and the disk. While an entry is being synced the next one
//! gathers in the inbox, and for a part of that time whoever was just answered may join it: group commit. Nothing is
//! acknowledged before it is applied, and what is published (the live generation, the counters) is published before
//! the replies leave.

use super::core::TICK_MS;
use super::machine::Machine;
use super::member::{Flush, Member, NOBODY, Outputs, Ticket};
use crate::error::{Error, Kind, Result};
use crate::store::log::RaftLog;
use crate::store::state::{Generations, State};
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{
    Receiver, RecvTimeoutError, Sender, SyncSender, TryRecvError, TrySendError, sync_channel,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;

/// At most so many commands wait.
const INBOX: usize = 16384;
/// At most so many bytes of commands wait.
const INBOX_BYTES: u64 = 128 << 20;
/// Free bytes below which commands that need space are refused.
const RESERVE: u64 = 64 << 20;
/// Free bytes below which every command is refused.
const LAST_RESERVE: u64 = 16 << 20;

/// What gathers for an entry waits at most for this part of the time that an entry takes, and never longer than this.
const GATHER_PART: u32 = 2;
const LONGEST_GATHER: Duration = Duration::from_millis(1);
/// Enough commands to make a sync worth while.
const MOST_GATHERED: usize = 1024;
/// The size of the log is looked up on disk every so many ticks.
const TICKS_PER_LOOK: u64 = 10;

/// What readers on other threads see of a running replica.
pub struct Live<M: Machine> {
    /// The live generation.
    pub state: Arc<dyn State>,
    /// What the machine published after the last applied entry.
    pub published: M::Published,
}

impl<M: Machine> Clone for Live<M> {
    fn clone(&self) -> Self {
        Live { state: self.state.clone(), published: self.published.clone() }
    }
}

/// Numbers that the thread keeps for others.
#[derive(Debug, Default)]
pub struct Gauges {
    pub(super) role: RwLock<&'static str>,
    pub(super) term: AtomicU64,
    pub(super) applied: AtomicU64,
    pub(super) syncs: AtomicU64,
    pub(super) entries: AtomicU64,
    pub(super) commands: AtomicU64,
    pub(super) queued: AtomicU64,
    pub(super) queued_bytes: AtomicU64,
    pub(super) log_bytes: AtomicU64,
}

/// What the thread and its handles share.
pub struct Shared<M: Machine> {
    pub(super) live: RwLock<Option<Live<M>>>,
    pub(super) serving: AtomicBool,
    pub(super) closing: AtomicBool,
    pub(super) failure: Mutex<Option<Error>>,
    pub(super) gauges: Gauges,
}

struct Command<M: Machine> {
    command: M::Command,
    size: u64,
    deadline: Instant,
    reply: oneshot::Sender<Result<M::Reply>>,
}

enum Job<M: Machine, S> {
    Command(Command<M>),
    Flushed(Result<u64>),
    Close(Sender<S>),
}

/// The way in: commands, and the close. `S` is what a close gives back.
pub struct Inbox<M: Machine, S> {
    sender: SyncSender<Job<M, S>>,
    shared: Arc<Shared<M>>,
}

impl<M: Machine, S> Inbox<M, S> {
    /// Puts a command into the inbox; its reply arrives at the receiver, which is dropped without one only if the
    /// thread died: an unknown outcome.
    ///
    /// Errors: `Overloaded`, `Closed`, `Failed`: certainly not written.
    pub fn send(
        &self,
        command: M::Command,
        deadline: Instant,
    ) -> Result<oneshot::Receiver<Result<M::Reply>>> {
        self.shared.check_open()?;
        let size = M::size(&command) as u64;
        let gauges = &self.shared.gauges;
        let queued = gauges.queued_bytes.fetch_add(size, Ordering::Relaxed);
        if queued > 0 && queued + size > INBOX_BYTES {
            gauges.queued_bytes.fetch_sub(size, Ordering::Relaxed);
            return Err(overloaded());
        }
        let (reply, receiver) = oneshot::channel();
        gauges.queued.fetch_add(1, Ordering::Relaxed);
        self.sender.try_send(Job::Command(Command { command, size, deadline, reply })).map_err(
            |refused| {
                gauges.queued_bytes.fetch_sub(size, Ordering::Relaxed);
                gauges.queued.fetch_sub(1, Ordering::Relaxed);
                match refused {
                    TrySendError::Full(_) => overloaded(),
                    TrySendError::Disconnected(_) => self.shared.closed_error(),
                }
            },
        )?;
        Ok(receiver)
    }

    /// What the thread shares.
    pub fn shared(&self) -> &Arc<Shared<M>> {
        &self.shared
    }

    /// Lets the thread finish what was accepted before this call and end; waits for what it gives back.
    pub fn close(&self, patience: Duration) -> Result<S> {
        let (sender, receiver) = std::sync::mpsc::channel();
        self.sender.send(Job::Close(sender)).map_err(|_| self.shared.closed_error())?;
        receiver
            .recv_timeout(patience)
            .map_err(|_| Error::new(Kind::Failed, "the replica did not stop in time"))
    }
}

fn overloaded() -> Error {
    Error::new(Kind::Overloaded, "too many writes wait for the disk").hint("try again a little later")
}

impl<M: Machine> Shared<M> {
    /// `Closed` or the failure, if this replica does not take requests.
    pub fn check_open(&self) -> Result<()> {
        if self.closing.load(Ordering::Acquire) {
            return Err(self.closed_error());
        }
        Ok(())
    }

    /// Why the thread stopped by itself.
    pub fn failure(&self) -> Option<Error> {
        lock(&self.failure).clone()
    }

    pub(super) fn closed_error(&self) -> Error {
        self.failure()
            .map_or_else(|| Error::new(Kind::Closed, "this node is closed"), |error| as_refusal(&error))
    }

    /// Stops serving because of `error`; the first one counts.
    pub(super) fn fail(&self, error: Error) {
        {
            let mut failure = lock(&self.failure);
            if failure.is_none() {
                log::error!("this node stops serving: {error}");
                *failure = Some(error);
            }
        }
        self.serving.store(false, Ordering::Release);
        self.closing.store(true, Ordering::Release);
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// What a request is told after the node stopped: the failure is the node's, whatever its kind.
fn as_refusal(error: &Error) -> Error {
    Error::new(Kind::Failed, format!("this node stopped serving: {}", error.detail()))
        .hint("see its log; the disk or the data folder needs attention")
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the thread for `member`. `free_bytes` says how much room the disk has; `None` if it cannot tell.
pub fn start<M, L, G>(
    member: Member<M, L, G>,
    free_bytes: Box<dyn Fn() -> Option<u64> + Send>,
) -> Result<Inbox<M, (L, G)>>
where
    M: Machine,
    L: RaftLog + 'static,
    G: Generations + 'static,
{
    let shared = Arc::new(Shared {
        live: RwLock::new(Some(Live { state: member.state(), published: member.machine().publish() })),
        serving: AtomicBool::new(false),
        closing: AtomicBool::new(false),
        failure: Mutex::new(None),
        gauges: Gauges::default(),
    });
    let (sender, receiver) = sync_channel(INBOX);
    let space = Space::new(free_bytes());
    let mut driver = Driver {
        member: Some(member),
        shared: shared.clone(),
        receiver,
        itself: sender.clone(),
        free_bytes,
        queue: VecDeque::new(),
        callers: HashMap::new(),
        next_ticket: NOBODY + 1,
        next_tick: Instant::now() + Duration::from_millis(TICK_MS),
        ticks: 0,
        space,
        pace: Duration::ZERO,
        writers: 0,
    };
    std::thread::Builder::new()
        .name("replica".into())
        .spawn(move || driver.live())
        .map_err(|error| Error::new(Kind::System, "the replica thread does not start").cause(error))?;
    Ok(Inbox { sender, shared })
}

/// The free space of the disk as it was at the last tick. What was accepted since counts against it as often as it will
/// be written: to the log, to LevelDB's own log, and to a table.
struct Space {
    free: Option<u64>,
    accepted: u64,
}

impl Space {
    fn new(free: Option<u64>) -> Space {
        Space { free, accepted: 0 }
    }

    /// Accepts a command of `size` bytes. Errors with `DiskFull`.
    fn admit(&mut self, size: u64, needs_space: bool) -> Result<()> {
        const WRITTEN_TIMES: u64 = 3;
        let Some(free) = self.free else { return Ok(()) };
        let free = free.saturating_sub(WRITTEN_TIMES * self.accepted);
        if free >= if needs_space { RESERVE } else { LAST_RESERVE } {
            self.accepted += size;
            return Ok(());
        }
        let reserves = format!(
            "free space: writes go on above {} MiB, deletes above {} MiB",
            RESERVE >> 20,
            LAST_RESERVE >> 20
        );
        let detail = format!("only {} MiB are free on the disk of this node", free >> 20);
        Err(Error::new(Kind::DiskFull, detail).hint(reserves))
    }
}

struct Driver<M: Machine, L: RaftLog, G: Generations> {
    member: Option<Member<M, L, G>>,
    shared: Arc<Shared<M>>,
    receiver: Receiver<Job<M, (L, G)>>,
    itself: SyncSender<Job<M, (L, G)>>,
    free_bytes: Box<dyn Fn() -> Option<u64> + Send>,
    queue: VecDeque<(Ticket, M::Command)>,
    callers: HashMap<Ticket, Caller<M>>,
    next_ticket: Ticket,
    next_tick: Instant,
    ticks: u64,
    space: Space,
    /// How long an entry takes from its proposal to its replies, smoothed.
    pace: Duration,
    /// How many writers there were when the last entry was done.
    writers: usize,
}

struct Caller<M: Machine> {
    size: u64,
    reply: oneshot::Sender<Result<M::Reply>>,
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
        let failure = match outcome {
            Ok(Ok(closed)) => {
                self.shared.serving.store(false, Ordering::Release);
                if let (Some(closed), Some(member)) = (closed, self.member.take()) {
                    *self.shared.live.write().unwrap_or_else(PoisonError::into_inner) = None;
                    // A receiver that is gone gave up waiting; the stores are then simply dropped.
                    let _ = closed.send(member.into_stores());
                }
                return;
            }
            Ok(Err(error)) => error,
            Err(panic) => self.explain(panic),
        };
        self.shared.fail(failure.clone());
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
        loop {
            let wait = self.next_tick.saturating_duration_since(Instant::now());
            let mut close = None;
            match self.receiver.recv_timeout(wait) {
                Ok(job) => close = self.take(job)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
            }
            loop {
                while close.is_none() && self.queue.len() < INBOX {
                    match self.receiver.try_recv() {
                        Ok(job) => close = self.take(job)?,
                        Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                    }
                }
                if close.is_none() {
                    close = self.gather()?;
                }
                self.step()?;
                if self.queue.is_empty() {
                    break;
                }
            }
            if close.is_some() {
                self.refuse_unfinished();
                return Ok(close);
            }
        }
    }

    /// Whoever was just answered is likely to write again at once. Waiting for a small part of the time that an entry
    /// takes lets those writes share the next sync instead of the one after it. It ends as soon as as many commands
    /// wait as there were writers a moment ago, so that a lone writer never waits.
    fn gather(&mut self) -> Result<Option<Sender<(L, G)>>> {
        if self.queue.is_empty() {
            return Ok(None);
        }
        let until = Instant::now() + (self.pace / GATHER_PART).min(LONGEST_GATHER);
        while self.queue.len() < self.writers.min(MOST_GATHERED) {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(job) = self.receiver.recv_timeout(left) else { break };
            let close = self.take(job)?;
            if close.is_some() {
                return Ok(close);
            }
        }
        Ok(None)
    }

    fn take(&mut self, job: Job<M, (L, G)>) -> Result<Option<Sender<(L, G)>>> {
        match job {
            Job::Command(command) => self.accept(command),
            Job::Flushed(index) => {
                if let Some(member) = &mut self.member {
                    member.flushed(index?)?;
                }
            }
            Job::Close(closed) => return Ok(Some(closed)),
        }
        Ok(None)
    }

    fn accept(&mut self, command: Command<M>) {
        self.shared.gauges.queued.fetch_sub(1, Ordering::Relaxed);
        let refusal = if command.deadline <= Instant::now() {
            Some(Error::new(
                Kind::NoMajority,
                "the request waited longer than its deadline; nothing was written",
            ))
        } else {
            self.space.admit(command.size, M::needs_space(&command.command)).err()
        };
        if let Some(error) = refusal {
            self.shared.gauges.queued_bytes.fetch_sub(command.size, Ordering::Relaxed);
            // A caller that is gone needs no answer.
            let _ = command.reply.send(Err(error));
            return;
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.callers.insert(ticket, Caller { size: command.size, reply: command.reply });
        self.queue.push_back((ticket, command.command));
    }

    /// One round: ticks that are due, one entry from the queue, and everything that Raft asks for.
    fn step(&mut self) -> Result<()> {
        let Some(member) = &mut self.member else { return Ok(()) };
        let now = Instant::now();
        let now_is_tick = now >= self.next_tick;
        if now_is_tick {
            // Ticks that were missed are dropped, never caught up in a burst.
            member.tick();
            self.space = Space::new((self.free_bytes)());
            self.next_tick = now + Duration::from_millis(TICK_MS);
            self.ticks += 1;
            if self.ticks % TICKS_PER_LOOK == 1 {
                self.shared.gauges.log_bytes.store(member.core().log().bytes(), Ordering::Relaxed);
            }
        }
        if now_is_tick && self.space.admit(0, false).is_ok() {
            member.propose_due(wall_clock());
        }
        let refused = member.propose(wall_clock(), &mut self.queue);
        let began = Instant::now();
        let outputs = member.run(&mut |_messages| {})?;
        if outputs.commands > 0 {
            self.pace = (7 * self.pace + began.elapsed()) / 8;
            // Those who are answered now, and those who came meanwhile.
            let waiting = self.shared.gauges.queued.load(Ordering::Relaxed) as usize;
            self.writers = outputs.replies.len() + self.queue.len() + waiting;
        }
        self.publish(&outputs);
        for (ticket, error) in refused {
            self.reply(ticket, Err(error));
        }
        for (ticket, reply) in outputs.replies {
            self.reply(ticket, reply);
        }
        if let Some(flush) = outputs.flush {
            self.flush(flush)?;
        }
        Ok(())
    }

    fn publish(&self, outputs: &Outputs<M::Reply>) {
        let Some(member) = &self.member else { return };
        let (core, gauges) = (member.core(), &self.shared.gauges);
        if outputs.entries > 0 {
            let live = Live { state: member.state(), published: member.machine().publish() };
            *self.shared.live.write().unwrap_or_else(PoisonError::into_inner) = Some(live);
            gauges.applied.store(member.machine().position().index, Ordering::Relaxed);
            gauges.entries.fetch_add(outputs.entries, Ordering::Relaxed);
            gauges.commands.fetch_add(outputs.commands, Ordering::Relaxed);
            gauges.syncs.store(core.log().syncs(), Ordering::Relaxed);
        }
        if gauges.term.swap(core.term(), Ordering::Relaxed) != core.term() || outputs.entries > 0 {
            *gauges.role.write().unwrap_or_else(PoisonError::into_inner) = core.role();
        }
        self.shared.serving.store(member.may_read_alone(), Ordering::Release);
    }

    fn reply(&mut self, ticket: Ticket, reply: Result<M::Reply>) {
        if let Some(caller) = self.callers.remove(&ticket) {
            self.shared.gauges.queued_bytes.fetch_sub(caller.size, Ordering::Relaxed);
            // A caller that is gone needs no answer.
            let _ = caller.reply.send(reply);
        }
    }

    /// Flushes on a thread of its own, so that writes go on meanwhile.
    fn flush(&self, flush: Flush) -> Result<()> {
        let itself = self.itself.clone();
        std::thread::Builder::new()
            .name("flush".into())
            .spawn(move || {
                let done = flush.state.flush().map(|()| flush.index);
                drop(flush);
                // A replica that was closed meanwhile no longer cuts its log.
                let _ = itself.send(Job::Flushed(done));
            })
            .map_err(|error| Error::new(Kind::System, "the flush thread does not start").cause(error))?;
        Ok(())
    }

    /// At a close: what came behind it was certainly not written; what the group has not agreed on has an unknown
    /// outcome, which a lone voter never leaves.
    fn refuse_unfinished(&mut self) {
        while let Ok(job) = self.receiver.try_recv() {
            if let Job::Command(command) = job {
                let _ = command.reply.send(Err(self.shared.closed_error()));
            }
        }
        for ticket in std::mem::take(&mut self.callers).into_keys().collect::<Vec<_>>() {
            self.reply(ticket, Err(unknown("the node was closed before the group agreed")));
        }
    }

    /// After a failure: what was proposed has an unknown outcome, everything else was certainly not written.
    fn answer_all(&mut self, failure: &Error) {
        let refusal = as_refusal(failure);
        let callers: Vec<(Ticket, Caller<M>)> = self.callers.drain().collect();
        // Tickets ascend: what is still queued was not proposed.
        let queued = self.queue.front().map_or(Ticket::MAX, |(ticket, _)| *ticket);
        for (ticket, caller) in callers {
            let waiting = ticket >= queued;
            let error =
                if waiting { refusal.clone() } else { unknown("the disk failed while it was being written") };
            let _ = caller.reply.send(Err(error));
        }
        self.queue.clear();
        // The stores go first: a failed disk must not be written again, and the folder's lock can then be released.
        self.member = None;
        let (sender, _) = sync_channel(0);
        self.itself = sender;
        while let Ok(job) = self.receiver.recv() {
            match job {
                Job::Command(command) => {
                    let _ = command.reply.send(Err(refusal.clone()));
                }
                Job::Flushed(_) => {}
                // Dropping the sender tells the closer that there is nothing to close.
                Job::Close(_) => return,
            }
        }
    }
}

fn unknown(why: &str) -> Error {
    Error::new(Kind::UnknownOutcome, format!("{why}: it may have been written"))
        .hint("read the key to find out")
}

fn wall_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
