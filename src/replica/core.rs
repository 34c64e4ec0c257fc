//! Raft without I/O: inputs (a tick, a proposal, a message, "this is on disk") and outputs (messages, what to
//! write, what is committed). It wraps raft-rs and keeps what raft-rs leaves to its user:
//!
//! - nothing of a ready that changes term or vote is sent before the sync;
//! - election timeouts come from a seed, so that a simulation replays;
//! - the commit index is raised to the applied index at start;
//! - the *promise*: a member neither votes nor campaigns for [`PROMISE_MS`] after the last message of a leader that it
//!   acknowledged, or after it opened;
//! - the *lease* that rests on it: a leader whose round of heartbeats, sent at *t*, was answered by a majority, reads
//!   without asking until *t* + [`LEASE_MS`].
//!
//! `now` is always in milliseconds of one clock of this machine that goes on while the machine sleeps.

mod others;
mod renewal;

use super::change::conf_change;
use super::lease::Lease;
pub use super::status::{Role, Status};
use super::storage::LogStorage;
use crate::cluster::membership::Change;
use crate::error::{Error, Kind, Result};
use crate::store::log::{LogWrite, RaftLog};
use raft::eraftpb::{ConfChangeV2, ConfState, Entry, HardState, Message, MessageType, Snapshot};
use raft::{Config, INVALID_ID, RawNode, SnapshotStatus, StateRole};
use std::collections::BTreeMap;

/// Milliseconds of one tick.
pub const TICK_MS: u64 = 100;
/// Ticks without a leader before a member campaigns; the actual number is drawn from here to twice of it.
pub const ELECTION_TICKS: usize = 10;
/// Ticks between heartbeats of a leader.
const HEARTBEAT_TICKS: usize = 2;
/// How long a member keeps its promise not to vote.
pub const PROMISE_MS: u64 = (ELECTION_TICKS as u64 - 1) * TICK_MS;
/// How long a lease lasts: the promise, less a margin for clocks that drift by up to 5 %.
pub const LEASE_MS: u64 = PROMISE_MS - 100;
/// A peer is active if it was heard of within so many milliseconds.
const ACTIVE_MS: u64 = 1500;
/// A standby has caught up when it lacks at most so many entries.
const CAUGHT_UP: u64 = 256;
/// And the chunks of no value that was proposed before the last so many ticks began.
const EARLIER_TICKS: u64 = 1000 / TICK_MS;
/// A message to another member carries about so many bytes of entries, or one larger entry.
const MAX_MESSAGE: u64 = 1 << 20;
/// At most so many bytes may wait for a majority.
const MAX_UNCOMMITTED: u64 = 64 << 20;
/// The context of a vote request that a leader asked for by handing over; raft-rs's `CAMPAIGN_TRANSFER`.
const FORCED: &[u8] = b"CampaignTransfer";

/// What must happen now, in this order: send `before`, install `snapshot`, write ([`Core::write`]), call
/// [`Core::written`].
#[derive(Debug, Default)]
pub struct Ready {
    /// Messages that may leave at once.
    pub before: Vec<Message>,
    /// A snapshot that the state must be replaced by, before anything is written.
    pub snapshot: Option<Snapshot>,
    /// Rounds that a majority has answered, by number, and the index that the state must have applied before a read
    /// that waited for that round.
    pub confirmed: Vec<(u64, u64)>,
    write: LogWrite,
    committed: Vec<Entry>,
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
    incarnation: u64,
    noted: HardState,
    applied: (u64, u64),
    membership: ConfState,
    promise: u64,
    lease: Lease,
    heard: BTreeMap<u64, u64>,
    /// Up to which entry members have the chunks of all values, as they told.
    complete: BTreeMap<u64, u64>,
    /// The last index as it was one to two seconds ago, and since.
    earlier: (u64, u64),
    ticks: u64,
    /// True while it must not lead.
    barred: bool,
    fault: Option<Error>,
}

impl<L: RaftLog> Core<L> {
    /// Starts member `id` (worker index + 1) whose machine has applied up to `applied`, at `now`.
    ///
    /// Errors: `Failed` if the stored membership or configuration is not usable.
    pub fn new(id: u64, incarnation: u64, applied: u64, seed: u64, now: u64, log: L) -> Result<Core<L>> {
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
        let membership = log.membership().0;
        let storage = LogStorage::new(log, applied);
        let noted = storage.log().hard_state();
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let mut node = RawNode::new(&config, storage, &logger)
            .map_err(|error| Error::new(Kind::Failed, format!("Raft does not start: {error}")))?;
        // Followers learn what is committed with the next entries, or with the next heartbeat: a message of its own for
        // each commit would double all messages.
        node.skip_bcast_commit(true);
        let mut core = Core {
            node,
            seed,
            incarnation,
            noted,
            applied: (applied, 0),
            membership,
            // It may have promised just before it died.
            promise: now + PROMISE_MS,
            lease: Lease::default(),
            heard: BTreeMap::new(),
            complete: BTreeMap::new(),
            earlier: (0, 0),
            ticks: 0,
            barred: false,
            fault: None,
        };
        core.earlier = (core.last_index(), core.last_index());
        core.draw_timeout();
        if core.alone() {
            // A lone voter promised nothing to anybody: it need not wait for an election timeout.
            core.node.campaign().map_err(|error| Error::new(Kind::Failed, format!("election: {error}")))?;
        }
        Ok(core)
    }

