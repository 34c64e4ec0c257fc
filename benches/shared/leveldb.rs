//! LevelDB by itself: what the disk and LevelDB give without a server.

use super::load::Data;
use super::{CONNECTIONS, Result};
use leveldb::database::Database;
use leveldb::database::batch::{Batch as _, Writebatch};
use leveldb::kv::KV;
use leveldb::options::{Options, WriteOptions};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A step that shares no factor with round numbers of keys wanders over all of them.
const STEP: usize = 7919;

/// A key as bytes; the bindings want a type of their own.
pub struct Bytes(Vec<u8>);

impl db_key::Key for Bytes {
    fn from_u8(key: &[u8]) -> Bytes {
        Bytes(key.to_vec())
    }

    fn as_slice<T, F: Fn(&[u8]) -> T>(&self, f: F) -> T {
        f(&self.0)
    }
}

/// Synced writes a second by 50 threads on a new database: its group commit.
pub fn synced_puts(folder: &Path, data: &Data, duration: Duration) -> Result<f64> {
    let value = vec![b'v'; data.size];
    write(&open(folder)?, CONNECTIONS, duration, |database, number| {
        let key = Bytes(data.key(number % data.keys).into_bytes());
        let mut options = WriteOptions::new();
        options.sync = true;
        database.put(options, key, &value).map_err(|error| error.to_string())?;
        Ok(1)
    })
}

/// Opens a database with LevelDB's own settings, a new one if none is there.
pub fn open(folder: &Path) -> Result<Database<Bytes>> {
    let mut options = Options::new();
    options.create_if_missing = true;
    Ok(Database::open(folder, options).map_err(|error| error.to_string())?)
}

/// Keys a second that unsynced batches of `operations` write to a database, by a thread for each core.
pub fn batches(
    database: &Database<Bytes>,
    data: &Data,
    operations: usize,
    duration: Duration,
) -> Result<f64> {
    let value = vec![b'v'; data.size];
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    write(database, threads, duration, |database, number| {
        let tag = number % (data.keys / operations).max(1);
        let mut batch = Writebatch::new();
        for at in 1..=operations {
            batch.put(Bytes(format!("{{{tag}}}-{at}").into_bytes()), &value);
        }
        database.write(WriteOptions::new(), &batch).map_err(|error| error.to_string())?;
        Ok(operations as u64)
    })
}

/// Has threads do `once` with numbers all over, and counts what it says it wrote; in a second.
fn write(
    database: &Database<Bytes>,
    threads: usize,
    duration: Duration,
    once: impl Fn(&Database<Bytes>, usize) -> Result<u64> + Sync,
) -> Result<f64> {
    let written = AtomicU64::new(0);
    let started = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|thread| {
                let (written, once) = (&written, &once);
                scope.spawn(move || -> Result<()> {
                    let mut number = thread;
                    while started.elapsed() < duration {
                        written.fetch_add(once(database, number)?, Ordering::Relaxed);
                        number = number.wrapping_add(STEP);
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a writing thread panicked")?)
    })?;
    Ok(written.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64())
}
