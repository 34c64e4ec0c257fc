//! `multipart/byteranges` (RFC 9110, section 14.6): the heads between several parts of a value. A value may hold
//! anything, so that only chance keeps it from holding the boundary too.

use super::{Facts, Piece, Plan, Span};
use actix_web::http::StatusCode;
use actix_web::http::header::HeaderValue;
use bytes::Bytes;

/// The plan of several parts, kept apart by `number`; `None` if they cannot be told in headers or counted.
pub(super) fn several(spans: &[Span], value: &Facts<'_>, number: u128) -> Option<Plan> {
    let boundary = format!("catstore-{number:032x}");
    let content_type = HeaderValue::try_from(format!("multipart/byteranges; boundary={boundary}")).ok()?;
    let mut pieces = Vec::with_capacity(2 * spans.len() + 1);
    for (place, span) in spans.iter().enumerate() {
        let before = if place == 0 { "" } else { "\r\n" };
        let mut head = format!("{before}--{boundary}\r\nContent-Type: ").into_bytes();
        head.extend_from_slice(value.content_type.as_bytes());
        head.extend_from_slice(format!("\r\nContent-Range: {}\r\n\r\n", span.place(value.size)).as_bytes());
        pieces.push(Piece::Text(Bytes::from(head)));
        pieces.push(span.piece());
    }
    pieces.push(Piece::Text(Bytes::from(format!("\r\n--{boundary}--\r\n"))));
    Some(Plan {
        status: StatusCode::PARTIAL_CONTENT,
        // With a value of nearly 2^64 bytes the heads have no room; no store holds one.
        content_length: pieces.iter().try_fold(0u64, |sum, piece| sum.checked_add(piece.length()))?,
        content_range: None,
        content_type: Some(content_type),
        pieces,
    })
}
