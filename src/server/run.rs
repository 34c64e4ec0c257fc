//! The life of a node's process: bind, start, serve, stop.
//!
//! The port is bound before anything else is touched, so that a second node on it changes nothing; requests that
//! come before the node is ready get 503. A thread starts the node while the main thread listens to events. To
//! stop: the lead of its group is handed over, then no new connections, the requests that were accepted are answered (bodies that are still arriving are
//! dropped), then the replica is closed, all within five seconds.

use super::address;
use super::call::Caller;
use super::config::NodeOptions;
use super::front;
use super::listen::{self, Listeners};
use super::patience::Limits;
use super::site::{Event, Site};
use crate::cluster::view::ClusterView;
use crate::error::{Error, Kind, Result};
use actix_web::dev::{Server, ServerHandle};
use actix_web::rt::signal::unix::{SignalKind, signal};
use actix_web::rt::{Runtime, System};
use futures_util::FutureExt;
use std::io::{self, Write};
use std::net::TcpListener;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long accepted requests may take when the node stops.
const DRAIN: Duration = Duration::from_secs(3);
/// When the whole process should be gone after a signal.
const STOP: Duration = Duration::from_millis(4800);
/// How much of that may pass before this node takes no more connections, if the lead is not handed over by then: the
/// others still need it.
const HAND_OVER: Duration = Duration::from_secs(3);
/// How much of that is kept for closing the store.
const CLOSE: Duration = Duration::from_millis(1200);
/// How long the acceptor has to pass on what it took, once it was told to accept no more.
const PAUSE: Duration = Duration::from_millis(10);
/// How often in a row no connection must have been seen before the store is closed.
const QUIET: u32 = 10;
/// How often the main thread looks after the replica.
const LOOK: Duration = Duration::from_millis(100);
const CONNECTIONS: usize = 50_000;

/// A server that runs.
pub(crate) struct Serving {
    /// Stops it.
    pub(crate) handle: ServerHandle,
    /// The port that it got.
    pub(crate) port: u16,
    /// The thread that ends with it.
    pub(crate) thread: JoinHandle<()>,
    /// What it listens on.
    listeners: Listeners,
}

/// Runs a node until it is told to stop. `start` gets the port and returns the ready line.
pub(crate) fn run(
    options: &NodeOptions,
    site: Arc<Site>,
    events: Receiver<Event>,
    start: impl FnOnce(&Arc<Site>, u16) -> Result<String> + Send + 'static,
) -> Result<()> {
    raise_open_files();
    spawn("signals", {
        let events = site.events.clone();
        move || listen_for_signals(&events)
    })?;
    let serving = serve(options, &site, Limits::default())?;
    spawn("start", {
        let (site, port) = (Arc::clone(&site), serving.port);
        move || {
            let outcome = start(&site, port);
            // The main thread may be gone already; then nobody needs to be told.
            let _ = site.events.send(Event::Started(outcome));
        }
    })?;
    let outcome = watch(&site, &events);
    stop(&site, serving);
    outcome
}

/// Waits for the event that ends the process.
fn watch(site: &Site, events: &Receiver<Event>) -> Result<()> {
    loop {
        match events.recv_timeout(LOOK) {
            Ok(Event::Started(Ok(line))) => announce(&line),
            Ok(Event::Started(Err(error)) | Event::Fatal(error)) => return Err(error),
            Ok(Event::Signal) => {
                log::info!("stopping");
                return Ok(());
            }
            Ok(Event::ServerEnded) | Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::new(Kind::System, "the HTTP server ended by itself"));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Some(failure) = site.check() {
            log::error!("the store stopped: {failure}");
            if failure.kind() == Kind::Damaged {
                return Err(failure);
            }
        }
    }
}

