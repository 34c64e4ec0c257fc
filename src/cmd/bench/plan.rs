//! What is asked for: keys, values that tell whether they are right, and which request is next.

use crate::error::{Error, Kind, Result};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use rand_distr::{Distribution as _, Zipf};
use std::time::Duration;

/// So many keys share a tag, and with it a slot: a batch is of these.
pub const MOST_IN_BATCH: u64 = 100;
/// A batch that fills the store has at most about so many bytes of values.
const FILL_BYTES: usize = 256 << 10;
/// Values of this size and more carry the number of the write that made them.
const STAMPED: usize = 32;
/// The letters of values: they need no escapes in JSON.
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// What to measure.
#[derive(Debug, Clone)]
pub struct Measure {
    pub keys: u64,
    /// Bytes of each value.
    pub size: usize,
    /// So many of 100 requests are reads.
    pub reads: u8,
    pub zipf: Option<f64>,
    /// Keys of a write.
    pub batch: u64,
    /// Requests a second.
    pub rate: Option<u64>,
    pub connections: usize,
    pub time: Duration,
}

/// A run, decided.
pub struct Plan {
    pub measure: Measure,
    /// Every key begins with it.
    pub prefix: String,
    seed: u64,
    zipf: Option<Zipf<f64>>,
}

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Of this key.
    Read(u64),
    /// Of so many keys from this one on, which share a slot.
    Write(u64, u64),
}

impl Plan {
    /// A run below a prefix that nobody else has. Errors: `System` if there are no random bytes; `Usage`.
    pub fn new(measure: Measure) -> Result<Plan> {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).map_err(|error| {
            Error::new(Kind::System, format!("the system gives no random bytes: {error}"))
        })?;
        Plan::with_seed(measure, u64::from_le_bytes(bytes))
    }

    fn with_seed(measure: Measure, seed: u64) -> Result<Plan> {
        let zipf = measure.zipf.map(|power| Zipf::new(measure.keys as f64, power)).transpose();
        let zipf = zipf.map_err(|error| Error::new(Kind::Usage, format!("--zipf: {error}")))?;
        Ok(Plan { prefix: format!("bench-{seed:016x}/"), seed, zipf, measure })
    }

    /// The choices of one connection.
    pub fn dice(&self, connection: usize) -> SmallRng {
        SmallRng::seed_from_u64(mix(self.seed, connection as u64))
    }

    /// The key with this number.
    pub fn key(&self, number: u64) -> String {
        format!("{}{{{}}}/{}", self.prefix, number / MOST_IN_BATCH, number % MOST_IN_BATCH)
    }

    /// What comes next.
    pub fn next(&self, dice: &mut SmallRng) -> Next {
        let number = match &self.zipf {
            None => dice.random_range(0..self.measure.keys),
            // The most wanted keys are not neighbours.
            Some(zipf) => mix(zipf.sample(dice) as u64, self.seed) % self.measure.keys,
        };
        if dice.random_range(0..100) < self.measure.reads {
            return Next::Read(number);
        }
        let (first, last) = self.run_of(number);
        let count = self.measure.batch.min(last - first);
        Next::Write(number.min(last - count), count)
    }

    /// The keys that share the slot of this one: from, and up to but not including.
    fn run_of(&self, number: u64) -> (u64, u64) {
        let first = number - number % MOST_IN_BATCH;
        (first, (first + MOST_IN_BATCH).min(self.measure.keys))
    }

    /// So many keys are put at once when the store is filled; with one they are put by themselves.
    pub fn fill_count(&self) -> u64 {
        ((FILL_BYTES / self.measure.size.max(1)) as u64).clamp(1, MOST_IN_BATCH)
    }

    /// The keys of the `turn`-th step of `count` keys each that stay within a slot; none behind the last one.
    pub fn step(&self, turn: u64, count: u64) -> Option<(u64, u64)> {
        let in_run = MOST_IN_BATCH.div_ceil(count);
        let (first, last) = self.run_of((turn / in_run).checked_mul(MOST_IN_BATCH)?);
        let from = first + turn % in_run * count;
        if first >= self.measure.keys {
            return None;
        }
        Some((from.min(last), count.min(last.saturating_sub(from))))
    }

    /// How many steps of `count` keys there are.
    pub fn steps(&self, count: u64) -> u64 {
        self.measure.keys.div_ceil(MOST_IN_BATCH) * MOST_IN_BATCH.div_ceil(count)
    }

    /// The value that write `stamp` puts under key `number`.
    pub fn value(&self, number: u64, stamp: u64) -> Vec<u8> {
        let size = self.measure.size;
        let stamp = if size >= STAMPED { stamp } else { 0 };
        let mut value = Vec::with_capacity(size + 10);
        if size >= STAMPED {
            value.extend_from_slice(format!("{stamp:016x}").as_bytes());
        }
        let mut state = mix(mix(self.seed, number), stamp) | 1;
        while value.len() < size {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            value.extend((0..10).map(|letter| LETTERS[(state >> (6 * letter)) as usize & 63]));
        }
        value.truncate(size);
        value
    }

    /// True if some write of this run put `value` under key `number`.
    pub fn is_right(&self, number: u64, value: &[u8]) -> bool {
        let stamp = match value.get(..16) {
            Some(stamp) if self.measure.size >= STAMPED => stamp,
            _ => b"0",
        };
        let stamp = std::str::from_utf8(stamp).ok().and_then(|text| u64::from_str_radix(text, 16).ok());
        stamp.is_some_and(|stamp| self.value(number, stamp) == value)
    }
}

