//! Values in chunks: how a large value is cut, and the manifest that stands for it in its record.
//!
//! A value of more than [`INLINE`] bytes is cut into chunks of [`CHUNK`] bytes, the last one shorter. A chunk is named
//! by the BLAKE3 hash of its bytes, and the manifest names the chunks in order. A value of more than [`MOST_NAMES`]
//! chunks has a tree: its manifest names *nodes*, which are chunks themselves and hold the names of up to
//! [`NODE_NAMES`] chunks each.
//!
//! Why 1 MiB: it is the least that is read and checked for one byte, and the most that a stream holds of a value several
//! times over, so that a hundred streams fit into memory; a name costs 32 bytes in a million, 1 TiB needs 1048576 files
//! and a record of 1 KiB; and disks reach their full speed with writes of that size.
//!
//! Layout of a manifest, numbers little-endian: size of the value u64, depth u8 (0: names of chunks, 1: names of
//! nodes), then the names of 32 bytes each.

use crate::cluster::frames;
use crate::error::{Error, Kind, Result};
use std::fmt;

/// Values up to so many bytes stand in their record.
pub const INLINE: usize = 64 << 10;
/// Bytes of a chunk.
pub const CHUNK: usize = frames::CHUNK;
/// Bytes of a name.
pub const NAME: usize = 32;
/// A manifest has at most so many names: 64 KiB of them.
pub const MOST_NAMES: usize = (64 << 10) / NAME;
/// A node has at most so many names: a chunk full of them.
pub const NODE_NAMES: usize = CHUNK / NAME;
/// The largest value that a manifest can stand for.
pub const MOST_BYTES: u64 = (MOST_NAMES * NODE_NAMES * CHUNK) as u64;

const HEADER: usize = 8 + 1;

/// The name of a chunk: the BLAKE3 hash of its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(pub [u8; NAME]);

impl Name {
    /// The name of the chunk with these bytes.
    pub fn of(bytes: &[u8]) -> Name {
        Name(frames::hash(bytes))
    }

    /// Reads names that stand one behind another; none if `bytes` is not a whole number of them.
    pub fn list(bytes: &[u8]) -> Option<Vec<Name>> {
        let (names, rest) = bytes.as_chunks::<NAME>();
        rest.is_empty().then(|| names.iter().map(|name| Name(*name)).collect())
    }

    /// The name as 64 hexadecimal digits.
    pub fn hex(&self) -> String {
        blake3::Hash::from(self.0).to_hex().to_string()
    }

    /// Reads 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Name> {
        blake3::Hash::from_hex(text).ok().map(|hash| Name(*hash.as_bytes()))
    }

    /// The first eight bytes, for sets that may take two chunks for one.
    pub fn short(&self) -> u64 {
        self.0.first_chunk::<8>().map_or(0, |first| u64::from_be_bytes(*first))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex()[..16])
    }
}

/// What stands for a value that is stored in chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Bytes of the value.
    pub size: u64,
    /// 0 if the names are those of chunks, 1 if they are those of nodes.
    pub depth: u8,
    /// The names, in order.
    pub names: Vec<Name>,
}

impl Manifest {
    /// How many chunks the value has.
    pub fn chunks(&self) -> u64 {
        frames::count(self.size)
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + NAME * self.names.len());
        bytes.extend_from_slice(&self.size.to_le_bytes());
        bytes.push(self.depth);
        self.names.iter().for_each(|name| bytes.extend_from_slice(&name.0));
        bytes
    }

    /// Reads what [`Manifest::encode`] wrote. Errors with [`Kind::Damaged`] if it is not the manifest of any value.
    pub fn decode(bytes: &[u8]) -> Result<Manifest> {
        parse(bytes).ok_or_else(|| Error::new(Kind::Damaged, "this is not the manifest of a value"))
    }

    /// The length of the chunk with this number, in bytes.
    pub fn length_of(&self, chunk: u64) -> usize {
        frames::length_of(chunk, self.size) as usize
    }

    /// The number of names in the node with this number.
    pub fn names_in(&self, node: usize) -> usize {
        let before = node as u64 * NODE_NAMES as u64;
        self.chunks().saturating_sub(before).min(NODE_NAMES as u64) as usize
    }

    /// Reads a node. Errors with [`Kind::Damaged`] if it does not hold as many names as it must.
    pub fn read_node(&self, node: usize, bytes: &[u8]) -> Result<Vec<Name>> {
        let names = Name::list(bytes).filter(|names| names.len() == self.names_in(node));
        names.ok_or_else(|| {
            Error::new(Kind::Damaged, "a node of a value does not hold the names that it must")
        })
    }
}

/// The size that a manifest states, without reading its names.
pub fn size_of(manifest: &[u8]) -> Option<u64> {
    manifest.first_chunk::<8>().map(|size| u64::from_le_bytes(*size))
}

