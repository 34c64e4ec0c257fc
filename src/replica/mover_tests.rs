//! A source and a target that step each other through the mover, with answers that are lost at random.

use super::*;
use crate::cluster::moves::Span;
use crate::cluster::slots::SlotTable;
use crate::error::Result;
use crate::replica::command::{Command, Condition, Put, Reply, Request};
use crate::replica::keyspace::{self, Keyspace, copy_rows, outbox_rows};
use crate::replica::machine::{Applied, Effect, Machine, Position};
use crate::store::doubles::Random;
use crate::store::keys;
use crate::store::record;
use crate::store::state::{Batch, State, View, Visit};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

#[derive(Default)]
struct Rows(Mutex<BTreeMap<Vec<u8>, Vec<u8>>>);

impl State for Rows {
    fn get(&self, row: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.0.lock().unwrap().get(row).cloned())
    }
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        let rows: Vec<_> = {
            let rows = self.0.lock().unwrap();
            rows.range(from.to_vec()..to.to_vec()).map(|(row, value)| (row.clone(), value.clone())).collect()
        };
        for (row, value) in rows {
            if visit(&row, &value).is_break() {
                break;
            }
        }
        Ok(())
    }
    fn write(&self, batch: &Batch) -> Result<()> {
        let mut rows = self.0.lock().unwrap();
        for (row, value) in &batch.changes {
            match value {
                Some(value) => rows.insert(row.clone(), value.clone()),
                None => rows.remove(row),
            };
        }
        Ok(())
    }
    fn flush(&self) -> Result<()> {
        Ok(())
    }
    fn view(&self) -> Result<Arc<dyn View>> {
        unreachable!("no test takes a view")
    }
    fn failure(&self) -> Option<crate::error::Error> {
        None
    }
}

/// A group of one, without a log.
struct Group {
    rows: Rows,
    machine: Keyspace,
    clock: u64,
}

impl Group {
    fn new(slots: &SlotTable, clock: u64) -> Group {
        let rows = Rows::default();
        rows.write(&keyspace::founding_rows(slots).unwrap()).unwrap();
        let machine = Keyspace::load(&rows).unwrap();
        Group { rows, machine, clock }
    }

    fn apply(&mut self, request: Request) -> Reply {
        self.clock += 1;
        let payload = Keyspace::encode(self.clock, &[request]).unwrap();
        let at = Position { index: self.machine.position().index + 1, term: 1 };
        let Applied { effect, mut replies, .. } = self.machine.apply(&self.rows, at, &payload).unwrap();
        match effect {
            Effect::Write(batch) => self.rows.write(&batch).unwrap(),
            Effect::Replace(batch) => {
                self.rows.0.lock().unwrap().clear();
                self.rows.write(&batch).unwrap();
            }
        }
        // What is loaded again is what was in memory.
        self.machine = Keyspace::load(&self.rows).unwrap();
        replies.remove(0)
    }

    fn step(&mut self, step: MoveStep) -> Reply {
        self.apply(Request { id: None, command: Command::Move(step) })
    }

    /// Another copy takes the place of what is here.
    fn go_back_to(&mut self, rows: BTreeMap<Vec<u8>, Vec<u8>>) {
        *self.rows.0.lock().unwrap() = rows;
        self.machine = Keyspace::load(&self.rows).unwrap();
    }

    fn published(&self) -> keyspace::Published {
        self.machine.publish()
    }

    fn records(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let (from, to) = keys::records();
        self.rows.0.lock().unwrap().range(from..to).map(|(row, value)| (row.clone(), value.clone())).collect()
    }

    /// Counters are what is there, and no row is left that a finished move should have removed.
    fn check(&self) {
        let (mut keys, mut bytes, mut expiring) = (0, 0, 0);
        for (row, value) in self.records() {
            let (meta, _) = record::decode_meta(&value).unwrap();
            keys += 1;
            bytes += row.len() as u64 - 1 + meta.size;
            expiring += u64::from(meta.expires.is_some());
        }
        let counters = self.published().counters;
        assert_eq!((counters.keys, counters.bytes, counters.expiring), (keys, bytes, expiring));
        let rows = self.rows.0.lock().unwrap();
        let kind = |kind: u8| rows.keys().filter(|row| row[0] == kind).count() as u64;
        assert_eq!(kind(8), 0, "no outbox is left");
        assert_eq!(kind(3), expiring);
        assert_eq!(kind(4) + kind(6), counters.requests);
    }
}

