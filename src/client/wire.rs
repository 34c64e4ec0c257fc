//! One attempt: a request to one node over HTTP, and how it ended. The only file that names `ureq`.
//!
//! `ureq` repeats nothing by itself (its `run` loop only follows redirects, which are off here). What may not be
//! repeated gets a fresh connection: on a pooled one that the node closed while it was idle, it would end without
//! saying whether it was done. Proxies from the environment are ignored: nodes are asked directly.

use super::decide::Outcome;
use crate::cluster::view::Problem;
use crate::error::{Advice, Error, Kind};
use std::cell::Cell;
use std::io::{self, Read};
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;
use ureq::http::{HeaderMap, HeaderName, HeaderValue, Method, Request as HttpRequest};
use ureq::{Agent, AsSendBody, Body, SendBody, Timeout};

/// `Catstore-Cluster`: which cluster a request is for, and which one answered it.
const CLUSTER: HeaderName = HeaderName::from_static("catstore-cluster");
/// `Catstore-Epoch`: the epoch of the routes of the node that answered.
const EPOCH: HeaderName = HeaderName::from_static("catstore-epoch");
/// `Catstore-Request-Id`: the same for each attempt of a write.
const REQUEST_ID: HeaderName = HeaderName::from_static("catstore-request-id");
/// `Catstore-Deadline`: milliseconds within which the node answers, so that one that forwards can still say why not.
const DEADLINE: HeaderName = HeaderName::from_static("catstore-deadline");
/// A document or a value that is held in memory may not be larger than this.
const MOST_BYTES: u64 = 64 * 1024 * 1024;
/// A problem document may not be larger than this.
const MOST_PROBLEM_BYTES: u64 = 64 * 1024;
/// Connections that are kept, in all and to one node: as many threads may share a client.
const MOST_KEPT: usize = 256;
const MOST_KEPT_OF_ONE: usize = 64;
/// An attempt waits at least so long.
const SHORTEST_WAIT: Duration = Duration::from_millis(10);
/// A name has hardly more addresses than this that lead anywhere.
const MOST_PLACES: usize = 4;
/// A node that lives accepts a connection within this time.
const CONNECT: Duration = Duration::from_secs(2);
/// Bodies are judged by their progress: as long as an answer may take.
const PROGRESS: Duration = Duration::from_secs(12);

/// A request, ready to be sent any number of times.
pub(super) struct Request<'a> {
    pub method: Method,
    /// Path and query, percent-encoded.
    pub path: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: Option<&'a [u8]>,
    /// The id that makes a write repeatable.
    pub id: Option<String>,
    /// Told how many bytes of the body went out so far.
    pub progress: Option<&'a dyn Fn(u64)>,
}

impl Request<'_> {
    pub fn new(method: Method, path: impl Into<String>) -> Request<'static> {
        Request { method, path: path.into(), headers: Vec::new(), body: None, id: None, progress: None }
    }

    /// True if the request may change something.
    pub fn is_write(&self) -> bool {
        self.method != Method::GET && self.method != Method::HEAD
    }

    /// True if it does no harm to send the request again, whatever became of it.
    pub fn may_repeat(&self) -> bool {
        !self.is_write() || self.id.is_some()
    }
}

/// A good answer: its headers, and its body still to be read.
pub(super) struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    address: String,
    body: Body,
}

/// A failed attempt: what the decision needs, and the error for the case that it is the last.
#[derive(Debug)]
pub(super) struct Failure {
    pub outcome: Outcome,
    pub error: Error,
}

impl Failure {
    /// An answer that came, and is an error that no repetition changes.
    pub fn answered(error: Error) -> Failure {
        Failure { outcome: Outcome::Answered(error.kind(), None), error }
    }

    /// A read whose answer broke off; another attempt may bring it.
    pub fn broken_read(error: Error) -> Failure {
        Failure { outcome: Outcome::Broken, error }
    }

    /// An error after which nothing may be tried again, whatever its kind.
    pub fn last(error: Error) -> Failure {
        Failure { outcome: Outcome::Final, error }
    }
}

/// The connections of a client.
pub(super) struct Wire {
    kept: Agent,
    fresh: Agent,
    token: Option<String>,
}

impl Wire {
    pub fn new(token: Option<String>) -> Wire {
        let builder = || {
            Agent::config_builder()
                .http_status_as_error(false)
                .max_redirects(0)
                .proxy(None)
                .user_agent(concat!("catstore/", env!("CARGO_PKG_VERSION")))
                .accept_encoding("")
                .timeout_connect(Some(CONNECT))
                .timeout_per_read(Some(PROGRESS))
                .timeout_per_write(Some(PROGRESS))
                .max_idle_connections(MOST_KEPT)
                .max_idle_connections_per_host(MOST_KEPT_OF_ONE)
        };
        Wire {
            kept: builder().build().into(),
            fresh: builder().max_idle_connections(0).build().into(),
            token,
        }
    }

