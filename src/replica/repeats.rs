//! Repeats of requests: how the ids of requests are read, and what the machine remembers of them.
//!
//! A *plain* id stands for one request: its row and the row that orders it by age stay for ten minutes, whatever
//! comes. A *numbered* id, `SESSION:NUMBER`, is what the client library sends. A session has one request under way at
//! a time and counts them, so only its last one can still be repeated: one row per session, replaced by each of its
//! requests, and a row that orders sessions by age, moved once in ten minutes at most. So it is sessions that are
//! counted against the bound, not writes.

use super::command::{Command, Reply};
use crate::error::{Error, Kind, Result};
use std::io;

/// The bytes of a session.
pub type Session = [u8; 16];

/// The id of a request, as the machine reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestId<'a> {
    /// Stands for one request.
    Plain(&'a str),
    /// The request with this number of a session.
    Numbered(Session, u64),
}

impl RequestId<'_> {
    /// 32 hexadecimal digits in lower case, a colon, and a number without leading zeros are a numbered id; everything
    /// else is a plain one.
    pub fn parse(id: &str) -> RequestId<'_> {
        numbered(id).unwrap_or(RequestId::Plain(id))
    }
}

fn numbered(id: &str) -> Option<RequestId<'static>> {
    let (session, number) = id.split_once(':')?;
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if session.len() != 32 || !session.bytes().all(is_hex) {
        return None;
    }
    if number.starts_with('0') || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let session = u128::from_str_radix(session, 16).ok()?.to_be_bytes();
    Some(RequestId::Numbered(session, number.parse().ok()?))
}

/// What is remembered of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// The group's clock when it was executed, milliseconds.
    pub at: u64,
    /// [`fingerprint`] of its command.
    pub fingerprint: u32,
    /// The first reply.
    pub reply: Reply,
}

impl Remembered {
    /// The reply to a request under the same id.
    pub fn answer(self, fingerprint: u32) -> Reply {
        if self.fingerprint == fingerprint { self.reply } else { Reply::RequestIdReused }
    }

    /// Layout: clock u64 big-endian, fingerprint of the command u32 big-endian, the reply.
    pub fn encode(&self) -> Result<Vec<u8>> {
        self.append(Vec::new())
    }

    /// Errors: `Damaged`.
    pub fn decode(row: &[u8]) -> Result<Remembered> {
        let (at, rest) = row.split_first_chunk::<8>().ok_or_else(damaged)?;
        let (fingerprint, reply) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
        let reply = postcard::from_bytes(reply).map_err(|error| damaged().cause(error))?;
        let (at, fingerprint) = (u64::from_be_bytes(*at), u32::from_be_bytes(*fingerprint));
        Ok(Remembered { at, fingerprint, reply })
    }

    fn append(&self, mut row: Vec<u8>) -> Result<Vec<u8>> {
        row.extend_from_slice(&self.at.to_be_bytes());
        row.extend_from_slice(&self.fingerprint.to_be_bytes());
        postcard::to_extend(&self.reply, row)
            .map_err(|error| Error::new(Kind::Failed, "a reply does not encode").cause(error))
    }
}

/// What is remembered of a session: its last request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Last {
    /// The number of the request.
    pub number: u64,
    /// The slot of its keys: the row goes where the slot goes.
    pub slot: u16,
    /// The request.
    pub request: Remembered,
}

impl Last {
    /// The reply to the request `number` of the session, if it is not a new one.
    pub fn answer(self, number: u64, fingerprint: u32) -> Option<Reply> {
        match number.cmp(&self.number) {
            std::cmp::Ordering::Less => Some(Reply::RequestIdPassed),
            std::cmp::Ordering::Equal => Some(self.request.answer(fingerprint)),
            std::cmp::Ordering::Greater => None,
        }
    }

