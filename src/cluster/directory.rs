//! The directory: what the masters agree on. A pure machine: commands in, replies out.

use super::slots::{SlotRange, SlotTable};
use super::view::{ClusterView, GroupView, MemberView};
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
        request: super::view::RegisterRequest,
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
    /// Applies one command.
    pub fn apply(&mut self, command: &DirectoryCommand) -> DirectoryReply {
        let _ = command;
        todo!()
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
