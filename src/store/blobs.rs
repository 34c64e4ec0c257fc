//! `blobs/`: the chunks of large values, one file each, named by the BLAKE3 hash of their bytes.
//!
//! `blobs/ab/cdef…`: two digits for the folder, the other 62 for the file. A chunk is written beside its name, synced,
//! renamed, and its folder is synced, before anybody hears of it: a file under a chunk's name was whole once. Until its name
//! is durable it counts as missing for those who look; names that a killed process left are synced at the next start. Every read
//! compares the bytes with the name, so that a file that rots is seen; writing the chunk again mends it.
//!
//! Which chunks are needed is not known here (`replica/blobs`).

use super::buffers;
use super::chunk::Name;
use super::direct;
use super::files::{free_bytes, sync_folder, system};
use crate::error::{Error, Kind, Result};
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// The name of the folder in a data folder.
pub const FOLDER: &str = "blobs";
/// A folder that changed less than so long ago is synced at the start.
const LATELY: Duration = Duration::from_secs(600);
/// Where chunks are written before they get their name.
const ARRIVING: &str = "arriving";

/// What is there under a chunk's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The chunk.
    Whole(Vec<u8>),
    /// Other bytes than the chunk's.
    Rotten,
    /// Nothing.
    Missing,
}

/// The chunks of one member.
pub trait Blobs: Send + Sync + 'static {
    /// Stores a chunk, durably when it returns. One that is there is left as it is if it is whole, and looks as new.
    ///
    /// Errors: `DiskFull`; `Failed` after which the member must stop.
    fn put(&self, name: &Name, bytes: &[u8]) -> Result<()>;

    /// Reads a chunk and compares it with its name. Errors: `System` if the disk does not let it be read.
    fn read(&self, name: &Name) -> Result<Found>;

    /// Makes a chunk look as new; false if it is not there.
    fn touch(&self, name: &Name) -> bool;

    /// Makes a chunk look as old as can be: it need not be kept longer than something refers to it. False if it is not
    /// there.
    fn settle(&self, name: &Name) -> bool;

    /// Names the chunks whose first byte is `first`, and how long ago each was last written or touched.
    fn each(&self, first: u8, visit: &mut dyn FnMut(Name, Duration)) -> Result<()>;

    /// Removes a chunk; nothing if it is not there.
    fn remove(&self, name: &Name) -> Result<()>;
}

/// Chunks in a folder.
#[derive(Debug)]
pub struct ChunkFolder {
    path: PathBuf,
    reserve: u64,
    next: AtomicU64,
    /// Chunks whose names are not known to be durable. One stays here after a failure, until it is written again.
    unsynced: Mutex<HashSet<Name>>,
}

