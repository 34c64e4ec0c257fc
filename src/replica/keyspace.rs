//! The workers' machine.

/// Marks the machine of workers.
pub struct Keyspace {}
