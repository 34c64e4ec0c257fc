//! Recovery, rule by rule, and of any cluster of which any part answers.

use super::*;
use crate::cluster::directory::{DirectoryCommand, DirectoryReply, Heard};
use crate::cluster::facts::CopyProgress;
use crate::cluster::moves::{MoveFacts, Phase, SlotSet, Span};
use crate::cluster::slots::{SLOTS, SlotTable};
use crate::cluster::view::RegisterRequest;
use proptest::prelude::*;

const CLUSTER: &str = "c";

fn span(first: u16, last: u16) -> SlotSet {
    SlotSet::of([Span { first, last }])
}

fn entry(index: u32, group: u32) -> WorkerEntry {
    WorkerEntry {
        uuid: format!("u{index}"),
        group,
        address: format!("w{index}:1"),
        data: format!("/d{index}"),
        starts: 3,
        run: u64::from(index) + 70,
        removed: None,
        dead: false,
    }
}

fn master(uuid: &str) -> MasterEntry {
    MasterEntry {
        uuid: uuid.into(),
        address: format!("{uuid}:1"),
        data: format!("/{uuid}"),
        starts: 1,
        run: 1,
        removed: None,
        dead: false,
    }
}

/// A directory of these workers; the slots are split at 8192 if there is a second group.
fn directory(workers: &[(u32, u32)]) -> Directory {
    let mut slots = SlotTable::whole(workers[0].1);
    if let Some((_, group)) = workers.iter().find(|(_, group)| *group != workers[0].1) {
        slots.give(&span(8192, SLOTS - 1), *group);
    }
    Directory {
        cluster: CLUSTER.into(),
        incarnation: 1,
        epoch: 40,
        masters: vec!["m0:1".into(), "m1:1".into()],
        workers: workers.iter().map(|(index, group)| (*index, entry(*index, *group))).collect(),
        slots,
        next_index: workers.iter().map(|(index, _)| index + 1).max().unwrap(),
        master_nodes: BTreeMap::from([(0, master("m0")), (1, master("m1"))]),
        next_master: 2,
        ..Directory::default()
    }
}

/// The answer of a worker that has applied everything and does not lead.
fn answer(directory: &Directory, index: u32) -> FactsReply {
    let worker = &directory.workers[&index];
    let facts = WorkerFacts {
        cluster: directory.cluster.clone(),
        index,
        group: worker.group,
        uuid: worker.uuid.clone(),
        starts: worker.starts,
        address: worker.address.clone(),
        data: worker.data.clone(),
        state: "open".into(),
        role: "follower".into(),
        applied: 100,
        voters: directory.members(worker.group).collect(),
        incarnation: directory.group(worker.group).incarnation,
        slots: directory.slots.of(worker.group),
        ..WorkerFacts::default()
    };
    FactsReply { facts, run: worker.run, view: directory.view() }
}

fn leads(mut reply: FactsReply) -> FactsReply {
    reply.facts.role = "leader".into();
    reply
}

fn recovered(told: &[FactsReply]) -> Recovered {
    recover(told, 1).unwrap_or_else(|error| panic!("refused: {error}"))
}

fn refusal(told: &[FactsReply], parts: &[&str]) {
    let error = recover(told, 1).expect_err("it should be refused").to_string();
    assert!(parts.iter().all(|part| error.contains(part)), "{error}");
}

fn order(id: u64, slots: SlotSet, from: u32, to: u32) -> MoveOrder {
    MoveOrder { id, slots, from, to, cancelled: false, switched: false }
}

fn register(directory: &mut Directory, request: RegisterRequest) -> DirectoryReply {
    let heard = Heard::default();
    directory.apply(&DirectoryCommand::Register { request, alive: Vec::new(), heard })
}

/// What the folder of worker `index` says when it starts again.
fn returns(index: u32) -> RegisterRequest {
    let worker = entry(index, 0);
    RegisterRequest {
        uuid: worker.uuid,
        run: 5,
        starts: 9,
        address: worker.address,
        data: worker.data,
        index: Some(index),
        cluster: Some(CLUSTER.into()),
        clone: None,
        replace: None,
        accept_data_loss: false,
        software: "0".into(),
    }
}

