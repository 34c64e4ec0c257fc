//! What takes long: flushes, compactions, copies and digests, each on a thread of its own that tells the replica thread.

use super::Driver;
use crate::cluster::membership::index_of;
use crate::error::{Error, Kind, Result};
use crate::replica::clock::now_ms;
use crate::replica::compaction;
use crate::replica::copies::Fetch;
use crate::replica::digest;
use crate::replica::fetch;
use crate::replica::inbox::Job;
use crate::replica::machine::Machine;
use crate::replica::member::{Flush, Look, Member};
use crate::replica::shared::{lock, yield_to_others};
use crate::store::log::RaftLog;
use crate::store::state::Generations;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A member with rotten rows stops if it gets no others for so many ticks.
const MOST_ROTTEN_TICKS: u32 = 600;

impl<M, L, G> Driver<M, L, G>
where
    M: Machine,
    L: RaftLog + 'static,
    G: Generations + 'static,
{
    /// Flushes on a thread of its own, so that writes go on meanwhile.
    pub(super) fn flush(&self, flush: Flush) -> Result<()> {
        let inbox = self.inbox.clone();
        spawn("flush", move || {
            let done = flush.state.flush().map(|()| flush.index);
            drop(flush);
            // A replica that was closed meanwhile no longer cuts its log.
            let _ = inbox.sender.send(Job::Flushed(done));
        })
    }

    /// Gives the space of rows that are gone back to the system, on a thread of its own.
    pub(super) fn compact(&self) -> Result<()> {
        let Some(state) = self.member.as_ref().map(Member::state) else { return Ok(()) };
        let shared = self.inbox.shared.clone();
        spawn("compaction", move || {
            yield_to_others();
            if let Err(error) = compaction::run(&*state, &|| !shared.serves(&state)) {
                shared.suffer(error);
            }
        })
    }

    /// Pulls a snapshot on a thread of its own; the copy that was under way is no longer wanted.
    pub(super) fn pull(&mut self, fetch: Fetch<G::Building>) -> Result<()> {
        let (inbox, wire, cancelled) =
            (self.inbox.clone(), self.wire.clone(), Arc::new(AtomicBool::new(false)));
        if let Some(before) = self.pulling.replace(cancelled.clone()) {
            before.store(true, Ordering::Relaxed);
        }
        spawn("pull", move || {
            yield_to_others();
            let (from, id) = (index_of(fetch.from).unwrap_or_default(), fetch.name.id);
            log::info!("pulling snapshot {id:016x} at entry {} from member {from}", fetch.name.index);
            let built = fetch::pull(fetch, &wire, &inbox.shared.copying, &cancelled);
            let built = built
                .inspect_err(|error| log::warn!("snapshot {id:016x} did not arrive: {error}"))
                .ok()
                .filter(|_| !cancelled.load(Ordering::Relaxed));
            // A replica that was closed meanwhile has no use for it.
            let _ = inbox.sender.send(Job::Fetched(id, built));
        })
    }

    /// Has rotten rows replaced, if readers found some; once in each tick. Errors: nobody has others, or gives them.
    pub(super) fn replace_rotten(&mut self) -> Result<()> {
        let rot = lock(&self.inbox.shared.rot).clone();
        let (Some(error), Some(member)) = (rot, &mut self.member) else {
            self.rotten_ticks = 0;
            return Ok(());
        };
        self.rotten_ticks = if member.is_pulling() { 0 } else { self.rotten_ticks + 1 };
        match member.renew(now_ms()) && self.rotten_ticks <= MOST_ROTTEN_TICKS {
            true => Ok(()),
            false => Err(error),
        }
    }

    /// Takes a digest on a thread of its own.
    pub(super) fn look(&self, look: Look) -> Result<()> {
        let shared = self.inbox.shared.clone();
        spawn("digest", move || {
            yield_to_others();
            match digest::take(&*look.view, look.index, &|| shared.closing.load(Ordering::Relaxed)) {
                Ok(None) => {}
                Ok(Some(digest)) => {
                    let digest::Digest { index, rows, hash } = &digest;
                    log::info!("the {rows} rows at entry {index} have the digest {hash}");
                    shared.digests.note(look.id, digest);
                }
                Err(error) => shared.suffer(error),
            }
        })
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .map(drop)
        .map_err(|error| Error::new(Kind::System, format!("the thread {name} does not start")).cause(error))
}