struct Pair {
    random: Random,
    source: Group,
    target: Group,
    mover: Mover,
    now: u64,
    order: Option<MoveOrder>,
    model: BTreeMap<Vec<u8>, Vec<u8>>,
    versions: BTreeMap<Vec<u8>, u64>,
    lossy: bool,
    count: u64,
    incarnation: u64,
}

impl Pair {
    fn new(seed: u64) -> Pair {
        Pair {
            random: Random::new(seed),
            source: Group::new(&SlotTable::whole(0), 10_000),
            target: Group::new(&SlotTable::default(), 5_000),
            mover: Mover::default(),
            now: 1,
            order: None,
            model: BTreeMap::new(),
            versions: BTreeMap::new(),
            lossy: true,
            count: 0,
            incarnation: 1,
        }
    }

    fn lost(&mut self) -> bool {
        self.lossy && self.random.draw().is_multiple_of(5)
    }

    fn order(&mut self, id: u64, slots: SlotSet) {
        let (from, to) = (0, 1);
        self.order = Some(MoveOrder { id, slots, from, to, cancelled: false, switched: false });
    }

    /// A write of some key, at whoever owns it.
    fn write(&mut self) {
        let key = format!("key{}", self.random.draw() % 60).into_bytes();
        let value = vec![b'v'; (self.random.draw() % 40) as usize];
        let delete = self.random.draw().is_multiple_of(4);
        let command = match delete {
            true => Command::Delete { key: key.clone(), condition: Condition::Any },
            false => Command::Put(Put {
                key: key.clone(),
                checksum: record::checksum(&value),
                value: value.clone(),
                content_type: String::new(),
                ttl: (self.random.draw().is_multiple_of(3)).then_some(1 << 40),
                condition: Condition::Any,
            }),
        };
        self.count += 1;
        let id = match self.random.draw() % 3 {
            0 => None,
            1 => Some(format!("id{}", self.random.draw())),
            _ => Some(format!("{:032x}:{}", self.random.draw() % 4, self.count)),
        };
        let slot = crate::cluster::slots::slot(&key);
        if self.source.published().moves.awaits(began(self.incarnation)) {
            return;
        }
        let serves: Vec<bool> =
            [&self.source, &self.target].iter().map(|group| group.published().serves(slot).is_ok()).collect();
        assert_ne!(serves, [true, true], "two groups serve slot {slot}");
        for group in [&mut self.source, &mut self.target] {
            match group.apply(Request { id: id.clone(), command: command.clone() }) {
                Reply::NotOwner { .. } => {}
                Reply::Frozen { .. } => return,
                Reply::Stored { version, .. } => {
                    self.model.insert(key.clone(), value);
                    let before = self.versions.insert(key, version).unwrap_or(0);
                    assert!(version > before, "version {version} after {before}");
                    return;
                }
                Reply::Deleted { version } => {
                    self.model.remove(&key);
                    let before = self.versions.insert(key, version).unwrap_or(0);
                    assert!(version > before, "version {version} after {before}");
                    return;
                }
                Reply::Absent => return assert!(!self.model.contains_key(&key)),
                reply => panic!("{reply:?}"),
            }
        }
        panic!("nobody owns slot {slot}");
    }

