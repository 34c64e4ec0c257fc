//! Reads and writes at full speed for a long time: does it get slower, does it take more memory, how long is the longest write.

use crate::Measure;
use crate::shared::cluster::{Cluster, Node};
use crate::shared::figures::Figure;
use crate::shared::latency::{Load, Times, read};
use crate::shared::{CONNECTIONS, Result, note};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// How often requests are counted, and memory is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// The first seconds fill the store; they are not looked at.
const FILL: Duration = Duration::from_secs(5);
/// The first and the last so many parts of the time are compared: five minutes of thirty.
const PARTS: u32 = 6;

/// What the load is.
const LOAD: &str = "half linearizable reads, half writes synced before the answer";

/// What was seen at one look.
#[derive(Clone, Copy)]
struct Look {
    at: Duration,
    requests: f64,
    /// MiB: all of it, and what no file backs.
    memory: (f64, f64),
}

/// So long the same load is put on a new store, before and after.
const CONTROL: Duration = Duration::from_secs(60);

pub fn measure(measure: &Measure, folder: &Path) -> Result<Vec<Figure>> {
    let time = Duration::from_secs(60 * measure.minutes as u64);
    let (before, _) = run(measure, &folder.join("before"), CONTROL)?;
    let (looks, longest) = run(measure, &folder.join("long"), time)?;
    let (after, _) = run(measure, &folder.join("after"), CONTROL)?;
    let speed = |looks: &[Look]| speed(looks, Duration::ZERO, CONTROL);
    let (before, after) = (speed(&before)?, speed(&after)?);
    let mut figures = figures(&looks, time, longest)?;
    let name = format!("throughput of a new store for {} s, after this / before it", CONTROL.as_secs());
    let control = Figure::ratio(&name, LOAD, after / before, 0.0).without_target();
    figures.push(control.with(&format!("{after:.0} / {before:.0} a second, the same load")));
    Ok(figures)
}

/// The load for so long: what was seen, and the longest write.
fn run(measure: &Measure, folder: &Path, time: Duration) -> Result<(Vec<Look>, f64)> {
    note(&format!("{} s of reads and writes", time.as_secs()));
    let cluster = Cluster::start(folder)?;
    let load = Load {
        address: cluster.master.address(),
        reads: 50,
        connections: CONNECTIONS,
        keys: measure.keys,
        seconds: (time + FILL).as_secs(),
        rate: None,
    };
    let bench = Running(load.command().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?);
    std::thread::sleep(FILL);
    let looks = watch(&cluster.worker, time)?;
    let (_, writes) = bench.finish()?;
    cluster.stop()?;
    Ok((looks, writes.longest))
}

/// Looks at the worker until the time is over.
fn watch(worker: &Node, time: Duration) -> Result<Vec<Look>> {
    let began = Instant::now();
    let mut looks = Vec::new();
    loop {
        let at = began.elapsed();
        looks.push(Look { at, requests: worker.requests()?, memory: worker.resident()? });
        if at >= time {
            return Ok(looks);
        }
        if looks.len() % 12 == 1 {
            note(&format!("{} s of {} s", at.as_secs(), time.as_secs()));
        }
        std::thread::sleep(LOOK.min(time - at));
    }
}

/// The look that is nearest to this time.
fn nearest(looks: &[Look], at: Duration) -> Result<Look> {
    Ok(*looks.iter().min_by_key(|look| look.at.abs_diff(at)).ok_or("it was never looked at")?)
}

/// Requests a second between two times.
fn speed(looks: &[Look], from: Duration, to: Duration) -> Result<f64> {
    let (from, to) = (nearest(looks, from)?, nearest(looks, to)?);
    Ok((to.requests - from.requests) / (to.at - from.at).as_secs_f64())
}

fn figures(looks: &[Look], time: Duration, longest: f64) -> Result<Vec<Figure>> {
    let part = time / PARTS;
    let (first, last) = (speed(looks, Duration::ZERO, part)?, speed(looks, time - part, time)?);
    let name = format!("throughput of the last {} s / of the first", part.as_secs());
    let mut figures = vec![
        Figure::ratio(&name, LOAD, last / first, 0.9).with(&format!("{last:.0} / {first:.0} a second")),
        Figure::under("the longest write", "synced before the answer", longest, "ms", 500.0),
    ];
    for (name, at) in [("at the start", Duration::ZERO), ("in the middle", time / 2), ("at the end", time)] {
        let (all, own) = nearest(looks, at)?.memory;
        let figure =
            Figure::under(&format!("memory of the worker {name}"), "", all, "MiB", 0.0).without_target();
        figures.push(figure.with(&format!("{own:.0} without files")));
    }
    Ok(figures)
}

/// A running `catstore bench`; killed when it is dropped.
struct Running(Child);

impl Running {
    /// What it saw of reads and of writes, which it has read back.
    fn finish(mut self) -> Result<(Times, Times)> {
        let (mut document, mut complaint) = (Vec::new(), String::new());
        if let Some(mut output) = self.0.stdout.take() {
            std::io::Read::read_to_end(&mut output, &mut document)?;
        }
        if let Some(mut output) = self.0.stderr.take() {
            std::io::Read::read_to_string(&mut output, &mut complaint)?;
        }
        match self.0.wait()?.success() {
            true => read(&document),
            false => Err(format!("catstore bench failed: {complaint}").into()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
