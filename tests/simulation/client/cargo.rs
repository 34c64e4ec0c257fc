//! A value that goes in as chunks: chunk by chunk, with pauses, and then the command that names them.

use crate::event::Question;
use crate::history::{self, History};
use crate::system::System;
use catstore::replica::chunk::CHUNK;
use catstore::replica::command::{Command, PutChunks, Request, Secured};
use catstore::replica::{Manifest, Name};

/// So many chunks are in many values.
const COMMON: u64 = 8;

/// An upload.
#[derive(Debug, Clone)]
pub struct Cargo {
    upload: u64,
    manifest: Manifest,
    chunks: Vec<Vec<u8>>,
    /// So many chunks are stored.
    stored: usize,
    /// It breaks off when so many chunks are stored.
    breaks_off: Option<usize>,
}

impl Cargo {
    /// Chunks for some value.
    pub fn new(sys: &mut System, history: &mut History) -> Cargo {
        let count = if sys.long_values && !sys.one_in(3) { sys.between(2, 4) } else { 1 };
        let mut chunks = Vec::new();
        for _ in 0..count {
            let common = sys.one_in(2);
            let number = if common { sys.between(1, COMMON) } else { COMMON + history.next_stamp() };
            chunks.push(format!("chunk {number}").into_bytes());
        }
        // The content of a chunk need not have the length that the manifest says.
        let size = (count - 1) * CHUNK as u64 + sys.between(1, 40);
        let names = chunks.iter().map(|chunk| Name::of(chunk)).collect();
        let breaks_off = sys.one_in(8).then(|| sys.between(1, count) as usize);
        let manifest = Manifest { size, depth: 0, names };
        Cargo { upload: sys.random.draw(), manifest, chunks, stored: 0, breaks_off }
    }

    /// What is to be asked next, for the write `request`.
    pub fn question(&self, request: &Question) -> Question {
        match (self.chunks.get(self.stored), request) {
            (Some(chunk), _) => Question::Store(self.upload, chunk.clone()),
            (None, Question::Write(request)) => Question::Commit(self.upload, self.command(request)),
            (None, question) => question.clone(),
        }
    }

    /// The command that names the chunks. Different values may have the same chunks: the checksum tells which one it is.
    fn command(&self, request: &Request) -> Request {
        let Command::Put(put) = &request.command else { return request.clone() };
        let command = PutChunks {
            key: put.key.clone(),
            manifest: self.manifest.encode(),
            checksum: history::stamp_of(put) as u32,
            content_type: put.content_type.clone(),
            ttl: put.ttl,
            condition: put.condition,
            secured: Secured::default(),
        };
        Request { id: request.id.clone(), command: Command::PutChunks(command) }
    }

    /// True while chunks are on their way, and no command is.
    pub fn is_arriving(&self) -> bool {
        self.stored < self.chunks.len()
    }

    /// A chunk is stored. True if the upload goes on.
    pub fn chunk_stored(&mut self) -> bool {
        self.stored += 1;
        self.breaks_off != Some(self.stored)
    }

    /// It did not go well: it may begin anew, under another number.
    pub fn again(&mut self, sys: &mut System, lacks: bool) {
        if lacks {
            self.stored = 0;
        }
        if lacks || sys.one_in(2) {
            self.upload = sys.random.draw();
        }
    }
}
