//! Who looks after the cluster: workers and masters that join, are lost, and replaced; heartbeats and the views that
//! come back; masters that declare who is dead. Everything goes through the directory.

use crate::carrier::{Carriers, Ordered};
use crate::event::{Answer, Caller, Event, Place, Question};
use crate::group::Group;
use crate::node::Node;
use crate::subjects::owned;
use crate::system::{MS, SECOND, System};
use crate::workers::Workers;
use catstore::cluster::directory::{Directory, DirectoryCommand, DirectoryReply, Heard, WorkerEntry};
use catstore::cluster::membership::{index_of, raft_id, wanted};
use catstore::cluster::planning;
use catstore::cluster::slots::SlotTable;
use catstore::cluster::view::{RegisterMasterRequest, RegisterRequest, WorkerFacts, needs_vote};
use catstore::replica::core::Role;
use catstore::replica::directory::{self, DirectoryMachine};
use catstore::replica::keyspace::{self, Keyspace};
use catstore::replica::machine::Machine;
use catstore::replica::moves::InPhase;
use std::collections::BTreeMap;

/// Who was not heard of for so long is not alive.
const ALIVE: u64 = 5 * SECOND;

/// Something that is asked of the masters until they answer.
#[derive(Debug, Clone)]
// There are few of them.
#[allow(clippy::large_enum_variant)]
enum Task {
    /// A worker with a new folder joins a group, perhaps in the place of a lost one; or founds one.
    Join { uuid: String, group: Option<u32>, replace: Option<u32> },
    /// A master with a new folder joins.
    JoinMaster { uuid: String },
    /// A process says that it runs again.
    Again { place: Place, life: u64, command: DirectoryCommand },
    /// A lost master is removed.
    RemoveMaster { index: u32 },
    /// Something about moves is wanted, if it is possible.
    Order { command: DirectoryCommand },
}

/// What masters and operator know.
pub struct Operator {
    tasks: BTreeMap<u64, Task>,
    next: u64,
    /// What each master has heard of each worker, and when.
    heard: BTreeMap<(u64, u32), (u64, WorkerFacts)>,
    /// Since when each master has missed somebody while it leads: master, who.
    missed: BTreeMap<(u64, Place), u64>,
    /// Who is silent for so long is unfit to vote.
    dead_after: u64,
    /// After so many bytes workers flush, and cut their log.
    sizes: (u64, u64),
    /// True if slots move by themselves until each group has its share.
    rebalance: bool,
}

impl Operator {
    /// An operator of a cluster in which who is silent for `dead_after` is unfit.
    pub fn new(dead_after: u64, sizes: (u64, u64)) -> Operator {
        Operator {
            tasks: BTreeMap::new(),
            next: 0,
            heard: BTreeMap::new(),
            missed: BTreeMap::new(),
            dead_after,
            sizes,
            rebalance: false,
        }
    }

    /// Founds the cluster: its first master; and, if `table` says who owns which slots, the founders of all groups.
    pub fn found(
        &mut self,
        sys: &mut System,
        masters: &mut Group<DirectoryMachine>,
        workers: &mut Workers,
        table: &SlotTable,
    ) -> Result<(), String> {
        let mut directory = Directory {
            cluster: "c".into(),
            epoch: 1,
            incarnation: 1,
            masters: vec!["m0".into()],
            ..Directory::default()
        };
        if !table.ranges().is_empty() {
            let groups: Vec<u32> = workers.groups().keys().copied().collect();
            self.found_groups(sys, &mut directory, &groups, workers, table)?;
        }
        let rows = directory::founding_rows(&directory).map_err(|error| error.to_string())?;
        masters.add(sys, 0, "m0".into(), &rows, true, (6000, 30_000));
        Ok(())
    }

