//! Whom a client asks: it finds the group of a key by routes that may be old.

use super::Client;
use crate::event::Question;
use crate::system::System;
use catstore::cluster::slots::{SlotTable, slot};
use catstore::replica::command::{BatchCommand, Command, Request};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Who can be asked, and the newest routes that can be had.
pub struct Atlas {
    /// The workers of each group that may run.
    pub groups: BTreeMap<u32, Vec<u64>>,
    /// Routes that a master tells; none if no master runs.
    pub table: Option<Arc<SlotTable>>,
}

impl Atlas {
    pub(super) fn everybody(&self) -> Vec<u64> {
        let mut all: Vec<u64> = self.groups.values().flatten().copied().collect();
        all.sort_unstable();
        all
    }

    pub(super) fn group_of(&self, worker: u64) -> Option<u32> {
        self.groups.iter().find(|(_, members)| members.contains(&worker)).map(|(group, _)| *group)
    }
}

impl Client {
    /// Some group, for a command to all of its keys.
    pub(super) fn group_of_all(&self, sys: &mut System, question: &Question, atlas: &Atlas) -> Option<u32> {
        let Question::Write(Request { command: Command::Clear | Command::Digest { .. }, .. }) = question
        else {
            return None;
        };
        let ids: Vec<u32> = atlas.groups.keys().copied().collect();
        match &ids[..] {
            [] => None,
            [only] => Some(*only),
            _ => Some(ids[sys.random.up_to(ids.len() - 1)]),
        }
    }

    /// The group that the operation under way is for, as far as this client knows.
    pub(super) fn owner(&mut self, atlas: &Atlas) -> Option<u32> {
        let task = self.task.as_ref()?;
        if !self.several {
            return atlas.groups.keys().next().copied();
        }
        if task.group.is_some() {
            return task.group;
        }
        if self.table.ranges().is_empty() {
            self.table = atlas.table.clone()?;
        }
        let slot = slot_of(&task.question)?;
        self.hints.get(&slot).copied().or_else(|| self.table.owner(slot))
    }

    /// The group that was asked does not own the slot: another one does, or newer routes say which.
    pub(super) fn moved(&mut self, sys: &mut System, hint: Option<u32>) {
        let Some(slot) = self.task.as_ref().and_then(|task| slot_of(&task.question)) else { return };
        match hint {
            Some(group) if !sys.one_in(4) => {
                self.hints.insert(slot, group);
            }
            _ => {
                self.hints.clear();
                self.table = Arc::default();
            }
        }
    }
}

/// The slot that a question is about; none for what is about all keys of a group.
pub(super) fn slot_of(question: &Question) -> Option<u16> {
    let key = match question {
        Question::Read(key) | Question::ReadStale(key) => key,
        Question::Write(request) => match &request.command {
            Command::Put(put) => &put.key,
            Command::Delete { key, .. } => key,
            Command::Batch(commands) => match commands.first()? {
                BatchCommand::Put(put) => &put.key,
                BatchCommand::Delete { key } | BatchCommand::Check { key, .. } => key,
            },
            _ => return None,
        },
        Question::Commit(..) | Question::Store(..) | Question::List(..) | Question::Direct(_) => return None,
    };
    Some(slot(key))
}
