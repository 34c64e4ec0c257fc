//! One member of one Raft group.
//!
//! The way of a write: a handler gives a command to [`handle::KeyspaceHandle::submit`], which puts it into a bounded inbox.
//! The replica thread ([`driver`]) drains the inbox, folds what waits into one entry and hands it to the
//! [`member`], which proposes it to the Raft [`core`], writes the log with one sync, applies what is committed to
//! its [`machine`], and returns the replies. The way of a read: [`handle::KeyspaceHandle::reader`] on the handler's own thread.
//!
//! Invariants: nothing is acknowledged before it is in the synced log and applied; the core and the machines do no
//! I/O of their own and know no clock and no thread; after any error of the disk the member stops.
//!
//! Left out: HTTP (`server`), what lies on disk (`store`).

pub mod blobs;
mod change;
mod changes;
mod clock;
pub mod command;
mod compaction;
pub mod copies;
pub mod core;
pub mod digest;
pub mod directory;
pub mod driver;
mod entry;
pub mod fetch;
pub mod found;
pub mod handle;
pub mod inbox;
pub mod keyspace;
pub mod lease;
pub mod machine;
mod mailbox;
pub mod member;
pub mod mover;
pub mod moves;
pub mod outputs;
pub mod parcel;
pub mod reader;
pub mod repeats;
pub mod shared;
pub mod snapshot;
mod space;
pub mod status;
pub mod storage;
pub mod transport;
pub mod waiting_reads;

pub use found::{
    found_master, found_worker, holds_stores, join_master, promote_worker, read_routes, recover_master,
    save_routes,
};

pub use crate::store::buffers;
pub use crate::store::chunk::{self, Manifest, Name};
pub use crate::store::folder::{Folder, Sizes};
pub use crate::store::identity::{Identity, Role};
pub use crate::store::inspect;
pub use crate::store::record::{Meta, Record, checksum};
