//! One seed's world: masters, groups of workers, clients, and what goes wrong; then calm, and what must hold at the
//! end.

use crate::bug::Bug;
use crate::carrier::Carriers;
use crate::client::{Atlas, Client};
use crate::event::{Answer, Caller, Event, Place, Question};
use crate::group::Group;
use crate::history::History;
use crate::lister::Lister;
use crate::moving::Strike;
use crate::node::Subject;
use crate::operator::Operator;
use crate::owners::Owners;
use crate::plots::Plots;
use crate::system::{MS, SECOND, System, Totals};
use crate::themes::{self, Theme};
use crate::vault;
use crate::workers::Workers;
use catstore::cluster::moves::{SlotSet, Span};
use catstore::cluster::slots::{SLOTS, SlotTable};
use catstore::replica::directory::DirectoryMachine;
use catstore::replica::machine::Machine;
use catstore::replica::parcel::MASTERS;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Faults go on for so long, at least.
const FAULTS: u64 = 60 * SECOND;
/// Every seed has so many operations.
const OPERATIONS: u64 = 500;
/// After so long without faults everything must be as it should be.
const CALM: u64 = 30 * SECOND;
/// In the last part of it nobody writes.
const QUIET: u64 = 8 * SECOND;

/// A world.
pub struct World {
    /// Time, chance, network, counts.
    pub sys: System,
    /// The masters.
    pub masters: Group<DirectoryMachine>,
    /// The groups of workers.
    pub workers: Workers,
    /// Who looks after them.
    pub operator: Operator,
    /// The machine that is down and may be lost for good.
    pub losing: Option<Place>,
    /// What the seed is about.
    pub theme: Theme,
    /// No more workers in a group than so many.
    pub most_workers: usize,
    /// What waits for its moment, by group.
    pub plots: BTreeMap<u32, Plots>,
    /// What carries out moves.
    pub carriers: Carriers,
    /// What is to go wrong in the middle of a move.
    pub strikes: Vec<Strike>,
    /// Who serves which slot.
    pub owners: Owners,
    /// Who lists all keys.
    pub lister: Lister,
    /// Those who read and write.
    pub clients: Vec<Client>,
    /// What they saw.
    pub history: History,
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
    let masters = world.masters.watch().compared;
    let workers: u64 = world.workers.groups().values().map(|group| group.watch().compared).sum();
    let mut totals = world.sys.totals;
    totals.0.insert("state digests compared", masters + workers);
    Outcome { totals, trace: world.sys.trace, events: world.sys.events, failure }
}