#[test]
fn everybody_keeps_index_and_slots_and_the_masters_begin_anew() {
    let before = directory(&[(0, 0), (1, 0), (2, 2)]);
    let told: Vec<FactsReply> = (0..3).map(|index| answer(&before, index)).collect();
    let Recovered { mut directory, remarks, .. } = recovered(&told);
    assert_eq!((directory.incarnation, directory.epoch), (2, 1040));
    assert_eq!((&directory.workers, &directory.slots), (&before.workers, &before.slots));
    assert_eq!(directory.next_index, 3 + MARGIN);
    assert_eq!(directory.begin_with(master("m9")), 2);
    assert_eq!(directory.masters, ["m9:1"]);
    assert_eq!((directory.check(), directory.master_indices().collect::<Vec<_>>()), (Ok(()), vec![2]));
    let text = remarks.join("\n");
    for part in [
        "worker 2 of group 2 (w2:1) has answered",
        "group 0, incarnation 1, members 0, 1: 8192 slots",
        "m1:1",
        "index 19",
    ] {
        assert!(text.contains(part), "no {part:?}:\n{text}");
    }
    assert!(!text.contains("differs") && !text.contains("SILENT"), "{text}");
    assert!(directory.view().rank() > before.view().rank());
    // Lost again: neither master comes back as what it was.
    let again = recovered(&[answer(&directory, 0), answer(&directory, 2)]);
    assert_eq!((again.directory.incarnation, again.directory.next_master), (3, 3));
    assert!(again.directory.next_index > directory.next_index);
}

#[test]
fn who_is_silent_keeps_index_and_slots_and_may_come_back() {
    let before = directory(&[(0, 0), (1, 0), (2, 2)]);
    let Recovered { mut directory, remarks, .. } = recovered(&[answer(&before, 1)]);
    assert_eq!(directory.slots, before.slots);
    assert_eq!(directory.workers[&2], WorkerEntry { starts: 0, run: 0, ..entry(2, 2) });
    assert!(remarks.iter().any(|line| line.contains("worker 2 of group 2 (w2:1) is SILENT")), "{remarks:?}");
    assert!(remarks.iter().any(|line| line.contains("nobody who holds a copy has answered")), "{remarks:?}");
    let reply = register(&mut directory, returns(2));
    assert!(matches!(reply, DirectoryReply::Registered { index: 2, group: 2, .. }), "{reply:?}");
    // A new one gets an index that nobody had.
    let new = RegisterRequest {
        index: None,
        cluster: None,
        uuid: "new".into(),
        address: "x:1".into(),
        ..returns(0)
    };
    let reply = register(&mut directory, new);
    assert!(matches!(reply, DirectoryReply::Registered { index: 19, .. }), "{reply:?}");
}

#[test]
fn a_silent_worker_without_a_known_uuid_is_known_by_its_place() {
    let before = directory(&[(0, 0), (2, 2)]);
    let mut told = answer(&before, 0);
    told.view.uuids.clear();
    let Recovered { directory, remarks, .. } = recovered(&[told]);
    assert_eq!((directory.workers[&2].uuid.as_str(), directory.check()), ("", Ok(())));
    assert!(remarks.iter().any(|line| line.contains("kept for the folder /d2")), "{remarks:?}");
    let refused = |request: RegisterRequest| {
        let reply = register(&mut directory.clone(), request);
        assert!(matches!(reply, DirectoryReply::Refused { .. }), "{reply:?}");
    };
    refused(RegisterRequest { data: "/elsewhere".into(), ..returns(2) });
    refused(RegisterRequest { index: None, ..returns(2) });
    refused(RegisterRequest { cluster: None, ..returns(2) });
    refused(RegisterRequest { index: Some(7), ..returns(2) });
    let mut directory = directory.clone();
    let reply = register(&mut directory, returns(2));
    assert!(matches!(reply, DirectoryReply::Registered { index: 2, .. }), "{reply:?}");
    assert_eq!(directory.workers[&2].uuid, "u2");
    let reply = register(&mut directory, RegisterRequest { uuid: "copy".into(), ..returns(2) });
    assert!(matches!(reply, DirectoryReply::Refused { .. }), "only once: {reply:?}");
}

