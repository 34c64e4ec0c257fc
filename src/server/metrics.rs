//! Counting at the door: requests by route and status, their durations, and what is under way. Plain atomics, so
//! that counting costs nothing that a request would notice; `/metrics` prints them for Prometheus.

use crate::replica::handle::Numbers;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// What a request is counted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Label {
    Get,
    Put,
    PutFile,
    Delete,
    List,
    Batch,
    Clear,
    Close,
    Open,
    Cluster,
    Health,
    Metrics,
    Internal,
    Other,
}

const LABELS: [&str; 14] = [
    "get", "put", "put_file", "delete", "list", "batch", "clear", "close", "open", "cluster", "health",
    "metrics", "internal", "other",
];
const STATUSES: [u16; 24] = [
    200, 201, 204, 206, 304, 307, 400, 401, 403, 404, 405, 408, 409, 412, 413, 414, 416, 431, 500, 503, 504,
    507, 502, 0,
];
const BUCKETS: [(u128, &str); 8] = [
    (250, "0.00025"),
    (1_000, "0.001"),
    (5_000, "0.005"),
    (25_000, "0.025"),
    (100_000, "0.1"),
    (500_000, "0.5"),
    (2_500_000, "2.5"),
    (10_000_000, "10"),
];

/// The counters of one route.
#[derive(Default)]
struct Counters {
    statuses: [AtomicU64; STATUSES.len()],
    buckets: [AtomicU64; BUCKETS.len()],
    count: AtomicU64,
    microseconds: AtomicU64,
}

/// The counters of a node.
#[derive(Default)]
pub(crate) struct Metrics {
    routes: [Counters; LABELS.len()],
    /// Requests under way.
    pub(crate) in_flight: AtomicU64,
    /// Connections that are open.
    pub(crate) connections: AtomicU64,
    /// Requests forwarded so far.
    pub(crate) forwards: AtomicU64,
    /// Bytes of bodies received.
    pub(crate) bytes_in: AtomicU64,
}

/// What `/metrics` prints beside the counters.
pub(crate) struct Gauges {
    /// Numbers of the replica, if it is open.
    pub(crate) numbers: Option<Numbers>,
    /// How many milliseconds the state may lag behind the leader's, if that is known.
    pub(crate) lag: Option<u64>,
    /// Requests that wait for another node, or for somebody to lead.
    pub(crate) forwarding: usize,
    /// Bytes of request bodies held in memory.
    pub(crate) body_bytes: usize,
}

impl Metrics {
    /// Counts an answer.
    pub(crate) fn finish(&self, label: Label, status: u16, took: Duration) {
        let counters = &self.routes[label as usize];
        let position = STATUSES.iter().position(|known| *known == status).unwrap_or(STATUSES.len() - 1);
        counters.statuses[position].fetch_add(1, Relaxed);
        let microseconds = took.as_micros();
        if let Some(bucket) = BUCKETS.iter().position(|(limit, _)| microseconds <= *limit) {
            counters.buckets[bucket].fetch_add(1, Relaxed);
        }
        counters.count.fetch_add(1, Relaxed);
        counters.microseconds.fetch_add(u64::try_from(microseconds).unwrap_or(u64::MAX), Relaxed);
    }

    /// Everything as Prometheus text.
    pub(crate) fn print(&self, gauges: &Gauges) -> String {
        let mut text = String::with_capacity(8 << 10);
        self.requests(&mut text);
        self.durations(&mut text);
        number(&mut text, "catstore_requests_in_flight", "gauge", self.in_flight.load(Relaxed));
        number(&mut text, "catstore_connections", "gauge", self.connections.load(Relaxed));
        number(&mut text, "catstore_forwards_total", "counter", self.forwards.load(Relaxed));
        number(&mut text, "catstore_forwards_in_flight", "gauge", gauges.forwarding as u64);
        number(&mut text, "catstore_body_bytes_total", "counter", self.bytes_in.load(Relaxed));
        number(&mut text, "catstore_body_bytes_held", "gauge", gauges.body_bytes as u64);
        if let Some(numbers) = &gauges.numbers {
            replica(&mut text, numbers);
        }
        if let Some(lag) = gauges.lag {
            number(&mut text, "catstore_applied_lag_milliseconds", "gauge", lag);
        }
        if let Some(bytes) = resident() {
            number(&mut text, "process_resident_memory_bytes", "gauge", bytes);
        }
        text
    }

    fn requests(&self, text: &mut String) {
        text.push_str("# TYPE catstore_requests_total counter\n");
        for (label, counters) in LABELS.iter().zip(&self.routes) {
            for (status, count) in STATUSES.iter().zip(&counters.statuses) {
                let count = count.load(Relaxed);
                if count > 0 {
                    let _ = writeln!(
                        text,
                        "catstore_requests_total{{route=\"{label}\",status=\"{status}\"}} {count}"
                    );
                }
            }
        }
    }

