//! The directory: what the masters agree on. A pure machine: commands in, replies out.
//!
//! Workers register (`register.rs`), lost ones are replaced or a member is promoted (`promote.rs`), masters join
//! (`masters.rs`), slots move and groups leave (`moves.rs`), a lost directory is built anew (`recover.rs`). What a
//! command needs to know beside the directory, such as who is alive, travels in the command
//! ([`Heard`]), so that every master applies it alike.
//!
//! Invariants ([`Directory::check`]): an index is given once; a worker that is removed stays so; each group keeps at
//! least one member, or is dissolved and owns nothing; an incarnation only grows; once a slot has an owner it has one for
//! ever; a group is in one unfinished move at most. A refusal changes nothing. Left out: who votes and leads, which is
//! decided by each group ([`super::membership`]) and known from heartbeats.

mod heard;
mod masters;
mod moves;
#[cfg(test)]
mod moves_tests;
mod promote;
mod recover;
mod register;
#[cfg(test)]
mod tests;

pub use heard::Heard;
pub use recover::{Recovered, recover};

use super::facts::yes;
use super::moves::{MoveOrder, SlotSet};
use super::slots::{SlotRange, SlotTable};
use super::view::{
    ClusterView, FormerView, GroupView, MasterView, MemberView, RegisterMasterRequest, RegisterRequest,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Why a worker was removed that somebody let go: it ends in peace.
pub const LEFT: &str = "it left its group";

/// A registered worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerEntry {
    /// The uuid of its data folder.
    pub uuid: String,
    /// Its group.
    pub group: u32,
    /// Where it serves: `host:port`.
    pub address: String,
    /// Its data folder.
    pub data: String,
    /// The start counter of its last registration.
    pub starts: u64,
    /// The random number of the run that registered last.
    pub run: u64,
    /// Why it was removed for good: a phrase after `worker 0 was removed: `.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed: Option<String>,
    /// True once it has been dead for too long to vote.
    #[serde(default)]
    pub dead: bool,
}

/// What is known of a group beside its members. A group without an entry is as its founder made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupEntry {
    /// Starts at 1, raised when the group is revived without its majority.
    pub incarnation: u64,
    /// The member whose copy this incarnation began with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promoted: Option<u32>,
    /// The worker that founded this incarnation with an empty folder; none: the group's first founder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub founder: Option<u32>,
    /// True if its slots are to go to other groups, and then its members.
    #[serde(default, skip_serializing_if = "is_false")]
    pub draining: bool,
    /// True once its last member has left: it never comes back.
    #[serde(default, skip_serializing_if = "is_false")]
    pub dissolved: bool,
}

impl Default for GroupEntry {
    fn default() -> Self {
        GroupEntry { incarnation: 1, promoted: None, founder: None, draining: false, dissolved: false }
    }
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// A registered master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterEntry {
    /// The uuid of its data folder.
    pub uuid: String,
    /// Where it serves: `host:port`.
    pub address: String,
    /// Its data folder.
    pub data: String,
    /// The start counter of its last registration.
    pub starts: u64,
    /// The random number of the run that registered last.
    pub run: u64,
    /// Why it was removed for good: a phrase after `master 0 was removed: `.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed: Option<String>,
    /// True once it has been dead for too long to vote.
    #[serde(default)]
    pub dead: bool,
}

/// What the person who runs the cluster chose for all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// A new worker that names no group joins the first one that has fewer members; at least 1.
    pub replicas: u32,
    /// A node that was not heard of for so many milliseconds is unfit to vote.
    pub dead_after_ms: u64,
    /// True if slots move by themselves until every group has its share.
    #[serde(default = "yes")]
    pub rebalance: bool,
    /// Bytes a second that the copy of a move may take; none: half of the time that it could.
    #[serde(default)]
    pub move_rate: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { replicas: 1, dead_after_ms: 600_000, rebalance: true, move_rate: None }
    }
}

/// A rebalance that somebody asked for; over once nothing is left to move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebalance {
    /// True if slots may go to groups with fewer voters.
    pub accept_fewer_copies: bool,
}

