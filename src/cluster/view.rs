//! Documents that nodes and clients exchange as JSON: what the cluster looks like, and the others of this room under
//! one name. Unknown fields are ignored, so that a newer node can add some.

pub use super::facts::{
    CopyProgress, FactsReply, HeartbeatReply, HeartbeatRequest, Introduction, PromoteReply, PromoteRequest,
    RecoveredReply, RegisterMasterReply, RegisterMasterRequest, RegisterReply, RegisterRequest, WorkerFacts,
    counts_on,
};
use super::facts::{first, leading, newest, yes};
pub use super::json::{BatchBody, BatchOp, BatchReply, JsonBytes, ListPage, ListedKey, Problem};
use super::moves::MoveOrder;
pub use super::orders::{CancelMoveRequest, DrainReply, DrainRequest, RebalanceRequest};
pub use super::planning::{Plan, PlannedMove};
use super::slots::{SlotTable, slot};
pub use super::status::{GroupStatus, MasterStatus, MasterStatusEntry, WorkerStatus};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What every node knows of its cluster: enough to find the owner of any key. `GET /cluster` answers it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterView {
    /// The id of the cluster, 32 hexadecimal digits.
    pub cluster: String,
    /// The masters' incarnation, which `--recover` raises; 0 is one that does not say, and means 1.
    #[serde(default)]
    pub incarnation: u64,
    /// Raised by every change of the directory; a higher epoch of the same incarnation replaces a lower one.
    pub epoch: u64,
    /// The addresses (`host:port`) of the masters.
    pub masters: Vec<String>,
    /// The masters by ascending index, removed ones too; empty as long as the only one has not said who it is.
    #[serde(default)]
    pub master_members: Vec<MasterView>,
    /// The groups, by ascending id.
    pub groups: Vec<GroupView>,
    /// Slot ranges and the group that owns them.
    pub slots: SlotTable,
    /// Moves under way, by ascending id.
    #[serde(default)]
    pub moves: Vec<MoveOrder>,
    /// The id that the next move gets.
    #[serde(default)]
    pub next_move: u64,
    /// Bytes a second that the copy of a move may take; none: half of the time that it could.
    #[serde(default)]
    pub move_rate: Option<u64>,
    /// The index that the next new worker gets; none if it is not said.
    #[serde(default)]
    pub next_index: Option<u32>,
    /// The uuids of the workers' folders by index, of removed ones too: who they are, should the masters be lost.
    #[serde(default)]
    pub uuids: BTreeMap<u32, String>,
}

/// A group and its members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupView {
    /// The id of the group: its founder's index.
    pub group: u32,
    /// The index of the member that leads, as far as is known.
    pub leader: Option<u32>,
    /// The members, by ascending index.
    pub members: Vec<MemberView>,
    /// Raised when the group is revived after the loss of its majority; fences what came before.
    #[serde(default = "first")]
    pub incarnation: u64,
    /// The member whose copy this incarnation began with, if it was promoted.
    #[serde(default)]
    pub promoted: Option<u32>,
    /// The worker that founded this incarnation with an empty folder; none: the group's first founder.
    #[serde(default)]
    pub founder: Option<u32>,
    /// Former members, by ascending index: they never come back.
    #[serde(default)]
    pub removed: Vec<u32>,
    /// Where those of them are who were drained: until the group has let go of one, others ask it for what they lack.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former: Vec<FormerView>,
    /// True if its slots are to go to other groups, and then its members.
    #[serde(default)]
    pub draining: bool,
}

/// One member of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberView {
    /// The worker's index.
    pub index: u32,
    /// Where it serves: `host:port`.
    pub address: String,
    /// True for a voter, false for a standby or a member of which this is not known.
    pub voter: bool,
    /// False for a member that has been dead for too long to vote.
    #[serde(default = "yes")]
    pub fit: bool,
    /// Its data folder on its own machine.
    pub data: String,
}

