//! The doubles of log and state, watched, with what a step costs, and with room for bugs.

use crate::bug::Bug;
use crate::watch::Watch;
use catstore::error::{Error, Result};
use catstore::store::doubles::{Disk, MemoryBuilding, MemoryGenerations, MemoryLog};
use catstore::store::keys;
use catstore::store::log::{LogWrite, RaftLog};
use catstore::store::state::{Batch, Generations, Installed, State, View, Visit};
use raft::eraftpb::{ConfState, Entry, HardState};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a write to the state costs, in microseconds.
const WRITE_COST: u64 = 15;

/// What the stores of one member tell the simulator.
pub struct Probe {
    /// The member's Raft id.
    pub id: u64,
    /// The bug that is planted.
    pub bug: Bug,
    /// Its disk.
    pub disk: Disk,
    watch: Arc<Mutex<Watch>>,
    /// What the run under way has taken so far, microseconds.
    elapsed: AtomicU64,
    /// What a sync costs.
    sync_cost: AtomicU64,
    /// The last entry that this life applied.
    applied: AtomicU64,
    installs: AtomicU64,
    cuts: AtomicU64,
}

impl Probe {
    /// The probe of member `id`.
    pub fn new(id: u64, bug: Bug, disk: Disk, watch: Arc<Mutex<Watch>>) -> Probe {
        let zero = || AtomicU64::new(0);
        Probe {
            id,
            bug,
            disk,
            watch,
            elapsed: zero(),
            sync_cost: zero(),
            applied: zero(),
            installs: zero(),
            cuts: zero(),
        }
    }

    /// A run begins that has taken `elapsed`; each sync of it takes `sync_cost`.
    pub fn begin(&self, elapsed: u64, sync_cost: u64) {
        self.elapsed.store(elapsed, Ordering::Relaxed);
        self.sync_cost.store(sync_cost, Ordering::Relaxed);
    }

    /// What the run has taken so far.
    pub fn elapsed(&self) -> u64 {
        self.elapsed.load(Ordering::Relaxed)
    }

    /// What was seen of the group.
    pub fn watch(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Snapshots installed and cuts of the log since the last call.
    pub fn take_counts(&self) -> (u64, u64) {
        (self.installs.swap(0, Ordering::Relaxed), self.cuts.swap(0, Ordering::Relaxed))
    }

    /// Notes committed entries.
    pub fn committed(&self, entries: &[Entry]) {
        let mut watch = self.watch();
        for entry in entries {
            watch.committed(self.id, entry.index, entry.term, hash_of(entry));
        }
    }

    /// What the disk holds now, as its own counters say.
    fn note_state(&self, state: &dyn State) -> Result<()> {
        if let Some(row) = state.get(&keys::COUNTERS_ROW)? {
            let (index, term) = keys::applied_of(&row)?;
            self.applied.store(index, Ordering::Relaxed);
            if index > 0 {
                self.watch().state(self.id, index, term, self.disk.digest());
            }
        }
        Ok(())
    }

    /// A batch with these counters was written.
    fn note_written(&self, counters: &[u8]) -> Result<()> {
        let (index, term) = keys::applied_of(counters)?;
        let before = self.applied.swap(index, Ordering::Relaxed);
        let mut watch = self.watch();
        if index != before + 1 {
            watch.fail(format!("member {} applied entry {index} after entry {before}", self.id));
        }
        watch.state(self.id, index, term, self.disk.digest());
        Ok(())
    }

    fn spend(&self, cost: u64) {
        self.elapsed.fetch_add(cost, Ordering::Relaxed);
    }

    fn spend_sync(&self) {
        self.spend(self.sync_cost.load(Ordering::Relaxed));
    }
}

fn hash_of(entry: &Entry) -> u64 {
    let mut hasher = DefaultHasher::new();
    (entry.get_entry_type() as i32).hash(&mut hasher);
    entry.data.hash(&mut hasher);
    entry.context.hash(&mut hasher);
    hasher.finish()
}

/// The log.
pub struct Log {
    inner: MemoryLog,
    probe: Arc<Probe>,
    /// The membership that was there when it was opened, or last reset.
    base: (ConfState, u64),
}

impl Log {
    /// Watches `inner`.
    pub fn new(inner: MemoryLog, probe: Arc<Probe>) -> Log {
        Log { base: inner.membership(), inner, probe }
    }
}

impl RaftLog for Log {
    fn truncated(&self) -> (u64, u64) {
        self.inner.truncated()
    }
    fn last_index(&self) -> u64 {
        self.inner.last_index()
    }
    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>> {
        self.inner.entries(low, high, max_bytes)
    }
    fn term(&self, index: u64) -> Result<Option<u64>> {
        self.inner.term(index)
    }
    fn hard_state(&self) -> HardState {
        self.inner.hard_state()
    }
    fn membership(&self) -> (ConfState, u64) {
        self.inner.membership()
    }
    fn write(&mut self, mut write: LogWrite) -> Result<()> {
        match self.probe.bug {
            Bug::NoSync => write.sync = false,
            Bug::SendBeforeTerm if write.entries.is_empty() && write.membership.is_none() => {
                write.sync = false;
            }
            Bug::UnsyncedMembership => return self.write_membership_last(write),
            _ => {}
        }
        if write.sync {
            self.probe.spend_sync();
        }
        self.inner.write(write)
    }
    fn cut(&mut self, index: u64) -> Result<()> {
        self.probe.spend_sync();
        self.probe.cuts.fetch_add(1, Ordering::Relaxed);
        // Whatever is cut was applied.
        let (first, _) = self.inner.truncated();
        self.probe.committed(&self.inner.entries(first + 1, index + 1, u64::MAX)?);
        self.inner.cut(index)
    }
    fn reset(&mut self, index: u64, term: u64, membership: (ConfState, u64)) -> Result<()> {
        self.probe.spend_sync();
        self.base = membership.clone();
        self.inner.reset(index, term, membership)
    }
    fn syncs(&self) -> u64 {
        self.inner.syncs()
    }
    fn bytes(&self) -> u64 {
        self.inner.bytes()
    }
}

impl Log {
    /// [`Bug::UnsyncedMembership`]: what is synced is the membership of the start; the newest one follows unsynced.
    fn write_membership_last(&mut self, mut write: LogWrite) -> Result<()> {
        let newest = write.membership.take().unwrap_or_else(|| self.inner.membership());
        let sync = write.sync;
        if sync {
            self.probe.spend_sync();
            write.membership = Some(self.base.clone());
        }
        self.inner.write(write)?;
        self.inner.write(LogWrite { membership: Some(newest), ..LogWrite::default() })
    }
}

/// The generations.
pub struct Root {
    inner: MemoryGenerations,
    probe: Arc<Probe>,
}

impl Root {
    /// Watches `inner`, and looks at what it holds. Errors: the disk's.
    pub fn new(inner: MemoryGenerations, probe: Arc<Probe>) -> Result<Root> {
        let root = Root { inner, probe };
        root.probe.note_state(&*root.inner.live())?;
        Ok(root)
    }

