//! Groups that move slots among each other and go on from old copies at any time, or from nothing: whatever they lack, no slot
//! is ever served by two of them, and in the end each is served by the one that the directory names.

use super::*;
use crate::cluster::directory::{Directory, DirectoryCommand, DirectoryReply, GroupEntry, WorkerEntry};
use crate::cluster::planning::{GroupFacts, commands};
use crate::cluster::slots::slot;
use crate::cluster::view::WorkerFacts;
use crate::replica::moves::InPhase;

const GROUPS: u32 = 3;

struct World {
    random: Random,
    groups: Vec<Group>,
    movers: Vec<Mover>,
    incarnations: Vec<u64>,
    /// What each has been, oldest first: a copy may be any of it.
    copies: Vec<Vec<BTreeMap<Vec<u8>, Vec<u8>>>>,
    /// What each knows of the directory.
    views: Vec<Directory>,
    directory: Directory,
    now: u64,
    lossy: bool,
    promotions: u32,
}

impl World {
    fn new(seed: u64) -> World {
        let mut slots = SlotTable::whole(0);
        slots.give(&span(6000, 9999), 1);
        slots.give(&span(10_000, 16_383), 2);
        let worker = |index: u32| WorkerEntry {
            uuid: format!("u{index}"),
            group: index,
            address: format!("w:{index}"),
            data: "/d".into(),
            starts: 1,
            run: 1,
            removed: None,
            dead: false,
        };
        let workers = (0..GROUPS).map(|index| (index, worker(index))).collect();
        let directory = Directory {
            epoch: 1,
            incarnation: 1,
            slots: slots.clone(),
            workers,
            next_index: GROUPS,
            ..Directory::default()
        };
        let own = |group: u32| table(group, &slots.of(group));
        World {
            random: Random::new(seed),
            groups: (0..GROUPS).map(|group| Group::new(&own(group), 1000)).collect(),
            movers: (0..GROUPS).map(|_| Mover::default()).collect(),
            incarnations: vec![1; GROUPS as usize],
            copies: vec![Vec::new(); GROUPS as usize],
            views: vec![directory.clone(); GROUPS as usize],
            directory,
            now: 1,
            lossy: true,
            promotions: 0,
        }
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.random.draw().is_multiple_of(count)
    }

    fn lost(&mut self) -> bool {
        self.lossy && self.one_in(6)
    }

    fn any(&mut self) -> usize {
        (self.random.draw() % u64::from(GROUPS)) as usize
    }

    fn moves(&self, group: usize) -> Arc<Moves> {
        self.groups[group].published().moves
    }

    fn awaits(&self, group: usize) -> bool {
        self.moves(group).awaits(began(self.incarnations[group]))
    }

    /// The records of all groups.
    fn records(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        self.groups.iter().flat_map(Group::records).collect()
    }

    /// True if everything of a move has come, and the slots are not the group's yet.
    fn has_received(&self, group: usize) -> bool {
        let moves = self.moves(group);
        moves.incoming.as_ref().is_some_and(|of| of.complete && of.phase == InPhase::Receiving)
    }

    fn served(&self, group: usize) -> SlotSet {
        let published = self.groups[group].published();
        if self.awaits(group) {
            return SlotSet::default();
        }
        let frozen = published.moves.outgoing.as_ref().filter(|out| out.phase == OutPhase::Frozen);
        frozen.map_or_else(|| published.slots.owned(), |out| published.slots.owned().minus(&out.slots))
    }

    fn write(&mut self) {
        let key = format!("key{}", self.random.draw() % 80).into_bytes();
        let Some(group) = (0..GROUPS as usize).find(|group| self.served(*group).contains(slot(&key))) else {
            return;
        };
        let value = self.random.draw().to_le_bytes().to_vec();
        let command = match self.one_in(5) {
            true => Command::Delete { key, condition: Condition::Any },
            false => Command::Put(Put {
                key,
                checksum: record::checksum(&value),
                value,
                content_type: String::new(),
                ttl: None,
                condition: Condition::Any,
            }),
        };
        let reply = self.groups[group].apply(Request { id: None, command });
        assert!(!matches!(reply, Reply::NotOwner { .. } | Reply::Frozen { .. }), "{reply:?}");
    }

