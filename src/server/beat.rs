//! The worker's heartbeat: a thread that tells the master every second how this worker is, registers again when
//! the master asks for it or the store was opened anew, and brings home newer routes. A named value: `/worker`
//! shows its last success and its last error. It never holds up a request.

use super::call::Caller;
use super::facts;
use super::node::Mode;
use super::site::{Event, Member, Site};
use super::worker::{self, Worker};
use crate::cluster::directory::LEFT;
use crate::cluster::view::{ClusterView, HeartbeatReply, HeartbeatRequest};
use crate::error::{Error, Kind, Result};
use crate::replica::save_routes;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The pause between two heartbeats, also after an error: a master that is back hears of us within seconds.
const PAUSE: Duration = Duration::from_secs(1);
/// How long one call may take.
const TIMEOUT: Duration = Duration::from_millis(1500);

/// The heartbeat of a worker.
#[derive(Default)]
pub(crate) struct Heartbeat {
    state: Mutex<State>,
    woken: Condvar,
    /// Held by whoever takes over routes, so that the disk does not keep older ones than memory.
    learning: Mutex<()>,
}

#[derive(Default)]
struct State {
    /// The start counter that the master has heard of in this run.
    registered: Option<u64>,
    succeeded: Option<Instant>,
    error: Option<String>,
    /// Somebody wants the next one now.
    now: bool,
}

impl Heartbeat {
    /// Starts the thread. `registered` says that the master has heard of this start.
    pub(crate) fn spawn(&self, site: Arc<Site>, caller: Caller, registered: bool) -> Result<()> {
        if let (true, Member::Worker(worker)) = (registered, &site.member) {
            self.state().registered = Some(worker.node.starts());
        }
        std::thread::Builder::new()
            .name("heartbeat".into())
            .spawn(move || run(&site, &caller))
            .map(drop)
            .map_err(|error| Error::new(Kind::System, "cannot start the heartbeat thread").cause(error))
    }

    /// Sends the next heartbeat now.
    pub(crate) fn wake(&self) {
        self.state().now = true;
        self.woken.notify_all();
    }

    /// Waits until the next one is due. (Not by parking: the threads that carry the heartbeats unpark this one.)
    fn pause(&self) {
        let waited = self.woken.wait_timeout_while(self.state(), PAUSE, |state| !state.now);
        waited.unwrap_or_else(PoisonError::into_inner).0.now = false;
    }

