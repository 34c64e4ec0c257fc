//! The format in which an upload goes on: the hashes of chunks, and the frames that carry those that are missing. The
//! client writes it and the server reads it. No I/O here.
//!
//! A frame is the BLAKE3 hash of a chunk (32 bytes), its length (`u32`, big-endian), one byte that is 1 if the chunk's
//! bytes follow and 0 if the store has them, and the bytes.

/// All chunks of a value but the last have this length in bytes.
pub const CHUNK: usize = 1 << 20;
/// At most so many hashes are asked for at once.
pub const MOST_HASHES: usize = 32_768;
/// The bytes of a frame before those of its chunk.
pub const HEAD: usize = 37;

/// The name of a chunk.
pub type Hash = [u8; 32];

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// The name of the chunk.
    pub hash: Hash,
    /// How many bytes it has.
    pub length: u32,
    /// Its bytes follow.
    pub follows: bool,
}

impl Frame {
    /// The head as it travels.
    pub fn encode(&self) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        bytes[..32].copy_from_slice(&self.hash);
        bytes[32..36].copy_from_slice(&self.length.to_be_bytes());
        bytes[36] = u8::from(self.follows);
        bytes
    }

    /// Reads a head; `None` if it names a length that no chunk has, or its last byte is neither 0 nor 1.
    pub fn decode(bytes: &[u8; HEAD]) -> Option<Frame> {
        let (hash, rest) = bytes.split_first_chunk::<32>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let length = u32::from_be_bytes(*length);
        let follows = match rest {
            [0] => false,
            [1] => true,
            _ => return None,
        };
        (1..=CHUNK as u32).contains(&length).then_some(Frame { hash: *hash, length, follows })
    }
}

/// The name of the chunk that has these bytes.
pub fn hash(chunk: &[u8]) -> Hash {
    *blake3::hash(chunk).as_bytes()
}

/// How many chunks a value of `length` bytes has.
pub fn count(length: u64) -> u64 {
    length.div_ceil(CHUNK as u64)
}

/// How many bytes the chunk at `index` of a value of `length` bytes has.
pub fn length_of(index: u64, length: u64) -> u32 {
    length.saturating_sub(index.saturating_mul(CHUNK as u64)).min(CHUNK as u64) as u32
}

/// Which of `asked` chunks the store holds, by its answer; `None` if that is none.
pub fn held(answer: &[u8], asked: usize) -> Option<Vec<bool>> {
    if answer.len() != asked {
        return None;
    }
    let flag = |byte: &u8| match byte {
        b'0' => Some(false),
        b'1' => Some(true),
        _ => None,
    };
    answer.iter().map(flag).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_byte_of_a_frame() {
        let frame = Frame { hash: [7; 32], length: 0x0001_0203, follows: true };
        let mut expected = vec![7; 32];
        expected.extend([0, 1, 2, 3, 1]);
        assert_eq!(frame.encode().as_slice(), expected);
        assert_eq!(hash(b"")[..4], [0xaf, 0x13, 0x49, 0xb9]);
    }

    #[test]
    fn answers_of_another_form_are_none() {
        assert_eq!(held(b"01", 2), Some(vec![false, true]));
        assert_eq!(held(b"", 0), Some(vec![]));
        assert_eq!(held(b"01\n", 2), None);
        assert_eq!(held(b"0", 2), None);
        assert_eq!(held(b"0x", 2), None);
    }

    proptest! {
        #[test]
        fn frames_come_back(hash: Hash, length in 1..=CHUNK as u32, follows: bool) {
            let frame = Frame { hash, length, follows };
            prop_assert_eq!(Frame::decode(&frame.encode()), Some(frame));
        }

        #[test]
        fn what_is_read_is_what_was_written(hash: Hash, length: u32, last: u8) {
            let mut bytes = Frame { hash, length, follows: false }.encode();
            bytes[36] = last;
            match Frame::decode(&bytes) {
                Some(frame) => prop_assert_eq!(frame.encode(), bytes),
                None => prop_assert!(last > 1 || length == 0 || length > CHUNK as u32),
            }
        }

        #[test]
        fn chunks_make_up_the_value(length in 0..(1u64 << 40)) {
            let chunks = count(length);
            let last = chunks.checked_sub(1).map_or(0, |index| u64::from(length_of(index, length)));
            prop_assert_eq!(chunks.saturating_sub(1) * CHUNK as u64 + last, length);
            prop_assert!(chunks == 0 || last > 0);
            prop_assert_eq!(length_of(chunks, length), 0);
        }
    }
}
