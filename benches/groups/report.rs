//! Reads and writes a second, as Markdown for docs/benchmarks.md.

use crate::shared::figures::{Figure, each, machine, p99, rate, table, today};
use crate::shared::wrk::Seen;
use crate::shared::{CONNECTIONS, VALUE, peers};
use std::fmt::Write as _;

/// A value a round.
#[derive(Default)]
pub struct Throughput {
    /// Of the leader of three.
    pub get: Vec<Seen>,
    /// Of a group of one.
    pub get_alone: Vec<Seen>,
    pub put: Vec<Seen>,
    pub etcd_put: Vec<Seen>,
}

impl Throughput {
    /// The section `groups`.
    pub fn markdown(&self, seconds: u64) -> String {
        let (put, etcd) = (&self.put, &self.etcd_put);
        let synced = "synced by a majority of 3";
        let figures = [
            Figure::ratio(
                "`GET` of the leader of 3 / `GET` of a group of one",
                "linearizable reads",
                rate(&self.get) / rate(&self.get_alone),
                0.95,
            ),
            Figure::against("`PUT` into a group of 3 / etcd, 3 members", synced, rate(put) / rate(etcd), 4.0),
            Figure::under("p99 of these `PUT`s / etcd's", synced, p99(put) / p99(etcd), "", 1.0),
        ];
        let mut text = format!(
            "`make bench-groups` on {}: `cargo bench --bench groups`. {}; {} rounds of {seconds} s, {CONNECTIONS} connections, \
             values of {VALUE} bytes; {}\n\n{}\n",
            today(),
            machine(),
            put.len(),
            peers::versions(),
            table(&figures)
        );
        text.push_str("| over HTTP | durability | per second | each round | p99 |\n|---|---|---|---|---|\n");
        for (name, durability, seen) in [
            ("`GET`, the leader of 3", "linearizable read", &self.get),
            ("`GET`, a group of one", "linearizable read", &self.get_alone),
            ("`PUT`, a group of 3", synced, put),
            ("etcd's put, 3 members", synced, etcd),
        ] {
            let rounds = each(seen.iter().map(|seen| seen.per_second));
            let _ = writeln!(
                text,
                "| {name} | {durability} | {:.0} | {rounds} | {:.1} ms |",
                rate(seen),
                p99(seen)
            );
        }
        text
    }
}
