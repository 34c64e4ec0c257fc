//! What must hold all the time in one group, whatever happens: looked at after every step of every member.

use std::collections::BTreeMap;

/// What was seen of a group so far.
#[derive(Debug, Default)]
pub struct Watch {
    /// Which group, for messages.
    name: String,
    /// Who led each term.
    leaders: BTreeMap<u64, u64>,
    /// Committed entries by index: term and hash, as first applied anywhere.
    committed: Vec<Option<(u64, u64)>>,
    /// The state after each entry: term and digest of the rows.
    states: Vec<Option<(u64, u64)>>,
    /// Digests that commands asked for, by the entry that they are of.
    looks: BTreeMap<u64, String>,
    /// How many digests were compared with that of another member, or of an earlier life.
    pub compared: u64,
    /// The first thing that must not be.
    violation: Option<String>,
}

impl Watch {
    /// Nothing was seen of the group `name`.
    pub fn new(name: String) -> Watch {
        Watch { name, ..Watch::default() }
    }

    /// Something that must not be.
    pub fn fail(&mut self, why: String) {
        if self.violation.is_none() {
            self.violation = Some(format!("{}: {why}", self.name));
        }
    }

    /// The first thing that must not be.
    pub fn violation(&self) -> Option<&String> {
        self.violation.as_ref()
    }

    /// Member `id` says that it leads `term`.
    pub fn leads(&mut self, term: u64, id: u64) {
        let first = *self.leaders.entry(term).or_insert(id);
        if first != id {
            self.fail(format!("members {first} and {id} both lead term {term}"));
        }
    }

    /// Member `id` took the entry at `index` for committed.
    pub fn committed(&mut self, id: u64, index: u64, term: u64, hash: u64) {
        match note(&mut self.committed, index, (term, hash)) {
            Some(before) if before != (term, hash) => self.fail(format!(
                "entry {index} was committed as (term, hash) {before:?}; member {id} has {:?}",
                (term, hash)
            )),
            _ => {}
        }
    }

    /// The rows of member `id` are as entry `index` left them.
    pub fn state(&mut self, id: u64, index: u64, term: u64, digest: u64) {
        match note(&mut self.states, index, (term, digest)) {
            Some(before) if before != (term, digest) => self.fail(format!(
                "the state of member {id} at entry {index} is (term, digest) {:?}, elsewhere {before:?}",
                (term, digest)
            )),
            Some(_) => self.compared += 1,
            None => {}
        }
    }

    /// A digest that a command asked for.
    pub fn looked(&mut self, id: u64, index: u64, hash: String) {
        let first = self.looks.entry(index).or_insert_with(|| hash.clone()).clone();
        if first != hash {
            self.fail(format!("the digest of member {id} at entry {index} is {hash}, elsewhere {first}"));
        }
    }
}

/// Returns what was noted there before, or notes it.
fn note<T: Copy>(seen: &mut Vec<Option<T>>, index: u64, value: T) -> Option<T> {
    let position = index as usize;
    if seen.len() <= position {
        seen.resize(position + 1, None);
    }
    let before = seen[position];
    if before.is_none() {
        seen[position] = Some(value);
    }
    before
}
