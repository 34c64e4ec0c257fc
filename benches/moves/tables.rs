//! Placement and routes of many groups, without processes: how long it takes to place one group more, how many slots
//! change hands for it, and how large the routes are that every node and client keeps.

use catstore::cluster::placement::{Candidate, place};
use catstore::cluster::slots::SlotTable;
use catstore::cluster::view::{ClusterView, GroupView, MemberView};
use std::time::Instant;

pub fn measure() {
    println!("\n| groups of 3 | one more is placed in | slots that move | `/cluster` |\n|---|---|---|---|");
    for groups in [10u32, 100, 1000] {
        let mut table = SlotTable::whole(0);
        for transfer in place(&table, &candidates(groups), false).transfers {
            table.give(&transfer.slots, transfer.to);
        }
        let began = Instant::now();
        let more = place(&table, &candidates(groups + 1), false);
        let took = began.elapsed();
        let slots: u32 = more.transfers.iter().map(|transfer| u32::from(transfer.slots.count())).sum();
        let routes = serde_json::to_vec(&view(groups, table)).expect("a document").len();
        println!("| {groups} | {:.2} ms | {slots} | {} KiB |", took.as_secs_f64() * 1000.0, routes >> 10);
    }
}

fn candidates(groups: u32) -> Vec<Candidate> {
    let able = |group| Candidate {
        group,
        voters: Some(3),
        members: 3,
        may_give: true,
        may_take: true,
        busy: false,
        draining: false,
    };
    (0..groups).map(able).collect()
}

fn view(groups: u32, slots: SlotTable) -> ClusterView {
    let member = |index: u32| MemberView {
        index,
        address: format!("10.0.{}.{}:3001", index / 250, index % 250),
        voter: true,
        fit: true,
        data: "/var/lib/catstore".into(),
    };
    let group = |group: u32| {
        GroupView::new(group, Some(group), (0..3).map(|number| member(3 * group + number)).collect())
    };
    ClusterView { groups: (0..groups).map(group).collect(), slots, ..ClusterView::default() }
}
