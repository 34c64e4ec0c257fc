//! Machines that are lost for good, or given up, and others that take their places.
//!
//! A leader takes a machine for alive for a moment after it was lost, and may just then make it the only voter. So a
//! machine is down for a while before its disk counts as lost; if the group has come to need it, it runs again.

use crate::event::{Death, Event, Place};
use crate::group::Group;
use crate::node::Subject;
use crate::system::{MS, SECOND, System};
use crate::world::World;
use catstore::cluster::directory::DirectoryCommand;
use catstore::cluster::membership::index_of;

/// No leader takes a machine for alive that is down for so long.
const DOWN: u64 = 7 * SECOND;

/// So often it is asked whether the group can do without it, before it runs again.
const TRIES: u32 = 8;

impl World {
    /// True if nobody joins, is lost or is replaced.
    pub fn nobody_changes(&self) -> bool {
        self.operator.is_idle() && self.losing.is_none()
    }

    /// A worker goes down, and is lost if its group can do without it.
    pub(super) fn lose_worker(&mut self, group: u32) {
        if let Some(victim) = self.dispensable(group) {
            take_down(&mut self.sys, self.workers.group_mut(group), victim);
            self.begin_loss(Place::Worker(victim));
        }
    }

    /// A worker is to leave its group for good, whoever of the others runs just then.
    pub(super) fn drain_worker(&mut self, group: u32) {
        let there = self.workers.group(group).there();
        if there.len() < 2 || !self.nobody_changes() || self.somebody_leaves(group) {
            return;
        }
        let leader = self.workers.group(group).leader().filter(|_| self.sys.one_in(2));
        let victim = leader.unwrap_or(there[self.sys.random.up_to(there.len() - 1)]);
        if let Some(index) = index_of(victim) {
            self.operator.order(&mut self.sys, DirectoryCommand::DrainMember { index });
        }
    }

    /// True while a worker runs, or may, that has been told to leave its group; or if no master knows.
    fn somebody_leaves(&self, group: u32) -> bool {
        let Some(directory) = self.directory() else { return true };
        let leaves = |id: &u64| {
            let entry = index_of(*id).and_then(|index| directory.workers.get(&index));
            entry.is_some_and(|entry| entry.removed.is_some())
        };
        self.workers.group(group).there().iter().any(leaves)
    }

    /// A master goes down, and is lost if the others can do without it.
    pub(super) fn lose_master(&mut self) {
        let there = self.masters.there();
        let victim = there[self.sys.random.up_to(there.len() - 1)];
        if there.len() > 2 && self.nobody_changes() && self.masters.can_lose(victim) {
            take_down(&mut self.sys, &mut self.masters, victim);
            self.begin_loss(Place::Master(victim));
        }
    }

    fn begin_loss(&mut self, place: Place) {
        self.losing = Some(place);
        self.sys.after(DOWN, Event::Lost(place, TRIES));
    }

    /// A machine has been down for a while: now it is lost for good, unless the others cannot do without it.
    pub fn lost(&mut self, place: Place, tries: u32) -> Result<(), String> {
        let (can_lose, id) = match place {
            Place::Worker(id) => (self.workers.at(place).is_some_and(|group| group.can_lose(id)), id),
            Place::Master(id) => (self.masters.can_lose(id), id),
            Place::Client(_) => return Ok(()),
        };
        if !can_lose && tries > 0 && self.sys.faults {
            self.sys.after(500 * MS, Event::Lost(place, tries - 1));
            return Ok(());
        }
        self.losing = None;
        if !can_lose {
            return self.run_again(place);
        }
        match (place, index_of(id)) {
            (Place::Master(_), Some(index)) => {
                self.sys.count("master lost for good");
                self.operator.remove_master(&mut self.sys, index);
            }
            (_, index) => {
                self.sys.count("worker lost for good");
                let group = self.workers.group_of(id);
                self.operator.join(&mut self.sys, group, index);
            }
        }
        Ok(())
    }

    fn run_again(&mut self, place: Place) -> Result<(), String> {
        match place {
            Place::Worker(id) => match self.workers.node_mut(id) {
                Some(node) => {
                    (node.gone, node.given_up) = (false, false);
                    node.start(&mut self.sys)
                }
                None => Ok(()),
            },
            Place::Master(id) => match self.masters.nodes.get_mut(&id) {
                Some(node) => {
                    (node.gone, node.given_up) = (false, false);
                    node.start(&mut self.sys)
                }
                None => Ok(()),
            },
            Place::Client(_) => Ok(()),
        }
    }

    /// Some worker that the group could do without for good.
    fn dispensable(&mut self, group: u32) -> Option<u64> {
        let there = self.workers.group(group).there();
        let victim = there[self.sys.random.up_to(there.len() - 1)];
        let members = self.workers.group(group);
        let known = members.nodes.get(&victim).is_some_and(|node| !node.given_up);
        let can_lose = known && there.len() > 1 && members.can_lose(victim);
        (can_lose && self.nobody_changes() && !self.somebody_leaves(group)).then_some(victim)
    }

    /// Masters hear nothing of a worker, and it is replaced; its group goes on with it until it hears of that.
    pub(super) fn replace_unheard(&mut self, group: u32) {
        let Some(victim) = self.dispensable(group) else { return };
        self.sys.count("worker given up while it runs");
        self.sys.net.silence(Place::Worker(victim));
        if let Some(node) = self.workers.node_mut(victim) {
            node.given_up = true;
        }
        self.operator.join(&mut self.sys, Some(group), index_of(victim));
    }

    /// A worker that was replaced is there again: it may have been lost, or silent.
    pub fn come_back(&mut self, id: u64) -> Result<(), String> {
        self.sys.net.hear(Place::Worker(id));
        let Some(node) = self.workers.node_mut(id) else { return Ok(()) };
        if node.gone && self.sys.faults && self.sys.one_in(2) {
            self.sys.count("replaced worker came back");
            node.gone = false;
            node.start(&mut self.sys)?;
        }
        Ok(())
    }
}

/// A machine loses its power, and stays down.
fn take_down<M: Subject>(sys: &mut System, group: &mut Group<M>, victim: u64) {
    if let Some(node) = group.nodes.get_mut(&victim) {
        node.fall(sys, Death::Power);
        node.gone = true;
        node.given_up = true;
    }
}
