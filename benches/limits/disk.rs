//! What a sync costs on this disk by itself.

use crate::shared::Result;
use crate::shared::figures::median;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Instant;

const SYNCS: usize = 3000;
const PAGE: usize = 4096;

/// The median time, in milliseconds, of writing 4 KiB into a file that has its room already, and syncing its data.
pub fn sync_time(folder: &Path) -> Result<f64> {
    let path = folder.join("syncs");
    let mut file = File::create(&path)?;
    for _ in 0..SYNCS {
        file.write_all(&[0; PAGE])?;
    }
    file.sync_all()?;
    file.seek(SeekFrom::Start(0))?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let began = Instant::now();
        file.write_all(&[1; PAGE])?;
        file.sync_data()?;
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    std::fs::remove_file(&path)?;
    Ok(median(times))
}
