//! How long an attempt may take, and what to do after one that failed: try again, where and when, or give up. Pure
//! functions of the outcome and the situation; time and randomness come from outside.
//!
//! A write carries an id, and its repeat gets the reply of its first execution. So it may be sent again when nobody
//! knows whether it was done, to anybody who leads to the owner. But from then on only an answer of the owner's machine
//! tells: an attempt that was refused (no leader, another node's limit, a full disk) says that *this attempt* wrote
//! nothing, and nothing of the earlier one, which may even arrive later. Such a request goes on until its deadline, and
//! ends as unknown if no answer comes.

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
/// A node answers within 10 s of the last byte of the body; some more for the way.
const ANSWER: Duration = Duration::from_secs(12);
/// A write waits so long at first where another member of the group may have the answer; each round twice as long.
const ANSWER_OF_SEVERAL: Duration = Duration::from_secs(3);
/// A read waits so long for the head of one answer.
const READ_ANSWER: Duration = Duration::from_secs(5);
/// A read waits so long at first where another member of the group may have the answer; each round twice as long.
const READ_ANSWER_OF_SEVERAL: Duration = Duration::from_secs(2);
/// A write is not sent again later than this: well before the first one of its kind is forgotten.
const REPEATS: Duration = Duration::from_secs(300);
/// A read that a node took and did not answer ends within this time, wherever else it is asked.
const PATIENCE_WITH_SILENCE: Duration = Duration::from_secs(10);
/// No attempt begins that would have less time than this.
const SHORTEST_ATTEMPT: Duration = Duration::from_millis(500);

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A node answered with this error, and perhaps with a `Retry-After`.
    Answered(Kind, Option<Duration>),
    /// No connection came about: the node has seen nothing.
    NotSent,
    /// The connection broke before the whole body was handed over: the node cannot have acted on it.
    BodyCut,
    /// The connection broke after the node may have got the whole request.
    Broken,
    /// The node may have got the whole request, and nothing came back in time.
    Silent,
    /// Something that is no node of the cluster took a write, and may have passed it on without its id.
    Taken,
    /// The answer to a read broke off when a part of it was handed on.
    HalfRead,
    /// It failed on our own side, or too late to begin anew.
    Final,
}

/// Where a request stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Situation {
    /// The request changes something.
    pub write: bool,
    /// It carries an id that makes a repeat safe.
    pub repeatable: bool,
    /// Its body is a stream: to send it again costs more than to wait.
    pub stream: bool,
    /// An attempt, perhaps this one, may have been done, and no answer has told since.
    pub unknown: bool,
    /// A node that was not asked in this round is left.
    pub untried: bool,
    /// A member of the owning group that was not asked in this round is left.
    pub untried_member: bool,
    /// How many members of the owning group are known.
    pub members: usize,
    /// An attempt, perhaps this one, met silence.
    pub silent: bool,
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

impl Situation {
    /// Time that is left for further attempts.
    fn remaining(&self) -> Duration {
        let patience = match (self.write, self.unknown, self.silent) {
            (true, true, _) => REPEATS,
            (false, _, true) => PATIENCE_WITH_SILENCE - SHORTEST_ATTEMPT,
            _ => return self.left,
        };
        self.left.min(patience.saturating_sub(self.elapsed))
    }

