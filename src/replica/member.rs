//! One member of a group: Raft's core, the log, the machine and its state, stepped from outside.
//!
//! A step of the way of a write: [`Member::propose`] folds waiting commands into one entry; [`Member::run`] does
//! what Raft then asks for, in order: tell others what changed, send what may be sent, write the log with one sync,
//! apply what is committed as one batch per entry, and hand the replies out. It knows no thread, clock or socket, and
//! reaches the disk only through the traits of `store`; the production thread and the simulator drive this same code.
//!
//! The way of a snapshot: a leader whose log no longer reaches a member gets a view of its state and offers it
//! ([`Outputs::offers`]); the member keeps the message that names it and asks for its rows ([`Outputs::fetch`]). When
//! they are built into a generation ([`Member::fetched`]), Raft gets the message, and asks for the install: the state
//! first, with a note of it, then the log.
//!
//! After any error the member must not be used again: what was proposed then has an unknown outcome.

mod proposing;
mod renewing;

use super::change::decode_change;
use super::copies::{Fetch, Offer, Offers, SnapshotName};
use super::core::{Core, Ready};
use super::entry::reconcile;
use super::machine::{DigestOrder, Effect, Machine, Position};
pub use super::outputs::{Flush, Look, NOBODY, Outputs, Rim, Setup, Ticket};
use super::parcel::Progress;
use super::status::Status;
use super::waiting_reads::WaitingReads;
use crate::cluster::membership::{Wanted, next_change};
use crate::error::{Error, Kind, Result};
use crate::store::install::settle;
use crate::store::log::RaftLog;
use crate::store::state::{Generations, Installed, State};
use raft::eraftpb::{Entry, EntryType, Message, MessageType, Snapshot};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A snapshot on its way into this member.
struct Arriving<B> {
    name: SnapshotName,
    message: Message,
    built: Option<B>,
}

/// One member of one Raft group.
pub struct Member<M: Machine, L: RaftLog, G: Generations> {
    core: Core<L>,
    machine: M,
    generations: G,
    state: Arc<dyn State>,
    setup: Setup,
    /// Who waits for the entry with this index and term.
    waiting: BTreeMap<(u64, u64), Vec<Ticket>>,
    reads: WaitingReads,
    wanted: Option<Wanted>,
    /// Set once this node is about to stop: true if it led when it was told so.
    leaving: Option<bool>,
    offers: Offers,
    last_offer: u64,
    arriving: Option<Arriving<G::Building>>,
    fetch: Option<Fetch<G::Building>>,
    /// Since when the state waits to be replaced, if it does.
    renewal: Option<u64>,
    published: Status,
    fresh: Freshness,
    unflushed: u64,
    flushing: bool,
    flushed: u64,
}

/// How far behind its leader this member may be.
#[derive(Debug, Default)]
struct Freshness {
    /// What the leader had committed, and when it was heard.
    heard: Option<(u64, u64)>,
    /// When this member was last known to have applied all of it.
    at: Option<u64>,
}

impl<M: Machine, L: RaftLog, G: Generations> Member<M, L, G> {
    /// Opens a member. Log and state must fit together: the state may lag behind the log, which is then replayed, but
    /// never be ahead of it or behind its first entry; an install that a crash cut short is finished first.
    ///
    /// Errors: `Damaged` if they do not fit.
    pub fn open(setup: Setup, mut log: L, mut generations: G) -> Result<Member<M, L, G>> {
        settle(&mut log, &mut generations)?;
        let state = generations.live();
        let machine = M::load(&*state)?;
        reconcile(&log, machine.position())?;
        let applied = machine.position().index;
        let core = Core::new(setup.id, setup.incarnation, applied, setup.seed, setup.now, log)?;
        Ok(Member {
            core,
            machine,
            generations,
            state,
            setup,
            waiting: BTreeMap::new(),
            reads: WaitingReads::default(),
            wanted: None,
            leaving: None,
            offers: Offers::default(),
            last_offer: setup.seed,
            arriving: None,
            fetch: None,
            renewal: None,
            published: Status::default(),
            fresh: Freshness::default(),
            unflushed: 0,
            flushing: false,
            flushed: 0,
        })
    }

    /// Asks for a read that a round of heartbeats confirms.
    pub fn read(&mut self, ticket: Ticket) {
        self.reads.add(ticket);
    }

