//! What is printed at the end: a table for people, a document for programs.

use super::plan::Plan;
use super::tally::{Tally, Times};
use crate::cluster::view::ClusterView;
use crate::cmd::text;
use serde::Serialize;

/// The percentiles that are printed.
const PERCENTILES: [f64; 4] = [50.0, 90.0, 99.0, 99.9];

/// What a run was, and what it saw.
#[derive(Debug, Serialize)]
pub struct Report {
    connections: usize,
    keys: u64,
    value_bytes: usize,
    reads_percent: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    zipf: Option<f64>,
    keys_in_a_write: u64,
    /// Requests a second that were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<u64>,
    seconds: f64,
    /// For each group, how many members have a write on disk before it is acknowledged.
    synced_by: Vec<usize>,
    reads: Part,
    writes: Part,
    /// Requests that failed, by kind.
    failed: std::collections::BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_failure: Option<String>,
    /// Requests that were due and were not begun in time.
    behind: u64,
}

/// Requests of one kind.
#[derive(Debug, Serialize)]
struct Part {
    requests: u64,
    requests_per_second: f64,
    keys_per_second: f64,
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    longest_ms: f64,
}

impl Part {
    fn of(times: &Times, seconds: f64) -> Part {
        let [p50_ms, p90_ms, p99_ms, p999_ms] = PERCENTILES.map(|percent| times.percentile(percent));
        let per_second = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        Part {
            requests: times.count(),
            requests_per_second: per_second(times.count()),
            keys_per_second: per_second(times.keys),
            p50_ms,
            p90_ms,
            p99_ms,
            p999_ms,
            longest_ms: times.longest(),
        }
    }

    fn row(&self, name: &str) -> Vec<String> {
        let ms = |time: f64| format!("{time:.2} ms");
        let times = [self.p50_ms, self.p90_ms, self.p99_ms, self.p999_ms, self.longest_ms].map(ms);
        let counts = [self.requests.to_string(), format!("{:.0}", self.requests_per_second)];
        [name.to_owned()].into_iter().chain(counts).chain(times).collect()
    }
}

impl Report {
    /// The report of a run whose writes were all read back.
    pub fn new(plan: &Plan, seen: &Tally, cluster: &ClusterView) -> Report {
        let (measure, seconds) = (&plan.measure, seen.elapsed.as_secs_f64());
        let voters = |group: &crate::cluster::view::GroupView| {
            group.members.iter().filter(|member| member.voter).count() / 2 + 1
        };
        let owns = |group: u32| cluster.slots.ranges().iter().any(|range| range.group == group);
        Report {
            connections: measure.connections,
            keys: measure.keys,
            value_bytes: measure.size,
            reads_percent: measure.reads,
            zipf: measure.zipf,
            keys_in_a_write: measure.batch,
            rate: measure.rate,
            seconds,
            synced_by: cluster.groups.iter().filter(|group| owns(group.group)).map(voters).collect(),
            reads: Part::of(&seen.reads, seconds),
            writes: Part::of(&seen.writes, seconds),
            failed: seen.failed.clone(),
            first_failure: seen.first.as_ref().map(ToString::to_string),
            behind: seen.behind,
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let chosen = self.zipf.map_or("chosen alike".to_owned(), |power| format!("chosen by Zipf {power}"));
        let mut lines = vec![
            format!(
                "{} of {}, {chosen}; {}; {:.1} s",
                text::plural(self.keys, "key"),
                text::bytes(self.value_bytes as u64),
                text::plural(self.connections as u64, "connection"),
                self.seconds
            ),
            self.durability(),
            String::new(),
        ];
        let head = ["", "REQUESTS", "PER SECOND", "P50", "P90", "P99", "P99.9", "LONGEST"];
        let parts = [("reads", &self.reads), ("writes", &self.writes)];
        let rows: Vec<_> =
            parts.iter().filter(|(_, part)| part.requests > 0).map(|(name, part)| part.row(name)).collect();
        lines.push(text::table(&head, &[1, 2, 3, 4, 5, 6, 7], &rows));
        if self.keys_in_a_write > 1 {
            let keys = self.writes.keys_per_second;
            lines.push(format!("A write puts {} keys: {keys:.0} keys a second.", self.keys_in_a_write));
        }
        if let Some(rate) = self.rate {
            lines.push(format!(
                "{rate} requests a second were due; each time counts from when its request was due."
            ));
        }
        if self.behind > 0 {
            let behind = text::plural(self.behind, "request");
            lines.push(format!(
                "{behind} that were due had no turn: the times are shorter than they would be."
            ));
        }
        let failed: Vec<String> = self.failed.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        if let Some(first) = &self.first_failure {
            lines.push(format!("failed: {}; the first: {first}", failed.join(", ")));
        }
        lines.push(format!(
            "All {} were read back, and hold what was written.",
            text::plural(self.keys, "key")
        ));
        lines.join("\n") + "\n"
    }

    fn durability(&self) -> String {
        let groups = text::plural(self.synced_by.len() as u64, "group");
        match (self.synced_by.iter().min(), self.synced_by.iter().max()) {
            (Some(1), Some(1)) => {
                format!("{groups}; a write was acknowledged when it was synced on one disk")
            }
            (Some(least), Some(most)) if least == most => {
                format!("{groups}; a write was acknowledged when it was synced on {least} disks")
            }
            (Some(least), Some(most)) => {
                format!("{groups}; a write was acknowledged when it was synced on {least} to {most} disks")
            }
            _ => groups,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::bench::plan::Measure;
    use crate::error::{Error, Kind};
    use std::time::Duration;

    #[test]
    fn the_report_says_what_was_measured_and_what_went_wrong() {
        let measure = Measure {
            keys: 1000,
            size: 100,
            reads: 50,
            zipf: Some(0.99),
            batch: 10,
            rate: Some(500),
            connections: 5,
            time: Duration::from_secs(2),
        };
        let mut seen = Tally::new();
        seen.elapsed = Duration::from_secs(2);
        seen.writes.add(Duration::from_millis(3), 10);
        seen.fail(Error::new(Kind::Unreachable, "nobody is there"));
        seen.behind = 7;
        let report = Report::new(&Plan::new(measure).unwrap(), &seen, &ClusterView::default());
        let text = report.text();
        for part in [
            "1000 keys of 100 bytes, chosen by Zipf 0.99; 5 connections; 2.0 s\n",
            "writes         1           0  3.00 ms",
            "A write puts 10 keys: 5 keys a second.",
            "500 requests a second were due",
            "7 requests that were due had no turn",
            "failed: 1 unreachable; the first: nobody is there",
            "All 1000 keys were read back",
        ] {
            assert!(text.contains(part), "{part:?} in:\n{text}");
        }
        assert!(!text.contains("reads "), "nothing was read:\n{text}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["writes"]["requests"], &json["behind"]), (&1.into(), &7.into()));
    }
}