    /// Another attempt can do no harm, whatever became of the earlier ones.
    fn may_repeat(&self) -> bool {
        !self.write || self.repeatable
    }
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

/// How long the next attempt may wait for the head of its answer.
pub fn wait(situation: &Situation) -> Duration {
    let grown = |first: Duration| first.saturating_mul(1 << situation.rounds.min(8));
    let longest = match (situation.write, situation.members > 1) {
        (true, true) if situation.repeatable && !situation.stream => grown(ANSWER_OF_SEVERAL).min(ANSWER),
        (true, _) => ANSWER,
        (false, true) => grown(READ_ANSWER_OF_SEVERAL).min(READ_ANSWER),
        (false, false) => READ_ANSWER,
    };
    let remaining = situation.remaining();
    let last = if remaining < situation.left { remaining + SHORTEST_ATTEMPT } else { remaining };
    longest.min(last)
}

/// Decides what follows an attempt that failed.
pub fn decide(outcome: Outcome, situation: &Situation) -> Next {
    match outcome {
        Outcome::NotSent => round(situation),
        Outcome::BodyCut if situation.attempts >= BROKEN_BODIES && !situation.unknown => Next::GiveUp,
        Outcome::BodyCut => later(None, situation),
        Outcome::Broken | Outcome::Silent if situation.may_repeat() => round(situation),
        Outcome::Broken | Outcome::Silent | Outcome::Taken | Outcome::HalfRead | Outcome::Final => {
            Next::GiveUp
        }
        Outcome::Answered(kind, retry_after) => answered(kind, retry_after, situation),
    }
}

fn answered(kind: Kind, retry_after: Option<Duration>, situation: &Situation) -> Next {
    let in_time = !situation.remaining().is_zero();
    match (kind, kind.advice()) {
        (Kind::Moved, _) if situation.rounds == 0 && situation.attempts < 3 => Next::Reroute,
        (Kind::Moved, _) => later(retry_after, situation),
        // This member knows no leader; another one may. An election takes less than what nodes ask to wait for.
        (Kind::NoMajority, _) if situation.untried_member && in_time => Next::Elsewhere,
        (Kind::NoMajority, _) if situation.members > 1 => later(None, situation),
        // People and broken disks close a store; waiting opens none. Only a member of the same group can help.
        (Kind::Closed | Kind::Failed, _) if situation.untried_member && in_time => Next::Elsewhere,
        (Kind::Closed | Kind::Failed, _) if !situation.unknown => Next::GiveUp,
        (Kind::NoWorker, _) if situation.elapsed >= PATIENCE_WITHOUT_WORKER && !situation.unknown => {
            Next::GiveUp
        }
        (_, Advice::Retry) => later(retry_after, situation),
        (_, Advice::Elsewhere) => round(situation),
        (_, Advice::Unknown) if situation.may_repeat() => round(situation),
        (_, Advice::Never) if situation.unknown && situation.may_repeat() => round(situation),
        (_, Advice::Unknown | Advice::Never) => Next::GiveUp,
    }
}

/// Whoever was not asked in this round, else a new round.
fn round(situation: &Situation) -> Next {
    if situation.untried && !situation.remaining().is_zero() {
        Next::Elsewhere
    } else {
        later(None, situation)
    }
}

/// How much longer a request that failed with `kind` is tried.
pub fn patience(kind: Kind, situation: &Situation) -> Duration {
    match kind {
        Kind::NoWorker => situation.left.min(PATIENCE_WITHOUT_WORKER.saturating_sub(situation.elapsed)),
        _ => situation.remaining(),
    }
}

/// A pause if it fits before the deadline, else the end.
fn later(retry_after: Option<Duration>, situation: &Situation) -> Next {
    let pause = pause(situation.rounds, situation.jitter).max(retry_after.unwrap_or_default());
    if pause >= situation.remaining() { Next::GiveUp } else { Next::Later(pause) }
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
        repeatable: false,
        stream: false,
        unknown: false,
        untried: false,
        untried_member: false,
        members: 1,
        silent: false,
        attempts: 1,
        rounds: 0,
        elapsed: Duration::ZERO,
        left: Duration::from_secs(30),
        jitter: 0.0,
    };
    const WRITE: Situation = Situation { write: true, repeatable: true, ..READ };
    const ONCE: Situation = Situation { repeatable: false, ..WRITE };
    const SHORT: Duration = Duration::from_millis(25);

