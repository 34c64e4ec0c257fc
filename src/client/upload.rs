//! Putting values: from memory, from a file, and from what can be read only once.

use super::answer::Answer;
use super::body::{Body, FileSource, InputSource, ReadSeek, changed, fill, is_at_end};
use super::encode::{key_path, parse_etag};
use super::requests::checked;
use super::routes::Target;
use super::values::ttl_text;
use super::wire::{Failure, Request};
use super::{Client, MAX_HELD, Operation, PutOptions, Stored};
use crate::error::{Error, Kind, Result};
use std::cell::RefCell;
use std::io::{self, Read};
use ureq::http::Method;

/// So much of an input is kept until the request is under way; what is smaller than this is sent as a whole. Larger
/// values are stored in chunks.
pub(super) const SMALL: usize = 64 * 1024;

impl Client {
    /// Stores `value` under `key`.
    ///
    /// It is sent again, under one request id, until it is answered or the deadline passes.
    ///
    /// Errors: `ConditionFailed`; `UnknownOutcome` if it may have been written; all others: it was not.
    pub fn put(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: PutOptions<'_>,
    ) -> Result<Stored> {
        let value = value.as_ref();
        if value.len() > MAX_HELD {
            let detail =
                format!("the value has {} bytes; at most {MAX_HELD} are held in memory", value.len());
            return Err(Error::new(Kind::ValueTooLarge, detail).hint("send it as a file or a stream"));
        }
        self.put_body(key.as_ref(), "", Body::Bytes(value), options)
    }

    /// Stores the `length` bytes of `file` that follow the place where it stands, and are its last ones. It is read while
    /// it is sent, so its size does not matter.
    ///
    /// It is sent again, as [`Client::put`] does it, from the beginning. A body that makes progress has all the time it
    /// takes.
    ///
    /// Errors: as [`Client::put`]; `System` if `file` cannot be read, or has more or fewer bytes: nothing was written.
    pub fn put_file(
        &self,
        key: impl AsRef<[u8]>,
        file: &mut dyn ReadSeek,
        length: u64,
        options: PutOptions<'_>,
    ) -> Result<Stored> {
        let key = checked(key.as_ref())?;
        if length == 0 {
            return match is_at_end(file) {
                Ok(true) => self.put(key, [], options),
                Ok(false) => Err(unreadable(changed())),
                Err(error) => Err(unreadable(error)),
            };
        }
        let source = RefCell::new(FileSource::new(file, length).map_err(unreadable)?);
        self.put_body(key, "", Body::Source(&source), options)
    }

    /// Stores all that `input` gives until it ends, of any length.
    ///
    /// What fits in 64 KiB is sent as by [`Client::put`]. Of more, the owner of the key is found first; the request is
    /// tried again only as long as no more than the first 64 KiB were taken from `input`.
    ///
    /// Errors: as [`Client::put`]; `System` if `input` fails: nothing was written.
    pub fn put_stream(
        &self,
        key: impl AsRef<[u8]>,
        input: &mut dyn Read,
        options: PutOptions<'_>,
    ) -> Result<Stored> {
        let key = checked(key.as_ref())?;
        let mut beginning = vec![0; SMALL + 1];
        let filled = fill(input, &mut beginning).map_err(unreadable)?;
        beginning.truncate(filled);
        if filled <= SMALL {
            return self.put(key, beginning, options);
        }
        self.find_owner(key)?;
        let source = RefCell::new(InputSource::new(&beginning, input));
        self.put_body(key, "", Body::Source(&source), options)
    }

    /// Asks the owner of `key` for it, and waits until it answers: what follows can be sent only once.
    fn find_owner(&self, key: &[u8]) -> Result<()> {
        let request = Request::new(Method::HEAD, key_path(key));
        match self.run(&Operation { target: Target::Key(key), request, told: &[] }, |_| Ok(())) {
            Err(error) if error.kind() != Kind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Sends a put of `body`, with `query` behind the key's path.
    pub(super) fn put_body<'a>(
        &self,
        key: &'a [u8],
        query: &str,
        body: Body<'a>,
        options: PutOptions<'a>,
    ) -> Result<Stored> {
        self.write(put(key, query, body, options)?, |answer| stored(&answer))
    }
}

/// The request of a put of `body`, with `query` behind the key's path.
pub(super) fn put<'a>(
    key: &'a [u8],
    query: &str,
    body: Body<'a>,
    options: PutOptions<'a>,
) -> Result<Operation<'a>> {
    let mut path = key_path(checked(key)?);
    let ttl = options.ttl.map(|ttl| format!("ttl={}", ttl_text(ttl))).unwrap_or_default();
    let parts: Vec<&str> = [query, &ttl].into_iter().filter(|part| !part.is_empty()).collect();
    if !parts.is_empty() {
        path = format!("{path}?{}", parts.join("&"));
    }
    let progress = options.progress;
    let mut request = Request { body, progress, ..Request::new(Method::PUT, path) };
    let content_type = options.content_type.unwrap_or_else(|| "application/octet-stream".to_owned());
    request.headers.push(("Content-Type", content_type));
    request.headers.extend(options.condition.header());
    let told = &[Kind::ConditionFailed];
    Ok(Operation { target: Target::Key(key), request, told })
}

/// What the answer to a put says.
pub(super) fn stored(answer: &Answer) -> Result<Stored, Failure> {
    let version = answer.header("ETag").and_then(parse_etag).ok_or_else(|| {
        let detail = format!("{} took the value but named no version", answer.address());
        Failure::answered(Error::new(Kind::UnknownOutcome, detail).hint("read it back"))
    })?;
    Ok(Stored { version, created: answer.status == 201 })
}

/// The error for what cannot be read before anything is sent.
pub(super) fn unreadable(cause: io::Error) -> Error {
    Error::new(Kind::System, "what is to be stored cannot be read; nothing was written").cause(cause)
}
