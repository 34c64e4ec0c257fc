//! The life of a node's process: bind, start, serve, stop.
//!
//! The port is bound before anything else is touched, so that a second node on it changes nothing; requests that
//! come before the node is ready get 503. A thread starts the node while the main thread listens to events. To
//! stop: no new connections, the requests that were accepted are answered (bodies that are still arriving are
//! dropped), then the replica is closed, all within five seconds.

use super::address;
use super::call::Caller;
use super::config::NodeOptions;
use super::door::Door;
use super::site::{Event, Site};
use crate::cluster::view::ClusterView;
use crate::error::{Error, Kind, Result};
use actix_web::dev::{ServerHandle, fn_service};
use actix_web::rt::signal::unix::{SignalKind, signal};
use actix_web::rt::{Runtime, System};
use actix_web::{App, HttpServer};
use std::io::{self, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long accepted requests may take when the node stops, in seconds.
const DRAIN: u64 = 3;
/// When the whole process should be gone after a signal.
const STOP: Duration = Duration::from_millis(4800);
/// Before connections are closed, their next answers say so for at most this long, and until none is under way.
const FAREWELL: Duration = Duration::from_millis(500);
/// How often the main thread looks after the replica.
const LOOK: Duration = Duration::from_millis(100);
const BACKLOG: u32 = 4096;
const CONNECTIONS: usize = 50_000;

/// A server that runs.
pub(crate) struct Serving {
    /// Stops it.
    pub(crate) handle: ServerHandle,
    /// The port that it got.
    pub(crate) port: u16,
    /// The thread that ends with it.
    pub(crate) thread: JoinHandle<()>,
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
    let serving = serve(options, &site)?;
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
    site.stopping.send_replace(true);
    say_farewell(site);
    // The command is sent by the call; what it returns only waits, and the thread below is waited for anyway.
    drop(serving.handle.stop(true));
    wait(&serving.thread, deadline - Duration::from_millis(1200));
    let closing = spawn("close", {
        let site = Arc::clone(site);
        move || match site.close() {
            Ok(()) => log::info!("closed"),
            Err(error) => log::debug!("close: {error}"),
        }
    });
    match closing {
        Ok(thread) => {
            if !wait(&thread, deadline) {
                log::warn!("the store did not close in time; the next start reads its log");
            }
        }
        Err(error) => log::warn!("{error}"),
    }
}

/// Lets every client that is in the middle of a conversation hear `Connection: close` with its next answer, so that
/// none of them sends a request into a connection that is being closed.
fn say_farewell(site: &Site) {
    let deadline = Instant::now() + FAREWELL;
    let mut quiet = 0;
    while quiet < 5 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
        let under_way = site.metrics.in_flight.load(Ordering::Relaxed);
        quiet = if under_way == 0 { quiet + 1 } else { 0 };
    }
}

fn wait(thread: &JoinHandle<()>, deadline: Instant) -> bool {
    while !thread.is_finished() {
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
    true
}

/// Binds the port and serves on threads of their own.
pub(crate) fn serve(options: &NodeOptions, site: &Arc<Site>) -> Result<Serving> {
    let (up, bound) = sync_channel(1);
    let thread = spawn("http", {
        let (options, site) = (options.clone(), Arc::clone(site));
        move || serve_here(&options, &site, &up)
    })?;
    match bound.recv() {
        Ok(Ok((handle, port))) => Ok(Serving { handle, port, thread }),
        Ok(Err(error)) if error.kind() == io::ErrorKind::AddrInUse => Err(in_use(options)),
        Ok(Err(error)) => {
            let address = address::join(&options.host, options.port);
            Err(Error::new(Kind::System, format!("cannot listen on {address}")).cause(error))
        }
        Err(_) => Err(Error::new(Kind::System, "the HTTP server did not start")),
    }
}

fn serve_here(options: &NodeOptions, site: &Arc<Site>, up: &SyncSender<io::Result<(ServerHandle, u16)>>) {
    System::new().block_on(async {
        let factory = {
            let site = Arc::clone(site);
            move || {
                let door = Rc::new(Door::new(Arc::clone(&site)));
                App::new().default_service(fn_service(move |request| Rc::clone(&door).serve(request)))
            }
        };
        let threads =
            options.threads.unwrap_or_else(|| thread::available_parallelism().map_or(2, |n| n.get()));
        let host = options.host.trim_start_matches('[').trim_end_matches(']');
        let bound = HttpServer::new(factory)
            .workers(threads.max(1))
            .backlog(BACKLOG)
            .max_connections((CONNECTIONS / threads.max(1)).max(1))
            .keep_alive(Duration::from_secs(75))
            .client_request_timeout(Duration::from_secs(10))
            .client_disconnect_timeout(Duration::from_secs(2))
            .on_connect(|connection, _| cut_off_idle_readers(connection))
            .shutdown_timeout(DRAIN)
            .disable_signals()
            .bind((host, options.port));
        let server = match bound {
            Ok(server) => server,
            Err(error) => {
                // `serve` waits at the other end.
                let _ = up.send(Err(error));
                return;
            }
        };
        let port = server.addrs().first().map_or(options.port, |address| address.port());
        let server = server.run();
        let _ = up.send(Ok((server.handle(), port)));
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

/// A client that takes nothing of its answer for so long is cut off by the system (TCP_USER_TIMEOUT counts bytes that
/// are not acknowledged, also while the client's window is closed).
fn cut_off_idle_readers(connection: &dyn std::any::Any) {
    const PATIENCE_MS: u32 = 30_000;
    if let Some(stream) = connection.downcast_ref::<actix_web::rt::net::TcpStream>()
        && let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(stream, PATIENCE_MS)
    {
        log::debug!("a connection keeps the system's own patience: {error}");
    }
}

/// Raises the number of files and sockets that this process may open to what the system allows it.
fn raise_open_files() {
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
