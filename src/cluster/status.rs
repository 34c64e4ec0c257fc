//! What `/master` and `catstore status` show: directory and heartbeats together, and what each group may lose.

use super::facts::{leading, newest};
use super::moves::MoveStatus;
use super::slots::SlotTable;
use super::view::{GroupView, WorkerFacts};
use serde::{Deserialize, Serialize};

/// What a master knows of one worker: directory and last heartbeat together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its index.
    pub index: u32,
    /// Its group.
    pub group: u32,
    /// The uuid of its data folder.
    pub uuid: String,
    /// Where it serves.
    pub address: String,
    /// Its data folder.
    pub data: String,
    /// True if a heartbeat came within the last 3 seconds.
    pub alive: bool,
    /// Milliseconds since the last heartbeat; none since this master started.
    pub seen_ms: Option<u64>,
    /// The last heartbeat.
    pub facts: Option<WorkerFacts>,
    /// For a worker that is down: the command that starts it again.
    pub restart: Option<String>,
    /// True once it has been dead for too long to vote.
    #[serde(default)]
    pub dead: bool,
    /// For a worker that never comes back: why.
    #[serde(default)]
    pub removed: Option<String>,
}

/// What a master knows of one group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Its id.
    pub group: u32,
    /// The indices of its members.
    pub members: Vec<u32>,
    /// How many slots it owns.
    pub slots: u16,
    /// Keys, from the last heartbeat of its leader.
    pub keys: Option<u64>,
    /// Bytes of keys and values, likewise.
    pub bytes: Option<u64>,
    /// The member that leads, if one is known.
    #[serde(default)]
    pub leader: Option<u32>,
    /// The members that vote, ascending, by the newest that was heard of the group.
    #[serde(default)]
    pub voters: Vec<u32>,
    /// The members that do not, likewise.
    #[serde(default)]
    pub standbys: Vec<u32>,
    /// Its incarnation.
    #[serde(default = "super::facts::first")]
    pub incarnation: u64,
    /// What it may lose, as a sentence: `1 member: lose worker 0 and its keys are gone`.
    pub may_lose: String,
    /// True if its slots are to go to other groups, and then its members.
    #[serde(default)]
    pub draining: bool,
    /// What it waits for before it gets as many slots as others: `group 3 waits for 2 more members`.
    #[serde(default)]
    pub waits_for: Option<String>,
    /// The unfinished move that it is in.
    #[serde(default, rename = "move")]
    pub moving: Option<u64>,
}

/// The answer of `/master`, and what `catstore status` shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterStatus {
    /// The id of the cluster.
    pub cluster: String,
    /// The directory's epoch.
    pub epoch: u64,
    /// `open`, `closed` or `failed`.
    pub state: String,
    /// Where this master serves.
    pub address: String,
    /// Its data folder.
    pub data: String,
    /// The version of catstore that it runs.
    pub software: String,
    /// The workers, by ascending index.
    pub workers: Vec<WorkerStatus>,
    /// The groups, by ascending id.
    pub groups: Vec<GroupStatus>,
    /// Slot ranges and their owners.
    pub slots: SlotTable,
    /// The index of this master, once it is known.
    #[serde(default)]
    pub index: Option<u32>,
    /// What this master is among the masters: `leader`, `follower`, `candidate` or `standby`; empty if it is not open.
    #[serde(default)]
    pub role: String,
    /// The masters that vote, as this one knows it; in a joint configuration the incoming ones.
    #[serde(default)]
    pub voters: Vec<u32>,
    /// The outgoing voters of a joint configuration.
    #[serde(default)]
    pub outgoing: Vec<u32>,
    /// The masters that are not removed, by ascending index.
    #[serde(default)]
    pub masters: Vec<MasterStatusEntry>,
    /// The index of the master that leads, if one is known.
    #[serde(default)]
    pub leader: Option<u32>,
    /// The moves that are not finished, by ascending id.
    #[serde(default)]
    pub moves: Vec<MoveStatus>,
}

/// What a master knows of one master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterStatusEntry {
    /// Its index.
    pub index: u32,
    /// Where it serves.
    pub address: String,
    /// Its data folder.
    pub data: String,
    /// True if it leads.
    pub leader: bool,
    /// True if it answered lately; none if this master does not know, because only the one that leads hears of all.
    pub alive: Option<bool>,
    /// True once it has been dead for too long to vote.
    #[serde(default)]
    pub dead: bool,
    /// For a master that is down, or may be: the command that starts it again.
    #[serde(default)]
    pub restart: Option<String>,
}

