//! Reading and writing one key. A read of our own key is done at once on this thread; a write waits for the
//! replica. Keys of others are forwarded.

use super::body;
use super::condition;
use super::content_type;
use super::door::{Asked, Door};
use super::files;
use super::forward::{self, Parcel, REQUEST_ID};
use super::percent;
use super::respond;
use super::route::Style;
use super::site::{Member, Owner, Site, Target};
use super::worker::Worker;
use crate::error::{Error, Kind, Result};
use crate::replica::command::{Command, Condition, Put, Reply, Request};
use crate::replica::{Record, checksum};
use actix_web::HttpResponse;
use actix_web::body::to_bytes;
use actix_web::dev::Payload;
use actix_web::http::header::{CONTENT_TYPE, ETAG, HeaderMap, IF_MATCH, IF_NONE_MATCH};
use actix_web::http::{Method, StatusCode};
use std::time::Instant;

/// The longest body that a node takes which only forwards it; the owner knows the limit that holds.
const FORWARDED_VALUE: usize = 64 << 20;

/// Reads a key of this node's own store; `None` if the key belongs to another node.
pub(crate) fn get_here(site: &Site, key: &[u8]) -> Result<Option<Option<Record>>> {
    let Member::Worker(worker) = &site.member else { return Ok(None) };
    let found = site.with_open(&worker.node.mode(), |replica| replica.reader()?.get(key));
    match found {
        Ok(record) => Ok(Some(record)),
        Err(error) if error.kind() == Kind::Moved => Ok(None),
        Err(error) => Err(error),
    }
}

/// The answer to a read of our own key.
pub(crate) fn found(
    record: Option<Record>,
    key: &[u8],
    asked: &HeaderMap,
    style: Style,
    stale: bool,
) -> HttpResponse {
    match record {
        Some(record) => respond::record(record, asked, style, stale),
        None => super::error::respond(&absent(key)),
    }
}

/// A read of a key that another node owns.
pub(crate) async fn get_there(door: &Door, asked: &Asked<'_>, key: &[u8]) -> Result<HttpResponse> {
    match door.site.owner_of_key(key)? {
        Owner::There(target) => pass_on(door, asked, target, Vec::new(), None, false).await,
        // The routes say that it is ours, the store says that it is not: nobody owns it yet, or it just moved.
        Owner::Here if door.site.view().group_of_key(key).is_none() => Err(door.site.no_worker()),
        Owner::Here => Err(forward::moved()),
    }
}

/// Stores the value of the path or of the body.
pub(crate) async fn put(
    door: &Door,
    asked: &Asked<'_>,
    payload: &mut Payload,
    key: Vec<u8>,
    style: Style,
    value: Option<Vec<u8>>,
    ttl: Option<u64>,
) -> Result<HttpResponse> {
    let (condition, id) = conditions(asked)?;
    let given = asked.request.headers().get(CONTENT_TYPE).map(|value| value.to_str()).transpose();
    let content_type = match (given, &value) {
        (_, Some(value)) if std::str::from_utf8(value).is_ok() => content_type::TEXT.to_owned(),
        (_, Some(_)) | (Ok(None), None) => String::new(),
        (Ok(Some(text)), None) => content_type::check(text)?,
        (Err(_), None) => content_type::check("\u{fffd}")?,
    };
    let owner = door.site.owner_of_key(&key)?;
    if let (Owner::There(target), true) = (&owner, asked.wants_redirect()) {
        return Ok(forward::redirect(target, asked.path_and_query()));
    }
    let limit = match (&owner, &door.site.member) {
        (Owner::Here, Member::Worker(worker)) => worker.max_value,
        _ => FORWARDED_VALUE,
    };
    let in_path = value.is_some();
    let (value, lease) = match value {
        Some(value) => (value, None),
        None => {
            let body = body::read(&door.site, asked.request, payload, limit, Kind::ValueTooLarge).await?;
            (body.bytes, Some(body.lease))
        }
    };
    check_length(value.len(), limit)?;
    let deadline = asked.deadline()?;
    match owner {
        Owner::Here => {
            let size = value.len();
            let put =
                Put { checksum: checksum(&value), key: key.clone(), value, content_type, ttl, condition };
            let reply = submit(&door.site, Request { id, command: Command::Put(put) }, deadline).await?;
            written(&door.site, reply, &key, size, style)
        }
        Owner::There(target) => {
            let body = if in_path { Vec::new() } else { value };
            pass_on(door, asked, target, body, lease, true).await
        }
    }
}

