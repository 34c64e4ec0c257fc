//! A made-up cluster whose groups carry moves out at once, and what the masters make of what they hear.

use super::*;
use crate::cluster::directory::{DirectoryReply, Heard, Settings};
use crate::cluster::moves::Span;
use crate::cluster::slots::SLOTS;
use crate::cluster::view::RegisterRequest;
use proptest::prelude::*;

/// The directory, and the facts of the leader of each group.
struct World {
    directory: Directory,
    facts: BTreeMap<u32, WorkerFacts>,
}

impl World {
    /// So many groups of one member.
    fn new(groups: u32) -> World {
        let mut world = World {
            directory: Directory { cluster: "c".into(), ..Directory::default() },
            facts: BTreeMap::new(),
        };
        (0..groups).for_each(|_| world.found());
        world
    }

    fn found(&mut self) {
        let index = self.directory.next_index;
        let request = RegisterRequest {
            uuid: format!("u{index}"),
            run: 1,
            starts: 1,
            address: format!("h:{index}"),
            data: "/d".into(),
            index: None,
            cluster: None,
            clone: None,
            replace: None,
            accept_data_loss: false,
            software: "0".into(),
        };
        self.apply(&DirectoryCommand::Register { request, alive: Vec::new(), heard: Heard::default() });
        let facts = WorkerFacts {
            index,
            group: index,
            uuid: format!("u{index}"),
            state: "open".into(),
            role: "leader".into(),
            voters: vec![index],
            slots: self.directory.slots.of(index),
            ..WorkerFacts::default()
        };
        self.facts.insert(index, facts);
    }

    fn apply(&mut self, command: &DirectoryCommand) -> DirectoryReply {
        let reply = self.directory.apply(command);
        assert_eq!(self.directory.check(), Ok(()));
        assert!(!matches!(reply, DirectoryReply::Refused { .. }), "{command:?}: {reply:?}");
        reply
    }

    fn heard(&self) -> BTreeMap<u32, GroupFacts> {
        hear(&self.directory, self.facts.values().map(|facts| (facts, true)))
    }

    fn commands(&self) -> Vec<DirectoryCommand> {
        commands(&self.directory, &self.heard())
    }

    /// One round of the duty loop; returns how many commands there were.
    fn round(&mut self) -> usize {
        let commands = self.commands();
        commands.iter().for_each(|command| drop(self.apply(command)));
        commands.len()
    }

    fn say(&mut self, group: u32, id: u64, phase: Phase, withdrawn: bool) {
        let facts = MoveFacts { id, phase, withdrawn, keys: 0, bytes: 0, total: 0, waiting: 0, rate: 0 };
        self.facts.get_mut(&group).unwrap().moving = Some(facts);
    }

    /// Every move under way is carried out.
    fn carry_out(&mut self) {
        let orders: Vec<MoveOrder> = self.directory.moves.values().cloned().collect();
        for MoveOrder { id, slots, from, to, .. } in orders {
            let source = self.facts.get_mut(&from).unwrap();
            source.slots = source.slots.minus(&slots);
            let target = self.facts.get_mut(&to).unwrap();
            target.slots = target.slots.union(&slots);
            self.say(from, id, Phase::Done, false);
        }
    }

    /// Goes on until nothing happens; returns how many moves there were.
    fn settle(&mut self) -> u64 {
        let before = self.directory.next_move.max(1);
        for _ in 0..200 {
            self.carry_out();
            if self.round() == 0 {
                let owned = |facts: &WorkerFacts| facts.slots == self.directory.slots.of(facts.group);
                assert!(self.facts.values().all(owned));
                return self.directory.next_move.max(1) - before;
            }
        }
        panic!("it never ends: {:?}", self.commands());
    }

    fn counts(&self) -> Vec<u16> {
        self.directory.group_ids().into_iter().map(|group| self.directory.slots.count(group)).collect()
    }
}