impl ChunkFolder {
    /// Opens `blobs/` in the data folder `data`, made if it is missing. What was arriving when the process ended is
    /// removed: nobody has heard of it. Nothing is stored while the disk has less than `reserve` free bytes.
    pub fn open(data: &Path, reserve: u64) -> Result<ChunkFolder> {
        let path = data.join(FOLDER);
        let arriving = path.join(ARRIVING);
        match fs::remove_dir_all(&arriving) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                return Err(system("remove", &arriving, cause));
            }
            _ => {}
        }
        let make = |folder: &Path| {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
            made.map_err(|cause| system("create", folder, cause))
        };
        make(&arriving)?;
        for first in 0..=u8::MAX {
            let folder = path.join(format!("{first:02x}"));
            make(&folder)?;
            // An empty one has no name that somebody heard of.
            let is_empty = fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_none());
            if is_empty {
                continue;
            }
            // Long after a change the system has written it by itself.
            let changed = fs::metadata(&folder).and_then(|facts| facts.modified());
            if changed.ok().and_then(|time| time.elapsed().ok()).is_none_or(|age| age < LATELY) {
                sync_folder(&folder)?;
            }
        }
        sync_folder(&path)?;
        sync_folder(data)?;
        Ok(ChunkFolder::at(path, reserve))
    }

    /// The chunks in the data folder `data`, to be read only: nothing is made or removed.
    pub(super) fn look_at(data: &Path) -> ChunkFolder {
        ChunkFolder::at(data.join(FOLDER), u64::MAX)
    }

    fn at(path: PathBuf, reserve: u64) -> ChunkFolder {
        ChunkFolder { path, reserve, next: AtomicU64::new(0), unsynced: Mutex::default() }
    }

    fn unsynced(&self) -> MutexGuard<'_, HashSet<Name>> {
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, name: &Name) -> PathBuf {
        let hex = name.hex();
        self.path.join(&hex[..2]).join(&hex[2..])
    }

    /// Errors: `DiskFull`.
    fn check_room(&self, bytes: usize) -> Result<()> {
        // A disk that does not tell is not full.
        let Ok(free) = free_bytes(&self.path) else { return Ok(()) };
        if free >= self.reserve.saturating_add(bytes as u64) {
            return Ok(());
        }
        let detail = format!("only {} MiB are free on the disk of this node", free >> 20);
        let hint = format!("free space, or lower --reserve: values go in above {} MiB", self.reserve >> 20);
        Err(Error::new(Kind::DiskFull, detail).hint(hint))
    }

    /// Dates a chunk; false if it is not there.
    fn date(&self, name: &Name, time: SystemTime) -> bool {
        let Ok(file) = File::open(self.place(name)) else { return false };
        // Only now: whoever renames one to here notes it before.
        if self.unsynced().contains(name) {
            return false;
        }
        // A file whose time cannot be set is there all the same.
        if file.metadata().and_then(|facts| facts.modified()).ok() != Some(time) {
            let _ = file.set_modified(time);
        }
        true
    }

    fn write(&self, name: &Name, bytes: &[u8]) -> io::Result<()> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let beside = self.path.join(ARRIVING).join(number.to_string());
        let place = self.place(name);
        let written = (|| {
            direct::write_new(&beside, bytes)?.sync_data()?;
            self.unsynced().insert(*name);
            fs::rename(&beside, &place)?;
            place.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())?;
            // Whatever others rename it to meanwhile: a whole chunk is durable under this name.
            self.unsynced().remove(name);
            Ok(())
        })();
        if written.is_err() {
            // It has no name that anybody knows.
            let _ = fs::remove_file(&beside);
        }
        written
    }
}

