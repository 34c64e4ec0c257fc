//! Placement against what must hold of any, and against a naive optimum.

use super::*;
use crate::cluster::slots::SlotRange;
use proptest::prelude::*;

fn candidate(group: u32, voters: usize) -> Candidate {
    Candidate {
        group,
        voters: Some(voters),
        members: voters,
        may_give: true,
        may_take: true,
        busy: false,
        draining: false,
    }
}

fn candidates(voters: &[usize]) -> Vec<Candidate> {
    (0..).zip(voters).map(|(group, voters)| candidate(group, *voters)).collect()
}

/// A table of ranges that end before each of these slots; the last one is the last range's owner.
fn table(ends: &[(u16, u32)], last: u32) -> SlotTable {
    let mut first = 0;
    let mut ranges = Vec::new();
    for (end, group) in ends.iter().chain(&[(SLOTS, last)]) {
        if *end > first {
            ranges.push(SlotRange { first, last: end - 1, group: *group });
            first = *end;
        }
    }
    let whole = SlotTable::from_ranges(ranges).unwrap();
    let mut joined = whole.clone();
    joined.give(&whole.of(last), last);
    joined
}

/// The table after the transfers; each of them takes from its owner, and every slot keeps one.
fn after(table: &SlotTable, placement: &Placement) -> SlotTable {
    let mut table = table.clone();
    for Transfer { from, to, slots } in &placement.transfers {
        assert!(!slots.is_empty() && slots.iter().all(|slot| table.owner(slot) == Some(*from)));
        assert_eq!(slots.check(), Ok(()));
        table.give(slots, *to);
        assert_eq!(table.check(), Ok(()));
    }
    assert_eq!(
        table.ranges().iter().map(|range| u32::from(range.last - range.first) + 1).sum::<u32>(),
        16384
    );
    table
}

fn moved(placement: &Placement) -> u32 {
    placement.transfers.iter().map(|transfer| u32::from(transfer.slots.count())).sum()
}

fn shares(placement: &Placement) -> Vec<u16> {
    placement.shares.values().copied().collect()
}

#[test]
fn a_second_founder_takes_half_in_one_run() {
    let placement = place(&SlotTable::whole(0), &candidates(&[1, 1]), false);
    let expected = Transfer { from: 0, to: 1, slots: SlotSet::of([Span { first: 8192, last: 16383 }]) };
    assert_eq!((placement.transfers, placement.waits), (vec![expected], vec![]));
    let table = table(&[(8192, 0)], 1);
    let placement = place(&table, &candidates(&[1, 1, 1]), false);
    assert_eq!(shares(&placement), [5462, 5461, 5461]);
    assert_eq!((placement.transfers.len(), moved(&placement)), (2, 5461));
    assert_eq!(after(&table, &placement).ranges().len(), 4, "each gives from one end");
    assert_eq!(place(&table, &candidates(&[1, 1]), false).transfers, []);
}

#[test]
fn slots_do_not_go_where_fewer_vote() {
    let whole = SlotTable::whole(0);
    let placement = place(&whole, &candidates(&[3, 1]), false);
    assert_eq!((placement.transfers.len(), shares(&placement)), (0, vec![16384, 0]));
    assert_eq!(placement.waits, [Waits { group: 1, voters: 3, members: 2 }]);
    assert_eq!(placement.waits[0].to_string(), "group 1 waits for 2 more members");
    let mut two = candidates(&[3, 1]);
    two[1].members = 2;
    assert_eq!(place(&whole, &two, false).waits[0].to_string(), "group 1 waits for 1 more member");
    two[1].members = 3;
    let waits = place(&whole, &two, false).waits;
    assert_eq!(waits[0].to_string(), "group 1 waits until 3 of its members vote");
    assert_eq!(shares(&place(&whole, &two, true)), [8192, 8192]);
    // What it has it keeps, and groups that may take share the rest.
    let table = table(&[(100, 1)], 0);
    let placement = place(&table, &candidates(&[3, 1, 3]), false);
    assert_eq!(shares(&placement), [8142, 100, 8142]);
    assert_eq!(placement.waits.len(), 1);
    // From fewer to more is fine.
    let placement = place(&table, &candidates(&[1, 1, 3]), false);
    assert_eq!((shares(&placement), placement.waits), (vec![5462, 5461, 5461], vec![]));
}

