//! Raft without I/O: inputs (a tick, a proposal, a message, "this is on disk") and outputs (messages, what to
//! write, what is committed). It wraps raft-rs and keeps what raft-rs leaves to its user: nothing of a ready that
//! changes term or vote is sent before the sync, election timeouts come from a seed, and the commit index is
//! raised to the applied index at start.

use super::storage::LogStorage;
use crate::error::{Error, Kind, Result};
use crate::store::log::{LogWrite, RaftLog};
use raft::eraftpb::{ConfChangeV2, ConfState, Entry, HardState, Message};
use raft::{Config, RawNode, StateRole};

/// Milliseconds of one tick.
pub const TICK_MS: u64 = 100;
/// Ticks without a leader before a member campaigns; the actual number is drawn from here to twice of it.
pub const ELECTION_TICKS: usize = 10;
/// Ticks between heartbeats of a leader.
const HEARTBEAT_TICKS: usize = 2;
/// A message to another member carries about so many bytes of entries, or one larger entry.
const MAX_MESSAGE: u64 = 1 << 20;
/// At most so many bytes may wait for a majority.
const MAX_UNCOMMITTED: u64 = 64 << 20;

/// What must happen now, in this order: send `before`, write `write`, call [`Core::written`].
#[derive(Debug, Default)]
pub struct Ready {
    /// Messages that may leave at once.
    pub before: Vec<Message>,
    /// What the disk must take; empty writes may be skipped.
    pub write: LogWrite,
    /// Entries that are committed already; apply them after the write.
    pub committed: Vec<Entry>,
    after: Vec<Message>,
    inner: raft::Ready,
}

/// What follows a write: send `messages`, apply `committed`, call [`Core::applied`].
#[derive(Debug, Default)]
pub struct Written {
    /// Messages that had to wait for the disk.
    pub messages: Vec<Message>,
    /// Committed entries to apply, in order.
    pub committed: Vec<Entry>,
}

/// One member's Raft.
pub struct Core<L: RaftLog> {
    node: RawNode<LogStorage<L>>,
    seed: u64,
    noted: HardState,
    applied: (u64, u64),
}

