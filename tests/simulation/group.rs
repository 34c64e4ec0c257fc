//! The members of one group, and what only an outsider can see of them.

use crate::bug::Bug;
use crate::event::{Death, Event, Place};
use crate::node::{Clock, Node, Subject};
use crate::stores::Probe;
use crate::system::System;
use crate::watch::Watch;
use catstore::cluster::membership::raft_id;
use catstore::replica::core::Role;
use catstore::replica::parcel;
use catstore::store::doubles::Disk;
use catstore::store::log::RaftLog;
use catstore::store::state::Batch;
use protobuf::Message as _;
use raft::eraftpb::{ConfState, EntryType, Message, MessageType};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The members of a group.
pub struct Group<M: Subject> {
    /// The machines by Raft id.
    pub nodes: BTreeMap<u64, Node<M>>,
    /// Its number on the wire.
    pub id: u32,
    watch: Arc<Mutex<Watch>>,
}

impl<M: Subject> Group<M> {
    /// Nobody yet.
    pub fn new(id: u32, name: impl Into<String>) -> Group<M> {
        Group { nodes: BTreeMap::new(), id, watch: Arc::new(Mutex::new(Watch::new(name.into()))) }
    }

    /// What was seen of the group.
    pub fn watch(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A machine with the folder `uuid` joins under an index; the founder with `rows` as the only voter.
    pub fn add(
        &mut self,
        sys: &mut System,
        index: u32,
        uuid: String,
        rows: &Batch,
        founds: bool,
        sizes: (u64, u64),
    ) {
        let id = raft_id(index);
        let voters = if founds { vec![id] } else { Vec::new() };
        let disk = Disk::new(sys.random.draw(), ConfState { voters, ..ConfState::default() }, rows);
        disk.trust_logs(sys.bug == Bug::TrustLogs);
        let drift = sys.between(0, 80_000) as i64 - 40_000;
        let wrong = sys.between(0, 4000) as i64 - 2000;
        if drift.abs() > 20_000 {
            sys.count("clock that drifts by more than 2 %");
        }
        if M::KEEPS_CHUNKS {
            sys.ether.has_disk(id, disk.clone());
        }
        let clock = Clock { base_ms: sys.between(20_000, 10_000_000), since: sys.now, drift, wrong };
        let probe = Arc::new(Probe::new(id, sys.bug, disk.clone(), self.watch.clone()));
        let node = Node {
            id,
            group: self.id,
            uuid,
            disk,
            probe,
            clock,
            starts: 0,
            life: 0,
            up: None,
            gone: false,
            given_up: false,
            last_sent: None,
            power_lost: false,
            paused_until: 0,
            slow_disk: (0, 0),
            planned: None,
            dying: false,
            sizes,
        };
        self.nodes.insert(id, node);
        sys.after(0, Event::Start(M::place(id)));
    }

    /// The member that leads the highest term, as members see it.
    pub fn leader(&self) -> Option<u64> {
        let leads = |node: &&Node<M>| node.up.as_ref().is_some_and(|up| up.status.role == Role::Leader);
        let newest =
            self.nodes.values().filter(leads).max_by_key(|node| node.up.as_ref().map(|up| up.status.term));
        newest.map(|node| node.id)
    }

    /// The machines that may run.
    pub fn there(&self) -> Vec<u64> {
        self.nodes.values().filter(|node| !node.gone).map(|node| node.id).collect()
    }

    /// The machines whose process runs.
    pub fn running(&self) -> Vec<u64> {
        self.nodes.values().filter(|node| node.up.is_some()).map(|node| node.id).collect()
    }

    /// What an outsider sees of the members, for messages.
    pub fn describe(&self, now: u64) -> String {
        let mut text = String::new();
        for node in self.nodes.values().filter(|node| !node.gone) {
            let place = M::place(node.id);
            let line = match &node.up {
                None => format!("{place:?} does not run\n"),
                Some(up) => {
                    let core = up.member.core();
                    let (clock, applied) = (node.clock.ms(now), up.member.machine().position());
                    let (status, last) = (up.member.status(), core.last_index());
                    let membership = core.membership();
                    format!(
                        "{place:?} at {clock}: {status:?}, applied {applied:?}, commit {}, last {last}, log from {:?}, {membership:?}, waiting {} {}, {}\n",
                        core.commit(),
                        core.log().truncated(),
                        up.member.uncommitted(),
                        up.member.is_idle(),
                        up.describe(),
                    )
                }
            };
            text.push_str(&line);
        }
        text
    }

    /// The membership that member `id` goes by.
    pub fn membership(&self, id: u64) -> Option<&ConfState> {
        self.nodes.get(&id)?.up.as_ref().map(|up| up.member.core().membership())
    }

    /// Something happens to a member. Errors say what must not be.
    pub fn on(&mut self, sys: &mut System, place: Place, event: Event) -> Result<(), String> {
        let (Place::Master(id) | Place::Worker(id) | Place::Client(id)) = place;
        if matches!(sys.bug, Bug::StandbyCounts | Bug::HalfJoint)
            && let Event::Parcel(_, bytes) = &event
        {
            let bytes = bytes.clone();
            return self.parcel_with_forgeries(sys, id, bytes);
        }
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        let now = |life: u64| life == node.life;
        match event {
            Event::Wake(_, life) if now(life) => node.wake(sys)?,
            Event::Effect(_, life, effect) if now(life) => node.effect(sys, effect),
            Event::Finish(_, life) if now(life) => node.finish(sys)?,
            Event::Die(_, life, death) if now(life) => self.die(sys, id, death)?,
            Event::Start(_) => node.start(sys)?,
            Event::Parcel(_, bytes) => node.parcel(sys, bytes),
            Event::Forged(_, message) => node.forged(sys, *message),
            Event::Unreachable(_, life, peer) if now(life) => node.unreachable(sys, peer),
            Event::Flushed(_, life) if now(life) => node.flushed(sys)?,
            Event::Ask(_, life, pulling) if now(life) => node.ask(sys, pulling),
            Event::Serve(_, to, life, pulling, after) => node.serve(sys, to, life, pulling, &after)?,
            Event::Chunk(_, life, pulling, chunk) if now(life) => node.chunk(sys, pulling, chunk),
            Event::Pulled(_, life, pulling) if now(life) => node.pulled(sys, pulling),
            Event::Want(_, life, wanted) if now(life) => node.want(sys, wanted),
            Event::Leave(_, life) if now(life) => node.leave(sys),
            Event::Question(_, caller, question) => node.question(sys, caller, question)?,
            _ => {}
        }
        match self.watch().violation() {
            Some(why) => Err(why.clone()),
            None => Ok(()),
        }
    }

    fn die(&mut self, sys: &mut System, id: u64, death: Death) -> Result<(), String> {
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        node.die(sys, death)?;
        let pause = if sys.one_in(3) { sys.between(10, 400) } else { sys.between(100, 6000) };
        sys.after(pause * 1000, Event::Start(M::place(id)));
        Ok(())
    }

    /// True if the group could do without that member's disk for good: every configuration that any member goes by has
    /// a majority without it, and no other configuration is on its way, or may be because somebody gives way.
    pub fn can_lose(&self, id: u64) -> bool {
        let mut configurations = BTreeSet::new();
        for node in self.nodes.values() {
            let Some(up) = &node.up else {
                if node.gone {
                    continue;
                }
                return false;
            };
            if up.is_leaving() || up.member.renews() {
                return false;
            }
            let core = up.member.core();
            let log = core.log();
            let applied = up.member.machine().position().index;
            let entries = RaftLog::entries(log, applied + 1, u64::MAX, u64::MAX);
            let pending = |entry: &raft::eraftpb::Entry| entry.get_entry_type() != EntryType::EntryNormal;
            if entries.map_or(true, |entries| entries.iter().any(pending)) {
                return false;
            }
            let membership = core.membership();
            if !membership.voters_outgoing.is_empty() {
                return false;
            }
            let lost = |voter: &u64| {
                *voter == id || self.nodes.get(voter).is_none_or(|node| node.gone || node.given_up)
            };
            let others = membership.voters.iter().filter(|voter| !lost(voter)).count();
            if 2 * others <= membership.voters.len() && !membership.voters.is_empty() {
                return false;
            }
            configurations.insert(membership.voters.clone());
        }
        configurations.len() == 1
    }

    /// [`Bug::StandbyCounts`] and [`Bug::HalfJoint`]: what one member acknowledges counts for others that did not.
    fn parcel_with_forgeries(
        &mut self,
        sys: &mut System,
        to: u64,
        bytes: Arc<Vec<u8>>,
    ) -> Result<(), String> {
        let Some(mut opened) = forge::messages(&bytes) else { return Ok(()) };
        let membership = self.membership(to).cloned().unwrap_or_default();
        let last =
            self.nodes.get(&to).and_then(|node| node.up.as_ref()).map(|up| up.member.core().last_index());
        for message in &mut opened.messages {
            if message.get_msg_type() == MessageType::MsgHeartbeat
                && last.is_some_and(|last| message.commit > last)
            {
                message.commit = last.unwrap_or(0);
            }
            let acknowledges = message.get_msg_type() == MessageType::MsgAppendResponse && !message.reject;
            let others = forge::who_is_counted(sys.bug, &membership, message.from, to);
            for other in others.into_iter().filter(|_| acknowledges) {
                let forged = Message { from: other, ..message.clone() };
                sys.after(0, Event::Forged(M::place(to), Box::new(forged)));
            }
        }
        let messages: Vec<Vec<u8>> =
            opened.messages.iter().filter_map(|message| message.write_to_bytes().ok()).collect();
        let bytes = Arc::new(parcel::encode(&opened.sender, opened.to, opened.progress, &messages));
        if let Some(node) = self.nodes.get_mut(&to) {
            node.parcel(sys, bytes);
        }
        Ok(())
    }
}

mod forge {
    use super::Bug;
    use catstore::replica::parcel::{self, Gate, Parcel, Sender};
    use raft::eraftpb::ConfState;

    /// Opens a parcel whoever it is for.
    pub fn messages(bytes: &[u8]) -> Option<Parcel> {
        // The numbers of a parcel lie behind its version and the cluster's id of one byte.
        let number = |at: usize| Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let group = u32::from_be_bytes(bytes.get(3..7)?.try_into().ok()?);
        let own = Sender { cluster: "c".into(), group, incarnation: 1, id: number(23)?, starts: 0, run: 0 };
        parcel::open(bytes, &Gate::new(own)).ok()
    }

    /// The voters that count as having acknowledged what `from` acknowledged to the leader `to`.
    pub fn who_is_counted(bug: Bug, membership: &ConfState, from: u64, to: u64) -> Vec<u64> {
        let counted = match bug {
            Bug::StandbyCounts if membership.learners.contains(&from) => &membership.voters,
            Bug::HalfJoint if membership.voters.contains(&from) => &membership.voters_outgoing,
            _ => return Vec::new(),
        };
        let other = |id: &&u64| **id != from && **id != to;
        let incoming = |id: &&u64| bug == Bug::HalfJoint && membership.voters.contains(id);
        counted.iter().filter(other).filter(|id| !incoming(id)).copied().collect()
    }
}
