//! When requests are due.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The pace of one part of a measurement: of all requests, each `parts`-th one belongs to it.
pub struct Pace<'a> {
    start: Instant,
    end: Instant,
    /// Requests a second, by all parts; as many as there can be if there is none.
    rate: Option<u64>,
    part: usize,
    parts: usize,
    /// Raised by Ctrl-C.
    stop: &'a AtomicBool,
    /// So many were begun.
    begun: u64,
    over: bool,
}

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// Begin a request that is due since then.
    Due(Instant),
    /// Nothing until then.
    Later(Instant),
    /// Nothing any more.
    Over,
}

impl<'a> Pace<'a> {
    /// Part `part` of `parts` of a measurement from `start` on for `time`, or until `stop` is raised.
    pub fn new(
        rate: Option<u64>,
        (start, time): (Instant, Duration),
        (part, parts): (usize, usize),
        stop: &'a AtomicBool,
    ) -> Pace<'a> {
        Pace { start, end: start + time, rate, part, parts, stop, begun: 0, over: false }
    }

    /// Which part it is.
    pub fn part(&self) -> usize {
        self.part
    }

    /// Takes the next request, if it is due `now`. What is due and is not taken in time stays due since then.
    pub fn next(&mut self, now: Instant) -> Turn {
        let due = self.rate.map_or(now, |rate| self.due(rate));
        self.over |= due >= self.end || now >= self.end || self.stop.load(Ordering::Relaxed);
        if self.over {
            Turn::Over
        } else if due > now {
            Turn::Later(due)
        } else {
            self.begun += 1;
            Turn::Due(due)
        }
    }

    /// True once no request begins any more.
    pub fn is_over(&mut self, now: Instant) -> bool {
        self.over |= now >= self.end || self.stop.load(Ordering::Relaxed);
        self.over
    }

    /// How many requests were due by `now` and were not begun.
    pub fn behind(&self, now: Instant) -> u64 {
        let elapsed = now.min(self.end).saturating_duration_since(self.start);
        let due = self.rate.map_or(0, |rate| (rate as f64 * elapsed.as_secs_f64()) as u64);
        due.saturating_sub(self.part as u64).div_ceil(self.parts as u64).saturating_sub(self.begun)
    }

    /// When the next request is due.
    fn due(&self, rate: u64) -> Instant {
        let number = self.begun * self.parts as u64 + self.part as u64;
        self.start + Duration::from_secs_f64(number as f64 / rate as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_is_due_once_and_belongs_to_one_part() {
        let stop = AtomicBool::new(false);
        let (start, time) = (Instant::now(), Duration::from_millis(50));
        let mut seen = Vec::new();
        for part in 0..3 {
            let mut pace = Pace::new(Some(1000), (start, time), (part, 3), &stop);
            let mut now = start;
            loop {
                match pace.next(now) {
                    Turn::Due(due) => seen.push(due),
                    Turn::Later(due) => {
                        assert!(due > now);
                        now = due;
                    }
                    Turn::Over => break,
                }
            }
            assert!(pace.is_over(now));
        }
        seen.sort();
        let due: Vec<Instant> = (0..50).map(|number| start + Duration::from_millis(number)).collect();
        assert_eq!(seen, due);
    }

    #[test]
    fn what_is_late_counts_from_when_it_was_due() {
        let stop = AtomicBool::new(false);
        let start = Instant::now();
        let now = start + Duration::from_secs(1);
        let mut pace = Pace::new(Some(10), (start, Duration::from_secs(60)), (0, 1), &stop);
        assert_eq!(pace.next(now), Turn::Due(start));
        assert_eq!(pace.next(now), Turn::Due(start + Duration::from_millis(100)));
        assert_eq!(pace.behind(now), 8);
        stop.store(true, Ordering::Relaxed);
        assert_eq!(pace.next(now), Turn::Over);
        let mut pace = Pace::new(None, (start, Duration::from_millis(10)), (0, 1), &stop);
        assert_eq!((pace.next(now), pace.behind(now)), (Turn::Over, 0));
    }
}