/// Stores a file of this worker's disk.
pub(crate) async fn put_file(
    door: &Door,
    asked: &Asked<'_>,
    key: Vec<u8>,
    path: Vec<u8>,
) -> Result<HttpResponse> {
    let Member::Worker(worker) = &door.site.member else { return Err(files::on_a_master(&door.site)) };
    let (condition, id) = conditions(asked)?;
    let owner = door.site.owner_of_key(&key)?;
    let root = files::root(worker)?.to_owned();
    let data = door.site.place.get().map(|place| place.data.clone()).unwrap_or_default();
    let limit = worker.max_value;
    let mut lease = door.site.budget.lease();
    let length = files::length(root.clone(), data.clone(), path.clone(), limit).await?;
    lease.grow(length)?;
    let file = files::read(root, data, path, limit).await?;
    let deadline = asked.deadline()?;
    let size = file.value.len();
    match owner {
        Owner::Here => {
            let put = Put {
                checksum: checksum(&file.value),
                key: key.clone(),
                value: file.value,
                content_type: file.content_type.to_owned(),
                ttl: None,
                condition,
            };
            let reply = submit(&door.site, Request { id, command: Command::Put(put) }, deadline).await?;
            written(&door.site, reply, &key, size, Style::Classic)
        }
        Owner::There(target) => {
            let path = format!("/kv/{}", percent::encode(&key));
            let content_type =
                if file.content_type.is_empty() { content_type::UNKNOWN } else { file.content_type };
            let answer = send(
                door,
                asked,
                Parcel {
                    target,
                    method: Method::PUT,
                    path: &path,
                    body: file.value,
                    content_type: Some(content_type),
                    changes: true,
                    deadline,
                    lease: Some(lease),
                },
            )
            .await?;
            classic(answer, &key, size).await
        }
    }
}

/// Removes a key.
pub(crate) async fn delete(
    door: &Door,
    asked: &Asked<'_>,
    key: Vec<u8>,
    style: Style,
) -> Result<HttpResponse> {
    let (condition, id) = conditions(asked)?;
    let deadline = asked.deadline()?;
    match door.site.owner_of_key(&key)? {
        Owner::There(target) => pass_on(door, asked, target, Vec::new(), None, true).await,
        Owner::Here => {
            let command = Command::Delete { key: key.clone(), condition };
            match submit(&door.site, Request { id, command }, deadline).await? {
                Reply::Deleted { .. } if style == Style::Resource => {
                    Ok(respond::empty(StatusCode::NO_CONTENT))
                }
                Reply::Deleted { .. } => Ok(respond::text(format!("{}: deleted", respond::shown(&key)))),
                Reply::Absent => Err(absent(&key)),
                Reply::ConditionFailed { current, .. } => Ok(condition_failed(&key, current)),
                reply => Err(unexpected(&door.site, &reply)),
            }
        }
    }
}

/// Hands a command to this worker's replica. The replies that mean "not here" become errors.
pub(crate) async fn submit(site: &Site, request: Request, deadline: Instant) -> Result<Reply> {
    let worker: &Worker = site.worker()?;
    let replica = site.with_open(&worker.node.mode(), |replica| Ok(replica.clone()))?;
    match replica.submit(request, deadline).await {
        Ok(Reply::NotOwner { .. }) if site.view().slots.ranges().is_empty() => Err(site.no_worker()),
        Ok(Reply::NotOwner { .. }) => Err(forward::moved()),
        Ok(Reply::TooManyRequestIds) => {
            Err(Error::new(Kind::Overloaded, "too many request ids were given in the last ten minutes"))
        }
        Ok(Reply::RequestIdReused) => Err(Error::new(
            Kind::Conflict,
            "the request id belongs to another request of the last ten minutes",
        )
        .hint("give each request an id of its own; only a repeat has the same")),
        Err(error) if error.kind() == Kind::Closed => Err(site.refusal()),
        outcome => outcome,
    }
}

/// Sends this request on as it came, or redirects the client if it asks for that.
pub(crate) async fn pass_on(
    door: &Door,
    asked: &Asked<'_>,
    target: Target,
    body: Vec<u8>,
    lease: Option<body::Lease>,
    changes: bool,
) -> Result<HttpResponse> {
    if asked.wants_redirect() {
        return Ok(forward::redirect(&target, asked.path_and_query()));
    }
    let deadline = asked.deadline()?;
    send(
        door,
        asked,
        Parcel {
            target,
            method: asked.request.method().clone(),
            path: asked.path_and_query(),
            body,
            content_type: None,
            changes,
            deadline,
            lease,
        },
    )
    .await
}

