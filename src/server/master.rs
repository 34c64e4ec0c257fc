//! The master's own part: workers register, send heartbeats, and `/master` shows both together.
//!
//! Registrations are commands of the directory and survive everything. Heartbeats live in memory, one per
//! registered worker. While the master is closed its last directory still answers heartbeats and routes requests.

use super::address;
use super::body;
use super::door::{Asked, Door};
use super::facts::SOFTWARE;
use super::node::{Mode, Node};
use super::respond;
use super::site::Site;
use crate::cluster::directory::{Directory, DirectoryCommand, DirectoryReply, WorkerEntry};
use crate::cluster::view::{
    GroupStatus, HeartbeatReply, HeartbeatRequest, MasterStatus, RegisterReply, RegisterRequest, WorkerFacts,
    WorkerStatus,
};
use crate::error::{Error, Kind, Result};
use crate::replica::handle::DirectoryHandle;
use actix_web::HttpResponse;
use actix_web::dev::Payload;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// A worker is alive if its last heartbeat is not older than this.
const ALIVE: Duration = Duration::from_secs(3);
/// The longest body that one node sends another.
const BODY: usize = 1 << 20;

/// What a master is beside its site.
pub(crate) struct Master {
    /// Its mode and its replica.
    pub(crate) node: Node<DirectoryHandle>,
    directory: RwLock<Arc<Directory>>,
    beats: Mutex<BTreeMap<u32, Beat>>,
}

/// The last that was heard of a worker.
struct Beat {
    run: u64,
    seen: Instant,
    facts: Option<WorkerFacts>,
}

impl Master {
    /// A master that has not started.
    pub(crate) fn new(node: Node<DirectoryHandle>) -> Master {
        Master { node, directory: RwLock::default(), beats: Mutex::default() }
    }