#[test]
fn a_move_goes_from_order_to_done() {
    let mut world = World::new(2);
    let slots = SlotSet::of([Span { first: 8192, last: SLOTS - 1 }]);
    assert_eq!(world.commands(), [DirectoryCommand::StartMove { from: 0, to: 1, slots }]);
    world.round();
    assert_eq!(world.round(), 0, "it is under way");
    assert_eq!(under_way(&world.directory, &world.heard())[0].facts, None);
    world.say(0, 1, Phase::Follow, false);
    assert_eq!(world.round(), 0);
    let facts = under_way(&world.directory, &world.heard())[0].facts.clone();
    assert_eq!(facts.map(|facts| facts.phase), Some(Phase::Follow));
    // Either side may say it first.
    world.facts.get_mut(&1).unwrap().received = Some(1);
    assert_eq!(world.commands(), [DirectoryCommand::MoveSwitched { id: 1 }]);
    world.facts.get_mut(&1).unwrap().received = None;
    world.say(0, 1, Phase::Given, false);
    assert_eq!(world.commands(), [DirectoryCommand::MoveSwitched { id: 1 }]);
    world.round();
    assert_eq!(world.directory.slots.count(1), 8192);
    assert_eq!(world.round(), 0);
    world.say(0, 1, Phase::Done, false);
    assert_eq!(world.commands()[0], DirectoryCommand::MoveDone { id: 1, withdrawn: false });
    // The masters were away meanwhile: what the source owns tells.
    let source = world.facts.get_mut(&0).unwrap();
    (source.moving, source.moves_done) = (None, 1);
    source.slots = SlotSet::of([Span { first: 0, last: 8191 }]);
    assert_eq!(world.commands()[0], DirectoryCommand::MoveDone { id: 1, withdrawn: false });
    world.round();
    assert!(world.directory.moves.is_empty());
}

#[test]
fn a_move_that_was_refused_leaves_the_slots_where_they_were() {
    let mut world = World::new(2);
    world.round();
    world.apply(&DirectoryCommand::CancelMove { id: 1 });
    world.say(0, 1, Phase::Withdraw, true);
    assert_eq!(world.round(), 0);
    world.say(0, 1, Phase::Done, true);
    let done = DirectoryCommand::MoveDone { id: 1, withdrawn: true };
    assert_eq!(world.commands(), std::slice::from_ref(&done));
    let source = world.facts.get_mut(&0).unwrap();
    (source.moving, source.moves_done) = (None, 1);
    assert_eq!(world.commands(), std::slice::from_ref(&done), "it was declined");
    // A target that says that it owns the slots is right.
    world.facts.get_mut(&1).unwrap().received = Some(1);
    assert_eq!(world.commands(), [DirectoryCommand::MoveDone { id: 1, withdrawn: false }]);
    world.facts.get_mut(&1).unwrap().received = None;
    world.round();
    assert_eq!(world.directory.slots.count(0), SLOTS);
}

#[test]
fn nothing_begins_without_both_leaders() {
    let mut world = World::new(2);
    let facts = world.facts.remove(&1).unwrap();
    assert_eq!(world.commands(), []);
    assert_eq!(plan(&world.directory, &world.heard(), None).silent, [1]);
    let dead = hear(&world.directory, [(&world.facts[&0], true), (&facts, false)]);
    assert_eq!((dead[&1].voters, dead[&1].leader.clone()), (Some(1), None));
    assert_eq!(commands(&world.directory, &dead), []);
    let former = WorkerFacts { incarnation: 7, ..facts.clone() };
    assert_eq!(hear(&world.directory, [(&former, true)]), BTreeMap::new());
    let stranger = WorkerFacts { uuid: "x".into(), ..facts.clone() };
    assert_eq!(hear(&world.directory, [(&stranger, true)]), BTreeMap::new());
    // A source whose own state does not have the slots gives none of them.
    world.facts.insert(1, facts);
    world.facts.get_mut(&0).unwrap().slots = SlotSet::default();
    assert_eq!(world.commands(), []);
}

