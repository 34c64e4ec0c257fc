//! Keys a second by batches over HTTP, which are synced before the answer, against LevelDB's own batches, which are not.

use crate::Measure;
use crate::shared::cluster::Cluster;
use crate::shared::figures::{Figure, median};
use crate::shared::load::Data;
use crate::shared::{CONNECTIONS, Result, VALUE, leveldb, note, wrk};
use std::path::Path;
use std::time::Duration;

/// Puts of each batch.
const OPERATIONS: usize = 100;

pub fn measure(measure: &Measure, folder: &Path) -> Result<Vec<Figure>> {
    let data = Data::tagged(measure.keys, VALUE);
    let cluster = Cluster::start(folder)?;
    let (script, address) = (wrk::Script::batch(folder, &data, OPERATIONS)?, cluster.worker.address());
    let database = leveldb::open(&folder.join("leveldb"))?;
    let alone = |seconds| leveldb::batches(&database, &data, OPERATIONS, Duration::from_secs(seconds));
    // The first second warms it and is not counted. Both stay open, so that both have to compact what rounds before left.
    wrk::run(&script, &address, CONNECTIONS, 1)?;
    alone(1)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 1..=measure.rounds {
        note(&format!("round {round} of {}", measure.rounds));
        let seen = wrk::run(&script, &address, CONNECTIONS, measure.seconds)?;
        ours.push(seen.per_second * OPERATIONS as f64);
        theirs.push(alone(measure.seconds)?);
        note(&format!("  keys a second: {:.0}, {:.0}", ours[round - 1], theirs[round - 1]));
    }
    cluster.stop()?;
    let (ours, theirs) = (median(ours), median(theirs));
    let name =
        format!("keys a second by `/batch` of {OPERATIONS} puts / LevelDB's batches, a thread for each core");
    let durability = "synced before the answer; LevelDB's not synced";
    let figure = Figure::against(&name, durability, ours / theirs, 0.5);
    Ok(vec![figure.with(&format!("{ours:.0} / {theirs:.0}"))])
}