    /// One tick of the clock.
    pub fn tick(&mut self, now: u64) {
        self.core.tick(now);
        if let Some(wanted) = self.machine.wanted() {
            self.wanted = Some(wanted);
        }
        self.steer(now);
        self.pursue_renewal(now);
    }

    /// A message of another member.
    pub fn step(&mut self, now: u64, message: Message) {
        if message.get_msg_type() != MessageType::MsgSnapshot {
            self.core.step(now, message);
            return;
        }
        // Raft gets it once the rows are here. Until then it counts as the heartbeat of its leader.
        let mut heartbeat = Message::default();
        heartbeat.set_msg_type(MessageType::MsgHeartbeat);
        (heartbeat.from, heartbeat.to, heartbeat.term) = (message.from, message.to, message.term);
        self.core.step(now, heartbeat);
        self.begin_fetch(now, message);
    }

    /// The member `from` was as far as `progress` when it sent what was just received.
    pub fn hear_progress(&mut self, now: u64, from: u64, progress: Progress) {
        self.core.hear_complete(from, progress.complete);
        if self.core.status().leader == from {
            self.fresh.heard = Some((progress.commit, now));
        }
    }

    /// This member has the chunks of all values up to the entry `complete`.
    /// Returns what to tell others: whoever pulls all rows anew counts on nothing, and must not be counted on.
    pub fn note_complete(&mut self, complete: u64) -> u64 {
        let complete = if self.renews() { 0 } else { complete };
        let own = self.core.id();
        self.core.hear_complete(own, complete);
        complete
    }

    /// How many milliseconds the state of this member may lag behind its leader's, not counting the way of the last
    /// message; none if it cannot tell.
    pub fn lag(&self, now: u64) -> Option<u64> {
        if self.published.lease > now {
            return Some(0);
        }
        self.fresh.at.map(|at| now.saturating_sub(at))
    }

    /// When this member was last known to have applied everything that its leader had committed.
    pub fn fresh_at(&self) -> Option<u64> {
        self.fresh.at
    }

    /// What the directory wants of this group.
    pub fn want(&mut self, wanted: Wanted) {
        self.wanted = Some(wanted);
    }

    /// This node is about to stop: it hands over what it can. [`Member::has_left`] says when that is done.
    pub fn leave(&mut self, now: u64) {
        self.leaving.get_or_insert(self.core.status().leader == self.core.id());
        self.steer(now);
    }

    /// True if nobody would miss this member more than any other. One that leads is missed as long as there is somebody
    /// to lead instead; one that led, until it knows who leads now and what became of its entries. And without any
    /// voter, old or new, a joint configuration may never be left.
    pub fn has_left(&self, now: u64) -> bool {
        let leader = self.core.status().leader;
        if leader == self.core.id() {
            let current = self.core.current(now);
            return !current
                .peers
                .iter()
                .any(|(id, peer)| *id != current.me && peer.active && peer.caught_up);
        }
        let led = self.leaving == Some(true);
        let settled = leader != 0 && self.waiting.is_empty();
        (settled || !led) && self.core.membership().voters_outgoing.is_empty()
    }

    /// A message to `peer` was lost.
    pub fn unreachable(&mut self, peer: u64) {
        self.core.unreachable(peer);
    }

    /// `peer` pulls from the snapshot `id` that this member offered.
    pub fn snapshot_used(&mut self, now: u64, id: u64, peer: u64) {
        self.offers.used(id, peer, now);
    }

    /// A fetch came to its end: a finished generation, or none if it failed.
    pub fn fetched(&mut self, id: u64, built: Option<G::Building>) {
        // If it failed, the leader names another one when it finds that this one was not taken.
        if let (Some(arriving), Some(built)) =
            (self.arriving.take_if(|arriving| arriving.name.id == id), built)
        {
            self.arriving = Some(Arriving { built: Some(built), ..arriving });
        }
    }

