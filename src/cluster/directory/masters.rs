//! The masters themselves: who they are, who joins, who is lost.
//!
//! A directory of format 1 knows only the address of its master; that master registers itself, as master 0, before
//! any other can join. A lost master is replaced by one with an empty folder at the same place (same address, same
//! path), or removed once others have joined. Neither can cost the directory: the command that does it is agreed on
//! by a majority of the masters that vote, the lost one not among them.

use super::{Directory, DirectoryReply, MasterEntry, check_lengths, list, refused};
use crate::cluster::view::RegisterMasterRequest;

impl Directory {
    pub(super) fn master_address(&mut self, address: &str) -> DirectoryReply {
        if self.master_nodes.is_empty() && self.masters != [address] {
            self.masters = vec![address.to_owned()];
            self.epoch += 1;
        }
        DirectoryReply::Done
    }

    /// The indices of the masters that are not removed, ascending.
    pub fn master_indices(&self) -> impl Iterator<Item = u32> + '_ {
        self.master_nodes.iter().filter(|(_, master)| master.removed.is_none()).map(|(index, _)| *index)
    }

    pub(super) fn register_master(
        &mut self,
        request: &RegisterMasterRequest,
        alive: &[u32],
    ) -> Result<DirectoryReply, DirectoryReply> {
        check_lengths("master", [&request.uuid, &request.address, &request.data, &request.software])?;
        self.check_cluster(request.cluster.as_ref(), &request.data)?;
        let known =
            self.master_nodes.iter().find(|(_, master)| master.uuid == request.uuid).map(|(index, _)| *index);
        let (index, replaced) = match known {
            Some(index) => {
                self.check_known_master(index, request, alive)?;
                (index, None)
            }
            None => self.place_of_master(request, alive)?,
        };
        let entry = MasterEntry {
            uuid: request.uuid.clone(),
            address: request.address.clone(),
            data: request.data.clone(),
            starts: request.starts,
            run: request.run,
            removed: None,
            dead: false,
        };
        if let Some(lost) = replaced.and_then(|lost| self.master_nodes.get_mut(&lost)) {
            lost.removed = Some(format!("replaced by master {index}"));
        }
        let place = |entry: &MasterEntry| (entry.address.clone(), entry.data.clone(), entry.dead);
        if self.master_nodes.get(&index).map(place) != Some(place(&entry)) {
            self.epoch += 1;
        }
        self.master_nodes.insert(index, entry);
        self.next_master = self.next_master.max(index + 1);
        self.masters = self.master_addresses();
        let note = if known.is_none() { self.note_masters(replaced) } else { None };
        Ok(DirectoryReply::MasterRegistered { index, note, incarnation: self.incarnation })
    }

    fn check_known_master(
        &self,
        index: u32,
        request: &RegisterMasterRequest,
        alive: &[u32],
    ) -> Result<(), DirectoryReply> {
        let Some(master) = self.master_nodes.get(&index) else { return Ok(()) };
        if let Some(why) = &master.removed {
            return Err(refused(
                format!("master {index} was removed: {why}; its folder {} may not come back", request.data),
                "start a master with a new --data to join again",
            ));
        }
        if request.starts < master.starts || (request.starts == master.starts && request.run != master.run) {
            return Err(refused(
                format!(
                    "{} is an old copy of master {index}'s folder: it was opened {} times, the master's own folder {} times",
                    request.data, request.starts, master.starts
                ),
                format!("start master {index} from its own folder {}", master.data),
            ));
        }
        if request.address != master.address && alive.contains(&index) {
            return Err(refused(
                format!(
                    "master {index} is alive at {}, a second process with its folder's uuid is refused",
                    master.address
                ),
                format!(
                    "stop the master at {} first; if it was just stopped, try again in 5 seconds",
                    master.address
                ),
            ));
        }
        Ok(())
    }

    /// The index of a new master, and the master that it replaces.
    fn place_of_master(
        &self,
        request: &RegisterMasterRequest,
        alive: &[u32],
    ) -> Result<(u32, Option<u32>), DirectoryReply> {
        let first = request.index == Some(0) && request.cluster.as_ref() == Some(&self.cluster);
        match (self.master_nodes.is_empty(), request.index) {
            (true, _) if first => return Ok((0, None)),
            (true, _) => {
                return Err(refused(
                    "the first master of this cluster has not said yet who it is".into(),
                    "try again in a moment",
                ));
            }
            (false, Some(index)) => {
                return Err(refused(
                    format!(
                        "{} says that it is master {index}, but the masters have never seen it",
                        request.data
                    ),
                    "use a new --data to join this cluster",
                ));
            }
            (false, None) => {}
        }
        let here = |master: &MasterEntry| master.address == request.address && master.removed.is_none();
        let Some((index, master)) = self.master_nodes.iter().find(|(_, master)| here(master)) else {
            return Ok((self.next_master, None));
        };
        if alive.contains(index) {
            return Err(refused(
                format!("master {index} is alive at {}", master.address),
                "use another port; if it was just stopped, try again in 5 seconds",
            ));
        }
        if master.data != request.data {
            return Err(refused(
                format!("master {index} lived here in {}", master.data),
                format!(
                    "use --data {0}; if what was in {0} is lost, leave it empty: the new master takes its place",
                    master.data
                ),
            ));
        }
        Ok((self.next_master, Some(*index)))
    }

    pub(super) fn remove_master(
        &mut self,
        index: u32,
        alive: &[u32],
    ) -> Result<DirectoryReply, DirectoryReply> {
        let others = self.master_indices().filter(|other| *other != index).count();
        let Some(master) = self.master_nodes.get_mut(&index) else { return Err(self.no_master(index)) };
        if master.removed.is_some() {
            return Ok(DirectoryReply::Done);
        }
        if alive.contains(&index) {
            return Err(refused(
                format!("master {index} is alive at {}", master.address),
                "stop it first; if it was just stopped, try again in 5 seconds",
            ));
        }
        if others == 0 {
            return Err(refused(format!("master {index} is the only one"), "let another master join first"));
        }
        master.removed = Some("it was lost".into());
        self.epoch += 1;
        self.masters = self.master_addresses();
        Ok(DirectoryReply::Done)
    }

    pub(super) fn master_dead(&mut self, index: u32, dead: bool) -> Result<DirectoryReply, DirectoryReply> {
        let Some(master) = self.master_nodes.get_mut(&index).filter(|master| master.removed.is_none()) else {
            return Err(self.no_master(index));
        };
        if master.dead != dead {
            master.dead = dead;
            self.epoch += 1;
        }
        Ok(DirectoryReply::Done)
    }

    fn no_master(&self, index: u32) -> DirectoryReply {
        refused(
            format!("there is no master {index}"),
            format!("masters of this cluster: {}", list(self.master_indices())),
        )
    }

    fn master_addresses(&self) -> Vec<String> {
        let there = self.master_nodes.values().filter(|master| master.removed.is_none());
        there.map(|master| master.address.clone()).collect()
    }

    fn note_masters(&self, replaced: Option<u32>) -> Option<String> {
        let masters = self.master_indices().count();
        match replaced {
            Some(lost) => Some(format!("this one takes the place of master {lost}, which was lost")),
            None if masters.is_multiple_of(2) => Some(format!(
                "{masters} masters, {} can vote: with one more, any {} of them may be lost",
                masters - 1,
                masters / 2
            )),
            None => None,
        }
    }
}
