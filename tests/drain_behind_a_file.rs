//! "I stored a film, and drained the machine that had it right away." What is acknowledged has reached whoever stays before
//! the group lets go of whoever leaves.

mod common;

use common::{Cluster, Dice, until};
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

#[test]
fn what_was_stored_just_before_the_voter_leaves_is_whole_at_the_one_that_stays() {
    let cluster = Cluster::start();
    let home = &cluster.home;
    let _clone = home.worker_with(&cluster.master, &["--clone", "0"]);
    until("the clone is a live copy", || {
        let status = cluster.run(&["status", "--json"]).exits(0).json();
        (status["groups"][0]["standbys"] == serde_json::json!([1])).then_some(())
    });
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