    /// One tick of the clock. Ticks that were missed must be dropped, never caught up in a burst.
    pub fn tick(&mut self, now: u64) {
        let raft = &self.node.raft;
        let campaigns = raft.election_elapsed + 1 >= raft.randomized_election_timeout();
        // A member that promised, or must not lead, does not campaign; its timer stands still just before.
        if raft.state == StateRole::Leader || !campaigns || now >= self.promise && !self.barred {
            self.node.tick();
        }
        self.draw_timeout();
        self.ticks += 1;
        if self.ticks.is_multiple_of(EARLIER_TICKS) {
            self.earlier = (self.earlier.1, self.last_index());
        }
        if self.ticks.is_multiple_of(HEARTBEAT_TICKS as u64) {
            self.renew_lease(now);
        }
    }

    /// A message of another member.
    pub fn step(&mut self, now: u64, message: Message) {
        let kind = message.get_msg_type();
        let vote = matches!(kind, MessageType::MsgRequestVote | MessageType::MsgRequestPreVote);
        if vote && now < self.promise && message.context[..] != *FORCED {
            return;
        }
        let (from, term) = (message.from, message.term);
        if kind == MessageType::MsgHeartbeat
            && term >= self.node.raft.term
            && message.commit > self.last_index()
        {
            self.fault = Some(self.forgetful(message.commit));
            return;
        }
        if term >= self.node.raft.term {
            self.heard.insert(from, now);
        }
        self.note_answer(&message);
        // What raft-rs refuses here is late or foreign; the sender learns by its own timeouts.
        if let Err(error) = self.node.step(message) {
            log::debug!("raft refused a message: {error}");
        }
        let leads =
            matches!(kind, MessageType::MsgAppend | MessageType::MsgHeartbeat | MessageType::MsgSnapshot);
        if leads && term == self.node.raft.term {
            self.promise = self.promise.max(now + PROMISE_MS);
        }
        self.draw_timeout();
    }

    /// The error of a member that has acknowledged entries which its log does not hold any more: nobody may count on it.
    /// Leaders name in heartbeats what this member has acknowledged; raft-rs panics on it.
    fn forgetful(&self, acknowledged: u64) -> Error {
        Error::new(
            Kind::Damaged,
            format!(
                "this member has acknowledged entry {acknowledged} of its group, and its log ends at entry {}: \
                 the folder is an old copy, or its log was cut off",
                self.last_index()
            ),
        )
        .hint("start the newer folder, or a new worker with --replace in its place")
    }

    /// Why this member must stop, if something that it was sent says so.
    pub fn fault(&self) -> Option<&Error> {
        self.fault.as_ref()
    }

    /// Proposes one entry. Returns its (index, term). Errors: `Moved` if this member does not lead, `NoMajority` if it
    /// hands over or too much waits for a majority: certainly not written.
    pub fn propose(&mut self, data: Vec<u8>) -> Result<(u64, u64)> {
        if self.node.raft.state != StateRole::Leader {
            return Err(Error::new(Kind::Moved, "this member does not lead its group"));
        }
        if self.node.raft.lead_transferee.is_some() {
            return Err(Error::new(Kind::Moved, "this member hands over the lead of its group"));
        }
        let before = self.node.raft.raft_log.last_index();
        self.node.propose(Vec::new(), data).map_err(|error| {
            Error::new(Kind::NoMajority, format!("the group cannot take more writes now: {error}"))
        })?;
        let index = self.node.raft.raft_log.last_index();
        debug_assert_eq!(index, before + 1);
        Ok((index, self.node.raft.term))
    }

