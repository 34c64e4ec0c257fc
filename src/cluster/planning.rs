//! What the leading master does about moves, from the directory and what it has heard: which move it notes as switched or
//! done, which one begins, which members of a drained group leave. Pure: the answer is commands for the directory, and
//! to ask again with the same answers changes nothing.
//!
//! Groups carry moves out by themselves; here nothing is waited for, and a master that was away catches up with what
//! heartbeats say now. [`plan`] says what would move where, for people who ask first.

use super::directory::{Directory, DirectoryCommand, Rebalance};
use super::facts::{leading, newest};
use super::moves::{MoveFacts, MoveOrder, MoveStatus, Phase, SlotSet};
use super::placement::{Candidate, Placement, Transfer, Waits, place};
use super::slots::SlotTable;
use super::view::WorkerFacts;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What was heard of a group in its present incarnation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupFacts {
    /// How many of its members vote, by the newest that was heard of it, also if nobody of it is alive now.
    pub voters: Option<usize>,
    /// What its leader says of itself, if it is alive.
    pub leader: Option<WorkerFacts>,
    /// The keys that it holds, by the member that had applied most.
    pub keys: u64,
    /// Their bytes, likewise.
    pub bytes: u64,
}

/// What was heard of each group; one of which nothing was heard is missing. `beats` holds the last facts of each worker,
/// of this run of the master, and true for those that are alive now.
pub fn hear<'a>(
    directory: &Directory,
    beats: impl IntoIterator<Item = (&'a WorkerFacts, bool)>,
) -> BTreeMap<u32, GroupFacts> {
    let mut groups: BTreeMap<u32, Vec<(&WorkerFacts, bool)>> = BTreeMap::new();
    for (facts, alive) in beats {
        let entry = directory.workers.get(&facts.index).filter(|entry| entry.removed.is_none());
        let known = entry.is_some_and(|entry| entry.uuid == facts.uuid && entry.group == facts.group);
        if known && facts.belongs(facts.group, directory.group(facts.group).incarnation) {
            groups.entry(facts.group).or_default().push((facts, alive));
        }
    }
    let heard = groups.into_iter().map(|(group, beats)| {
        let live = || beats.iter().filter(|(_, alive)| *alive).map(|(facts, _)| *facts);
        let index = leading(live());
        let leader = live().find(|facts| Some(facts.index) == index && facts.role == "leader");
        let newest = newest(beats.iter().map(|(facts, _)| *facts));
        let size = leader.or(newest);
        let facts = GroupFacts {
            voters: newest.map(|facts| facts.voters.len()),
            leader: leader.cloned(),
            keys: size.map_or(0, |facts| facts.keys),
            bytes: size.map_or(0, |facts| facts.bytes),
        };
        (group, facts)
    });
    heard.collect()
}

/// What the directory is to be told now.
pub fn commands(directory: &Directory, heard: &BTreeMap<u32, GroupFacts>) -> Vec<DirectoryCommand> {
    let mut commands: Vec<DirectoryCommand> =
        directory.moves.values().filter_map(|order| news(order, heard)).collect();
    let starts = starts(directory, heard);
    let over = directory.asked.is_some() && starts.is_empty() && directory.moves.is_empty();
    commands.extend(starts);
    if over {
        commands.push(DirectoryCommand::Rebalance(None));
    }
    commands
        .extend(leavers(directory, heard).into_iter().map(|index| DirectoryCommand::DrainMember { index }));
    commands
}

/// What became of a move, if the masters do not know it yet. The target's word that it owns the slots is the last one.
fn news(order: &MoveOrder, heard: &BTreeMap<u32, GroupFacts>) -> Option<DirectoryCommand> {
    let id = order.id;
    let leader = |group: u32| heard.get(&group).and_then(|facts| facts.leader.as_ref());
    let (source, target) = (leader(order.from), leader(order.to));
    let received = target.is_some_and(|target| target.received == Some(id));
    let moving = source.and_then(|source| source.moving.as_ref()).filter(|moving| moving.id == id);
    let given = moving.is_some_and(|moving| {
        matches!(moving.phase, Phase::Given | Phase::Release | Phase::Done) && !moving.withdrawn
    });
    // Once the source says nothing of the move, what it owns says how it ended.
    let kept = || source.is_some_and(|source| order.slots.minus(&source.slots).is_empty());
    let withdrawn = match moving {
        Some(moving) if moving.phase == Phase::Done => Some(moving.withdrawn),
        Some(_) => None,
        None => source.filter(|source| source.moves_done >= id).map(|_| kept()),
    };
    match withdrawn {
        Some(withdrawn) => Some(DirectoryCommand::MoveDone { id, withdrawn: withdrawn && !received }),
        None if (received || given) && !order.switched => Some(DirectoryCommand::MoveSwitched { id }),
        None => None,
    }
}

/// Moves that begin now, each between two groups that are in none.
fn starts(directory: &Directory, heard: &BTreeMap<u32, GroupFacts>) -> Vec<DirectoryCommand> {
    let mut taken = BTreeSet::new();
    let mut starts = Vec::new();
    for Transfer { from, to, slots } in placement(directory, heard).transfers {
        let leader = |group| heard.get(&group).and_then(|facts: &GroupFacts| facts.leader.as_ref());
        let owns = leader(from).is_some_and(|leader| !leader.awaits && slots.minus(&leader.slots).is_empty());
        let knows = leader(to).is_none_or(|leader| !leader.awaits);
        if owns && knows && !taken.contains(&from) && !taken.contains(&to) {
            taken.extend([from, to]);
            starts.push(DirectoryCommand::StartMove { from, to, slots });
        }
    }
    starts
}

