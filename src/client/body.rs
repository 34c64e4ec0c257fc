//! Bodies of requests: bytes in memory, or a stream that each attempt reads from its beginning.
//!
//! A stream that cannot or should not be sent again says so ([`Source::is_spent`]); then its request is not tried again.

use super::values::{Progress, Stage};
use std::cell::RefCell;
use std::io::{self, Read, Seek, SeekFrom};

/// A body that comes as it is read.
pub(super) trait Source {
    /// How many bytes it has, if that is known before it ends.
    fn length(&self) -> Option<u64>;

    /// Goes back to the first byte.
    fn rewind(&mut self) -> io::Result<()>;

    /// The next bytes; none at the end. An error breaks the request off before its end.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// True if it cannot or should not be sent again from its first byte.
    fn is_spent(&self) -> bool {
        false
    }

    /// True if it can be read only once.
    fn is_once(&self) -> bool {
        false
    }

    /// How far the value is, `sent` bytes of the body being out.
    fn progress(&self, sent: u64) -> Progress {
        Progress { stage: Stage::Sending, done: sent, held: 0 }
    }
}

/// What a request carries.
#[derive(Clone, Copy)]
pub(super) enum Body<'a> {
    /// Nothing.
    None,
    /// Bytes in memory.
    Bytes(&'a [u8]),
    /// A stream.
    Source(&'a RefCell<dyn Source + 'a>),
}

impl Body<'_> {
    /// How many bytes it has; `None` if that is not known.
    pub fn length(&self) -> Option<u64> {
        match self {
            Body::None => Some(0),
            Body::Bytes(bytes) => Some(bytes.len() as u64),
            Body::Source(source) => source.borrow().length(),
        }
    }

    /// True for a stream: its way takes as long as it makes progress.
    pub fn is_stream(&self) -> bool {
        matches!(self, Body::Source(_))
    }

    /// True if no further attempt is to send it.
    pub fn is_spent(&self) -> bool {
        matches!(self, Body::Source(source) if source.borrow().is_spent())
    }

    /// True if it can be read only once.
    pub fn is_once(&self) -> bool {
        matches!(self, Body::Source(source) if source.borrow().is_once())
    }
}

/// The body of one attempt, counted as it goes out.
pub(super) struct Counted<'a> {
    body: Body<'a>,
    sent: u64,
    ended: bool,
    failed: Option<io::Error>,
    progress: Option<&'a dyn Fn(Progress)>,
}

impl<'a> Counted<'a> {
    /// Begins a body anew.
    pub fn begin(body: Body<'a>, progress: Option<&'a dyn Fn(Progress)>) -> io::Result<Counted<'a>> {
        if let Body::Source(source) = body {
            source.borrow_mut().rewind()?;
        }
        Ok(Counted { body, sent: 0, ended: false, failed: None, progress })
    }

    /// True if the first bytes were handed over.
    pub fn is_begun(&self) -> bool {
        self.sent > 0
    }

    /// True if a part of the body was not handed over.
    pub fn is_cut(&self) -> bool {
        match self.body.length() {
            Some(length) => self.sent < length,
            None => !self.ended,
        }
    }

    /// The error of the source that broke the body off.
    pub fn failed(&mut self) -> Option<io::Error> {
        self.failed.take()
    }
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match &mut self.body {
            Body::None => Ok(0),
            Body::Bytes(bytes) => {
                let rest = bytes.get(self.sent as usize..).unwrap_or_default();
                let count = rest.len().min(buffer.len());
                buffer[..count].copy_from_slice(&rest[..count]);
                Ok(count)
            }
            Body::Source(source) => source.borrow_mut().read(buffer),
        };
        let count = read.map_err(|error| {
            self.failed = Some(error);
            io::Error::other("the source of the body failed")
        })?;
        self.ended |= count == 0 && !buffer.is_empty();
        self.sent += count as u64;
        if let Some(progress) = self.progress {
            progress(match self.body {
                Body::Source(source) => source.borrow().progress(self.sent),
                _ => Progress { stage: Stage::Sending, done: self.sent, held: 0 },
            });
        }
        Ok(count)
    }
}

/// What can be read from any place: a file.
pub trait ReadSeek: Read + Seek {}

impl<T: Read + Seek> ReadSeek for T {}

