//! Moves that are ordered and called off, and what goes wrong in the middle of one.

use crate::event::{Death, Event, Place};
use crate::system::{MS, SECOND};
use crate::world::World;
use catstore::cluster::directory::{Directory, DirectoryCommand, Rebalance};
use catstore::cluster::moves::{Phase, SlotSet, Span};
use catstore::cluster::slots::SLOTS;
use catstore::replica::machine::Machine;
use std::sync::Arc;

/// What is to go wrong as soon as a move is in some phase.
#[derive(Debug, Clone, Copy)]
pub struct Strike {
    phase: Phase,
    whom: Whom,
    how: How,
}

/// Who is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whom {
    Source,
    Target,
    Masters,
}

/// How somebody is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Dies(Death),
    IsCutOff,
}

/// So many of them wait at most.
const STRIKES: usize = 5;

/// The later ones, which are short, and those that are rare, come more often.
const PHASES: [Phase; 9] = [
    Phase::Copy,
    Phase::Follow,
    Phase::Frozen,
    Phase::Given,
    Phase::Given,
    Phase::Release,
    Phase::Release,
    Phase::Withdraw,
    Phase::Withdraw,
];

impl World {
    /// Some slots of the group `from` are to move to another group; perhaps back again as soon as they are there.
    pub(super) fn move_slots(&mut self, from: u32) {
        let others: Vec<u32> = self.workers.ids().into_iter().filter(|group| *group != from).collect();
        if others.is_empty() {
            return;
        }
        let to = others[self.sys.random.up_to(others.len() - 1)];
        let Some(directory) = self.directory() else { return };
        let (from, to, owned) = match directory.moves.values().next() {
            // What is about to come goes back.
            Some(order) if self.sys.one_in(3) => (order.to, order.from, order.slots.clone()),
            _ => (from, to, directory.slots.of(from)),
        };
        let slots = if self.sys.one_in(3) { owned } else { self.some_of(&owned) };
        self.operator.order(&mut self.sys, DirectoryCommand::StartMove { from, to, slots });
    }

    /// What the masters agree on, as the one that leads knows it.
    pub fn directory(&self) -> Option<Arc<Directory>> {
        let leader = self.masters.leader()?;
        self.masters.nodes.get(&leader)?.up.as_ref().map(|up| up.member.machine().publish())
    }

    /// A group is to give all its slots away, or not after all.
    pub(super) fn drain(&mut self, group: u32) {
        let Some(directory) = self.directory() else { return };
        let draining = self.workers.ids().into_iter().find(|group| directory.group(*group).draining);
        let (group, undo) = match draining {
            Some(draining) if self.sys.one_in(2) => (draining, true),
            Some(_) => return,
            None => (group, false),
        };
        self.operator.order(&mut self.sys, DirectoryCommand::DrainGroup { group, undo });
        if self.sys.one_in(2) {
            self.rebalance();
        }
    }

    /// Each group is to get its share, perhaps on fewer disks than before.
    pub(super) fn rebalance(&mut self) {
        let wish = Rebalance { accept_fewer_copies: self.sys.one_in(2) };
        self.operator.order(&mut self.sys, DirectoryCommand::Rebalance(Some(wish)));
    }

    /// A worker founds another group, if there are few.
    pub(super) fn found_group(&mut self) {
        if self.workers.ids().len() < 3 && self.operator.joining() == 0 {
            self.operator.join(&mut self.sys, None, None);
        }
    }

    /// Slots of a set that lie within a part of all slots.
    fn some_of(&mut self, owned: &SlotSet) -> SlotSet {
        let first = self.sys.between(0, u64::from(SLOTS) - 1) as u16;
        let last = (first + self.sys.between(1000, 8000) as u16).min(SLOTS - 1);
        let parts =
            owned.spans().iter().map(|span| Span { first: span.first.max(first), last: span.last.min(last) });
        SlotSet::of(parts.collect::<Vec<Span>>())
    }

