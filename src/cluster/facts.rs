//! What the masters are told and asked: registrations, heartbeats, promotions. Fields that a later version added
//! have defaults, so that nodes of two versions understand each other.

use super::moves::{MoveFacts, SlotSet};
use super::slots::SlotRange;
use super::verifying::ChunkFacts;
use super::view::ClusterView;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a worker says of itself: the answer of `/worker`, and the body of a heartbeat.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerFacts {
    /// The id of its cluster.
    pub cluster: String,
    /// Its index.
    pub index: u32,
    /// Its group.
    pub group: u32,
    /// The uuid of its data folder.
    pub uuid: String,
    /// How often the folder was opened.
    pub starts: u64,
    /// Where it serves: `host:port`.
    pub address: String,
    /// Its data folder.
    pub data: String,
    /// `open`, `closed` or `failed`.
    pub state: String,
    /// `leader`, `follower`, `candidate` or `standby`; empty when it is not open.
    pub role: String,
    /// Raft term.
    pub term: u64,
    /// Keys stored, expired ones that are not swept yet included.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// The group's version counter.
    pub version: u64,
    /// Index of the last applied entry.
    pub applied: u64,
    /// The version of catstore that it runs.
    pub software: String,
    /// The worker that leads the group, as far as this one knows.
    #[serde(default)]
    pub leader: Option<u32>,
    /// The voters of the group's configuration, by what this worker has applied; in a joint configuration the
    /// incoming ones. Empty when it is not open or holds no copy yet.
    #[serde(default)]
    pub voters: Vec<u32>,
    /// The outgoing voters of a joint configuration.
    #[serde(default)]
    pub outgoing: Vec<u32>,
    /// The standbys of the group's configuration.
    #[serde(default)]
    pub standbys: Vec<u32>,
    /// Index of the last entry of its log.
    #[serde(default)]
    pub last: u64,
    /// Term of that entry.
    #[serde(default)]
    pub last_term: u64,
    /// The incarnation of the group that it belongs to; 0 is one that does not say, and means 1.
    #[serde(default)]
    pub incarnation: u64,
    /// The copy of its group's data that it makes or has made in this run.
    #[serde(default)]
    pub copy: Option<CopyProgress>,
    /// The slots that its group owns, by what it has applied.
    #[serde(default)]
    pub slots: SlotSet,
    /// The move in which its group gives slots away, if it leads the group.
    #[serde(default)]
    pub moving: Option<MoveFacts>,
    /// The last move that its group has done with as its source, begun or declined.
    #[serde(default)]
    pub moves_done: u64,
    /// A move by which its group took slots, and which its source has not settled yet.
    #[serde(default)]
    pub received: Option<u64>,
    /// True if its group goes on as another incarnation and has not heard yet which slots are its own: what it says of slots
    /// is what its copy holds.
    #[serde(default)]
    pub awaits: bool,
    /// How often rows were found rotten, and all of them were pulled anew, since it was opened.
    #[serde(default)]
    pub renewals: u64,
    /// How the chunks of its large values are, since it was opened.
    #[serde(default)]
    pub chunks: ChunkFacts,
}

impl WorkerFacts {
    /// True if the facts are of a member of `group` in that incarnation.
    pub fn belongs(&self, group: u32, incarnation: u64) -> bool {
        self.group == group && self.incarnation.max(1) == incarnation
    }

    /// True if the configuration that it has applied has a place for worker `index`.
    pub fn names(&self, index: u32) -> bool {
        [&self.voters, &self.outgoing, &self.standbys].iter().any(|members| members.contains(&index))
    }

    /// True if the worker is open and holds a copy of its group's data. One that waits for its first copy knows no
    /// voters yet.
    pub fn holds_copy(&self) -> bool {
        self.state == "open" && self.copy.is_none_or(|copy| copy.done) && !self.voters.is_empty()
    }
}

/// Of the facts of one group in one incarnation, those that name the newest configuration: of the member that had
/// applied most.
pub fn newest<'a>(facts: impl IntoIterator<Item = &'a WorkerFacts>) -> Option<&'a WorkerFacts> {
    facts.into_iter().filter(|facts| !facts.voters.is_empty()).max_by_key(|facts| facts.applied)
}