/// Two numbers as one that looks like chance (the finalizer of SplitMix64).
fn mix(one: u64, other: u64) -> u64 {
    let mut mixed = one ^ other.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::slots::slot;
    use proptest::prelude::*;

    fn plan(keys: u64, size: usize, batch: u64, zipf: Option<f64>) -> Plan {
        let (reads, connections, time) = (50, 1, Duration::from_secs(1));
        Plan::with_seed(Measure { keys, size, reads, zipf, batch, rate: None, connections, time }, 7).unwrap()
    }

    proptest! {
        #[test]
        fn values_know_their_key(size in 0usize..300, number in 0u64..1000, stamp: u64) {
            let plan = plan(1000, size, 1, None);
            let value = plan.value(number, stamp);
            prop_assert_eq!(value.len(), size);
            prop_assert!(plan.is_right(number, &value));
            if size >= STAMPED {
                prop_assert!(!plan.is_right(number + 1, &value));
                let mut other = value.clone();
                other[size - 1] ^= 1;
                prop_assert!(!plan.is_right(number, &other));
                prop_assert!(!plan.is_right(number, &value[1..]));
            }
        }

        #[test]
        fn steps_take_every_key_once_and_stay_in_a_slot(keys in 1u64..1000, count in 1u64..=MOST_IN_BATCH) {
            let plan = plan(keys, 100, 1, None);
            let mut seen = Vec::new();
            for turn in 0..plan.steps(count) {
                let (from, some) = plan.step(turn, count).unwrap();
                seen.extend(from..from + some);
                prop_assert!((from..from + some).all(|n| slot(plan.key(n).as_bytes()) == slot(plan.key(from).as_bytes())));
            }
            prop_assert_eq!(seen, (0..keys).collect::<Vec<_>>());
            prop_assert_eq!(plan.step(plan.steps(count), count), None);
        }

        #[test]
        fn requests_stay_among_the_keys(keys in 100u64..1000, batch in 1u64..=100, zipf in proptest::option::of(0.1f64..3.0)) {
            let plan = plan(keys, 100, batch, zipf);
            let mut dice = plan.dice(0);
            for _ in 0..200 {
                match plan.next(&mut dice) {
                    Next::Read(number) => prop_assert!(number < keys),
                    Next::Write(number, count) => {
                        prop_assert!((1..=batch).contains(&count) && number + count <= keys);
                        prop_assert_eq!(number / MOST_IN_BATCH, (number + count - 1) / MOST_IN_BATCH);
                    }
                }
            }
        }
    }

    #[test]
    fn by_zipf_some_keys_are_wanted_more() {
        let most = |zipf| {
            let plan = plan(1000, 100, 1, zipf);
            let mut dice = plan.dice(0);
            let mut times = vec![0; 1000];
            for _ in 0..20_000 {
                let (Next::Read(number) | Next::Write(number, _)) = plan.next(&mut dice);
                times[number as usize] += 1;
            }
            times.into_iter().max().unwrap()
        };
        assert!(most(None) < 60, "all alike: about 20 each");
        assert!(most(Some(0.99)) > 1000, "the first of 1000 gets about an eighth");
    }

    #[test]
    fn large_values_fill_one_by_one() {
        assert_eq!(plan(10, 1 << 20, 1, None).fill_count(), 1);
        assert_eq!(plan(10, 100, 1, None).fill_count(), MOST_IN_BATCH);
        assert_eq!(plan(10, 0, 1, None).fill_count(), MOST_IN_BATCH);
    }
}
