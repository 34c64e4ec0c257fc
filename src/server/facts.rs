//! What a node says of itself, and opening and closing it: `/worker`, `/master`, `/close`, `/cluster`, `/health`,
//! `/metrics`.

use super::beat;
use super::door::{Asked, Door};
use super::forward;
use super::many::blocking;
use super::master::requests;
use super::metrics::Gauges;
use super::node::Mode;
use super::respond;
use super::site::{Member, Site};
use super::worker::Worker;
use crate::cluster::view::{ClusterView, FactsReply, RecoveredReply, WorkerFacts};
use crate::error::{Error, Kind, Result};
use actix_web::HttpResponse;
use actix_web::dev::Payload;
use actix_web::http::header::{CONTENT_TYPE, HeaderValue};
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long a node that is about to close may take to hand over the lead of its group.
const LEAVE: Duration = Duration::from_secs(2);

/// The version of catstore that this is.
pub(crate) const SOFTWARE: &str = env!("CARGO_PKG_VERSION");

/// The answer of `/worker`: the worker's facts, and how it gets on with its masters.
#[derive(Serialize)]
struct Described<'a> {
    #[serde(flatten)]
    facts: WorkerFacts,
    failure: Option<String>,
    masters: &'a [String],
    heartbeat: serde_json::Value,
    mover: serde_json::Value,
}

/// Opens the worker if it was closed, and describes it.
pub(crate) async fn worker(door: &Door, index: Option<u32>) -> Result<HttpResponse> {
    let worker = this_worker(&door.site, index)?;
    let site = Arc::clone(&door.site);
    let opened = blocking(move || match &site.member {
        Member::Worker(worker) => worker.node.open(),
        Member::Master(_) => Ok(false),
    })
    .await;
    match opened {
        Ok(true) => {
            log::info!("worker {} is open again", worker.index().unwrap_or_default());
            worker.beat.wake();
        }
        Ok(false) => {}
        // A worker that failed still says who it is; one that starts does too.
        Err(error) if matches!(error.kind(), Kind::Closed) => return Err(error),
        Err(error) => log::debug!("/worker: {error}"),
    }
    let document = Described {
        facts: worker_facts(&door.site, worker),
        failure: worker.node.obstacle().map(|error| error.to_string()),
        masters: &worker.masters,
        heartbeat: worker.beat.describe(),
        mover: worker.moving.describe(),
    };
    Ok(respond::json(&document, true))
}

/// `GET /internal/facts`: what this worker knows, should the masters be lost. A closed one stays closed.
pub(crate) fn lasting(site: &Site) -> Result<HttpResponse> {
    let worker = this_worker(site, None)?;
    if worker.registered().is_none() {
        return Err(forward::starting());
    }
    let view = ClusterView::clone(&site.view());
    let reply = FactsReply { facts: worker_facts(site, worker), run: worker.run(), view };
    Ok(respond::json(&reply, false))
}

/// `POST /internal/recovered`: masters that were recovered show this worker their view. From then on it is theirs.
pub(crate) async fn recovered(door: &Door, asked: &Asked<'_>, payload: &mut Payload) -> Result<HttpResponse> {
    let view: ClusterView = requests::document(door, asked, payload).await?;
    let site = &door.site;
    let worker = this_worker(site, None)?;
    let registered = worker.registered().ok_or_else(forward::starting)?;
    if view.cluster != registered.cluster {
        let detail =
            format!("this worker belongs to cluster {}, not to {}", registered.cluster, view.cluster);
        return Err(Error::new(Kind::Foreign, detail));
    }
    view.slots.check().map_err(|why| Error::new(Kind::BadRequest, why))?;
    if view.rank().0 > site.view().rank().0 {
        log::warn!(
            "the masters were recovered: this worker follows {} now, and nobody of before",
            view.masters.join(", ")
        );
    }
    let shared = Arc::clone(site);
    blocking(move || {
        if let Member::Worker(worker) = &shared.member {
            beat::learn(&shared, worker, view);
        }
        Ok(())
    })
    .await?;
    worker.beat.wake();
    Ok(respond::json(&RecoveredReply { incarnation: site.view().rank().0 }, false))
}

/// Opens the master if it was closed, and describes what it holds.
pub(crate) async fn master(door: &Door) -> Result<HttpResponse> {
    let Member::Master(master) = &door.site.member else {
        return Err(not_a_master(&door.site));
    };
    let site = Arc::clone(&door.site);
    let opened = blocking(move || match &site.member {
        Member::Master(master) => master.node.open(),
        Member::Worker(_) => Ok(false),
    })
    .await;
    match opened {
        Ok(true) => {
            log::info!("the master is open again");
            master.listen_anew();
            master.refresh(&door.site);
        }
        Ok(false) => {}
        Err(error) if matches!(error.kind(), Kind::Closed) => return Err(error),
        Err(error) => log::debug!("/master: {error}"),
    }
    if let Mode::Starting = &*master.node.mode() {
        return Err(master.node.refusal(&Mode::Starting));
    }
    Ok(respond::json(&master.status(&door.site), true))
}

