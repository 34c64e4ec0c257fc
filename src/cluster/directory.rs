//! The directory: what the masters agree on. A pure machine: commands in, replies out.

use super::slots::{SlotRange, SlotTable};
use super::view::{ClusterView, GroupView, MemberView, RegisterRequest};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A registered worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerEntry {
    /// The uuid of its data folder.
    pub uuid: String,
    /// Its group.
    pub group: u32,
    /// Where it serves: `host:port`.
    pub address: String,
    /// Its data folder.
    pub data: String,
    /// The start counter of its last registration.
    pub starts: u64,
    /// The random number of the run that registered last.
    pub run: u64,
}

/// A change of the directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DirectoryCommand {
    /// A worker starts. `alive` holds the index of every worker whose heartbeat the proposing master has seen in
    /// the last seconds, so that apply stays deterministic.
    Register {
        /// The worker's own facts.
        request: RegisterRequest,
        /// Workers that are alive now.
        alive: Vec<u32>,
    },
    /// This master serves at another address than before.
    MasterAddress {
        /// `host:port`.
        address: String,
    },
}

/// The directory's reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DirectoryReply {
    /// Registered.
    Registered {
        /// The worker's index.
        index: u32,
        /// Its group.
        group: u32,
        /// A remark for the person at the terminal.
        note: Option<String>,
        /// The slots that a new founder starts with.
        slots: Vec<SlotRange>,
    },
    /// Refused: nothing changed.
    Refused {
        /// Why.
        detail: String,
        /// What to do.
        hint: Option<String>,
    },
    /// Done.
    Done,
}

/// What the masters agree on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// The id of the cluster, 32 hexadecimal digits.
    pub cluster: String,
    /// Raised by recovery of the masters; fences what came before.
    pub incarnation: u64,
    /// Raised by every change.
    pub epoch: u64,
    /// Addresses of the masters.
    pub masters: Vec<String>,
    /// The workers by index.
    pub workers: BTreeMap<u32, WorkerEntry>,
    /// Who owns which slot.
    pub slots: SlotTable,
    /// The index that the next worker gets.
    pub next_index: u32,
}

impl Directory {
    /// Applies one command. Only `Registered` and `Done` change anything.
    pub fn apply(&mut self, command: &DirectoryCommand) -> DirectoryReply {
        let reply = match command {
            DirectoryCommand::Register { request, alive } => {
                self.register(request, alive).unwrap_or_else(|refusal| refusal)
            }
            DirectoryCommand::MasterAddress { address } => {
                if self.masters != [address.clone()] {
                    self.masters = vec![address.clone()];
                    self.epoch += 1;
                }
                DirectoryReply::Done
            }
        };
        debug_assert_eq!(self.slots.check(), Ok(()));
        reply
    }

    fn register(
        &mut self,
        request: &RegisterRequest,
        alive: &[u32],
    ) -> Result<DirectoryReply, DirectoryReply> {
        for (what, text, limit) in [
            ("uuid", &request.uuid, 64),
            ("address", &request.address, 300),
            ("data folder", &request.data, 4096),
            ("version", &request.software, 64),
        ] {
            if text.len() > limit {
                return Err(refused(
                    format!("the {what} of a worker has more than {limit} bytes"),
                    "shorten it",
                ));
            }
        }
        if let Some(cluster) = request.cluster.as_ref().filter(|cluster| **cluster != self.cluster) {
            return Err(refused(
                format!(
                    "{} belongs to cluster {cluster}, this master to cluster {}",
                    request.data, self.cluster
                ),
                "start it with the --master of its own cluster, or with another --data",
            ));
        }
        let known =
            self.workers.iter().find(|(_, worker)| worker.uuid == request.uuid).map(|(index, _)| *index);
        match known {
            Some(index) => self.register_again(index, request, alive),
            None => self.register_new(request),
        }
    }

