//! What the rest of the process holds of a running replica: a bounded inbox, reads, and numbers.

use super::command::{Reply, Request};
use super::reader::Reader;
use crate::cluster::directory::{Directory, DirectoryCommand, DirectoryReply};
use crate::cluster::view::ClusterView;
use crate::error::{Error, Result};
use crate::replica::{Folder, Sizes};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// How to open a replica.
#[derive(Debug, Clone)]
pub struct Options {
    /// Sizes of the stores.
    pub sizes: Sizes,
}

/// Plain numbers of a replica, for facts and metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Numbers {
    /// `leader`, `follower`, `candidate` or `standby`.
    pub role: &'static str,
    /// Raft term.
    pub term: u64,
    /// Index of the last applied entry.
    pub applied: u64,
    /// Keys stored.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// The version counter.
    pub version: u64,
    /// Log syncs since it was opened.
    pub syncs: u64,
    /// Entries applied since it was opened.
    pub entries: u64,
    /// Commands applied since it was opened.
    pub commands: u64,
    /// Commands waiting in the inbox now.
    pub queue: u64,
    /// Bytes of the Raft log on disk.
    pub log_bytes: u64,
}

/// A running replica of the keyspace. Cheap to clone; all clones are the same replica.
#[derive(Clone)]
pub struct KeyspaceHandle {}

impl KeyspaceHandle {
    /// Opens the stores of `folder` (which must have been founded) and starts the replica thread. Returns once the
    /// thread runs; [`KeyspaceHandle::wait_ready`] waits until it serves.
    pub fn open(folder: Folder, options: &Options) -> Result<KeyspaceHandle> {
        let _ = (folder, options);
        todo!()
    }

    /// Blocks until the replica serves, it failed, or the deadline passes (`NoMajority`).
    pub fn wait_ready(&self, deadline: Instant) -> Result<()> {
        let _ = deadline;
        todo!()
    }

    /// Hands a command to the replica and waits for its reply.
    ///
    /// Errors: `Overloaded` (inbox full), `DiskFull`, `NoMajority`, `Closed`, `Failed`: certainly not written.
    /// `UnknownOutcome`: it may have been written; also when the deadline passes first.
    pub async fn submit(&self, request: Request, deadline: Instant) -> Result<Reply> {
        let _ = (request, deadline);
        todo!()
    }

    /// A right to read linearizably, now. Errors: `NoMajority`, `Closed`, `Failed`.
    pub fn reader(&self) -> Result<Reader> {
        todo!()
    }

    /// Numbers for facts and metrics.
    pub fn numbers(&self) -> Numbers {
        todo!()
    }

    /// Why the replica stopped by itself, if it did. `Damaged` asks for exit code 5.
    pub fn failure(&self) -> Option<Error> {
        todo!()
    }

    /// Finishes what was accepted, closes the stores cleanly and gives the folder back. Blocks. Later calls of
    /// `submit` and `reader` on any clone get `Closed`.
    pub fn close(&self) -> Result<Folder> {
        todo!()
    }

    /// The data folder.
    pub fn path(&self) -> PathBuf {
        todo!()
    }
}

/// A running replica of the directory, on a master.
#[derive(Clone)]
pub struct DirectoryHandle {}

impl DirectoryHandle {
    /// As [`KeyspaceHandle::open`].
    pub fn open(folder: Folder, options: &Options) -> Result<DirectoryHandle> {
        let _ = (folder, options);
        todo!()
    }

    /// As [`KeyspaceHandle::wait_ready`].
    pub fn wait_ready(&self, deadline: Instant) -> Result<()> {
        let _ = deadline;
        todo!()
    }

    /// As [`KeyspaceHandle::submit`].
    pub async fn submit(&self, command: DirectoryCommand, deadline: Instant) -> Result<DirectoryReply> {
        let _ = (command, deadline);
        todo!()
    }

    /// The directory as last applied. Errors: `NoMajority`, `Closed`, `Failed`.
    pub fn directory(&self) -> Result<Arc<Directory>> {
        todo!()
    }

    /// As [`KeyspaceHandle::numbers`]; keys and bytes are 0.
    pub fn numbers(&self) -> Numbers {
        todo!()
    }

    /// As [`KeyspaceHandle::failure`].
    pub fn failure(&self) -> Option<Error> {
        todo!()
    }

    /// As [`KeyspaceHandle::close`].
    pub fn close(&self) -> Result<Folder> {
        todo!()
    }

    /// The data folder.
    pub fn path(&self) -> PathBuf {
        todo!()
    }
}

/// Founds a new cluster in a master's folder: a fresh cluster id, an empty directory with `address` as its master.
/// Does nothing if it was founded before.
pub fn found_master(folder: &mut Folder, address: &str, options: &Options) -> Result<()> {
    let _ = (folder, address, options);
    todo!()
}

/// Founds the group of a worker that the master registered (`index`, `group`, `slots` of the reply, the cluster's
/// id in `view`). Does nothing if it was founded before.
pub fn found_worker(
    folder: &mut Folder,
    reply: &crate::cluster::view::RegisterReply,
    options: &Options,
) -> Result<()> {
    let _ = (folder, reply, options);
    todo!()
}

/// The routes that this folder remembers from its last run, if any; a cache, never needed for safety.
pub fn read_routes(folder: &Folder) -> Option<ClusterView> {
    let _ = folder;
    todo!()
}

/// Remembers routes for the next start; errors are only logged. `path` is the data folder.
pub fn save_routes(path: &std::path::Path, view: &ClusterView) {
    let _ = (path, view);
    todo!()
}