/// A change of the directory. `alive` holds the index of every worker (or master) that the proposing master has heard
/// of in the last seconds, so that apply stays deterministic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DirectoryCommand {
    /// A worker starts.
    Register {
        /// The worker's own facts.
        request: RegisterRequest,
        /// Workers that are alive now.
        alive: Vec<u32>,
        /// What was heard of the group of the worker that it replaces, if it replaces one.
        #[serde(default)]
        heard: Heard,
    },
    /// The only master serves at another address than before. Ignored once masters register.
    MasterAddress {
        /// `host:port`.
        address: String,
    },
    /// A worker has been dead for so long that it should not vote, or is back. One that is closed is not dead: it
    /// still sends heartbeats, and the leading master that proposes this goes by them.
    Dead {
        /// The worker.
        index: u32,
        /// True: unfit. False: fit again.
        dead: bool,
    },
    /// Revives the group of a worker from that worker's copy, without the majority.
    Promote {
        /// The worker.
        index: u32,
        /// What was heard of its group.
        heard: Heard,
    },
    /// A master starts.
    RegisterMaster {
        /// The master's own facts.
        request: RegisterMasterRequest,
        /// Masters that are alive now.
        alive: Vec<u32>,
    },
    /// Removes a lost master for good.
    RemoveMaster {
        /// The master.
        index: u32,
        /// Masters that are alive now.
        alive: Vec<u32>,
    },
    /// As [`DirectoryCommand::Dead`], of a master.
    MasterDead {
        /// The master.
        index: u32,
        /// True: unfit. False: fit again.
        dead: bool,
    },
    /// Other settings.
    Settings(Settings),
    /// Orders a move of slots.
    StartMove {
        /// The group that owns them.
        from: u32,
        /// The group that is to own them.
        to: u32,
        /// The slots.
        slots: SlotSet,
    },
    /// The target of a move owns the slots.
    MoveSwitched {
        /// The move.
        id: u64,
    },
    /// A move is over.
    MoveDone {
        /// The move.
        id: u64,
        /// True if the slots stayed where they were.
        withdrawn: bool,
    },
    /// Calls a move off, as long as its target does not own the slots.
    CancelMove {
        /// The move.
        id: u64,
    },
    /// The slots of a group are to go to others, and then its members.
    DrainGroup {
        /// The group.
        group: u32,
        /// True: no, they stay.
        undo: bool,
    },
    /// A worker leaves its group for good, without another in its place. The last one dissolves the group.
    DrainMember {
        /// The worker.
        index: u32,
    },
    /// Asks for a rebalance, also if it is not done by itself; none: it is over.
    Rebalance(Option<Rebalance>),
}

/// The directory's reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DirectoryReply {
    /// A worker is registered.
    Registered {
        /// The worker's index.
        index: u32,
        /// Its group.
        group: u32,
        /// A remark for the person at the terminal.
        note: Option<String>,
        /// The slots that a new founder starts with; none for a worker that joins.
        slots: Vec<SlotRange>,
        /// True: it founds `group`. False: it joins `group` and copies what the others hold.
        found: bool,
        /// The incarnation of the group.
        incarnation: u64,
    },
    /// A worker's group is revived from its copy.
    Promoted {
        /// The group.
        group: u32,
        /// Its new incarnation.
        incarnation: u64,
        /// Every former member, removed for good.
        left_behind: Vec<u32>,
    },
    /// A master is registered.
    MasterRegistered {
        /// The master's index.
        index: u32,
        /// A remark for the person at the terminal.
        note: Option<String>,
        /// The incarnation of the masters.
        incarnation: u64,
    },
    /// Refused: nothing changed.
    Refused {
        /// Why.
        detail: String,
        /// What to do.
        hint: Option<String>,
    },
    /// A move is ordered.
    MoveStarted {
        /// Its number.
        id: u64,
    },
    /// Done.
    Done,
}

