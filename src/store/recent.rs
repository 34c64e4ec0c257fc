//! What a log keeps in memory: the term of every entry, and the entries that are read soon.
//!
//! Terms are kept as runs, of which there are as many as elections. The newest entries are kept up to a number of
//! bytes: Raft reads each entry back when it is committed, moments after it was written.

use protobuf::Message;
use raft::eraftpb::Entry;
use std::collections::VecDeque;

const MAX_BYTES: usize = 4 << 20;

/// Terms and newest entries of a log.
pub(super) struct Recent {
    /// (first index, term) of each run; the first run begins at the truncated index.
    runs: VecDeque<(u64, u64)>,
    last: u64,
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl Recent {
    /// Of an empty log behind `truncated`.
    pub(super) fn new(truncated: (u64, u64)) -> Recent {
        Recent { runs: [truncated].into(), last: truncated.0, entries: VecDeque::new(), bytes: 0 }
    }

    /// Appends contiguous entries, at most one behind the last; the first replaces what was at its index and behind.
    pub(super) fn append(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first().map(|entry| entry.index) else {
            return;
        };
        while self.runs.len() > 1 && self.runs.back().is_some_and(|(start, _)| *start >= first) {
            self.runs.pop_back();
        }
        while let Some(entry) = self.entries.back().filter(|entry| entry.index >= first) {
            self.bytes -= size(entry);
            self.entries.pop_back();
        }
        for entry in entries {
            if self.runs.back().is_none_or(|(_, term)| *term != entry.term) {
                self.runs.push_back((entry.index, entry.term));
            }
            self.last = entry.index;
            self.bytes += size(&entry);
            self.entries.push_back(entry);
        }
        while self.bytes > MAX_BYTES && self.entries.len() > 1 {
            self.forget_oldest();
        }
    }

    /// Forgets entries up to and including `index`.
    pub(super) fn cut(&mut self, index: u64) {
        while self.entries.front().is_some_and(|entry| entry.index <= index) {
            self.forget_oldest();
        }
        while self.runs.get(1).is_some_and(|(start, _)| *start <= index) {
            self.runs.pop_front();
        }
        if let Some(run) = self.runs.front_mut() {
            run.0 = index;
        }
    }

    /// The term at `index`, from the truncated index to the last.
    pub(super) fn term(&self, index: u64) -> Option<u64> {
        if index > self.last {
            return None;
        }
        let behind = self.runs.partition_point(|(start, _)| *start <= index);
        Some(self.runs.get(behind.checked_sub(1)?)?.1)
    }

    /// Entries with `low <= index < high`, at least one, at most about `max_bytes`, if all of them are kept.
    pub(super) fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Option<Vec<Entry>> {
        let start = usize::try_from(low.checked_sub(self.entries.front()?.index)?).ok()?;
        let mut bytes = 0;
        let mut entries = Vec::new();
        for entry in self.entries.range(start.min(self.entries.len())..) {
            bytes += size(entry) as u64;
            if entry.index >= high || (bytes > max_bytes && !entries.is_empty()) {
                break;
            }
            entries.push(entry.clone());
        }
        Some(entries)
    }

    fn forget_oldest(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= size(&entry);
        }
    }
}

fn size(entry: &Entry) -> usize {
    entry.compute_size() as usize
}
