//! The checker of histories against one that is not ours: the same verdict on random histories, good and bad ones.

use crate::linear::{self, Effect, Need, Op, Verdict};
use catstore::store::doubles::Random;
use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History};
use todc_utils::specifications::Specification;

struct Key;

impl Specification for Key {
    type State = Option<u64>;
    type Operation = Op;

    fn init() -> Option<u64> {
        None
    }

    fn apply(op: &Op, state: &Option<u64>) -> (bool, Option<u64>) {
        let holds = match op.need {
            Need::Nothing => true,
            Need::Absent => state.is_none(),
            Need::Present => state.is_some(),
            Need::Is(stamp) => *state == Some(stamp),
            Need::Not(stamp) => *state != Some(stamp),
        };
        match op.effect {
            // What nobody was told of may also do nothing.
            _ if !holds => (op.returned.is_none(), *state),
            Effect::Keep => (true, *state),
            Effect::Set(stamp) => (true, Some(stamp)),
            Effect::Remove => (true, None),
        }
    }
}

/// What the other checker says. An operation of unknown outcome ends after everything else: taking effect last is the
/// same as never.
fn judge(ops: &[Op]) -> bool {
    let mut actions = Vec::new();
    for (process, op) in ops.iter().enumerate() {
        actions.push((op.invoked, 0, process, Action::Call(*op)));
        actions.push((op.returned.unwrap_or(u64::MAX), 1, process, Action::Response(*op)));
    }
    actions.sort_by_key(|(at, kind, process, _)| (*at, *kind, *process));
    let actions = actions.into_iter().map(|(_, _, process, action)| (process, action)).collect();
    WGLChecker::<Key>::is_linearizable(History::from_actions(actions))
}

/// A history of a key that really was one, or nearly.
fn history(random: &mut Random) -> Vec<Op> {
    let mut state = None;
    let mut ops = Vec::new();
    let spread = 1 + random.up_to(30) as u64;
    for number in 0..=random.up_to(8) as u64 {
        // Each takes effect at a time of its own.
        let at = 100 + 10 * number;
        let invoked = at - random.draw() % (3 * spread);
        let returned = (random.up_to(5) > 0).then(|| at + random.draw() % (3 * spread));
        let happens = returned.is_some() || random.up_to(1) == 0;
        let found = state.map_or(Need::Absent, Need::Is);
        let (need, effect) = match random.up_to(9) {
            0..=3 => (Need::Nothing, Effect::Set(number + 1)),
            4 => (found, Effect::Set(number + 1)),
            5 if state.is_some() => (Need::Present, Effect::Remove),
            5 | 6 => (Need::Nothing, Effect::Remove),
            _ => (found, Effect::Keep),
        };
        if happens {
            state = match effect {
                Effect::Set(stamp) => Some(stamp),
                Effect::Remove => None,
                Effect::Keep => state,
            };
        }
        ops.push(Op { invoked, returned, need, effect });
    }
    if random.up_to(1) == 0
        && let Some(last) = ops.len().checked_sub(1)
    {
        let position = random.up_to(last);
        ops[position].need = match random.up_to(4) {
            0 => Need::Absent,
            1 => Need::Present,
            2 => Need::Not(1 + random.draw() % 9),
            _ => Need::Is(1 + random.draw() % 9),
        };
    }
    ops
}

#[test]
fn two_checkers_agree_on_random_histories() {
    let mut random = Random::new(7);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..30_000 {
        let ops = history(&mut random);
        let theirs = judge(&ops);
        let ours = linear::check(&ops);
        assert_ne!(ours, Verdict::GivenUp);
        assert_eq!(ours == Verdict::Linearizable, theirs, "{ops:#?}");
        if theirs {
            good += 1;
        } else {
            bad += 1;
        }
    }
    assert!(good > 5000 && bad > 5000, "{good} histories are linearizable, {bad} are not");
}
