//! How long a connection is waited for: a pure decision over what it is at and the clock.
//!
//! A request costs no timer: one is armed for a connection, rings now and then, and is set again by what it finds.

use super::line::At;
use std::time::{Duration, Instant};

/// How long a connection may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// For a head, counted from its first byte; for the first one, from the connection.
    pub(crate) head: Duration,
    /// Between two requests.
    pub(crate) idle: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { head: Duration::from_secs(10), idle: Duration::from_secs(75) }
    }
}

/// How long a connection between two requests is kept when the node stops: what was sent meanwhile is answered.
const GRACE: Duration = Duration::from_millis(100);
/// How long a client may go on sending a body that was refused, when the node stops: it may read the answer only then.
const WASTE: Duration = Duration::from_secs(2);
/// How long a head may still take when the node stops.
const LAST_CALL: Duration = Duration::from_millis(400);
/// How soon a connection is looked at again that has a request under way.
const AGAIN: Duration = Duration::from_secs(5);

/// The patience with one connection.
#[derive(Debug)]
pub(crate) struct Patience {
    limits: Limits,
    /// Since when a head is waited for.
    since: Option<Instant>,
    armed: bool,
}

/// What to do about a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing; the timer rings in time.
    Wait,
    /// Set the timer to ring then.
    Ring(Instant),
    /// Let it go.
    Over,
}

impl Patience {
    /// Patience with a new connection.
    pub(crate) fn new(limits: Limits) -> Patience {
        Patience { limits, since: None, armed: false }
    }

    /// True once the timer was set.
    pub(crate) fn armed(&self) -> bool {
        self.armed
    }

    /// What to do about a connection that is at `at` and whose last request ended at `served`. `rang` is true if the
    /// timer rang since it was set; `stopped` says when the node was told to stop.
    pub(crate) fn judge(
        &mut self,
        at: At,
        served: Instant,
        rang: bool,
        stopped: Option<Instant>,
        now: impl FnOnce() -> Instant,
    ) -> Verdict {
        let waits_for_head = matches!(at, At::Fresh | At::Head);
        if !waits_for_head {
            self.since = None;
        }
        if self.armed && !rang && stopped.is_none() && self.since.is_some() == waits_for_head {
            return Verdict::Wait;
        }
        let now = now();
        let since = if waits_for_head { *self.since.get_or_insert(now) } else { served };
        let (limit, last) = match at {
            At::Work => (AGAIN, None),
            At::Idle => (self.limits.idle, Some(GRACE)),
            At::Waste => (self.limits.idle, Some(WASTE)),
            At::Fresh => (self.limits.head, Some(GRACE)),
            At::Head => (self.limits.head, Some(LAST_CALL)),
        };
        let mut due = if at == At::Work { now + limit } else { since + limit };
        if let (Some(stopped), Some(last)) = (stopped, last) {
            due = due.min(stopped.max(since) + last);
        }
        if due <= now {
            return Verdict::Over;
        }
        self.armed = true;
        Verdict::Ring(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { head: Duration::from_secs(10), idle: Duration::from_secs(75) };

    /// A clock that is told the time, in milliseconds from its start.
    struct Clock(Instant);

    impl Clock {
        fn at(&self, milliseconds: u64) -> Instant {
            self.0 + Duration::from_millis(milliseconds)
        }
    }

    fn clock() -> Clock {
        Clock(Instant::now())
    }

    #[test]
    fn a_first_head_has_its_time_from_the_connection() {
        let (clock, mut patience) = (clock(), Patience::new(LIMITS));
        let served = clock.at(0);
        assert!(!patience.armed());
        assert_eq!(
            patience.judge(At::Fresh, served, false, None, || clock.at(0)),
            Verdict::Ring(clock.at(10_000))
        );
        assert!(patience.armed());
        // Its first byte wins no time.
        assert_eq!(patience.judge(At::Head, served, false, None, || unreachable!()), Verdict::Wait);
        assert_eq!(
            patience.judge(At::Head, served, true, None, || clock.at(9_999)),
            Verdict::Ring(clock.at(10_000))
        );
        assert_eq!(patience.judge(At::Head, served, true, None, || clock.at(10_000)), Verdict::Over);
    }

    #[test]
    fn a_later_head_has_its_time_from_its_first_byte() {
        let (clock, mut patience) = (clock(), Patience::new(LIMITS));
        patience.judge(At::Fresh, clock.at(0), false, None, || clock.at(0));
        // Requests that come whole cost no look at the clock.
        assert_eq!(patience.judge(At::Idle, clock.at(500), false, None, || unreachable!()), Verdict::Wait);
        assert_eq!(patience.judge(At::Work, clock.at(500), false, None, || unreachable!()), Verdict::Wait);
        let half = patience.judge(At::Head, clock.at(900), false, None, || clock.at(3_000));
        assert_eq!(half, Verdict::Ring(clock.at(13_000)));
        // It comes to its end, and another one begins.
        assert_eq!(patience.judge(At::Idle, clock.at(4_000), false, None, || unreachable!()), Verdict::Wait);
        let half = patience.judge(At::Head, clock.at(4_000), false, None, || clock.at(5_000));
        assert_eq!(half, Verdict::Ring(clock.at(15_000)));
        assert_eq!(patience.judge(At::Head, clock.at(4_000), true, None, || clock.at(15_001)), Verdict::Over);
    }

    #[test]
    fn an_idle_connection_is_kept_for_a_while_after_its_last_request() {
        let (clock, mut patience) = (clock(), Patience::new(LIMITS));
        patience.judge(At::Fresh, clock.at(0), false, None, || clock.at(0));
        let idle = patience.judge(At::Idle, clock.at(3_000), true, None, || clock.at(10_000));
        assert_eq!(idle, Verdict::Ring(clock.at(78_000)));
        let busy = patience.judge(At::Work, clock.at(77_000), true, None, || clock.at(78_000));
        assert_eq!(busy, Verdict::Ring(clock.at(83_000)));
        let idle = patience.judge(At::Idle, clock.at(79_000), true, None, || clock.at(83_000));
        assert_eq!(idle, Verdict::Ring(clock.at(154_000)));
        assert_eq!(
            patience.judge(At::Idle, clock.at(79_000), true, None, || clock.at(154_000)),
            Verdict::Over
        );
    }

    #[test]
    fn when_the_node_stops_patience_is_short() {
        let clock = clock();
        let stopped = Some(clock.at(1_000));
        for (at, last) in [(At::Fresh, 1_100), (At::Idle, 1_100), (At::Waste, 3_000), (At::Head, 1_400)] {
            let mut patience = Patience::new(LIMITS);
            patience.judge(at, clock.at(0), false, None, || clock.at(0));
            let verdict = patience.judge(at, clock.at(0), false, stopped, || clock.at(1_001));
            assert_eq!(verdict, Verdict::Ring(clock.at(last)), "{at:?}");
            let verdict = patience.judge(at, clock.at(0), true, stopped, || clock.at(last));
            assert_eq!(verdict, Verdict::Over, "{at:?}");
        }
        // A request under way is waited for; a head that begins now has its last call from now.
        let mut patience = Patience::new(LIMITS);
        let busy = patience.judge(At::Work, clock.at(0), false, stopped, || clock.at(1_001));
        assert_eq!(busy, Verdict::Ring(clock.at(6_001)));
        let head = patience.judge(At::Head, clock.at(0), false, stopped, || clock.at(1_050));
        assert_eq!(head, Verdict::Ring(clock.at(1_450)));
    }
}
