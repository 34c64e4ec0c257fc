//! The live rows of a LevelDB folder that nobody has open, read without LevelDB: opening one writes to it.
//!
//! A merge of everything that the manifest leaves alive: tables, and what of the write-ahead logs is in no table yet. Of
//! several entries for a row the one with the highest sequence number counts. A table is read when its first row is due, so
//! that a few of them are in memory at a time: one of each level, and those of the first level, which overlap.

use super::tables::{self, Damage, Left, LiveTable, Version};
use crate::error::Result as StoreResult;
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::path::{Path, PathBuf};

/// LevelDB's suffix of a key: sequence number and kind.
const SUFFIX: usize = 8;
/// The kind of an entry that holds a value; the other one says that the row is gone.
const VALUE: u64 = 1;

/// What is called for each live row; an error ends the visit.
pub(super) type Take<'a> = dyn FnMut(&[u8], &[u8]) -> StoreResult<()> + 'a;

/// A row, or that it is gone, as of a sequence number.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    row: Vec<u8>,
    /// Sequence number, and in the lowest byte the kind.
    tag: u64,
    value: Vec<u8>,
}

/// Entries in order; the first one is due.
struct Source {
    due: Entry,
    rest: std::vec::IntoIter<Entry>,
}

impl Entry {
    fn order(&self, other: &Entry) -> Ordering {
        self.row.cmp(&other.row).then(other.tag.cmp(&self.tag))
    }
}

impl Ord for Source {
    /// The source whose entry comes first is the greatest.
    fn cmp(&self, other: &Source) -> Ordering {
        other.due.order(&self.due)
    }
}

