//! Writes a table of LevelDB, as its `doc/table_format.md` describes them: blocks of rows, an index, a footer.
//!
//! LevelDB's own way for a row is its write-ahead log, its memtable and then a table. What arrives in order and is of no
//! use before it is whole needs only the last of them.

use super::tables::{FOOTER, MAGIC, masked_crc};

/// A key is written whole after so many that leave out what they share with the one before.
const RESTART: usize = 16;
/// Behind a row, for LevelDB: sequence number 1, and that this is a value. No two rows are equal, so that no two need
/// numbers of their own.
const SUFFIX: [u8; 8] = [1, 1, 0, 0, 0, 0, 0, 0];
/// The sequence number of every row.
pub(super) const SEQUENCE: u64 = 1;

/// A table in the making, in memory.
pub(super) struct TableWriter {
    bytes: Vec<u8>,
    /// A block ends after so many bytes.
    block: usize,
    /// Where the block begins that is being filled.
    begin: usize,
    restarts: Vec<u32>,
    in_run: usize,
    first: Vec<u8>,
    last: Vec<u8>,
    index: Block,
}

/// A whole table.
pub(super) struct Table {
    pub(super) bytes: Vec<u8>,
    /// The first key, with LevelDB's suffix.
    pub(super) first: Vec<u8>,
    /// The last one, likewise.
    pub(super) last: Vec<u8>,
}

/// A block without shared beginnings of keys.
#[derive(Default)]
struct Block {
    bytes: Vec<u8>,
    restarts: Vec<u32>,
}

impl TableWriter {
    /// An empty one whose blocks end after `block` bytes.
    pub(super) fn new(block: usize) -> TableWriter {
        TableWriter {
            bytes: Vec::new(),
            block,
            begin: 0,
            restarts: Vec::new(),
            in_run: 0,
            first: Vec::new(),
            last: Vec::new(),
            index: Block::default(),
        }
    }

    /// Adds a row, which comes behind all that were added.
    pub(super) fn add(&mut self, row: &[u8], value: &[u8]) {
        let mut shared = 0;
        if self.restarts.is_empty() || self.in_run == RESTART {
            self.restarts.push((self.bytes.len() - self.begin) as u32);
            self.in_run = 0;
        } else {
            let before = &self.last[..self.last.len() - SUFFIX.len()];
            shared = row.iter().zip(before).take_while(|(one, other)| one == other).count();
        }
        self.in_run += 1;
        varint(&mut self.bytes, shared as u64);
        varint(&mut self.bytes, (row.len() - shared + SUFFIX.len()) as u64);
        varint(&mut self.bytes, value.len() as u64);
        self.bytes.extend_from_slice(&row[shared..]);
        self.bytes.extend_from_slice(&SUFFIX);
        self.bytes.extend_from_slice(value);
        self.last.clear();
        self.last.extend_from_slice(row);
        self.last.extend_from_slice(&SUFFIX);
        if self.first.is_empty() {
            self.first.clone_from(&self.last);
        }
        if self.bytes.len() - self.begin >= self.block {
            self.end_block();
        }
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The whole table.
    pub(super) fn finish(mut self) -> Table {
        self.end_block();
        let meta = seal(&mut self.bytes, Block::default());
        let index = seal(&mut self.bytes, std::mem::take(&mut self.index));
        let footer = self.bytes.len();
        for handle in [meta, index] {
            handle.write(&mut self.bytes);
        }
        self.bytes.resize(footer + FOOTER - size_of_val(&MAGIC), 0);
        self.bytes.extend_from_slice(&MAGIC.to_le_bytes());
        Table { bytes: self.bytes, first: self.first, last: self.last }
    }

    fn end_block(&mut self) {
        if self.restarts.is_empty() {
            return;
        }
        let handle = seal_in_place(&mut self.bytes, self.begin, &self.restarts);
        self.restarts.clear();
        self.begin = self.bytes.len();
        let mut place = Vec::with_capacity(20);
        handle.write(&mut place);
        self.index.add(&self.last, &place);
    }
}

impl Block {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        self.restarts.push(self.bytes.len() as u32);
        for number in [0, key.len(), value.len()] {
            varint(&mut self.bytes, number as u64);
        }
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
    }
}

/// Where a block lies.
struct Handle {
    offset: usize,
    size: usize,
}

impl Handle {
    fn write(&self, to: &mut Vec<u8>) {
        varint(to, self.offset as u64);
        varint(to, self.size as u64);
    }
}

/// Appends a block.
fn seal(bytes: &mut Vec<u8>, block: Block) -> Handle {
    let begin = bytes.len();
    bytes.extend_from_slice(&block.bytes);
    // A block without entries has one restart too.
    let restarts = if block.restarts.is_empty() { vec![0] } else { block.restarts };
    seal_in_place(bytes, begin, &restarts)
}

/// Ends the block whose entries begin at `begin`: its restarts, that it is not compressed, its checksum.
fn seal_in_place(bytes: &mut Vec<u8>, begin: usize, restarts: &[u32]) -> Handle {
    for restart in restarts {
        bytes.extend_from_slice(&restart.to_le_bytes());
    }
    bytes.extend_from_slice(&(restarts.len() as u32).to_le_bytes());
    let size = bytes.len() - begin;
    bytes.push(0);
    let checksum = masked_crc(&[&bytes[begin..]]);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    Handle { offset: begin, size }
}

/// Appends a number in LevelDB's form: seven bits a byte, the lowest first.
pub(super) fn varint(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}
