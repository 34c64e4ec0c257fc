//! An upload under way: chunks go to the leader of the key's group, a few at a time, in any order; their names come back in
//! the order of the value.

use super::super::body;
use super::super::door::{Asked, Door};
use super::super::errand::{Aim, Done, Errand, Manner, Wire};
use super::super::many::blocking;
use super::super::respond;
use crate::cluster::frames::MOST_HASHES;
use crate::error::{Error, Kind, Result};
use crate::replica::chunk::{Builder, CHUNK, NAME, Name};
use crate::replica::handle::KeyspaceHandle;
use actix_web::HttpResponse;
use actix_web::body::to_bytes;
use actix_web::dev::Payload;
use actix_web::http::{Method, StatusCode};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use std::collections::BTreeSet;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;

/// So many chunks of one upload are on their way at once.
const AT_ONCE: usize = 8;
/// What is said of a chunk that is held: 1, CRC-32 and length.
const HELD: usize = 9;

type Sent<'a> = Pin<Box<dyn Future<Output = Result<Stored>> + 'a>>;

/// A chunk that is stored.
struct Stored {
    name: Name,
    length: usize,
    checksum: u32,
}

impl Stored {
    /// What is to be said of a chunk. Errors: `BadRequest` if it is to have another name.
    fn of(bytes: &[u8], expected: Option<Name>) -> Result<Stored> {
        let name = Name::of(bytes);
        if expected.is_some_and(|expected| expected != name) {
            return Err(Error::new(Kind::BadRequest, "a chunk does not match its name")
                .hint("did the file change while it was sent?"));
        }
        Ok(Stored { name, length: bytes.len(), checksum: crc32fast::hash(bytes) })
    }
}

/// An upload.
pub(super) struct Session<'a> {
    pub(super) door: &'a Door,
    pub(super) asked: &'a Asked<'a>,
    pub(super) slot: u16,
    /// Its random number, by which the leader knows it.
    pub(super) id: u64,
    builder: Builder,
    checksum: crc32fast::Hasher,
    sent: FuturesOrdered<Sent<'a>>,
    /// The groups that chunks were sent to: the slot may change hands meanwhile.
    pub(super) groups: BTreeSet<u32>,
    /// Bytes that were pushed.
    size: u64,
}

