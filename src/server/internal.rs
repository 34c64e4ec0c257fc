//! What members of a group ask each other: Raft messages, chunks of snapshots, digests of contents. A stranger
//! (another cluster, group or incarnation, an old copy of a member's folder) is refused by the replica.

use super::door::{Asked, Door};
use super::many::blocking;
use super::respond;
use super::site::{Member, Site};
use super::values;
use crate::error::{Error, Kind, Result};
use crate::replica::Name;
use crate::replica::command::{Command, Reply, Request};
use crate::replica::parcel;
use actix_web::HttpResponse;
use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Orders a digest of the contents of some members.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DigestOrder {
    /// The Raft ids of the members.
    pub(crate) members: Vec<u64>,
}

/// The answer to a [`DigestOrder`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DigestOrdered {
    /// Asks for the digest.
    pub(crate) id: u64,
}

/// A digest of a member's contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DigestTaken {
    /// The entry whose state it is of.
    pub(crate) index: u64,
    /// BLAKE3, in hexadecimal.
    pub(crate) hash: String,
    /// How many rows.
    pub(crate) rows: u64,
}

/// `POST /internal/raft`. Its body is not counted with those of clients: a member that drowns in writes must still hear
/// the others. There are few members, and each sends one parcel at a time.
pub(crate) async fn parcel(door: &Door, _asked: &Asked<'_>, payload: &mut Payload) -> Result<HttpResponse> {
    let bytes = envelope(payload).await?;
    let site = &door.site;
    match &site.member {
        Member::Worker(worker) => site.with_open(&worker.node.mode(), |replica| replica.receive(&bytes))?,
        Member::Master(master) => site.with_open(&master.node.mode(), |replica| replica.receive(&bytes))?,
    }
    Ok(respond::empty(StatusCode::NO_CONTENT))
}

async fn envelope(payload: &mut Payload) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(chunk) = payload.next().await {
        let chunk =
            chunk.map_err(|error| Error::new(Kind::BadRequest, format!("the body broke off: {error}")))?;
        if bytes.len() + chunk.len() > parcel::LARGEST {
            return Err(Error::new(Kind::TooLarge, "a parcel of messages is too large"));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// `GET /internal/snapshot/ID/PEER?after=HEX`.
pub(crate) async fn chunk(door: &Door, id: u64, peer: u64, after: Option<Vec<u8>>) -> Result<HttpResponse> {
    let site = Arc::clone(&door.site);
    let chunk = blocking(move || match &site.member {
        Member::Worker(worker) => {
            site.with_open(&worker.node.mode(), |replica| replica.chunk(id, peer, after.as_deref()))
        }
        Member::Master(master) => {
            site.with_open(&master.node.mode(), |replica| replica.chunk(id, peer, after.as_deref()))
        }
    })
    .await?;
    Ok(HttpResponse::Ok().content_type("application/octet-stream").body(chunk))
}

/// `POST /internal/chunks`: another member asks about chunks, or brings one. Not counted with the bodies of clients, as
/// parcels are not.
pub(crate) async fn ask_chunks(door: &Door, payload: &mut Payload) -> Result<HttpResponse> {
    let bytes = envelope(payload).await?;
    let site = Arc::clone(&door.site);
    let answer = blocking(move || {
        let worker = site.worker()?;
        let replica = site.with_open(&worker.node.mode(), |replica| Ok(replica.clone()))?;
        replica.answer_chunks(&bytes)
    });
    Ok(HttpResponse::Ok().content_type("application/octet-stream").body(answer.await?))
}

/// `GET /internal/chunk/NAME`: a chunk, if it is whole here.
pub(crate) async fn give_chunk(door: &Door, name: Name) -> Result<HttpResponse> {
    let site = Arc::clone(&door.site);
    let chunk = blocking(move || {
        let worker = site.worker()?;
        let replica = site.with_open(&worker.node.mode(), |replica| Ok(replica.clone()))?;
        replica.keeper().read_here(&name)
    });
    match chunk.await? {
        Some(bytes) => Ok(HttpResponse::Ok().content_type("application/octet-stream").body(bytes)),
        None => Err(Error::new(Kind::NotFound, format!("chunk {} is not here", name.hex()))),
    }
}

/// `POST /internal/digest`, at the member that leads.
pub(crate) async fn order_digest(
    door: &Door,
    asked: &Asked<'_>,
    payload: &mut Payload,
) -> Result<HttpResponse> {
    let order: DigestOrder = super::master::requests::document(door, asked, payload).await?;
    let id = getrandom::u64()
        .map_err(|error| Error::new(Kind::System, format!("the system gives no random numbers: {error}")))?;
    let command = Command::Digest { id, members: order.members };
    match values::submit(&door.site, Request { id: None, command }, asked.deadline()?).await? {
        Reply::DigestOrdered => Ok(respond::json(&DigestOrdered { id }, false)),
        reply => Err(values::unexpected(&door.site, &reply)),
    }
}

/// `GET /internal/digest/ID`: 404 until it is taken.
pub(crate) fn digest(door: &Door, id: u64) -> Result<HttpResponse> {
    let site: &Site = &door.site;
    let worker = site.worker()?;
    let digest = site.with_open(&worker.node.mode(), |replica| Ok(replica.digest(id)))?;
    let digest = digest.ok_or_else(|| Error::new(Kind::NotFound, "this digest is not taken here (yet)"))?;
    let taken = DigestTaken { index: digest.index, hash: digest.hash, rows: digest.rows };
    Ok(respond::json(&taken, false))
}