    fn register_again(
        &mut self,
        index: u32,
        request: &RegisterRequest,
        alive: &[u32],
    ) -> Result<DirectoryReply, DirectoryReply> {
        let Some(worker) = self.workers.get_mut(&index) else {
            return Err(refused(format!("worker {index} is not registered"), "try again"));
        };
        let group = worker.group;
        if request.starts < worker.starts || (request.starts == worker.starts && request.run != worker.run) {
            return Err(refused(
                format!(
                    "{} is an old copy of worker {index}'s folder: it was opened {} times, the worker's own folder {} times",
                    request.data, request.starts, worker.starts
                ),
                if worker.data == request.data {
                    format!(
                        "what worker {index} wrote since is not in it: bring its own folder back to {}",
                        worker.data
                    )
                } else {
                    format!("start worker {index} from its own folder {}", worker.data)
                },
            ));
        }
        if request.run != worker.run && request.address != worker.address && alive.contains(&index) {
            return Err(refused(
                format!(
                    "worker {index} is alive at {}, a second process with its folder's uuid is refused",
                    worker.address
                ),
                format!(
                    "stop the worker at {} first; if it was just stopped, try again in 5 seconds",
                    worker.address
                ),
            ));
        }
        if let Some(source) = request.clone.filter(|source| *source != index && *source != group) {
            return Err(refused(
                format!(
                    "worker {index} is a member of group {group}, it cannot become a clone of worker {source}"
                ),
                "leave out --clone, or use another --data for a new worker",
            ));
        }
        if worker.address != request.address || worker.data != request.data {
            self.epoch += 1;
        }
        worker.address = request.address.clone();
        worker.data = request.data.clone();
        worker.starts = request.starts;
        worker.run = request.run;
        Ok(self.registered(index, group, None))
    }

    fn register_new(&mut self, request: &RegisterRequest) -> Result<DirectoryReply, DirectoryReply> {
        if let Some(index) = request.index {
            return Err(refused(
                format!("{} says that it is worker {index}, but this master has never seen it", request.data),
                "was the master started on a new --data? Start it on its old folder",
            ));
        }
        if let Some((index, worker)) =
            self.workers.iter().find(|(_, worker)| worker.address == request.address)
        {
            return Err(refused(
                format!("worker {index} lived at {} in {}", worker.address, worker.data),
                format!("use --data {}, or another port for a new worker", worker.data),
            ));
        }
        let mut note = None;
        if let Some(source) = request.clone {
            if self.workers.contains_key(&source) {
                return Err(refused(
                    format!(
                        "worker {source} cannot be cloned: this version of catstore has groups of one member"
                    ),
                    "leave out --clone to found a group of its own",
                ));
            }
            if source != 0 || !self.workers.is_empty() {
                let known: Vec<String> = self.workers.keys().map(u32::to_string).collect();
                let there = if known.is_empty() { "there is none yet".into() } else { known.join(", ") };
                return Err(refused(
                    format!("there is no worker {source} to clone"),
                    format!("workers of this cluster: {there}"),
                ));
            }
            note = Some("there is no worker to clone yet: this one founds group 0 as worker 0".to_owned());
        }
        let index = self.next_index;
        self.next_index += 1;
        self.epoch += 1;
        self.workers.insert(
            index,
            WorkerEntry {
                uuid: request.uuid.clone(),
                group: index,
                address: request.address.clone(),
                data: request.data.clone(),
                starts: request.starts,
                run: request.run,
            },
        );
        if self.slots.ranges().is_empty() {
            self.slots = SlotTable::whole(index);
        }
        Ok(self.registered(index, index, note))
    }

    fn registered(&self, index: u32, group: u32, note: Option<String>) -> DirectoryReply {
        let slots = self.slots.ranges().iter().filter(|range| range.group == group).copied().collect();
        DirectoryReply::Registered { index, group, note, slots }
    }

    /// The view that nodes and clients route by.
    pub fn view(&self) -> ClusterView {
        let mut groups: BTreeMap<u32, GroupView> = BTreeMap::new();
        for (index, worker) in &self.workers {
            let group = groups.entry(worker.group).or_insert_with(|| GroupView {
                group: worker.group,
                leader: Some(worker.group),
                members: Vec::new(),
            });
            group.members.push(MemberView {
                index: *index,
                address: worker.address.clone(),
                voter: true,
                data: worker.data.clone(),
            });
        }
        ClusterView {
            cluster: self.cluster.clone(),
            epoch: self.epoch,
            masters: self.masters.clone(),
            groups: groups.into_values().collect(),
            slots: self.slots.clone(),
            moves: Vec::new(),
        }
    }
}

