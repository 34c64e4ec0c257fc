//! Single steps as a table, and whole ways from any start to the end of it.

use super::{Change, Current, Peer, Wanted, index_of, next_change, odd, raft_id, wanted, wanted_masters};
use crate::cluster::directory::{Directory, MasterEntry};
use crate::cluster::view::{ClusterView, GroupView, MemberView};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const READY: Peer = Peer { active: true, caught_up: true, whole: true };
const BEHIND: Peer = Peer { caught_up: false, ..READY };
const DEAD: Peer = Peer { active: false, ..BEHIND };
/// Lacks chunks of values that are older than the configuration.
const HOLLOW: Peer = Peer { whole: false, ..READY };

fn set(ids: &[u64]) -> BTreeSet<u64> {
    ids.iter().copied().collect()
}

/// A group of the members 1 to `members`, of which nobody is removed or unfit.
fn members(members: u64) -> Wanted {
    Wanted { members: (1..=members).collect(), ..Wanted::default() }
}

/// What member 1 knows as the leader: all are ready.
fn led_by_1(voters: &[u64], learners: &[u64]) -> Current {
    let all = voters.iter().chain(learners).chain(&[1]);
    Current {
        me: 1,
        voters: set(voters),
        learners: set(learners),
        peers: all.map(|id| (*id, READY)).collect(),
        ..Current::default()
    }
}

fn with(mut current: Current, peers: &[(u64, Peer)]) -> Current {
    current.peers.extend(peers.iter().copied());
    current
}

fn voters(promote: &[u64], demote: &[u64], remove: &[u64]) -> Option<Change> {
    Some(Change::Voters { promote: promote.to_vec(), demote: demote.to_vec(), remove: remove.to_vec() })
}

fn step(wanted: &Wanted, current: &Current) -> Option<Change> {
    next_change(wanted, current, false)
}

#[test]
fn a_new_member_joins_as_a_standby() {
    assert_eq!(step(&members(1), &led_by_1(&[1], &[])), None);
    assert_eq!(step(&members(2), &led_by_1(&[1], &[])), Some(Change::AddStandby(2)));
    assert_eq!(step(&members(2), &led_by_1(&[1], &[2])), None, "an even number does not vote");
}

#[test]
fn voters_grow_from_odd_to_odd_once_all_have_caught_up() {
    let current = led_by_1(&[1], &[2, 3]);
    assert_eq!(step(&members(3), &current), voters(&[2, 3], &[], &[]));
    assert_eq!(step(&members(3), &with(current.clone(), &[(3, BEHIND)])), None);
    assert_eq!(step(&members(3), &with(current, &[(2, DEAD)])), None);
    assert_eq!(step(&members(4), &led_by_1(&[1, 2, 3], &[4])), None);
    assert_eq!(step(&members(5), &led_by_1(&[1, 2, 3], &[4, 5])), voters(&[4, 5], &[], &[]));
}

#[test]
fn a_dead_voter_stays_and_an_unfit_one_changes_places() {
    let current = with(led_by_1(&[1, 2, 3], &[4]), &[(3, DEAD)]);
    assert_eq!(step(&members(4), &current), None);
    let unfit = Wanted { unfit: set(&[3]), ..members(4) };
    assert_eq!(step(&unfit, &current), voters(&[4], &[3], &[]));
    assert_eq!(step(&unfit, &with(current.clone(), &[(4, BEHIND)])), None, "nobody could take its place");
    assert_eq!(step(&Wanted { unfit: set(&[3, 4]), ..members(4) }, &current), None);
    let back = Wanted { unfit: set(&[]), ..members(4) };
    assert_eq!(step(&back, &led_by_1(&[1, 2, 4], &[3])), None, "it does not change back");
}

#[test]
fn a_removed_voter_leaves() {
    let removed = |members: &[u64]| Wanted { members: set(members), removed: set(&[3]), ..Wanted::default() };
    let current = with(led_by_1(&[1, 2, 3], &[4]), &[(3, DEAD)]);
    assert_eq!(step(&removed(&[1, 2, 4]), &current), voters(&[4], &[], &[3]));
    let copying = with(current, &[(4, BEHIND)]);
    assert_eq!(step(&removed(&[1, 2, 4]), &copying), None, "it stays until the new one has caught up");
    let unfit = Wanted { unfit: set(&[4]), ..removed(&[1, 2, 4]) };
    assert_eq!(step(&unfit, &copying), voters(&[], &[2], &[3]), "nobody is coming");
    assert_eq!(step(&removed(&[1, 2]), &led_by_1(&[1, 2, 3], &[])), voters(&[], &[2], &[3]));
    assert_eq!(step(&removed(&[1, 2]), &led_by_1(&[1], &[2, 3])), Some(Change::Remove(3)));
    assert_eq!(step(&removed(&[1, 2, 3]), &led_by_1(&[1], &[2])), None, "it never joins again");
}

