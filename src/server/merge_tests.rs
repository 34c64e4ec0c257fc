use super::*;
use crate::cluster::moves::Span;
use crate::cluster::slots::slot;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn listed(key: &[u8], version: u64) -> ListedKey {
    let key = JsonBytes(key.to_vec());
    ListedKey { key, version, size: 1, modified: 0, content_type: String::new(), value: None }
}

fn page(keys: &[&str], after: Option<&str>) -> ListPage {
    let keys = keys.iter().map(|key| listed(key.as_bytes(), 1)).collect();
    ListPage { keys, after: after.map(|after| JsonBytes(after.as_bytes().to_vec())) }
}

fn span(first: u16, last: u16) -> SlotSet {
    SlotSet::of([Span { first, last }])
}

fn merged(one: ListPage, two: ListPage, limit: usize) -> ListPage {
    merge(one, two, limit, PAGE_BYTES)
}

#[test]
fn nothing_goes_beyond_a_page_that_was_cut() {
    let table = [
        (page(&["a", "c"], None), page(&["b", "d"], None), 9, page(&["a", "b", "c", "d"], None)),
        (page(&["a", "c"], Some("c")), page(&["b", "d"], None), 9, page(&["a", "b", "c"], Some("c"))),
        (page(&["a", "c"], Some("c")), page(&["b"], Some("b")), 9, page(&["a", "b"], Some("b"))),
        // A page may end behind its last key, or have none.
        (page(&[], Some("b")), page(&["a", "c"], None), 9, page(&["a"], Some("b"))),
        (page(&["b"], Some("x")), page(&["a"], None), 9, page(&["a", "b"], Some("x"))),
        (page(&[], Some("a")), page(&["c"], None), 9, page(&[], Some("a"))),
        // Limits.
        (page(&["a", "c"], None), page(&["b", "d"], None), 3, page(&["a", "b", "c"], Some("c"))),
        (page(&["a", "c"], None), page(&["b", "d"], None), 4, page(&["a", "b", "c", "d"], None)),
        (page(&["a", "c"], Some("c")), page(&["b"], None), 3, page(&["a", "b", "c"], Some("c"))),
        (page(&["a"], None), page(&[], None), 1, page(&["a"], None)),
        (page(&[], None), page(&[], None), 1, page(&[], None)),
    ];
    for (one, two, limit, expected) in table {
        assert_eq!(merged(one.clone(), two.clone(), limit), expected, "{one:?} {two:?} {limit}");
        assert_eq!(merged(two.clone(), one.clone(), limit), expected, "{two:?} {one:?} {limit}");
    }
}

#[test]
fn a_page_ends_at_its_bytes_and_has_one_key() {
    let two = || (page(&["a", "c"], None), page(&["b"], None));
    let each = weight(&listed(b"a", 1));
    let of = |bytes| merge(two().0, two().1, 9, bytes);
    assert_eq!(of(1), page(&["a"], Some("a")));
    assert_eq!(of(2 * each), page(&["a", "b"], Some("b")));
    assert_eq!(of(3 * each), page(&["a", "b", "c"], None));
}

#[test]
fn each_slot_is_covered_exactly_once() {
    let finish = |slots: &[SlotSet]| {
        let mut merger = Merger::new(10);
        for slots in slots {
            merger.add(GroupPage::new(ListPage::default(), slots.clone(), Some(7))).unwrap();
        }
        merger.finish()
    };
    let last = SLOTS - 1;
    assert!(finish(&[SlotSet::all()]).is_ok());
    assert!(finish(&[span(0, 9), span(10, last)]).is_ok());
    assert!(finish(&[span(10, last), SlotSet::default(), span(0, 9)]).is_ok());
    assert_eq!(finish(&[span(0, 9), span(11, last)]), Err(BTreeSet::from([7])), "a gap");
    assert!(finish(&[span(0, 10), span(10, last)]).is_err(), "twice");
    assert!(finish(&[span(0, 10), span(10, last - 1)]).is_err(), "twice and a gap");
    assert!(finish(&[SlotSet::all(), span(3, 3)]).is_err());
    assert!(finish(&[]).is_err());
}

#[test]
fn what_is_no_page_is_refused() {
    let mut merger = Merger::new(10);
    let upside_down = GroupPage::new(page(&["b", "a"], None), SlotSet::all(), None);
    assert_eq!(merger.add(upside_down).unwrap_err().kind(), Kind::Unreachable);
    let text = r#"{"keys":[],"slots":[{"first":9,"last":20000}]}"#;
    assert!(merger.add(serde_json::from_str(text).unwrap()).is_err());
}

