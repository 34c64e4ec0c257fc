//! What the leader of a source does next about its move: a plain value that is told what is known and answers with one
//! act. It holds nothing that must survive: a new leader begins with an empty one, asks the target where it stands, and
//! goes on. Whoever runs it reads rows, proposes, sends, and tells it what came of that.
//!
//! What it must not do: withdraw before the target said that it refused, give before the target said that it owns the
//! slots, and decide either by silence.

use super::command::{Adopt, MoveStep, Secured, TargetWord};
use super::keyspace::Chunk;
use super::moves::{InPhase, Moves, OutPhase, Outgoing, first_attempt};
use crate::cluster::moves::{MoveFacts, MoveOrder, Phase, SlotSet};
use crate::cluster::slots::SlotTable;
use serde_bytes::ByteBuf;

/// Chunks have about so many bytes, or one larger row.
pub const CHUNK_BYTES: usize = 512 << 10;
/// With at most so many changes to follow the slots may be frozen.
const FEW_CHANGES: u64 = 1000;
/// The slots are frozen only if the target's last answer took at most so many milliseconds.
const PROMPT_MS: u64 = 100;
/// After so many changes the target has, their rows are removed.
const TRIM_AFTER: u64 = 4096;
/// The first pause after a failure, and the longest, in milliseconds; while requests wait the longest is shorter.
const PAUSE_MS: u64 = 20;
const LONGEST_PAUSE_MS: u64 = 2000;
const LONGEST_FROZEN_PAUSE_MS: u64 = 200;
/// How long to rest when there is nothing to do, in milliseconds.
const REST_MS: u64 = 500;
/// A target that does not answer so often is not asked to clean up any more: it does when it takes slots again.
const GIVE_UP: u32 = 20;
/// The span that the rate is measured over, in milliseconds.
const RATE_MS: u64 = 3000;

/// What is known at the moment.
#[derive(Debug, Clone, Copy)]
pub struct Sight<'a> {
    /// Milliseconds of a clock that does not go back.
    pub now: u64,
    /// This group.
    pub group: u32,
    /// Its incarnation. Attempts of different ones have nothing in common: the outbox begins anew.
    pub incarnation: u64,
    /// The incarnation that began with this member; 0: none did.
    pub began: u64,
    /// What the group knows, as applied.
    pub moves: &'a Moves,
    /// The group's version counter, as applied.
    pub version: u64,
    /// The group's clock, as applied.
    pub clock: u64,
    /// The unfinished move in which the masters want this group to give, if they do.
    pub order: Option<&'a MoveOrder>,
    /// The unfinished move in which they want it to take, if they do.
    pub takes: Option<&'a MoveOrder>,
    /// Moves below this number are known to the masters, as orders or as done.
    pub next_move: u64,
    /// Who owns which slot, if the masters say so of this incarnation of the group, or of a later one.
    pub slots: Option<&'a SlotTable>,
    /// Bytes a second that a copy may take; none: half of the time that it could.
    pub rate: Option<u64>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Nothing before this time, unless something changes.
    Rest(u64),
    /// Propose to this group; then [`Mover::proposed`] or [`Mover::failed`].
    Propose(MoveStep),
    /// Ask the leader of group `to` to propose; then [`Mover::heard`] or [`Mover::failed`].
    Ask {
        /// The target.
        to: u32,
        /// The step.
        step: MoveStep,
    },
    /// Read rows with [`super::keyspace::copy_rows`], tell [`Mover::sends`], and ask with the step of [`copy_step`].
    Copy {
        /// The target.
        to: u32,
        /// The move and the attempt.
        attempt: (u64, u64),
        /// The slots.
        slots: SlotSet,
        /// The row behind which to read.
        after: Vec<u8>,
    },
    /// Read rows with [`super::keyspace::outbox_rows`], tell [`Mover::sends`], and ask with the step of [`follow_step`].
    Follow {
        /// The target.
        to: u32,
        /// The move and the attempt.
        attempt: (u64, u64),
        /// The first change.
        first: u64,
        /// The number behind the last one.
        next: u64,
    },
}

/// The step that sends a copy.
pub fn copy_step((id, attempt): (u64, u64), after: Vec<u8>, chunk: Chunk) -> MoveStep {
    MoveStep::Copy {
        id,
        attempt,
        after,
        end: chunk.end.map(ByteBuf::from),
        rows: chunk.rows,
        secured: Secured::default(),
    }
}