#[test]
fn what_was_removed_or_left_behind_stays_so() {
    let mut before = directory(&[(0, 0), (1, 0), (2, 0)]);
    before.remove(1, "lost".into());
    let mut old = answer(&before, 0);
    old.view = directory(&[(0, 0), (1, 0), (2, 0)]).view();
    old.view.epoch = 7;
    let mut told = answer(&before, 2);
    told.view = before.view();
    let Recovered { mut directory, .. } = recovered(&[old.clone(), told.clone()]);
    assert_eq!(directory.members(0).collect::<Vec<_>>(), [0, 2]);
    let reply = register(&mut directory, returns(1));
    assert!(
        matches!(&reply, DirectoryReply::Refused { detail, .. } if detail.contains("was removed")),
        "{reply:?}"
    );
    // Worker 2 was promoted; what worker 0 says is of the incarnation before.
    told.view.groups[0].promoted = Some(2);
    told.view.groups[0].incarnation = 2;
    told.facts.incarnation = 2;
    told.facts.applied = 5;
    let Recovered { directory, .. } = recovered(&[old.clone(), told.clone()]);
    assert_eq!(directory.members(0).collect::<Vec<_>>(), [2]);
    assert_eq!(directory.group(0), GroupEntry { incarnation: 2, promoted: Some(2), ..GroupEntry::default() });
    // It has not begun yet: its copy is the one that counts all the same.
    told.facts.incarnation = 1;
    old.facts.slots = SlotSet::default();
    let Recovered { directory, .. } = recovered(&[old, told]);
    assert_eq!((directory.members(0).collect::<Vec<_>>(), directory.slots.count(0)), (vec![2], SLOTS));
}

#[test]
fn answers_that_do_not_fit_together_are_refused() {
    let before = directory(&[(0, 0), (1, 0)]);
    refusal(&[], &["no worker has answered"]);
    let mut other = answer(&before, 1);
    other.facts.cluster = "d".into();
    refusal(&[answer(&before, 0), other], &["different clusters: c and d"]);
    let mut copy = answer(&before, 0);
    copy.facts.address = "elsewhere:1".into();
    refusal(&[answer(&before, 0), copy], &["both are worker 0", "elsewhere:1"]);
    let mut stranger = answer(&before, 1);
    stranger.facts.uuid = "x".into();
    refusal(&[answer(&before, 0), stranger], &["is not the worker 1"]);
    let mut moved = answer(&before, 1);
    moved.facts.group = 1;
    refusal(&[moved], &["is not the worker 1"]);
    let mut blind = answer(&before, 0);
    blind.view = ClusterView::default();
    blind.facts.slots = span(0, 99);
    refusal(&[blind], &["nobody knows who owns the slots 100-16383"]);
}

#[test]
fn slots_that_are_not_explained_are_refused() {
    let before = directory(&[(0, 0), (1, 1)]);
    let (zero, mut one) = (answer(&before, 0), answer(&before, 1));
    one.facts.slots = span(8000, SLOTS - 1);
    refusal(&[leads(zero.clone()), leads(one.clone())], &["slots 8000-8191", "group 0 and group 1"]);
    one.facts.slots = span(8300, SLOTS - 1);
    refusal(&[zero.clone(), one.clone()], &["slots 8192-8299 belonged to group 1"]);
    refusal(&[one.clone()], &["slots 8192-8299 belonged to group 1"]);
    // A silent group's slots are given to nobody who may be behind the times; a leader is not.
    one.facts.slots = span(8000, SLOTS - 1);
    refusal(&[one.clone()], &["slots 8000-8191 may belong to group 1 and group 0"]);
    let Recovered { directory, remarks, .. } = recovered(&[leads(one)]);
    assert_eq!(directory.slots.owner(8000), Some(1));
    assert!(
        remarks.contains(&"differs: 192 slots (8000-8191) belong to group 1; the routes name group 0".into())
    );
    // A member that waits for its first copy, or is closed, says nothing.
    let mut waits = answer(&before, 1);
    waits.facts.slots = SlotSet::default();
    waits.facts.copy = Some(CopyProgress::default());
    assert_eq!(recovered(&[zero.clone(), waits.clone()]).directory.slots, before.slots);
    (waits.facts.copy, waits.facts.state) = (None, "closed".into());
    assert_eq!(recovered(&[zero, waits]).directory.slots, before.slots);
}

