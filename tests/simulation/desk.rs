//! What the masters order to move.

use crate::carrier::Ordered;
use crate::system::System;
use catstore::cluster::moves::{MoveOrder, Phase, SlotSet};
use catstore::cluster::slots::SlotTable;
use catstore::cluster::view::WorkerFacts;
use std::collections::BTreeMap;

/// Orders under way.
#[derive(Default)]
pub struct Desk {
    orders: BTreeMap<u64, MoveOrder>,
    next: u64,
    table: SlotTable,
}

impl Desk {
    /// Moves are possible; `table` says who owns which slot.
    pub fn begin(&mut self, table: &SlotTable) {
        self.table = table.clone();
        self.next = 1;
    }

    /// Who owns which slot.
    pub fn table(&self) -> &SlotTable {
        &self.table
    }

    /// Orders under way.
    pub fn orders(&self) -> impl Iterator<Item = &MoveOrder> {
        self.orders.values()
    }

    /// A move is ordered, unless one of the two groups is in another one.
    pub fn start(&mut self, sys: &mut System, slots: SlotSet, from: u32, to: u32) {
        let busy = |order: &MoveOrder| [order.from, order.to].iter().any(|group| [from, to].contains(group));
        if self.orders.values().any(busy) || slots.is_empty() || from == to {
            return;
        }
        sys.count("move ordered");
        let order = MoveOrder { id: self.next, slots, from, to, cancelled: false, switched: false };
        self.orders.insert(self.next, order);
        self.next += 1;
    }

    /// A move is called off.
    pub fn cancel(&mut self, sys: &mut System, id: u64) {
        if let Some(order) = self.orders.get_mut(&id).filter(|order| !order.switched && !order.cancelled) {
            sys.count("move called off");
            order.cancelled = true;
        }
    }

    /// What a source says of its move.
    pub fn hear(&mut self, sys: &mut System, facts: &WorkerFacts) {
        let declined =
            self.orders.values().find(|order| order.from == facts.group && order.id <= facts.moves_done);
        if let Some(id) = declined.map(|order| order.id) {
            sys.count("move declined");
            self.orders.remove(&id);
        }
        let Some(facts) = &facts.moving else { return };
        let Some(order) = self.orders.get_mut(&facts.id) else { return };
        let given = matches!(facts.phase, Phase::Given | Phase::Release | Phase::Done) && !facts.withdrawn;
        if given && !order.switched {
            order.switched = true;
            self.table.give(&order.slots, order.to);
        }
        if facts.phase == Phase::Done {
            sys.count(if facts.withdrawn { "move ended in vain" } else { "move finished" });
            self.orders.remove(&facts.id);
        }
    }

    /// What a member of `group` is told; nothing where nothing can move.
    pub fn ordered(&self, group: u32) -> Option<Ordered> {
        let order = self.orders.values().find(|order| order.from == group).cloned();
        (self.next > 0).then_some(Ordered { order, next_move: self.next })
    }
}
