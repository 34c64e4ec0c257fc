//! What LevelDB holds for one key.
//!
//! Layout, integers little-endian: format byte `1`; version u64; modified u64 (ms since 1970); expires u64 (ms of the
//! group's clock, 0 for never); CRC-32 (IEEE) of the value u32; length of the content type u16; content type
//! (UTF-8); the value to the end of the row. A record of format `2` holds, in place of the value, the CRC-32 of the
//! value's manifest u32 and the manifest (`chunk.rs`): the value is in chunks.

use super::chunk::{self, Manifest};
use crate::error::{Error, Kind, Result};

const WHOLE: u8 = 1;
const IN_CHUNKS: u8 = 2;
const HEADER: usize = 1 + 8 + 8 + 8 + 4 + 2;

/// The facts of a record, without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// The group's version counter when it was written.
    pub version: u64,
    /// When it was written, milliseconds since 1970 by the group's clock.
    pub modified: u64,
    /// When it expires, milliseconds by the group's clock.
    pub expires: Option<u64>,
    /// CRC-32 (IEEE) of the value, made when the client's bytes arrived.
    pub checksum: u32,
    /// The content type that the client gave; empty if none.
    pub content_type: String,
    /// Length of the value in bytes.
    pub size: u64,
    /// True if the record holds the manifest of a value that is in chunks.
    pub in_chunks: bool,
}

/// A record: its facts, and its row's bytes from which the value is read without a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The facts.
    pub meta: Meta,
    row: Vec<u8>,
    offset: usize,
}

/// The checksum of a value, as records carry it.
pub fn checksum(value: &[u8]) -> u32 {
    crc32fast::hash(value)
}

/// Encodes a record's row; `value` is the manifest of a value in chunks. `meta.size` is ignored; `meta.content_type` must
/// be at most 65535 bytes.
pub fn encode(meta: &Meta, value: &[u8]) -> Vec<u8> {
    let content_type = &meta.content_type.as_bytes()[..meta.content_type.len().min(usize::from(u16::MAX))];
    let mut row = Vec::with_capacity(HEADER + content_type.len() + 4 + value.len());
    row.push(if meta.in_chunks { IN_CHUNKS } else { WHOLE });
    row.extend_from_slice(&meta.version.to_le_bytes());
    row.extend_from_slice(&meta.modified.to_le_bytes());
    row.extend_from_slice(&meta.expires.unwrap_or(0).to_le_bytes());
    row.extend_from_slice(&meta.checksum.to_le_bytes());
    row.extend_from_slice(&(content_type.len() as u16).to_le_bytes());
    row.extend_from_slice(content_type);
    if meta.in_chunks {
        row.extend_from_slice(&checksum(value).to_le_bytes());
    }
    row.extend_from_slice(value);
    row
}

/// Decodes the facts of a row and the offset of its value, or of its manifest. Errors with [`Kind::Damaged`].
pub fn decode_meta(row: &[u8]) -> Result<(Meta, usize)> {
    parse(row)
        .ok_or_else(|| Error::new(Kind::Damaged, "a stored record does not have the format of a record"))
}

fn parse(row: &[u8]) -> Option<(Meta, usize)> {
    let (format, rest) = row.split_first()?;
    let in_chunks = match *format {
        WHOLE => false,
        IN_CHUNKS => true,
        _ => return None,
    };
    let (version, rest) = rest.split_first_chunk::<8>()?;
    let (modified, rest) = rest.split_first_chunk::<8>()?;
    let (expires, rest) = rest.split_first_chunk::<8>()?;
    let (checksum, rest) = rest.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let (content_type, value) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    let expires = u64::from_le_bytes(*expires);
    let (value, size) = match in_chunks {
        true => {
            let manifest = value.get(4..)?;
            (manifest, chunk::size_of(manifest)?)
        }
        false => (value, value.len() as u64),
    };
    let meta = Meta {
        version: u64::from_le_bytes(*version),
        modified: u64::from_le_bytes(*modified),
        expires: (expires != 0).then_some(expires),
        checksum: u32::from_le_bytes(*checksum),
        content_type: std::str::from_utf8(content_type).ok()?.to_owned(),
        size,
        in_chunks,
    };
    Some((meta, row.len() - value.len()))
}

