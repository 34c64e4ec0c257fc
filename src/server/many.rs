//! Requests for many keys: batches, and clearing a group. The parsing of long batches can take milliseconds and runs on
//! threads of their own, so that reads of single keys do not wait behind it.

use super::batch;
use super::body;
use super::door::{Asked, Door};
use super::errand::{Aim, Done, Wire};
use super::respond;
use super::site::Member;
use super::values;
use super::write::Write;
use crate::cluster::slots;
use crate::cluster::view::BatchReply;
use crate::error::{Error, Kind, Result};
use crate::replica::command::{Command, Reply, Request};
use actix_web::dev::Payload;
use actix_web::{HttpResponse, web};
use bytes::Bytes;

/// A shorter batch is not worth another thread. Measured: 200 puts of 28 KB take 50 us, and to give something to another thread
/// and to hear of it takes 10 to 35.
const PARSED_HERE: usize = 32 << 10;

/// Several operations at once, within one slot.
pub(crate) async fn batch(door: &Door, asked: &Asked<'_>, payload: &mut Payload) -> Result<HttpResponse> {
    let site = &door.site;
    let (_, id) = values::conditions(asked)?;
    let body = body::read(site, asked.request, payload, batch::BYTES, Kind::TooLarge).await?;
    let (lease, bytes) = (body.lease, body.bytes);
    let (commands, bytes) = if bytes.len() <= PARSED_HERE {
        (batch::parse(&bytes)?, bytes)
    } else {
        blocking(move || batch::parse(&bytes).map(|commands| (commands, bytes))).await?
    };
    let slot = commands.first().map(|command| slots::slot(batch::key(command))).unwrap_or_default();
    let request = Request { id, command: Command::Batch(commands) };
    let write = Write { aim: Aim::Slot(slot), request, value: None, lease: Some(lease) };
    match write.run(door, asked, Wire::of(asked, Some(Bytes::from(bytes)))).await? {
        Done::There(answer) => Ok(answer),
        Done::Here(Reply::Batch(versions)) => Ok(respond::json(&BatchReply { versions }, false)),
        Done::Here(Reply::ConditionFailed { current, op }) => Err(condition_failed(current, op)),
        Done::Here(reply) => Err(values::unexpected(site, &reply)),
    }
}

/// Removes every key of a group.
pub(crate) async fn clear(door: &Door, asked: &Asked<'_>, index: u32) -> Result<HttpResponse> {
    let site = &door.site;
    let (_, id) = values::conditions(asked)?;
    let aim = Aim::Group(group_to_clear(door, index)?);
    let write = Write { aim, request: Request { id, command: Command::Clear }, value: None, lease: None };
    match write.run(door, asked, Wire::of(asked, Some(Bytes::new()))).await? {
        Done::There(answer) => Ok(answer),
        Done::Here(Reply::Cleared { keys }) => {
            Ok(respond::json(&serde_json::json!({ "group": index, "cleared": keys }), false))
        }
        Done::Here(reply) => Err(values::unexpected(site, &reply)),
    }
}

/// The group whose founder is worker `index`; a clone's index names no group.
fn group_to_clear(door: &Door, index: u32) -> Result<u32> {
    let view = door.site.view();
    let own = match &door.site.member {
        Member::Worker(worker) => worker.index().zip(worker.group()),
        Member::Master(_) => None,
    };
    let of_clone = match view.worker(index) {
        Some((group, _)) => Some(group.group),
        None => own.filter(|(own, _)| *own == index).map(|(_, group)| group),
    };
    match of_clone.filter(|group| *group != index) {
        _ if view.group(index).is_some() || own.is_some_and(|(_, group)| group == index) => Ok(index),
        Some(founder) => Err(Error::new(
            Kind::Conflict,
            format!(
                "worker {index} holds the same keys as worker {founder}; /clear/{founder} clears all copies"
            ),
        )),
        None => Err(unknown_group(door, index)),
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