/// One member that was drained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormerView {
    /// The worker's index.
    pub index: u32,
    /// Where it serves, or served: `host:port`.
    pub address: String,
    /// Its data folder on its own machine.
    pub data: String,
}

/// One master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterView {
    /// Its index; masters and workers are counted apart.
    pub index: u32,
    /// Where it serves: `host:port`.
    pub address: String,
    /// True for one that never comes back.
    #[serde(default)]
    pub removed: bool,
    /// False for one that has been dead for too long to vote.
    #[serde(default = "yes")]
    pub fit: bool,
}

impl ClusterView {
    /// What makes one view newer than another: the masters' incarnation, then the epoch.
    pub fn rank(&self) -> (u64, u64) {
        (self.incarnation.max(1), self.epoch)
    }

    /// The group that owns `key`.
    pub fn group_of_key(&self, key: &[u8]) -> Option<&GroupView> {
        self.slots.owner(slot(key)).and_then(|group| self.group(group))
    }

    /// The group with the id `group`.
    pub fn group(&self, group: u32) -> Option<&GroupView> {
        self.groups.iter().find(|candidate| candidate.group == group)
    }

    /// True if worker `index` was removed from its group for good.
    pub fn is_removed(&self, index: u32) -> bool {
        self.groups.iter().any(|group| group.removed.contains(&index))
    }

    /// The worker `index` and the group that it is in.
    pub fn worker(&self, index: u32) -> Option<(&GroupView, &MemberView)> {
        self.groups.iter().find_map(|group| {
            group.members.iter().find(|member| member.index == index).map(|member| (group, member))
        })
    }
}

impl ClusterView {
    /// Fills in what only heartbeats tell: who leads each group and who votes. `facts` are those of workers that are
    /// alive. What they do not tell stays as it is.
    pub fn overlay(&mut self, facts: &[&WorkerFacts]) {
        for group in &mut self.groups {
            let (id, incarnation) = (group.group, group.incarnation);
            let members: Vec<u32> = group.members.iter().map(|member| member.index).collect();
            let member =
                |facts: &WorkerFacts| facts.belongs(id, incarnation) && members.contains(&facts.index);
            let own = || facts.iter().copied().filter(|facts| member(facts));
            if let Some(leader) = leading(own()) {
                group.set_leader(leader);
            }
            if let Some(newest) = newest(own()) {
                for member in &mut group.members {
                    member.voter = newest.voters.contains(&member.index);
                }
            }
        }
    }

    /// Who leads each group, as far as is known.
    pub fn leaders(&self) -> BTreeMap<u32, u32> {
        self.groups.iter().filter_map(|group| Some((group.group, group.leader?))).collect()
    }

    /// Takes over who leads. Returns true if that was news.
    pub fn set_leaders(&mut self, leaders: &BTreeMap<u32, u32>) -> bool {
        let mut news = false;
        for group in &mut self.groups {
            if let Some(leader) = leaders.get(&group.group) {
                news |= group.set_leader(*leader);
            }
        }
        news
    }
}

impl GroupView {
    /// A group in its first incarnation of which nobody was removed.
    pub fn new(group: u32, leader: Option<u32>, members: Vec<MemberView>) -> GroupView {
        GroupView {
            group,
            leader,
            members,
            incarnation: 1,
            promoted: None,
            founder: None,
            removed: Vec::new(),
            former: Vec::new(),
            draining: false,
        }
    }

    /// The member `index`.
    pub fn member(&self, index: u32) -> Option<&MemberView> {
        self.members.iter().find(|member| member.index == index)
    }

    /// Notes that the member `index` leads; one that is not a member does not. Returns true if that was news.
    pub fn set_leader(&mut self, index: u32) -> bool {
        let news = self.leader != Some(index) && self.member(index).is_some();
        if news {
            self.leader = Some(index);
        }
        news
    }

