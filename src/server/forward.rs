//! Requests for keys of another node, sent on over a kept-alive connection of this thread.
//!
//! A request is forwarded once: the node that gets it either owns the key or answers `moved`. It is sent once:
//! nothing here repeats a request, and the client underneath does not either (it looks whether a kept connection
//! is still open before it writes to it). So a failure to connect means that nothing was written, and any failure
//! after that means that nobody knows. A stuck owner costs its own waiters only: they wait without a thread, their
//! number and their bytes are bounded, and each ends within its deadline.

use super::body::Lease;
use super::error;
use super::site::{Member, Site, Target};
use crate::error::{Error, Kind, Result};
use actix_web::body::{BoxBody, SizedStream};
use actix_web::http::header::{
    ACCEPT_RANGES, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderName,
    HeaderValue, IF_MATCH, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, LOCATION, RANGE, RETRY_AFTER,
};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse};
use awc::error::{ConnectError, SendRequestError};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Requests that may wait for other nodes at once.
const MOST: usize = 2048;
/// How long a connection may take to come up.
const CONNECT: Duration = Duration::from_secs(2);
/// Answers up to this length are read before they are passed on.
const SMALL: u64 = 64 << 10;
/// Answers of unknown length are refused beyond this.
const LARGEST: usize = 32 << 20;
/// How long a long answer may make no progress.
const SILENCE: Duration = Duration::from_secs(10);
/// Time that the next node is given less than we have, so that its answer comes back in time.
const MARGIN: Duration = Duration::from_millis(300);

/// `Catstore-Forwarded`: this request was forwarded once and is not forwarded again.
pub(crate) const FORWARDED: HeaderName = HeaderName::from_static("catstore-forwarded");
/// `Catstore-Deadline`: milliseconds that are left for the request.
pub(crate) const DEADLINE: HeaderName = HeaderName::from_static("catstore-deadline");
/// `Catstore-Request-Id`.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("catstore-request-id");

/// `Catstore-Cluster`: the cluster that a request is for, and the one that answered it.
pub(crate) const CLUSTER: HeaderName = HeaderName::from_static("catstore-cluster");

const PASSED_ON: [HeaderName; 6] = [CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH, IF_RANGE, RANGE, REQUEST_ID];
const PASSED_BACK: [HeaderName; 10] = [
    CONTENT_TYPE,
    ETAG,
    LAST_MODIFIED,
    CONTENT_RANGE,
    ACCEPT_RANGES,
    RETRY_AFTER,
    LOCATION,
    super::respond::CHECKSUM,
    super::respond::LAG,
    REQUEST_ID,
];

/// A request to send on.
pub(crate) struct Parcel<'a> {
    /// The node that gets it.
    pub(crate) target: Target,
    /// Its method.
    pub(crate) method: Method,
    /// Its raw path and query.
    pub(crate) path: &'a str,
    /// Its body.
    pub(crate) body: Vec<u8>,
    /// A content type that replaces the one of the client's request.
    pub(crate) content_type: Option<&'static str>,
    /// True if it may write.
    pub(crate) changes: bool,
    /// When it must be answered.
    pub(crate) deadline: Instant,
    /// The body's share of the budget.
    pub(crate) lease: Option<Lease>,
}

/// One of the places for requests that wait, given back when it is dropped.
struct Seat {
    site: Arc<Site>,
    _lease: Option<Lease>,
}

