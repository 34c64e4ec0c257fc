//! Who serves which slot, looked at all the time: never two groups, neither by the newest state that each has applied nor by
//! what members may read that hold a lease.

use crate::keys;
use crate::node::Node;
use crate::system::System;
use crate::workers::Workers;
use catstore::cluster::moves::{SlotSet, Span};
use catstore::cluster::slots::SlotTable;
use catstore::replica::keyspace::{Keyspace, Published};
use catstore::replica::moves::OutPhase;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is served.
#[derive(Default)]
pub struct Owners {
    newest: BTreeMap<u32, Served>,
}

/// What a group serves, by the newest state that was seen of it.
struct Served {
    index: u64,
    table: Arc<SlotTable>,
    frozen: Option<SlotSet>,
    /// Spans that it owns and that do not wait for their move.
    slots: Vec<Span>,
}

impl Owners {
    /// A worker has applied something. Errors: two groups serve a slot.
    pub fn look(&mut self, sys: &System, workers: &Workers, id: u64) -> Result<(), String> {
        let Some(node) = workers.node(id) else { return Ok(()) };
        let Some(up) = &node.up else { return Ok(()) };
        self.note(node.group, up.live().1)?;
        two_readers(sys, workers, node)
    }

    /// Never two groups serve a slot, by the newest state of each.
    fn note(&mut self, group: u32, published: &Published) -> Result<(), String> {
        let index = published.counters.index;
        let frozen = frozen(published);
        if let Some(known) = self.newest.get_mut(&group) {
            if known.index >= index {
                return Ok(());
            }
            if *known.table == *published.slots && known.frozen == frozen {
                known.index = index;
                return Ok(());
            }
        }
        let slots = served(&published.slots, frozen.as_ref());
        for (other, theirs) in self.newest.iter().filter(|(other, _)| **other != group) {
            if let Some(slot) = common(&slots, &theirs.slots) {
                return Err(format!(
                    "slot {slot} is served by group {group} at entry {index}, and by group {other} at entry {}",
                    theirs.index
                ));
            }
        }
        self.newest.insert(group, Served { index, table: published.slots.clone(), frozen, slots });
        Ok(())
    }
}

/// Never two groups may read a slot by lease.
fn two_readers(sys: &System, workers: &Workers, node: &Node<Keyspace>) -> Result<(), String> {
    let Some(own) = readable(sys, node) else { return Ok(()) };
    for (_, group) in workers.groups().iter().filter(|(id, _)| **id != node.group) {
        for other in group.nodes.values() {
            let Some(theirs) = readable(sys, other) else { continue };
            let both = |slot: &u16| own.serves(*slot).is_ok() && theirs.serves(*slot).is_ok();
            if let Some(slot) = keys::slots().into_iter().find(both) {
                return Err(format!(
                    "slot {slot} may be read by lease at worker {} of group {} and at worker {} of group {}",
                    node.id, node.group, other.id, other.group
                ));
            }
        }
    }
    Ok(())
}

/// What a worker that holds a lease serves.
fn readable<'a>(sys: &System, node: &'a Node<Keyspace>) -> Option<&'a Published> {
    let up = node.up.as_ref()?;
    (up.lease > node.clock.ms(sys.now) && !up.is_shifting()).then(|| up.live().1)
}

/// Slots whose requests wait.
fn frozen(published: &Published) -> Option<SlotSet> {
    let out = published.moves.outgoing.as_ref().filter(|out| out.phase == OutPhase::Frozen);
    out.map(|out| out.slots.clone())
}

/// Spans of a table without the frozen slots.
fn served(table: &SlotTable, frozen: Option<&SlotSet>) -> Vec<Span> {
    let mut table = table.clone();
    if let Some(frozen) = frozen {
        table.take(frozen);
    }
    table.ranges().iter().map(|range| Span { first: range.first, last: range.last }).collect()
}

/// The first slot of both.
fn common(one: &[Span], other: &[Span]) -> Option<u16> {
    let overlap = |one: &Span, other: &Span| {
        let first = one.first.max(other.first);
        (first <= one.last.min(other.last)).then_some(first)
    };
    one.iter().find_map(|one| other.iter().find_map(|other| overlap(one, other)))
}
