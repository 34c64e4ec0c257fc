//! The client: finds a cluster, learns who owns which key, goes there, and repeats what may be repeated.
//!
//! The way of a request: [`Client`] asks the seeds for `GET /cluster` once (`find`), and from then on `routes`
//! orders the nodes for each request: the owner of the slot first, then whoever forwards. `wire` makes one attempt
//! at one node. If it fails, `decide` says what follows: another node, new routes, a pause, or the end. What the
//! request went through so far is its `journey`. Answers name the epoch of the node's routes; if it is higher than that of
//! the known ones, that node is asked for its own before the next request. The nodes of the cluster are kept in the user's cache folder
//! ([`memory`]), for the day on which no seed answers.
//!
//! Every write carries an id (`sessions`), the same for each attempt: whoever executes it twice answers as the first
//! time and changes nothing. So a write whose outcome is unknown is sent again, through any node, until it is answered.
//!
//! Values of any size come and go as streams, in constant memory: a file is read again for each attempt (`upload`),
//! what can be read only once is tried again as long as nothing of it is lost, an upload that broke off goes on with the
//! chunks that the store does not have (`resume`), and a download from where it was (`transfer`).
//!
//! Invariants: a write is sent again only under its id, and ends as `unknown_outcome` if an attempt may have been done
//! and no answer told; what carries no id (closing, opening) is not sent again when its outcome is unknown; once the
//! cluster is known, every request names it, so that no node of another one acts on it; every answer that is held in
//! memory has a bound; a value that does not match its checksum is never returned.
//!
//! Whoever puts load on a cluster has many requests under way on one thread: a [`Lane`] sends small ones and hears their
//! answers without waiting, and leaves what is not plain to its client.
//!
//! Left out: what commands print (`cmd`).

pub mod address;
mod answer;
mod body;
pub mod decide;
mod early;
pub mod encode;
mod find;
pub use crate::cluster::frames;
mod journey;
pub mod lane;
mod masters;
pub mod memory;
mod pages;
mod requests;
mod resume;
pub mod routes;
mod sessions;
mod tcp;
mod transfer;
mod upload;
pub mod values;
mod wire;

#[cfg(test)]
mod tests;

pub use address::parse_address;
pub use body::ReadSeek;
pub use lane::{Heard, Lane, Reply};
pub use pages::Pages;
pub use values::{
    Condition, Facts, GetOptions, Held, ListOptions, Progress, PutOptions, Resumed, Sink, Stage, Stored,
    Value,
};

use crate::cluster::view::ClusterView;
use crate::error::{Error, Kind, Result};
use answer::Answer;
use decide::{Next, Outcome, Situation, decide, wait};
use journey::{Journey, Notice};
use routes::{Candidates, Target, candidates};
use sessions::Sessions;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use ureq::http::HeaderValue;
use wire::{Failure, Request, Wire};

/// The largest value that is held in memory, in bytes; larger ones come and go as streams.
pub const MAX_HELD: usize = 64 * 1024 * 1024;
/// The longest key in bytes.
pub const MAX_KEY: usize = 4096;
/// A request ends within this time unless the builder says otherwise.
const DEADLINE: Duration = Duration::from_secs(30);
/// A node that gave no answer is asked last for so long.
const SUSPICION: Duration = Duration::from_secs(10);
/// So many nodes may be suspect.
const MOST_SUSPECTS: usize = 1024;
/// So many idle connections to a node are kept unless the builder says otherwise.
const KEPT: usize = 64;
/// A request that found its answer by a detour spends at most so long on learning the way for the next one.
const LEARNING: Duration = Duration::from_millis(500);

/// A client of one cluster. Blocking; may be shared between threads.
pub struct Client {
    wire: Wire,
    seeds: Vec<String>,
    deadline: Duration,
    memory: Option<PathBuf>,
    notice: Option<Notice>,
    routes: Mutex<Routes>,
    sessions: Sessions,
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
    /// Nodes that gave no answer, and until when they are asked last.
    suspects: HashMap<String, Instant>,
    /// When a node was last asked for routes because its answer showed that these are old.
    renewed: Option<Instant>,
}

impl Routes {
    fn is_suspect(&self, address: &String) -> bool {
        self.suspects.get(address).is_some_and(|until| Instant::now() < *until)
    }
}

/// How to make a [`Client`].
#[derive(Debug, Clone)]
pub struct Builder {
    seeds: Vec<String>,
    token: Option<String>,
    deadline: Duration,
    memory: Option<PathBuf>,
    notice: Option<Notice>,
    connections: usize,
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

    /// How many threads will use the client at once; 64 by default. With more, some would open a connection for each request.
    pub fn connections(mut self, connections: usize) -> Builder {
        self.connections = connections;
        self
    }

    /// The folder that remembers the nodes of clusters; `None` remembers nothing. By default
    /// `${XDG_CACHE_HOME:-~/.cache}/catstore`.
    pub fn memory(mut self, folder: Option<PathBuf>) -> Builder {
        self.memory = folder;
        self
    }

    /// Called with what a request waits for, if it takes longer than a second, and with `None` once it ends.
    pub fn notice(mut self, tell: impl Fn(Option<&str>) + Send + Sync + 'static) -> Builder {
        self.notice = Some(Notice(Arc::new(tell)));
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
        let wire = Wire::new(self.token, self.connections);
        let Builder { deadline, notice, .. } = self;
        Ok(Client {
            wire,
            seeds,
            deadline,
            memory,
            notice,
            routes: Mutex::default(),
            sessions: Sessions::default(),
        })
    }
}

