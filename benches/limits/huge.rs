//! Very many keys: what they cost reads, memory and the start.

use crate::Measure;
use crate::shared::cluster::Cluster;
use crate::shared::figures::{Figure, median, rate};
use crate::shared::load::Data;
use crate::shared::{CONNECTIONS, Result, VALUE, note, wrk};
use std::path::Path;

/// `worker --cache` by default, in MiB.
const CACHE: f64 = 64.0;
/// Starts that are timed; the median counts.
const STARTS: usize = 3;

pub fn measure(measure: &Measure, folder: &Path) -> Result<Vec<Figure>> {
    let (few, many) = (Data::tagged(measure.keys, VALUE), Data::tagged(measure.huge, VALUE));
    let (small, mut large) = (Cluster::start(&folder.join("few"))?, Cluster::start(&folder.join("many"))?);
    few.load(&small.worker.address())?;
    note(&format!("loading {} keys", many.keys));
    many.load(&large.worker.address())?;
    let loaded = large.worker.resident()?;
    let scripts =
        [wrk::Script::get(&folder.join("few"), &few)?, wrk::Script::get(&folder.join("many"), &many)?];
    let mut seen = [Vec::new(), Vec::new()];
    for round in 0..=measure.rounds {
        note(&format!("round {round} of {}", measure.rounds));
        for (at, address) in [small.worker.address(), large.worker.address()].iter().enumerate() {
            let one = wrk::run(&scripts[at], address, CONNECTIONS, measure.seconds)?;
            // Round 0 fills caches; it is not counted.
            if round > 0 {
                seen[at].push(one);
            }
        }
    }
    let used = large.worker.resident()?;
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        starts.push(large.restart_worker()?.as_secs_f64());
    }
    small.stop()?;
    large.stop()?;
    let (of_few, of_many) = (rate(&seen[0]), rate(&seen[1]));
    let name = |text: &str| format!("{} keys: {text}", many.keys);
    let memory = |text: &str, (all, own): (f64, f64)| {
        Figure::under(&name(text), "", all, "MiB", CACHE + 200.0).with(&format!("{own:.0} without files"))
    };
    Ok(vec![
        Figure::ratio(
            &name(&format!("`GET` / `GET` with {} keys", few.keys)),
            "linearizable reads",
            of_many / of_few,
            0.7,
        )
        .with(&format!("{of_many:.0} / {of_few:.0} a second")),
        memory("memory of the worker, just loaded", loaded),
        memory("memory of the worker, after the reads", used),
        Figure::under(&name("start to first answer"), "linearizable read", median(starts), "s", 3.0),
    ])
}
