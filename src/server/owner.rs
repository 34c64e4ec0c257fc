//! Who answers for a group: this member, another one, or nobody that is known. A member goes by what its replica
//! knows. Any other node goes by what it heard last of who leads, and tries the other members where that was wrong:
//! it may be wrong at any time, and then costs one more step and nothing else. Nor are routes more than a hint: which
//! groups may own a slot is told by them, by what was heard since (`given`), and by this member's own copy.

use super::address;
use super::forward::{self, MOST_HOPS};
use super::node::Mode;
use super::site::{Member, Site};
use crate::cluster::view::{ClusterView, GroupView, MemberView};
use crate::error::{Error, Kind, Result};
use crate::replica::handle::{KeyspaceHandle, Lead};
use crate::replica::keyspace::Published;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a member that did not answer is believed to be no leader, whoever says that it is: others may reach it
/// where this node does not.
const AVOID: Duration = Duration::from_secs(3);

/// A worker to send a request to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// Its index.
    pub(crate) index: u32,
    /// Where it serves.
    pub(crate) address: String,
    /// Its data folder, for the hint that starts it again.
    pub(crate) data: String,
}

/// Who answers a request.
pub(crate) enum Way {
    /// This member leads.
    Here(KeyspaceHandle),
    /// Another one may answer.
    There(Target),
    /// Nobody that is known, now.
    Nobody,
}

/// What this node heard of who leads the groups.
#[derive(Default)]
pub(crate) struct Leaders {
    groups: Mutex<BTreeMap<u32, Belief>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Belief {
    leader: Option<u32>,
    /// Who did not answer, and when.
    avoided: Option<(u32, Instant)>,
}

impl Belief {
    fn avoids(&self, index: u32) -> bool {
        self.avoided.is_some_and(|(avoided, since)| avoided == index && since.elapsed() < AVOID)
    }
}

impl Leaders {
    /// Somebody says that worker `index` leads `group`.
    pub(crate) fn heard(&self, group: u32, index: u32) {
        let mut groups = self.groups();
        let belief = groups.entry(group).or_default();
        if !belief.avoids(index) {
            belief.leader = Some(index);
        }
    }

    /// Worker `index` of `group` did not answer, or cannot.
    pub(crate) fn avoid(&self, group: u32, index: u32) {
        let mut groups = self.groups();
        let belief = groups.entry(group).or_default();
        belief.leader = belief.leader.filter(|leader| *leader != index);
        belief.avoided = Some((index, Instant::now()));
    }

    /// Worker `index` says that it does not lead `group`.
    pub(crate) fn deny(&self, group: u32, index: u32) {
        if let Some(belief) = self.groups().get_mut(&group) {
            belief.leader = belief.leader.filter(|leader| *leader != index);
        }
    }

    fn of(&self, group: u32) -> Belief {
        self.groups().get(&group).copied().unwrap_or_default()
    }

    fn groups(&self) -> MutexGuard<'_, BTreeMap<u32, Belief>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Site {
    /// The groups that may own `slot`, the likeliest first; one at least. What was heard since the routes came is newer
    /// than they are, and so may be what is applied here. Errors: `NoWorker` if nobody owns it, and on a worker that does
    /// not know its group yet what it says of itself.
    pub(crate) fn owners(&self, slot: u16) -> Result<Vec<u32>> {
        let view = self.view();
        let own = match &self.member {
            Member::Worker(worker) => worker.group(),
            Member::Master(_) => None,
        };
        let (owns, gave) = match self.applied() {
            Some(published) => (published.slots.owner(slot).is_some(), published.moves.given_to(slot)),
            None => (false, None),
        };
        let routed = view.slots.owner(slot).filter(|group| view.group(*group).is_some());
        let mut owners = Vec::with_capacity(4);
        for group in [self.given.owner(slot), own.filter(|_| owns), gave, routed].into_iter().flatten() {
            if !owners.contains(&group) {
                owners.push(group);
            }
        }
        if owners.is_empty() {
            owners.push(self.group_or_own(None)?);
        }
        Ok(owners)
    }

    /// The group that most likely owns `slot`. Errors as [`Site::owners`].
    pub(crate) fn group_of_slot(&self, slot: u16) -> Result<u32> {
        self.owners(slot)?.first().copied().ok_or_else(|| self.no_worker())
    }

    /// The groups that may own slots; one at least. Errors as [`Site::owners`].
    pub(crate) fn groups_of_all(&self) -> Result<BTreeSet<u32>> {
        let view = self.view();
        let mut groups = self.given.groups();
        groups.extend(view.slots.ranges().iter().map(|range| range.group));
        if let Member::Worker(worker) = &self.member
            && self.applied().is_some_and(|published| !published.slots.ranges().is_empty())
        {
            groups.extend(worker.group());
        }
        if groups.is_empty() {
            groups.insert(self.group_or_own(None)?);
        }
        Ok(groups)
    }