    fn durations(&self, text: &mut String) {
        text.push_str("# TYPE catstore_request_seconds histogram\n");
        for (label, counters) in LABELS.iter().zip(&self.routes) {
            let count = counters.count.load(Relaxed);
            if count == 0 {
                continue;
            }
            let mut below = 0;
            for ((_, limit), bucket) in BUCKETS.iter().zip(&counters.buckets) {
                below += bucket.load(Relaxed);
                let _ = writeln!(
                    text,
                    "catstore_request_seconds_bucket{{route=\"{label}\",le=\"{limit}\"}} {below}"
                );
            }
            let _ =
                writeln!(text, "catstore_request_seconds_bucket{{route=\"{label}\",le=\"+Inf\"}} {count}");
            let seconds = counters.microseconds.load(Relaxed) as f64 / 1e6;
            let _ = writeln!(text, "catstore_request_seconds_sum{{route=\"{label}\"}} {seconds}");
            let _ = writeln!(text, "catstore_request_seconds_count{{route=\"{label}\"}} {count}");
        }
    }
}

fn replica(text: &mut String, numbers: &Numbers) {
    let leads = u64::from(numbers.role == "leader");
    for (name, kind, value) in [
        ("catstore_log_syncs_total", "counter", numbers.syncs),
        ("catstore_entries_total", "counter", numbers.entries),
        ("catstore_commands_total", "counter", numbers.commands),
        ("catstore_keys", "gauge", numbers.keys),
        ("catstore_bytes", "gauge", numbers.bytes),
        ("catstore_version", "gauge", numbers.version),
        ("catstore_applied_index", "gauge", numbers.applied),
        ("catstore_last_index", "gauge", numbers.last),
        ("catstore_term", "gauge", numbers.term),
        ("catstore_leader", "gauge", leads),
        ("catstore_inbox_commands", "gauge", numbers.queue),
        ("catstore_log_bytes", "gauge", numbers.log_bytes),
        ("catstore_rows_renewed_total", "counter", numbers.renewals),
    ] {
        number(text, name, kind, value);
    }
    if let Some(chunks) = &numbers.chunks {
        for (name, kind, value) in [
            ("catstore_chunks_mended_total", "counter", chunks.mended),
            ("catstore_chunks_rotten_total", "counter", chunks.rotten),
            ("catstore_chunks_fetched_total", "counter", chunks.fetched),
            ("catstore_chunks_collected_total", "counter", chunks.collected),
            ("catstore_values_lacking_chunks", "gauge", chunks.lacking),
        ] {
            number(text, name, kind, value);
        }
    }
    let _ = writeln!(text, "# TYPE catstore_role gauge\ncatstore_role{{role=\"{}\"}} 1", numbers.role);
    text.push_str("# TYPE catstore_members gauge\n");
    for (kind, members) in [("voter", &numbers.voters), ("standby", &numbers.standbys)] {
        let _ = writeln!(text, "catstore_members{{kind=\"{kind}\"}} {}", members.len());
    }
}

fn number(text: &mut String, name: &str, kind: &str, value: u64) {
    let _ = writeln!(text, "# TYPE {name} {kind}\n{name} {value}");
}

/// Resident memory of this process in bytes, where the system tells it.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::verifying::ChunkFacts;

    #[test]
    fn counts_come_out_as_prometheus_text() {
        let metrics = Metrics::default();
        metrics.finish(Label::Get, 200, Duration::from_micros(900));
        metrics.finish(Label::Get, 200, Duration::from_secs(60));
        metrics.finish(Label::Put, 418, Duration::from_micros(1));
        let chunks = Some(ChunkFacts { mended: 4, lacking: 1, ..ChunkFacts::default() });
        let numbers = Numbers { syncs: 3, role: "standby", voters: vec![0], chunks, ..Numbers::default() };
        let gauges = Gauges { numbers: Some(numbers), lag: Some(7), forwarding: 2, body_bytes: 0 };
        let text = metrics.print(&gauges);
        assert!(text.contains("catstore_role{role=\"standby\"} 1\n"));
        assert!(text.contains("catstore_members{kind=\"voter\"} 1\ncatstore_members{kind=\"standby\"} 0\n"));
        assert!(
            text.contains("catstore_chunks_mended_total 4\n# TYPE catstore_chunks_rotten_total counter\n")
        );
        assert!(
            text.contains("# TYPE catstore_values_lacking_chunks gauge\ncatstore_values_lacking_chunks 1\n")
        );
        assert!(text.contains("catstore_applied_lag_milliseconds 7\n"));
        assert!(text.contains("catstore_requests_total{route=\"get\",status=\"200\"} 2\n"));
        assert!(text.contains("catstore_requests_total{route=\"put\",status=\"0\"} 1\n"));
        assert!(text.contains("catstore_request_seconds_bucket{route=\"get\",le=\"0.001\"} 1\n"));
        assert!(text.contains("catstore_request_seconds_bucket{route=\"get\",le=\"10\"} 1\n"));
        assert!(text.contains("catstore_request_seconds_bucket{route=\"get\",le=\"+Inf\"} 2\n"));
        assert!(
            text.contains("catstore_log_syncs_total 3\n") && text.contains("catstore_forwards_in_flight 2\n")
        );
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert_eq!(line.split(' ').count(), 2, "{line}");
        }
    }
}
