//! Limits: `make bench-limits`, or `cargo bench --bench limits`; a part by `cargo bench --bench limits -- batch`.
//!
//! *Batch.* Keys a second by `POST /batch` of 100 puts, against LevelDB's own unsynced batches.
//!
//! *Tails.* The p99 of GET and PUT at half of the highest rate, by `catstore bench --rate`; that of PUT against the disk's own
//! time for a sync.
//!
//! *Connections.* 1,000 active connections, while 9,000 idle ones are open, against 50; and reads of a bare actix-web server, too.
//!
//! *Reads.* Of values five times as large as the cache, and of absent keys, against those of values that fit into it.
//!
//! *Huge.* Ten million keys: GET against that with 100,000, memory, time to start.
//!
//! *Endurance.* Half an hour of reads and writes at full speed; only if it is asked for: `make bench-endurance`.
//!
//! `CATSTORE_BENCH_ROUNDS` (5), `CATSTORE_BENCH_SECONDS` (5), `CATSTORE_BENCH_KEYS` (100000), `CATSTORE_BENCH_HUGE` (10000000) and
//! `CATSTORE_BENCH_MINUTES` (30) change the measure; figures are only comparable at the defaults. A run of all but the last
//! writes the section `limits` of docs/benchmarks.md, endurance its own, if `CATSTORE_BENCH_WRITE` is 1.

mod batch;
mod connections;
mod disk;
mod endurance;
mod huge;
mod reads;
#[path = "../shared/mod.rs"]
mod shared;
mod tails;

use shared::figures::{Figure, machine, table, today};
use shared::{CONNECTIONS, Result, VALUE, document, hello, note, number, wrk};
use std::path::Path;
use std::process::ExitCode;

/// The parts of the section `limits`.
const PARTS: [&str; 5] = ["batch", "tails", "connections", "reads", "huge"];

/// How much is measured.
struct Measure {
    rounds: usize,
    seconds: u64,
    keys: usize,
    huge: usize,
    minutes: usize,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    shared::ended(match arguments.get(1).map(String::as_str) {
        Some("hello") => hello::serve(&arguments[2..]),
        Some("hold") => connections::hold(&arguments[2..]),
        _ if !shared::asked("limits") => Ok(()),
        _ => run(arguments.iter().any(|word| word == "endurance")),
    })
}

fn run(endurance: bool) -> Result<()> {
    let measure = Measure {
        rounds: number("CATSTORE_BENCH_ROUNDS", 5)?.max(1),
        seconds: number("CATSTORE_BENCH_SECONDS", 5)?.max(1) as u64,
        keys: number("CATSTORE_BENCH_KEYS", 100_000)?.max(1000),
        huge: number("CATSTORE_BENCH_HUGE", 10_000_000)?.max(1000),
        minutes: number("CATSTORE_BENCH_MINUTES", 30)?.max(1),
    };
    wrk::present()?;
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    if endurance {
        let figures = endurance::measure(&measure, folder.path())?;
        let about = format!("`make bench-endurance`, {} minutes", measure.minutes);
        document::publish("endurance", &section(&about, &figures))?;
        return Ok(());
    }
    let mut figures = Vec::new();
    let parts = shared::parts(&PARTS);
    for part in &parts {
        note(part);
        figures.extend(part_of(part, &measure, &folder.path().join(part))?);
    }
    let about = format!(
        "`make bench-limits`, {} rounds of {} s, {CONNECTIONS} connections and values of {VALUE} bytes where nothing else is said",
        measure.rounds, measure.seconds
    );
    if parts.len() == PARTS.len() {
        document::publish("limits", &section(&about, &figures))?;
    } else {
        println!("\n{}", section(&about, &figures));
    }
    Ok(())
}

fn part_of(part: &str, measure: &Measure, folder: &Path) -> Result<Vec<Figure>> {
    match part {
        "batch" => batch::measure(measure, folder),
        "tails" => tails::measure(measure, folder),
        "connections" => connections::measure(measure, folder),
        "reads" => reads::measure(measure, folder),
        _ => huge::measure(measure, folder),
    }
}

fn section(about: &str, figures: &[Figure]) -> String {
    format!("{about}, on {}. {}.\n\n{}", today(), machine(), table(figures))
}
