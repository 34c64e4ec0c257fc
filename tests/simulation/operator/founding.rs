//! How a cluster begins.

use super::Operator;
use crate::event::{Event, Place};
use crate::group::Group;
use crate::system::{SECOND, System};
use crate::workers::Workers;
use catstore::cluster::directory::{Directory, WorkerEntry};
use catstore::cluster::membership::raft_id;
use catstore::cluster::slots::SlotTable;
use catstore::replica::directory::{self, DirectoryMachine};
use catstore::replica::keyspace;

impl Operator {
    /// Founds the cluster: its first master; and, if `table` says who owns which slots, the founders of all groups.
    pub fn found(
        &mut self,
        sys: &mut System,
        masters: &mut Group<DirectoryMachine>,
        workers: &mut Workers,
        table: &SlotTable,
    ) -> Result<(), String> {
        let mut directory = Directory {
            cluster: "c".into(),
            epoch: 1,
            incarnation: 1,
            masters: vec!["m0".into()],
            ..Directory::default()
        };
        if !table.ranges().is_empty() {
            let groups: Vec<u32> = workers.groups().keys().copied().collect();
            self.found_groups(sys, &mut directory, &groups, workers, table)?;
        }
        let rows = directory::founding_rows(&directory).map_err(|error| error.to_string())?;
        masters.add(sys, 0, "m0".into(), &rows, true, (6000, 30_000));
        Ok(())
    }

    /// The founders of groups: worker 0 of group 0, and so on.
    fn found_groups(
        &mut self,
        sys: &mut System,
        directory: &mut Directory,
        groups: &[u32],
        workers: &mut Workers,
        table: &SlotTable,
    ) -> Result<(), String> {
        self.rebalance = sys.one_in(2);
        directory.slots = table.clone();
        directory.settings.rebalance = self.rebalance;
        directory.next_index = groups.len() as u32;
        for group in groups {
            let uuid = format!("f{group}");
            let entry = WorkerEntry {
                uuid: uuid.clone(),
                group: *group,
                address: format!("{uuid}:1"),
                data: format!("/{uuid}"),
                starts: 0,
                run: 0,
                removed: None,
                dead: false,
            };
            directory.workers.insert(*group, entry);
            let mut own = SlotTable::default();
            own.give(&table.of(*group), *group);
            let rows = keyspace::founding_rows(&own).map_err(|error| error.to_string())?;
            workers.group_mut(*group).add(sys, *group, uuid, &rows, true, self.sizes);
            sys.after(SECOND, Event::Heartbeat(Place::Worker(raft_id(*group))));
        }
        Ok(())
    }
}