#[test]
fn a_leader_that_is_removed_hands_over_inside_the_joint_configuration() {
    let wanted = Wanted { members: set(&[2, 3]), removed: set(&[1]), ..Wanted::default() };
    assert_eq!(step(&wanted, &led_by_1(&[1, 2, 3], &[])), voters(&[], &[3], &[1]));
    let joint = Current { outgoing: set(&[1, 2, 3]), learners_next: set(&[3]), ..led_by_1(&[2], &[]) };
    assert_eq!(step(&wanted, &joint), Some(Change::HandOver(2)));
    assert_eq!(step(&wanted, &with(joint.clone(), &[(2, BEHIND)])), None, "it waits");
    let led_by_2 = Current { me: 2, ..joint };
    assert_eq!(step(&wanted, &led_by_2), Some(Change::LeaveJoint));
    assert_eq!(step(&wanted, &led_by_1(&[2], &[3])), Some(Change::HandOver(2)), "a leader that is no voter");
    let alone = Wanted { removed: set(&[1]), ..Wanted::default() };
    assert_eq!(step(&alone, &led_by_1(&[1], &[])), None, "never an empty set of voters");
}

#[test]
fn a_joint_configuration_is_left_once_a_majority_of_the_new_voters_has_all_chunks() {
    let wanted = Wanted { members: set(&[2]), removed: set(&[1]), ..Wanted::default() };
    let alone = Current { me: 2, outgoing: set(&[1]), ..led_by_1(&[2], &[]) };
    assert_eq!(step(&wanted, &with(alone.clone(), &[(2, HOLLOW)])), None, "only who leaves has them");
    assert_eq!(step(&wanted, &alone), Some(Change::LeaveJoint));
    let growing = Current { outgoing: set(&[1]), ..led_by_1(&[1, 2, 3], &[]) };
    assert_eq!(step(&members(3), &with(growing.clone(), &[(2, HOLLOW), (3, HOLLOW)])), None);
    assert_eq!(step(&members(3), &with(growing, &[(3, HOLLOW)])), Some(Change::LeaveJoint));
}

#[test]
fn the_leader_stays_a_voter_where_it_can() {
    let led_by_3 = Current { me: 3, ..led_by_1(&[1, 2, 3], &[]) };
    let led_by_3 = with(led_by_3, &[(1, READY)]);
    let wanted = Wanted { members: set(&[1, 3]), removed: set(&[2]), ..Wanted::default() };
    assert_eq!(step(&wanted, &led_by_3), voters(&[], &[1], &[2]));
}

#[test]
fn nothing_is_begun_while_joint_or_without_a_majority() {
    let joint = Current { outgoing: set(&[1]), ..led_by_1(&[1, 2, 3], &[]) };
    assert_eq!(step(&members(5), &joint), Some(Change::LeaveJoint));
    let dead = with(led_by_1(&[1, 2, 3], &[4, 5]), &[(2, DEAD), (3, DEAD)]);
    assert_eq!(step(&Wanted { unfit: set(&[2, 3]), ..members(5) }, &dead), None);
    // The two that are removed still answer: the group lives of them until one of the dead is back.
    let removed = Wanted { removed: set(&[4, 5]), ..members(3) };
    let living = with(led_by_1(&[1, 2, 3, 4, 5], &[]), &[(2, DEAD), (3, DEAD)]);
    assert_eq!(step(&removed, &living), None);
    let one_back = with(living, &[(2, READY)]);
    assert_eq!(step(&removed, &one_back), voters(&[], &[], &[4, 5]));
}

#[test]
fn one_that_the_view_does_not_know_is_left_alone() {
    assert_eq!(step(&members(2), &led_by_1(&[1, 2, 9], &[])), None);
    assert_eq!(step(&members(1), &led_by_1(&[1], &[8, 9])), None);
}

