//! Answers: their headers and their wording. Stored values never become web pages of ours, so every answer says
//! `nosniff` and is sandboxed; what was typed by hand must not come from a cache.

use super::condition;
use super::content_type;
use super::held;
use super::range::{self, Facts, Piece, Plan};
use super::route::Style;
use crate::error::{Error, Kind};
use crate::replica::{Meta, Record};
use actix_web::body::{BoxBody, SizedStream};
use actix_web::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_RANGE, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderName,
    HeaderValue, HttpDate, IF_MATCH, IF_NONE_MATCH, LAST_MODIFIED, X_CONTENT_TYPE_OPTIONS,
};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use futures_util::{Stream, stream};
use serde::Serialize;
use std::time::{Duration, SystemTime};

/// `Catstore-Checksum`.
pub(crate) const CHECKSUM: HeaderName = HeaderName::from_static("catstore-checksum");
/// `Catstore-Applied-Lag`: how many milliseconds a stale read may lag behind, or `unknown`.
pub(crate) const LAG: HeaderName = HeaderName::from_static("catstore-applied-lag");

/// Adds the headers that every answer carries.
pub(crate) fn secure(response: &mut HttpResponse, classic: bool) {
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    if classic {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
}

/// An answer without a body.
pub(crate) fn empty(status: StatusCode) -> HttpResponse {
    HttpResponse::with_body(status, BoxBody::new(()))
}

/// An answer of one line of text.
pub(crate) fn text(line: String) -> HttpResponse {
    let mut response = HttpResponse::with_body(StatusCode::OK, BoxBody::new(line + "\n"));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type::TEXT));
    response
}

/// A document as JSON, laid out for eyes if `pretty`.
pub(crate) fn json<T: Serialize>(document: &T, pretty: bool) -> HttpResponse {
    let body = if pretty { serde_json::to_vec_pretty(document) } else { serde_json::to_vec(document) };
    match body {
        Ok(body) => json_bytes(body),
        Err(error) => super::error::respond(
            &Error::new(Kind::Failed, "the answer cannot be written as JSON").cause(error),
        ),
    }
}

/// A document that is already JSON.
pub(crate) fn json_bytes(mut body: Vec<u8>) -> HttpResponse {
    body.push(b'\n');
    let mut response = HttpResponse::with_body(StatusCode::OK, BoxBody::new(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Adds `ETag: "version"`.
pub(crate) fn tag(response: &mut HttpResponse, version: u64) {
    if let Ok(value) = HeaderValue::try_from(format!("\"{version}\"")) {
        response.headers_mut().insert(ETAG, value);
    }
}

/// Adds how many milliseconds the copy that was read may lag behind; `unknown` if nobody can tell.
pub(crate) fn lag(response: &mut HttpResponse, milliseconds: Option<u64>) {
    let value = milliseconds.map_or(HeaderValue::from_static("unknown"), HeaderValue::from);
    response.headers_mut().insert(LAG, value);
}

/// A key as a line of text shows it: control characters escaped, and not more than a line of it.
pub(crate) fn shown(key: &[u8]) -> String {
    let mut text = String::new();
    for character in String::from_utf8_lossy(key).chars().take(200) {
        if character.is_control() {
            text.extend(character.escape_default());
        } else {
            text.push(character);
        }
    }
    text
}

/// What a record in memory answers to a read.
pub(crate) fn record(record: Record, request: &HttpRequest, style: Style) -> HttpResponse {
    let meta = record.meta.clone();
    let mut response = value(&meta, request, style, |plan| slices(&record.into_value(), plan.pieces));
    if response.status() == StatusCode::PARTIAL_CONTENT {
        // A part of a value keeps all of it in memory.
        response.extensions_mut().insert(held::Kept(meta.size));
    }
    response
}

/// What a value answers to a read, wherever its bytes are: `body` is called for the ones that the plan names, if the
/// answer has any. A body that is a stream must say its length, which is the plan's.
pub(crate) fn value(
    meta: &Meta,
    request: &HttpRequest,
    style: Style,
    body: impl FnOnce(Plan) -> BoxBody,
) -> HttpResponse {
    let (asked, version) = (request.headers(), meta.version);
    if let Some(tags) = asked.get(IF_MATCH)
        && !condition::matches(tags.as_bytes(), version)
    {
        let error = Error::new(Kind::ConditionFailed, format!("the key has version {version}"));
        let mut response = super::error::respond(&error);
        tag(&mut response, version);
        return response;
    }
    let unchanged = asked.get(IF_NONE_MATCH).is_some_and(|tags| condition::matches(tags.as_bytes(), version));
    let content_type = content_type_of(&meta.content_type);
    let mut response = if unchanged {
        let mut response = empty(StatusCode::NOT_MODIFIED);
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        response
    } else {
        planned(meta, content_type, request, body)
    };
    tag(&mut response, version);
    let headers = response.headers_mut();
    let modified = SystemTime::UNIX_EPOCH + Duration::from_millis(meta.modified);
    if let Ok(value) = HeaderValue::try_from(HttpDate::from(modified).to_string()) {
        headers.insert(LAST_MODIFIED, value);
    }
    if let Ok(value) = HeaderValue::try_from(format!("crc32={:08X}", meta.checksum)) {
        headers.insert(CHECKSUM, value);
    }
    if style == Style::Resource {
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }
    response
}

/// The value, its part or parts, or 416.
fn planned(
    meta: &Meta,
    content_type: HeaderValue,
    request: &HttpRequest,
    body: impl FnOnce(Plan) -> BoxBody,
) -> HttpResponse {
    let (size, version, modified) = (meta.size, meta.version, meta.modified);
    let facts = Facts { size, version, modified, content_type: &content_type };
    let mut plan = range::plan(request.method(), request.headers(), &facts, chance);
    let (status, content_range) = (plan.status, plan.content_range.take());
    let mut response = if status == StatusCode::RANGE_NOT_SATISFIABLE {
        let detail = format!("the value has {size} bytes; the range lies outside");
        super::error::respond(&Error::new(Kind::OutOfRange, detail))
    } else {
        let content_type = plan.content_type.take().unwrap_or(content_type);
        let body = match *request.method() == Method::HEAD {
            true => BoxBody::new(SizedStream::new(plan.content_length, nothing())),
            false => body(plan),
        };
        let mut response = HttpResponse::with_body(status, body);
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        response
    };
    if let Some(place) = content_range {
        response.headers_mut().insert(CONTENT_RANGE, place);
    }
    response
}

/// The pieces of a value in memory.
fn slices(value: &Bytes, pieces: Vec<Piece>) -> BoxBody {
    let slice = |piece| match piece {
        Piece::Text(text) => text,
        // Plans keep every stretch inside the value.
        Piece::Value { from, length } => value.slice(from as usize..(from + length) as usize),
    };
    held::body(pieces.into_iter().map(slice).collect())
}

/// A number that nobody can guess; without one there are no answers of several parts.
fn chance() -> Option<u128> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    Some(u128::from_ne_bytes(bytes))
}

/// The body of an answer to HEAD, of which only the length is sent.
pub(crate) fn nothing() -> impl Stream<Item = std::io::Result<Bytes>> {
    stream::empty()
}

fn content_type_of(stored: &str) -> HeaderValue {
    let unknown = HeaderValue::from_static(content_type::UNKNOWN);
    if stored.is_empty() { unknown } else { HeaderValue::try_from(stored).unwrap_or(unknown) }
}
