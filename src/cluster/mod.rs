//! What a cluster looks like, decided without I/O.
//!
//! A key has a slot ([`slots`]); a slot has a group; a group has members. The masters agree on that in the
//! [`directory`]; every node keeps a [`view`] of it to find the owner of a key, and the client does the same.
//!
//! What a node says of itself is in [`view`] too; [`status`] puts both together for people. From the view the leader of
//! a group learns who should be a member, and [`membership`] tells it what to do about that.
//!
//! Invariants: every slot has at most one owner; an index is given once and never again; a uuid has one index; a
//! worker that is removed never comes back; voters go from one odd number to another.
//! Left out: how the directory is stored and agreed on (`replica`), and how documents travel (`server`, `client`).

pub mod directory;
mod facts;
pub mod frames;
mod json;
pub mod membership;
pub mod moves;
mod orders;
pub mod placement;
pub mod planning;
pub mod slots;
pub mod status;
pub mod verifying;
pub mod view;
