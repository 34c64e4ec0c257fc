//! Groups of many, as ratios in one run: `make bench-groups`, or `cargo bench --bench groups`.
//!
//! First the same synced writes over HTTP by wrk, in interleaved rounds, to a group of three and to an etcd cluster of
//! three on the same machine and disk, each at its leader. Then a clone of a large worker while it is written to,
//! against `cp -r` of the same folder with a sync, and the latency of the writers without and with it.
//!
//! `CATSTORE_BENCH_ROUNDS` (5), `CATSTORE_BENCH_SECONDS` (5) and `CATSTORE_BENCH_VALUES` (1000000, of 1 KiB, for the
//! clone) change the measure; figures are only comparable at the defaults.

mod clone;
mod nodes;
mod report;
mod writers;
#[path = "../shared/wrk.rs"]
mod wrk;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::error::Error;
use std::process::ExitCode;

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// Bytes of every value that wrk writes.
const VALUE: usize = 100;
/// Connections of wrk.
const CONNECTIONS: usize = 50;
/// Keys that wrk writes.
const KEYS: usize = 100_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    // `cargo test --benches` starts benchmarks too, to see that they run; that is not worth minutes.
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("a benchmark: run it by `cargo bench --bench groups`");
        return ExitCode::SUCCESS;
    }
    let wanted = |part: &str| {
        !arguments.iter().any(|word| word == "etcd" || word == "clone")
            || arguments.iter().any(|word| word == part)
    };
    match run(wanted("etcd"), wanted("clone")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(with_etcd: bool, with_clone: bool) -> Result<()> {
    let rounds = number("CATSTORE_BENCH_ROUNDS", 5)?.max(1);
    let seconds = number("CATSTORE_BENCH_SECONDS", 5)?.max(1);
    let values = number("CATSTORE_BENCH_VALUES", 1_000_000)?.max(1000);
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    println!("{}", report::machine());
    if with_etcd {
        throughput(rounds, seconds, folder.path())?;
    }
    if with_clone {
        clone::measure(values, folder.path())?;
    }
    Ok(())
}

fn throughput(rounds: usize, seconds: usize, folder: &std::path::Path) -> Result<()> {
    wrk::present()?;
    let group = nodes::Group::start(&folder.join("group"), 3)?;
    let etcd = nodes::Etcd::start(&folder.join("etcd"))?;
    let (ours, theirs) = (group.leader()?, etcd.leader()?);
    let value = BASE64.encode("v".repeat(VALUE));
    let put = wrk::Script::put(folder, KEYS)?;
    let keys = (0..KEYS).map(|number| format!("key-{number:06}"));
    let etcd_put = wrk::Script::post(folder, "/v3/kv/put", keys, &format!(",\"value\":\"{value}\""))?;
    // A second of each warms connections; it is not counted.
    wrk::run(&put, &ours, 1)?;
    wrk::run(&etcd_put, &theirs, 1)?;
    let (mut own, mut peer) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        note(&format!("round {round} of {rounds}"));
        own.push(wrk::run(&put, &ours, seconds as u64)?);
        peer.push(wrk::run(&etcd_put, &theirs, seconds as u64)?);
    }
    report::throughput(&own, &peer);
    etcd.stop();
    group.stop()
}

fn number(variable: &str, default: usize) -> Result<usize> {
    match std::env::var(variable) {
        Ok(text) => text.parse().map_err(|_| format!("{variable}={text} is not a number").into()),
        Err(_) => Ok(default),
    }
}

fn note(text: &str) {
    eprintln!("bench: {text}");
}
