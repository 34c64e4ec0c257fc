//! Errors as HTTP: the only place that knows which status a [`Kind`] has. Every error is a problem document
//! (RFC 9457) with a stable word. 4xx, 503 and 507 say that nothing was written; only 504 leaves it open.

use crate::cluster::view::Problem;
use crate::error::{Error, Kind};
use actix_web::HttpResponse;
use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use std::error::Error as _;

/// The media type of problem documents.
pub const PROBLEM: &str = "application/problem+json";

/// `Catstore-Error`: the stable word, also where an answer has no body.
pub(crate) const ERROR: HeaderName = HeaderName::from_static("catstore-error");

/// The status of a kind of error.
pub fn status(kind: Kind) -> StatusCode {
    match kind {
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::ConditionFailed => StatusCode::PRECONDITION_FAILED,
        Kind::BadRequest | Kind::KeyEmpty | Kind::KeyTooLong | Kind::CrossSlot | Kind::Usage => {
            StatusCode::BAD_REQUEST
        }
        Kind::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Kind::ValueTooLarge | Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Kind::UrlTooLong => StatusCode::URI_TOO_LONG,
        Kind::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        Kind::OutOfRange => StatusCode::RANGE_NOT_SATISFIABLE,
        Kind::TooSlow => StatusCode::REQUEST_TIMEOUT,
        Kind::Unauthorized => StatusCode::UNAUTHORIZED,
        Kind::Forbidden => StatusCode::FORBIDDEN,
        Kind::Conflict | Kind::ChunkMissing => StatusCode::CONFLICT,
        Kind::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
        Kind::UnknownOutcome => StatusCode::GATEWAY_TIMEOUT,
        Kind::NoWorker
        | Kind::NoMajority
        | Kind::Closed
        | Kind::Overloaded
        | Kind::Moved
        | Kind::Frozen
        | Kind::Failed
        | Kind::Damaged
        | Kind::ValueHurt
        | Kind::Foreign
        | Kind::Unreachable
        | Kind::System => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// The problem document of an error; its cause joins the detail.
pub fn problem(error: &Error) -> Problem {
    let status = status(error.kind());
    let detail = match error.source() {
        Some(cause) => format!("{}: {cause}", error.detail()),
        None => error.detail().to_owned(),
    };
    Problem {
        kind: error.kind().word().to_owned(),
        title: status.canonical_reason().unwrap_or("Error").to_owned(),
        status: status.as_u16(),
        detail,
        hint: error.hint_text().map(str::to_owned),
    }
}

/// The error that a problem document of another node states.
pub(crate) fn of_problem(status: StatusCode, body: &[u8]) -> Error {
    let problem: Option<Problem> = serde_json::from_slice(body).ok();
    let kind = problem.as_ref().and_then(|problem| Kind::from_word(&problem.kind));
    let Some((problem, kind)) = problem.zip(kind) else {
        return Error::new(
            Kind::UnknownOutcome,
            format!("another node answered {} without a reason", status.as_u16()),
        );
    };
    let error = Error::new(kind, problem.detail);
    match problem.hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// The answer to a request that failed.
pub fn respond(error: &Error) -> HttpResponse {
    let body = serde_json::to_vec(&problem(error)).unwrap_or_default();
    let mut response = HttpResponse::with_body(status(error.kind()), BoxBody::new(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM));
    headers.insert(ERROR, HeaderValue::from_static(error.kind().word()));
    match error.kind() {
        Kind::Unauthorized => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        Kind::Overloaded | Kind::NoMajority | Kind::NoWorker | Kind::Moved | Kind::Frozen => {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        _ => {}
    }
    response
}

/// The answer to a method that does not fit, or to `OPTIONS`: adds which ones do.
pub fn allow(mut response: HttpResponse, methods: &'static str) -> HttpResponse {
    let name: HeaderName = ALLOW;
    response.headers_mut().insert(name, HeaderValue::from_static(methods));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Advice;

    #[test]
    fn only_unknown_outcomes_leave_it_open() {
        for kind in Kind::ALL {
            let status = status(kind).as_u16();
            assert_eq!(status == 504, kind.advice() == Advice::Unknown, "{kind:?}");
            assert!((400..500).contains(&status) || matches!(status, 503 | 504 | 507), "{kind:?}");
        }
    }

    #[test]
    fn a_problem_names_what_happened_and_what_to_do() {
        let error = Error::new(Kind::System, "cannot do it")
            .cause(std::io::Error::other("the reason"))
            .hint("do this");
        let problem = problem(&error);
        assert_eq!(problem.kind, "system");
        assert_eq!(problem.detail, "cannot do it: the reason");
        assert_eq!(problem.hint.as_deref(), Some("do this"));
        let response = respond(&Error::new(Kind::Unauthorized, "no"));
        assert_eq!(response.headers().get("www-authenticate").unwrap(), "Bearer");
    }
}
