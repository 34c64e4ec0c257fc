//! What the replica thread and its handles share: what readers see, numbers, who votes, and why it stopped.

use super::clock::now_ms;
use super::core::{Role, Status};
use super::digest::Digests;
use super::fetch::Progress;
use super::machine::Machine;
use super::snapshot::Snapshots;
use crate::error::{Error, Kind, Result};
use crate::store::state::State;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// No number of changes of what a group serves.
pub(super) const SHIFTING: u64 = u64::MAX;

/// What readers on other threads see of a running replica.
pub struct Live<M: Machine> {
    /// The live generation.
    pub state: Arc<dyn State>,
    /// What the machine published after the last applied entry.
    pub published: M::Published,
}

impl<M: Machine> Clone for Live<M> {
    fn clone(&self) -> Self {
        Live { state: self.state.clone(), published: self.published.clone() }
    }
}

/// Numbers that the thread keeps for others.
#[derive(Debug, Default)]
pub struct Gauges {
    pub(super) applied: AtomicU64,
    pub(super) last: AtomicU64,
    pub(super) last_term: AtomicU64,
    pub(super) syncs: AtomicU64,
    pub(super) entries: AtomicU64,
    pub(super) commands: AtomicU64,
    pub(super) queued: AtomicU64,
    pub(super) queued_bytes: AtomicU64,
    pub(super) log_bytes: AtomicU64,
    pub(super) renewals: AtomicU64,
    /// When this member was last known to have everything that its leader had; 0 never.
    pub(super) fresh_at: AtomicU64,
}

/// Who votes in the group, by Raft id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// Voters; in a joint configuration the incoming ones.
    pub voters: Vec<u64>,
    /// The outgoing voters of a joint configuration.
    pub outgoing: Vec<u64>,
    /// Standbys.
    pub standbys: Vec<u64>,
    /// The others that this member, which leads, has heard of lately.
    pub active: Vec<u64>,
}

/// What the thread and its handles share.
pub struct Shared<M: Machine> {
    pub(super) id: u64,
    pub(super) live: RwLock<Option<Live<M>>>,
    /// Until when this member may read its own state; see [`Status::lease`].
    pub(super) lease: AtomicU64,
    pub(super) status: RwLock<Status>,
    pub(super) members: RwLock<Arc<Members>>,
    /// True once the thread has done everything that its log asked for at the start.
    pub(super) started: AtomicBool,
    pub(super) closing: AtomicBool,
    /// [`Machine::shifts`] as published; [`SHIFTING`] while an entry changes them.
    pub(super) shifts: AtomicU64,
    pub(super) failure: Mutex<Option<Error>>,
    /// What was found rotten in the state that readers find, until another one takes its place.
    pub(super) rot: Mutex<Option<Error>>,
    /// True while there is something.
    pub(super) is_rotten: AtomicBool,
    pub(super) gauges: Gauges,
    pub(super) snapshots: Snapshots,
    pub(super) copying: Progress,
    pub(super) digests: Digests,
}

impl<M: Machine> Shared<M> {
    /// What a thread begins with.
    pub fn new(id: u64, live: Live<M>) -> Shared<M> {
        Shared {
            id,
            live: RwLock::new(Some(live)),
            lease: AtomicU64::new(0),
            status: RwLock::default(),
            members: RwLock::default(),
            started: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            shifts: AtomicU64::new(0),
            failure: Mutex::new(None),
            rot: Mutex::new(None),
            is_rotten: AtomicBool::new(false),
            gauges: Gauges::default(),
            snapshots: Snapshots::default(),
            copying: Progress::default(),
            digests: Digests::default(),
        }
    }

    /// `Closed` or the failure, if this replica does not take requests.
    pub fn check_open(&self) -> Result<()> {
        if self.closing.load(Ordering::Acquire) {
            return Err(self.closed_error());
        }
        Ok(())
    }