    /// Does what Raft asks for until it asks for nothing. Errors: the disk's, an entry that cannot be applied, or
    /// `Damaged` if this member has forgotten what it had acknowledged; the member must not be used again.
    pub fn run(&mut self, now: u64, rim: &mut dyn Rim) -> Result<Outputs<M::Reply, G::Building>> {
        if let Some(fault) = self.core.fault() {
            return Err(fault.clone());
        }
        let mut outputs = Outputs::default();
        self.hand_snapshot_to_raft(now);
        if self.renewal.is_some() {
            self.let_go_of_callers(&mut outputs);
        }
        self.reads.ask(now, &mut self.core);
        self.offer_if_asked(now, &mut outputs)?;
        loop {
            self.publish(rim);
            let Some(ready) = self.core.ready() else { break };
            self.publish(rim);
            self.handle(now, ready, rim, &mut outputs)?;
            self.reads.ask(now, &mut self.core);
        }
        // What Raft did not take at once it does not want.
        self.arriving.take_if(|arriving| arriving.built.is_some() && self.published.leader != 0);
        self.answer_reads(&mut outputs);
        if self.fresh.heard.is_some_and(|(commit, _)| commit <= self.machine.position().index) {
            self.fresh.at = self.fresh.heard.map(|(_, at)| at);
        }
        if self.published.lease > now {
            // It leads: nobody else has committed anything.
            self.fresh = Freshness { at: Some(now), heard: None };
        }
        outputs.fetch = self.fetch.take();
        if self.unflushed >= self.setup.flush_bytes && !self.flushing && self.renewal.is_none() {
            self.flushing = true;
            self.unflushed = 0;
            outputs.flush = Some(Flush { state: self.state.clone(), index: self.machine.position().index });
        }
        Ok(outputs)
    }

    /// The state is in tables up to `index`: cuts the log. Errors: the disk's; the member must not be used again.
    pub fn flushed(&mut self, now: u64, index: u64) -> Result<()> {
        self.flushing = false;
        // Others may still need what is behind them, and whoever leads next may have others that do.
        let alone = self.core.is_only_member();
        let kept = if alone || self.core.log().bytes() > self.setup.keep_bytes {
            index
        } else {
            index.min(self.flushed).min(self.core.lowest_needed(now).saturating_sub(1))
        };
        self.flushed = index;
        self.core.cut(kept)
    }

