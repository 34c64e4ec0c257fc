//! Medians, ratios against targets, and the machine that they were seen on, as Markdown.

use super::wrk::Seen;
use std::fmt::Write as _;

/// The middle value; of two, their mean.
pub fn median(mut values: Vec<f64>) -> f64 {
    if values.is_empty() {
        return f64::NAN;
    }
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

/// The median of answers a second.
pub fn rate(seen: &[Seen]) -> f64 {
    median(seen.iter().map(|seen| seen.per_second).collect())
}

/// The median of the p99, in milliseconds.
pub fn p99(seen: &[Seen]) -> f64 {
    median(seen.iter().map(|seen| seen.p99).collect())
}

/// The value of each round, rounded.
pub fn each(values: impl Iterator<Item = f64>) -> String {
    values.map(|value| format!("{value:.0}")).collect::<Vec<_>>().join(", ")
}

/// The target of a figure.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    AtLeast(f64),
    Under(f64),
    /// It is worth knowing, and nothing was promised.
    None,
}

/// One row: what was measured, how durable it is, what was seen, and what is wanted.
#[derive(Debug, Clone)]
pub struct Figure {
    pub name: String,
    /// What a write waited for, or how fresh a read is.
    pub durability: String,
    pub seen: f64,
    /// With its unit.
    pub shown: String,
    /// What it was made of.
    pub more: String,
    pub unit: &'static str,
    pub target: Target,
    /// Against somebody else: below 1 is a loss even where the target is lower.
    pub peer: bool,
}

impl Figure {
    /// How one speed compares to another one.
    pub fn ratio(name: &str, durability: &str, seen: f64, target: f64) -> Figure {
        Figure {
            name: name.to_owned(),
            durability: durability.to_owned(),
            seen,
            shown: format!("**{seen:.2}**"),
            more: String::new(),
            unit: "",
            target: Target::AtLeast(target),
            peer: false,
        }
    }

    /// The same against another program.
    pub fn against(name: &str, durability: &str, seen: f64, target: f64) -> Figure {
        Figure { peer: true, ..Figure::ratio(name, durability, seen, target) }
    }

    /// Something with a unit, which is to stay under `target`.
    pub fn under(name: &str, durability: &str, seen: f64, unit: &'static str, target: f64) -> Figure {
        let digits = if seen < 10.0 { 2 } else { 0 };
        Figure {
            name: name.to_owned(),
            durability: durability.to_owned(),
            seen,
            shown: format!("**{seen:.digits$}{}**", spaced(unit)),
            more: String::new(),
            unit,
            target: Target::Under(target),
            peer: false,
        }
    }

    /// Nothing was promised about it.
    pub fn without_target(self) -> Figure {
        Figure { target: Target::None, ..self }
    }

    /// With more about what was seen, in brackets.
    pub fn with(self, more: &str) -> Figure {
        Figure { more: format!(" ({more})"), ..self }
    }

    /// Whether it misses its target. What was not measured does.
    fn missed(&self) -> bool {
        match self.target {
            Target::AtLeast(target) => self.seen.partial_cmp(&target).is_none_or(|order| order.is_lt()),
            Target::Under(target) => self.seen.partial_cmp(&target).is_none_or(|order| order.is_gt()),
            Target::None => false,
        }
    }

    fn target_text(&self) -> String {
        match self.target {
            Target::AtLeast(target) => format!("at least {}{}", trimmed(target), spaced(self.unit)),
            Target::Under(target) => format!("under {}{}", trimmed(target), spaced(self.unit)),
            Target::None => String::new(),
        }
    }
}

fn spaced(unit: &str) -> String {
    if unit.is_empty() { String::new() } else { format!(" {unit}") }
}

/// Two digits at most, and none that say nothing.
fn trimmed(number: f64) -> String {
    format!("{number:.2}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The rows, and a sentence that says where catstore loses.
pub fn table(figures: &[Figure]) -> String {
    let mut text = "| figure | durability | seen | target |\n|---|---|---|---|\n".to_owned();
    for figure in figures {
        let _ = writeln!(
            text,
            "| {} | {} | {}{} | {} |",
            figure.name,
            figure.durability,
            figure.shown,
            figure.more,
            figure.target_text()
        );
    }
    text.push('\n');
    text.push_str(&losses(figures));
    text.push('\n');
    text
}

/// Where a target is missed, or a peer is faster.
fn losses(figures: &[Figure]) -> String {
    let lost: Vec<String> = figures
        .iter()
        .filter_map(|figure| {
            let (missed, slower) = (figure.missed(), figure.peer && figure.seen < 1.0);
            let why = match (missed, slower) {
                (true, true) => "the other is faster, and the target is missed",
                (true, false) => "the target is missed",
                (false, true) => "the other is faster",
                (false, false) => return None,
            };
            Some(format!("{} ({}: {why})", figure.name, figure.shown.replace("**", "")))
        })
        .collect();
    match lost.is_empty() {
        true => "catstore loses nowhere in this table.".to_owned(),
        false => format!("**Where catstore loses:** {}.", lost.join("; ")),
    }
}

/// Cores, processor and kernel, as far as /proc tells, and how this program was built.
pub fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, |cores| cores.get());
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(" of unknown kind");
    let model = model.trim_start_matches([' ', '\t', ':']).trim();
    let trained = std::env::var("CATSTORE_BENCH_TRAINED").is_ok_and(|text| text == "1");
    let built = if trained { "built by `scripts/trained`" } else { "not trained" };
    format!("{cores} cores ({model}), Linux {}; {built}", read("/proc/sys/kernel/osrelease").trim())
}

/// The day, as UTC has it; figures without a day are worth little.
pub fn today() -> String {
    let output = std::process::Command::new("date").args(["-u", "+%Y-%m-%d"]).output();
    output.map_or_else(
        |_| "an unknown day".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}