    /// What is applied here, however old that is. Errors: `Closed`, `Failed`.
    pub(super) fn applied_here(&self) -> Result<Live<M>> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner).clone();
        // After a failure the replica thread may publish once more what it had begun.
        let has_failed = || self.closing.load(Ordering::Acquire) && self.failure().is_some();
        live.filter(|_| !has_failed()).ok_or_else(|| self.closed_error())
    }

    /// True while the node is open and readers find this state, and no other that replaced it.
    pub(super) fn serves(&self, state: &Arc<dyn State>) -> bool {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        let found = live.as_ref().is_some_and(|live| Arc::ptr_eq(&live.state, state));
        found && !self.closing.load(Ordering::Relaxed)
    }

    /// True if this member may read its own state now without asking anybody.
    pub fn may_read(&self) -> bool {
        match self.lease.load(Ordering::Acquire) {
            0 => false,
            u64::MAX => true,
            until => now_ms() < until,
        }
    }

    /// True if this member may read because nobody else votes.
    pub fn reads_alone(&self) -> bool {
        self.lease.load(Ordering::Acquire) == u64::MAX
    }

    /// What is known of this member's place in its group.
    pub fn status(&self) -> Status {
        *self.status.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who votes.
    pub fn members(&self) -> Arc<Members> {
        Arc::clone(&self.members.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What changed while the member runs: a lease may end here, and begins with [`Shared::grant`] only, after readers
    /// see what was applied meanwhile.
    pub(super) fn withdraw(&self, status: &Status) {
        self.lease.fetch_min(status.lease, Ordering::AcqRel);
        *self.status.write().unwrap_or_else(PoisonError::into_inner) = *status;
    }

    /// The lease as it is after everything that was applied is visible.
    pub(super) fn grant(&self, lease: u64) {
        self.lease.store(lease, Ordering::Release);
    }

    /// True if this member leads.
    pub fn leads(&self) -> bool {
        self.status().role == Role::Leader
    }

    /// Why the thread stopped by itself.
    pub fn failure(&self) -> Option<Error> {
        lock(&self.failure).clone()
    }

    pub(super) fn closed_error(&self) -> Error {
        self.failure()
            .map_or_else(|| Error::new(Kind::Closed, "this node is closed"), |error| as_refusal(&error))
    }

    /// Nobody reads linearizably from here on.
    pub(super) fn stop_serving(&self) {
        self.withdraw(&Status::default());
    }

    /// Nobody reads at all from here on.
    pub(super) fn stop_reads(&self) {
        self.stop_serving();
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.snapshots.clear();
    }

    /// Rows of the state do not match their checksums. Where others vote, the state is pulled anew from whoever leads: true.
    /// Else this member alone holds all that there is, and nothing is done.
    pub(super) fn renew(&self, error: &Error) -> bool {
        let members = self.members();
        let mut voters = members.voters.iter().chain(&members.outgoing);
        if error.kind() != Kind::Damaged || voters.all(|id| *id == self.id) {
            return false;
        }
        let mut rot = lock(&self.rot);
        if rot.is_none() {
            log::error!("rows of this member are rotten, and all of them are pulled anew: {error}");
            *rot = Some(error.clone());
            self.is_rotten.store(true, Ordering::Release);
        }
        true
    }

    /// Has rotten rows pulled anew; stops serving if nobody else has them, or something else is wrong.
    pub(super) fn suffer(&self, error: Error) {
        if !self.renew(&error) {
            self.fail(error);
        }
    }

    /// Readers are refused while rows are rotten: with `Frozen`, since another member leads soon.
    pub(super) fn check_whole(&self) -> Result<()> {
        if !self.is_rotten.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(Error::new(Kind::Frozen, "rows of this member are rotten, and are pulled anew")
            .hint("ask again in a moment"))
    }

    /// Another state has taken the place of the one that readers found.
    pub(super) fn renewed(&self) {
        if lock(&self.rot).take().is_some() {
            self.is_rotten.store(false, Ordering::Release);
            self.gauges.renewals.fetch_add(1, Ordering::Relaxed);
            log::info!("all rows were pulled anew");
        }
    }

    /// Stops serving because of `error`; the first one counts.
    pub(super) fn fail(&self, error: Error) {
        {
            let mut failure = lock(&self.failure);
            if failure.is_none() {
                log::error!("this node stops serving: {error}");
                *failure = Some(error);
            }
        }
        self.closing.store(true, Ordering::Release);
        self.stop_reads();
    }
}

/// What a request is told after the node stopped: the failure is the node's, whatever its kind.
pub(super) fn as_refusal(error: &Error) -> Error {
    Error::new(Kind::Failed, format!("this node stopped serving: {}", error.detail()))
        .hint("see its log; the disk or the data folder needs attention")
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// This thread, and those that it starts, get the processor where threads that serve do not want it.
pub(super) fn yield_to_others() {
    /// Of 40 steps of niceness; the system lets nobody take them back.
    const NICE: i32 = 10;
    // On Linux a niceness belongs to a thread. Where it cannot be set, the work is done all the same.
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        log::debug!("a thread in the background keeps its priority: {error}");
    }
}
