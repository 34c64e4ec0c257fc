//! Scenes that wait for a state of the workers' group: looked for after every step.

use crate::event::{Death, Event, Place};
use crate::node::Node;
use crate::system::{MS, SECOND};
use crate::world::World;
use catstore::replica::core::Role;
use catstore::store::log::RaftLog;
use raft::eraftpb::EntryType;
use std::collections::BTreeSet;

/// What waits for its moment.
#[derive(Debug, Default)]
pub struct Plots {
    /// The next joint configuration is split.
    pub split_joint: bool,
    /// The next leader that a snapshot is pulled from falls away.
    pub break_pull: bool,
    /// A voter that is on its way out is to lead.
    outgoing: Outgoing,
}

/// How a voter that is on its way out comes to lead, act by act. Each act but the first has its end.
#[derive(Debug, Default, Clone, Copy)]
enum Outgoing {
    /// Nothing of the kind.
    #[default]
    Nothing,
    /// It waits for a joint configuration.
    Joint,
    /// This voter is to write the entry that leaves it, as the only one beside this leader.
    Writes(Act, u64),
    /// This voter has written it, and this leader has fallen or is about to.
    Written(Act, u64),
    /// This voter leads, and commits the entry.
    Leads(Act),
    /// It leads and votes no longer.
    Out(Act),
}

/// Who it is about, and until when.
#[derive(Debug, Clone, Copy)]
struct Act {
    outgoing: u64,
    until: u64,
}

impl World {
    /// Looks whether the moment of a plot has come.
    pub fn advance_plots(&mut self) {
        if !self.sys.faults {
            return;
        }
        let groups: Vec<u32> = self.plots.keys().copied().collect();
        for group in groups {
            self.advance_plots_of(group);
        }
    }

    /// What waits for its moment in this group.
    pub fn plots(&mut self, group: u32) -> &mut Plots {
        self.plots.entry(group).or_default()
    }

    fn advance_plots_of(&mut self, group: u32) {
        if self.plots(group).split_joint {
            self.split_if_joint(group);
        }
        if self.plots(group).break_pull {
            self.break_if_pulled(group);
        }
        match self.plots(group).outgoing {
            Outgoing::Nothing => {}
            Outgoing::Joint => self.await_joint(group),
            Outgoing::Writes(act, leader) => self.hold_up_leaving(group, act, leader),
            Outgoing::Written(act, leader) => self.await_outgoing_leader(group, act, leader),
            Outgoing::Leads(act) => self.await_its_exit(group, act),
            Outgoing::Out(act) => self.leave_it_alone(group, act),
        }
    }

    /// Once a joint configuration is there: whoever votes in the new one only is left alone with the leader.
    fn split_if_joint(&mut self, group: u32) {
        let Some(leader) = self.workers.group(group).leader() else { return };
        let Some(membership) = self.workers.group(group).membership(leader) else { return };
        if membership.voters_outgoing.is_empty() {
            return;
        }
        let new = membership.voters.iter().filter(|id| !membership.voters_outgoing.contains(id));
        let with: BTreeSet<u64> = new.copied().chain([leader]).collect();
        self.plots(group).split_joint = false;
        self.sys.count("split while joint");
        self.hurry(leader);
        self.part(group, &with);
    }

    /// Once a snapshot is pulled: the leader that holds it is killed or cut off.
    fn break_if_pulled(&mut self, group: u32) {
        let Some(source) = self.workers.group(group).nodes.values().find_map(Node::pulls_from) else {
            return;
        };
        self.plots(group).break_pull = false;
        self.sys.count("pull broken");
        let life = self.workers.group(group).nodes.get(&source).map_or(0, |node| node.life);
        if self.sys.one_in(2) {
            self.sys.after(0, Event::Die(Place::Worker(source), life, Death::Kill));
        } else {
            self.part(group, &BTreeSet::from([source]));
        }
    }

    /// A joint configuration is to come, and who leaves with it is to lead: a lone voter gives way to its standby, or a
    /// voter is replaced that runs.
    pub fn plan_outgoing_leader(&mut self, group: u32) {
        self.plots(group).outgoing = Outgoing::Joint;
        let Some(leader) = self.workers.group(group).leader() else { return };
        if self.workers.group(group).membership(leader).is_some_and(|membership| membership.voters.len() == 1)
        {
            let life = self.workers.group(group).nodes.get(&leader).map_or(0, |node| node.life);
            self.sys.after(0, Event::Leave(Place::Worker(leader), life));
            let later = self.sys.between(8 * SECOND, 14 * SECOND);
            self.sys.after(later, Event::Die(Place::Worker(leader), life, Death::Close));
        } else {
            self.replace_unheard(group);
        }
    }

    /// First act: of all others only a voter that is on its way out, preferably for good, hears more of the leader.
    fn await_joint(&mut self, group: u32) {
        let Some(leader) = self.workers.group(group).leader() else { return };
        let Some(membership) = self.workers.group(group).membership(leader) else { return };
        if !membership.voters.contains(&leader) {
            return;
        }
        let outgoing = membership.voters_outgoing.iter().copied();
        let leaving = outgoing.filter(|id| !membership.voters.contains(id));
        let Some(outgoing) = leaving.min_by_key(|id| membership.learners_next.contains(id)) else { return };
        let until = self.sys.now + 8 * SECOND;
        for other in
            self.workers.group(group).there().into_iter().filter(|id| *id != outgoing && *id != leader)
        {
            self.sys.net.cut(Place::Worker(leader), Place::Worker(other), until);
        }
        self.plots(group).outgoing = Outgoing::Writes(Act { outgoing, until }, leader);
    }

