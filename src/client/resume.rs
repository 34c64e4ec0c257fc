//! Going on with an upload: the store is asked which chunks of the file it has, and gets the others.
//!
//! A body that breaks off when much of it is out is not sent again: the store is asked anew.
//!
//! One chunk is in memory at a time, and 33 bytes for each chunk of the file. The file is read twice; a chunk that
//! hashes to something else the second time breaks the upload off.

use super::body::{Body, ReadSeek, Source, changed, fill, is_at_end};
use super::encode::key_path;
use super::requests::checked;
use super::routes::Target;
use super::upload::{SMALL, unreadable};
use super::wire::{Failure, Request};
use super::{Client, Operation, Progress, PutOptions, Resumed, Stage};
use crate::cluster::frames::{self, CHUNK, Frame, HEAD, Hash, MOST_HASHES};
use crate::error::{Advice, Error, Kind, Result};
use std::cell::RefCell;
use std::io::{self, SeekFrom};
use ureq::http::Method;

/// So often the store is asked anew without holding more than before.
const MOST_IDLE: u32 = 3;
/// If more than this went out before a body broke off, the store is asked anew what is missing now.
const ADVANCE: u64 = 4 * CHUNK as u64;

impl Client {
    /// Stores the `length` bytes of `file` as [`Client::put_file`] does, but sends only the chunks that the store does not
    /// have yet: those of a put that broke off a few minutes ago, or of any value.
    ///
    /// Errors: as [`Client::put_file`]; `ChunkMissing` if the store loses chunks faster than they are sent.
    pub fn put_file_resumed(
        &self,
        key: impl AsRef<[u8]>,
        file: &mut dyn ReadSeek,
        length: u64,
        options: PutOptions<'_>,
    ) -> Result<Resumed> {
        let key = checked(key.as_ref())?;
        if length <= SMALL as u64 {
            return Ok(Resumed { stored: self.put_file(key, file, length, options)?, held: 0 });
        }
        let start = file.stream_position().map_err(unreadable)?;
        let tell = |stage, done| {
            if let Some(tell) = options.progress {
                tell(Progress { stage, done, held: 0 });
            }
        };
        let hashes = hash_all(file, length, |done| tell(Stage::Hashing, done)).map_err(unreadable)?;
        let (mut most, mut idle) = (None, 0);
        loop {
            let there = self.ask_chunks(key, &hashes)?;
            let source = RefCell::new(ChunkSource::new(file, start, length, &hashes, &there));
            let held = source.borrow().held;
            if most.is_some_and(|most| held <= most) {
                idle += 1
            } else {
                (most, idle) = (Some(held), 0)
            }
            match self.put_body(key, "chunks", Body::Source(&source), options.clone()) {
                Err(error) if idle < MOST_IDLE && goes_on(&error, source.borrow().is_spent()) => {}
                done => return Ok(Resumed { stored: done?, held }),
            }
        }
    }

    /// Which chunks the store has.
    fn ask_chunks(&self, key: &[u8], hashes: &[Hash]) -> Result<Vec<bool>> {
        let mut held = Vec::with_capacity(hashes.len());
        for page in hashes.chunks(MOST_HASHES) {
            let path = format!("{}?chunks", key_path(key));
            let body = Body::Bytes(page.as_flattened());
            let mut request = Request { body, asks: true, ..Request::new(Method::POST, path) };
            request.headers.push(("Content-Type", "application/octet-stream".to_owned()));
            let operation = Operation { target: Target::Key(key), request, told: &[] };
            held.extend(self.run(&operation, |mut answer| {
                let bytes = answer.bytes()?;
                let wrong = || Failure::answered(answer.stranger("it does not say which chunks it has"));
                frames::held(&bytes, page.len()).ok_or_else(wrong)
            })?);
        }
        Ok(held)
    }
}

/// True if nothing was written, and it helps to ask again what is missing.
fn goes_on(error: &Error, broke: bool) -> bool {
    let kind = error.kind();
    kind == Kind::ChunkMissing || (broke && matches!(kind.advice(), Advice::Retry | Advice::Elsewhere))
}

