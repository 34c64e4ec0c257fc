//! A new directory from what the workers know, for a cluster whose masters have all lost their disks.
//!
//! Each worker that answers says who it is and which slots its group owns, and shows the routes that it knows. The
//! newest of these routes are the base; facts of an answering group count more, for they come from its log. Who is silent
//! is left as the routes have it: it keeps its index, its group keeps its slots. What nobody can know for certain, the
//! next index above all, is chosen so high that nothing is used twice. [`slots`] decides who owns what.
//!
//! Refused: answers of two clusters, two folders under one index, slots whose owner is not certain. Then it takes more
//! workers to answer. Lost for good: what only the masters knew (the settings, why somebody was removed).

mod remarks;
mod slots;
#[cfg(test)]
mod tests;

use super::{Directory, GroupEntry, MasterEntry, Settings, WorkerEntry};
use crate::cluster::moves::MoveOrder;
use crate::cluster::view::{ClusterView, FactsReply, GroupView, WorkerFacts};
use crate::error::{Error, Kind, Result};
use slots::Word;
use std::collections::{BTreeMap, BTreeSet};

/// So many numbers are left out behind the highest that is known. The masters may have given one in their last second,
/// to somebody who is silent now and whom nobody else has heard of.
const MARGIN: u32 = 16;
/// The epoch is raised by so much: the lost masters may have gone further than any worker has heard.
const EPOCHS: u64 = 1000;

/// A directory that was recovered, and what a person should know before it is used.
#[derive(Debug, Clone, PartialEq)]
pub struct Recovered {
    /// The directory, without any master that lives: [`Directory::begin_with`] adds the first.
    pub directory: Directory,
    /// What was found, what was assumed, what is lost: one line each.
    pub remarks: Vec<String>,
}

impl Directory {
    /// Makes `master` the only one of a recovered directory. Returns its index, which nobody had before.
    pub fn begin_with(&mut self, master: MasterEntry) -> u32 {
        let index = self.next_master;
        self.masters = vec![master.address.clone()];
        self.master_nodes.insert(index, master);
        self.next_master = index + 1;
        index
    }
}

/// Builds a directory from the answers of workers. `step` is by how much the masters' incarnation is raised, at least 1:
/// two recoveries at once should choose different ones, so that one of them fences the other.
///
/// Errors: `Unreachable` if nobody answered, `Conflict` if the answers do not fit together; each says what to do.
pub fn recover(told: &[FactsReply], step: u64) -> Result<Recovered> {
    let cluster = one_cluster(told)?;
    let views = told.iter().map(|reply| &reply.view).filter(|view| view.cluster == cluster);
    let mut views: Vec<&ClusterView> = views.collect();
    views.sort_by_key(|view| view.rank());
    let empty = ClusterView::default();
    let plan = Plan { told, base: views.last().copied().unwrap_or(&empty), views };
    plan.check_identities()?;
    plan.build(cluster, step)
}

/// The one cluster that all answers are of.
fn one_cluster(told: &[FactsReply]) -> Result<String> {
    let clusters: BTreeSet<&str> = told.iter().map(|reply| reply.facts.cluster.as_str()).collect();
    let mut clusters = clusters.into_iter();
    match (clusters.next(), clusters.next()) {
        (Some(cluster), None) => Ok(cluster.to_owned()),
        (Some(one), Some(other)) => {
            let detail = format!("the workers belong to different clusters: {one} and {other}");
            Err(Error::new(Kind::Conflict, detail).hint("name workers of one cluster only"))
        }
        (None, _) => Err(Error::new(Kind::Unreachable, "no worker has answered")
            .hint("start the workers first, and name some of them")),
    }
}

/// What there is to go by.
struct Plan<'a> {
    told: &'a [FactsReply],
    /// The newest routes that anybody knows.
    base: &'a ClusterView,
    /// All of them, oldest first.
    views: Vec<&'a ClusterView>,
}