    /// The founders of groups: worker 0 of group 0, and so on.
    fn found_groups(
        &mut self,
        sys: &mut System,
        directory: &mut Directory,
        groups: &[u32],
        workers: &mut Workers,
        table: &SlotTable,
    ) -> Result<(), String> {
        self.rebalance = sys.one_in(2);
        directory.slots = table.clone();
        directory.settings.rebalance = self.rebalance;
        directory.next_index = groups.len() as u32;
        for group in groups {
            let uuid = format!("f{group}");
            let entry = WorkerEntry {
                uuid: uuid.clone(),
                group: *group,
                address: format!("{uuid}:1"),
                data: format!("/{uuid}"),
                starts: 0,
                run: 0,
                removed: None,
                dead: false,
            };
            directory.workers.insert(*group, entry);
            let mut own = SlotTable::default();
            own.give(&table.of(*group), *group);
            let rows = keyspace::founding_rows(&own).map_err(|error| error.to_string())?;
            workers.group_mut(*group).add(sys, *group, uuid, &rows, true, self.sizes);
            sys.after(SECOND, Event::Heartbeat(Place::Worker(raft_id(*group))));
        }
        Ok(())
    }

    /// A worker is to join `group`; in the place of `replace` if that is lost. Without a group it founds one.
    pub fn join(&mut self, sys: &mut System, group: Option<u32>, replace: Option<u32>) {
        let uuid = format!("w{}", self.next);
        self.begin(sys, Task::Join { uuid, group, replace });
    }

    /// A master is to join.
    pub fn join_master(&mut self, sys: &mut System) {
        let uuid = format!("m{}", self.next + 1000);
        self.begin(sys, Task::JoinMaster { uuid });
    }

    /// A lost master is to be removed.
    pub fn remove_master(&mut self, sys: &mut System, index: u32) {
        self.begin(sys, Task::RemoveMaster { index });
    }

    /// Something about moves is wanted of the masters.
    pub fn order(&mut self, sys: &mut System, command: DirectoryCommand) {
        self.begin(sys, Task::Order { command });
    }

    /// True if nobody is joining or being replaced.
    pub fn is_idle(&self) -> bool {
        self.tasks.values().all(|task| matches!(task, Task::Again { .. } | Task::Order { .. }))
    }

    /// How many workers are on their way.
    pub fn joining(&self) -> usize {
        self.tasks.values().filter(|task| matches!(task, Task::Join { .. })).count()
    }

    /// What is still to be done, for messages.
    pub fn pending(&self) -> String {
        format!("{:?}", self.tasks.values().collect::<Vec<_>>())
    }

    fn begin(&mut self, sys: &mut System, task: Task) {
        self.next += 1;
        self.tasks.insert(self.next, task);
        sys.after(0, Event::Again(self.next));
    }

    /// Asks a master that leads, or thinks so.
    pub fn again(
        &mut self,
        sys: &mut System,
        number: u64,
        masters: &mut Group<DirectoryMachine>,
    ) -> Result<(), String> {
        let Some(task) = self.tasks.get(&number) else { return Ok(()) };
        if let Task::Again { place, life, .. } = task
            && !is_alive(masters, *place, *life)
        {
            // Of a worker the next heartbeat speaks.
            self.tasks.remove(&number);
            return Ok(());
        }
        let task = task.clone();
        sys.after(700 * MS, Event::Again(number));
        let leads = |node: &&Node<DirectoryMachine>| {
            node.up.as_ref().is_some_and(|up| up.status.role == Role::Leader)
        };
        let leaders: Vec<u64> = masters.nodes.values().filter(leads).map(|node| node.id).collect();
        if leaders.is_empty() {
            return Ok(());
        }
        let master = leaders[sys.random.up_to(leaders.len() - 1)];
        let Some(node) = masters.nodes.get_mut(&master) else { return Ok(()) };
        if is_void(&task, node) {
            // The group that it was to join has gone.
            self.tasks.remove(&number);
            return Ok(());
        }
        if let Some(command) = self.command(sys, &task, node) {
            node.question(sys, Caller::Operator(number), Question::Direct(Box::new(command)))?;
        }
        Ok(())
    }

