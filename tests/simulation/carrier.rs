//! What carries a move out: beside each worker that leads its group stands a [`Mover`], which decides; here are its reads,
//! its proposals, and its questions to the target, which travel over the network as everything does.

use crate::bug::Bug;
use crate::event::{Answer, Caller, Event, Place, Question};
use crate::forgery::{Forger, Sent};
use crate::node::Node;
use crate::system::{MS, System};
use crate::workers::Workers;
use catstore::cluster::moves::{MoveFacts, MoveOrder};
use catstore::error::Kind;
use catstore::replica::command::{Command, MoveStep, Reply, Request};
use catstore::replica::core::Role;
use catstore::replica::keyspace::{Chunk, Keyspace, copy_rows, outbox_rows};
use catstore::replica::mover::{Act, Mover, Sight, copy_step, follow_step};
use catstore::replica::moves::OutPhase;
use std::collections::BTreeMap;

/// A question goes to so many members of the target before it counts as failed.
const MEMBERS: u64 = 3;

/// Who waits for no answer.
const NOBODY: Caller = Caller::Operator(u64::MAX);

/// What a worker knows from the masters about moves. It is on its disk.
#[derive(Debug, Clone, Default)]
pub struct Ordered {
    /// The unfinished move in which its group is to give.
    pub order: Option<MoveOrder>,
    /// Moves below this number are known to the masters.
    pub next_move: u64,
}

/// The movers of all leaders.
#[derive(Default)]
pub struct Carriers {
    carriers: BTreeMap<u64, Carrier>,
    ordered: BTreeMap<u64, Ordered>,
    forger: Forger,
    number: u64,
}

/// The mover of one leader.
struct Carrier {
    life: u64,
    /// Bytes a second that its copies may take.
    rate: Option<u64>,
    mover: Mover,
    waits: Option<Waiting>,
    /// Who leads which group, as far as it knows.
    leaders: BTreeMap<u32, u64>,
    /// When it is to be looked at again.
    timer: u64,
}

/// An act under way.
struct Waiting {
    number: u64,
    /// The move.
    id: u64,
    /// The target and what it was asked; none for a proposal.
    asked: Option<(u32, MoveStep)>,
    tries: u64,
}

impl Carriers {
    /// A worker hears from a master what moves there are.
    pub fn hear(&mut self, worker: u64, ordered: Ordered) {
        self.ordered.insert(worker, ordered);
    }

    /// How far the move is that this worker's group gives slots in, if it leads.
    pub fn facts(&self, worker: &Node<Keyspace>) -> Option<MoveFacts> {
        let carrier = self.carriers.get(&worker.id).filter(|carrier| carrier.life == worker.life)?;
        let (_, published) = worker.up.as_ref()?.live();
        carrier.mover.facts(&published.moves, 0)
    }

    /// Something may have changed for this worker. Errors: a move that cannot be read.
    pub fn look(&mut self, sys: &mut System, workers: &mut Workers, id: u64) -> Result<(), String> {
        if let Some(request) = self.released_again(sys.bug, workers, id)
            && let Some(node) = workers.node_mut(id)
        {
            return node.question(sys, NOBODY, Question::Write(request));
        }
        let Some(node) = workers.node(id) else { return Ok(()) };
        let leads = node.up.as_ref().is_some_and(|up| up.status.role == Role::Leader);
        if !leads {
            self.carriers.remove(&id);
            return Ok(());
        }
        if node.paused_until > sys.now {
            return Ok(());
        }
        let life = node.life;
        let carrier = self.carriers.entry(id).or_insert_with(|| Carrier::new(sys, life));
        if carrier.life != life {
            *carrier = Carrier::new(sys, life);
        }
        if carrier.waits.is_some() {
            return Ok(());
        }
        let ordered = self.ordered.get(&id).cloned().unwrap_or_default();
        let act = sight(sys, node, &ordered, carrier.rate.filter(|_| sys.faults))
            .map(|sight| carrier.mover.next(&sight));
        let Some(act) = act else { return Ok(()) };
        self.act(sys, workers, id, act)
    }

    fn released_again(&mut self, bug: Bug, workers: &Workers, id: u64) -> Option<Request> {
        let up = workers.node(id).filter(|_| bug == Bug::ReleaseOwned)?.up.as_ref()?;
        let leads = up.status.role == Role::Leader;
        leads.then(|| self.forger.release_again(up.own.group, up.live().1))?
    }