/// Closes this node; `index` names a worker, none the master.
pub(crate) async fn close(door: &Door, index: Option<u32>) -> Result<HttpResponse> {
    let line = match (&door.site.member, index) {
        (Member::Master(_), None) => "the master is closed; /master opens it again".to_owned(),
        (Member::Worker(_), Some(index)) => {
            this_worker(&door.site, Some(index))?;
            format!("worker {index} is closed; /worker/{index} opens it again")
        }
        (Member::Master(_), Some(index)) => return Err(elsewhere(&door.site, index, "this is a master")),
        (Member::Worker(worker), None) => {
            let index = worker.index().map_or_else(|| "IDX".to_owned(), |index| index.to_string());
            return Err(Error::new(
                Kind::BadRequest,
                "/close without an index closes a master, and this is a worker",
            )
            .hint(format!("close this worker with /close/{index}")));
        }
    };
    let site = Arc::clone(&door.site);
    blocking(move || {
        site.leave(LEAVE);
        site.close()
    })
    .await?;
    log::info!("{line}");
    if let Member::Worker(worker) = &door.site.member {
        worker.beat.wake();
    }
    Ok(respond::text(line))
}

/// The routes as this node knows them.
pub(crate) fn cluster(site: &Site) -> HttpResponse {
    respond::json(&site.view_for_others(), false)
}

/// Whether this node can serve.
pub(crate) fn health(site: &Site) -> Result<HttpResponse> {
    let obstacle = match &site.member {
        Member::Worker(worker) => worker.node.obstacle(),
        Member::Master(master) => master.node.obstacle(),
    };
    match obstacle {
        None => {
            let role = match &site.member {
                Member::Worker(_) => "worker",
                Member::Master(_) => "master",
            };
            let document = serde_json::json!({
                "ok": true, "role": role, "state": site.mode_word(), "address": site.address(), "software": SOFTWARE,
            });
            Ok(respond::json(&document, false))
        }
        Some(error) if error.kind() == Kind::Closed => Err(site.refusal()),
        Some(error) => Err(error),
    }
}

/// Numbers for Prometheus.
pub(crate) fn metrics(site: &Site) -> HttpResponse {
    let numbers = match &site.member {
        Member::Worker(worker) => worker.node.numbers(),
        Member::Master(master) => master.node.numbers(),
    };
    let lag = match &site.member {
        Member::Worker(worker) => {
            let read = site.with_open(&worker.node.mode(), |replica| replica.stale_reader());
            read.ok().and_then(|(_, lag)| lag)
        }
        Member::Master(_) => None,
    };
    let gauges = Gauges {
        numbers,
        lag,
        forwarding: site.forwarding.load(Ordering::Relaxed),
        body_bytes: site.budget.held(),
    };
    let mut response = respond::text(site.metrics.print(&gauges));
    let value = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, value);
    response
}

/// What a worker says of itself.
pub(crate) fn worker_facts(site: &Site, worker: &Worker) -> WorkerFacts {
    let numbers = worker.node.numbers().unwrap_or_default();
    let place = site.place.get();
    let registered = worker.registered();
    WorkerFacts {
        cluster: registered.map(|facts| facts.cluster.clone()).unwrap_or_default(),
        index: worker.index().unwrap_or_default(),
        group: worker.group().unwrap_or_default(),
        uuid: registered.map(|facts| facts.uuid.clone()).unwrap_or_default(),
        starts: worker.node.starts(),
        address: site.address().to_owned(),
        data: place.map(|place| place.data.display().to_string()).unwrap_or_default(),
        state: worker.node.mode().word().to_owned(),
        role: numbers.role.to_owned(),
        term: numbers.term,
        keys: numbers.keys,
        bytes: numbers.bytes,
        version: numbers.version,
        applied: numbers.applied,
        leader: numbers.leader,
        voters: numbers.voters,
        outgoing: numbers.outgoing,
        standbys: numbers.standbys,
        last: numbers.last,
        last_term: numbers.last_term,
        incarnation: numbers.incarnation,
        copy: worker.copying(),
        slots: numbers.slots,
        moving: worker.moving.facts(),
        moves_done: numbers.moves_done,
        received: numbers.received,
        awaits: numbers.awaits,
        renewals: numbers.renewals,
        chunks: numbers.chunks.unwrap_or_default(),
        software: SOFTWARE.to_owned(),
    }
}

/// This worker, if `index` is none or its own.
pub(crate) fn this_worker(site: &Site, index: Option<u32>) -> Result<&Worker> {
    match (&site.member, index) {
        (Member::Worker(worker), None) => Ok(worker),
        (Member::Worker(worker), Some(index)) if worker.index() == Some(index) => Ok(worker),
        (Member::Worker(worker), Some(index)) => match worker.index() {
            Some(own) => Err(elsewhere(site, index, &format!("this is worker {own}"))),
            None => Err(site.refusal()),
        },
        (Member::Master(_), Some(index)) => Err(elsewhere(site, index, "this is a master")),
        (Member::Master(_), None) => {
            Err(Error::new(Kind::NotFound, "this is a master; /worker is a path of workers")
                .hint("ask /master for the workers"))
        }
    }
}

fn elsewhere(site: &Site, index: u32, who: &str) -> Error {
    let error = Error::new(Kind::Conflict, format!("{who}, not worker {index}"));
    match site.view().worker(index) {
        Some((_, member)) => error.hint(format!("worker {index} is at http://{}", member.address)),
        None => error.hint(format!("no worker {index} is known; /cluster lists those that are")),
    }
}

fn not_a_master(site: &Site) -> Error {
    let view = site.view();
    let masters = match &site.member {
        Member::Worker(worker) if view.masters.is_empty() => worker.masters.clone(),
        _ => view.masters.clone(),
    };
    let masters: Vec<String> = masters.iter().map(|master| format!("http://{master}/master")).collect();
    Error::new(Kind::NotFound, "this is a worker; /master is a path of masters")
        .hint(format!("ask {}", masters.join(" or ")))
}