/// The step that sends changes.
pub fn follow_step((id, attempt): (u64, u64), first: u64, chunk: Chunk) -> MoveStep {
    MoveStep::Follow { id, attempt, first, next: chunk.next, rows: chunk.rows, secured: Secured::default() }
}

/// The decisions of one leader.
#[derive(Debug, Default)]
pub struct Mover {
    /// The move that the rest is about.
    id: u64,
    word: Option<TargetWord>,
    /// When the last question went out, and how long its answer took.
    asked: u64,
    took: u64,
    rest_until: u64,
    failures: u32,
    /// What was proposed last, and on what.
    proposed: Option<(MoveStep, Moves)>,
    /// True if the last changes that were sent were all that there were.
    reached_end: bool,
    copying: bool,
    /// True if the last question was asked for the sake of its answer's time.
    probes: bool,
    /// True if changes that the target lacks cannot be read while requests wait.
    stuck: bool,
    last_bytes: u64,
    keys: u64,
    bytes: u64,
    /// When the rate was last measured, bytes by then, and the rate.
    measured: (u64, u64, u64),
}

impl Mover {
    /// The next act.
    pub fn next(&mut self, sight: &Sight<'_>) -> Act {
        let id = sight.moves.outgoing.as_ref().map(|out| out.id).or(sight.order.map(|order| order.id));
        if id.is_some_and(|id| id != self.id) {
            *self = Mover { id: id.unwrap_or_default(), measured: (sight.now, 0, 0), ..Mover::default() };
        }
        if sight.now < self.rest_until {
            return Act::Rest(self.rest_until);
        }
        let act = match (self.adopt(sight), &sight.moves.outgoing) {
            (Some(act), _) => act,
            (None, None) => self.begin(sight),
            (None, Some(out)) => self.go_on(sight, out),
        };
        match &act {
            // What was proposed changed nothing: somebody else has to move first.
            Act::Propose(step) if self.is_repeat(step, sight.moves) => {
                self.proposed = None;
                self.rest(sight.now, REST_MS)
            }
            Act::Propose(step) => {
                self.proposed = Some((step.clone(), sight.moves.clone()));
                act
            }
            Act::Rest(_) => act,
            _ => {
                self.asked = sight.now;
                act
            }
        }
    }

    /// What the chunk that is sent now holds; `reached_end` if nothing was left behind it.
    pub fn sends(&mut self, chunk: &Chunk, reached_end: bool) {
        self.reached_end = reached_end;
        self.last_bytes = chunk.bytes as u64;
        self.keys += chunk.rows.len() as u64;
        self.bytes += chunk.bytes as u64;
    }

    /// The target answered.
    pub fn heard(&mut self, sight: &Sight<'_>, id: u64, word: TargetWord) {
        if id != self.id {
            return;
        }
        self.took = sight.now.saturating_sub(self.asked);
        let news = self.word.as_ref() != Some(&word);
        let patient = matches!(word, TargetWord::Purging | TargetWord::Refused) || self.probes;
        self.probes = false;
        self.word = Some(word);
        match news || patient {
            true => self.failures = 0,
            false => self.stumble(sight),
        }
        if std::mem::take(&mut self.copying) && news {
            // Half of the time is left to others, unless a rate says more.
            let pause = match sight.rate {
                Some(rate) => (self.last_bytes * 1000 / rate.max(1)).saturating_sub(self.took),
                None => self.took,
            };
            self.rest_until = sight.now + pause.min(LONGEST_PAUSE_MS * 5);
        }
        self.measure(sight.now);
    }

    /// What was proposed is applied.
    pub fn proposed(&mut self) {
        self.failures = 0;
    }

    /// What was asked or proposed got no answer, or a refusal.
    pub fn failed(&mut self, sight: &Sight<'_>) {
        self.proposed = None;
        (self.copying, self.reached_end, self.probes) = (false, false, false);
        self.stumble(sight);
    }

    /// What the outbox lacks, or a record that cannot be read. The copy begins anew; but if requests wait already, the
    /// target is to refuse instead, so that the slots are served here again.
    pub fn lost(&mut self, sight: &Sight<'_>) -> Option<MoveStep> {
        let out = sight.moves.outgoing.as_ref()?;
        self.stuck = out.phase == OutPhase::Frozen;
        if out.phase != OutPhase::Following {
            return None;
        }
        self.word = None;
        Some(anew(out, out.attempt + 1))
    }

