//! "The one that everybody wrote to died, and with it what it had told me it kept." The leader of a group of three is
//! killed with -9 under load, again and again: another one leads, nothing acknowledged is lost, and no read is stale.

use crate::common::Fleet;
use crate::common::clients::{Clients, Habits};

const ROUNDS: usize = 5;

#[test]
fn another_one_leads_and_nothing_is_lost() {
    let mut fleet = Fleet::of(1, 3);
    let clients = Clients::start(&fleet.ports(), Habits::default());
    clients.progress(50);
    for _ in 0..ROUNDS {
        let leader = fleet.leader();
        fleet.workers[leader].kill();
        clients.progress(30);
        assert_ne!(fleet.leader(), leader);
        fleet.workers[leader].restart();
        fleet.await_equal();
    }
    clients.finish_and_check(&fleet.ports());
    fleet.all_run();
}
