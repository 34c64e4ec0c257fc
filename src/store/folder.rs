//! A node's data folder: its lock, its identity, and the stores inside.

use super::identity::{Identity, Role};
use super::{generation::LevelGenerations, raft_engine::EngineLog};
use crate::error::Result;
use std::path::{Path, PathBuf};

/// Sizes that a node gives its stores.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// LevelDB's block cache in bytes.
    pub cache: usize,
}

/// A data folder whose lock this process holds until the value is dropped.
pub struct Folder {
    path: PathBuf,
}

/// The log and the state of a folder, opened.
pub struct Stores {
    /// The Raft log.
    pub log: EngineLog,
    /// The state.
    pub state: LevelGenerations,
}

impl Folder {
    /// Creates the folder with its parents if needed (mode 0700), locks it, reads its identity, or makes one with a
    /// fresh uuid for `role`. A master's identity gets its cluster later, by [`Folder::save`].
    ///
    /// Errors: `Foreign` if another process holds it (says so), it belongs to the other role, it was written by a
    /// newer format, or it is not empty and not a data folder; `Damaged`; `System` if it cannot be created or written.
    pub fn open(path: &Path, role: Role) -> Result<Folder> {
        let _ = (path, role);
        todo!()
    }

    /// Its absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its identity as last read or saved.
    pub fn identity(&self) -> &Identity {
        todo!()
    }

    /// Writes the identity durably.
    pub fn save(&mut self, identity: Identity) -> Result<()> {
        let _ = identity;
        todo!()
    }

    /// True once [`Folder::found`] finished.
    pub fn has_stores(&self) -> bool {
        todo!()
    }

    /// Makes the stores of a new member: a log with the given membership and an empty term, and a first generation
    /// that holds `rows`. A crash in the middle leaves a folder on which it can be called again.
    pub fn found(
        &mut self,
        membership: raft::eraftpb::ConfState,
        rows: &super::state::Batch,
        sizes: Sizes,
    ) -> Result<()> {
        let _ = (membership, rows, sizes);
        todo!()
    }

    /// Opens the stores. Raises the start counter and removes the note of a clean close, durably, first. If the
    /// boot id differs from the last run's, removes the state's write-ahead logs before opening it. Compares the
    /// log with what a clean close noted, or after a crash with the applied index of the state and the commit
    /// index: a log that is shorter is [`crate::error::Kind::Damaged`].
    pub fn open_stores(&mut self, sizes: Sizes) -> Result<Stores> {
        let _ = sizes;
        todo!()
    }

    /// Closes the stores: flushes the state into tables, then notes the log's last index and term as a clean close.
    pub fn close_stores(&mut self, stores: Stores) -> Result<()> {
        let _ = stores;
        todo!()
    }

    /// Free bytes on the folder's file system.
    pub fn free_bytes(&self) -> Result<u64> {
        todo!()
    }
}