    /// How far the move is, for others; `total` is about how many bytes there are in all.
    pub fn facts(&self, moves: &Moves, total: u64) -> Option<MoveFacts> {
        let out = moves.outgoing.as_ref()?;
        let next = match &self.word {
            Some(TargetWord::Receiving { complete: true, next, .. }) if out.id == self.id => Some(*next),
            _ => None,
        };
        let phase = match out.phase {
            OutPhase::Following if next.is_some() => Phase::Follow,
            OutPhase::Following => Phase::Copy,
            OutPhase::Frozen => Phase::Frozen,
            OutPhase::Given if out.cursor.is_empty() && out.swept < out.next => Phase::Given,
            OutPhase::Given => Phase::Release,
            OutPhase::Withdrawn => Phase::Withdraw,
            OutPhase::Done { .. } => Phase::Done,
        };
        let (own, rate) = (out.id == self.id, self.measured.2);
        Some(MoveFacts {
            id: out.id,
            phase,
            withdrawn: matches!(out.phase, OutPhase::Withdrawn | OutPhase::Done { withdrawn: true }),
            keys: if own { self.keys } else { 0 },
            bytes: if own { self.bytes } else { 0 },
            total: total.max(if own { self.bytes } else { 0 }),
            waiting: out.next - next.unwrap_or(out.first).min(out.next),
            rate: if own { rate } else { 0 },
        })
    }

    /// A group that goes on as another incarnation first takes the masters' word on its slots, and before that does away
    /// with what is left of moves that are over. None if that is done.
    fn adopt(&mut self, sight: &Sight<'_>) -> Option<Act> {
        let order = sight.order.or(sight.takes);
        let open = order.map(|order| order.id);
        let moves = sight.moves;
        if !moves.awaits(sight.began) && !moves.lacks_an_end(open) {
            return None;
        }
        let Some(slots) = sight.slots.filter(|_| moves.latest() < sight.next_move) else {
            return Some(self.rest(sight.now, REST_MS));
        };
        let own = slots.of(sight.group);
        if let Some(id) = moves.leftover(&own, open) {
            return Some(Act::Propose(MoveStep::Refuse { id }));
        }
        let gives = sight.order.map(|order| order.id);
        let over = moves.outgoing.as_ref().filter(|out| Some(out.id) != gives);
        let keeps = sight.takes.map_or_else(|| own.clone(), |order| own.minus(&order.slots));
        let step = over.and_then(|out| match out.phase {
            OutPhase::Withdrawn => Some(MoveStep::Release { id: out.id }),
            OutPhase::Done { withdrawn: true } => Some(MoveStep::Forget { id: out.id }),
            // Some of it came back by a later move: what is here of that is the group's.
            _ if out.slots.overlaps(&keeps) => None,
            OutPhase::Given => Some(MoveStep::Release { id: out.id }),
            OutPhase::Done { withdrawn: false } => Some(MoveStep::Forget { id: out.id }),
            OutPhase::Following | OutPhase::Frozen => None,
        });
        Some(Act::Propose(step.unwrap_or_else(|| {
            MoveStep::Adopt(Adopt {
                group: sight.group,
                incarnation: sight.incarnation,
                slots: slots.clone(),
                order: order.cloned(),
                next_move: sight.next_move,
            })
        })))
    }

    fn begin(&mut self, sight: &Sight<'_>) -> Act {
        match sight.order.filter(|order| order.id > sight.moves.last_out) {
            // Nothing was begun, as far as is applied here. The target's word counts.
            Some(order) if order.cancelled => match self.word {
                Some(TargetWord::Refused | TargetWord::Ended { took: false }) => {
                    Act::Propose(MoveStep::Withdraw { id: order.id })
                }
                Some(TargetWord::Active | TargetWord::Ended { took: true }) => self.look_again(sight),
                _ => Act::Ask { to: order.to, step: MoveStep::Refuse { id: order.id } },
            },
            Some(order) => Act::Propose(begin(order, first_attempt(sight.incarnation))),
            None => match abandoned(sight) {
                Some(id) => Act::Propose(MoveStep::Refuse { id }),
                None => self.rest(sight.now, REST_MS),
            },
        }
    }

