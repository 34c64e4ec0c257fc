//! Who owns which slot, when the masters cannot be asked: by what the groups say, and by the newest routes for those that
//! are silent. Where neither is certain it is refused, never guessed.

use crate::cluster::moves::{MoveOrder, SlotSet, Span};
use crate::cluster::slots::{SLOTS, SlotRange, SlotTable};
use crate::cluster::view::{ClusterView, WorkerFacts};
use crate::error::{Error, Kind, Result};
use std::collections::BTreeMap;

/// What the answering member of a group that knows most says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Word<'a>(pub(super) &'a WorkerFacts);

impl Word<'_> {
    /// What makes the word of one member count more than that of another.
    pub(super) fn weight(&self) -> (u64, u64, bool) {
        (self.0.incarnation, self.0.applied, self.is_certain())
    }

    /// True if it is not older than what any other member of the group knows: it leads.
    fn is_certain(&self) -> bool {
        self.0.role == "leader"
    }
}

/// Why nobody can say who owns a slot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    /// These groups say that they own it.
    Claimed(Vec<u32>),
    /// That group owned it by the routes, has answered, and says that it does not.
    GivenUp(u32),
    /// No routes name an owner.
    Unknown,
}

/// The owner of each slot. Errors: `Conflict`, with the slots and what to do.
pub(super) fn owners(base: &ClusterView, words: &BTreeMap<u32, Word<'_>>) -> Result<SlotTable> {
    let judge = Judge { base, words };
    let mut claims: Vec<Vec<u32>> = vec![Vec::new(); usize::from(SLOTS)];
    for (group, word) in words {
        for slot in word.0.slots.iter() {
            claims[usize::from(slot)].push(*group);
        }
    }
    let mut ranges: Vec<SlotRange> = Vec::new();
    let mut troubles: BTreeMap<Trouble, Vec<Span>> = BTreeMap::new();
    for (slot, claimants) in (0..SLOTS).zip(&claims) {
        match judge.owner(slot, claimants) {
            Ok(group) => match ranges.last_mut() {
                Some(last) if last.group == group && last.last + 1 == slot => last.last = slot,
                _ => ranges.push(SlotRange { first: slot, last: slot, group }),
            },
            Err(trouble) => troubles.entry(trouble).or_default().push(Span { first: slot, last: slot }),
        }
    }
    if let Some((trouble, spans)) = troubles.into_iter().next() {
        return Err(refusal(&trouble, &SlotSet::of(spans)));
    }
    SlotTable::from_ranges(ranges).map_err(|why| Error::new(Kind::Conflict, why))
}

struct Judge<'a> {
    base: &'a ClusterView,
    words: &'a BTreeMap<u32, Word<'a>>,
}

