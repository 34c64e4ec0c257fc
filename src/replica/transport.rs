//! Messages to other members: one thread and one bounded queue for each. What gathers while one parcel is on its way
//! goes as the next one. A member that is slow or dead costs its own queue and nothing else; whatever is dropped is
//! reported as unreachable, so that Raft sends it again.

use super::copies::SnapshotName;
use super::parcel::{self, Progress, Sender};
use super::shared::lock;
use crate::cluster::membership::index_of;
use crate::error::{Error, Kind, Result};
use protobuf::Message as _;
use raft::eraftpb::Message;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// At most so many bytes of messages wait for one member.
const QUEUE_BYTES: usize = 48 << 20;
/// A parcel holds about so many bytes of messages, or one larger message.
const PARCEL_BYTES: usize = 4 << 20;
/// Pauses after a parcel that did not arrive.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(320);

/// How members reach each other. Calls block, for a bounded time.
pub trait Wire: Send + Sync + 'static {
    /// Delivers a parcel to member `to`. An error: it may or may not have arrived.
    fn deliver(&self, to: u64, parcel: &[u8]) -> Result<()>;

    /// Pulls a chunk of the snapshot `name` from member `from`: the one behind the row `after`. None only says that the
    /// snapshot is still needed.
    fn pull(&self, from: u64, name: SnapshotName, after: Option<&[u8]>) -> Result<Vec<u8>>;

    /// Asks member `to` what is in `envelope`, and returns its answer.
    fn ask(&self, to: u64, envelope: &[u8]) -> Result<Vec<u8>>;

    /// Asks several members at once, and does something of its own meanwhile. The answers are in the order of the
    /// questions.
    fn ask_all(&self, questions: &[(u64, Vec<u8>)], meanwhile: &mut dyn FnMut()) -> Vec<Result<Vec<u8>>> {
        std::thread::scope(|scope| {
            let asked: Vec<_> =
                questions.iter().map(|(to, envelope)| scope.spawn(|| self.ask(*to, envelope))).collect();
            meanwhile();
            let lost = |_| Err(Error::new(Kind::Failed, "a question to another member panicked"));
            asked.into_iter().map(|asked| asked.join().unwrap_or_else(lost)).collect()
        })
    }
}

/// The senders of one member.
pub struct Transport {
    own: Sender,
    wire: Arc<dyn Wire>,
    peers: Mutex<HashMap<u64, Arc<Peer>>>,
    progress: Arc<Told>,
    lost: Arc<dyn Fn(u64) + Send + Sync>,
}

/// How far this member is; parcels carry it.
#[derive(Debug, Default)]
struct Told {
    commit: AtomicU64,
    complete: AtomicU64,
}

#[derive(Default)]
struct Peer {
    queue: Mutex<Queue>,
    filled: Condvar,
}

#[derive(Default)]
struct Queue {
    messages: Vec<Vec<u8>>,
    bytes: usize,
    closed: bool,
}

impl Transport {
    /// Sends as `own` on `wire`. `lost` is told of every member to which a message was dropped.
    pub fn new(own: Sender, wire: Arc<dyn Wire>, lost: impl Fn(u64) + Send + Sync + 'static) -> Transport {
        let (peers, progress, lost) = (Mutex::default(), Arc::default(), Arc::new(lost));
        Transport { own, wire, peers, progress, lost }
    }

    /// How far this member is; parcels carry it.
    pub fn set_progress(&self, progress: Progress) {
        self.progress.commit.store(progress.commit, Ordering::Relaxed);
        self.progress.complete.store(progress.complete, Ordering::Relaxed);
    }

    /// Queues messages; never blocks.
    pub fn send(&self, messages: Vec<Message>) {
        for message in messages {
            let to = message.to;
            if let Err(error) =
                message.write_to_bytes().map_err(|error| error.to_string()).and_then(|bytes| {
                    if self.peer(to)?.push(bytes) { Ok(()) } else { Err("its queue is full".to_owned()) }
                })
            {
                log::debug!("a message to member {to} is dropped: {error}");
                (self.lost)(to);
            }
        }
    }

