//! What the leader of a group does next to make its Raft configuration what the directory wants. Pure: from a
//! declared state ([`Wanted`]) and what the leader knows ([`Current`]) to one step ([`Change`]); the leader carries
//! it out and asks again.
//!
//! The rule: of the members that have joined and are not removed, the largest odd number votes; the rest are
//! standbys. Voter sets go from odd to odd in one joint change that is left explicitly. A voter that is merely dead
//! stays; one that the directory calls unfit changes places with a live standby that has caught up; one that is
//! removed leaves for good. Safety is Raft's; what is weighed here is that the group goes on serving.
//!
//! All ids are Raft ids: the index of a worker or master + 1.

use super::directory::Directory;
use super::view::ClusterView;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What the directory wants of a group. The three sets hold Raft ids. A member of the Raft configuration that is in
/// none of them is left alone: the leader's view may be older than the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Who should be a member.
    pub members: BTreeSet<u64>,
    /// Who may never be one again.
    pub removed: BTreeSet<u64>,
    /// Members that have been dead for too long to vote.
    pub unfit: BTreeSet<u64>,
}

/// The Raft id of a worker or master.
pub fn raft_id(index: u32) -> u64 {
    u64::from(index) + 1
}

/// The index of the worker or master with that Raft id; none for what is no id.
pub fn index_of(raft_id: u64) -> Option<u32> {
    raft_id.checked_sub(1).and_then(|index| u32::try_from(index).ok())
}

/// What `view` wants of a group of workers; nothing of a group that it does not know.
pub fn wanted(view: &ClusterView, group: u32) -> Wanted {
    let Some(group) = view.group(group) else { return Wanted::default() };
    Wanted {
        members: group.members.iter().map(|member| raft_id(member.index)).collect(),
        removed: group.removed.iter().map(|index| raft_id(*index)).collect(),
        unfit: group
            .members
            .iter()
            .filter(|member| !member.fit)
            .map(|member| raft_id(member.index))
            .collect(),
    }
}

/// What the directory wants of the masters' own group. Before the first master has registered that is master 0.
pub fn wanted_masters(directory: &Directory) -> Wanted {
    if directory.master_nodes.is_empty() {
        return Wanted { members: BTreeSet::from([raft_id(0)]), ..Wanted::default() };
    }
    let mut wanted = Wanted::default();
    for (index, master) in &directory.master_nodes {
        let id = raft_id(*index);
        if master.removed.is_some() {
            wanted.removed.insert(id);
            continue;
        }
        wanted.members.insert(id);
        if master.dead {
            wanted.unfit.insert(id);
        }
    }
    wanted
}

/// How far a member is, as its leader knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Peer {
    /// It answered lately.
    pub active: bool,
    /// It lacks little of the log.
    pub caught_up: bool,
    /// It has the chunks of all values that were written before the configuration in force.
    pub whole: bool,
}

/// The configuration in force on the node that leads, and what it knows of the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Current {
    /// The node that leads and asks.
    pub me: u64,
    /// The voters; in a joint configuration the incoming ones.
    pub voters: BTreeSet<u64>,
    /// The outgoing voters; not empty in a joint configuration.
    pub outgoing: BTreeSet<u64>,
    /// The standbys.
    pub learners: BTreeSet<u64>,
    /// Outgoing voters that become standbys when the joint configuration is left.
    pub learners_next: BTreeSet<u64>,
    /// What is known of each member; one that is missing is not active.
    pub peers: BTreeMap<u64, Peer>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A simple change: a new member joins as a standby.
    AddStandby(u64),
    /// A simple change: a standby leaves.
    Remove(u64),
    /// One joint change with explicit leaving.
    Voters {
        /// Standbys that become voters.
        promote: Vec<u64>,
        /// Voters that become standbys.
        demote: Vec<u64>,
        /// Voters that leave altogether.
        remove: Vec<u64>,
    },
    /// Leaves the joint configuration.
    LeaveJoint,
    /// Transfers leadership to that voter.
    HandOver(u64),
}

