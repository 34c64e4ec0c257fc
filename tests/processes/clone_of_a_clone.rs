//! "I cloned the clone." The newcomer joins the group that both are in, holds what they hold, and goes on when those
//! before it are gone; a group of many members keeps an odd number of voters.

use crate::common::Fleet;
use crate::common::clients::{Clients, Habits};

#[test]
fn it_joins_the_same_group() {
    let mut fleet = Fleet::of(1, 2);
    let clients = Clients::start(&fleet.ports(), Habits::default());
    clients.progress(30);
    fleet.add_clone_of(1);
    fleet.await_voters(3);
    clients.talk_to(&fleet.ports());
    clients.progress(30);
    let facts = fleet.facts(2).expect("the facts of the clone");
    assert_eq!(facts["group"], 0, "{facts}");
    // A restart with the same words, and one that names itself, change nothing.
    for source in ["1", "2"] {
        fleet.workers[2].stop();
        let words = &mut fleet.workers[2].launch.words;
        let place = words.iter().position(|word| word == "--clone").expect("--clone");
        words[place + 1] = source.to_owned();
        fleet.workers[2].restart();
        assert!(fleet.workers[2].ready.starts_with("ready worker 2 "), "{}", fleet.workers[2].ready);
    }
    fleet.await_equal();
    // A clone of the clone's clone stands by; of five members five vote.
    fleet.add_clone_of(2);
    fleet.await_voters(3);
    fleet.add_clone_of(3);
    fleet.await_voters(5);
    clients.talk_to(&fleet.ports());
    clients.progress(30);
    // The first two, of which all others are copies, die: three of five go on.
    fleet.workers[0].kill();
    fleet.workers[1].kill();
    clients.progress(30);
    let left: Vec<u16> = fleet.worker_ports().split_off(2);
    clients.finish_and_check(&left);
}
