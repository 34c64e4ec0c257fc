//! Slots that changed hands before the routes say so. A group that is asked for a slot that it has given away says which
//! group it gave it to, in answers between nodes (`Catstore-Owner`). That is believed until newer routes come, or until
//! the group that was named says that it does not own the slot either.

use actix_web::http::header::{HeaderName, HeaderValue};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// `Catstore-Owner`, in answers between nodes: the slot that the group of the answering worker does not own, and the group
/// that it gave it to, if it knows: `SLOT` or `SLOT:GROUP`.
pub(crate) const OWNER: HeaderName = HeaderName::from_static("catstore-owner");

/// A group's word that it does not own a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotOwned {
    /// The slot.
    pub(crate) slot: u16,
    /// The group that it gave the slot to, if it knows.
    pub(crate) to: Option<u32>,
}

impl NotOwned {
    /// As it travels in [`OWNER`].
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        let text = self.to.map_or_else(|| self.slot.to_string(), |to| format!("{}:{to}", self.slot));
        HeaderValue::try_from(text).ok()
    }

    /// Reads [`OWNER`]; none if it is not readable.
    pub(crate) fn parse(header: &HeaderValue) -> Option<NotOwned> {
        let text = header.to_str().ok()?;
        match text.split_once(':') {
            Some((slot, to)) => Some(NotOwned { slot: slot.parse().ok()?, to: Some(to.parse().ok()?) }),
            None => Some(NotOwned { slot: text.parse().ok()?, to: None }),
        }
    }
}

/// What was heard of slots that changed hands: one group for each slot at most.
#[derive(Default)]
pub(crate) struct Given {
    slots: Mutex<BTreeMap<u16, u32>>,
}

impl Given {
    /// Takes the word of `group`.
    pub(crate) fn heard(&self, group: u32, word: NotOwned) {
        let mut slots = self.slots();
        match word.to {
            Some(to) if to != group => {
                slots.insert(word.slot, to);
            }
            // Who was said to own it does not, and does not know who does.
            _ => {
                if slots.get(&word.slot) == Some(&group) {
                    slots.remove(&word.slot);
                }
            }
        }
    }

    /// The group that was heard to own `slot`.
    pub(crate) fn owner(&self, slot: u16) -> Option<u32> {
        self.slots().get(&slot).copied()
    }

    /// The groups that were heard to own some slot.
    pub(crate) fn groups(&self) -> BTreeSet<u32> {
        self.slots().values().copied().collect()
    }

    /// Forgets everything: newer routes came.
    pub(crate) fn clear(&self) {
        self.slots().clear();
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<u16, u32>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_travels_in_a_header() {
        for word in [NotOwned { slot: 7, to: None }, NotOwned { slot: 16383, to: Some(3) }] {
            assert_eq!(NotOwned::parse(&word.header().unwrap()), Some(word));
        }
        for bad in ["", ":", "1:", ":1", "x", "1:x", "70000", "1:2:3", "-1"] {
            assert_eq!(NotOwned::parse(&HeaderValue::from_static(bad)), None, "{bad}");
        }
    }

    #[test]
    fn the_last_word_counts() {
        let given = Given::default();
        let word = |slot, to| NotOwned { slot, to };
        given.heard(0, word(7, None));
        assert_eq!(given.owner(7), None);
        given.heard(0, word(7, Some(1)));
        assert_eq!((given.owner(7), given.owner(8)), (Some(1), None));
        given.heard(0, word(7, None));
        assert_eq!(given.owner(7), Some(1), "another group was said to own it");
        given.heard(1, word(7, Some(2)));
        assert_eq!(given.owner(7), Some(2));
        given.heard(2, word(7, Some(2)));
        assert_eq!(given.owner(7), None, "nobody gives to himself");
        given.heard(1, word(7, Some(2)));
        given.heard(1, word(9, Some(0)));
        assert_eq!(given.groups(), BTreeSet::from([0, 2]));
        given.heard(2, word(7, None));
        assert_eq!(given.owner(7), None);
        given.clear();
        assert!(given.groups().is_empty());
    }
}