#[test]
fn before_it_stops_a_leader_gives_way() {
    let leave = |current: &Current| next_change(&members(3), current, true);
    let three = led_by_1(&[1, 2, 3], &[]);
    assert_eq!(leave(&three), Some(Change::HandOver(2)));
    assert_eq!(leave(&with(three.clone(), &[(2, BEHIND)])), Some(Change::HandOver(3)));
    assert_eq!(leave(&with(three, &[(2, DEAD), (3, BEHIND)])), None);
    let two = led_by_1(&[1], &[2]);
    assert_eq!(leave(&two), voters(&[2], &[1], &[]));
    assert_eq!(leave(&with(two, &[(2, BEHIND)])), None);
    let joint = Current { outgoing: set(&[1]), learners_next: set(&[1]), ..led_by_1(&[2], &[]) };
    assert_eq!(leave(&joint), Some(Change::HandOver(2)));
    assert_eq!(leave(&led_by_1(&[1], &[])), None);
    let growing = Current { outgoing: set(&[1]), ..led_by_1(&[1, 2, 3], &[]) };
    assert_eq!(leave(&growing), Some(Change::HandOver(2)), "the next leader leaves the joint configuration");
}

#[test]
fn what_is_wanted_comes_from_the_views() {
    assert_eq!((raft_id(0), index_of(1), index_of(0), index_of(u64::MAX)), (1, Some(0), None, None));
    let member =
        |index, fit| MemberView { index, address: String::new(), voter: false, fit, data: String::new() };
    let mut group = GroupView::new(0, None, vec![member(0, true), member(2, false)]);
    group.removed = vec![1];
    let view = ClusterView { groups: vec![group], ..ClusterView::default() };
    let expected = Wanted { members: set(&[1, 3]), removed: set(&[2]), unfit: set(&[3]) };
    assert_eq!(wanted(&view, 0), expected);
    assert_eq!(wanted(&view, 1), Wanted::default());
    let mut directory = Directory::default();
    assert_eq!(wanted_masters(&directory), members(1));
    for (index, removed, dead) in [(0, None, true), (1, Some("lost".to_owned()), false), (2, None, false)] {
        let (uuid, address, data) = (String::new(), String::new(), String::new());
        let entry = MasterEntry { uuid, address, data, starts: 1, run: 1, removed, dead };
        directory.master_nodes.insert(index, entry);
    }
    assert_eq!(
        wanted_masters(&directory),
        Wanted { members: set(&[1, 3]), removed: set(&[2]), unfit: set(&[1]) }
    );
}

/// A group that does what its leader asks, with members whose state does not change meanwhile.
#[derive(Debug, Clone)]
struct Model {
    wanted: Wanted,
    current: Current,
    /// The node that is about to stop.
    leaving: Option<u64>,
}

impl Model {
    fn next(&self) -> Option<Change> {
        next_change(&self.wanted, &self.current, self.leaving == Some(self.current.me))
    }

    fn ready(&self, id: u64) -> bool {
        id == self.current.me || self.current.peers.get(&id) == Some(&READY)
    }

    fn active(&self, ids: &BTreeSet<u64>) -> bool {
        let active = |id: &&u64| **id == self.current.me || self.current.peers[*id].active;
        2 * ids.iter().filter(active).count() > ids.len()
    }

    /// Carries out a step; what must not be asked for fails.
    fn apply(&mut self, change: &Change) {
        let Wanted { members, removed, .. } = &self.wanted;
        let known = |current: &Current, id| current.voters.contains(&id) || current.learners.contains(&id);
        match change {
            Change::AddStandby(id) => {
                assert!(!known(&self.current, *id) && members.contains(id) && !removed.contains(id));
                assert!(self.current.outgoing.is_empty());
                self.current.learners.insert(*id);
            }
            Change::Remove(id) => {
                assert!(removed.contains(id) && self.current.outgoing.is_empty());
                assert!(self.current.learners.remove(id), "only a standby");
            }
            Change::Voters { promote, demote, remove } => {
                assert!(self.current.outgoing.is_empty());
                assert!(promote.iter().all(|id| self.current.learners.contains(id) && self.ready(*id)));
                assert!(promote.iter().all(|id| !removed.contains(id)));
                assert!(remove.iter().all(|id| removed.contains(id)), "only the removed leave");
                assert!(demote.iter().chain(remove).all(|id| self.current.voters.contains(id)));
                let mut incoming = self.current.voters.clone();
                incoming.retain(|id| !demote.contains(id) && !remove.contains(id));
                incoming.extend(promote);
                assert_eq!(incoming.len() % 2, 1, "from odd to odd");
                assert!(self.active(&self.current.voters), "begun without a majority");
                let ready = incoming.iter().filter(|id| self.ready(**id)).count();
                assert!(2 * ready > incoming.len(), "the new voters could not serve");
                self.current.learners.retain(|id| !promote.contains(id));
                self.current.outgoing = std::mem::replace(&mut self.current.voters, incoming);
                self.current.learners_next = demote.iter().copied().collect();
            }
            Change::LeaveJoint => {
                assert!(!self.current.outgoing.is_empty() && self.current.voters.contains(&self.current.me));
                self.current.outgoing.clear();
                let standbys = std::mem::take(&mut self.current.learners_next);
                self.current.learners.extend(standbys);
            }
            Change::HandOver(id) => {
                assert!(*id != self.current.me && self.current.voters.contains(id) && self.ready(*id));
                self.current.me = *id;
            }
        }
    }

