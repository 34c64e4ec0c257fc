//! The grammar of `Range` (RFC 9110, section 14.1), and the comparison of `If-Range` (section 13.1.5). What does not
//! follow it is not guessed at.

use super::Span;
use std::time::UNIX_EPOCH;

const BLANKS: [char; 2] = [' ', '\t'];

/// The satisfiable ones of the ranges in `header`, in their order; `None` if it is malformed or asks for other units
/// than bytes. Only the end of an empty value is an empty span.
pub(super) fn spans(header: &[u8], size: u64) -> Option<Vec<Span>> {
    let (unit, set) = std::str::from_utf8(header).ok()?.trim_matches(BLANKS).split_once('=')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let mut spans = Vec::new();
    let mut any = false;
    // Empty elements of a list are skipped (section 5.6.1.2).
    for spec in set.split(',').map(|spec| spec.trim_matches(BLANKS)).filter(|spec| !spec.is_empty()) {
        any = true;
        spans.extend(span(spec, size)?);
    }
    any.then_some(spans)
}

/// One range: `None` if it is malformed, `Some(None)` if it lies outside the value.
fn span(spec: &str, size: u64) -> Option<Option<Span>> {
    let (first, last) = spec.split_once('-')?;
    if first.is_empty() {
        let suffix = number(last)?;
        return Some((suffix > 0).then(|| Span { from: size - suffix.min(size), end: size }));
    }
    let first = number(first)?;
    let last = if last.is_empty() { u64::MAX } else { number(last)? };
    if first > last {
        return None;
    }
    Some((first < size).then(|| Span { from: first, end: last.min(size - 1) + 1 }))
}

/// Digits as a number; what is too large for one lies beyond every value anyway.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

/// True if the validator of an `If-Range` is the value's own: its tag, byte by byte and never a weak one, or the very
/// second of its last change. A second is not a version: the RFC leaves it to the client to send a date only if it
/// cannot stand for two values, and tags are there for everybody else.
pub(super) fn is_current(validator: &[u8], version: u64, modified: u64) -> bool {
    let Ok(text) = std::str::from_utf8(validator) else { return false };
    let text = text.trim_matches(BLANKS);
    if text.ends_with('"') {
        return text == format!("\"{version}\"");
    }
    httpdate::parse_http_date(text)
        .ok()
        .and_then(|date| date.duration_since(UNIX_EPOCH).ok())
        .is_some_and(|date| date.as_secs() == modified / 1000)
}
