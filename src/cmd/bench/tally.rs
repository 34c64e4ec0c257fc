//! What the connections saw: how long requests took, and what went wrong.

use crate::error::{Error, Kind};
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::Duration;

/// The longest time that is told apart from longer ones, in microseconds: an hour.
const LONGEST: u64 = 3_600_000_000;

/// Times of requests of one kind.
#[derive(Debug, Clone)]
pub struct Times {
    /// In microseconds, exact to 3 digits.
    histogram: Histogram<u64>,
    /// Keys that they read or wrote.
    pub keys: u64,
}

impl Times {
    fn new() -> Times {
        // Only bounds that contradict each other are refused.
        let histogram = Histogram::new_with_bounds(1, LONGEST, 3).expect("bounds of a histogram");
        Times { histogram, keys: 0 }
    }

    /// Adds a request that took `time` and touched `keys` keys.
    pub fn add(&mut self, time: Duration, keys: u64) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(LONGEST);
        self.histogram.saturating_record(micros.max(1));
        self.keys += keys;
    }

    /// How many requests there were.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// So many of 100 requests took at most this many milliseconds; 0 if there was none.
    pub fn percentile(&self, percent: f64) -> f64 {
        self.histogram.value_at_percentile(percent) as f64 / 1000.0
    }

    /// The longest one, in milliseconds.
    pub fn longest(&self) -> f64 {
        self.histogram.max() as f64 / 1000.0
    }

    fn merge(&mut self, other: &Times) {
        // Both have the same bounds.
        let added = self.histogram.add(&other.histogram);
        debug_assert!(added.is_ok());
        self.keys += other.keys;
    }
}

/// Everything that was seen.
#[derive(Debug, Clone)]
pub struct Tally {
    pub reads: Times,
    pub writes: Times,
    /// Requests that failed, by kind.
    pub failed: BTreeMap<&'static str, u64>,
    /// The first of them.
    pub first: Option<Error>,
    /// How long it went on.
    pub elapsed: Duration,
    /// Requests that were due and were not begun in time.
    pub behind: u64,
}

impl Tally {
    /// Nothing yet.
    pub fn new() -> Tally {
        Tally {
            reads: Times::new(),
            writes: Times::new(),
            failed: BTreeMap::new(),
            first: None,
            elapsed: Duration::ZERO,
            behind: 0,
        }
    }

    /// Notes a request that failed.
    pub fn fail(&mut self, error: Error) {
        *self.failed.entry(Kind::word(error.kind())).or_default() += 1;
        self.first.get_or_insert(error);
    }

    /// Adds what another connection saw.
    pub fn merge(&mut self, other: Tally) {
        self.reads.merge(&other.reads);
        self.writes.merge(&other.writes);
        for (kind, count) in other.failed {
            *self.failed.entry(kind).or_default() += count;
        }
        self.first = self.first.take().or(other.first);
        self.behind += other.behind;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_add_up() {
        let mut all = Tally::new();
        for part in 0..2 {
            let mut one = Tally::new();
            for ms in 1..=50 {
                one.reads.add(Duration::from_millis(ms + part * 50), 1);
            }
            one.writes.add(Duration::from_secs(7200), 100);
            one.fail(Error::new(Kind::Unreachable, "nobody is there"));
            all.merge(one);
        }
        assert_eq!((all.reads.count(), all.writes.count(), all.writes.keys), (100, 2, 200));
        let near = |seen: f64, wanted: f64| (seen - wanted).abs() <= wanted / 500.0;
        assert!(near(all.reads.percentile(50.0), 50.0) && near(all.reads.percentile(99.0), 99.0));
        assert!(near(all.reads.longest(), 100.0) && near(all.writes.longest(), 3_600_000.0));
        assert_eq!(all.failed.get("unreachable"), Some(&2));
        assert_eq!(Tally::new().reads.percentile(50.0), 0.0);
    }
}
