//! Parts of values: what an answer to `Range` and `If-Range` (RFC 9110, sections 13.1.5 and 14) is made of.
//!
//! The way of a read: [`plan`] reads the request's headers (`header`), joins what overlaps (`join`), and lays out the
//! body as [`Piece`]s: stretches of the value, and between them the heads of a multipart body (`multipart`). Whoever
//! holds the value, in memory or on disk, sends the pieces one after the other.
//!
//! Invariants: the same headers and facts give the same plan, so that clock, chance and disk stay outside; every
//! stretch lies inside the value; no byte of the value is sent twice; what is not understood is ignored, as the RFC
//! asks, and answered with the whole value.
//!
//! Left out: the other conditions (`condition`), and the wording of the answer (`respond`).

mod header;
mod join;
mod multipart;
#[cfg(test)]
mod tests;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue, IF_RANGE, RANGE};
use actix_web::http::{Method, StatusCode};
use bytes::Bytes;

/// The most parts of one answer; who asks for more gets the whole value.
const MOST: usize = 64;

/// What must be known of a value before it is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'a> {
    /// Its length in bytes.
    pub(crate) size: u64,
    /// Its version; its tag is this number in quotes.
    pub(crate) version: u64,
    /// When it was written, milliseconds since 1970.
    pub(crate) modified: u64,
    /// What its answers say as `Content-Type`, as do the heads of parts.
    pub(crate) content_type: &'a HeaderValue,
}

/// What an answer is made of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// 200, 206 or 416.
    pub(crate) status: StatusCode,
    /// The sum of the pieces in bytes. A 416 has none; what its body says is the caller's.
    pub(crate) content_length: u64,
    /// `Content-Range`: of a single part, or of a 416.
    pub(crate) content_range: Option<HeaderValue>,
    /// `multipart/byteranges` where there are several parts; `None` leaves the value's own.
    pub(crate) content_type: Option<HeaderValue>,
    /// The body. At most two for each of 64 parts, and one more.
    pub(crate) pieces: Vec<Piece>,
}

/// A piece of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Bytes of the answer itself: the head of a part, or what closes the last one.
    Text(Bytes),
    /// Bytes of the value; never empty, and never outside of it.
    Value {
        /// The position of the first one.
        from: u64,
        /// How many.
        length: u64,
    },
}

/// A stretch of a value, from the first position to the one after the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    from: u64,
    end: u64,
}

/// What `headers` ask of a value. `boundary` gives the number that keeps parts apart, which nobody who writes values
/// can guess; it is asked for several parts only, and without one the answer is the whole value.
pub(crate) fn plan(
    method: &Method,
    headers: &HeaderMap,
    value: &Facts<'_>,
    boundary: impl FnOnce() -> Option<u128>,
) -> Plan {
    let asked = match one(headers, RANGE) {
        Some(range) if *method == Method::GET && holds(headers, value) => {
            header::spans(range.as_bytes(), value.size)
        }
        _ => None,
    };
    let Some(spans) = asked.map(join::join) else { return whole(value.size) };
    match spans.as_slice() {
        [] => unsatisfiable(value.size),
        // The end of an empty value is there, but `Content-Range` has no words for it.
        [span] if span.from == span.end => whole(value.size),
        [span] => single(*span, value.size),
        spans if spans.len() > MOST => whole(value.size),
        spans => boundary()
            .and_then(|number| multipart::several(spans, value, number))
            .unwrap_or_else(|| whole(value.size)),
    }
}

/// The only header of that name; several contradict each other.
fn one(headers: &HeaderMap, name: HeaderName) -> Option<&HeaderValue> {
    let mut all = headers.get_all(name);
    all.next().filter(|_| all.next().is_none())
}

fn holds(headers: &HeaderMap, value: &Facts<'_>) -> bool {
    if !headers.contains_key(IF_RANGE) {
        return true;
    }
    one(headers, IF_RANGE)
        .is_some_and(|validator| header::is_current(validator.as_bytes(), value.version, value.modified))
}

fn whole(size: u64) -> Plan {
    let pieces = if size == 0 { Vec::new() } else { vec![Piece::Value { from: 0, length: size }] };
    Plan { status: StatusCode::OK, content_length: size, content_range: None, content_type: None, pieces }
}

fn single(span: Span, size: u64) -> Plan {
    Plan {
        status: StatusCode::PARTIAL_CONTENT,
        content_length: span.length(),
        content_range: HeaderValue::try_from(span.place(size)).ok(),
        content_type: None,
        pieces: vec![span.piece()],
    }
}

fn unsatisfiable(size: u64) -> Plan {
    Plan {
        status: StatusCode::RANGE_NOT_SATISFIABLE,
        content_length: 0,
        content_range: HeaderValue::try_from(format!("bytes */{size}")).ok(),
        content_type: None,
        pieces: Vec::new(),
    }
}

impl Piece {
    /// Its length in bytes.
    pub(crate) fn length(&self) -> u64 {
        match self {
            Piece::Text(text) => text.len() as u64,
            Piece::Value { length, .. } => *length,
        }
    }
}

impl Span {
    fn length(self) -> u64 {
        self.end - self.from
    }

    fn piece(self) -> Piece {
        Piece::Value { from: self.from, length: self.length() }
    }

    /// As `Content-Range` says it, where the last position is included. The span is not empty.
    fn place(self, size: u64) -> String {
        format!("bytes {}-{}/{size}", self.from, self.end - 1)
    }
}