    fn peer(&self, to: u64) -> Result<Arc<Peer>, String> {
        let mut peers = lock(&self.peers);
        if let Some(peer) = peers.get(&to) {
            return Ok(peer.clone());
        }
        let peer = Arc::new(Peer::default());
        let carrier = Carrier {
            peer: peer.clone(),
            to,
            own: self.own.clone(),
            wire: self.wire.clone(),
            progress: self.progress.clone(),
            lost: self.lost.clone(),
        };
        std::thread::Builder::new()
            .name(format!("to-{to}"))
            .spawn(move || carrier.work())
            .map_err(|error| error.to_string())?;
        peers.insert(to, peer.clone());
        Ok(peer)
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        for peer in lock(&self.peers).values() {
            lock(&peer.queue).closed = true;
            peer.filled.notify_all();
        }
    }
}

impl Peer {
    /// False if the queue is full.
    fn push(&self, message: Vec<u8>) -> bool {
        let mut queue = lock(&self.queue);
        if queue.bytes > 0 && queue.bytes + message.len() > QUEUE_BYTES {
            return false;
        }
        queue.bytes += message.len();
        queue.messages.push(message);
        self.filled.notify_one();
        true
    }

    /// Waits for messages and takes a parcel full of them; none once it is closed.
    fn take(&self) -> Option<Vec<Vec<u8>>> {
        let mut queue = lock(&self.queue);
        while queue.messages.is_empty() {
            if queue.closed {
                return None;
            }
            queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        let mut bytes = 0;
        let fits = queue.messages.iter().take_while(|message| {
            let first = bytes == 0;
            bytes += message.len();
            first || bytes <= PARCEL_BYTES
        });
        let count = fits.count();
        let taken: Vec<Vec<u8>> = queue.messages.drain(..count).collect();
        queue.bytes -= taken.iter().map(Vec::len).sum::<usize>();
        Some(taken)
    }

    /// Throws away what waits, and waits itself; true if it was closed meanwhile.
    fn pause(&self, pause: Duration) -> bool {
        let mut queue = lock(&self.queue);
        queue.messages.clear();
        queue.bytes = 0;
        let waited = self.filled.wait_timeout_while(queue, pause, |queue| !queue.closed);
        waited.map_or(true, |(queue, _)| queue.closed)
    }
}

struct Carrier {
    peer: Arc<Peer>,
    to: u64,
    own: Sender,
    wire: Arc<dyn Wire>,
    progress: Arc<Told>,
    lost: Arc<dyn Fn(u64) + Send + Sync>,
}

impl Carrier {
    fn work(&self) {
        let mut pause = FIRST_PAUSE;
        let mut said: Option<Kind> = None;
        while let Some(messages) = self.peer.take() {
            let progress = Progress {
                commit: self.progress.commit.load(Ordering::Relaxed),
                complete: self.progress.complete.load(Ordering::Relaxed),
            };
            let parcel = parcel::encode(&self.own, self.to, progress, &messages);
            match self.wire.deliver(self.to, &parcel) {
                Ok(()) => {
                    if said.take().is_some() {
                        log::info!("member {} answers again", index_of(self.to).unwrap_or_default());
                    }
                    pause = FIRST_PAUSE;
                }
                Err(error) => {
                    self.complain(&error, &mut said);
                    (self.lost)(self.to);
                    if self.peer.pause(pause) {
                        return;
                    }
                    pause = (2 * pause).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Once for each kind of trouble, not once for each parcel.
    fn complain(&self, error: &Error, said: &mut Option<Kind>) {
        if said.replace(error.kind()) != Some(error.kind()) {
            log::warn!("member {}: {error}", index_of(self.to).unwrap_or_default());
        }
    }
}

#[cfg(test)]
#[path = "transport_tests.rs"]
mod tests;
