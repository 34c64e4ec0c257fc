//! Reads of the keyspace on the caller's thread.

use crate::cluster::view::ListPage;
use crate::error::Result;
use crate::store::record::Record;

/// A right to read, taken for one request.
pub struct Reader {}

/// What a list asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListQuery {
    /// Only keys that begin with this.
    pub prefix: Vec<u8>,
    /// Only keys behind this one.
    pub after: Option<Vec<u8>>,
    /// At most so many keys, 1..=10000.
    pub limit: usize,
    /// With values.
    pub values: bool,
}

impl Reader {
    /// The record of `key`, unless it is absent or expired.
    ///
    /// Errors: `Moved` if the group does not own the key's slot, `Damaged`, `Failed`.
    pub fn get(&self, key: &[u8]) -> Result<Option<Record>> {
        let _ = key;
        todo!()
    }

    /// One page of keys in byte order; it ends at `limit` keys or 8 MiB.
    pub fn list(&self, query: &ListQuery) -> Result<ListPage> {
        let _ = query;
        todo!()
    }
}
