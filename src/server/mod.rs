//! HTTP: routes, guards, errors, forwarding. No decisions about data.
//!
//! The way of a request: `door` takes it, asks for the token ([`guard`]), reads its line ([`route`]) and refuses
//! what another web site sent. A read of our own key is answered on the spot (`values`). A write is read whole
//! (`body`), handed to the replica, and answered when that has replied. What belongs to another worker goes there
//! (`forward`), once, with the time that is left. Every error becomes a problem document in [`error`], the only
//! place that knows statuses; `respond` words the rest.
//!
//! The life of a node: `run` binds the port, has it started (`worker`, `master`), watches over it and stops it;
//! `node` is its mode as a value, which `/close` and `/worker` change; `beat` keeps the master informed.
//!
//! Invariants: nothing waits without a deadline; bodies, forwarded requests and answers in memory are bounded; a
//! write is sent once, and only 504 leaves open whether it happened; no lock is held across an await; keys and
//! values are bytes and the router never decodes before it splits.
//!
//! Left out: what commands mean (`replica`), who owns what (`cluster`), the command line (`cmd`).

mod address;
pub mod batch;
mod beat;
mod body;
mod call;
pub mod condition;
mod config;
pub mod content_type;
mod door;
pub mod error;
mod facts;
mod files;
mod forward;
pub mod guard;
mod held;
mod many;
mod master;
mod metrics;
mod node;
pub mod percent;
pub mod query;
pub mod range;
mod respond;
pub mod route;
mod run;
mod site;
pub mod ttl;
mod values;
#[cfg(test)]
mod wire_tests;
mod worker;

pub use config::{MasterOptions, NodeOptions, WorkerOptions};

use crate::cluster::directory::DirectoryCommand;
use crate::error::{Error, Kind, Result};
use crate::replica::found_master;
use crate::replica::handle::Options;
use crate::replica::{Folder, Role, Sizes};
use guard::Guard;
use node::{Mode, Node};
use site::{Member, Place, Site};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// How long a master's own first command may take.
const FIRST_COMMAND: Duration = Duration::from_secs(30);

/// Runs a master until SIGINT or SIGTERM; prints its ready line on standard output.
///
/// Errors: [`Kind::Usage`], [`Kind::System`] (the port), [`Kind::Foreign`], [`Kind::Damaged`].
pub fn run_master(options: MasterOptions) -> Result<()> {
    options.node.check()?;
    let (events, ear) = channel();
    let master = master::Master::new(Node::new("master", replica_options(&options.node)));
    let site = Arc::new(Site::new(Member::Master(master), guard_of(&options.node), events));
    let node = options.node.clone();
    run::run(&options.node, site, ear, move |site, port| start_master(site, &node, port))
}

/// Runs a worker until SIGINT or SIGTERM; prints its ready line on standard output.
///
/// Errors: as [`run_master`], and [`Kind::Unreachable`] (no master), [`Kind::Conflict`] (the master refuses).
pub fn run_worker(options: WorkerOptions) -> Result<()> {
    options.node.check()?;
    let (events, ear) = channel();
    let worker = worker::Worker::new(&options, Node::new("worker", replica_options(&options.node)))?;
    let site = Arc::new(Site::new(Member::Worker(worker), guard_of(&options.node), events));
    let node = options.node.clone();
    run::run(&node, site, ear, move |site, port| worker::start(site, &options, port))
}

fn replica_options(options: &NodeOptions) -> Options {
    Options { sizes: Sizes { cache: options.cache } }
}

fn guard_of(options: &NodeOptions) -> Guard {
    Guard::new(options.token.clone(), options.names())
}

/// Starts the master; returns its ready line. Blocks.
fn start_master(site: &Arc<Site>, options: &NodeOptions, port: u16) -> Result<String> {
    let Member::Master(master) = &site.member else {
        return Err(Error::new(Kind::System, "a worker was started as a master"));
    };
    let own = address::advertised(options, port, None);
    let mut folder = Folder::open(&options.data, Role::Master)?;
    let place = Place { address: own.clone(), data: folder.path().to_owned() };
    let line = format!("ready master at http://{own} data {}", place.data.display());
    // Set once: start runs once per process.
    let _ = site.place.set(place);
    found_master(&mut folder, &own, master.node.options())?;
    master.node.start(folder)?;
    if let Mode::Open(replica) = &*master.node.mode()
        && replica.directory()?.masters != [own.clone()]
    {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(|error| Error::new(Kind::System, "cannot wait for the directory").cause(error))?;
        let command = DirectoryCommand::MasterAddress { address: own };
        runtime.block_on(replica.submit(command, Instant::now() + FIRST_COMMAND))?;
    }
    master.refresh(site);
    Ok(line)
}
