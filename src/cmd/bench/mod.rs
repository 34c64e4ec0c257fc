//! `catstore bench`: load on a running cluster, below a random prefix that is removed again.
//!
//! The way of a run: `plan` names keys and makes values that tell by themselves whether they are right; `crew` has many
//! connections do one thing after the other: put every key, then read and write by chance for a while, then read
//! everything back, then remove it. While it measures, few threads `drive` all connections, at the `pace` that was asked
//! for: a thread for each costs more than the store itself. What they saw is a `tally`, and `report` prints it, if what was
//! read back is what was written.
//!
//! Invariants: no figure is printed unless every acknowledged write was found again; a request that was due and had to
//! wait counts from when it was due; what is held in memory is bounded by the options.
//!
//! Left out: how requests travel (`client`).

mod crew;
mod drive;
mod pace;
mod plan;
mod report;
mod tally;

use super::options::ClientArgs;
use super::{output, parse, signals};
use crate::client::MAX_HELD;
use crate::error::{Error, Kind, Result};
use crate::server::raise_open_files;
use crew::Crew;
use plan::{MOST_IN_BATCH, Plan};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What the connections hold at most, in bytes of values.
const MOST_BYTES: usize = 1 << 30;

/// Arguments of `catstore bench`.
///
/// Puts --keys keys, reads and writes them for --seconds, reads all of them back, and removes them. A latency is the time
/// from when a request was due until its answer was here whole.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Connections at once to each group, and requests under way
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=2000))]
    connections: u16,
    /// How long to measure
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    seconds: u64,
    /// How many of 100 requests read
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    reads: u8,
    /// The size of each value
    #[arg(long, value_name = "BYTES", default_value = "100", value_parser = parse::size)]
    size: usize,
    /// How many keys there are
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    keys: u64,
    /// Some keys are asked for more often: the n-th most often as 1/n to this power, as in 0.99 [default: all alike]
    #[arg(long, value_name = "POWER", value_parser = power)]
    zipf: Option<f64>,
    /// A write puts so many keys at once, all or none
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=MOST_IN_BATCH))]
    batch: u64,
    /// So many requests a second, by all connections together [default: as many as there can be]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    rate: Option<u64>,
    /// One JSON document
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

fn power(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(power) if power > 0.0 && power <= 10.0 => Ok(power),
        _ => Err("write a number above 0 and up to 10, as in 0.99".to_owned()),
    }
}

impl Args {
    /// Measures, and prints what was seen.
    pub fn run(self) -> Result<()> {
        let plan = self.plan()?;
        // Each connection is one to each group.
        raise_open_files();
        let client = self.client.client_of_many(usize::from(self.connections))?;
        let cluster = client.cluster()?;
        let stop = signals::watch()?;
        let crew = Crew::new(&client, &plan, &stop);
        let seen = crew.fill().and_then(|()| {
            let seen = crew.measure()?;
            crew.read_back().map(|()| seen)
        });
        if stop.load(Ordering::Relaxed) {
            output::remark(format!("removing the keys below {}; Ctrl-C again leaves them", plan.prefix));
        }
        let removed = crew.remove();
        output::waiting(None);
        // What went wrong first is what matters.
        let seen = seen?;
        removed?;
        let report = report::Report::new(&plan, &seen, &cluster);
        if self.json { output::json(&report) } else { output::write(report.text().as_bytes()) }
    }

    fn plan(&self) -> Result<Plan> {
        let usage = |detail: String, hint: &str| Err(Error::new(Kind::Usage, detail).hint(hint));
        if self.size > MAX_HELD {
            return usage(format!("values have at most {MAX_HELD} bytes here"), "say a smaller --size");
        }
        let held =
            self.size.saturating_mul(usize::from(self.connections)).saturating_mul(self.batch as usize);
        if held > MOST_BYTES {
            let detail = format!("{held} bytes would be under way at once, more than {MOST_BYTES}");
            return usage(detail, "fewer --connections, smaller batches, or a smaller --size");
        }
        if self.batch > self.keys {
            return usage("a batch has more keys than there are".to_owned(), "say more --keys");
        }
        Plan::new(plan::Measure {
            keys: self.keys,
            size: self.size,
            reads: self.reads,
            zipf: self.zipf,
            batch: self.batch,
            rate: self.rate,
            connections: usize::from(self.connections),
            time: Duration::from_secs(self.seconds),
        })
    }
}
