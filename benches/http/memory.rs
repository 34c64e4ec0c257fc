//! Resident memory and time to the first answer, empty and with many keys.

use crate::Measure;
use crate::report::Report;
use crate::shared::cluster::{Cluster, first_start};
use crate::shared::load::Data;
use crate::shared::{Result, VALUE, note};
use std::path::Path;
use std::time::Duration;

/// Starts that are timed; the median counts.
const STARTS: usize = 5;

pub fn measure(measure: &Measure, folder: &Path, report: &mut Report) -> Result<()> {
    note("starting on empty folders");
    for number in 0..STARTS {
        report.first_start.push(first_start(folder, number)?);
    }
    let mut cluster = Cluster::start(folder)?;
    // Idle means that threads have settled, not that nothing was ever done.
    std::thread::sleep(Duration::from_secs(3));
    report.idle = Some(cluster.worker.resident()?);
    report.idle_master = Some(cluster.master.resident()?);
    note(&format!("loading {} keys", measure.many));
    Data::tagged(measure.many, VALUE).load(&cluster.worker.address())?;
    report.loaded = Some(cluster.worker.resident()?);
    note("starting with them");
    for _ in 0..STARTS {
        report.start_loaded.push(cluster.restart_worker()?);
    }
    std::thread::sleep(Duration::from_secs(3));
    report.restarted = Some(cluster.worker.resident()?);
    cluster.stop()
}
