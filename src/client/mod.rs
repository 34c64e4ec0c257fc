//! The client: finds a cluster, learns who owns which key, goes there, and repeats what may be repeated.
//!
//! The way of a request: [`Client`] asks the seeds for `GET /cluster` once (`find`), and from then on `routes`
//! orders the nodes for each request: the owner of the slot first, then whoever forwards. `wire` makes one attempt
//! at one node. If it fails, `decide` says what follows: another node, new routes, a pause, or the end. The nodes of
//! the cluster are kept in the user's cache folder ([`memory`]), for the day on which no seed answers.
//!
//! Invariants: a write whose outcome is unknown is never sent again, it ends as `unknown_outcome`; what was certainly
//! not written is repeated until the deadline; once the cluster is known, every request names it, so that no node of another one acts on it;
//! every answer that is held in memory has a bound; a value that does not match its checksum is never returned.
//!
//! Left out: what commands print (`cmd`), and request ids, with which a later version will make repeats of writes
//! exact.

pub mod address;
pub mod decide;
pub mod encode;
mod find;
pub mod memory;
mod pages;
mod requests;
pub mod routes;
mod transfer;
pub mod values;
mod wire;

#[cfg(test)]
mod tests;

pub use address::parse_address;
pub use pages::Pages;
pub use requests::too_large;
pub use values::{Condition, Facts, GetOptions, ListOptions, PutOptions, Stored, Value};

use crate::cluster::view::ClusterView;
use crate::error::{Error, Kind, Result};
use decide::{Next, Situation, decide, patience};
use routes::{Candidates, Target, candidates};
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use ureq::http::HeaderValue;
use wire::{Answer, Failure, Request, Wire};

/// The largest value that this version of catstore stores, in bytes.
pub const MAX_VALUE: usize = 8 * 1024 * 1024;
/// The longest key in bytes.
pub const MAX_KEY: usize = 4096;
/// A request ends within this time unless the builder says otherwise.
const DEADLINE: Duration = Duration::from_secs(30);
/// A request that waits longer than this says so in the log, once.
const SILENCE: Duration = Duration::from_secs(1);

/// A client of one cluster. Blocking; may be shared between threads.
pub struct Client {
    wire: Wire,
    seeds: Vec<String>,
    deadline: Duration,
    memory: Option<PathBuf>,
    routes: Mutex<Routes>,
}

/// What is known of the cluster.
#[derive(Default)]
struct Routes {
    view: Option<Arc<ClusterView>>,
    /// The address that led to the view: it may help where the view's addresses do not. Other seeds are not asked
    /// for keys before they have named this cluster as theirs.
    extra: Vec<String>,
    /// The id of the cluster, as every request to a node of it carries it.
    cluster: Option<HeaderValue>,
}

/// How to make a [`Client`].
#[derive(Debug, Clone)]
pub struct Builder {
    seeds: Vec<String>,
    token: Option<String>,
    deadline: Duration,
    memory: Option<PathBuf>,
}

impl Builder {
    /// The token that every request carries.
    pub fn token(mut self, token: Option<String>) -> Builder {
        self.token = token;
        self
    }

    /// A request ends within this time; 30 s by default. A value on its way is judged by its progress.
    pub fn deadline(mut self, deadline: Duration) -> Builder {
        self.deadline = deadline;
        self
    }

    /// The folder that remembers the nodes of clusters; `None` remembers nothing. By default
    /// `${XDG_CACHE_HOME:-~/.cache}/catstore`.
    pub fn memory(mut self, folder: Option<PathBuf>) -> Builder {
        self.memory = folder;
        self
    }

    /// Makes the client; asks nobody yet. Errors: [`Kind::Usage`] for an address that is none, or no address.
    pub fn build(self) -> Result<Client> {
        let seeds: Vec<String> = self.seeds.iter().map(|seed| parse_address(seed)).collect::<Result<_>>()?;
        if seeds.is_empty() {
            return Err(Error::new(Kind::Usage, "no address of a node is given")
                .hint("name one, as in 127.0.0.1:3000"));
        }
        if self
            .token
            .as_ref()
            .is_some_and(|token| token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()))
        {
            return Err(Error::new(Kind::Usage, "the token is empty or not of visible ASCII characters"));
        }
        let memory = self.memory.map(|folder| memory::file(&folder, &seeds));
        let wire = Wire::new(self.token);
        Ok(Client { wire, seeds, deadline: self.deadline, memory, routes: Mutex::default() })
    }
}

/// A request and whom it is for.
struct Operation<'a> {
    target: Target<'a>,
    request: Request<'a>,
}

