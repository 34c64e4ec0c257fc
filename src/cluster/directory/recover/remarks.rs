//! What a person is told before a recovered directory is used: one line for each thing.

use super::super::{Directory, WorkerEntry, list};
use super::Plan;
use super::slots::{self, Word};
use crate::cluster::moves::MoveOrder;
use std::collections::{BTreeMap, BTreeSet};

impl Plan<'_> {
    pub(super) fn remarks(&self, directory: &Directory, words: &BTreeMap<u32, Word<'_>>) -> Vec<String> {
        let mut lines = vec![format!(
            "cluster {}: the newest routes that a worker knows are of epoch {}, incarnation {} of the masters",
            directory.cluster,
            self.base.epoch,
            self.base.rank().0
        )];
        if self.views.is_empty() {
            lines.push(
                "no worker knows any routes: workers that did not answer are unknown, name them all".into(),
            );
        }
        lines.extend(directory.workers.iter().map(|(index, entry)| self.remark(*index, entry)));
        let ids: BTreeSet<u32> = directory.workers.values().map(|worker| worker.group).collect();
        for group in ids.into_iter().filter(|group| !directory.group(*group).dissolved) {
            let (members, count) = (list(directory.members(group)), directory.slots.count(group));
            let incarnation = directory.group(group).incarnation;
            let why = match words.get(&group) {
                Some(Word(facts)) => format!("as worker {} says, up to entry {}", facts.index, facts.applied),
                None => "as the routes say: nobody who holds a copy has answered".into(),
            };
            lines.push(format!(
                "group {group}, incarnation {incarnation}, members {members}: {count} slots, {why}"
            ));
        }
        lines.extend(slots::changes(self.base, &directory.slots));
        lines.extend(directory.moves.values().map(|order| {
            let MoveOrder { id, from, to, .. } = order;
            format!("move {id} of {} slots from group {from} to group {to} goes on", order.slots.count())
        }));
        let lost: Vec<String> = directory
            .master_nodes
            .iter()
            .map(|(index, master)| format!("master {index} ({})", master.address))
            .collect();
        let lost = if lost.is_empty() { self.base.masters.join(", ") } else { lost.join(", ") };
        lines.push(format!(
            "the former masters never come back: {lost}; their folders are refused from now on"
        ));
        lines.push(
            "what was said with --replicas, --dead-after or --no-rebalance is forgotten: say it again".into(),
        );
        lines.push(format!("the next new worker gets the index {}", directory.next_index));
        lines
    }

    fn remark(&self, index: u32, entry: &WorkerEntry) -> String {
        let place = format!("worker {index} of group {} ({})", entry.group, entry.address);
        let told = self.facts().find(|facts| facts.index == index);
        match (&entry.removed, told) {
            (Some(why), _) => format!("worker {index} stays removed: {why}"),
            (None, Some(facts)) if facts.holds_copy() => format!("{place} has answered"),
            (None, Some(facts)) if facts.state == "open" => {
                format!("{place} has answered, it has no copy yet")
            }
            (None, Some(facts)) => format!("{place} has answered, it is {}", facts.state),
            (None, None) if entry.uuid.is_empty() => {
                format!("{place} is SILENT: kept for the folder {} with this index", entry.data)
            }
            (None, None) => format!("{place} is SILENT: kept, and may come back"),
        }
    }
}
