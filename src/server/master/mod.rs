//! The master's own part: workers and masters register, workers send heartbeats, and `/master` shows both together.
//!
//! Registrations are commands of the directory and survive everything ([`requests`]). Heartbeats go to every master and
//! live in memory, one per registered worker, so that whoever leads knows who is alive. A thread ([`watch`]) follows
//! the directory as it is applied, tells the others where this master is, and declares who is dead. [`start`] founds a
//! cluster or joins one. While a master is closed its last directory still answers heartbeats and routes requests.

pub(crate) mod orders;
pub(crate) mod recover;
pub(crate) mod requests;
pub(crate) mod start;
mod watch;

use super::address;
use super::facts::SOFTWARE;
use super::node::{Mode, Node};
use super::peers::HttpWire;
use super::site::Site;
use crate::cluster::directory::{Directory, Heard, LEFT, MasterEntry, WorkerEntry};
use crate::cluster::membership::raft_id;
use crate::cluster::placement::Waits;
use crate::cluster::planning::{self, GroupFacts};
use crate::cluster::status::promotion_loses;
use crate::cluster::view::{
    ClusterView, GroupStatus, MasterStatus, MasterStatusEntry, RegisterRequest, WorkerFacts, WorkerStatus,
    counts_on,
};
use crate::error::{Error, Kind, Result};
use crate::replica::handle::{DirectoryHandle, Numbers};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// A worker is alive if its last heartbeat is not older than this.
const ALIVE: Duration = Duration::from_secs(3);
/// A master that has listened for so long has heard of everybody who is there.
const LISTEN: Duration = Duration::from_secs(5);

/// What a master is beside its site.
pub(crate) struct Master {
    /// Its mode and its replica.
    pub(crate) node: Node<DirectoryHandle>,
    /// How it reaches the other masters.
    pub(crate) wire: Arc<HttpWire>,
    directory: RwLock<Arc<Directory>>,
    beats: Mutex<BTreeMap<u32, Beat>>,
    /// Since when heartbeats are taken.
    listening: Mutex<Instant>,
    /// This master's index, once it is known.
    index: std::sync::OnceLock<u32>,
}

/// The last that was heard of a worker.
struct Beat {
    run: u64,
    seen: Instant,
    facts: Option<WorkerFacts>,
}

impl Master {
    /// A master that has not started.
    pub(crate) fn new(node: Node<DirectoryHandle>, wire: Arc<HttpWire>) -> Master {
        Master {
            node,
            wire,
            directory: RwLock::default(),
            beats: Mutex::default(),
            listening: Mutex::new(Instant::now()),
            index: std::sync::OnceLock::new(),
        }
    }

    /// Takes over the directory as it was last applied here, the routes, and where the other masters are.
    pub(crate) fn refresh(&self, site: &Site) {
        let Mode::Open(replica) = &*self.node.mode() else { return };
        let Ok(directory) = replica.directory_here() else { return };
        if directory.epoch == 0 {
            // A master that joins holds nothing yet.
            return;
        }
        let before = self.directory();
        if Arc::ptr_eq(&before, &directory) {
            return;
        }
        if before.epoch != directory.epoch {
            self.reach(directory.master_nodes.iter().map(|(index, master)| (*index, master.address.clone())));
            site.learn(directory.view());
        }
        *self.directory.write().unwrap_or_else(PoisonError::into_inner) = directory;
    }

    /// Learns where the other masters are.
    fn reach(&self, masters: impl Iterator<Item = (u32, String)>) {
        if let Some(own) = self.index.get() {
            self.wire.set(raft_id(*own), masters.map(|(index, address)| (raft_id(index), address)).collect());
        }
    }

    /// The directory as last applied; while the master is closed, as it was then.
    fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.directory.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn beats(&self) -> MutexGuard<'_, BTreeMap<u32, Beat>> {
        self.beats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alive(&self) -> Vec<u32> {
        let beats = self.beats();
        beats.iter().filter(|(_, beat)| beat.seen.elapsed() <= ALIVE).map(|(index, _)| *index).collect()
    }

