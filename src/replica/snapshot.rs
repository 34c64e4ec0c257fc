//! The rows of a snapshot on their way from a leader to a member: held views on the one side, chunks on the wire.
//!
//! A chunk, all numbers big-endian: version u8 (1), flags u8 (bit 0: the last one), keys u64 and bytes u64 of the whole
//! snapshot (about: for progress), then rows (length u32, row, length u32, value), then the CRC-32 of all before it.
//! A chunk begins behind a row that the request names, so that whoever lost its connection goes on where it was.

use super::shared::{lock, yield_to_others};
use crate::error::{Error, Kind, Result};
use crate::store::keys;
use crate::store::record;
use crate::store::state::{Batch, View};
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// A chunk ends after so many bytes of rows, or holds one larger row.
pub const CHUNK_BYTES: usize = 6 << 20;
const VERSION: u8 = 1;
const LAST: u8 = 1;
/// Bytes before the rows, and behind them.
const HEADER: usize = 2 + 8 + 8;
const CHECKSUM: usize = 4;

/// The snapshots that this member holds for others, by id.
#[derive(Default)]
pub struct Snapshots {
    held: Mutex<HashMap<u64, Held>>,
}

/// A snapshot and how large it is, about.
#[derive(Clone)]
pub struct Held {
    /// Its rows.
    pub view: Arc<dyn View>,
    /// Keys in it.
    pub keys: u64,
    /// Bytes of keys and values in it.
    pub bytes: u64,
    /// The chunk that is read before it is asked for.
    pub ahead: Arc<Ahead>,
}

/// The next chunk of a snapshot: it is read while the one before it is on its way.
#[derive(Debug, Default)]
pub struct Ahead {
    stage: Mutex<Stage>,
    changed: Condvar,
}

#[derive(Debug, Default)]
enum Stage {
    #[default]
    Nothing,
    /// The one behind this row is being read.
    Reading(Vec<u8>),
    /// The one behind this row.
    Read(Vec<u8>, Result<Encoded>),
}

/// A chunk as it goes over the wire.
#[derive(Debug)]
pub struct Encoded {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The row behind which the next one begins; none if this is the last.
    pub next: Option<Vec<u8>>,
}

impl Ahead {
    /// Takes the chunk behind the row `after`, if it was read or is being read.
    fn take(&self, after: &[u8]) -> Option<Result<Encoded>> {
        let mut stage = lock(&self.stage);
        loop {
            match &*stage {
                Stage::Reading(row) if row == after => {
                    stage = self.changed.wait(stage).unwrap_or_else(PoisonError::into_inner);
                }
                Stage::Read(row, _) if row == after => break,
                _ => return None,
            }
        }
        match std::mem::take(&mut *stage) {
            Stage::Read(_, chunk) => Some(chunk),
            _ => None,
        }
    }

    /// False if another one is being read.
    fn begin(&self, after: &[u8]) -> bool {
        let mut stage = lock(&self.stage);
        if matches!(*stage, Stage::Reading(_)) {
            return false;
        }
        *stage = Stage::Reading(after.to_vec());
        true
    }

    fn end(&self, stage: Stage) {
        *lock(&self.stage) = stage;
        self.changed.notify_all();
    }
}

/// Reads the chunk behind the row `after` on a thread that yields to all others.
fn read_ahead(held: &Held, after: Vec<u8>) {
    if !held.ahead.begin(&after) {
        return;
    }
    let reader = held.clone();
    let spawned = std::thread::Builder::new().name("read-ahead".into()).spawn(move || {
        yield_to_others();
        // Whoever waits hears of it even if the reading panics.
        let read = catch_unwind(AssertUnwindSafe(|| encode(&reader, &after, CHUNK_BYTES)));
        let stage = read.map_or(Stage::Nothing, |chunk| Stage::Read(after, chunk));
        reader.ahead.end(stage);
    });
    if spawned.is_err() {
        // It is read when it is asked for.
        held.ahead.end(Stage::Nothing);
    }
}

/// A chunk, decoded.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    /// Its rows.
    pub rows: Batch,
    /// The last row, to name in the next request.
    pub end: Option<Vec<u8>>,
    /// True if no rows follow.
    pub last: bool,
    /// Keys of the whole snapshot.
    pub keys: u64,
    /// Bytes of the whole snapshot.
    pub bytes: u64,
}

impl Snapshots {
    /// Holds a snapshot.
    pub fn hold(&self, id: u64, held: Held) {
        lock(&self.held).insert(id, held);
    }

    /// Gives a snapshot up.
    pub fn release(&self, id: u64) {
        let held = lock(&self.held).remove(&id);
        // Dropped outside of the lock: it may close a generation.
        drop(held);
    }

    /// Gives all of them up.
    pub fn clear(&self) {
        let held = std::mem::take(&mut *lock(&self.held));
        drop(held);
    }