#[test]
fn who_drains_ends_with_nothing_or_says_what_it_waits_for() {
    let table = table(&[(8192, 0)], 1);
    let mut three = candidates(&[1, 1, 1]);
    three[1].draining = true;
    let placement = place(&table, &three, false);
    assert_eq!((shares(&placement), moved(&placement)), (vec![8192, 0, 8192], 8192));
    three[1].voters = Some(3);
    let placement = place(&table, &three, false);
    assert_eq!(placement.shares[&1], 8192, "its slots have nowhere to go");
    assert_eq!(placement.waits.iter().map(|waits| waits.group).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(place(&table, &three, true).shares[&1], 0);
    // Who leaves does not wait for a group that is down.
    three[1].voters = Some(1);
    three[2].may_take = false;
    assert_eq!(shares(&place(&table, &three, false)), [16384, 0, 0]);
    three[1].draining = false;
    let placement = place(&table, &three, false);
    assert_eq!((placement.transfers.len(), placement.shares[&2]), (0, 5461), "an outage changes no shares");
}

#[test]
fn who_is_busy_counts_and_does_not_begin() {
    let table = table(&[(8192, 0)], 1);
    let mut four = candidates(&[1, 1, 1, 1]);
    (four[0].busy, four[2].busy) = (true, true);
    let placement = place(&table, &four, false);
    assert_eq!(shares(&placement), [4096; 4]);
    assert_eq!(placement.transfers.len(), 1);
    assert_eq!((placement.transfers[0].from, placement.transfers[0].to), (1, 3));
    four[3].voters = None;
    assert_eq!(place(&table, &four, false).shares[&3], 0, "nothing is known of it");
}

#[test]
fn runs_that_touch_are_joined() {
    let set = |spans: &[(u16, u16)]| {
        SlotSet::of(spans.iter().map(|(first, last)| Span { first: *first, last: *last }))
    };
    let beside = set(&[(100, 199), (400, 499)]);
    assert_eq!(cut(&set(&[(0, 99), (200, 399)]), &beside, 50), set(&[(50, 99)]));
    assert_eq!(cut(&set(&[(0, 98), (200, 399)]), &beside, 50), set(&[(200, 249)]));
    assert_eq!(cut(&set(&[(300, 399), (600, 700)]), &beside, 50), set(&[(350, 399)]));
    assert_eq!(cut(&set(&[(0, 20), (30, 39), (600, 700)]), &SlotSet::default(), 10), set(&[(30, 39)]));
    assert_eq!(cut(&set(&[(0, 9), (20, 39)]), &SlotSet::default(), 25), set(&[(5, 9), (20, 39)]));
    assert_eq!(cut(&set(&[(0, 9)]), &SlotSet::default(), 10), set(&[(0, 9)]));
}

#[test]
fn a_thousand_groups_are_placed() {
    let all = candidates(&[1; 1000]);
    let placement = place(&SlotTable::whole(0), &all, false);
    let table = after(&SlotTable::whole(0), &placement);
    assert_eq!((placement.transfers.len(), table.ranges().len()), (999, 1000));
    assert_eq!((table.count(0), table.count(999)), (17, 16));
    let more = place(&table, &candidates(&[1; 1001]), false);
    assert_eq!(moved(&more), 16);
}

fn any_table(groups: u32) -> impl Strategy<Value = SlotTable> {
    let ends = prop::collection::vec((0..=SLOTS, 0..groups), 0..30);
    (ends, 0..groups).prop_map(|(mut ends, last)| {
        ends.sort_unstable();
        table(&ends, last)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn equals_share_alike_and_move_no_more_than_they_must(
        (table, draining) in (1..12u32).prop_flat_map(|groups| {
            (any_table(groups), prop::collection::vec(prop::bool::weighted(0.2), groups as usize))
        }),
    ) {
        let mut all = candidates(&vec![3; draining.len()]);
        all.iter_mut().zip(&draining).for_each(|(candidate, draining)| candidate.draining = *draining);
        let placement = place(&table, &all, false);
        let then = after(&table, &placement);
        let stay: Vec<u32> = (0..).zip(&draining).filter(|(_, draining)| !**draining).map(|(at, _)| at).collect();
        prop_assert_eq!(&placement, &place(&table, &all, true));
        if stay.is_empty() {
            prop_assert_eq!(moved(&placement), 0);
            return Ok(());
        }
        for (group, share) in &placement.shares {
            prop_assert_eq!(then.count(*group), *share);
            prop_assert!(!draining[*group as usize] || *share == 0);
        }
        let counts = || stay.iter().map(|group| then.count(*group));
        prop_assert!(counts().max().unwrap() - counts().min().unwrap() <= 1);
        // The naive optimum: whoever owns more than the higher share may keep that, as long as there are some.
        let (level, mut more) = (16384 / stay.len() as u32, 16384 % stay.len() as u32);
        let mut owned: Vec<u32> = stay.iter().map(|group| u32::from(table.count(*group))).collect();
        owned.sort_unstable_by_key(|owned| Reverse(*owned));
        let kept: u32 = owned.iter().map(|owned| {
            let share = level + u32::from(more > 0 && *owned > level);
            more -= share - level;
            share.min(*owned)
        }).sum();
        prop_assert_eq!(moved(&placement), 16384 - kept);
        prop_assert_eq!(place(&then, &all, false).transfers.len(), 0, "done is done");
        prop_assert!(placement.transfers.len() < draining.len());
    }

    #[test]
    fn nobody_keeps_fewer_copies_and_nobody_could_give_more_fairly(
        (table, kinds) in (1..10u32).prop_flat_map(|groups| {
            let kind = (prop::sample::select(vec![1usize, 3, 5]), prop::bool::weighted(0.2));
            (any_table(groups), prop::collection::vec(kind, groups as usize))
        }),
    ) {
        let mut all = candidates(&kinds.iter().map(|(voters, _)| *voters).collect::<Vec<_>>());
        all.iter_mut().zip(&kinds).for_each(|(candidate, (_, draining))| candidate.draining = *draining);
        let placement = place(&table, &all, false);
        for Transfer { from, to, .. } in &placement.transfers {
            prop_assert!(kinds[*from as usize].0 <= kinds[*to as usize].0);
            prop_assert!(!kinds[*to as usize].1, "who leaves takes nothing");
        }
        let then = after(&table, &placement);
        for (one, (voters, leaves)) in (0..).zip(&kinds) {
            prop_assert_eq!(then.count(one), placement.shares[&one]);
            for (other, (more, leaves_too)) in (0..).zip(&kinds) {
                let may = more >= voters && !leaves_too;
                let least = if *leaves { 1 } else { then.count(other) + 2 };
                prop_assert!(!may || then.count(one) < least, "{one} could give to {other}: {placement:?}");
            }
        }
        prop_assert_eq!(place(&then, &all, false).transfers.len(), 0, "done is done");
        // Who cannot now, does not.
        all.iter_mut().step_by(2).for_each(|candidate| candidate.may_give = false);
        all.iter_mut().skip(1).step_by(2).for_each(|candidate| candidate.may_take = false);
        let placement = place(&table, &all, false);
        after(&table, &placement);
        prop_assert!(placement.transfers.iter().all(|transfer| transfer.from % 2 == 1 && transfer.to % 2 == 0));
    }
}