impl WorkerStatus {
    /// True if it serves, as far as is known.
    fn up(&self) -> bool {
        self.alive && self.facts.as_ref().is_some_and(|facts| facts.state == "open")
    }

    /// True if it serves and holds a copy of its group's data.
    fn live_copy(&self) -> bool {
        self.alive && self.facts.as_ref().is_some_and(WorkerFacts::holds_copy)
    }

    /// Term and index of the last entry of its log, when it was last heard of.
    fn last(&self) -> (u64, u64) {
        self.facts.as_ref().map(|facts| (facts.last_term, facts.last)).unwrap_or_default()
    }

    /// What is wrong with it, and what to do: `worker 1 is down (catstore worker 3002 …)`.
    fn trouble(&self) -> String {
        let index = self.index;
        match (&self.facts, self.alive, &self.restart) {
            (_, false, Some(restart)) => format!("worker {index} is down ({restart})"),
            (_, false, None) => format!("worker {index} is down"),
            (Some(facts), true, _) if facts.state == "closed" => {
                format!("worker {index} is closed (catstore open {index})")
            }
            (Some(facts), true, _) if facts.state == "open" => format!("worker {index} is copying"),
            (_, true, _) => format!("worker {index} does not serve: see its log"),
        }
    }

    /// What brings it back: `start worker 1 again (catstore worker 3002 …)`.
    fn remedy(&self) -> String {
        let index = self.index;
        match (&self.facts, self.alive, &self.restart) {
            (_, false, Some(restart)) => format!("start worker {index} again ({restart})"),
            (Some(facts), true, _) if facts.state == "closed" => {
                format!("open worker {index} again (catstore open {index})")
            }
            _ => format!("start worker {index} again"),
        }
    }
}

impl GroupStatus {
    /// What is known of `group`, which owns `slots`; `workers` holds at least its members.
    pub fn of(group: &GroupView, slots: u16, workers: &[WorkerStatus]) -> GroupStatus {
        let members: Vec<&WorkerStatus> =
            workers.iter().filter(|worker| group.member(worker.index).is_some()).collect();
        let heard = |alive: bool| {
            let facts = members.iter().filter(move |member| member.alive || !alive);
            let facts = facts.filter_map(|member| member.facts.as_ref());
            facts.filter(|facts| facts.belongs(group.group, group.incarnation))
        };
        let leader = leading(heard(true)).filter(|index| group.member(*index).is_some());
        let newest = newest(heard(false));
        let voters = match (newest, members.as_slice()) {
            (Some(facts), _) => ascending(&facts.voters),
            (None, [only]) => vec![only.index],
            (None, _) => Vec::new(),
        };
        let size = heard(false).max_by_key(|facts| (Some(facts.index) == leader, facts.applied));
        GroupStatus {
            group: group.group,
            slots,
            keys: size.map(|facts| facts.keys),
            bytes: size.map(|facts| facts.bytes),
            leader,
            standbys: newest.map(|facts| ascending(&facts.standbys)).unwrap_or_default(),
            incarnation: group.incarnation,
            may_lose: match newest {
                Some(facts) if !facts.outgoing.is_empty() => {
                    let halves = [&voters[..], &facts.outgoing].map(|half| may_lose(&members, half, slots));
                    let stuck = halves.into_iter().find(|text| text.starts_with(NO_MAJORITY));
                    stuck.unwrap_or_else(|| VOTERS_CHANGE.to_owned())
                }
                _ => may_lose(&members, &voters, slots),
            },
            voters,
            members: members.iter().map(|member| member.index).collect(),
            draining: group.draining,
            waits_for: None,
            moving: None,
        }
    }
}

fn ascending(indices: &[u32]) -> Vec<u32> {
    let mut sorted = indices.to_vec();
    sorted.sort_unstable();
    sorted
}

const NO_MAJORITY: &str = "no majority";
/// What may be lost in the middle of a change of voters, when both majorities are needed.
const VOTERS_CHANGE: &str = "its voters are changing: no loss until that is done";