fn refused(detail: String, hint: impl Into<String>) -> DirectoryReply {
    DirectoryReply::Refused { detail, hint: Some(hint.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> Directory {
        Directory { cluster: "c".into(), masters: vec!["127.0.0.1:3000".into()], ..Directory::default() }
    }

    fn request(uuid: &str, port: u16, starts: u64) -> RegisterRequest {
        RegisterRequest {
            uuid: uuid.into(),
            run: starts * 7,
            starts,
            address: format!("127.0.0.1:{port}"),
            data: format!("/data/{uuid}"),
            index: None,
            cluster: None,
            clone: None,
            software: "0".into(),
        }
    }

    fn register(
        directory: &mut Directory,
        request: RegisterRequest,
        alive: &[u32],
    ) -> Result<(u32, usize, bool), String> {
        let before = directory.clone();
        match directory.apply(&DirectoryCommand::Register { request, alive: alive.to_vec() }) {
            DirectoryReply::Registered { index, slots, note, .. } => Ok((index, slots.len(), note.is_some())),
            DirectoryReply::Refused { detail, .. } => {
                assert_eq!(before, *directory, "a refusal changes nothing");
                Err(detail)
            }
            DirectoryReply::Done => unreachable!("a registration is never just done"),
        }
    }

    #[test]
    fn the_first_founder_gets_every_slot_and_later_ones_none() {
        let mut directory = directory();
        assert_eq!(register(&mut directory, request("a", 3001, 1), &[]), Ok((0, 1, false)));
        assert_eq!(register(&mut directory, request("b", 3002, 1), &[]), Ok((1, 0, false)));
        assert_eq!(directory.slots.count(0), super::super::slots::SLOTS);
        assert_eq!(directory.view().group_of_key(b"A").unwrap().group, 0);
    }

    #[test]
    fn registration_is_idempotent_by_uuid() {
        let mut directory = directory();
        assert_eq!(register(&mut directory, request("a", 3001, 1), &[]), Ok((0, 1, false)));
        let epoch = directory.epoch;
        assert_eq!(register(&mut directory, request("a", 3001, 1), &[0]), Ok((0, 1, false)));
        assert_eq!(directory.epoch, epoch);
        assert_eq!(register(&mut directory, request("a", 3005, 2), &[]), Ok((0, 1, false)));
        assert_eq!(directory.workers[&0].address, "127.0.0.1:3005");
        assert!(directory.epoch > epoch);
    }

    #[test]
    fn copies_of_a_folder_are_refused() {
        let mut directory = directory();
        register(&mut directory, request("a", 3001, 5), &[]).unwrap();
        assert!(register(&mut directory, request("a", 3001, 4), &[]).unwrap_err().contains("old copy"));
        let same_count = RegisterRequest { run: 99, ..request("a", 3001, 5) };
        assert!(register(&mut directory, same_count, &[]).unwrap_err().contains("old copy"));
        assert!(register(&mut directory, request("a", 3009, 6), &[0]).unwrap_err().contains("alive"));
        assert_eq!(register(&mut directory, request("a", 3001, 6), &[0]), Ok((0, 1, false)));
    }

    #[test]
    fn clone_0_founds_a_cluster_and_any_other_clone_is_refused() {
        let mut directory = directory();
        let clone =
            |uuid: &str, port, source| RegisterRequest { clone: Some(source), ..request(uuid, port, 1) };
        assert!(register(&mut directory, clone("a", 3001, 1), &[]).unwrap_err().contains("no worker 1"));
        assert_eq!(register(&mut directory, clone("a", 3001, 0), &[]), Ok((0, 1, true)));
        assert_eq!(register(&mut directory, clone("a", 3001, 0), &[]), Ok((0, 1, false)), "its own index");
        assert!(register(&mut directory, clone("b", 3002, 0), &[]).unwrap_err().contains("cannot be cloned"));
        assert!(register(&mut directory, clone("b", 3002, 7), &[]).unwrap_err().contains("no worker 7"));
        register(&mut directory, request("b", 3002, 1), &[]).unwrap();
        assert!(register(&mut directory, clone("b", 3002, 0), &[]).unwrap_err().contains("cannot become"));
    }

    #[test]
    fn strangers_are_refused() {
        let mut directory = directory();
        let long = RegisterRequest { data: "x".repeat(5000), ..request("a", 3001, 1) };
        assert!(register(&mut directory, long, &[]).unwrap_err().contains("4096"));
        register(&mut directory, request("a", 3001, 1), &[]).unwrap();
        let foreign = RegisterRequest { cluster: Some("other".into()), ..request("b", 3002, 1) };
        assert!(register(&mut directory, foreign, &[]).unwrap_err().contains("belongs to cluster other"));
        let unknown = RegisterRequest { index: Some(4), ..request("b", 3002, 1) };
        assert!(register(&mut directory, unknown, &[]).unwrap_err().contains("never seen"));
        assert!(register(&mut directory, request("b", 3001, 1), &[]).unwrap_err().contains("worker 0 lived"));
    }
}
