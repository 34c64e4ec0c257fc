//! What a master has heard of a group's members: it goes into the log with the command that depends on it.

use super::Directory;
use crate::cluster::facts::newest;
use crate::cluster::membership::odd;
use crate::cluster::view::WorkerFacts;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the proposing master has heard of one group. By the time it is applied it may be old: members that were
/// removed meanwhile do not count, and what was heard of a former incarnation does not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// The incarnation of the group that it is about.
    pub incarnation: u64,
    /// The voters of the group's configuration, by the member that had applied most when it was last heard of; empty
    /// if none has said.
    pub voters: Vec<u32>,
    /// The outgoing voters, if that configuration is joint.
    pub outgoing: Vec<u32>,
    /// Members that are alive and whose disk did not fail; a closed one is among them.
    pub able: Vec<u32>,
    /// Of these, members that are closed: what they hold is not known.
    pub closed: Vec<u32>,
    /// Term and index of the last entry of each member that is alive, open and holds a copy.
    pub last: BTreeMap<u32, (u64, u64)>,
}

impl Directory {
    /// What was heard of `group`. `beats` holds the last facts of each worker, of this run of the master, and true
    /// for those that are alive now.
    pub fn heard<'a>(&self, group: u32, beats: impl IntoIterator<Item = (&'a WorkerFacts, bool)>) -> Heard {
        let incarnation = self.group(group).incarnation;
        let member = |facts: &WorkerFacts| {
            let entry = self.workers.get(&facts.index).filter(|entry| entry.removed.is_none());
            facts.belongs(group, incarnation) && entry.is_some_and(|entry| entry.uuid == facts.uuid)
        };
        let beats: Vec<_> = beats.into_iter().filter(|(facts, _)| member(facts)).collect();
        let live = || beats.iter().filter(|(_, alive)| *alive).map(|(facts, _)| *facts);
        let configuration = newest(beats.iter().map(|(facts, _)| *facts));
        let closed: Vec<u32> =
            live().filter(|facts| facts.state == "closed").map(|facts| facts.index).collect();
        let open = live().filter(|facts| facts.state == "open").map(|facts| facts.index);
        let copies = live().filter(|facts| facts.holds_copy() && facts.last > 0);
        Heard {
            incarnation,
            voters: configuration.map(|facts| facts.voters.clone()).unwrap_or_default(),
            outgoing: configuration.map(|facts| facts.outgoing.clone()).unwrap_or_default(),
            able: open.chain(closed.iter().copied()).collect(),
            closed,
            last: copies.map(|facts| (facts.index, (facts.last_term, facts.last))).collect(),
        }
    }

    /// What of `heard` still holds for `group`.
    pub(super) fn still(&self, group: u32, heard: &Heard) -> Heard {
        if heard.incarnation != self.group(group).incarnation {
            return Heard::default();
        }
        let member = |index: &u32| self.members(group).any(|member| member == *index);
        let mut heard = heard.clone();
        heard.able.retain(&member);
        heard.closed.retain(&member);
        heard.last.retain(|index, _| member(index));
        heard
    }

    /// True if a majority of the voters of `group` is able to go on, even if `without` never comes back. Where the
    /// voters are not known, whoever is not able is taken for one.
    pub(super) fn has_majority(&self, group: u32, heard: &Heard, without: Option<u32>) -> bool {
        let able = |index: &u32| heard.able.contains(index) && Some(*index) != without;
        if heard.voters.is_empty() {
            let members: Vec<u32> = self.members(group).collect();
            let voters = odd(members.len());
            let down = members.iter().filter(|index| !able(index)).count();
            return 2 * voters.saturating_sub(down) > voters;
        }
        let majority = |voters: &[u32]| 2 * voters.iter().filter(|index| able(index)).count() > voters.len();
        majority(&heard.voters) && (heard.outgoing.is_empty() || majority(&heard.outgoing))
    }
}

impl Heard {
    /// The member whose log reaches furthest, of those that hold a copy, `without` left out; of equals the first.
    pub(super) fn furthest(&self, without: Option<u32>) -> Option<u32> {
        let others = self.last.iter().filter(|(index, _)| Some(**index) != without);
        others.max_by_key(|(index, last)| (**last, std::cmp::Reverse(**index))).map(|(index, _)| *index)
    }
}
