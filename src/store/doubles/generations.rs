//! The generations on a simulated disk.

use super::super::install;
use super::super::state::{Batch, Building, Generations, Installed, State};
use super::images::GenerationImage;
use super::stores::MemoryState;
use super::{Contents, Disk};
use crate::error::Result;
use std::sync::Arc;

/// Generations on a [`Disk`].
pub struct MemoryGenerations {
    pub(super) disk: Disk,
    pub(super) epoch: u64,
}

/// A generation that a snapshot fills, on a [`Disk`]. Each batch is a step, and so is the end.
pub struct MemoryBuilding {
    state: MemoryState,
    order: install::InOrder,
    finished: bool,
    installed: bool,
}

impl Generations for MemoryGenerations {
    type Building = MemoryBuilding;

    fn live(&self) -> Arc<dyn State> {
        let number = self.disk.lock().live;
        Arc::new(self.state(number))
    }

    fn replace(&mut self, rows: &Batch) -> Result<Arc<dyn State>> {
        self.disk.lock().switch(self.epoch, |disk| {
            disk.live = disk.next;
            disk.next += 1;
            *disk.live_mut() = GenerationImage::of(rows);
        })?;
        Ok(self.live())
    }

    fn begin(&mut self) -> Result<MemoryBuilding> {
        let mut disk = self.disk.lock();
        let step = disk.step(self.epoch)?;
        let number = disk.next;
        disk.next += 1;
        disk.generations.insert(number, GenerationImage::default());
        disk.end(step)?;
        Ok(MemoryBuilding {
            state: self.state(number),
            order: install::InOrder::default(),
            finished: false,
            installed: false,
        })
    }

    fn install(&mut self, mut built: MemoryBuilding, at: Installed) -> Result<Arc<dyn State>> {
        if !built.finished {
            return Err(install::unfinished());
        }
        install::check(&built.state, &at)?;
        built.installed = true;
        self.disk.lock().switch(self.epoch, |disk| {
            disk.live = built.state.number;
            disk.installed = Some(at);
        })?;
        Ok(self.live())
    }

    fn installed(&self) -> Option<Installed> {
        self.disk.lock().installed.clone()
    }

    fn settled(&mut self) -> Result<()> {
        self.disk.lock().switch(self.epoch, |disk| disk.installed = None)
    }
}

impl MemoryGenerations {
    fn state(&self, number: u64) -> MemoryState {
        MemoryState { disk: self.disk.clone(), epoch: self.epoch, number }
    }
}

impl Contents {
    /// A step that changes which generation is live, or its note, atomically and durably.
    fn switch(&mut self, epoch: u64, change: impl FnOnce(&mut Contents)) -> Result<()> {
        let step = self.step(epoch)?;
        if step.happened {
            change(self);
        }
        self.end(step)
    }
}

impl Building for MemoryBuilding {
    fn write(&mut self, batch: &Batch) -> Result<()> {
        if self.finished {
            return Err(install::finished());
        }
        self.order.check(batch)?;
        self.state.write(batch)
    }

    fn finish(&mut self) -> Result<()> {
        self.state.flush()?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for MemoryBuilding {
    fn drop(&mut self) {
        let mut disk = self.state.disk.lock();
        if !self.installed && disk.check(self.state.epoch).is_ok() {
            disk.generations.remove(&self.state.number);
        }
    }
}
