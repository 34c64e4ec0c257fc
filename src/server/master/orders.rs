//! What people ask of the slots and of those who leave: rebalance, drain, call a move off. Only the master that leads
//! decides, and what it answers is what would move where; groups do it by themselves.

use super::super::door::{Asked, Door};
use super::super::respond;
use super::super::site::Site;
use super::Master;
use super::requests::{document, leading, submit, this_master, unfit};
use crate::cluster::directory::{Directory, DirectoryCommand, DirectoryReply, Rebalance, Settings};
use crate::cluster::planning::{self, Plan};
use crate::cluster::view::{CancelMoveRequest, DrainReply, DrainRequest, RebalanceRequest};
use crate::error::{Error, Kind, Result};
use crate::replica::handle::DirectoryHandle;
use actix_web::HttpResponse;
use actix_web::dev::Payload;
use std::time::Instant;

/// What every one of these needs.
struct Desk<'a> {
    site: &'a Site,
    master: &'a Master,
    replica: DirectoryHandle,
    deadline: Instant,
}

impl<'a> Desk<'a> {
    /// Errors unless this master leads and has heard of everybody who is there.
    fn new(door: &'a Door, asked: &Asked<'_>) -> Result<Desk<'a>> {
        let (site, master) = (&*door.site, this_master(&door.site)?);
        let replica = leading(site, master)?;
        master.check_listened()?;
        Ok(Desk { site, master, replica, deadline: asked.deadline()? })
    }

    /// Changes the directory. Errors: `Conflict` if it refuses.
    async fn submit(&self, command: DirectoryCommand) -> Result<()> {
        match submit(self.site, self.master, &self.replica, command, self.deadline).await? {
            DirectoryReply::Done => Ok(()),
            reply => Err(unfit(&reply)),
        }
    }

    fn plan(&self, rebalance: Option<Rebalance>) -> Plan {
        planning::plan(&self.master.directory(), &self.master.hear(), rebalance)
    }
}

/// `POST /internal/rebalance`.
pub(crate) async fn rebalance(door: &Door, asked: &Asked<'_>, payload: &mut Payload) -> Result<HttpResponse> {
    let request: RebalanceRequest = document(door, asked, payload).await?;
    let desk = Desk::new(door, asked)?;
    let wish = Rebalance { accept_fewer_copies: request.accept_fewer_copies };
    if !request.dry_run {
        let settings = desk.master.directory().settings;
        if let Some(auto) = request.auto.filter(|auto| *auto != settings.rebalance) {
            desk.submit(DirectoryCommand::Settings(Settings { rebalance: auto, ..settings })).await?;
        }
        match request.auto {
            Some(false) => call_off(&desk).await?,
            _ => desk.submit(DirectoryCommand::Rebalance(Some(wish))).await?,
        }
    }
    let goes_on = request.dry_run || request.auto != Some(false);
    Ok(respond::json(&desk.plan(goes_on.then_some(wish)), false))
}

/// Calls off what was asked for, and every move that can be, but not those by which groups drain.
async fn call_off(desk: &Desk<'_>) -> Result<()> {
    desk.submit(DirectoryCommand::Rebalance(None)).await?;
    let directory = desk.master.directory();
    let stays = |from: u32| !directory.group(from).draining;
    for order in directory.moves.values().filter(|order| !order.switched && stays(order.from)) {
        match desk.submit(DirectoryCommand::CancelMove { id: order.id }).await {
            // It has switched, or is over.
            Err(error) if error.kind() == Kind::Conflict => {}
            outcome => outcome?,
        }
    }
    Ok(())
}

/// `POST /internal/cancel-move`.
pub(crate) async fn cancel(door: &Door, asked: &Asked<'_>, payload: &mut Payload) -> Result<HttpResponse> {
    let CancelMoveRequest { id } = document(door, asked, payload).await?;
    let desk = Desk::new(door, asked)?;
    desk.submit(DirectoryCommand::CancelMove { id }).await?;
    log::info!("move {id} is called off");
    Ok(respond::json(&desk.plan(None), false))
}

/// `POST /internal/drain`.
pub(crate) async fn drain(door: &Door, asked: &Asked<'_>, payload: &mut Payload) -> Result<HttpResponse> {
    let request: DrainRequest = document(door, asked, payload).await?;
    let desk = Desk::new(door, asked)?;
    let reply = match (request.group, request.index) {
        (Some(group), None) => drain_group(&desk, group, request).await?,
        (None, Some(index)) if !request.undo => drain_member(&desk, index, request.dry_run).await?,
        _ => {
            return Err(Error::new(
                Kind::BadRequest,
                "drain takes a group, or a worker that leaves its group",
            )
            .hint("what can be undone is the drain of a group"));
        }
    };
    Ok(respond::json(&reply, false))
}

async fn drain_group(desk: &Desk<'_>, group: u32, request: DrainRequest) -> Result<DrainReply> {
    let directory = desk.master.directory();
    let entry = directory.group(group);
    if entry.dissolved {
        return match request.undo {
            true => Err(Error::new(Kind::Conflict, format!("group {group} was dissolved"))
                .hint("a new worker founds a new group")),
            false => Ok(DrainReply { group, done: true, ..DrainReply::default() }),
        };
    }
    let command = DirectoryCommand::DrainGroup { group, undo: request.undo };
    let then = after(&directory, &command)?;
    if !request.dry_run {
        desk.submit(command).await?;
        if entry.draining == request.undo {
            let what = if request.undo { "drains no more" } else { "drains" };
            log::info!("group {group} {what}");
        }
    }
    let mut plan = planning::plan(&then, &desk.master.hear(), None);
    plan.moves.retain(|planned| planned.from == group);
    let leaves = if request.undo { Vec::new() } else { directory.members(group).collect() };
    Ok(DrainReply { group, leaves, done: request.undo, plan })
}

async fn drain_member(desk: &Desk<'_>, index: u32, dry_run: bool) -> Result<DrainReply> {
    let directory = desk.master.directory();
    let Some(worker) = directory.workers.get(&index) else {
        return Err(Error::new(Kind::NotFound, format!("there is no worker {index}"))
            .hint("catstore status shows the workers"));
    };
    let group = worker.group;
    let heard = desk.master.heard(group);
    let mut reply = DrainReply { group, leaves: vec![index], ..DrainReply::default() };
    if worker.removed.is_some() {
        reply.done = desk.master.counts_on(index, group, None) == Some(false);
        return Ok(reply);
    }
    let command = DirectoryCommand::DrainMember { index };
    after(&directory, &command)?;
    let others = directory.members(group).any(|member| member != index);
    if others && !heard.last.keys().any(|member| *member != index) {
        return Err(Error::new(
            Kind::Conflict,
            format!(
                "no other member of group {group} is alive and holds a copy of what worker {index} holds"
            ),
        )
        .hint("catstore status says how to start them again"));
    }
    if !dry_run {
        desk.submit(command).await?;
        log::info!("worker {index} leaves group {group}");
    }
    Ok(reply)
}

/// The directory as `command` would make it. Errors: `Conflict` if it would be refused.
fn after(directory: &Directory, command: &DirectoryCommand) -> Result<Directory> {
    let mut then = directory.clone();
    match then.apply(command) {
        DirectoryReply::Done => Ok(then),
        reply => Err(unfit(&reply)),
    }
}
