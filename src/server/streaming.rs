//! Values in chunks on their way out: one chunk is being sent while the next ones are read and checked. What does not match
//! its name never leaves; where no member has a chunk whole, the answer is an error, or breaks off if it has begun.

use super::many::blocking;
use super::range::{Piece, Plan};
use super::respond;
use super::route::Style;
use crate::error::{Error, Kind, Result};
use crate::replica::blobs::Keeper;
use crate::replica::chunk::{CHUNK, NODE_NAMES, Name};
use crate::replica::{Manifest, Record};
use actix_web::body::{BoxBody, SizedStream};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use futures_util::stream;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// So much goes to the socket at once: what is still in the processor's cache.
const PIECE: usize = 128 << 10;

/// So many chunks are read while one is being sent.
const AHEAD: usize = 2;

/// A stretch of one chunk, or bytes that stand between stretches.
enum Part {
    Text(Bytes),
    Chunk { number: u64, from: usize, to: usize },
}

/// A value on its way.
struct Flow {
    source: Arc<Source>,
    pieces: VecDeque<Piece>,
    ahead: VecDeque<JoinHandle<Result<Bytes>>>,
}

/// Where the chunks of a value are read.
struct Source {
    keeper: Arc<Keeper>,
    /// While it is held, no chunk of the value is removed.
    _reading: Arc<()>,
    manifest: Manifest,
    /// The node that was read last, by its number.
    node: std::sync::Mutex<Option<(usize, Arc<Vec<Name>>)>>,
    /// The key, for errors.
    key: String,
}

/// Answers a read of `record`, whose value is in chunks. Errors: `ValueHurt` if no member has the first chunk of the answer whole.
pub(crate) async fn answer(
    keeper: Arc<Keeper>,
    reading: Arc<()>,
    record: Record,
    key: &[u8],
    request: &HttpRequest,
    style: Style,
) -> Result<HttpResponse> {
    let manifest =
        record.manifest().ok_or_else(|| Error::new(Kind::Damaged, "a stored manifest is not readable"))?;
    let mut planned: Option<Plan> = None;
    let response = respond::value(&record.meta, request, style, |plan| {
        planned = Some(plan);
        BoxBody::new(())
    });
    let Some(plan) = planned else { return Ok(response) };
    let key = respond::shown(key);
    let source = Source { keeper, _reading: reading, manifest, node: std::sync::Mutex::default(), key };
    let mut flow = Flow { source: Arc::new(source), pieces: plan.pieces.into(), ahead: VecDeque::new() };
    let first = flow.next().await.transpose()?.unwrap_or_default();
    let rest = stream::unfold((first, flow), |(mut left, mut flow)| async move {
        if left.is_empty() {
            left = match flow.next().await? {
                Ok(bytes) => bytes,
                Err(error) => {
                    log::error!("an answer breaks off: {error}");
                    return Some((Err(io::Error::other(error.to_string())), (left, flow)));
                }
            };
        }
        let piece = left.split_to(PIECE.min(left.len()));
        Some((Ok(piece), (left, flow)))
    });
    Ok(response.set_body(BoxBody::new(SizedStream::new(plan.content_length, rest))))
}

impl Flow {
    /// What is sent next; begins to read what follows it.
    async fn next(&mut self) -> Option<Result<Bytes>> {
        self.look_ahead();
        let reading = self.ahead.pop_front()?;
        self.look_ahead();
        Some(
            reading.await.unwrap_or_else(|_| Err(Error::new(Kind::Failed, "a read did not come to its end"))),
        )
    }

    fn look_ahead(&mut self) {
        while self.ahead.len() < AHEAD
            && let Some(part) = self.part()
        {
            let reading = match part {
                Part::Text(text) => actix_web::rt::spawn(async move { Ok(text) }),
                Part::Chunk { number, from, to } => {
                    let source = Arc::clone(&self.source);
                    actix_web::rt::spawn(async move {
                        let chunk = blocking(move || source.read(number)).await?;
                        match to <= chunk.len() {
                            true => Ok(chunk.slice(from..to)),
                            false => Err(Error::new(Kind::Damaged, "a chunk is shorter than its value says")),
                        }
                    })
                }
            };
            self.ahead.push_back(reading);
        }
    }

    /// Takes the next part from the pieces.
    fn part(&mut self) -> Option<Part> {
        match self.pieces.pop_front()? {
            Piece::Text(text) => Some(Part::Text(text)),
            Piece::Value { length: 0, .. } => self.part(),
            Piece::Value { from, length } => {
                let (number, start) = (from / CHUNK as u64, (from % CHUNK as u64) as usize);
                let taken = length.min((CHUNK - start) as u64);
                if taken < length {
                    self.pieces.push_front(Piece::Value { from: from + taken, length: length - taken });
                }
                Some(Part::Chunk { number, from: start, to: start + taken as usize })
            }
        }
    }
}

impl Source {
    /// Reads a chunk and compares it with its name. Blocks.
    fn read(&self, number: u64) -> Result<Bytes> {
        let named = |error: Error| {
            let detail = format!("the value of {} cannot be read: {}", self.key, error.detail());
            let hint = error.hint_text().unwrap_or("try again a little later").to_owned();
            // It is about the value, not about this node: nobody else has a better answer.
            let kind = match error.kind() {
                kind @ (Kind::Closed | Kind::Failed | Kind::Overloaded) => kind,
                _ => Kind::ValueHurt,
            };
            Error::new(kind, detail).hint(hint)
        };
        let name = self.name(number).map_err(named)?;
        self.keeper.share(&name).map_err(named)
    }

    fn name(&self, number: u64) -> Result<Name> {
        let missing = || Error::new(Kind::Damaged, "the manifest names too few chunks");
        if self.manifest.depth == 0 {
            return self.manifest.names.get(number as usize).copied().ok_or_else(missing);
        }
        let (node, place) = ((number / NODE_NAMES as u64) as usize, (number % NODE_NAMES as u64) as usize);
        let known = self.node.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let names = match known.filter(|(known, _)| *known == node) {
            Some((_, names)) => names,
            None => {
                let bytes = self.keeper.read(self.manifest.names.get(node).ok_or_else(missing)?)?;
                let names = Arc::new(self.manifest.read_node(node, &bytes)?);
                *self.node.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
                    Some((node, names.clone()));
                names
            }
        };
        names.get(place).copied().ok_or_else(missing)
    }
}