    /// Sends `request` to `address` and waits at most `wait` for the head of the answer. 2xx is an answer,
    /// everything else a failure. Where a name has several addresses, the next is tried if nothing was sent to one.
    /// If `cluster` is given, only a node of that cluster acts on the request, and only its answer is one.
    pub fn send(
        &self,
        address: &str,
        request: &Request<'_>,
        cluster: Option<&HeaderValue>,
        wait: Duration,
    ) -> Result<Answer, Failure> {
        let unresolved = |error: io::Error| not_sent(address, error);
        let mut places = address.to_socket_addrs().map_err(unresolved)?.take(MOST_PLACES);
        let none = || unresolved(io::Error::other("the name has no address"));
        let mut last = self.send_to(places.next().ok_or_else(none)?, address, request, cluster, wait);
        for place in places {
            match &last {
                Err(failure) if failure.outcome == Outcome::NotSent => {
                    last = self.send_to(place, address, request, cluster, wait);
                }
                _ => break,
            }
        }
        last
    }

    fn send_to(
        &self,
        place: SocketAddr,
        address: &str,
        request: &Request<'_>,
        cluster: Option<&HeaderValue>,
        wait: Duration,
    ) -> Result<Answer, Failure> {
        let wait = wait.max(SHORTEST_WAIT);
        let uri = format!("http://{place}{}", request.path);
        let mut builder = HttpRequest::builder().method(&request.method).uri(uri).header("Host", address);
        for (name, value) in &request.headers {
            builder = builder.header(*name, value);
        }
        // A part of the time is for the way back.
        builder = builder.header(DEADLINE, (wait * 4 / 5).as_millis().to_string());
        if let Some(cluster) = cluster {
            builder = builder.header(CLUSTER, cluster);
        }
        if let Some(id) = &request.id {
            builder = builder.header(REQUEST_ID, id);
        }
        if let Some(token) = &self.token {
            builder = builder.header("Authorization", format!("Bearer {token}"));
        }
        if let Some(body) = request.body {
            builder = builder.header("Content-Length", body.len());
        }
        let sent = Cell::new(0);
        let mut reader =
            Counted { rest: request.body.unwrap_or_default(), sent: &sent, progress: request.progress };
        let agent = if request.may_repeat() { &self.kept } else { &self.fresh };
        let result = match request.body {
            Some(_) => dispatch(agent, builder.body(SendBody::from_reader(&mut reader)), wait),
            None => dispatch(agent, builder.body(()), wait),
        };
        let result = result.map_err(|error| {
            let detail = "the request cannot be written as HTTP";
            Failure::answered(Error::new(Kind::BadRequest, detail).cause(error))
        })?;
        match result {
            Ok(response) => {
                let (parts, body) = response.into_parts();
                let status = parts.status.as_u16();
                let answer = Answer { status, headers: parts.headers, address: address.to_owned(), body };
                if cluster.is_some_and(|cluster| answer.headers.get(CLUSTER) != Some(cluster)) {
                    Err(answer.into_foreign_failure(request.is_write()))
                } else if parts.status.is_success() {
                    Ok(answer)
                } else {
                    Err(answer.into_failure(request.is_write()))
                }
            }
            Err(error) => {
                let cut = sent.get() < request.body.map_or(0, <[u8]>::len) as u64;
                Err(broken(address, request, error, cut, wait))
            }
        }
    }
}

fn dispatch(
    agent: &Agent,
    request: Result<HttpRequest<impl AsSendBody>, ureq::http::Error>,
    wait: Duration,
) -> Result<Result<ureq::http::Response<Body>, ureq::Error>, ureq::http::Error> {
    Ok(agent.run(agent.configure_request(request?).timeout_recv_response(Some(wait)).build()))
}

/// The body of a request, counted as it goes out.
struct Counted<'a> {
    rest: &'a [u8],
    sent: &'a Cell<u64>,
    progress: Option<&'a dyn Fn(u64)>,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.rest.read(buffer)?;
        self.sent.set(self.sent.get() + count as u64);
        if let Some(progress) = self.progress {
            progress(self.sent.get());
        }
        Ok(count)
    }
}