    /// One act of the mover.
    fn act(&mut self) {
        self.now += 1 + self.random.draw() % 10;
        let published = self.source.published();
        let (order, next_move) = (self.order.clone(), 100);
        let mut slots = SlotTable::whole(0);
        slots.give(&self.target.published().slots.owned(), 1);
        if let Some(order) = order.as_ref().filter(|order| !order.switched) {
            slots.give(&order.slots, order.from);
        }
        let sight = Sight {
            now: self.now,
            group: 0,
            incarnation: self.incarnation,
            began: began(self.incarnation),
            moves: &published.moves,
            version: published.counters.version,
            clock: published.counters.clock,
            order: order.as_ref(),
            takes: None,
            next_move,
            slots: Some(&slots),
            rate: None,
        };
        let (id, step) = match self.mover.next(&sight) {
            Act::Rest(until) => {
                self.now = self.now.max(until);
                return;
            }
            Act::Propose(step) => {
                if self.lost() {
                    self.mover.failed(&sight);
                } else {
                    assert_eq!(self.source.step(step), Reply::MoveNoted);
                    self.mover.proposed();
                }
                return;
            }
            Act::Ask { step, .. } => (step.id(), step),
            Act::Copy { attempt, slots, after, .. } => {
                let limit = 1 + (self.random.draw() % 500) as usize;
                let chunk = copy_rows(&self.source.rows, &slots, &after, limit).unwrap();
                self.mover.sends(&chunk, false);
                (attempt.0, copy_step(attempt, after, chunk))
            }
            Act::Follow { attempt, first, next, .. } => {
                let Ok(chunk) = outbox_rows(&self.source.rows, first, next, 200) else {
                    let step = self.mover.lost(&sight);
                    step.into_iter().for_each(|step| assert_eq!(self.source.step(step), Reply::MoveNoted));
                    return;
                };
                self.mover.sends(&chunk, chunk.next == next);
                (attempt.0, follow_step(attempt, first, chunk))
            }
        };
        let twice = self.lost();
        if !self.lost() {
            let reply = self.target.step(step.clone());
            // What the network repeats changes nothing but the answer.
            let reply = if twice { self.target.step(step) } else { reply };
            let Reply::MoveTarget(word) = reply else { panic!("{reply:?}") };
            if !self.lost() {
                self.mover.heard(&sight, id, word);
                return;
            }
        }
        self.mover.failed(&sight);
    }

    /// The records of the source that the target has not heard of yet: changed, and on their way.
    fn on_their_way(&self) -> Vec<Vec<u8>> {
        let received = self.target.published().moves.incoming.as_ref().map_or(0, |incoming| incoming.next);
        let rows = self.source.rows.0.lock().unwrap();
        let named = rows.range(keys::outbox(received)..keys::outbox(u64::MAX)).map(|(_, row)| row.clone());
        named.filter(|row| keys::record_key(row).is_some() && rows.contains_key(row)).collect()
    }

    fn run(&mut self, writes: bool, mut done: impl FnMut(&Pair) -> bool) {
        for _ in 0..20_000 {
            if done(self) {
                return;
            }
            if writes && self.random.draw().is_multiple_of(2) {
                self.write();
            }
            if self.lossy && self.random.draw().is_multiple_of(40) {
                // Another one leads.
                self.mover = Mover::default();
            }
            self.act();
        }
        panic!("no end: {:?} {:?}", self.source.published().moves, self.target.published().moves);
    }

    fn finish(&mut self) {
        self.run(true, |pair| {
            let outgoing = pair.source.published().moves.outgoing.clone();
            outgoing.is_some_and(|out| matches!(out.phase, OutPhase::Done { .. }))
        });
        self.order = None;
        self.run(true, |pair| pair.source.published().moves.outgoing.is_none());
    }

    /// Every key is where its owner is, and nowhere else.
    fn check(&self) {
        self.source.check();
        self.target.check();
        let mut all = BTreeMap::new();
        for group in [&self.source, &self.target] {
            for (row, value) in group.records() {
                let key = keys::record_key(&row).unwrap().to_vec();
                assert!(group.published().serves(crate::cluster::slots::slot(&key)).is_ok());
                let (meta, at) = record::decode_meta(&value).unwrap();
                assert_eq!(self.versions[&key], meta.version);
                assert!(all.insert(key, value[at..].to_vec()).is_none(), "in both groups");
            }
        }
        assert_eq!(all, self.model);
        let owned =
            [&self.source, &self.target].map(|group| group.published().slots.ranges().to_vec()).concat();
        let count: u32 = owned.iter().map(|range| u32::from(range.last - range.first) + 1).sum();
        assert_eq!(count, 16384);
        SlotTable::from_ranges(owned).unwrap();
    }
}

/// Every incarnation but the first began with the member that is left.
fn began(incarnation: u64) -> u64 {
    if incarnation > 1 { incarnation } else { 0 }
}

