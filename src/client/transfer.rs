//! Getting values: whole, or as streams; checked against their checksum either way.
//!
//! A stream that breaks off goes on from where it was, at whatever node has the value, as long as the record keeps its
//! version. The checksum is that of the whole value, whichever nodes its parts came from.

use super::answer::Answer;
use super::encode::{key_path, parse_checksum, parse_content_range, parse_etag};
use super::requests::checked;
use super::routes::Target;
use super::wire::{Failure, Request};
use super::{Client, Facts, GetOptions, Held, Operation, Sink, Value};
use crate::error::{Error, Kind, Result};
use std::io::{self, Read, Write};
use ureq::http::Method;

/// So many bytes are written at once, at multiples of as many: for pages of a file in pieces the kernel takes a third more time.
const PIECE: usize = 128 * 1024;
/// A value that breaks off so often in a row, each time with less than [`ADVANCE`], is given up.
const MOST_BREAKS: u32 = 5;
/// So many bytes count as an advance.
const ADVANCE: u64 = 1 << 20;

/// A sink that does not care what is coming.
struct Plain<'a>(&'a mut dyn Write);

impl Write for Plain<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Sink for Plain<'_> {}

/// A value on its way.
struct Download<'a> {
    sink: &'a mut dyn Sink,
    /// What is there; nothing before the first answer, unless an earlier read brought something.
    held: Option<Held>,
    begun: bool,
    /// The value broke off, and may go on.
    broke: bool,
}

impl Client {
    /// The record of `key`, if it exists.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.get_with(key, GetOptions::default())
    }

    /// The record of `key`, if it exists. Values are held in memory up to 64 MiB; [`Client::get_to`] takes larger ones.
    ///
    /// Errors: `Damaged` if the value does not match its checksum.
    pub fn get_with(&self, key: impl AsRef<[u8]>, options: GetOptions) -> Result<Option<Value>> {
        let key = key.as_ref();
        absent(self.run(&get(key, options, &self.seeds)?, value))
    }

    /// Streams the value of `key` to `writer`, if it exists. On any error `writer` may have got a part of it.
    ///
    /// A value that breaks off goes on from there, through another node if need be, as long as it has the same version.
    ///
    /// Errors: `Damaged` if the value does not match its checksum; `System` if `writer` fails; `Conflict` if the value
    /// broke off and changed meanwhile.
    pub fn get_to(
        &self,
        key: impl AsRef<[u8]>,
        options: GetOptions,
        writer: &mut dyn Write,
    ) -> Result<Option<Facts>> {
        self.get_into(key, options, None, &mut Plain(writer))
    }

    /// As [`Client::get_to`], with a sink that is told what is coming; and without the bytes that are `held` already, if
    /// there are any. The checksum is that of the whole value, of the held bytes too.
    ///
    /// Errors: as [`Client::get_to`]; `Conflict` before anything is written if the value has another version than what is
    /// held.
    pub fn get_into(
        &self,
        key: impl AsRef<[u8]>,
        options: GetOptions,
        held: Option<Held>,
        sink: &mut dyn Sink,
    ) -> Result<Option<Facts>> {
        let key = key.as_ref();
        let held = held.filter(|held| held.length > 0);
        let mut download = Download { sink, held, begun: false, broke: false };
        let mut breaks = 0;
        loop {
            let before = download.length();
            let operation = download.operation(key, options, &self.seeds)?;
            match absent(self.run(&operation, |answer| download.take(answer))) {
                Ok(None) if download.begun => return Err(gone(download.length())),
                Err(_) if std::mem::take(&mut download.broke) && breaks < MOST_BREAKS => {
                    let advanced = download.length() - before >= ADVANCE;
                    breaks = if advanced { 0 } else { breaks + 1 };
                }
                Err(error) if error.kind() == Kind::OutOfRange => return self.whole(key, options, download),
                done => return done,
            }
        }
    }

    /// The end of a read of which every byte was held: only the checksum is to be compared.
    fn whole(&self, key: &[u8], options: GetOptions, mut download: Download<'_>) -> Result<Option<Facts>> {
        let mut operation = get(key, options, &self.seeds)?;
        operation.request.method = Method::HEAD;
        absent(self.run(&operation, |answer| {
            let facts = facts(&answer)?;
            download.expect(&facts)?;
            if facts.length != Some(download.length()) {
                return Err(Failure::answered(answer.stranger("it does not give the rest of the value")));
            }
            download.end(&facts, &answer)?;
            Ok(facts)
        }))
    }
}

