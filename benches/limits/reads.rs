//! Reads that the cache does not help: of values five times as large as it, and of keys that are not there.

use crate::Measure;
use crate::shared::cluster::Cluster;
use crate::shared::figures::{Figure, rate};
use crate::shared::load::Data;
use crate::shared::wrk::{Script, run, run_absent};
use crate::shared::{CONNECTIONS, Result, note};
use std::path::Path;

/// Bytes of each value.
const SIZE: usize = 1 << 10;
/// The worker's `--cache`, in MiB.
const CACHE: usize = 64;
/// Keys whose values fit into the cache.
const FEW: usize = 10_000;
/// Values that are five times the cache.
const MANY: usize = 5 * (CACHE << 20) / SIZE;

pub fn measure(measure: &Measure, folder: &Path) -> Result<Vec<Figure>> {
    let (few, many) = (Data::tagged(FEW, SIZE), Data::tagged(MANY, SIZE));
    let cluster = Cluster::with(folder, &["--cache", &format!("{CACHE}MiB")])?;
    let address = cluster.worker.address();
    note(&format!("loading {MANY} values of {SIZE} bytes"));
    many.load(&address)?;
    let (few, many) = (Script::get(&new(folder, "few")?, &few)?, Script::get(&new(folder, "many")?, &many)?);
    let absent = Script::absent(folder, MANY)?;
    let mut seen = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..=measure.rounds {
        note(&format!("round {round} of {}", measure.rounds));
        let each = [
            run(&few, &address, CONNECTIONS, measure.seconds)?,
            run(&many, &address, CONNECTIONS, measure.seconds)?,
            run_absent(&absent, &address, CONNECTIONS, measure.seconds)?,
        ];
        // Round 0 fills caches; it is not counted.
        if round > 0 {
            seen.iter_mut().zip(each).for_each(|(seen, one)| seen.push(one));
        }
    }
    cluster.stop()?;
    let [few, many, absent] = seen.map(|seen| rate(&seen));
    let figure = |what: &str, speed: f64| {
        let name = format!("`GET` of {what} / of {FEW} values of {SIZE} bytes");
        let more = format!("{speed:.0} / {few:.0} a second");
        Figure::ratio(&name, "linearizable reads, checksums verified", speed / few, 0.0)
            .without_target()
            .with(&more)
    };
    Ok(vec![figure(&format!("{MANY} values, five times the cache"), many), figure("absent keys", absent)])
}

/// A folder for a script.
fn new(folder: &Path, name: &str) -> Result<std::path::PathBuf> {
    let folder = folder.join(name);
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}