    fn command(
        &self,
        sys: &System,
        task: &Task,
        master: &Node<DirectoryMachine>,
    ) -> Option<DirectoryCommand> {
        let up = master.up.as_ref()?;
        let directory = &*up.member.machine().publish();
        Some(match task {
            Task::Join { uuid, group, replace } => {
                let request = RegisterRequest {
                    uuid: uuid.clone(),
                    run: 1,
                    starts: 0,
                    address: format!("{uuid}:1"),
                    data: format!("/{uuid}"),
                    index: None,
                    cluster: None,
                    clone: group
                        .filter(|_| replace.is_none())
                        .map(|group| directory.members(group).next().unwrap_or(group)),
                    replace: *replace,
                    accept_data_loss: false,
                    software: String::new(),
                };
                let heard = match replace {
                    Some(_) => self.heard(sys, master.id, directory, group.unwrap_or_default()),
                    None => Heard::default(),
                };
                DirectoryCommand::Register { request, alive: self.alive(sys, master.id), heard }
            }
            Task::JoinMaster { uuid } => DirectoryCommand::RegisterMaster {
                request: master_request(uuid, None, 0, 1),
                alive: Vec::new(),
            },
            Task::RemoveMaster { index } => {
                DirectoryCommand::RemoveMaster { index: *index, alive: Vec::new() }
            }
            Task::Again { command, .. } | Task::Order { command } => command.clone(),
        })
    }

    fn alive(&self, sys: &System, master: u64) -> Vec<u32> {
        let lately = |(_, (at, _)): &(&(u64, u32), &(u64, WorkerFacts))| sys.now - at < ALIVE;
        let own = self.heard.range((master, 0)..=(master, u32::MAX));
        own.filter(lately).map(|((_, index), _)| *index).collect()
    }

    fn heard(&self, sys: &System, master: u64, directory: &Directory, group: u32) -> Heard {
        let own = self.heard.range((master, 0)..=(master, u32::MAX));
        directory.heard(group, own.map(|(_, (at, facts))| (facts, sys.now - at < ALIVE)))
    }

    /// The masters answer.
    pub fn answer(
        &mut self,
        sys: &mut System,
        number: u64,
        answer: Answer,
        masters: &mut Group<DirectoryMachine>,
        workers: &mut Workers,
    ) -> Result<(), String> {
        let Answer::Directory(reply) = answer else { return Ok(()) };
        let Some(task) = self.tasks.get(&number).cloned() else { return Ok(()) };
        match (&task, reply) {
            (
                Task::Join { uuid, replace, .. },
                DirectoryReply::Registered { index, group, found, slots, .. },
            ) => {
                self.tasks.remove(&number);
                if workers.node(raft_id(index)).is_some() {
                    return Err(format!("index {index} was given twice"));
                }
                let slots = SlotTable::from_ranges(slots)?;
                let rows = keyspace::founding_rows(&slots).map_err(|error| error.to_string())?;
                if found && group == index {
                    sys.count("group founded");
                }
                workers.found(group);
                workers.group_mut(group).add(sys, index, uuid.clone(), &rows, found, self.sizes);
                sys.after(SECOND, Event::Heartbeat(Place::Worker(raft_id(index))));
                sys.count(if replace.is_some() { "worker replaced" } else { "worker joined" });
                if let Some(lost) = replace {
                    let later = sys.between(0, 15) * SECOND;
                    sys.after(later, Event::ComeBack(raft_id(*lost)));
                }
            }
            (Task::JoinMaster { uuid }, DirectoryReply::MasterRegistered { index, .. }) => {
                self.tasks.remove(&number);
                let empty = Directory { cluster: "c".into(), ..Directory::default() };
                let rows = directory::founding_rows(&empty).map_err(|error| error.to_string())?;
                masters.add(sys, index, uuid.clone(), &rows, false, (6000, 30_000));
                sys.count("master joined");
            }
            (Task::RemoveMaster { .. }, DirectoryReply::Done) => {
                self.tasks.remove(&number);
                sys.count("master removed");
            }
            (Task::Order { command }, reply) => {
                self.tasks.remove(&number);
                if !matches!(reply, DirectoryReply::Refused { .. }) {
                    sys.count(match command {
                        DirectoryCommand::StartMove { .. } => "move ordered",
                        DirectoryCommand::CancelMove { .. } => "move called off",
                        DirectoryCommand::DrainGroup { undo: false, .. } => "group to be drained",
                        DirectoryCommand::Rebalance(_) => "rebalance asked for",
                        _ => "drain undone",
                    });
                }
            }
            (Task::Again { place, .. }, DirectoryReply::Refused { .. }) => {
                // It was removed for good while it was away.
                self.tasks.remove(&number);
                stop(sys, *place, masters, workers);
            }
            (Task::Again { .. }, _) => {
                self.tasks.remove(&number);
            }
            // Not yet: somebody is alive, or no majority is.
            _ => {}
        }
        Ok(())
    }