/// The names of all chunks of a file that has `length` bytes behind the place where it stands.
fn hash_all(file: &mut dyn ReadSeek, length: u64, tell: impl Fn(u64)) -> io::Result<Vec<Hash>> {
    let mut hashes = Vec::with_capacity(frames::count(length) as usize);
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    for index in 0..frames::count(length) {
        let chunk = &mut buffer[..frames::length_of(index, length) as usize];
        if fill(file, chunk)? < chunk.len() {
            return Err(changed());
        }
        hashes.push(frames::hash(chunk));
        done += chunk.len() as u64;
        tell(done);
    }
    if is_at_end(file)? { Ok(hashes) } else { Err(changed()) }
}

/// The frames of a file's chunks.
struct ChunkSource<'a> {
    file: &'a mut dyn ReadSeek,
    start: u64,
    length: u64,
    hashes: &'a [Hash],
    there: &'a [bool],
    /// So many bytes of the file are there already.
    held: u64,
    /// The next chunk.
    next: usize,
    /// The frame that is on its way, and how much of it is out.
    frame: Vec<u8>,
    out: usize,
    /// So many bytes of the file are done, and so many of them were there already.
    done: u64,
    skipped: u64,
}

impl<'a> ChunkSource<'a> {
    fn new(
        file: &'a mut dyn ReadSeek,
        start: u64,
        length: u64,
        hashes: &'a [Hash],
        there: &'a [bool],
    ) -> ChunkSource<'a> {
        let held = (0..).zip(there).filter(|(_, there)| **there);
        let held = held.map(|(index, _)| u64::from(frames::length_of(index, length))).sum();
        let frame = Vec::with_capacity(HEAD + CHUNK);
        ChunkSource { file, start, length, hashes, there, held, next: 0, frame, out: 0, done: 0, skipped: 0 }
    }

    /// Makes the next frame; reads and checks the chunk if it is to go out.
    fn make(&mut self, hash: Hash) -> io::Result<()> {
        let index = self.next as u64;
        let length = frames::length_of(index, self.length);
        let follows = !self.there[self.next];
        self.frame.clear();
        self.frame.extend_from_slice(&Frame { hash, length, follows }.encode());
        if follows {
            self.file.seek(SeekFrom::Start(self.start + index * CHUNK as u64))?;
            self.frame.resize(HEAD + length as usize, 0);
            let chunk = &mut self.frame[HEAD..];
            if fill(self.file, chunk)? < chunk.len() || frames::hash(chunk) != hash {
                return Err(changed());
            }
        } else {
            self.skipped += u64::from(length);
        }
        self.next += 1;
        if self.next == self.hashes.len() && self.file.seek(SeekFrom::End(0))? != self.start + self.length {
            return Err(changed());
        }
        self.done += u64::from(length);
        self.out = 0;
        Ok(())
    }
}

impl Source for ChunkSource<'_> {
    fn length(&self) -> Option<u64> {
        Some(self.length - self.held + (self.hashes.len() * HEAD) as u64)
    }

    fn rewind(&mut self) -> io::Result<()> {
        self.frame.clear();
        (self.next, self.out, self.done, self.skipped) = (0, 0, 0, 0);
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.out == self.frame.len() {
            match self.hashes.get(self.next) {
                Some(hash) => self.make(*hash)?,
                None => return Ok(0),
            }
        }
        let rest = &self.frame[self.out..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.out += count;
        Ok(count)
    }

    /// It could be sent again, but most of what was sent is in the store now. Once all of it is out, it may have been
    /// written, and is sent again as it was.
    fn is_spent(&self) -> bool {
        let is_out = self.next == self.hashes.len() && self.out == self.frame.len();
        self.done - self.skipped > ADVANCE && !is_out
    }

    fn progress(&self, _sent: u64) -> Progress {
        let done = self.done.saturating_sub((self.frame.len() - self.out) as u64);
        Progress { stage: Stage::Sending, done, held: self.skipped }
    }
}