    fn go_on(&mut self, sight: &Sight<'_>, out: &Outgoing) -> Act {
        match out.phase {
            OutPhase::Following => self.follow(sight, out),
            OutPhase::Frozen => self.switch(sight, out),
            // What has begun to go goes to the end: the target said that it owns the slots.
            OutPhase::Given if !out.cursor.is_empty() => Act::Propose(MoveStep::Release { id: out.id }),
            OutPhase::Given => match self.word {
                Some(TargetWord::Ended { took: true } | TargetWord::Late) => {
                    Act::Propose(MoveStep::Release { id: out.id })
                }
                // It goes on from a copy that lacks the end: what is here is whole.
                Some(
                    TargetWord::Ended { took: false }
                    | TargetWord::Refused
                    | TargetWord::Unknown
                    | TargetWord::Purging
                    | TargetWord::Receiving { .. },
                ) => Act::Propose(MoveStep::Reclaim { id: out.id, group: sight.group }),
                Some(TargetWord::Active | TargetWord::Busy { .. }) | None => {
                    ask(out, MoveStep::Settle { id: out.id })
                }
            },
            OutPhase::Withdrawn => match self.word {
                Some(TargetWord::Ended { .. } | TargetWord::Late | TargetWord::Unknown) => {
                    Act::Propose(MoveStep::Release { id: out.id })
                }
                _ if self.failures >= GIVE_UP => Act::Propose(MoveStep::Release { id: out.id }),
                _ => ask(out, MoveStep::Refuse { id: out.id }),
            },
            OutPhase::Done { .. } => {
                let ordered = sight.order.is_some_and(|order| order.id == out.id);
                match !ordered && sight.next_move > out.id {
                    true => Act::Propose(MoveStep::Forget { id: out.id }),
                    false => self.rest(sight.now, REST_MS),
                }
            }
        }
    }

    fn follow(&mut self, sight: &Sight<'_>, out: &Outgoing) -> Act {
        let word = self.word.clone();
        if let Some(TargetWord::Refused | TargetWord::Ended { took: false }) = word {
            return Act::Propose(MoveStep::Withdraw { id: out.id });
        }
        let cancelled = sight.order.is_some_and(|order| order.id == out.id && order.cancelled);
        match word {
            // What is applied here is old, and the proposal comes to nothing.
            Some(TargetWord::Active | TargetWord::Ended { took: true }) => {
                Act::Propose(MoveStep::Freeze { id: out.id })
            }
            _ if cancelled => ask(out, MoveStep::Refuse { id: out.id }),
            Some(TargetWord::Receiving { attempt, copied, complete, next }) if attempt == out.attempt => {
                match complete {
                    true => self.drain(out, next),
                    false => {
                        self.copying = true;
                        let attempt = (out.id, out.attempt);
                        Act::Copy { to: out.to, attempt, slots: out.slots.clone(), after: copied }
                    }
                }
            }
            Some(TargetWord::Late) => self.look_again(sight),
            Some(TargetWord::Receiving { attempt, .. }) if attempt > out.attempt => self.look_again(sight),
            Some(TargetWord::Busy { .. }) => {
                self.word = None;
                self.rest(sight.now, REST_MS)
            }
            _ => ask(
                out,
                MoveStep::Accept {
                    id: out.id,
                    attempt: out.attempt,
                    slots: out.slots.clone(),
                    from: sight.group,
                    to: out.to,
                    next: out.base,
                },
            ),
        }
    }

    /// The copy is complete, and the target has the changes below `next`.
    fn drain(&mut self, out: &Outgoing, next: u64) -> Act {
        if next > out.next || next < out.first {
            return Act::Propose(anew(out, out.attempt + 1));
        }
        if next - out.first >= TRIM_AFTER {
            return Act::Propose(MoveStep::Trim { id: out.id, first: next });
        }
        let waiting = out.next - next;
        let near = waiting == 0 || self.reached_end && waiting <= FEW_CHANGES;
        if near && self.took <= PROMPT_MS && self.failures == 0 {
            return Act::Propose(MoveStep::Freeze { id: out.id });
        }
        if waiting == 0 {
            // It is slow: see whether it has become faster.
            self.probes = true;
            return ask(
                out,
                MoveStep::Follow {
                    id: out.id,
                    attempt: out.attempt,
                    first: next,
                    next,
                    rows: Vec::new(),
                    secured: Secured::default(),
                },
            );
        }
        Act::Follow { to: out.to, attempt: (out.id, out.attempt), first: next, next: out.next }
    }