/// What a group may lose, as a sentence. `members` are those that are not removed; `voters` the indices of those
/// that vote, empty if that is not known; `slots` how many it owns.
pub fn may_lose(members: &[&WorkerStatus], voters: &[u32], slots: u16) -> String {
    if slots == 0 {
        return "no slots: nothing to lose".to_owned();
    }
    if let [only] = members
        && voters.iter().all(|index| *index == only.index)
    {
        return match only.up() {
            true => format!("1 member: lose worker {} and its keys are gone", only.index),
            false => format!("1 member: {}", only.remedy()),
        };
    }
    if voters.is_empty() {
        return format!("{} members: which of them vote is not known yet", members.len());
    }
    let (voting, standing): (Vec<&WorkerStatus>, Vec<&WorkerStatus>) =
        members.iter().partition(|member| voters.contains(&member.index));
    let up = voting.iter().filter(|member| member.up()).count();
    let majority = voters.len() / 2 + 1;
    if up < majority {
        return no_majority(members, &voting);
    }
    if let ([voter], 1) = (voting.as_slice(), voters.len()) {
        return one_votes(voter, &standing);
    }
    let mut down: Vec<String> =
        voting.iter().filter(|member| !member.up()).map(|member| member.trouble()).collect();
    let gone = voters.iter().filter(|index| !voting.iter().any(|member| member.index == **index));
    down.extend(gone.map(|index| format!("worker {index} is removed")));
    let mut text = match (up - majority, down.is_empty()) {
        (0, _) => "no further loss".to_owned(),
        (spare, true) if standing.is_empty() => format!("any {spare} of {} may be lost", voters.len()),
        (spare, true) => format!("any {spare} of {} voters may be lost", voters.len()),
        (spare, false) => format!("any {spare} more may be lost"),
    };
    if !down.is_empty() {
        text.push_str(&format!(": {}", down.join(", ")));
    }
    for standby in standing {
        text.push_str(&format!("; {}", describe_standby(standby)));
    }
    text
}

/// The sentence for a group whose only voter is up.
fn one_votes(voter: &WorkerStatus, standing: &[&WorkerStatus]) -> String {
    let standbys: Vec<String> = standing.iter().map(|standby| describe_standby(standby)).collect();
    let mut text = format!("{} members, 1 votes: {}; ", standing.len() + 1, standbys.join(", "));
    let copies = standing.iter().filter(|standby| standby.live_copy());
    text.push_str(&match copies.max_by_key(|standby| standby.last()) {
        Some(copy) => format!(
            "if worker {} dies, writes wait for it or for catstore promote {}",
            voter.index, copy.index
        ),
        None => format!("until there is a live copy: lose worker {} and its keys are gone", voter.index),
    });
    text
}

fn describe_standby(standby: &WorkerStatus) -> String {
    match standby.live_copy() {
        true => format!("worker {} is a live copy", standby.index),
        false => standby.trouble(),
    }
}

/// The sentence for a group in which too few voters are up.
fn no_majority(members: &[&WorkerStatus], voting: &[&WorkerStatus]) -> String {
    let mut ways: Vec<String> =
        voting.iter().filter(|member| !member.up()).map(|member| member.remedy()).collect();
    let copies = members.iter().filter(|member| member.live_copy());
    if let Some(copy) = copies.max_by_key(|member| member.last()) {
        ways.push(format!("catstore promote {} --accept-data-loss", copy.index));
    }
    format!("{NO_MAJORITY}: {}", ways.join(", or "))
}