/// The ready line; a reader that went away is no reason to stop.
fn announce(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn stop(site: &Arc<Site>, serving: Serving) {
    let deadline = Instant::now() + STOP;
    // While this node still serves: what comes meanwhile goes to whoever leads then.
    let leaving = spawn("leave", {
        let site = Arc::clone(site);
        move || site.leave(STOP - CLOSE)
    });
    let left = || leaving.as_ref().map_or(true, JoinHandle::is_finished);
    wait(Instant::now() + HAND_OVER, left);
    // New connections end first: whoever hears that this one closes would come back at once.
    let mut paused = pin!(serving.handle.pause());
    wait(Instant::now() + LOOK, || paused.as_mut().now_or_never().is_some());
    thread::sleep(PAUSE);
    let late = serving.listeners.close();
    site.stopping.send_replace(true);
    let mut quiet = 0;
    wait((Instant::now() + DRAIN).min(deadline - CLOSE), || {
        quiet = if site.metrics.connections.load(Ordering::Relaxed) == 0 { quiet + 1 } else { 0 };
        quiet >= QUIET
    });
    // The command is sent by the call; what it returns only waits.
    drop(serving.handle.stop(false));
    wait(Instant::now() + LOOK, || serving.thread.is_finished());
    log::debug!("{} connections came too late", late.count());
    if !wait(deadline - CLOSE, left) {
        log::warn!("the lead was not handed over in time");
    }
    let closing = spawn("close", {
        let site = Arc::clone(site);
        move || match site.close() {
            Ok(()) => log::info!("closed"),
            Err(error) => log::debug!("close: {error}"),
        }
    });
    match closing {
        Ok(thread) => {
            if !wait(deadline, || thread.is_finished()) {
                log::warn!("the store did not close in time; the next start reads its log");
            }
        }
        Err(error) => log::warn!("{error}"),
    }
}

/// Waits until `done`, which is asked every few milliseconds, or `deadline`; true if it was done.
fn wait(deadline: Instant, mut done: impl FnMut() -> bool) -> bool {
    while !done() {
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
    true
}

/// Binds the port and serves on threads of their own.
pub(crate) fn serve(options: &NodeOptions, site: &Arc<Site>, limits: Limits) -> Result<Serving> {
    let failed = |error: io::Error| {
        let address = address::join(&options.host, options.port);
        Error::new(Kind::System, format!("cannot listen on {address}")).cause(error)
    };
    let listeners = match listen::bind(&options.host, options.port) {
        Ok(listeners) => listeners,
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(in_use(options)),
        Err(error) => return Err(failed(error)),
    };
    let second = Listeners::of(&listeners).map_err(failed)?;
    let port = match listeners.first() {
        Some(listener) => listener.local_addr().map_err(failed)?.port(),
        None => options.port,
    };
    let (up, started) = sync_channel(1);
    let thread = spawn("http", {
        let (threads, site) = (options.threads, Arc::clone(site));
        move || serve_here(listeners, threads, &site, limits, &up)
    })?;
    match started.recv() {
        Ok(Ok(handle)) => Ok(Serving { handle, port, thread, listeners: second }),
        Ok(Err(error)) => Err(failed(error)),
        Err(_) => Err(Error::new(Kind::System, "the HTTP server did not start")),
    }
}

fn serve_here(
    listeners: Vec<TcpListener>,
    threads: Option<usize>,
    site: &Arc<Site>,
    limits: Limits,
    up: &SyncSender<io::Result<ServerHandle>>,
) {
    System::new().block_on(async {
        let threads =
            threads.unwrap_or_else(|| thread::available_parallelism().map_or(2, |n| n.get())).max(1);
        let server = Server::build()
            .workers(threads)
            .max_concurrent_connections((CONNECTIONS / threads).max(1))
            .disable_signals();
        let server = listeners.into_iter().try_fold(server, |server, listener| {
            let site = Arc::clone(site);
            server.listen("http", listener, move || front::service(Arc::clone(&site), limits))
        });
        // `serve` waits at the other end.
        let server = match server {
            Ok(server) => server.run(),
            Err(error) => return drop(up.send(Err(error))),
        };
        let _ = up.send(Ok(server.handle()));
        if let Err(error) = server.await {
            log::error!("the HTTP server: {error}");
        }
        let _ = site.events.send(Event::ServerEnded);
    });
}

/// Says who holds the port, if it is one of us.
fn in_use(options: &NodeOptions) -> Error {
    let port = options.port;
    let host = if address::is_loopback(&options.host) { options.host.as_str() } else { "127.0.0.1" };
    let there = address::join(host, port);
    let caller = Caller::new(options.token.clone());
    let timeout = Duration::from_secs(1);
    let Ok(view) = caller.get::<ClusterView>(&there, "/cluster", timeout) else {
        return Error::new(Kind::System, format!("port {port} is in use by another program"))
            .hint("choose another port");
    };
    let role = caller
        .get::<serde_json::Value>(&there, "/health", timeout)
        .ok()
        .and_then(|health| Some(health.get("role")?.as_str()?.to_owned()))
        .unwrap_or_else(|| "node".to_owned());
    let cluster =
        if view.cluster.is_empty() { "a cluster".to_owned() } else { format!("cluster {}", view.cluster) };
    Error::new(Kind::System, format!("port {port} is in use by a catstore {role} of {cluster}"))
        .hint("choose another port, or stop that one")
}

/// The first signal asks the node to stop; the second ends the process at once.
fn listen_for_signals(events: &Sender<Event>) {
    let Ok(runtime) = Runtime::new() else { return };
    runtime.block_on(async {
        let (Ok(mut interrupt), Ok(mut terminate)) =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            log::warn!("signals cannot be heard");
            return;
        };
        for round in 0.. {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if round > 0 || events.send(Event::Signal).is_err() {
                std::process::exit(130);
            }
        }
    });
}

/// Raises the number of files and sockets that this process may open to what the system allows it.
pub fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        log::debug!("the limit of open files stays at {:?}: {error}", limit.current);
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map_err(|error| Error::new(Kind::System, format!("cannot start the thread {name}")).cause(error))
}
