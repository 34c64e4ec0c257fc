//! Digests of a member's rows: equal on all members of a group that have applied the same entry.

use super::shared::lock;
use crate::error::Result;
use crate::store::keys;
use crate::store::state::View;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Mutex;

/// So many digests are remembered.
const REMEMBERED: usize = 16;
/// Rows gather up to so many bytes before they are hashed: BLAKE3 is several times faster on long input.
const GATHERED: usize = 64 << 10;

/// A digest of all rows as an entry left them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    /// The index of the entry.
    pub index: u64,
    /// BLAKE3 over (length u32 big-endian, row, length u32 big-endian, value) of every row in order, in hexadecimal.
    pub hash: String,
    /// How many rows that is.
    pub rows: u64,
}

/// The digests that were taken lately, by the id of their order.
#[derive(Debug, Default)]
pub struct Digests {
    taken: Mutex<BTreeMap<u64, Digest>>,
}

impl Digests {
    /// Remembers a digest.
    pub fn note(&self, id: u64, digest: Digest) {
        let mut taken = lock(&self.taken);
        taken.insert(id, digest);
        while taken.len() > REMEMBERED {
            taken.pop_first();
        }
    }

    /// The digest of an order, once it is taken.
    pub fn get(&self, id: u64) -> Option<Digest> {
        lock(&self.taken).get(&id).cloned()
    }
}

/// Reads all rows of `view`, which are as entry `index` left them. None if `stop` said so meanwhile: whoever closes the
/// node does not wait for it.
pub fn take(view: &dyn View, index: u64, stop: &dyn Fn() -> bool) -> Result<Option<Digest>> {
    let mut hasher = blake3::Hasher::new();
    let mut gathered = Vec::with_capacity(2 * GATHERED);
    let mut rows = 0;
    let mut stopped = false;
    view.scan(&[], &keys::end(), &mut |row, value| {
        if stop() {
            stopped = true;
            return ControlFlow::Break(());
        }
        if keys::is_local(row) {
            return ControlFlow::Continue(());
        }
        for part in [row, value] {
            gathered.extend_from_slice(&(part.len() as u32).to_be_bytes());
            gathered.extend_from_slice(part);
        }
        if gathered.len() >= GATHERED {
            hasher.update(&gathered);
            gathered.clear();
        }
        rows += 1;
        ControlFlow::Continue(())
    })?;
    hasher.update(&gathered);
    Ok((!stopped).then(|| Digest { index, hash: hasher.finalize().to_hex().to_string(), rows }))
}
