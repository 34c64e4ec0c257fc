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

/// What was seen at one look.
#[derive(Clone, Copy)]
struct Look {
    at: Duration,
    requests: f64,
    /// MiB: all of it, and what no file backs.
    memory: (f64, f64),
}

pub fn measure(measure: &Measure, folder: &Path) -> Result<Vec<Figure>> {
    let cluster = Cluster::start(folder)?;
    let time = Duration::from_secs(60 * measure.minutes as u64);
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
    figures(&looks, time, writes.longest)
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

fn figures(looks: &[Look], time: Duration, longest: f64) -> Result<Vec<Figure>> {
    let part = time / PARTS;
    let nearest =
        |at: Duration| looks.iter().min_by_key(|look| look.at.abs_diff(at)).ok_or("it was never looked at");
    let speed = |from: Duration, to: Duration| -> Result<f64> {
        let (from, to) = (nearest(from)?, nearest(to)?);
        Ok((to.requests - from.requests) / (to.at - from.at).as_secs_f64())
    };
    let (first, last) = (speed(Duration::ZERO, part)?, speed(time - part, time)?);
    let durability = "half linearizable reads, half writes synced before the answer";
    let name = format!("throughput of the last {} s / of the first", part.as_secs());
    let mut figures = vec![
        Figure::ratio(&name, durability, last / first, 0.9).with(&format!("{last:.0} / {first:.0} a second")),
        Figure::under("the longest write", "synced before the answer", longest, "ms", 500.0),
    ];
    for (name, at) in [("at the start", Duration::ZERO), ("in the middle", time / 2), ("at the end", time)] {
        let (all, own) = nearest(at)?.memory;
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
