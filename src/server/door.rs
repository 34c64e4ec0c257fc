//! The door: one handler for every request. It routes, guards, answers, counts. Reads of our own keys are answered
//! here and now; everything else goes on in a boxed future, so that the hot path carries no more than it needs.

use super::error;
use super::facts;
use super::forward::{self, CLUSTER, DEADLINE, EPOCH};
use super::guard::{self, Guard};
use super::held;
use super::internal;
use super::lists;
use super::many;
use super::master::{orders, requests};
use super::metrics::Label;
use super::moving;
use super::respond;
use super::route::{self, Action, Route, Style};
use super::site::Site;
use super::upload;
use super::values;
use super::verifying;
use crate::error::{Error, Kind, Result};
use crate::replica::Record;
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::header::{AUTHORIZATION, HOST, HeaderName, HeaderValue, ORIGIN};
use actix_web::http::{ConnectionType, StatusCode};
use actix_web::{HttpRequest, HttpResponse};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Every request ends within ten seconds of the last byte of its body; this leaves time to say so.
const LIMIT: Duration = Duration::from_millis(9000);

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const PREFER: HeaderName = HeaderName::from_static("prefer");
const PURPOSES: [HeaderName; 3] = [
    HeaderName::from_static("sec-purpose"),
    HeaderName::from_static("purpose"),
    HeaderName::from_static("x-moz"),
];

/// What one thread serves with.
pub(crate) struct Door {
    /// What all threads share.
    pub(crate) site: Arc<Site>,
    /// This thread's connections to other nodes.
    pub(crate) client: awc::Client,
}

/// A request, as handlers see it.
pub(crate) struct Asked<'a> {
    /// Its head.
    pub(crate) request: &'a HttpRequest,
}

impl<'a> Asked<'a> {
    /// The raw path and query.
    pub(crate) fn path_and_query(&self) -> &'a str {
        self.request.uri().path_and_query().map_or("/", |path| path.as_str())
    }

    /// True if the client would rather be told where to ask.
    pub(crate) fn wants_redirect(&self) -> bool {
        let headers = self.request.headers();
        forward::hops(headers) == 0
            && headers.get_all(PREFER).any(|value| {
                value.as_bytes().split(|byte| *byte == b',').any(|word| word.trim_ascii() == b"redirect")
            })
    }

    /// When the request must be answered, counted from now: call it once the body is here.
    pub(crate) fn deadline(&self) -> Result<Instant> {
        let now = Instant::now();
        let Some(header) = self.request.headers().get(DEADLINE) else { return Ok(now + LIMIT) };
        let left = header.to_str().ok().and_then(|text| text.parse::<u64>().ok());
        match left {
            Some(0) => Err(Error::new(Kind::NoMajority, "the request's deadline has passed")),
            Some(left) => Ok(now + LIMIT.min(Duration::from_millis(left))),
            None => Err(Error::new(Kind::BadRequest, "Catstore-Deadline is not a number of milliseconds")),
        }
    }
}

/// Counts a request as under way until it is dropped, also when the client goes away.
struct UnderWay<'a>(&'a Site);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.metrics.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Door {
    /// The door of one thread.
    pub(crate) fn new(site: Arc<Site>) -> Door {
        Door { site, client: forward::client() }
    }

