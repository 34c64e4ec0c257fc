//! Medians, ratios, and the Markdown that goes into docs/benchmarks.md.

use crate::wrk::Seen;
use crate::{CONNECTIONS, Measure, VALUE};
use std::fmt;
use std::time::Duration;

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

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = |seen: &[Seen]| median(seen.iter().map(|seen| seen.per_second).collect());
        let p99 = |seen: &[Seen]| median(seen.iter().map(|seen| seen.p99).collect());
        let (get, hello, put) = (rate(&self.get), rate(&self.hello), rate(&self.put));
        let group_commit = median(self.group_commit.clone());
        writeln!(f, "{}; {}; {}\n", machine(), self.measure, crate::peers::versions())?;
        writeln!(f, "| figure | seen | target |\n|---|---|---|")?;
        for (name, ratio, target) in [
            ("`GET /kv/KEY` / bare actix-web", get / hello, 0.85),
            ("`GET /kv/KEY` / Redis `GET`", get / rate(&self.redis_get), 1.0),
            ("`GET /kv/KEY` / etcd's linearizable range", get / rate(&self.etcd_get), 6.0),
            ("synced `PUT /kv/KEY` / LevelDB's group commit", put / group_commit, 0.75),
            ("synced `PUT /kv/KEY` / Redis `SET`, `appendfsync always`", put / rate(&self.redis_set), 0.9),
            ("synced `PUT /kv/KEY` / etcd's put", put / rate(&self.etcd_put), 4.0),
        ] {
            writeln!(f, "| {name} | **{ratio:.2}** | at least {target} |")?;
        }
        let starts =
            |times: &[Duration]| median(times.iter().map(|time| time.as_secs_f64() * 1000.0).collect());
        let memory = |seen: Option<(f64, f64)>| match seen {
            Some((all, anonymous)) => format!("{all:.0} MiB ({anonymous:.0} without files)"),
            None => "not measured".to_owned(),
        };
        writeln!(f, "| memory of a worker, idle after start | {} | under 40 MiB |", memory(self.idle))?;
        writeln!(f, "| memory of a master, idle after start | {} | |", memory(self.idle_master))?;
        writeln!(
            f,
            "| memory of a worker, the many keys just loaded | {} | under 150 MiB |",
            memory(self.loaded)
        )?;
        writeln!(
            f,
            "| memory of a worker, started again with them | {} | under 150 MiB |",
            memory(self.restarted)
        )?;
        writeln!(
            f,
            "| start to first answer, empty folder | {:.0} ms | under 100 ms |",
            starts(&self.first_start)
        )?;
        writeln!(
            f,
            "| start to first answer, the many keys | {:.0} ms | under 1000 ms |",
            starts(&self.start_loaded)
        )?;
        writeln!(f, "\n| per second | median | each round | p99 |\n|---|---|---|---|")?;
        for (name, seen) in [
            ("`GET /kv/KEY`", &self.get),
            ("bare actix-web", &self.hello),
            ("Redis `GET`", &self.redis_get),
            ("etcd, range", &self.etcd_get),
            ("`PUT /kv/KEY`", &self.put),
            ("Redis `SET`", &self.redis_set),
            ("etcd, put", &self.etcd_put),
        ] {
            let rounds = each(seen.iter().map(|seen| seen.per_second));
            writeln!(f, "| {name} | {:.0} | {rounds} | {:.2} ms |", rate(seen), p99(seen))?;
        }
        let rounds = each(self.group_commit.iter().copied());
        writeln!(f, "| LevelDB's group commit | {group_commit:.0} | {rounds} | |")?;
        if let Some(shared) = self.puts_per_sync {
            writeln!(f, "\nWrites that shared one sync of the log, on average: {shared:.1}.")?;
        }
        Ok(())
    }
}

fn each(values: impl Iterator<Item = f64>) -> String {
    values.map(|value| format!("{value:.0}")).collect::<Vec<_>>().join(", ")
}

/// The middle value; of two, their mean.
fn median(mut values: Vec<f64>) -> f64 {
    if values.is_empty() {
        return f64::NAN;
    }
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

/// Cores, processor and kernel, as far as /proc tells.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, |cores| cores.get());
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(" of unknown kind");
    let model = model.trim_start_matches([' ', '\t', ':']).trim();
    format!("{cores} cores ({model}), Linux {}", read("/proc/sys/kernel/osrelease").trim())
}