    /// From now on whoever is alive has to say so again.
    pub(crate) fn listen_anew(&self) {
        *self.listening.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Refuses to decide who is lost before everybody had the time to say a word. Errors: `NoMajority`.
    fn check_listened(&self) -> Result<()> {
        let since = self.listening.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        if since >= LISTEN {
            return Ok(());
        }
        let detail = "this master has just started and does not know yet who is alive";
        let seconds = (LISTEN - since).as_secs() + 1;
        Err(Error::new(Kind::NoMajority, detail).hint(format!("ask again in {seconds} seconds")))
    }

    /// What was heard of `group`.
    fn heard(&self, group: u32) -> Heard {
        let beats = self.beats();
        let facts =
            beats.values().filter_map(|beat| Some((beat.facts.as_ref()?, beat.seen.elapsed() <= ALIVE)));
        self.directory().heard(group, facts)
    }

    /// What was heard of every group.
    fn hear(&self) -> BTreeMap<u32, GroupFacts> {
        let beats = self.beats();
        let facts =
            beats.values().filter_map(|beat| Some((beat.facts.as_ref()?, beat.seen.elapsed() <= ALIVE)));
        planning::hear(&self.directory(), facts)
    }

    /// Whether `group` still counts on worker `index`, which says `own` of itself; none if nobody tells.
    fn counts_on(&self, index: u32, group: u32, own: Option<&WorkerFacts>) -> Option<bool> {
        let directory = self.directory();
        // A group that was dissolved has nobody who could let go of anybody.
        if directory.members(group).next().is_none() {
            return Some(false);
        }
        let beats = self.beats();
        let alive = beats.values().filter(|beat| beat.seen.elapsed() <= ALIVE);
        let facts = alive.filter_map(|beat| beat.facts.as_ref()).chain(own);
        counts_on(index, group, directory.group(group).incarnation, facts)
    }

    /// Whether worker `index`, which was removed and says `own` of itself, is to stay for a while. Where nobody tells it is,
    /// as long as it is of this life of its group.
    fn holds_back(&self, index: u32, group: u32, own: &WorkerFacts) -> bool {
        let incarnation = self.directory().group(group).incarnation;
        self.counts_on(index, group, Some(own)).unwrap_or_else(|| own.belongs(group, incarnation))
    }

    /// Errors: `NoMajority` if who asks was drained and its group may count on it still: then it serves without being
    /// registered, until the answer to a heartbeat lets it go. `Conflict` if nobody would find it where it is now.
    fn check_leaver(&self, request: &RegisterRequest) -> Result<()> {
        let directory = self.directory();
        let is_leaver = |entry: &WorkerEntry| {
            entry.uuid == request.uuid
                && !request.uuid.is_empty()
                && entry.removed.as_deref() == Some(LEFT)
                && request.starts > entry.starts
        };
        let Some((index, entry)) = directory.workers.iter().find(|(_, entry)| is_leaver(entry)) else {
            return Ok(());
        };
        if self.counts_on(*index, entry.group, None) == Some(false) {
            return Ok(());
        }
        let detail = format!("worker {index} leaves group {}, which may count on it still", entry.group);
        if entry.address == request.address {
            return Err(Error::new(Kind::NoMajority, detail));
        }
        let hint = format!("start it at {} again, where the others look for it", entry.address);
        Err(Error::new(Kind::Conflict, detail).hint(hint))
    }

    /// The routes, with who leads and votes as far as heartbeats tell.
    pub(crate) fn view(&self) -> ClusterView {
        let mut view = self.directory().view();
        let beats = self.beats();
        let facts: Vec<&WorkerFacts> = beats
            .values()
            .filter(|beat| beat.seen.elapsed() <= ALIVE)
            .filter_map(|beat| beat.facts.as_ref())
            .collect();
        view.overlay(&facts);
        view
    }

    /// Notes that a worker was heard of; what it said before stays until it says more.
    fn note(&self, index: u32, run: u64, facts: Option<WorkerFacts>) {
        let mut beats = self.beats();
        let before = beats.remove(&index).and_then(|beat| beat.facts);
        beats.insert(index, Beat { run, seen: Instant::now(), facts: facts.or(before) });
    }

    /// What may be missing from the copy of worker `index`, by what was last heard of the others.
    fn promotion_loses(&self, index: u32, group: u32) -> String {
        let directory = self.directory();
        let beats = self.beats();
        let members: Vec<WorkerStatus> = directory
            .members(group)
            .filter_map(|member| Some((member, directory.workers.get(&member)?)))
            .map(|(member, entry)| worker_status(member, entry, beats.get(&member), &[]))
            .collect();
        promotion_loses(index, &members)
    }

    /// What is known of the master `index`; `own` are the numbers of this one.
    fn master_entry(&self, index: u32, entry: &MasterEntry, own: &Numbers) -> MasterStatusEntry {
        let leader = own.leader == Some(index);
        let known = leader || self.index.get() == Some(&index);
        // Only the leader hears of all others.
        let alive =
            if known || own.role == "leader" { Some(known || own.active.contains(&index)) } else { None };
        MasterStatusEntry {
            index,
            address: entry.address.clone(),
            data: entry.data.clone(),
            leader,
            alive,
            dead: entry.dead,
            restart: (alive != Some(true)).then(|| self.restart_master(index, entry)),
        }
    }

    /// The command that starts the master `index` again. It names the others: on a folder that is there that changes
    /// nothing, and without it an empty one would become a cluster of its own.
    fn restart_master(&self, index: u32, entry: &MasterEntry) -> String {
        let directory = self.directory();
        let others = directory.master_nodes.iter();
        let others: Vec<&str> = others
            .filter(|(other, master)| **other != index && master.removed.is_none())
            .map(|(_, master)| master.address.as_str())
            .collect();
        let join = match others.is_empty() {
            true => String::new(),
            false => format!(" --join {}", address::quote(&others.join(","))),
        };
        command("master", &entry.address, &join, &entry.data)
    }

    /// The answer of `/master`.
    pub(crate) fn status(&self, site: &Site) -> MasterStatus {
        let directory = self.directory();
        let numbers = self.node.numbers().unwrap_or_default();
        let heard = self.hear();
        let placement = planning::placement(&directory, &heard);
        let beats = self.beats();
        let workers: Vec<WorkerStatus> = directory
            .workers
            .iter()
            .map(|(index, entry)| worker_status(*index, entry, beats.get(index), &directory.masters))
            .collect();
        let masters = directory.master_nodes.iter().filter(|(_, master)| master.removed.is_none());
        MasterStatus {
            cluster: directory.cluster.clone(),
            epoch: directory.epoch,
            state: site.mode_word().to_owned(),
            address: site.address().to_owned(),
            data: site.place.get().map(|place| place.data.display().to_string()).unwrap_or_default(),
            software: SOFTWARE.to_owned(),
            groups: groups(&directory, &workers, &placement.waits),
            moves: planning::under_way(&directory, &heard),
            workers,
            slots: directory.slots.clone(),
            index: self.index.get().copied(),
            role: numbers.role.to_owned(),
            masters: masters.map(|(index, entry)| self.master_entry(*index, entry, &numbers)).collect(),
            leader: numbers.leader,
            voters: numbers.voters,
            outgoing: numbers.outgoing,
        }
    }
}

fn worker_status(index: u32, entry: &WorkerEntry, beat: Option<&Beat>, masters: &[String]) -> WorkerStatus {
    let beat = beat.filter(|beat| beat.run == entry.run);
    let alive = beat.is_some_and(|beat| beat.seen.elapsed() <= ALIVE);
    WorkerStatus {
        index,
        group: entry.group,
        uuid: entry.uuid.clone(),
        address: entry.address.clone(),
        data: entry.data.clone(),
        alive,
        seen_ms: beat.map(|beat| u64::try_from(beat.seen.elapsed().as_millis()).unwrap_or(u64::MAX)),
        facts: beat.and_then(|beat| beat.facts.clone()),
        restart: (!alive && entry.removed.is_none()).then(|| restart(entry, masters)),
        dead: entry.dead,
        removed: entry.removed.clone(),
    }
}

/// The command that starts a worker again on its machine.
fn restart(entry: &WorkerEntry, masters: &[String]) -> String {
    let masters = format!(" --master {}", address::quote(&masters.join(",")));
    command("worker", &entry.address, &masters, &entry.data)
}

/// The command that starts a node again on its machine.
fn command(role: &str, place: &str, options: &str, data: &str) -> String {
    let (host, port) = address::split(place);
    let port = port.map_or_else(|| "PORT".to_owned(), |port| port.to_string());
    let mut command = format!("catstore {role} {port}{options} --data {}", address::quote(data));
    if !address::is_loopback(host) {
        command.push_str(&format!(" --host {} --token-file FILE", address::quote(host)));
    }
    command
}

/// The groups that have members; those that `wait` say what for.
fn groups(directory: &Directory, workers: &[WorkerStatus], waits: &[Waits]) -> Vec<GroupStatus> {
    let view = directory.view();
    let there = view.groups.iter().filter(|group| !group.members.is_empty());
    let status = there.map(|group| {
        let waits = waits.iter().find(|waits| waits.group == group.group);
        GroupStatus {
            waits_for: waits.map(Waits::to_string),
            moving: directory.move_of(group.group).map(|order| order.id),
            ..GroupStatus::of(group, directory.slots.count(group.group), workers)
        }
    });
    status.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(address: &str, data: &str) -> WorkerEntry {
        WorkerEntry {
            uuid: "u".into(),
            group: 0,
            address: address.into(),
            data: data.into(),
            starts: 1,
            run: 5,
            removed: None,
            dead: false,
        }
    }

    #[test]
    fn a_worker_that_is_down_comes_with_its_command() {
        let entry = entry("127.0.0.1:3001", "/my data");
        let masters = ["127.0.0.1:3000".to_owned(), "127.0.0.1:3010".to_owned()];
        let status = worker_status(0, &entry, None, &masters);
        assert!(!status.alive && status.seen_ms.is_none());
        assert_eq!(
            status.restart.as_deref(),
            Some("catstore worker 3001 --master 127.0.0.1:3000,127.0.0.1:3010 --data '/my data'")
        );
        let beat = Beat { run: 5, seen: Instant::now(), facts: Some(WorkerFacts::default()) };
        let status = worker_status(0, &entry, Some(&beat), &masters);
        assert!(status.alive && status.restart.is_none() && status.facts.is_some());
        let other_run = Beat { run: 6, seen: Instant::now(), facts: None };
        assert!(!worker_status(0, &entry, Some(&other_run), &masters).alive);
    }

    #[test]
    fn groups_are_those_of_the_directory() {
        let mut directory =
            Directory { slots: crate::cluster::slots::SlotTable::whole(0), ..Directory::default() };
        directory.workers.insert(0, entry("a:1", "/a"));
        directory.workers.insert(1, WorkerEntry { group: 1, ..entry("b:1", "/b") });
        let workers: Vec<WorkerStatus> =
            directory.workers.iter().map(|(index, entry)| worker_status(*index, entry, None, &[])).collect();
        let waits = [Waits { group: 1, voters: 3, members: 2 }];
        let groups = groups(&directory, &workers, &waits);
        assert_eq!((groups[0].waits_for.as_deref(), groups[1].waits_for.is_some()), (None, true));
        assert_eq!((groups[0].group, groups[0].slots, groups[1].slots), (0, 16384, 0));
    }
}
