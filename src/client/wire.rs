//! One attempt: a request to one node over HTTP, and how it ended. Only this file, `early` and `tcp`
//! know `ureq`.
//!
//! `ureq` repeats nothing by itself (its `run` loop only follows redirects, which are off here). What may not be
//! repeated gets a fresh connection: on a pooled one that the node closed while it was idle, it would end without
//! saying whether it was done. Proxies from the environment are ignored: nodes are asked directly.

use super::answer::{Answer, unknown};
use super::body::{Body, Counted};
use super::decide::Outcome;
use super::early::{self, Early, Listening};
use super::tcp::Numbers;
use super::values::Progress;
use crate::error::{Error, Kind};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;
use ureq::config::Config;
use ureq::http::{HeaderName, HeaderValue, Method, Request as HttpRequest, header};
use ureq::{Agent, AsSendBody, SendBody, Timeout};

/// `Catstore-Cluster`: which cluster a request is for, and which one answered it.
pub(super) const CLUSTER: HeaderName = HeaderName::from_static("catstore-cluster");
/// `Catstore-Request-Id`: the same for each attempt of a write.
const REQUEST_ID: HeaderName = HeaderName::from_static("catstore-request-id");
/// `Catstore-Deadline`: milliseconds within which the node answers, so that one that forwards can still say why not.
const DEADLINE: HeaderName = HeaderName::from_static("catstore-deadline");
/// Idle connections are kept to so many nodes, as many to each as threads may share the client.
const KEPT_NODES: usize = 8;
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
    pub body: Body<'a>,
    /// The id that makes a write repeatable.
    pub id: Option<String>,
    /// Told how many bytes of the body went out so far.
    pub progress: Option<&'a dyn Fn(Progress)>,
    /// It only asks, although it carries a body.
    pub asks: bool,
}

impl<'a> Request<'a> {
    pub fn new(method: Method, path: impl Into<String>) -> Request<'a> {
        let (headers, path) = (Vec::new(), path.into());
        Request { method, path, headers, body: Body::None, id: None, progress: None, asks: false }
    }

    /// True if the request may change something.
    pub fn is_write(&self) -> bool {
        !self.asks && self.method != Method::GET && self.method != Method::HEAD
    }

    /// True if it does no harm to send the request again, whatever became of it.
    pub fn may_repeat(&self) -> bool {
        !self.is_write() || self.id.is_some()
    }
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

    /// A read whose answer broke off when a part of it was handed on; another request may bring the rest.
    pub fn half_read(error: Error) -> Failure {
        Failure { outcome: Outcome::HalfRead, error }
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
    /// One that keeps up to `kept` idle connections to a node.
    pub fn new(token: Option<String>, kept: usize) -> Wire {
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
                .max_idle_connections(kept.saturating_mul(KEPT_NODES))
                .max_idle_connections_per_host(kept)
        };
        Wire {
            kept: agent(builder().build()),
            fresh: agent(builder().max_idle_connections(0).build()),
            token,
        }
    }

    /// Another one with connections of its own, for one thread.
    pub fn twin(&self) -> Wire {
        Wire::new(self.token.clone(), 1)
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
        let unwritable = |error: ureq::http::Error| {
            let detail = "the request cannot be written as HTTP";
            Failure::answered(Error::new(Kind::BadRequest, detail).cause(error))
        };
        let mut builder = HttpRequest::builder().method(&request.method).uri(uri);
        for (name, value) in self.fields(address, request, cluster, wait).map_err(unwritable)? {
            builder = builder.header(name, value);
        }
        let mut reader = Counted::begin(request.body, request.progress).map_err(unreadable)?;
        let agent = if request.may_repeat() && !request.body.is_once() { &self.kept } else { &self.fresh };
        let result = match request.body {
            Body::None => dispatch(agent, builder.body(()), wait),
            _ => dispatch(agent, builder.body(SendBody::from_reader(&mut reader)), wait),
        };
        match result.map_err(unwritable)? {
            Ok(response) => {
                let (parts, body) = response.into_parts();
                let (status, address) = (parts.status.as_u16(), address.to_owned());
                judge(Answer { status, headers: parts.headers, address, body }, request.is_write(), cluster)
            }
            Err(error) => Err(match (reader.failed(), early::answer(&error)) {
                (Some(failed), _) => unreadable(failed),
                (None, Some(early)) if reader.is_begun() && reader.is_cut() => {
                    refused_early(early, address, request, cluster)
                        .unwrap_or_else(|| broken(address, request, error, true, wait))
                }
                (None, _) => broken(address, request, error, reader.is_cut(), wait),
            }),
        }
    }
}

