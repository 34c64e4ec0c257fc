//! What to do after an attempt that failed: try again, where and when, or give up with which error. A pure function
//! of the outcome and the situation; time and randomness come from outside.

use crate::error::{Advice, Kind};
use std::time::Duration;

/// The first pause; each further one doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// No pause grows beyond this, unless the node asked for more.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long a request waits for the first worker of a cluster to appear.
const PATIENCE_WITHOUT_WORKER: Duration = Duration::from_secs(5);
/// How often a body that broke off on its way is sent again. A node that refuses large bodies breaks them off too.
const BROKEN_BODIES: u32 = 3;

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A node answered with this error, and perhaps with a `Retry-After`.
    Answered(Kind, Option<Duration>),
    /// No connection came about: the node has seen nothing.
    NotSent,
    /// The connection broke before the whole body was handed over: the node cannot have acted on it.
    BodyCut,
    /// The connection broke, or nothing came back in time, after the node may have got the whole request.
    Broken,
    /// It failed on our own side, or too late to begin anew.
    Final,
}

/// Where a request stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Situation {
    /// The request changes something.
    pub write: bool,
    /// A node that was not asked in this round is left.
    pub untried: bool,
    /// A member of the owning group that was not asked in this round is left.
    pub untried_member: bool,
    /// Attempts so far, this one included.
    pub attempts: u32,
    /// Rounds over all nodes so far; each ends with a pause.
    pub rounds: u32,
    /// Time since the request began.
    pub elapsed: Duration,
    /// Time until its deadline.
    pub left: Duration,
    /// A random number in `0.0..1.0`.
    pub jitter: f64,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Ask the next node that was not asked in this round, at once.
    Elsewhere,
    /// Learn the routes again, then ask the owner, at once.
    Reroute,
    /// Wait, learn the routes again, then begin a new round.
    Later(Duration),
    /// Give up with the error of this attempt.
    GiveUp,
}

/// Decides what follows an attempt that failed.
pub fn decide(outcome: Outcome, situation: &Situation) -> Next {
    let round = || {
        if situation.untried && !situation.left.is_zero() { Next::Elsewhere } else { later(None, situation) }
    };
    match outcome {
        Outcome::NotSent => round(),
        Outcome::BodyCut if situation.attempts >= BROKEN_BODIES => Next::GiveUp,
        Outcome::BodyCut => later(None, situation),
        Outcome::Broken if situation.write => Next::GiveUp,
        Outcome::Broken => round(),
        Outcome::Final => Next::GiveUp,
        Outcome::Answered(kind, retry_after) => match (kind, kind.advice()) {
            (Kind::Moved, _) if situation.rounds == 0 && situation.attempts < 3 => Next::Reroute,
            (Kind::Moved, _) => later(retry_after, situation),
            // People and broken disks close a store; waiting opens none. Only a member of the same group can help.
            (Kind::Closed | Kind::Failed, _) if situation.untried_member => Next::Elsewhere,
            (Kind::Closed | Kind::Failed, _) => Next::GiveUp,
            (Kind::NoWorker, _) if situation.elapsed >= PATIENCE_WITHOUT_WORKER => Next::GiveUp,
            (_, Advice::Retry) => later(retry_after, situation),
            (_, Advice::Elsewhere) => round(),
            (_, Advice::Unknown) if situation.write => Next::GiveUp,
            (_, Advice::Unknown) => round(),
            (_, Advice::Never) => Next::GiveUp,
        },
    }
}

/// How much longer a request that failed with `kind` is tried.
pub fn patience(kind: Kind, elapsed: Duration, left: Duration) -> Duration {
    match kind {
        Kind::NoWorker => left.min(PATIENCE_WITHOUT_WORKER.saturating_sub(elapsed)),
        _ => left,
    }
}

/// A pause if it fits before the deadline, else the end.
fn later(retry_after: Option<Duration>, situation: &Situation) -> Next {
    let pause = pause(situation.rounds, situation.jitter).max(retry_after.unwrap_or_default());
    if pause >= situation.left { Next::GiveUp } else { Next::Later(pause) }
}

