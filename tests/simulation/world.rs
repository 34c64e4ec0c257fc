//! One seed's world: masters, a group of workers, clients, and what goes wrong; then calm, and what must hold at the
//! end.

use crate::bug::Bug;
use crate::client::{Client, KEYS};
use crate::event::{Caller, Event, Place};
use crate::group::Group;
use crate::history::History;
use crate::node::Subject;
use crate::operator::Operator;
use crate::plots::Plots;
use crate::system::{MS, SECOND, System, Totals};
use crate::trouble::{self, Theme};
use catstore::cluster::membership::{Wanted, wanted, wanted_masters};
use catstore::replica::directory::DirectoryMachine;
use catstore::replica::keyspace::Keyspace;
use catstore::replica::machine::Machine;

/// Faults go on for so long, at least.
const FAULTS: u64 = 60 * SECOND;
/// Every seed has so many operations.
const OPERATIONS: u64 = 500;
/// After so long without faults everything must be as it should be.
const CALM: u64 = 30 * SECOND;

/// A world.
pub struct World {
    /// Time, chance, network, counts.
    pub sys: System,
    /// The masters.
    pub masters: Group<DirectoryMachine>,
    /// The workers.
    pub workers: Group<Keyspace>,
    /// Who looks after them.
    pub operator: Operator,
    /// What the seed is about.
    pub theme: Theme,
    /// No more workers than so many.
    pub most_workers: usize,
    /// What waits for its moment.
    pub plots: Plots,
    clients: Vec<Client>,
    history: History,
    calm_since: u64,
}

/// What a seed came to.
pub struct Outcome {
    /// What happened.
    pub totals: Totals,
    /// A hash of everything that happened, in order.
    pub trace: u64,
    /// How many events there were.
    pub events: u64,
    /// What must not be, if it was.
    pub failure: Option<String>,
}

/// Lives through the world of `seed`.
pub fn live(seed: u64, bug: Bug) -> Outcome {
    let mut world = World::new(seed, bug);
    let failure = world.live().err();
    let failure = failure.map(|why| format!("theme {}, {} ms: {why}", world.theme.name, world.sys.now / MS));
    let (masters, workers) = (world.masters.watch().compared, world.workers.watch().compared);
    let mut totals = world.sys.totals;
    totals.0.insert("state digests compared", masters + workers);
    Outcome { totals, trace: world.sys.trace, events: world.sys.events, failure }
}

