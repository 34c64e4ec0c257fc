//! One file in and out, against `cp`.

use crate::common::Cluster;
use crate::{make_file, median, timed};
use std::process::Command;

pub fn measure(rounds: usize, gibibytes: usize) {
    let cluster = Cluster::start();
    let home = &cluster.home;
    let (file, copy, back) = (home.path("file"), home.path("copy"), home.path("back"));
    let text = |path: &std::path::Path| path.display().to_string();
    let (mut cp_synced, mut put, mut cp, mut get) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        // Another file each time: chunks that are there already are not written again.
        make_file(&file, gibibytes << 10);
        settle();
        let key = format!("file {round}");
        let script = format!("cp '{0}' '{1}' && sync '{1}'", file.display(), copy.display());
        cp_synced.push(timed(Command::new("sh").args(["-c", &script])).as_secs_f64());
        std::fs::remove_file(&copy).expect("a copy");
        settle();
        let mut command = home.command(env!("CARGO_BIN_EXE_catstore"));
        let master = cluster.master.port.to_string();
        put.push(timed(command.args(["put-file", &key, &text(&file), "--master", &master])).as_secs_f64());
        settle();
        cp.push(timed(Command::new("cp").args([&file, &copy])).as_secs_f64());
        // What is not on the disk yet must not be in the way of the next one.
        std::fs::remove_file(&copy).expect("a copy");
        settle();
        let mut command = home.command(env!("CARGO_BIN_EXE_catstore"));
        get.push(timed(command.args(["get", &key, "-o", &text(&back), "--master", &master])).as_secs_f64());
        let same = Command::new("cmp").args([&file, &back]).status().expect("cmp");
        assert!(same.success(), "the file came back changed");
        std::fs::remove_file(&back).expect("a file");
    }
    let size = gibibytes as f64 * 1024.0;
    let row = |name: &str, times: &[f64]| {
        let each: Vec<String> = times.iter().map(|time| format!("{time:.2}")).collect();
        println!("| {name} | {:.0} MiB/s | {} s |", size / median(times.to_vec()), each.join(", "));
    };
    println!("\n{rounds} rounds, a file of {gibibytes} GiB, a group of one\n");
    println!("| what | speed | each round |\n|---|---|---|");
    row("`cp` and sync", &cp_synced);
    row("`put-file`", &put);
    row("`cp`", &cp);
    row("`get -o`", &get);
    let ratio = |theirs: Vec<f64>, ours: Vec<f64>| median(theirs) / median(ours);
    println!("| **put / cp and sync** | **{:.2}** (target 0.6) | |", ratio(cp_synced, put));
    println!("| **get / cp** | **{:.2}** (target 0.7) | |", ratio(cp, get));
}

/// Nothing of what was done before is still on its way to the disk.
fn settle() {
    timed(&mut Command::new("sync"));
}
