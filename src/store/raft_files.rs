//! Reads raft-engine's files before it does: a log that was closed has no torn tail, and a damaged file has a name.
//!
//! raft-engine takes damage near the end of a file for a torn tail and cuts it off, on disk, without a word. The
//! format (version 2): a header, then batches of a 16-byte header (length and compression, offset of the items),
//! the entries with their CRC-32, and the items with a CRC-32 that is mixed with the file's number.

use super::tables::Damage;
use std::path::{Path, PathBuf};

const MAGIC: &[u8] = b"RAFT-LOG-FILE-HEADER-9986AB3E47F320B394C8E84916EB0ED5";
const FILE_HEADER: usize = MAGIC.len() + 8 + 8;
const BATCH_HEADER: usize = 16;
const CHECKSUM: usize = 4;

/// The first file of a log that was closed cleanly and is not as it was then.
pub fn find_damage(folder: &Path) -> Option<Damage> {
    check_folder(folder).err()
}

fn check_folder(folder: &Path) -> Result<(), Damage> {
    let damage = |file: &Path, reason: String| Damage { file: file.to_owned(), reason };
    let files = log_files(folder).map_err(|cause| damage(folder, cause.to_string()))?;
    for (queue, files) in ["raftlog", "rewrite"].into_iter().zip(files) {
        if files.is_empty() {
            return Err(damage(folder, format!("it holds no .{queue} file")));
        }
        for pair in files.windows(2) {
            if pair[1].0 != pair[0].0 + 1 {
                return Err(damage(&pair[1].1, "the file before it is missing".into()));
            }
        }
        for (number, path) in &files {
            let bytes = std::fs::read(path).map_err(|cause| damage(path, cause.to_string()))?;
            check_file(&bytes, *number).map_err(|reason| damage(path, reason))?;
        }
    }
    Ok(())
}

/// Number and path of the files of the append queue and of the rewrite queue, oldest first.
fn log_files(folder: &Path) -> std::io::Result<[Vec<(u64, PathBuf)>; 2]> {
    let mut queues = [Vec::new(), Vec::new()];
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let queue = match path.extension().and_then(|extension| extension.to_str()) {
            Some("raftlog") => 0,
            Some("rewrite") => 1,
            _ => continue,
        };
        if let Some(number) = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok()) {
            queues[queue].push((number, path));
        }
    }
    queues.iter_mut().for_each(|files| files.sort());
    Ok(queues)
}

fn check_file(bytes: &[u8], number: u64) -> Result<(), String> {
    let (header, _) = bytes.split_at_checked(FILE_HEADER).ok_or("it has no header")?;
    if !header.starts_with(MAGIC) || header[MAGIC.len()..] != [0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0]
    {
        return Err("its header is not that of a log".into());
    }
    let mut position = FILE_HEADER;
    // A file grows by zeros ahead of its batches. Those that an aborted start left say nothing.
    while bytes[position..].iter().any(|byte| *byte != 0) {
        let length = check_batch(&bytes[position..], number as u32)
            .ok_or_else(|| format!("a checksum does not match, or it is cut, at byte {position}"))?;
        position += length;
    }
    Ok(())
}

/// The length of the batch at the start of `bytes`, if it is whole. `signature` is the low half of the file's number.
fn check_batch(bytes: &[u8], signature: u32) -> Option<usize> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let (items, _) = rest.split_first_chunk::<8>()?;
    let length = u64::from_be_bytes(*length);
    // The lowest byte is the compression, which we never use.
    let compression = length & 0xff;
    let length = usize::try_from(length >> 8).ok()?;
    let batch = bytes.get(..length)?;
    let (entries, items) = batch.split_at_checked(usize::try_from(u64::from_be_bytes(*items)).ok()?)?;
    let entries = entries.get(BATCH_HEADER..)?;
    let whole = compression == 0
        && (entries.is_empty() || checksum_matches(entries, 0))
        && checksum_matches(items, signature);
    whole.then_some(length)
}

fn checksum_matches(block: &[u8], signature: u32) -> bool {
    match block.split_last_chunk::<CHECKSUM>() {
        Some((content, stored)) => crc32fast::hash(content) ^ signature == u32::from_le_bytes(*stored),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(batches: Vec<u8>, number: u64) {
            let _ = check_batch(&batches, number as u32);
            let mut file = MAGIC.to_vec();
            file.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0]);
            prop_assert!(check_file(&file, number).is_ok());
            file.extend_from_slice(&batches);
            prop_assert_eq!(check_file(&file, number).is_ok(), batches.is_empty());
        }
    }
}
