//! The files of raft-engine, with room made of zeros: beside `raft_engine.rs` the only file that names that crate.

use raft_engine::env::{DefaultFileSystem, FileSystem, Permission, WriteExt};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

/// The files that raft-engine writes to.
type Files = <DefaultFileSystem as FileSystem>::Writer;
type Opened = <DefaultFileSystem as FileSystem>::Handle;

/// Writes larger than this double what they cost if their place is written with zeros first, and win little by it.
const LARGE_WRITE: usize = 32 << 10;
/// Zeros are written in pieces of this size.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The file system, but for one thing: room for what comes is made of zeros that are written, not of blocks that are set
/// aside. A sync of what is written over them need not note in the file's own data which blocks hold something now, which
/// takes a second write of the disk.
pub(super) struct ZeroFilled;

/// A file that is written from its beginning to its end.
pub(super) struct ZeroFilledWriter {
    file: Files,
    /// The size of the last write.
    last: usize,
}

impl FileSystem for ZeroFilled {
    type Handle = Opened;
    type Reader = <DefaultFileSystem as FileSystem>::Reader;
    type Writer = ZeroFilledWriter;

    fn create<P: AsRef<Path>>(&self, path: P) -> io::Result<Opened> {
        DefaultFileSystem.create(path)
    }

    fn open<P: AsRef<Path>>(&self, path: P, permission: Permission) -> io::Result<Opened> {
        DefaultFileSystem.open(path, permission)
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> io::Result<()> {
        DefaultFileSystem.delete(path)
    }

    fn rename<P: AsRef<Path>>(&self, from: P, to: P) -> io::Result<()> {
        DefaultFileSystem.rename(from, to)
    }

    fn new_reader(&self, handle: Arc<Opened>) -> io::Result<Self::Reader> {
        DefaultFileSystem.new_reader(handle)
    }

    fn new_writer(&self, handle: Arc<Opened>) -> io::Result<ZeroFilledWriter> {
        Ok(ZeroFilledWriter { file: DefaultFileSystem.new_writer(handle)?, last: 0 })
    }
}

impl Write for ZeroFilledWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.last = bytes.len();
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for ZeroFilledWriter {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl WriteExt for ZeroFilledWriter {
    fn truncate(&mut self, offset: usize) -> io::Result<()> {
        self.file.truncate(offset)
    }

    /// Makes room. Where there is none, the write that follows says so.
    fn allocate(&mut self, offset: usize, size: usize) -> io::Result<()> {
        if self.last > LARGE_WRITE {
            return self.file.allocate(offset, size);
        }
        let at = self.file.stream_position()?;
        let filled = self.file.seek(SeekFrom::Start(offset as u64)).and_then(|_| {
            let mut left = size;
            while left > 0 {
                let piece = left.min(ZEROS.len());
                self.file.write_all(&ZEROS[..piece])?;
                left -= piece;
            }
            Ok(())
        });
        self.file.seek(SeekFrom::Start(at))?;
        filled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_made_of_zeros_and_what_is_written_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let handle = Arc::new(ZeroFilled.create(&path).unwrap());
        let mut writer = ZeroFilled.new_writer(handle).unwrap();
        writer.write_all(b"head").unwrap();
        writer.allocate(4, 100_000).unwrap();
        writer.write_all(b"tail").unwrap();
        let mut expected = b"headtail".to_vec();
        expected.resize(100_004, 0);
        assert_eq!(std::fs::read(&path).unwrap(), expected);
        writer.write_all(&vec![7; LARGE_WRITE + 1]).unwrap();
        writer.allocate(100_004, 1000).unwrap();
        writer.write_all(b"!").unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!((bytes.len(), bytes[8 + LARGE_WRITE + 1]), (101_004, b'!'));
    }
}
