//! HTTP: routes, guards, errors, forwarding. No decisions about data.
//!
//! The way of a request: `front` looks after its connection while actix reads its head, and says (`refuse`) what is
//! wrong with one that never becomes a request; `line`, `wire` and `patience` are its parts. `door` takes it, asks for
//! the token ([`guard`]), reads its line ([`route`]) and refuses what another web site sent. A read of our own key is
//! answered on the spot (`values`). A write is read whole (`body`), handed to the replica (`write`), and answered when
//! that has replied. What this node cannot answer by itself now is an `errand`: it looks who answers for the slot
//! (`owner`, `given`), sends the request there (`forward`) with the time that is left, takes the `answer`, and looks again
//! where somebody else came to lead or to own the slot (`course` is how far it is; `news` are newer routes). A list is one
//! errand for each group that owns slots (`lists`), and `merge` makes one page of theirs. Every error becomes a problem document in [`error`], the only place that knows
//! statuses; `respond` words the rest, and `range` says what parts of a value an answer is made of.
//!
//! The life of a node: `run` binds the port (`listen`), has it started (`worker`, `master`), watches over it and stops
//! it; `node` is its mode as a value, which `/close` and `/worker` change; `beat` keeps the master informed.
//!
//! Invariants: nothing waits without a deadline; bodies, forwarded requests and answers in memory are bounded; a
//! write without a request id is sent until somebody may have done it, and never again; only 504 leaves open whether
//! it happened; no lock is held across an await; keys and
//! values are bytes and the router never decodes before it splits.
//!
//! Left out: what commands mean (`replica`), who owns what (`cluster`), the command line (`cmd`).

mod address;
mod answer;
pub mod batch;
mod beat;
mod body;
mod call;
pub mod condition;
mod config;
pub mod content_type;
mod copying;
mod course;
mod door;
mod errand;
pub mod error;
mod facts;
mod files;
mod forward;
mod front;
#[cfg(test)]
mod front_tests;
mod given;
#[cfg(test)]
mod group_tests;
pub mod guard;
mod held;
mod internal;
mod line;
mod listen;
mod lists;
mod many;
mod master;
mod merge;
mod metrics;
#[cfg(test)]
mod moved_tests;
mod moving;
mod news;
mod node;
mod owner;
mod patience;
mod peers;
pub mod percent;
pub mod query;
mod range;
mod refuse;
#[cfg(test)]
mod removed_tests;
mod respond;
#[cfg(test)]
mod respond_tests;
pub mod route;
mod run;
mod site;
mod streaming;
pub mod ttl;
mod upload;
mod values;
mod verifying;
mod wire;
#[cfg(test)]
mod wire_tests;
mod worker;
mod write;

pub use crate::replica::chunk::MOST_BYTES;
pub use crate::replica::inspect;
pub use config::{MasterOptions, NodeOptions, WorkerOptions};
pub use master::recover::survey;
pub use run::raise_open_files;

use crate::error::Result;
use crate::replica::Sizes;
use crate::replica::handle::Options;
use guard::Guard;
use node::Node;
use peers::HttpWire;
use site::{Member, Site};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

/// Runs a master until SIGINT or SIGTERM; prints its ready line on standard output.
///
/// Errors: `Usage`, `System` (the port), `Foreign`, `Damaged`.
pub fn run_master(options: MasterOptions) -> Result<()> {
    options.node.check()?;
    let (events, ear) = channel();
    let wire = Arc::new(HttpWire::new(options.node.token.clone()));
    let master = master::Master::new(Node::new("master", replica_options(&options.node, &wire)), wire);
    let site = Arc::new(Site::new(Member::Master(Box::new(master)), guard_of(&options.node), events));
    let node = options.node.clone();
    run::run(&node, site, ear, move |site, port| master::start::start_master(site, &options, port))
}

/// Runs a worker until SIGINT or SIGTERM; prints its ready line on standard output.
///
/// Errors: as [`run_master`], and `Unreachable` (no master), `Conflict` (the master refuses).
pub fn run_worker(options: WorkerOptions) -> Result<()> {
    options.node.check()?;
    let (events, ear) = channel();
    let wire = Arc::new(HttpWire::new(options.node.token.clone()));
    let replica = Options {
        quorum_reads: options.quorum_reads,
        reserve: options.reserve,
        keep: options.keep_uploads,
        ..replica_options(&options.node, &wire)
    };
    let worker = worker::Worker::new(&options, Node::new("worker", replica), wire)?;
    let site = Arc::new(Site::new(Member::Worker(Box::new(worker)), guard_of(&options.node), events));
    let node = options.node.clone();
    run::run(&node, site, ear, move |site, port| worker::start(site, &options, port))
}

/// Free bytes of its disk below which a master takes no changes. A compaction of LevelDB writes four memtables and what they lie over
/// before it removes them.
const MASTERS_RESERVE: u64 = 192 << 20;

fn replica_options(options: &NodeOptions, wire: &Arc<HttpWire>) -> Options {
    Options {
        sizes: Sizes { cache: options.cache },
        wire: wire.clone(),
        quorum_reads: false,
        reserve: MASTERS_RESERVE,
        keep: Duration::ZERO,
    }
}

fn guard_of(options: &NodeOptions) -> Guard {
    Guard::new(options.token.clone(), options.names())
}
