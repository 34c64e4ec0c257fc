//! One attempt: a request sent on to one other node over a kept-alive connection of this thread, and what came of it.
//!
//! An attempt is sent once: the client underneath does not repeat (it looks whether a kept connection is still open
//! before it writes to it). So a failure to connect means that nothing was written, and any failure after that means
//! that nobody knows. What follows from that is decided in [`super::errand`].

use super::answer;
use super::given::{NotOwned, OWNER};
use super::owner::Target;
use super::site::{Member, Site};
use crate::error::{Error, Kind, Result};
use actix_web::http::header::{
    AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH, IF_RANGE,
    LOCATION, RANGE,
};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpMessage as _, HttpRequest, HttpResponse};
use awc::error::{ConnectError, SendRequestError};
use bytes::Bytes;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Requests that may wait for other nodes at once, or for somebody to lead.
const MOST: usize = 2048;
/// How long a connection may take to come up.
const CONNECT: Duration = Duration::from_secs(2);
/// Time that the next node is given less than we have, so that its answer comes back in time.
pub(crate) const MARGIN: Duration = Duration::from_millis(300);
/// Through so many other nodes a request goes at most: from any node to a member, and from there to its leader.
pub(crate) const MOST_HOPS: u32 = 2;

/// `Catstore-Forwarded`: through how many nodes this request came.
pub(crate) const FORWARDED: HeaderName = HeaderName::from_static("catstore-forwarded");
/// `Catstore-Deadline`: milliseconds that are left for the request.
pub(crate) const DEADLINE: HeaderName = HeaderName::from_static("catstore-deadline");
/// `Catstore-Request-Id`.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("catstore-request-id");
/// `Catstore-Cluster`: the cluster that a request is for, and the one that answered it.
pub(crate) const CLUSTER: HeaderName = HeaderName::from_static("catstore-cluster");
/// `Catstore-Leader`, in answers between nodes: the answering worker's group and who leads it, as `GROUP:INDEX`.
const LEADER: HeaderName = HeaderName::from_static("catstore-leader");
/// `Catstore-Epoch`, in answers to requests that name their cluster: the epoch of the answering node's routes.
pub(crate) const EPOCH: HeaderName = HeaderName::from_static("catstore-epoch");

const PASSED_ON: [HeaderName; 6] = [CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH, IF_RANGE, RANGE, REQUEST_ID];

/// A request to send on.
pub(crate) struct Parcel<'a> {
    /// The client's request.
    pub(crate) request: &'a HttpRequest,
    /// Its method.
    pub(crate) method: Method,
    /// Its raw path and query.
    pub(crate) path: &'a str,
    /// Its body.
    pub(crate) body: Bytes,
    /// A content type that replaces the one of the client's request.
    pub(crate) content_type: Option<&'static str>,
    /// True if it may write.
    pub(crate) changes: bool,
    /// When it must be answered.
    pub(crate) deadline: Instant,
    /// How long the answer may take to begin.
    pub(crate) patience: Duration,
}

/// What came of an attempt.
pub(crate) enum Sent {
    /// The other node's answer, to be passed back.
    Answer(HttpResponse),
    /// Certainly not done there; another node or a little later may do.
    Refused(Refused),
    /// It may have been written.
    Unknown(Error),
}

/// Why a node did not do what it was asked.
pub(crate) struct Refused {
    /// Why.
    pub(crate) error: Error,
    /// True if asking it again soon is of no use: it does not answer, or is closed.
    pub(crate) dead: bool,
    /// What it said of the slot, if its group does not own it.
    pub(crate) word: Option<NotOwned>,
}

/// One of the places for requests that wait, given back when it is dropped.
pub(crate) struct Seat {
    site: Arc<Site>,
}