impl World {
    fn new(seed: u64, bug: Bug) -> World {
        let mut sys = System::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x00C0_FFEE, bug);
        let theme = trouble::theme(seed);
        sys.power_after_vote = theme.power_after_vote;
        sys.ttl = theme.name != "reads";
        sys.in_flight = if sys.one_in(4) { 2 } else { 1 };
        let dead_after = sys.between(3, 10) * SECOND;
        let sizes = match theme.name {
            "snapshots" => (sys.between(300, 2000), sys.between(500, 3000)),
            _ => (sys.between(1000, 8000), sys.between(3000, 30_000)),
        };
        let operator = Operator::new(dead_after, sizes);
        let (masters, workers) = (Group::new("masters"), Group::new("workers"));
        let most_workers = if theme.name == "pairs" { 2 } else { sys.between(3, 6) as usize };
        World {
            sys,
            masters,
            workers,
            operator,
            theme,
            most_workers,
            plots: Plots::default(),
            clients: Vec::new(),
            history: History::default(),
            calm_since: 0,
        }
    }

    fn live(&mut self) -> Result<(), String> {
        self.begin_world()?;
        while let Some(event) = self.sys.next() {
            if self.sys.faults && self.sys.now >= FAULTS && self.done() >= OPERATIONS {
                self.calm_down()?;
            }
            if !self.sys.faults && self.sys.now >= self.calm_since + CALM {
                return self.judge().map_err(|why| {
                    let now = self.sys.now;
                    format!("{why}\n{}{}", self.masters.describe(now), self.workers.describe(now))
                });
            }
            self.on(event)?;
            self.advance_plots();
        }
        Err("nothing happens any longer".into())
    }

    fn done(&self) -> u64 {
        self.clients.iter().map(|client| client.done).sum()
    }

    fn begin_world(&mut self) -> Result<(), String> {
        self.operator.found(&mut self.sys, &mut self.masters)?;
        for _ in 0..self.sys.between(0, 2) {
            self.operator.join_master(&mut self.sys);
        }
        let workers = self.sys.between(3.min(self.most_workers as u64), self.most_workers as u64);
        for _ in 0..workers {
            self.operator.join(&mut self.sys, None);
        }
        for number in 0..self.sys.between(3, 8) {
            let home = self.sys.between(1, workers);
            let stays = self.sys.one_in(2);
            let pause = self.sys.between(100, 300);
            self.clients.push(Client::new(number, home, stays, pause));
            let later = self.sys.between(2000, 4000) * MS;
            self.sys.after(later, Event::Client(number));
        }
        self.sys.after(SECOND, Event::Duty);
        let first = self.sys.between(2, 8) * SECOND;
        self.sys.after(first, Event::Trouble);
        Ok(())
    }

    /// Clients that hurry: for what lasts only some hundred milliseconds.
    pub fn hurry(&mut self, leader: u64) {
        let until = self.sys.now + 3 * SECOND;
        self.clients.iter_mut().for_each(|client| client.hurry = (until, leader));
    }

    /// Clients only read for a while, so that nobody falls behind.
    pub fn quiet(&mut self, until: u64) {
        self.clients.iter_mut().for_each(|client| client.quiet = until);
    }

    fn on(&mut self, event: Event) -> Result<(), String> {
        let World { sys, masters, workers, operator, clients, history, .. } = self;
        match event {
            Event::Wake(place, _)
            | Event::Effect(place, ..)
            | Event::Finish(place, _)
            | Event::Die(place, ..)
            | Event::Start(place)
            | Event::Parcel(place, _)
            | Event::Forged(place, _)
            | Event::Unreachable(place, ..)
            | Event::Flushed(place, _)
            | Event::Ask(place, ..)
            | Event::Serve(place, ..)
            | Event::Chunk(place, ..)
            | Event::Pulled(place, ..)
            | Event::Want(place, ..)
            | Event::Leave(place, _)
            | Event::Question(place, ..) => match place {
                Place::Master(_) => masters.on(sys, place, event),
                _ => workers.on(sys, place, event),
            },
            Event::Answer(Caller::Client { client, attempt }, answer) => {
                match clients.get_mut(client as usize) {
                    Some(client) => client.answer(sys, history, attempt, answer),
                    None => Ok(()),
                }
            }
            Event::Answer(Caller::Operator(task), answer) => {
                operator.answer(sys, task, answer, masters, workers)
            }
            Event::Client(client) => {
                let there = workers.there();
                match clients.get_mut(client as usize) {
                    Some(client) if !there.is_empty() => client.act(sys, history, &there),
                    _ => sys.after(SECOND, Event::Client(client)),
                }
                Ok(())
            }
            Event::Patience(client, attempt) => {
                if let Some(client) = clients.get_mut(client as usize) {
                    client.lose_patience(sys, history, attempt);
                }
                Ok(())
            }
            Event::Heartbeat(place) => {
                operator.beat(sys, place, masters);
                Ok(())
            }
            Event::Heard(master, worker) => {
                operator.hear(sys, master, worker, masters, workers);
                Ok(())
            }
            Event::Duty => operator.duty(sys, masters),
            Event::Again(task) => operator.again(sys, task, masters),
            Event::ComeBack(id) => self.come_back(id),
            Event::Trouble => self.trouble(),
            Event::Scene(scene) => self.scene(scene),
            Event::Calm => {
                sys.net.lose = 0;
                sys.net.repeat = 0;
                sys.net.slow = 0;
                Ok(())
            }
        }
    }

    /// No faults from here on: links work, disks are fast, everybody comes back.
    fn calm_down(&mut self) -> Result<(), String> {
        self.sys.faults = false;
        self.calm_since = self.sys.now;
        self.sys.net.heal();
        calm(&mut self.sys, &mut self.masters);
        calm(&mut self.sys, &mut self.workers);
        let past = std::mem::take(&mut self.history.past);
        for (request, answer) in past.into_iter().rev().take(30) {
            let client = self.sys.random.up_to(self.clients.len() - 1);
            self.clients[client].audit.push((request, answer));
        }
        Ok(())
    }

    /// What must hold at the end.
    fn judge(&mut self) -> Result<(), String> {
        for client in &self.clients {
            client.judge(self.sys.now)?;
        }
        let leader = self.masters.leader().ok_or("no master leads at the end")?;
        let directory = self.masters.nodes[&leader].up.as_ref().map(|up| up.member.machine().publish());
        let directory = directory.ok_or("no master leads at the end")?;
        if !self.operator.is_idle() {
            return Err(format!("the operator is not done: {}", self.operator.pending()));
        }
        agree(&self.masters, &wanted_masters(&directory), "masters")?;
        agree(&self.workers, &wanted(&directory.view(), 0), "workers")?;
        let version = self.workers.leader().map(|leader| &self.workers.nodes[&leader]);
        let counters =
            version.and_then(|node| node.up.as_ref()).map(|up| up.member.machine().publish().counters);
        let counters = counters.ok_or("no worker leads at the end")?;
        if counters.version < self.sys.acknowledged {
            return Err(format!(
                "version {} at the end, {} was acknowledged",
                counters.version, self.sys.acknowledged
            ));
        }
        let given_up = self.history.check(KEYS)?;
        (0..given_up).for_each(|_| self.sys.count("history too hard to check"));
        (0..self.history.len()).for_each(|_| self.sys.count("operation in a history"));
        Ok(())
    }
}