/// Sorts an error of `ureq` by whether the node can have seen the request. What counts as not sent comes up while
/// connecting only: the kernel reports an unreachable network on an established connection after many minutes at
/// the earliest, and runs out of file descriptors only when it makes one.
fn broken(address: &str, request: &Request<'_>, error: ureq::Error, cut: bool, waited: Duration) -> Failure {
    let is_not_sent = match &error {
        ureq::Error::ConnectionFailed | ureq::Error::BadUri(_) | ureq::Error::Timeout(Timeout::Connect) => {
            true
        }
        ureq::Error::Io(error) => {
            let early = matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::NetworkUnreachable
                    | io::ErrorKind::AddrNotAvailable
            );
            early || matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
        }
        _ => false,
    };
    if is_not_sent {
        return not_sent(address, error);
    }
    if cut {
        let detail =
            format!("{address} broke the connection before it had the whole value; nothing was written");
        let error = Error::new(Kind::Unreachable, detail)
            .hint("its --max-value may be smaller; `catstore status` says whether it is up")
            .cause(error);
        return Failure { outcome: Outcome::BodyCut, error };
    }
    let (outcome, what, cause) = match error {
        ureq::Error::Timeout(Timeout::RecvResponse | Timeout::PerRead) => {
            (Outcome::Silent, format!("did not answer within {} s", waited.as_secs_f64().ceil()), None)
        }
        error => (Outcome::Broken, "did not answer".to_owned(), Some(error)),
    };
    let error = match request.is_write() {
        true => unknown(format!("{address} {what}; the change may have been made")),
        false => Error::new(Kind::Unreachable, format!("{address} {what}"))
            .hint("`catstore status` says which nodes are up"),
    };
    Failure {
        outcome,
        error: match cause {
            Some(cause) => error.cause(cause),
            None => error,
        },
    }
}

fn not_sent(address: &str, cause: impl std::error::Error + Send + Sync + 'static) -> Failure {
    let error = Error::new(Kind::Unreachable, format!("{address} cannot be reached")).cause(cause);
    Failure { outcome: Outcome::NotSent, error }
}

fn unknown(detail: String) -> Error {
    Error::new(Kind::UnknownOutcome, detail).hint("read it back before you write again")
}

impl Answer {
    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The node that answered.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The epoch of the node's routes, if it names it.
    pub fn epoch(&self) -> Option<u64> {
        self.header(EPOCH.as_str())?.parse().ok()
    }

    /// The whole body. A body that breaks off fails like a broken connection.
    pub fn bytes(&mut self) -> Result<Vec<u8>, Failure> {
        self.body.with_config().limit(MOST_BYTES).read_to_vec().map_err(|error| {
            let (outcome, kind) = match error {
                ureq::Error::BodyExceedsLimit(_) => (Outcome::Answered(Kind::TooLarge, None), Kind::TooLarge),
                _ => (Outcome::Broken, Kind::Unreachable),
            };
            let detail = format!("the answer of {} broke off", self.address);
            Failure { outcome, error: Error::new(kind, detail).cause(error) }
        })
    }

    /// The body as JSON.
    pub fn json<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, Failure> {
        let bytes = self.bytes()?;
        serde_json::from_slice(&bytes)
            .map_err(|error| self.stranger("what it sent is no document of catstore").cause(error))
            .map_err(Failure::answered)
    }

