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
//!
//! `cargo bench --bench http -- train` measures nothing: it is what the release binary is trained by.

mod memory;
mod report;
#[path = "../shared/mod.rs"]
mod shared;
mod train;

use report::Report;
use shared::cluster::Cluster;
use shared::load::{Data, raw_get};
use shared::{CONNECTIONS, Result, VALUE, document, hello, leveldb, note, number, peers, wrk};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

struct Measure {
    rounds: usize,
    seconds: u64,
    keys: usize,
    many: usize,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    shared::ended(match arguments.get(1).map(String::as_str) {
        Some("hello") => hello::serve(&arguments[2..]),
        _ if !shared::asked("http") => Ok(()),
        Some("train") => train::run(),
        _ => run(),
    })
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
    document::publish("http", &report.markdown())?;
    Ok(())
}

fn speed(measure: &Measure, folder: &Path, report: &mut Report) -> Result<()> {
    let data = Data::plain(measure.keys, VALUE);
    let cluster = Cluster::start(folder)?;
    note(&format!("loading {} keys of {VALUE} bytes", measure.keys));
    data.load(&cluster.worker.address())?;
    let hello = hello::Hello::start(folder, &raw_get(&cluster.worker.address(), &data.key(0))?)?;
    note("loading redis and etcd");
    let redis = peers::Redis::start(folder, &data)?;
    let etcd = peers::Etcd::start(folder, &data)?;
    let get = wrk::Script::get(folder, &data)?;
    let put = wrk::Script::put(folder, &data)?;
    // A second of each warms caches and connections; it is not counted.
    for (script, address) in [
        (&get, cluster.worker.address()),
        (&get, hello.address()),
        (&put, cluster.worker.address()),
        (etcd.get(), etcd.address()),
        (etcd.put(), etcd.address()),
    ] {
        wrk::run(script, &address, CONNECTIONS, 1)?;
    }
    let syncs_before = cluster.worker.syncs();
    let mut puts = 0.0;
    for round in 1..=measure.rounds {
        note(&format!("round {round} of {}", measure.rounds));
        report.get.push(wrk::run(&get, &cluster.worker.address(), CONNECTIONS, measure.seconds)?);
        report.hello.push(wrk::run(&get, &hello.address(), CONNECTIONS, measure.seconds)?);
        report.redis_get.push(redis.run("get", CONNECTIONS, measure.seconds)?);
        report.etcd_get.push(wrk::run(etcd.get(), &etcd.address(), CONNECTIONS, measure.seconds)?);
        let written = wrk::run(&put, &cluster.worker.address(), CONNECTIONS, measure.seconds)?;
        puts += written.per_second * measure.seconds as f64;
        report.put.push(written);
        let database = folder.join(format!("group-commit-{round}"));
        report.group_commit.push(leveldb::synced_puts(
            &database,
            &data,
            Duration::from_secs(measure.seconds),
        )?);
        report.redis_set.push(redis.run("set", CONNECTIONS, measure.seconds)?);
        report.etcd_put.push(wrk::run(etcd.put(), &etcd.address(), CONNECTIONS, measure.seconds)?);
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