impl Plan<'_> {
    fn facts(&self) -> impl Iterator<Item = &WorkerFacts> {
        self.told.iter().map(|reply| &reply.facts)
    }

    /// Refuses answers that contradict each other about who is who.
    fn check_identities(&self) -> Result<()> {
        let mut seen: BTreeMap<u32, &WorkerFacts> = BTreeMap::new();
        let uuids = self.uuids();
        for facts in self.facts() {
            let WorkerFacts { index, group, address, data, .. } = facts;
            if let Some(other) = seen.insert(*index, facts) {
                let detail = format!(
                    "{address} ({data}) and {} ({}) both are worker {index}",
                    other.address, other.data
                );
                return Err(Error::new(Kind::Conflict, detail)
                    .hint("one of the folders is a copy: stop that process"));
            }
            let routes = self.base.worker(*index).map(|(group, _)| group.group);
            let other_uuid = uuids.get(index).is_some_and(|uuid| *uuid != &facts.uuid);
            if other_uuid || routes.is_some_and(|routes| routes != *group) {
                let detail = format!(
                    "{address} ({data}) is not the worker {index} that the routes of the others know"
                );
                return Err(Error::new(Kind::Conflict, detail).hint("stop it, or leave its cluster out"));
            }
        }
        Ok(())
    }

    /// The uuids that any routes name, by index.
    fn uuids(&self) -> BTreeMap<u32, &String> {
        let named = self.views.iter().flat_map(|view| &view.uuids);
        named.filter(|(_, uuid)| !uuid.is_empty()).map(|(index, uuid)| (*index, uuid)).collect()
    }

    fn build(&self, cluster: String, step: u64) -> Result<Recovered> {
        let workers = self.workers();
        let groups = self.groups(&workers);
        let words = self.words(&workers, &groups);
        let slots = slots::owners(self.base, &words)?;
        let moves = self.moves(&slots, &words)?;
        let masters = self.masters();
        let next_move = self.next_move();
        let settings = Settings { move_rate: self.base.move_rate, ..Settings::default() };
        let directory = Directory {
            cluster,
            incarnation: self.views.iter().map(|view| view.rank().0).max().unwrap_or(1) + step.max(1),
            epoch: self.views.iter().map(|view| view.epoch).max().unwrap_or_default() + EPOCHS,
            masters: Vec::new(),
            next_index: self.next_index(&workers),
            next_master: masters.keys().max().map_or(1, |index| index + 1),
            workers,
            slots,
            groups,
            master_nodes: masters,
            moves,
            next_move,
            settings,
            asked: None,
        };
        directory.check().map_err(|why| {
            Error::new(Kind::Conflict, format!("what the workers know does not fit together: {why}"))
                .hint("name more workers")
        })?;
        let remarks = self.remarks(&directory, &words);
        Ok(Recovered { directory, remarks })
    }

    /// Every worker that is known: by what it says, else by the newest routes.
    fn workers(&self) -> BTreeMap<u32, WorkerEntry> {
        let uuids = self.uuids();
        let silent = |index: u32, group: u32| WorkerEntry {
            uuid: uuids.get(&index).map(|uuid| uuid.to_string()).unwrap_or_default(),
            group,
            address: String::new(),
            data: String::new(),
            starts: 0,
            run: 0,
            removed: None,
            dead: false,
        };
        let mut workers = BTreeMap::new();
        for group in &self.base.groups {
            for member in &group.members {
                let (address, data) = (member.address.clone(), member.data.clone());
                let entry =
                    WorkerEntry { address, data, dead: !member.fit, ..silent(member.index, group.group) };
                workers.insert(member.index, entry);
            }
        }
        for (FactsReply { run, .. }, facts) in self.told.iter().zip(self.facts()) {
            let entry = WorkerEntry {
                uuid: facts.uuid.clone(),
                address: facts.address.clone(),
                data: facts.data.clone(),
                starts: facts.starts,
                run: *run,
                ..silent(facts.index, facts.group)
            };
            workers.insert(facts.index, entry);
        }
        // What any routes call removed stays so: nothing ever came back.
        for group in self.views.iter().flat_map(|view| &view.groups) {
            for index in &group.removed {
                let entry = workers.entry(*index).or_insert_with(|| silent(*index, group.group));
                entry.removed = Some("already before the masters were recovered".into());
            }
        }
        for facts in self.facts().filter(|facts| self.is_left_behind(facts)) {
            if let Some(entry) = workers.get_mut(&facts.index) {
                entry.removed.get_or_insert("left behind when its group began a new incarnation".into());
            }
        }
        workers
    }

    /// The highest incarnation of `group` that anybody knows.
    fn incarnation(&self, group: u32) -> u64 {
        let routes = self.views.iter().filter_map(|view| view.group(group)).map(|group| group.incarnation);
        let facts = self.facts().filter(|facts| facts.group == group).map(|facts| facts.incarnation);
        routes.chain(facts).max().unwrap_or_default().max(1)
    }

    fn promoted(&self, group: u32) -> Option<u32> {
        self.base.group(group).and_then(|group| group.promoted)
    }

    /// True for a member of a former incarnation of its group, unless the present one is to begin with its copy.
    fn is_left_behind(&self, facts: &WorkerFacts) -> bool {
        let former = facts.state == "open" && facts.incarnation.max(1) < self.incarnation(facts.group);
        former && self.promoted(facts.group) != Some(facts.index)
    }

    fn groups(&self, workers: &BTreeMap<u32, WorkerEntry>) -> BTreeMap<u32, GroupEntry> {
        let ids: BTreeSet<u32> = workers.values().map(|worker| worker.group).collect();
        let entry = |group: u32| {
            let routes = self.base.group(group);
            GroupEntry {
                incarnation: self.incarnation(group),
                promoted: self.promoted(group),
                founder: routes.and_then(|group| group.founder),
                draining: routes.is_some_and(|group| group.draining),
                dissolved: !workers.values().any(|worker| worker.group == group && worker.removed.is_none()),
            }
        };
        ids.into_iter()
            .map(|group| (group, entry(group)))
            .filter(|(_, entry)| *entry != GroupEntry::default())
            .collect()
    }

    /// What each group says of itself, by the answering member that knows most. A group of which nobody answers that
    /// holds a copy is silent, and so is one that was promoted and does not know its slots itself.
    fn words(
        &self,
        workers: &BTreeMap<u32, WorkerEntry>,
        groups: &BTreeMap<u32, GroupEntry>,
    ) -> BTreeMap<u32, Word<'_>> {
        let mut words: BTreeMap<u32, Word<'_>> = BTreeMap::new();
        for facts in self.facts() {
            let there = workers.get(&facts.index).is_some_and(|entry| entry.removed.is_none());
            let entry = groups.get(&facts.group).cloned().unwrap_or_default();
            let present =
                facts.belongs(facts.group, entry.incarnation) || entry.promoted == Some(facts.index);
            if !(there && present && facts.holds_copy()) || facts.awaits {
                continue;
            }
            let word = Word(facts);
            let known = words.get(&facts.group);
            if known.is_none_or(|known| known.weight() < word.weight()) {
                words.insert(facts.group, word);
            }
        }
        words
    }

    /// The moves that are not finished.
    fn moves(
        &self,
        slots: &crate::cluster::slots::SlotTable,
        words: &BTreeMap<u32, Word<'_>>,
    ) -> Result<BTreeMap<u64, MoveOrder>> {
        let open =
            |order: &&MoveOrder| words.get(&order.from).is_none_or(|word| word.0.moves_done < order.id);
        let mut moves: Vec<MoveOrder> = self.base.moves.iter().filter(open).cloned().collect();
        for order in &mut moves {
            let owners: BTreeSet<_> = order.slots.iter().map(|slot| slots.owner(slot)).collect();
            order.switched = owners.contains(&Some(order.to));
            order.cancelled &= !order.switched;
            if owners.len() > 1 || !(order.switched || owners.contains(&Some(order.from))) {
                let detail = format!("the slots of move {} do not belong to one of its two groups", order.id);
                return Err(Error::new(Kind::Conflict, detail)
                    .hint(format!("start more workers of group {} and group {}", order.from, order.to)));
            }
        }
        Ok(moves.into_iter().map(|order| (order.id, order)).collect())
    }

    /// The lost masters: none of them comes back. The first master of a cluster has the index 0.
    fn masters(&self) -> BTreeMap<u32, MasterEntry> {
        let lost = |address: &str| MasterEntry {
            uuid: String::new(),
            address: address.to_owned(),
            data: String::new(),
            starts: 0,
            run: 0,
            removed: Some("the masters were recovered without it".into()),
            dead: false,
        };
        let known = self.views.iter().flat_map(|view| &view.master_members);
        known.map(|master| (master.index, lost(&master.address))).collect()
    }

    /// An index that was never given.
    fn next_index(&self, workers: &BTreeMap<u32, WorkerEntry>) -> u32 {
        let named = self.views.iter().filter_map(|view| view.next_index);
        let groups = self.views.iter().flat_map(|view| &view.groups).map(|group: &GroupView| group.group + 1);
        let known = workers.keys().chain(self.uuids().keys()).map(|index| index + 1).collect::<Vec<u32>>();
        named.chain(groups).chain(known).max().unwrap_or_default() + MARGIN
    }

    /// A number that no move ever had.
    fn next_move(&self) -> u64 {
        let views = self
            .views
            .iter()
            .flat_map(|view| view.moves.iter().map(|order| order.id + 1).chain([view.next_move]));
        let facts = self.facts().flat_map(|facts| {
            let moving = facts.moving.as_ref().map(|moving| moving.id);
            [Some(facts.moves_done), facts.received, moving].into_iter().flatten().map(|id| id + 1)
        });
        views.chain(facts).max().unwrap_or(1) + u64::from(MARGIN)
    }
}
