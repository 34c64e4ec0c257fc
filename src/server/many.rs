//! Requests for many keys: lists, batches, and clearing a group. Lists and the parsing of batches can take
//! milliseconds and run on threads of their own, so that reads of single keys do not wait behind them.

use super::batch;
use super::body;
use super::door::{Asked, Door};
use super::respond;
use super::site::{Member, Owner};
use super::values;
use crate::cluster::slots;
use crate::cluster::view::BatchReply;
use crate::error::{Error, Kind, Result};
use crate::replica::command::{BatchCommand, Command, Reply, Request};
use crate::replica::reader::ListQuery;
use actix_web::dev::Payload;
use actix_web::{HttpResponse, web};

/// One page of keys.
pub(crate) async fn list(door: &Door, asked: &Asked<'_>, query: ListQuery) -> Result<HttpResponse> {
    let worker = match (door.site.owner_of_all()?, &door.site.member) {
        (Owner::There(target), _) => {
            return values::pass_on(door, asked, target, Vec::new(), None, false).await;
        }
        (Owner::Here, Member::Worker(worker)) => worker,
        (Owner::Here, Member::Master(_)) => return Err(door.site.no_worker()),
    };
    let replica = door.site.with_open(&worker.node.mode(), |replica| Ok(replica.clone()))?;
    let body = blocking(move || {
        let page = replica.reader()?.list(&query)?;
        serde_json::to_vec(&page)
            .map_err(|error| Error::new(Kind::Failed, "the page cannot be written as JSON").cause(error))
    })
    .await?;
    Ok(respond::json_bytes(body))
}

/// Several operations at once, within one slot.
pub(crate) async fn batch(door: &Door, asked: &Asked<'_>, payload: &mut Payload) -> Result<HttpResponse> {
    let (_, id) = values::conditions(asked)?;
    let body = body::read(&door.site, asked.request, payload, batch::BYTES, Kind::TooLarge).await?;
    let (lease, bytes) = (body.lease, body.bytes);
    let (commands, bytes) = blocking(move || batch::parse(&bytes).map(|commands| (commands, bytes))).await?;
    let slot = commands.first().map(|command| slots::slot(batch::key(command))).unwrap_or_default();
    let view = door.site.view();
    let group = view.slots.owner(slot).and_then(|group| view.group(group));
    match door.site.owner(group)? {
        Owner::There(target) => values::pass_on(door, asked, target, bytes, Some(lease), true).await,
        Owner::Here => {
            drop(bytes);
            check_values(door, &commands)?;
            let request = Request { id, command: Command::Batch(commands) };
            let reply = values::submit(&door.site, request, asked.deadline()?).await?;
            drop(lease);
            match reply {
                Reply::Batch(versions) => Ok(respond::json(&BatchReply { versions }, false)),
                Reply::ConditionFailed { current, op } => Err(condition_failed(current, op)),
                reply => Err(values::unexpected(&door.site, &reply)),
            }
        }
    }
}

/// Removes every key of a group.
pub(crate) async fn clear(door: &Door, asked: &Asked<'_>, index: u32) -> Result<HttpResponse> {
    let (_, id) = values::conditions(asked)?;
    let site = &door.site;
    let view = site.view();
    let own = match &site.member {
        Member::Worker(worker) => worker.index() == Some(index) && worker.group() == Some(index),
        Member::Master(_) => false,
    };
    let owner = match (view.group(index), view.worker(index)) {
        _ if own => Owner::Here,
        (Some(group), _) => site.owner(Some(group))?,
        (None, Some((group, _))) => {
            let founder = group.group;
            return Err(Error::new(
                Kind::Conflict,
                format!(
                    "worker {index} holds the same keys as worker {founder}; /clear/{founder} clears both"
                ),
            ));
        }
        (None, None) => return Err(unknown_group(door, index)),
    };
    match owner {
        Owner::There(target) => values::pass_on(door, asked, target, Vec::new(), None, true).await,
        Owner::Here => {
            let request = Request { id, command: Command::Clear };
            match values::submit(site, request, asked.deadline()?).await? {
                Reply::Cleared { keys } => {
                    Ok(respond::json(&serde_json::json!({ "group": index, "cleared": keys }), false))
                }
                reply => Err(values::unexpected(site, &reply)),
            }
        }
    }
}

/// Runs `work` on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match web::block(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(Error::new(Kind::Overloaded, "the node is stopping").cause(error)),
    }
}

fn check_values(door: &Door, commands: &[BatchCommand]) -> Result<()> {
    let limit = door.site.worker()?.max_value;
    for (position, command) in commands.iter().enumerate() {
        if let BatchCommand::Put(put) = command
            && put.value.len() > limit
        {
            return Err(Error::new(
                Kind::ValueTooLarge,
                format!(
                    "operation {position} of the batch: the value has {} bytes; the limit is {limit}",
                    put.value.len()
                ),
            ));
        }
    }
    Ok(())
}

fn condition_failed(current: Option<u64>, op: Option<u32>) -> Error {
    let which = op.map_or_else(|| "an operation".to_owned(), |op| format!("operation {op}"));
    let found =
        current.map_or_else(|| "the key does not exist".to_owned(), |v| format!("the key has version {v}"));
    Error::new(Kind::ConditionFailed, format!("{which} of the batch did not hold: {found}"))
        .hint("nothing was written")
}

fn unknown_group(door: &Door, index: u32) -> Error {
    let view = door.site.view();
    if view.groups.is_empty() {
        return door.site.no_worker();
    }
    let known: Vec<String> = view.groups.iter().map(|group| group.group.to_string()).collect();
    Error::new(Kind::NotFound, format!("there is no group {index}"))
        .hint(format!("the groups are: {}", known.join(", ")))
}