    /// Layout: number u64 big-endian, slot u16 big-endian, then as [`Remembered::encode`].
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut row = Vec::with_capacity(32);
        row.extend_from_slice(&self.number.to_be_bytes());
        row.extend_from_slice(&self.slot.to_be_bytes());
        self.request.append(row)
    }

    /// Errors: `Damaged`.
    pub fn decode(row: &[u8]) -> Result<Last> {
        let (number, rest) = row.split_first_chunk::<8>().ok_or_else(damaged)?;
        let (slot, rest) = rest.split_first_chunk::<2>().ok_or_else(damaged)?;
        let request = Remembered::decode(rest)?;
        Ok(Last { number: u64::from_be_bytes(*number), slot: u16::from_be_bytes(*slot), request })
    }
}

fn damaged() -> Error {
    Error::new(Kind::Damaged, "a remembered request is not readable")
}

/// Tells a repeat of a command from another command under the same request id: CRC-32 of its encoding.
pub fn fingerprint(command: &Command) -> Result<u32> {
    postcard::to_io(command, Checksum(crc32fast::Hasher::new()))
        .map(|sum| sum.0.finalize())
        .map_err(|error| Error::new(Kind::Failed, "a command does not encode").cause(error))
}

/// Takes the encoding of a command as it comes, so that a large value is not copied for it.
struct Checksum(crc32fast::Hasher);

impl io::Write for Checksum {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::command::{Condition, Put};
    use proptest::prelude::*;

    #[test]
    fn ids_are_plain_or_numbered() {
        let session = "00112233445566778899aabbccddeeff";
        let bytes = 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff_u128.to_be_bytes();
        let numbered = |number: &str| format!("{session}:{number}");
        for (number, value) in [("1", 1), ("20", 20), ("18446744073709551615", u64::MAX)] {
            assert_eq!(RequestId::parse(&numbered(number)), RequestId::Numbered(bytes, value));
        }
        for id in [
            session.to_owned(),
            numbered(""),
            numbered("0"),
            numbered("01"),
            numbered("+1"),
            numbered("1:2"),
            numbered("18446744073709551616"),
            numbered("1").to_uppercase(),
            numbered("1")[1..].to_owned(),
            format!("+{}:1", &session[1..]),
            "7f3a".to_owned(),
            ":1".to_owned(),
        ] {
            assert_eq!(RequestId::parse(&id), RequestId::Plain(&id));
        }
    }

    #[test]
    fn golden_rows() {
        let reply = Reply::Stored { version: 300, created: true };
        let request = Remembered { at: 258, fingerprint: 0x0a0b_0c0d, reply };
        let golden = [0, 0, 0, 0, 0, 0, 1, 2, 0x0a, 0x0b, 0x0c, 0x0d, 0, 0xac, 2, 1];
        assert_eq!(request.encode().unwrap(), golden);
        let last = Last { number: 259, slot: 0x0304, request };
        let golden = [&[0, 0, 0, 0, 0, 0, 1, 3, 3, 4][..], &golden].concat();
        assert_eq!(last.encode().unwrap(), golden);
        assert!(Last::decode(&golden[..21]).is_err());
    }

    #[test]
    fn a_fingerprint_is_the_checksum_of_the_encoding() {
        let put = Put {
            key: b"A".to_vec(),
            value: vec![7; 100_000],
            checksum: 1,
            content_type: "a/b".into(),
            ttl: Some(5),
            condition: Condition::Version(300),
        };
        for command in [Command::Put(put), Command::Clear] {
            let bytes = postcard::to_allocvec(&command).unwrap();
            assert_eq!(fingerprint(&command).unwrap(), crc32fast::hash(&bytes));
        }
    }

    proptest! {
        #[test]
        fn rows_come_back(number: u64, slot: u16, at: u64, fingerprint: u32, version: u64, created: bool) {
            let request = Remembered { at, fingerprint, reply: Reply::Stored { version, created } };
            prop_assert_eq!(&Remembered::decode(&request.encode().unwrap()).unwrap(), &request);
            let last = Last { number, slot, request };
            prop_assert_eq!(Last::decode(&last.encode().unwrap()).unwrap(), last);
        }

        #[test]
        fn arbitrary_rows_and_ids_never_panic(row: Vec<u8>, id: String, number in "[0-9a-f]{32}:[0-9]{0,21}") {
            let _ = (Remembered::decode(&row), Last::decode(&row), RequestId::parse(&id));
            let _ = RequestId::parse(&number);
        }
    }
}
