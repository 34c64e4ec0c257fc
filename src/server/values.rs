//! Reading and writing one key. A read of our own key is done at once on this thread; whatever has to wait, or is
//! another node's, is an [`Errand`].

use super::body;
use super::condition;
use super::content_type;
use super::door::{Asked, Door};
use super::errand::{Aim, Done, Errand, Stop, Wire};
use super::files;
use super::forward::REQUEST_ID;
use super::percent;
use super::respond;
use super::route::Style;
use super::site::{Member, Site};
use super::write::{Write, check_value, not_owned};
use crate::cluster::slots::slot;
use crate::error::{Error, Kind, Result};
use crate::replica::Record;
use crate::replica::command::{Command, Condition, Put, Reply, Request};
use crate::replica::handle::{KeyspaceHandle, Lead};
use crate::replica::reader::Reader;
use actix_web::HttpResponse;
use actix_web::body::to_bytes;
use actix_web::dev::Payload;
use actix_web::http::header::{CONTENT_TYPE, ETAG, HeaderMap, IF_MATCH, IF_NONE_MATCH};
use actix_web::http::{Method, StatusCode};
use bytes::Bytes;
use std::time::Instant;

pub(crate) use super::write::submit;

/// The longest body that a node takes which only forwards it; the owner knows the limit that holds.
const FORWARDED_VALUE: usize = 64 << 20;

