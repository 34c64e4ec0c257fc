//! Files: `make bench-files`, or `cargo bench --bench files`.
//!
//! *Speed.* A file of 2 GiB by `put-file` into a group of one against `cp` with a sync, and back by `get -o` against `cp`, from
//! the disk and from the page cache, in interleaved rounds.
//!
//! *Many.* Many clients get one file of 10 MiB, by wrk, from a worker and from nginx.
//!
//! *Memory.* Four clients put and four get files of 1 GiB each at the same time: what the worker takes above idle.
//!
//! *Copies.* A clone, and a move of half of the slots, of a worker full of files, against `cp -r` of its folder with a sync.
//!
//! `CATSTORE_BENCH_ROUNDS` (5), `CATSTORE_BENCH_GIB` (2) and `CATSTORE_BENCH_COPY_GIB` (8) change the measure.

#[path = "../../tests/common/mod.rs"]
mod common;
mod copies;
mod many;
mod memory;
mod speed;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    // `cargo test --benches` starts benchmarks too, to see that they run; that is not worth minutes.
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("a benchmark: run it by `cargo bench --bench files`");
        return;
    }
    let parts = ["speed", "many", "memory", "copies"];
    let wanted = |part: &str| {
        !arguments.iter().any(|word| parts.contains(&word.as_str()))
            || arguments.iter().any(|word| word == part)
    };
    if wanted("speed") {
        speed::measure(number("CATSTORE_BENCH_ROUNDS", 5), number("CATSTORE_BENCH_GIB", 2));
    }
    if wanted("many") {
        many::measure(number("CATSTORE_BENCH_ROUNDS", 5));
    }
    if wanted("memory") {
        memory::measure();
    }
    if wanted("copies") {
        copies::measure(number("CATSTORE_BENCH_COPY_GIB", 8));
    }
}

fn number(name: &str, default: usize) -> usize {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} must be a number")),
        Err(_) => default,
    }
}

/// A file of so many MiB that nothing compresses or shares.
fn make_file(path: &Path, mebibytes: usize) {
    let mut file = File::create(path).expect("a file");
    let mut dice = common::Dice::fresh();
    for _ in 0..mebibytes {
        file.write_all(&dice.bytes(1 << 20)).expect("room for a file");
    }
    file.sync_all().expect("a synced file");
}

/// Runs a command to its good end; how long it took.
fn timed(command: &mut Command) -> Duration {
    let began = Instant::now();
    let done = command.status().expect("a command that can be run");
    assert!(done.success(), "{command:?} ended with {done}");
    began.elapsed()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
