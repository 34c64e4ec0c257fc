//! "The masters are gone, is everything gone?" Three masters die one by one. A majority of them still takes a new
//! worker in; with none left reads, writes and failover within a group go on for as long as you like, also through
//! restarts; and when they are back, so is everything.

use crate::common::Fleet;
use crate::common::clients::{Clients, Habits};

#[test]
fn a_group_goes_on_without_any() {
    let mut fleet = Fleet::of(3, 3);
    let clients = Clients::start(&fleet.worker_ports(), Habits::default());
    clients.progress(30);

    // One dies: the other two take a worker in.
    fleet.masters[0].kill();
    clients.progress(30);
    fleet.add_worker();
    fleet.await_voters(3);
    fleet.masters[1].kill();
    clients.progress(30);
    fleet.masters[2].kill();
    clients.progress(30);

    // Failover without masters, back and forth.
    for _ in 0..2 {
        let leader = fleet.leader();
        fleet.workers[leader].kill();
        clients.progress(30);
        fleet.workers[leader].restart();
        fleet.await_equal();
    }
    // A planned restart of each.
    for index in 0..fleet.workers.len() {
        fleet.workers[index].stop();
        clients.progress(10);
        fleet.workers[index].restart();
    }
    fleet.await_equal();
    // All at once.
    for worker in &mut fleet.workers {
        worker.kill();
    }
    for worker in &mut fleet.workers {
        worker.restart();
    }
    clients.progress(30);

    for master in &mut fleet.masters {
        master.restart();
    }
    fleet.add_worker();
    fleet.await_voters(5);
    fleet.await_writes(&fleet.ports());
    clients.progress(30);
    fleet.await_equal();
    clients.finish_and_check(&fleet.ports());
    fleet.all_run();
}
