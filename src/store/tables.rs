//! Finds the damaged file of a LevelDB folder: LevelDB itself says that something is damaged, rarely what.
//!
//! Reads LevelDB's formats as its `doc/table_format.md` and `doc/log_format.md` describe them: the names in
//! `CURRENT`, the version edits of the manifest, the blocks of tables and the records of write-ahead logs.

use super::crc32c;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

pub(super) const LOG_BLOCK: usize = 32 * 1024;
pub(super) const LOG_HEADER: usize = 7;
pub(super) const FOOTER: usize = 48;
pub(super) const MAGIC: u64 = 0xdb47_7524_8b80_fb57;
const TRAILER: u64 = 5;

/// A file of a LevelDB folder, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is damaged: {}", self.file.display(), self.reason)
    }
}

/// How the files of a LevelDB folder were left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// By a clean close: every file ends where its last record ends.
    Closed,
    /// By a crash: the last record of a log may be torn.
    Crashed,
}

/// What LevelDB must not meet when it opens `folder`: a manifest, table or footer that is not whole. Reads little.
///
/// LevelDB trusts the block sizes in a table's footer, which no checksum covers, and would ask for as much memory
/// as a flipped bit there says. A clean close left logs whose end is known, so that nothing can pass for torn.
pub fn check_before_open(folder: &Path, left: Left) -> Result<(), Damage> {
    let manifest = manifest_of(folder)?;
    let records = log_records(&read(&manifest)?, left).map_err(|reason| damage(&manifest, reason))?;
    let version = live_version(&records).map_err(|reason| damage(&manifest, reason))?;
    for (number, table) in version.tables {
        let path = table_path(folder, number);
        check_footer_of(&path, table.size).map_err(|reason| damage(&path, reason))?;
    }
    if left == Left::Closed {
        check_write_ahead_logs(folder, left)?;
    }
    Ok(())
}

/// The first damaged file of `folder`, if every file is read to its end.
pub fn find_damage(folder: &Path) -> Option<Damage> {
    check_before_open(folder, Left::Crashed).and_then(|()| check_all(folder)).err()
}

fn check_all(folder: &Path) -> Result<(), Damage> {
    let manifest = manifest_of(folder)?;
    let records =
        log_records(&read(&manifest)?, Left::Crashed).map_err(|reason| damage(&manifest, reason))?;
    for number in live_version(&records).map_err(|reason| damage(&manifest, reason))?.tables.into_keys() {
        let path = table_path(folder, number);
        check_table(&read(&path)?).map_err(|reason| damage(&path, reason))?;
    }
    check_write_ahead_logs(folder, Left::Crashed)
}

/// Whether the write-ahead logs hold every record up to their end. Only the last record of the newest may be torn,
/// and only after a crash: an older log was finished when the next began.
///
/// LevelDB never syncs them, so that nobody hears of a page that could not be written, and it passes over zeros
/// between records without a word.
pub fn check_write_ahead_logs(folder: &Path, left: Left) -> Result<(), Damage> {
    let logs = write_ahead_logs(folder).map_err(|cause| damage(folder, cause))?;
    for (position, path) in logs.iter().enumerate() {
        let left = if position + 1 == logs.len() { left } else { Left::Closed };
        log_records(&read(path)?, left).map_err(|reason| damage(path, reason))?;
    }
    Ok(())
}

/// The write-ahead logs (`NNNNNN.log`) in `folder`, oldest first.
pub fn write_ahead_logs(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut logs = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            logs.push(path);
        }
    }
    logs.sort();
    Ok(logs)
}

fn damage(file: &Path, reason: impl fmt::Display) -> Damage {
    Damage { file: file.to_owned(), reason: reason.to_string() }
}

fn read(path: &Path) -> Result<Vec<u8>, Damage> {
    fs::read(path).map_err(|cause| damage(path, cause))
}

fn table_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:06}.ldb"))
}

fn manifest_of(folder: &Path) -> Result<PathBuf, Damage> {
    let current = folder.join("CURRENT");
    let content = read(&current)?;
    let name = std::str::from_utf8(&content).ok().and_then(|text| text.strip_suffix('\n'));
    match name {
        Some(name) if name.starts_with("MANIFEST-") && !name.contains(['/', '\0']) => {
            let manifest = folder.join(name);
            if manifest.is_file() { Ok(manifest) } else { Err(damage(&current, "it names no manifest")) }
        }
        _ => Err(damage(&current, "it names no manifest")),
    }
}