/// Reads a key of this node's own store; `None` if that needs more than a look: another member leads, a majority must
/// be asked, or the key belongs to another group or is on its way to one.
pub(crate) fn get_here(site: &Site, key: &[u8]) -> Result<Option<Option<Record>>> {
    let Member::Worker(worker) = &site.member else { return Ok(None) };
    let found = site.with_open(&worker.node.mode(), |replica| {
        replica.reader()?.map(|reader| reader.get(key)).transpose()
    });
    match found {
        Ok(record) => Ok(record),
        Err(error) if matches!(error.kind(), Kind::Moved | Kind::Frozen) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The answer to a stale read of a key of this node's own copy; `None` if it has none.
pub(crate) fn stale_here(
    site: &Site,
    key: &[u8],
    asked: &HeaderMap,
    style: Style,
) -> Result<Option<HttpResponse>> {
    let Member::Worker(worker) = &site.member else { return Ok(None) };
    let read = site.with_open(&worker.node.mode(), |replica| {
        let (reader, lag) = replica.stale_reader()?;
        Ok((reader.get(key)?, lag))
    });
    match read {
        Ok((record, lag)) => {
            let mut response = found(record, key, asked, style);
            respond::lag(&mut response, lag);
            Ok(Some(response))
        }
        Err(error) if matches!(error.kind(), Kind::Moved | Kind::Frozen) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The answer to a read.
pub(crate) fn found(record: Option<Record>, key: &[u8], asked: &HeaderMap, style: Style) -> HttpResponse {
    match record {
        Some(record) => respond::record(record, asked, style),
        None => super::error::respond(&absent(key)),
    }
}

/// A read that could not be answered at once.
pub(crate) async fn get(
    door: &Door,
    asked: &Asked<'_>,
    key: &[u8],
    style: Style,
    stale: bool,
) -> Result<HttpResponse> {
    let errand = Errand::read(door, asked, Aim::Slot(slot(key)), stale)?;
    let done = errand.run(async |replica| {
        let (reader, lag) = right(replica, stale, errand.deadline).await?;
        match reader.get(key) {
            Ok(record) => Ok((record, lag)),
            Err(error) if error.kind() == Kind::Moved => Err(not_owned(replica, slot(key))),
            Err(error) => Err(error.into()),
        }
    });
    match done.await? {
        Done::There(answer) => Ok(answer),
        Done::Here((record, lag)) => {
            let mut response = found(record, key, asked.request.headers(), style);
            if stale {
                respond::lag(&mut response, lag);
            }
            Ok(response)
        }
    }
}

/// A right to read what this member's group holds, and how many milliseconds that may lag behind: for a stale read
/// whatever is applied here; otherwise as the leader, which stops where this member does not lead.
pub(crate) async fn right(
    replica: &KeyspaceHandle,
    stale: bool,
    deadline: Instant,
) -> Result<(Reader, Option<u64>), Stop> {
    if !stale {
        return match replica.reader()? {
            Some(reader) => Ok((reader, Some(0))),
            None => Ok((replica.reader_confirmed(deadline).await?, Some(0))),
        };
    }
    let (reader, lag) = replica.stale_reader()?;
    // A copy that is not there yet owns nothing, and says nothing of what the group holds.
    if !reader.owns_slots() && replica.numbers().voters.is_empty() {
        return Err(Stop::LeadLost(Error::new(
            Kind::Moved,
            "this copy of the group's keys is not there yet",
        )));
    }
    Ok((reader, lag))
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
    let site = &door.site;
    let (condition, id) = conditions(asked)?;
    let given = asked.request.headers().get(CONTENT_TYPE).map(|value| value.to_str()).transpose();
    let content_type = match (given, &value) {
        (_, Some(value)) if std::str::from_utf8(value).is_ok() => content_type::TEXT.to_owned(),
        (_, Some(_)) | (Ok(None), None) => String::new(),
        (Ok(Some(text)), None) => content_type::check(text)?,
        (Err(_), None) => content_type::check("\u{fffd}")?,
    };
    let slot = slot(&key);
    if let Some(answer) = redirected(door, asked, slot).await? {
        return Ok(answer);
    }
    let limit = limit(site, site.group_of_slot(slot)?);
    let (value, on_the_wire, lease) = match value {
        Some(value) => (Bytes::from(value), Bytes::new(), None),
        None => {
            let body = body::read(site, asked.request, payload, limit, Kind::ValueTooLarge).await?;
            let bytes = Bytes::from(body.bytes);
            (bytes.clone(), bytes, Some(body.lease))
        }
    };
    check_value(value.len(), limit)?;
    let size = value.len();
    let command = Command::Put(put_of(key.clone(), content_type, ttl, condition));
    let request = Request { id, command };
    let write = Write { aim: Aim::Slot(slot), request, value: Some(value), lease };
    match write.run(door, asked, Wire::of(asked, Some(on_the_wire))).await? {
        Done::Here(reply) => written(site, reply, &key, size, style),
        Done::There(answer) => Ok(answer),
    }
}

/// A put whose value stands beside it.
fn put_of(key: Vec<u8>, content_type: String, ttl: Option<u64>, condition: Condition) -> Put {
    Put { key, value: Vec::new(), checksum: 0, content_type, ttl, condition }
}

/// The longest value that is taken for `group`: a node that does not lead leaves it to the one that does.
fn limit(site: &Site, group: u32) -> usize {
    let Member::Worker(worker) = &site.member else { return FORWARDED_VALUE };
    let leads = || site.with_open(&worker.node.mode(), |replica| Ok(replica.lead() == Lead::Here));
    if worker.group() == Some(group) && leads().unwrap_or(false) { worker.max_value } else { FORWARDED_VALUE }
}

/// 307 to whoever leads the group that owns `slot`, if the client asks for that and it is another node.
async fn redirected(door: &Door, asked: &Asked<'_>, slot: u16) -> Result<Option<HttpResponse>> {
    if !asked.wants_redirect() {
        return Ok(None);
    }
    match Errand::read(door, asked, Aim::Slot(slot), false)?.run(async |_| Ok(())).await? {
        Done::Here(()) => Ok(None),
        Done::There(answer) => Ok(Some(answer)),
    }
}

/// Stores a file of this worker's disk.
pub(crate) async fn put_file(
    door: &Door,
    asked: &Asked<'_>,
    key: Vec<u8>,
    path: Vec<u8>,
) -> Result<HttpResponse> {
    let site = &door.site;
    let Member::Worker(worker) = &site.member else { return Err(files::on_a_master(site)) };
    let (condition, id) = conditions(asked)?;
    let aim = Aim::Slot(slot(&key));
    let root = files::root(worker)?.to_owned();
    let data = site.place.get().map(|place| place.data.clone()).unwrap_or_default();
    let limit = worker.max_value;
    let mut lease = site.budget.lease();
    let length = files::length(root.clone(), data.clone(), path.clone(), limit).await?;
    lease.grow(length)?;
    let file = files::read(root, data, path, limit).await?;
    let (size, value) = (file.value.len(), Bytes::from(file.value));
    let wire_path = format!("/kv/{}", percent::encode(&key));
    let wire = Wire {
        method: Method::PUT,
        path: &wire_path,
        body: Some(value.clone()),
        content_type: Some(if file.content_type.is_empty() {
            content_type::UNKNOWN
        } else {
            file.content_type
        }),
        redirects: false,
    };
    let command = Command::Put(put_of(key.clone(), file.content_type.to_owned(), None, condition));
    let write = Write { aim, request: Request { id, command }, value: Some(value), lease: Some(lease) };
    match write.run(door, asked, wire).await? {
        Done::Here(reply) => written(site, reply, &key, size, Style::Classic),
        Done::There(answer) => classic(answer, &key, size).await,
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
    let aim = Aim::Slot(slot(&key));
    let command = Command::Delete { key: key.clone(), condition };
    let write = Write { aim, request: Request { id, command }, value: None, lease: None };
    match write.run(door, asked, Wire::of(asked, Some(Bytes::new()))).await? {
        Done::There(answer) => Ok(answer),
        Done::Here(Reply::Deleted { .. }) if style == Style::Resource => {
            Ok(respond::empty(StatusCode::NO_CONTENT))
        }
        Done::Here(Reply::Deleted { .. }) => Ok(respond::text(format!("{}: deleted", respond::shown(&key)))),
        Done::Here(Reply::Absent) => Err(absent(&key)),
        Done::Here(Reply::ConditionFailed { current, .. }) => Ok(condition_failed(&key, current)),
        Done::Here(reply) => Err(unexpected(&door.site, &reply)),
    }
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