#[test]
fn a_move_goes_on_from_where_it_is() {
    let before = directory(&[(0, 0), (1, 1)]);
    let slots = span(0, 99);
    let told = |index: u32| {
        let mut reply = answer(&before, index);
        reply.view.moves = vec![order(4, slots.clone(), 0, 1)];
        reply.view.next_move = 5;
        reply
    };
    let moving = MoveFacts {
        id: 4,
        phase: Phase::Frozen,
        withdrawn: false,
        keys: 0,
        bytes: 0,
        total: 0,
        waiting: 0,
        rate: 0,
    };
    let owner =
        |recovered: &Recovered| (recovered.directory.slots.owner(5), recovered.directory.moves[&4].switched);
    let (mut source, mut target) = (leads(told(0)), told(1));
    let both = recovered(&[source.clone(), target.clone()]);
    assert_eq!((owner(&both), both.directory.next_move), ((Some(0), false), 5 + u64::from(MARGIN)));
    // The target has taken the slots, the source does not know.
    target.facts.slots = target.facts.slots.union(&slots);
    target.facts.received = Some(4);
    source.facts.moving = Some(moving);
    for told in [vec![source.clone(), target.clone()], vec![target.clone()]] {
        assert_eq!(owner(&recovered(&told)), (Some(1), true));
    }
    // The source has given them, to a target that is silent.
    source.facts.slots = source.facts.slots.minus(&slots);
    assert_eq!(owner(&recovered(&[source.clone()])), (Some(1), true));
    // A source that may be behind its group has given nothing away for certain.
    source.facts.role = "follower".into();
    refusal(&[source.clone()], &["slots 0-99 belonged to group 0"]);
    // It is done with.
    source.facts.moves_done = 4;
    target.facts.received = None;
    let done = recovered(&[source, target]);
    assert_eq!((done.directory.moves.len(), done.directory.slots.owner(5)), (0, Some(1)));
}

/// Where a move is.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
enum Step {
    Ordered,
    Activated,
    Given,
    Switched,
}

/// A cluster of two groups, of three members each, whose first one leads. Slots 0..100 came to group 0 by an earlier
/// move, and `slots` are on their way to group 1.
#[derive(Debug, Clone)]
struct Scene {
    slots: SlotSet,
    step: Step,
    /// Of each member: whether it answers, whether it knows of the last steps, whether its routes are of before.
    members: Vec<(bool, bool, bool)>,
}

impl Scene {
    fn answers(&self) -> Vec<FactsReply> {
        let workers = [(0, 0), (1, 0), (2, 0), (3, 3), (4, 3), (5, 3)];
        let mut first = directory(&workers);
        first.slots.give(&span(0, 99), 3);
        let before = first.clone();
        first.slots.give(&span(0, 99), 0);
        first.epoch += 1;
        let switched = self.step == Step::Switched;
        let mut newest = first.view();
        newest.epoch += 1;
        newest.next_move = 8;
        newest.moves = vec![MoveOrder { switched, ..order(7, self.slots.clone(), 0, 3) }];
        if switched {
            newest.slots.give(&self.slots, 3);
        }
        let mut told = Vec::new();
        for (index, (answers, knows, old)) in (0..6).zip(&self.members) {
            let leads = index % 3 == 0;
            let mut reply = answer(if leads || *knows { &first } else { &before }, index);
            if leads {
                reply.facts.role = "leader".into();
            }
            if leads || *knows {
                reply.facts.applied = 200;
                let own = &mut reply.facts.slots;
                match reply.facts.group {
                    3 if self.step >= Step::Activated => {
                        *own = own.union(&self.slots);
                        reply.facts.received = Some(7);
                    }
                    0 if self.step >= Step::Given => *own = own.minus(&self.slots),
                    _ => {}
                }
            }
            reply.view = if *old { before.view() } else { newest.clone() };
            if *answers {
                told.push(reply);
            }
        }
        told
    }

    /// The group that owns `slot`, by the logs.
    fn owner(&self, slot: u16) -> u32 {
        match self.step >= Step::Activated && self.slots.contains(slot) {
            true => 3,
            false if slot < 8192 => 0,
            false => 3,
        }
    }
}

fn any_scene() -> impl Strategy<Value = Scene> {
    let step =
        prop_oneof![Just(Step::Ordered), Just(Step::Activated), Just(Step::Given), Just(Step::Switched)];
    let members = proptest::collection::vec(any::<(bool, bool, bool)>(), 6);
    (0..150u16, 0..150u16, step, members).prop_map(|(first, more, step, members)| Scene {
        slots: span(first, first + more),
        step,
        members,
    })
}