    /// Some move is called off.
    pub(super) fn cancel_move(&mut self) {
        let Some(directory) = self.directory() else { return };
        let ids: Vec<u64> = directory.moves.keys().copied().collect();
        if !ids.is_empty() {
            let id = ids[self.sys.random.up_to(ids.len() - 1)];
            self.operator.order(&mut self.sys, DirectoryCommand::CancelMove { id });
        }
    }

    /// Somebody is to be lost in the middle of the next move.
    pub(super) fn plan_strike(&mut self) {
        let phase = PHASES[self.sys.random.up_to(PHASES.len() - 1)];
        let whom = match self.sys.between(0, 4) {
            0 | 1 => Whom::Source,
            2 | 3 => Whom::Target,
            _ => Whom::Masters,
        };
        let how = match self.sys.between(0, 2) {
            0 => How::Dies(Death::Kill),
            1 => How::Dies(Death::Power),
            _ => How::IsCutOff,
        };
        if self.strikes.len() < STRIKES {
            self.strikes.push(Strike { phase, whom, how });
        }
    }

    /// Looks whether the move of this worker's group is where somebody is to be lost.
    pub(super) fn strike_in_time(&mut self, worker: u64) {
        let Some(node) = self.workers.node(worker).filter(|_| self.sys.faults) else { return };
        let Some(facts) = self.carriers.facts(node) else { return };
        let fits = |strike: &Strike| strike.phase == facts.phase;
        let Some(position) = self.strikes.iter().position(fits) else { return };
        let strike = self.strikes[position];
        let to = node.up.as_ref().and_then(|up| Some(up.live().1.moves.outgoing.as_ref()?.to));
        let lost: Vec<Place> = match strike.whom {
            Whom::Source => vec![Place::Worker(worker)],
            Whom::Target => {
                let leader = to.and_then(|to| self.workers.group(to).leader());
                leader.map(Place::Worker).into_iter().collect()
            }
            Whom::Masters => self.masters.running().into_iter().map(Place::Master).collect(),
        };
        if lost.is_empty() {
            return;
        }
        self.strikes.remove(position);
        self.sys.count(name(strike.phase, strike.whom));
        let until = self.sys.now + self.sys.between(300 * MS, 6 * SECOND);
        for place in lost {
            match strike.how {
                How::Dies(death) => {
                    let life = self.life(place);
                    self.sys.after(0, Event::Die(place, life, death));
                }
                How::IsCutOff => {
                    for other in self.everybody().into_iter().filter(|other| *other != place) {
                        self.sys.net.cut(place, other, until);
                        self.sys.net.cut(other, place, until);
                    }
                }
            }
        }
    }

    fn life(&self, place: Place) -> u64 {
        match place {
            Place::Worker(id) => self.workers.node(id).map_or(0, |node| node.life),
            Place::Master(id) => self.masters.nodes.get(&id).map_or(0, |node| node.life),
            Place::Client(_) => 0,
        }
    }
}

fn name(phase: Phase, whom: Whom) -> &'static str {
    match (whom, phase) {
        (Whom::Source, Phase::Copy) => "source lost in Copy",
        (Whom::Source, Phase::Follow) => "source lost in Follow",
        (Whom::Source, Phase::Frozen) => "source lost in Frozen",
        (Whom::Source, Phase::Given) => "source lost in Given",
        (Whom::Source, Phase::Release) => "source lost in Release",
        (Whom::Source, _) => "source lost in Withdraw",
        (Whom::Target, Phase::Copy) => "target lost in Copy",
        (Whom::Target, Phase::Follow) => "target lost in Follow",
        (Whom::Target, Phase::Frozen) => "target lost in Frozen",
        (Whom::Target, Phase::Given) => "target lost in Given",
        (Whom::Target, Phase::Release) => "target lost in Release",
        (Whom::Target, _) => "target lost in Withdraw",
        (Whom::Masters, _) => "masters lost in a move",
    }
}