    /// Answers a request. Never fails: errors are answers.
    pub(crate) async fn serve(self: Rc<Door>, request: ServiceRequest) -> actix_web::Result<ServiceResponse> {
        let began = Instant::now();
        self.site.metrics.in_flight.fetch_add(1, Ordering::Relaxed);
        let under_way = UnderWay(&self.site);
        let (request, mut payload) = request.into_parts();
        let (label, classic, mut response) = match self.admit(&request) {
            Ok(Admitted::Action(action)) => {
                let (label, classic) = describe(&action);
                let response = match self.at_once(&request, &action) {
                    Some(response) => response,
                    None => forward::or_problem(Box::pin(self.slowly(&request, &mut payload, action)).await),
                };
                (label, classic, response)
            }
            Ok(Admitted::Answer(response)) => (Label::Other, false, response),
            Err(refused) => (Label::Other, false, error::respond(&refused)),
        };
        response = held::hold(response, &self.site.answers);
        respond::secure(&mut response, classic);
        if request.headers().contains_key(CLUSTER)
            && let Some(own) = forward::own_cluster(&self.site)
        {
            response.headers_mut().insert(CLUSTER, own.clone());
            response.headers_mut().insert(EPOCH, HeaderValue::from(self.site.epoch()));
        }
        if forward::hops(request.headers()) > 0 {
            forward::tell(&self.site, &request, response.headers_mut());
        }
        if *self.site.stopping.borrow() {
            response.head_mut().set_connection_type(ConnectionType::Close);
        }
        self.site.metrics.finish(label, response.status().as_u16(), began.elapsed());
        drop(under_way);
        drop(payload);
        Ok(ServiceResponse::new(request, response))
    }

    /// Asks for the token, compares the cluster, routes, and guards what changes something.
    fn admit(&self, request: &HttpRequest) -> Result<Admitted> {
        let headers = request.headers();
        let bytes = |name: HeaderName| headers.get(name).map(HeaderValue::as_bytes);
        self.site.guard.check_token(bytes(AUTHORIZATION))?;
        for given in headers.get_all(CLUSTER) {
            match forward::own_cluster(&self.site) {
                Some(own) => Guard::check_cluster(own, given)?,
                // It starts; what it will serve may be of another cluster.
                None => return Err(forward::starting()),
            }
        }
        let uri = request.uri();
        let action = match route::parse(request.method().as_str(), uri.path(), uri.query()) {
            Ok(Route::Do(action)) => action,
            Ok(Route::Options(methods)) => {
                return Ok(Admitted::Answer(error::allow(respond::empty(StatusCode::NO_CONTENT), methods)));
            }
            Err(refusal) => {
                let response = error::respond(&refusal.error);
                return Ok(Admitted::Answer(match refusal.allow {
                    Some(methods) => error::allow(response, methods),
                    None => response,
                }));
            }
        };
        if action.changes() {
            let host = uri.authority().map(|authority| authority.as_str().as_bytes());
            self.site.guard.check_site(&guard::Asked {
                authorization: None,
                host: host.or_else(|| bytes(HOST)),
                origin: bytes(ORIGIN),
                fetch_site: bytes(FETCH_SITE),
                purpose: PURPOSES.into_iter().find_map(bytes),
            })?;
        }
        Ok(Admitted::Action(action))
    }

    /// Answers what needs no waiting: a read of our own key, and a stale one.
    fn at_once(&self, request: &HttpRequest, action: &Action) -> Option<HttpResponse> {
        let Action::Get { key, style, stale } = action else { return None };
        let answer = match stale {
            false => values::get_here(&self.site, key)
                .map(|read| read.filter(is_whole).map(|record| values::found(record, key, request, *style))),
            true => values::stale_here(&self.site, key, request, *style),
        };
        match answer {
            Ok(Some(response)) => Some(response),
            Ok(None) => None,
            Err(refused) => Some(error::respond(&refused)),
        }
    }

