//! How entries carry changes of membership, and the incarnation that they were proposed in.

use crate::cluster::membership::Change;
use crate::error::{Error, Kind, Result};
use protobuf::Message as _;
use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, Entry};

/// The change as Raft takes it.
pub(super) fn conf_change(change: &Change) -> ConfChangeV2 {
    let single = |kind: ConfChangeType| {
        move |id: &u64| ConfChangeSingle { change_type: kind, node_id: *id, ..ConfChangeSingle::default() }
    };
    let mut conf_change = ConfChangeV2::default();
    let changes: Vec<ConfChangeSingle> = match change {
        Change::AddStandby(id) => vec![single(ConfChangeType::AddLearnerNode)(id)],
        Change::Remove(id) => vec![single(ConfChangeType::RemoveNode)(id)],
        Change::Voters { promote, demote, remove } => {
            conf_change.set_transition(ConfChangeTransition::Explicit);
            let promoted = promote.iter().map(single(ConfChangeType::AddNode));
            let demoted = demote.iter().map(single(ConfChangeType::AddLearnerNode));
            promoted.chain(demoted).chain(remove.iter().map(single(ConfChangeType::RemoveNode))).collect()
        }
        // Without changes it leaves the joint configuration.
        Change::LeaveJoint | Change::HandOver(_) => Vec::new(),
    };
    conf_change.set_changes(changes.into());
    conf_change
}

/// Decodes the change of membership that an entry carries, and the incarnation that it was proposed in.
pub fn decode_change(entry: &Entry) -> Result<(ConfChangeV2, u64)> {
    if entry.get_entry_type() != raft::eraftpb::EntryType::EntryConfChangeV2 {
        return Err(Error::new(
            Kind::Foreign,
            "a membership entry of a kind that is not known to this version",
        ));
    }
    let mut change = ConfChangeV2::default();
    change
        .merge_from_bytes(&entry.data)
        .map_err(|error| Error::new(Kind::Damaged, "a membership entry does not decode").cause(error))?;
    let incarnation = entry.context[..]
        .try_into()
        .map(u64::from_be_bytes)
        .map_err(|_| Error::new(Kind::Damaged, "a membership entry names no incarnation"))?;
    Ok((change, incarnation))
}
