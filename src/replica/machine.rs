//! What a deterministic state machine is to the replica that applies entries to it.
