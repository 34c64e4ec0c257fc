//! One member of a group: Raft's core, the log, the machine and its state, stepped from outside.
//!
//! A step of the way of a write: [`Member::propose`] folds waiting commands into one entry; [`Member::run`] does
//! what Raft then asks for, in order: send what may be sent, write the log with one sync, apply what is committed
//! as one batch per entry, and hand the replies out. It knows no thread, clock or socket, and reaches the disk only
//! through the traits of `store`; the production thread and the simulator drive this same code.
//!
//! After any error the member must not be used again: what was proposed then has an unknown outcome.

use super::core::Core;
use super::machine::{Effect, Machine, Position};
use crate::error::{Error, Kind, Result};
use crate::store::log::RaftLog;
use crate::store::state::{Generations, State};
use protobuf::Message as _;
use raft::eraftpb::{ConfChangeV2, Entry, EntryType, Message};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Names a waiting caller. [`NOBODY`] waits for nothing.
pub type Ticket = u64;
/// The ticket of commands that the member proposes by itself.
pub const NOBODY: Ticket = 0;

/// An entry holds at most so many bytes of commands, or one larger command.
const ENTRY_BYTES: usize = 1 << 20;
/// An entry holds at most so many commands.
const ENTRY_COMMANDS: usize = 4096;
/// The state is flushed into tables, and the log cut, after so many bytes of entries.
pub const FLUSH_BYTES: u64 = 32 << 20;

/// Asks for [`State::flush`] on another thread; [`Member::flushed`] takes the answer.
pub struct Flush {
    /// The generation to flush.
    pub state: Arc<dyn State>,
    /// What is applied now, and will be in tables then.
    pub index: u64,
}

/// What came out of a step.
pub struct Outputs<R> {
    /// Replies to waiting callers.
    pub replies: Vec<(Ticket, Result<R>)>,
    /// A flush to do.
    pub flush: Option<Flush>,
    /// How many entries were applied.
    pub entries: u64,
    /// How many commands they held.
    pub commands: u64,
}

impl<R> Default for Outputs<R> {
    fn default() -> Self {
        Outputs { replies: Vec::new(), flush: None, entries: 0, commands: 0 }
    }
}

/// One member of one Raft group.
pub struct Member<M: Machine, L: RaftLog, G: Generations> {
    core: Core<L>,
    machine: M,
    generations: G,
    state: Arc<dyn State>,
    waiting: BTreeMap<u64, (u64, Vec<Ticket>)>,
    unflushed: u64,
    flushing: bool,
}

impl<M: Machine, L: RaftLog, G: Generations> Member<M, L, G> {
    /// Opens member `id` (worker index + 1). Log and state must fit together: the state may lag behind the log,
    /// which is then replayed, but never be ahead of it or behind its first entry.
    ///
    /// Errors: `Damaged` if they do not fit.
    pub fn open(id: u64, seed: u64, log: L, generations: G) -> Result<Member<M, L, G>> {
        let state = generations.live();
        let machine = M::load(&*state)?;
        reconcile(&log, machine.position())?;
        let core = Core::new(id, machine.position().index, seed, log)?;
        Ok(Member {
            core,
            machine,
            generations,
            state,
            waiting: BTreeMap::new(),
            unflushed: 0,
            flushing: false,
        })
    }

    /// Takes as many commands from the front of `queue` as one entry holds and proposes them. Returns the callers that
    /// were refused: certainly not written.
    pub fn propose(&mut self, now: u64, queue: &mut VecDeque<(Ticket, M::Command)>) -> Vec<(Ticket, Error)> {
        let (tickets, commands) = take_entry::<M>(queue);
        if tickets.is_empty() {
            return Vec::new();
        }
        let clock = now.max(self.machine.clock());
        match M::encode(clock, &commands).and_then(|payload| self.core.propose(payload)) {
            Ok((index, term)) => {
                self.waiting.insert(index, (term, tickets));
                Vec::new()
            }
            Err(error) => tickets.into_iter().map(|ticket| (ticket, error.clone())).collect(),
        }
    }

    /// Proposes what the machine does by itself, if it is due and this member leads.
    pub fn propose_due(&mut self, now: u64) {
        if self.may_read_alone()
            && let Some(command) = self.machine.due(now)
        {
            // Refused only while too much waits; it is due again at the next tick.
            let _ = self.propose(now, &mut VecDeque::from([(NOBODY, command)]));
        }
    }

    /// One tick of the clock.
    pub fn tick(&mut self) {
        self.core.tick();
    }

    /// A message of another member.
    pub fn step(&mut self, message: Message) {
        self.core.step(message);
    }

    /// Does what Raft asks for until it asks for nothing. `send` gets messages to other members as soon as they may
    /// leave. Errors: the disk's, or an entry that cannot be applied; the member must not be used again.
    pub fn run(&mut self, send: &mut dyn FnMut(Vec<Message>)) -> Result<Outputs<M::Reply>> {
        let mut outputs = Outputs::default();
        while let Some(mut ready) = self.core.ready() {
            send(std::mem::take(&mut ready.before));
            self.core.write(&mut ready)?;
            let written = self.core.written(ready);
            send(written.messages);
            for entry in written.committed {
                self.apply(&entry, &mut outputs)?;
            }
        }
        if self.unflushed >= FLUSH_BYTES && !self.flushing {
            self.flushing = true;
            self.unflushed = 0;
            outputs.flush = Some(Flush { state: self.state.clone(), index: self.machine.position().index });
        }
        Ok(outputs)
    }