    /// A worker tells a master that it is there.
    pub fn beat(&mut self, sys: &mut System, place: Place, masters: &Group<DirectoryMachine>) {
        let next = sys.between(500 * MS, 1200 * MS);
        sys.after(next, Event::Heartbeat(place));
        let there = masters.there();
        let leader = masters.leader().filter(|_| !sys.one_in(4));
        let to = leader.unwrap_or(there[sys.random.up_to(there.len() - 1)]);
        for delay in sys.send(place, Place::Master(to)) {
            sys.after(delay, Event::Heard(Place::Master(to), place));
        }
    }

    /// A master hears of a worker and tells it how the cluster looks, as far as it knows.
    pub fn hear(
        &mut self,
        sys: &mut System,
        master: Place,
        worker: Place,
        masters: &mut Group<DirectoryMachine>,
        workers: &mut Workers,
        carriers: &Carriers,
    ) {
        let (Place::Master(at), Place::Worker(id)) = (master, worker) else { return };
        let Some((node, up)) = running(masters, sys, at) else { return };
        let (directory, leads) = (up.member.machine().publish(), up.status.role == Role::Leader);
        let _ = node;
        let Some(teller) = workers.node(id) else { return };
        let group = teller.group;
        let (Some(facts), Some(index)) = (facts(teller, carriers), index_of(id)) else { return };
        let run = teller.up.as_ref().map_or(0, |up| up.own.run);
        self.heard.insert((at, index), (sys.now, facts));
        let life = teller.life;
        let view = directory.view();
        // One that votes stays until its group has let go of it; a dissolved one has nobody who could.
        let own = self.heard.range((at, 0)..=(at, u32::MAX));
        let lately = own.filter(|(_, (heard, _))| sys.now - heard < ALIVE);
        let there = view.group(group).is_some_and(|group| !group.members.is_empty());
        let needed = there && needs_vote(index, group, 1, lately.map(|(_, (_, facts))| facts));
        if leads && !needed && view.group(group).is_some_and(|group| group.removed.contains(&index)) {
            stop(sys, worker, masters, workers);
            return;
        }
        let known = directory.workers.get(&index);
        if leads && known.is_some_and(|entry| (entry.starts, entry.run) != (teller.starts, run)) {
            let request = RegisterRequest {
                uuid: teller.uuid.clone(),
                run,
                starts: teller.starts,
                address: format!("{}:1", teller.uuid),
                data: format!("/{}", teller.uuid),
                index: Some(index),
                cluster: Some("c".into()),
                clone: None,
                replace: None,
                accept_data_loss: false,
                software: String::new(),
            };
            let alive = self.alive(sys, at);
            let command = DirectoryCommand::Register { request, alive, heard: Heard::default() };
            self.once(sys, Task::Again { place: worker, life, command });
        }
        let wanted = wanted(&view, group);
        let order = view.moves.iter().find(|order| order.from == group).cloned();
        let ordered = Ordered { order, next_move: view.next_move };
        let several = workers.groups().len() > 1;
        for delay in sys.send(master, worker) {
            // Now and then a view comes late, behind newer ones.
            let late = if sys.faults && sys.one_in(6) { sys.between(0, 6 * SECOND) } else { 0 };
            if late > SECOND {
                sys.count("view delivered late");
            }
            sys.after(delay + late, Event::Want(worker, life, wanted.clone()));
            if several {
                sys.after(delay + late, Event::Ordered(id, ordered.clone()));
            }
        }
    }

