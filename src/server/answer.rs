//! What another node answered to a request that was sent on: passed back to the client, or a refusal after which
//! somebody else may be asked. Short answers are read first; long ones flow through, judged by their progress.

use super::error::ERROR;
use super::forward::{REQUEST_ID, Refused, Seat, Sent, unreachable};
use super::owner::Target;
use super::site::Site;
use crate::cluster::view::Problem;
use crate::error::{Error, Kind};
use actix_web::HttpResponse;
use actix_web::body::{BoxBody, SizedStream};
use actix_web::error::PayloadError;
use actix_web::http::StatusCode;
use actix_web::http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, LAST_MODIFIED,
    LOCATION, RETRY_AFTER,
};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Answers up to this length are read before they are passed on.
const SMALL: u64 = 64 << 10;
/// Answers of unknown length are refused beyond this.
const LARGEST: usize = 32 << 20;
/// How long a long answer may make no progress.
const SILENCE: Duration = Duration::from_secs(10);

const PASSED_BACK: [HeaderName; 12] = [
    CONTENT_TYPE,
    ETAG,
    LAST_MODIFIED,
    CONTENT_RANGE,
    ACCEPT_RANGES,
    RETRY_AFTER,
    LOCATION,
    super::respond::CHECKSUM,
    super::respond::LAG,
    super::lists::SLOTS,
    REQUEST_ID,
    ERROR,
];

/// What is known of the request that was sent on.
pub(crate) struct Way<'a> {
    /// True for HEAD.
    pub(crate) head: bool,
    /// True if it may write.
    pub(crate) changes: bool,
    /// When it must be answered.
    pub(crate) deadline: Instant,
    /// Its place among those that wait.
    pub(crate) seat: &'a Rc<Seat>,
    /// Who answered.
    pub(crate) target: &'a Target,
}

