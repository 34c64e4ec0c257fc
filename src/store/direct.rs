//! Files that are written around the page cache (`O_DIRECT`), where the file system can do that.
//!
//! A chunk is written once and may never be read, or much later: in the page cache it would take the place of what is read
//! often, and every page of it has to be found, filled and written back by the kernel. Reads go through the page cache.
//!
//! The kernel wants the memory, the place in the file and the length to be whole blocks. The memory here begins at a page;
//! bytes that are not whole pages are written in the ordinary way.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// No block is larger than this, of any disk that can be met.
const PAGE: usize = 4096;
/// So many buffers are kept for later.
const MOST: usize = 8;

static SPARE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// Writes `bytes` to the new file `path`, for its owner only. They are on the disk once the file is synced.
///
/// Errors: those of the system; the file may be there then.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let whole = !bytes.is_empty() && bytes.len().is_multiple_of(PAGE);
    if whole && let Some(file) = write_around(path, bytes)? {
        return Ok(file);
    }
    let mut file = new_file(path, 0)?;
    file.write_all(bytes)?;
    Ok(file)
}

/// None if the file system, or the disk, wants it otherwise; then there is no file.
fn write_around(path: &Path, bytes: &[u8]) -> io::Result<Option<File>> {
    let mut file = match new_file(path, libc::O_DIRECT) {
        Ok(file) => file,
        // Some systems make the file before they refuse.
        Err(cause) if is_refusal(&cause) => return remove(path),
        Err(cause) => return Err(cause),
    };
    let mut memory = spare().pop().unwrap_or_default();
    memory.resize(bytes.len() + PAGE, 0);
    let begin = memory.as_ptr().align_offset(PAGE);
    let aligned = &mut memory[begin..begin + bytes.len()];
    aligned.copy_from_slice(bytes);
    let written = file.write_all(aligned);
    keep(memory);
    match written {
        Ok(()) => Ok(Some(file)),
        Err(cause) if is_refusal(&cause) => remove(path),
        Err(cause) => Err(cause),
    }
}

fn new_file(path: &Path, flags: i32) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(flags).open(path)
}

fn is_refusal(cause: &io::Error) -> bool {
    matches!(cause.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP))
}

fn remove(path: &Path) -> io::Result<Option<File>> {
    match std::fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(cause),
        _ => Ok(None),
    }
}

fn keep(memory: Vec<u8>) {
    let mut spare = spare();
    if spare.len() < MOST {
        spare.push(memory);
    }
}

fn spare() -> MutexGuard<'static, Vec<Vec<u8>>> {
    SPARE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_any_length_are_written() {
        let folder = tempfile::tempdir().unwrap();
        for length in [0, 1, PAGE - 1, PAGE, PAGE + 1, 16 * PAGE, (1 << 20) - 1, 1 << 20, 2 * PAGE] {
            let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let path = folder.path().join(length.to_string());
            let file = write_new(&path, &bytes).unwrap();
            file.sync_data().unwrap();
            assert_eq!(file.metadata().unwrap().len(), length as u64);
            assert!(std::fs::read(&path).unwrap() == bytes, "{length}");
            assert_eq!(write_new(&path, &bytes).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        }
    }

    #[test]
    fn what_the_disk_refuses_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        // No whole blocks: most file systems refuse that, some write it all the same.
        match write_around(&path, b"meow").unwrap() {
            None => assert!(!path.exists()),
            Some(_) => assert_eq!(std::fs::read(&path).unwrap(), b"meow"),
        }
    }
}