async fn send(door: &Door, asked: &Asked<'_>, parcel: Parcel<'_>) -> Result<HttpResponse> {
    if forward::was_forwarded(asked.request.headers()) {
        return Err(forward::moved());
    }
    forward::forward(&door.site, &door.client, asked.request, parcel).await
}

/// The condition and the request id of a write.
pub(crate) fn conditions(asked: &Asked<'_>) -> Result<(Condition, Option<String>)> {
    let headers = asked.request.headers();
    let bytes = |value: &'_ actix_web::http::header::HeaderValue| value.as_bytes().to_vec();
    let condition = condition::of_write(
        headers.get(IF_MATCH).map(bytes).as_deref(),
        headers.get(IF_NONE_MATCH).map(bytes).as_deref(),
    )?;
    let id = match headers.get(REQUEST_ID) {
        None => None,
        Some(id) => Some(request_id(id.as_bytes())?),
    };
    Ok((condition, id))
}

fn request_id(id: &[u8]) -> Result<String> {
    let fine = (1..=128).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic);
    match std::str::from_utf8(id) {
        Ok(text) if fine => Ok(text.to_owned()),
        _ => Err(Error::new(Kind::BadRequest, "Catstore-Request-Id is not 1 to 128 printable characters")),
    }
}

fn check_length(length: usize, limit: usize) -> Result<()> {
    if length <= limit {
        return Ok(());
    }
    Err(Error::new(Kind::ValueTooLarge, format!("the value has {length} bytes; the limit is {limit}"))
        .hint("the worker's --max-value raises it"))
}

fn written(site: &Site, reply: Reply, key: &[u8], size: usize, style: Style) -> Result<HttpResponse> {
    match reply {
        Reply::Stored { version, created } => {
            let mut response = match (style, created) {
                (Style::Classic, _) => respond::text(stored(key, size, version)),
                (Style::Resource, true) => respond::empty(StatusCode::CREATED),
                (Style::Resource, false) => respond::empty(StatusCode::OK),
            };
            respond::tag(&mut response, version);
            Ok(response)
        }
        Reply::ConditionFailed { current, .. } => Ok(condition_failed(key, current)),
        reply => Err(unexpected(site, &reply)),
    }
}

fn stored(key: &[u8], size: usize, version: u64) -> String {
    let unit = if size == 1 { "byte" } else { "bytes" };
    format!("{}: {size} {unit}, version {version}", respond::shown(key))
}

/// Words the answer of `PUT /kv/KEY` as a classic one.
async fn classic(answer: HttpResponse, key: &[u8], size: usize) -> Result<HttpResponse> {
    if !answer.status().is_success() {
        return Ok(answer);
    }
    let version = answer.headers().get(ETAG).and_then(|tag| condition::version(tag.as_bytes()));
    let _ = to_bytes(answer.into_body()).await;
    let Some(version) = version else { return Ok(respond::text(respond::shown(key))) };
    let mut response = respond::text(stored(key, size, version));
    respond::tag(&mut response, version);
    Ok(response)
}

fn absent(key: &[u8]) -> Error {
    Error::new(Kind::NotFound, format!("there is no key {}", respond::shown(key)))
}

/// 412 with the version that the key has, so that the client can decide anew.
fn condition_failed(key: &[u8], current: Option<u64>) -> HttpResponse {
    let detail = match current {
        Some(version) => format!("{} has version {version}", respond::shown(key)),
        None => format!("there is no key {}", respond::shown(key)),
    };
    let error =
        Error::new(Kind::ConditionFailed, detail).hint("nothing was written; read the key and decide anew");
    let mut response = super::error::respond(&error);
    if let Some(version) = current {
        respond::tag(&mut response, version);
    }
    response
}

/// A reply that does not fit its command. The command may have been applied.
pub(crate) fn unexpected(site: &Site, reply: &Reply) -> Error {
    log::error!("{}: the replica answered {reply:?} to another command", site.address());
    Error::new(Kind::UnknownOutcome, "the replica's reply does not fit the request")
        .hint("was the same Catstore-Request-Id used for another request?")
}
