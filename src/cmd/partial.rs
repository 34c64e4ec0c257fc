//! What came of a value that is read into a file, kept beside the file so that a later read goes on from there.
//!
//! It is called `.FILE.KEY-VERSION.catstore-part`, KEY being the CRC-32 of the key: what is there belongs to that version
//! of that key. The one process that writes it holds a lock on it.

use crate::client::{Facts, Held, Sink};
use crate::error::{Error, Kind, Result};
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const SUFFIX: &[u8] = b".catstore-part";

/// The part of a value beside the file that it is for.
pub struct Partial {
    folder: PathBuf,
    /// The file's name before the version.
    prefix: OsString,
    open: Option<(BufWriter<File>, PathBuf)>,
}

impl Partial {
    /// The part that belongs to `key` and the file at `target`; nothing is open yet.
    pub fn new(key: &[u8], target: &Path) -> Partial {
        let folder = match target.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        let mut prefix = OsString::from(".");
        prefix.push(target.file_name().unwrap_or_default());
        prefix.push(format!(".{:08x}-", crc32fast::hash(key)));
        Partial { folder, prefix, open: None }
    }

    /// Opens what an earlier read left, the newest version of it; older ones are removed.
    ///
    /// Errors: `Usage` if another process writes it; `System`.
    pub fn find(&mut self) -> Result<Option<Held>> {
        let mut found = self.versions().map_err(|error| self.wrong(error))?;
        let Some(version) = found.pop() else { return Ok(None) };
        for older in found {
            let _ = std::fs::remove_file(self.path(older));
        }
        let path = self.path(version);
        let mut file = open(&path, false).map_err(|error| self.wrong(error))?;
        let held = Held::read(version, &mut file).map_err(|error| self.wrong(error))?;
        self.open = Some((BufWriter::new(file), path));
        if held.length == 0 {
            self.discard();
            return Ok(None);
        }
        Ok(Some(held))
    }

    /// Removes what is there, so that the read begins anew.
    pub fn discard(&mut self) {
        if let Some((_, path)) = self.open.take() {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Makes the whole value the file at `target`.
    pub fn persist(mut self, target: &Path) -> Result<()> {
        let Some((mut writer, path)) = self.open.take() else { return Ok(()) };
        let permissions = std::fs::metadata(target).ok().map(|metadata| metadata.permissions());
        writer.flush().map_err(|error| self.wrong(error))?;
        if let Some(permissions) = permissions {
            writer.get_ref().set_permissions(permissions).map_err(|error| self.wrong(error))?;
        }
        std::fs::rename(path, target).map_err(|error| self.wrong(error))
    }

    /// The versions of which there is a part, in order.
    fn versions(&self) -> io::Result<Vec<u64>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            found.extend(self.version_of(&entry?.file_name()));
        }
        found.sort_unstable();
        Ok(found)
    }

    fn version_of(&self, name: &OsStr) -> Option<u64> {
        let digits = name.as_bytes().strip_prefix(self.prefix.as_bytes())?.strip_suffix(SUFFIX)?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    }

    fn path(&self, version: u64) -> PathBuf {
        let mut name = self.prefix.clone();
        name.push(version.to_string());
        name.push(OsStr::from_bytes(SUFFIX));
        self.folder.join(name)
    }

    fn wrong(&self, error: io::Error) -> Error {
        if error.kind() == io::ErrorKind::WouldBlock {
            return Error::new(Kind::Usage, "another command reads this key into this file")
                .hint("wait until it ends");
        }
        let name = self.prefix.display();
        Error::new(Kind::System, format!("{name}*.catstore-part cannot be kept")).cause(error)
    }
}

/// Opens a part that is there, or a new one, and locks it.
fn open(path: &Path, new: bool) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create_new(new).open(path)?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
        // Some file systems know no locks.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

impl Write for Partial {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.open {
            Some((writer, _)) => writer.write(bytes),
            None => Err(io::Error::other("nothing was said of what comes")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.open.as_mut().map_or(Ok(()), |(writer, _)| writer.flush())
    }
}

impl Sink for Partial {
    fn begin(&mut self, facts: &Facts) -> io::Result<()> {
        if self.open.is_none() {
            let path = self.path(facts.version);
            self.open = Some((BufWriter::new(open(&path, true)?), path));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(version: u64) -> Facts {
        let (content_type, modified, checksum, lag, length) = (String::new(), None, None, None, None);
        Facts { version, content_type, modified, checksum, lag, length }
    }

    #[test]
    fn what_was_left_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("cat.jpg");
        let names = || std::fs::read_dir(folder.path()).unwrap().count();
        let mut first = Partial::new(b"A", &target);
        assert!(first.find().unwrap().is_none());
        first.begin(&facts(7)).unwrap();
        first.write_all(b"hap").unwrap();
        first.flush().unwrap();
        let second = Partial::new(b"A", &target).find();
        assert_eq!(second.map_err(|error| error.kind()).err(), Some(Kind::Usage), "it is being written");
        drop(first);
        assert!(Partial::new(b"B", &target).find().unwrap().is_none(), "another key");
        let mut again = Partial::new(b"A", &target);
        let held = again.find().unwrap().unwrap();
        assert_eq!((held.version, held.length), (7, 3));
        assert_eq!(held.checksum.finalize(), crc32fast::hash(b"hap"));
        again.begin(&facts(7)).unwrap();
        again.write_all(b"py").unwrap();
        again.persist(&target).unwrap();
        assert_eq!((std::fs::read(&target).unwrap().as_slice(), names()), (b"happy".as_slice(), 1));
    }

    #[test]
    fn older_versions_go_away() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("x");
        for version in [3, 12] {
            let mut partial = Partial::new(b"A", &target);
            partial.begin(&facts(version)).unwrap();
            partial.write_all(b"x").unwrap();
        }
        let mut partial = Partial::new(b"A", &target);
        assert_eq!(partial.find().unwrap().map(|held| held.version), Some(12));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        partial.discard();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        Partial::new(b"A", &target).begin(&facts(1)).unwrap();
        assert!(Partial::new(b"A", &target).find().unwrap().is_none(), "an empty one");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