/// A file of which every byte is to be sent, from where it stood.
pub(super) struct FileSource<'a> {
    file: &'a mut dyn ReadSeek,
    start: u64,
    length: u64,
    left: u64,
}

impl<'a> FileSource<'a> {
    /// A file that has `length` bytes behind the place where it stands.
    pub fn new(file: &'a mut dyn ReadSeek, length: u64) -> io::Result<FileSource<'a>> {
        let start = file.stream_position()?;
        Ok(FileSource { file, start, length, left: length })
    }
}

impl Source for FileSource<'_> {
    fn length(&self) -> Option<u64> {
        Some(self.length)
    }

    fn rewind(&mut self) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(self.start))?;
        self.left = self.length;
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = (buffer.len() as u64).min(self.left) as usize;
        if most == 0 {
            return Ok(0);
        }
        let count = read_some(self.file, &mut buffer[..most])?;
        self.left -= count as u64;
        // The last byte goes out only if it is the last one, so that a file that grows is not written in part.
        if count == 0 || (self.left == 0 && !is_at_end(self.file)?) {
            return Err(changed());
        }
        Ok(count)
    }
}

/// The error for a file whose length or contents changed on its way.
pub(super) fn changed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it changed while it was sent")
}

/// True if nothing follows.
pub(super) fn is_at_end(reader: &mut (impl Read + ?Sized)) -> io::Result<bool> {
    Ok(read_some(reader, &mut [0])? == 0)
}

fn read_some(reader: &mut (impl Read + ?Sized), buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match reader.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

/// Fills `buffer` as far as `reader` reaches; how far.
pub(super) fn fill(reader: &mut (impl Read + ?Sized), buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match read_some(reader, &mut buffer[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

/// What can be read once, with its beginning in memory: it can be begun anew as long as no more was read.
pub(super) struct InputSource<'a> {
    beginning: &'a [u8],
    at: usize,
    rest: &'a mut dyn Read,
    spent: bool,
}

impl<'a> InputSource<'a> {
    /// `beginning`, and what follows it.
    pub fn new(beginning: &'a [u8], rest: &'a mut dyn Read) -> InputSource<'a> {
        InputSource { beginning, at: 0, rest, spent: false }
    }
}

impl Source for InputSource<'_> {
    fn length(&self) -> Option<u64> {
        None
    }

    fn rewind(&mut self) -> io::Result<()> {
        if self.spent {
            return Err(io::Error::other("it can be read only once"));
        }
        self.at = 0;
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let beginning = &self.beginning[self.at..];
        if beginning.is_empty() {
            self.spent = true;
            return read_some(self.rest, buffer);
        }
        let count = beginning.len().min(buffer.len());
        buffer[..count].copy_from_slice(&beginning[..count]);
        self.at += count;
        Ok(count)
    }

    fn is_spent(&self) -> bool {
        self.spent
    }

    fn is_once(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn whole(source: &mut dyn Source) -> io::Result<Vec<u8>> {
        let (mut bytes, mut buffer) = (Vec::new(), [0; 4]);
        loop {
            match source.read(&mut buffer)? {
                0 => return Ok(bytes),
                count => bytes.extend_from_slice(&buffer[..count]),
            }
        }
    }

    #[test]
    fn files_are_sent_whole_or_not_at_all() {
        let mut file = Cursor::new(b"a happy cat".to_vec());
        file.set_position(2);
        let mut source = FileSource::new(&mut file, 9).unwrap();
        for _ in 0..2 {
            source.rewind().unwrap();
            assert_eq!(whole(&mut source).unwrap(), b"happy cat");
        }
        for length in [8, 10] {
            file.set_position(2);
            let mut source = FileSource::new(&mut file, length).unwrap();
            assert!(whole(&mut source).is_err(), "{length}");
        }
    }

    #[test]
    fn inputs_are_begun_anew_only_as_long_as_nothing_is_lost() {
        let mut rest = Cursor::new(b"y cat".to_vec());
        let mut source = InputSource::new(b"happ", &mut rest);
        assert_eq!(source.read(&mut [0; 4]).unwrap(), 4);
        assert!(!source.is_spent());
        source.rewind().unwrap();
        assert_eq!(whole(&mut source).unwrap(), b"happy cat");
        assert!(source.is_spent() && source.rewind().is_err());
    }
}
