//! What a cluster looks like, decided without I/O.
//!
//! A key has a slot ([`slots`]); a slot has a group; a group has members. The masters agree on that in the
//! [`directory`]; every node keeps a [`view`] of it to find the owner of a key, and the client does the same.
//!
//! Invariants: every slot has at most one owner; an index is given once and never again; a uuid has one index.
//! Left out: how the directory is stored and agreed on (`replica`), and how documents travel (`server`, `client`).

pub mod directory;
pub mod slots;
pub mod view;