    /// The state is in tables up to `index`: cuts the log. Errors: the disk's; the member must not be used again.
    pub fn flushed(&mut self, index: u64) -> Result<()> {
        self.flushing = false;
        self.core.cut(index)
    }

    /// True if nobody waits for an entry of this member.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// True if this member may serve linearizable reads without asking anybody.
    pub fn may_read_alone(&self) -> bool {
        self.core.may_read_alone()
    }

    /// Raft's core, for its facts.
    pub fn core(&self) -> &Core<L> {
        &self.core
    }

    /// The machine, for what it publishes.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// The live generation.
    pub fn state(&self) -> Arc<dyn State> {
        self.state.clone()
    }

    /// Gives log and generations back, to close them.
    pub fn into_stores(self) -> (L, G) {
        (self.core.into_log(), self.generations)
    }

    fn apply(&mut self, entry: &Entry, outputs: &mut Outputs<M::Reply>) -> Result<()> {
        let at = Position { index: entry.index, term: entry.term };
        let applied = match entry.get_entry_type() {
            EntryType::EntryNormal => self.machine.apply(&*self.state, at, &entry.data)?,
            EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                self.core.change_membership(&decode_change(entry)?, entry.index)?;
                self.machine.apply(&*self.state, at, &[])?
            }
        };
        self.unflushed += entry.data.len() as u64;
        match applied.effect {
            Effect::Write(batch) => {
                self.state.write(&batch)?;
                self.core.applied(entry.index, entry.term);
            }
            Effect::Replace(rows) => {
                self.state = self.generations.replace(&rows)?;
                self.core.applied(entry.index, entry.term);
                // A new generation is in tables when it goes live: the log can give its space back, up to here.
                self.core.cut(entry.index)?;
                self.unflushed = 0;
            }
        }
        outputs.entries += 1;
        outputs.commands += applied.replies.len() as u64;
        if let Some((term, tickets)) = self.waiting.remove(&entry.index) {
            outputs.replies.extend(answers(entry, term, tickets, applied.replies));
        }
        Ok(())
    }
}

/// Pairs the callers of the entry proposed at this index with their replies. If another leader's entry took its
/// place, theirs is gone for good and nothing of it was written.
fn answers<R>(entry: &Entry, term: u64, tickets: Vec<Ticket>, replies: Vec<R>) -> Vec<(Ticket, Result<R>)> {
    if term == entry.term {
        return tickets
            .into_iter()
            .zip(replies.into_iter().map(Ok))
            .filter(|(ticket, _)| *ticket != NOBODY)
            .collect();
    }
    let lost =
        Error::new(Kind::NoMajority, "another leader took over before the group agreed; nothing was written");
    tickets.into_iter().filter(|ticket| *ticket != NOBODY).map(|ticket| (ticket, Err(lost.clone()))).collect()
}

fn take_entry<M: Machine>(queue: &mut VecDeque<(Ticket, M::Command)>) -> (Vec<Ticket>, Vec<M::Command>) {
    let (mut tickets, mut commands) = (Vec::new(), Vec::new());
    let mut bytes = 0;
    while let Some((ticket, command)) = queue.pop_front() {
        let size = M::size(&command);
        let alone = M::alone(&command);
        if !tickets.is_empty() && (alone || bytes + size > ENTRY_BYTES || tickets.len() >= ENTRY_COMMANDS) {
            queue.push_front((ticket, command));
            break;
        }
        bytes += size;
        tickets.push(ticket);
        commands.push(command);
        if alone {
            break;
        }
    }
    (tickets, commands)
}

fn decode_change(entry: &Entry) -> Result<ConfChangeV2> {
    if entry.get_entry_type() != EntryType::EntryConfChangeV2 {
        return Err(Error::new(
            Kind::Foreign,
            "a membership entry of a kind that is not known to this version",
        ));
    }
    let mut change = ConfChangeV2::default();
    change
        .merge_from_bytes(&entry.data)
        .map_err(|error| Error::new(Kind::Damaged, "a membership entry does not decode").cause(error))?;
    Ok(change)
}

/// Checks that `log` continues a state that has applied up to `applied`.
fn reconcile<L: RaftLog>(log: &L, applied: Position) -> Result<()> {
    let damaged = |what: String| {
        Error::new(Kind::Damaged, what)
            .hint("keep the folder as it is; docs/operations.md, Backup, says how to restore a copy or read its keys")
    };
    let (first, last) = (log.truncated().0, log.last_index());
    if applied.index < first {
        return Err(damaged(format!(
            "the state ends at entry {}, the log begins only after entry {first}",
            applied.index
        )));
    }
    if applied.index > last {
        return Err(damaged(format!(
            "the log ends at entry {last}, but the state has applied entry {}",
            applied.index
        )));
    }
    if log.term(applied.index)? != Some(applied.term) {
        return Err(damaged(format!(
            "entry {} of the log is not the one that the state has applied",
            applied.index
        )));
    }
    Ok(())
}
