//! The masters' machine: the directory.

/// Marks the machine of masters.
pub struct DirectoryMachine {}
