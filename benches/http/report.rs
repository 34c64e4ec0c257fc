//! Medians, ratios, and the Markdown that goes into docs/benchmarks.md.

use crate::Measure;
use crate::shared::figures::{Figure, each, machine, median, p99, rate, table, today};
use crate::shared::wrk::Seen;
use crate::shared::{CONNECTIONS, VALUE, peers};
use std::fmt::Write as _;
use std::time::Duration;

/// How fresh what a read answers is.
const READ: &str = "linearizable read";
const WRITE: &str = "synced before the answer";

/// Everything that was measured, a value a round.
pub struct Report {
    measure: String,
    pub get: Vec<Seen>,
    pub hello: Vec<Seen>,
    pub put: Vec<Seen>,
    pub group_commit: Vec<f64>,
    pub redis_get: Vec<Seen>,
    pub redis_set: Vec<Seen>,
    pub etcd_get: Vec<Seen>,
    pub etcd_put: Vec<Seen>,
    pub puts_per_sync: Option<f64>,
    pub first_start: Vec<Duration>,
    pub start_loaded: Vec<Duration>,
    /// (all, not backed by files) in MiB.
    pub idle: Option<(f64, f64)>,
    pub idle_master: Option<(f64, f64)>,
    pub loaded: Option<(f64, f64)>,
    pub restarted: Option<(f64, f64)>,
}

impl Report {
    pub fn new(measure: &Measure) -> Report {
        Report {
            measure: format!(
                "{} rounds of {} s, {} and {} keys of {VALUE} bytes, {CONNECTIONS} connections",
                measure.rounds, measure.seconds, measure.keys, measure.many
            ),
            get: Vec::new(),
            hello: Vec::new(),
            put: Vec::new(),
            group_commit: Vec::new(),
            redis_get: Vec::new(),
            redis_set: Vec::new(),
            etcd_get: Vec::new(),
            etcd_put: Vec::new(),
            puts_per_sync: None,
            first_start: Vec::new(),
            start_loaded: Vec::new(),
            idle: None,
            idle_master: None,
            loaded: None,
            restarted: None,
        }
    }
}

impl Report {
    /// The section `http` of docs/benchmarks.md.
    pub fn markdown(&self) -> String {
        format!(
            "`make bench` on {}: `cargo bench --bench http`. {}; {}; {}\n\n{}\n{}",
            today(),
            machine(),
            self.measure,
            peers::versions(),
            table(&self.figures()),
            self.speeds()
        )
    }

    fn figures(&self) -> Vec<Figure> {
        let (get, put) = (rate(&self.get), rate(&self.put));
        let group_commit = median(self.group_commit.clone());
        let redis = "synced before the answer; Redis `appendfsync always`";
        let mut figures = vec![
            Figure::against("`GET /kv/KEY` / bare actix-web", READ, get / rate(&self.hello), 0.85),
            Figure::against(
                "`GET /kv/KEY` / Redis `GET`",
                "linearizable read; Redis: of its only copy",
                get / rate(&self.redis_get),
                1.0,
            ),
            Figure::against(
                "`GET /kv/KEY` / etcd's range",
                "linearizable reads",
                get / rate(&self.etcd_get),
                6.0,
            ),
            Figure::against(
                "`PUT /kv/KEY` / LevelDB's group commit",
                "both synced before the answer",
                put / group_commit,
                0.75,
            ),
            Figure::against("`PUT /kv/KEY` / Redis `SET`", redis, put / rate(&self.redis_set), 0.9),
            Figure::against(
                "`PUT /kv/KEY` / etcd's put",
                "synced before the answer; etcd synced",
                put / rate(&self.etcd_put),
                4.0,
            ),
        ];
        for (name, seen, target) in [
            ("memory of a worker, idle after start", self.idle, 40.0),
            ("memory of a worker, the many keys just loaded", self.loaded, 150.0),
            ("memory of a worker, started again with them", self.restarted, 150.0),
            ("memory of a master, idle after start", self.idle_master, f64::INFINITY),
        ] {
            let (all, own) = seen.unwrap_or((f64::NAN, f64::NAN));
            let figure = Figure::under(name, "", all, "MiB", target).with(&format!("{own:.0} without files"));
            figures.push(if target.is_finite() { figure } else { figure.without_target() });
        }
        for (name, times, target) in [
            ("start to first answer, empty folder", &self.first_start, 100.0),
            ("start to first answer, the many keys", &self.start_loaded, 1000.0),
        ] {
            let time = median(times.iter().map(|time| time.as_secs_f64() * 1000.0).collect());
            figures.push(Figure::under(name, READ, time, "ms", target));
        }
        figures
    }

    /// The speeds behind the ratios.
    fn speeds(&self) -> String {
        let mut text =
            "| per second | by | durability | median | each round | p99 |\n|---|---|---|---|---|---|\n"
                .to_owned();
        for (name, by, durability, seen) in [
            ("`GET /kv/KEY`", "wrk", READ, &self.get),
            ("bare actix-web", "wrk", "none: bytes that never change", &self.hello),
            ("Redis `GET`", "redis-benchmark", "read of its only copy", &self.redis_get),
            ("etcd, range", "wrk", READ, &self.etcd_get),
            ("`PUT /kv/KEY`", "wrk", WRITE, &self.put),
            ("Redis `SET`", "redis-benchmark", "`appendfsync always`", &self.redis_set),
            ("etcd, put", "wrk", "synced", &self.etcd_put),
        ] {
            let rounds = each(seen.iter().map(|seen| seen.per_second));
            let _ = writeln!(
                text,
                "| {name} | `{by}` | {durability} | {:.0} | {rounds} | {:.2} ms |",
                rate(seen),
                p99(seen)
            );
        }
        let rounds = each(self.group_commit.iter().copied());
        let group_commit = median(self.group_commit.clone());
        let _ = writeln!(
            text,
            "| LevelDB's group commit | {CONNECTIONS} threads | synced | {group_commit:.0} | {rounds} | |"
        );
        if let Some(shared) = self.puts_per_sync {
            let _ = writeln!(text, "\nWrites that shared one sync of the log, on average: {shared:.1}.");
        }
        text
    }
}
