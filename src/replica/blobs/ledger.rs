//! Which chunks must stay although no record of this member's state names them: those of uploads under way. No I/O.
//!
//! An upload belongs to the term of the leader that takes it, and has a number in it: together its [`Mark`]. Every member
//! that gets one of its chunks marks the chunk. What became of an upload is known to a member
//!
//! - once it has applied an entry of a later term: whatever the leader of the mark's term proposed stands in the log
//!   before that entry, or nowhere, and the state names what it refers to;
//! - or once the leader of that term has said that the upload has ended, and the member has applied as much as the leader
//!   had then ([`Statement`]).
//!
//! Until one of them holds, the chunk is held. Marks are in memory only: after a start every chunk counts as marked by all
//! uploads that may be under way, until the leader's word is that these have ended, or a later term has begun.
//!
//! While a collection runs, the ledger gathers the keys that got values in chunks meanwhile: what they name must stay.

use crate::store::chunk::Name;
use std::collections::{BTreeSet, HashMap, HashSet};

/// So many keys are gathered; beyond, the collection is given up.
const MOST_TOUCHED: usize = 100_000;
/// So many names are gathered; beyond, the collection is given up.
const MOST_NAMED: usize = 1_000_000;

/// An upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The term of the leader that takes it.
    pub term: u64,
    /// Its number; later ones have higher ones.
    pub number: u64,
}

/// What a leader says of its uploads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statement {
    /// Its term.
    pub term: u64,
    /// All uploads of this term with lower numbers have ended.
    pub low: u64,
    /// The number that the next one gets.
    pub next: u64,
    /// What it had applied then.
    pub applied: u64,
}

/// Every chunk that was there when this member was opened.
#[derive(Debug)]
struct Floor {
    term: u64,
    /// Uploads of that term that may have brought it have lower numbers, once the leader has told.
    below: Option<u64>,
}

/// The marks of one member.
#[derive(Debug)]
pub struct Ledger {
    applied: (u64, u64),
    floor: Option<Floor>,
    /// By [`Name::short`]: of two chunks with the same first bytes both are held.
    marks: HashMap<u64, Mark>,
    heard: Option<Statement>,
    /// The term in which this member led last, and its uploads that are under way.
    term: u64,
    next: u64,
    live: BTreeSet<u64>,
    touched: Option<Vec<Vec<u8>>>,
    /// What values named that were written since the collection began, whether or not they are replaced by now.
    named: HashSet<u64>,
}

impl Ledger {
    /// The ledger of a member that has applied up to the entry at `applied` (index, term) and whose log knows `term`.
    pub fn new(applied: (u64, u64), term: u64) -> Ledger {
        Ledger {
            applied,
            floor: Some(Floor { term, below: None }),
            marks: HashMap::new(),
            heard: None,
            term: 0,
            next: 0,
            live: BTreeSet::new(),
            touched: None,
            named: HashSet::new(),
        }
    }

    /// This member leads in `term` and takes an upload.
    pub fn begin(&mut self, term: u64) -> Mark {
        if self.term != term {
            self.term = term;
            self.live.clear();
        }
        let mark = Mark { term, number: self.next };
        self.next += 1;
        self.live.insert(mark.number);
        mark
    }

    /// What became of the upload is known, and applied if it was written. One whose outcome stays unknown never ends in its
    /// term.
    pub fn end(&mut self, mark: Mark) {
        if mark.term == self.term {
            self.live.remove(&mark.number);
        }
    }

    /// The chunk belongs to the upload. It must be marked before one looks whether it is there.
    pub fn mark(&mut self, name: &Name, mark: Mark) {
        let held = self.marks.entry(name.short()).or_insert(mark);
        *held = (*held).max(mark);
    }

    /// The word of this member, which leads in `term` and has applied an entry of it.
    pub fn statement(&self, term: u64) -> Statement {
        let low = if self.term == term { self.low() } else { self.next };
        Statement { term, low, next: self.next, applied: self.applied.0 }
    }

