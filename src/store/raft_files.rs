//! Reads raft-engine's files before it does: a log that was closed has no torn tail, and a damaged file has a name.
//!
//! raft-engine takes damage near the end of a file for a torn tail and cuts it off, on disk, without a word. The
//! format (version 2): a header, then batches of a 16-byte header (length and compression, offset of the items),
//! the entries with their CRC-32, and the items with a CRC-32 that is mixed with the file's number.
//!
//! A log that was not closed may not lie on the disk as it is read: its last files are written anew.

use super::files;
use super::tables::{Damage, Left};
use crate::error::Result as StoreResult;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const MAGIC: &[u8] = b"RAFT-LOG-FILE-HEADER-9986AB3E47F320B394C8E84916EB0ED5";
const FILE_HEADER: usize = MAGIC.len() + 8 + 8;
const BATCH_HEADER: usize = 16;
const CHECKSUM: usize = 4;
/// Files are copied in pieces of this size.
const PIECE: usize = 64 << 10;
const QUEUES: [&str; 2] = ["raftlog", "rewrite"];

/// The first file of a log that was closed cleanly and is not as it was then.
pub fn find_damage(folder: &Path) -> Option<Damage> {
    check_folder(folder, Left::Closed).err()
}

/// The first file of a log that a crash left, and that no crash leaves like this: of the last file of each queue nothing is
/// said.
pub fn find_damage_after_crash(folder: &Path) -> Option<Damage> {
    check_folder(folder, Left::Crashed).err()
}

/// Writes the last file of each queue anew, byte for byte, synced. Removes what an earlier attempt left.
///
/// After a sync that failed, the system takes the pages for written: they are read back whole and later syncs
/// succeed, but a power loss brings back a hole, and raft-engine cuts off the rest of a last file behind it. The
/// files before the last ones were synced with success when the next file began.
///
/// Errors: [`crate::error::Kind::System`] naming the file.
pub fn renew_last(folder: &Path) -> StoreResult<()> {
    let unreadable = |cause| files::system("read", folder, cause);
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if QUEUES.iter().any(|queue| name.ends_with(&files::temporary_name(&format!(".{queue}")))) {
            fs::remove_file(&path).map_err(|cause| files::system("remove", &path, cause))?;
        }
    }
    for queue in log_files(folder).map_err(unreadable)? {
        if let Some((_, path)) = queue.last() {
            renew(path)?;
        }
    }
    files::sync_folder(folder)
}

fn renew(path: &Path) -> StoreResult<()> {
    // raft-engine looks at names that end with the name of a queue, and at no others.
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(files::temporary_name(""));
    let temporary = PathBuf::from(temporary);
    let write = || -> io::Result<()> {
        let target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        copy(&File::open(path)?, &target)?;
        fs::rename(&temporary, path)
    };
    let result = write().or_else(|cause| {
        let _ = fs::remove_file(&temporary);
        // A member on a full disk must be able to start. A copy is better only in that a power loss in the middle
        // of it finds the old file untouched.
        if cause.kind() == io::ErrorKind::StorageFull { renew_in_place(path) } else { Err(cause) }
    });
    result.map_err(|cause| files::system("write anew", path, cause))
}

fn renew_in_place(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    copy(&file, &file)
}

/// Copies piece by piece: the system's own copy may share the very blocks that were not written.
fn copy(source: &File, target: &File) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    let mut position = 0;
    loop {
        let length = match source.read_at(&mut piece, position) {
            Ok(0) => break,
            Ok(length) => length,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
            Err(cause) => return Err(cause),
        };
        // Zeros, of which the tail of a file may have many, read the same where nothing is written.
        if piece[..length].iter().any(|byte| *byte != 0) {
            target.write_all_at(&piece[..length], position)?;
        }
        position += length as u64;
    }
    target.set_len(position)?;
    target.sync_all()
}

fn check_folder(folder: &Path, left: Left) -> Result<(), Damage> {
    let damage = |file: &Path, reason: String| Damage { file: file.to_owned(), reason };
    let files = log_files(folder).map_err(|cause| damage(folder, cause.to_string()))?;
    for (queue, files) in QUEUES.into_iter().zip(files) {
        if files.is_empty() {
            return Err(damage(folder, format!("it holds no .{queue} file")));
        }
        for pair in files.windows(2) {
            if pair[1].0 != pair[0].0 + 1 {
                return Err(damage(&pair[1].1, "the file before it is missing".into()));
            }
        }
        let closed = files.len() - usize::from(left == Left::Crashed);
        for (number, path) in &files[..closed] {
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

    #[test]
    fn a_renewed_file_is_the_same_to_the_last_byte_and_has_other_blocks() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let name = |name: &str| folder.path().join(name);
        let mut content = vec![7; 3 * PIECE + 11];
        content[PIECE..2 * PIECE].fill(0);
        content.resize(content.len() + 5 * PIECE, 0);
        let all = ["0000000000000008.raftlog", "0000000000000009.raftlog", "0000000000000002.rewrite"];
        all.iter().for_each(|file| fs::write(name(file), &content).unwrap());
        for left in ["0000000000000009.raftlog.tmp", "0000000000000001.rewrite.tmp"] {
            fs::write(name(left), "half").unwrap();
        }
        let inodes = || all.map(|file| fs::metadata(name(file)).unwrap().ino());
        let before = inodes();
        renew_last(folder.path()).unwrap();
        let after = inodes();
        assert_eq!(before[0], after[0], "only the last file of a queue is written");
        assert!(before[1] != after[1] && before[2] != after[2]);
        all.iter().for_each(|file| assert!(fs::read(name(file)).unwrap() == content, "{file}"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), all.len(), "nothing else is left");
        // As on a full disk.
        renew_in_place(&name(all[1])).unwrap();
        assert_eq!(inodes(), after);
        assert!(fs::read(name(all[1])).unwrap() == content);
    }

    #[test]
    fn a_file_that_cannot_be_renewed_is_named() {
        let folder = tempfile::tempdir().unwrap();
        renew_last(folder.path()).unwrap();
        let file = folder.path().join("0000000000000001.rewrite");
        fs::create_dir(&file).unwrap();
        let error = renew_last(folder.path()).unwrap_err();
        assert_eq!(error.kind(), crate::error::Kind::System);
        assert!(error.detail().contains(file.to_str().unwrap()), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no half of a copy is left");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(batches: Vec<u8>, number: u64) {
            let _ = check_batch(&batches, number as u32);
            let mut file = MAGIC.to_vec();
            file.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0]);
            prop_assert!(check_file(&file, number).is_ok());
            file.extend_from_slice(&batches);
            let says_nothing = batches.iter().all(|byte| *byte == 0);
            prop_assert_eq!(check_file(&file, number).is_ok(), says_nothing);
        }
    }
}
