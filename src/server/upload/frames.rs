//! A value of whose chunks the store may have some: for clients that resume an upload.
//!
//! `POST /kv/KEY?chunks`: names of chunks, 32 bytes each; the answer has one digit for each, `1` if it is there.
//! `PUT /kv/KEY?chunks`: a frame for each chunk of the value, in order: its name, its length as u32 big-endian, and 1 if its
//! bytes follow, 0 if the store has them.

use super::super::body::{self, Intake};
use super::super::door::{Asked, Door};
use super::super::errand::Wire;
use super::super::route::Style;
use super::super::values;
use super::super::write::check_value;
use super::session::{Session, held};
use super::{Order, limit};
use crate::cluster::frames::{Frame, HEAD, MOST_HASHES};
use crate::cluster::slots::slot;
use crate::error::{Error, Kind, Result};
use crate::replica::blobs::NO_UPLOAD;
use crate::replica::buffers;
use crate::replica::chunk::{NAME, Name};
use actix_web::HttpResponse;
use actix_web::dev::Payload;

/// So many chunks that are held are looked up at once.
const HELD_AT_ONCE: usize = 128;

fn head(bytes: &[u8]) -> Result<Frame> {
    let frame = bytes.first_chunk().and_then(Frame::decode);
    frame.ok_or_else(|| Error::new(Kind::BadRequest, "the body is not made of frames of chunks"))
}

/// `POST /kv/KEY?chunks`.
pub(crate) async fn has_chunks(
    door: &Door,
    asked: &Asked<'_>,
    payload: &mut Payload,
    key: &[u8],
) -> Result<HttpResponse> {
    let body = body::read(&door.site, asked.request, payload, MOST_HASHES * NAME, Kind::TooLarge).await?;
    let names = Name::list(&body.bytes).ok_or_else(no_names)?;
    let mut answer = Vec::with_capacity(names.len());
    for names in names.chunks(HELD_AT_ONCE) {
        let held = held(door, asked, slot(key), NO_UPLOAD, names).await?;
        answer.extend(held.iter().map(|held| if held.is_some() { b'1' } else { b'0' }));
    }
    Ok(HttpResponse::Ok().content_type("text/plain").body(answer))
}

/// `PUT /kv/KEY?chunks`.
pub(crate) async fn put_chunks(
    door: &Door,
    asked: &Asked<'_>,
    payload: &mut Payload,
    key: Vec<u8>,
    ttl: Option<u64>,
) -> Result<HttpResponse> {
    let (condition, id) = values::conditions(asked)?;
    let content_type = values::content_type_of(asked)?;
    let order = Order { key, content_type, ttl, condition, id, style: Style::Resource };
    let limit = limit(door);
    let mut intake = Intake::of(&door.site, asked.request, payload);
    let mut session = Session::begin(door, asked, slot(&order.key))?;
    let (mut held, mut held_bytes) = (Vec::new(), 0);
    let mut first = Vec::with_capacity(HEAD);
    while !session.meanwhile(intake.is_over()).await? {
        if !session.meanwhile(intake.fill(&mut first, HEAD)).await? {
            return Err(Error::new(Kind::BadRequest, "the body ends in the middle of a frame"));
        }
        let Frame { hash, length, follows } = head(&first)?;
        first.clear();
        let (name, length) = (Name(hash), length as usize);
        check_value(session.size() + held_bytes + length as u64, limit)?;
        if !follows {
            held.push(name);
            held_bytes += length as u64;
            if held.len() == HELD_AT_ONCE {
                session.push_held(std::mem::take(&mut held)).await?;
                held_bytes = 0;
            }
            continue;
        }
        if !held.is_empty() {
            session.push_held(std::mem::take(&mut held)).await?;
            held_bytes = 0;
        }
        let room = session.room().await?;
        let mut chunk = buffers::take();
        if !session.meanwhile(intake.fill(&mut chunk, length)).await? {
            return Err(Error::new(Kind::BadRequest, "the body ends in the middle of a chunk"));
        }
        session.push(buffers::share(chunk), Some(name), room).await?;
    }
    if !held.is_empty() {
        session.push_held(held).await?;
    }
    if session.size() == 0 {
        return Err(
            Error::new(Kind::BadRequest, "there is no frame").hint("an empty value is put without ?chunks")
        );
    }
    session.commit(order, Wire::of(asked, None)).await
}

/// The error of a body that is no list of names.
pub(super) fn no_names() -> Error {
    Error::new(Kind::BadRequest, "the body is not made of names of 32 bytes")
        .hint("the name of a chunk is the BLAKE3 hash of its bytes")
}