    /// Begins a task unless one for the same process is under way.
    fn once(&mut self, sys: &mut System, task: Task) {
        let Task::Again { place, .. } = &task else { return };
        let same = |other: &Task| matches!(other, Task::Again { place: other, .. } if other == place);
        if !self.tasks.values().any(same) {
            self.begin(sys, task);
        }
    }

    /// What masters do once a second.
    pub fn duty(
        &mut self,
        sys: &mut System,
        masters: &mut Group<DirectoryMachine>,
        several: bool,
    ) -> Result<(), String> {
        sys.after(SECOND, Event::Duty);
        for id in masters.running() {
            self.register_master(sys, id, masters);
            let Some((node, up)) = running(masters, sys, id) else { continue };
            if up.status.role != Role::Leader {
                self.missed.retain(|(master, _), _| *master != id);
                continue;
            }
            let directory = up.member.machine().publish();
            let active = up.member.core().active(node.clock.ms(sys.now));
            let mut commands = self.changes(sys, id, &directory, &active);
            let changes = commands.len();
            if several {
                commands.extend(self.moves(sys, id, &directory));
            }
            for (place, command) in commands.into_iter().enumerate() {
                if place < changes {
                    sys.count("fitness to vote changed");
                } else if let DirectoryCommand::StartMove { .. } = command {
                    sys.count("move planned by the masters");
                }
                if let Some(node) = masters.nodes.get_mut(&id) {
                    node.question(sys, Caller::Operator(0), Question::Direct(Box::new(command)))?;
                }
            }
        }
        Ok(())
    }

    /// What the masters order and note about moves.
    fn moves(&self, sys: &System, master: u64, directory: &Directory) -> Vec<DirectoryCommand> {
        let own = self.heard.range((master, 0)..=(master, u32::MAX));
        let beats = own.map(|(_, (at, facts))| (facts, sys.now - at < ALIVE));
        planning::commands(directory, &planning::hear(directory, beats))
    }

    /// A master whose run the directory does not know says so.
    fn register_master(&mut self, sys: &mut System, id: u64, masters: &Group<DirectoryMachine>) {
        let (Some(node), Some(index)) = (masters.nodes.get(&id), index_of(id)) else { return };
        let Some(up) = &node.up else { return };
        let leader = masters.leader().and_then(|leader| masters.nodes.get(&leader)?.up.as_ref());
        let Some(leader) = leader else { return };
        let known =
            leader.member.machine().publish().master_nodes.get(&index).map(|entry| (entry.starts, entry.run));
        let founder = index == 0 && known.is_none();
        if founder || known.is_some_and(|known| known != (node.starts, up.own.run)) {
            let request = master_request(&node.uuid, Some(index), node.starts, up.own.run);
            let command = DirectoryCommand::RegisterMaster { request, alive: Vec::new() };
            let (place, life) = (node.place(), node.life);
            self.once(sys, Task::Again { place, life, command });
        }
    }

    /// Who is to be declared dead, or alive again.
    fn changes(
        &mut self,
        sys: &System,
        master: u64,
        directory: &Directory,
        active: &[u64],
    ) -> Vec<DirectoryCommand> {
        let mut changes = Vec::new();
        for (index, entry) in directory.workers.iter().filter(|(_, entry)| entry.removed.is_none()) {
            let seen = self.missed.entry((master, Place::Worker(raft_id(*index)))).or_insert(sys.now);
            if let Some((at, _)) = self.heard.get(&(master, *index)) {
                *seen = (*seen).max(*at);
            }
            let silent = sys.now - *seen;
            let dead = if entry.dead { silent > ALIVE } else { silent > self.dead_after };
            if dead != entry.dead {
                changes.push(DirectoryCommand::Dead { index: *index, dead });
            }
        }
        for (index, entry) in directory.master_nodes.iter().filter(|(_, entry)| entry.removed.is_none()) {
            let id = raft_id(*index);
            let seen = self.missed.entry((master, Place::Master(id))).or_insert(sys.now);
            if id == master || active.contains(&id) {
                *seen = sys.now;
            }
            let silent = sys.now - *seen;
            let dead = if entry.dead { silent > ALIVE } else { silent > self.dead_after };
            if dead != entry.dead {
                changes.push(DirectoryCommand::MasterDead { index: *index, dead });
            }
        }
        changes
    }
}

