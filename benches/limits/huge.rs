//! Very many keys: what they cost reads, memory and the start.

use crate::Measure;
use crate::shared::cluster::Cluster;
use crate::shared::figures::{Figure, median, rate};
use crate::shared::load::Data;
use crate::shared::{CONNECTIONS, Result, VALUE, note, wrk};
use std::path::Path;

/// A `--cache` in which there is no room for all rows, in MiB.
const LITTLE: usize = 64;
/// What rows that were only written may take, in MiB.
const WRITTEN: usize = 48;
/// Starts that are timed; the median counts.
const STARTS: usize = 3;

pub fn measure(measure: &Measure, folder: &Path) -> Result<Vec<Figure>> {
    let (few, many) = (Data::tagged(measure.keys, VALUE), Data::tagged(measure.huge, VALUE));
    let mut pair = Pair {
        small: Cluster::start(&folder.join("few"))?,
        large: Cluster::start(&folder.join("many"))?,
        of_few: wrk::Script::get(&folder.join("few"), &few)?,
        of_many: wrk::Script::get(&folder.join("many"), &many)?,
    };
    few.load(&pair.small.worker.address())?;
    note(&format!("loading {} keys", many.keys));
    many.load(&pair.large.worker.address())?;
    let loaded = pair.large.worker.resident()?;
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        starts.push(pair.large.restart_worker()?.as_secs_f64());
    }
    note("reading nearly each of them once");
    wrk::read_each(&folder.join("many"), &many, &pair.large.worker.address())?;
    let (by_default, used) = (pair.compare(measure)?, pair.large.worker.resident()?);
    let little = format!("{LITTLE}MiB");
    note(&format!("and with --cache {little}"));
    pair.large.set_options(&["--cache", &little]);
    pair.large.restart_worker()?;
    let (with_little, used_little) = (pair.compare(measure)?, pair.large.worker.resident()?);
    pair.small.stop()?;
    pair.large.stop()?;
    let name = |text: &str| format!("{} keys: {text}", many.keys);
    let reads = |how: &str, (of_many, of_few): (f64, f64)| {
        let name = name(&format!("`GET`{how} / `GET` with {} keys", few.keys));
        let figure = Figure::ratio(&name, "linearizable reads", of_many / of_few, 0.7);
        figure.with(&format!("{of_many:.0} / {of_few:.0} a second"))
    };
    let memory = |text: &str, (all, own): (f64, f64), cache: usize| {
        let figure = Figure::under(&name(text), "", all, "MiB", cache as f64 + 200.0);
        figure.with(&format!("{own:.0} without files"))
    };
    let (cache, with) =
        (catstore::cmd::room::for_rows() >> 20, format!(" of a worker with `--cache {little}`"));
    let warm = format!(" with the default `--cache`, {cache} MiB here, nearly each key read once before");
    Ok(vec![
        reads(&warm, by_default),
        reads(&with, with_little),
        memory("memory of the worker, just loaded", loaded, WRITTEN),
        memory("memory of the worker, after the reads", used, cache),
        memory(&format!("memory{with}, after the reads"), used_little, LITTLE),
        Figure::under(&name("start to first answer"), "linearizable read", median(starts), "s", 3.0),
    ])
}

/// A cluster with few keys, and one with very many.
struct Pair {
    small: Cluster,
    large: Cluster,
    of_few: wrk::Script,
    of_many: wrk::Script,
}

impl Pair {
    /// `GET` a second of many keys, and of few, in rounds by turns.
    fn compare(&self, measure: &Measure) -> Result<(f64, f64)> {
        let (mut of_many, mut of_few) = (Vec::new(), Vec::new());
        for round in 0..=measure.rounds {
            note(&format!("round {round} of {}", measure.rounds));
            let run = |script, cluster: &Cluster| {
                wrk::run(script, &cluster.worker.address(), CONNECTIONS, measure.seconds)
            };
            let (few, many) = (run(&self.of_few, &self.small)?, run(&self.of_many, &self.large)?);
            // Round 0 fills caches; it is not counted.
            if round > 0 {
                of_few.push(few);
                of_many.push(many);
            }
        }
        Ok((rate(&of_many), rate(&of_few)))
    }
}
