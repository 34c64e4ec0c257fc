//! Request bodies: limited in length, in time and in number. A body is refused by its `Content-Length` before it
//! is read; all bodies of a node together hold a bounded number of bytes; a client that sends nothing for ten
//! seconds, or next to nothing for longer, is cut off. A body that ends early changes nothing.

use super::line::Line;
use super::site::Site;
use crate::error::{Error, Kind, Result};
use actix_web::HttpRequest;
use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use actix_web::http::header::CONTENT_LENGTH;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// The bytes of bodies that a node holds at most.
const TOTAL: usize = 256 << 20;
/// Those of them that chunks of large values may take: the rest is for requests that cannot wait.
const CHUNKS: usize = TOTAL / 2;
/// How long a body may make no progress.
const SILENCE: Duration = Duration::from_secs(10);
/// After this time a body must have come with at least [`PACE`] bytes per second.
const PATIENCE: Duration = Duration::from_secs(30);
const PACE: u64 = 1024;
/// How long a body may still take when the node stops: enough for what is already on its way.
const LAST_CALL: Duration = Duration::from_millis(400);

/// The bytes of bodies that a node holds now.
#[derive(Default)]
pub(crate) struct Budget {
    held: AtomicUsize,
}

/// A share of the budget, given back when it is dropped.
pub(crate) struct Lease {
    budget: Arc<Budget>,
    bytes: usize,
}

/// A body, with its share of the budget.
pub(crate) struct Body {
    /// The bytes.
    pub(crate) bytes: Vec<u8>,
    /// Kept until the bytes are gone.
    pub(crate) lease: Lease,
}

impl Budget {
    /// An empty share.
    pub(crate) fn lease(self: &Arc<Budget>) -> Lease {
        Lease { budget: Arc::clone(self), bytes: 0 }
    }

    /// Bytes held now.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

impl Lease {
    /// Takes `more` bytes for a chunk, as soon as there is room. Errors with [`Kind::Overloaded`] after a while.
    pub(crate) async fn grow_later(&mut self, more: usize) -> Result<()> {
        let deadline = Instant::now() + SILENCE;
        while self.budget.held() + more > CHUNKS && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if self.budget.held() + more > CHUNKS {
            return Err(overloaded());
        }
        self.grow(more)
    }