/// A process that was removed for good stops, and its folder never comes back.
fn stop(sys: &mut System, place: Place, masters: &mut Group<DirectoryMachine>, workers: &mut Workers) {
    match place {
        Place::Worker(id) => {
            if let Some(node) = workers.node_mut(id) {
                sys.count("removed worker stopped");
                node.gone = true;
                node.fall(sys, crate::event::Death::Kill);
            }
        }
        Place::Master(id) => {
            if let Some(node) = masters.nodes.get_mut(&id) {
                node.gone = true;
                node.fall(sys, crate::event::Death::Kill);
            }
        }
        Place::Client(_) => {}
    }
}

/// True if a worker was to join a group that was dissolved.
fn is_void(task: &Task, master: &Node<DirectoryMachine>) -> bool {
    let Task::Join { group: Some(group), .. } = task else { return false };
    let directory = master.up.as_ref().map(|up| up.member.machine().publish());
    directory.is_some_and(|directory| directory.group(*group).dissolved)
}

fn is_alive(masters: &Group<DirectoryMachine>, place: Place, life: u64) -> bool {
    match place {
        Place::Master(id) => {
            masters.nodes.get(&id).is_some_and(|node| node.life == life && node.up.is_some())
        }
        _ => true,
    }
}

/// A master that runs and is not paused.
fn running<'a>(
    masters: &'a Group<DirectoryMachine>,
    sys: &System,
    id: u64,
) -> Option<(&'a Node<DirectoryMachine>, &'a crate::node::Up<DirectoryMachine>)> {
    let node = masters.nodes.get(&id).filter(|node| node.paused_until <= sys.now)?;
    Some((node, node.up.as_ref()?))
}

fn master_request(uuid: &str, index: Option<u32>, starts: u64, run: u64) -> RegisterMasterRequest {
    RegisterMasterRequest {
        uuid: uuid.to_owned(),
        run,
        starts,
        address: if uuid == "m0" { uuid.to_owned() } else { format!("{uuid}:1") },
        data: format!("/{uuid}"),
        index,
        cluster: Some("c".into()),
        software: String::new(),
    }
}

/// What a worker says of itself.
fn facts(node: &Node<Keyspace>, carriers: &Carriers) -> Option<WorkerFacts> {
    let up = node.up.as_ref().filter(|_| !node.dying)?;
    let core = up.member.core();
    let membership = core.membership();
    let published = up.live().1;
    let received = published.moves.incoming.as_ref().filter(|incoming| incoming.phase == InPhase::Active);
    let indices = |ids: &[u64]| ids.iter().filter_map(|id| index_of(*id)).collect();
    Some(WorkerFacts {
        cluster: "c".into(),
        index: index_of(node.id)?,
        group: node.group,
        uuid: node.uuid.clone(),
        starts: node.starts,
        state: "open".into(),
        role: up.status.role.word().into(),
        term: up.status.term,
        applied: up.member.machine().position().index,
        leader: index_of(up.status.leader),
        voters: indices(&membership.voters),
        outgoing: indices(&membership.voters_outgoing),
        standbys: indices(&membership.learners),
        last: core.last_index(),
        last_term: core.last_term(),
        incarnation: 1,
        slots: owned(published),
        moving: carriers.facts(node),
        moves_done: published.moves.last_out,
        received: received.map(|incoming| incoming.id),
        ..WorkerFacts::default()
    })
}