    /// One act of a group.
    fn act(&mut self, group: usize) {
        if self.one_in(3) {
            self.views[group] = self.directory.clone();
        }
        let view = self.views[group].clone();
        let published = self.groups[group].published();
        let number = group as u32;
        let knows = view.group(number).incarnation >= self.incarnations[group];
        self.now += 1 + self.random.draw() % 100;
        let sight = Sight {
            now: self.now,
            group: number,
            incarnation: self.incarnations[group],
            began: began(self.incarnations[group]),
            moves: &published.moves,
            version: published.counters.version,
            clock: published.counters.clock,
            order: view.moves.values().find(|order| order.from == number),
            takes: view.moves.values().find(|order| order.to == number),
            next_move: view.next_move.max(1),
            slots: knows.then_some(&view.slots),
            rate: None,
        };
        let act = self.movers[group].next(&sight);
        let (to, step) = match act {
            Act::Rest(_) => return,
            Act::Propose(step) => {
                match self.lost() {
                    true => self.movers[group].failed(&sight),
                    false => {
                        self.groups[group].step(step);
                        self.movers[group].proposed();
                    }
                }
                return;
            }
            Act::Ask { to, step } => (to, step),
            Act::Copy { to, attempt, slots, after } => {
                let chunk = copy_rows(&self.groups[group].rows, &slots, &after, 400).unwrap();
                self.movers[group].sends(&chunk, false);
                (to, copy_step(attempt, after, chunk))
            }
            Act::Follow { to, attempt, first, next } => {
                let chunk = outbox_rows(&self.groups[group].rows, first, next, 300).unwrap();
                self.movers[group].sends(&chunk, chunk.next == next);
                (to, follow_step(attempt, first, chunk))
            }
        };
        // Who knows an older incarnation of the other is not listened to.
        let to_knows = self.views[to as usize].group(number).incarnation;
        let fits = view.group(to).incarnation == self.incarnations[to as usize]
            && self.incarnations[group] >= to_knows;
        let too_early = matches!(step, MoveStep::Accept { .. }) && self.awaits(to as usize);
        if fits && !too_early && !self.lost() {
            let id = step.id();
            let reply = self.groups[to as usize].step(step);
            let Reply::MoveTarget(word) = reply else { panic!("{reply:?}") };
            if !self.lost() {
                return self.movers[group].heard(&sight, id, word);
            }
        }
        self.movers[group].failed(&sight);
    }

    /// The masters hear of all groups that run, and note what they do.
    fn hear(&mut self) {
        let facts = |group: usize| {
            let published = self.groups[group].published();
            let moves = &published.moves;
            let active = moves.incoming.as_ref().filter(|incoming| incoming.phase == InPhase::Active);
            let leader = WorkerFacts {
                index: group as u32,
                group: group as u32,
                role: "leader".into(),
                slots: published.slots.owned(),
                moving: self.movers[group].facts(moves, 0),
                moves_done: moves.last_out,
                received: active.map(|incoming| incoming.id),
                awaits: self.awaits(group),
                ..WorkerFacts::default()
            };
            (group as u32, GroupFacts { voters: Some(1), leader: Some(leader), keys: 0, bytes: 0 })
        };
        let heard = (0..GROUPS as usize).map(facts).collect();
        for command in commands(&self.directory, &heard) {
            if matches!(command, DirectoryCommand::MoveDone { .. } | DirectoryCommand::MoveSwitched { .. }) {
                assert_eq!(self.directory.apply(&command), DirectoryReply::Done);
            }
        }
    }

    fn order(&mut self, from: usize, to: usize, slots: SlotSet) -> bool {
        let command = DirectoryCommand::StartMove { from: from as u32, to: to as u32, slots };
        matches!(self.directory.apply(&command), DirectoryReply::MoveStarted { .. })
    }

