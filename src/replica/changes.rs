//! What the commands of one entry change, as it gathers: each command reads the rows as those before it in the same
//! entry left them. A row that changes several times is written once.

use super::machine::{DigestOrder, Effect};
use crate::error::Result;
use crate::store::hashed::ByHash;
use crate::store::state::{Batch, State};
use std::hash::{BuildHasher as _, RandomState};
use std::ops::ControlFlow;

/// The rows as the commands of an entry have left them so far.
pub struct Changes<'a> {
    state: &'a dyn State,
    batch: Batch,
    /// Where in the batch a row is, by the hash of its key; of rows with one hash the second is at the next number, and so on.
    places: ByHash<usize>,
    hash: RandomState,
    replace: Option<Batch>,
    digest: Option<DigestOrder>,
}

impl<'a> Changes<'a> {
    /// No changes to `state` so far.
    pub fn new(state: &'a dyn State) -> Changes<'a> {
        Changes {
            state,
            batch: Batch::default(),
            places: ByHash::default(),
            hash: RandomState::new(),
            replace: None,
            digest: None,
        }
    }

    /// The rows before the entry.
    pub fn state(&self) -> &'a dyn State {
        self.state
    }

    /// The value of a row, as it is now.
    pub fn get(&self, row: &[u8]) -> Result<Option<Vec<u8>>> {
        match self.place(row) {
            Ok(position) => Ok(self.batch.changes[position].1.clone()),
            Err(_) => self.state.get(row),
        }
    }

    /// Writes a row.
    pub fn put(&mut self, row: Vec<u8>, value: Vec<u8>) {
        self.change(row, Some(value));
    }

    /// Removes a row.
    pub fn delete(&mut self, row: Vec<u8>) {
        self.change(row, None);
    }

    /// Replaces every row by `rows`.
    pub fn replace(&mut self, rows: Batch) {
        self.places.clear();
        self.batch = Batch::default();
        self.replace = Some(rows);
    }

    /// At most `limit` rows from `from` up to `to`, as they were before the entry.
    pub fn first_rows(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Vec<u8>>> {
        let mut rows = Vec::new();
        self.state.scan(from, to, &mut |row, _| {
            rows.push(row.to_vec());
            if rows.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(rows)
    }

    /// The rows that change, as far as the entry has come; none of an entry that replaces every row.
    pub fn changed(&self) -> &[(Vec<u8>, Option<Vec<u8>>)] {
        &self.batch.changes
    }

    /// Members are to take a digest of the rows as the entry leaves them.
    pub fn order_digest(&mut self, order: DigestOrder) {
        self.digest = Some(order);
    }

    /// The digest that was ordered, once.
    pub fn take_digest(&mut self) -> Option<DigestOrder> {
        self.digest.take()
    }

    /// What the entry does to the rows; `last` is written with it.
    pub fn into_effect(self, (row, value): (Vec<u8>, Vec<u8>)) -> Effect {
        let (mut batch, effect): (Batch, fn(Batch) -> Effect) = match self.replace {
            Some(rows) => (rows, Effect::Replace),
            None => (self.batch, Effect::Write),
        };
        batch.changes.push((row, Some(value)));
        effect(batch)
    }

    fn change(&mut self, row: Vec<u8>, value: Option<Vec<u8>>) {
        if let Some(rows) = &mut self.replace {
            // After a clear in the same entry only its remembered request can follow: both have the entry alone.
            rows.changes.push((row, value));
            return;
        }
        match self.place(&row) {
            Ok(position) => self.batch.changes[position].1 = value,
            Err(free) => {
                self.places.insert(free, self.batch.changes.len());
                self.batch.changes.push((row, value));
            }
        }
    }

    /// Where in the batch the row is; for one that does not change so far, the number under which it would be found.
    fn place(&self, row: &[u8]) -> Result<usize, u64> {
        let mut number = self.hash.hash_one(row);
        while let Some(&position) = self.places.get(&number) {
            if self.batch.changes[position].0 == row {
                return Ok(position);
            }
            number = number.wrapping_add(1);
        }
        Err(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::doubles::Disk;
    use crate::store::state::Generations as _;
    use raft::eraftpb::ConfState;

    #[test]
    fn of_rows_with_one_hash_each_has_its_own_place() {
        let (_, generations) = Disk::new(1, ConfState::default(), &Batch::default()).open(false);
        let state = generations.live();
        let mut changes = Changes::new(&*state);
        changes.put(b"A".to_vec(), b"1".to_vec());
        // As if the hash of B were that of A, and the number behind it, too.
        let number = changes.hash.hash_one(&b"B"[..]);
        changes.places.extend([(number, 0), (number.wrapping_add(1), 0)]);
        assert_eq!(changes.get(b"B").unwrap(), None);
        changes.put(b"B".to_vec(), b"2".to_vec());
        changes.put(b"B".to_vec(), b"3".to_vec());
        changes.delete(b"A".to_vec());
        assert_eq!(changes.get(b"B").unwrap().unwrap(), b"3");
        assert_eq!(changes.get(b"A").unwrap(), None);
        let rows: Vec<&[u8]> = changes.changed().iter().map(|(row, _)| &row[..]).collect();
        assert_eq!(rows, [b"A", b"B"], "each is written once");
    }
}
