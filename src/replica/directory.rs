//! The masters' machine: the [`Directory`] of `cluster`, kept in one row, behind the same pipeline as the keyspace.

use super::machine::{Applied, Effect, Machine, Position, begin_payload, open_payload};
use crate::cluster::directory::{Directory, DirectoryCommand, DirectoryReply};
use crate::cluster::membership::{Wanted, wanted_masters};
use crate::error::{Error, Kind, Result};
use crate::store::keys;
use crate::store::state::{Batch, State};
use std::sync::Arc;

/// The first byte of the payload of entries that carry directory commands, as JSON.
pub const PAYLOAD: u8 = 2;

/// The masters' machine.
#[derive(Debug)]
pub struct DirectoryMachine {
    position: Position,
    clock: u64,
    directory: Arc<Directory>,
}

/// The rows of a new cluster.
pub fn founding_rows(directory: &Directory) -> Result<Batch> {
    let mut rows = Batch::default();
    rows.put(keys::COUNTERS_ROW.to_vec(), encode_counters(Position::default(), 0));
    rows.put(keys::DIRECTORY_ROW.to_vec(), encode_directory(directory)?);
    Ok(rows)
}

/// Layout: index, term, clock, each u64 little-endian. The store reads the first two at start.
fn encode_counters(position: Position, clock: u64) -> Vec<u8> {
    [position.index, position.term, clock].iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn decode_counters(row: &[u8]) -> Option<(Position, u64)> {
    let (index, rest) = row.split_first_chunk::<8>()?;
    let (term, rest) = rest.split_first_chunk::<8>()?;
    let clock: &[u8; 8] = rest.try_into().ok()?;
    let position = Position { index: u64::from_le_bytes(*index), term: u64::from_le_bytes(*term) };
    Some((position, u64::from_le_bytes(*clock)))
}

fn encode_directory(directory: &Directory) -> Result<Vec<u8>> {
    serde_json::to_vec(directory)
        .map_err(|error| Error::new(Kind::Failed, "the directory does not encode").cause(error))
}

impl Machine for DirectoryMachine {
    type Command = DirectoryCommand;
    type Reply = DirectoryReply;
    type Published = Arc<Directory>;

    fn load(state: &dyn State) -> Result<DirectoryMachine> {
        let damaged = |what: &str| {
            Error::new(Kind::Damaged, format!("the state's row of {what} is missing or not readable"))
        };
        let counters = state.get(&keys::COUNTERS_ROW)?.ok_or_else(|| damaged("counters"))?;
        let (position, clock) = decode_counters(&counters).ok_or_else(|| damaged("counters"))?;
        let row = state.get(&keys::DIRECTORY_ROW)?.ok_or_else(|| damaged("the directory"))?;
        let directory: Directory =
            serde_json::from_slice(&row).map_err(|error| damaged("the directory").cause(error))?;
        directory.slots.check().map_err(|why| Error::new(Kind::Damaged, why))?;
        Ok(DirectoryMachine { position, clock, directory: Arc::new(directory) })
    }

    fn position(&self) -> Position {
        self.position
    }

    fn clock(&self) -> u64 {
        self.clock
    }

    fn size(command: &DirectoryCommand) -> usize {
        // Commands are few and small: they are measured by encoding them. One that does not encode fails later.
        serde_json::to_vec(command).map_or(0, |encoded| encoded.len())
    }

    fn alone(_command: &DirectoryCommand) -> bool {
        false
    }

    fn needs_space(_command: &DirectoryCommand) -> bool {
        true
    }

    fn encode(clock: u64, commands: &[DirectoryCommand]) -> Result<Vec<u8>> {
        let mut payload = begin_payload(PAYLOAD, clock);
        serde_json::to_writer(&mut payload, commands)
            .map_err(|error| Error::new(Kind::Failed, "a command does not encode").cause(error))?;
        Ok(payload)
    }

    fn apply(&mut self, _state: &dyn State, at: Position, payload: &[u8]) -> Result<Applied<DirectoryReply>> {
        let mut batch = Batch::default();
        let mut replies = Vec::new();
        if !payload.is_empty() {
            let (clock, commands) = open_payload(payload, PAYLOAD)?;
            let commands: Vec<DirectoryCommand> = serde_json::from_slice(commands).map_err(|error| {
                Error::new(Kind::Damaged, "an entry's commands do not decode").cause(error)
            })?;
            self.clock = self.clock.max(clock);
            let directory = Arc::make_mut(&mut self.directory);
            replies.extend(commands.iter().map(|command| directory.apply(command)));
            batch.put(keys::DIRECTORY_ROW.to_vec(), encode_directory(directory)?);
        }
        self.position = at;
        batch.put(keys::COUNTERS_ROW.to_vec(), encode_counters(self.position, self.clock));
        Ok(Applied {
            effect: Effect::Write(batch),
            replies,
            digest: None,
            shifts: false,
            frees: false,
            chunked: Vec::new(),
            unchunked: false,
        })
    }

    fn due(&self, _now: u64) -> Option<DirectoryCommand> {
        None
    }

    fn wanted(&self) -> Option<Wanted> {
        Some(wanted_masters(&self.directory))
    }

    fn publish(&self) -> Arc<Directory> {
        self.directory.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn counters_come_back(index: u64, term: u64, clock: u64) {
            let position = Position { index, term };
            prop_assert_eq!(decode_counters(&encode_counters(position, clock)), Some((position, clock)));
        }

        #[test]
        fn arbitrary_counters_never_panic(row: Vec<u8>) {
            let _ = decode_counters(&row);
        }
    }
}
