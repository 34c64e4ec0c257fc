//! What goes into the client's methods and what comes out of them.

use super::body::fill;
use std::io::{self, BufWriter, Read, Write};
use std::time::{Duration, SystemTime};

/// A condition on the record that a put or delete would change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Condition {
    /// No condition.
    #[default]
    Any,
    /// The key does not exist.
    Absent,
    /// The key exists.
    Exists,
    /// The key has this version.
    Version(u64),
}

impl Condition {
    /// The header that says so.
    pub(super) fn header(self) -> Option<(&'static str, String)> {
        match self {
            Condition::Any => None,
            Condition::Absent => Some(("If-None-Match", "*".to_owned())),
            Condition::Exists => Some(("If-Match", "*".to_owned())),
            Condition::Version(version) => Some(("If-Match", format!("\"{version}\""))),
        }
    }
}

/// How to put.
#[derive(Clone, Default)]
pub struct PutOptions<'a> {
    /// What comes back as `Content-Type`; `application/octet-stream` if absent.
    pub content_type: Option<String>,
    /// The record expires after this time.
    pub ttl: Option<Duration>,
    /// What must hold.
    pub condition: Condition,
    /// Told how far the value is; it starts over when the put is tried again.
    pub progress: Option<&'a dyn Fn(Progress)>,
}

/// What is done with a value that goes to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It is read, to learn which of its chunks the store has.
    Hashing,
    /// It goes out.
    Sending,
}

/// How far a value is on its way to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is done.
    pub stage: Stage,
    /// So many of its bytes are done, those that were there already included.
    pub done: u64,
    /// So many of them were there already.
    pub held: u64,
}

/// What a put did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// The new version.
    pub version: u64,
    /// True if the key did not exist before.
    pub created: bool,
}

/// What a put did that went on from an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resumed {
    /// The record that it wrote.
    pub stored: Stored,
    /// So many bytes of the value were there already.
    pub held: u64,
}

/// How to get.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GetOptions {
    /// Any replica may answer, even one that is behind.
    pub stale: bool,
}

/// The facts of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Its version.
    pub version: u64,
    /// Its content type; empty if the node named none.
    pub content_type: String,
    /// When it was written, to the second.
    pub modified: Option<SystemTime>,
    /// CRC-32 of the value, if the node sent it; then the value was checked against it.
    pub checksum: Option<u32>,
    /// For a stale read, how far behind the replica may be, as the node says it.
    pub lag: Option<String>,
    /// How many bytes the value has, if the node said so.
    pub length: Option<u64>,
}

/// Where a value goes that is read as a stream.
pub trait Sink: Write {
    /// Told what is coming, before the first byte. An error ends the read.
    fn begin(&mut self, facts: &Facts) -> io::Result<()> {
        let _ = facts;
        Ok(())
    }
}

impl<W: Write> Sink for BufWriter<W> {}

/// The beginning of a value that an earlier read brought.
#[derive(Debug, Clone)]
pub struct Held {
    /// The version that it is of.
    pub version: u64,
    /// How many bytes there are.
    pub length: u64,
    /// The CRC-32 of these bytes, as far as it is computed.
    pub checksum: crc32fast::Hasher,
}

impl Held {
    /// All that `reader` gives is the beginning of the value of this version.
    pub fn read(version: u64, reader: &mut dyn Read) -> io::Result<Held> {
        let mut held = Held { version, length: 0, checksum: crc32fast::Hasher::new() };
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match fill(reader, &mut buffer)? {
                0 => return Ok(held),
                count => held.take(&buffer[..count]),
            }
        }
    }

    /// The bytes that follow.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.checksum.update(bytes);
        self.length += bytes.len() as u64;
    }
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// The value.
    pub bytes: Vec<u8>,
    /// Its version.
    pub version: u64,
    /// Its content type; empty if the node named none.
    pub content_type: String,
    /// When it was written, to the second.
    pub modified: Option<SystemTime>,
    /// CRC-32 of the value, if the node sent it; then the value was checked against it.
    pub checksum: Option<u32>,
    /// For a stale read, how far behind the replica may be, as the node says it.
    pub lag: Option<String>,
}

impl Value {
    pub(super) fn new(bytes: Vec<u8>, facts: Facts) -> Value {
        let Facts { version, content_type, modified, checksum, lag, length: _ } = facts;
        Value { bytes, version, content_type, modified, checksum, lag }
    }

    /// The value, and the facts of its record.
    pub fn into_parts(self) -> (Vec<u8>, Facts) {
        let Value { bytes, version, content_type, modified, checksum, lag } = self;
        let length = Some(bytes.len() as u64);
        (bytes, Facts { version, content_type, modified, checksum, lag, length })
    }
}

/// What a list asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// Only keys that begin with this.
    pub prefix: Vec<u8>,
    /// Only keys behind this one.
    pub after: Option<Vec<u8>>,
    /// At most so many keys on a page, 1..=10000; the node's default if absent.
    pub limit: Option<usize>,
    /// With values.
    pub values: bool,
}

/// A time to live as it stands in `?ttl=`.
pub(super) fn ttl_text(ttl: Duration) -> String {
    let milliseconds = ttl.as_millis().max(1);
    if milliseconds.is_multiple_of(1000) {
        format!("{}s", milliseconds / 1000)
    } else {
        format!("{milliseconds}ms")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_to_live_are_whole_seconds_if_they_can_be() {
        assert_eq!(ttl_text(Duration::from_secs(60)), "60s");
        assert_eq!(ttl_text(Duration::from_millis(1500)), "1500ms");
        assert_eq!(ttl_text(Duration::ZERO), "1ms");
    }
}