    #[test]
    fn table() {
        use Outcome::{Answered, BodyCut, Broken, NotSent, Silent, Taken};
        let seconds = Duration::from_secs;
        let others = |situation| Situation { untried: true, untried_member: false, ..situation };
        let member = |situation| Situation { untried: true, untried_member: true, members: 3, ..situation };
        let several = |situation| Situation { untried: true, members: 3, ..situation };
        let unknown = |situation| Situation { unknown: true, ..situation };
        let late = |situation| Situation { left: Duration::from_millis(10), ..situation };
        let silent = |elapsed, situation| Situation { silent: true, elapsed, ..situation };
        for (name, outcome, situation, expected) in [
            ("refused, others left", NotSent, others(WRITE), Next::Elsewhere),
            ("refused, nobody left", NotSent, WRITE, Next::Later(SHORT)),
            ("refused, no time", NotSent, late(WRITE), Next::GiveUp),
            ("broken read, others left", Broken, others(READ), Next::Elsewhere),
            ("broken read, nobody left", Broken, READ, Next::Later(SHORT)),
            ("broken write, others left", Broken, unknown(others(WRITE)), Next::Elsewhere),
            ("broken write, nobody left", Broken, unknown(WRITE), Next::Later(SHORT)),
            ("broken write, no time", Broken, unknown(late(WRITE)), Next::GiveUp),
            (
                "broken write of old",
                Broken,
                unknown(Situation { elapsed: seconds(300), ..WRITE }),
                Next::GiveUp,
            ),
            ("broken, and no repeat is safe", Broken, unknown(others(ONCE)), Next::GiveUp),
            ("a stranger took it", Taken, unknown(others(WRITE)), Next::GiveUp),
            ("silent read, others left", Silent, silent(seconds(5), others(READ)), Next::Elsewhere),
            ("silent read, nobody left", Silent, silent(seconds(2), READ), Next::Later(SHORT)),
            ("silent read for long", Silent, silent(seconds(10), others(READ)), Next::GiveUp),
            (
                "nobody can ask the silent one",
                Answered(Kind::NoMajority, None),
                silent(seconds(10), others(READ)),
                Next::GiveUp,
            ),
            ("silent write", Silent, unknown(silent(seconds(25), others(WRITE))), Next::Elsewhere),
            (
                "silent, and no repeat is safe",
                Silent,
                unknown(silent(seconds(1), others(ONCE))),
                Next::GiveUp,
            ),
            ("refused after silence", NotSent, silent(seconds(20), WRITE), Next::Later(SHORT)),
            ("cut body", BodyCut, others(WRITE), Next::Later(SHORT)),
            ("cut body again", BodyCut, Situation { attempts: 3, ..WRITE }, Next::GiveUp),
            (
                "cut body of an unknown write",
                BodyCut,
                unknown(Situation { attempts: 3, ..WRITE }),
                Next::Later(SHORT),
            ),
            ("overloaded write", Answered(Kind::Overloaded, None), WRITE, Next::Later(SHORT)),
            ("retry-after", Answered(Kind::Overloaded, Some(seconds(2))), WRITE, Next::Later(seconds(2))),
            ("retry-after too late", Answered(Kind::Overloaded, Some(seconds(30))), WRITE, Next::GiveUp),
            ("no majority", Answered(Kind::NoMajority, None), others(WRITE), Next::Later(SHORT)),
            ("no leader, a member left", Answered(Kind::NoMajority, None), member(WRITE), Next::Elsewhere),
            (
                "no leader anywhere",
                Answered(Kind::NoMajority, Some(seconds(1))),
                several(WRITE),
                Next::Later(SHORT),
            ),
            ("no leader, no time", Answered(Kind::NoMajority, None), late(member(WRITE)), Next::Elsewhere),
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
            ("unknown write", Answered(Kind::UnknownOutcome, None), unknown(others(WRITE)), Next::Elsewhere),
            (
                "unknown, and no repeat is safe",
                Answered(Kind::UnknownOutcome, None),
                unknown(others(ONCE)),
                Next::GiveUp,
            ),
            ("refused after unknown", Answered(Kind::DiskFull, None), unknown(WRITE), Next::Later(SHORT)),
            ("closed after unknown", Answered(Kind::Closed, None), unknown(WRITE), Next::Later(SHORT)),
            ("told after unknown", Answered(Kind::ConditionFailed, None), WRITE, Next::GiveUp),
            ("unknown read", Answered(Kind::UnknownOutcome, None), others(READ), Next::Elsewhere),
            ("not found", Answered(Kind::NotFound, None), others(READ), Next::GiveUp),
            ("disk full", Answered(Kind::DiskFull, Some(seconds(1))), WRITE, Next::GiveUp),
        ] {
            assert_eq!(decide(outcome, &situation), expected, "{name}");
        }
    }

