//! What the keyspace counts, and the row that holds it.

use crate::error::{Error, Kind, Result};

/// What the machine counts; one row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Index of the last applied entry.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// Raised by every write.
    pub version: u64,
    /// The highest clock in applied entries, milliseconds.
    pub clock: u64,
    /// Records.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// Records with a time to live.
    pub expiring: u64,
    /// Remembered request ids and sessions.
    pub requests: u64,
}

impl Counters {
    /// Layout: eight u64, little-endian, in the order of the fields. The store reads the first two at start.
    pub fn encode(&self) -> Vec<u8> {
        [self.index, self.term, self.version, self.clock, self.keys, self.bytes, self.expiring, self.requests]
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .collect()
    }

    /// Errors: `Damaged` if the row has another length.
    pub fn decode(row: &[u8]) -> Result<Counters> {
        let damaged = || Error::new(Kind::Damaged, "the row of counters does not have 64 bytes");
        let numbers: [u64; 8] = row
            .chunks_exact(8)
            .map(|chunk| chunk.try_into().map(u64::from_le_bytes))
            .collect::<Result<Vec<u64>, _>>()
            .map_err(|_| damaged())?
            .try_into()
            .map_err(|_| damaged())?;
        if row.len() != 64 {
            return Err(damaged());
        }
        let [index, term, version, clock, keys, bytes, expiring, requests] = numbers;
        Ok(Counters { index, term, version, clock, keys, bytes, expiring, requests })
    }
}