    /// The chunk of snapshot `id` that begins behind the row `after`.
    ///
    /// Errors: `NotFound` if it is not held (any longer), `Damaged` if a stored value does not match its checksum: a
    /// rotten value is not copied.
    pub fn chunk(&self, id: u64, after: &[u8]) -> Result<Vec<u8>> {
        let held = lock(&self.held).get(&id).cloned();
        let held =
            held.ok_or_else(|| Error::new(Kind::NotFound, format!("snapshot {id:016x} is not held here")))?;
        let chunk = match held.ahead.take(after) {
            Some(chunk) => chunk,
            None => encode(&held, after, CHUNK_BYTES),
        }?;
        if let Some(next) = chunk.next {
            read_ahead(&held, next);
        }
        Ok(chunk.bytes)
    }
}

/// Reads one chunk of about `size` bytes, or one larger row. Rows that belong to one folder only stay there.
pub fn encode(held: &Held, after: &[u8], size: usize) -> Result<Encoded> {
    let mut chunk = Vec::with_capacity(size + size / 8);
    let mut end = Vec::new();
    let mut last = true;
    chunk.extend_from_slice(&[VERSION, LAST]);
    chunk.extend_from_slice(&held.keys.to_be_bytes());
    chunk.extend_from_slice(&held.bytes.to_be_bytes());
    let mut from = after.to_vec();
    if !from.is_empty() {
        from.push(0);
    }
    let mut problem = None;
    held.view.scan(&from, &keys::end(), &mut |row, value| {
        if keys::is_local(row) {
            return ControlFlow::Continue(());
        }
        if chunk.len() >= size {
            last = false;
            return ControlFlow::Break(());
        }
        if keys::record_key(row).is_some()
            && let Err(error) = check_record(value)
        {
            problem = Some(error);
            return ControlFlow::Break(());
        }
        for part in [row, value] {
            chunk.extend_from_slice(&(part.len() as u32).to_be_bytes());
            chunk.extend_from_slice(part);
        }
        end.clear();
        end.extend_from_slice(row);
        ControlFlow::Continue(())
    })?;
    if let Some(error) = problem {
        return Err(error);
    }
    if !last {
        chunk[1] = 0;
    }
    let checksum = crc32fast::hash(&chunk);
    chunk.extend_from_slice(&checksum.to_be_bytes());
    Ok(Encoded { bytes: chunk, next: (!last).then_some(end) })
}

fn check_record(value: &[u8]) -> Result<()> {
    let (meta, offset) = record::decode_meta(value)?;
    record::check(value, &meta, offset)
}

/// Decodes a chunk. Errors as [`Packed::open`].
pub fn decode(chunk: &[u8]) -> Result<Chunk> {
    let packed = Packed::open(chunk.to_vec())?;
    let mut rows = Batch::default();
    packed.rows().for_each(|(row, value)| rows.put(row.to_vec(), value.to_vec()));
    let Packed { end, last, keys, bytes, .. } = packed;
    Ok(Chunk { rows, end, last, keys, bytes })
}

/// A chunk whose rows still lie where they arrived.
#[derive(Debug)]
pub struct Packed {
    chunk: Vec<u8>,
    /// How many rows.
    pub count: u64,
    /// Bytes of these rows.
    pub size: u64,
    /// As in [`Chunk`].
    pub end: Option<Vec<u8>>,
    /// As in [`Chunk`].
    pub last: bool,
    /// As in [`Chunk`].
    pub keys: u64,
    /// As in [`Chunk`].
    pub bytes: u64,
}