/// Exponential back-off with jitter: half of it is fixed, half is random.
fn pause(rounds: u32, jitter: f64) -> Duration {
    let full = FIRST_PAUSE.saturating_mul(1 << rounds.min(16)).min(LONGEST_PAUSE);
    full.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Situation = Situation {
        write: false,
        untried: false,
        untried_member: false,
        attempts: 1,
        rounds: 0,
        elapsed: Duration::ZERO,
        left: Duration::from_secs(30),
        jitter: 0.0,
    };
    const WRITE: Situation = Situation { write: true, ..READ };
    const SHORT: Duration = Duration::from_millis(25);

    #[test]
    fn table() {
        use Outcome::{Answered, BodyCut, Broken, NotSent};
        let seconds = Duration::from_secs;
        let others = |situation| Situation { untried: true, untried_member: false, ..situation };
        let late = |situation| Situation { left: Duration::from_millis(10), ..situation };
        for (name, outcome, situation, expected) in [
            ("refused, others left", NotSent, others(WRITE), Next::Elsewhere),
            ("refused, nobody left", NotSent, WRITE, Next::Later(SHORT)),
            ("refused, no time", NotSent, late(WRITE), Next::GiveUp),
            ("broken read, others left", Broken, others(READ), Next::Elsewhere),
            ("broken read, nobody left", Broken, READ, Next::Later(SHORT)),
            ("broken write", Broken, others(WRITE), Next::GiveUp),
            ("cut body", BodyCut, others(WRITE), Next::Later(SHORT)),
            ("cut body again", BodyCut, Situation { attempts: 3, ..WRITE }, Next::GiveUp),
            ("overloaded write", Answered(Kind::Overloaded, None), WRITE, Next::Later(SHORT)),
            ("retry-after", Answered(Kind::Overloaded, Some(seconds(2))), WRITE, Next::Later(seconds(2))),
            ("retry-after too late", Answered(Kind::Overloaded, Some(seconds(30))), WRITE, Next::GiveUp),
            ("no majority", Answered(Kind::NoMajority, None), others(WRITE), Next::Later(SHORT)),
            ("no worker yet", Answered(Kind::NoWorker, None), WRITE, Next::Later(SHORT)),
            (
                "no worker for long",
                Answered(Kind::NoWorker, None),
                Situation { elapsed: seconds(6), ..WRITE },
                Next::GiveUp,
            ),
            ("moved", Answered(Kind::Moved, None), WRITE, Next::Reroute),
            (
                "moved again and again",
                Answered(Kind::Moved, None),
                Situation { attempts: 3, ..WRITE },
                Next::Later(SHORT),
            ),
            (
                "closed, a member left",
                Answered(Kind::Closed, None),
                Situation { untried_member: true, ..WRITE },
                Next::Elsewhere,
            ),
            ("closed", Answered(Kind::Closed, None), others(WRITE), Next::GiveUp),
            ("disk broken", Answered(Kind::Failed, None), READ, Next::GiveUp),
            ("unreachable owner", Answered(Kind::Unreachable, None), others(WRITE), Next::Elsewhere),
            ("unknown write", Answered(Kind::UnknownOutcome, None), others(WRITE), Next::GiveUp),
            ("unknown read", Answered(Kind::UnknownOutcome, None), others(READ), Next::Elsewhere),
            ("not found", Answered(Kind::NotFound, None), others(READ), Next::GiveUp),
            ("disk full", Answered(Kind::DiskFull, Some(seconds(1))), WRITE, Next::GiveUp),
        ] {
            assert_eq!(decide(outcome, &situation), expected, "{name}");
        }
    }

    #[test]
    fn a_write_of_unknown_outcome_is_never_repeated() {
        for untried in [false, true] {
            for attempts in [1, 2, 50] {
                let situation = Situation { untried, untried_member: untried, attempts, ..WRITE };
                let unknown = Next::GiveUp;
                assert_eq!(decide(Outcome::Broken, &situation), unknown);
                for kind in Kind::ALL.into_iter().filter(|kind| kind.advice() == Advice::Unknown) {
                    assert_eq!(decide(Outcome::Answered(kind, None), &situation), unknown);
                }
            }
        }
    }

    #[test]
    fn what_can_never_succeed_is_never_repeated() {
        for kind in Kind::ALL.into_iter().filter(|kind| kind.advice() == Advice::Never) {
            for situation in [READ, WRITE] {
                let situation = Situation { untried: true, untried_member: true, ..situation };
                assert_eq!(decide(Outcome::Answered(kind, None), &situation), Next::GiveUp);
            }
        }
    }

    #[test]
    fn patience_ends_with_the_deadline_at_the_latest() {
        let seconds = Duration::from_secs;
        assert_eq!(patience(Kind::NoMajority, seconds(1), seconds(29)), seconds(29));
        assert_eq!(patience(Kind::NoWorker, seconds(1), seconds(29)), seconds(4));
        assert_eq!(patience(Kind::NoWorker, seconds(1), seconds(2)), seconds(2));
        assert_eq!(patience(Kind::NoWorker, seconds(9), seconds(2)), seconds(0));
    }

    #[test]
    fn pauses_grow_to_a_bound_and_stay_before_the_deadline() {
        assert_eq!(pause(0, 1.0), Duration::from_millis(50));
        assert_eq!(pause(1, 1.0), Duration::from_millis(100));
        assert_eq!(pause(40, 1.0), LONGEST_PAUSE);
        assert_eq!(pause(40, 0.0), LONGEST_PAUSE / 2);
        let situation = Situation { left: Duration::from_millis(25), ..READ };
        assert_eq!(decide(Outcome::NotSent, &situation), Next::GiveUp);
    }
}
