//! "One disk of three ran full and took the others with it." The group goes on: a follower that cannot write stands
//! aside, a leader that cannot says so or gives way, nothing acknowledged is lost, and with room again everything is
//! as before.

use crate::common;
use crate::common::clients::{Clients, Habits};
use crate::common::disk::{SmallDisk, free_bytes};
use crate::common::node::kv;
use crate::common::{Fleet, Node, free_port, within};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

/// A group of three whose worker 1 is on a small disk of its own; nothing if this user may not mount one.
fn with_a_small_disk() -> Option<(Fleet, SmallDisk)> {
    let mut fleet = Fleet::of(1, 1);
    let disk = SmallDisk::mount(fleet.home.path("disk"), "size=200m")?;
    let master = fleet.master_list();
    let launch = fleet.home.launch(
        "worker",
        free_port(),
        &["--master", &master, "--clone", "0", "--reserve", "64MiB"],
    );
    fleet.workers.push(launch.data(&disk.place.join("worker")).serve());
    fleet.add_worker();
    fleet.await_voters(3);
    Some((fleet, disk))
}

/// Leaves `left` bytes of the disk.
fn fill(disk: &SmallDisk, left: usize) -> PathBuf {
    let ballast = disk.place.join("ballast");
    let mut file = File::create(&ballast).expect("a ballast file");
    let more = free_bytes(&ballast).saturating_sub(left);
    // The node writes too: the last bytes may be its.
    let _ = file.write_all(&vec![0; more]);
    ballast
}

fn lead(fleet: &Fleet, index: usize) {
    while fleet.leader() != index {
        let leader = fleet.leader();
        let node = &fleet.workers[leader];
        node.signal(rustix::process::Signal::STOP);
        common::until("another one leads", || fleet.leader_now().filter(|now| *now != leader));
        node.signal(rustix::process::Signal::CONT);
        fleet.await_equal();
    }
}

/// It may have stopped serving, or even ended, but never with a lie.
fn start_again(node: &mut Node) {
    match node.exit_code() {
        Some(_) => {}
        None => node.kill(),
    }
    node.restart();
}

fn finish(mut fleet: Fleet, clients: Clients) {
    start_again(&mut fleet.workers[1]);
    fleet.await_equal();
    clients.talk_to(&fleet.ports());
    clients.progress(30);
    clients.finish_and_check(&fleet.ports());
    fleet.all_run();
}

#[test]
fn a_follower() {
    let Some((fleet, disk)) = with_a_small_disk() else { return };
    lead(&fleet, 0);
    let clients = Clients::start(&[fleet.workers[0].port, fleet.workers[2].port], Habits::default());
    clients.progress(30);
    // To the last byte: what it is sent it cannot write.
    let ballast = fill(&disk, 0);
    let value = vec![b'x'; 1 << 20];
    for number in 0..40 {
        let reply = fleet.workers[0].ask("PUT", &kv(format!("large/{number}")), &[], Some(&value));
        assert!(matches!(reply.status, 200 | 201), "{} {}", reply.status, reply.text());
    }
    clients.progress(50);
    assert_ne!(fleet.leader_now(), Some(1));
    std::fs::remove_file(ballast).expect("the ballast");
    finish(fleet, clients);
}

#[test]
fn the_leader() {
    let Some((fleet, disk)) = with_a_small_disk() else { return };
    lead(&fleet, 1);
    let clients = Clients::start(&fleet.ports(), Habits::default());
    clients.progress(30);
    fleet.workers[1].put("A", "happy");
    let ballast = fill(&disk, 10 << 20);
    // It refuses writes with the word for it, or has given way to one that can take them.
    within(Duration::from_secs(30), "writes are refused or go elsewhere", || {
        let reply = fleet.workers[1].ask("PUT", &kv("B"), &[], Some(b"x"));
        match reply.status {
            200 | 201 if fleet.leader_now() != Some(1) => Some(()),
            200 | 201 => None,
            507 => {
                reply.must_be_problem(507, "disk_full");
                Some(())
            }
            status => panic!("{status} {}", reply.text()),
        }
    });
    // What is there stays readable, through everybody.
    for worker in &fleet.workers {
        assert_eq!(worker.value("A").as_deref(), Some(b"happy".as_slice()));
    }
    std::fs::remove_file(ballast).expect("the ballast");
    clients.progress(50);
    finish(fleet, clients);
}