fn calm<M: Subject>(sys: &mut System, group: &mut Group<M>) {
    for node in group.nodes.values_mut().filter(|node| !node.gone) {
        node.disk.crash_at(u64::MAX);
        node.planned = None;
        node.paused_until = node.paused_until.min(sys.now);
        node.slow_disk = (0, 0);
        let soon = sys.between(0, 2000) * MS;
        sys.after(soon, Event::Start(M::place(node.id)));
    }
}

/// Everybody is where the directory wants it, by the odd rule, and has applied the same.
fn agree<M: Subject>(group: &Group<M>, wanted: &Wanted, name: &str) -> Result<(), String> {
    let there: std::collections::BTreeSet<u64> = group.running().into_iter().collect();
    if there != wanted.members {
        return Err(format!("{name}: {there:?} run at the end, the directory wants {:?}", wanted.members));
    }
    let leader = group.leader().ok_or_else(|| format!("{name}: nobody leads at the end"))?;
    let membership = group.membership(leader).cloned().unwrap_or_default();
    let mut members: Vec<u64> = membership.voters.iter().chain(&membership.learners).copied().collect();
    members.sort_unstable();
    let odd = wanted.members.len() - usize::from(wanted.members.len().is_multiple_of(2));
    let joint = !membership.voters_outgoing.is_empty();
    if joint || membership.voters.len() != odd || !members.iter().eq(&wanted.members) {
        return Err(format!(
            "{name}: the configuration at the end is {membership:?}, the directory wants {wanted:?}"
        ));
    }
    let mut states: Vec<(u64, u64, u64)> = Vec::new();
    for node in group.nodes.values() {
        if let Some(up) = &node.up {
            states.push((up.member.machine().position().index, node.disk.digest(), node.id));
        }
    }
    let newest = states.iter().map(|(index, _, _)| *index).max().unwrap_or(0);
    match states.iter().find(|(index, _, _)| index + 40 < newest) {
        Some(behind) => Err(format!("{name}: a member is behind at the end: {behind:?} of {states:?}")),
        None => Ok(()),
    }
}
