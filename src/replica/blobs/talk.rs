//! What the members of a group say to each other about chunks. Each question travels in an envelope of its own
//! (`parcel.rs`), so that strangers are refused before anything of it is looked at.
//!
//! Layout, numbers big-endian: kind u8, then for 1 (take) term u64, number u64, name, bytes; for 2 (held) term u64, number
//! u64, names; for 3 (give) name; for 4 (word) nothing. Answers: to take nothing; to held one byte for each name, 1 if it
//! is there; to give 1 and the bytes, or 0; to word term, low, next and applied, u64 each.

use super::ledger::{Mark, Statement};
use crate::error::{Error, Kind, Result};
use crate::store::chunk::{NAME, Name};

/// A question to another member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// Keep this chunk, which belongs to the upload.
    Take(Mark, Name, Vec<u8>),
    /// Which of these chunks, which belong to the upload, are there?
    Held(Mark, Vec<Name>),
    /// Give me this chunk.
    Give(Name),
    /// Which uploads are under way?
    Word,
}

const TAKE: u8 = 1;
const HELD: u8 = 2;
const GIVE: u8 = 3;
const WORD: u8 = 4;

impl Question {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Question::Take(mark, name, bytes) => take(*mark, name, bytes),
            Question::Held(mark, names) => {
                let mut question = with_mark(HELD, *mark, NAME * names.len());
                names.iter().for_each(|name| question.extend_from_slice(&name.0));
                question
            }
            Question::Give(name) => [&[GIVE], &name.0[..]].concat(),
            Question::Word => vec![WORD],
        }
    }

    /// Reads what [`Question::encode`] wrote. Errors with `BadRequest`.
    pub fn decode(bytes: &[u8]) -> Result<Question> {
        parse(bytes).ok_or_else(|| Error::new(Kind::BadRequest, "this is no question about chunks"))
    }
}

/// A [`Question::Take`], without a copy of the chunk more than is needed.
pub fn take(mark: Mark, name: &Name, bytes: &[u8]) -> Vec<u8> {
    let mut question = with_mark(TAKE, mark, NAME + bytes.len());
    question.extend_from_slice(&name.0);
    question.extend_from_slice(bytes);
    question
}

fn with_mark(kind: u8, mark: Mark, room: usize) -> Vec<u8> {
    let mut question = Vec::with_capacity(1 + 16 + room);
    question.push(kind);
    question.extend_from_slice(&mark.term.to_be_bytes());
    question.extend_from_slice(&mark.number.to_be_bytes());
    question
}

fn parse(bytes: &[u8]) -> Option<Question> {
    let (kind, rest) = bytes.split_first()?;
    match *kind {
        TAKE => {
            let (mark, rest) = mark(rest)?;
            let (name, bytes) = rest.split_first_chunk::<NAME>()?;
            Some(Question::Take(mark, Name(*name), bytes.to_vec()))
        }
        HELD => {
            let (mark, rest) = mark(rest)?;
            Some(Question::Held(mark, Name::list(rest)?))
        }
        GIVE => Some(Question::Give(Name(rest.try_into().ok()?))),
        WORD => rest.is_empty().then_some(Question::Word),
        _ => None,
    }
}

fn mark(bytes: &[u8]) -> Option<(Mark, &[u8])> {
    let (term, rest) = bytes.split_first_chunk::<8>()?;
    let (number, rest) = rest.split_first_chunk::<8>()?;
    Some((Mark { term: u64::from_be_bytes(*term), number: u64::from_be_bytes(*number) }, rest))
}

/// The answer to [`Question::Word`].
pub fn encode_word(word: &Statement) -> Vec<u8> {
    [word.term, word.low, word.next, word.applied].iter().flat_map(|number| number.to_be_bytes()).collect()
}

/// Reads the answer to [`Question::Word`].
pub fn decode_word(bytes: &[u8]) -> Result<Statement> {
    let (numbers, rest) = bytes.as_chunks::<8>();
    match (numbers, rest) {
        ([term, low, next, applied], []) => Ok(Statement {
            term: u64::from_be_bytes(*term),
            low: u64::from_be_bytes(*low),
            next: u64::from_be_bytes(*next),
            applied: u64::from_be_bytes(*applied),
        }),
        _ => Err(unreadable()),
    }
}

/// The answer to [`Question::Give`].
pub fn encode_gift(chunk: Option<Vec<u8>>) -> Vec<u8> {
    match chunk {
        Some(mut bytes) => {
            bytes.push(1);
            bytes
        }
        None => vec![0],
    }
}

/// Reads the answer to [`Question::Give`]; the bytes must be those of the chunk `name`.
pub fn decode_gift(name: &Name, mut answer: Vec<u8>) -> Result<Option<Vec<u8>>> {
    match answer.pop() {
        Some(0) if answer.is_empty() => Ok(None),
        Some(1) if Name::of(&answer) == *name => Ok(Some(answer)),
        Some(1) => Err(Error::new(Kind::Damaged, "a chunk arrived with other bytes than its own")),
        _ => Err(unreadable()),
    }
}

/// Reads the answer to [`Question::Held`] with so many names.
pub fn decode_held(names: usize, answer: &[u8]) -> Result<Vec<bool>> {
    match answer.len() == names {
        true => Ok(answer.iter().map(|held| *held == 1).collect()),
        false => Err(unreadable()),
    }
}

fn unreadable() -> Error {
    Error::new(Kind::Unreachable, "what a member says of its chunks is not readable")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn questions_come_back(term: u64, number: u64, name: [u8; 32], bytes: Vec<u8>, names: Vec<[u8; 32]>) {
            let (mark, name) = (Mark { term, number }, Name(name));
            let names: Vec<Name> = names.into_iter().map(Name).collect();
            for question in [
                Question::Take(mark, name, bytes.clone()),
                Question::Held(mark, names),
                Question::Give(name),
                Question::Word,
            ] {
                prop_assert_eq!(Question::decode(&question.encode()).unwrap(), question);
            }
            let word = Statement { term, low: number, next: 3, applied: 9 };
            prop_assert_eq!(decode_word(&encode_word(&word)).unwrap(), word);
            let own = Name::of(&bytes);
            prop_assert_eq!(decode_gift(&own, encode_gift(Some(bytes.clone()))).unwrap(), Some(bytes));
            prop_assert_eq!(decode_gift(&own, encode_gift(None)).unwrap(), None);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = (Question::decode(&bytes), decode_word(&bytes), decode_held(3, &bytes));
            let _ = decode_gift(&Name([0; 32]), bytes);
        }
    }

    #[test]
    fn a_gift_with_other_bytes_is_refused() {
        let name = Name::of(b"meow");
        assert!(decode_gift(&name, encode_gift(Some(b"meoW".to_vec()))).is_err());
        assert!(decode_gift(&name, Vec::new()).is_err());
    }
}
