//! "I restored last week's folder of one member." An old copy of a member's folder has forgotten its votes and what it
//! acknowledged. It is refused, beside the new one and instead of it, with masters and without; nothing is lost.

use crate::common;
use crate::common::clients::{Clients, Habits};
use crate::common::{Fleet, copy_folder, free_port};
use serde_json::Value;
use std::path::PathBuf;

/// A copy of a follower's folder as it is between two runs; the follower runs again, and has seen more since.
fn copy_a_follower(fleet: &mut Fleet, clients: &Clients) -> (usize, PathBuf) {
    let follower = fleet.others(fleet.leader())[0];
    let copy = fleet.home.path("copy");
    fleet.workers[follower].stop();
    copy_folder(&fleet.workers[follower].data, &copy);
    fleet.workers[follower].restart();
    clients.progress(30);
    fleet.await_equal();
    (follower, copy)
}

#[test]
fn masters_refuse_it() {
    let mut fleet = Fleet::of(1, 3);
    let clients = Clients::start(&fleet.ports(), Habits::default());
    let (follower, copy) = copy_a_follower(&mut fleet, &clients);
    let launch = fleet.workers[follower].launch.clone().data(&copy);
    for _ in 0..3 {
        let outcome = launch.clone().port(free_port()).refuse().exits(4);
        assert!(outcome.err.contains("copy") || outcome.err.contains("lives"), "{}", outcome.err);
    }
    // Instead of the new one, in its own place.
    fleet.workers[follower].kill();
    for _ in 0..3 {
        let outcome = launch.refuse().exits(4);
        assert!(outcome.err.contains("copy"), "{}", outcome.err);
    }
    fleet.workers[follower].restart();
    clients.progress(30);
    fleet.await_equal();
    clients.finish_and_check(&fleet.ports());
    fleet.all_run();
}

#[test]
fn members_refuse_it_where_no_master_can() {
    let mut fleet = Fleet::of(1, 3);
    let clients = Clients::start(&fleet.worker_ports(), Habits::default());
    let (follower, copy) = copy_a_follower(&mut fleet, &clients);
    fleet.masters[0].kill();
    fleet.workers[follower].kill();
    let terms = |fleet: &Fleet| -> Vec<Value> {
        fleet
            .others(follower)
            .iter()
            .filter_map(|index| fleet.facts(*index))
            .map(|facts| facts["term"].clone())
            .collect()
    };
    let before = terms(&fleet);
    // In the place of the new one, where the others look for it: it serves nobody, and nobody hears its votes.
    let mut impostor = fleet.workers[follower].launch.clone().data(&copy).serve();
    // The leader knows better what it has acknowledged; so it ends, and says why.
    assert_eq!(impostor.wait(common::PATIENCE), 5, "{}", impostor.log());
    assert!(impostor.log().contains("old copy"), "{}", impostor.log());
    clients.progress(100);
    assert_eq!(terms(&fleet), before, "it disturbed the others");
    drop(impostor);
    fleet.workers[follower].restart();
    fleet.masters[0].restart();
    clients.progress(30);
    fleet.await_equal();
    clients.finish_and_check(&fleet.ports());
    fleet.all_run();
}