    async fn slowly(
        &self,
        request: &HttpRequest,
        payload: &mut Payload,
        action: Action,
    ) -> Result<HttpResponse> {
        let asked = Asked { request };
        if action.is_data() {
            self.site.check_open()?;
        }
        match action {
            Action::Get { key, style, stale } => values::get(self, &asked, &key, style, stale).await,
            Action::Put { key, style, value, ttl } => {
                values::put(self, &asked, payload, key, style, value, ttl).await
            }
            Action::PutFile { key, path } => upload::put_file(self, &asked, key, path).await,
            Action::PutChunks { key, ttl } => upload::put_chunks(self, &asked, payload, key, ttl).await,
            Action::HasChunks { key } => upload::has_chunks(self, &asked, payload, &key).await,
            Action::TakeChunk { upload, slot } => {
                upload::take_chunk(self, &asked, payload, upload, slot).await
            }
            Action::HoldChunks { upload, slot } => {
                upload::hold_chunks(self, &asked, payload, upload, slot).await
            }
            Action::Commit(commit) => upload::take_commit(self, &asked, payload, commit).await,
            Action::GiveChunk(name) => internal::give_chunk(self, name).await,
            Action::AskChunks => internal::ask_chunks(self, payload).await,
            Action::Delete { key, style } => values::delete(self, &asked, key, style).await,
            Action::List { query, stale } => lists::list(self, &asked, query, stale).await,
            Action::ListGroup { group, query, stale } => {
                lists::list_group(self, &asked, group, query, stale).await
            }
            Action::Batch => many::batch(self, &asked, payload).await,
            Action::Clear(index) => many::clear(self, &asked, index).await,
            Action::Close(index) => facts::close(self, index).await,
            Action::Master => facts::master(self).await,
            Action::Worker(index) => facts::worker(self, index).await,
            Action::Verify(index) => verifying::verify(self, index).await,
            Action::Verification(index) => verifying::verification(self, index),
            Action::Cluster => Ok(facts::cluster(&self.site)),
            Action::Health => facts::health(&self.site),
            Action::Metrics => Ok(facts::metrics(&self.site)),
            Action::Register => requests::register(self, &asked, payload).await,
            Action::Heartbeat => requests::heartbeat(self, &asked, payload).await,
            Action::RegisterMaster => requests::register_master(self, &asked, payload).await,
            Action::Promote => requests::promote(self, &asked, payload).await,
            Action::Parcel => internal::parcel(self, &asked, payload).await,
            Action::Chunk { id, peer, after } => internal::chunk(self, id, peer, after).await,
            Action::OrderDigest => internal::order_digest(self, &asked, payload).await,
            Action::Digest(id) => internal::digest(self, id),
            Action::Move => moving::take(self, &asked, payload).await,
            Action::Facts => facts::lasting(&self.site),
            Action::Recovered => facts::recovered(self, &asked, payload).await,
            Action::Rebalance => orders::rebalance(self, &asked, payload).await,
            Action::Drain => orders::drain(self, &asked, payload).await,
            Action::CancelMove => orders::cancel(self, &asked, payload).await,
        }
    }
}

/// False for a record whose value is in chunks, which must be read.
fn is_whole(record: &Option<Record>) -> bool {
    record.as_ref().is_none_or(|record| !record.meta.in_chunks)
}

/// A request that came through the guards.
enum Admitted {
    /// It is to be done.
    Action(Action),
    /// Its answer is known.
    Answer(HttpResponse),
}

/// How a request is counted, and whether its answer is a classic one.
fn describe(action: &Action) -> (Label, bool) {
    match action {
        Action::Get { style, .. } => (Label::Get, *style == Style::Classic),
        Action::Put { style, .. } => (Label::Put, *style == Style::Classic),
        Action::PutChunks { .. } => (Label::Put, false),
        Action::PutFile { .. } => (Label::PutFile, true),
        Action::Delete { style, .. } => (Label::Delete, *style == Style::Classic),
        Action::List { .. } => (Label::List, false),
        Action::Batch => (Label::Batch, false),
        Action::Clear(_) => (Label::Clear, true),
        Action::Close(_) => (Label::Close, true),
        Action::Master | Action::Worker(_) => (Label::Open, true),
        Action::Cluster => (Label::Cluster, false),
        Action::Health => (Label::Health, false),
        Action::Metrics => (Label::Metrics, false),
        Action::Promote
        | Action::Rebalance
        | Action::Drain
        | Action::CancelMove
        | Action::Verify(_)
        | Action::Verification(_) => (Label::Other, false),
        Action::Register
        | Action::RegisterMaster
        | Action::Heartbeat
        | Action::Parcel
        | Action::Chunk { .. }
        | Action::HasChunks { .. }
        | Action::TakeChunk { .. }
        | Action::HoldChunks { .. }
        | Action::Commit(_)
        | Action::GiveChunk(_)
        | Action::AskChunks
        | Action::OrderDigest
        | Action::Digest(_)
        | Action::Move
        | Action::ListGroup { .. }
        | Action::Facts
        | Action::Recovered => (Label::Internal, false),
    }
}
