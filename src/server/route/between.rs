//! Paths between nodes.

use super::{Action, Query, decode_key, ttl};
use crate::cluster::slots::SLOTS;
use crate::error::{Error, Kind, Result};
use crate::replica::Name;

/// The end of an upload; the body is the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The upload.
    pub upload: u64,
    /// The key.
    pub key: Vec<u8>,
    /// CRC-32 of the value.
    pub checksum: u32,
    /// Milliseconds to live.
    pub ttl: Option<u64>,
    /// Where its chunks are, if the group that stores it does not have them: addresses, with commas.
    pub from: String,
}

/// `/internal/snapshot/ID/PEER?after=HEX`.
pub(super) fn chunk(rest: &str, query: Option<&str>) -> Result<Action> {
    let bad = || Error::new(Kind::BadRequest, "the path is /internal/snapshot/ID/PEER?after=HEX");
    let (id, peer) = rest.split_once('/').ok_or_else(bad)?;
    let after = match query.map(|query| query.strip_prefix("after=").ok_or_else(bad)).transpose()? {
        None => None,
        Some(hex) if hex.len().is_multiple_of(2) && hex.is_ascii() => Some(
            (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).map_err(|_| bad()))
                .collect::<Result<_>>()?,
        ),
        Some(_) => return Err(bad()),
    };
    Ok(Action::Chunk { id: number(id)?, peer: number(peer)?, after })
}

/// `UPLOAD/SLOT`.
pub(super) fn upload(rest: &str) -> Result<(u64, u16)> {
    let parts =
        rest.split_once('/').and_then(|(upload, slot)| Some((upload.parse().ok()?, slot.parse().ok()?)));
    parts
        .filter(|(_, slot)| *slot < SLOTS)
        .ok_or_else(|| Error::new(Kind::BadRequest, "an upload and a slot are expected in the path"))
}

/// `UPLOAD/CHECKSUM/KEY?ttl=&from=`.
pub(super) fn commit(rest: &str, query: Option<&str>) -> Result<Commit> {
    let bad = || Error::new(Kind::BadRequest, "the path is /internal/commit/UPLOAD/CHECKSUM/KEY");
    let (upload, rest) = rest.split_once('/').ok_or_else(bad)?;
    let (checksum, key) = rest.split_once('/').ok_or_else(bad)?;
    let mut query = Query::parse(query, &["ttl", "from"])?;
    let ttl = query.text("ttl")?.as_deref().map(ttl::parse).transpose()?;
    Ok(Commit {
        upload: number(upload)?,
        key: decode_key(key)?,
        checksum: checksum.parse().map_err(|_| bad())?,
        ttl,
        from: query.text("from")?.unwrap_or_default(),
    })
}

pub(super) fn number(text: &str) -> Result<u64> {
    text.parse().map_err(|_| Error::new(Kind::BadRequest, "a number is expected in the path"))
}

/// The name of a chunk.
pub(super) fn chunk_name(text: &str) -> Result<Name> {
    Name::from_hex(text)
        .ok_or_else(|| Error::new(Kind::BadRequest, "a chunk is named by 64 hexadecimal digits"))
}
