//! One file in and out, against `cp`: what is read comes from the disk once, and once from the page cache, for both.

use crate::common::Cluster;
use crate::{make_file, median, timed};
use std::path::Path;
use std::process::Command;

pub fn measure(rounds: usize, gibibytes: usize) {
    let cluster = Cluster::start();
    let home = &cluster.home;
    let (file, copy, back) = (home.path("file"), home.path("copy"), home.path("back"));
    let text = |path: &Path| path.display().to_string();
    let master = cluster.master.port.to_string();
    let catstore = |words: &[&str]| {
        timed(home.command(env!("CARGO_BIN_EXE_catstore")).args(words).args(["--master", &master]))
            .as_secs_f64()
    };
    let mut times: [Vec<f64>; 7] = Default::default();
    for round in 0..rounds {
        // Another file each time: chunks that are there already are not written again.
        make_file(&file, gibibytes << 10);
        let key = format!("file {round}");
        let cp = || timed(Command::new("cp").args([&file, &copy])).as_secs_f64();
        let get = || catstore(&["get", &key, "-o", &text(&back)]);
        settle();
        let script = format!("cp '{0}' '{1}' && sync '{1}'", file.display(), copy.display());
        times[0].push(timed(Command::new("sh").args(["-c", &script])).as_secs_f64());
        remove(&copy);
        times[1].push(catstore(&["put-file", &key, &text(&file)]));
        settle();
        forget(&file);
        times[2].push(cp());
        remove(&copy);
        forget(&cluster.worker.data);
        times[3].push(get());
        let same = Command::new("cmp").args([&file, &back]).status().expect("cmp");
        assert!(same.success(), "the file came back changed");
        remove(&back);
        times[4].push(cp());
        remove(&copy);
        times[5].push(get());
        remove(&back);
        let got = get();
        times[6].push(got + timed(Command::new("sync").arg(&back)).as_secs_f64());
        remove(&back);
    }
    let size = gibibytes as f64 * 1024.0;
    println!("\n{rounds} rounds, a file of {gibibytes} GiB, a group of one\n");
    println!("| what | speed | each round |\n|---|---|---|");
    let names = [
        "`cp` and sync",
        "`put-file`",
        "`cp` from the disk",
        "`get -o` from the disk",
        "`cp` from the page cache",
        "`get -o` from the page cache",
        "the same, and sync",
    ];
    for (name, times) in names.iter().zip(&times) {
        let each: Vec<String> = times.iter().map(|time| format!("{time:.2}")).collect();
        println!("| {name} | {:.0} MiB/s | {} s |", size / median(times.to_vec()), each.join(", "));
    }
    let what = [
        ("put / cp and sync", 0.6),
        ("get / cp, from the disk", 0.7),
        ("get / cp, from the page cache", 0.7),
        ("get and sync / cp and sync, from the page cache", 0.7),
    ];
    let [cp_synced, put, cp_cold, get_cold, cp_warm, get_warm, get_synced] = times.map(median);
    let ratios = [cp_synced / put, cp_cold / get_cold, cp_warm / get_warm, cp_synced / get_synced];
    for ((name, target), ratio) in what.into_iter().zip(ratios) {
        println!("| **{name}** | **{ratio:.2}** (target {target}) | |");
    }
}

/// What is not on the disk yet must not be in the way of the next one.
fn remove(file: &Path) {
    std::fs::remove_file(file).expect("a file");
    settle();
}

/// Has the system forget what it holds of a file, or of all files of a folder, in memory.
fn forget(path: &Path) {
    if path.is_dir() {
        std::fs::read_dir(path).expect("a folder").flatten().for_each(|entry| forget(&entry.path()));
    } else if let Ok(file) = std::fs::File::open(path) {
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)
            .expect("a file that can be forgotten");
    }
}

/// Nothing of what was done before is still on its way to the disk.
fn settle() {
    timed(&mut Command::new("sync"));
}