    /// What `/worker` shows.
    pub(crate) fn describe(&self) -> serde_json::Value {
        let state = self.state();
        serde_json::json!({
            "registered": state.registered.is_some(),
            "succeeded_ms_ago": state.succeeded.map(|at| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX)),
            "last_error": state.error,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn run(site: &Site, caller: &Caller) {
    let Member::Worker(worker) = &site.member else { return };
    while !*site.stopping.borrow() {
        // Said again each time: a replica that was opened anew, or was too busy to listen, does not know it.
        worker.follow(site);
        match step(site, worker, caller) {
            Ok(()) => {
                let mut state = worker.beat.state();
                if state.error.take().is_some() {
                    log::info!("the master answers again");
                }
                state.succeeded = Some(Instant::now());
            }
            Err(error) if worker::refuses(&error) => {
                // The main thread may be gone already; then nobody needs to be told.
                let _ = site.events.send(Event::Fatal(error));
                return;
            }
            Err(error) => {
                let mut state = worker.beat.state();
                if state.error.replace(error.to_string()).is_none() {
                    log::warn!("no heartbeat: {error}; serving goes on");
                }
            }
        }
        worker.beat.pause();
    }
}

/// One heartbeat to every master, and a registration where one is due. Only a refused registration refuses; and not
/// one of a worker that was removed: its group may count on its vote still, and the answer to a heartbeat says when
/// it does not any more.
fn step(site: &Site, worker: &Worker, caller: &Caller) -> Result<()> {
    let asked = beat(site, worker, caller)?;
    let due = asked || worker.beat.state().registered != Some(worker.node.starts());
    if !due || is_removed(site, worker) {
        return Ok(());
    }
    worker.beat.state().registered = None;
    match register(site, worker, caller) {
        Err(error) if worker::refuses(&error) => {
            // It may have been removed just now.
            beat(site, worker, caller)?;
            if is_removed(site, worker) { Ok(()) } else { Err(error) }
        }
        done => done,
    }
}

/// True if this worker was removed for good, as far as it knows.
fn is_removed(site: &Site, worker: &Worker) -> bool {
    worker.index().is_some_and(|index| site.view().is_removed(index))
}

/// Sends a heartbeat; true if a registration is due.
fn beat(site: &Site, worker: &Worker, caller: &Caller) -> Result<bool> {
    let facts = facts::worker_facts(site, worker);
    let (incarnation, epoch) = site.view().rank();
    let beat = HeartbeatRequest { run: worker.run(), facts, epoch, incarnation };
    let reply = tell_all(site, worker, caller, &beat)?;
    if let Some(why) = reply.refused {
        if why == LEFT {
            return Ok(leave(site, worker));
        }
        return Err(removed(worker, &why));
    }
    if reply.leads && !reply.register {
        worker.promote_if_told(site);
    }
    Ok(reply.register)
}

fn register(site: &Site, worker: &Worker, caller: &Caller) -> Result<()> {
    let starts = worker.node.starts();
    let request = worker::request(site, worker, starts, None);
    let reply = ask(site, worker, |master| worker::register(site, caller, master, &request, TIMEOUT))?;
    learn(site, worker, reply.view);
    if let Mode::Open(replica) = &*worker.node.mode() {
        replica.confirm_start()?;
    }
    worker.beat.state().registered = Some(starts);
    log::info!("registered with the master as worker {}", reply.index);
    worker.promote_if_told(site);
    Ok(())
}

/// Sends a heartbeat to every master at once, so that each of them can take over, and learns from all answers. Returns
/// the leading master's, or that of any other, which asks for nothing.
fn tell_all(
    site: &Site,
    worker: &Worker,
    caller: &Caller,
    beat: &HeartbeatRequest,
) -> Result<HeartbeatReply> {
    let masters = worker::candidates(site, worker);
    let answers: Vec<Result<HeartbeatReply>> = std::thread::scope(|scope| {
        let calls: Vec<_> = masters
            .iter()
            .map(|master| scope.spawn(move || caller.post(master, "/internal/heartbeat", beat, TIMEOUT)))
            .collect();
        let lost = || Error::new(Kind::System, "a heartbeat thread ended early");
        calls.into_iter().map(|call| call.join().unwrap_or_else(|_| Err(lost()))).collect()
    });
    let mut best: Option<HeartbeatReply> = None;
    let mut last = Error::new(Kind::Unreachable, "no master is known");
    for answer in answers {
        match answer {
            // A master that was lost when the others were recovered: nothing that it says is true any more.
            Ok(reply) if reply.incarnation.max(1) < site.view().rank().0 => {
                last = worker::former_master();
            }
            Ok(mut reply) => {
                if let Some(view) = reply.view.take() {
                    learn(site, worker, view);
                }
                site.learn_leaders(&reply.leaders);
                if !reply.leads {
                    (reply.register, reply.refused) = (false, None);
                }
                if best.as_ref().is_none_or(|best| reply.leads && !best.leads) {
                    best = Some(reply);
                }
            }
            Err(error) => last = Error::new(Kind::Unreachable, error.to_string()),
        }
    }
    best.ok_or(last)
}

/// The end of a worker that was drained: all is well, and it is not needed any more. No registration is due.
fn leave(site: &Site, worker: &Worker) -> bool {
    let data = site.place.get().map(|place| place.data.display().to_string()).unwrap_or_default();
    let index = worker.index().unwrap_or_default();
    eprintln!("worker {index} has left its group: nothing needs its folder any more, {data}");
    // The main thread may be gone already.
    let _ = site.events.send(Event::Signal);
    false
}

/// The end of a worker that was removed for good.
fn removed(worker: &Worker, why: &str) -> Error {
    let index = worker.index().unwrap_or_default();
    let masters = worker.masters.join(",");
    Error::new(Kind::Conflict, format!("worker {index} was removed: {why}"))
        .hint(format!("keep its folder if you miss something; a new worker takes its place with a new --data: catstore worker PORT --master {masters} --clone IDX"))
}

/// Asks one master after the other until one answers or refuses.
fn ask<T>(site: &Site, worker: &Worker, mut call: impl FnMut(&str) -> Result<T>) -> Result<T> {
    let mut last = Error::new(Kind::Unreachable, "no master is known");
    for master in worker::candidates(site, worker) {
        match call(&master) {
            Ok(reply) => return Ok(reply),
            // What lives at a remembered address may have changed: a master of another cluster ends nobody who runs.
            Err(error) if error.kind() == Kind::Foreign => {
                last = Error::new(Kind::Unreachable, error.to_string());
            }
            Err(error) if worker::refuses(&error) => return Err(error),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Takes over newer routes, and what they mean for this worker's group. Blocks for a write to the disk.
pub(crate) fn learn(site: &Site, worker: &Worker, view: ClusterView) {
    let _alone = worker.beat.learning.lock().unwrap_or_else(PoisonError::into_inner);
    if !site.learn(view.clone()) {
        return;
    }
    if let Some(place) = site.place.get() {
        save_routes(&place.data, &view);
    }
    worker.follow(site);
    worker.moving.wake();
}