impl<'a> Session<'a> {
    /// An upload of a value of `slot`. Errors: `System` if there are no random numbers.
    pub(super) fn begin(door: &'a Door, asked: &'a Asked<'a>, slot: u16) -> Result<Session<'a>> {
        Ok(Session {
            door,
            asked,
            slot,
            id: random()?,
            builder: Builder::default(),
            checksum: crc32fast::Hasher::new(),
            sent: FuturesOrdered::new(),
            groups: BTreeSet::new(),
            size: 0,
        })
    }

    /// Bytes so far.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Room in memory for a chunk, to be taken before its bytes are read. Errors: `Overloaded` after a while; those of
    /// [`Session::push`].
    pub(super) async fn room(&mut self) -> Result<body::Lease> {
        let mut lease = self.door.site.budget.lease();
        self.meanwhile(lease.grow_later(CHUNK)).await?;
        Ok(lease)
    }

    /// Does `work` while what is on its way goes on. Errors: those of `work` and of [`Session::push`].
    pub(super) async fn meanwhile<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                Some(stored) = self.sent.next(), if !self.sent.is_empty() => self.add(stored?).await?,
            }
        }
    }

    /// The next chunk of the value, with the name that it must have, if that is known, and its room. Waits while several
    /// are on their way. Errors: those of the leader; `BadRequest` for another name.
    pub(super) async fn push(&mut self, chunk: Bytes, name: Option<Name>, room: body::Lease) -> Result<()> {
        self.size += chunk.len() as u64;
        self.send(chunk, name, room);
        while self.sent.len() >= AT_ONCE {
            self.settle_one().await?;
        }
        Ok(())
    }

    /// The next chunks of the value, by their names. Errors: `ChunkMissing` if the store lacks one.
    pub(super) async fn push_held(&mut self, names: Vec<Name>) -> Result<()> {
        self.settle().await?;
        let held = held(self.door, self.asked, self.slot, self.id, &names).await?;
        for (name, held) in names.into_iter().zip(held) {
            let Some((checksum, length)) = held else {
                return Err(Error::new(Kind::ChunkMissing, format!("chunk {} is not here", name.hex()))
                    .hint("ask with POST /kv/KEY?chunks which ones are, and send the others"));
            };
            self.size += u64::from(length);
            self.add(Stored { name, length: length as usize, checksum }).await?;
        }
        Ok(())
    }

    /// Waits for what is on its way; returns the manifest with the checksum of the value. Errors: those of the leader.
    pub(super) async fn finish(&mut self) -> Result<(crate::replica::Manifest, u32)> {
        self.settle().await?;
        let (manifest, node) = std::mem::take(&mut self.builder).finish();
        if let Some(node) = node {
            store(self.door, self.asked, self.slot, self.id, (Bytes::from(node), None)).await?;
        }
        Ok((manifest, std::mem::take(&mut self.checksum).finalize()))
    }

    pub(super) async fn settle(&mut self) -> Result<()> {
        while !self.sent.is_empty() {
            self.settle_one().await?;
        }
        Ok(())
    }

    fn send(&mut self, chunk: Bytes, name: Option<Name>, room: body::Lease) {
        let (door, asked, slot, id) = (self.door, self.asked, self.slot, self.id);
        self.groups.extend(door.site.group_of_slot(slot));
        self.sent.push_back(Box::pin(async move {
            let stored = store(door, asked, slot, id, (chunk, name)).await;
            drop(room);
            stored
        }));
    }

    async fn settle_one(&mut self) -> Result<()> {
        match self.sent.next().await {
            Some(stored) => self.add(stored?).await,
            None => Ok(()),
        }
    }

    /// Chunks come here in the order of the value.
    async fn add(&mut self, stored: Stored) -> Result<()> {
        let Stored { name, length, checksum } = stored;
        if !self.builder.size().is_multiple_of(CHUNK as u64) {
            return Err(Error::new(
                Kind::BadRequest,
                "a chunk that is not the last one has not its full length",
            ));
        }
        self.checksum.combine(&crc32fast::Hasher::new_with_initial_len(checksum, length as u64));
        if let Some(node) = self.builder.push(name, length) {
            store(self.door, self.asked, self.slot, self.id, (Bytes::from(node), None)).await?;
        }
        Ok(())
    }
}

/// A number for an upload.
pub(super) fn random() -> Result<u64> {
    getrandom::u64()
        .map_err(|error| Error::new(Kind::System, format!("the system gives no random numbers: {error}")))
}

/// Has the leader of the slot's group store a chunk, which must have the name if one is given.
async fn store(
    door: &Door,
    asked: &Asked<'_>,
    slot: u16,
    id: u64,
    (chunk, expected): (Bytes, Option<Name>),
) -> Result<Stored> {
    let path = format!("/internal/upload/{id}/{slot}");
    let wire = wire(&path, chunk.clone());
    let done = errand(door, asked, slot, wire)?
        .run(async |replica| {
            let (keeper, bytes) = (Arc::clone(replica.keeper()), chunk.clone());
            let stored = blocking(move || {
                let stored = Stored::of(&bytes, expected)?;
                keeper.store(id, &stored.name, &bytes).map(|()| stored)
            });
            Ok(stored.await?)
        })
        .await
        .map_err(unwritten)?;
    match done {
        Done::Here(stored) => Ok(stored),
        Done::There(answer) => {
            checked(answer).await?;
            blocking(move || Stored::of(&chunk, expected)).await
        }
    }
}

