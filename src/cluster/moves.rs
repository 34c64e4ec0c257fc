//! Moves of slots from one group to another: what the masters order, and the words in which a move is spoken of.

use super::slots::SLOTS;
use serde::{Deserialize, Serialize};

/// A run of slots; both ends are included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Span {
    /// The first slot.
    pub first: u16,
    /// The last slot.
    pub last: u16,
}

/// A set of slots: disjoint spans in ascending order that do not touch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SlotSet {
    spans: Vec<Span>,
}

impl SlotSet {
    /// Every slot.
    pub fn all() -> SlotSet {
        SlotSet { spans: vec![Span { first: 0, last: SLOTS - 1 }] }
    }

    /// The slots of these spans, in any order; they may overlap.
    pub fn of(spans: impl IntoIterator<Item = Span>) -> SlotSet {
        let mut spans: Vec<Span> = spans.into_iter().filter(|span| span.first <= span.last).collect();
        spans.sort_by_key(|span| span.first);
        let mut set = SlotSet::default();
        for span in spans {
            match set.spans.last_mut() {
                Some(last) if span.first <= last.last.saturating_add(1) => {
                    last.last = last.last.max(span.last)
                }
                _ => set.spans.push(span),
            }
        }
        set
    }

    /// True if `slot` is in the set.
    pub fn contains(&self, slot: u16) -> bool {
        let at = self.spans.partition_point(|span| span.last < slot);
        self.spans.get(at).is_some_and(|span| span.first <= slot)
    }

    /// How many slots there are.
    pub fn count(&self) -> u16 {
        self.spans.iter().map(|span| span.last - span.first + 1).sum()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The spans, ascending.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Every slot, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.spans.iter().flat_map(|span| span.first..=span.last)
    }

    /// The slots of either.
    pub fn union(&self, other: &SlotSet) -> SlotSet {
        SlotSet::of(self.spans.iter().chain(&other.spans).copied())
    }

    /// The slots of this set that are not in `other`.
    pub fn minus(&self, other: &SlotSet) -> SlotSet {
        SlotSet::of(
            self.iter().filter(|slot| !other.contains(*slot)).map(|slot| Span { first: slot, last: slot }),
        )
    }

    /// True if a slot is in both.
    pub fn overlaps(&self, other: &SlotSet) -> bool {
        self.spans
            .iter()
            .any(|one| other.spans.iter().any(|two| one.first <= two.last && two.first <= one.last))
    }

    /// Proves that the spans are as they must be; says what is wrong otherwise.
    pub fn check(&self) -> Result<(), String> {
        let mut next = 0u32;
        for span in &self.spans {
            if u32::from(span.first) < next || span.last < span.first || span.last >= SLOTS {
                return Err(format!("slots {}..={} overlap or are out of range", span.first, span.last));
            }
            next = u32::from(span.last) + 2;
        }
        Ok(())
    }
}

/// A move that the masters ordered and that is not finished. A group is in one unfinished move at most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveOrder {
    /// Its number; a later move has a higher one.
    pub id: u64,
    /// The slots.
    pub slots: SlotSet,
    /// The group that owns them.
    pub from: u32,
    /// The group that is to own them.
    pub to: u32,
    /// True once it was called off: the source asks the target to refuse it, which it does unless it owns the slots
    /// already.
    #[serde(default)]
    pub cancelled: bool,
    /// True once the masters know that `to` owns the slots: what is left is to remove what `from` still has of them.
    #[serde(default)]
    pub switched: bool,
}

/// How far a move is, as its source knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Records are copied; the source serves.
    Copy,
    /// What changed meanwhile is sent after them; the source serves.
    Follow,
    /// Requests for the slots wait.
    Frozen,
    /// The target owns the slots.
    Given,
    /// The source removes what it had of them.
    Release,
    /// The target has refused: the source keeps the slots, and what was written for the move is removed.
    Withdraw,
    /// Nothing is left to do; the masters are to be told.
    Done,
}

