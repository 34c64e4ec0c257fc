//! How members of a group reach each other: over the same HTTP port as everybody else, with calls that block. Each
//! sender thread has its own kept-alive connection.

use super::call::Caller;
use crate::cluster::membership::index_of;
use crate::error::{Error, Kind, Result};
use crate::replica::copies::SnapshotName;
use crate::replica::transport::Wire;
use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

/// How long a parcel may take; a member that is stopped holds up its own sender only.
const DELIVERY: Duration = Duration::from_secs(2);
/// How long a chunk of a snapshot may take.
const CHUNK: Duration = Duration::from_secs(10);
/// The path that takes parcels.
pub(crate) const PARCELS: &str = "/internal/raft";
/// The path that takes questions about chunks.
pub(crate) const CHUNKS: &str = "/internal/chunks";
/// The path below which snapshots are pulled.
pub(crate) const SNAPSHOTS: &str = "/internal/snapshot/";

/// The wire of one member.
pub(crate) struct HttpWire {
    caller: Caller,
    /// The Raft id of this member, once it is known.
    own: RwLock<u64>,
    addresses: RwLock<HashMap<u64, String>>,
}

impl HttpWire {
    /// A wire that knows nobody yet.
    pub(crate) fn new(token: Option<String>) -> HttpWire {
        HttpWire { caller: Caller::new(token), own: RwLock::default(), addresses: RwLock::default() }
    }

    /// Who this member is, and where the others are, by Raft id.
    pub(crate) fn set(&self, own: u64, addresses: HashMap<u64, String>) {
        *self.own.write().unwrap_or_else(PoisonError::into_inner) = own;
        *self.addresses.write().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    fn address(&self, member: u64) -> Result<String> {
        let addresses = self.addresses.read().unwrap_or_else(PoisonError::into_inner);
        addresses.get(&member).cloned().ok_or_else(|| {
            let index = index_of(member).unwrap_or_default();
            Error::new(Kind::Unreachable, format!("the address of member {index} is not known"))
        })
    }
}

impl Wire for HttpWire {
    fn deliver(&self, to: u64, parcel: &[u8]) -> Result<()> {
        self.caller.post_bytes(&self.address(to)?, PARCELS, parcel, DELIVERY).map(drop)
    }

    fn pull(&self, from: u64, name: SnapshotName, after: Option<&[u8]>) -> Result<Vec<u8>> {
        let own = *self.own.read().unwrap_or_else(PoisonError::into_inner);
        let mut path = format!("{SNAPSHOTS}{}/{own}", name.id);
        if let Some(after) = after {
            path.push_str("?after=");
            path.extend(after.iter().map(|byte| format!("{byte:02x}")));
        }
        self.caller.get_bytes(&self.address(from)?, &path, CHUNK)
    }

    fn ask(&self, to: u64, envelope: &[u8]) -> Result<Vec<u8>> {
        self.caller.post_bytes(&self.address(to)?, CHUNKS, envelope, CHUNK)
    }
}
