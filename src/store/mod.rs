//! LevelDB and the Raft log: the only room that names either library.
//!
//! A worker's (or master's) folder holds `identity.json` ([`identity`]), `log/` (the Raft log, [`log`]),
//! `state/CURRENT` and `state/NNNNNN/` (LevelDB, [`generation`]), and `blobs/` (the chunks of large values, [`blobs`],
//! named by the manifests of [`chunk`]). [`folder`] opens it and holds its lock.
//!
//! The way of a write: the replica appends entries to the [`log::RaftLog`] in one synced write; later it applies
//! them as one [`state::Batch`], unsynced, that holds the records, the applied index and term and the counters
//! together. The way of a read: [`state::State::get`] on the caller's thread.
//!
//! The way of a snapshot: the leader reads a [`state::View`], all rows as of one moment; the follower fills a
//! [`state::Building`] beside its live generation, then [`state::Generations::install`] switches to it and notes
//! where it stands, and [`install::settle`] makes the log follow.
//!
//! The way of a start: [`folder`] takes the lock, reads the identity, has every file checked that a library would
//! trust blindly ([`tables`], `raft_files`), opens the state and the log, ends an install that a crash interrupted,
//! holds one against the other and against the note of the last close, and only then removes the note. The way of a
//! close: flush, close both, note where they ended.
//!
//! Invariants: state and applied index change in one batch; the log is cut only up to an index that is known to be
//! in the state's tables; after any error of a write nothing is written to that store again; no scan takes an
//! iterator's error for the end of the data, nor a row behind an error for the newest; a folder that is found
//! damaged is found damaged again.
//!
//! Every store has a double in memory ([`doubles`]) that loses what was not synced; one suite tests both.
//!
//! A closed folder is read without opening it, and without changing it, by [`inspect`].
//!
//! Left out: what commands mean and when entries are committed (`replica`).

pub mod blobs;
pub mod buffers;
mod bulk;
pub mod chunk;
mod crc32c;
mod current;
#[cfg(test)]
mod damage_test;
mod direct;
pub mod doubles;
#[cfg(test)]
mod failure_test;
mod files;
pub mod folder;
pub mod generation;
pub mod hashed;
pub mod identity;
pub mod inspect;
pub mod install;
#[cfg(test)]
mod install_test;
pub mod keys;
pub mod leveldb;
mod lock;
pub mod log;
mod opened;
pub mod raft_engine;
mod raft_files;
mod recent;
pub mod record;
mod rows;
pub mod state;
#[cfg(test)]
mod suite;
mod table_writer;
pub mod tables;
#[cfg(test)]
mod view_test;
mod warm;
mod zero_filled;
