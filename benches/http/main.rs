//! Speed and memory, as ratios in one run: `make bench`, or `cargo bench --bench http`.
//!
//! A master and a worker of the built binary run in a fresh folder below `target/tmp` (a real disk, where /tmp may be
//! memory). Each round measures, one after the other: GET of catstore, GET of a bare actix-web server that answers
//! the same bytes, GET of Redis and a linearizable range of etcd; synced PUT of catstore, LevelDB's own group commit on the
//! same disk, SET of Redis with `appendfsync always` and put of etcd. Interleaved rounds and medians take out most of what
//! else the machine does. Memory and time to start are measured on a second cluster.
//!
//! `CATSTORE_BENCH_ROUNDS` (5), `CATSTORE_BENCH_SECONDS` (5), `CATSTORE_BENCH_KEYS` (100000) and
//! `CATSTORE_BENCH_MANY` (1000000) change the measure; figures are only comparable at the defaults.

mod cluster;
mod group_commit;
mod hello;
mod load;
mod memory;
mod peers;
mod report;
#[path = "../shared/wrk.rs"]
mod wrk;

use cluster::Cluster;
use report::Report;
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// Bytes of every value.
const VALUE: usize = 100;
/// Connections of wrk, and threads of LevelDB's group commit.
const CONNECTIONS: usize = 50;

struct Measure {
    rounds: usize,
    seconds: u64,
    keys: usize,
    many: usize,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let done = match arguments.get(1).map(String::as_str) {
        Some("hello") => hello::serve(&arguments[2..]),
        // `cargo test --benches` starts benchmarks too, to see that they run; that is not worth a minute.
        _ if !arguments.iter().any(|argument| argument == "--bench") => {
            println!("a benchmark: run it by `cargo bench --bench http`");
            Ok(())
        }
        _ => run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let measure = Measure {
        rounds: number("CATSTORE_BENCH_ROUNDS", 5)?.max(1),
        seconds: number("CATSTORE_BENCH_SECONDS", 5)?.max(1) as u64,
        keys: number("CATSTORE_BENCH_KEYS", 100_000)?.max(1),
        many: number("CATSTORE_BENCH_MANY", 1_000_000)?.max(1),
    };
    wrk::present()?;
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let mut report = Report::new(&measure);
    speed(&measure, &folder.path().join("speed"), &mut report)?;
    memory::measure(&measure, &folder.path().join("memory"), &mut report)?;
    println!("\n{report}");
    Ok(())
}

fn speed(measure: &Measure, folder: &Path, report: &mut Report) -> Result<()> {
    let cluster = Cluster::start(folder)?;
    note(&format!("loading {} keys of {VALUE} bytes", measure.keys));
    load::puts(&cluster.worker.address(), measure.keys)?;
    let hello = hello::Hello::start(folder, &load::raw_get(&cluster.worker.address(), &load::key(0))?)?;
    note("loading redis and etcd");
    let redis = peers::Redis::start(folder, measure.keys)?;
    let etcd = peers::Etcd::start(folder, measure.keys)?;
    let get = wrk::Script::get(folder, measure.keys)?;
    let put = wrk::Script::put(folder, measure.keys)?;
    // A second of each warms caches and connections; it is not counted.
    for (script, address) in [
        (&get, cluster.worker.address()),
        (&get, hello.address()),
        (&put, cluster.worker.address()),
        (etcd.get(), etcd.address()),
        (etcd.put(), etcd.address()),
    ] {
        wrk::run(script, &address, 1)?;
    }
    let syncs_before = cluster.worker.syncs();
    let mut puts = 0.0;
    for round in 1..=measure.rounds {
        note(&format!("round {round} of {}", measure.rounds));
        report.get.push(wrk::run(&get, &cluster.worker.address(), measure.seconds)?);
        report.hello.push(wrk::run(&get, &hello.address(), measure.seconds)?);
        report.redis_get.push(redis.run("get", measure.seconds)?);
        report.etcd_get.push(wrk::run(etcd.get(), &etcd.address(), measure.seconds)?);
        let written = wrk::run(&put, &cluster.worker.address(), measure.seconds)?;
        puts += written.per_second * measure.seconds as f64;
        report.put.push(written);
        let database = folder.join(format!("group-commit-{round}"));
        report.group_commit.push(group_commit::run(
            &database,
            measure.keys,
            Duration::from_secs(measure.seconds),
        )?);
        report.redis_set.push(redis.run("set", measure.seconds)?);
        report.etcd_put.push(wrk::run(etcd.put(), &etcd.address(), measure.seconds)?);
    }
    if let (Some(before), Some(after)) = (syncs_before, cluster.worker.syncs())
        && after > before
    {
        report.puts_per_sync = Some(puts / (after - before));
    }
    hello.stop()?;
    redis.stop()?;
    etcd.stop()?;
    cluster.stop()
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
