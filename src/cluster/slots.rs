//! Slots: CRC-16/XMODEM of the key modulo 16384, of the `{tag}` if the key has one. It is the function of the
//! Redis Cluster specification ("Key distribution model", "Hash tags"), so that its clients can route here.

use super::moves::{SlotSet, Span};
use crc::{CRC_16_XMODEM, Crc};
use serde::{Deserialize, Serialize};

/// The number of slots of a cluster.
pub const SLOTS: u16 = 16384;

const CRC: Crc<u16> = Crc::<u16>::new(&CRC_16_XMODEM);

/// The slot of `key`, in `0..SLOTS`.
pub fn slot(key: &[u8]) -> u16 {
    CRC.checksum(tag(key)) % SLOTS
}

/// The bytes that decide the slot: what stands between the first `{` and the first `}` after it, if that is not
/// empty; else the whole key.
fn tag(key: &[u8]) -> &[u8] {
    if let Some(open) = key.iter().position(|byte| *byte == b'{') {
        let rest = &key[open + 1..];
        if let Some(close) = rest.iter().position(|byte| *byte == b'}')
            && close > 0
        {
            return &rest[..close];
        }
    }
    key
}

/// A run of slots with one owner; both ends are included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRange {
    /// The first slot.
    pub first: u16,
    /// The last slot.
    pub last: u16,
    /// The owner.
    pub group: u32,
}

/// Who owns which slot: disjoint ranges in ascending order. Slots without a range have no owner yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SlotTable {
    ranges: Vec<SlotRange>,
}

impl SlotTable {
    /// A table in which `group` owns every slot.
    pub fn whole(group: u32) -> SlotTable {
        SlotTable { ranges: vec![SlotRange { first: 0, last: SLOTS - 1, group }] }
    }

    /// A table of these ranges. Errors say which of them overlap or are out of range.
    pub fn from_ranges(mut ranges: Vec<SlotRange>) -> Result<SlotTable, String> {
        ranges.sort_by_key(|range| range.first);
        let table = SlotTable { ranges };
        table.check().map(|()| table)
    }

    /// The owner of `slot`.
    pub fn owner(&self, slot: u16) -> Option<u32> {
        let after = self.ranges.partition_point(|range| range.last < slot);
        self.ranges.get(after).filter(|range| range.first <= slot).map(|range| range.group)
    }

    /// The slots that `group` owns.
    pub fn of(&self, group: u32) -> SlotSet {
        let own = self.ranges.iter().filter(|range| range.group == group);
        SlotSet::of(own.map(|range| Span { first: range.first, last: range.last }))
    }

    /// The slots that have an owner.
    pub fn owned(&self) -> SlotSet {
        SlotSet::of(self.ranges.iter().map(|range| Span { first: range.first, last: range.last }))
    }

    /// Gives `slots` to `group`, whoever owned them, and nobody else anything.
    pub fn give(&mut self, slots: &SlotSet, group: u32) {
        self.take(slots);
        let given = slots.spans().iter().map(|span| SlotRange { first: span.first, last: span.last, group });
        self.ranges.extend(given);
        self.ranges.sort_by_key(|range| range.first);
        let mut joined: Vec<SlotRange> = Vec::with_capacity(self.ranges.len());
        for range in std::mem::take(&mut self.ranges) {
            match joined.last_mut() {
                Some(last) if last.group == range.group && last.last + 1 == range.first => {
                    last.last = range.last
                }
                _ => joined.push(range),
            }
        }
        self.ranges = joined;
    }

    /// Leaves `slots` without an owner.
    pub fn take(&mut self, slots: &SlotSet) {
        let mut left = Vec::with_capacity(self.ranges.len());
        for range in &self.ranges {
            let mut first = u32::from(range.first);
            for span in slots.spans() {
                let (cut, end) = (u32::from(span.first), u32::from(span.last));
                if end < first || cut > u32::from(range.last) {
                    continue;
                }
                if cut > first {
                    left.push(SlotRange { first: first as u16, last: (cut - 1) as u16, group: range.group });
                }
                first = end + 1;
            }
            if first <= u32::from(range.last) {
                left.push(SlotRange { first: first as u16, ..*range });
            }
        }
        self.ranges = left;
    }