/// Where the slots should be once the moves under way are done, and what could begin beside them: nothing, unless
/// rebalancing is on or was asked for, or a group is draining.
pub fn placement(directory: &Directory, heard: &BTreeMap<u32, GroupFacts>) -> Placement {
    let accept = directory.asked.is_some_and(|asked| asked.accept_fewer_copies);
    let mut placement = place(&table(directory), &candidates(directory, heard), accept);
    if !directory.settings.rebalance && directory.asked.is_none() {
        placement.transfers.retain(|transfer| directory.group(transfer.from).draining);
    }
    placement
}

/// The slots as they are once the moves under way are done.
fn table(directory: &Directory) -> SlotTable {
    let mut table = directory.slots.clone();
    for order in directory.moves.values().filter(|order| !order.cancelled) {
        table.give(&order.slots, order.to);
    }
    table
}

/// The groups that are not dissolved.
fn candidates(directory: &Directory, heard: &BTreeMap<u32, GroupFacts>) -> Vec<Candidate> {
    let nothing = GroupFacts::default();
    let ids = directory.group_ids().into_iter().filter(|group| !directory.group(*group).dissolved);
    ids.map(|group| {
        let facts = heard.get(&group).unwrap_or(&nothing);
        let leader = facts.leader.as_ref();
        let at_rest = |moving: &MoveFacts| moving.phase == Phase::Done;
        Candidate {
            group,
            voters: facts.voters,
            members: directory.members(group).count(),
            may_give: leader.is_some_and(|leader| leader.moving.as_ref().is_none_or(at_rest)),
            may_take: leader.is_some_and(|leader| leader.received.is_none()),
            busy: directory.move_of(group).is_some(),
            draining: directory.group(group).draining,
        }
    })
    .collect()
}

/// The members of groups that are drained: nothing is left to give, and their leader says the same, or all are dead.
fn leavers(directory: &Directory, heard: &BTreeMap<u32, GroupFacts>) -> Vec<u32> {
    let empty = |group: &u32| {
        let entry = directory.group(*group);
        entry.draining && directory.slots.count(*group) == 0 && directory.move_of(*group).is_none()
    };
    let agrees = |group: &u32| match heard.get(group).and_then(|facts| facts.leader.as_ref()) {
        Some(leader) => leader.slots.is_empty() && leader.received.is_none() && leader.holds_copy(),
        None => directory.members(*group).all(|index| directory.workers.get(&index).is_some_and(|w| w.dead)),
    };
    let groups = directory.group_ids().into_iter().filter(empty).filter(agrees);
    groups.flat_map(|group| directory.members(group).collect::<Vec<_>>()).collect()
}

/// The moves that are not finished, with what their sources say of them.
pub fn under_way(directory: &Directory, heard: &BTreeMap<u32, GroupFacts>) -> Vec<MoveStatus> {
    let status = |order: &MoveOrder| {
        let leader = heard.get(&order.from).and_then(|facts| facts.leader.as_ref());
        let facts = leader.and_then(|leader| leader.moving.clone());
        MoveStatus { order: order.clone(), facts: facts.filter(|facts| facts.id == order.id) }
    };
    directory.moves.values().map(status).collect()
}

/// A move that would be ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedMove {
    /// The group that owns the slots.
    pub from: u32,
    /// The group that is to own them.
    pub to: u32,
    /// The slots.
    pub slots: SlotSet,
    /// About how many keys they hold: of what the group holds, their part.
    pub keys: u64,
    /// About how many bytes of keys and values, likewise.
    pub bytes: u64,
}

/// What would move where.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The moves; those of one group come one after the other.
    pub moves: Vec<PlannedMove>,
    /// The moves that are under way.
    pub running: Vec<MoveStatus>,
    /// The groups that wait for members before they get their share.
    pub waits: Vec<Waits>,
    /// How many slots each group owns in the end.
    pub shares: BTreeMap<u32, u16>,
    /// Groups that are in the way, because nothing was heard of a leader.
    pub silent: Vec<u32>,
}

/// What a rebalance would move where; the directory says which groups drain.
pub fn plan(directory: &Directory, heard: &BTreeMap<u32, GroupFacts>, rebalance: Option<Rebalance>) -> Plan {
    let mut candidates = candidates(directory, heard);
    candidates.iter_mut().for_each(|candidate| candidate.busy = false);
    let accept = rebalance.or(directory.asked).is_some_and(|asked| asked.accept_fewer_copies);
    let table = table(directory);
    let placement = place(&table, &candidates, accept);
    let drains = |transfer: &Transfer| rebalance.is_some() || directory.group(transfer.from).draining;
    let moves = placement.transfers.into_iter().filter(drains).map(|Transfer { from, to, slots }| {
        let (keys, bytes) = heard.get(&from).map_or((0, 0), |facts| (facts.keys, facts.bytes));
        let owned = u128::from(directory.slots.count(from).max(slots.count()).max(1));
        let part = |all: u64| (u128::from(all) * u128::from(slots.count()) / owned) as u64;
        PlannedMove { from, to, keys: part(keys), bytes: part(bytes), slots }
    });
    let silent = candidates.iter().map(|candidate| candidate.group);
    let leads = |group: &u32| heard.get(group).is_some_and(|facts| facts.leader.is_some());
    Plan {
        moves: moves.collect(),
        running: under_way(directory, heard),
        waits: placement.waits,
        shares: placement.shares,
        silent: silent.filter(|group| !leads(group)).collect(),
    }
}

#[cfg(test)]
#[path = "planning_tests.rs"]
mod tests;