impl Packed {
    /// Takes a chunk as it came over the wire. Errors: `Damaged` if it was changed on its way, or has another form.
    pub fn open(chunk: Vec<u8>) -> Result<Packed> {
        let damaged = |what: &str| Error::new(Kind::Damaged, format!("a chunk of a snapshot {what}"));
        let (body, checksum) = chunk.split_last_chunk::<4>().ok_or_else(|| damaged("is too short"))?;
        if crc32fast::hash(body) != u32::from_be_bytes(*checksum) {
            return Err(damaged("does not match its checksum"));
        }
        let short = || damaged("ends early");
        let ([version, flags], rest) = body.split_first_chunk::<2>().ok_or_else(short)?;
        if *version != VERSION {
            return Err(damaged("has a version that is not known"));
        }
        let (keys, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
        let (bytes, mut rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
        let (keys, bytes, last) = (u64::from_be_bytes(*keys), u64::from_be_bytes(*bytes), flags & LAST != 0);
        let (mut count, mut size, mut end) = (0, 0, None);
        while !rest.is_empty() {
            let row = part(&mut rest).ok_or_else(short)?;
            let value = part(&mut rest).ok_or_else(short)?;
            count += 1;
            size += (row.len() + value.len()) as u64;
            end = Some(row);
        }
        let end = end.map(<[u8]>::to_vec);
        if end.is_none() && !last {
            return Err(damaged("holds nothing and is not the last"));
        }
        Ok(Packed { chunk, count, size, end, last, keys, bytes })
    }

    /// Its rows and their values, in order.
    pub fn rows(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = &self.chunk[HEADER..self.chunk.len() - CHECKSUM];
        std::iter::from_fn(move || Some((part(&mut rest)?, part(&mut rest)?)))
    }
}

fn part<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, behind) = rest.split_first_chunk::<4>()?;
    let (part, behind) = behind.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    *rest = behind;
    Some(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::doubles::Disk;
    use crate::store::record::{Meta, checksum};
    use crate::store::state::Generations;
    use proptest::prelude::*;
    use raft::eraftpb::ConfState;

    fn held(rows: &Batch) -> Held {
        let (_, generations) = Disk::new(1, ConfState::default(), rows).open(false);
        Held { view: generations.live().view().unwrap(), keys: 7, bytes: 9, ahead: Arc::default() }
    }

    fn record_row(key: &str, value: &[u8], sum: u32) -> (Vec<u8>, Vec<u8>) {
        let meta = Meta {
            version: 1,
            modified: 2,
            expires: None,
            checksum: sum,
            content_type: String::new(),
            size: value.len() as u64,
            in_chunks: false,
        };
        (keys::record(key.as_bytes()), record::encode(&meta, value))
    }

    fn collect(held: &Held) -> Batch {
        let (mut all, mut after) = (Batch::default(), Vec::new());
        loop {
            let chunk = decode(&encode(held, &after, CHUNK_BYTES).unwrap().bytes).unwrap();
            assert_eq!((chunk.keys, chunk.bytes), (7, 9));
            all.changes.extend(chunk.rows.changes);
            if chunk.last {
                return all;
            }
            after = chunk.end.unwrap();
        }
    }

    #[test]
    fn every_row_arrives_once_and_in_order() {
        let mut rows = Batch::default();
        rows.put(keys::COUNTERS_ROW.to_vec(), vec![0; 64]);
        for number in 0..3000 {
            let value = vec![number as u8; 2000];
            let (row, value) = record_row(&format!("{number:05}"), &value, checksum(&value));
            rows.put(row, value);
        }
        assert_eq!(collect(&held(&rows)), rows);
        assert_eq!(collect(&held(&Batch::default())), Batch::default());
    }

    #[test]
    fn whoever_asks_again_or_elsewhere_gets_what_it_asks_for() {
        let mut rows = Batch::default();
        for number in 0..5000 {
            let value = vec![number as u8; 2000];
            let (row, value) = record_row(&format!("{number:05}"), &value, checksum(&value));
            rows.put(row, value);
        }
        let snapshots = Snapshots::default();
        snapshots.hold(5, held(&rows));
        let ask = |after: &[u8]| decode(&snapshots.chunk(5, after).unwrap()).unwrap();
        let first = ask(&[]);
        let end = first.end.clone().unwrap();
        let second = ask(&end);
        assert_eq!(ask(&[]), first);
        for _ in 0..3 {
            assert_eq!(ask(&end), second);
        }
        // Two that copy at the same time.
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let (mut count, mut after) = (0, Vec::new());
                    loop {
                        let chunk = ask(&after);
                        count += chunk.rows.changes.len();
                        if chunk.last {
                            return assert_eq!(count, 5000);
                        }
                        after = chunk.end.unwrap();
                    }
                });
            }
        });
        snapshots.release(5);
        assert_eq!(snapshots.chunk(5, &[]).unwrap_err().kind(), Kind::NotFound);
    }

    #[test]
    fn a_rotten_value_does_not_leave() {
        let mut rows = Batch::default();
        let (row, value) = record_row("cat", b"picture", 1);
        rows.put(row, value);
        assert_eq!(encode(&held(&rows), &[], CHUNK_BYTES).unwrap_err().kind(), Kind::Damaged);
    }

    #[test]
    fn rows_of_one_folder_stay_there() {
        let mut rows = Batch::default();
        rows.put(keys::FLUSH_ROW.to_vec(), vec![1]);
        assert_eq!(collect(&held(&rows)), Batch::default());
    }

    proptest! {
        #[test]
        fn a_flipped_bit_is_found(position: prop::sample::Index, bit in 0u8..8) {
            let mut rows = Batch::default();
            rows.put(vec![4, 1, 2], vec![3; 20]);
            let mut chunk = encode(&held(&rows), &[], CHUNK_BYTES).unwrap().bytes;
            let position = position.index(chunk.len());
            chunk[position] ^= 1u8 << bit;
            prop_assert_eq!(decode(&chunk).unwrap_err().kind(), Kind::Damaged);
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes: Vec<u8>, sealed: bool) {
            if sealed {
                let checksum = crc32fast::hash(&bytes);
                bytes.extend_from_slice(&checksum.to_be_bytes());
            }
            let _ = decode(&bytes);
        }
    }
}
