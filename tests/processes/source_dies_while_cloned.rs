//! "It died while I was copying it." The source of a clone is killed in the middle of the copy. Where others are left
//! the new leader offers its own copy; where the source was the only one, the clone goes on when it is back.

use crate::common;
use crate::common::home::Outcome;
use crate::common::net::Flow;
use crate::common::node::kv;
use crate::common::{Dice, Fleet, Launch, Node, Session, encode, free_port, until};
use std::thread::JoinHandle;

/// Bytes of each value; they do not compress.
const SIZE: usize = 256 << 10;
/// Enough for several seconds on a slow link.
const VALUES: usize = 80;

fn fill(fleet: &Fleet) -> Vec<Vec<u8>> {
    let mut dice = Dice::new(7);
    let values: Vec<Vec<u8>> = (0..VALUES).map(|_| dice.bytes(SIZE)).collect();
    let mut session = Session::new(fleet.workers[fleet.leader()].port);
    for (number, value) in values.iter().enumerate() {
        session.ask("PUT", &kv(format!("early/{number}")), &[], Some(value)).must_be(201);
    }
    values
}

/// A clone that is on its way.
struct Coming {
    launch: Launch,
    starts: JoinHandle<Result<Node, Outcome>>,
}

impl Coming {
    /// Starts a clone whose links are slow.
    fn begin(fleet: &Fleet) -> Coming {
        let net = fleet.net.as_ref().expect("links");
        let port = free_port();
        let address = net.address_for(port);
        let masters = fleet.master_list();
        let launch = fleet.home.launch(
            "worker",
            port,
            &["--master", &masters, "--clone", "0", "--advertise", &address],
        );
        for worker in fleet.worker_ports() {
            net.set(worker, port, Flow::Slow);
        }
        let starts = {
            let launch = launch.clone();
            std::thread::spawn(move || launch.start())
        };
        Coming { launch, starts }
    }

    /// How many bytes it has, and from where.
    fn bytes(&self) -> Option<u64> {
        let reply = common::fleet::ask(self.launch.port, "/worker")?;
        let copy = reply.json()["copy"].clone();
        assert_ne!(copy["done"], true, "the copy was done too soon");
        copy["bytes"].as_u64().filter(|bytes| *bytes > 0)
    }

    fn ready(self, fleet: &mut Fleet) {
        let node = self.starts.join().expect("the starter").expect("the clone starts");
        fleet.workers.push(node);
    }
}

/// It has compared itself with its source before it was ready.
fn compared(clone: &Node) {
    until("the clone says so", || clone.log().contains("hold the same").then_some(()));
}

fn all_there(node: &Node, values: &[Vec<u8>]) {
    let mut session = Session::new(node.port);
    for (number, value) in values.iter().enumerate() {
        let path = format!("/kv/{}?consistency=stale", encode(format!("early/{number}")));
        let reply = session.ask("GET", &path, &[], None).must_be(200);
        assert!(reply.body == *value, "early/{number} came back changed");
    }
}

#[test]
fn another_one_offers_its_own() {
    let mut fleet = Fleet::with_links(1, 3);
    let values = fill(&fleet);
    let coming = Coming::begin(&fleet);
    until("the copy is under way", || coming.bytes());
    let leader = fleet.leader();
    fleet.workers[leader].kill();
    // The others go on, and so does the clone.
    fleet.await_writes(&[fleet.workers[fleet.others(leader)[0]].port]);
    fleet.mend();
    coming.ready(&mut fleet);
    compared(&fleet.workers[3]);
    all_there(&fleet.workers[3], &values);
    fleet.workers[leader].restart();
    fleet.await_equal();
    fleet.await_voters(3);
    fleet.all_run();
}

#[test]
fn the_only_source_comes_back() {
    let mut fleet = Fleet::with_links(1, 1);
    let values = fill(&fleet);
    let coming = Coming::begin(&fleet);
    until("the copy is under way", || coming.bytes());
    fleet.workers[0].kill();
    common::pause(2000);
    fleet.workers[0].restart();
    fleet.mend();
    coming.ready(&mut fleet);
    compared(&fleet.workers[1]);
    all_there(&fleet.workers[1], &values);
    fleet.await_writes(&fleet.ports());
    fleet.all_run();
}

#[test]
fn the_clone_itself_dies() {
    let mut fleet = Fleet::with_links(1, 1);
    let values = fill(&fleet);
    let coming = Coming::begin(&fleet);
    until("the copy is under way", || coming.bytes());
    let pid = common::node::started_on(coming.launch.port).expect("a process");
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("a process id");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("a kill");
    assert!(coming.starts.join().expect("the starter").is_err(), "killed, and ready");
    fleet.mend();
    let clone = coming.launch.serve();
    assert!(clone.ready.starts_with("ready worker 1 "), "{}", clone.ready);
    compared(&clone);
    all_there(&clone, &values);
    fleet.workers.push(clone);
    fleet.await_writes(&fleet.ports());
    fleet.all_run();
}
