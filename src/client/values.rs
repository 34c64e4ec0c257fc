//! What goes into the client's methods and what comes out of them.

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
    /// Told how many bytes of the value went out so far; it starts over when the put is tried again.
    pub progress: Option<&'a dyn Fn(u64)>,
}

/// What a put did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// The new version.
    pub version: u64,
    /// True if the key did not exist before.
    pub created: bool,
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
        let Facts { version, content_type, modified, checksum, lag } = facts;
        Value { bytes, version, content_type, modified, checksum, lag }
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
