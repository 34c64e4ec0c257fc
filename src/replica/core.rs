//! Raft without I/O.