    /// The body as a stream.
    pub fn reader(&mut self) -> impl Read + '_ {
        self.body.with_config().limit(u64::MAX).reader()
    }

    /// The node does not behave like a node of catstore.
    pub fn stranger(&self, why: &str) -> Error {
        Error::new(Kind::Unreachable, format!("{} does not answer like catstore: {why}", self.address))
            .hint("check the address, or start a master with `catstore master 3000`")
    }

    /// An answer of something that is no node of our cluster. It says nothing about our keys; but what took a write
    /// may have passed it on to whoever owns the key.
    fn into_foreign_failure(self, write: bool) -> Failure {
        let who = match self.header(CLUSTER.as_str()) {
            Some(cluster) => format!("{} belongs to another cluster: {cluster}", self.address),
            None => format!("{} does not answer like a node of this cluster", self.address),
        };
        let is_success = (200..300).contains(&self.status);
        if is_success && write {
            let error = unknown(format!("{who}; it answered {}, the change may have been made", self.status));
            return Failure { outcome: Outcome::Taken, error };
        }
        let stranger = Error::new(Kind::Unreachable, who)
            .hint("`catstore status` says which nodes of this cluster are down");
        if is_success {
            return Failure { outcome: Outcome::Broken, error: stranger };
        }
        // A node of ours that only begins to start does not know its cluster yet.
        let may_start = self.status == 503 && self.header(CLUSTER.as_str()).is_none();
        let failure = self.into_failure(write);
        match failure.outcome {
            Outcome::Answered(Kind::UnknownOutcome, _) => Failure { outcome: Outcome::Taken, ..failure },
            Outcome::Answered(kind, _) if may_start && kind.advice() == Advice::Retry => failure,
            _ => Failure { outcome: Outcome::Answered(Kind::Unreachable, None), error: stranger },
        }
    }

    /// An answer that is no success: its problem document, else what its status says.
    fn into_failure(mut self, write: bool) -> Failure {
        let retry_after =
            self.header("Retry-After").and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
        let is_problem =
            self.header("Content-Type").is_some_and(|text| text.starts_with("application/problem+json"));
        let body = self.body.with_config().limit(MOST_PROBLEM_BYTES).read_to_vec().unwrap_or_default();
        let problem = is_problem.then(|| serde_json::from_slice::<Problem>(&body).ok()).flatten();
        let error = match problem {
            Some(problem) => {
                let kind = Kind::from_word(&problem.kind).or_else(|| by_status(self.status, write));
                let error = Error::new(kind.unwrap_or(Kind::Unreachable), problem.detail);
                match problem.hint {
                    Some(hint) => error.hint(hint),
                    None => error,
                }
            }
            None => match by_status(self.status, write) {
                Some(Kind::UnknownOutcome) => unknown(format!(
                    "{} answered {}; the change may have been made",
                    self.address, self.status
                )),
                Some(kind @ (Kind::Overloaded | Kind::DiskFull)) => Error::new(
                    kind,
                    format!("{} answered {}; nothing was written", self.address, self.status),
                ),
                // Without a problem document even a plain 404 says nothing about a key.
                _ => self.stranger(&format!("it said {} and no reason", self.status)),
            },
        };
        // A stranger that refused has done nothing: 3xx and 4xx of anything that speaks HTTP.
        Failure { outcome: Outcome::Answered(error.kind(), retry_after), error }
    }
}

/// What a status means where no known word says it. `None`: the node did nothing, for no reason that we know.
fn by_status(status: u16, write: bool) -> Option<Kind> {
    match status {
        401 => Some(Kind::Unauthorized),
        403 => Some(Kind::Forbidden),
        404 => Some(Kind::NotFound),
        405 => Some(Kind::MethodNotAllowed),
        409 => Some(Kind::Conflict),
        412 => Some(Kind::ConditionFailed),
        413 => Some(Kind::ValueTooLarge),
        400..=499 => Some(Kind::BadRequest),
        // Ours say why with a document. What says it without one may be a proxy that has lost the answer.
        500..=599 if write => Some(Kind::UnknownOutcome),
        503 => Some(Kind::Overloaded),
        507 => Some(Kind::DiskFull),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_without_a_word_never_claims_too_much() {
        assert_eq!(by_status(500, true), Some(Kind::UnknownOutcome));
        assert_eq!(by_status(502, true), Some(Kind::UnknownOutcome));
        assert_eq!(by_status(504, true), Some(Kind::UnknownOutcome));
        assert_eq!(by_status(500, false), None);
        assert_eq!(by_status(503, true), Some(Kind::UnknownOutcome));
        assert_eq!(by_status(503, false), Some(Kind::Overloaded));
        assert_eq!(by_status(507, true), Some(Kind::UnknownOutcome));
        assert_eq!(by_status(507, false), Some(Kind::DiskFull));
        assert_eq!(by_status(418, true), Some(Kind::BadRequest));
        assert_eq!(by_status(302, true), None);
    }

    #[test]
    fn only_errors_before_a_connection_count_as_not_sent() {
        let request = Request::new(Method::DELETE, "/kv/A");
        let io = |kind: io::ErrorKind| ureq::Error::Io(kind.into());
        for (error, expected) in [
            (io(io::ErrorKind::ConnectionRefused), Outcome::NotSent),
            (ureq::Error::Io(io::Error::from_raw_os_error(libc::EMFILE)), Outcome::NotSent),
            (ureq::Error::Timeout(Timeout::Connect), Outcome::NotSent),
            (io(io::ErrorKind::ConnectionReset), Outcome::Broken),
            (io(io::ErrorKind::BrokenPipe), Outcome::Broken),
            (io(io::ErrorKind::UnexpectedEof), Outcome::Broken),
            (ureq::Error::Timeout(Timeout::RecvResponse), Outcome::Silent),
            (ureq::Error::Timeout(Timeout::PerRead), Outcome::Silent),
            (ureq::Error::Timeout(Timeout::SendRequest), Outcome::Broken),
        ] {
            let failure = broken("a:1", &request, error, false, Duration::from_secs(5));
            assert_eq!(failure.outcome, expected, "{}", failure.error);
        }
        let failure = broken("a:1", &request, io(io::ErrorKind::BrokenPipe), true, Duration::from_secs(5));
        assert_eq!(failure.outcome, Outcome::BodyCut);
    }
}