    /// True if nobody waits for an entry of this member.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.reads.is_empty()
    }

    /// How many of its own entries wait for a majority.
    pub fn uncommitted(&self) -> usize {
        self.waiting.len()
    }

    /// What others must know of it now.
    pub fn status(&self) -> Status {
        self.core.status()
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

    fn publish(&mut self, rim: &mut dyn Rim) {
        let status = self.core.status();
        if status != self.published {
            self.published = status;
            rim.publish(&status);
        }
    }

    fn handle(
        &mut self,
        now: u64,
        mut ready: Ready,
        rim: &mut dyn Rim,
        outputs: &mut Outputs<M::Reply, G::Building>,
    ) -> Result<()> {
        for (number, index) in std::mem::take(&mut ready.confirmed) {
            self.reads.confirm(number, index);
        }
        self.send(now, std::mem::take(&mut ready.before), rim);
        let installed = match ready.snapshot.take() {
            Some(snapshot) => Some(self.install(&snapshot, outputs)?),
            None => None,
        };
        self.core.write(&mut ready)?;
        let written = self.core.written(ready);
        if let Some(at) = installed {
            self.core.applied(now, at.index, at.term);
        }
        self.publish(rim);
        self.send(now, written.messages, rim);
        for entry in written.committed {
            // The snapshot that is waited for has them.
            if self.renewal.is_some() {
                break;
            }
            if let Err(error) = self.apply(now, &entry, rim, outputs) {
                outputs.rot = Some(self.suffer(now, error)?);
            }
        }
        Ok(())
    }

    fn send(&mut self, now: u64, messages: Vec<Message>, rim: &mut dyn Rim) {
        for message in &messages {
            if message.get_msg_type() == MessageType::MsgSnapshot {
                self.offers.sent(message.to, now);
            }
        }
        if !messages.is_empty() {
            rim.send(messages);
        }
    }

    /// Reconciles the configuration with what is wanted, one step at a time.
    fn steer(&mut self, now: u64) {
        for peer in self.offers.expire_sent(now) {
            self.core.snapshot_failed(peer);
        }
        if !self.core.may_change() || self.renewal.is_some() {
            return;
        }
        let current = self.core.current(now);
        let everybody = || Wanted {
            members: current.peers.keys().copied().collect(),
            removed: BTreeSet::new(),
            unfit: BTreeSet::new(),
        };
        let wanted = self.wanted.clone().unwrap_or_else(everybody);
        if let Some(change) = next_change(&wanted, &current, self.leaving.is_some()) {
            log::info!("membership: {change}");
            self.core.change(&change);
        }
    }

    fn answer_reads(&mut self, outputs: &mut Outputs<M::Reply, G::Building>) {
        if self.reads.is_empty() {
            return;
        }
        let status = self.core.status();
        if status.leader != self.core.id() || self.renewal.is_some() {
            outputs.reads.extend(self.reads.fail());
            return;
        }
        let ready = self.reads.ready(self.machine.position().index);
        outputs.reads.extend(ready.into_iter().map(|ticket| (ticket, Ok(()))));
    }

    /// Gives Raft the snapshot that it asked for: a view of the state as it is applied now.
    fn offer_if_asked(&mut self, now: u64, outputs: &mut Outputs<M::Reply, G::Building>) -> Result<()> {
        let leads = self.core.status().leader == self.core.id();
        let gone = if leads { self.offers.expire_held(now) } else { self.offers.clear() };
        if !gone.is_empty() {
            self.core.offer_snapshot(None);
            outputs.released.extend(gone);
        }
        if !self.core.take_snapshot_request() || !leads || self.renewal.is_some() {
            return Ok(());
        }
        let at = self.machine.position();
        self.last_offer =
            self.last_offer.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        let name = SnapshotName { id: self.last_offer, index: at.index, term: at.term };
        let mut snapshot = Snapshot::default();
        let meta = snapshot.mut_metadata();
        (meta.index, meta.term) = (at.index, at.term);
        *meta.mut_conf_state() = self.core.membership().clone();
        snapshot.data = name.encode().into();
        self.offers.hold(name.id, now);
        self.core.offer_snapshot(Some(snapshot));
        outputs.offers.push(Offer { name, view: self.state.view()? });
        Ok(())
    }

    /// Keeps the message that names a snapshot and asks for its rows, unless they are on their way already.
    fn begin_fetch(&mut self, now: u64, message: Message) {
        let status = self.core.status();
        let Some(name) = SnapshotName::of(&message) else { return };
        if status.leader != message.from || status.term != message.term {
            return;
        }
        if let Some(arriving) = self.arriving.as_mut().filter(|arriving| arriving.name == name) {
            arriving.message = message;
            return;
        }
        if !self.may_take(name.index) {
            return;
        }
        if name.index <= self.machine.position().index && self.renewal.is_none() {
            // It would bring nothing new; Raft says so to the leader.
            self.core.step(now, message);
            return;
        }
        match self.generations.begin() {
            Ok(building) => {
                self.fetch = Some(Fetch { from: message.from, name, building });
                self.arriving = Some(Arriving { name, message, built: None });
            }
            Err(error) => log::error!("a snapshot cannot be built: {error}"),
        }
    }

    /// A snapshot that is built goes to Raft as if the leader of now had just sent it: it holds committed entries only,
    /// whoever leads.
    fn hand_snapshot_to_raft(&mut self, now: u64) {
        let status = self.core.status();
        let Some(arriving) = self.arriving.as_mut().filter(|arriving| arriving.built.is_some()) else {
            return;
        };
        if status.leader == 0 || status.leader == self.core.id() {
            return;
        }
        let index = arriving.name.index;
        let mut message = arriving.message.clone();
        if !self.may_take(index) {
            self.arriving = None;
            return;
        }
        (message.from, message.term) = (status.leader, status.term);
        self.core.step(now, message);
    }

    /// Installs the generation that was built from `snapshot`: the state and a note of it first, then the log.
    fn install(
        &mut self,
        snapshot: &Snapshot,
        outputs: &mut Outputs<M::Reply, G::Building>,
    ) -> Result<Position> {
        let meta = snapshot.get_metadata();
        let at = Position { index: meta.index, term: meta.term };
        let built = self.arriving.take().filter(|arriving| arriving.name.index == at.index);
        let Some(built) = built.and_then(|arriving| arriving.built) else {
            return Err(Error::new(Kind::Failed, format!("no snapshot is built for entry {}", at.index)));
        };
        let membership = (meta.get_conf_state().clone(), at.index);
        let installed = Installed { index: at.index, term: at.term, membership: membership.clone() };
        self.state = self.generations.install(built, installed)?;
        self.core.log_mut().reset(at.index, at.term, membership)?;
        self.generations.settled()?;
        self.machine = M::load(&*self.state)?;
        if self.machine.position() != at {
            let found = self.machine.position();
            let detail = format!("a snapshot at entry {} holds the state at entry {}", at.index, found.index);
            return Err(Error::new(Kind::Damaged, detail));
        }
        self.core.installed(at.index, at.term);
        self.end_renewal();
        self.unflushed = 0;
        outputs.installed = true;
        let behind = self.waiting.split_off(&(at.index + 1, 0));
        for tickets in std::mem::replace(&mut self.waiting, behind).into_values() {
            let unknown = Error::new(
                Kind::UnknownOutcome,
                "this member fell behind before the group agreed: it may have been written",
            );
            outputs.replies.extend(named(tickets).map(|ticket| (ticket, Err(unknown.clone()))));
        }
        self.answer_lost(at, outputs);
        Ok(at)
    }

    fn apply(
        &mut self,
        now: u64,
        entry: &Entry,
        rim: &mut dyn Rim,
        outputs: &mut Outputs<M::Reply, G::Building>,
    ) -> Result<()> {
        let at = Position { index: entry.index, term: entry.term };
        let applied = match entry.get_entry_type() {
            EntryType::EntryNormal => self.machine.apply(&*self.state, at, &entry.data)?,
            EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                let (change, incarnation) = decode_change(entry)?;
                self.core.change_membership(&change, incarnation, entry.index)?;
                self.machine.apply(&*self.state, at, &[])?
            }
        };
        self.unflushed += entry.data.len() as u64;
        if applied.shifts {
            rim.shift();
        }
        match applied.effect {
            Effect::Write(batch) => {
                self.state.write(&batch)?;
                self.core.applied(now, entry.index, entry.term);
            }
            Effect::Replace(rows) => {
                self.state = self.generations.replace(&rows)?;
                outputs.replaced = true;
                self.core.applied(now, entry.index, entry.term);
                // A new generation is in tables when it goes live: the log can give its space back, up to here.
                self.core.cut(entry.index.min(self.core.lowest_needed(now).saturating_sub(1)))?;
                self.unflushed = 0;
            }
        }
        if let Some(DigestOrder { id, members }) = applied.digest
            && members.contains(&self.core.id())
        {
            outputs.looks.push(Look { id, index: at.index, view: self.state.view()? });
        }
        outputs.frees |= applied.frees;
        outputs.chunked.extend(applied.chunked);
        outputs.unchunked |= applied.unchunked;
        outputs.entries += 1;
        outputs.commands += applied.replies.len() as u64;
        if let Some(tickets) = self.waiting.remove(&(at.index, at.term)) {
            let replies = tickets.into_iter().zip(applied.replies.into_iter().map(Ok));
            outputs.replies.extend(replies.filter(|(ticket, _)| *ticket != NOBODY));
        }
        self.answer_lost(at, outputs);
        Ok(())
    }

    /// Answers those whose entries are gone for good now that the entry `at` is committed: of this index, but another
    /// term; or behind it, but of an earlier term, because terms never fall along a log. Nothing of them was written.
    fn answer_lost(&mut self, at: Position, outputs: &mut Outputs<M::Reply, G::Building>) {
        let lost = |index: u64, term: u64| index <= at.index || term < at.term;
        if !self.waiting.keys().any(|(index, term)| lost(*index, *term)) {
            return;
        }
        let error =
            Error::new(Kind::Moved, "another leader took over before the group agreed; nothing was written");
        self.waiting.retain(|(index, term), tickets| {
            let stays = !lost(*index, *term);
            if !stays {
                let tickets = named(std::mem::take(tickets));
                outputs.replies.extend(tickets.map(|ticket| (ticket, Err(error.clone()))));
            }
            stays
        });
    }
}

/// The tickets of callers.
fn named(tickets: Vec<Ticket>) -> impl Iterator<Item = Ticket> {
    tickets.into_iter().filter(|ticket| *ticket != NOBODY)
}

#[cfg(test)]
#[path = "member_tests.rs"]
mod tests;