fn half() -> SlotSet {
    SlotSet::of([Span { first: 8192, last: 16383 }])
}

#[test]
fn slots_move_while_keys_are_written_whatever_is_lost_or_repeated() {
    for seed in 0..100 {
        let mut pair = Pair::new(seed);
        (0..100).for_each(|_| pair.write());
        pair.order(1, half());
        pair.finish();
        pair.check();
        assert!(!pair.target.published().moves.took || pair.target.published().slots.count(1) == 8192);
        assert!(pair.target.published().moves.took);
        // And the rest.
        pair.order(2, SlotSet::of([Span { first: 0, last: 8191 }]));
        pair.finish();
        pair.check();
        assert_eq!(pair.source.published().counters.keys, 0);
    }
}

#[test]
fn a_move_can_be_called_off_until_the_target_owns_the_slots() {
    let (mut withdrawn, mut done) = (0, 0);
    for seed in 0..100 {
        let mut pair = Pair::new(seed);
        (0..100).for_each(|_| pair.write());
        pair.order(1, half());
        let steps = pair.random.draw() % 60;
        let mut left = steps;
        pair.run(true, |_| {
            left = left.saturating_sub(1);
            left == 0
        });
        if let Some(order) = &mut pair.order {
            order.cancelled = true;
        }
        if pair.source.published().moves.outgoing.is_some() {
            pair.finish();
        } else {
            pair.run(true, |pair| pair.source.published().moves.last_out == 1);
            pair.order = None;
        }
        pair.check();
        match pair.target.published().slots.count(1) {
            0 => withdrawn += 1,
            _ => done += 1,
        }
        // A later one finds nothing in its way.
        pair.mover = Mover::default();
        if pair.target.published().slots.count(1) == 0 {
            pair.order(2, half());
            pair.finish();
            pair.check();
            assert_eq!(pair.target.published().slots.count(1), 8192);
        }
    }
    assert!(withdrawn > 15 && done > 5, "{withdrawn} withdrawn, {done} done");
}

/// The source goes on from a copy of before the move, as after a promotion that lost data.
#[test]
fn a_source_that_forgot_its_move_gives_up_what_the_target_took() {
    for (cancelled, switched) in [(false, false), (true, false), (false, true)] {
        let mut pair = Pair::new(11);
        pair.lossy = false;
        (0..100).for_each(|_| pair.write());
        let copy = pair.source.rows.0.lock().unwrap().clone();
        pair.order(1, half());
        pair.run(false, |pair| pair.target.published().slots.count(1) > 0);
        pair.source.go_back_to(copy);
        pair.mover = Mover::default();
        pair.incarnation = 2;
        if let Some(order) = &mut pair.order {
            (order.cancelled, order.switched) = (cancelled, switched);
        }
        pair.run(false, |pair| pair.source.published().slots.count(0) == 8192);
        pair.finish();
        pair.check();
    }
}

/// The source goes on from a copy of before the move, or of the middle of it, while the target is in the middle of it: what
/// the target has got came from a copy that was left behind, and it refuses. The next move takes the slots.
#[test]
fn a_source_that_lost_the_end_of_its_move_has_it_refused() {
    let mut tried = 0;
    for seed in 0..100 {
        let mut pair = Pair::new(seed);
        (0..100).for_each(|_| pair.write());
        let begun = seed % 2 == 0;
        pair.order(1, half());
        if begun {
            pair.run(true, |pair| pair.source.published().moves.outgoing.is_some());
        }
        let (copy, model, versions) =
            (pair.source.rows.0.lock().unwrap().clone(), pair.model.clone(), pair.versions.clone());
        let complete = |pair: &Pair| {
            let moves = pair.target.published().moves;
            moves.incoming.as_ref().is_some_and(|incoming| incoming.complete && incoming.next > 3)
        };
        pair.run(true, |pair| complete(pair) || pair.target.published().moves.took);
        if !complete(&pair) || pair.target.published().moves.took {
            continue;
        }
        tried += 1;
        pair.source.go_back_to(copy);
        (pair.model, pair.versions) = (model, versions);
        (pair.mover, pair.incarnation) = (Mover::default(), 2);
        pair.finish();
        pair.check();
        assert_eq!(pair.source.published().slots.count(0), 16384);
        pair.order(2, half());
        pair.finish();
        pair.check();
        assert_eq!(pair.target.published().slots.count(1), 8192);
    }
    assert!(tried > 20, "{tried}");
}

