//! Is a history of one key linearizable? The algorithm of Wing and Gong ("Testing and Verifying Concurrent Objects",
//! 1993) with the memory of Lowe ("Testing for Linearizability", 2017): depth first through the orders that real time
//! allows, never twice from the same set of operations with the same outcome.
//!
//! A key's state is the stamp of the value that it holds, a number that no other write has, or nothing. An operation
//! without a return may have taken effect at any time after its invocation, or never. What is checked here is checked
//! against another implementation in `tests/simulation/checker.rs`.

use std::collections::HashSet;

/// What must hold when an operation takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Anything goes.
    Nothing,
    /// The key holds nothing.
    Absent,
    /// The key holds something.
    Present,
    /// The key holds this value.
    Is(u64),
    /// The key holds another value than this one, or nothing.
    Not(u64),
}

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It reads.
    Keep,
    /// It writes a value.
    Set(u64),
    /// It removes the value.
    Remove,
}

/// An operation on one key. Times are of any unit, of one clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Op {
    /// When it was asked for.
    pub invoked: u64,
    /// When its answer came; none if its outcome is unknown: then it does nothing where `need` does not hold.
    pub returned: Option<u64>,
    /// What its answer says of the state that it met.
    pub need: Need,
    /// What its answer says that it did.
    pub effect: Effect,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order that explains every answer.
    Linearizable,
    /// There is none.
    Not,
    /// The search was given up.
    GivenUp,
}

/// After so many steps the search is given up.
const STEPS: u64 = 20_000_000;

/// Checks the operations of one key, which holds nothing at first. Their order does not matter.
pub fn check(history: &[Op]) -> Verdict {
    let mut ops = history.to_vec();
    // Those that return first are tried first; those of unknown outcome last, where they are needed.
    ops.sort_by_key(|op| (op.returned.unwrap_or(u64::MAX), op.invoked));
    let certain = ops.iter().take_while(|op| op.returned.is_some()).count();
    Search { ops, certain, seen: HashSet::new(), steps: 0 }.run()
}

struct Search {
    ops: Vec<Op>,
    /// So many of them returned: they come first.
    certain: usize,
    seen: HashSet<(Vec<u64>, Option<u64>)>,
    steps: u64,
}

/// One level of the search: the state and what was tried.
struct Level {
    state: Option<u64>,
    /// The operation that led here.
    chosen: usize,
    /// The next operation to try from here.
    next: usize,
}

impl Search {
    fn run(mut self) -> Verdict {
        let mut done = vec![0u64; self.ops.len().div_ceil(64)];
        let mut first = 0;
        let mut levels = vec![Level { state: None, chosen: usize::MAX, next: 0 }];
        loop {
            first = self.first_open(&done, first);
            if first >= self.certain {
                return Verdict::Linearizable;
            }
            self.steps += 1;
            if self.steps > STEPS {
                return Verdict::GivenUp;
            }
            let Some(level) = levels.last_mut() else { return Verdict::Not };
            match self.step(level, first, &done) {
                Some((position, state)) => {
                    set(&mut done, position);
                    if self.seen.insert((done.clone(), state)) {
                        levels.push(Level { state, chosen: position, next: first });
                    } else {
                        unset(&mut done, position);
                    }
                }
                None => {
                    let Some(level) = levels.pop().filter(|level| level.chosen != usize::MAX) else {
                        return Verdict::Not;
                    };
                    unset(&mut done, level.chosen);
                    first = first.min(level.chosen);
                }
            }
        }
    }

    /// The operation that returned first of those that did not take effect yet.
    fn first_open(&self, done: &[u64], from: usize) -> usize {
        (from..self.ops.len()).find(|position| !is_set(done, *position)).unwrap_or(self.ops.len())
    }

    /// The next operation that can take effect now: one that was invoked before any other open one returned.
    fn step(&self, level: &mut Level, first: usize, done: &[u64]) -> Option<(usize, Option<u64>)> {
        let limit = self.ops[first].returned.unwrap_or(u64::MAX);
        level.next = level.next.max(first);
        while level.next < self.ops.len() {
            let position = level.next;
            level.next += 1;
            let op = &self.ops[position];
            if is_set(done, position) || op.invoked > limit {
                continue;
            }
            if let Some(state) = apply(op, level.state) {
                return Some((position, state));
            }
        }
        None
    }
}

/// The state after `op`; none if it cannot take effect here, or would do nothing and need not.
fn apply(op: &Op, state: Option<u64>) -> Option<Option<u64>> {
    let holds = match op.need {
        Need::Nothing => true,
        Need::Absent => state.is_none(),
        Need::Present => state.is_some(),
        Need::Is(stamp) => state == Some(stamp),
        Need::Not(stamp) => state != Some(stamp),
    };
    holds.then_some(match op.effect {
        Effect::Keep => state,
        Effect::Set(stamp) => Some(stamp),
        Effect::Remove => None,
    })
}

fn is_set(bits: &[u64], position: usize) -> bool {
    bits[position / 64] >> (position % 64) & 1 == 1
}

fn set(bits: &mut [u64], position: usize) {
    bits[position / 64] |= 1 << (position % 64);
}

fn unset(bits: &mut [u64], position: usize) {
    bits[position / 64] &= !(1 << (position % 64));
}
