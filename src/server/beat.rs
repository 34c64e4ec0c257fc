//! The worker's heartbeat: a thread that tells the master every second how this worker is, registers again when
//! the master asks for it or the store was opened anew, and brings home newer routes. A named value: `/worker`
//! shows its last success and its last error. It never holds up a request.

use super::call::Caller;
use super::facts;
use super::node::Mode;
use super::site::{Event, Member, Site};
use super::worker::{self, Worker};
use crate::cluster::view::{HeartbeatReply, HeartbeatRequest, RegisterReply};
use crate::error::{Error, Kind, Result};
use crate::replica::save_routes;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// The pause between two heartbeats, also after an error: a master that is back hears of us within seconds.
const PAUSE: Duration = Duration::from_secs(1);
/// How long one call may take.
const TIMEOUT: Duration = Duration::from_millis(1500);

/// The heartbeat of a worker.
#[derive(Default)]
pub(crate) struct Heartbeat {
    thread: OnceLock<Thread>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The start counter that the master has heard of in this run.
    registered: Option<u64>,
    succeeded: Option<Instant>,
    error: Option<String>,
}

impl Heartbeat {
    /// Starts the thread. `registered` says that the master has heard of this start.
    pub(crate) fn spawn(&self, site: Arc<Site>, caller: Caller, registered: bool) -> Result<()> {
        if let (true, Member::Worker(worker)) = (registered, &site.member) {
            self.state().registered = Some(worker.node.starts());
        }
        let thread = std::thread::Builder::new()
            .name("heartbeat".into())
            .spawn(move || run(&site, &caller))
            .map_err(|error| Error::new(Kind::System, "cannot start the heartbeat thread").cause(error))?;
        // Set once: a worker starts once per process.
        let _ = self.thread.set(thread.thread().clone());
        Ok(())
    }

    /// Sends the next heartbeat now.
    pub(crate) fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
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
        std::thread::park_timeout(PAUSE);
    }
}

/// One heartbeat, or a registration where one is due. Only a refused registration refuses.
fn step(site: &Site, worker: &Worker, caller: &Caller) -> Result<()> {
    if worker.beat.state().registered == Some(worker.node.starts()) {
        let facts = facts::worker_facts(site, worker);
        let beat = HeartbeatRequest { run: worker.run(), facts, epoch: site.view().epoch };
        let reply = ask(site, worker, |master| {
            caller.post::<_, HeartbeatReply>(master, "/internal/heartbeat", &beat, TIMEOUT)
        });
        let reply = reply.map_err(|error| Error::new(Kind::Unreachable, error.to_string()))?;
        if let Some(view) = reply.view {
            learn(site, view);
        }
        if !reply.register {
            return Ok(());
        }
        worker.beat.state().registered = None;
    }
    let starts = worker.node.starts();
    let request = worker::request(site, worker, starts, None);
    let reply = ask(site, worker, |master| {
        caller.post::<_, RegisterReply>(master, "/internal/register", &request, TIMEOUT)
    })?;
    learn(site, reply.view);
    if let Mode::Open(replica) = &*worker.node.mode() {
        replica.confirm_start()?;
    }
    worker.beat.state().registered = Some(starts);
    log::info!("registered with the master as worker {}", reply.index);
    Ok(())
}

/// Asks one master after the other until one answers or refuses.
fn ask<T>(site: &Site, worker: &Worker, mut call: impl FnMut(&str) -> Result<T>) -> Result<T> {
    let mut last = Error::new(Kind::Unreachable, "no master is known");
    for master in worker::candidates(site, worker) {
        match call(&master) {
            Ok(reply) => return Ok(reply),
            Err(error) if worker::refuses(&error) => return Err(error),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn learn(site: &Site, view: crate::cluster::view::ClusterView) {
    if site.learn(view.clone())
        && let Some(place) = site.place.get()
    {
        save_routes(&place.data, &view);
    }
}
