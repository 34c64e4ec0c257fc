//! What all threads of a node share: what it is, the routes it knows, its guard, its limits, its counters.

use super::body::Budget;
use super::given::Given;
use super::guard::Guard;
use super::master::Master;
use super::metrics::Metrics;
use super::news::News;
use super::node::{Mode, Replica};
use super::owner::Leaders;
use super::worker::Worker;
use crate::cluster::view::ClusterView;
use crate::error::{Error, Kind, Result};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// What the main thread of a node is told.
pub(crate) enum Event {
    /// The start came to its end; the line to print.
    Started(Result<String>),
    /// Somebody asked the process to end.
    Signal,
    /// The process must end with this error.
    Fatal(Error),
    /// The HTTP server ended by itself.
    ServerEnded,
}

/// Where a node is.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The address that others use: `host:port`.
    pub(crate) address: String,
    /// The data folder.
    pub(crate) data: PathBuf,
}

/// What a node is.
pub(crate) enum Member {
    /// It stores keys.
    Worker(Box<Worker>),
    /// It keeps the directory.
    Master(Box<Master>),
}

/// Everything that the threads of a node share.
pub(crate) struct Site {
    /// What this node is.
    pub(crate) member: Member,
    /// Who may ask.
    pub(crate) guard: Guard,
    /// Where this node is, once it is known.
    pub(crate) place: OnceLock<Place>,
    /// Counters.
    pub(crate) metrics: Metrics,
    /// Bytes of bodies in memory.
    pub(crate) budget: Arc<Budget>,
    /// The share of memory that large answers take which are still being sent.
    pub(crate) answers: Arc<Budget>,
    /// Requests that wait for another node, or for somebody to lead.
    pub(crate) forwarding: AtomicUsize,
    /// Commands that wait for this node's own replica.
    pub(crate) submitting: AtomicUsize,
    /// Who leads the groups, as far as this node heard.
    pub(crate) leaders: Leaders,
    /// Slots that changed hands, as far as this node heard since its routes came.
    pub(crate) given: Given,
    /// When it last asked for newer routes.
    pub(crate) news: News,
    /// Becomes true when the node stops: bodies that are still arriving are dropped.
    pub(crate) stopping: watch::Sender<bool>,
    /// The ear of the main thread.
    pub(crate) events: Sender<Event>,
    view: RwLock<Arc<ClusterView>>,
    /// The epoch of the view.
    epoch: AtomicU64,
}

impl Site {
    /// The shared part of a new node.
    pub(crate) fn new(member: Member, guard: Guard, events: Sender<Event>) -> Site {
        Site {
            member,
            guard,
            place: OnceLock::new(),
            metrics: Metrics::default(),
            budget: Arc::new(Budget::default()),
            answers: Arc::new(Budget::default()),
            forwarding: AtomicUsize::new(0),
            submitting: AtomicUsize::new(0),
            leaders: Leaders::default(),
            given: Given::default(),
            news: News::default(),
            stopping: watch::Sender::new(false),
            events,
            view: RwLock::default(),
            epoch: AtomicU64::new(0),
        }
    }

    /// The routes as this node knows them.
    pub(crate) fn view(&self) -> Arc<ClusterView> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes `view` if it is newer than the one that is known; true if it was.
    pub(crate) fn learn(&self, view: ClusterView) -> bool {
        let mut known = self.view.write().unwrap_or_else(PoisonError::into_inner);
        let newer = known.cluster.is_empty() || view.rank() > known.rank();
        if newer {
            self.epoch.store(view.epoch, Ordering::Relaxed);
            *known = Arc::new(view);
            self.given.clear();
        }
        newer
    }

    /// The epoch of the routes that this node knows; 0 if it knows none.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// Takes over who leads each group, as a master has heard.
    pub(crate) fn learn_leaders(&self, leaders: &BTreeMap<u32, u32>) {
        for (group, leader) in leaders {
            self.leaders.heard(*group, *leader);
        }
        let mut known = self.view.write().unwrap_or_else(PoisonError::into_inner);
        if known.leaders() != *leaders {
            Arc::make_mut(&mut known).set_leaders(leaders);
        }
    }

    /// The address of this node; empty before it is known.
    pub(crate) fn address(&self) -> &str {
        self.place.get().map_or("", |place| &place.address)
    }

    /// The worker that serves here, if its store is open; says why not otherwise.
    pub(crate) fn worker(&self) -> Result<&Worker> {
        match &self.member {
            Member::Worker(worker) => Ok(worker),
            Member::Master(_) => Err(self.no_worker()),
        }
    }

    /// Refuses unless this node serves keys: a master always does, by forwarding; a worker while it is open.
    pub(crate) fn check_open(&self) -> Result<()> {
        match &self.member {
            Member::Worker(worker) => self.with_open(&worker.node.mode(), |_| Ok(())),
            Member::Master(_) => Ok(()),
        }
    }

    /// The error for a mode other than open, with the command that opens the node again.
    pub(crate) fn refusal(&self) -> Error {
        match &self.member {
            Member::Worker(worker) => {
                let error = worker.node.refusal(&worker.node.mode());
                match (error.kind(), worker.index()) {
                    (Kind::Closed, Some(index)) => error.hint(format!("open it: catstore open {index}")),
                    _ => error,
                }
            }
            Member::Master(master) => {
                let error = master.node.refusal(&master.node.mode());
                match error.kind() {
                    Kind::Closed => error.hint(format!("open it: GET http://{}/master", self.address())),
                    _ => error,
                }
            }
        }
    }

    /// The word for this node's mode.
    pub(crate) fn mode_word(&self) -> &'static str {
        match &self.member {
            Member::Worker(worker) => worker.node.mode().word(),
            Member::Master(master) => master.node.mode().word(),
        }
    }

    /// The error of a cluster whose slots nobody owns yet.
    pub(crate) fn no_worker(&self) -> Error {
        let master = match &self.member {
            Member::Master(_) => self.address().to_owned(),
            Member::Worker(worker) => worker.masters.first().cloned().unwrap_or_default(),
        };
        let master = match super::address::split(&master) {
            (host, Some(port)) if super::address::is_loopback(host) => port.to_string(),
            _ => master,
        };
        Error::new(Kind::NoWorker, "no worker stores keys yet")
            .hint(format!("start one: catstore worker 3001 --master {master}"))
    }

    /// Looks whether the replica failed since the last look. Returns what it died of.
    pub(crate) fn check(&self) -> Option<Error> {
        match &self.member {
            Member::Worker(worker) => worker.node.check(),
            Member::Master(master) => master.node.check(),
        }
    }

    /// Hands the lead over, if this member has it and another one can take it, and waits for the commands that it took
    /// while it led. Blocks, for `patience` at most.
    pub(crate) fn leave(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let leads = match &self.member {
            Member::Worker(worker) => worker.node.leave(patience),
            Member::Master(master) => master.node.leave(patience),
        };
        while !leads && self.submitting.load(Ordering::Relaxed) > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Closes the replica. Blocks.
    pub(crate) fn close(&self) -> Result<()> {
        match &self.member {
            Member::Worker(worker) => worker.node.close(),
            Member::Master(master) => master.node.close(),
        }
    }

    /// Gives `work` the open replica of this worker.
    pub(crate) fn with_open<H: Replica, T>(
        &self,
        mode: &Mode<H>,
        work: impl FnOnce(&H) -> Result<T>,
    ) -> Result<T> {
        match mode {
            Mode::Open(replica) => work(replica),
            _ => Err(self.refusal()),
        }
    }
}
