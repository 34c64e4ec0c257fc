//! How long requests take at a part of the highest rate: `catstore bench --rate`, which counts from when a request was due.

use crate::shared::cluster::Cluster;
use crate::shared::latency::{Kind, Load, PERCENTILES, Times};
use crate::shared::plot::{Line, Plot, draw};
use crate::shared::{CONNECTIONS, Result, VALUE, document, note};
use crate::{Measure, Op};
use std::fmt::Write as _;
use std::path::Path;

/// Parts of the highest rate, in hundredths. Half of it is what the document's targets are about.
const PARTS: [u32; 5] = [10, 25, 50, 75, 90];

/// The table and the plots.
pub fn measure(measure: &Measure, folder: &Path) -> Result<String> {
    let cluster = Cluster::start(folder)?;
    let seconds = measure.seconds * 2;
    let mut text = format!(
        "\n### Latency by rate\n\n`catstore bench --rate N --connections {CONNECTIONS} --keys {} --seconds {seconds}`, values of \
         {VALUE} bytes, against the same master: each time counts from when its request was due, so that waiting for a turn \
         counts too. The highest rate is that of the same command without `--rate`, which is slower than wrk.\n\n\
         | requests | durability | of the highest rate | a second | {} | longest |\n|---|---|---|---|{}---|\n",
        measure.keys,
        PERCENTILES.join(" | "),
        "---|".repeat(PERCENTILES.len())
    );
    let mut links = String::new();
    for (op, kind) in [(Op::Get, Kind::Get), (Op::Put, Kind::Put)] {
        let load = Load::only(kind, &cluster.master.address(), measure.keys, seconds);
        let peak = load.run_only()?.per_second;
        let mut seen: Vec<Times> = Vec::new();
        for part in PARTS {
            note(&format!("{} at {part} % of {peak:.0} a second", op.name()));
            seen.push(load.at(peak * f64::from(part) / 100.0).run_only()?);
        }
        for (part, times) in PARTS.iter().zip(&seen) {
            let cells: Vec<String> = times.percentiles.iter().map(|time| format!("{time:.2} ms")).collect();
            let _ = writeln!(
                text,
                "| {} | {} | {part} % | {:.0} | {} | {:.1} ms |",
                op.name(),
                op.durability(),
                times.per_second,
                cells.join(" | "),
                times.longest
            );
        }
        let title = format!(
            "Latency of {} by rate: {CONNECTIONS} connections, {VALUE} B; {}",
            op.name(),
            op.durability()
        );
        let file = format!("latency-{}", op.name().to_lowercase());
        document::keep_plot(&file, &draw(&plot(&title, &seen))?)?;
        let _ = write!(links, "\n![{title}](benchmarks/{file}.svg)\n");
    }
    cluster.stop()?;
    Ok(text + &links)
}

fn plot<'a>(title: &'a str, seen: &[Times]) -> Plot<'a> {
    let line = |(at, name): (usize, &&str)| Line {
        name: (*name).to_owned(),
        points: seen.iter().map(|times| (times.per_second, times.percentiles[at])).collect(),
    };
    let lines = PERCENTILES.iter().enumerate().rev().map(line).collect();
    Plot { title, x: "requests a second", y: "milliseconds since a request was due", lines }
}