    fn act(&mut self, sys: &mut System, workers: &mut Workers, id: u64, act: Act) -> Result<(), String> {
        match act {
            Act::Rest(until) => {
                self.rest(sys, workers, id, until);
                Ok(())
            }
            Act::Propose(step) => self.propose(sys, workers, id, step),
            Act::Ask { to, step } => {
                self.ask(sys, workers, id, to, step);
                Ok(())
            }
            Act::Copy { to, attempt, slots, after } => {
                let limit = sys.between(1, 300) as usize;
                let Some(up) = workers.node(id).and_then(|node| node.up.as_ref()) else { return Ok(()) };
                let chunk = copy_rows(up.live().0, &slots, &after, limit);
                let chunk = match chunk {
                    Ok(chunk) => chunk,
                    Err(error) if error.kind() == Kind::Damaged => {
                        return Err(format!("worker {id} cannot read a copy: {error}"));
                    }
                    // Its disk has failed: it is about to fall.
                    Err(_) => return Ok(()),
                };
                sys.count("copy sent");
                self.sends(id, &chunk, chunk.end.is_none());
                self.ask(sys, workers, id, to, copy_step(attempt, after, chunk));
                Ok(())
            }
            Act::Follow { to, attempt, first, next } => {
                let limit = sys.between(1, 400) as usize;
                let Some(up) = workers.node(id).and_then(|node| node.up.as_ref()) else { return Ok(()) };
                match outbox_rows(up.live().0, first, next, limit) {
                    Ok(chunk) => {
                        sys.count("changes sent");
                        self.sends(id, &chunk, chunk.next == next);
                        self.ask(sys, workers, id, to, follow_step(attempt, first, chunk));
                        Ok(())
                    }
                    Err(_) => self.lose(sys, workers, id),
                }
            }
        }
    }

    /// The outbox lacks what the target needs: the copy begins anew.
    fn lose(&mut self, sys: &mut System, workers: &mut Workers, id: u64) -> Result<(), String> {
        sys.count("copy begun anew");
        let ordered = self.ordered.get(&id).cloned().unwrap_or_default();
        let (Some(node), Some(carrier)) = (workers.node(id), self.carriers.get_mut(&id)) else {
            return Ok(());
        };
        let step = sight(sys, node, &ordered, carrier.rate.filter(|_| sys.faults))
            .and_then(|sight| carrier.mover.lost(&sight));
        step.map_or(Ok(()), |step| self.propose(sys, workers, id, step))
    }

    fn sends(&mut self, id: u64, chunk: &Chunk, reached_end: bool) {
        if let Some(carrier) = self.carriers.get_mut(&id) {
            carrier.mover.sends(chunk, reached_end);
        }
    }

    /// It is looked at again at `until`, by its own clock.
    fn rest(&mut self, sys: &mut System, workers: &Workers, id: u64, until: u64) {
        let (Some(node), Some(carrier)) = (workers.node(id), self.carriers.get_mut(&id)) else { return };
        let at = sys.now + node.clock.until(sys.now, until).max(MS);
        // Every tick looks too.
        if at < sys.now + 100 * MS && (carrier.timer <= sys.now || at < carrier.timer) {
            carrier.timer = at;
            sys.at(at, Event::Carry(id, node.life));
        }
    }

    fn propose(
        &mut self,
        sys: &mut System,
        workers: &mut Workers,
        id: u64,
        step: MoveStep,
    ) -> Result<(), String> {
        let place = Place::Worker(id);
        if let MoveStep::Forget { .. } = step
            && let Some(up) = workers.node(id).and_then(|node| node.up.as_ref())
            && let Some(out) = &up.live().1.moves.outgoing
        {
            let withdrawn = out.phase == OutPhase::Done { withdrawn: true };
            sys.count(if withdrawn { "move ended in vain" } else { "move finished" });
        }
        count(sys, &step);
        if sys.bug == Bug::ReleaseOwned
            && matches!(step, MoveStep::Release { .. })
            && let Some(node) = workers.node(id)
            && let Some((state, published)) = node.up.as_ref().map(|up| up.live())
            && let Some(out) = published.moves.outgoing.as_ref().filter(|out| out.phase == OutPhase::Given)
        {
            self.forger.releases(node.group, state, &out.slots);
        }
        let caller = self.wait(sys, id, step.id(), None, 1);
        match workers.at(place).and_then(|group| group.nodes.get_mut(&id)) {
            Some(node) => node.question(sys, caller, as_question(step)),
            None => Ok(()),
        }
    }

    fn ask(&mut self, sys: &mut System, workers: &Workers, id: u64, to: u32, step: MoveStep) {
        let caller = self.wait(sys, id, step.id(), Some((to, step.clone())), 1);
        self.send(sys, workers, id, caller, to, step);
    }

    /// An act begins. Returns who asks.
    fn wait(
        &mut self,
        sys: &mut System,
        id: u64,
        of: u64,
        asked: Option<(u32, MoveStep)>,
        tries: u64,
    ) -> Caller {
        self.number += 1;
        let number = self.number;
        let patience = match asked {
            Some(_) if sys.one_in(4) => sys.between(20, 200),
            _ => sys.between(200, 2000),
        };
        sys.after(patience * MS, Event::CarryInVain(id, number));
        if let Some(carrier) = self.carriers.get_mut(&id) {
            carrier.waits = Some(Waiting { number, id: of, asked, tries });
        }
        Caller::Mover { worker: id, number }
    }

