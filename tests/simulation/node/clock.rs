//! The clocks of a machine.

#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// What it showed,
    pub base_ms: u64,
    /// at this virtual time.
    pub since: u64,
    /// So many millionths faster than virtual time.
    pub drift: i64,
    /// The time of day is wrong by so many milliseconds.
    pub wrong: i64,
}

impl Clock {
    /// Milliseconds of the clock that goes on while the machine sleeps.
    pub fn ms(&self, now: u64) -> u64 {
        let passed = (now - self.since) as i64;
        self.base_ms
            + ((passed + passed / 1_000_000 * self.drift + passed % 1_000_000 * self.drift / 1_000_000)
                / 1000) as u64
    }

    /// The time of day in milliseconds.
    pub fn day_ms(&self, now: u64) -> u64 {
        (1_700_000_000_000 + (now / 1000) as i64 + self.wrong) as u64
    }

    /// How long until it shows `ms`, at least, in microseconds.
    pub fn until(&self, now: u64, ms: u64) -> u64 {
        let left = ms.saturating_sub(self.ms(now)) as i64 * 1000;
        (left - left * self.drift / 1_000_000).max(1) as u64
    }
}
