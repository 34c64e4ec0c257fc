//! Medians and ratios, as Markdown for docs/benchmarks.md.

use crate::wrk::Seen;
use crate::{CONNECTIONS, VALUE};

/// Synced writes a second of both.
pub fn throughput(own: &[Seen], peer: &[Seen]) {
    let rate = |seen: &[Seen]| median(seen.iter().map(|seen| seen.per_second).collect());
    let p99 = |seen: &[Seen]| median(seen.iter().map(|seen| seen.p99).collect());
    println!(
        "\n{} rounds, {CONNECTIONS} connections, values of {VALUE} bytes, synced by a majority of 3\n",
        own.len()
    );
    println!("| writes over HTTP | per second | each round | p99 |\n|---|---|---|---|");
    for (name, seen) in [("group of 3", own), ("etcd, 3 members", peer)] {
        let rounds: Vec<String> = seen.iter().map(|seen| format!("{:.0}", seen.per_second)).collect();
        println!("| {name} | {:.0} | {} | {:.1} ms |", rate(seen), rounds.join(", "), p99(seen));
    }
    println!(
        "| **ratio** | **{:.2}** (target 3) | | **{:.2}** (target 1) |",
        rate(own) / rate(peer),
        p99(own) / p99(peer)
    );
}

/// The middle value; of two, their mean.
pub fn median(mut values: Vec<f64>) -> f64 {
    if values.is_empty() {
        return f64::NAN;
    }
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

/// Cores, processor and kernel, as far as /proc tells.
pub fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, |cores| cores.get());
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(" of unknown kind");
    let model = model.trim_start_matches([' ', '\t', ':']).trim();
    format!("{cores} cores ({model}), Linux {}", read("/proc/sys/kernel/osrelease").trim())
}
