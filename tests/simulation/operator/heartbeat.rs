//! Heartbeats of workers, and the views that come back.

use super::{ALIVE, Operator, Task, running, stop};
use crate::carrier::{Carriers, Ordered};
use crate::event::{Event, Place};
use crate::group::Group;
use crate::node::Node;
use crate::subjects::owned;
use crate::system::{MS, SECOND, System};
use crate::workers::Workers;
use catstore::cluster::directory::{DirectoryCommand, Heard};
use catstore::cluster::membership::{index_of, wanted};
use catstore::cluster::view::{RegisterRequest, WorkerFacts, counts_on};
use catstore::replica::core::Role;
use catstore::replica::directory::DirectoryMachine;
use catstore::replica::keyspace::Keyspace;
use catstore::replica::machine::Machine;
use catstore::replica::moves::InPhase;

impl Operator {
    /// A worker tells a master that it is there.
    pub fn beat(&mut self, sys: &mut System, place: Place, masters: &Group<DirectoryMachine>) {
        let next = sys.between(500 * MS, 1200 * MS);
        sys.after(next, Event::Heartbeat(place));
        let there = masters.there();
        // In the end everybody has found the leader: nobody passes for dead because another one was told.
        let leader = masters.leader().filter(|_| !(sys.faults && sys.one_in(4)));
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
        // A member stays until its group has let go of it; a dissolved one has nobody who could.
        let own = self.heard.range((at, 0)..=(at, u32::MAX));
        let lately = own.filter(|(_, (heard, _))| sys.now - heard < ALIVE);
        let there = view.group(group).is_some_and(|group| !group.members.is_empty());
        let counted_on = counts_on(index, group, 1, lately.map(|(_, (_, facts))| facts));
        let needed = there && counted_on.unwrap_or(true);
        let removed = view.is_removed(index);
        if leads && !needed && removed {
            stop(sys, worker, masters, workers);
            return;
        }
        let known = directory.workers.get(&index);
        if leads && !removed && known.is_some_and(|entry| (entry.starts, entry.run) != (teller.starts, run)) {
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