/// The records of a manifest or a write-ahead log.
pub(super) fn log_records(bytes: &[u8], left: Left) -> Result<Vec<Vec<u8>>, String> {
    let mut records = Vec::new();
    let mut record: Option<Vec<u8>> = None;
    let mut position = 0;
    while position < bytes.len() {
        let left_in_block = LOG_BLOCK - position % LOG_BLOCK;
        if left_in_block < LOG_HEADER {
            position += left_in_block;
            continue;
        }
        let Some((kind, payload)) = log_fragment(bytes, position, left_in_block)? else {
            record = Some(Vec::new());
            break;
        };
        position += LOG_HEADER + payload.len();
        match (kind, record.take()) {
            (1, None) => records.push(payload.to_vec()),
            (2, None) => record = Some(payload.to_vec()),
            (3, Some(mut whole)) => {
                whole.extend_from_slice(payload);
                record = Some(whole);
            }
            (4, Some(mut whole)) => {
                whole.extend_from_slice(payload);
                records.push(whole);
            }
            _ => return Err(format!("a record has no beginning or no end at byte {position}")),
        }
    }
    if left == Left::Closed && (record.is_some() || position > bytes.len()) {
        return Err("it ends within a record".into());
    }
    Ok(records)
}

/// The kind and payload of the fragment at `position`; `None` if the file ends within it.
fn log_fragment(bytes: &[u8], position: usize, left_in_block: usize) -> Result<Option<(u8, &[u8])>, String> {
    let rest = &bytes[position..];
    let Some((header, rest)) = rest.split_first_chunk::<LOG_HEADER>() else {
        return Ok(None);
    };
    let length = usize::from(u16::from_le_bytes([header[4], header[5]]));
    if LOG_HEADER + length > left_in_block {
        let torn = bytes.len() - position < left_in_block;
        return if torn { Ok(None) } else { Err(format!("a record is too long at byte {position}")) };
    }
    let Some(payload) = rest.get(..length) else {
        return Ok(None);
    };
    let stored = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    if stored != masked_crc(&[&header[6..], payload]) {
        return Err(format!("a record's checksum does not match at byte {position}"));
    }
    Ok(Some((header[6], payload)))
}

/// CRC-32C of the parts as LevelDB stores it: rotated, and with a constant added.
pub(super) fn masked_crc(parts: &[&[u8]]) -> u32 {
    crc32c::checksum(parts).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// What the manifest's version edits leave alive.
#[derive(Debug, Default)]
pub(super) struct Version {
    /// Tables by their numbers.
    pub(super) tables: BTreeMap<u64, LiveTable>,
    /// Write-ahead logs of a lower number are in tables.
    pub(super) first_log: u64,
}

/// A table as the manifest names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LiveTable {
    /// Its length in bytes.
    pub(super) size: u64,
    /// Its first key, with LevelDB's suffix.
    pub(super) first: Vec<u8>,
}

/// The manifest of `folder`, read to its end.
pub(super) fn read_version(folder: &Path, left: Left) -> Result<Version, Damage> {
    let manifest = manifest_of(folder)?;
    let version = log_records(&read(&manifest)?, left).and_then(|records| live_version(&records));
    version.map_err(|reason| damage(&manifest, reason))
}

/// The bytes of a live table, after every block was checked.
pub(super) fn read_table(folder: &Path, number: u64, table: &LiveTable) -> Result<Vec<u8>, Damage> {
    let path = table_path(folder, number);
    check_footer_of(&path, table.size).map_err(|reason| damage(&path, reason))?;
    let bytes = read(&path)?;
    check_table(&bytes).map_err(|reason| damage(&path, reason))?;
    Ok(bytes)
}

fn live_version(records: &[Vec<u8>]) -> Result<Version, String> {
    let mut version = Version::default();
    for record in records {
        apply_edit(&mut &record[..], &mut version).ok_or("a version edit cannot be read")?;
    }
    Ok(version)
}

