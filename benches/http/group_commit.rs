//! LevelDB's own group commit: 50 threads, each write synced. What the disk and LevelDB give without a server.

use crate::{CONNECTIONS, Result, VALUE, load};
use leveldb::database::Database;
use leveldb::kv::KV;
use leveldb::options::{Options, WriteOptions};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A key as bytes; the bindings want a type of their own.
struct Bytes(Vec<u8>);

impl db_key::Key for Bytes {
    fn from_u8(key: &[u8]) -> Bytes {
        Bytes(key.to_vec())
    }

    fn as_slice<T, F: Fn(&[u8]) -> T>(&self, f: F) -> T {
        f(&self.0)
    }
}

/// Writes per second on a new database.
pub fn run(folder: &Path, keys: usize, duration: Duration) -> Result<f64> {
    let mut options = Options::new();
    options.create_if_missing = true;
    let database: Database<Bytes> = Database::open(folder, options).map_err(|error| error.to_string())?;
    let written = AtomicU64::new(0);
    let started = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CONNECTIONS)
            .map(|thread| {
                let (database, written) = (&database, &written);
                scope.spawn(move || -> Result<()> {
                    let mut number = thread;
                    while started.elapsed() < duration {
                        let key = Bytes(load::key(number % keys).into_bytes());
                        let mut options = WriteOptions::new();
                        options.sync = true;
                        database.put(options, key, &[b'v'; VALUE]).map_err(|error| error.to_string())?;
                        written.fetch_add(1, Ordering::Relaxed);
                        // A step that shares no factor with round numbers of keys wanders over all of them.
                        number = number.wrapping_add(7919);
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a writing thread panicked")?)
    })?;
    Ok(written.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64())
}