impl Download<'_> {
    /// How many bytes are there.
    fn length(&self) -> u64 {
        self.held.as_ref().map_or(0, |held| held.length)
    }

    /// The request for what is missing.
    fn operation<'a>(&self, key: &'a [u8], options: GetOptions, near: &'a [String]) -> Result<Operation<'a>> {
        let mut operation = get(key, options, near)?;
        if let Some(held) = self.held.as_ref().filter(|held| held.length > 0) {
            let headers = &mut operation.request.headers;
            headers.push(("Range", format!("bytes={}-", held.length)));
            headers.push(("If-Range", format!("\"{}\"", held.version)));
        }
        Ok(operation)
    }

    /// Takes an answer: the whole value, or the rest of it.
    fn take(&mut self, mut answer: Answer) -> Result<Facts, Failure> {
        let facts = facts(&answer)?;
        self.expect(&facts)?;
        let first = match answer.status {
            206 => answer.header("Content-Range").and_then(parse_content_range).map(|(first, _)| first),
            _ => Some(0),
        };
        if first != Some(self.length()) {
            return Err(Failure::answered(answer.stranger("it sent another part of the value")));
        }
        if !self.begun {
            self.sink.begin(&facts).map_err(unwritable)?;
            self.begun = true;
        }
        self.copy(&mut answer, facts.version)?;
        self.end(&facts, &answer)?;
        Ok(facts)
    }

    /// Errors: `Conflict` if there are bytes of another version.
    fn expect(&self, facts: &Facts) -> Result<(), Failure> {
        match &self.held {
            Some(held) if held.length > 0 && held.version != facts.version => {
                let detail = format!(
                    "the value changed: {} bytes are of version {}, it has version {} now",
                    held.length, held.version, facts.version
                );
                Err(Failure::last(
                    Error::new(Kind::Conflict, detail).hint("get it again, from its beginning"),
                ))
            }
            _ => Ok(()),
        }
    }

    /// Copies the body to the sink.
    fn copy(&mut self, answer: &mut Answer, version: u64) -> Result<(), Failure> {
        let nothing = || Held { version, length: 0, checksum: crc32fast::Hasher::new() };
        let held = self.held.get_or_insert_with(nothing);
        held.version = version;
        let address = answer.address().to_owned();
        let mut reader = answer.reader();
        let mut buffer = vec![0; PIECE];
        loop {
            let wanted = PIECE - (held.length % PIECE as u64) as usize;
            let (count, broke) = fill(&mut reader, &mut buffer[..wanted]);
            self.sink.write_all(&buffer[..count]).map_err(unwritable)?;
            held.take(&buffer[..count]);
            if let Some(error) = broke {
                let detail = format!("the value broke off after {} bytes from {address}", held.length);
                let error = Error::new(Kind::Unreachable, detail).hint("get it again").cause(error);
                self.broke = held.length > 0;
                return Err(if self.broke { Failure::half_read(error) } else { Failure::broken_read(error) });
            }
            if count < wanted {
                return Ok(());
            }
        }
    }

    fn end(&mut self, facts: &Facts, answer: &Answer) -> Result<(), Failure> {
        let checksum = self.held.as_ref().map(|held| held.checksum.clone()).unwrap_or_default();
        check(facts, checksum.finalize(), answer)
    }
}

/// Fills `buffer` as far as `reader` reaches or until it breaks: how far, and how it broke.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> (usize, Option<io::Error>) {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (filled, Some(error)),
        }
    }
    (filled, None)
}

/// The error for a key that was removed while its value was on its way.
fn gone(length: u64) -> Error {
    Error::new(Kind::Conflict, format!("the key was removed when {length} bytes of its value had come"))
}

fn unwritable(error: io::Error) -> Failure {
    Failure::last(Error::new(Kind::System, "the value cannot be written to its destination").cause(error))
}

/// What an answer brings that carries a whole value.
pub(super) fn value(mut answer: Answer) -> Result<Value, Failure> {
    let facts = facts(&answer)?;
    let bytes = answer.bytes()?;
    check(&facts, crc32fast::hash(&bytes), &answer)?;
    Ok(Value::new(bytes, facts))
}

/// The request for a value.
pub(super) fn get<'a>(key: &'a [u8], options: GetOptions, near: &'a [String]) -> Result<Operation<'a>> {
    let path = key_path(checked(key)?);
    let (target, path) = match options.stale {
        true => (Target::Replica(key, near), format!("{path}?consistency=stale")),
        false => (Target::Key(key), path),
    };
    Ok(Operation { target, request: Request::new(Method::GET, path), told: &[] })
}

/// A key that does not exist is no error.
fn absent<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the head of an answer says of the record.
fn facts(answer: &Answer) -> Result<Facts, Failure> {
    let Some(version) = answer.header("ETag").and_then(parse_etag) else {
        return Err(Failure::answered(answer.stranger("the value has no version")));
    };
    let length = match answer.status {
        206 => answer.header("Content-Range").and_then(parse_content_range).map(|(_, whole)| whole),
        _ => answer.header("Content-Length").and_then(|text| text.trim().parse().ok()),
    };
    Ok(Facts {
        version,
        content_type: answer.header("Content-Type").unwrap_or_default().to_owned(),
        modified: answer.header("Last-Modified").and_then(|text| httpdate::parse_http_date(text).ok()),
        checksum: answer.header("Catstore-Checksum").and_then(parse_checksum),
        lag: answer.header("Catstore-Applied-Lag").map(str::to_owned),
        length,
    })
}

/// Errors: `Damaged` if the value does not match its checksum.
fn check(facts: &Facts, checksum: u32, answer: &Answer) -> Result<(), Failure> {
    match facts.checksum {
        Some(expected) if expected != checksum => {
            let detail = format!(
                "the value that {} sent does not match its checksum ({checksum:08x}, not {expected:08x})",
                answer.address()
            );
            Err(Failure::answered(
                Error::new(Kind::Damaged, detail)
                    .hint("get it again; if it persists, check that node's disk"),
            ))
        }
        _ => Ok(()),
    }
}