    /// Asks every voter whether this member still leads. Returns the number of the round, which [`Ready::confirmed`]
    /// names later, or never: after a change of role all rounds are forgotten. None if this member does not lead, or
    /// has not committed an entry of its term.
    pub fn ask_round(&mut self, now: u64) -> Option<u64> {
        if self.node.raft.state != StateRole::Leader || !self.node.raft.commit_to_current_term() {
            return None;
        }
        let number = self.lease.begin(self.node.raft.term, now);
        // Terms make the context one of a kind: a term has one leader, and a leader counts its rounds.
        let mut context = self.node.raft.term.to_be_bytes().to_vec();
        context.extend_from_slice(&number.to_be_bytes());
        self.node.read_index(context);
        Some(number)
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
        let snapshot = (!inner.snapshot().is_empty()).then(|| inner.snapshot().clone());
        let elected =
            hard_state.as_ref().is_some_and(|now| now.term != self.noted.term || now.vote != self.noted.vote);
        let mut confirmed = Vec::new();
        for state in inner.take_read_states() {
            if let Some(number) = self.confirm(&state.request_ctx) {
                confirmed.push((number, state.index));
            }
        }
        let write = LogWrite { sync: inner.must_sync(), entries, hard_state, membership: None };
        let mut ready = Ready { before, snapshot, confirmed, write, committed, after, inner };
        self.forfeit_if_handing_over(&ready.before);
        self.forfeit_if_handing_over(&ready.after);
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
        self.forfeit_if_handing_over(&messages);
        let mut committed = ready.committed;
        committed.append(&mut light.take_committed_entries());
        Written { messages, committed }
    }

    /// Tells Raft that the machine has applied up to the entry at (`index`, `term`).
    pub fn applied(&mut self, now: u64, index: u64, term: u64) {
        let first = self.applied.1 < term;
        self.applied = (index, term);
        self.node.mut_store().set_applied(index);
        self.node.advance_apply_to(index);
        if first && term == self.node.raft.term {
            self.renew_lease(now);
        }
    }

    /// The state was replaced by a snapshot at (`index`, `term`), and the log begins behind it.
    pub fn installed(&mut self, index: u64, term: u64) {
        self.membership = self.node.store().log().membership().0;
        self.applied = (index, term);
        self.node.mut_store().set_applied(index);
    }

    /// Applies a change of membership that the log committed at `index`: it is synced in the log's store before it
    /// takes effect. `incarnation` is the one that it was proposed in: a change of another one is void, and so is one
    /// that does not fit the configuration. Errors as [`RaftLog::write`].
    pub fn change_membership(&mut self, change: &ConfChangeV2, incarnation: u64, index: u64) -> Result<()> {
        if index <= self.node.store().log().membership().1 || incarnation != self.incarnation {
            return Ok(());
        }
        let membership = match self.node.apply_conf_change(change) {
            Ok(membership) => membership,
            Err(error) => {
                // Every member decides so, for all have the same configuration here.
                log::warn!("the membership change at entry {index} is void: {error}");
                return Ok(());
            }
        };
        self.lease.drop_all();
        self.membership = membership.clone();
        let write = LogWrite { membership: Some((membership, index)), sync: true, ..LogWrite::default() };
        self.node.mut_store().write(write)?;
        self.step_down_if_removed();
        Ok(())
    }

    /// A leader hands over before it leaves the voters, unless the change that removes it is one that it inherited from
    /// the leader before it. raft-rs leaves it in its role then: it would count itself where it is not any more, and
    /// answer reads by the word of nobody.
    fn step_down_if_removed(&mut self) {
        let raft = &mut self.node.raft;
        let votes = |half: &[u64]| half.contains(&raft.id);
        if raft.state != StateRole::Leader
            || votes(&self.membership.voters)
            || votes(&self.membership.voters_outgoing)
        {
            return;
        }
        log::info!("this member leads and does not vote any more: it steps down");
        let term = raft.term;
        raft.become_follower(term, INVALID_ID);
        self.draw_timeout();
    }

    /// Begins a change of membership. Does nothing if this member does not lead or another change is under way.
    pub fn change(&mut self, change: &Change) {
        if let Change::HandOver(to) = change {
            if self.node.raft.lead_transferee != Some(*to) {
                self.node.transfer_leader(*to);
            }
            return;
        }
        if self.node.raft.state != StateRole::Leader || self.node.raft.has_pending_conf() {
            return;
        }
        let context = self.incarnation.to_be_bytes().to_vec();
        // Refused only while it hands over or too much waits; the next tick asks again.
        if let Err(error) = self.node.propose_conf_change(context, conf_change(change)) {
            log::debug!("a membership change was refused: {error}");
        }
    }

    /// True if a membership change can begin: this member leads, has applied an entry of its term, and no change is
    /// under way.
    pub fn may_change(&self) -> bool {
        let raft = &self.node.raft;
        raft.state == StateRole::Leader
            && self.applied.1 == raft.term
            && !raft.has_pending_conf()
            && raft.lead_transferee.is_none()
    }

    /// A message to `peer` was lost.
    pub fn unreachable(&mut self, peer: u64) {
        self.node.report_unreachable(peer);
    }