    /// A group goes on from a copy, or from nothing.
    fn promote(&mut self, group: usize, copy: Option<BTreeMap<Vec<u8>, Vec<u8>>>) {
        self.promotions += 1;
        self.incarnations[group] += 1;
        let (number, incarnation) = (group as u32, self.incarnations[group]);
        self.directory.groups.insert(number, GroupEntry { incarnation, ..GroupEntry::default() });
        for order in self.directory.moves.values_mut().filter(|order| order.to == number && !order.switched) {
            order.cancelled = true;
        }
        self.directory.epoch += 1;
        match &copy {
            Some(rows) => self.groups[group].go_back_to(rows.clone()),
            None => {
                let slots = table(number, &self.directory.slots.of(number));
                self.groups[group] = Group::new(&slots, 1000);
            }
        }
        self.copies[group] = copy.into_iter().collect();
        self.movers[group] = Mover::default();
        self.views[group] = self.directory.clone();
    }

    fn keep_a_copy(&mut self, group: usize) {
        let rows = self.groups[group].rows.0.lock().unwrap().clone();
        self.copies[group].push(rows);
    }

    /// What happens in the world besides what groups do.
    fn stir(&mut self) {
        let group = self.any();
        if self.one_in(4) {
            self.write();
        }
        if self.one_in(10) {
            self.keep_a_copy(group);
        }
        if self.one_in(6) {
            self.hear();
        }
        if self.one_in(20) {
            let to = (group + 1 + (self.random.draw() % 2) as usize) % GROUPS as usize;
            let first = (self.random.draw() % 16_384) as u16;
            let some = span(first, first.saturating_add(5000).min(16_383));
            let own = self.directory.slots.of(group as u32);
            let slots = own.minus(&own.minus(&some));
            self.order(group, to, slots);
        }
        if self.one_in(60) {
            let id = 1 + self.random.draw() % self.directory.next_move.max(1);
            self.directory.apply(&DirectoryCommand::CancelMove { id });
        }
        if self.one_in(40) {
            // Another one leads, which may know less.
            self.movers[group] = Mover::default();
        }
        if self.one_in(80) {
            let copies = self.copies[group].len() as u64;
            let copy = match copies {
                0 => None,
                _ if self.one_in(8) => None,
                // Mostly a late one.
                _ => {
                    let back = (self.random.draw() % copies).min(self.random.draw() % copies);
                    Some(self.copies[group][(copies - 1 - back) as usize].clone())
                }
            };
            self.promote(group, copy);
        }
    }

    fn check_served(&self) {
        for one in 0..GROUPS as usize {
            for two in 0..one {
                let (a, b) = (self.served(one), self.served(two));
                assert!(
                    !a.overlaps(&b),
                    "groups {one} and {two} serve the same slots: {:?} {:?}",
                    self.moves(one),
                    self.moves(two)
                );
            }
        }
    }

    fn is_quiet(&self) -> bool {
        self.directory.moves.is_empty()
            && (0..GROUPS as usize).all(|group| {
                let moves = self.moves(group);
                moves.outgoing.is_none()
                    && moves.incoming.is_none()
                    && moves.pending == 0
                    && !self.awaits(group)
            })
    }

    fn settle(&mut self) {
        self.lossy = false;
        for _ in 0..5000 {
            if self.is_quiet() {
                return self.check_owned();
            }
            let group = self.any();
            self.act(group);
            self.hear();
            self.check_served();
        }
        let all: Vec<_> = (0..GROUPS as usize).map(|group| (self.moves(group), self.awaits(group))).collect();
        panic!("no end: {:#?} {all:#?}", self.directory.moves);
    }

    /// Each slot is where the directory says, with what is counted, and nothing is left elsewhere.
    fn check_owned(&self) {
        for group in 0..GROUPS as usize {
            let published = self.groups[group].published();
            assert_eq!(
                published.slots.owned(),
                self.directory.slots.of(group as u32),
                "slots of group {group}"
            );
            self.groups[group].check();
            for row in self.groups[group].records().keys() {
                let slot = slot(keys::record_key(row).unwrap());
                assert!(
                    published.slots.owner(slot).is_some(),
                    "a record of slot {slot} is left in group {group}"
                );
            }
        }
    }
}

