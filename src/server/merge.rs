//! One page of a list, made of the pages of several groups. No I/O here.
//!
//! A page that was cut holds every key of its group up to its `after` and none behind it. So does what is made of two
//! pages, for both groups together: whatever lies behind the smaller `after` of the two is left out, and asked for with
//! the next page. Pages are added one by one, and never more is held than one page and the one that is added.
//!
//! Each page names the slots that its group owned while it was read. A list is right only if every slot is in exactly one
//! of its pages: a slot that changed hands between two of them would be in both or in none.

use crate::cluster::moves::SlotSet;
use crate::cluster::slots::SLOTS;
use crate::cluster::view::{JsonBytes, ListPage, ListedKey};
use crate::error::{Error, Kind, Result};
use crate::replica::reader::{PAGE_BYTES, weight};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A page of one group, as it travels between nodes. One that covers every slot is a whole page of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupPage {
    /// Keys in byte order.
    pub(crate) keys: Vec<ListedKey>,
    /// The key behind which more may follow; none if nothing does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) after: Option<JsonBytes>,
    /// The slots that it covers; none stands for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) slots: Option<SlotSet>,
    /// A group that was given slots lately, and may own some that the routes do not show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gave_to: Option<u32>,
}

impl GroupPage {
    /// A page that covers `slots`.
    pub(crate) fn new(page: ListPage, slots: SlotSet, gave_to: Option<u32>) -> GroupPage {
        let slots = Some(slots).filter(|slots| slots.count() < SLOTS);
        GroupPage { keys: page.keys, after: page.after, slots, gave_to }
    }

    /// True if it covers every slot.
    pub(crate) fn is_whole(&self) -> bool {
        self.slots.is_none()
    }
}

/// A list that is made of pages of several groups.
#[derive(Debug)]
pub(crate) struct Merger {
    limit: usize,
    bytes: usize,
    page: ListPage,
    covered: SlotSet,
    overlaps: bool,
    /// Groups that were given slots lately.
    gave_to: BTreeSet<u32>,
}

impl Merger {
    /// No page yet; there will be at most `limit` keys.
    pub(crate) fn new(limit: usize) -> Merger {
        Merger {
            limit,
            bytes: PAGE_BYTES,
            page: ListPage::default(),
            covered: SlotSet::default(),
            overlaps: false,
            gave_to: BTreeSet::new(),
        }
    }

    /// Adds the page of another group. Errors: `Unreachable` if it is none.
    pub(crate) fn add(&mut self, page: GroupPage) -> Result<()> {
        let GroupPage { keys, after, slots, gave_to } = page;
        let slots = slots.unwrap_or_else(SlotSet::all);
        let sorted = keys.windows(2).all(|pair| pair[0].key.0 < pair[1].key.0);
        if !sorted || slots.check().is_err() {
            return Err(Error::new(Kind::Unreachable, "a group's page of the list is not readable"));
        }
        self.overlaps |= self.covered.overlaps(&slots);
        self.covered = self.covered.union(&slots);
        self.gave_to.extend(gave_to);
        let before = std::mem::take(&mut self.page);
        self.page = merge(before, ListPage { keys, after }, self.limit, self.bytes);
        Ok(())
    }

    /// The page of all groups together, if every slot was covered exactly once; else the groups that were given slots
    /// lately.
    pub(crate) fn finish(self) -> Result<ListPage, BTreeSet<u32>> {
        match !self.overlaps && self.covered.count() == SLOTS {
            true => Ok(self.page),
            false => Err(self.gave_to),
        }
    }
}

/// One page of two. It ends at `limit` keys or `bytes`, but has one key at least, if there is one.
fn merge(one: ListPage, two: ListPage, limit: usize, bytes: usize) -> ListPage {
    let end = match (one.after, two.after) {
        (Some(one), Some(two)) => Some(one.0.min(two.0)),
        (one, two) => one.or(two).map(|after| after.0),
    };
    let within = |listed: &ListedKey| end.as_ref().is_none_or(|end| listed.key.0 <= *end);
    let (mut one, mut two) = (one.keys.into_iter().peekable(), two.keys.into_iter().peekable());
    let mut keys: Vec<ListedKey> = Vec::new();
    let mut size = 0;
    let full = loop {
        let from = match (one.peek(), two.peek()) {
            (Some(first), Some(second)) if first.key.0 <= second.key.0 => &mut one,
            (Some(_), None) => &mut one,
            _ => &mut two,
        };
        let Some(next) = from.next_if(within) else { break false };
        let more = weight(&next);
        if keys.len() >= limit || (size > 0 && size + more > bytes) {
            break true;
        }
        size += more;
        keys.push(next);
    };
    let after = match full {
        true => keys.last().map(|listed| listed.key.clone()),
        false => end.map(JsonBytes),
    };
    ListPage { keys, after }
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