    /// The snapshot that was offered to `peer` did not arrive.
    pub fn snapshot_failed(&mut self, peer: u64) {
        self.node.report_snapshot(peer, SnapshotStatus::Failure);
    }

    /// The snapshot that Raft may send from now on.
    pub fn offer_snapshot(&mut self, snapshot: Option<Snapshot>) {
        self.node.mut_store().offer(snapshot);
    }

    /// True if Raft asked for a snapshot and there was none to offer.
    pub fn take_snapshot_request(&mut self) -> bool {
        self.node.mut_store().take_request()
    }

    /// The lowest index that an active peer still lacks, or `u64::MAX`; for how much of the log to keep.
    pub fn lowest_needed(&self, now: u64) -> u64 {
        let raft = &self.node.raft;
        if raft.state != StateRole::Leader {
            return u64::MAX;
        }
        let needed = raft.prs().iter().filter(|(id, _)| {
            **id != raft.id
                && self.heard.get(id).is_some_and(|heard| now.saturating_sub(*heard) < 10 * ACTIVE_MS)
        });
        needed
            .map(|(_, progress)| progress.matched.max(progress.pending_snapshot) + 1)
            .min()
            .unwrap_or(u64::MAX)
    }

    /// Cuts the log up to `index`, which must be applied and in the state's tables.
    pub fn cut(&mut self, index: u64) -> Result<()> {
        let index = index.min(self.applied.0);
        if index > self.node.store().log().truncated().0 {
            self.node.mut_store().log_mut().cut(index)?;
        }
        Ok(())
    }

    /// What others must know.
    pub fn status(&self) -> Status {
        let raft = &self.node.raft;
        Status { role: self.role(), term: raft.term, leader: raft.leader_id, lease: self.lease_until() }
    }

    /// Until when this member may serve linearizable reads from its own state without asking anybody.
    fn lease_until(&self) -> u64 {
        let raft = &self.node.raft;
        let settled = raft.state == StateRole::Leader
            && self.applied.1 == raft.term
            && self.membership.voters_outgoing.is_empty()
            && self.membership.voters.contains(&raft.id);
        match settled {
            true if self.alone() => u64::MAX,
            true => self.lease.until(raft.term),
            false => 0,
        }
    }

    fn role(&self) -> Role {
        match self.node.raft.state {
            StateRole::Leader => Role::Leader,
            _ if !self.node.raft.promotable() => Role::Standby,
            StateRole::Follower => Role::Follower,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
        }
    }

    /// The Raft id of this member.
    pub fn id(&self) -> u64 {
        self.node.raft.id
    }

    /// The Raft term.
    pub fn term(&self) -> u64 {
        self.node.raft.term
    }

    /// The incarnation of the group.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The commit index as this member knows it.
    pub fn commit(&self) -> u64 {
        self.node.raft.raft_log.committed
    }

    /// The index of the last entry.
    pub fn last_index(&self) -> u64 {
        self.node.raft.raft_log.last_index()
    }

    /// The term of the last entry.
    pub fn last_term(&self) -> u64 {
        self.node.raft.raft_log.last_term()
    }

    /// The others that this member has heard of lately.
    pub fn active(&self, now: u64) -> Vec<u64> {
        let lately = self.heard.iter().filter(|(_, heard)| now.saturating_sub(**heard) < ACTIVE_MS);
        lately.map(|(id, _)| *id).collect()
    }

    /// Who votes and who stands by.
    pub fn membership(&self) -> &ConfState {
        &self.membership
    }

    /// The log.
    pub fn log(&self) -> &L {
        self.node.store().log()
    }

    /// The log, to reset it.
    pub fn log_mut(&mut self) -> &mut L {
        self.node.mut_store().log_mut()
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
        self.membership.voters == [self.node.raft.id] && self.membership.voters_outgoing.is_empty()
    }

    fn renew_lease(&mut self, now: u64) {
        if !self.alone() {
            self.ask_round(now);
        }
    }

    /// The number of the round that `context` names, if it is one of this term.
    fn confirm(&mut self, context: &[u8]) -> Option<u64> {
        let (term, number) = context.split_first_chunk::<8>()?;
        let (term, number) = (u64::from_be_bytes(*term), u64::from_be_bytes(number.try_into().ok()?));
        (term == self.node.raft.term && self.node.raft.state == StateRole::Leader).then(|| {
            self.lease.confirm(term, number);
            number
        })
    }

    /// A vote that a leader asks for by handing over ignores every promise, and can arrive late: no lease any more in
    /// this term.
    fn forfeit_if_handing_over(&mut self, messages: &[Message]) {
        if messages.iter().any(|message| message.get_msg_type() == MessageType::MsgTimeoutNow) {
            self.lease.forfeit(self.node.raft.term);
        }
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
