//! Getting values: whole, or as a stream; checked against their checksum either way.

use super::encode::{key_path, parse_checksum, parse_etag};
use super::requests::checked;
use super::routes::Target;
use super::wire::{Answer, Failure, Request};
use super::{Client, Facts, GetOptions, Operation, Value};
use crate::error::{Error, Kind, Result};
use std::io::{Read, Write};
use ureq::http::Method;

const CHUNK: usize = 64 * 1024;

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
        absent(self.run(&get(key, options, &self.seeds)?, |mut answer| {
            let facts = facts(&answer)?;
            let bytes = answer.bytes()?;
            check(&facts, crc32fast::hash(&bytes), &answer)?;
            Ok(Value::new(bytes, facts))
        }))
    }

    /// Streams the value of `key` to `writer`, if it exists. On any error `writer` may have got a part of it.
    ///
    /// Errors: `Damaged` if the value does not match its checksum; `System` if `writer` fails.
    pub fn get_to(
        &self,
        key: impl AsRef<[u8]>,
        options: GetOptions,
        writer: &mut dyn Write,
    ) -> Result<Option<Facts>> {
        let key = key.as_ref();
        absent(self.run(&get(key, options, &self.seeds)?, |mut answer| {
            let facts = facts(&answer)?;
            let checksum = copy(&mut answer, writer)?;
            check(&facts, checksum, &answer)?;
            Ok(facts)
        }))
    }
}

fn get<'a>(key: &'a [u8], options: GetOptions, near: &'a [String]) -> Result<Operation<'a>> {
    let path = key_path(checked(key)?);
    let (target, path) = match options.stale {
        true => (Target::Replica(key, near), format!("{path}?consistency=stale")),
        false => (Target::Key(key), path),
    };
    Ok(Operation { target, request: Request::new(Method::GET, path), told: &[] })
}

fn absent<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn facts(answer: &Answer) -> Result<Facts, Failure> {
    let Some(version) = answer.header("ETag").and_then(parse_etag) else {
        return Err(Failure::answered(answer.stranger("the value has no version")));
    };
    Ok(Facts {
        version,
        content_type: answer.header("Content-Type").unwrap_or_default().to_owned(),
        modified: answer.header("Last-Modified").and_then(|text| httpdate::parse_http_date(text).ok()),
        checksum: answer.header("Catstore-Checksum").and_then(parse_checksum),
        lag: answer.header("Catstore-Applied-Lag").map(str::to_owned),
    })
}

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

/// Copies the body and returns its checksum. What broke before the first byte may be tried again.
fn copy(answer: &mut Answer, writer: &mut dyn Write) -> Result<u32, Failure> {
    let address = answer.address().to_owned();
    let mut reader = answer.reader();
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; CHUNK];
    let mut total = 0u64;
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finalize()),
            Ok(count) => count,
            Err(error) => {
                let detail = format!("the value broke off after {total} bytes from {address}");
                let error = Error::new(Kind::Unreachable, detail).hint("get it again").cause(error);
                // The writer has bytes that nobody can take back.
                return Err(if total == 0 { Failure::broken_read(error) } else { Failure::last(error) });
            }
        };
        writer.write_all(&buffer[..count]).map_err(|error| {
            Failure::last(
                Error::new(Kind::System, "the value cannot be written to its destination").cause(error),
            )
        })?;
        hasher.update(&buffer[..count]);
        total += count as u64;
    }
}