impl Blobs for ChunkFolder {
    fn put(&self, name: &Name, bytes: &[u8]) -> Result<()> {
        if self.touch(name) && matches!(self.read(name)?, Found::Whole(_)) {
            return Ok(());
        }
        self.check_room(bytes.len())?;
        self.write(name, bytes).map_err(|cause| {
            let place = self.place(name);
            match cause.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    Error::new(Kind::DiskFull, "the disk of this node is full").cause(cause)
                }
                _ => Error::new(Kind::Failed, format!("cannot write {}", place.display()))
                    .hint("check the disk, then start again")
                    .cause(cause),
            }
        })
    }

    fn read(&self, name: &Name) -> Result<Found> {
        let place = self.place(name);
        let mut bytes = buffers::take();
        // A chunk has at most 1 MiB.
        let read = File::open(&place).and_then(|file| {
            // All of it is wanted at once; the system's own way is to fetch a little, and wait, several times.
            let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::WillNeed);
            file.take(2 << 20).read_to_end(&mut bytes)
        });
        match read {
            Ok(_) if Name::of(&bytes) == *name => Ok(Found::Whole(bytes)),
            Ok(_) => Ok(Found::Rotten),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(Found::Missing),
            // A sector that cannot be read is a rotten chunk: it may be mended from elsewhere.
            Err(cause) if cause.raw_os_error() == Some(libc::EIO) => Ok(Found::Rotten),
            Err(cause) => Err(system("read", &place, cause)),
        }
    }

    fn touch(&self, name: &Name) -> bool {
        self.date(name, SystemTime::now())
    }

    fn settle(&self, name: &Name) -> bool {
        self.date(name, SystemTime::UNIX_EPOCH)
    }

    fn each(&self, first: u8, visit: &mut dyn FnMut(Name, Duration)) -> Result<()> {
        let folder = self.path.join(format!("{first:02x}"));
        let failed = |cause| system("read", &folder, cause);
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let rest = entry.file_name();
            let Some(name) = rest.to_str().and_then(|rest| Name::from_hex(&format!("{first:02x}{rest}")))
            else {
                continue;
            };
            let modified = entry.metadata().and_then(|facts| facts.modified());
            // A time in the future, or none, counts as now.
            let age = modified.ok().and_then(|time| time.elapsed().ok()).unwrap_or_default();
            visit(name, age);
        }
        Ok(())
    }

    fn remove(&self, name: &Name) -> Result<()> {
        let place = self.place(name);
        match fs::remove_file(&place) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(system("remove", &place, cause)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(blobs: &dyn Blobs) -> Vec<Name> {
        let mut names = Vec::new();
        for first in 0..=u8::MAX {
            blobs.each(first, &mut |name, _| names.push(name)).unwrap();
        }
        names
    }

    #[test]
    fn chunks_come_back_and_go() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = ChunkFolder::open(folder.path(), 0).unwrap();
        let (name, other) = (Name::of(b"meow"), Name::of(b"purr"));
        assert_eq!((blobs.read(&name).unwrap(), blobs.touch(&name)), (Found::Missing, false));
        blobs.put(&name, b"meow").unwrap();
        blobs.put(&name, b"meow").unwrap();
        blobs.put(&other, b"purr").unwrap();
        drop(blobs);

        let blobs = ChunkFolder::open(folder.path(), 0).unwrap();
        assert_eq!(blobs.read(&name).unwrap(), Found::Whole(b"meow".to_vec()));
        let mut both = vec![name, other];
        both.sort();
        assert_eq!(names(&blobs), both);
        blobs.remove(&name).unwrap();
        blobs.remove(&name).unwrap();
        assert_eq!((names(&blobs), blobs.touch(&name)), (vec![other], false));
    }

    #[test]
    fn a_flipped_bit_is_seen_and_mended() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = ChunkFolder::open(folder.path(), 0).unwrap();
        let name = Name::of(b"meow");
        blobs.put(&name, b"meow").unwrap();
        for rotten in [&b"meoW"[..], b"meo", b"", b"meowm"] {
            fs::write(blobs.place(&name), rotten).unwrap();
            assert_eq!(blobs.read(&name).unwrap(), Found::Rotten);
            blobs.put(&name, b"meow").unwrap();
            assert_eq!(blobs.read(&name).unwrap(), Found::Whole(b"meow".to_vec()));
        }
    }

    #[test]
    fn a_chunk_that_got_no_name_is_there_once_it_is_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = ChunkFolder::open(folder.path(), 0).unwrap();
        let name = Name::of(b"meow");
        let place = blobs.place(&name).parent().unwrap().to_owned();
        fs::remove_dir(&place).unwrap();
        assert!(blobs.put(&name, b"meow").is_err() && !blobs.touch(&name));
        fs::create_dir(&place).unwrap();
        blobs.put(&name, b"meow").unwrap();
        assert!(blobs.touch(&name), "a failure must not hide it for good");
    }

    #[test]
    fn what_was_arriving_is_gone_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = ChunkFolder::open(folder.path(), 0).unwrap();
        let half = blobs.path.join(ARRIVING).join("7");
        fs::write(&half, "me").unwrap();
        drop(blobs);
        let blobs = ChunkFolder::open(folder.path(), 0).unwrap();
        assert!(!half.exists() && names(&blobs).is_empty());
    }
}
