//! "I updated one machine after the other and requests failed." Each member in turn is stopped with SIGTERM and started
//! again under load, in a group of three and in one of two: no request fails, neither through the nodes that stay nor
//! through the client library, which finds its way by itself.

use crate::common;
use crate::common::Fleet;
use crate::common::clients::{Clients, Habits};
use crate::common::library::Library;

fn restart_each(members: usize) {
    let mut fleet = Fleet::of(1, members);
    // Without request ids: whoever fails is not asked again.
    let clients = Clients::start(&fleet.ports(), Habits { with_id: 0, ..Habits::default() });
    let library = Library::start(&fleet.ports());
    clients.progress(30);
    for round in 0..2 {
        for index in 0..members {
            let stays: Vec<u16> =
                fleet.ports().into_iter().filter(|port| *port != fleet.workers[index].port).collect();
            clients.talk_to(&stays);
            // Nobody is on his way to it any more.
            clients.progress(30);
            common::pause(300);
            let (was, led) = (clients.failures(), fleet.leader() == index);
            fleet.workers[index].stop();
            clients.progress(30);
            fleet.workers[index].restart();
            clients.progress(30);
            fleet.await_equal();
            fleet.await_voters(common::fleet::odd(members));
            let failed = clients.failures() - was;
            let what =
                format!("round {round}, worker {index} at {} (leader: {led})", fleet.workers[index].port);
            assert_eq!(failed, 0, "{what}: requests failed: {}", clients.last_failure());
            clients.talk_to(&fleet.ports());
        }
    }
    library.finish().must_be_flawless();
    clients.finish_and_check(&fleet.ports());
    fleet.all_run();
}

#[test]
fn of_three() {
    restart_each(3);
}

#[test]
fn of_two() {
    restart_each(2);
}
