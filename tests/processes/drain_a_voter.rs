//! "I drained the machine that had the vote." What is acknowledged has reached whoever stays before the group lets go of
//! whoever leaves: also what was stored right before, and also if that machine is restarted meanwhile.

use crate::common::{Cluster, Dice, Node, until};
use rustix::process::Signal;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

/// So many MiB take the standby longer to fetch than members take to change.
const MEBIBYTES: usize = 1024;

fn make_film(path: &Path) {
    let mut piece = Dice::new(7).bytes(1 << 20);
    let mut file = File::create(path).expect("a file");
    for number in 0..MEBIBYTES as u64 {
        piece[..8].copy_from_slice(&number.to_be_bytes());
        file.write_all(&piece).expect("room for a file");
    }
}

fn are_equal(one: &Path, other: &Path) -> bool {
    let (mut one, mut other) = (File::open(one).expect("a file"), File::open(other).expect("a file"));
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    for _ in 0..MEBIBYTES {
        one.read_exact(&mut left).expect("as long as it was made");
        if other.read_exact(&mut right).is_err() || left != right {
            return false;
        }
    }
    matches!(other.read(&mut right), Ok(0))
}

/// A cluster whose worker 0 votes, and worker 1 that stands by.
fn two() -> (Cluster, Node) {
    let cluster = Cluster::start();
    let clone = cluster.home.worker_with(&cluster.master, &["--clone", "0"]);
    until("worker 0 may leave", || (cluster.run(&["drain", "0", "--dry-run"]).code == 0).then_some(()));
    (cluster, clone)
}

#[test]
fn what_was_stored_just_before_the_voter_leaves_is_whole_at_the_one_that_stays() {
    let (cluster, _clone) = two();
    let home = &cluster.home;
    let (film, back) = (home.path("film"), home.path("back"));
    make_film(&film);
    let text = |path: &Path| path.display().to_string();
    cluster.run(&["put-file", "film", &text(&film)]).exits(0);
    cluster.run(&["drain", "0"]).exits(0);
    until("worker 1 votes alone", || {
        let status = cluster.run(&["status", "--json"]).exits(0).json();
        (status["groups"][0]["voters"] == serde_json::json!([1])).then_some(())
    });
    cluster.run(&["get", "film", "-o", &text(&back)]).exits(0);
    assert!(are_equal(&film, &back), "the film came back changed");
}

#[test]
fn a_voter_that_is_restarted_while_it_is_drained_serves_until_it_is_let_go() {
    let (mut cluster, clone) = two();
    cluster.worker.put("A", "happy");
    // Nobody can take the vote over meanwhile.
    clone.signal(Signal::STOP);
    let master = cluster.master.port.to_string();
    let mut drain = cluster.home.command(env!("CARGO_BIN_EXE_catstore"));
    let mut drain = drain.args(["drain", "0", "--master", &master]).spawn().expect("a command");
    until("worker 0 is to leave", || {
        let view = cluster.master.get("/cluster").json();
        (view["groups"][0]["removed"] == serde_json::json!([0])).then_some(())
    });
    cluster.worker.kill();
    cluster.worker.restart();
    clone.signal(Signal::CONT);
    assert!(drain.wait().expect("an end").success(), "worker 0 left");
    assert_eq!(cluster.worker.wait(std::time::Duration::from_secs(20)), 0);
    assert_eq!(clone.value("A").as_deref(), Some(b"happy".as_slice()));
}
