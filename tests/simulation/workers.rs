//! All workers, group by group. A worker's Raft id is unique in the cluster.

use crate::event::Place;
use crate::group::Group;
use crate::node::Node;
use crate::system::System;
use catstore::replica::keyspace::Keyspace;
use std::collections::BTreeMap;

/// The groups of workers by id. There is one at least.
pub struct Workers {
    groups: BTreeMap<u32, Group<Keyspace>>,
}

impl Workers {
    /// Groups with these ids, without members.
    pub fn new(ids: impl IntoIterator<Item = u32>) -> Workers {
        let mut workers = Workers { groups: BTreeMap::new() };
        ids.into_iter().for_each(|id| workers.found(id));
        workers
    }

    /// Adds a group without members, unless it is there.
    pub fn found(&mut self, id: u32) {
        let name = if self.groups.is_empty() { "workers".into() } else { format!("workers of group {id}") };
        self.groups.entry(id).or_insert_with(|| Group::new(id, name));
    }

    /// The groups by id.
    pub fn groups(&self) -> &BTreeMap<u32, Group<Keyspace>> {
        &self.groups
    }

    /// The groups.
    pub fn groups_mut(&mut self) -> impl Iterator<Item = &mut Group<Keyspace>> {
        self.groups.values_mut()
    }

    /// The ids of the groups that have members that may run.
    pub fn ids(&self) -> Vec<u32> {
        let there = |group: &Group<Keyspace>| group.nodes.values().any(|node| !node.gone);
        self.groups.iter().filter(|(_, group)| there(group)).map(|(id, _)| *id).collect()
    }

    /// The group `id`; the first one if there is none such.
    pub fn group(&self, id: u32) -> &Group<Keyspace> {
        self.groups.get(&id).or_else(|| self.groups.values().next()).expect("a group is always there")
    }

    /// The group `id`; the first one if there is none such.
    pub fn group_mut(&mut self, id: u32) -> &mut Group<Keyspace> {
        let id =
            if self.groups.contains_key(&id) { id } else { self.groups.keys().next().copied().unwrap_or(id) };
        self.groups.get_mut(&id).expect("a group is always there")
    }

    /// Some group that has members. Where there is one only, no chance is asked.
    pub fn some(&self, sys: &mut System) -> u32 {
        let ids = self.ids();
        match &ids[..] {
            [] => 0,
            [only] => *only,
            _ => ids[sys.random.up_to(ids.len() - 1)],
        }
    }

    /// The group of the worker with that Raft id.
    pub fn group_of(&self, id: u64) -> Option<u32> {
        self.groups.iter().find(|(_, group)| group.nodes.contains_key(&id)).map(|(group, _)| *group)
    }

    /// The worker with that Raft id.
    pub fn node(&self, id: u64) -> Option<&Node<Keyspace>> {
        self.groups.values().find_map(|group| group.nodes.get(&id))
    }

    /// The worker with that Raft id.
    pub fn node_mut(&mut self, id: u64) -> Option<&mut Node<Keyspace>> {
        self.groups.values_mut().find_map(|group| group.nodes.get_mut(&id))
    }

    /// The workers that may run, by Raft id.
    pub fn there(&self) -> Vec<u64> {
        let mut there: Vec<u64> = self.groups.values().flat_map(Group::there).collect();
        there.sort_unstable();
        there
    }

    /// The group at that place.
    pub fn at(&mut self, place: Place) -> Option<&mut Group<Keyspace>> {
        let Place::Worker(id) = place else { return None };
        self.groups.values_mut().find(|group| group.nodes.contains_key(&id))
    }

    /// What an outsider sees of the members, for messages.
    pub fn describe(&self, now: u64) -> String {
        self.groups.values().map(|group| group.describe(now)).collect()
    }
}