impl<L: RaftLog> Core<L> {
    /// Starts member `id` (worker index + 1) whose machine has applied up to `applied`.
    ///
    /// Errors: `Failed` if the stored membership or configuration is not usable.
    pub fn new(id: u64, applied: u64, seed: u64, log: L) -> Result<Core<L>> {
        let config = Config {
            id,
            applied,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            max_size_per_msg: MAX_MESSAGE,
            max_inflight_msgs: 64,
            check_quorum: true,
            pre_vote: true,
            max_uncommitted_size: MAX_UNCOMMITTED,
            max_committed_size_per_ready: 16 * MAX_MESSAGE,
            ..Config::default()
        };
        let storage = LogStorage::new(log, applied);
        let noted = storage.log().hard_state();
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config, storage, &logger)
            .map_err(|error| Error::new(Kind::Failed, format!("Raft does not start: {error}")))?;
        let mut core = Core { node, seed, noted, applied: (applied, 0) };
        core.draw_timeout();
        if core.alone() {
            // A lone voter promised nothing to anybody: it need not wait for an election timeout.
            core.node.campaign().map_err(|error| Error::new(Kind::Failed, format!("election: {error}")))?;
        }
        Ok(core)
    }

    /// One tick of the clock.
    pub fn tick(&mut self) {
        self.node.tick();
        self.draw_timeout();
    }

    /// A message of another member.
    pub fn step(&mut self, message: Message) {
        // What raft-rs refuses here is late or foreign; the sender learns by its own timeouts.
        if let Err(error) = self.node.step(message) {
            log::debug!("raft refused a message: {error}");
        }
        self.draw_timeout();
    }

    /// Proposes one entry. Returns its (index, term). Errors: `NoMajority` if this member does not lead or too much
    /// waits for a majority: certainly not written.
    pub fn propose(&mut self, data: Vec<u8>) -> Result<(u64, u64)> {
        if self.node.raft.state != StateRole::Leader {
            return Err(Error::new(Kind::NoMajority, "this member does not lead its group"));
        }
        let before = self.node.raft.raft_log.last_index();
        self.node.propose(Vec::new(), data).map_err(|error| {
            Error::new(Kind::NoMajority, format!("the group cannot take more writes now: {error}"))
        })?;
        let index = self.node.raft.raft_log.last_index();
        debug_assert_eq!(index, before + 1);
        Ok((index, self.node.raft.term))
    }

    /// The next thing to do, if there is one.
    pub fn ready(&mut self) -> Option<Ready> {
        if !self.node.has_ready() {
            return None;
        }
        let mut inner = self.node.ready();
        let before = inner.take_messages();
        let after = inner.take_persisted_messages();
        let committed = inner.take_committed_entries();
        let entries = inner.take_entries();
        let hard_state = inner.hs().cloned();
        let elected =
            hard_state.as_ref().is_some_and(|now| now.term != self.noted.term || now.vote != self.noted.vote);
        let write = LogWrite { sync: inner.must_sync(), entries, hard_state, membership: None };
        let mut ready = Ready { before, write, committed, after, inner };
        if elected {
            // raft-rs hands messages out as soon as the role is leader, also when the vote that made it leader is
            // not on disk yet: they wait.
            let mut held = std::mem::take(&mut ready.before);
            held.append(&mut ready.after);
            ready.after = held;
        }
        Some(ready)
    }

    /// Writes what a ready asks for. Errors as [`RaftLog::write`]; after one the member must stop.
    pub fn write(&mut self, ready: &mut Ready) -> Result<()> {
        let mut write = std::mem::take(&mut ready.write);
        let commit = self.node.raft.raft_log.committed;
        if let Some(hard_state) = &write.hard_state {
            self.noted = hard_state.clone();
        } else if !write.entries.is_empty() && commit > self.noted.commit {
            // The commit index rides along with the next write instead of asking for one of its own.
            self.noted.commit = commit;
            write.hard_state = Some(self.noted.clone());
        }
        if write.entries.is_empty() && write.hard_state.is_none() {
            return Ok(());
        }
        self.node.mut_store().write(write)
    }

    /// Tells Raft that the ready is on disk; returns what follows from that.
    pub fn written(&mut self, ready: Ready) -> Written {
        let mut light = self.node.advance_append(ready.inner);
        let mut messages = ready.after;
        messages.append(&mut light.take_messages());
        let mut committed = ready.committed;
        committed.append(&mut light.take_committed_entries());
        Written { messages, committed }
    }

    /// Tells Raft that the machine has applied up to the entry at (`index`, `term`).
    pub fn applied(&mut self, index: u64, term: u64) {
        self.applied = (index, term);
        self.node.advance_apply_to(index);
    }

    /// Applies a change of membership that the log committed at `index`: it is synced in the log's store before it
    /// takes effect. Errors as [`RaftLog::write`].
    pub fn change_membership(&mut self, change: &ConfChangeV2, index: u64) -> Result<ConfState> {
        if index <= self.node.store().log().membership().1 {
            return Ok(self.node.store().log().membership().0);
        }
        let membership = self
            .node
            .apply_conf_change(change)
            .map_err(|error| Error::new(Kind::Failed, format!("membership change at {index}: {error}")))?;
        let write =
            LogWrite { membership: Some((membership.clone(), index)), sync: true, ..LogWrite::default() };
        self.node.mut_store().write(write)?;
        Ok(membership)
    }

    /// Cuts the log up to `index`, which must be applied and in the state's tables.
    pub fn cut(&mut self, index: u64) -> Result<()> {
        let index = index.min(self.applied.0);
        if index > self.node.store().log().truncated().0 {
            self.node.mut_store().log_mut().cut(index)?;
        }
        Ok(())
    }

    /// True if this member may serve linearizable reads from its own state without asking anybody: it is the only
    /// voter, leads, and has applied an entry of its own term.
    pub fn may_read_alone(&self) -> bool {
        self.node.raft.state == StateRole::Leader && self.alone() && self.applied.1 == self.node.raft.term
    }

    /// `leader`, `follower` or `candidate`.
    pub fn role(&self) -> &'static str {
        match self.node.raft.state {
            StateRole::Leader => "leader",
            StateRole::Follower => "follower",
            StateRole::Candidate | StateRole::PreCandidate => "candidate",
        }
    }

    /// The Raft term.
    pub fn term(&self) -> u64 {
        self.node.raft.term
    }

    /// The log.
    pub fn log(&self) -> &L {
        self.node.store().log()
    }

    /// Why the log could not be read, if that made Raft give up.
    pub fn take_log_error(&self) -> Option<Error> {
        self.node.store().take_error()
    }

    /// Gives the log back.
    pub fn into_log(self) -> L {
        self.node.raft.r.raft_log.store.into_log()
    }

    fn alone(&self) -> bool {
        let membership = self.node.store().log().membership().0;
        membership.voters == [self.node.raft.id] && membership.voters_outgoing.is_empty()
    }

    /// raft-rs draws election timeouts from the thread's random source; a seed that replays needs them to be a
    /// function of what the member knows.
    fn draw_timeout(&mut self) {
        let raft = &mut self.node.raft;
        let mut mixed = self.seed ^ raft.id.rotate_left(48) ^ raft.term.rotate_left(16) ^ raft.state as u64;
        // SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
        mixed = mixed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        raft.set_randomized_election_timeout(ELECTION_TICKS + (mixed % ELECTION_TICKS as u64) as usize);
    }
}