    /// The word of the leader.
    pub fn hear(&mut self, statement: Statement) {
        if let Some(floor) = &mut self.floor
            && floor.term == statement.term
        {
            floor.below.get_or_insert(statement.next);
        }
        if self.heard.is_none_or(|heard| heard.term <= statement.term) {
            self.heard = Some(statement);
        }
    }

    /// This member leads in `term` and has applied an entry of it: its own word.
    pub fn hear_oneself(&mut self, term: u64) {
        let statement = self.statement(term);
        self.hear(statement);
    }

    /// Entries up to this one are applied, and with them these keys got values in chunks.
    pub fn applied(&mut self, index: u64, term: u64, chunked: &[Vec<u8>]) {
        self.applied = (index, term);
        if let Some(touched) = &mut self.touched {
            match touched.len() + chunked.len() > MOST_TOUCHED {
                true => self.touched = None,
                false => touched.extend_from_slice(chunked),
            }
        }
    }

    /// The last entry that is known to be applied here.
    pub fn last_applied(&self) -> u64 {
        self.applied.0
    }

    /// All rows were replaced: a collection under way knows nothing of them.
    pub fn replaced(&mut self, index: u64, term: u64) {
        self.applied = (index, term);
        self.touched = None;
    }

    /// A collection begins: whatever gets a value in chunks from here on is gathered.
    pub fn begin_collection(&mut self) {
        self.touched = Some(Vec::new());
        self.named.clear();
        self.forget();
    }

    /// True while a collection is under way: what values name that are written now must be noted.
    pub fn is_collecting(&self) -> bool {
        self.touched.is_some()
    }

    /// A value was written that names these chunks.
    pub fn note_named(&mut self, names: &[Name]) {
        match self.named.len() + names.len() > MOST_NAMED {
            true => self.end_collection(),
            false => self.named.extend(names.iter().map(Name::short)),
        }
    }

    /// The collection has ended, or is given up.
    pub fn end_collection(&mut self) {
        self.touched = None;
        self.named.clear();
    }

    /// What was gathered since the last call; none if the collection must be given up.
    pub fn take_touched(&mut self) -> Option<Vec<Vec<u8>>> {
        self.touched.as_mut().map(std::mem::take)
    }

    /// True if the chunk must stay, whatever the state says: some upload held it when the collection under way began, or
    /// since, or a value named it since. What has ended counts too: somebody may read a value that was written meanwhile and
    /// is replaced by now.
    pub fn holds(&self, name: &Name) -> bool {
        let short = name.short();
        self.floor_stands() || self.marks.contains_key(&short) || self.named.contains(&short)
    }

    /// True if nothing can be collected before more is heard of the leader.
    pub fn waits(&self) -> bool {
        self.floor_stands()
    }

    /// True if the leader's word would free something.
    pub fn is_curious(&self) -> bool {
        self.floor_stands() || self.marks.values().any(|mark| !self.is_over(*mark))
    }

    /// All uploads of this member with lower numbers have ended.
    fn low(&self) -> u64 {
        self.live.first().copied().unwrap_or(self.next)
    }

    fn floor_stands(&self) -> bool {
        self.floor.as_ref().is_some_and(|floor| {
            let ended = floor.below.is_some_and(|below| {
                self.heard.is_some_and(|heard| {
                    heard.term == floor.term && heard.low >= below && self.applied.0 >= heard.applied
                })
            });
            self.applied.1 <= floor.term && !ended
        })
    }

    fn is_over(&self, mark: Mark) -> bool {
        if self.applied.1 > mark.term {
            return true;
        }
        if self.term == mark.term {
            // Earlier uploads may hold the same chunk: only the last one is noted. What became of those of earlier terms is
            // known with the first entry of this one.
            return self.applied.1 == mark.term && mark.number < self.low();
        }
        self.heard.is_some_and(|heard| {
            heard.term == mark.term && mark.number < heard.low && self.applied.0 >= heard.applied
        })
    }

    /// Forgets what is over.
    fn forget(&mut self) {
        if !self.floor_stands() {
            self.floor = None;
        }
        let over: Vec<u64> =
            self.marks.iter().filter(|(_, mark)| self.is_over(**mark)).map(|(short, _)| *short).collect();
        for short in over {
            self.marks.remove(&short);
        }
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