impl PartialOrd for Source {
    fn partial_cmp(&self, other: &Source) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Source {
    fn eq(&self, other: &Source) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Source {}

/// A LevelDB folder that is only read.
pub(super) struct ClosedRows {
    folder: PathBuf,
    version: Version,
    left: Left,
}

impl ClosedRows {
    /// Reads the manifest.
    pub(super) fn open(folder: &Path, left: Left) -> Result<ClosedRows, Damage> {
        let version = tables::read_version(folder, left)?;
        Ok(ClosedRows { folder: folder.to_owned(), version, left })
    }

    /// Reads every table and compares all checksums; `tell` hears how many bytes each has. What is damaged.
    pub(super) fn check_tables(&self, tell: &mut dyn FnMut(u64)) -> Vec<Damage> {
        let mut damage = Vec::new();
        for (number, table) in &self.version.tables {
            damage.extend(tables::read_table(&self.folder, *number, table).err());
            tell(table.size);
        }
        damage
    }

    /// Visits the live rows in order; with `logs` those of the write-ahead logs too. `tell` hears how many bytes each table
    /// has that was read.
    ///
    /// Errors: `Damaged`, and those of `visit`, which end it.
    pub(super) fn visit(
        &self,
        logs: bool,
        tell: &mut dyn FnMut(u64),
        visit: &mut Take<'_>,
    ) -> StoreResult<()> {
        let mut tables: Vec<(&u64, &LiveTable)> = self.version.tables.iter().collect();
        tables.sort_by(|(_, one), (_, other)| row_of(&one.first).cmp(row_of(&other.first)));
        let mut waiting = tables.into_iter().peekable();
        let mut due = BinaryHeap::new();
        if logs {
            push(
                &mut due,
                self.read_logs().map_err(|damage| super::files::damaged(&damage.file, damage.reason))?,
            );
        }
        let mut last: Option<Vec<u8>> = None;
        loop {
            let is_due = |table: &LiveTable, due: &BinaryHeap<Source>| {
                due.peek().is_none_or(|source| source.due.row.as_slice() >= row_of(&table.first))
            };
            while let Some((number, table)) = waiting.next_if(|(_, table)| is_due(table, &due)) {
                let entries = self.read_entries(*number, table);
                push(&mut due, entries.map_err(|damage| super::files::damaged(&damage.file, damage.reason))?);
                tell(table.size);
            }
            let Some(Source { due: entry, rest }) = due.pop() else { return Ok(()) };
            push(&mut due, rest);
            if last.as_ref() != Some(&entry.row) {
                if entry.tag & 0xff == VALUE {
                    visit(&entry.row, &entry.value)?;
                }
                last = Some(entry.row);
            }
        }
    }

    fn read_entries(&self, number: u64, table: &LiveTable) -> Result<std::vec::IntoIter<Entry>, Damage> {
        let bytes = tables::read_table(&self.folder, number, table)?;
        let entries = entries_of(&bytes);
        entries
            .map(Vec::into_iter)
            .map_err(|reason| Damage { file: self.folder.join(format!("{number:06}.ldb")), reason })
    }

    /// What the write-ahead logs hold that no table does.
    fn read_logs(&self) -> Result<std::vec::IntoIter<Entry>, Damage> {
        let unreadable = |file: &Path, reason: String| Damage { file: file.to_owned(), reason };
        let logs = tables::write_ahead_logs(&self.folder)
            .map_err(|cause| unreadable(&self.folder, cause.to_string()))?;
        let mut entries = Vec::new();
        for path in logs {
            let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
            if number.is_none_or(|number| number < self.version.first_log) {
                continue;
            }
            let bytes = std::fs::read(&path).map_err(|cause| unreadable(&path, cause.to_string()))?;
            let records =
                tables::log_records(&bytes, self.left).map_err(|reason| unreadable(&path, reason))?;
            for record in records {
                let batch = read_batch(&record)
                    .ok_or_else(|| unreadable(&path, "a batch of changes cannot be read".into()))?;
                entries.extend(batch);
            }
        }
        entries.sort_by(Entry::order);
        Ok(entries.into_iter())
    }
}

fn push(due: &mut BinaryHeap<Source>, mut rest: std::vec::IntoIter<Entry>) {
    if let Some(entry) = rest.next() {
        due.push(Source { due: entry, rest });
    }
}

/// A key of LevelDB without its suffix.
fn row_of(key: &[u8]) -> &[u8] {
    &key[..key.len().saturating_sub(SUFFIX)]
}

fn entries_of(table: &[u8]) -> Result<Vec<Entry>, String> {
    let mut entries = Vec::new();
    for block in tables::row_blocks(table)? {
        read_block(block, &mut entries).ok_or("a block of it cannot be read")?;
    }
    Ok(entries)
}

/// Entries of (bytes shared with the key before, other bytes of the key, length of the value), key, value, then restarts.
fn read_block(contents: &[u8], entries: &mut Vec<Entry>) -> Option<()> {
    let (rest, restarts) = contents.split_last_chunk::<4>()?;
    let restarts = usize::try_from(u32::from_le_bytes(*restarts)).ok()?.checked_mul(4)?;
    let mut input = rest.get(..rest.len().checked_sub(restarts)?)?;
    let mut key: Vec<u8> = Vec::new();
    while !input.is_empty() {
        let shared = usize::try_from(tables::varint(&mut input)?).ok()?;
        let unshared = usize::try_from(tables::varint(&mut input)?).ok()?;
        let length = usize::try_from(tables::varint(&mut input)?).ok()?;
        let (tail, behind) = input.split_at_checked(unshared)?;
        let (value, behind) = behind.split_at_checked(length)?;
        input = behind;
        if shared > key.len() {
            return None;
        }
        key.truncate(shared);
        key.extend_from_slice(tail);
        let (row, tag) = key.split_last_chunk::<SUFFIX>()?;
        entries.push(Entry { row: row.to_vec(), tag: u64::from_le_bytes(*tag), value: value.to_vec() });
    }
    Some(())
}

/// A batch of a write-ahead log: the first sequence number u64, the count u32, then for each change its kind, the key, and
/// the value if it has one.
fn read_batch(record: &[u8]) -> Option<Vec<Entry>> {
    let (sequence, rest) = record.split_first_chunk::<8>()?;
    let (_, mut input) = rest.split_first_chunk::<4>()?;
    let mut sequence = u64::from_le_bytes(*sequence);
    let mut entries = Vec::new();
    while let Some((kind, behind)) = input.split_first() {
        input = behind;
        let row = tables::bytes(&mut input)?.to_vec();
        let value = match u64::from(*kind) {
            VALUE => tables::bytes(&mut input)?.to_vec(),
            0 => Vec::new(),
            _ => return None,
        };
        entries.push(Entry { row, tag: sequence << 8 | u64::from(*kind), value });
        sequence = sequence.checked_add(1)?;
    }
    Some(entries)
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
