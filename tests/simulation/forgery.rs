//! Bugs of moves and of chunks that are put in on purpose: what the target is asked, what the source is told, and what
//! members say of chunks, changed on the way.

use crate::bug::Bug;
use crate::system::{MS, System};
use crate::workers::Workers;
use catstore::cluster::moves::SlotSet;
use catstore::cluster::slots::slot;
use catstore::replica::blobs::talk::{self, Question};
use catstore::replica::command::{Command, Condition, MoveStep, MovedRow, Request, Secured, TargetWord};
use catstore::replica::keyspace::{Published, copy_rows};
use catstore::store::keys;
use catstore::store::state::State;
use std::collections::BTreeMap;

/// What a planted bug remembers.
#[derive(Default)]
pub struct Forger {
    /// The first records that were sent, by move.
    sent: BTreeMap<u64, Vec<MovedRow>>,
    /// What was offered to the target, by move: slots, source, target.
    offered: BTreeMap<u64, (SlotSet, u32, u32)>,
    /// Keys that each group has removed because it gave them away.
    released: BTreeMap<u32, Vec<Vec<u8>>>,
}

/// A question on its way.
pub struct Sent {
    /// It leaves after so many microseconds,
    pub delay: u64,
    /// to this worker.
    pub to: u64,
    /// The step.
    pub step: MoveStep,
    /// True if nobody waits for an answer.
    pub silent: bool,
}

impl Sent {
    fn at_once(to: u64, step: MoveStep) -> Sent {
        Sent { delay: 0, to, step, silent: false }
    }
}

impl Forger {
    /// What the source takes for the target's word.
    pub fn heard(&self, bug: Bug, word: TargetWord) -> TargetWord {
        match word {
            TargetWord::Active if bug == Bug::WithdrawGiven => TargetWord::Refused,
            word => word,
        }
    }

    /// What is sent instead of `step` by a member of group `from` to the worker `member` of group `to`.
    pub fn asked(
        &mut self,
        sys: &System,
        workers: &Workers,
        (from, to, member): (u32, u32, u64),
        step: MoveStep,
    ) -> Vec<Sent> {
        if let MoveStep::Accept { id, slots, from, to, .. } = &step {
            self.offered.insert(*id, (slots.clone(), *from, *to));
        }
        let step = self.changed(sys.bug, step);
        match (sys.bug, &step) {
            (Bug::ActivateTwice, _) => twice(workers, (from, to, member), step),
            (Bug::ClearWhileMoving, MoveStep::Activate { id, .. }) => match self.offered.get(id).cloned() {
                Some(offer) => cleared(member, offer, step),
                None => vec![Sent::at_once(member, step)],
            },
            _ => vec![Sent::at_once(member, step)],
        }
    }

    fn changed(&mut self, bug: Bug, step: MoveStep) -> MoveStep {
        match (bug, step) {
            (Bug::OutboxTail, MoveStep::Follow { id, attempt, first, next, mut rows, secured }) => {
                rows.pop();
                MoveStep::Follow { id, attempt, first, next, rows, secured }
            }
            (Bug::VersionRestarts, MoveStep::Activate { id, attempt, next, clock, .. }) => {
                MoveStep::Activate { id, attempt, next, version: 0, clock }
            }
            (Bug::LateChunk, MoveStep::Copy { id, attempt, after, end, rows, secured }) => {
                self.sent.entry(id).or_default().extend(rows.iter().cloned());
                MoveStep::Copy { id, attempt, after, end, rows, secured }
            }
            (Bug::LateChunk, MoveStep::Follow { id, attempt, first, next, mut rows, secured }) => {
                rows.extend(self.sent.get(&id).into_iter().flatten().cloned());
                MoveStep::Follow { id, attempt, first, next, rows, secured }
            }
            (Bug::DecidedAnew, MoveStep::Follow { id, attempt, first, next, mut rows, secured }) => {
                rows.iter_mut().for_each(decide_anew);
                MoveStep::Follow { id, attempt, first, next, rows, secured }
            }
            (_, step) => step,
        }
    }

