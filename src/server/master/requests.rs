//! What a master is asked: registrations, heartbeats, promotions. Whatever changes the directory is for the master that
//! leads; another says who that is.

use super::super::body;
use super::super::door::{Asked, Door};
use super::super::respond;
use super::super::site::{Member, Site};
use super::{Master, recover};
use crate::cluster::directory::{DirectoryCommand, DirectoryReply, Heard};
use crate::cluster::view::{
    HeartbeatReply, HeartbeatRequest, Introduction, PromoteReply, PromoteRequest, RegisterMasterReply,
    RegisterMasterRequest, RegisterReply,
};
use crate::error::{Error, Kind, Result};
use crate::replica::handle::{DirectoryHandle, Lead};
use actix_web::HttpResponse;
use actix_web::dev::Payload;
use std::time::Instant;

/// The longest body that one node sends another.
const BODY: usize = 1 << 20;

/// `POST /internal/register`.
pub(crate) async fn register(door: &Door, asked: &Asked<'_>, payload: &mut Payload) -> Result<HttpResponse> {
    let (site, master) = (&door.site, this_master(&door.site)?);
    let Introduction { request, incarnation } = document(door, asked, payload).await?;
    if request.cluster.as_ref() == Some(&master.directory().cluster) {
        recover::check_present(site, master, incarnation)?;
    }
    let replica = leading(site, master)?;
    let (run, address) = (request.run, request.address.clone());
    let directory = master.directory();
    if let Some(cluster) = request.cluster.as_ref().filter(|cluster| **cluster != directory.cluster) {
        return Err(another_cluster(&request.data, cluster, &directory.cluster));
    }
    if request.accept_data_loss {
        master.check_listened()?;
    }
    master.check_leaver(&request)?;
    let lost = request.replace.and_then(|lost| directory.workers.get(&lost));
    let heard = lost.map_or_else(Heard::default, |lost| master.heard(lost.group));
    let command = DirectoryCommand::Register { request, alive: master.alive(), heard };
    match submit(site, master, &replica, command, asked.deadline()?).await? {
        DirectoryReply::Registered { index, group, note, slots, found, incarnation } => {
            master.note(index, run, None);
            log::info!("worker {index} of group {group} registered from {address}");
            let view = master.view();
            let reply = RegisterReply { index, group, note, slots, found, incarnation, view };
            Ok(respond::json(&reply, false))
        }
        reply => Err(unfit(&reply)),
    }
}

/// `POST /internal/register-master`.
pub(crate) async fn register_master(
    door: &Door,
    asked: &Asked<'_>,
    payload: &mut Payload,
) -> Result<HttpResponse> {
    let (site, master) = (&door.site, this_master(&door.site)?);
    let request: RegisterMasterRequest = document(door, asked, payload).await?;
    let replica = leading(site, master)?;
    let address = request.address.clone();
    let command = DirectoryCommand::RegisterMaster { request, alive: replica.numbers().active };
    match submit(site, master, &replica, command, asked.deadline()?).await? {
        DirectoryReply::MasterRegistered { index, note, incarnation } => {
            log::info!("master {index} registered from {address}");
            let reply = RegisterMasterReply { index, note, incarnation, view: master.view() };
            Ok(respond::json(&reply, false))
        }
        reply => Err(unfit(&reply)),
    }
}

/// `POST /internal/heartbeat`: every master takes it; the word of the one that leads counts.
pub(crate) async fn heartbeat(door: &Door, asked: &Asked<'_>, payload: &mut Payload) -> Result<HttpResponse> {
    let master = this_master(&door.site)?;
    let request: HeartbeatRequest = document(door, asked, payload).await?;
    let directory = master.directory();
    if directory.cluster.is_empty() {
        return Err(Error::new(Kind::NoMajority, "this master is joining and holds no directory yet"));
    }
    if request.facts.cluster != directory.cluster {
        return Err(Error::new(
            Kind::Conflict,
            format!("this master serves the cluster {}, not {}", directory.cluster, request.facts.cluster),
        ));
    }
    recover::check_present(&door.site, master, request.incarnation)?;
    let index = request.facts.index;
    let known = directory.workers.get(&index);
    let register = !known.is_some_and(|entry| entry.run == request.run && entry.uuid == request.facts.uuid);
    let removed = known.is_some_and(|entry| entry.removed.is_some());
    // Its group may not have heard of that yet, or may have just made it a voter: then it stays until it is let go.
    let refused = known
        .filter(|entry| removed && !master.holds_back(index, entry.group, &request.facts))
        .and_then(|entry| entry.removed.clone());
    if !register && !removed {
        master.note(index, request.run, Some(request.facts));
    }
    let leads = door
        .site
        .with_open(&master.node.mode(), |replica| replica.directory())
        .is_ok_and(|directory| directory.is_some());
    let view = master.view();
    let leaders = view.leaders();
    door.site.learn_leaders(&leaders);
    let incarnation = directory.incarnation.max(1);
    let older = (request.incarnation.max(1), request.epoch) < (incarnation, directory.epoch);
    let view = older.then_some(view);
    let reply = HeartbeatReply { register, view, leaders, refused, leads, incarnation };
    Ok(respond::json(&reply, false))
}