/// Which chunks the leader has, with checksum and length of each; it keeps them.
pub(super) async fn held(
    door: &Door,
    asked: &Asked<'_>,
    slot: u16,
    id: u64,
    names: &[Name],
) -> Result<Vec<Option<(u32, u32)>>> {
    let path = format!("/internal/hold/{id}/{slot}");
    let wire = wire(&path, Bytes::from_iter(names.iter().flat_map(|name| name.0)));
    let done = errand(door, asked, slot, wire)?
        .run(async |replica| Ok(hold_here(replica, id, names.to_vec()).await?))
        .await
        .map_err(unwritten)?;
    match done {
        Done::Here(held) => Ok(held),
        Done::There(answer) => {
            let answer = checked(answer).await?;
            let (words, rest) = answer.as_chunks::<HELD>();
            if !rest.is_empty() || words.len() != names.len() {
                return Err(Error::new(Kind::Unreachable, "what a node says of its chunks is not readable"));
            }
            Ok(words.iter().map(read_held).collect())
        }
    }
}

async fn hold_here(replica: &KeyspaceHandle, id: u64, names: Vec<Name>) -> Result<Vec<Option<(u32, u32)>>> {
    let keeper = Arc::clone(replica.keeper());
    blocking(move || keeper.hold(id, &names)).await
}

fn read_held([held, a, b, c, d, e, f, g, h]: &[u8; HELD]) -> Option<(u32, u32)> {
    (*held == 1).then(|| (u32::from_be_bytes([*a, *b, *c, *d]), u32::from_be_bytes([*e, *f, *g, *h])))
}

fn wire(path: &str, body: Bytes) -> Wire<'_> {
    let content_type = Some("application/octet-stream");
    Wire { method: Method::POST, path, body: Some(body), content_type, redirects: false }
}

/// A step of an upload may be repeated: it changes nothing that anybody sees.
fn errand<'a>(door: &'a Door, asked: &'a Asked<'a>, slot: u16, wire: Wire<'a>) -> Result<Errand<'a>> {
    let (aim, manner) = (Aim::Slot(slot), Manner::Write { exact: true });
    Ok(Errand { door, asked, aim, manner, deadline: asked.deadline()?, wire })
}

/// The body of a good answer; the error that a bad one states.
async fn checked(answer: HttpResponse) -> Result<Bytes> {
    let status = answer.status();
    let body = to_bytes(answer.into_body()).await.unwrap_or_default();
    if status.is_success() {
        return Ok(body);
    }
    Err(unwritten(super::super::error::of_problem(status, &body)))
}

/// Whatever became of a step of an upload, the value was not written.
fn unwritten(error: Error) -> Error {
    match error.kind() {
        Kind::UnknownOutcome => {
            Error::new(Kind::NoMajority, format!("{}; nothing of the value was written", error.detail()))
                .hint("send it again; put-file --resume sends only what is missing")
        }
        _ => error,
    }
}

/// `POST /internal/upload/UPLOAD/SLOT`, at the member that leads or one that knows who does.
pub(crate) async fn take_chunk(
    door: &Door,
    asked: &Asked<'_>,
    payload: &mut Payload,
    id: u64,
    slot: u16,
) -> Result<HttpResponse> {
    let body = body::read(&door.site, asked.request, payload, CHUNK, Kind::TooLarge).await?;
    // Only the node that cut the value turns to another group: the chunks before this one are where it sent them.
    store(door, asked, slot, id, (Bytes::from(body.bytes), None)).await?;
    Ok(respond::empty(StatusCode::NO_CONTENT))
}

/// `POST /internal/hold/UPLOAD/SLOT`.
pub(crate) async fn hold_chunks(
    door: &Door,
    asked: &Asked<'_>,
    payload: &mut Payload,
    id: u64,
    slot: u16,
) -> Result<HttpResponse> {
    let body = body::read(&door.site, asked.request, payload, MOST_HASHES * NAME, Kind::TooLarge).await?;
    let names = Name::list(&body.bytes).ok_or_else(super::frames::no_names)?;
    let held = held(door, asked, slot, id, &names).await?;
    let answer: Vec<u8> = held
        .into_iter()
        .flat_map(|held| {
            let (checksum, length) = held.unwrap_or_default();
            let mut word = [0; HELD];
            word[0] = u8::from(held.is_some());
            word[1..5].copy_from_slice(&checksum.to_be_bytes());
            word[5..].copy_from_slice(&length.to_be_bytes());
            word
        })
        .collect();
    Ok(HttpResponse::Ok().content_type("application/octet-stream").body(answer))
}