impl Seat {
    /// Takes a place. Errors: `Overloaded`.
    pub(crate) fn take(site: &Arc<Site>) -> Result<Rc<Seat>> {
        let before = site.forwarding.fetch_add(1, Ordering::Relaxed);
        let seat = Seat { site: Arc::clone(site) };
        if before >= MOST {
            return Err(Error::new(
                Kind::Overloaded,
                format!("{MOST} requests already wait for other nodes"),
            ));
        }
        Ok(Rc::new(seat))
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

/// Through how many nodes the request came. What is no number stands for as many as are allowed.
pub(crate) fn hops(headers: &HeaderMap) -> u32 {
    headers.get(FORWARDED).map_or(0, |header| {
        header.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(MOST_HOPS).max(1)
    })
}

/// The id of this node's cluster, once it is known.
pub(crate) fn own_cluster(site: &Site) -> Option<&HeaderValue> {
    site.guard.cluster(|| match &site.member {
        Member::Worker(worker) => worker.registered().map(|registered| registered.cluster.clone()),
        Member::Master(_) => Some(site.view().cluster.clone()).filter(|cluster| !cluster.is_empty()),
    })
}

/// Adds to the answer of a request that another node sent on who leads, and that the group does not own the slot, if that
/// came out.
pub(crate) fn tell(site: &Site, request: &HttpRequest, headers: &mut HeaderMap) {
    if let Some(word) = request.extensions().get::<NotOwned>()
        && let Some(value) = word.header()
    {
        headers.insert(OWNER, value);
    }
    if let Some((group, leader)) = site.own_leader()
        && let Ok(value) = HeaderValue::try_from(format!("{group}:{leader}"))
    {
        headers.insert(LEADER, value);
    }
}

/// Sends a request on to `target`, a member of `group`.
///
/// Errors: [`Kind::NoMajority`]: no time was left, or this node does not know its cluster yet; nothing was sent.
pub(crate) async fn send(
    site: &Arc<Site>,
    client: &awc::Client,
    seat: &Rc<Seat>,
    target: &Target,
    parcel: Parcel<'_>,
) -> Result<Sent> {
    let cluster = own_cluster(site).ok_or_else(starting)?;
    let left = parcel.deadline.saturating_duration_since(Instant::now());
    if left <= MARGIN {
        return Err(Error::new(Kind::NoMajority, "no time was left to forward the request"));
    }
    site.metrics.forwards.fetch_add(1, Ordering::Relaxed);
    let Parcel { request, method, path, body, content_type, changes, deadline, patience } = parcel;
    let head = method == Method::HEAD;
    let mut out = client.request(method, format!("http://{}{path}", target.address));
    let headers = out.headers_mut();
    for name in PASSED_ON {
        for value in request.headers().get_all(&name) {
            headers.append(name.clone(), value.clone());
        }
    }
    if let Some(content_type) = content_type {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    if let Some(token) = site.guard.token()
        && let Ok(value) = HeaderValue::try_from(format!("Bearer {token}"))
    {
        headers.insert(AUTHORIZATION, value);
    }
    headers.insert(CLUSTER, cluster.clone());
    headers.insert(FORWARDED, HeaderValue::from(u64::from(hops(request.headers()) + 1)));
    headers.insert(DEADLINE, HeaderValue::from((left - MARGIN).as_millis() as u64));
    let sending =
        if body.is_empty() && content_type.is_none() && !changes { out.send() } else { out.send_body(body) };
    let answered = tokio::time::timeout(left.min(patience), sending).await;
    let failed = |why: &str, sent: bool| match changes && sent {
        true => Sent::Unknown(unknown(target, why)),
        false => Sent::Refused(unreachable(site, target, why)),
    };
    let answer = match answered {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Ok(failed(&error.to_string(), !never_sent(&error))),
        Err(_) => return Ok(failed("it did not answer in time", true)),
    };
    if !is_of(cluster, &answer) {
        // It says nothing about our keys; but what took a write may have passed it on, unless it says that it did not.
        let status = answer.status();
        let why = format!("what answers there ({}) is no node of this cluster", status.as_u16());
        return Ok(failed(&why, !matches!(status.as_u16(), 300..=499)));
    }
    if let Some((group, leader)) = answer.headers().get(LEADER).and_then(parse_leader) {
        site.leaders.heard(group, leader);
    }
    let word = answer.headers().get(OWNER).and_then(NotOwned::parse);
    let way = answer::Way { head, changes, deadline, seat, target };
    Ok(match answer::take(site, answer, way).await {
        Sent::Refused(refused) => Sent::Refused(Refused { word, ..refused }),
        sent => sent,
    })
}

/// 307 to the owner, for clients that ask for it.
pub(crate) fn redirect(target: &Target, path: &str) -> HttpResponse {
    let mut response = super::respond::empty(StatusCode::TEMPORARY_REDIRECT);
    if let Ok(value) = HeaderValue::try_from(format!("http://{}{path}", target.address)) {
        response.headers_mut().insert(LOCATION, value);
    }
    response
}

/// The refusal of a worker that did not answer; nothing was written.
pub(crate) fn unreachable(site: &Site, target: &Target, why: &str) -> Refused {
    let error = Error::new(
        Kind::NoMajority,
        format!("worker {} at {} does not answer: {why}", target.index, target.address),
    )
    .hint(site.way_without(target));
    Refused { error, dead: true, word: None }
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
        // Not what a proxy says in between, which may have lost the answer.
        None => {
            let kind = answer.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
            answer.status() == StatusCode::SERVICE_UNAVAILABLE && kind == Some(b"application/problem+json")
        }
    }
}

fn parse_leader(header: &HeaderValue) -> Option<(u32, u32)> {
    let (group, leader) = header.to_str().ok()?.split_once(':')?;
    Some((group.parse().ok()?, leader.parse().ok()?))
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

/// The error of a request for a key of a group that this node is not in, or whose slots it does not own.
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
    result.unwrap_or_else(|error| super::error::respond(&error))
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

    #[test]
    fn hops_are_counted() {
        let counted = |text: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(text) = text {
                headers.insert(FORWARDED, HeaderValue::from_static(text));
            }
            hops(&headers)
        };
        assert_eq!((counted(None), counted(Some("1")), counted(Some("2"))), (0, 1, 2));
        assert_eq!((counted(Some("0")), counted(Some("cat")), counted(Some("7"))), (1, MOST_HOPS, 7));
    }

    #[test]
    fn who_leads_is_told_in_two_numbers() {
        let parse = |text: &'static str| parse_leader(&HeaderValue::from_static(text));
        assert_eq!(parse("0:2"), Some((0, 2)));
        assert_eq!((parse("0"), parse("a:b"), parse("0:-1"), parse("")), (None, None, None, None));
    }
}
