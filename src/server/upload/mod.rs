//! Large values on their way in. Whoever gets the bytes, a leader or any other node, cuts them into chunks, has the leader of
//! the key's group store each as it comes, and at the end commits the manifest. The commit is a small write: it goes where
//! the leader is by then, and waits for slots that change hands, as every write does. So a value of any size needs a few
//! chunks of memory here, and disk pushes back to socket: no more is read than is stored.
//!
//! Between nodes: `POST /internal/upload/UPLOAD/SLOT` (a chunk), `POST /internal/hold/UPLOAD/SLOT` (names; which of them are
//! there), `PUT /internal/commit/UPLOAD/CHECKSUM/KEY` (the manifest). For clients that resume: `POST /kv/KEY?chunks` and
//! `PUT /kv/KEY?chunks` ([`frames`]).

mod commit;
mod frames;
mod held;
mod moved;
mod session;

pub(crate) use commit::take_commit;
pub(crate) use frames::{has_chunks, put_chunks};
pub(crate) use moved::{Taking, take_moved};
pub(crate) use session::{hold_chunks, take_chunk};

use super::body::Intake;
use super::content_type;
use super::door::{Asked, Door};
use super::errand::{Aim, Wire};
use super::files;
use super::percent;
use super::route::Style;
use super::site::Member;
use super::values::{self, Written};
use super::write::{Write, check_value};
use crate::cluster::slots::slot;
use crate::error::Result;
use crate::replica::buffers;
use crate::replica::chunk::{CHUNK, INLINE, MOST_BYTES};
use crate::replica::command::{Command, Condition, Put, Request};
use actix_web::HttpResponse;
use actix_web::dev::Payload;
use actix_web::http::Method;
use bytes::Bytes;
use session::Session;

/// What a put says besides its value.
pub(crate) struct Order {
    /// The key.
    pub(crate) key: Vec<u8>,
    /// The content type; empty if none.
    pub(crate) content_type: String,
    /// Milliseconds to live.
    pub(crate) ttl: Option<u64>,
    /// What must hold.
    pub(crate) condition: Condition,
    /// The request id.
    pub(crate) id: Option<String>,
    /// How the answer is worded.
    pub(crate) style: Style,
}

/// Stores the body of a request, of whatever size.
pub(crate) async fn put_body(
    door: &Door,
    asked: &Asked<'_>,
    payload: &mut Payload,
    order: Order,
) -> Result<HttpResponse> {
    let site = &door.site;
    let limit = limit(door);
    let mut intake = Intake::of(site, asked.request, payload);
    if let Some(length) = intake.announced {
        check_value(length, limit)?;
    }
    let mut lease = site.budget.lease();
    let expected = intake.announced.map_or(INLINE, |length| length.min(INLINE as u64) as usize);
    lease.grow(expected)?;
    let mut first = Vec::with_capacity(if intake.announced.is_some() { expected } else { 0 });
    if !intake.fill(&mut first, INLINE).await? || intake.is_over().await? {
        check_value(first.len() as u64, limit)?;
        let bytes = Bytes::from(first);
        let wire = Wire::of(asked, Some(bytes.clone()));
        return put_whole(door, asked, order, bytes, (wire, false), Some(lease)).await;
    }
    drop(lease);
    put_large(door, asked, intake, first, order).await
}

/// Stores the rest of a body, which begins with `first`, in chunks.
async fn put_large(
    door: &Door,
    asked: &Asked<'_>,
    mut intake: Intake<'_>,
    mut first: Vec<u8>,
    order: Order,
) -> Result<HttpResponse> {
    let limit = limit(door);
    let mut session = Session::begin(door, asked, slot(&order.key))?;
    loop {
        let room = session.room().await?;
        let mut chunk = buffers::take();
        chunk.append(&mut first);
        let full = session.meanwhile(intake.fill(&mut chunk, CHUNK)).await?;
        if !chunk.is_empty() {
            check_value(session.size() + chunk.len() as u64, limit)?;
            session.push(buffers::share(chunk), None, room).await?;
        }
        if !full || session.meanwhile(intake.is_over()).await? {
            break;
        }
    }
    session.commit(order, Wire::of(asked, None)).await
}

/// Stores a value that fits into its record. `wire` is how it is sent on, and whether the answer to that is to be worded as
/// a classic one.
pub(crate) async fn put_whole(
    door: &Door,
    asked: &Asked<'_>,
    order: Order,
    value: Bytes,
    (wire, reword): (Wire<'_>, bool),
    lease: Option<super::body::Lease>,
) -> Result<HttpResponse> {
    let Order { key, content_type, ttl, condition, id, style } = order;
    let (size, aim) = (value.len() as u64, Aim::Slot(slot(&key)));
    let put = Put { key: key.clone(), value: Vec::new(), checksum: 0, content_type, ttl, condition };
    let request = Request { id, command: Command::Put(put) };
    let write = Write { aim, request, value: Some(value), lease };
    let done = write.run(door, asked, wire).await?;
    Written { key: &key, size, style, reword }.answer(&door.site, done).await
}

/// Stores a file of this worker's disk.
pub(crate) async fn put_file(
    door: &Door,
    asked: &Asked<'_>,
    key: Vec<u8>,
    path: Vec<u8>,
) -> Result<HttpResponse> {
    let site = &door.site;
    let Member::Worker(worker) = &site.member else { return Err(files::on_a_master(site)) };
    let (condition, id) = values::conditions(asked)?;
    let root = files::root(worker)?.to_owned();
    let data = site.place.get().map(|place| place.data.clone()).unwrap_or_default();
    let mut file = files::Reading::open(root, data, path, worker.max_value).await?;
    let content_type = file.content_type.to_owned();
    let order = Order { key, content_type, ttl: None, condition, id, style: Style::Classic };
    let path = format!("/kv/{}", percent::encode(&order.key));
    let content_type =
        Some(if file.content_type.is_empty() { content_type::UNKNOWN } else { file.content_type });
    let wire = |body| Wire { method: Method::PUT, path: &path, body, content_type, redirects: false };
    let mut lease = site.budget.lease();
    lease.grow_later(CHUNK).await?;
    let first = file.next(CHUNK).await?;
    if first.len() <= INLINE {
        return put_whole(door, asked, order, first.clone(), (wire(Some(first)), true), Some(lease)).await;
    }
    let mut session = Session::begin(door, asked, slot(&order.key))?;
    let (mut chunk, mut room) = (first, lease);
    while !chunk.is_empty() {
        session.push(chunk, None, room).await?;
        room = session.room().await?;
        chunk = session.meanwhile(file.next(CHUNK)).await?;
    }
    session.commit(order, wire(None)).await
}

/// The longest value that this node takes; the one that leads looks again.
fn limit(door: &Door) -> u64 {
    match &door.site.member {
        Member::Worker(worker) => worker.max_value,
        Member::Master(_) => MOST_BYTES,
    }
}