    /// The ranges in ascending order.
    pub fn ranges(&self) -> &[SlotRange] {
        &self.ranges
    }

    /// How many slots `group` owns.
    pub fn count(&self, group: u32) -> u16 {
        self.ranges
            .iter()
            .filter(|range| range.group == group)
            .map(|range| range.last - range.first + 1)
            .sum()
    }

    /// Proves that no slot has two owners and that the ranges are well formed; says what is wrong otherwise.
    pub fn check(&self) -> Result<(), String> {
        let mut next = 0u32;
        for range in &self.ranges {
            if u32::from(range.first) < next || range.last < range.first || range.last >= SLOTS {
                return Err(format!(
                    "slots {}..={} of group {} overlap or are out of range",
                    range.first, range.last, range.group
                ));
            }
            next = u32::from(range.last) + 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn slots_are_those_of_the_redis_cluster_specification() {
        assert_eq!(CRC.checksum(b"123456789"), 0x31C3);
        assert_eq!(slot(b"123456789"), 12739);
        assert_eq!(slot(b"foo"), 12182);
        assert_eq!(slot(b"bar"), 5061);
        assert_eq!(slot(b"hello"), 866);
        assert_eq!(slot(b""), 0);
    }

    #[test]
    fn tags_follow_the_specification() {
        assert_eq!(slot(b"{user1000}.following"), slot(b"{user1000}.followers"));
        assert_eq!(slot(b"{user1000}.following"), slot(b"user1000"));
        assert_eq!(tag(b"foo{}{bar}"), b"foo{}{bar}");
        assert_eq!(tag(b"foo{{bar}}zap"), b"{bar");
        assert_eq!(tag(b"foo{bar}{zap}"), b"bar");
        assert_eq!(tag(b"foo{bar"), b"foo{bar");
        assert_eq!(tag(b"foo}bar{"), b"foo}bar{");
    }

    proptest! {
        #[test]
        fn slots_change_hands_and_nothing_else_does(
            gifts in prop::collection::vec((prop::collection::vec((0..SLOTS, 0..3000u16), 1..4), 0..5u32), 1..8),
        ) {
            let mut table = SlotTable::whole(0);
            let mut owners = vec![Some(0u32); usize::from(SLOTS)];
            for (spans, group) in gifts {
                let set = SlotSet::of(spans.iter().map(|(first, more)| {
                    Span { first: *first, last: (first + more).min(SLOTS - 1) }
                }));
                let takes = group == 4;
                if takes { table.take(&set) } else { table.give(&set, group) }
                set.iter().for_each(|slot| owners[usize::from(slot)] = (!takes).then_some(group));
                prop_assert_eq!(table.check(), Ok(()));
            }
            for slot in 0..SLOTS {
                prop_assert_eq!(table.owner(slot), owners[usize::from(slot)]);
            }
            prop_assert!(table.ranges().windows(2).all(|pair| {
                pair[0].group != pair[1].group || pair[0].last + 1 != pair[1].first
            }), "neighbours are joined");
            for group in 0..4 {
                prop_assert_eq!(table.of(group).count(), table.count(group));
            }
        }
    }

    #[test]
    fn a_table_knows_owners_and_checks_itself() {
        let table = SlotTable::whole(3);
        assert_eq!(table.owner(0), Some(3));
        assert_eq!(table.owner(16383), Some(3));
        assert_eq!(table.count(3), SLOTS);
        assert_eq!(table.check(), Ok(()));
        assert_eq!(SlotTable::default().owner(5), None);
        let overlapping = SlotTable {
            ranges: vec![
                SlotRange { first: 0, last: 9, group: 0 },
                SlotRange { first: 9, last: 12, group: 1 },
            ],
        };
        assert!(overlapping.check().is_err());
        let gap = SlotTable {
            ranges: vec![
                SlotRange { first: 0, last: 3, group: 0 },
                SlotRange { first: 9, last: 12, group: 1 },
            ],
        };
        assert_eq!(gap.owner(4), None);
        assert_eq!(gap.owner(9), Some(1));
        assert_eq!(gap.check(), Ok(()));
    }
}