/// What the leader of a source says of its move in heartbeats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveFacts {
    /// The move.
    pub id: u64,
    /// How far it is.
    pub phase: Phase,
    /// True if the target refused it.
    #[serde(default)]
    pub withdrawn: bool,
    /// Records sent so far by this leader.
    pub keys: u64,
    /// Bytes sent so far by this leader.
    pub bytes: u64,
    /// About how many bytes there are.
    pub total: u64,
    /// Changes that wait to be sent after the copy.
    pub waiting: u64,
    /// Bytes a second, lately.
    pub rate: u64,
}

/// A move that is not finished, as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveStatus {
    /// What the masters ordered.
    #[serde(flatten)]
    pub order: MoveOrder,
    /// How far it is, if the leader of its source has said so.
    #[serde(default)]
    pub facts: Option<MoveFacts>,
}

impl MoveStatus {
    /// Seconds until the copy is complete, at the rate of the last ones; none if that is not known or not the question.
    pub fn seconds_left(&self) -> Option<u64> {
        let facts = self.facts.as_ref().filter(|facts| facts.phase == Phase::Copy)?;
        facts.total.saturating_sub(facts.bytes).checked_div(facts.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn set(spans: &[(u16, u16)]) -> SlotSet {
        SlotSet::of(spans.iter().map(|(first, last)| Span { first: *first, last: *last }))
    }

    #[test]
    fn spans_that_touch_are_one() {
        let joined = set(&[(10, 12), (0, 3), (4, 5), (11, 20)]);
        assert_eq!(joined.spans(), [Span { first: 0, last: 5 }, Span { first: 10, last: 20 }]);
        assert_eq!((joined.count(), joined.check()), (17, Ok(())));
        assert!(joined.contains(0) && joined.contains(20) && !joined.contains(6) && !joined.contains(21));
        assert_eq!(SlotSet::all().count(), SLOTS);
        assert!(SlotSet { spans: vec![Span { first: 3, last: 2 }] }.check().is_err());
        assert!(SlotSet { spans: vec![Span { first: 0, last: SLOTS }] }.check().is_err());
    }

    #[test]
    fn the_time_that_a_copy_takes_yet() {
        let order =
            MoveOrder { id: 1, slots: set(&[(0, 1)]), from: 0, to: 1, cancelled: false, switched: false };
        let facts = MoveFacts {
            id: 1,
            phase: Phase::Copy,
            withdrawn: false,
            keys: 1,
            bytes: 100,
            total: 1000,
            waiting: 0,
            rate: 300,
        };
        let left = |facts: Option<MoveFacts>| MoveStatus { order: order.clone(), facts }.seconds_left();
        assert_eq!(left(Some(facts.clone())), Some(3));
        assert_eq!(left(Some(MoveFacts { rate: 0, ..facts.clone() })), None);
        assert_eq!(left(Some(MoveFacts { phase: Phase::Follow, ..facts })), None);
        assert_eq!(left(None), None);
    }

    proptest! {
        #[test]
        fn sets_are_sets(
            one in prop::collection::vec((0..200u16, 0..20u16), 0..8),
            two in prop::collection::vec((0..200u16, 0..20u16), 0..8),
        ) {
            let slots = |spans: &[(u16, u16)]| -> BTreeSet<u16> {
                spans.iter().flat_map(|(first, more)| *first..=first + more).collect()
            };
            let of = |spans: &[(u16, u16)]| SlotSet::of(
                spans.iter().map(|(first, more)| Span { first: *first, last: first + more }));
            let (a, b) = (of(&one), of(&two));
            let (x, y) = (slots(&one), slots(&two));
            prop_assert_eq!(a.iter().collect::<BTreeSet<_>>(), x.clone());
            prop_assert_eq!(a.count() as usize, x.len());
            prop_assert_eq!(a.union(&b).iter().collect::<BTreeSet<_>>(), x.union(&y).copied().collect());
            prop_assert_eq!(a.minus(&b).iter().collect::<BTreeSet<_>>(), x.difference(&y).copied().collect());
            prop_assert_eq!(a.overlaps(&b), x.intersection(&y).next().is_some());
            prop_assert_eq!(a.union(&b).check(), Ok(()));
        }
    }
}
