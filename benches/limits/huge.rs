//! Very many keys: what they cost reads, memory and the start.

use crate::Measure;
use crate::shared::cluster::Cluster;
use crate::shared::figures::{Figure, median, rate};
use crate::shared::load::Data;
use crate::shared::{CONNECTIONS, Result, VALUE, note, wrk};
use std::path::Path;

/// `worker --cache` by default, in MiB.
const CACHE: usize = 64;
/// A `--cache` that holds every row, in MiB.
const ROOM: usize = 3 << 10;
/// Starts that are timed; the median counts.
const STARTS: usize = 3;

pub fn measure(measure: &Measure, folder: &Path) -> Result<Vec<Figure>> {
    let (few, many) = (Data::tagged(measure.keys, VALUE), Data::tagged(measure.huge, VALUE));
    let room = format!("{ROOM}MiB");
    let small = Cluster::start(&folder.join("few"))?;
    let mut large = Cluster::start(&folder.join("many"))?;
    let roomy = Cluster::with(&folder.join("roomy"), &["--cache", &room])?;
    few.load(&small.worker.address())?;
    note(&format!("loading {} keys", many.keys));
    many.load(&large.worker.address())?;
    let loaded = large.worker.resident()?;
    note("and once more, into a worker that keeps them in memory");
    many.load(&roomy.worker.address())?;
    let of_few = wrk::Script::get(&folder.join("few"), &few)?;
    let of_many = wrk::Script::get(&folder.join("many"), &many)?;
    let all = [(&of_few, &small), (&of_many, &large), (&of_many, &roomy)];
    let mut seen = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..=measure.rounds {
        note(&format!("round {round} of {}", measure.rounds));
        for (seen, (script, cluster)) in seen.iter_mut().zip(all) {
            let one = wrk::run(script, &cluster.worker.address(), CONNECTIONS, measure.seconds)?;
            // Round 0 fills caches; it is not counted.
            if round > 0 {
                seen.push(one);
            }
        }
    }
    let (used, used_roomy) = (large.worker.resident()?, roomy.worker.resident()?);
    roomy.stop()?;
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        starts.push(large.restart_worker()?.as_secs_f64());
    }
    small.stop()?;
    large.stop()?;
    let [of_few, of_many, of_roomy] = seen.map(|seen| rate(&seen));
    let name = |text: &str| format!("{} keys: {text}", many.keys);
    let reads = |how: &str, of_many: f64| {
        let name = name(&format!("`GET`{how} / `GET` with {} keys", few.keys));
        let figure = Figure::ratio(&name, "linearizable reads", of_many / of_few, 0.7);
        figure.with(&format!("{of_many:.0} / {of_few:.0} a second"))
    };
    let memory = |text: &str, (all, own): (f64, f64), cache: usize| {
        let figure = Figure::under(&name(text), "", all, "MiB", cache as f64 + 200.0);
        figure.with(&format!("{own:.0} without files"))
    };
    let with_room = format!(" of a worker with `--cache {room}`");
    Ok(vec![
        reads("", of_many),
        reads(&with_room, of_roomy),
        memory("memory of the worker, just loaded", loaded, CACHE),
        memory("memory of the worker, after the reads", used, CACHE),
        memory(&format!("memory{with_room}, after the reads"), used_roomy, ROOM),
        Figure::under(&name("start to first answer"), "linearizable read", median(starts), "s", 3.0),
    ])
}
