//! Reading and writing one key. A read of our own key is done at once on this thread; whatever has to wait, or is
//! another node's, is an [`Errand`].

use super::condition;
use super::content_type;
use super::door::{Asked, Door};
use super::errand::{Aim, Done, Errand, Stop, Wire};
use super::forward::REQUEST_ID;
use super::respond;
use super::route::Style;
use super::site::{Member, Site};
use super::streaming;
use super::upload::{self, Order};
use super::write::{Write, not_owned};
use crate::cluster::slots::slot;
use crate::error::{Error, Kind, Result};
use crate::replica::Record;
use crate::replica::command::{Command, Condition, Reply, Request};
use crate::replica::handle::KeyspaceHandle;
use crate::replica::reader::Reader;
use actix_web::body::to_bytes;
use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Instant;

pub(crate) use super::write::submit;

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
    request: &HttpRequest,
    style: Style,
) -> Result<Option<HttpResponse>> {
    let Member::Worker(worker) = &site.member else { return Ok(None) };
    let read = site.with_open(&worker.node.mode(), |replica| {
        let (reader, lag) = replica.stale_reader()?;
        Ok((reader.get(key)?, lag))
    });
    match read {
        // What is in chunks must be read.
        Ok((Some(record), _)) if record.meta.in_chunks => Ok(None),
        Ok((record, lag)) => {
            let mut response = found(record, key, request, style);
            respond::lag(&mut response, lag);
            Ok(Some(response))
        }
        Err(error) if matches!(error.kind(), Kind::Moved | Kind::Frozen) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The answer to a read.
pub(crate) fn found(record: Option<Record>, key: &[u8], request: &HttpRequest, style: Style) -> HttpResponse {
    match record {
        Some(record) => respond::record(record, request, style),
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
        // Before the record is read: from here on its chunks stay.
        let keeper = Arc::clone(replica.keeper());
        let reading = keeper.reading();
        let (reader, lag) = right(replica, stale, errand.deadline).await?;
        match reader.get(key) {
            Ok(record) => Ok((record, lag, (keeper, reading))),
            Err(error) if error.kind() == Kind::Moved => Err(not_owned(replica, slot(key))),
            Err(error) => Err(error.into()),
        }
    });
    match done.await? {
        Done::There(answer) => Ok(answer),
        Done::Here((record, lag, (keeper, reading))) => {
            let mut response = match record {
                Some(record) if record.meta.in_chunks => {
                    streaming::answer(keeper, reading, record, key, asked.request, style).await?
                }
                record => found(record, key, asked.request, style),
            };
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
    let (condition, id) = conditions(asked)?;
    let content_type = match &value {
        Some(value) if std::str::from_utf8(value).is_ok() => content_type::TEXT.to_owned(),
        Some(_) => String::new(),
        None => content_type_of(asked)?,
    };
    if let Some(answer) = redirected(door, asked, slot(&key)).await? {
        return Ok(answer);
    }
    let order = Order { key, content_type, ttl, condition, id, style };
    match value {
        Some(value) => {
            let wire = (Wire::of(asked, Some(Bytes::new())), false);
            upload::put_whole(door, asked, order, Bytes::from(value), wire, None).await
        }
        None => upload::put_body(door, asked, payload, order).await,
    }
}

/// The content type that a request names; empty if none.
pub(crate) fn content_type_of(asked: &Asked<'_>) -> Result<String> {
    match asked.request.headers().get(CONTENT_TYPE).map(|value| value.to_str()).transpose() {
        Ok(None) => Ok(String::new()),
        Ok(Some(text)) => content_type::check(text),
        Err(_) => content_type::check("\u{fffd}"),
    }
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

/// A value that was put.
pub(crate) struct Written<'a> {
    /// Its key.
    pub(crate) key: &'a [u8],
    /// Its bytes.
    pub(crate) size: u64,
    /// How the answer is worded.
    pub(crate) style: Style,
    /// True if another node's answer is to be worded as a classic one.
    pub(crate) reword: bool,
}

impl Written<'_> {
    /// The answer to the put.
    pub(crate) async fn answer(&self, site: &Site, done: Done<Reply>) -> Result<HttpResponse> {
        match done {
            Done::There(answer) if self.reword => self.classic(answer).await,
            Done::There(answer) => Ok(answer),
            Done::Here(Reply::Stored { version, created }) => {
                let mut response = match (self.style, created) {
                    (Style::Classic, _) => respond::text(self.line(version)),
                    (Style::Resource, true) => respond::empty(StatusCode::CREATED),
                    (Style::Resource, false) => respond::empty(StatusCode::OK),
                };
                respond::tag(&mut response, version);
                Ok(response)
            }
            Done::Here(Reply::ConditionFailed { current, .. }) => Ok(condition_failed(self.key, current)),
            Done::Here(reply) => Err(unexpected(site, &reply)),
        }
    }

    fn line(&self, version: u64) -> String {
        let unit = if self.size == 1 { "byte" } else { "bytes" };
        format!("{}: {} {unit}, version {version}", respond::shown(self.key), self.size)
    }

    /// Words the answer of `PUT /kv/KEY` as a classic one.
    async fn classic(&self, answer: HttpResponse) -> Result<HttpResponse> {
        if !answer.status().is_success() {
            return Ok(answer);
        }
        let version = answer.headers().get(ETAG).and_then(|tag| condition::version(tag.as_bytes()));
        let _ = to_bytes(answer.into_body()).await;
        let Some(version) = version else { return Ok(respond::text(respond::shown(self.key))) };
        let mut response = respond::text(self.line(version));
        respond::tag(&mut response, version);
        Ok(response)
    }
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