/// `POST /internal/promote`.
pub(crate) async fn promote(door: &Door, asked: &Asked<'_>, payload: &mut Payload) -> Result<HttpResponse> {
    let (site, master) = (&door.site, this_master(&door.site)?);
    let PromoteRequest { index, accept_data_loss } = document(door, asked, payload).await?;
    let replica = leading(site, master)?;
    let directory = master.directory();
    let Some(worker) = directory.workers.get(&index) else {
        return Err(Error::new(Kind::NotFound, format!("there is no worker {index}"))
            .hint("catstore status shows the workers"));
    };
    let group = worker.group;
    let entry = directory.group(group);
    let before = Some(entry.incarnation).filter(|_| entry.promoted == Some(index));
    let missing = master.promotion_loses(index, group);
    master.check_listened()?;
    let command = DirectoryCommand::Promote { index, heard: master.heard(group) };
    let reply = match accept_data_loss {
        true => submit(site, master, &replica, command, asked.deadline()?).await?,
        // Tried on a copy: whoever asks first learns whether it would be refused.
        false => (*directory).clone().apply(&command),
    };
    let DirectoryReply::Promoted { group, incarnation, left_behind } = reply else {
        return Err(unfit(&reply));
    };
    // A repeat of what was done already says so, and has nothing to lose.
    let repeat = before == Some(incarnation);
    let missing = if repeat { String::new() } else { missing };
    if accept_data_loss && !repeat {
        log::warn!(
            "worker {index} is promoted: group {group} goes on as incarnation {incarnation}; {missing}"
        );
    }
    let incarnation = Some(incarnation).filter(|_| accept_data_loss || repeat);
    Ok(respond::json(&PromoteReply { group, index, missing, incarnation, left_behind }, false))
}

/// The refusal of a folder of another cluster. It has a kind of its own: what a stranger says ends nobody.
fn another_cluster(data: &str, theirs: &str, ours: &str) -> Error {
    let detail = format!("{data} belongs to cluster {theirs}, this master to cluster {ours}");
    Error::new(Kind::Foreign, detail)
        .hint("start it with the --master of its own cluster, or with another --data")
}

/// The replica, if this master leads. Errors: `Moved` with the master that does, `NoMajority`.
pub(super) fn leading(site: &Site, master: &Master) -> Result<DirectoryHandle> {
    let replica = site.with_open(&master.node.mode(), |replica| Ok(replica.clone()))?;
    match replica.lead() {
        Lead::Here => Ok(replica),
        Lead::There(leader) => {
            let error = Error::new(Kind::Moved, format!("master {leader} leads, this one does not"));
            Err(match master.directory().master_nodes.get(&leader) {
                Some(entry) => error.hint(format!("ask http://{}", entry.address)),
                None => error,
            })
        }
        Lead::Nobody => Err(Error::new(Kind::NoMajority, "no master leads at the moment")
            .hint("a majority of the masters must be up: see catstore status")),
    }
}

/// Changes the directory, and shows the change to this node.
pub(super) async fn submit(
    site: &Site,
    master: &Master,
    replica: &DirectoryHandle,
    command: DirectoryCommand,
    deadline: Instant,
) -> Result<DirectoryReply> {
    let reply = replica.submit(command, deadline).await?;
    master.refresh(site);
    Ok(reply)
}

/// The error for a reply that grants nothing.
pub(super) fn unfit(reply: &DirectoryReply) -> Error {
    match reply {
        DirectoryReply::Refused { detail, hint } => {
            log::warn!("refused: {detail}");
            let error = Error::new(Kind::Conflict, detail);
            match hint {
                Some(hint) => error.hint(hint),
                None => error,
            }
        }
        reply => {
            log::error!("the directory replied {reply:?} to another command");
            Error::new(Kind::UnknownOutcome, "the directory's reply does not fit")
        }
    }
}

pub(super) fn this_master(site: &Site) -> Result<&Master> {
    match &site.member {
        Member::Master(master) => Ok(master),
        Member::Worker(_) => {
            let masters = site.view().masters.join(", ");
            Err(Error::new(Kind::NotFound, "this is a worker; only masters do that")
                .hint(format!("give --master one of: {masters}")))
        }
    }
}

/// Reads a body that is a document between nodes.
pub(crate) async fn document<T: serde::de::DeserializeOwned>(
    door: &Door,
    asked: &Asked<'_>,
    payload: &mut Payload,
) -> Result<T> {
    let body = body::read(&door.site, asked.request, payload, BODY, Kind::TooLarge).await?;
    serde_json::from_slice(&body.bytes).map_err(|error| {
        Error::new(Kind::BadRequest, format!("the body is not what nodes send here: {error}"))
    })
}