    /// Takes `more` bytes. Errors with [`Kind::Overloaded`].
    pub(crate) fn grow(&mut self, more: usize) -> Result<()> {
        let before = self.budget.held.fetch_add(more, Ordering::Relaxed);
        self.bytes += more;
        if before + more > TOTAL {
            return Err(overloaded());
        }
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

fn overloaded() -> Error {
    Error::new(Kind::Overloaded, "too many bytes are under way to or from this node")
        .hint("send fewer or smaller requests at once")
}

/// A body as it comes in.
pub(crate) struct Intake<'a> {
    site: &'a Site,
    request: &'a HttpRequest,
    payload: &'a mut Payload,
    /// Its length, if the client has said it.
    pub(crate) announced: Option<u64>,
    began: Instant,
    got: u64,
    rest: Bytes,
    ended: bool,
}

impl<'a> Intake<'a> {
    /// The body of `request`.
    pub(crate) fn of(site: &'a Site, request: &'a HttpRequest, payload: &'a mut Payload) -> Intake<'a> {
        let announced = announced(request);
        Intake {
            site,
            request,
            payload,
            announced,
            began: Instant::now(),
            got: 0,
            rest: Bytes::new(),
            ended: false,
        }
    }

    /// Adds what comes to `buffer` until it has `length` bytes or the body ends; false if it ended first.
    ///
    /// Errors: as [`read`], except for those of its length.
    pub(crate) async fn fill(&mut self, buffer: &mut Vec<u8>, length: usize) -> Result<bool> {
        while buffer.len() < length {
            if self.rest.is_empty() {
                if self.ended {
                    return Ok(false);
                }
                match next(self.site, self.payload, self.began, self.got).await? {
                    Some(bytes) => self.take(bytes),
                    None => self.end()?,
                }
                continue;
            }
            let piece = self.rest.split_to(self.rest.len().min(length - buffer.len()));
            buffer.extend_from_slice(&piece);
        }
        Ok(true)
    }

    /// True if nothing is left. Errors as [`Intake::fill`].
    pub(crate) async fn is_over(&mut self) -> Result<bool> {
        while self.rest.is_empty() && !self.ended {
            match next(self.site, self.payload, self.began, self.got).await? {
                Some(bytes) => self.take(bytes),
                None => self.end()?,
            }
        }
        Ok(self.rest.is_empty())
    }

    fn take(&mut self, bytes: Bytes) {
        self.got += bytes.len() as u64;
        self.site.metrics.bytes_in.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.rest = bytes;
    }

    fn end(&mut self) -> Result<()> {
        if self.announced.is_some_and(|length| length != self.got) {
            return Err(cut_short(self.got));
        }
        self.ended = true;
        if let Some(line) = self.request.conn_data::<Rc<Line>>() {
            line.body_ended();
        }
        Ok(())
    }
}

fn announced(request: &HttpRequest) -> Option<u64> {
    request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok())
}

/// Reads the whole body, of at most `limit` bytes; a longer one is an error of kind `too_large`.
///
/// Errors: `too_large`, [`Kind::TooSlow`], [`Kind::BadRequest`] (it ended early), [`Kind::Overloaded`],
/// [`Kind::Closed`] (the node stops).
pub(crate) async fn read(
    site: &Site,
    request: &HttpRequest,
    payload: &mut Payload,
    limit: usize,
    too_large: Kind,
) -> Result<Body> {
    let announced = announced(request);
    if let Some(length) = announced.filter(|length| *length > limit as u64) {
        return Err(over(too_large, &format!("{length} bytes"), limit));
    }
    let mut lease = site.budget.lease();
    let mut bytes = Vec::with_capacity(announced.unwrap_or(0).min(64 << 10) as usize);
    let began = Instant::now();
    while let Some(chunk) = next(site, payload, began, bytes.len() as u64).await? {
        if bytes.len() + chunk.len() > limit {
            return Err(over(too_large, &format!("more than {limit} bytes"), limit));
        }
        lease.grow(chunk.len())?;
        bytes.extend_from_slice(&chunk);
    }
    if announced.is_some_and(|length| length != bytes.len() as u64) {
        return Err(cut_short(bytes.len() as u64));
    }
    if let Some(line) = request.conn_data::<Rc<Line>>() {
        line.body_ended();
    }
    site.metrics.bytes_in.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    Ok(Body { bytes, lease })
}

async fn next(site: &Site, payload: &mut Payload, began: Instant, got: u64) -> Result<Option<Bytes>> {
    let chunk = match payload.next().now_or_never() {
        Some(chunk) => chunk,
        None => wait(site, payload, began, got).await?,
    };
    match chunk {
        None => Ok(None),
        Some(Ok(chunk)) => Ok(Some(chunk)),
        Some(Err(PayloadError::Incomplete(_))) => Err(cut_short(got)),
        Some(Err(error)) => {
            Err(Error::new(Kind::BadRequest, format!("the body broke off after {got} bytes: {error}")))
        }
    }
}

async fn wait(
    site: &Site,
    payload: &mut Payload,
    began: Instant,
    got: u64,
) -> Result<Option<std::result::Result<Bytes, PayloadError>>> {
    let elapsed = began.elapsed();
    if elapsed > PATIENCE && got < PACE * elapsed.as_secs() {
        return Err(too_slow(got));
    }
    let mut stopping = site.stopping.subscribe();
    tokio::select! {
        chunk = payload.next() => Ok(chunk),
        () = tokio::time::sleep(SILENCE) => Err(too_slow(got)),
        () = last_call(&mut stopping) => {
            Err(Error::new(Kind::Closed, "this node is stopping, and the body had not arrived"))
        }
    }
}

/// Ends a while after the node was told to stop.
async fn last_call(stopping: &mut watch::Receiver<bool>) {
    // The sender lives as long as the site.
    let _ = stopping.wait_for(|stopping| *stopping).await;
    tokio::time::sleep(LAST_CALL).await;
}

fn over(kind: Kind, what: &str, limit: usize) -> Error {
    let error = Error::new(kind, format!("the body has {what}; the limit is {limit}"));
    match kind {
        Kind::ValueTooLarge => error.hint("the worker's --max-value raises it"),
        _ => error.hint("send it in smaller pieces"),
    }
}

fn cut_short(got: u64) -> Error {
    Error::new(Kind::BadRequest, format!("the body broke off after {got} bytes"))
}

fn too_slow(got: u64) -> Error {
    Error::new(Kind::TooSlow, format!("the body came too slowly: {got} bytes so far")).hint("send it again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_bounded_and_given_back() {
        let budget = Arc::new(Budget::default());
        let mut first = budget.lease();
        first.grow(TOTAL).unwrap();
        let mut second = budget.lease();
        assert_eq!(second.grow(1).unwrap_err().kind(), Kind::Overloaded);
        drop(second);
        assert_eq!(budget.held(), TOTAL);
        drop(first);
        assert_eq!(budget.held(), 0);
        budget.lease().grow(TOTAL).unwrap();
    }
}