    /// Every outcome that leaves open whether a write was done.
    fn open_ends() -> Vec<Outcome> {
        let kinds = Kind::ALL.into_iter().filter(|kind| kind.advice() == Advice::Unknown);
        [Outcome::Broken, Outcome::Silent]
            .into_iter()
            .chain(kinds.map(|kind| Outcome::Answered(kind, None)))
            .collect()
    }

    #[test]
    fn a_write_without_an_id_is_never_repeated_when_its_outcome_is_unknown() {
        for untried in [false, true] {
            for attempts in [1, 2, 50] {
                let situation =
                    Situation { untried, untried_member: untried, attempts, unknown: true, ..ONCE };
                for outcome in open_ends() {
                    assert_eq!(decide(outcome, &situation), Next::GiveUp);
                }
            }
        }
    }

    #[test]
    fn a_write_with_an_id_goes_on_until_its_deadline_while_it_is_unknown() {
        let unknown = Situation { unknown: true, ..WRITE };
        let refusals = Kind::ALL.into_iter().map(|kind| Outcome::Answered(kind, None));
        let outcomes = open_ends().into_iter().chain([Outcome::NotSent, Outcome::BodyCut]).chain(refusals);
        for outcome in outcomes {
            for elapsed in [0, 20, 200].map(Duration::from_secs) {
                let situation = Situation { attempts: 50, elapsed, ..unknown };
                assert_ne!(decide(outcome, &situation), Next::GiveUp, "{outcome:?}");
            }
            let late = Situation { left: Duration::ZERO, ..unknown };
            assert_eq!(decide(outcome, &Situation { attempts: 50, ..late }), Next::GiveUp, "{outcome:?}");
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
        let at = |elapsed, left| Situation { elapsed: seconds(elapsed), left: seconds(left), ..READ };
        assert_eq!(patience(Kind::NoMajority, &at(1, 29)), seconds(29));
        assert_eq!(patience(Kind::NoWorker, &at(1, 29)), seconds(4));
        assert_eq!(patience(Kind::NoWorker, &at(1, 2)), seconds(2));
        assert_eq!(patience(Kind::NoWorker, &at(9, 2)), seconds(0));
        let silent = Situation { silent: true, ..at(4, 26) };
        assert_eq!(patience(Kind::Unreachable, &silent), Duration::from_millis(5500));
    }

    #[test]
    fn attempts_wait_for_an_answer_in_time_for_the_next() {
        let seconds = Duration::from_secs;
        assert_eq!(wait(&WRITE), ANSWER);
        assert_eq!(wait(&Situation { members: 3, ..WRITE }), seconds(3));
        assert_eq!(wait(&Situation { members: 3, rounds: 1, ..WRITE }), seconds(6));
        assert_eq!(wait(&Situation { members: 3, rounds: 99, ..WRITE }), ANSWER);
        assert_eq!(wait(&Situation { members: 3, ..ONCE }), ANSWER);
        assert_eq!(wait(&READ), seconds(5));
        assert_eq!(wait(&Situation { members: 3, ..READ }), seconds(2));
        assert_eq!(wait(&Situation { members: 3, rounds: 9, ..READ }), seconds(5));
        assert_eq!(wait(&Situation { left: seconds(1), ..WRITE }), seconds(1));
        let silent = |elapsed| Situation { silent: true, elapsed: seconds(elapsed), ..READ };
        assert_eq!(wait(&silent(5)), seconds(5));
        assert_eq!(wait(&silent(9)), seconds(1), "ten seconds in all");
        assert_eq!(wait(&Situation { left: seconds(3), ..silent(5) }), seconds(3));
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
