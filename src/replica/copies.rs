//! Snapshots on their way from a leader to members that lack too much of its log: their names, which of them are held,
//! and who is pulling which. No I/O: the rows travel elsewhere ([`super::snapshot`]).

use crate::store::state::View;
use raft::eraftpb::Message;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A snapshot that nobody pulled from for so long is given up, in milliseconds.
const IDLE_MS: u64 = 15_000;

/// Names a snapshot: what a leader's message carries instead of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotName {
    /// Random: another run of the leader gives another one.
    pub id: u64,
    /// The last entry that it holds.
    pub index: u64,
    /// That entry's term.
    pub term: u64,
}

impl SnapshotName {
    /// Layout: id, index, term, each u64 big-endian.
    pub fn encode(self) -> Vec<u8> {
        [self.id, self.index, self.term].iter().flat_map(|number| number.to_be_bytes()).collect()
    }

    /// None if `bytes` are not those of a name.
    pub fn decode(bytes: &[u8]) -> Option<SnapshotName> {
        let (id, rest) = bytes.split_first_chunk::<8>()?;
        let (index, rest) = rest.split_first_chunk::<8>()?;
        let term = rest.try_into().ok()?;
        Some(SnapshotName {
            id: u64::from_be_bytes(*id),
            index: u64::from_be_bytes(*index),
            term: u64::from_be_bytes(term),
        })
    }

    /// The name of the snapshot that `message` offers.
    pub fn of(message: &Message) -> Option<SnapshotName> {
        SnapshotName::decode(&message.get_snapshot().data)
    }
}

/// A snapshot that a leader holds ready.
#[derive(Clone)]
pub struct Offer {
    /// Its name.
    pub name: SnapshotName,
    /// Its rows.
    pub view: Arc<dyn View>,
}

/// A snapshot that a member has to pull from `from` and write to `building`.
pub struct Fetch<B> {
    /// The Raft id of the leader that has it.
    pub from: u64,
    /// Which one.
    pub name: SnapshotName,
    /// Where its rows go.
    pub building: B,
}

/// What a leader has offered.
#[derive(Debug, Default)]
pub struct Offers {
    held: BTreeMap<u64, u64>,
    sent: BTreeMap<u64, u64>,
}

impl Offers {
    /// A snapshot is held from `now` on.
    pub fn hold(&mut self, id: u64, now: u64) {
        self.held.insert(id, now);
    }

    /// A snapshot was named to `peer`.
    pub fn sent(&mut self, peer: u64, now: u64) {
        self.sent.insert(peer, now);
    }

    /// `peer` pulls from snapshot `id`.
    pub fn used(&mut self, id: u64, peer: u64, now: u64) {
        if let Some(last) = self.held.get_mut(&id) {
            *last = now;
        }
        if let Some(last) = self.sent.get_mut(&peer) {
            *last = now;
        }
    }

    /// The snapshots to give up.
    pub fn expire_held(&mut self, now: u64) -> Vec<u64> {
        expire(&mut self.held, now)
    }

    /// The peers that did not take theirs.
    pub fn expire_sent(&mut self, now: u64) -> Vec<u64> {
        expire(&mut self.sent, now)
    }

    /// All snapshots, given up: this member does not lead any longer.
    pub fn clear(&mut self) -> Vec<u64> {
        self.sent.clear();
        std::mem::take(&mut self.held).into_keys().collect()
    }
}

fn expire(map: &mut BTreeMap<u64, u64>, now: u64) -> Vec<u64> {
    let mut gone = Vec::new();
    map.retain(|id, last| {
        let stays = now.saturating_sub(*last) <= IDLE_MS;
        if !stays {
            gone.push(*id);
        }
        stays
    });
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_name() {
        let name = SnapshotName { id: 1, index: 2, term: 3 };
        assert_eq!(name.encode(), [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3]);
    }

    #[test]
    fn what_is_used_stays() {
        let mut offers = Offers::default();
        offers.hold(7, 0);
        offers.hold(8, 0);
        offers.sent(2, 0);
        offers.used(7, 2, IDLE_MS);
        let at = IDLE_MS + 1;
        assert_eq!((offers.expire_held(at), offers.expire_sent(at)), (vec![8], vec![]));
        let at = 2 * IDLE_MS + 1;
        assert_eq!((offers.expire_held(at), offers.expire_sent(at)), (vec![7], vec![2]));
        assert_eq!((offers.expire_held(u64::MAX), offers.expire_sent(u64::MAX)), (vec![], vec![]));
    }

    proptest! {
        #[test]
        fn names_come_back(id: u64, index: u64, term: u64) {
            let name = SnapshotName { id, index, term };
            prop_assert_eq!(SnapshotName::decode(&name.encode()), Some(name));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = SnapshotName::decode(&bytes);
        }
    }
}
