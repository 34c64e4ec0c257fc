//! Moves of slots, as the masters order them and hear of them, and groups and members that leave.
//!
//! The masters say what is to move, and note what became of it; groups carry it out by themselves. So whatever a group
//! says of a move is taken, however late, and a repeat changes nothing.

use super::{Directory, DirectoryReply, LEFT, Rebalance, refused};
use crate::cluster::moves::{MoveOrder, SlotSet};
use crate::cluster::slots::SLOTS;
use std::collections::BTreeSet;

type Replied = Result<DirectoryReply, DirectoryReply>;

impl Directory {
    /// The ids of all groups that there ever were, ascending.
    pub fn group_ids(&self) -> BTreeSet<u32> {
        self.workers.values().map(|worker| worker.group).collect()
    }

    /// The unfinished move that `group` is in.
    pub fn move_of(&self, group: u32) -> Option<&MoveOrder> {
        self.moves.values().find(|order| order.from == group || order.to == group)
    }

    pub(super) fn start_move(&mut self, from: u32, to: u32, slots: &SlotSet) -> Replied {
        self.check_group(from)?;
        self.check_group(to)?;
        let no = |detail: String| Err(refused(detail, "see catstore status"));
        if from == to || slots.check().is_err() || slots.is_empty() {
            return no("a move takes slots from one group to another".into());
        }
        if self.group(to).draining {
            return no(format!("group {to} is draining: it takes no slots"));
        }
        if let Some(order) = self.move_of(from).or_else(|| self.move_of(to)) {
            return no(format!("groups {} and {} are in move {}", order.from, order.to, order.id));
        }
        if let Some(slot) = slots.iter().find(|slot| self.slots.owner(*slot) != Some(from)) {
            return no(format!("group {from} does not own slot {slot}"));
        }
        let id = self.next_move.max(1);
        let order = MoveOrder { id, slots: slots.clone(), from, to, cancelled: false, switched: false };
        self.moves.insert(id, order);
        self.next_move = id + 1;
        self.epoch += 1;
        Ok(DirectoryReply::MoveStarted { id })
    }

    pub(super) fn move_switched(&mut self, id: u64) -> Replied {
        self.check_move(id)?;
        if let Some(order) = self.moves.get_mut(&id).filter(|order| !order.switched) {
            (order.switched, order.cancelled) = (true, false);
            self.slots.give(&order.slots, order.to);
            self.epoch += 1;
        }
        Ok(DirectoryReply::Done)
    }

    /// Where the slots are in the end is for the groups to say. One that was withdrawn after all (a target that was
    /// revived from an older copy took the slots and has lost them again) gives them back.
    pub(super) fn move_done(&mut self, id: u64, withdrawn: bool) -> Replied {
        self.check_move(id)?;
        if let Some(order) = self.moves.remove(&id) {
            self.slots.give(&order.slots, if withdrawn { order.from } else { order.to });
            self.epoch += 1;
        }
        Ok(DirectoryReply::Done)
    }

    pub(super) fn cancel_move(&mut self, id: u64) -> Replied {
        self.check_move(id)?;
        let over = |what: &str| Err(refused(format!("move {id} {what}"), "see catstore status"));
        match self.moves.get_mut(&id) {
            None => over("is over"),
            Some(order) if order.switched => over("cannot be called off: its slots have changed hands"),
            Some(order) => {
                if !std::mem::replace(&mut order.cancelled, true) {
                    self.epoch += 1;
                }
                Ok(DirectoryReply::Done)
            }
        }
    }

    pub(super) fn drain_group(&mut self, group: u32, undo: bool) -> Replied {
        self.check_group(group)?;
        let stays = |other: &u32| {
            let entry = self.group(*other);
            *other != group && !entry.draining && !entry.dissolved
        };
        if !undo && !self.group_ids().iter().any(stays) {
            return Err(refused(
                format!("there is no group that could take the slots of group {group}"),
                "start a new worker first; it founds one",
            ));
        }
        let mut entry = self.group(group);
        if entry.draining == undo {
            entry.draining = !undo;
            self.groups.insert(group, entry);
            self.epoch += 1;
            if !undo {
                self.call_off_moves_to(group);
            }
        }
        Ok(DirectoryReply::Done)
    }