/// Whether `group` may still count on worker `index`, by what live workers tell; none if nobody tells. Without one that votes no
/// majority may be left, and one that stands by may be made the voter. It may go once the newest configuration has no place for
/// it, and those who vote there know that: a majority of them says so of the configuration that it has applied itself, and none
/// that is alive still names it. A voter that holds the entry and has not heard that it is committed needs the vote of who
/// leaves, if it is to lead; whoever has applied it tells it by a vote (raft-rs, `maybe_commit_by_vote`).
pub fn counts_on<'a>(
    index: u32,
    group: u32,
    incarnation: u64,
    facts: impl IntoIterator<Item = &'a WorkerFacts>,
) -> Option<bool> {
    let told: Vec<&WorkerFacts> =
        facts.into_iter().filter(|facts| facts.belongs(group, incarnation)).collect();
    let newest = newest(told.iter().copied())?;
    let know = |half: &[u32]| {
        let of_half = told.iter().filter(|facts| half.contains(&facts.index) && !facts.voters.is_empty());
        let (naming, without): (Vec<&WorkerFacts>, Vec<&WorkerFacts>) =
            of_half.partition(|facts| facts.names(index));
        half.is_empty() || (naming.is_empty() && 2 * without.len() > half.len())
    };
    Some(newest.names(index) || !know(&newest.voters) || !know(&newest.outgoing))
}

/// Of the facts of live members of one group in one incarnation: who leads.
pub fn leading<'a>(facts: impl IntoIterator<Item = &'a WorkerFacts>) -> Option<u32> {
    let leads = |facts: &WorkerFacts| facts.role == "leader";
    let said = facts.into_iter().filter(|facts| leads(facts) || facts.leader.is_some());
    let newest = said.max_by_key(|facts| (facts.term, leads(facts)))?;
    if leads(newest) { Some(newest.index) } else { newest.leader }
}

/// How far a new member is with the copy of its group's data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyProgress {
    /// Bytes that have arrived.
    pub bytes: u64,
    /// Bytes in all, as the source estimates them.
    pub total: u64,
    /// Rows that have arrived.
    pub rows: u64,
    /// True once the copy is installed.
    pub done: bool,
}

/// What a worker sends to the master when it starts: it is idempotent by `uuid`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterRequest {
    /// The uuid of the worker's data folder.
    pub uuid: String,
    /// A random number of this run of the process; tells a second process on a copied folder from a repeat.
    pub run: u64,
    /// How often the folder was opened.
    pub starts: u64,
    /// Where it serves: `host:port`.
    pub address: String,
    /// Its data folder.
    pub data: String,
    /// The index that it remembers, if it was registered before.
    pub index: Option<u32>,
    /// The cluster that it remembers.
    pub cluster: Option<String>,
    /// The worker to clone.
    pub clone: Option<u32>,
    /// The lost worker whose place it takes.
    #[serde(default)]
    pub replace: Option<u32>,
    /// With `replace`: also where no majority of the group is left.
    #[serde(default)]
    pub accept_data_loss: bool,
    /// The version of catstore that it runs.
    pub software: String,
}

/// A [`RegisterRequest`] as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduction {
    /// What the directory goes by.
    #[serde(flatten)]
    pub request: RegisterRequest,
    /// The incarnation of the masters that the worker knows of; 0 if of none. Masters of a lower one take nobody.
    #[serde(default)]
    pub incarnation: u64,
}

/// The master's answer to a [`RegisterRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterReply {
    /// The worker's index, for life.
    pub index: u32,
    /// Its group.
    pub group: u32,
    /// A remark for the person at the terminal.
    pub note: Option<String>,
    /// The slots that a new founder starts with; none for a worker that joins.
    pub slots: Vec<SlotRange>,
    /// True: it founds `group` with its own folder. False: it joins `group` and copies what the others hold.
    #[serde(default = "yes")]
    pub found: bool,
    /// The incarnation of the group.
    #[serde(default = "first")]
    pub incarnation: u64,
    /// The cluster as the master sees it.
    pub view: ClusterView,
}

/// What a master sends to the leading master when it starts: idempotent by `uuid`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterMasterRequest {
    /// The uuid of the master's data folder.
    pub uuid: String,
    /// A random number of this run of the process.
    pub run: u64,
    /// How often the folder was opened.
    pub starts: u64,
    /// Where it serves: `host:port`.
    pub address: String,
    /// Its data folder.
    pub data: String,
    /// The index that it remembers; the master that founded the cluster is 0.
    pub index: Option<u32>,
    /// The cluster that it remembers.
    pub cluster: Option<String>,
    /// The version of catstore that it runs.
    pub software: String,
}

/// The leading master's answer to a [`RegisterMasterRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterMasterReply {
    /// The master's index, for life; masters and workers are counted apart.
    pub index: u32,
    /// A remark for the person at the terminal.
    pub note: Option<String>,
    /// The incarnation of the masters.
    pub incarnation: u64,
    /// The cluster as the leading master sees it.
    pub view: ClusterView,
}

/// `POST /internal/promote`, to the master that leads: revive a worker's group from its copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromoteRequest {
    /// The worker.
    pub index: u32,
    /// False: only say what may be missing.
    pub accept_data_loss: bool,
}

/// The answer to a [`PromoteRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromoteReply {
    /// The group.
    pub group: u32,
    /// The worker whose copy the group goes on from.
    pub index: u32,
    /// What may be missing, as a sentence; empty for a repeat.
    pub missing: String,
    /// The group's new incarnation; none if nothing was done yet.
    pub incarnation: Option<u64>,
    /// Members that are removed for good.
    pub left_behind: Vec<u32>,
}

