//! What is applied at a member, for whoever moves slots.

use crate::cluster::moves::SlotSet;
use crate::error::Result;
use crate::replica::keyspace::{self, Chunk, Published};
use crate::store::state::State;
use std::sync::Arc;

/// What is applied at a member, as it moves slots.
pub struct Applied {
    /// What the machine published.
    pub published: Published,
    pub(super) state: Arc<dyn State>,
}

impl Applied {
    /// As [`keyspace::copy_rows`].
    pub fn copy_rows(&self, slots: &SlotSet, after: &[u8], limit: usize) -> Result<Chunk> {
        keyspace::copy_rows(&*self.state, slots, after, limit)
    }

    /// As [`keyspace::outbox_rows`].
    pub fn outbox_rows(&self, first: u64, next: u64, limit: usize) -> Result<Chunk> {
        keyspace::outbox_rows(&*self.state, first, next, limit)
    }
}