impl Judge<'_> {
    fn owner(&self, slot: u16, claimants: &[u32]) -> Result<u32, Trouble> {
        let routed = self.base.slots.owner(slot);
        match claimants {
            [] => self.unclaimed(slot, routed.ok_or(Trouble::Unknown)?),
            [one] => self.claimed(slot, *one, routed),
            several => self.contested(slot, several, routed),
        }
    }

    /// The order, not finished by the newest routes, that moves `slot`.
    fn order(&self, slot: u16) -> Option<&MoveOrder> {
        self.base.moves.iter().find(|order| order.slots.contains(slot))
    }

    /// True if the source of `order` has done with it: what it says of these slots is not older than that.
    fn is_done(&self, order: &MoveOrder) -> bool {
        self.words.get(&order.from).is_some_and(|word| word.0.moves_done >= order.id)
    }

    fn is_certain(&self, group: u32) -> bool {
        self.words.get(&group).is_some_and(Word::is_certain)
    }

    /// The move by which `group` took slots lately.
    fn received(&self, group: u32) -> Option<u64> {
        self.words.get(&group).and_then(|word| word.0.received)
    }

    /// Nobody who answered owns it.
    fn unclaimed(&self, slot: u16, routed: u32) -> Result<u32, Trouble> {
        if !self.words.contains_key(&routed) {
            return Ok(routed);
        }
        match self.order(slot) {
            // It was given away: only a target that has taken it is given anything. A member that is behind its group
            // may as well not know yet that it owns the slot.
            Some(order) if order.from == routed && (order.switched || self.is_certain(routed)) => {
                Ok(order.to)
            }
            // The masters knew that it had switched: the member that answered is behind its group.
            Some(order) if order.to == routed => Ok(routed),
            _ => Err(Trouble::GivenUp(routed)),
        }
    }

    /// One group that answered says that it owns it.
    fn claimed(&self, slot: u16, one: u32, routed: Option<u32>) -> Result<u32, Trouble> {
        let Some(routed) = routed.filter(|routed| *routed != one) else { return Ok(one) };
        let silent = !self.words.contains_key(&routed);
        match self.order(slot) {
            Some(order) if (order.from, order.to) == (routed, one) => {
                let took =
                    self.received(one) == Some(order.id) || self.is_certain(routed) || self.is_done(order);
                if took || self.is_certain(one) { Ok(one) } else { Err(Trouble::Claimed(vec![one, routed])) }
            }
            // The masters knew already that it has changed hands.
            Some(order) if (order.from, order.to) == (one, routed) => Ok(routed),
            _ if self.is_certain(one) => Ok(one),
            // Both members are behind their groups: the move between these is over, and in the routes.
            None if !silent && !self.is_certain(routed) => Ok(routed),
            _ => Err(Trouble::Claimed(vec![one, routed])),
        }
    }

    /// Several groups that answered say that they own it: a move is under way, or a member is behind its group.
    fn contested(&self, slot: u16, several: &[u32], routed: Option<u32>) -> Result<u32, Trouble> {
        let order = self.order(slot);
        let took = |from: u32, to: u32| {
            let received = self.received(to);
            let driven =
                self.words.get(&from).and_then(|word| word.0.moving.as_ref()).map(|moving| moving.id);
            let ordered = order.filter(|order| (order.from, order.to) == (from, to)).map(|order| order.id);
            received.is_some() && (received == driven || received == ordered)
        };
        let gave = |from: &u32| several.iter().any(|to| to != from && took(*from, *to));
        let left: Vec<u32> = several.iter().filter(|group| !gave(group)).copied().collect();
        if let [one] = left[..] {
            return Ok(one);
        }
        let between = order.filter(|order| left.contains(&order.from) && left.contains(&order.to));
        let certain: Vec<u32> = left.iter().filter(|group| self.is_certain(**group)).copied().collect();
        match (&certain[..], between) {
            (_, Some(order)) if self.is_done(order) && left.len() == 2 => Ok(order.from),
            ([one], Some(_)) if left.len() == 2 => Ok(*one),
            ([one], None) if routed == Some(*one) => Ok(*one),
            ([], Some(order)) if order.switched && left.len() == 2 => Ok(order.to),
            ([], None) => match routed.filter(|routed| left.contains(routed)) {
                Some(routed) => Ok(routed),
                None => Err(Trouble::Claimed(left)),
            },
            _ => Err(Trouble::Claimed(left)),
        }
    }
}

fn refusal(trouble: &Trouble, slots: &SlotSet) -> Error {
    let slots = shown(slots);
    let names = |groups: &[u32]| {
        let names: Vec<String> = groups.iter().map(|group| format!("group {group}")).collect();
        names.join(" and ")
    };
    match trouble {
        Trouble::Claimed(groups) => Error::new(
            Kind::Conflict,
            format!("slots {slots} may belong to {}, and no move explains it", names(groups)),
        )
        .hint(format!("start more workers of {}, so that their leaders answer", names(groups))),
        Trouble::GivenUp(group) => Error::new(
            Kind::Conflict,
            format!("slots {slots} belonged to group {group}, which says that it does not own them"),
        )
        .hint(format!("start more workers of group {group}, and those of groups that are not known here")),
        Trouble::Unknown => Error::new(Kind::Conflict, format!("nobody knows who owns the slots {slots}"))
            .hint("start and name more workers: of every group at least one that holds a copy"),
    }
}

/// The first spans of a set, for a person.
fn shown(slots: &SlotSet) -> String {
    const MOST: usize = 3;
    let spans = slots.spans().iter().take(MOST).map(|span| match span.first == span.last {
        true => span.first.to_string(),
        false => format!("{}-{}", span.first, span.last),
    });
    let more = if slots.spans().len() > MOST { ", …" } else { "" };
    format!("{}{more}", spans.collect::<Vec<_>>().join(", "))
}

/// What differs from the routes, one line for each pair of groups.
pub(super) fn changes(base: &ClusterView, now: &SlotTable) -> Vec<String> {
    let mut changed: BTreeMap<(Option<u32>, Option<u32>), Vec<Span>> = BTreeMap::new();
    for slot in 0..SLOTS {
        let pair = (base.slots.owner(slot), now.owner(slot));
        if pair.0 != pair.1 {
            changed.entry(pair).or_default().push(Span { first: slot, last: slot });
        }
    }
    let group = |group: Option<u32>| group.map_or("nobody".to_owned(), |group| format!("group {group}"));
    changed
        .into_iter()
        .map(|((before, after), spans)| {
            let slots = SlotSet::of(spans);
            let (before, after) = (group(before), group(after));
            let count = slots.count();
            format!("differs: {count} slots ({}) belong to {after}; the routes name {before}", shown(&slots))
        })
        .collect()
}