/// Takes the answer of a node of this cluster.
pub(crate) async fn take<S>(site: &Site, mut answer: awc::ClientResponse<S>, way: Way<'_>) -> Sent
where
    S: Stream<Item = Result<Bytes, PayloadError>> + Unpin + 'static,
{
    let status = StatusCode::from_u16(answer.status().as_u16()).unwrap_or(StatusCode::BAD_GATEWAY);
    let headers: Vec<(HeaderName, HeaderValue)> = PASSED_BACK
        .into_iter()
        .filter_map(|name| answer.headers().get(&name).cloned().map(|value| (name, value)))
        .collect();
    let length =
        answer.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let body = match length {
        Some(length) if way.head => BoxBody::new(SizedStream::new(length, super::respond::nothing())),
        Some(length) if length > SMALL && !way.changes => {
            BoxBody::new(SizedStream::new(length, flow(answer, Rc::clone(way.seat))))
        }
        _ => {
            let left = way.deadline.saturating_duration_since(Instant::now());
            let body = match tokio::time::timeout(left, collect(&mut answer)).await {
                Ok(Ok(body)) => body,
                // The status of a write has arrived, and with it the outcome.
                _ if way.changes => Bytes::new(),
                Ok(Err(why)) => return Sent::Refused(unreachable(site, way.target, &why)),
                Err(_) => {
                    return Sent::Refused(unreachable(site, way.target, "its answer did not end in time"));
                }
            };
            match refusal(status, answer.headers().get(ERROR), &body) {
                Some(refused) => return refused,
                None => BoxBody::new(body),
            }
        }
    };
    if way.head
        && let Some(refused) = refusal(status, answer_error(&headers), &[])
    {
        return refused;
    }
    let mut response = HttpResponse::with_body(status, body);
    for (name, value) in headers {
        response.headers_mut().insert(name, value);
    }
    Sent::Answer(response)
}

fn answer_error(headers: &[(HeaderName, HeaderValue)]) -> Option<&HeaderValue> {
    headers.iter().find(|(name, _)| *name == ERROR).map(|(_, value)| value)
}

/// What an error means for the request: some say that another node, or the same one later, may do what was asked.
fn refusal(status: StatusCode, word: Option<&HeaderValue>, body: &[u8]) -> Option<Sent> {
    if !matches!(status.as_u16(), 503 | 504) {
        return None;
    }
    let problem = serde_json::from_slice::<Problem>(body).ok();
    let word =
        word.and_then(|word| word.to_str().ok()).or(problem.as_ref().map(|problem| problem.kind.as_str()));
    let kind = Kind::from_word(word?)?;
    let detail = problem
        .as_ref()
        .map_or_else(|| "the answer does not say more".to_owned(), |problem| problem.detail.clone());
    let error = Error::new(kind, detail);
    let error = match problem.and_then(|problem| problem.hint) {
        Some(hint) => error.hint(hint),
        None => error,
    };
    match kind {
        Kind::UnknownOutcome => Some(Sent::Unknown(error)),
        Kind::Moved | Kind::NoMajority | Kind::Frozen => {
            Some(Sent::Refused(Refused { error, dead: false, word: None }))
        }
        Kind::Closed | Kind::Failed | Kind::Damaged | Kind::Foreign | Kind::System | Kind::Unreachable => {
            Some(Sent::Refused(Refused { error, dead: true, word: None }))
        }
        _ => None,
    }
}

async fn collect<S>(answer: &mut awc::ClientResponse<S>) -> Result<Bytes, String>
where
    S: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
{
    let mut body = BytesMut::new();
    while let Some(chunk) = answer.next().await {
        let chunk = chunk.map_err(|error| error.to_string())?;
        if body.len() + chunk.len() > LARGEST {
            return Err("its answer is too long".to_owned());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// A long answer as it comes, judged by its progress.
fn flow<S>(answer: awc::ClientResponse<S>, seat: Rc<Seat>) -> impl Stream<Item = Result<Bytes, io::Error>>
where
    S: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
{
    stream::unfold((answer, seat), |(mut answer, seat)| async move {
        let chunk = match tokio::time::timeout(SILENCE, answer.next()).await {
            Ok(None) => return None,
            Ok(Some(Ok(chunk))) => Ok(chunk),
            Ok(Some(Err(error))) => Err(io::Error::other(error)),
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
        };
        Some((chunk, (answer, seat)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Advice;

    fn seen(status: u16, word: Option<&'static str>, body: &str) -> Option<Sent> {
        let word = word.map(HeaderValue::from_static);
        refusal(StatusCode::from_u16(status).unwrap(), word.as_ref(), body.as_bytes())
    }

    #[test]
    fn some_errors_are_worth_another_attempt_and_others_are_answers() {
        let problem =
            r#"{"type":"closed","title":"x","status":503,"detail":"it is closed","hint":"open it"}"#;
        let Some(Sent::Refused(refused)) = seen(503, None, problem) else { panic!("closed") };
        assert_eq!((refused.error.kind(), refused.error.hint_text()), (Kind::Closed, Some("open it")));
        assert!(refused.dead);
        // The answer to HEAD has no body.
        let Some(Sent::Refused(refused)) = seen(503, Some("moved"), "") else { panic!("moved") };
        assert!(!refused.dead);
        assert!(matches!(seen(504, Some("unknown_outcome"), ""), Some(Sent::Unknown(_))));
        assert!(seen(503, Some("overloaded"), "").is_none());
        assert!(seen(503, Some("value_hurt"), "").is_none());
        assert!(seen(503, None, "<html>").is_none());
        assert!(seen(404, Some("not_found"), "").is_none() && seen(200, None, "{}").is_none());
    }

    #[test]
    fn what_is_asked_again_was_certainly_not_done() {
        for kind in Kind::ALL {
            let status = super::super::error::status(kind);
            if let Some(Sent::Refused(_)) = seen(status.as_u16(), Some(kind.word()), "") {
                assert_ne!(kind.advice(), Advice::Unknown, "{kind:?}");
            }
        }
    }
}
