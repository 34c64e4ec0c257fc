//! Registration of workers: who is known, who is new, and the place of a new one.

use super::{Directory, DirectoryReply, Heard, WorkerEntry, check_lengths, list, refused};
use crate::cluster::slots::SlotTable;
use crate::cluster::view::RegisterRequest;

/// The place of a new worker.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// The group to join; none: it founds one under its own index.
    pub(super) group: Option<u32>,
    /// The worker whose place it takes.
    pub(super) replaces: Option<u32>,
    /// How its group goes on without a majority.
    pub(super) revival: Revival,
    /// A remark for the person at the terminal.
    pub(super) note: Option<String>,
}

/// How a group without a majority goes on.
#[derive(Debug, Default, Clone, Copy)]
pub(super) enum Revival {
    /// It has one.
    #[default]
    None,
    /// From the copy of that member.
    From(u32),
    /// Empty, from the new worker.
    Empty,
}

impl Directory {
    pub(super) fn register(
        &mut self,
        request: &RegisterRequest,
        alive: &[u32],
        heard: &Heard,
    ) -> Result<DirectoryReply, DirectoryReply> {
        check_lengths("worker", [&request.uuid, &request.address, &request.data, &request.software])?;
        self.check_cluster(request.cluster.as_ref(), &request.data)?;
        let own = |worker: &WorkerEntry| worker.uuid == request.uuid && !request.uuid.is_empty();
        let known = self.workers.iter().find(|(_, worker)| own(worker)).map(|(index, _)| *index);
        match known.or_else(|| self.adopted(request)) {
            Some(index) => self.register_again(index, request, alive),
            None => self.register_new(request, alive, heard),
        }
    }

    /// The index of a folder that the masters know by nothing else: they were recovered while it was silent, and no
    /// routes named its uuid. Nobody but the folder at that place may take it, and only with that index.
    fn adopted(&self, request: &RegisterRequest) -> Option<u32> {
        let index = request.index.filter(|_| request.cluster.as_ref() == Some(&self.cluster))?;
        let entry = self.workers.get(&index).filter(|entry| entry.uuid.is_empty())?;
        (entry.removed.is_some() || entry.data == request.data).then_some(index)
    }

    /// Refuses a folder of another cluster.
    pub(super) fn check_cluster(&self, cluster: Option<&String>, data: &str) -> Result<(), DirectoryReply> {
        match cluster.filter(|cluster| **cluster != self.cluster) {
            Some(cluster) => Err(refused(
                format!("{data} belongs to cluster {cluster}, this master to cluster {}", self.cluster),
                "start it with the --master of its own cluster, or with another --data",
            )),
            None => Ok(()),
        }
    }