    /// Goes on to the end; returns how many joint changes that took.
    fn settle(&mut self) -> usize {
        let mut joint = 0;
        for _ in 0..60 {
            let Some(change) = self.next() else { return joint };
            joint += usize::from(matches!(change, Change::Voters { .. }));
            self.apply(&change);
        }
        panic!("it never ends: {self:?} wants {:?}", self.next());
    }

    fn joined(&self) -> BTreeSet<u64> {
        self.current.voters.union(&self.current.learners).copied().collect()
    }

    fn may_vote(&self, id: u64) -> bool {
        let Wanted { members, removed, unfit } = &self.wanted;
        members.contains(&id) && !removed.contains(&id) && !unfit.contains(&id)
    }

    /// Every other odd set of voters that could be chosen, by brute force.
    fn others(&self) -> Vec<BTreeSet<u64>> {
        let Current { voters, learners, .. } = &self.current;
        let promotable = learners.iter().filter(|id| self.may_vote(**id) && self.ready(**id));
        let pool: Vec<u64> = voters.iter().chain(promotable).copied().collect();
        let most = odd(self.joined().difference(&self.wanted.removed).count());
        (1..1u32 << pool.len())
            .map(|bits| (0..pool.len()).filter(|at| bits >> at & 1 == 1).map(|at| pool[at]).collect())
            .filter(|set: &BTreeSet<u64>| set.len() % 2 == 1 && set.len() <= most && set != voters)
            .filter(|set| 2 * set.iter().filter(|id| self.ready(**id)).count() > set.len())
            .collect()
    }

    /// What must hold at the end, beyond what each step was checked for.
    fn check(&self) {
        let Wanted { members, removed, unfit } = &self.wanted;
        let Current { me, voters, learners, outgoing, .. } = &self.current;
        if !outgoing.is_empty() || !voters.contains(me) {
            let stuck = voters.iter().all(|id| id == me || !self.ready(*id));
            assert!(stuck && !voters.contains(me), "a joint configuration was not left");
            return;
        }
        assert!(members.is_subset(&self.joined()), "somebody did not join");
        assert!(learners.is_disjoint(removed), "a removed standby is still there");
        if !self.active(voters) {
            return;
        }
        let gone = |set: &BTreeSet<u64>| set.intersection(removed).count();
        let dead = |set: &BTreeSet<u64>| set.difference(removed).filter(|id| unfit.contains(id)).count();
        let fit = |id: &&u64| !unfit.contains(id) && !removed.contains(id);
        let coming = learners.iter().any(|id| self.may_vote(*id) && !self.ready(*id));
        let living = voters.difference(removed).filter(|id| self.ready(**id)).count();
        if 2 * living <= voters.len() {
            // It lives by members that leave, and may wait for those that stay.
            return;
        }
        let waits = coming || voters.iter().filter(fit).any(|id| !self.ready(*id));
        for other in self.others() {
            let no_worse = other.len() >= voters.len() && gone(&other) <= gone(voters);
            let better = no_worse
                && dead(&other) <= dead(voters)
                && (other.len() > voters.len() || gone(&other) < gone(voters) || dead(&other) < dead(voters));
            assert!(!better, "{other:?} would be better");
            let keeps = voters.iter().filter(fit).count() <= other.iter().filter(fit).count() + 1;
            let smaller = !waits && gone(&other) < gone(voters) && dead(&other) <= dead(voters) && keeps;
            assert!(!smaller, "{other:?} would do without the removed");
        }
    }
}

const IDS: std::ops::RangeInclusive<u64> = 1..=8;