/// What may be missing if worker `index` is promoted, as a sentence. `members` are those of its group that are not
/// removed, with what was heard of them last.
pub fn promotion_loses(index: u32, members: &[WorkerStatus]) -> String {
    let own = members.iter().find(|member| member.index == index).map(WorkerStatus::last).unwrap_or_default();
    let heard = members.iter().filter(|member| member.index != index && member.facts.is_some());
    let ends = format!("worker {index}'s log ends at entry {}", own.1);
    let Some(other) = heard.max_by_key(|member| member.last()) else {
        return format!(
            "{ends}; nothing was heard of the others since this master started, so what it lacks is not known"
        );
    };
    let (_, end) = other.last();
    let whose = format!("worker {}'s", other.index);
    let ago = other.seen_ms.map(|ms| format!(" {} s ago", ms / 1000)).unwrap_or_default();
    if other.last() > own {
        format!(
            "{ends}, {whose} at entry {end} when it was last heard of{ago}: what lies between, and what was written after that, is missing"
        )
    } else {
        format!(
            "{ends}, {whose} at entry {end} when it was last heard of{ago}: only what was written after that is missing"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::view::{CopyProgress, MemberView};

    /// A member in a word: `up`, `down`, `closed`, `failed`, `copying`, with the end of its log.
    fn member(index: u32, word: &str, last: u64) -> WorkerStatus {
        let state = if ["copying", "new", "down", "up"].contains(&word) { "open" } else { word };
        let copy = (word == "copying").then(CopyProgress::default);
        let voters = if word == "new" { Vec::new() } else { vec![0] };
        let facts = WorkerFacts { index, state: state.into(), copy, last, voters, ..WorkerFacts::default() };
        WorkerStatus {
            index,
            group: 0,
            uuid: String::new(),
            address: String::new(),
            data: String::new(),
            alive: word != "down",
            seen_ms: Some(1),
            facts: Some(facts),
            restart: (word == "down").then(|| format!("restart {index}")),
            dead: false,
            removed: None,
        }
    }

    fn says(words: &[&str], voters: &[u32]) -> String {
        let members: Vec<WorkerStatus> =
            (0..).zip(words).map(|(index, word)| member(index, word, 10 + u64::from(index))).collect();
        may_lose(&members.iter().collect::<Vec<_>>(), voters, 16384)
    }

    #[test]
    fn what_a_group_may_lose() {
        let table: &[(&[&str], &[u32], &str)] = &[
            (&["up"], &[0], "1 member: lose worker 0 and its keys are gone"),
            (&["down"], &[], "1 member: start worker 0 again (restart 0)"),
            (&["closed"], &[0], "1 member: open worker 0 again (catstore open 0)"),
            (&["failed"], &[0], "1 member: start worker 0 again"),
            (
                &["up", "up"],
                &[0],
                "2 members, 1 votes: worker 1 is a live copy; if worker 0 dies, writes wait for it or for catstore promote 1",
            ),
            (
                &["up", "copying"],
                &[0],
                "2 members, 1 votes: worker 1 is copying; until there is a live copy: lose worker 0 and its keys are gone",
            ),
            (
                &["up", "down"],
                &[0],
                "2 members, 1 votes: worker 1 is down (restart 1); until there is a live copy: lose worker 0 and its keys are gone",
            ),
            (
                &["down", "up"],
                &[0],
                "no majority: start worker 0 again (restart 0), or catstore promote 1 --accept-data-loss",
            ),
            (&["down", "new"], &[0], "no majority: start worker 0 again (restart 0)"),
            (&["up"], &[0, 9], "no majority: catstore promote 0 --accept-data-loss"),
            (&["down", "copying"], &[0], "no majority: start worker 0 again (restart 0)"),
            (
                &["up", "up", "copying"],
                &[0],
                "3 members, 1 votes: worker 1 is a live copy, worker 2 is copying; if worker 0 dies, writes wait for it or for catstore promote 1",
            ),
            (&["up", "up", "up"], &[], "3 members: which of them vote is not known yet"),
            (&["up", "up", "up"], &[0, 1, 2], "any 1 of 3 may be lost"),
            (&["up", "down", "up"], &[0, 1, 2], "no further loss: worker 1 is down (restart 1)"),
            (&["up", "closed", "up"], &[0, 1, 2], "no further loss: worker 1 is closed (catstore open 1)"),
            (&["up", "failed", "up"], &[0, 1, 2], "no further loss: worker 1 does not serve: see its log"),
            (
                &["up", "down", "closed"],
                &[0, 1, 2],
                "no majority: start worker 1 again (restart 1), or open worker 2 again (catstore open 2), or catstore promote 0 --accept-data-loss",
            ),
            (
                &["down", "down", "down"],
                &[0, 1, 2],
                "no majority: start worker 0 again (restart 0), or start worker 1 again (restart 1), or start worker 2 again (restart 2)",
            ),
            (&["up", "up", "up", "up"], &[0, 1, 2], "any 1 of 3 voters may be lost; worker 3 is a live copy"),
            (
                &["up", "down", "up", "copying"],
                &[0, 1, 2],
                "no further loss: worker 1 is down (restart 1); worker 3 is copying",
            ),
            (&["up", "up", "up", "up", "up"], &[0, 1, 2, 3, 4], "any 2 of 5 may be lost"),
            (
                &["up", "up", "up", "down", "up"],
                &[0, 1, 2, 3, 4],
                "any 1 more may be lost: worker 3 is down (restart 3)",
            ),
            // A voter that was removed for good is no member; it does not come back.
            (&["up", "up"], &[0, 1, 9], "no further loss: worker 9 is removed"),
            (
                &["up", "down"],
                &[0, 1, 9],
                "no majority: start worker 1 again (restart 1), or catstore promote 0 --accept-data-loss",
            ),
        ];
        for (words, voters, expected) in table {
            assert_eq!(says(words, voters), *expected, "{words:?}");
        }
        assert_eq!(may_lose(&[&member(3, "up", 1)], &[3], 0), "no slots: nothing to lose");
    }

    #[test]
    fn a_group_is_described_by_the_newest_that_was_heard() {
        let mut workers: Vec<WorkerStatus> = (0..4).map(|index| member(index, "up", 9)).collect();
        let mut tell = |at: usize, role: &str, term, applied, leader, voters: &[u32]| {
            if let Some(facts) = &mut workers[at].facts {
                (facts.role, facts.term, facts.applied, facts.leader) = (role.into(), term, applied, leader);
                (facts.voters, facts.standbys, facts.keys) = (voters.to_vec(), vec![3], applied);
            }
        };
        tell(0, "leader", 4, 5, Some(0), &[0]);
        tell(1, "leader", 5, 9, Some(1), &[0, 1, 2]);
        tell(2, "follower", 5, 8, Some(1), &[0]);
        tell(3, "leader", 9, 99, Some(3), &[3]);
        // Worker 3 is of another incarnation.
        workers[3].facts.as_mut().unwrap().incarnation = 7;
        let view = |index| MemberView {
            index,
            address: String::new(),
            voter: false,
            fit: true,
            data: String::new(),
        };
        let group = GroupView::new(0, None, (0..4).map(view).collect());
        let status = GroupStatus::of(&group, 16384, &workers);
        assert_eq!((status.leader, status.keys), (Some(1), Some(9)));
        assert_eq!((status.voters.as_slice(), status.standbys.as_slice()), (&[0, 1, 2][..], &[3][..]));
        assert_eq!(status.may_lose, "any 1 of 3 voters may be lost; worker 3 is a live copy");
        // In the middle of a change both majorities count.
        workers[1].facts.as_mut().unwrap().outgoing = vec![0, 2, 3];
        assert_eq!(GroupStatus::of(&group, 16384, &workers).may_lose, VOTERS_CHANGE);
        workers[1].facts.as_mut().unwrap().outgoing = vec![7, 8, 9];
        let status = GroupStatus::of(&group, 16384, &workers);
        assert!(status.may_lose.starts_with("no majority: "), "{}", status.may_lose);
        workers[1].facts.as_mut().unwrap().outgoing.clear();
        // The leader dies: the others still name it, and know what it knew last.
        workers[1].alive = false;
        assert_eq!(GroupStatus::of(&group, 16384, &workers).leader, Some(1));
        workers[2].facts.as_mut().unwrap().leader = None;
        let status = GroupStatus::of(&group, 16384, &workers);
        assert_eq!((status.leader, status.voters.len(), status.keys), (Some(0), 3, Some(5)));
    }

    #[test]
    fn what_a_promotion_loses() {
        let mut members = [member(0, "down", 120), member(1, "up", 100), member(2, "up", 90)];
        members[0].seen_ms = Some(42_000);
        let says = |members: &[WorkerStatus]| promotion_loses(1, members);
        assert_eq!(
            says(&members),
            "worker 1's log ends at entry 100, worker 0's at entry 120 when it was last heard of 42 s ago: what lies between, and what was written after that, is missing"
        );
        members[0].facts.as_mut().unwrap().last = 100;
        assert!(says(&members).ends_with("only what was written after that is missing"));
        assert!(says(&members[1..2]).contains("nothing was heard of the others"));
    }
}
