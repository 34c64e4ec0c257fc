//! The replica thread.
