//! Virtual time, the order of events, chance, the network, and what is counted.

use crate::bug::Bug;
use crate::ether::Ether;
use crate::event::{Event, Place};
use crate::vault::Vault;
use catstore::cluster::moves::SlotSet;
use catstore::store::doubles::Random;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

/// A millisecond, in the unit of virtual time.
pub const MS: u64 = 1000;
/// A second, in the unit of virtual time.
pub const SECOND: u64 = 1000 * MS;

/// What happened in all seeds of a run, by name.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Totals(pub BTreeMap<&'static str, u64>);

impl Totals {
    /// Adds what happened in another run.
    pub fn add(&mut self, other: &Totals) {
        for (name, count) in &other.0 {
            *self.0.entry(name).or_default() += count;
        }
    }

    /// How often that happened.
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }
}

/// An event and when it happens; the order of equal times is that in which they were planned.
struct Planned {
    at: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Planned {
    fn eq(&self, other: &Planned) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}
impl Eq for Planned {}
impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Planned) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Planned {
    fn cmp(&self, other: &Planned) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// Everything that members and clients share.
pub struct System {
    /// Virtual time, microseconds.
    pub now: u64,
    /// Chance.
    pub random: Random,
    /// The network.
    pub net: Net,
    /// What happened.
    pub totals: Totals,
    /// The bug that is planted.
    pub bug: Bug,
    /// A hash of everything that happened, in order.
    pub trace: u64,
    /// How many events happened.
    pub events: u64,
    /// True while faults go on.
    pub faults: bool,
    /// The highest version that each group acknowledged, or that was read there.
    acknowledged: BTreeMap<u32, u64>,
    /// Slots that are on their way from each group, as its members were told last.
    pub moving: BTreeMap<u32, SlotSet>,
    /// True if some values have a time to live.
    pub ttl: bool,
    /// Members lose power with such a chance (one in so many) after they voted; 0 never.
    pub power_after_vote: u64,
    /// So many of its own entries may wait for a majority before a leader proposes another one: 1 in production; 2 in
    /// one seed of four, where more overtakes more.
    pub in_flight: usize,
    /// What keepers of chunks reach each other by.
    pub ether: Arc<Ether>,
    /// What was promised of chunks.
    pub vault: Vault,
    /// True if values may have several chunks, and are then said to be so large that copies of moves are not slowed down.
    pub long_values: bool,
    queue: BinaryHeap<Reverse<Planned>>,
    planned: u64,
}

impl System {
    /// A new one.
    pub fn new(seed: u64, bug: Bug) -> System {
        System {
            now: 0,
            random: Random::new(seed),
            net: Net::default(),
            totals: Totals::default(),
            bug,
            trace: seed,
            events: 0,
            faults: true,
            acknowledged: BTreeMap::new(),
            moving: BTreeMap::new(),
            ttl: true,
            power_after_vote: 0,
            in_flight: 1,
            ether: Ether::new(bug),
            vault: Vault::default(),
            long_values: true,
            queue: BinaryHeap::new(),
            planned: 0,
        }
    }

    /// Plans `event` in `delay` microseconds.
    pub fn after(&mut self, delay: u64, event: Event) {
        self.at(self.now + delay, event);
    }

    /// Plans `event`.
    pub fn at(&mut self, at: u64, event: Event) {
        self.planned += 1;
        self.queue.push(Reverse(Planned { at: at.max(self.now), number: self.planned, event }));
    }

    /// The next event; time goes on to it.
    pub fn next(&mut self) -> Option<Event> {
        let Reverse(planned) = self.queue.pop()?;
        self.now = planned.at;
        self.events += 1;
        self.mix(planned.at ^ planned.number.rotate_left(32));
        Some(planned.event)
    }

    /// Takes a number into the trace.
    pub fn mix(&mut self, number: u64) {
        self.trace = (self.trace.rotate_left(5) ^ number).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    /// Counts something.
    pub fn count(&mut self, what: &'static str) {
        *self.totals.0.entry(what).or_default() += 1;
    }

    /// The highest version that `group` acknowledged, or that was read there.
    pub fn acknowledged(&self, group: u32) -> u64 {
        self.acknowledged.get(&group).copied().unwrap_or(0)
    }

    /// `group` acknowledged this version, or it was read there.
    pub fn acknowledge(&mut self, group: u32, version: u64) {
        let highest = self.acknowledged.entry(group).or_default();
        *highest = version.max(*highest);
    }

    /// A number from `low` to `high` inclusive.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.random.draw() % (high - low + 1)
    }

    /// True once in `times`; never if that is 0.
    pub fn one_in(&mut self, times: u64) -> bool {
        times > 0 && self.random.draw().is_multiple_of(times)
    }

    /// Sends something from one place to another: how long each copy of it takes; none if it is lost.
    pub fn send(&mut self, from: Place, to: Place) -> Vec<u64> {
        if self.net.is_cut(from, to, self.now) {
            self.count("message cut off");
            return Vec::new();
        }
        if self.random.draw() % 1000 < self.net.lose {
            self.count("message lost");
            return Vec::new();
        }
        let mut delays = vec![self.delay()];
        if self.random.draw() % 1000 < self.net.repeat {
            self.count("message repeated");
            let late = self.delay() + self.between(0, 50 * MS);
            delays.push(late);
        }
        delays
    }

    fn delay(&mut self) -> u64 {
        let mut delay = self.between(100, 600);
        if self.random.draw() % 1000 < self.net.slow {
            self.count("message delayed");
            let longest = self.net.longest;
            delay += self.between(MS, longest);
        }
        delay
    }
}

/// What the network does to messages.
#[derive(Debug)]
pub struct Net {
    /// Cut links, one way each, and until when.
    cuts: BTreeMap<(Place, Place), u64>,
    /// Workers between which and every master nothing passes.
    unheard: BTreeSet<Place>,
    /// So many of a thousand messages are lost.
    pub lose: u64,
    /// So many arrive twice.
    pub repeat: u64,
    /// So many are late,
    pub slow: u64,
    /// by up to this, microseconds.
    pub longest: u64,
}

impl Default for Net {
    fn default() -> Self {
        Net {
            cuts: BTreeMap::new(),
            unheard: BTreeSet::new(),
            lose: 0,
            repeat: 0,
            slow: 0,
            longest: 300 * MS,
        }
    }
}

impl Net {
    /// Cuts the way from one place to another.
    pub fn cut(&mut self, from: Place, to: Place, until: u64) {
        let end = self.cuts.entry((from, to)).or_default();
        *end = until.max(*end);
    }

    /// Ends [`Net::cut`].
    pub fn mend(&mut self, from: Place, to: Place) {
        self.cuts.remove(&(from, to));
    }

    /// Nothing passes between this worker and any master until [`Net::hear`].
    pub fn silence(&mut self, worker: Place) {
        self.unheard.insert(worker);
    }

    /// Ends [`Net::silence`].
    pub fn hear(&mut self, worker: Place) {
        self.unheard.remove(&worker);
    }

    /// Everything is as it should be, but who was silenced is waited for: the operator has given it up.
    pub fn heal(&mut self) {
        *self = Net { unheard: std::mem::take(&mut self.unheard), ..Net::default() };
    }

    /// True if nothing passes from one place to another.
    pub fn is_cut(&self, from: Place, to: Place, now: u64) -> bool {
        let to_master =
            |from: Place, to: Place| matches!(to, Place::Master(_)) && self.unheard.contains(&from);
        to_master(from, to)
            || to_master(to, from)
            || self.cuts.get(&(from, to)).is_some_and(|until| *until > now)
    }
}
