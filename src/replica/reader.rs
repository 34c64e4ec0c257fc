//! Reads of the keyspace on the caller's thread: one LevelDB read, no hop.
//!
//! A [`Reader`] is taken for one request, after the right to read was checked. Ownership of a slot and the group's
//! clock are those that the machine published after the last applied entry.

use super::keyspace::{Keyspace, Published, awaiting, expired};
use super::shared::Shared;
use crate::cluster::moves::SlotSet;
use crate::cluster::slots::slot;
use crate::cluster::view::{JsonBytes, ListPage, ListedKey};
use crate::error::{Error, Kind, Result};
use crate::store::keys;
use crate::store::record::{self, Record};
use crate::store::state::State;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A page of a list ends at so many bytes.
pub const PAGE_BYTES: usize = 8 << 20;
/// Bytes of a listed key besides key, content type and value, about.
const LISTED_BYTES: usize = 96;
/// A page ends after so many rows, also where most of them have expired.
const PAGE_ROWS: usize = 100_000;

/// A right to read, taken for one request.
pub struct Reader {
    state: Arc<dyn State>,
    published: Published,
    shared: Arc<Shared<Keyspace>>,
    /// True if the group does not know yet which slots are its own.
    awaits: bool,
}

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

/// How many bytes `listed` counts for in a page.
pub fn weight(listed: &ListedKey) -> usize {
    let value = listed.value.as_ref().map_or(0, |value| value.0.len());
    LISTED_BYTES + listed.key.0.len() + listed.content_type.len() + value
}

impl Reader {
    /// A reader of `state` as `published`; `began`: the incarnation that began with this member.
    pub(super) fn new(
        state: Arc<dyn State>,
        published: Published,
        shared: Arc<Shared<Keyspace>>,
        began: u64,
    ) -> Reader {
        let awaits = published.moves.awaits(began);
        Reader { state, published, shared, awaits }
    }

    /// False for a copy that is not there yet: it owns no slot.
    pub fn owns_slots(&self) -> bool {
        !self.published.slots.ranges().is_empty()
    }

    /// The record of `key`, unless it is absent or expired.
    ///
    /// Errors: `Moved` if the group does not own the key's slot, `Frozen` while that is about to change or has changed
    /// since this reader was taken, `Damaged`, `Failed`.
    pub fn get(&self, key: &[u8]) -> Result<Option<Record>> {
        self.shared.check_whole()?;
        self.check_adopted()?;
        let slot = slot(key);
        self.published.serves(slot)?;
        let found = self.stop_on_failure(self.look_up(key))?;
        self.check_unchanged().map(|()| found)
    }

    fn check_adopted(&self) -> Result<()> {
        if self.awaits { Err(awaiting()) } else { Ok(()) }
    }

    /// What was read is right only if the group served it until then: whoever owns a slot next may change it, and what is
    /// left of it here is removed.
    fn check_unchanged(&self) -> Result<()> {
        match self.shared.shifts.load(Ordering::SeqCst) == self.published.shifts {
            true => Ok(()),
            false => Err(Error::new(Kind::Frozen, "slots changed hands while this was read")
                .hint("ask again in a moment")),
        }
    }

    fn look_up(&self, key: &[u8]) -> Result<Option<Record>> {
        let Some(row) = self.state.get(&keys::record(key))? else { return Ok(None) };
        let record = Record::decode(row)?;
        Ok(Some(record).filter(|record| !expired(&record.meta, self.published.counters.clock)))
    }

    /// One page of keys in byte order; it ends at `limit` keys or 8 MiB, or after 100,000 rows: then `after` may be
    /// behind the last key, or stand there without any.
    ///
    /// Errors: `Frozen` while slots of the group are on their way or have changed hands since this reader was taken.
    pub fn list(&self, query: &ListQuery) -> Result<ListPage> {
        self.shared.check_whole()?;
        self.check_adopted()?;
        if self.published.moves.freezes_any() {
            return Err(Error::new(Kind::Frozen, "slots of this group are on their way to another one")
                .hint("ask again in a moment"));
        }
        let page = self.stop_on_failure(self.page(query))?;
        self.check_unchanged().map(|()| page)
    }

    /// The slots that the group owns: those that a page covers.
    pub fn slots(&self) -> SlotSet {
        self.published.slots.owned()
    }

    /// The group that slots were given to lately: it may own some that the routes do not show.
    pub fn gave_to(&self) -> Option<u32> {
        let out = self.published.moves.outgoing.as_ref()?;
        let slot = out.slots.spans().first()?.first;
        self.published.moves.given_to(slot)
    }

    /// What is rotten is pulled anew, and whoever leads then answers. Where nobody else has a copy, a store that cannot be
    /// read is not served any further: the next key may be rotten without showing it.
    fn stop_on_failure<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| {
            if matches!(error.kind(), Kind::Damaged | Kind::Failed) {
                self.shared.suffer(error.clone());
            }
            self.shared.check_whole().err().unwrap_or(error)
        })
    }

    fn page(&self, query: &ListQuery) -> Result<ListPage> {
        let (mut from, to) = keys::records_with_prefix(&query.prefix);
        if let Some(after) = &query.after {
            let mut behind = keys::record(after);
            behind.push(0);
            from = from.max(behind);
        }
        if from >= to {
            return Ok(ListPage::default());
        }
        let mut page = ListPage::default();
        let mut bytes = 0;
        let mut more = false;
        let mut problem = None;
        let mut rows = 0;
        self.state.scan(&from, &to, &mut |row, value| {
            match self.listed(row, value, query.values) {
                Ok(None) => {}
                Ok(Some((listed, size))) => {
                    if page.keys.len() >= query.limit || (bytes > 0 && bytes + size > PAGE_BYTES) {
                        more = true;
                        return ControlFlow::Break(());
                    }
                    bytes += size;
                    page.keys.push(listed);
                }
                Err(error) => {
                    problem = Some(error);
                    return ControlFlow::Break(());
                }
            }
            rows += 1;
            if rows < PAGE_ROWS {
                return ControlFlow::Continue(());
            }
            page.after = keys::record_key(row).map(|key| JsonBytes(key.to_vec()));
            ControlFlow::Break(())
        })?;
        if let Some(error) = problem {
            return Err(error);
        }
        if more {
            page.after = page.keys.last().map(|listed| listed.key.clone());
        }
        Ok(page)
    }

    /// A row as a listed key and its size in bytes; `None` if it is expired or its slot is not owned.
    fn listed(&self, row: &[u8], value: &[u8], values: bool) -> Result<Option<(ListedKey, usize)>> {
        let key =
            keys::record_key(row).ok_or_else(|| Error::new(Kind::Damaged, "a record's row has no key"))?;
        let (meta, offset) = record::decode_meta(value)?;
        if expired(&meta, self.published.counters.clock) || self.published.slots.owner(slot(key)).is_none() {
            return Ok(None);
        }
        // A value in chunks is not listed: it would fill pages by itself.
        let values = values && !meta.in_chunks;
        if values {
            record::check(value, &meta, offset)?;
        }
        let body = &value[offset..];
        let listed = ListedKey {
            key: JsonBytes(key.to_vec()),
            version: meta.version,
            size: meta.size,
            modified: meta.modified,
            content_type: meta.content_type,
            value: values.then(|| JsonBytes(body.to_vec())),
        };
        let size = weight(&listed);
        Ok(Some((listed, size)))
    }
}