    /// The member to send requests to: the leader, else the first voter, else the first that is fit, or any.
    pub fn target(&self) -> Option<&MemberView> {
        let leader = self.leader.and_then(|index| self.member(index));
        let voter = || self.members.iter().find(|member| member.voter);
        let fit = || self.members.iter().find(|member| member.fit);
        leader.or_else(voter).or_else(fit).or_else(|| self.members.first())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(group: u32, members: &[u32]) -> GroupView {
        let member = |index: &u32| MemberView {
            index: *index,
            address: format!("w{index}:1"),
            voter: false,
            fit: true,
            data: String::new(),
        };
        GroupView::new(group, None, members.iter().map(member).collect())
    }

    #[test]
    fn heartbeats_fill_in_who_leads_and_who_votes() {
        let mut view =
            ClusterView { groups: vec![group(0, &[0, 1, 2]), group(3, &[3, 4])], ..ClusterView::default() };
        view.groups[1].incarnation = 2;
        let facts = |index: u32, group: u32, role: &str, term| WorkerFacts {
            index,
            group,
            role: role.into(),
            term,
            applied: term,
            leader: Some(1),
            voters: vec![0, 1],
            ..WorkerFacts::default()
        };
        let before = view.clone();
        // Of group 3 only a former incarnation is heard of, and of group 0 a worker that is no member leads.
        view.overlay(&[&facts(3, 3, "leader", 9), &facts(9, 0, "leader", 9)]);
        assert!(view.groups[0].members.iter().all(|member| !member.voter));
        assert_eq!(view.leaders(), BTreeMap::new());
        assert_eq!(view.groups[1], before.groups[1]);
        view.overlay(&[&facts(0, 0, "leader", 4), &facts(2, 0, "follower", 5)]);
        assert_eq!(view.leaders(), BTreeMap::from([(0, 1)]), "the newer term counts");
        let voters: Vec<bool> = view.groups[0].members.iter().map(|member| member.voter).collect();
        assert_eq!(voters, [true, true, false]);
        assert_eq!(view.groups[0].target().unwrap().index, 1);
        view.overlay(&[]);
        assert_eq!(view.leaders(), BTreeMap::from([(0, 1)]), "silence changes nothing");
        assert!(!view.set_leaders(&BTreeMap::from([(0, 1), (3, 9), (7, 7)])));
        assert!(view.set_leaders(&BTreeMap::from([(0, 2), (3, 4)])));
        assert_eq!(view.leaders(), BTreeMap::from([(0, 2), (3, 4)]));
    }

    #[test]
    fn there_is_always_a_member_to_ask() {
        let mut group = group(0, &[0, 1, 2]);
        let target = |group: &GroupView| group.target().map(|member| member.index);
        assert_eq!(target(&group), Some(0));
        group.members[0].fit = false;
        assert_eq!(target(&group), Some(1));
        group.members[2].voter = true;
        assert_eq!(target(&group), Some(2));
        group.leader = Some(0);
        assert_eq!(target(&group), Some(0));
        assert!(!group.set_leader(7), "not a member");
    }

    #[test]
    fn documents_of_a_former_version_are_read() {
        let view = r#"{"cluster":"c","epoch":1,"masters":["m:1"],"groups":[{"group":0,"leader":0,
            "members":[{"index":0,"address":"w:1","voter":true,"data":"/d"}]}],"slots":[],"moves":[]}"#;
        let view: ClusterView = serde_json::from_str(view).unwrap();
        let group = view.group(0).unwrap();
        assert_eq!((group.incarnation, group.removed.len(), group.members[0].fit), (1, 0, true));
        let reply: HeartbeatReply = serde_json::from_str(r#"{"register":false,"view":null}"#).unwrap();
        assert!(reply.leaders.is_empty() && reply.refused.is_none());
        let reply = format!(
            r#"{{"index":0,"group":0,"note":null,"slots":[],"view":{}}}"#,
            serde_json::to_string(&view).unwrap()
        );
        let reply: RegisterReply = serde_json::from_str(&reply).unwrap();
        assert!(reply.found && reply.incarnation == 1);
    }
}