#[test]
fn rebalancing_can_be_off_and_asked_for_once() {
    let mut world = World::new(2);
    world.apply(&DirectoryCommand::Settings(Settings { rebalance: false, ..Settings::default() }));
    assert_eq!(world.settle(), 0);
    let asked = Rebalance { accept_fewer_copies: false };
    let plan = plan(&world.directory, &world.heard(), Some(asked));
    assert_eq!((plan.moves.len(), plan.moves[0].slots.count(), plan.shares[&1]), (1, 8192, 8192));
    world.apply(&DirectoryCommand::Rebalance(Some(asked)));
    assert_eq!((world.settle(), world.counts()), (1, vec![8192, 8192]));
    assert_eq!(world.directory.asked, None, "it is over");
    world.found();
    assert_eq!(world.settle(), 0);
    world.apply(&DirectoryCommand::DrainGroup { group: 0, undo: false });
    world.settle();
    assert_eq!(world.counts(), [0, 8192, 8192], "who drains does, and only that");
}

#[test]
fn a_group_of_three_gives_to_one_only_if_that_is_accepted() {
    let mut world = World::new(2);
    world.facts.get_mut(&0).unwrap().voters = vec![0, 5, 6];
    let facts = world.facts.get_mut(&0).unwrap();
    (facts.keys, facts.bytes) = (1000, 4000);
    assert_eq!(world.settle(), 0);
    let now = placement(&world.directory, &world.heard());
    assert_eq!(now.waits[0].to_string(), "group 1 waits for 2 more members");
    let asked = Rebalance { accept_fewer_copies: true };
    let plan = plan(&world.directory, &world.heard(), Some(asked));
    assert_eq!((plan.moves[0].keys, plan.moves[0].bytes, plan.waits.len()), (500, 2000, 0));
    world.apply(&DirectoryCommand::Rebalance(Some(asked)));
    assert_eq!((world.settle(), world.counts()), (1, vec![8192, 8192]));
}

#[test]
fn a_drained_group_is_dissolved() {
    let mut world = World::new(3);
    world.settle();
    world.apply(&DirectoryCommand::DrainGroup { group: 1, undo: false });
    let plan = plan(&world.directory, &world.heard(), None);
    assert_eq!(plan.moves.iter().map(|planned| planned.slots.count()).sum::<u16>(), 5461);
    world.settle();
    assert_eq!(world.counts(), [8192, 0, 8192]);
    assert!(world.directory.group(1).dissolved);
    assert!(world.directory.workers[&1].removed.is_some());
    world.facts.remove(&1);
    world.found();
    world.settle();
    assert_eq!(world.counts(), [5462, 0, 5461, 5461]);
}

#[test]
fn a_drained_group_that_nobody_hears_of_is_dissolved_once_it_is_dead() {
    let mut world = World::new(2);
    world.apply(&DirectoryCommand::DrainGroup { group: 1, undo: false });
    world.facts.remove(&1);
    assert_eq!(world.settle(), 0);
    world.apply(&DirectoryCommand::Dead { index: 1, dead: true });
    world.settle();
    assert!(world.directory.group(1).dissolved);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn groups_come_and_go_and_all_ends_well(steps in prop::collection::vec((0..3u8, 0..8u32), 1..12)) {
        let mut world = World::new(1);
        for (what, group) in steps {
            let group = group % world.directory.next_index;
            match what {
                0 => world.found(),
                1 => drop(world.directory.apply(&DirectoryCommand::DrainGroup { group, undo: false })),
                _ => drop(world.directory.apply(&DirectoryCommand::CancelMove { id: world.directory.next_move.max(1) - 1 })),
            }
            world.round();
        }
        world.settle();
        let stays: Vec<u16> = world.directory.group_ids().into_iter()
            .filter(|group| !world.directory.group(*group).dissolved)
            .map(|group| world.directory.slots.count(group)).collect();
        prop_assert!(stays.iter().max().unwrap() - stays.iter().min().unwrap() <= 1, "{stays:?}");
    }
}

#[test]
fn no_move_begins_with_a_group_that_does_not_know_its_slots() {
    for group in [0, 1] {
        let mut world = World::new(2);
        world.facts.get_mut(&group).unwrap().awaits = true;
        assert_eq!(world.commands(), []);
        world.facts.get_mut(&group).unwrap().awaits = false;
        assert_eq!(world.commands().len(), 1);
    }
}
