//! What was promised of chunks, looked at all the time: those who are said to have the chunks of a value have them until they
//! have applied it; and of each value that a group has applied, some member has each chunk.

use crate::ether::Ether;
use crate::group::Group;
use crate::node::Up;
use crate::system::System;
use crate::workers::Workers;
use catstore::replica::blobs::is_majority;
use catstore::replica::keyspace::Keyspace;
use catstore::replica::machine::Machine as _;
use catstore::replica::{Manifest, Name, Record};
use catstore::store::keys;
use catstore::store::state::State;
use raft::eraftpb::ConfState;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// Promises that somebody has not kept yet.
#[derive(Default)]
pub struct Vault {
    promises: Vec<Promise>,
}

/// A value was acknowledged whose chunks these members have.
struct Promise {
    group: u32,
    /// What the leader had applied then.
    index: u64,
    names: Vec<Name>,
    /// Members that may not have applied it yet.
    holders: BTreeSet<u64>,
}

impl System {
    /// The leader of a group acknowledges a command whose chunks `holders` have. Errors: one of them lacks one.
    pub fn secured(&mut self, group: u32, index: u64, holders: &[u64], names: &[Name]) -> Result<(), String> {
        for holder in holders {
            if let Some(name) = names.iter().find(|name| !self.ether.is_on_disk(*holder, name)) {
                return Err(format!(
                    "group {group} acknowledged a value by entry {index}, and worker {holder} lacks its chunk {name:?}"
                ));
            }
        }
        let holders = holders.iter().copied().collect();
        self.vault.promises.push(Promise { group, index, names: names.to_vec(), holders });
        Ok(())
    }

    /// Worker `id`, which has applied that much, has removed chunks. Errors: one that it may still need.
    pub fn still_there(&mut self, group: u32, id: u64, applied: u64) -> Result<(), String> {
        for promise in self.vault.promises.iter_mut().filter(|promise| promise.group == group) {
            if promise.index <= applied {
                promise.holders.remove(&id);
            } else if promise.holders.contains(&id)
                && let Some(name) = promise.names.iter().find(|name| !self.ether.is_on_disk(id, name))
            {
                return Err(format!(
                    "worker {id} removed chunk {name:?} of a value that was acknowledged by entry {}, and has applied entry {applied} only",
                    promise.index
                ));
            }
        }
        self.vault.promises.retain(|promise| !promise.holders.is_empty());
        Ok(())
    }
}

/// The manifests of all values in chunks.
pub fn manifests(state: &dyn State) -> Result<Vec<(Vec<u8>, Manifest)>, String> {
    let (from, to) = keys::all_chunked();
    let mut keys_found = Vec::new();
    let scanned = state.scan(&from, &to, &mut |row, _| {
        keys_found.extend(keys::chunked_key(row).map(<[u8]>::to_vec));
        ControlFlow::Continue(())
    });
    scanned.map_err(|error| error.to_string())?;
    let mut found = Vec::new();
    for key in keys_found {
        let row = state.get(&keys::record(&key)).map_err(|error| error.to_string())?;
        let record = row.map(Record::decode).transpose().map_err(|error| error.to_string())?;
        let manifest = record.and_then(|record| record.manifest());
        let manifest = manifest.ok_or_else(|| {
            format!("{} is marked as a value in chunks, and is none", String::from_utf8_lossy(&key))
        })?;
        found.push((key, manifest));
    }
    Ok(found)
}

/// Of each value that the leader of a group has applied, some member has each chunk. Errors: one is nowhere.
pub fn all_somewhere(sys: &mut System, workers: &Workers) -> Result<(), String> {
    let ether = sys.ether.clone();
    let ether = &*ether;
    for group in workers.groups().values() {
        count_minorities(sys, group);
        if let Some((key, name)) = missing(group, ether, None)? {
            let holders: Vec<u64> =
                group.nodes.keys().copied().filter(|id| ether.is_on_disk(*id, &name)).collect();
            return Err(format!(
                "group {}: no member has chunk {name:?} of {} any more; machines that have it, or had it: {holders:?}",
                group.id,
                String::from_utf8_lossy(&key)
            ));
        }
    }
    Ok(())
}