/// Any workers in any groups, some removed, and slots in pieces; and which of them answer.
fn any_cluster() -> impl Strategy<Value = (Directory, Vec<bool>)> {
    let worker = (0..4u32, any::<bool>(), any::<bool>());
    let pieces = proptest::collection::vec((0..SLOTS, 0..4000u16, 0..4u32), 0..6);
    (proptest::collection::vec(worker, 1..9), pieces).prop_map(|(workers, pieces)| {
        // A group has the index of its first member; it keeps at least that one.
        let mut founders: BTreeMap<u32, u32> = BTreeMap::new();
        let (mut placed, mut removed, mut answering) = (Vec::new(), Vec::new(), Vec::new());
        for (index, (group, answers, goes)) in (0u32..).zip(workers) {
            let founder = *founders.entry(group).or_insert(index);
            placed.push((index, founder));
            if goes && founder != index {
                removed.push(index);
            }
            answering.push(answers);
        }
        let mut directory = directory(&placed);
        removed.into_iter().for_each(|index| directory.remove(index, "lost".into()));
        let founders: Vec<u32> = founders.into_values().collect();
        for (first, more, group) in pieces {
            let group = founders[group as usize % founders.len()];
            directory.slots.give(&span(first, (first + more).min(SLOTS - 1)), group);
        }
        (directory, answering)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_cluster_is_what_it_was((before, answering) in any_cluster()) {
        prop_assert_eq!(before.check(), Ok(()));
        let there = before.workers.iter().zip(&answering).filter(|(_, answers)| **answers);
        let told: Vec<FactsReply> = there.map(|((index, _), _)| answer(&before, *index)).collect();
        let Ok(recovered) = recover(&told, 7) else {
            prop_assert!(told.is_empty());
            return Ok(());
        };
        let after = recovered.directory;
        prop_assert_eq!(after.check(), Ok(()));
        prop_assert_eq!((&after.slots, after.incarnation), (&before.slots, 8));
        prop_assert!(after.epoch > before.epoch && after.next_index > before.next_index);
        prop_assert_eq!(after.workers.len(), before.workers.len());
        for (index, worker) in &before.workers {
            let now = &after.workers[index];
            prop_assert_eq!((&now.uuid, now.group), (&worker.uuid, worker.group));
            prop_assert_eq!(now.removed.is_some(), worker.removed.is_some());
        }
    }

    #[test]
    fn whoever_answers_nothing_is_given_away(scene in any_scene()) {
        let told = scene.answers();
        // Who answers with old routes only cannot know better.
        if !told.iter().any(|reply| !reply.view.moves.is_empty()) {
            return Ok(());
        }
        let leaders = told.iter().filter(|reply| reply.facts.role == "leader").count();
        let Recovered { directory, .. } = match recover(&told, 1) {
            Ok(recovered) => recovered,
            Err(error) => {
                prop_assert!(leaders < 2, "both leaders have answered: {error}");
                return Ok(());
            }
        };
        prop_assert_eq!(directory.check(), Ok(()));
        prop_assert_eq!(directory.workers.keys().copied().collect::<Vec<_>>(), (0..6).collect::<Vec<_>>());
        for (index, entry) in &directory.workers {
            prop_assert_eq!(&entry.uuid, &format!("u{}", index));
        }
        prop_assert!(directory.next_index > 5 && directory.next_move > 7);
        // With its source silent, a move may look as if it were not done yet; the masters hear of it when it is back.
        prop_assert_eq!(directory.moves.len(), 1);
        let early = !directory.moves[&7].switched && scene.step >= Step::Activated;
        let heard = told.iter().any(|reply| reply.facts.received == Some(7));
        prop_assert!(!(early && heard), "the target said that it has the slots");
        for slot in 0..SLOTS {
            let owner = if early && scene.slots.contains(slot) { 0 } else { scene.owner(slot) };
            prop_assert_eq!(directory.slots.owner(slot), Some(owner), "slot {}", slot);
        }
    }
}

/// What a promoted group says before it has adopted its slots is what its copy holds: the routes decide.
#[test]
fn a_group_that_does_not_know_its_slots_is_not_asked_for_them() {
    let directory = directory(&[(0, 0), (1, 1)]);
    let mut stale = leads(answer(&directory, 0));
    (stale.facts.slots, stale.facts.awaits) = (span(0, SLOTS - 1), true);
    for told in [vec![stale.clone()], vec![stale, leads(answer(&directory, 1))]] {
        let slots = recovered(&told).directory.slots;
        assert_eq!((slots.count(0), slots.count(1)), (8192, 8192));
    }
}