/// What the masters agree on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// The id of the cluster, 32 hexadecimal digits.
    pub cluster: String,
    /// The masters' incarnation: raised by recovery of the masters; fences what came before.
    pub incarnation: u64,
    /// Raised by every change.
    pub epoch: u64,
    /// Addresses of the masters, those of `master_nodes` once the first of them has registered.
    pub masters: Vec<String>,
    /// The workers by index.
    pub workers: BTreeMap<u32, WorkerEntry>,
    /// Who owns which slot.
    pub slots: SlotTable,
    /// The index that the next worker gets.
    pub next_index: u32,
    /// Groups that are not as their first founder made them.
    #[serde(default)]
    pub groups: BTreeMap<u32, GroupEntry>,
    /// The masters by index.
    #[serde(default)]
    pub master_nodes: BTreeMap<u32, MasterEntry>,
    /// The index that the next master gets.
    #[serde(default)]
    pub next_master: u32,
    /// What was chosen for the whole cluster.
    #[serde(default)]
    pub settings: Settings,
    /// The moves that are not finished, by id.
    #[serde(default)]
    pub moves: BTreeMap<u64, MoveOrder>,
    /// The id that the next move gets; ids begin with 1, 0 stands for that.
    #[serde(default)]
    pub next_move: u64,
    /// A rebalance that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Rebalance>,
}

impl Directory {
    /// Applies one command. A refusal changes nothing.
    pub fn apply(&mut self, command: &DirectoryCommand) -> DirectoryReply {
        let reply = match command {
            DirectoryCommand::Register { request, alive, heard } => self.register(request, alive, heard),
            DirectoryCommand::MasterAddress { address } => Ok(self.master_address(address)),
            DirectoryCommand::Dead { index, dead } => self.dead(*index, *dead),
            DirectoryCommand::Promote { index, heard } => self.promote(*index, heard),
            DirectoryCommand::RegisterMaster { request, alive } => self.register_master(request, alive),
            DirectoryCommand::RemoveMaster { index, alive } => self.remove_master(*index, alive),
            DirectoryCommand::MasterDead { index, dead } => self.master_dead(*index, *dead),
            DirectoryCommand::Settings(settings) => self.set(*settings),
            DirectoryCommand::StartMove { from, to, slots } => self.start_move(*from, *to, slots),
            DirectoryCommand::MoveSwitched { id } => self.move_switched(*id),
            DirectoryCommand::MoveDone { id, withdrawn } => self.move_done(*id, *withdrawn),
            DirectoryCommand::CancelMove { id } => self.cancel_move(*id),
            DirectoryCommand::DrainGroup { group, undo } => self.drain_group(*group, *undo),
            DirectoryCommand::DrainMember { index } => self.drain_member(*index),
            DirectoryCommand::Rebalance(wish) => self.rebalance(*wish),
        };
        debug_assert_eq!(self.check(), Ok(()));
        reply.unwrap_or_else(|refusal| refusal)
    }

    /// Proves the invariants of the directory; says what is wrong otherwise.
    pub fn check(&self) -> Result<(), String> {
        self.slots.check()?;
        let mut uuids = BTreeSet::new();
        for (index, worker) in &self.workers {
            if *index >= self.next_index {
                return Err(format!("worker {index} has an index that was not given yet"));
            }
            if !worker.uuid.is_empty() && !uuids.insert(&worker.uuid) {
                return Err(format!("worker {index} has the uuid of another"));
            }
            if self.members(worker.group).next().is_none() != self.group(worker.group).dissolved {
                return Err(format!(
                    "group {} has no member left, or is dissolved and has some",
                    worker.group
                ));
            }
        }
        self.check_moves()?;
        for (group, entry) in &self.groups {
            let of_group = |index: &u32| self.workers.get(index).is_some_and(|worker| worker.group == *group);
            if !entry.promoted.iter().chain(&entry.founder).all(of_group) {
                return Err(format!("group {group} began incarnation {} elsewhere", entry.incarnation));
            }
        }
        match self.slots.ranges().iter().find(|range| self.members(range.group).next().is_none()) {
            Some(range) => Err(format!("slots belong to group {}, which has no member", range.group)),
            None => Ok(()),
        }
    }

