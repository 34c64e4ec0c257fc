//! One curve of each server and each kind of request: its measurement, its table, its two plots.

use crate::Measure;
use crate::servers::{Op, Servers, Who};
use crate::shared::figures::{p99, rate};
use crate::shared::load::Data;
use crate::shared::plot::{Line, Plot, draw};
use crate::shared::wrk::Seen;
use crate::shared::{Result, document, note};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

/// A place on the axis.
pub struct Point {
    pub label: String,
    pub x: f64,
    pub connections: usize,
}

/// What was seen at one point by each of [`Who::ALL`], for each of [`Op::BOTH`], a value a round.
struct Row {
    label: String,
    x: f64,
    seen: [[Vec<Seen>; 3]; 2],
}

/// A curve under way.
pub struct Sweep {
    name: &'static str,
    column: &'static str,
    axis: &'static str,
    rows: Vec<Row>,
    /// Runs of peers that failed; one of catstore ends everything.
    remarks: BTreeSet<String>,
}

impl Sweep {
    /// `name` is that of its plots, `column` that of the table's first column.
    pub fn new(name: &'static str, column: &'static str, axis: &'static str) -> Sweep {
        Sweep { name, column, axis, rows: Vec::new(), remarks: BTreeSet::new() }
    }

    /// Measures points for which the servers hold the same `data`, in interleaved rounds.
    pub fn measure(
        &mut self,
        measure: &Measure,
        folder: &Path,
        data: &Data,
        who: &[Who],
        points: &[Point],
    ) -> Result<()> {
        let servers = Servers::start(folder, data, who)?;
        let first = self.rows.len();
        self.rows.extend(points.iter().map(|point| Row {
            label: point.label.clone(),
            x: point.x,
            seen: Default::default(),
        }));
        for round in 1..=measure.rounds {
            note(&format!("round {round} of {}", measure.rounds));
            for (at, point) in points.iter().enumerate() {
                for (op, which) in Op::BOTH.into_iter().flat_map(|op| Who::ALL.map(|which| (op, which))) {
                    match servers.run(which, op, point.connections, measure.seconds) {
                        Ok(seen) => self.rows[first + at].seen[op as usize][which as usize].extend(seen),
                        Err(error) if which == Who::Catstore => return Err(error),
                        Err(error) => {
                            let what = format!("{} {} at {}", which.name(), op.name(), point.label);
                            note(&format!("{what}: {error}"));
                            self.remarks.insert(format!("A round of {what} failed and is left out."));
                        }
                    }
                }
            }
        }
        servers.stop()
    }

    /// The table, and links to the plots, which are drawn. `about` is what does not change; `short` the same for titles.
    pub fn finish(self, about: &str, short: &str) -> Result<String> {
        let mut text =
            format!("\n### By {}\n\n{about} Answers a second, with the p99 in brackets.\n\n", self.axis);
        let _ = write!(text, "| {} |", self.column);
        for (op, who) in Op::BOTH.into_iter().flat_map(|op| Who::ALL.map(|who| (op, who))) {
            let _ = write!(text, " {} {}, {} |", who.name(), op.name(), durability(op, who));
        }
        text += &format!("\n|---|{}\n", "---|".repeat(6));
        for row in &self.rows {
            let cells: Vec<String> = row.seen.iter().flatten().map(|seen| cell(seen)).collect();
            let _ = writeln!(text, "| {} | {} |", row.label, cells.join(" | "));
        }
        text += &format!("\n{}\n", self.losses());
        for remark in &self.remarks {
            let _ = writeln!(text, "{remark}");
        }
        for op in Op::BOTH {
            let title = format!("{} a second by {}: {short}; {}", op.name(), self.axis, op.durability());
            let file = format!("{}-{}", self.name, op.name().to_lowercase());
            document::keep_plot(&file, &draw(&self.plot(op, &title))?)?;
            let _ = write!(text, "\n![{title}](benchmarks/{file}.svg)\n");
        }
        Ok(text)
    }

    fn plot<'a>(&self, op: Op, title: &'a str) -> Plot<'a>
    where
        Self: 'a,
    {
        let line = |who: Who| Line {
            name: who.name().to_owned(),
            points: self.rows.iter().map(|row| (row.x, rate(&row.seen[op as usize][who as usize]))).collect(),
        };
        Plot { title, x: self.axis, y: "answers a second", lines: Who::ALL.into_iter().map(line).collect() }
    }

    /// Where another one is faster.
    fn losses(&self) -> String {
        let mut lost = Vec::new();
        for (op, who) in Op::BOTH.into_iter().flat_map(|op| [(op, Who::Redis), (op, Who::Etcd)]) {
            for row in &self.rows {
                let seen = &row.seen[op as usize];
                let ratio = rate(&seen[Who::Catstore as usize]) / rate(&seen[who as usize]);
                if ratio < 1.0 {
                    lost.push(format!("{} at {} against {} ({ratio:.2})", op.name(), row.label, who.name()));
                }
            }
        }
        match lost.is_empty() {
            true => "catstore loses at no point.".to_owned(),
            false => format!("**Where catstore loses:** {}.", lost.join(", ")),
        }
    }
}

fn durability(op: Op, who: Who) -> &'static str {
    match (op, who) {
        (Op::Get, Who::Redis) => "its only copy",
        (Op::Get, _) => "linearizable",
        (Op::Put, Who::Redis) => "`appendfsync always`",
        (Op::Put, _) => "synced",
    }
}

fn cell(seen: &[Seen]) -> String {
    match seen.is_empty() {
        true => "not measured".to_owned(),
        false => format!("{:.0} ({:.1} ms)", rate(seen), p99(seen)),
    }
}