/// Counts values of which only a minority of the voters has every chunk: no promise is broken, but the next loss may be one
/// too many.
fn count_minorities(sys: &mut System, group: &Group<Keyspace>) {
    let leader = group.leader().and_then(|leader| group.nodes.get(&leader)).filter(|node| !node.dying);
    let Some(up) = leader.and_then(|node| node.up.as_ref()) else { return };
    let Ok(manifests) = manifests(up.live().0) else { return };
    let membership = up.member.core().membership();
    for (_, manifest) in manifests {
        let has_all = |id: &&u64| manifest.names.iter().all(|name| sys.ether.is_on_disk(**id, name));
        let holders: Vec<u64> = membership.voters.iter().filter(has_all).copied().collect();
        if !is_majority(&holders, &membership.voters, &[]) {
            sys.count("value whose chunks only a minority has");
        }
    }
}

/// A chunk of the leader's values that no member has but `without`.
pub fn missing(
    group: &Group<Keyspace>,
    ether: &Ether,
    without: Option<u64>,
) -> Result<Option<(Vec<u8>, Name)>, String> {
    let leader = group.leader().and_then(|leader| group.nodes.get(&leader)).filter(|node| !node.dying);
    let Some(up) = leader.and_then(|node| node.up.as_ref()) else { return Ok(None) };
    // A disk that has just failed tells nothing.
    let Ok(manifests) = manifests(up.live().0) else { return Ok(None) };
    // Those that the group has let go of may be thrown away.
    let ConfState { voters, voters_outgoing, learners, learners_next, .. } = up.member.core().membership();
    let is_member =
        |id: &u64| [voters, voters_outgoing, learners, learners_next].iter().any(|ids| ids.contains(id));
    let there: Vec<u64> = group
        .nodes
        .values()
        .filter(|node| !node.gone && Some(node.id) != without && is_member(&node.id))
        .map(|node| node.id)
        .collect();
    for (key, manifest) in manifests {
        let lost = |name: &&Name| !there.iter().any(|id| ether.is_on_disk(*id, name));
        if let Some(name) = manifest.names.iter().find(lost) {
            return Ok(Some((key, *name)));
        }
    }
    Ok(None)
}

/// At the end each member has every chunk of its values, whole, and no other one, unless an entry is still on its way to it:
/// then it may have to wait for that. Errors say what is missing or left.
pub fn nothing_missing_or_left(sys: &mut System, group: &Group<Keyspace>) -> Result<(), String> {
    let applied = |up: &Up<Keyspace>| up.member.machine().position().index;
    let newest = group.nodes.values().filter_map(|node| node.up.as_ref()).map(applied).max();
    for node in group.nodes.values() {
        let Some(up) = &node.up else { continue };
        let Some(upkeep) = &up.upkeep else { continue };
        let mut named = BTreeSet::new();
        for (key, manifest) in manifests(&*up.member.state())? {
            for name in &manifest.names {
                let whole = upkeep.room.keeper.read_here(name).map_err(|error| error.to_string())?;
                if whole.is_none() {
                    return Err(format!(
                        "worker {} lacks chunk {name:?} of {} at the end",
                        node.id,
                        String::from_utf8_lossy(&key)
                    ));
                }
                sys.count("chunk whole at the end");
            }
            named.extend(manifest.names);
        }
        if Some(applied(up)) < newest {
            sys.count("member behind at the end");
            continue;
        }
        if let Some(left) = node.disk.chunks().into_iter().find(|name| !named.contains(name)) {
            return Err(format!("worker {} has chunk {left:?} at the end, which no value names", node.id));
        }
    }
    Ok(())
}