impl Seat {
    fn take(site: &Arc<Site>, lease: Option<Lease>) -> Result<Seat> {
        let before = site.forwarding.fetch_add(1, Ordering::Relaxed);
        let seat = Seat { site: Arc::clone(site), _lease: lease };
        if before >= MOST {
            return Err(Error::new(
                Kind::Overloaded,
                format!("{MOST} requests already wait for other nodes"),
            ));
        }
        Ok(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.site.forwarding.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The client of one thread.
pub(crate) fn client() -> awc::Client {
    let connector = awc::Connector::new()
        .limit(0)
        .timeout(CONNECT)
        .conn_keep_alive(Duration::from_secs(15))
        .conn_lifetime(Duration::from_secs(3600));
    awc::Client::builder()
        .connector(connector)
        .disable_timeout()
        .disable_redirects()
        .no_default_headers()
        .finish()
}

/// True if the request came from a node that does not own its key either.
pub(crate) fn was_forwarded(headers: &HeaderMap) -> bool {
    headers.contains_key(FORWARDED)
}

/// The id of this node's cluster, once it is known.
pub(crate) fn own_cluster(site: &Site) -> Option<&HeaderValue> {
    site.guard.cluster(|| match &site.member {
        Member::Worker(worker) => worker.registered().map(|registered| registered.cluster.clone()),
        Member::Master(_) => Some(site.view().cluster.clone()).filter(|cluster| !cluster.is_empty()),
    })
}

/// Sends a request on and passes its answer back.
///
/// Errors: [`Kind::NoMajority`] (certainly not written), [`Kind::UnknownOutcome`], [`Kind::Overloaded`].
pub(crate) async fn forward(
    site: &Arc<Site>,
    client: &awc::Client,
    request: &HttpRequest,
    parcel: Parcel<'_>,
) -> Result<HttpResponse> {
    let Parcel { target, method, path, body, content_type, changes, deadline, lease } = parcel;
    let seat = Seat::take(site, lease)?;
    let cluster = own_cluster(site).ok_or_else(starting)?;
    let left = deadline.saturating_duration_since(Instant::now());
    if left <= MARGIN {
        return Err(Error::new(Kind::NoMajority, "no time was left to forward the request"));
    }
    site.metrics.forwards.fetch_add(1, Ordering::Relaxed);
    let head = method == Method::HEAD;
    let mut out = client.request(method, format!("http://{}{path}", target.address));
    for name in PASSED_ON {
        if let Some(value) = request.headers().get(&name) {
            out.headers_mut().insert(name, value.clone());
        }
    }
    let headers = out.headers_mut();
    if let Some(content_type) = content_type {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    if let Some(token) = site.guard.token()
        && let Ok(value) = HeaderValue::try_from(format!("Bearer {token}"))
    {
        headers.insert(AUTHORIZATION, value);
    }
    headers.insert(CLUSTER, cluster.clone());
    headers.insert(FORWARDED, HeaderValue::from_static("1"));
    headers.insert(DEADLINE, HeaderValue::from((left - MARGIN).as_millis() as u64));
    let sending =
        if body.is_empty() && content_type.is_none() && !changes { out.send() } else { out.send_body(body) };
    match tokio::time::timeout(left, sending).await {
        Ok(Ok(answer)) if !is_of(cluster, &answer) => Err(not_ours(site, &target, answer.status(), changes)),
        Ok(Ok(answer)) => pass_back(answer, head, changes, deadline, seat, &target).await,
        Ok(Err(error)) if !changes || never_sent(&error) => {
            Err(unreachable(site, &target, &error.to_string()))
        }
        Ok(Err(error)) => Err(unknown(&target, &error.to_string())),
        Err(_) if changes => Err(unknown(&target, "it did not answer in time")),
        Err(_) => Err(unreachable(site, &target, "it did not answer in time")),
    }
}

/// 307 to the owner, for clients that ask for it.
pub(crate) fn redirect(target: &Target, path: &str) -> HttpResponse {
    let mut response = super::respond::empty(StatusCode::TEMPORARY_REDIRECT);
    if let Ok(value) = HeaderValue::try_from(format!("http://{}{path}", target.address)) {
        response.headers_mut().insert(LOCATION, value);
    }
    response
}

/// The answer for a worker that did not answer; nothing was written.
fn unreachable(site: &Site, target: &Target, why: &str) -> Error {
    Error::new(
        Kind::NoMajority,
        format!("worker {} at {} does not answer: {why}", target.index, target.address),
    )
    .hint(start_hint(site, target))
}

fn unknown(target: &Target, why: &str) -> Error {
    Error::new(
        Kind::UnknownOutcome,
        format!("worker {} at {} was sent the write, and then: {why}", target.index, target.address),
    )
    .hint("read the key to see whether it was written")
}

/// True if a node of `cluster` answered. One that only begins to start does not know its cluster, and says 503.
fn is_of<S>(cluster: &HeaderValue, answer: &awc::ClientResponse<S>) -> bool {
    match answer.headers().get(CLUSTER) {
        Some(named) => named == cluster,
        None => answer.status() == StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// The answer for what stands where a worker should, and is no node of this cluster. It says nothing about our keys;
/// but what took a write may have passed it on, unless it says that it did not.
fn not_ours(site: &Site, target: &Target, status: StatusCode, changes: bool) -> Error {
    let why = format!("what answers there ({}) is no node of this cluster", status.as_u16());
    let refused = matches!(status.as_u16(), 300..=499 | 503 | 507);
    if changes && !refused { unknown(target, &why) } else { unreachable(site, target, &why) }
}

fn start_hint(site: &Site, target: &Target) -> String {
    let view = site.view();
    match (super::address::split(&target.address), view.masters.first()) {
        ((_, Some(port)), Some(master)) => {
            let data = super::address::quote(&target.data);
            format!(
                "if worker {} is down, start it: catstore worker {port} --master {master} --data {data}",
                target.index
            )
        }
        _ => format!("see whether worker {} runs", target.index),
    }
}

/// True if an error came before the first byte of the request was written. `Disconnected` does not count: the
/// client also means by it that a connection closed while it waited for the answer.
fn never_sent(error: &SendRequestError) -> bool {
    match error {
        SendRequestError::Connect(error) => !matches!(error, ConnectError::Disconnected),
        SendRequestError::Url(_) => true,
        _ => false,
    }
}

async fn pass_back<S>(
    mut answer: awc::ClientResponse<S>,
    head: bool,
    changes: bool,
    deadline: Instant,
    seat: Seat,
    target: &Target,
) -> Result<HttpResponse>
where
    S: Stream<Item = std::result::Result<Bytes, actix_web::error::PayloadError>> + Unpin + 'static,
{
    let status = StatusCode::from_u16(answer.status().as_u16()).unwrap_or(StatusCode::BAD_GATEWAY);
    let headers: Vec<(HeaderName, HeaderValue)> = PASSED_BACK
        .into_iter()
        .filter_map(|name| answer.headers().get(&name).cloned().map(|value| (name, value)))
        .collect();
    let length =
        answer.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let seat_site = Arc::clone(&seat.site);
    let body = match length {
        Some(length) if head => BoxBody::new(SizedStream::new(length, nothing())),
        Some(length) if length > SMALL && !changes => {
            BoxBody::new(SizedStream::new(length, flow(answer, seat)))
        }
        _ => {
            let left = deadline.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, collect(&mut answer)).await {
                Ok(Ok(body)) => BoxBody::new(body),
                // The status of a write has arrived, and with it the outcome.
                _ if changes => BoxBody::new(()),
                Ok(Err(why)) => return Err(unreachable(&seat_site, target, &why)),
                Err(_) => return Err(unreachable(&seat_site, target, "its answer did not end in time")),
            }
        }
    };
    let mut response = HttpResponse::with_body(status, body);
    for (name, value) in headers {
        response.headers_mut().insert(name, value);
    }
    Ok(response)
}

fn nothing() -> impl Stream<Item = std::result::Result<Bytes, std::io::Error>> {
    stream::empty()
}

async fn collect<S>(answer: &mut awc::ClientResponse<S>) -> std::result::Result<Bytes, String>
where
    S: Stream<Item = std::result::Result<Bytes, actix_web::error::PayloadError>> + Unpin,
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
fn flow<S>(
    answer: awc::ClientResponse<S>,
    seat: Seat,
) -> impl Stream<Item = std::result::Result<Bytes, std::io::Error>>
where
    S: Stream<Item = std::result::Result<Bytes, actix_web::error::PayloadError>> + Unpin,
{
    stream::unfold((answer, seat), |(mut answer, seat)| async move {
        let chunk = match tokio::time::timeout(SILENCE, answer.next()).await {
            Ok(None) => return None,
            Ok(Some(Ok(chunk))) => Ok(chunk),
            Ok(Some(Err(error))) => Err(std::io::Error::other(error)),
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut)),
        };
        Some((chunk, (answer, seat)))
    })
}

/// The error of a request that was forwarded to a node that does not own it.
pub(crate) fn moved() -> Error {
    Error::new(Kind::Moved, "the key belongs to another worker than the one that was asked")
        .hint("ask /cluster for the routes")
}

/// The error of a node that was asked for a cluster before it knows its own.
pub(crate) fn starting() -> Error {
    Error::new(Kind::NoMajority, "this node is starting and does not know its cluster yet")
        .hint("ask again in a moment")
}

/// Turns an error into its answer.
pub(crate) fn or_problem(result: Result<HttpResponse>) -> HttpResponse {
    result.unwrap_or_else(|error| error::respond(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_failed_connection_proves_that_nothing_was_sent() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        assert!(never_sent(&SendRequestError::Connect(ConnectError::Io(refused))));
        assert!(never_sent(&SendRequestError::Connect(ConnectError::Timeout)));
        assert!(!never_sent(&SendRequestError::Connect(ConnectError::Disconnected)));
        assert!(!never_sent(&SendRequestError::Timeout));
        let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        assert!(!never_sent(&SendRequestError::Send(reset)));
    }
}