    /// What this worker's replica has published, if it is open.
    fn applied(&self) -> Option<Published> {
        let Member::Worker(worker) = &self.member else { return None };
        let Mode::Open(replica) = &*worker.node.mode() else { return None };
        // What the rows of a promoted group say of slots is no authority.
        if replica.awaits().ok()? {
            return None;
        }
        Some(replica.applied().ok()?.published)
    }

    /// The group of this worker. Errors: `Moved` on a node that is in none.
    pub(crate) fn own_group(&self) -> Result<u32> {
        match &self.member {
            Member::Worker(worker) => worker.group().ok_or_else(|| self.refusal()),
            Member::Master(_) => Err(forward::moved()),
        }
    }

    /// True if this is the only worker that is known: nobody else can ever do what it is asked.
    pub(crate) fn is_alone(&self) -> bool {
        let Member::Worker(worker) = &self.member else { return false };
        let view = self.view();
        worker
            .group()
            .is_some_and(|own| view.groups.iter().all(|group| group.group == own && group.members.len() <= 1))
    }

    /// The id of `group`. A worker without routes asks its own store, which knows what it owns.
    pub(crate) fn group_or_own(&self, group: Option<&GroupView>) -> Result<u32> {
        match (&self.member, group) {
            (_, Some(group)) => Ok(group.group),
            (Member::Worker(worker), None) => worker.group().ok_or_else(|| self.refusal()),
            (Member::Master(_), None) => Err(self.no_worker()),
        }
    }

    /// True if this node is a member of `group`.
    pub(crate) fn is_member(&self, group: u32) -> bool {
        matches!(&self.member, Member::Worker(worker) if worker.group() == Some(group))
    }

    /// True if somebody else could ever lead `group`.
    pub(crate) fn has_others(&self, group: u32) -> bool {
        self.view().group(group).is_some_and(|group| group.members.len() > 1)
    }

    /// The routes, with who leads and who votes as far as this node knows.
    pub(crate) fn view_for_others(&self) -> ClusterView {
        let mut view = match &self.member {
            Member::Master(master) => master.view(),
            Member::Worker(_) => ClusterView::default(),
        };
        if view.cluster.is_empty() {
            view = ClusterView::clone(&self.view());
        }
        let groups = view.groups.iter();
        let mut leaders: BTreeMap<u32, u32> =
            groups.filter_map(|group| Some((group.group, self.leaders.of(group.group).leader?))).collect();
        leaders.extend(self.own_leader());
        view.set_leaders(&leaders);
        if let Member::Worker(worker) = &self.member
            && let Some(numbers) = worker.node.numbers().filter(|numbers| !numbers.voters.is_empty())
            && let Some(own) = view.groups.iter_mut().find(|group| worker.group() == Some(group.group))
        {
            for member in &mut own.members {
                member.voter = numbers.voters.contains(&member.index);
            }
        }
        view
    }

    /// This worker's group and who leads it, if it knows.
    pub(crate) fn own_leader(&self) -> Option<(u32, u32)> {
        let Member::Worker(worker) = &self.member else { return None };
        let Mode::Open(replica) = &*worker.node.mode() else { return None };
        let leader = match replica.lead() {
            Lead::Here => worker.index()?,
            Lead::There(index) => index,
            Lead::Nobody => return None,
        };
        Some((worker.group()?, leader))
    }

    /// Who answers for `group`, of which this node is a member, if the request came through `hops` other nodes.
    /// Errors: `Moved` where it must not go on, and what a node that is not open says.
    pub(crate) fn way_of_member(&self, group: u32, hops: u32) -> Result<Way> {
        let worker = self.worker()?;
        self.with_open(&worker.node.mode(), |replica| match replica.lead() {
            Lead::Here => Ok(Way::Here(replica.clone())),
            Lead::Nobody => Ok(Way::Nobody),
            Lead::There(_) if hops >= MOST_HOPS => Err(does_not_lead(group)),
            // A member whose address has not come round yet will be known in a moment.
            Lead::There(index) => {
                let view = self.view();
                let known = view.worker(index).map(|(_, member)| target(member));
                Ok(known.or_else(|| former(&view, group, index)).map_or(Way::Nobody, Way::There))
            }
        })
    }

    /// The member of `group` to ask next, of those that were not `tried`: who leads, as far as is known, then voters,
    /// then standbys. Not this node.
    pub(crate) fn next_member(&self, group: u32, tried: &[u32]) -> Option<Target> {
        let (view, belief) = (self.view(), self.leaders.of(group));
        let group = view.group(group)?;
        let own = match &self.member {
            Member::Worker(worker) => worker.index(),
            Member::Master(_) => None,
        };
        let leader = belief.leader.or(group.leader);
        let left =
            group.members.iter().filter(|member| Some(member.index) != own && !tried.contains(&member.index));
        left.min_by_key(|member| {
            let avoided = belief.avoids(member.index);
            (avoided, Some(member.index) != leader, !member.voter, !member.fit, member.index)
        })
        .map(target)
    }

