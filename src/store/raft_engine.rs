//! The Raft log on raft-engine: the only file that names that crate.

use super::log::{LogWrite, RaftLog};
use crate::error::Result;
use raft::eraftpb::{ConfState, Entry, HardState};

/// The Raft log of one member, on raft-engine.
pub struct EngineLog {}

impl RaftLog for EngineLog {
    fn truncated(&self) -> (u64, u64) {
        todo!()
    }
    fn last_index(&self) -> u64 {
        todo!()
    }
    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>> {
        let _ = (low, high, max_bytes);
        todo!()
    }
    fn term(&self, index: u64) -> Result<Option<u64>> {
        let _ = index;
        todo!()
    }
    fn hard_state(&self) -> HardState {
        todo!()
    }
    fn membership(&self) -> (ConfState, u64) {
        todo!()
    }
    fn write(&mut self, write: LogWrite) -> Result<()> {
        let _ = write;
        todo!()
    }
    fn cut(&mut self, index: u64) -> Result<()> {
        let _ = index;
        todo!()
    }
    fn reset(&mut self, index: u64, term: u64) -> Result<()> {
        let _ = (index, term);
        todo!()
    }
    fn syncs(&self) -> u64 {
        todo!()
    }
    fn bytes(&self) -> u64 {
        todo!()
    }
}
