//! Room on the disk: what may still be accepted. No I/O: the free bytes come from outside.

use crate::error::{Error, Kind, Result};

/// Free bytes below which every command is refused, at most: a quarter of the reserve if that is less. What LevelDB's two
/// memtables hold (`store/leveldb.rs`: 16 MiB each) is written to tables when a node that was killed starts again, and needs room.
const LAST_RESERVE: u64 = 48 << 20;

/// The free space of the disk as it was at the last tick. What was accepted since counts against it as often as it will
/// be written: to the log, to LevelDB's own log, and to a table.
pub struct Space {
    free: Option<u64>,
    reserve: u64,
    accepted: u64,
}

impl Space {
    /// `free` bytes, or none if nobody can tell; below `reserve` free bytes, commands that need space are refused.
    pub fn new(free: Option<u64>, reserve: u64) -> Space {
        Space { free, reserve, accepted: 0 }
    }

    /// Accepts a command of `size` bytes. Errors with `DiskFull`.
    pub fn admit(&mut self, size: u64, needs_space: bool) -> Result<()> {
        const WRITTEN_TIMES: u64 = 3;
        let Some(free) = self.free else { return Ok(()) };
        let free = free.saturating_sub(WRITTEN_TIMES * self.accepted);
        let last_reserve = LAST_RESERVE.min(self.reserve / 4);
        if free >= if needs_space { self.reserve } else { last_reserve } {
            self.accepted += size;
            return Ok(());
        }
        let reserves = format!(
            "free space, or lower --reserve: writes go on above {} MiB, deletes above {} MiB",
            self.reserve >> 20,
            last_reserve >> 20
        );
        let detail = format!("only {} MiB are free on the disk of this node", free >> 20);
        Err(Error::new(Kind::DiskFull, detail).hint(reserves))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_accepted_counts_against_the_free_space() {
        const RESERVE: u64 = 64 << 20;
        let mut space = Space::new(Some(RESERVE + (20 << 20)), RESERVE);
        assert!(space.admit(8 << 20, true).is_ok());
        assert_eq!(space.admit(1, true).unwrap_err().kind(), Kind::DiskFull);
        assert!(space.admit(1, false).is_ok(), "a delete may use the last of it");
        assert!(
            Space::new(None, RESERVE).admit(u64::MAX, true).is_ok(),
            "a disk that does not tell is not full"
        );
    }
}