fn apply_edit(input: &mut &[u8], version: &mut Version) -> Option<()> {
    // The order of deletions and additions within an edit does not matter: LevelDB deletes first.
    let mut added = Vec::new();
    while !input.is_empty() {
        match varint(input)? {
            1 => drop(bytes(input)?),
            2 => version.first_log = varint(input)?,
            3 | 4 | 9 => drop(varint(input)?),
            5 => {
                varint(input)?;
                bytes(input)?;
            }
            6 => {
                varint(input)?;
                version.tables.remove(&varint(input)?);
            }
            7 => {
                varint(input)?;
                let (number, size) = (varint(input)?, varint(input)?);
                let first = bytes(input)?.to_vec();
                bytes(input)?;
                added.push((number, LiveTable { size, first }));
            }
            _ => return None,
        }
    }
    version.tables.extend(added);
    Some(())
}

pub(super) fn varint(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = input.split_first()?;
        *input = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

pub(super) fn bytes<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(varint(input)?).ok()?;
    let (bytes, rest) = input.split_at_checked(length)?;
    *input = rest;
    Some(bytes)
}

/// Where a block lies in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Handle {
    offset: u64,
    size: u64,
}

impl Handle {
    fn read(input: &mut &[u8]) -> Option<Handle> {
        Some(Handle { offset: varint(input)?, size: varint(input)? })
    }

    /// The offset behind the block and its trailer.
    fn end(self) -> Option<u64> {
        self.offset.checked_add(self.size)?.checked_add(TRAILER)
    }
}

fn check_footer_of(path: &Path, size: u64) -> Result<(), String> {
    let text = |cause: std::io::Error| cause.to_string();
    let mut file = File::open(path).map_err(text)?;
    let length = file.metadata().map_err(text)?.len();
    if length != size || length < FOOTER as u64 {
        return Err(format!("it has {length} bytes, {size} were written"));
    }
    let mut footer = [0; FOOTER];
    file.seek(SeekFrom::End(-(FOOTER as i64))).map_err(text)?;
    file.read_exact(&mut footer).map_err(text)?;
    parse_footer(&footer, length).map(drop)
}

/// The handles of the metaindex and the index block. LevelDB writes both right before the footer, which lets us
/// check what no checksum covers.
fn parse_footer(footer: &[u8; FOOTER], length: u64) -> Result<(Handle, Handle), String> {
    let (handles, magic) = footer.split_at(FOOTER - 8);
    let mut input = handles;
    let parsed = Handle::read(&mut input).zip(Handle::read(&mut input));
    match parsed {
        _ if magic != MAGIC.to_le_bytes() => Err("its footer has no magic number".into()),
        Some((meta, index))
            if meta.end() == Some(index.offset)
                && index.end() == Some(length - FOOTER as u64)
                && input.iter().all(|byte| *byte == 0) =>
        {
            Ok((meta, index))
        }
        _ => Err("its footer names no index".into()),
    }
}

fn check_table(table: &[u8]) -> Result<(), String> {
    let footer = table.last_chunk::<FOOTER>().ok_or("it is too short to be a table")?;
    let (meta, index) = parse_footer(footer, table.len() as u64)?;
    block(table, meta)?;
    for handle in index_handles(block(table, index)?).ok_or("its index cannot be read")? {
        block(table, handle)?;
    }
    Ok(())
}

/// The blocks of a table that hold its rows, in order.
pub(super) fn row_blocks(table: &[u8]) -> Result<Vec<&[u8]>, String> {
    let footer = table.last_chunk::<FOOTER>().ok_or("it is too short to be a table")?;
    let (_, index) = parse_footer(footer, table.len() as u64)?;
    let handles = index_handles(block(table, index)?).ok_or("its index cannot be read")?;
    handles
        .into_iter()
        .map(|handle| {
            let contents = block(table, handle)?;
            let kind = usize::try_from(handle.offset + handle.size).ok().and_then(|at| table.get(at));
            if kind == Some(&0) { Ok(contents) } else { Err("a block of it is compressed".to_owned()) }
        })
        .collect()
}

/// The contents of a block, checked.
fn block(table: &[u8], handle: Handle) -> Result<&[u8], String> {
    let whole = handle
        .end()
        .and_then(|end| table.get(usize::try_from(handle.offset).ok()?..usize::try_from(end).ok()?));
    let broken = |what: &str| Err(format!("{what} at byte {}", handle.offset));
    let Some((contents, stored)) = whole.and_then(<[u8]>::split_last_chunk::<4>) else {
        return broken("a block does not lie within it");
    };
    if u32::from_le_bytes(*stored) != masked_crc(&[contents]) {
        return broken("a block's checksum does not match");
    }
    // The last byte before the checksum says how the block is compressed.
    Ok(contents.split_last().map_or(&[], |(_, contents)| contents))
}

