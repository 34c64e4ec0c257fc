//! What masters do once a second: they say who is dead, and look after moves.

use super::{ALIVE, Operator, Task, master_request, running};
use crate::event::Event;
use crate::event::{Caller, Place, Question};
use crate::group::Group;
use crate::system::{SECOND, System};
use catstore::cluster::directory::{Directory, DirectoryCommand};
use catstore::cluster::membership::{index_of, raft_id};
use catstore::cluster::planning;
use catstore::replica::core::Role;
use catstore::replica::directory::DirectoryMachine;
use catstore::replica::machine::Machine;

impl Operator {
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