impl Client {
    /// A client of the cluster that any of `seeds` belongs to. Errors as [`Builder::build`].
    pub fn new(seeds: Vec<String>, token: Option<String>) -> Result<Client> {
        Client::builder(seeds).token(token).build()
    }

    /// Sets a client up step by step.
    pub fn builder(seeds: Vec<String>) -> Builder {
        Builder { seeds, token: None, deadline: DEADLINE, memory: memory::default_folder() }
    }

    /// Sends an operation until it is answered or given up. `finish` reads the answer; where it fails, the attempt
    /// has failed.
    fn run<T>(
        &self,
        operation: &Operation<'_>,
        mut finish: impl FnMut(Answer) -> Result<T, Failure>,
    ) -> Result<T> {
        let start = Instant::now();
        let end = start + self.deadline;
        let mut journey = Journey::new(start, end, operation.request.is_write());
        self.known(end)?;
        loop {
            let list = self.candidates(operation.target);
            let Some(address) = journey.choose(&list) else {
                return Err(nobody(operation.target));
            };
            let cluster = self.cluster_id();
            let left = end.saturating_duration_since(Instant::now());
            let attempt =
                self.wire.send(&address, &operation.request, cluster.as_ref(), left).and_then(&mut finish);
            let failure = match attempt {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            };
            let next = decide(failure.outcome, &journey.situation(&list));
            log::debug!("{address}: {}; {next:?}", failure.error);
            match next {
                Next::GiveUp => return Err(last_word(failure.error, journey.write)),
                Next::Elsewhere => {}
                Next::Reroute => {
                    self.refresh(end);
                    journey.tried.clear();
                }
                Next::Later(pause) => {
                    journey.report(&failure.error);
                    std::thread::sleep(pause);
                    self.refresh(end);
                    journey.next_round();
                }
            }
        }
    }

    fn candidates(&self, target: Target<'_>) -> Candidates {
        let routes = self.routes();
        candidates(routes.view.as_deref(), &routes.extra, target)
    }

    fn cluster_id(&self) -> Option<HeaderValue> {
        self.routes().cluster.clone()
    }

    /// A poisoned lock only means that another thread panicked: routes are a cache and always whole.
    fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A read has no outcome that could be unknown: the node that said so could not reach the owner.
fn last_word(error: Error, write: bool) -> Error {
    if write || error.kind() != Kind::UnknownOutcome {
        return error;
    }
    Error::new(Kind::Unreachable, error.detail()).hint("try again")
}

fn nobody(target: Target<'_>) -> Error {
    match target {
        Target::Worker(index) => Error::new(Kind::NotFound, format!("the cluster has no worker {index}"))
            .hint("`catstore status` lists the workers"),
        Target::Master => Error::new(Kind::Unreachable, "no address of a master is known"),
        _ => Error::new(Kind::Unreachable, "no address of a node is known"),
    }
}

/// Where a request stands between its attempts.
struct Journey {
    start: Instant,
    end: Instant,
    write: bool,
    tried: HashSet<String>,
    attempts: u32,
    rounds: u32,
    reported: bool,
}

impl Journey {
    fn new(start: Instant, end: Instant, write: bool) -> Journey {
        Journey { start, end, write, tried: HashSet::new(), attempts: 0, rounds: 0, reported: false }
    }

    /// The best node that was not asked in this round.
    fn choose(&mut self, list: &Candidates) -> Option<String> {
        let untried = list.addresses.iter().find(|address| !self.tried.contains(*address));
        let address = untried.or(list.addresses.first())?.clone();
        self.tried.insert(address.clone());
        self.attempts += 1;
        Some(address)
    }

    fn situation(&self, list: &Candidates) -> Situation {
        let now = Instant::now();
        let untried = |addresses: &[String]| addresses.iter().any(|other| !self.tried.contains(other));
        Situation {
            write: self.write,
            untried: untried(&list.addresses),
            untried_member: untried(&list.addresses[..list.members]),
            attempts: self.attempts,
            rounds: self.rounds,
            elapsed: now.saturating_duration_since(self.start),
            left: self.end.saturating_duration_since(now),
            jitter: find::jitter(),
        }
    }

    fn next_round(&mut self) {
        self.rounds += 1;
        self.tried.clear();
    }

    /// Says once that the request waits, and why.
    fn report(&mut self, error: &Error) {
        let now = Instant::now();
        let elapsed = now.saturating_duration_since(self.start);
        if !self.reported && elapsed >= SILENCE {
            self.reported = true;
            let left = self.end.saturating_duration_since(now);
            let left = patience(error.kind(), elapsed, left).as_secs_f64().ceil();
            log::warn!("{}; trying again for up to {left} s", error.detail());
        }
    }
}
