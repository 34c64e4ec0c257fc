//! Rows that were read or written lately, in memory, before LevelDB: a read of one costs a lookup instead of a search of a
//! memtable and of tables whose blocks are checked each time.
//!
//! A row is here only as LevelDB has it. A write blanks its rows before it begins, as if they were not here, and gives those
//! that were their new values once it is done; meanwhile nothing gets in. Whoever read a row while it was being written, or
//! before, therefore cannot put an old value in: each write changes the number of its shards, and a reader that found
//! another number than before keeps what it read to itself. After a write that failed its rows stay blank, and nothing gets
//! into its shards any more.
//!
//! The library (quick_cache) decides which rows stay. While there is room, what is read gets in, if it is not long (to write a row
//! that was there reads it first); a new row that is written, as long as there is little ([`WRITTEN`]): who loads a store does not
//! say by that what will be read. Where there is no room left, a row gets in only by being read, and only if it was asked for
//! before, not too long ago: to bring one in and to throw another out costs as much as to read it, and where far more rows are
//! read than there is room for, hardly one is read again in time.

use super::hashed::Same;
use super::state::Batch;
use crate::error::Result;
use quick_cache::Weighter;
use quick_cache::unsync::{Cache, DefaultLifecycle};
use std::hash::{BuildHasher as _, BuildHasherDefault, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Readers of different shards do not wait for each other. A shard's tables grow as it fills, while others wait for it: the more
/// shards, the shorter.
const SHARDS: usize = 64;
/// New rows get in when they are written as long as all that are here take less than this, in bytes.
const WRITTEN: u64 = 48 << 20;
/// A longer row costs LevelDB little for its length, and would take the place of many.
const LONGEST: usize = 4 << 10;
/// Bytes of a row in memory besides key and value, about.
const OVERHEAD: u64 = 96;
/// What an average row takes, to begin with.
const USUAL: u64 = 256;

/// The rows of one generation.
pub(super) struct Warm {
    shards: Vec<Mutex<Shard>>,
    hash: RandomState,
}

struct Shard {
    /// By the hash of the row's key. Of two rows with one hash one can be here.
    rows: Cache<u64, Held, Weight, BuildHasherDefault<Same>>,
    /// What was asked for and is not here: of rows with the same place, the last one's mark. Empty until there is no room.
    asked: Vec<u16>,
    /// Writes that are under way, and those that failed.
    writers: usize,
    /// Writes so far.
    writes: u64,
}

/// A row.
struct Held {
    /// So many of the bytes are its key.
    key: usize,
    bytes: Box<[u8]>,
    /// A write of it is under way, or ended in a way that leaves open what LevelDB has: as if it were not here.
    blank: bool,
}

impl Held {
    fn new(row: &[u8], value: &[u8]) -> Held {
        Held { key: row.len(), bytes: [row, value].concat().into(), blank: false }
    }

    fn is(&self, row: &[u8]) -> bool {
        self.bytes[..self.key] == *row
    }

    /// The value, if this is `row`.
    fn value_of(&self, row: &[u8]) -> Option<&[u8]> {
        (!self.blank && self.is(row)).then(|| &self.bytes[self.key..])
    }

    /// Gives the row this value, if that is as long as the one it has.
    fn replace(&mut self, value: &[u8]) -> bool {
        let old = &mut self.bytes[self.key..];
        let fits = old.len() == value.len();
        if fits {
            old.copy_from_slice(value);
            self.blank = false;
        }
        fits
    }
}

#[derive(Clone)]
struct Weight;

impl Weighter<u64, Held> for Weight {
    fn weight(&self, _: &u64, held: &Held) -> u64 {
        held.bytes.len() as u64 + OVERHEAD
    }
}

impl Shard {
    /// For rows of about so many bytes in all.
    fn new(bytes: u64) -> Shard {
        let usual = (bytes / USUAL) as usize;
        let rows =
            Cache::with(usual, bytes, Weight, BuildHasherDefault::default(), DefaultLifecycle::default());
        Shard { rows, asked: Vec::new(), writers: 0, writes: 0 }
    }

    /// The row's value, if it is here.
    fn value(&self, hash: u64, row: &[u8]) -> Option<&[u8]> {
        self.rows.get(&hash)?.value_of(row)
    }

    /// Blanks the row. True if it is here.
    fn blank(&mut self, hash: u64, row: &[u8]) -> bool {
        match self.rows.peek_mut(&hash) {
            Some(mut held) if held.is(row) => {
                held.blank = true;
                true
            }
            _ => false,
        }
    }

    /// What was written of a row; `was_here` before that, so that it was blanked. Where it was not it gets in if there is room,
    /// unless it has no value: such a row is there to be scanned.
    fn set(&mut self, hash: u64, row: &[u8], value: Option<&Vec<u8>>, was_here: bool) {
        match value {
            Some(value) if fits(row, value) && was_here => {
                // A row that the batch deleted before is not here any more.
                let replaced = self.rows.get_mut(&hash).map(|mut held| held.is(row) && held.replace(value));
                if replaced == Some(false) {
                    // Another length: only what is inserted makes others go. Or another row that has the same hash.
                    self.rows.insert(hash, Held::new(row, value));
                }
            }
            Some(value)
                if fits(row, value)
                    && !value.is_empty()
                    && self.has_room(row.len() + value.len(), WRITTEN / SHARDS as u64) =>
            {
                self.rows.insert(hash, Held::new(row, value));
            }
            // The batch may have brought it in before.
            _ => drop(self.rows.remove(&hash)),
        }
    }

    /// Whether so many bytes more are no more than `most`, and than there is room for.
    fn has_room(&self, bytes: usize, most: u64) -> bool {
        self.rows.weight() + bytes as u64 + OVERHEAD <= self.rows.capacity().min(most)
    }

    /// Whether there is room for the row, or it was asked for before.
    fn admits(&mut self, hash: u64, bytes: usize) -> bool {
        if self.has_room(bytes, u64::MAX) {
            return true;
        }
        if self.asked.is_empty() {
            let usual = (self.rows.capacity() / USUAL) as usize;
            self.asked = vec![0; (2 * usual).next_power_of_two()];
        }
        let place = hash as usize & (self.asked.len() - 1);
        let mark = (hash >> 48) as u16;
        std::mem::replace(&mut self.asked[place], mark) == mark
    }
}

impl Warm {
    /// Rows of about so many bytes in all, what they take besides included.
    pub fn new(bytes: usize) -> Warm {
        Warm::with(SHARDS, bytes / SHARDS)
    }

    /// Shards, a power of two, of so many bytes each.
    fn with(shards: usize, bytes: usize) -> Warm {
        let shard = || Mutex::new(Shard::new(bytes as u64));
        Warm { shards: std::iter::repeat_with(shard).take(shards).collect(), hash: RandomState::new() }
    }

    /// The row's hash, and its shard.
    fn place(&self, row: &[u8]) -> (u64, usize) {
        let hash = self.hash.hash_one(row);
        // The places in a shard are of the lowest bits.
        (hash, (hash >> 32) as usize & (self.shards.len() - 1))
    }

    fn shard(&self, number: usize) -> MutexGuard<'_, Shard> {
        self.shards[number].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The row, from here or by `read`. Errors: those of `read`.
    pub fn get(&self, row: &[u8], read: impl FnOnce() -> Result<Option<Vec<u8>>>) -> Result<Option<Vec<u8>>> {
        let (hash, number) = self.place(row);
        let writes = {
            let shard = self.shard(number);
            if let Some(value) = shard.value(hash, row) {
                return Ok(Some(value.to_vec()));
            }
            (shard.writers == 0).then_some(shard.writes)
        };
        let found = read()?;
        if let (Some(writes), Some(value)) = (writes, &found)
            && fits(row, value)
        {
            let mut shard = self.shard(number);
            if shard.writers == 0 && shard.writes == writes && shard.admits(hash, row.len() + value.len()) {
                shard.rows.insert(hash, Held::new(row, value));
            }
        }
        Ok(found)
    }

    /// Gives away all rows; nothing gets in any more.
    pub fn retire(&self) -> Rows {
        let retire = |number| {
            let mut shard = self.shard(number);
            let mut empty = Shard::new(0);
            (empty.writers, empty.writes) = (shard.writers + 1, shard.writes + 1);
            std::mem::replace(&mut *shard, empty)
        };
        Rows { _shards: (0..self.shards.len()).map(retire).collect() }
    }

    /// Has `write` change the rows of the batch. Errors: those of `write`.
    pub fn write(&self, batch: &Batch, write: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut places: Vec<Place> = Vec::with_capacity(batch.changes.len());
        places.extend(batch.changes.iter().enumerate().map(|(at, (row, _))| {
            let (hash, shard) = self.place(row);
            Place { shard, at, hash, was_here: false }
        }));
        // Those of a shard together, and as they stand in the batch.
        places.sort_unstable_by_key(|place| (place.shard, place.at));
        let mut begun = Vec::with_capacity(SHARDS);
        for places in places.chunk_by_mut(|one, next| one.shard == next.shard) {
            let mut shard = self.shard(places[0].shard);
            let alone = shard.writers == 0;
            shard.writers += 1;
            shard.writes += 1;
            for place in places {
                place.was_here = shard.blank(place.hash, &batch.changes[place.at].0);
            }
            begun.push(alone.then_some(shard.writes));
        }
        write()?;
        for (places, writes) in places.chunk_by(|one, next| one.shard == next.shard).zip(begun) {
            let mut shard = self.shard(places[0].shard);
            shard.writers -= 1;
            // Of writes at the same time it is not known which of them LevelDB did last.
            if writes != Some(shard.writes) {
                continue;
            }
            for place in places {
                let (row, value) = &batch.changes[place.at];
                shard.set(place.hash, row, value.as_ref(), place.was_here);
            }
        }
        Ok(())
    }
}

/// What was in memory; it takes a while to let go of it.
pub(super) struct Rows {
    _shards: Vec<Shard>,
}

/// Where a row of a batch belongs.
struct Place {
    shard: usize,
    /// Which of the batch's changes it is.
    at: usize,
    hash: u64,
    was_here: bool,
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
        warm.write(&put(b"A", b"as long as nothing else"), || Ok(())).unwrap();
        assert_eq!(warm.get(b"A", never).unwrap().unwrap(), b"as long as nothing else");
        let mut anew = Batch::default();
        anew.delete(b"A".to_vec());
        anew.put(b"A".to_vec(), b"5".to_vec());
        warm.write(&anew, || Ok(())).unwrap();
        assert_eq!(warm.get(b"A", || read(b"5")).unwrap().unwrap(), b"5");
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
    fn nothing_gets_in_after_it_was_retired() {
        let warm = Warm::new(ROOM);
        let one = || Ok(Some(b"1".to_vec()));
        let held = || (0..SHARDS).map(|shard| warm.shard(shard).rows.weight()).sum::<u64>();
        warm.get(b"A", one).unwrap();
        let during = warm.write(&put(b"B", b"2"), || {
            let rows = warm.retire();
            assert_eq!(rows._shards.iter().map(|shard| shard.rows.len()).sum::<usize>(), 1);
            Ok(())
        });
        during.unwrap();
        for _ in 0..3 {
            assert_eq!(warm.get(b"A", one).unwrap().unwrap(), b"1");
            warm.write(&put(b"A", b"1"), || Ok(())).unwrap();
        }
        assert_eq!((held(), warm.get(b"A", || Ok(None)).unwrap()), (0, None));
    }

    #[test]
    fn it_stays_in_its_room() {
        let warm = Warm::new(ROOM);
        for number in 0..100_000u32 {
            warm.get(&number.to_be_bytes(), || Ok(Some(vec![7; 100]))).unwrap();
        }
        let held = || (0..SHARDS).map(|shard| warm.shard(shard).rows.weight()).sum::<u64>();
        assert!(held() <= ROOM as u64 && held() > ROOM as u64 / 2, "{}", held());
        // Rows that are here become longer.
        for number in 0..100_000u32 {
            warm.write(&put(&number.to_be_bytes(), &[8; 1000]), || Ok(())).unwrap();
        }
        assert!(held() <= ROOM as u64 && held() > ROOM as u64 / 2, "{}", held());
    }

    #[test]
    fn what_was_written_is_here_while_there_is_room() {
        let warm = Warm::new(ROOM);
        let mut batch = put(b"A", b"1");
        batch.put(b"index".to_vec(), Vec::new());
        batch.put(b"B".to_vec(), b"2".to_vec());
        batch.delete(b"B".to_vec());
        warm.write(&batch, || Ok(())).unwrap();
        assert_eq!(warm.get(b"A", never).unwrap().unwrap(), b"1");
        for gone in [&b"index"[..], b"B"] {
            assert_eq!(warm.get(gone, || Ok(None)).unwrap(), None);
        }
        for number in 0..100_000u32 {
            warm.write(&put(&number.to_be_bytes(), &[7; 100]), || Ok(())).unwrap();
        }
        let held = || (0..SHARDS).map(|shard| warm.shard(shard).rows.weight()).sum::<u64>();
        assert!(held() <= ROOM as u64 && held() > ROOM as u64 / 2, "{}", held());
        assert_eq!(warm.get(b"A", never).unwrap().unwrap(), b"1", "writes push nothing out");
        assert_eq!(warm.get(&99_999u32.to_be_bytes(), || Ok(None)).unwrap(), None, "and find no room");
    }

    #[test]
    fn what_is_only_written_takes_little_of_much_room() {
        let warm = Warm::new(4 * WRITTEN as usize);
        let rows = 2 * WRITTEN as u32 / 4000;
        let held = || (0..SHARDS).map(|shard| warm.shard(shard).rows.weight()).sum::<u64>();
        for number in 0..rows {
            warm.write(&put(&number.to_be_bytes(), &[7; 4000]), || Ok(())).unwrap();
        }
        assert!(held() <= WRITTEN && held() > WRITTEN / 2, "{}", held());
        for number in 0..rows {
            warm.get(&number.to_be_bytes(), || Ok(Some(vec![7; 4000]))).unwrap();
        }
        assert!(held() >= u64::from(rows) * 4000, "what is read finds room: {}", held());
    }

    #[test]
    fn without_room_a_row_gets_in_when_it_is_asked_for_again() {
        let warm = Warm::new(ROOM);
        let read = || Ok(Some(vec![7; 100]));
        for number in 0..100_000u32 {
            warm.get(&number.to_be_bytes(), read).unwrap();
        }
        let held = || (0..SHARDS).map(|shard| warm.shard(shard).rows.weight()).sum::<u64>();
        let (before, reads) = (held(), AtomicU64::new(0));
        let count = || {
            reads.fetch_add(1, Ordering::SeqCst);
            read()
        };
        for _ in 0..4 {
            assert_eq!(warm.get(b"A", count).unwrap().unwrap(), [7; 100]);
        }
        assert_eq!(reads.load(Ordering::SeqCst), 2, "the first is noted, the second stays");
        assert!(held() <= ROOM as u64 && held() > before / 2);
    }

    #[test]
    fn of_two_rows_with_one_hash_neither_is_taken_for_the_other() {
        let mut shard = Shard::new(ROOM as u64);
        shard.rows.insert(7, Held::new(b"AB", b"C"));
        assert_eq!(shard.value(7, b"AB"), Some(&b"C"[..]));
        for other in [&b"A"[..], b"ABC", b"", b"XY"] {
            assert_eq!(shard.value(7, other), None);
        }
        assert!(!shard.blank(7, b"ABC"), "it is not here");
        assert_eq!(shard.value(7, b"AB"), Some(&b"C"[..]), "and the other one stays");
        shard.rows.insert(7, Held::new(b"", b""));
        assert!(shard.blank(7, b"") && shard.value(7, b"").is_none());
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
            steps in proptest::collection::vec((0u8..6, 0u8..6, any::<bool>()), 1..200)
        ) {
            // Two rows find room in each.
            let warm = Warm::with(2, 256);
            let mut below: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
            for (number, (row, what, fails)) in steps.into_iter().enumerate() {
                let row = vec![row];
                if what < 3 {
                    let mut batch = put(&row, &number.to_be_bytes());
                    match what {
                        0 => batch.delete(vec![row[0].wrapping_add(1)]),
                        1 => batch.put(row.clone(), [number.to_be_bytes(), [1; 8]].concat()),
                        _ => batch.delete(row.clone()),
                    }
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