/// Checks the value, or the manifest, of a row against its checksum; what `offset` is see [`decode_meta`]. Errors with
/// [`Kind::Damaged`].
pub fn check(row: &[u8], meta: &Meta, offset: usize) -> Result<()> {
    let damaged = |what: &str| Error::new(Kind::Damaged, what);
    let body = &row[offset..];
    if !meta.in_chunks {
        return match checksum(body) == meta.checksum {
            true => Ok(()),
            false => Err(damaged("a stored value does not match its checksum")),
        };
    }
    if row[..offset].last_chunk::<4>() != Some(&checksum(body).to_le_bytes()) {
        return Err(damaged("a stored manifest does not match its checksum"));
    }
    Manifest::decode(body).map(drop)
}

impl Record {
    /// Decodes a row and checks the value, or its manifest, against its checksum. Errors with [`Kind::Damaged`].
    pub fn decode(row: Vec<u8>) -> Result<Record> {
        let (meta, offset) = decode_meta(&row)?;
        check(&row, &meta, offset)?;
        Ok(Record { meta, row, offset })
    }

    /// The manifest of a value that is in chunks.
    pub fn manifest(&self) -> Option<Manifest> {
        self.meta.in_chunks.then(|| Manifest::decode(self.value()).ok())?
    }

    /// The value; its manifest if it is in chunks.
    pub fn value(&self) -> &[u8] {
        &self.row[self.offset..]
    }

    /// The value without a copy; its manifest if it is in chunks.
    pub fn into_value(self) -> bytes::Bytes {
        bytes::Bytes::from(self.row).slice(self.offset..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn meta(value: &[u8]) -> Meta {
        Meta {
            version: 7,
            modified: 0x0102_0304,
            expires: Some(9),
            checksum: checksum(value),
            content_type: "a/b".into(),
            size: value.len() as u64,
            in_chunks: false,
        }
    }

    #[test]
    fn golden_record() {
        assert_eq!(checksum(b"123456789"), 0xCBF4_3926);
        let row = encode(&meta(b"happy"), b"happy");
        let mut golden = vec![1, 7, 0, 0, 0, 0, 0, 0, 0, 4, 3, 2, 1, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0];
        golden.extend_from_slice(&checksum(b"happy").to_le_bytes());
        golden.extend_from_slice(&[3, 0, b'a', b'/', b'b']);
        golden.extend_from_slice(b"happy");
        assert_eq!(row, golden);
    }

    #[test]
    fn golden_record_of_a_value_in_chunks() {
        let manifest = Manifest { size: 70_000, depth: 0, names: vec![chunk::Name([5; 32])] };
        let facts = Meta { size: 70_000, in_chunks: true, ..meta(b"happy") };
        let row = encode(&facts, &manifest.encode());
        let mut golden = encode(&meta(b"happy"), b"");
        golden[0] = 2;
        golden.extend_from_slice(&checksum(&manifest.encode()).to_le_bytes());
        golden.extend_from_slice(&manifest.encode());
        assert_eq!(row, golden);
        let record = Record::decode(row.clone()).unwrap();
        assert_eq!((record.meta.size, record.manifest()), (70_000, Some(manifest)));
        for bit in 0..8 * 36 {
            let mut rotten = row.clone();
            let last = row.len() - 1;
            rotten[last - bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Record::decode(rotten).unwrap_err().kind(), Kind::Damaged);
        }
    }

    #[test]
    fn a_flipped_bit_of_the_value_is_seen() {
        let mut row = encode(&meta(b"happy"), b"happy");
        let last = row.len() - 1;
        row[last] ^= 1;
        assert_eq!(Record::decode(row).unwrap_err().kind(), Kind::Damaged);
    }

    proptest! {
        #[test]
        fn records_come_back(version: u64, modified: u64, expires in proptest::option::of(1u64..), content_type in ".{0,20}", value: Vec<u8>) {
            let meta = Meta { version, modified, expires, checksum: checksum(&value), content_type, size: value.len() as u64, in_chunks: false };
            let record = Record::decode(encode(&meta, &value)).unwrap();
            prop_assert_eq!(record.value(), &value[..]);
            prop_assert_eq!(&record.meta, &meta);
            prop_assert_eq!(&record.into_value()[..], &value[..]);
        }

        #[test]
        fn arbitrary_bytes_never_panic(row: Vec<u8>) {
            let _ = Record::decode(row);
        }
    }
}
