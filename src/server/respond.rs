//! Answers: their headers and their wording. Stored values never become web pages of ours, so every answer says
//! `nosniff` and is sandboxed; what was typed by hand must not come from a cache.

use super::condition;
use super::content_type;
use super::range::{self, Asked};
use super::route::Style;
use crate::error::{Error, Kind};
use crate::replica::Record;
use actix_web::HttpResponse;
use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_RANGE, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderMap,
    HeaderName, HeaderValue, HttpDate, IF_MATCH, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE,
    X_CONTENT_TYPE_OPTIONS,
};
use bytes::Bytes;
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

/// What a record answers to a read with the given headers.
pub(crate) fn record(record: Record, asked: &HeaderMap, style: Style) -> HttpResponse {
    let version = record.meta.version;
    if let Some(tags) = asked.get(IF_MATCH)
        && !condition::matches(tags.as_bytes(), version)
    {
        let error = Error::new(Kind::ConditionFailed, format!("the key has version {version}"));
        let mut response = super::error::respond(&error);
        tag(&mut response, version);
        return response;
    }
    let unchanged = asked.get(IF_NONE_MATCH).is_some_and(|tags| condition::matches(tags.as_bytes(), version));
    let size = record.meta.size;
    let part = match asked.get(RANGE) {
        Some(header) if range_holds(asked, version) => range::parse(header.as_bytes(), size),
        _ => Asked::Whole,
    };
    let meta = record.meta.clone();
    let mut response = match part {
        _ if unchanged => empty(StatusCode::NOT_MODIFIED),
        Asked::Whole => HttpResponse::with_body(StatusCode::OK, BoxBody::new(record.into_value())),
        Asked::Part(first, last) => part_of(record.into_value(), first, last, size),
        Asked::Unsatisfiable => unsatisfiable(size),
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
    if !matches!(part, Asked::Unsatisfiable) {
        headers.insert(CONTENT_TYPE, content_type_of(meta.content_type));
    }
    if style == Style::Resource {
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }
    response
}

fn range_holds(asked: &HeaderMap, version: u64) -> bool {
    asked.get(IF_RANGE).is_none_or(|tag| condition::version(tag.as_bytes()) == Some(version))
}

fn content_type_of(stored: String) -> HeaderValue {
    if stored.is_empty() {
        return HeaderValue::from_static(content_type::UNKNOWN);
    }
    HeaderValue::try_from(stored).unwrap_or(HeaderValue::from_static(content_type::UNKNOWN))
}

fn part_of(value: Bytes, first: u64, last: u64, size: u64) -> HttpResponse {
    // `range::parse` keeps both positions inside the value.
    let body = value.slice(first as usize..=last as usize);
    let mut response = HttpResponse::with_body(StatusCode::PARTIAL_CONTENT, BoxBody::new(body));
    content_range(&mut response, format!("bytes {first}-{last}/{size}"));
    response
}

fn unsatisfiable(size: u64) -> HttpResponse {
    let error = Error::new(Kind::OutOfRange, format!("the value has {size} bytes; the range lies outside"));
    let mut response = super::error::respond(&error);
    content_range(&mut response, format!("bytes */{size}"));
    response
}

fn content_range(response: &mut HttpResponse, text: String) {
    if let Ok(value) = HeaderValue::try_from(text) {
        response.headers_mut().insert(CONTENT_RANGE, value);
    }
}
