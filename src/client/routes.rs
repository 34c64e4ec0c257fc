//! Which nodes to ask for a request, and in which order, decided from what is known of the cluster. No I/O here.

use crate::cluster::view::{ClusterView, GroupView, MemberView};
use std::collections::HashSet;

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// The group that owns a key; any other node forwards.
    Key(&'a [u8]),
    /// Any member of the group that owns a key, first one of these addresses.
    Replica(&'a [u8], &'a [String]),
    /// A group by its id; any other node forwards.
    Group(u32),
    /// Any node that can answer for the whole cluster.
    Any,
    /// This very worker.
    Worker(u32),
    /// The node at this address.
    Node(&'a str),
}

/// The addresses to ask, best first, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Candidates {
    /// `host:port` of each.
    pub addresses: Vec<String>,
    /// How many of them, from the front, are members of the owning group.
    pub members: usize,
}

impl Candidates {
    /// Puts the nodes of which `is_suspect` is true behind the others of their kind: members stay before forwarders.
    pub fn suspect(&mut self, is_suspect: impl Fn(&String) -> bool) {
        let (members, others) = self.addresses.split_at_mut(self.members);
        members.sort_by_key(&is_suspect);
        others.sort_by_key(&is_suspect);
    }
}

/// Orders the nodes for `target`. `extra` are addresses that are known from elsewhere (seeds, remembered nodes).
pub fn candidates(view: Option<&ClusterView>, extra: &[String], target: Target<'_>) -> Candidates {
    let mut list = List::default();
    let Some(view) = view else {
        list.extend(extra);
        return list.candidates;
    };
    let owner = match target {
        Target::Worker(index) => {
            list.extend(view.worker(index).map(|(_, member)| &member.address));
            list.candidates.members = list.candidates.addresses.len();
            return list.candidates;
        }
        Target::Node(address) => {
            list.extend(&[address.to_owned()]);
            return list.candidates;
        }
        Target::Key(key) | Target::Replica(key, _) => view.group_of_key(key),
        Target::Group(group) => view.group(group),
        Target::Any => view.groups.iter().find(|group| view.slots.count(group.group) > 0),
    };
    if let Some(group) = owner {
        if let Target::Replica(_, named) = target {
            list.replicas(group, named);
        }
        list.group(group);
        list.candidates.members = list.candidates.addresses.len();
    }
    list.extend(&view.masters);
    for group in &view.groups {
        list.group(group);
    }
    list.extend(extra);
    list.candidates
}

/// Every address that `view` names: masters first, then workers.
pub fn nodes(view: &ClusterView) -> Vec<String> {
    let mut list = List::default();
    list.extend(&view.masters);
    list.extend(view.groups.iter().flat_map(|group| &group.members).map(|member| &member.address));
    list.candidates.addresses
}

#[derive(Default)]
struct List {
    candidates: Candidates,
    seen: HashSet<String>,
}

impl List {
    fn extend<'a>(&mut self, addresses: impl IntoIterator<Item = &'a String>) {
        for address in addresses {
            if self.seen.insert(address.clone()) {
                self.candidates.addresses.push(address.clone());
            }
        }
    }

    /// The members of a group for a read that need not be fresh: first the one that the user named, which may be on the
    /// same machine, then those that have less to do than the leader.
    fn replicas(&mut self, group: &GroupView, named: &[String]) {
        let addresses = |wanted: &dyn Fn(&MemberView) -> bool| -> Vec<String> {
            group
                .members
                .iter()
                .filter(|member| wanted(member))
                .map(|member| member.address.clone())
                .collect()
        };
        self.extend(&addresses(&|member| named.contains(&member.address)));
        self.extend(&addresses(&|member| member.voter && Some(member.index) != group.leader));
        self.extend(&addresses(&|member| member.voter));
    }

    fn group(&mut self, group: &GroupView) {
        self.extend(group.target().map(|member| &member.address));
        self.extend(group.members.iter().map(|member| &member.address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::slots::{SlotTable, slot};

    fn member(index: u32) -> MemberView {
        MemberView { index, address: format!("w{index}:1"), voter: true, fit: true, data: String::new() }
    }

    fn view() -> ClusterView {
        ClusterView {
            cluster: "c".into(),
            epoch: 1,
            masters: vec!["m:1".into()],
            groups: vec![
                GroupView::new(0, Some(2), vec![member(0), member(2)]),
                GroupView::new(1, None, vec![member(1)]),
            ],
            slots: SlotTable::whole(0),
            master_members: Vec::new(),
            ..ClusterView::default()
        }
    }

    #[test]
    fn the_owner_is_asked_first_then_whoever_forwards() {
        let view = view();
        let extra = ["s:1".to_owned(), "m:1".to_owned()];
        let found = candidates(Some(&view), &extra, Target::Key(b"A"));
        assert_eq!(found.addresses, ["w2:1", "w0:1", "m:1", "w1:1", "s:1"]);
        assert_eq!(found.members, 2);
        assert_eq!(candidates(Some(&view), &extra, Target::Any), found);
        assert_eq!(candidates(Some(&view), &[], Target::Group(1)).addresses, ["w1:1", "m:1", "w2:1", "w0:1"]);
        assert_eq!(candidates(Some(&view), &extra, Target::Worker(1)).addresses, ["w1:1"]);
        assert_eq!(candidates(Some(&view), &extra, Target::Worker(7)).addresses, [""; 0]);
        assert_eq!(candidates(Some(&view), &extra, Target::Node("m:2")).addresses, ["m:2"]);
        assert_eq!(nodes(&view), ["m:1", "w0:1", "w2:1", "w1:1"]);
    }

    #[test]
    fn a_stale_read_begins_where_the_user_is() {
        let mut view = view();
        view.groups[0].members.push(MemberView { voter: false, ..member(3) });
        view.groups[0].members.push(member(4));
        let stale = |named: &[String]| candidates(Some(&view), &[], Target::Replica(b"A", named));
        let found = stale(&[]);
        assert_eq!(found.addresses, ["w0:1", "w4:1", "w2:1", "w3:1", "m:1", "w1:1"], "standbys may lack all");
        assert_eq!(found.members, 4);
        assert_eq!(stale(&["w3:1".to_owned()]).addresses[..2], ["w3:1", "w0:1"]);
        assert_eq!(stale(&["m:1".to_owned()]), found);
    }

    #[test]
    fn nodes_that_gave_no_answer_are_asked_last() {
        let mut found = candidates(Some(&view()), &[], Target::Key(b"A"));
        found.suspect(|address| ["w2:1", "m:1"].contains(&address.as_str()));
        assert_eq!(found.addresses, ["w0:1", "w2:1", "w1:1", "m:1"]);
        assert_eq!(found.members, 2);
        found.suspect(|_| true);
        assert_eq!(found.addresses, ["w0:1", "w2:1", "w1:1", "m:1"]);
    }

    #[test]
    fn without_an_owner_or_a_view_anybody_is_asked() {
        let mut view = view();
        view.slots = SlotTable::default();
        let found = candidates(Some(&view), &[], Target::Key(b"A"));
        assert_eq!((found.addresses[0].as_str(), found.members), ("m:1", 0));
        let extra = ["s:1".to_owned(), "s:1".to_owned()];
        assert_eq!(candidates(None, &extra, Target::Key(b"A")).addresses, ["s:1"]);
        assert!(slot(b"A") < 16384);
    }
}