fn span(first: u16, last: u16) -> SlotSet {
    SlotSet::of([Span { first, last }])
}

fn table(group: u32, slots: &SlotSet) -> SlotTable {
    let mut table = SlotTable::default();
    table.give(slots, group);
    table
}

#[test]
fn whatever_copies_lack_each_slot_has_one_owner() {
    let mut promotions = 0;
    for seed in 0..100 {
        let mut world = World::new(seed);
        for _ in 0..1500 {
            world.stir();
            let group = world.any();
            world.act(group);
            world.check_served();
        }
        world.settle();
        promotions += world.promotions;
    }
    assert!(promotions > 300, "{promotions}");
}

/// The target goes on from a copy of before it owned the slots; the source has given them and removed nothing yet. They come
/// back, or, if the copy has everything, go once more.
#[test]
fn what_was_given_is_whole_if_the_target_has_lost_it() {
    for has_everything in [false, true] {
        let mut world = World::new(5);
        world.lossy = false;
        (0..300).for_each(|_| world.write());
        let records = world.records();
        let mut copy = world.groups[1].rows.0.lock().unwrap().clone();
        assert!(world.order(0, 1, span(0, 2999)));
        while !world.moves(0).outgoing.as_ref().is_some_and(|out| out.phase == OutPhase::Given) {
            if has_everything && world.has_received(1) {
                copy = world.groups[1].rows.0.lock().unwrap().clone();
            }
            world.act(0);
        }
        world.hear();
        world.promote(1, Some(copy));
        world.settle();
        assert_eq!(world.records(), records);
        assert_eq!(world.directory.slots.count(0), if has_everything { 3000 } else { 6000 });
    }
}

/// The target goes on from a copy that has everything that came, and lacks that it owns it; the source has removed it.
#[test]
fn what_came_is_served_if_the_source_has_removed_it() {
    let mut world = World::new(6);
    world.lossy = false;
    (0..300).for_each(|_| world.write());
    let records = world.records();
    assert!(world.order(0, 1, span(0, 2999)));
    let mut copy = None;
    while !world.moves(0).outgoing.as_ref().is_some_and(|out| matches!(out.phase, OutPhase::Done { .. })) {
        if world.has_received(1) {
            copy = Some(world.groups[1].rows.0.lock().unwrap().clone());
        }
        world.act(0);
    }
    world.promote(1, copy);
    world.settle();
    assert_eq!(world.directory.slots.count(0), 3000);
    assert_eq!(world.records(), records);
    assert!(world.groups[1].published().counters.version > 1 << 40);
}

/// What came by a move whose end is not known may be all that there is of its slots: no other move removes it.
#[test]
fn what_came_stays_while_the_end_of_its_move_is_not_known() {
    let mut group = Group::new(&SlotTable::default(), 1000);
    let mut moves = Moves { adopted: 2, pending: 5, last_in: 3, ..Moves::default() };
    group.rows.write(&rows_of(&moves)).unwrap();
    group.machine = Keyspace::load(&group.rows).unwrap();
    let slots = half();
    let accept = |id| MoveStep::Accept { id, attempt: 1, slots: slots.clone(), from: 0, to: 1, next: 0 };
    assert_eq!(group.step(accept(9)), Reply::MoveTarget(TargetWord::Unknown));
    assert_eq!(*group.published().moves, moves);
    moves.pending = 0;
    group.rows.write(&rows_of(&moves)).unwrap();
    group.machine = Keyspace::load(&group.rows).unwrap();
    assert!(matches!(group.step(accept(9)), Reply::MoveTarget(TargetWord::Receiving { .. })));
}

fn rows_of(moves: &Moves) -> Batch {
    let mut rows = Batch::default();
    rows.put(keys::MOVES_ROW.to_vec(), moves.encode().unwrap());
    rows
}
