//! "The power strip was switched off." Everything is killed with -9 under load, ten times, and started again: nothing
//! acknowledged is lost.

use crate::common::Fleet;
use crate::common::clients::{Clients, Habits};

const ROUNDS: usize = 10;

#[test]
fn ten_times() {
    let mut fleet = Fleet::of(1, 3);
    let clients = Clients::start(&fleet.ports(), Habits::default());
    for round in 0..ROUNDS {
        clients.turn_the_page();
        clients.progress(25);
        for node in fleet.nodes() {
            node.kill();
        }
        // In another order each time: whoever comes first must not think that it is alone.
        for place in 0..3 {
            fleet.workers[(round + place) % 3].restart();
        }
        fleet.masters[0].restart();
    }
    clients.progress(25);
    fleet.await_equal();
    clients.finish_and_check(&fleet.ports());
    fleet.all_run();
}
