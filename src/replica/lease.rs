//! The lease of a leader: rounds of heartbeats that were sent and answered, and how long the last answered one allows
//! to read without asking. No clock of its own: `now` is that of [`super::core`].

use super::core::LEASE_MS;
use std::collections::VecDeque;

/// Rounds that are remembered; older ones are no longer worth anything.
const ROUNDS: usize = 64;

/// Rounds and the lease that they gave.
#[derive(Debug, Default)]
pub struct Lease {
    /// Rounds under way: term, number, when it was sent.
    rounds: VecDeque<(u64, u64, u64)>,
    next: u64,
    /// Term and end of the lease.
    held: (u64, u64),
    /// No lease in this term any more.
    forfeited: Option<u64>,
}

impl Lease {
    /// A round of `term` is sent at `now`. Returns its number.
    pub fn begin(&mut self, term: u64, now: u64) -> u64 {
        self.next += 1;
        if self.rounds.len() >= ROUNDS {
            self.rounds.pop_front();
        }
        self.rounds.push_back((term, self.next, now));
        self.next
    }

    /// A majority has answered round `number` of `term`, and with it every earlier one.
    pub fn confirm(&mut self, term: u64, number: u64) {
        while let Some((sent_in, round, sent)) = self.rounds.front().copied() {
            if sent_in == term && round > number {
                break;
            }
            self.rounds.pop_front();
            if sent_in == term && round == number {
                let before = if self.held.0 == term { self.held.1 } else { 0 };
                self.held = (term, before.max(sent + LEASE_MS));
            }
        }
    }

    /// Until when the leader of `term` may read; 0 if it may not.
    pub fn until(&self, term: u64) -> u64 {
        if self.held.0 == term && self.forfeited != Some(term) { self.held.1 } else { 0 }
    }

    /// Forgets the lease and every round under way: another configuration decides from now on.
    pub fn drop_all(&mut self) {
        self.rounds.clear();
        self.held = (0, 0);
    }

    /// No lease in `term` any more.
    pub fn forfeit(&mut self, term: u64) {
        self.forfeited = Some(term);
        self.drop_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_counts_from_the_sending_and_never_shrinks() {
        let mut lease = Lease::default();
        let (one, two) = (lease.begin(3, 1000), lease.begin(3, 1200));
        assert_eq!(lease.until(3), 0);
        lease.confirm(3, two);
        assert_eq!(lease.until(3), 1200 + LEASE_MS);
        lease.confirm(3, one);
        assert_eq!(lease.until(3), 1200 + LEASE_MS);
        assert_eq!(lease.until(4), 0, "another term");
    }

    #[test]
    fn rounds_that_were_dropped_give_nothing() {
        let mut lease = Lease::default();
        let round = lease.begin(3, 1000);
        lease.drop_all();
        lease.confirm(3, round);
        assert_eq!(lease.until(3), 0);
        let round = lease.begin(3, 1000);
        lease.confirm(3, round);
        lease.forfeit(3);
        assert_eq!(lease.until(3), 0);
        let round = lease.begin(3, 2000);
        lease.confirm(3, round);
        assert_eq!(lease.until(3), 0, "forfeited for the whole term");
        let round = lease.begin(4, 3000);
        lease.confirm(4, round);
        assert_eq!(lease.until(4), 3000 + LEASE_MS);
    }

    #[test]
    fn rounds_are_bounded() {
        let mut lease = Lease::default();
        for now in 0..1000 {
            lease.begin(1, now);
        }
        assert_eq!(lease.rounds.len(), ROUNDS);
    }
}