    /// A question goes to the member that leads, as far as is known; else to any.
    fn send(
        &mut self,
        sys: &mut System,
        workers: &Workers,
        id: u64,
        caller: Caller,
        to: u32,
        step: MoveStep,
    ) {
        let Some(carrier) = self.carriers.get(&id) else { return };
        let there = workers.group(to).there();
        if there.is_empty() {
            return;
        }
        let known = carrier.leaders.get(&to).copied().filter(|_| !sys.one_in(12));
        let member = known.unwrap_or_else(|| there[sys.random.up_to(there.len() - 1)]);
        let from = workers.group_of(id).unwrap_or_default();
        for Sent { delay, to, step, silent } in self.forger.asked(sys, workers, (from, to, member), step) {
            let caller = if silent { NOBODY } else { caller };
            for travels in sys.send(Place::Worker(id), Place::Worker(to)) {
                let question = Event::Question(Place::Worker(to), caller, as_question(step.clone()));
                sys.after(delay + travels, question);
            }
        }
    }

    /// The source itself, or the target, answers.
    pub fn answer(
        &mut self,
        sys: &mut System,
        workers: &mut Workers,
        (id, number): (u64, u64),
        answer: Answer,
    ) -> Result<(), String> {
        let Some(carrier) = self.carriers.get_mut(&id) else { return Ok(()) };
        let Some(waits) = carrier.waits.take_if(|waits| waits.number == number) else { return Ok(()) };
        let ordered = self.ordered.get(&id).cloned().unwrap_or_default();
        let Some(sight) =
            workers.node(id).and_then(|node| sight(sys, node, &ordered, carrier.rate.filter(|_| sys.faults)))
        else {
            return Ok(());
        };
        match (answer, waits.asked) {
            (Answer::Key(Reply::MoveNoted), None) => carrier.mover.proposed(),
            (Answer::Key(Reply::MoveTarget(word)), Some(_)) => {
                let word = self.forger.heard(sys.bug, word);
                carrier.mover.heard(&sight, waits.id, word);
            }
            (Answer::Refused(_, leader), Some((to, step))) => {
                match leader {
                    Some(leader) => carrier.leaders.insert(to, leader),
                    None => carrier.leaders.remove(&to),
                };
                if waits.tries < MEMBERS {
                    let caller = self.wait(sys, id, waits.id, Some((to, step.clone())), waits.tries + 1);
                    self.send(sys, workers, id, caller, to, step);
                    return Ok(());
                }
                carrier.mover.failed(&sight);
            }
            (Answer::Refused(..), None) => carrier.mover.failed(&sight),
            (answer, asked) => return Err(format!("{asked:?} of a move was answered {answer:?}")),
        }
        self.look(sys, workers, id)
    }

    /// An act was not answered in time.
    pub fn in_vain(
        &mut self,
        sys: &mut System,
        workers: &mut Workers,
        id: u64,
        number: u64,
    ) -> Result<(), String> {
        let Some(carrier) = self.carriers.get_mut(&id) else { return Ok(()) };
        let Some(waits) = carrier.waits.take_if(|waits| waits.number == number) else { return Ok(()) };
        sys.count("step of a move not answered");
        if let Some((to, _)) = waits.asked {
            carrier.leaders.remove(&to);
        }
        let ordered = self.ordered.get(&id).cloned().unwrap_or_default();
        if let Some(sight) =
            workers.node(id).and_then(|node| sight(sys, node, &ordered, carrier.rate.filter(|_| sys.faults)))
        {
            carrier.mover.failed(&sight);
        }
        self.look(sys, workers, id)
    }
}

impl Carrier {
    fn new(sys: &mut System, life: u64) -> Carrier {
        let rate = (!sys.long_values && !sys.one_in(3)).then(|| sys.between(200, 5000));
        Carrier { life, rate, mover: Mover::default(), waits: None, leaders: BTreeMap::new(), timer: 0 }
    }
}

fn as_question(step: MoveStep) -> Question {
    Question::Write(Request { id: None, command: Command::Move(step) })
}

/// What the mover of a worker knows.
fn sight<'a>(
    sys: &System,
    node: &'a Node<Keyspace>,
    ordered: &'a Ordered,
    rate: Option<u64>,
) -> Option<Sight<'a>> {
    let (_, published) = node.up.as_ref()?.live();
    Some(Sight {
        now: node.clock.ms(sys.now),
        group: node.group,
        incarnation: 1,
        began: 0,
        moves: &published.moves,
        version: published.counters.version,
        clock: published.counters.clock,
        order: ordered.order.as_ref(),
        takes: None,
        next_move: ordered.next_move,
        slots: None,
        rate,
    })
}

fn count(sys: &mut System, step: &MoveStep) {
    sys.count(match step {
        MoveStep::Begin { attempt, .. } if *attempt as u32 == 1 => "move begun",
        MoveStep::Begin { .. } => "move begun again",
        MoveStep::Freeze { .. } => "slots frozen",
        MoveStep::Give { .. } => "slots given",
        MoveStep::Withdraw { .. } => "move withdrawn",
        MoveStep::Release { .. } => "slots released",
        MoveStep::Forget { .. } => "move forgotten",
        _ => "another step of a source",
    });
}