    fn wrap(&self, state: Arc<dyn State>) -> Arc<dyn State> {
        Arc::new(Rows { inner: state, probe: self.probe.clone() })
    }
}

impl Generations for Root {
    type Building = MemoryBuilding;

    fn live(&self) -> Arc<dyn State> {
        self.wrap(self.inner.live())
    }
    fn replace(&mut self, rows: &Batch) -> Result<Arc<dyn State>> {
        self.probe.spend_sync();
        let state = self.inner.replace(rows)?;
        if let Some(counters) = counters_in(rows) {
            self.probe.note_written(counters)?;
        }
        Ok(self.wrap(state))
    }
    fn begin(&mut self) -> Result<MemoryBuilding> {
        self.inner.begin()
    }
    fn install(&mut self, built: MemoryBuilding, at: Installed) -> Result<Arc<dyn State>> {
        self.probe.spend_sync();
        let index = at.index;
        let state = self.inner.install(built, at)?;
        let before = self.probe.applied.load(Ordering::Relaxed);
        // One of the same entry takes the place of rotten rows.
        if index < before {
            self.probe.watch().fail(format!(
                "member {} installed a snapshot of entry {index} over entry {before}",
                self.probe.id
            ));
        }
        self.probe.note_state(&*state)?;
        self.probe.installs.fetch_add(1, Ordering::Relaxed);
        Ok(self.wrap(state))
    }
    fn installed(&self) -> Option<Installed> {
        self.inner.installed()
    }
    fn settled(&mut self) -> Result<()> {
        self.probe.spend_sync();
        self.inner.settled()
    }
}

fn counters_in(batch: &Batch) -> Option<&[u8]> {
    let counters = batch.changes.iter().rev().find(|(row, _)| row == &keys::COUNTERS_ROW);
    counters.and_then(|(_, value)| value.as_deref())
}

/// The rows of a generation.
struct Rows {
    inner: Arc<dyn State>,
    probe: Arc<Probe>,
}

impl State for Rows {
    fn get(&self, row: &[u8]) -> Result<Option<Vec<u8>>> {
        self.inner.get(row)
    }
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        self.inner.scan(from, to, visit)
    }
    fn write(&self, batch: &Batch) -> Result<()> {
        self.probe.spend(WRITE_COST);
        if self.probe.bug == Bug::AppliedApart {
            let (counters, rest): (Vec<_>, Vec<_>) =
                batch.changes.iter().cloned().partition(|(row, _)| row == &keys::COUNTERS_ROW);
            self.inner.write(&Batch { changes: rest })?;
            self.inner.write(&Batch { changes: counters })?;
        } else {
            self.inner.write(batch)?;
        }
        counters_in(batch).map_or(Ok(()), |counters| self.probe.note_written(counters))
    }
    fn flush(&self) -> Result<()> {
        if self.probe.bug == Bug::CutBeyondTables {
            return Ok(());
        }
        self.inner.flush()
    }
    fn view(&self) -> Result<Arc<dyn View>> {
        self.inner.view()
    }
    fn failure(&self) -> Option<Error> {
        self.inner.failure()
    }
}
