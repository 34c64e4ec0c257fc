//! catstore: a simple distributed key-value store. This page is the map of the house.
//!
//! | room | what it is for |
//! |---|---|
//! | [`cmd`] | one file per subcommand: its arguments and what it prints |
//! | [`client`] | the HTTP client: finds the owner of a key, retries; used by `cmd`, tests and examples |
//! | [`server`] | HTTP: routes, guards, errors, forwarding; no decisions about data |
//! | [`replica`] | one member of one Raft group: the core without I/O, the thread that drives it, the machines |
//! | [`store`] | LevelDB and the Raft log on disk; keys, records, generations |
//! | [`cluster`] | slots, the directory, the documents that describe a cluster; no I/O |
//! | [`error`] | one error type that says what the caller does next |
//!
//! Arrows point one way: `cmd → client`, `cmd → server → replica → store`, and all may use `cluster` and `error`.
//! `tests/arrows.rs` checks them.

pub mod client;
pub mod cluster;
pub mod cmd;
pub mod error;
pub mod replica;
pub mod server;
pub mod store;