    /// The error of a group that nobody leads.
    pub(crate) fn no_leader(&self, group: u32) -> Error {
        Error::new(Kind::NoMajority, format!("nobody leads group {group} at the moment"))
            .hint(self.way_out(group))
    }

    /// What to do about a group that nobody leads: who is to be started again and how, and what is left if that cannot
    /// be done.
    pub(crate) fn way_out(&self, group: u32) -> String {
        let (view, belief) = (self.view(), self.leaders.of(group));
        let own = match &self.member {
            Member::Worker(worker) if worker.group() == Some(group) => worker.index(),
            _ => None,
        };
        let members = view.group(group).map(|group| group.members.as_slice()).unwrap_or_default();
        // Of two it is clear who is missing; of more, status says it better than a line can.
        let (silent, other) = match members {
            [one, two] if own == Some(one.index) || own.is_none() && belief.avoids(two.index) => {
                (Some(two), Some(one))
            }
            [one, two] if own == Some(two.index) || own.is_none() && belief.avoids(one.index) => {
                (Some(one), Some(two))
            }
            _ => (None, None),
        };
        let start = match silent {
            Some(silent) => self.start_hint(&target(silent)),
            None => "see catstore status for who is down and how to start it".to_owned(),
        };
        let survivor = own.or(other.map(|other| other.index));
        let survivor = survivor.map_or_else(|| "IDX".to_owned(), |survivor| survivor.to_string());
        match members {
            [] | [_] => "try again a little later".to_owned(),
            _ => format!(
                "{start}; if a majority is lost for good: catstore promote {survivor} --accept-data-loss"
            ),
        }
    }

    /// How to go on without an answer of the worker `target`: it is started again, or, where too many are lost with it,
    /// another member of its group is promoted.
    pub(crate) fn way_without(&self, target: &Target) -> String {
        let start = self.start_hint(target);
        let own = match &self.member {
            Member::Worker(worker) => worker.index(),
            Member::Master(_) => None,
        };
        let view = self.view();
        let members = view.worker(target.index).map_or(&[][..], |(group, _)| &group.members);
        let others = || members.iter().map(|member| member.index).filter(|index| *index != target.index);
        match others().find(|index| Some(*index) == own).or_else(|| others().next()) {
            Some(survivor) => format!("{start}; {}", promote_hint(&survivor.to_string())),
            None => start,
        }
    }

    /// How to start the worker `target` again.
    pub(crate) fn start_hint(&self, target: &Target) -> String {
        let masters = self.view().masters.join(",");
        match address::split(&target.address).1 {
            Some(port) if !masters.is_empty() => {
                let (masters, data) = (address::quote(&masters), address::quote(&target.data));
                format!(
                    "if worker {} is down, start it: catstore worker {port} --master {masters} --data {data}",
                    target.index
                )
            }
            _ => format!("see whether worker {} runs", target.index),
        }
    }
}

/// The error of a member that was asked for something that only its leader can do: certainly not done.
pub(crate) fn does_not_lead(group: u32) -> Error {
    Error::new(Kind::Moved, format!("this member does not lead group {group}"))
        .hint("ask /cluster for the routes")
}

fn promote_hint(survivor: &str) -> String {
    format!("if a majority is lost for good: catstore promote {survivor} --accept-data-loss")
}

fn target(member: &MemberView) -> Target {
    Target { index: member.index, address: member.address.clone(), data: member.data.clone() }
}

/// A member that was drained and may lead until its group has let go of it.
fn former(view: &ClusterView, group: u32, index: u32) -> Option<Target> {
    let former = view.group(group)?.former.iter().find(|former| former.index == index)?;
    Some(Target { index, address: former.address.clone(), data: former.data.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_did_not_answer_is_no_leader_for_a_while() {
        let leaders = Leaders::default();
        leaders.heard(0, 2);
        assert_eq!(leaders.of(0).leader, Some(2));
        leaders.deny(0, 1);
        assert_eq!(leaders.of(0).leader, Some(2), "another one said so of itself");
        leaders.deny(0, 2);
        assert_eq!(leaders.of(0).leader, None);
        leaders.heard(0, 2);
        leaders.avoid(0, 2);
        leaders.heard(0, 2);
        assert_eq!(leaders.of(0).leader, None, "an old rumour");
        leaders.heard(0, 1);
        assert_eq!((leaders.of(0).leader, leaders.of(1).leader), (Some(1), None));
        assert!(leaders.of(0).avoids(2) && !leaders.of(0).avoids(1));
    }
}