impl World {
    fn new(seed: u64, bug: Bug) -> World {
        let mut sys = System::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x00C0_FFEE, bug);
        let theme = themes::theme(seed);
        sys.power_after_vote = theme.power_after_vote;
        sys.ttl = theme.name != "reads";
        sys.in_flight = if sys.one_in(4) { 2 } else { 1 };
        let dead_after = sys.between(3, 10) * SECOND;
        let sizes = match theme.name {
            "snapshots" => (sys.between(300, 2000), sys.between(500, 3000)),
            _ => (sys.between(1000, 8000), sys.between(3000, 30_000)),
        };
        let operator = Operator::new(dead_after, sizes);
        let masters = Group::new(MASTERS, "masters");
        let most_workers = match theme.name {
            "pairs" => 2,
            "moves" => 3,
            _ => sys.between(3, 6) as usize,
        };
        let groups = if theme.name == "moves" { sys.between(2, 3) as u32 } else { 1 };
        sys.long_values = groups == 1 || sys.one_in(3);
        World {
            sys,
            masters,
            workers: Workers::new(0..groups),
            operator,
            losing: None,
            theme,
            most_workers,
            plots: BTreeMap::new(),
            carriers: Carriers::default(),
            strikes: Vec::new(),
            owners: Owners::default(),
            lister: Lister::default(),
            clients: Vec::new(),
            history: History::new(groups > 1),
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
            let worker = self.mover_of(&event);
            self.on(event)?;
            self.disks_failed();
            if let Some(worker) = worker {
                self.strike_in_time(worker);
            }
            self.advance_plots();
        }
        Err("nothing happens any longer".into())
    }

    /// The worker whose move may have gone on by this event, if somebody waits for that.
    fn mover_of(&self, event: &Event) -> Option<u64> {
        match event {
            _ if self.strikes.is_empty() => None,
            Event::Finish(Place::Worker(worker), _) | Event::Answer(Caller::Mover { worker, .. }, _) => {
                Some(*worker)
            }
            _ => None,
        }
    }

    fn done(&self) -> u64 {
        self.clients.iter().map(|client| client.done).sum()
    }

    fn begin_world(&mut self) -> Result<(), String> {
        let several = self.several();
        let table = if several { self.some_table() } else { SlotTable::default() };
        self.operator.found(&mut self.sys, &mut self.masters, &mut self.workers, &table)?;
        for _ in 0..self.sys.between(0, 2) {
            self.operator.join_master(&mut self.sys);
        }
        let workers = if several {
            self.join_clones()
        } else {
            let workers = self.sys.between(3.min(self.most_workers as u64), self.most_workers as u64);
            (0..workers).for_each(|_| self.operator.join(&mut self.sys, Some(0), None));
            workers
        };
        for number in 0..self.sys.between(3, 8) {
            let home = self.sys.between(1, workers);
            let stays = self.sys.one_in(2);
            let pause = self.sys.between(100, 300);
            self.clients.push(Client::new(number, home, stays, pause, several));
            let later = self.sys.between(2000, 4000) * MS;
            self.sys.after(later, Event::Client(number));
        }
        if several {
            self.sys.after(4 * SECOND, Event::List(0));
        }
        self.sys.after(SECOND, Event::Duty);
        let first = self.sys.between(2, 8) * SECOND;
        self.sys.after(first, Event::Trouble);
        Ok(())
    }

    /// True if there are several groups.
    pub fn several(&self) -> bool {
        self.workers.groups().len() > 1
    }

    /// Who owns which slot at the beginning: one group everything, or each a share.
    fn some_table(&mut self) -> SlotTable {
        let groups = self.workers.groups().len() as u64;
        let mut table = SlotTable::whole(0);
        if self.sys.one_in(3) {
            return table;
        }
        let shares = self.sys.between(2, 6);
        for share in 0..shares {
            let share = Span {
                first: (share * u64::from(SLOTS) / shares) as u16,
                last: ((share + 1) * u64::from(SLOTS) / shares - 1) as u16,
            };
            table.give(&SlotSet::of([share]), self.sys.between(0, groups - 1) as u32);
        }
        table
    }

    /// Clones join the groups. Returns how many workers there will be.
    fn join_clones(&mut self) -> u64 {
        let groups: Vec<u32> = self.workers.groups().keys().copied().collect();
        let mut workers = groups.len() as u64;
        for group in groups {
            let clones = self.sys.between(0, self.most_workers as u64 - 1);
            (0..clones).for_each(|_| self.operator.join(&mut self.sys, Some(group), None));
            workers += clones;
        }
        workers
    }

    /// Who can be asked, and routes that some master tells.
    fn atlas(&mut self) -> Atlas {
        let groups = self.workers.groups().iter().map(|(id, group)| (*id, group.there()));
        let groups = groups.filter(|(_, there)| !there.is_empty()).collect();
        let mut table = None;
        if self.several() {
            let masters = self.masters.running();
            let master = (!masters.is_empty()).then(|| masters[self.sys.random.up_to(masters.len() - 1)]);
            let up = master.and_then(|master| self.masters.nodes.get(&master)?.up.as_ref());
            table = up.map(|up| Arc::new(up.member.machine().publish().slots.clone()));
        }
        Atlas { groups, table }
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
        if let Some(place) = event.member() {
            return self.on_member(place, event);
        }
        let World { sys, masters, workers, operator, clients, history, carriers, lister, .. } = self;
        match event {
            Event::Answer(caller, answer) => return self.on_answer(caller, answer),
            Event::Ordered(..) | Event::Carry(..) | Event::CarryInVain(..) => return self.on_move(event),
            Event::Client(client) => {
                let atlas = self.atlas();
                match self.clients.get_mut(client as usize) {
                    Some(client) if !atlas.groups.is_empty() => {
                        client.act(&mut self.sys, &mut self.history, &atlas);
                    }
                    _ => self.sys.after(SECOND, Event::Client(client)),
                }
            }
            Event::Patience(client, attempt) => {
                if let Some(client) = clients.get_mut(client as usize) {
                    client.lose_patience(sys, history, attempt);
                }
            }
            Event::List(attempt) if lister.waits_for(attempt) => lister.act(sys, workers),
            Event::Heartbeat(place) => operator.beat(sys, place, masters),
            Event::Heard(master, worker) => operator.hear(sys, master, worker, masters, workers, carriers),
            Event::Duty => {
                operator.duty(sys, masters, workers.groups().len() > 1)?;
                vault::all_somewhere(sys, workers)?;
            }
            Event::Again(task) => operator.again(sys, task, masters)?,
            Event::ComeBack(id) => self.come_back(id)?,
            Event::Lost(place, tries) => self.lost(place, tries)?,
            Event::Trouble => self.trouble()?,
            Event::Quiet => self.quiet(u64::MAX),
            Event::Scene(scene) => self.scene(scene)?,
            Event::Calm => (sys.net.lose, sys.net.repeat, sys.net.slow) = (0, 0, 0),
            _ => {}
        }
        Ok(())
    }

    /// Something happens to a member.
    fn on_member(&mut self, place: Place, event: Event) -> Result<(), String> {
        let World { sys, masters, workers, carriers, owners, .. } = self;
        // A start shows what a run had applied that did not come to its end.
        let shows = matches!(event, Event::Finish(..) | Event::Start(_));
        match place {
            Place::Master(_) => masters.on(sys, place, event)?,
            Place::Worker(id) if event.is_of_chunks() => self.on_chunks(id, event)?,
            Place::Worker(id) => {
                workers.at(place).map_or(Ok(()), |group| group.on(sys, place, event))?;
                if shows && workers.groups().len() > 1 {
                    owners.look(sys, workers, id)?;
                    carriers.look(sys, workers, id)?;
                }
            }
            Place::Client(_) => {}
        }
        Ok(())
    }

    /// Something happens to a worker's chunks.
    fn on_chunks(&mut self, id: u64, event: Event) -> Result<(), String> {
        let World { sys, workers, .. } = self;
        match event {
            Event::Question(_, caller, question) => {
                let asks = match caller {
                    Caller::Mover { worker, .. } => workers.group_of(worker),
                    _ => None,
                };
                let source = asks.map(|group| workers.group(group).there());
                let source = source.unwrap_or_else(|| match question {
                    Question::Write(_) => workers.there(),
                    _ => Vec::new(),
                });
                if let Some(node) = workers.node_mut(id) {
                    node.chunk_question(sys, caller, question, &source);
                }
                Ok(())
            }
            event => workers.node_mut(id).map_or(Ok(()), |node| node.chunk_event(sys, event)),
        }
    }

    /// Whoever's disk has failed while it stored a chunk does nothing more.
    fn disks_failed(&mut self) {
        for id in self.sys.ether.take_fallen() {
            if let Some(node) = self.workers.node_mut(id).filter(|node| node.up.is_some()) {
                node.disk_failed(&mut self.sys, 0);
            }
        }
    }

    /// An answer arrives.
    fn on_answer(&mut self, caller: Caller, answer: Answer) -> Result<(), String> {
        let World { sys, masters, workers, operator, clients, history, carriers, lister, .. } = self;
        match caller {
            Caller::Client { client, attempt } => match clients.get_mut(client as usize) {
                Some(client) => client.answer(sys, history, attempt, answer),
                None => Ok(()),
            },
            Caller::Operator(task) => operator.answer(sys, task, answer, masters, workers),
            Caller::Mover { worker, number } => carriers.answer(sys, workers, (worker, number), answer),
            Caller::Lister { group, attempt } => {
                lister.answer(sys, workers, history, (group, attempt), answer)
            }
        }
    }

    /// Something happens to what carries moves out.
    fn on_move(&mut self, event: Event) -> Result<(), String> {
        let World { sys, workers, carriers, .. } = self;
        match event {
            Event::Ordered(worker, ordered) => {
                if let Some(group) = workers.group_of(worker) {
                    let unswitched = ordered.order.as_ref().filter(|order| !order.switched);
                    let slots = unswitched.map(|order| order.slots.clone()).unwrap_or_default();
                    sys.moving.insert(group, slots);
                }
                carriers.hear(worker, ordered);
                carriers.look(sys, workers, worker)
            }
            Event::Carry(worker, life) if workers.node(worker).is_some_and(|node| node.life == life) => {
                carriers.look(sys, workers, worker)
            }
            Event::CarryInVain(worker, number) => carriers.in_vain(sys, workers, worker, number),
            _ => Ok(()),
        }
    }

    /// No faults from here on: links work, disks are fast, everybody comes back.
    fn calm_down(&mut self) -> Result<(), String> {
        self.sys.faults = false;
        self.calm_since = self.sys.now;
        self.sys.net.heal();
        self.sys.after(CALM - QUIET, Event::Quiet);
        calm(&mut self.sys, &mut self.masters);
        for group in self.workers.groups_mut() {
            calm(&mut self.sys, group);
        }
        let past = std::mem::take(&mut self.history.past);
        for (request, answer) in past.into_iter().rev().take(30) {
            let client = self.sys.random.up_to(self.clients.len() - 1);
            self.clients[client].audit.push((request, answer));
        }
        Ok(())
    }
}

fn calm<M: Subject>(sys: &mut System, group: &mut Group<M>) {
    for node in group.nodes.values_mut().filter(|node| !node.gone) {
        node.disk.crash_at(u64::MAX);
        node.planned = None;
        node.pause(node.paused_until.min(sys.now));
        node.slow_disk = (0, 0);
        let soon = sys.between(0, 2000) * MS;
        sys.after(soon, Event::Start(M::place(node.id)));
    }
}
