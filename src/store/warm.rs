//! Rows that were read or written lately, in memory, before LevelDB: a read of one costs a lookup instead of a search of a
//! memtable and of tables whose blocks are checked each time.
//!
//! A row is here only as LevelDB has it. A write takes its rows out before it begins, and puts those that were here back
//! with their new values once it is done; meanwhile nothing gets in. Whoever read a row while it was being written, or
//! before, therefore cannot put an old value in: each write changes the number of its shards, and a reader that found
//! another number than before keeps what it read to itself. After a write that failed nothing gets into its shards any more.
//!
//! The library (quick_cache) decides which rows stay.

use super::state::Batch;
use crate::error::Result;
use quick_cache::Weighter;
use quick_cache::unsync::Cache;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Readers of different shards do not wait for each other.
const SHARDS: usize = 16;
/// A longer row costs LevelDB little for its length, and would take the place of many.
const LONGEST: usize = 4 << 10;
/// Bytes of a row in memory besides key and value, about.
const OVERHEAD: u64 = 96;
/// What an average row takes, to begin with.
const USUAL: u64 = 256;

/// The rows of one generation.
pub(super) struct Warm {
    shards: Vec<Mutex<Shard>>,
}

struct Shard {
    rows: Cache<Box<[u8]>, Box<[u8]>, Weight>,
    /// Writes that are under way, and those that failed.
    writers: usize,
    /// Writes so far.
    writes: u64,
}

#[derive(Clone)]
struct Weight;

impl Weighter<Box<[u8]>, Box<[u8]>> for Weight {
    fn weight(&self, row: &Box<[u8]>, value: &Box<[u8]>) -> u64 {
        (row.len() + value.len()) as u64 + OVERHEAD
    }
}

impl Warm {
    /// Rows of about so many bytes in all, what they take besides included.
    pub fn new(bytes: usize) -> Warm {
        let each = (bytes / SHARDS) as u64;
        let shard = || {
            let rows = Cache::with_weighter((each / USUAL) as usize, each, Weight);
            Mutex::new(Shard { rows, writers: 0, writes: 0 })
        };
        Warm { shards: std::iter::repeat_with(shard).take(SHARDS).collect() }
    }

    fn shard(&self, number: usize) -> MutexGuard<'_, Shard> {
        self.shards[number].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The row, from here or by `read`. Errors: those of `read`.
    pub fn get(&self, row: &[u8], read: impl FnOnce() -> Result<Option<Vec<u8>>>) -> Result<Option<Vec<u8>>> {
        let number = number(row);
        let writes = {
            let shard = self.shard(number);
            if let Some(value) = shard.rows.get(row) {
                return Ok(Some(value.to_vec()));
            }
            (shard.writers == 0).then_some(shard.writes)
        };
        let found = read()?;
        if let (Some(writes), Some(value)) = (writes, &found)
            && fits(row, value)
        {
            let mut shard = self.shard(number);
            if shard.writers == 0 && shard.writes == writes {
                shard.rows.insert(row.into(), value.as_slice().into());
            }
        }
        Ok(found)
    }

    /// Has `write` change the rows of the batch. Errors: those of `write`.
    pub fn write(&self, batch: &Batch, write: impl FnOnce() -> Result<()>) -> Result<()> {
        let numbers: Vec<usize> = batch.changes.iter().map(|(row, _)| number(row)).collect();
        let of = |shard: usize| numbers.iter().enumerate().filter(move |(_, number)| **number == shard);
        let used = (0..SHARDS).filter(|shard| numbers.contains(shard));
        let mut was_here = vec![false; numbers.len()];
        let begun: Vec<(usize, Option<u64>)> = used
            .map(|number| {
                let mut shard = self.shard(number);
                let alone = shard.writers == 0;
                shard.writers += 1;
                shard.writes += 1;
                for (at, _) in of(number) {
                    was_here[at] = shard.rows.remove(batch.changes[at].0.as_slice()).is_some();
                }
                (number, alone.then_some(shard.writes))
            })
            .collect();
        write()?;
        for (number, writes) in begun {
            let mut shard = self.shard(number);
            shard.writers -= 1;
            // Of writes at the same time it is not known which of them LevelDB did last.
            let last = writes == Some(shard.writes);
            for (at, _) in of(number) {
                match &batch.changes[at] {
                    (row, Some(value)) if last && was_here[at] && fits(row, value) => {
                        shard.rows.insert(row.as_slice().into(), value.as_slice().into());
                    }
                    (row, _) => {
                        shard.rows.remove(row.as_slice());
                    }
                }
            }
        }
        Ok(())
    }
}

/// The shard of a row.
fn number(row: &[u8]) -> usize {
    crc32fast::hash(row) as usize % SHARDS
}

