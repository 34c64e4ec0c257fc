//! Curves: `make bench`, or `cargo bench --bench curves`; a part by `cargo bench --bench curves -- sizes`.
//!
//! *Connections, sizes, keys.* GET and synced PUT a second against the number of connections, the size of the values and the
//! number of keys: catstore by wrk, Redis with `appendfsync always` by redis-benchmark without pipelining, etcd's HTTP gateway
//! by wrk; one server each, in interleaved rounds, medians.
//!
//! *Latency.* Percentiles of GET and PUT by `catstore bench --rate`, at parts of the highest rate that it saw.
//!
//! (With the number of groups: `cargo bench --bench moves -- groups`.)
//!
//! `CATSTORE_BENCH_ROUNDS` (3), `CATSTORE_BENCH_SECONDS` (2), `CATSTORE_BENCH_KEYS` (100000) and `CATSTORE_BENCH_MANY` (1000000)
//! change the measure; figures are only comparable at the defaults. A run of all parts writes the section `curves` of
//! docs/benchmarks.md, if `CATSTORE_BENCH_WRITE` is 1; the plots go beside it.

mod rates;
mod servers;
#[path = "../shared/mod.rs"]
mod shared;
mod sweep;

use servers::{Op, Who};
use shared::load::Data;
use shared::{CONNECTIONS, Result, VALUE, document, figures, note, number, peers, wrk};
use std::path::Path;
use std::process::ExitCode;
use sweep::{Point, Sweep};

/// So many bytes of values at most, where the values are large.
const MOST_BYTES: usize = 128 << 20;
/// The parts, in the order of the document.
const PARTS: [&str; 4] = ["connections", "sizes", "keys", "latency"];

/// How much is measured.
struct Measure {
    rounds: usize,
    seconds: u64,
    keys: usize,
    many: usize,
}

fn main() -> ExitCode {
    if !shared::asked("curves") {
        return ExitCode::SUCCESS;
    }
    shared::ended(run())
}

fn run() -> Result<()> {
    let measure = Measure {
        rounds: number("CATSTORE_BENCH_ROUNDS", 3)?.max(1),
        seconds: number("CATSTORE_BENCH_SECONDS", 2)?.max(1) as u64,
        keys: number("CATSTORE_BENCH_KEYS", 100_000)?.max(1000),
        many: number("CATSTORE_BENCH_MANY", 1_000_000)?.max(1000),
    };
    wrk::present()?;
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let mut section = head(&measure);
    let parts = shared::parts(&PARTS);
    for part in &parts {
        note(part);
        let folder = folder.path().join(part);
        section += &match *part {
            "connections" => connections(&measure, &folder)?,
            "sizes" => sizes(&measure, &folder)?,
            "keys" => keys(&measure, &folder)?,
            _ => rates::measure(&measure, &folder)?,
        };
    }
    if parts.len() == PARTS.len() {
        document::publish("curves", &section)?;
    } else {
        println!("\n{section}");
    }
    Ok(())
}

fn head(measure: &Measure) -> String {
    format!(
        "`make bench` on {}: `cargo bench --bench curves`. {}; {}; medians of {} interleaved rounds of {} s. catstore and \
         etcd's gateway over HTTP by `wrk -t2`, Redis by `redis-benchmark` without pipelining; one server each. Reads are \
         linearizable (Redis: of its only copy); every write is synced to disk before its answer (Redis: `appendfsync \
         always`).\n",
        figures::today(),
        figures::machine(),
        peers::versions(),
        measure.rounds,
        measure.seconds
    )
}

/// All servers hold the same keys; more and more connections ask for them.
fn connections(measure: &Measure, folder: &Path) -> Result<String> {
    let data = Data::tagged(measure.keys, VALUE);
    let mut sweep = Sweep::new("connections", "connections", "connections");
    let points = [1, 5, 10, 50, 100, 500, 1000].map(|connections| Point {
        label: connections.to_string(),
        x: connections as f64,
        connections,
    });
    sweep.measure(measure, folder, &data, &Who::ALL, &points)?;
    sweep.finish(
        &format!("{} keys of {VALUE} bytes.", measure.keys),
        &format!("{} keys of {VALUE} B", measure.keys),
    )
}

/// Servers of their own for each size; fewer keys where the values are large.
fn sizes(measure: &Measure, folder: &Path) -> Result<String> {
    let mut sweep = Sweep::new("sizes", "bytes of a value", "bytes of a value");
    for size in [100, 1 << 10, 10 << 10, 60 << 10] {
        let data = Data::tagged(measure.keys.min(MOST_BYTES / size), size);
        let label = format!("{size} ({} keys)", data.keys);
        let point = Point { label, x: size as f64, connections: CONNECTIONS };
        sweep.measure(measure, &folder.join(size.to_string()), &data, &Who::ALL, &[point])?;
    }
    let about = format!(
        "{CONNECTIONS} connections; up to {} keys, and {} MiB of values.",
        measure.keys,
        MOST_BYTES >> 20
    );
    sweep.finish(&about, &format!("{CONNECTIONS} connections"))
}

/// Servers of their own for each number of keys.
fn keys(measure: &Measure, folder: &Path) -> Result<String> {
    let mut sweep = Sweep::new("keys", "keys", "keys");
    for keys in [measure.keys / 10, measure.keys, measure.many] {
        // Loading a million keys into etcd takes minutes.
        let who: &[Who] = if keys > measure.keys { &[Who::Catstore, Who::Redis] } else { &Who::ALL };
        let point = Point { label: keys.to_string(), x: keys as f64, connections: CONNECTIONS };
        sweep.measure(measure, &folder.join(keys.to_string()), &Data::tagged(keys, VALUE), who, &[point])?;
    }
    let about = format!(
        "{CONNECTIONS} connections, values of {VALUE} bytes. etcd is left out above {} keys, which take it minutes to load.",
        measure.keys
    );
    sweep.finish(&about, &format!("{CONNECTIONS} connections, values of {VALUE} B"))
}