    /// The indices of the members of `group` that are not removed, ascending.
    pub fn members(&self, group: u32) -> impl Iterator<Item = u32> + '_ {
        let of_group = self.workers.iter().filter(move |(_, worker)| worker.group == group);
        of_group.filter(|(_, worker)| worker.removed.is_none()).map(|(index, _)| *index)
    }

    /// What is known of `group` beside its members.
    pub fn group(&self, group: u32) -> GroupEntry {
        self.groups.get(&group).cloned().unwrap_or_default()
    }

    fn dead(&mut self, index: u32, dead: bool) -> Result<DirectoryReply, DirectoryReply> {
        let Some(worker) = self.workers.get_mut(&index).filter(|worker| worker.removed.is_none()) else {
            return Err(refused(format!("there is no worker {index}"), "see catstore status"));
        };
        if worker.dead != dead {
            worker.dead = dead;
            self.epoch += 1;
        }
        Ok(DirectoryReply::Done)
    }

    fn set(&mut self, settings: Settings) -> Result<DirectoryReply, DirectoryReply> {
        if settings.replicas == 0 {
            return Err(refused("a group has at least 1 member".into(), "say --replicas 1 or more"));
        }
        if settings.move_rate == Some(0) {
            return Err(refused("a move needs some bytes a second".into(), "say --move-rate 1m or more"));
        }
        if self.settings != settings {
            self.settings = settings;
            self.epoch += 1;
        }
        Ok(DirectoryReply::Done)
    }

    /// Removes a worker for good, unless it is removed already.
    fn remove(&mut self, index: u32, why: String) {
        if let Some(worker) = self.workers.get_mut(&index) {
            worker.removed.get_or_insert(why);
        }
    }

    /// The view that nodes and clients route by. Who leads and votes is known here only of a group with one member;
    /// [`ClusterView::overlay`] fills it in for the others.
    pub fn view(&self) -> ClusterView {
        let mut groups: BTreeMap<u32, GroupView> = BTreeMap::new();
        for (index, worker) in &self.workers {
            let group = groups.entry(worker.group).or_insert_with(|| self.group_view(worker.group));
            if let Some(why) = &worker.removed {
                group.removed.push(*index);
                if why == LEFT {
                    let (address, data) = (worker.address.clone(), worker.data.clone());
                    group.former.push(FormerView { index: *index, address, data });
                }
                continue;
            }
            group.members.push(MemberView {
                index: *index,
                address: worker.address.clone(),
                voter: group.leader == Some(*index),
                fit: !worker.dead,
                data: worker.data.clone(),
            });
        }
        ClusterView {
            cluster: self.cluster.clone(),
            epoch: self.epoch,
            masters: self.masters.clone(),
            master_members: self.master_nodes.iter().map(master_view).collect(),
            groups: groups.into_values().collect(),
            slots: self.slots.clone(),
            incarnation: self.incarnation,
            next_index: Some(self.next_index),
            uuids: self.workers.iter().map(|(index, worker)| (*index, worker.uuid.clone())).collect(),
            moves: self.moves.values().cloned().collect(),
            next_move: self.next_move.max(1),
            move_rate: self.settings.move_rate,
        }
    }

    /// A group of the view without its members.
    fn group_view(&self, group: u32) -> GroupView {
        let mut members = self.members(group);
        let GroupEntry { incarnation, promoted, founder, draining, .. } = self.group(group);
        GroupView {
            group,
            leader: members.next().filter(|_| members.next().is_none()),
            members: Vec::new(),
            incarnation,
            promoted,
            founder,
            removed: Vec::new(),
            former: Vec::new(),
            draining,
        }
    }
}

fn master_view((index, master): (&u32, &MasterEntry)) -> MasterView {
    MasterView {
        index: *index,
        address: master.address.clone(),
        removed: master.removed.is_some(),
        fit: !master.dead,
    }
}

fn refused(detail: String, hint: impl Into<String>) -> DirectoryReply {
    DirectoryReply::Refused { detail, hint: Some(hint.into()) }
}

/// What a node says of itself must have bounds: it is kept for ever.
fn check_lengths(who: &str, texts: [&String; 4]) -> Result<(), DirectoryReply> {
    let limits = [("uuid", 64), ("address", 300), ("data folder", 4096), ("version", 64)];
    for ((what, limit), text) in limits.into_iter().zip(texts) {
        if text.len() > limit {
            return Err(refused(format!("the {what} of a {who} has more than {limit} bytes"), "shorten it"));
        }
    }
    Ok(())
}

/// Numbers as a list for a person: `0, 1`; `none` if there are none.
fn list(numbers: impl IntoIterator<Item = u32>) -> String {
    let words: Vec<String> = numbers.into_iter().map(|number| number.to_string()).collect();
    if words.is_empty() { "none".into() } else { words.join(", ") }
}