    /// Requests wait: the target takes the slots, or refuses.
    fn switch(&mut self, sight: &Sight<'_>, out: &Outgoing) -> Act {
        let cancelled = sight.order.is_some_and(|order| order.id == out.id && order.cancelled);
        match self.word.clone() {
            Some(TargetWord::Active | TargetWord::Ended { took: true }) => {
                Act::Propose(MoveStep::Give { id: out.id })
            }
            Some(TargetWord::Refused | TargetWord::Ended { took: false }) => {
                Act::Propose(MoveStep::Withdraw { id: out.id })
            }
            Some(TargetWord::Late) => self.look_again(sight),
            _ if cancelled => ask(out, MoveStep::Refuse { id: out.id }),
            Some(TargetWord::Receiving { attempt, complete: true, next, .. })
                if attempt == out.attempt && next < out.next && next >= out.first && !self.stuck =>
            {
                Act::Follow { to: out.to, attempt: (out.id, out.attempt), first: next, next: out.next }
            }
            // Nothing is known yet, or it has everything.
            None => ask(out, activate(sight, out)),
            Some(TargetWord::Receiving { attempt, complete: true, next, .. })
                if attempt == out.attempt && next == out.next =>
            {
                ask(out, activate(sight, out))
            }
            // It was revived from a copy that lacks what it had acknowledged, or what it lacks cannot be read.
            Some(_) => ask(out, MoveStep::Refuse { id: out.id }),
        }
    }

    fn look_again(&mut self, sight: &Sight<'_>) -> Act {
        self.word = None;
        self.rest(sight.now, PAUSE_MS * 5)
    }

    fn rest(&mut self, now: u64, time: u64) -> Act {
        // News may come earlier, so that this is no pause.
        Act::Rest(now + time)
    }

    fn is_repeat(&self, step: &MoveStep, moves: &Moves) -> bool {
        self.proposed.as_ref().is_some_and(|(last, on)| last == step && on == moves)
    }

    fn stumble(&mut self, sight: &Sight<'_>) {
        self.failures = self.failures.saturating_add(1);
        let frozen = sight.moves.freezes_any();
        let longest = if frozen { LONGEST_FROZEN_PAUSE_MS } else { LONGEST_PAUSE_MS };
        let pause = (PAUSE_MS << self.failures.min(7)).min(longest);
        self.rest_until = sight.now + pause;
    }

    fn measure(&mut self, now: u64) {
        let (since, before, _) = self.measured;
        let span = now.saturating_sub(since);
        if span >= RATE_MS {
            self.measured = (now, self.bytes, (self.bytes - before) * 1000 / span);
        }
    }
}

fn ask(out: &Outgoing, step: MoveStep) -> Act {
    Act::Ask { to: out.to, step }
}

fn activate(sight: &Sight<'_>, out: &Outgoing) -> MoveStep {
    MoveStep::Activate {
        id: out.id,
        attempt: out.attempt,
        next: out.next,
        version: sight.version,
        clock: sight.clock,
    }
}

/// A move in which the group was to take slots, and that its source has done with before it was refused here to the end.
fn abandoned(sight: &Sight<'_>) -> Option<u64> {
    let incoming = sight.moves.incoming.as_ref().filter(|incoming| incoming.phase != InPhase::Active)?;
    let is_over = sight.next_move > incoming.id && sight.takes.is_none_or(|order| order.id != incoming.id);
    // What the masters say is this group's stays, whatever became of the move.
    let stays = sight.slots.is_none_or(|slots| slots.of(sight.group).overlaps(&incoming.slots));
    (is_over && !stays).then_some(incoming.id)
}

fn begin(order: &MoveOrder, attempt: u64) -> MoveStep {
    MoveStep::Begin { id: order.id, attempt, slots: order.slots.clone(), to: order.to }
}

/// Begins another attempt.
fn anew(out: &Outgoing, attempt: u64) -> MoveStep {
    MoveStep::Begin { id: out.id, attempt, slots: out.slots.clone(), to: out.to }
}

#[cfg(test)]
#[path = "mover_tests.rs"]
mod tests;
