//! "One of three died, and when it came back it was not the same." Followers are killed with -9 under load and come
//! back: writes go on meanwhile, the one that was away catches up, and what it then holds is enough to lose another.

use crate::common::Fleet;
use crate::common::clients::{Clients, Habits};

#[test]
fn it_catches_up_and_counts_again() {
    let mut fleet = Fleet::of(1, 3);
    let clients = Clients::start(&fleet.ports(), Habits::default());
    for _ in 0..3 {
        let leader = fleet.leader();
        let away = fleet.others(leader)[0];
        fleet.workers[away].kill();
        clients.progress(60);
        fleet.workers[away].restart();
        // As soon as it is there the other follower dies: now it is needed.
        let other = fleet.others(leader).into_iter().find(|index| *index != away).expect("another follower");
        fleet.workers[other].kill();
        clients.progress(30);
        // And with the old leader gone too only what it has caught up on is left.
        fleet.workers[other].restart();
        fleet.await_equal();
        fleet.workers[leader].kill();
        clients.progress(30);
        fleet.workers[leader].restart();
        fleet.await_equal();
    }
    clients.finish_and_check(&fleet.ports());
    fleet.all_run();
}