    pub(super) fn drain_member(&mut self, index: u32) -> Replied {
        let Some(worker) = self.workers.get(&index) else { return Err(self.no_worker(index, "drain")) };
        let group = worker.group;
        if worker.removed.is_some() {
            return Ok(DirectoryReply::Done);
        }
        let mut entry = self.group(group);
        if self.members(group).count() == 1 {
            let last = format!("worker {index} is the last member of group {group}");
            let drain = format!("catstore drain --group {group} moves its slots to other groups first");
            if !entry.draining {
                return Err(refused(last, drain));
            }
            if self.slots.count(group) > 0 || self.move_of(group).is_some() {
                return Err(refused(format!("{last}, which still gives slots away"), "see catstore status"));
            }
            entry.dissolved = true;
            self.groups.insert(group, entry);
        }
        self.remove(index, LEFT.into());
        self.epoch += 1;
        Ok(DirectoryReply::Done)
    }

    pub(super) fn rebalance(&mut self, wish: Option<Rebalance>) -> Replied {
        if self.asked != wish {
            self.asked = wish;
            self.epoch += 1;
        }
        Ok(DirectoryReply::Done)
    }

    /// Calls off the move by which `group` is to take slots, unless it has them.
    pub(super) fn call_off_moves_to(&mut self, group: u32) {
        for order in self.moves.values_mut().filter(|order| order.to == group && !order.switched) {
            order.cancelled = true;
        }
    }

    fn check_group(&self, group: u32) -> Result<(), DirectoryReply> {
        let ids = self.group_ids();
        match (ids.contains(&group), self.group(group).dissolved) {
            (true, false) => Ok(()),
            (true, true) => Err(refused(format!("group {group} was dissolved"), "see catstore status")),
            (false, _) => {
                let there = ids.into_iter().filter(|id| !self.group(*id).dissolved);
                let hint = format!("groups of this cluster: {}", super::list(there));
                Err(refused(format!("there is no group {group}"), hint))
            }
        }
    }

    /// Refuses a move that was never ordered; one that is over is none of these.
    fn check_move(&self, id: u64) -> Result<(), DirectoryReply> {
        match (1..self.next_move).contains(&id) {
            true => Ok(()),
            false => Err(refused(format!("there is no move {id}"), "see catstore status")),
        }
    }

    /// Proves what must hold of slots and moves; says what is wrong otherwise.
    pub(super) fn check_moves(&self) -> Result<(), String> {
        let owned: u32 =
            self.slots.ranges().iter().map(|range| u32::from(range.last - range.first) + 1).sum();
        if owned != 0 && owned != u32::from(SLOTS) {
            return Err(format!("{} slots have lost their owner", u32::from(SLOTS) - owned));
        }
        let mut groups = BTreeSet::new();
        for (id, order) in &self.moves {
            order.slots.check()?;
            let owner = if order.switched { order.to } else { order.from };
            if *id != order.id || *id >= self.next_move || order.slots.is_empty() {
                return Err(format!("move {id} was not ordered like that"));
            }
            if !groups.insert(order.from) || !groups.insert(order.to) {
                return Err(format!("move {id} is not the only one of its groups"));
            }
            if order.slots.iter().any(|slot| self.slots.owner(slot) != Some(owner)) {
                return Err(format!("group {owner} lacks slots of move {id}"));
            }
            if order.switched && order.cancelled {
                return Err(format!("move {id} was called off and has switched"));
            }
            if self.members(order.from).next().is_none() || self.members(order.to).next().is_none() {
                return Err(format!("move {id} is of a group that has no member"));
            }
        }
        Ok(())
    }
}