#[test]
fn a_whole_page_of_a_group_is_a_page_of_the_list() {
    let of = |slots| GroupPage::new(page(&["a"], Some("a")), slots, None);
    let whole = serde_json::to_value(of(SlotSet::all())).unwrap();
    assert_eq!(whole, serde_json::to_value(page(&["a"], Some("a"))).unwrap());
    assert!(of(SlotSet::all()).is_whole());
    let part = of(span(3, 9));
    assert!(!part.is_whole());
    let text = serde_json::to_string(&part).unwrap();
    assert_eq!(serde_json::from_str::<GroupPage>(&text).unwrap(), part);
    assert_eq!(serde_json::from_str::<ListPage>(&text).unwrap(), page(&["a"], Some("a")));
}

fn is_expired(version: u64) -> bool {
    version.is_multiple_of(4)
}

/// What a group of these `slots` answers, with at most `limit` keys and at most `rows` looked at.
fn scan(
    keys: &BTreeMap<Vec<u8>, u64>,
    slots: &SlotSet,
    after: &[u8],
    limit: usize,
    rows: usize,
) -> GroupPage {
    let own = keys.iter().filter(|(key, _)| slots.contains(slot(key)));
    let mut left = own.filter(|(key, _)| key.as_slice() > after).peekable();
    let mut page = ListPage::default();
    for looked_at in 0.. {
        let Some((key, version)) = left.next() else { break };
        // Some rows are looked at in vain, as expired ones are.
        if !is_expired(*version) {
            page.keys.push(listed(key, *version));
        }
        if left.peek().is_some() && (page.keys.len() >= limit || looked_at + 1 >= rows) {
            page.after = Some(JsonBytes(key.clone()));
            break;
        }
    }
    GroupPage::new(page, slots.clone(), None)
}

proptest! {
    /// Page after page, a list over any number of groups that cut their pages anywhere has every key once and in order.
    #[test]
    fn a_list_over_groups_is_a_list_of_one(
        keys in prop::collection::btree_map(prop::collection::vec(any::<u8>(), 1..4), any::<u64>(), 0..60),
        owners in prop::collection::vec(0..5usize, 1..12),
        limit in 1..20usize,
        rows in prop::collection::vec(1..30usize, 5),
        order in any::<usize>(),
    ) {
        let wide = usize::from(SLOTS).div_ceil(owners.len());
        let slots: Vec<SlotSet> = (0..5).map(|group| SlotSet::of(
            owners.iter().enumerate().filter(|(_, owner)| **owner == group).map(|(at, _)| Span {
                first: (at * wide) as u16,
                last: ((at + 1) * wide - 1).min(usize::from(SLOTS) - 1) as u16,
            }))).collect();
        let mut found = Vec::new();
        let mut after: Vec<u8> = Vec::new();
        for round in 0.. {
            prop_assert!(round < 200, "it comes to its end");
            let mut merger = Merger::new(limit);
            for step in 0..5 {
                let group = (step + order + round) % 5;
                merger.add(scan(&keys, &slots[group], &after, limit, rows[group])).unwrap();
            }
            let page = merger.finish().unwrap();
            prop_assert!(page.keys.len() <= limit);
            found.extend(page.keys.iter().map(|listed| (listed.key.0.clone(), listed.version)));
            match page.after {
                Some(JsonBytes(next)) => {
                    prop_assert!(next > after, "each page goes on");
                    after = next;
                }
                None => break,
            }
        }
        let all: Vec<_> = keys.into_iter().filter(|(_, version)| !is_expired(*version)).collect();
        prop_assert_eq!(found, all);
    }

    /// Whatever sets of slots pages name, a list is made of them only if each slot is in one.
    #[test]
    fn gaps_and_overlaps_are_seen(
        sets in prop::collection::vec(prop::collection::vec((0..SLOTS, 0..9000u16), 0..3), 0..5),
        fill: bool,
    ) {
        let mut sets: Vec<SlotSet> = sets.into_iter().map(|spans| SlotSet::of(
            spans.into_iter().map(|(first, more)| Span { first, last: (first + more).min(SLOTS - 1) }))).collect();
        if fill {
            let covered = sets.iter().fold(SlotSet::default(), |all, set| all.union(set));
            sets.push(SlotSet::all().minus(&covered));
        }
        let mut counts = vec![0u32; usize::from(SLOTS)];
        sets.iter().flat_map(SlotSet::iter).for_each(|slot| counts[usize::from(slot)] += 1);
        let mut merger = Merger::new(1);
        for set in &sets {
            merger.add(GroupPage::new(ListPage::default(), set.clone(), None)).unwrap();
        }
        prop_assert_eq!(merger.finish().is_ok(), counts.iter().all(|count| *count == 1));
    }
}
