//! Ends uploads: once nobody can write any more what refers to their chunks.

use crate::replica::blobs::{Keeper, Mark};
use crate::replica::command::{Command, Request};
use crate::replica::handle::KeyspaceHandle;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long an entry behind the command may take.
const BEHIND: Duration = Duration::from_secs(10);
/// That is tried again after so long, and each time after so much more.
const PAUSE: Duration = Duration::from_secs(1);
/// But not after more than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// An upload whose command may be on its way, held until it is ended. If whoever waits for it goes away, what became of the
/// command is found out first. Who begins it elsewhere holds it too: it must not begin behind its end.
pub(super) struct Held {
    replica: KeyspaceHandle,
    id: u64,
    ended: AtomicBool,
}

impl Held {
    /// The upload `id` at `replica`.
    pub(super) fn new(replica: &KeyspaceHandle, id: u64) -> Held {
        Held { replica: replica.clone(), id, ended: AtomicBool::new(false) }
    }

    /// What became of the command is known.
    pub(super) fn end(&self) {
        self.end_with(None);
    }

    /// What became of the command is known; `upload`, which brought the chunks, has ended too.
    pub(super) fn end_with(&self, upload: Option<u64>) {
        self.ended.store(true, Ordering::Relaxed);
        let keeper = self.replica.keeper();
        for mark in [Some(self.id), upload].into_iter().flatten().filter_map(|id| keeper.end(id)) {
            keeper.settle(mark);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if *self.ended.get_mut() {
            return;
        }
        let keeper = Arc::clone(self.replica.keeper());
        let Some(mark) = keeper.end(self.id) else { return };
        // Without a runtime the node is stopping; in the next term it does not matter any more.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(settle_later(self.replica.clone(), keeper, mark));
        }
    }
}

/// Commands are decided in the order in which they were submitted: once a later one is applied, so is the upload's, or it
/// never will be.
async fn settle_later(replica: KeyspaceHandle, keeper: Arc<Keeper>, mark: Mark) {
    let mut pause = PAUSE;
    // In a later term it does not matter.
    while keeper.is_still_in(mark.term) {
        let nothing = Request { id: None, command: Command::Sweep };
        match replica.submit(nothing, Instant::now() + BEHIND).await {
            Ok(_) => return keeper.settle(mark),
            // Also where the lead is about to be handed over: that may come to nothing.
            Err(_) => tokio::time::sleep(pause).await,
        }
        pause = LONGEST_PAUSE.min(pause + PAUSE);
    }
}
