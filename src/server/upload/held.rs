//! Ends uploads: once nobody can write any more what refers to their chunks.

use crate::replica::blobs::{Keeper, Mark};
use crate::replica::command::{Command, Request};
use crate::replica::handle::KeyspaceHandle;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long an entry behind the command may take.
const BEHIND: Duration = Duration::from_secs(10);
/// How often that is tried.
const TRIES: usize = 30;

/// An upload whose command may be on its way, held until it is ended. If whoever waits for it goes away, what became of the
/// command is found out first.
pub(super) struct Held {
    replica: KeyspaceHandle,
    id: u64,
    ended: bool,
}

impl Held {
    /// The upload `id` at `replica`.
    pub(super) fn new(replica: &KeyspaceHandle, id: u64) -> Held {
        Held { replica: replica.clone(), id, ended: false }
    }

    /// What became of the command is known.
    pub(super) fn end(self) {
        self.end_with(None);
    }

    /// What became of the command is known; `upload`, which brought the chunks, has ended too.
    pub(super) fn end_with(mut self, upload: Option<u64>) {
        self.ended = true;
        let keeper = self.replica.keeper();
        for mark in [Some(self.id), upload].into_iter().flatten().filter_map(|id| keeper.end(id)) {
            keeper.settle(mark);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.ended {
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
    for _ in 0..TRIES {
        let nothing = Request { id: None, command: Command::Sweep };
        match replica.submit(nothing, Instant::now() + BEHIND).await {
            Ok(_) => return keeper.settle(mark),
            // Also where the lead is about to be handed over: that may come to nothing. In a later term it does not matter.
            Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
}
