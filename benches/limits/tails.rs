//! The p99 at half of the highest rate, each time counted from when its request was due.

use crate::Measure;
use crate::disk::sync_time;
use crate::shared::cluster::Cluster;
use crate::shared::figures::{Figure, median};
use crate::shared::latency::{Kind, Load};
use crate::shared::{Result, note};
use std::path::Path;

/// Milliseconds that a GET may take.
const GET: f64 = 1.0;
/// Syncs of the disk that a PUT may take.
const PUT: f64 = 5.0;

pub fn measure(measure: &Measure, folder: &Path) -> Result<Vec<Figure>> {
    let cluster = Cluster::start(folder)?;
    let address = cluster.master.address();
    let (mut get, mut put, mut syncs) = (Half::new(Kind::Get), Half::new(Kind::Put), Vec::new());
    for round in 1..=measure.rounds {
        note(&format!("round {round} of {}", measure.rounds));
        get.round(&address, measure)?;
        syncs.push(sync_time(folder)?);
        put.round(&address, measure)?;
    }
    cluster.stop()?;
    let sync = median(syncs);
    Ok(vec![
        Figure::under("p99 of `GET` at half of the highest rate", "linearizable read", get.p99(), "ms", GET)
            .with(&get.rates()),
        Figure::under(
            "p99 of `PUT` at half of the highest rate",
            "synced before the answer",
            put.p99(),
            "ms",
            PUT * sync,
        )
        .with(&format!(
            "{}; target: {PUT} times the disk's p50 for 4 KiB and fdatasync, {sync:.2} ms",
            put.rates()
        )),
    ])
}

/// One kind of request: its highest rates, and its p99 at half of them.
struct Half {
    kind: Kind,
    peaks: Vec<f64>,
    p99: Vec<f64>,
}

impl Half {
    fn new(kind: Kind) -> Half {
        Half { kind, peaks: Vec::new(), p99: Vec::new() }
    }

    fn round(&mut self, address: &str, measure: &Measure) -> Result<()> {
        let load = Load::only(self.kind, address, measure.keys, measure.seconds);
        let peak = load.run_only()?.per_second;
        let [_, _, p99, _] = load.at(peak / 2.0).run_only()?.percentiles;
        self.peaks.push(peak);
        self.p99.push(p99);
        Ok(())
    }

    fn p99(&self) -> f64 {
        median(self.p99.clone())
    }

    fn rates(&self) -> String {
        let peak = median(self.peaks.clone());
        format!("`catstore bench --rate` at {:.0} of {peak:.0} a second", peak / 2.0)
    }
}
