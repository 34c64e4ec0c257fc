//! What must hold at the end of a seed.

use crate::group::Group;
use crate::keys;
use crate::node::Subject;
use crate::residue;
use crate::vault;
use crate::world::World;
use catstore::cluster::membership::{Wanted, wanted, wanted_masters};
use catstore::replica::machine::Machine;

impl World {
    /// What must hold at the end.
    pub fn judge(&mut self) -> Result<(), String> {
        for client in &self.clients {
            client.judge(self.sys.now)?;
        }
        let leader = self.masters.leader().ok_or("no master leads at the end")?;
        let directory = self.masters.nodes[&leader].up.as_ref().map(|up| up.member.machine().publish());
        let directory = directory.ok_or("no master leads at the end")?;
        if !self.nobody_changes() {
            return Err(format!("the operator is not done: {}", self.operator.pending()));
        }
        agree(&self.masters, &wanted_masters(&directory), "masters")?;
        let mut drained = 0;
        for (id, group) in self.workers.groups() {
            if directory.group(*id).dissolved {
                gone(group)?;
                drained += 1;
                continue;
            }
            let waits = directory.slots.count(*id) > 0;
            if directory.group(*id).draining && !waits {
                return Err(format!("group {id} is drained, and is not dissolved at the end"));
            }
            agree(group, &wanted(&directory.view(), *id), &format!("workers of group {id}"))?;
            let leader = group.leader().map(|leader| &group.nodes[&leader]);
            let counters =
                leader.and_then(|node| node.up.as_ref()).map(|up| up.member.machine().publish().counters);
            let (counters, acknowledged) =
                (counters.ok_or("no worker leads at the end")?, self.sys.acknowledged(*id));
            if counters.version < acknowledged {
                return Err(format!(
                    "group {id}: version {} at the end, {acknowledged} was acknowledged",
                    counters.version
                ));
            }
        }
        if self.several() {
            if let Some(order) = directory.moves.values().next() {
                return Err(format!("a move has not come to its end: {order:?}"));
            }
            residue::one_owner_per_slot(&self.workers, &directory)?;
            let live = self.workers.groups().values().filter(|group| !directory.group(group.id).dissolved);
            live.into_iter().try_for_each(residue::nothing_left)?;
            self.lister.judge(self.sys.now)?;
            self.history.lists_are_full()?;
        }
        self.judge_chunks()?;
        (0..drained).for_each(|_| self.sys.count("group drained"));
        self.history.versions_grow()?;
        let given_up = self.history.check(keys::KEYS)?;
        (0..given_up).for_each(|_| self.sys.count("history too hard to check"));
        (0..self.history.len()).for_each(|_| self.sys.count("operation in a history"));
        Ok(())
    }
}

impl World {
    /// At the end: after a few quiet rounds of each collector nothing is missing, and nothing is left.
    fn judge_chunks(&mut self) -> Result<(), String> {
        let World { sys, workers, .. } = self;
        // In the first round leaders forget uploads that broke off, in the second one the others hear of that.
        for _ in 0..2 {
            for node in workers.groups_mut().flat_map(|group| group.nodes.values_mut()) {
                node.clean(sys)?;
            }
        }
        let groups = workers.groups().values();
        groups.into_iter().try_for_each(|group| vault::nothing_missing_or_left(sys, group))
    }
}

/// Nobody is left of a group that was dissolved.
fn gone<M: Subject>(group: &Group<M>) -> Result<(), String> {
    match group.running().first() {
        Some(left) => {
            Err(format!("worker {left} of group {} runs at the end, which was dissolved", group.id))
        }
        None => Ok(()),
    }
}

/// Everybody is where the directory wants it, by the odd rule, and has applied the same.
fn agree<M: Subject>(group: &Group<M>, wanted: &Wanted, name: &str) -> Result<(), String> {
    let there: std::collections::BTreeSet<u64> = group.running().into_iter().collect();
    if there != wanted.members {
        return Err(format!("{name}: {there:?} run at the end, the directory wants {:?}", wanted.members));
    }
    let leader = group.leader().ok_or_else(|| format!("{name}: nobody leads at the end"))?;
    let membership = group.membership(leader).cloned().unwrap_or_default();
    let mut members: Vec<u64> = membership.voters.iter().chain(&membership.learners).copied().collect();
    members.sort_unstable();
    let odd = wanted.members.len() - usize::from(wanted.members.len().is_multiple_of(2));
    let joint = !membership.voters_outgoing.is_empty();
    if joint || membership.voters.len() != odd || !members.iter().eq(&wanted.members) {
        return Err(format!(
            "{name}: the configuration at the end is {membership:?}, the directory wants {wanted:?}"
        ));
    }
    let mut states: Vec<(u64, u64, u64)> = Vec::new();
    for node in group.nodes.values() {
        if let Some(up) = &node.up {
            states.push((up.member.machine().position().index, node.disk.digest(), node.id));
        }
    }
    let newest = states.iter().map(|(index, _, _)| *index).max().unwrap_or(0);
    match states.iter().find(|(index, _, _)| index + 40 < newest) {
        Some(behind) => Err(format!("{name}: a member is behind at the end: {behind:?} of {states:?}")),
        None => Ok(()),
    }
}