    fn register_again(
        &mut self,
        index: u32,
        request: &RegisterRequest,
        alive: &[u32],
    ) -> Result<DirectoryReply, DirectoryReply> {
        let Some(worker) = self.workers.get(&index) else {
            return Err(refused(format!("worker {index} is not registered"), "try again"));
        };
        if let Some(why) = &worker.removed {
            return Err(self.refuse_removed(index, worker, why, &request.data));
        }
        if request.starts < worker.starts || (request.starts == worker.starts && request.run != worker.run) {
            return Err(old_copy(index, worker, request));
        }
        if request.address != worker.address && alive.contains(&index) {
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
        self.check_wishes(index, worker.group, request)?;
        let Some(worker) = self.workers.get_mut(&index) else {
            return Err(refused(format!("worker {index} is not registered"), "try again"));
        };
        if worker.address != request.address || worker.data != request.data || worker.dead {
            self.epoch += 1;
        }
        if worker.uuid.is_empty() {
            worker.uuid = request.uuid.clone();
            self.epoch += 1;
        }
        worker.address = request.address.clone();
        worker.data = request.data.clone();
        worker.starts = request.starts;
        worker.run = request.run;
        worker.dead = false;
        let group = worker.group;
        Ok(self.registered(index, group, None))
    }

    /// The folder of a worker that was removed for good.
    fn refuse_removed(&self, index: u32, worker: &WorkerEntry, why: &str, data: &str) -> DirectoryReply {
        let detail = format!("worker {index} was removed: {why}; its folder {data} may not come back");
        match self.members(worker.group).next() {
            Some(member) => refused(
                detail,
                format!(
                    "to hold the keys of group {} again use a new --data and --clone {member}; keep the old folder if it may hold writes that are missed",
                    worker.group
                ),
            ),
            None => refused(detail, "other groups hold its keys; to start a new worker use a new --data"),
        }
    }

    /// `--clone` and `--replace` of a known worker change nothing, and must not ask for another group.
    fn check_wishes(&self, index: u32, group: u32, request: &RegisterRequest) -> Result<(), DirectoryReply> {
        let group_of = |index: u32| self.workers.get(&index).map(|worker| worker.group);
        if let Some(source) =
            request.clone.filter(|source| *source != group && group_of(*source) != Some(group))
        {
            return Err(refused(
                format!(
                    "worker {index} is a member of group {group}, it cannot become a clone of worker {source}"
                ),
                "leave out --clone, or use another --data for a new worker",
            ));
        }
        let replaced = |lost: u32| {
            self.workers.get(&lost).is_some_and(|worker| worker.group == group && worker.removed.is_some())
        };
        if let Some(lost) = request.replace.filter(|lost| !replaced(*lost)) {
            return Err(refused(
                format!(
                    "worker {index} is a member of group {group}, it cannot take the place of worker {lost}"
                ),
                "leave out --replace, or use another --data for a new worker",
            ));
        }
        Ok(())
    }

    fn register_new(
        &mut self,
        request: &RegisterRequest,
        alive: &[u32],
        heard: &Heard,
    ) -> Result<DirectoryReply, DirectoryReply> {
        if let Some(index) = request.index {
            return Err(refused(
                format!("{} says that it is worker {index}, but this master has never seen it", request.data),
                "was the master started on a new --data? Start it on its old folder",
            ));
        }
        let here = |worker: &WorkerEntry| worker.address == request.address && worker.removed.is_none();
        if let Some((index, worker)) =
            self.workers.iter().find(|(index, worker)| here(worker) && request.replace != Some(**index))
        {
            let (data, again) = (&worker.data, request.data == worker.data);
            return Err(if again {
                refused(
                    format!(
                        "worker {index} lived here in {data}, and this folder is not the one that it had"
                    ),
                    format!("bring its folder back, or say --replace {index} to take its place"),
                )
            } else {
                refused(
                    format!("worker {index} lived here in {data}"),
                    format!("use --data {data}, or --replace {index}"),
                )
            });
        }
        let place = match (request.replace, request.clone) {
            (Some(lost), _) => self.place_of(lost, request, alive, heard)?,
            (None, Some(source)) => self.beside(source)?,
            (None, None) => Place { group: self.short_group(), ..Place::default() },
        };
        Ok(self.settle(request, place))
    }

    /// The place beside the worker `source`.
    fn beside(&self, source: u32) -> Result<Place, DirectoryReply> {
        match self.workers.get(&source) {
            Some(worker) => {
                let group = worker.group;
                let entry = self.group(group);
                match &worker.removed {
                    _ if entry.dissolved => Err(refused(
                        format!("group {group} was dissolved, with worker {source}"),
                        "leave out --clone, or name a worker of another group",
                    )),
                    Some(why) => Err(refused(
                        format!("worker {source} was removed: {why}"),
                        format!("members of its group: {}", list(self.members(group))),
                    )),
                    None if entry.draining => Err(refused(
                        format!("group {group} of worker {source} is draining: its keys go to other groups"),
                        format!("clone a worker of another group, or catstore drain --group {group} --undo"),
                    )),
                    None => Ok(Place { group: Some(group), ..Place::default() }),
                }
            }
            None if source == 0 && self.workers.is_empty() => Ok(Place {
                note: Some("there is no worker to clone yet: this one founds group 0 as worker 0".into()),
                ..Place::default()
            }),
            None => Err(self.no_worker(source, "clone")),
        }
    }

    pub(super) fn no_worker(&self, index: u32, what: &str) -> DirectoryReply {
        let known: Vec<u32> = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.removed.is_none())
            .map(|(index, _)| *index)
            .collect();
        let there = if known.is_empty() { "there is none yet".into() } else { list(known) };
        refused(format!("there is no worker {index} to {what}"), format!("workers of this cluster: {there}"))
    }

    /// The first group with too few members, of those that stay.
    fn short_group(&self) -> Option<u32> {
        let stays = |group: &u32| !self.group(*group).draining && !self.group(*group).dissolved;
        let short = |group: &u32| self.members(*group).count() < self.settings.replicas as usize;
        self.group_ids().into_iter().filter(stays).find(short)
    }

    /// Gives a new worker its index and its place.
    fn settle(&mut self, request: &RegisterRequest, place: Place) -> DirectoryReply {
        let index = self.next_index;
        let group = place.group.unwrap_or(index);
        self.next_index += 1;
        self.epoch += 1;
        let entry = WorkerEntry {
            uuid: request.uuid.clone(),
            group,
            address: request.address.clone(),
            data: request.data.clone(),
            starts: request.starts,
            run: request.run,
            removed: None,
            dead: false,
        };
        self.workers.insert(index, entry);
        if let Some(lost) = place.replaces {
            self.remove(lost, format!("replaced by worker {index}"));
        }
        match place.revival {
            Revival::None => {}
            Revival::From(member) => {
                self.revive(group, member, &[index]);
            }
            Revival::Empty => self.begin_anew(group, index),
        }
        if self.slots.ranges().is_empty() {
            self.slots = SlotTable::whole(group);
        }
        self.registered(index, group, place.note)
    }

    fn registered(&self, index: u32, group: u32, note: Option<String>) -> DirectoryReply {
        let entry = self.group(group);
        let found = entry.promoted.is_none() && entry.founder.unwrap_or(group) == index;
        let ranges = self.slots.ranges().iter().filter(|range| found && range.group == group);
        let slots = ranges.copied().collect();
        DirectoryReply::Registered { index, group, note, slots, found, incarnation: entry.incarnation }
    }
}

fn old_copy(index: u32, worker: &WorkerEntry, request: &RegisterRequest) -> DirectoryReply {
    refused(
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
    )
}