    /// Takes over the directory as it was last applied, and the routes with it.
    pub(crate) fn refresh(&self, site: &Site) {
        let Mode::Open(replica) = &*self.node.mode() else { return };
        if let Ok(directory) = replica.directory() {
            site.learn(directory.view());
            *self.directory.write().unwrap_or_else(PoisonError::into_inner) = directory;
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

    /// Notes that a worker was heard of; what it said before stays until it says more.
    fn note(&self, index: u32, run: u64, facts: Option<WorkerFacts>) {
        let mut beats = self.beats();
        let before = beats.remove(&index).and_then(|beat| beat.facts);
        beats.insert(index, Beat { run, seen: Instant::now(), facts: facts.or(before) });
    }

    /// The answer of `/master`.
    pub(crate) fn status(&self, site: &Site) -> MasterStatus {
        let directory = self.directory();
        let beats = self.beats();
        let workers: Vec<WorkerStatus> = directory
            .workers
            .iter()
            .map(|(index, entry)| worker_status(*index, entry, beats.get(index), site.address()))
            .collect();
        MasterStatus {
            cluster: directory.cluster.clone(),
            epoch: directory.epoch,
            state: site.mode_word().to_owned(),
            address: site.address().to_owned(),
            data: site.place.get().map(|place| place.data.display().to_string()).unwrap_or_default(),
            software: SOFTWARE.to_owned(),
            groups: groups(&directory, &workers),
            workers,
            slots: directory.slots.clone(),
        }
    }
}

/// `POST /internal/register`.
pub(crate) async fn register(door: &Door, asked: &Asked<'_>, payload: &mut Payload) -> Result<HttpResponse> {
    let (site, master) = (&door.site, this_master(&door.site)?);
    let request: RegisterRequest = document(door, asked, payload).await?;
    let replica = site.with_open(&master.node.mode(), |replica| Ok(replica.clone()))?;
    let (run, address) = (request.run, request.address.clone());
    let command = DirectoryCommand::Register { request, alive: master.alive() };
    match replica.submit(command, asked.deadline()?).await? {
        DirectoryReply::Registered { index, group, note, slots } => {
            master.refresh(site);
            master.note(index, run, None);
            log::info!("worker {index} of group {group} registered from {address}");
            let view = master.directory().view();
            Ok(respond::json(&RegisterReply { index, group, note, slots, view }, false))
        }
        DirectoryReply::Refused { detail, hint } => {
            log::warn!("a worker at {address} was refused: {detail}");
            let error = Error::new(Kind::Conflict, detail);
            Err(match hint {
                Some(hint) => error.hint(hint),
                None => error,
            })
        }
        DirectoryReply::Done => Err(Error::new(Kind::UnknownOutcome, "the directory's reply does not fit")),
    }
}

/// `POST /internal/heartbeat`.
pub(crate) async fn heartbeat(door: &Door, asked: &Asked<'_>, payload: &mut Payload) -> Result<HttpResponse> {
    let master = this_master(&door.site)?;
    let request: HeartbeatRequest = document(door, asked, payload).await?;
    let directory = master.directory();
    if request.facts.cluster != directory.cluster {
        return Err(Error::new(
            Kind::Conflict,
            format!("this master serves the cluster {}, not {}", directory.cluster, request.facts.cluster),
        ));
    }
    let index = request.facts.index;
    let known = directory.workers.get(&index);
    let register = !known.is_some_and(|entry| entry.run == request.run && entry.uuid == request.facts.uuid);
    if !register {
        master.note(index, request.run, Some(request.facts));
    }
    let view = (request.epoch < directory.epoch).then(|| directory.view());
    Ok(respond::json(&HeartbeatReply { register, view }, false))
}

fn this_master(site: &Site) -> Result<&Master> {
    match &site.member {
        super::site::Member::Master(master) => Ok(master),
        super::site::Member::Worker(_) => {
            let masters = site.view().masters.join(", ");
            Err(Error::new(Kind::NotFound, "this is a worker; only masters register workers")
                .hint(format!("give --master one of: {masters}")))
        }
    }
}

async fn document<T: serde::de::DeserializeOwned>(
    door: &Door,
    asked: &Asked<'_>,
    payload: &mut Payload,
) -> Result<T> {
    let body = body::read(&door.site, asked.request, payload, BODY, Kind::TooLarge).await?;
    serde_json::from_slice(&body.bytes).map_err(|error| {
        Error::new(Kind::BadRequest, format!("the body is not what nodes send here: {error}"))
    })
}

fn worker_status(index: u32, entry: &WorkerEntry, beat: Option<&Beat>, master: &str) -> WorkerStatus {
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
        restart: (!alive).then(|| restart(entry, master)),
    }
}

/// The command that starts a worker again on its machine.
fn restart(entry: &WorkerEntry, master: &str) -> String {
    let (host, port) = address::split(&entry.address);
    let port = port.map_or_else(|| "PORT".to_owned(), |port| port.to_string());
    let mut command = format!(
        "catstore worker {port} --master {} --data {}",
        address::quote(master),
        address::quote(&entry.data)
    );
    if !address::is_loopback(host) {
        command.push_str(&format!(" --host {} --token-file FILE", address::quote(host)));
    }
    command
}

fn groups(directory: &Directory, workers: &[WorkerStatus]) -> Vec<GroupStatus> {
    let mut members: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for worker in workers {
        members.entry(worker.group).or_default().push(worker.index);
    }
    members
        .into_iter()
        .map(|(group, members)| {
            let leader =
                workers.iter().find(|worker| worker.index == group).and_then(|worker| worker.facts.as_ref());
            let slots = directory.slots.count(group);
            GroupStatus {
                group,
                slots,
                keys: leader.map(|facts| facts.keys),
                bytes: leader.map(|facts| facts.bytes),
                may_lose: may_lose(&members, slots),
                members,
            }
        })
        .collect()
}

fn may_lose(members: &[u32], slots: u16) -> String {
    match members {
        [only] if slots > 0 => format!("1 member: lose worker {only} and its keys are gone"),
        [_] => "no slots: nothing to lose".to_owned(),
        members => format!("{} members", members.len()),
    }
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
        }
    }

    #[test]
    fn a_worker_that_is_down_comes_with_its_command() {
        let entry = entry("127.0.0.1:3001", "/my data");
        let status = worker_status(0, &entry, None, "127.0.0.1:3000");
        assert!(!status.alive && status.seen_ms.is_none());
        assert_eq!(
            status.restart.as_deref(),
            Some("catstore worker 3001 --master 127.0.0.1:3000 --data '/my data'")
        );
        let beat = Beat { run: 5, seen: Instant::now(), facts: Some(WorkerFacts::default()) };
        let status = worker_status(0, &entry, Some(&beat), "127.0.0.1:3000");
        assert!(status.alive && status.restart.is_none() && status.facts.is_some());
        let other_run = Beat { run: 6, seen: Instant::now(), facts: None };
        assert!(!worker_status(0, &entry, Some(&other_run), "m:1").alive);
    }

    #[test]
    fn a_group_says_what_it_may_lose() {
        assert_eq!(may_lose(&[0], 16384), "1 member: lose worker 0 and its keys are gone");
        assert_eq!(may_lose(&[3], 0), "no slots: nothing to lose");
        let mut directory =
            Directory { slots: crate::cluster::slots::SlotTable::whole(0), ..Directory::default() };
        directory.workers.insert(0, entry("a:1", "/a"));
        directory.workers.insert(1, WorkerEntry { group: 1, ..entry("b:1", "/b") });
        let workers: Vec<WorkerStatus> = directory
            .workers
            .iter()
            .map(|(index, entry)| worker_status(*index, entry, None, "m:1"))
            .collect();
        let groups = groups(&directory, &workers);
        assert_eq!((groups[0].group, groups[0].slots, groups[1].slots), (0, 16384, 0));
    }
}