/// Any group: each id has a role in the configuration, a wish of the directory, and a state.
fn any_model(odd_start: bool) -> impl Strategy<Value = Model> {
    let one = (0..7u8, 0..5u8, prop_oneof![3 => Just(READY), 1 => Just(BEHIND), 2 => Just(DEAD)]);
    let nodes = proptest::collection::vec(one, IDS.count());
    (nodes, any::<prop::sample::Index>(), any::<bool>(), any::<bool>()).prop_filter_map(
        "a leader, an odd start",
        move |(nodes, leader, joint, leaving)| {
            let mut wanted = Wanted::default();
            let mut current = Current::default();
            for (id, (role, wish, peer)) in IDS.zip(nodes) {
                match role {
                    0 | 1 => drop(current.voters.insert(id)),
                    2 => drop(current.learners.insert(id)),
                    3 if joint => drop(current.voters.insert(id) && current.outgoing.insert(id)),
                    4 if joint => drop(current.outgoing.insert(id)),
                    5 if joint => drop(current.outgoing.insert(id) && current.learners_next.insert(id)),
                    _ => {}
                }
                match wish {
                    0 | 1 => drop(wanted.members.insert(id)),
                    2 => drop(wanted.members.insert(id) && wanted.unfit.insert(id)),
                    3 => drop(wanted.removed.insert(id)),
                    _ => {}
                }
                current.peers.insert(id, peer);
            }
            let leaders: Vec<u64> = current.voters.union(&current.outgoing).copied().collect();
            if current.voters.is_empty() || odd_start && current.voters.len() % 2 == 0 {
                return None;
            }
            current.me = *leader.get(&leaders);
            current.peers.insert(current.me, READY);
            let leaving = leaving.then_some(current.me);
            Some(Model { wanted, current, leaving })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, max_global_rejects: 1 << 20, ..ProptestConfig::default() })]

    #[test]
    fn every_way_ends_where_it_should(model in any_model(true)) {
        let mut model = Model { leaving: None, ..model };
        let changes = model.settle();
        prop_assert!(changes <= 4, "{} joint changes", changes);
        model.check();
        prop_assert_eq!(model.current.voters.len() % 2, 1);
    }

    #[test]
    fn a_node_that_leaves_ends_as_neither_leader_nor_only_voter(model in any_model(true)) {
        let leaving = model.current.me;
        let mut model = Model { leaving: Some(leaving), ..model };
        model.settle();
        let Current { me, voters, learners, .. } = &model.current;
        let heirs = voters.iter().any(|id| *id != leaving && model.ready(*id));
        let standbys = learners.iter().any(|id| model.may_vote(*id) && model.ready(*id));
        if *me == leaving {
            let could = if voters.len() == 1 { standbys } else { heirs };
            prop_assert!(!could || !voters.contains(me), "{:?}", model);
        } else {
            prop_assert!(voters.len() > 1 || !voters.contains(&leaving));
            // It comes back as a member like others, and the group settles without it leading.
            model.leaving = None;
            model.settle();
        }
    }

    #[test]
    fn an_even_start_is_mended(model in any_model(false)) {
        let mut model = Model { leaving: None, ..model };
        model.settle();
        let healthy = model.wanted.removed.is_empty() && model.current.peers.values().all(|peer| *peer == READY);
        prop_assert!(!healthy || model.current.voters.len() % 2 == 1);
    }

    #[test]
    fn a_healthy_group_obeys_the_odd_rule(model in any_model(true)) {
        let mut model = Model { leaving: None, ..model };
        model.wanted.unfit.clear();
        model.current.peers = IDS.map(|id| (id, READY)).collect();
        model.settle();
        let unknown = |id: &&u64| !model.wanted.members.contains(id) && !model.wanted.removed.contains(id);
        let joined = model.joined();
        prop_assume!(joined.iter().find(unknown).is_none());
        if model.wanted.members.is_empty() {
            prop_assert!(!model.current.voters.is_empty());
        } else {
            prop_assert_eq!(&joined, &model.wanted.members);
            prop_assert_eq!(model.current.voters.len(), odd(joined.len()));
        }
    }
}

#[test]
fn a_standby_that_catches_up_later_is_not_forgotten() {
    let wanted = members(3);
    let mut model = Model { wanted, current: led_by_1(&[1], &[]), leaving: None };
    model.current.peers = BTreeMap::from([(2, READY), (3, BEHIND)]);
    model.settle();
    assert_eq!(model.current.voters, set(&[1]));
    model.current.peers.insert(3, READY);
    model.settle();
    assert_eq!(model.current.voters, set(&[1, 2, 3]));
}

#[test]
fn changes_name_members_by_their_index() {
    let voters = Change::Voters { promote: vec![2, 3], demote: Vec::new(), remove: vec![1] };
    assert_eq!(voters.to_string(), "become voters: 1, 2; leave: 0");
    assert_eq!(Change::AddStandby(4).to_string(), "member 3 joins as a standby");
    assert_eq!(Change::HandOver(1).to_string(), "member 0 is to lead");
}