impl fmt::Display for Change {
    /// Names members by their index.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = |id: &u64| index_of(*id).map_or_else(|| "?".to_owned(), |index| index.to_string());
        match self {
            Change::AddStandby(id) => write!(f, "member {} joins as a standby", one(id)),
            Change::Remove(id) => write!(f, "member {} leaves", one(id)),
            Change::Voters { promote, demote, remove } => {
                let said = [(promote, "become voters"), (demote, "become standbys"), (remove, "leave")]
                    .into_iter()
                    .filter(|(ids, _)| !ids.is_empty())
                    .map(|(ids, what)| {
                        format!("{what}: {}", ids.iter().map(one).collect::<Vec<_>>().join(", "))
                    });
                f.write_str(&said.collect::<Vec<_>>().join("; "))
            }
            Change::LeaveJoint => f.write_str("the joint configuration is left"),
            Change::HandOver(id) => write!(f, "member {} is to lead", one(id)),
        }
    }
}

/// The next step, or none if the group is as it should be or must wait: for a member to answer, to catch up, or for
/// a majority. `leaving`: this node is about to stop and wants to be neither the leader nor the only voter.
pub fn next_change(wanted: &Wanted, current: &Current, leaving: bool) -> Option<Change> {
    let group = Group { wanted, current };
    if !current.outgoing.is_empty() {
        return group.out_of_joint(leaving);
    }
    if !current.voters.contains(&current.me) {
        return group.heir().map(Change::HandOver);
    }
    if leaving {
        return group.give_way();
    }
    group.reconcile()
}

/// The question and what can be said of single members.
struct Group<'a> {
    wanted: &'a Wanted,
    current: &'a Current,
}

