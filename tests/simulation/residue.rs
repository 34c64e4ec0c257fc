//! What must be left of moves at the end: nothing. Each record is in the group that owns its slot, and what is counted is
//! what is there.

use crate::group::Group;
use crate::workers::Workers;
use catstore::cluster::directory::Directory;
use catstore::cluster::slots::{SLOTS, slot};
use catstore::replica::keyspace::{Keyspace, Published};
use catstore::replica::machine::Machine;
use catstore::store::keys;
use catstore::store::record;
use catstore::store::state::State;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Each slot has one owner at the end, the one that the masters name. Errors: one has none, two, or another.
pub fn one_owner_per_slot(workers: &Workers, directory: &Directory) -> Result<(), String> {
    let table = &directory.slots;
    let mut owners: BTreeMap<u16, u32> = BTreeMap::new();
    let dissolved = |id: u32| directory.group(id).dissolved;
    for (id, group) in workers.groups().iter().filter(|(id, _)| !dissolved(**id)) {
        let (_, published) = applied(group)?;
        for range in published.slots.ranges() {
            if let Some(slot) = (range.first..=range.last).find(|slot| owners.insert(*slot, *id).is_some()) {
                return Err(format!("slot {slot} has two owners at the end, group {id} and another one"));
            }
        }
    }
    match (0..SLOTS).find(|slot| owners.get(slot).copied() != table.owner(*slot)) {
        Some(slot) => Err(format!(
            "slot {slot} belongs to group {:?} at the end, and to {:?} for the masters",
            owners.get(&slot),
            table.owner(slot)
        )),
        None => Ok(()),
    }
}

/// Nothing of a move is left in a group: no unfinished one, no outbox, no row of a slot that it does not own; and its
/// counters are right.
pub fn nothing_left(group: &Group<Keyspace>) -> Result<(), String> {
    let (state, published) = applied(group)?;
    let of = |what: String| format!("group {}: {what}", group.id);
    if published.moves.outgoing.is_some() || published.moves.incoming.is_some() {
        return Err(of(format!("a move is not finished: {:?}", published.moves)));
    }
    let (mut records, mut bytes, mut expiring, mut expiries, mut requests) = (0, 0, 0, 0, 0);
    let mut problem = None;
    let owns = |slot: u16| published.slots.owner(slot).is_some();
    let (from, to) = keys::everything();
    let scanned = state.scan(&from, &to, &mut |row, value| {
        if let Some(key) = keys::record_key(row) {
            records += 1;
            if !owns(slot(key)) {
                problem = Some(format!("the record of {} is left", String::from_utf8_lossy(key)));
            }
            match record::decode_meta(value) {
                Ok((meta, _)) => {
                    bytes += key.len() as u64 + meta.size;
                    expiring += u64::from(meta.expires.is_some());
                }
                Err(error) => problem = Some(error.to_string()),
            }
        } else if let Some((slot, _)) = keys::request_parts(row) {
            requests += 1;
            if slot < SLOTS && !owns(slot) {
                problem = Some(format!("a request of slot {slot} is still remembered"));
            }
        } else if keys::session_of(row).is_some() {
            requests += 1;
        } else if keys::expiry_parts(row).is_some() {
            expiries += 1;
        } else if keys::outbox_number(row).is_some() {
            problem = Some("the outbox is not empty".into());
        }
        ControlFlow::Continue(())
    });
    scanned.map_err(|error| error.to_string())?;
    if let Some(problem) = problem {
        return Err(of(problem));
    }
    let counters = &published.counters;
    let counted = (counters.keys, counters.bytes, counters.expiring, counters.expiring, counters.requests);
    let found = (records, bytes, expiring, expiries, requests);
    match counted == found {
        true => Ok(()),
        false => Err(of(format!(
            "keys, bytes, expiring, expiries, requests are counted as {counted:?} and are {found:?}"
        ))),
    }
}

/// Rows and counters of the leader as they are now; what it has published may be a moment older.
fn applied(group: &Group<Keyspace>) -> Result<(Arc<dyn State>, Published), String> {
    let leader = group.leader().and_then(|leader| group.nodes.get(&leader)?.up.as_ref());
    let applied = leader.map(|up| (up.member.state(), up.member.machine().publish()));
    applied.ok_or_else(|| format!("group {}: nobody leads at the end", group.id))
}