/// A record rots that was changed right before the slots were frozen. The target never gets it, and must not be waited for.
#[test]
fn a_rotten_record_does_not_keep_requests_waiting_for_ever() {
    let mut tried = 0;
    for seed in 0..100 {
        let mut pair = Pair::new(seed);
        (0..100).for_each(|_| pair.write());
        pair.order(1, half());
        let frozen = |pair: &Pair| {
            pair.source.published().moves.outgoing.as_ref().is_some_and(|out| out.phase == OutPhase::Frozen)
        };
        let over = |pair: &Pair| {
            let outgoing = pair.source.published().moves.outgoing.clone();
            outgoing.is_some_and(|out| matches!(out.phase, OutPhase::Given | OutPhase::Done { .. }))
        };
        pair.run(true, |pair| frozen(pair) || over(pair));
        let Some(row) = pair.on_their_way().pop().filter(|_| frozen(&pair)) else { continue };
        tried += 1;
        let flip = |pair: &Pair| {
            let mut rows = pair.source.rows.0.lock().unwrap();
            *rows.get_mut(&row).unwrap().last_mut().unwrap() ^= 1;
        };
        flip(&pair);
        pair.run(false, |pair| !frozen(pair));
        flip(&pair);
        pair.finish();
        pair.check();
        assert_eq!(pair.target.published().slots.count(1), 0, "the slots stay where the record is");
        // Once it is whole again, nothing is in the way.
        pair.order(2, half());
        pair.finish();
        pair.check();
        assert_eq!(pair.target.published().slots.count(1), 8192);
    }
    assert!(tried > 10, "{tried}");
}

#[test]
fn a_group_in_a_move_is_not_cleared() {
    let mut pair = Pair::new(7);
    (0..50).for_each(|_| pair.write());
    pair.order(1, half());
    pair.run(false, |pair| pair.target.published().moves.incoming.is_some());
    for group in [&mut pair.source, &mut pair.target] {
        assert_eq!(group.apply(Request { id: None, command: Command::Clear }), Reply::Moving { id: 1 });
    }
    pair.finish();
    assert!(matches!(
        pair.source.apply(Request { id: None, command: Command::Clear }),
        Reply::Cleared { keys } if keys > 0
    ));
}

#[test]
fn what_comes_late_changes_nothing() {
    let mut pair = Pair::new(3);
    pair.lossy = false;
    (0..50).for_each(|_| pair.write());
    pair.order(1, half());
    pair.finish();
    let slots = half();
    let late = [
        MoveStep::Accept { id: 1, attempt: 9, slots: slots.clone(), from: 0, to: 1, next: 0 },
        MoveStep::Refuse { id: 1 },
        MoveStep::Activate { id: 1, attempt: 1, next: 0, version: 1 << 40, clock: 1 << 40 },
        MoveStep::Follow {
            id: 1,
            attempt: 1,
            first: 0,
            next: 9,
            rows: Vec::new(),
            secured: Secured::default(),
        },
    ];
    for step in late {
        let before = pair.target.published();
        assert_eq!(pair.target.step(step), Reply::MoveTarget(TargetWord::Ended { took: true }));
        let after = pair.target.published();
        assert_eq!((before.moves, before.counters.version), (after.moves, after.counters.version));
    }
    for step in [
        MoveStep::Begin { id: 1, attempt: 1, slots: slots.clone(), to: 1 },
        MoveStep::Begin { id: 2, attempt: 1, slots, to: 1 },
        MoveStep::Withdraw { id: 1 },
        MoveStep::Release { id: 1 },
    ] {
        let before = pair.source.published();
        assert_eq!(pair.source.step(step), Reply::MoveNoted);
        assert_eq!(before.moves, pair.source.published().moves);
    }
    pair.check();
}

#[path = "promoted_tests.rs"]
mod promoted;
