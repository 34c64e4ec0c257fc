//! The chunks on a simulated disk.

use super::super::blobs::{Blobs, Found};
use super::super::chunk::{NAME, Name};
use super::Disk;
use crate::error::Result;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

/// The time that a disk gives its files.
pub type FileTime = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Chunks on a [`Disk`], as whoever opened it last sees them. A put or a removal is a step, durable when it returns: no
/// crash takes it back.
pub struct MemoryBlobs {
    disk: Disk,
    epoch: u64,
    time: FileTime,
}

impl Disk {
    /// The chunks of whoever opened the disk last; `time` tells when something is written or touched.
    pub fn blobs(&self, time: FileTime) -> MemoryBlobs {
        let epoch = self.lock().epoch;
        MemoryBlobs { disk: self.clone(), epoch, time }
    }

    /// Whether the chunk is on the disk, whoever runs there.
    pub fn has_chunk(&self, name: &Name) -> bool {
        self.lock().blobs.contains_key(name)
    }

    /// All chunks on the disk, whoever runs there.
    pub fn chunks(&self) -> Vec<Name> {
        self.lock().blobs.keys().copied().collect()
    }
}

impl MemoryBlobs {
    fn date(&self, name: &Name, time: Duration) -> bool {
        let mut disk = self.disk.lock();
        if disk.check(self.epoch).is_err() {
            return false;
        }
        disk.blobs.get_mut(name).map(|(_, touched)| *touched = time).is_some()
    }
}

impl Blobs for MemoryBlobs {
    fn put(&self, name: &Name, bytes: &[u8]) -> Result<()> {
        let time = (self.time)();
        let mut disk = self.disk.lock();
        disk.check(self.epoch)?;
        // After an error of the disk nothing is stored any more, and nothing passes for stored.
        let failed = disk.failure.is_some();
        if let Some((there, touched)) = disk.blobs.get_mut(name).filter(|_| !failed)
            && there == bytes
        {
            *touched = time;
            return Ok(());
        }
        let step = disk.step(self.epoch)?;
        if step.happened {
            disk.blobs.insert(*name, (bytes.to_vec(), time));
        }
        disk.end(step)
    }

    fn read(&self, name: &Name) -> Result<Found> {
        let disk = self.disk.lock();
        disk.check(self.epoch)?;
        Ok(match disk.blobs.get(name) {
            Some((bytes, _)) if Name::of(bytes) == *name => Found::Whole(bytes.clone()),
            Some(_) => Found::Rotten,
            None => Found::Missing,
        })
    }

    fn touch(&self, name: &Name) -> bool {
        self.date(name, (self.time)())
    }

    fn settle(&self, name: &Name) -> bool {
        self.date(name, Duration::ZERO)
    }

    fn each(&self, first: u8, visit: &mut dyn FnMut(Name, Duration)) -> Result<()> {
        let now = (self.time)();
        let (mut low, mut high) = ([0; NAME], [u8::MAX; NAME]);
        (low[0], high[0]) = (first, first);
        let range = (Bound::Included(Name(low)), Bound::Included(Name(high)));
        let found: Vec<(Name, Duration)> = {
            let disk = self.disk.lock();
            disk.check(self.epoch)?;
            let found = disk.blobs.range(range);
            found.map(|(name, (_, touched))| (*name, now.saturating_sub(*touched))).collect()
        };
        // Visited outside the lock: a visitor may read and write.
        found.into_iter().for_each(|(name, age)| visit(name, age));
        Ok(())
    }

    fn remove(&self, name: &Name) -> Result<()> {
        let mut disk = self.disk.lock();
        disk.check(self.epoch)?;
        if !disk.blobs.contains_key(name) {
            return Ok(());
        }
        let step = disk.step(self.epoch)?;
        if step.happened {
            disk.blobs.remove(name);
        }
        disk.end(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::state::Batch;
    use raft::eraftpb::ConfState;

    fn opened(disk: &Disk, seconds: u64) -> MemoryBlobs {
        let _ = disk.open(false);
        disk.blobs(Arc::new(move || Duration::from_secs(seconds)))
    }

    #[test]
    fn chunks_survive_a_loss_of_power_and_die_with_whoever_opened_them() {
        let disk = Disk::new(1, ConfState::default(), &Batch::default());
        let (name, other) = (Name::of(b"meow"), Name::of(b"purr"));
        let blobs = opened(&disk, 10);
        blobs.put(&name, b"meow").unwrap();
        disk.crash(2);
        assert!(blobs.put(&other, b"purr").is_err() && blobs.read(&name).is_err() && !blobs.touch(&name));
        let blobs = opened(&disk, 13);
        assert_eq!(blobs.read(&name).unwrap(), Found::Whole(b"meow".to_vec()));
        let mut ages = Vec::new();
        (0..=u8::MAX).for_each(|first| blobs.each(first, &mut |_, age| ages.push(age)).unwrap());
        assert_eq!(ages, [Duration::from_secs(3)]);
        blobs.remove(&name).unwrap();
        assert_eq!((blobs.read(&name).unwrap(), disk.chunks()), (Found::Missing, Vec::new()));
        disk.fail_at(1);
        assert!(blobs.put(&other, b"purr").is_err() && blobs.put(&other, b"purr").is_err());
    }
}
