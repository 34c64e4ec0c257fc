//! The keys that clients use, in families of one slot each, so that a batch may hold several of a family.

use catstore::cluster::slots::slot;

/// How many keys there are in all worlds together.
pub const KEYS: u64 = 24;

/// Keys of one tag, by number.
struct Family {
    tag: &'static str,
    first: u64,
    last: u64,
}

/// The first family is all there is in a world of one group; the others are spread over the slots.
const FAMILIES: [Family; 13] = [
    Family { tag: "t", first: 0, last: 6 },
    Family { tag: "b", first: 7, last: 9 },
    Family { tag: "c", first: 10, last: 11 },
    Family { tag: "d", first: 12, last: 13 },
    Family { tag: "a", first: 14, last: 15 },
    Family { tag: "f", first: 16, last: 16 },
    Family { tag: "w", first: 17, last: 17 },
    Family { tag: "b", first: 18, last: 18 },
    Family { tag: "c", first: 19, last: 19 },
    Family { tag: "d", first: 20, last: 20 },
    Family { tag: "a", first: 21, last: 21 },
    Family { tag: "f", first: 22, last: 22 },
    Family { tag: "w", first: 23, last: 23 },
];

/// The numbers of the keys that are used where there is one group, or several: first and last.
pub fn used(spread: bool) -> (u64, u64) {
    if spread { (7, KEYS - 1) } else { (0, 6) }
}

/// True for keys that are never deleted, and have no time to live: lists must hold them.
pub fn stays(number: u64) -> bool {
    number >= 18
}

/// The numbers of all keys in the slot of key `number`.
pub fn family(number: u64) -> Vec<u64> {
    let family = FAMILIES.iter().find(|family| (family.first..=family.last).contains(&number));
    family.map_or_else(Vec::new, |family| (family.first..=family.last).collect())
}

/// The name of a key.
pub fn key(number: u64) -> Vec<u8> {
    let family = FAMILIES.iter().find(|family| (family.first..=family.last).contains(&number));
    format!("{{{}}}{number}", family.map_or("", |family| family.tag)).into_bytes()
}

/// The number of a key.
pub fn number(key: &[u8]) -> Option<u64> {
    std::str::from_utf8(key).ok()?.split_once('}')?.1.parse().ok()
}

/// The slots that hold keys where there are several groups, ascending.
pub fn slots() -> Vec<u16> {
    let mut slots: Vec<u16> = FAMILIES[1..].iter().map(|family| slot(family.tag.as_bytes())).collect();
    slots.sort_unstable();
    slots.dedup();
    slots
}