impl Group<'_> {
    /// A joint configuration is left by a leader that votes in what follows; another hands over to one that does. It is left
    /// once a majority of those who vote then has the chunks of all values that were written before it began: till now it may
    /// be that only voters have them who leave.
    fn out_of_joint(&self, leaving: bool) -> Option<Change> {
        let Current { me, voters, .. } = self.current;
        if !voters.contains(me) {
            return self.heir().map(Change::HandOver);
        }
        match self.heir() {
            Some(heir) if leaving => Some(Change::HandOver(heir)),
            _ => self.keeps_values().then_some(Change::LeaveJoint),
        }
    }

    /// True if a majority of the voters has all values whole.
    fn keeps_values(&self) -> bool {
        let voters = &self.current.voters;
        2 * voters.iter().filter(|id| self.peer(**id).whole).count() > voters.len()
    }

    /// Before this node stops: another voter leads; a lone voter makes a standby the voter first.
    fn give_way(&self) -> Option<Change> {
        let Current { me, voters, .. } = self.current;
        if voters.len() > 1 {
            return self.heir().map(Change::HandOver);
        }
        let standby = self.candidates().into_iter().next()?;
        Some(Change::Voters { promote: vec![standby], demote: vec![*me], remove: Vec::new() })
    }

    fn reconcile(&self) -> Option<Change> {
        let Current { voters, learners, .. } = self.current;
        if let Some(standby) = learners.intersection(&self.wanted.removed).next() {
            return Some(Change::Remove(*standby));
        }
        let new = |id: &&u64| !voters.contains(id) && !learners.contains(id) && !self.removed(**id);
        if let Some(member) = self.wanted.members.iter().find(new) {
            return Some(Change::AddStandby(*member));
        }
        let chosen = self.choose()?;
        let (remove, demote) = voters.difference(&chosen).partition(|id| self.removed(**id));
        Some(Change::Voters { promote: chosen.difference(voters).copied().collect(), demote, remove })
    }

    /// The next voters, if they are others than now.
    fn choose(&self) -> Option<BTreeSet<u64>> {
        let voters = &self.current.voters;
        let members = voters.union(&self.current.learners).filter(|id| !self.removed(**id)).count();
        let mut rankings = [self.ranking(false), self.ranking(true)];
        let most = odd(members.min(rankings[0].len()));
        if most >= voters.len() {
            return self.first_that_serves(&rankings, voters.len(), most);
        }
        let held = self.held();
        if held.is_empty() {
            return self.first_that_serves(&rankings, odd(self.fit_now()).max(1), most);
        }
        for ranking in &mut rankings {
            ranking.extend(&held);
        }
        let most = odd(members.min(rankings[0].len()).min(voters.len()));
        self.first_that_serves(&rankings, most, most)
    }

    /// The largest choice of `least` to `most` voters, both odd, that keeps the group serving; none if that is how it
    /// is already.
    fn first_that_serves(&self, rankings: &[Vec<u64>], least: usize, most: usize) -> Option<BTreeSet<u64>> {
        let sizes = (least..=most).rev().step_by(2);
        let choices = sizes.flat_map(|size| rankings.iter().map(move |ranking| &ranking[..size]));
        let chosen = choices
            .map(|choice| choice.iter().copied().collect::<BTreeSet<u64>>())
            .find(|chosen| *chosen == self.current.voters || self.keeps_serving(chosen))?;
        (chosen != self.current.voters).then_some(chosen)
    }

    /// Who should vote, best first: voters that are fit, standbys that could, unfit voters where nobody takes their
    /// place. `prefer_live` puts standbys before fit voters that are dead or behind.
    fn ranking(&self, prefer_live: bool) -> Vec<u64> {
        let voters = &self.current.voters;
        let (mut unfit, mut fit): (Vec<u64>, Vec<u64>) =
            voters.iter().filter(|id| !self.removed(**id)).partition(|id| self.wanted.unfit.contains(id));
        fit.sort_by_key(|id| self.reluctance(*id));
        unfit.sort_by_key(|id| self.reluctance(*id));
        let kept = if prefer_live { fit.partition_point(|id| self.ready(*id)) } else { fit.len() };
        let behind = fit.split_off(kept);
        [fit, self.candidates(), behind, unfit].concat()
    }

    /// Removed voters that stay for a while, best first: as many as there are standbys that may yet catch up and take
    /// their places. A smaller set of voters would keep on fewer disks what is acknowledged meanwhile.
    fn held(&self) -> Vec<u64> {
        let Current { voters, learners, .. } = self.current;
        let coming = learners.iter().filter(|id| self.may_vote(**id) && !self.ready(**id)).count();
        let mut removed: Vec<u64> = voters.iter().filter(|id| self.removed(**id)).copied().collect();
        removed.sort_by_key(|id| self.reluctance(*id));
        removed.truncate(coming);
        removed
    }

    /// How many could be voters without one that is unfit or removed.
    fn fit_now(&self) -> usize {
        let fit = |id: &&u64| !self.removed(**id) && !self.wanted.unfit.contains(id);
        self.current.voters.iter().filter(fit).count() + self.candidates().len()
    }

    /// True if a majority of the voters in force answers, so that the change can be committed, and a majority of the
    /// chosen ones could go on alone. Nobody chosen is no choice.
    fn keeps_serving(&self, chosen: &BTreeSet<u64>) -> bool {
        let voters = &self.current.voters;
        let active = voters.iter().filter(|id| self.peer(**id).active).count();
        let ready = chosen.iter().filter(|id| self.ready(**id)).count();
        2 * active > voters.len() && 2 * ready > chosen.len()
    }

    /// The voter to lead next: fit before unfit before removed.
    fn heir(&self) -> Option<u64> {
        let others = self.current.voters.iter().filter(|id| **id != self.current.me && self.ready(**id));
        others.copied().min_by_key(|id| (self.removed(*id), self.wanted.unfit.contains(id), *id))
    }

    /// Standbys that could vote now.
    fn candidates(&self) -> Vec<u64> {
        let learners = self.current.learners.iter();
        learners.filter(|id| self.may_vote(**id) && self.ready(**id)).copied().collect()
    }

    /// What makes one voter less welcome than another: this node stays before all.
    fn reluctance(&self, id: u64) -> (bool, bool, bool, u64) {
        (id != self.current.me, !self.ready(id), !self.peer(id).active, id)
    }

    fn peer(&self, id: u64) -> Peer {
        let known = self.current.peers.get(&id).copied().unwrap_or_default();
        if id == self.current.me { Peer { active: true, caught_up: true, ..known } } else { known }
    }

    fn ready(&self, id: u64) -> bool {
        let peer = self.peer(id);
        peer.active && peer.caught_up
    }

    fn may_vote(&self, id: u64) -> bool {
        self.wanted.members.contains(&id) && !self.removed(id) && !self.wanted.unfit.contains(&id)
    }

    fn removed(&self, id: u64) -> bool {
        self.wanted.removed.contains(&id)
    }
}

/// The largest odd number that is not above `number`; 0 for 0.
pub(super) fn odd(number: usize) -> usize {
    number.saturating_sub(usize::from(number.is_multiple_of(2)))
}

#[cfg(test)]
mod tests;
