//! What is said to a client whose request never became one: a head that cannot be read, is too large or does not come.
//! The door never sees such a request, so its answer is put into bytes here.

use super::error;
use super::respond;
use crate::error::{Error, Kind};
use actix_http::error::ParseError;
use actix_web::body::MessageBody;
use std::fmt::Write;
use std::time::{Duration, SystemTime};

/// The parser's limits, which it does not tell.
const LONGEST_HEAD: usize = 131_072;
const MOST_HEADERS: usize = 96;
const LONGEST_URL: usize = 65_534;

/// The error of a head that the parser refused; it gives its reason unless the client's slowness hid it, and `status`
/// is what it was about to answer.
pub(crate) fn unreadable(reason: Option<&ParseError>, status: u16) -> Error {
    match reason {
        Some(ParseError::TooLarge) => head_too_large(),
        Some(ParseError::Uri(cause)) if cause.to_string() == "uri too long" => {
            Error::new(Kind::UrlTooLong, format!("the URL has more than {LONGEST_URL} bytes"))
                .hint("send a long value as the body of PUT /kv/KEY")
        }
        Some(ParseError::Uri(cause)) => bad(format!("the URL cannot be read: {cause}")),
        Some(ParseError::Method) => bad("the method cannot be read"),
        Some(ParseError::Version) => bad("the request is not HTTP/1.1 or HTTP/1.0"),
        Some(ParseError::Header) => {
            bad("the request's line or a header cannot be read, or Host, Content-Length \
             or Transfer-Encoding is missing, repeated or contradictory")
        }
        None if status == 431 => head_too_large(),
        _ => bad("the request's head cannot be read"),
    }
}

/// The error of a head that ended before its empty line.
pub(crate) fn ended_early() -> Error {
    bad("the connection ended within the request's head")
}

/// The error of a head that did not come within `limit`.
pub(crate) fn too_slow(limit: Duration) -> Error {
    let detail = format!("the request's head did not come within {limit:?}");
    Error::new(Kind::TooSlow, detail).hint("send it again")
}

/// The error of a request that had not come when the node stopped.
pub(crate) fn stopping() -> Error {
    Error::new(Kind::Closed, "this node is stopping; nothing was done").hint("ask another node")
}

fn bad(detail: impl Into<String>) -> Error {
    Error::new(Kind::BadRequest, detail).hint("this port speaks HTTP/1.1 without TLS")
}

fn head_too_large() -> Error {
    let detail = format!("the request's head has more than {LONGEST_HEAD} bytes or {MOST_HEADERS} headers");
    Error::new(Kind::HeadTooLarge, detail).hint("send less in headers and URL")
}

/// The whole answer, with its status: the last one of its connection.
pub(crate) fn answer(refused: &Error) -> (u16, Vec<u8>) {
    let mut response = error::respond(refused);
    respond::secure(&mut response, false);
    let status = response.status();
    let mut head = format!(
        "HTTP/1.1 {} {}\r\nconnection: close\r\ndate: {}\r\n",
        status.as_u16(),
        status.canonical_reason().unwrap_or_default(),
        httpdate::fmt_http_date(SystemTime::now()),
    );
    for (name, value) in response.headers() {
        // Every one of them was written here, in letters.
        let _ = write!(head, "{name}: {}\r\n", value.to_str().unwrap_or_default());
    }
    let body = response.into_body().try_into_bytes().unwrap_or_default();
    let _ = write!(head, "content-length: {}\r\n\r\n", body.len());
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(&body);
    (status.as_u16(), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_has_its_own_word() {
        let long = actix_web::http::Uri::try_from("/".repeat(LONGEST_URL + 1)).unwrap_err();
        let wrong = actix_web::http::Uri::try_from("/ /").unwrap_err();
        let table = [
            (Some(ParseError::TooLarge), 431, Kind::HeadTooLarge),
            (None, 431, Kind::HeadTooLarge),
            (Some(ParseError::Uri(long)), 400, Kind::UrlTooLong),
            (Some(ParseError::Uri(wrong)), 400, Kind::BadRequest),
            (Some(ParseError::Method), 400, Kind::BadRequest),
            (Some(ParseError::Version), 400, Kind::BadRequest),
            (Some(ParseError::Header), 400, Kind::BadRequest),
            (Some(ParseError::Incomplete), 400, Kind::BadRequest),
            (None, 400, Kind::BadRequest),
        ];
        for (reason, status, kind) in table {
            assert_eq!(unreadable(reason.as_ref(), status).kind(), kind, "{reason:?}");
        }
        assert!(actix_web::http::Uri::try_from("/".repeat(LONGEST_URL)).is_ok());
    }

    #[test]
    fn an_answer_is_whole() {
        let (status, bytes) = answer(&too_slow(Duration::from_secs(10)));
        assert_eq!(status, 408);
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{head}");
        for header in [
            "connection: close",
            "content-type: application/problem+json",
            "x-content-type-options: nosniff",
            "content-security-policy: sandbox",
            &format!("content-length: {}", body.len()),
        ] {
            assert!(head.contains(header), "{header} is not in {head}");
        }
        assert!(body.contains("\"type\":\"too_slow\"") && body.contains("within 10s"), "{body}");
    }
}