    /// [`Bug::ReleaseOwned`]: the source is about to remove what it gave away; the keys are remembered.
    pub fn releases(&mut self, group: u32, state: &dyn State, slots: &SlotSet) {
        let Ok(chunk) = copy_rows(state, slots, &[], usize::MAX) else { return };
        let keys = chunk.rows.iter().filter_map(|moved| keys::record_key(&moved.row).map(<[u8]>::to_vec));
        self.released.entry(group).or_default().extend(keys);
    }

    /// [`Bug::ReleaseOwned`]: one of these keys, once its slot has come back.
    pub fn release_again(&mut self, group: u32, published: &Published) -> Option<Request> {
        let released = self.released.get_mut(&group)?;
        let position = released.iter().position(|key| published.serves(slot(key)).is_ok())?;
        let command = Command::Delete { key: released.swap_remove(position), condition: Condition::Any };
        Some(Request { id: None, command })
    }
}

/// [`Bug::ActivateTwice`]: a third group hears everything too, as if it were the target.
fn twice(workers: &Workers, (from, to, member): (u32, u32, u64), step: MoveStep) -> Vec<Sent> {
    let third = workers.groups().iter().find(|(group, _)| **group != from && **group != to);
    let mut sent = vec![Sent::at_once(member, step.clone())];
    if let Some((third, leader)) = third.and_then(|(id, group)| Some((*id, group.leader()?))) {
        let step = match step {
            MoveStep::Accept { id, attempt, slots, from, next, .. } => {
                MoveStep::Accept { id, attempt, slots, from, to: third, next }
            }
            step => step,
        };
        sent.push(Sent { delay: 0, to: leader, step, silent: true });
    }
    sent
}

/// [`Bug::ClearWhileMoving`]: before the target takes the slots, everything that came is removed.
fn cleared(member: u64, (slots, from, to): (SlotSet, u32, u32), step: MoveStep) -> Vec<Sent> {
    let MoveStep::Activate { id, attempt, next, version, clock } = step else { return Vec::new() };
    let attempt = attempt + 1;
    let steps = [
        MoveStep::Accept { id, attempt, slots, from, to, next },
        MoveStep::Copy {
            id,
            attempt,
            after: Vec::new(),
            end: None,
            rows: Vec::new(),
            secured: Secured::default(),
        },
        MoveStep::Activate { id, attempt, next, version, clock },
    ];
    let last = steps.len() - 1;
    let sent = |(place, step)| Sent { delay: place as u64 * 10 * MS, to: member, step, silent: place < last };
    steps.into_iter().enumerate().map(sent).collect()
}

/// A record gets another version.
fn decide_anew(moved: &mut MovedRow) {
    let is_record = keys::record_key(&moved.row).is_some();
    // The version is behind the byte of the format.
    if let Some(value) = moved.value.as_mut().filter(|value| is_record && value.len() > 9) {
        let mut version = [0; 8];
        version.copy_from_slice(&value[1..9]);
        value[1..9].copy_from_slice(&(u64::from_le_bytes(version) + 1).to_le_bytes());
    }
}

/// [`Bug::ChunksUnsecured`]: what a question about chunks is answered that never arrives.
pub fn answered_by_nobody(bug: Bug, question: &[u8]) -> Option<Vec<u8>> {
    if bug != Bug::ChunksUnsecured {
        return None;
    }
    match Question::decode(question).ok()? {
        Question::Take(..) => Some(Vec::new()),
        Question::Held(_, names) => Some(vec![1; names.len()]),
        Question::Give(_) | Question::Word => None,
    }
}

/// [`Bug::CollectorIgnoresLog`] and [`Bug::CollectorIgnoresUploads`]: what a member takes for the leader's word.
pub fn word(bug: Bug, question: &[u8], answer: Vec<u8>) -> Vec<u8> {
    if !matches!(bug, Bug::CollectorIgnoresLog | Bug::CollectorIgnoresUploads) {
        return answer;
    }
    match (Question::decode(question), talk::decode_word(&answer)) {
        (Ok(Question::Word), Ok(mut word)) => {
            match bug {
                Bug::CollectorIgnoresLog => word.applied = 0,
                _ => word.low = word.next,
            }
            talk::encode_word(&word)
        }
        _ => answer,
    }
}