/// The handles that an index block holds: entries of (shared, unshared, value length), key, value, then restarts.
fn index_handles(contents: &[u8]) -> Option<Vec<Handle>> {
    let (rest, restarts) = contents.split_last_chunk::<4>()?;
    let restarts = usize::try_from(u32::from_le_bytes(*restarts)).ok()?.checked_mul(4)?;
    let mut input = rest.get(..rest.len().checked_sub(restarts)?)?;
    let mut handles = Vec::new();
    while !input.is_empty() {
        varint(&mut input)?;
        let unshared = usize::try_from(varint(&mut input)?).ok()?;
        let length = usize::try_from(varint(&mut input)?).ok()?;
        input = input.get(unshared..)?;
        let (mut value, rest) = input.split_at_checked(length)?;
        input = rest;
        handles.push(Handle::read(&mut value)?);
    }
    Some(handles)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_checksum() {
        // LevelDB rotates the checksum and adds its constant.
        assert_eq!(masked_crc(&[&[0; 32]]), 0x8a91_36aa_u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }

    #[test]
    fn a_record_over_three_blocks_comes_back_and_a_torn_one_is_told_from_a_damaged_one() {
        let payload: Vec<u8> = (0..70_000u32).map(|number| number as u8).collect();
        let mut log = Vec::new();
        let mut rest = &payload[..];
        let mut first = true;
        while !rest.is_empty() {
            let (part, behind) = rest.split_at(rest.len().min(LOG_BLOCK - LOG_HEADER));
            let kind = match (first, behind.is_empty()) {
                (true, true) => 1,
                (true, false) => 2,
                (false, false) => 3,
                (false, true) => 4,
            };
            log.extend_from_slice(&masked_crc(&[&[kind], part]).to_le_bytes());
            log.extend_from_slice(&(part.len() as u16).to_le_bytes());
            log.push(kind);
            log.extend_from_slice(part);
            (rest, first) = (behind, false);
        }
        assert_eq!(log_records(&log, Left::Closed).unwrap(), [payload]);
        let torn = &log[..log.len() - 1];
        assert_eq!(log_records(torn, Left::Crashed).unwrap(), Vec::<Vec<u8>>::new());
        assert!(log_records(torn, Left::Closed).is_err());
        log[40_000] ^= 1;
        assert!(log_records(&log, Left::Crashed).is_err());
    }

    #[test]
    fn only_the_newest_write_ahead_log_may_be_torn() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = [&masked_crc(&[&[1], b"row"]).to_le_bytes()[..], &[3, 0, 1], b"row"].concat();
        fs::write(folder.path().join("000007.log"), &log).unwrap();
        log.pop();
        fs::write(folder.path().join("000009.log"), &log).unwrap();
        check_write_ahead_logs(folder.path(), Left::Crashed).unwrap();
        fs::write(folder.path().join("000011.log"), []).unwrap();
        let damage = check_write_ahead_logs(folder.path(), Left::Crashed).unwrap_err();
        assert_eq!(damage.file, folder.path().join("000009.log"));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, flips: bool) {
            let left = if flips { Left::Closed } else { Left::Crashed };
            if let Ok(records) = log_records(&bytes, left) {
                let _ = live_version(&records);
            }
            let _ = (live_version(std::slice::from_ref(&bytes)), check_table(&bytes), index_handles(&bytes));
        }

        #[test]
        fn arbitrary_handles_in_a_footer_never_panic(meta: (u64, u64), index: (u64, u64), mut table: Vec<u8>) {
            let start = table.len();
            for mut number in [meta.0, meta.1, index.0, index.1] {
                while number >= 0x80 {
                    table.push(number as u8 | 0x80);
                    number >>= 7;
                }
                table.push(number as u8);
            }
            table.resize(start + FOOTER - 8, 0);
            table.extend_from_slice(&MAGIC.to_le_bytes());
            let _ = check_table(&table);
            let _ = block(&table, Handle { offset: meta.0, size: meta.1 });
        }
    }
}