fn fits(row: &[u8], value: &[u8]) -> bool {
    row.len() + value.len() <= LONGEST
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Kind};
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::sync::atomic::{AtomicU64, Ordering};

    const ROOM: usize = 1 << 20;

    fn put(row: &[u8], value: &[u8]) -> Batch {
        let mut batch = Batch::default();
        batch.put(row.to_vec(), value.to_vec());
        batch
    }

    fn never() -> Result<Option<Vec<u8>>> {
        panic!("it is here")
    }

    #[test]
    fn a_row_is_read_once_and_follows_its_writes() {
        let warm = Warm::new(ROOM);
        let read = |value: &[u8]| Ok(Some(value.to_vec()));
        assert_eq!(warm.get(b"A", || Ok(None)).unwrap(), None);
        assert_eq!(warm.get(b"A", || read(b"1")).unwrap().unwrap(), b"1", "an absent row is not kept");
        assert_eq!(warm.get(b"A", never).unwrap().unwrap(), b"1");
        warm.write(&put(b"A", b"2"), || Ok(())).unwrap();
        assert_eq!(warm.get(b"A", never).unwrap().unwrap(), b"2");
        let mut twice = put(b"A", b"3");
        twice.put(b"A".to_vec(), b"4".to_vec());
        warm.write(&twice, || Ok(())).unwrap();
        assert_eq!(warm.get(b"A", || read(b"4")).unwrap().unwrap(), b"4", "the last of two");
        let mut gone = Batch::default();
        gone.delete(b"A".to_vec());
        warm.write(&gone, || Ok(())).unwrap();
        assert_eq!(warm.get(b"A", || Ok(None)).unwrap(), None);
        let long = vec![1; LONGEST + 1];
        warm.get(b"A", || read(&long)).unwrap();
        assert_eq!(warm.get(b"A", || Ok(None)).unwrap(), None, "too long");
    }

    #[test]
    fn what_was_read_before_or_during_a_write_does_not_stay() {
        let warm = Warm::new(ROOM);
        let old = || Ok(Some(b"old".to_vec()));
        let found = warm.get(b"A", || {
            warm.write(&put(b"A", b"new"), || Ok(()))?;
            old()
        });
        assert_eq!(found.unwrap().unwrap(), b"old");
        assert_eq!(warm.get(b"A", || Ok(Some(b"new".to_vec()))).unwrap().unwrap(), b"new");
        let written = warm.write(&put(b"A", b"newer"), || {
            assert_eq!(warm.get(b"A", old).unwrap().unwrap(), b"old", "not as it was, nor as it will be");
            Ok(())
        });
        written.unwrap();
        assert_eq!(warm.get(b"A", never).unwrap().unwrap(), b"newer");
    }

    #[test]
    fn writes_at_the_same_time_leave_nothing() {
        let warm = Warm::new(ROOM);
        let whole = |inner: &dyn Fn()| {
            warm.get(b"A", || Ok(Some(b"0".to_vec()))).unwrap();
            warm.write(&put(b"A", b"1"), || {
                inner();
                Ok(())
            })
            .unwrap();
        };
        whole(&|| warm.write(&put(b"A", b"2"), || Ok(())).unwrap());
        let last = || Ok(Some(b"2".to_vec()));
        assert_eq!(warm.get(b"A", last).unwrap().unwrap(), b"2");
    }

    #[test]
    fn nothing_stays_behind_a_write_that_failed() {
        let warm = Warm::new(ROOM);
        warm.get(b"A", || Ok(Some(b"1".to_vec()))).unwrap();
        let failed = warm.write(&put(b"A", b"2"), || Err(Error::new(Kind::Failed, "the disk")));
        assert_eq!(failed.unwrap_err().kind(), Kind::Failed);
        for value in [b"1", b"2"] {
            assert_eq!(warm.get(b"A", || Ok(Some(value.to_vec()))).unwrap().unwrap(), value);
        }
    }

    #[test]
    fn it_stays_in_its_room() {
        let warm = Warm::new(ROOM);
        for number in 0..100_000u32 {
            warm.get(&number.to_be_bytes(), || Ok(Some(vec![7; 100]))).unwrap();
        }
        let held: u64 = (0..SHARDS).map(|shard| warm.shard(shard).rows.weight()).sum();
        assert!(held <= ROOM as u64 && held > ROOM as u64 / 2, "{held}");
    }

    /// One writer counts a row up; whoever reads never sees it go back.
    #[test]
    fn readers_beside_a_writer_see_no_older_value() {
        let (warm, disk) = (Warm::new(ROOM), AtomicU64::new(0));
        let done = AtomicU64::new(0);
        let read = || Ok(Some(disk.load(Ordering::SeqCst).to_be_bytes().to_vec()));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 1..=20_000u64 {
                    let store = || {
                        disk.store(number, Ordering::SeqCst);
                        Ok(())
                    };
                    warm.write(&put(b"A", &number.to_be_bytes()), store).unwrap();
                    done.store(number, Ordering::SeqCst);
                }
                done.store(u64::MAX, Ordering::SeqCst);
            });
            for _ in 0..2 {
                scope.spawn(|| {
                    loop {
                        let before = done.load(Ordering::SeqCst);
                        if before == u64::MAX {
                            return;
                        }
                        let seen = warm.get(b"A", read).unwrap().unwrap();
                        assert!(u64::from_be_bytes(seen.try_into().unwrap()) >= before);
                    }
                });
            }
        });
    }

    proptest! {
        #[test]
        fn it_reads_as_what_is_below_it(
            steps in proptest::collection::vec((0u8..6, 0u8..4, any::<bool>()), 1..200)
        ) {
            let warm = Warm::new(4 << 10);
            let mut below: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
            for (number, (row, what, fails)) in steps.into_iter().enumerate() {
                let row = vec![row];
                if what == 0 {
                    let mut batch = put(&row, &number.to_be_bytes());
                    batch.delete(vec![row[0].wrapping_add(1)]);
                    let done = warm.write(&batch, || {
                        // What failed may have been done all the same.
                        for (row, value) in &batch.changes {
                            match value {
                                Some(value) => drop(below.insert(row.clone(), value.clone())),
                                None => drop(below.remove(row)),
                            }
                        }
                        if fails { Err(Error::new(Kind::Failed, "the disk")) } else { Ok(()) }
                    });
                    prop_assert_eq!(done.is_err(), fails);
                } else {
                    let found = warm.get(&row, || Ok(below.get(&row).cloned())).unwrap();
                    prop_assert_eq!(found.as_ref(), below.get(&row));
                }
            }
        }
    }
}