    /// Second act: it has written the entry that leaves the joint configuration. Before that can be committed, the
    /// leader is lost.
    fn hold_up_leaving(&mut self, group: u32, act: Act, leader: u64) {
        if !self.has_written_its_exit(group, act.outgoing, leader) {
            return self.end_in_time(group, act);
        }
        self.sys.count("leaving a joint configuration held up");
        self.hurry(act.outgoing);
        self.plots(group).outgoing = Outgoing::Written(act, leader);
        let alone = self
            .workers
            .group(group)
            .membership(leader)
            .is_some_and(|membership| membership.voters.len() == 1);
        if alone {
            // Without its vote nobody leads: it stays, and finds out that it cannot reach a majority.
            self.sys.net.cut(Place::Worker(act.outgoing), Place::Worker(leader), act.until);
        } else if let Some(node) = self.workers.group_mut(group).nodes.get_mut(&leader) {
            node.fall(&mut self.sys, Death::Kill);
            let later = self.sys.between(3 * SECOND, 7 * SECOND);
            self.sys.after(later, Event::Start(Place::Worker(leader)));
        }
    }

    /// True if `id` has written the entry that leaves the joint configuration, and `leader` has not committed it.
    fn has_written_its_exit(&self, group: u32, id: u64, leader: u64) -> bool {
        let core = |id: u64| self.workers.group(group).nodes.get(&id)?.up.as_ref().map(|up| up.member.core());
        let (Some(own), Some(leader)) = (core(id), core(leader)) else { return false };
        let entries =
            RaftLog::entries(own.log(), leader.commit() + 1, u64::MAX, u64::MAX).unwrap_or_default();
        entries.iter().any(|entry| entry.get_entry_type() == EntryType::EntryConfChangeV2)
    }

    /// Third act: the outgoing voter leads. The others' disks are slow, so that it has written more before it commits.
    fn await_outgoing_leader(&mut self, group: u32, act: Act, leader: u64) {
        if !self.leads(group, leader) {
            self.sys.net.mend(Place::Worker(act.outgoing), Place::Worker(leader));
        }
        if !self.leads(group, act.outgoing) || self.is_out(group, act.outgoing) {
            return self.end_in_time(group, act);
        }
        let stays = self
            .workers
            .group(group)
            .membership(act.outgoing)
            .is_some_and(|membership| membership.learners_next.contains(&act.outgoing));
        self.sys.count(if stays { "outgoing voter leads" } else { "removed voter leads" });
        self.hurry(act.outgoing);
        let until = self.sys.now + 2 * SECOND;
        for node in self.workers.group_mut(group).nodes.values_mut().filter(|node| node.id != act.outgoing) {
            node.slow_disk = (self.sys.between(10, 60) * MS, until);
        }
        self.plots(group).outgoing = Outgoing::Leads(act);
    }

    /// Fourth act: it has left the joint configuration, and votes no longer. If it was removed, the others go on to
    /// acknowledge what it has written. If it stands by from now on, its first message after that is lost: the word that
    /// another one is to lead.
    fn await_its_exit(&mut self, group: u32, act: Act) {
        if !self.leads(group, act.outgoing) || !self.is_out(group, act.outgoing) {
            return self.end_in_time(group, act);
        }
        self.sys.count("member leads that does not vote");
        let membership = self.workers.group(group).membership(act.outgoing);
        if membership.is_none_or(|membership| !membership.learners.contains(&act.outgoing)) {
            self.plots(group).outgoing = Outgoing::Nothing;
            return;
        }
        let until = self.sys.now + 120 * MS;
        for other in self.workers.group(group).there() {
            self.sys.net.cut(Place::Worker(act.outgoing), Place::Worker(other), until);
        }
        self.plots(group).outgoing = Outgoing::Out(act);
    }

    /// Last act: another member has left the joint configuration too. From here on the others go on without it.
    fn leave_it_alone(&mut self, group: u32, act: Act) {
        let others = self.workers.group(group).running().into_iter().filter(|id| *id != act.outgoing);
        let left = |id: u64| {
            self.workers.group(group).membership(id).is_some_and(|membership| {
                membership.voters_outgoing.is_empty() && membership.voters.contains(&id)
            })
        };
        if !self.leads(group, act.outgoing) || !others.into_iter().any(left) {
            return self.end_in_time(group, act);
        }
        self.sys.count("member that does not vote leads alone");
        self.plots(group).outgoing = Outgoing::Nothing;
        self.part(group, &BTreeSet::from([act.outgoing]));
        self.hurry(act.outgoing);
    }

    fn end_in_time(&mut self, group: u32, act: Act) {
        if self.sys.now > act.until {
            self.plots(group).outgoing = Outgoing::Nothing;
        }
    }

    fn leads(&self, group: u32, id: u64) -> bool {
        let up = self.workers.group(group).nodes.get(&id).and_then(|node| node.up.as_ref());
        up.is_some_and(|up| up.status.role == Role::Leader)
    }

    /// True if that member does not vote in the configuration that it goes by.
    fn is_out(&self, group: u32, id: u64) -> bool {
        self.workers.group(group).membership(id).is_some_and(|membership| {
            !membership.voters.contains(&id) && !membership.voters_outgoing.contains(&id)
        })
    }
}
