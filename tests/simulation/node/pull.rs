//! Pulling a snapshot, chunk by chunk, and serving one.

use super::{Job, Node, Subject};
use crate::bug::Bug;
use crate::event::{Event, Place, Pulling};
use crate::system::{MS, System};
use catstore::replica::copies::Fetch;
use catstore::replica::snapshot;
use catstore::store::doubles::MemoryBuilding;
use catstore::store::keys;
use catstore::store::state::Building;

/// A leader that does not answer is asked for a chunk again for so long, in milliseconds.
const PATIENCE_MS: u64 = 10_000;

/// A pull under way.
pub(super) struct Pull {
    pub(super) id: u64,
    pub(super) from: u64,
    building: MemoryBuilding,
    after: Vec<u8>,
    /// Chunks that arrived.
    pub(super) number: u64,
    /// When the chunk that is missing was asked for first.
    asked: Option<u64>,
}

impl Pull {
    /// The member at `place` begins to pull.
    pub(super) fn begin(sys: &mut System, place: Place, life: u64, fetch: Fetch<MemoryBuilding>) -> Pull {
        let Fetch { from, name, building } = fetch;
        sys.after(MS, Event::Ask(place, life, Pulling { id: name.id, number: 0 }));
        Pull { id: name.id, from, building, after: Vec::new(), number: 0, asked: None }
    }
}

impl<M: Subject> Node<M> {
    /// From whom it pulls a snapshot, if it does.
    pub fn pulls_from(&self) -> Option<u64> {
        self.up.as_ref()?.pull.as_ref().map(|pull| pull.from)
    }

    /// Asks for the next chunk of the snapshot that it pulls.
    pub fn ask(&mut self, sys: &mut System, pulling: Pulling) {
        let (place, life, now) = (self.place(), self.life, self.clock.ms(sys.now));
        if self.paused_until > sys.now {
            sys.at(self.paused_until, Event::Ask(place, life, pulling));
            return;
        }
        let Some(up) = &mut self.up else { return };
        let Some(pull) =
            up.pull.as_mut().filter(|pull| pull.id == pulling.id && pull.number == pulling.number)
        else {
            return;
        };
        let first = *pull.asked.get_or_insert(now);
        if now.saturating_sub(first) > PATIENCE_MS {
            up.pull = None;
            self.job(sys, Job::Fetched(pulling.id, None));
            return;
        }
        let source = M::place(pull.from);
        let after = pull.after.clone();
        for delay in sys.send(place, source) {
            sys.after(delay, Event::Serve(source, place, life, pulling, after.clone()));
        }
        sys.after(400 * MS, Event::Ask(place, life, pulling));
    }

    /// Is asked for a chunk.
    pub fn serve(
        &mut self,
        sys: &mut System,
        to: Place,
        life: u64,
        pulling: Pulling,
        after: &[u8],
    ) -> Result<(), String> {
        let place = self.place();
        if self.up.is_none() || self.dying || self.paused_until > sys.now {
            return Ok(());
        }
        let (Place::Master(peer) | Place::Worker(peer) | Place::Client(peer)) = to;
        self.job(sys, Job::Used(pulling.id, peer));
        let bytes = sys.between(100, 3000) as usize;
        let Some(up) = &mut self.up else { return Ok(()) };
        let chunk = match up.held.get(&pulling.id) {
            Some(held) => {
                let chunk = snapshot::encode(held, after, bytes);
                Some(chunk.map_err(|error| format!("{place:?} cannot read a snapshot: {error}"))?.bytes)
            }
            None => None,
        };
        for delay in sys.send(place, to) {
            let mut chunk = chunk.clone();
            if let Some(bytes) = chunk.as_mut().filter(|_| sys.faults && sys.one_in(50)) {
                sys.count("chunk damaged on its way");
                let position = sys.random.up_to(bytes.len() - 1);
                bytes[position] ^= 1;
            }
            sys.after(delay + 100, Event::Chunk(to, life, pulling, chunk));
        }
        Ok(())
    }

    /// A chunk arrives.
    pub fn chunk(&mut self, sys: &mut System, pulling: Pulling, chunk: Option<Vec<u8>>) {
        let (place, life) = (self.place(), self.life);
        if self.paused_until > sys.now {
            sys.at(self.paused_until, Event::Chunk(place, life, pulling, chunk));
            return;
        }
        let Some(up) = self.up.as_mut().filter(|_| !self.dying) else { return };
        let Some(pull) =
            up.pull.as_mut().filter(|pull| pull.id == pulling.id && pull.number == pulling.number)
        else {
            return;
        };
        let Some(chunk) = chunk else {
            sys.count("snapshot no longer held");
            up.pull = None;
            self.job(sys, Job::Fetched(pulling.id, None));
            return;
        };
        // A damaged one is asked for again when patience ends.
        let Ok(mut chunk) = snapshot::decode(&chunk) else { return };
        if sys.bug == Bug::RequestsLost {
            for (from, to) in keys::carried_over() {
                chunk.rows.changes.retain(|(row, _)| row < &from || row >= &to);
            }
        }
        if pull.building.write(&chunk.rows).is_err() {
            up.pull = None;
            self.disk_failed(sys, 0);
            return;
        }
        pull.number += 1;
        pull.asked = None;
        let next = Pulling { id: pull.id, number: pull.number };
        pull.after = chunk.end.unwrap_or_default();
        let pause = if sys.one_in(10) { sys.between(MS, 400 * MS) } else { sys.between(100, 5 * MS) };
        let event = if chunk.last { Event::Pulled(place, life, next) } else { Event::Ask(place, life, next) };
        sys.after(pause, event);
    }

    /// All rows are there: they are made durable.
    pub fn pulled(&mut self, sys: &mut System, pulling: Pulling) {
        if self.paused_until > sys.now {
            sys.at(self.paused_until, Event::Pulled(self.place(), self.life, pulling));
            return;
        }
        let Some(up) = self.up.as_mut().filter(|_| !self.dying) else { return };
        let Some(mut pull) = up.pull.take_if(|pull| pull.id == pulling.id && pull.number == pulling.number)
        else {
            return;
        };
        if pull.building.finish().is_err() {
            self.disk_failed(sys, 0);
            return;
        }
        self.job(sys, Job::Fetched(pull.id, Some(pull.building)));
    }
}
