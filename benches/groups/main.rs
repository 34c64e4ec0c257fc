//! Groups of many, as ratios in one run: `make bench-groups`, or `cargo bench --bench groups`.
//!
//! First by wrk, in interleaved rounds: linearizable reads of the leader of a group of three, and of a group of one; the same
//! synced writes to the group of three and to an etcd cluster of three on the same machine and disk, each at its leader. Then a clone of a large worker while it is written to,
//! against `cp -r` of the same folder with a sync, and the latency of the writers without and with it.
//!
//! `CATSTORE_BENCH_ROUNDS` (5), `CATSTORE_BENCH_SECONDS` (5) and `CATSTORE_BENCH_VALUES` (1000000, of 1 KiB, for the
//! clone) change the measure; figures are only comparable at the defaults.

mod clone;
mod nodes;
mod report;
#[path = "../shared/mod.rs"]
mod shared;
mod writers;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use shared::load::Data;
use shared::{CONNECTIONS, Result, VALUE, document, note, number, wrk};
use std::path::Path;
use std::process::ExitCode;

/// Keys that wrk writes.
const KEYS: usize = 100_000;

fn main() -> ExitCode {
    if !shared::asked("groups") {
        return ExitCode::SUCCESS;
    }
    shared::ended(run())
}

fn run() -> Result<()> {
    let rounds = number("CATSTORE_BENCH_ROUNDS", 5)?.max(1);
    let seconds = number("CATSTORE_BENCH_SECONDS", 5)?.max(1) as u64;
    let values = number("CATSTORE_BENCH_VALUES", 1_000_000)?.max(1000);
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let parts = shared::parts(&["etcd", "clone"]);
    if parts.contains(&"etcd") {
        document::publish("groups", &throughput(rounds, seconds, folder.path())?)?;
    }
    if parts.contains(&"clone") {
        document::publish("clone", &clone::measure(values, folder.path())?)?;
    }
    Ok(())
}

/// Reads of the leader of three against a group of one, and writes against etcd.
fn throughput(rounds: usize, seconds: u64, folder: &Path) -> Result<String> {
    wrk::present()?;
    let data = Data::plain(KEYS, VALUE);
    let group = nodes::Group::start(&folder.join("group"), 3)?;
    let one = nodes::Group::start(&folder.join("one"), 1)?;
    let etcd = nodes::Etcd::start(&folder.join("etcd"))?;
    let (ours, alone, theirs) = (group.leader()?, one.leader()?, etcd.leader()?);
    for address in [&ours, &alone] {
        data.load(address)?;
    }
    let value = BASE64.encode("v".repeat(VALUE));
    let (get, put) = (wrk::Script::get(folder, &data)?, wrk::Script::put(folder, &data)?);
    let keys = (0..KEYS).map(|number| data.key(number));
    let etcd_put = wrk::Script::post(folder, "/v3/kv/put", keys, &format!(",\"value\":\"{value}\""))?;
    // A second of each warms connections; it is not counted.
    for (script, address) in [(&get, &ours), (&get, &alone), (&put, &ours), (&etcd_put, &theirs)] {
        wrk::run(script, address, CONNECTIONS, 1)?;
    }
    let mut seen = report::Throughput::default();
    for round in 1..=rounds {
        note(&format!("round {round} of {rounds}"));
        seen.get.push(wrk::run(&get, &ours, CONNECTIONS, seconds)?);
        seen.get_alone.push(wrk::run(&get, &alone, CONNECTIONS, seconds)?);
        seen.put.push(wrk::run(&put, &ours, CONNECTIONS, seconds)?);
        seen.etcd_put.push(wrk::run(&etcd_put, &theirs, CONNECTIONS, seconds)?);
    }
    etcd.stop();
    one.stop()?;
    group.stop()?;
    Ok(seen.markdown(seconds))
}
