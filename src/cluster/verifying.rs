//! What a verification finds, counted: rows and bytes that were read, chunks and how they were, the keys that are hurt.
//! The counting is here; who reads what is elsewhere (`replica`, `store`).

use super::json::JsonBytes;
use serde::{Deserialize, Serialize};

/// So many hurt keys are named.
pub const MOST_NAMED: usize = 100;

/// How a chunk was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// As its name says.
    Whole,
    /// Other bytes than its name says, or bytes that the disk does not give.
    Rotten,
    /// Not there.
    Missing,
}

/// What has been found so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// Keys whose records were checked.
    pub keys: u64,
    /// Bytes of keys and values that were checked.
    pub bytes: u64,
    /// Chunks that were read and compared with their names.
    pub chunks: u64,
    /// Of these, those that held other bytes.
    pub rotten: u64,
    /// Of these, those that were not there.
    pub missing: u64,
    /// Of these, those that were rotten or missing and were written anew.
    pub mended: u64,
    /// How often rows were rotten, and all of them were pulled anew from another member.
    #[serde(default)]
    pub renewed: u64,
    /// Keys whose values cannot be read whole.
    pub hurt: u64,
    /// The first [`MOST_NAMED`] of them.
    pub hurt_keys: Vec<JsonBytes>,
    /// Why the last of them could not be mended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Findings {
    /// A record was checked, of a key and value of `bytes` bytes, chunks not counted.
    pub fn note_record(&mut self, bytes: u64) {
        self.keys += 1;
        self.bytes += bytes;
    }

    /// A chunk of `bytes` bytes was checked.
    pub fn note_chunk(&mut self, seen: Seen, bytes: u64) {
        self.chunks += 1;
        self.bytes += bytes;
        match seen {
            Seen::Whole => {}
            Seen::Rotten => self.rotten += 1,
            Seen::Missing => self.missing += 1,
        }
    }

    /// A chunk that was not whole was written anew.
    pub fn note_mended(&mut self) {
        self.mended += 1;
    }

    /// Rows were rotten, and all of them were pulled anew.
    pub fn note_renewed(&mut self) {
        self.renewed += 1;
    }

    /// The value of `key` cannot be read whole.
    pub fn note_hurt(&mut self, key: &[u8], reason: &str) {
        self.hurt += 1;
        self.reason = Some(reason.to_owned());
        if self.hurt_keys.len() < MOST_NAMED {
            self.hurt_keys.push(JsonBytes(key.to_vec()));
        }
    }

    /// True if nothing is hurt: everything was whole, or was mended.
    pub fn is_whole(&self) -> bool {
        self.hurt == 0
    }
}

/// Whether a verification goes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Course {
    /// It goes on.
    #[default]
    Running,
    /// Everything was read.
    Done,
    /// It came to nothing; the error says why.
    Failed,
}

/// The answer of `/verify/IDX`: how far the verification of a worker is, or how its last one ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// The worker.
    pub worker: u32,
    /// Counts the verifications since the worker was opened, from 1.
    pub number: u64,
    /// Whether it goes on.
    pub course: Course,
    /// Keys in all, about: they come and go meanwhile.
    pub keys_about: u64,
    /// Bytes of keys and values in all, about.
    pub bytes_about: u64,
    /// What has been found.
    #[serde(flatten)]
    pub findings: Findings,
    /// Milliseconds since it began, or that it took.
    pub milliseconds: u64,
    /// Milliseconds since it ended.
    #[serde(default)]
    pub ended_ms: Option<u64>,
    /// The kind of the error, as a stable word, if it failed.
    #[serde(default)]
    pub failure: Option<String>,
    /// The error, if it failed.
    #[serde(default)]
    pub error: Option<String>,
}

/// How the chunks of a worker are, since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkFacts {
    /// Chunks that were found rotten or missing when they were read, and were pulled from another member.
    pub mended: u64,
    /// How often a chunk was found rotten.
    pub rotten: u64,
    /// Chunks that were pulled because they were missing.
    pub fetched: u64,
    /// Chunks that were removed because nothing refers to them.
    pub collected: u64,
    /// Values that lack a chunk here that no member has given yet.
    pub lacking: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_is_counted() {
        let mut findings = Findings::default();
        findings.note_record(10);
        findings.note_chunk(Seen::Whole, 100);
        findings.note_chunk(Seen::Rotten, 100);
        findings.note_mended();
        findings.note_chunk(Seen::Missing, 100);
        findings.note_mended();
        let Findings { keys, bytes, chunks, rotten, missing, mended, .. } = findings;
        assert_eq!((keys, bytes, chunks, rotten, missing, mended), (1, 310, 3, 1, 1, 2));
        assert!(findings.is_whole());
        for key in 0..=MOST_NAMED {
            findings.note_hurt(&[0xff, key as u8], "no member has it");
        }
        assert!(!findings.is_whole());
        assert_eq!((findings.hurt, findings.hurt_keys.len()), (MOST_NAMED as u64 + 1, MOST_NAMED));
    }

    #[test]
    fn a_document_comes_back_whatever_the_keys_are() {
        let mut verification = Verification { worker: 2, number: 1, ..Verification::default() };
        verification.findings.note_hurt(b"\xff\"%00\n", "why");
        verification.findings.note_hurt(b"plain", "why");
        let text = serde_json::to_string(&verification).unwrap();
        assert!(text.contains(r#""course":"running""#) && text.contains(r#""plain""#), "{text}");
        assert_eq!(serde_json::from_str::<Verification>(&text).unwrap(), verification);
    }
}
