//! Who looks after the cluster: workers and masters that join, are lost, and replaced; heartbeats and the views that
//! come back; masters that declare who is dead. Everything goes through the directory.

mod duty;
mod founding;
mod heartbeat;

use crate::event::{Answer, Caller, Event, Place, Question};
use crate::group::Group;
use crate::node::Node;
use crate::system::{MS, SECOND, System};
use crate::workers::Workers;
use catstore::cluster::directory::{Directory, DirectoryCommand, DirectoryReply, Heard};
use catstore::cluster::membership::raft_id;
use catstore::cluster::slots::SlotTable;
use catstore::cluster::view::{RegisterMasterRequest, RegisterRequest, WorkerFacts};
use catstore::replica::core::Role;
use catstore::replica::directory::{self, DirectoryMachine};
use catstore::replica::keyspace;
use catstore::replica::machine::Machine;
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

    /// At the end nobody is to be replaced any more who runs, if the masters refuse it: its group may have come to depend
    /// on it since it was given up.
    fn forgive(&mut self, sys: &mut System, number: u64, workers: &mut Workers) {
        let Some(Task::Join { replace: Some(index), .. }) = self.tasks.get(&number) else { return };
        let id = raft_id(*index);
        let Some(node) = workers.node_mut(id).filter(|node| !node.gone && !sys.faults) else { return };
        node.given_up = false;
        sys.net.hear(Place::Worker(id));
        sys.count("worker forgiven");
        self.tasks.remove(&number);
    }

    /// True if nobody is joining, being replaced or asked to leave.
    pub fn is_idle(&self) -> bool {
        let changes_nobody = |task: &Task| match task {
            Task::Order { command } => !matches!(command, DirectoryCommand::DrainMember { .. }),
            _ => matches!(task, Task::Again { .. }),
        };
        self.tasks.values().all(changes_nobody)
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
        if is_void(sys, &task, node) {
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
                        DirectoryCommand::DrainMember { .. } => "worker to leave its group",
                        DirectoryCommand::Rebalance(_) => "rebalance asked for",
                        _ => "drain undone",
                    });
                }
            }
            (Task::Again { place, .. }, DirectoryReply::Refused { .. }) => {
                // It was removed for good while it was away. A worker hears by its next heartbeat when to stop.
                self.tasks.remove(&number);
                if let Place::Master(_) = place {
                    stop(sys, *place, masters, workers);
                }
            }
            (Task::Again { .. }, _) => {
                self.tasks.remove(&number);
            }
            (Task::Join { .. }, DirectoryReply::Refused { .. }) => self.forgive(sys, number, workers),
            // Not yet: somebody is alive, or no majority is.
            _ => {}
        }
        Ok(())
    }

    /// Begins a task unless one for the same process is under way.
    fn once(&mut self, sys: &mut System, task: Task) {
        let Task::Again { place, .. } = &task else { return };
        let same = |other: &Task| matches!(other, Task::Again { place: other, .. } if other == place);
        if !self.tasks.values().any(same) {
            self.begin(sys, task);
        }
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

/// True if a worker was to join a group that was dissolved; or at the end one that is drained, which may wait for good until
/// others have more members.
fn is_void(sys: &System, task: &Task, master: &Node<DirectoryMachine>) -> bool {
    let Task::Join { group: Some(group), replace, .. } = task else { return false };
    let directory = master.up.as_ref().map(|up| up.member.machine().publish());
    directory.is_some_and(|directory| {
        let group = directory.group(*group);
        group.dissolved || (group.draining && !sys.faults && replace.is_none())
    })
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