/// A heartbeat of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatRequest {
    /// The random number of this run, as in [`RegisterRequest`].
    pub run: u64,
    /// What the worker says of itself.
    pub facts: WorkerFacts,
    /// The epoch of the view that it has.
    pub epoch: u64,
    /// The incarnation of the masters that it has that view from; 0 if it does not say.
    #[serde(default)]
    pub incarnation: u64,
}

/// The master's answer to a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatReply {
    /// True if the master does not know this run of the worker: it registers again.
    pub register: bool,
    /// The cluster, if the worker's view is older.
    pub view: Option<ClusterView>,
    /// Which worker leads each group, as the master has heard.
    #[serde(default)]
    pub leaders: BTreeMap<u32, u32>,
    /// Set if this worker was removed for good: it stops, and says this.
    #[serde(default)]
    pub refused: Option<String>,
    /// False if another master leads: its word counts for `register` and `refused`.
    #[serde(default = "yes")]
    pub leads: bool,
    /// The masters' incarnation; 0 is one that does not say, and means 1.
    #[serde(default)]
    pub incarnation: u64,
}

/// The answer of `GET /internal/facts`: what a worker knows, should the masters be lost. It is not opened for that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FactsReply {
    /// What it says of itself.
    pub facts: WorkerFacts,
    /// The random number of its run.
    pub run: u64,
    /// The routes that it knows.
    pub view: ClusterView,
}

/// A worker's answer to recovered masters, which send it their view with `POST /internal/recovered`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveredReply {
    /// The incarnation of the masters that it follows now.
    pub incarnation: u64,
}

/// The incarnation of a group that was never promoted.
pub(super) fn first() -> u64 {
    1
}

/// The value of a flag that older documents do not have.
pub(super) fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(index: u32, applied: u64, voters: &[u32], outgoing: &[u32], standbys: &[u32]) -> WorkerFacts {
        let (voters, outgoing, standbys) = (voters.to_vec(), outgoing.to_vec(), standbys.to_vec());
        WorkerFacts { index, applied, voters, outgoing, standbys, ..WorkerFacts::default() }
    }

    fn counts(index: u32, told: &[WorkerFacts]) -> Option<bool> {
        counts_on(index, 0, 1, told)
    }

    #[test]
    fn who_leaves_stays_until_those_who_vote_know_of_it() {
        assert_eq!(counts(3, &[]), None);
        // Worker 3 led, and has left the joint configuration; worker 2 has the entry, and not heard that it is committed.
        let left = facts(3, 256, &[2], &[], &[4]);
        let joint = facts(2, 254, &[2], &[3], &[4]);
        let new = facts(4, 0, &[], &[], &[]);
        assert_eq!(counts(3, &[joint.clone(), left.clone(), new.clone()]), Some(true));
        assert_eq!(counts(3, &[left.clone(), new.clone()]), Some(true), "worker 2 is silent");
        assert_eq!(counts(3, std::slice::from_ref(&joint)), Some(true));
        let knows = facts(2, 256, &[2], &[], &[4]);
        assert_eq!(counts(3, &[knows, left, new]), Some(false));
    }

    #[test]
    fn a_majority_of_each_half_knows_who_left_and_nobody_there_says_otherwise() {
        let knows = |index| facts(index, 9, &[0, 1, 2], &[], &[]);
        let behind = facts(2, 5, &[0, 1, 2], &[0, 1, 3], &[]);
        assert_eq!(counts(3, &[knows(0)]), Some(true), "one of three");
        assert_eq!(counts(3, &[knows(0), knows(1)]), Some(false));
        assert_eq!(
            counts(3, &[knows(0), knows(1), behind.clone()]),
            Some(true),
            "it may have the longest log"
        );
        let closed = facts(2, 5, &[], &[], &[]);
        assert_eq!(counts(3, &[knows(0), knows(1), closed]), Some(false));
        let standby = facts(4, 5, &[0, 1, 2], &[0, 1, 3], &[4]);
        assert_eq!(
            counts(3, &[knows(0), knows(1), standby]),
            Some(false),
            "who does not vote asks for no votes"
        );
        // Voters change again: the old half must know of it too.
        let next = |index| facts(index, 12, &[0, 5, 6], &[0, 1, 2], &[]);
        assert_eq!(counts(3, &[next(0), next(5), behind.clone()]), Some(true));
        assert_eq!(counts(3, &[next(0), next(5)]), Some(true), "one of the old three");
        assert_eq!(counts(3, &[next(0), next(5), next(1)]), Some(false));
        assert_eq!(counts(2, &[next(0), next(5), next(1)]), Some(true), "it is of the old half");
    }
}