fn parse(bytes: &[u8]) -> Option<Manifest> {
    let (size, rest) = bytes.split_first_chunk::<8>()?;
    let (depth, rest) = rest.split_first()?;
    let (size, names) = (u64::from_le_bytes(*size), Name::list(rest)?);
    let expected = match depth {
        0 => frames::count(size),
        1 => frames::count(size).div_ceil(NODE_NAMES as u64),
        _ => return None,
    };
    let fits = names.len() as u64 == expected && (1..=MOST_NAMES).contains(&names.len());
    // A value has one manifest: a tree only where the names do not fit.
    let needed = (*depth == 1) == (frames::count(size) > MOST_NAMES as u64);
    (fits && needed).then_some(Manifest { size, depth: *depth, names })
}

/// Makes a manifest while a value comes in.
#[derive(Debug, Default)]
pub struct Builder {
    size: u64,
    leaves: Vec<Name>,
    nodes: Vec<Name>,
}

impl Builder {
    /// The value goes on with the chunk `name` of `length` bytes. Returns a node that is full: it must be stored as a
    /// chunk.
    pub fn push(&mut self, name: Name, length: usize) -> Option<Vec<u8>> {
        self.size += length as u64;
        self.leaves.push(name);
        (self.leaves.len() == NODE_NAMES).then(|| self.close_node())
    }

    /// Bytes so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The value ends here: its manifest, and the last node if it has any.
    pub fn finish(mut self) -> (Manifest, Option<Vec<u8>>) {
        if self.nodes.is_empty() && self.leaves.len() <= MOST_NAMES {
            return (Manifest { size: self.size, depth: 0, names: self.leaves }, None);
        }
        let last = (!self.leaves.is_empty()).then(|| self.close_node());
        (Manifest { size: self.size, depth: 1, names: self.nodes }, last)
    }

    fn close_node(&mut self) -> Vec<u8> {
        let node: Vec<u8> = self.leaves.drain(..).flat_map(|name| name.0).collect();
        self.nodes.push(Name::of(&node));
        node
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The manifest of a value of `chunks` chunks, the last one of `last` bytes, and its nodes.
    fn built(chunks: usize, last: usize) -> (Manifest, Vec<Vec<u8>>) {
        let (mut builder, mut nodes) = (Builder::default(), Vec::new());
        for number in 0..chunks {
            let length = if number + 1 == chunks { last } else { CHUNK };
            nodes.extend(builder.push(Name::of(&number.to_be_bytes()), length));
        }
        let (manifest, node) = builder.finish();
        nodes.extend(node);
        (manifest, nodes)
    }

    #[test]
    fn golden_manifest() {
        let manifest = Manifest { size: 258, depth: 0, names: vec![Name([7; NAME])] };
        let mut golden = vec![2, 1, 0, 0, 0, 0, 0, 0, 0];
        golden.extend_from_slice(&[7; NAME]);
        assert_eq!(manifest.encode(), golden);
        assert_eq!(Manifest::decode(&golden).unwrap(), manifest);
        assert_eq!((INLINE, CHUNK, NAME), (65_536, 1_048_576, 32));
        let abc = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";
        assert_eq!(Name::of(b"abc").hex(), abc);
        assert_eq!(Name::from_hex(abc), Some(Name::of(b"abc")));
    }

    #[test]
    fn a_large_value_has_a_tree_and_a_small_record() {
        for (chunks, depth, names) in [
            (1, 0, 1),
            (MOST_NAMES, 0, MOST_NAMES),
            (MOST_NAMES + 1, 1, 1),
            (NODE_NAMES, 1, 1),
            (NODE_NAMES + 1, 1, 2),
        ] {
            let (manifest, nodes) = built(chunks, 5);
            assert_eq!((manifest.depth, manifest.names.len()), (depth, names), "{chunks} chunks");
            assert_eq!(manifest.size, ((chunks - 1) * CHUNK + 5) as u64);
            assert_eq!(manifest.chunks(), chunks as u64);
            assert_eq!(nodes.len(), if depth == 0 { 0 } else { names });
            for (number, node) in nodes.iter().enumerate() {
                assert_eq!(Name::of(node), manifest.names[number]);
                assert_eq!(manifest.read_node(number, node).unwrap().len(), manifest.names_in(number));
            }
            assert_eq!(Manifest::decode(&manifest.encode()).unwrap(), manifest);
            assert_eq!(manifest.length_of(chunks as u64 - 1), 5);
        }
        const { assert!(MOST_BYTES >= 1 << 40) };
    }

    #[test]
    fn what_fits_no_value_is_refused() {
        let (manifest, _) = built(3, 9);
        let refused = |change: &dyn Fn(&mut Manifest)| {
            let mut other = manifest.clone();
            change(&mut other);
            assert_eq!(Manifest::decode(&other.encode()).unwrap_err().kind(), Kind::Damaged);
        };
        refused(&|manifest| manifest.size += CHUNK as u64);
        refused(&|manifest| manifest.size = 0);
        refused(&|manifest| manifest.depth = 1);
        refused(&|manifest| manifest.depth = 2);
        refused(&|manifest| manifest.names.truncate(2));
        assert!(manifest.read_node(0, &[0; 31]).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = Manifest::decode(&bytes);
        }
    }
}
