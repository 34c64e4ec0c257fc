//! Moves of slots: `make bench-moves`, or `cargo bench --bench moves`.
//!
//! *Pauses.* A million keys in one group, 16 clients that write and read back. A second founder joins, takes its share, and
//! is drained again: requests that fail, reads that are stale, the longest pause of a request with and without a move, the
//! shares, and what the source's disk holds. (With `kill -9` of the leaders it is a test: `tests/processes/leaders_die_while_slots_move.rs`.)
//!
//! *Groups.* Writes and reads a second through the client library with 1 to 4 groups, every worker held to a fifth of a
//! core by a control group of the system (skipped where there is none).
//!
//! *Tables.* Placement of one group more, and the size of the routes, for 10, 100 and 1000 groups.
//!
//! `CATSTORE_BENCH_KEYS` (1000000) and `CATSTORE_BENCH_SECONDS` (10) change the measure.

#[path = "../../tests/common/mod.rs"]
mod common;
mod groups;
mod pauses;
#[path = "../shared/mod.rs"]
mod shared;
mod tables;

use std::time::Duration;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    // `cargo test --benches` starts benchmarks too, to see that they run; that is not worth minutes.
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("a benchmark: run it by `cargo bench --bench moves`");
        return;
    }
    let wanted = |part: &str| {
        !arguments.iter().any(|word| word == "pauses" || word == "groups")
            || arguments.iter().any(|word| word == part)
    };
    let seconds = Duration::from_secs(number("CATSTORE_BENCH_SECONDS", 10));
    if wanted("pauses") {
        pauses::measure(number("CATSTORE_BENCH_KEYS", 1_000_000), seconds);
    }
    if wanted("groups") {
        groups::measure(seconds).expect("figures that can be drawn and written");
        tables::measure();
    }
}

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} must be a number")),
        Err(_) => default,
    }
}