impl Wire {
    /// The fields of a request's head.
    fn fields(
        &self,
        address: &str,
        request: &Request<'_>,
        cluster: Option<&HeaderValue>,
        wait: Duration,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, ureq::http::Error> {
        let mut fields = vec![(header::HOST, HeaderValue::try_from(address)?)];
        for (name, value) in &request.headers {
            fields.push((HeaderName::from_bytes(name.as_bytes())?, HeaderValue::try_from(value)?));
        }
        // A part of the time is for the way back.
        let millis = u64::try_from((wait * 4 / 5).as_millis()).unwrap_or(u64::MAX);
        fields.push((DEADLINE, millis.into()));
        fields.extend(cluster.map(|cluster| (CLUSTER, cluster.clone())));
        if let Some(id) = &request.id {
            fields.push((REQUEST_ID, HeaderValue::try_from(id)?));
        }
        if let Some(token) = &self.token {
            fields.push((header::AUTHORIZATION, HeaderValue::try_from(format!("Bearer {token}"))?));
        }
        match (request.body, request.body.length()) {
            (Body::None, _) => {}
            (_, Some(length)) => fields.push((header::CONTENT_LENGTH, length.into())),
            (_, None) => fields.push((header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"))),
        }
        Ok(fields)
    }

    /// A request whole, as it goes over a connection; `None` for a stream, and for what cannot be written as HTTP.
    pub fn bytes(
        &self,
        address: &str,
        request: &Request<'_>,
        cluster: Option<&HeaderValue>,
        wait: Duration,
    ) -> Option<Vec<u8>> {
        let body = match request.body {
            Body::None => &[],
            Body::Bytes(bytes) => bytes,
            Body::Source(_) => return None,
        };
        let mut bytes = format!("{} {} HTTP/1.1\r\n", request.method, request.path).into_bytes();
        for (name, value) in self.fields(address, request, cluster, wait).ok()? {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                bytes.extend_from_slice(part);
            }
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(body);
        Some(bytes)
    }
}

fn agent(config: Config) -> Agent {
    Agent::with_parts(config, Listening, Numbers)
}

/// Only 2xx of a node of the cluster is an answer.
fn judge(answer: Answer, write: bool, cluster: Option<&HeaderValue>) -> Result<Answer, Failure> {
    if cluster.is_some_and(|cluster| answer.headers.get(CLUSTER) != Some(cluster)) {
        Err(answer.into_foreign_failure(write))
    } else if (200..300).contains(&answer.status) {
        Ok(answer)
    } else {
        Err(answer.into_failure(write))
    }
}

/// An answer that was heard, judged as one that `ureq` read.
pub(super) fn heard(
    early: Early,
    address: &str,
    write: bool,
    cluster: Option<&HeaderValue>,
) -> Result<Answer, Failure> {
    let Early { status, headers, body } = early;
    let body = ureq::Body::builder().data(body);
    judge(Answer { status, headers, address: address.to_owned(), body }, write, cluster)
}

/// What a node said that had not got the whole body. It cannot have acted on it; if it says that it does not know,
/// that says nothing.
fn refused_early(
    early: Early,
    address: &str,
    request: &Request<'_>,
    cluster: Option<&HeaderValue>,
) -> Option<Failure> {
    let failure = heard(early, address, request.is_write(), cluster).err()?;
    let is_open = matches!(failure.outcome, Outcome::Taken | Outcome::Answered(Kind::UnknownOutcome, _));
    (!is_open).then_some(failure)
}

/// What is to be sent cannot be read: the request breaks off before its end, and the node does not act on it.
fn unreadable(cause: io::Error) -> Failure {
    let detail = "what is to be stored cannot be read; nothing was written";
    Failure::last(Error::new(Kind::System, detail).cause(cause))
}

fn dispatch(
    agent: &Agent,
    request: Result<HttpRequest<impl AsSendBody>, ureq::http::Error>,
    wait: Duration,
) -> Result<Result<ureq::http::Response<ureq::Body>, ureq::Error>, ureq::http::Error> {
    Ok(agent.run(agent.configure_request(request?).timeout_recv_response(Some(wait)).build()))
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

#[cfg(test)]
mod tests {
    use super::*;

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
