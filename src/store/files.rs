//! Small files that must be right or noticed: written atomically, sealed with a checksum over every byte.
//!
//! A sealed file is a text that ends with a line `crc32 XXXXXXXX` (CRC-32, IEEE, of everything before that line).
//! Every other form of the last line is refused, so that a flipped bit anywhere shows.

use crate::error::{Error, Kind, Result};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// An error of the operating system while doing `what` (a verb) to `path`.
pub(super) fn system(what: &str, path: &Path, cause: io::Error) -> Error {
    Error::new(Kind::System, format!("cannot {what} {}", path.display())).cause(cause)
}

/// Damage that was found in `path`.
pub(super) fn damaged(path: &Path, reason: impl std::fmt::Display) -> Error {
    Error::new(Kind::Damaged, format!("{} is damaged: {reason}", path.display())).hint(
        "keep the folder as it is; docs/operations.md, Backup, says how to restore a copy or read its keys",
    )
}

/// Makes the names inside `folder` survive a power loss.
pub(super) fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|file| file.sync_all()).map_err(|cause| system("sync", folder, cause))
}

/// Free bytes on the file system of `folder`.
pub(super) fn free_bytes(folder: &Path) -> Result<u64> {
    let numbers = rustix::fs::statvfs(folder)
        .map_err(|cause| system("ask for the free space of", folder, cause.into()))?;
    Ok(numbers.f_bavail.saturating_mul(numbers.f_frsize))
}

/// Replaces `folder/name` atomically and durably with `content`, sealed.
pub(super) fn write_sealed(folder: &Path, name: &str, content: &str) -> Result<()> {
    let path = folder.join(name);
    let temporary = folder.join(temporary_name(name));
    let write = || -> io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(seal(content).as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    };
    write().map_err(|cause| system("write", &path, cause))?;
    sync_folder(folder)
}

/// The content of the sealed file `path`; `None` if it does not exist.
///
/// Errors: [`Kind::Damaged`] naming the file, [`Kind::System`] if it cannot be read.
pub(super) fn read_sealed(path: &Path) -> Result<Option<String>> {
    match fs::read(path) {
        Ok(bytes) => match unseal(&bytes) {
            Some(content) => Ok(Some(content.to_owned())),
            None => Err(damaged(path, "its checksum does not match")),
        },
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(system("read", path, cause)),
    }
}

/// The name under which `name` is written before it is renamed.
pub(super) fn temporary_name(name: &str) -> String {
    format!("{name}.tmp")
}

fn seal(content: &str) -> String {
    format!("{content}{}", last_line(content.as_bytes()))
}

fn last_line(content: &[u8]) -> String {
    format!("crc32 {:08x}\n", crc32fast::hash(content))
}

fn unseal(bytes: &[u8]) -> Option<&str> {
    const LAST_LINE: usize = "crc32 00000000\n".len();
    let (content, line) = bytes.split_at_checked(bytes.len().checked_sub(LAST_LINE)?)?;
    if line != last_line(content).as_bytes() {
        return None;
    }
    std::str::from_utf8(content).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_sealed_file_comes_back_and_leaves_no_temporary() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read_sealed(&folder.path().join("a")).unwrap(), None);
        write_sealed(folder.path(), "a", "one\n").unwrap();
        write_sealed(folder.path(), "a", "two\n").unwrap();
        assert_eq!(read_sealed(&folder.path().join("a")).unwrap().as_deref(), Some("two\n"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn every_flip_and_every_cut_is_noticed() {
        let sealed = seal("{\"a\": 1}\n").into_bytes();
        assert_eq!(sealed, b"{\"a\": 1}\ncrc32 5c47a1fa\n".as_slice());
        for cut in 0..sealed.len() {
            assert_eq!(unseal(&sealed[..cut]), None);
            for bit in 0..8 {
                let mut flipped = sealed.clone();
                flipped[cut] ^= 1 << bit;
                assert_eq!(unseal(&flipped), None, "byte {cut} bit {bit}");
            }
        }
        assert_eq!(unseal(&[&sealed[..], b"\n"].concat()), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = unseal(&bytes);
        }
    }
}