/// A request and whom it is for.
struct Operation<'a> {
    target: Target<'a>,
    request: Request<'a>,
    /// Kinds of error that only the owner's machine answers.
    told: &'a [Kind],
}

impl Client {
    /// A client of the cluster that any of `seeds` belongs to. Errors as [`Builder::build`].
    pub fn new(seeds: Vec<String>, token: Option<String>) -> Result<Client> {
        Client::builder(seeds).token(token).build()
    }

    /// Sets a client up step by step.
    pub fn builder(seeds: Vec<String>) -> Builder {
        let memory = memory::default_folder();
        Builder { seeds, token: None, deadline: DEADLINE, memory, notice: None, connections: KEPT }
    }

    /// Another client of the same cluster, for one thread. It knows what this one knows now, and shares nothing with it: what
    /// each of many threads does many times a second needs no lock that another one holds.
    pub fn twin(&self) -> Client {
        let routes = self.routes();
        let learned = Routes {
            view: routes.view.clone(),
            extra: routes.extra.clone(),
            cluster: routes.cluster.clone(),
            suspects: routes.suspects.clone(),
            renewed: routes.renewed,
        };
        Client {
            wire: self.wire.twin(),
            seeds: self.seeds.clone(),
            deadline: self.deadline,
            memory: self.memory.clone(),
            notice: self.notice.clone(),
            routes: Mutex::new(learned),
            sessions: Sessions::default(),
        }
    }

    /// Sends a write until it is answered or given up, each time under the same id.
    fn write<T>(
        &self,
        mut operation: Operation<'_>,
        finish: impl FnMut(Answer) -> Result<T, Failure>,
    ) -> Result<T> {
        let id = self.sessions.next()?;
        operation.request.id = Some(id.text());
        self.run(&operation, finish)
    }

    /// Sends an operation until it is answered or given up. `finish` reads the answer; where it fails, the attempt
    /// has failed.
    fn run<T>(
        &self,
        operation: &Operation<'_>,
        mut finish: impl FnMut(Answer) -> Result<T, Failure>,
    ) -> Result<T> {
        let mut journey = Journey::new(self.deadline, &operation.request, self.notice.as_ref());
        self.known(journey.end)?;
        loop {
            let list = self.candidates(operation.target);
            let Some(address) = journey.choose(&list) else {
                return Err(nobody(operation.target));
            };
            let cluster = self.cluster_id();
            let wait = wait(&journey.situation(&list));
            let mut epoch = None;
            let began = Instant::now();
            let sent = self.wire.send(&address, &operation.request, cluster.as_ref(), wait);
            let attempt = sent.and_then(|answer| {
                epoch = answer.epoch();
                finish(answer)
            });
            self.note(&address, attempt.as_ref().err());
            let failure = match attempt {
                Ok(done) => {
                    match journey.was_long() {
                        true => self.refresh(Instant::now() + LEARNING),
                        false => self.renew(&address, epoch, journey.end),
                    }
                    return Ok(done);
                }
                Err(failure) => failure,
            };
            let body = operation.request.body;
            if body.is_stream() && failure.outcome != Outcome::NotSent {
                journey.carried(began.elapsed().saturating_sub(wait));
            }
            journey.failed(&failure, operation.told);
            let situation = Situation { jitter: find::jitter(), ..journey.situation(&list) };
            let next = match body.is_spent() || journey.is_too_long() {
                true => Next::GiveUp,
                false => decide(failure.outcome, &situation),
            };
            log::debug!("{address}: {}; {next:?}", failure.error);
            if next == Next::GiveUp {
                return Err(journey.last_word(failure));
            }
            let pause = if let Next::Later(pause) = next { pause } else { Duration::ZERO };
            journey.report(&failure.error, &situation, pause);
            match next {
                Next::GiveUp | Next::Elsewhere => {}
                Next::Reroute => {
                    self.refresh(journey.end);
                    journey.rerouted();
                }
                Next::Later(pause) => {
                    std::thread::sleep(pause);
                    self.refresh(journey.end);
                    journey.next_round();
                }
            }
        }
    }

    fn candidates(&self, target: Target<'_>) -> Candidates {
        let routes = self.routes();
        let mut list = candidates(routes.view.as_deref(), &routes.extra, target);
        list.suspect(|address| routes.is_suspect(address));
        list
    }

    /// Remembers for a while that a node gave no answer, or forgets it when it gave one.
    fn note(&self, address: &str, failure: Option<&Failure>) {
        let mut routes = self.routes();
        match failure.map(|failure| failure.outcome) {
            Some(
                Outcome::NotSent | Outcome::Silent | Outcome::Broken | Outcome::BodyCut | Outcome::HalfRead,
            ) => {
                if routes.suspects.len() >= MOST_SUSPECTS {
                    routes.suspects.clear();
                }
                routes.suspects.insert(address.to_owned(), Instant::now() + SUSPICION);
            }
            _ => {
                routes.suspects.remove(address);
            }
        }
    }

    fn cluster_id(&self) -> Option<HeaderValue> {
        self.routes().cluster.clone()
    }

    /// A poisoned lock only means that another thread panicked: routes are a cache and always whole.
    fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn nobody(target: Target<'_>) -> Error {
    match target {
        Target::Worker(index) => Error::new(Kind::NotFound, format!("the cluster has no worker {index}"))
            .hint("`catstore status` lists the workers"),
        _ => Error::new(Kind::Unreachable, "no address of a node is known"),
    }
}
