//! The status as text for people.

use super::{MasterLine, Status};
use crate::cluster::verifying::ChunkFacts;
use crate::cluster::view::{GroupStatus, WorkerFacts, WorkerStatus};
use crate::cmd::{progress, text};

/// The status as text.
pub fn render(status: &Status) -> String {
    let mut out = format!("cluster {} epoch {}\n\n", status.cluster, status.epoch);
    render_masters(&mut out, status);
    let (workers, removed): (Vec<&WorkerStatus>, Vec<&WorkerStatus>) =
        status.workers.iter().partition(|worker| worker.removed.is_none());
    if workers.is_empty() {
        out.push_str("\nno worker yet: start one with `catstore worker 3001`\n");
        return out;
    }
    let rows: Vec<Vec<String>> = workers.iter().map(|worker| worker_row(status, worker)).collect();
    let head = ["WORKER", "GROUP", "ADDRESS", "STATE", "ROLE", "LAG", "KEYS", "SIZE", "VERSION"];
    out.push('\n');
    out.push_str(&text::table(&head, &[0, 1, 5, 6, 7], &rows));
    for worker in workers.iter().filter(|worker| !worker.alive) {
        out.push_str(&down(worker));
    }
    out.extend(workers.iter().filter(|worker| worker.alive).filter_map(|worker| chunks(worker)));
    if !removed.is_empty() {
        let removed: Vec<String> = removed.iter().map(|worker| describe_removed(worker)).collect();
        out.push_str(&format!("removed for good: {}\n", removed.join(", ")));
    }
    let rows: Vec<Vec<String>> = status.groups.iter().map(group_row).collect();
    let head = ["GROUP", "LEADER", "VOTERS", "STANDBYS", "SLOTS", "KEYS", "SIZE", "MAY LOSE"];
    out.push('\n');
    out.push_str(&text::table(&head, &[0, 1, 4, 5, 6], &rows));
    for group in &status.groups {
        if group.draining {
            out.push_str(&format!("group {} is draining: its slots go to other groups\n", group.group));
        }
        out.extend(group.waits_for.iter().map(|waits| format!("{waits}\n")));
    }
    out.extend(status.moves.iter().map(|status| progress::move_line(status) + "\n"));
    out
}

fn render_masters(out: &mut String, status: &Status) {
    let (masters, voters) = (&status.masters, &status.master_voters);
    let rows: Vec<Vec<String>> = masters.iter().map(master_row).collect();
    out.push_str(&text::table(&["MASTER", "ADDRESS", "STATE", "ROLE", "VERSION", "DATA"], &[0], &rows));
    for master in masters {
        let name = name(master);
        match master.state.as_str() {
            "silent" => {
                out.push_str(&format!("{name} does not answer\n"));
                if let Some(restart) = &master.restart {
                    out.push_str(&format!("  start it again: {restart}\n"));
                }
            }
            "closed" => {
                let address = &master.address;
                out.push_str(&format!(
                    "{name} is closed\n  open it again: catstore open --master {address}\n"
                ));
            }
            "failed" => out.push_str(&format!("{name} failed: see its log\n")),
            _ => {}
        }
    }
    if !masters.iter().any(|master| master.leader) {
        out.push_str("no master leads: reads and writes go on, new workers and other changes wait\n");
    } else if !status.master_outgoing.is_empty() {
        out.push_str("the masters' voters are changing: no loss until that is done\n");
    } else if masters.len() > 1 && !voters.is_empty() {
        out.push_str(&masters_may_lose(masters, voters));
    }
}

/// How many masters may be lost before changes of the directory wait.
fn masters_may_lose(masters: &[MasterLine], voters: &[u32]) -> String {
    if let [only] = voters {
        return format!("of {} masters master {only} alone votes: without it changes wait\n", masters.len());
    }
    let votes = |master: &&MasterLine| master.index.is_some_and(|index| voters.contains(&index));
    let up = masters.iter().filter(votes).filter(|master| master.state == "open").count();
    match up.saturating_sub(voters.len() / 2 + 1) {
        0 => "no further master may be lost\n".to_owned(),
        spare => format!("any {spare} of {} masters may be lost\n", voters.len()),
    }
}

fn name(master: &MasterLine) -> String {
    match master.index {
        Some(index) => format!("master {index}"),
        None => format!("the master at {}", master.address),
    }
}

fn master_row(master: &MasterLine) -> Vec<String> {
    vec![
        or_dash(master.index.map(|index| index.to_string())),
        master.address.clone(),
        master.state.clone(),
        or_dash(master.role.clone()),
        or_dash(master.software.clone()),
        or_dash(master.data.clone()),
    ]
}

fn or_dash(text: Option<String>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or_else(|| "-".to_owned())
}

fn state(worker: &WorkerStatus) -> &str {
    match (&worker.facts, worker.alive) {
        (_, false) => "down",
        (Some(facts), true) => &facts.state,
        // It answered that it does not serve.
        (None, true) => "not open",
    }
}

fn worker_row(status: &Status, worker: &WorkerStatus) -> Vec<String> {
    let facts = worker.facts.as_ref();
    let live = facts.filter(|_| worker.alive);
    // One that is closed does not count its keys.
    let held = facts.filter(|facts| facts.state == "open");
    vec![
        worker.index.to_string(),
        worker.group.to_string(),
        worker.address.clone(),
        state(worker).to_owned(),
        or_dash(live.map(role)),
        or_dash(live.and_then(|facts| lag(status, facts)).map(|lag| lag.to_string())),
        or_dash(held.map(|facts| facts.keys.to_string())),
        or_dash(held.map(|facts| text::bytes(facts.bytes))),
        or_dash(facts.map(|facts| facts.software.clone())),
    ]
}

/// `leader`, `follower`, `standby`; `copying 45 %` for a member that does not hold what the others do.
fn role(facts: &WorkerFacts) -> String {
    match facts.copy.filter(|copy| !copy.done) {
        Some(copy) => format!("copying {} %", 100 * copy.bytes / copy.total.max(copy.bytes).max(1)),
        None if facts.state == "open" && facts.voters.is_empty() => "joining".to_owned(),
        None => facts.role.clone(),
    }
}

/// How many entries of the leader's log a member has not applied, by the last heartbeats of both; none while it copies.
fn lag(status: &Status, facts: &WorkerFacts) -> Option<u64> {
    let group = status.groups.iter().find(|group| group.group == facts.group)?;
    let leader = group.leader.filter(|leader| *leader != facts.index && facts.holds_copy())?;
    let leader = status.workers.iter().find(|worker| worker.index == leader)?.facts.as_ref()?;
    Some(leader.last.saturating_sub(facts.applied))
}

fn down(worker: &WorkerStatus) -> String {
    let seen = match worker.seen_ms {
        Some(milliseconds) => format!("was last seen {} ago", age(milliseconds)),
        None => "does not answer".to_owned(),
    };
    let dead = if worker.dead { ", too long to keep a vote" } else { "" };
    let mut text =
        format!("worker {} {seen}{dead}; its folder on its machine: {}\n", worker.index, worker.data);
    if let Some(restart) = &worker.restart {
        text.push_str(&format!("  start it again: {restart}\n"));
    }
    text
}

/// A line about chunks and rows that were not as they must be.
fn chunks(worker: &WorkerStatus) -> Option<String> {
    let facts = worker.facts.as_ref()?;
    let ChunkFacts { mended, rotten, lacking, .. } = facts.chunks;
    let mut words = Vec::new();
    if facts.renewals > 0 {
        words.push("met rotten rows and pulled all rows anew".to_owned());
    }
    if rotten > 0 {
        words.push(format!("met {}", text::plural(rotten, "rotten chunk")));
    }
    if mended > 0 {
        words.push(format!("mended {}", text::plural(mended, "chunk")));
    }
    if lacking > 0 {
        words.push(format!("lacks chunks of {}", text::plural(lacking, "value")));
    }
    let index = worker.index;
    let rots = rotten > 0 || facts.renewals > 0;
    let hint = if rots { format!("\n  is its disk well? catstore verify {index}") } else { String::new() };
    (!words.is_empty()).then(|| format!("worker {index} {}{hint}\n", words.join(", ")))
}

fn describe_removed(worker: &WorkerStatus) -> String {
    match worker.removed.as_deref().filter(|why| !why.is_empty()) {
        Some(why) => format!("worker {} ({why})", worker.index),
        None => format!("worker {}", worker.index),
    }
}

fn age(milliseconds: u64) -> String {
    match milliseconds / 1000 {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7199 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

fn group_row(group: &GroupStatus) -> Vec<String> {
    let indices = |indices: &[u32]| {
        let words: Vec<String> = indices.iter().map(u32::to_string).collect();
        or_dash(Some(words.join(" ")))
    };
    vec![
        group.group.to_string(),
        or_dash(group.leader.map(|leader| leader.to_string())),
        indices(&group.voters),
        indices(&group.standbys),
        group.slots.to_string(),
        or_dash(group.keys.map(|keys| keys.to_string())),
        or_dash(group.bytes.map(text::bytes)),
        group.may_lose.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::slots::SlotTable;
    use crate::cluster::view::CopyProgress;

    fn worker(index: u32, role: &str, alive: bool) -> WorkerStatus {
        let facts = WorkerFacts {
            index,
            state: "open".into(),
            role: role.into(),
            keys: 12,
            bytes: 2048,
            last: 20,
            applied: 20 - u64::from(index),
            voters: vec![0, 1],
            software: "0.1.0".into(),
            ..WorkerFacts::default()
        };
        WorkerStatus {
            index,
            group: 0,
            uuid: "u".into(),
            address: format!("127.0.0.1:300{}", index + 1),
            data: format!("/data/{index}"),
            alive,
            seen_ms: Some(5000),
            facts: Some(facts),
            restart: (!alive).then(|| format!("catstore worker 300{}", index + 1)),
            dead: false,
            removed: None,
        }
    }

    fn master(index: u32, role: &str) -> MasterLine {
        MasterLine {
            index: Some(index),
            address: format!("127.0.0.1:30{index}0"),
            state: "open".into(),
            role: Some(role.into()),
            leader: role == "leader",
            ..MasterLine::default()
        }
    }

    fn status() -> Status {
        let group = GroupStatus {
            group: 0,
            members: vec![0, 1, 2],
            slots: 16384,
            keys: Some(12),
            bytes: Some(2048),
            leader: Some(0),
            voters: vec![0, 1, 2],
            standbys: Vec::new(),
            incarnation: 1,
            may_lose: "no further loss".into(),
            draining: false,
            waits_for: None,
            moving: None,
        };
        let removed = WorkerStatus { removed: Some("replaced by worker 2".into()), ..worker(3, "", false) };
        Status {
            cluster: "c0ffee".into(),
            epoch: 3,
            masters: vec![master(0, "leader")],
            master_voters: vec![0],
            master_outgoing: Vec::new(),
            workers: vec![
                worker(0, "leader", true),
                worker(1, "follower", true),
                worker(2, "", false),
                removed,
            ],
            groups: vec![group],
            slots: SlotTable::whole(0),
            moves: Vec::new(),
        }
    }

    #[test]
    fn moves_and_those_who_wait_stand_below_the_groups() {
        let mut status = status();
        status.groups[0].draining = true;
        status.groups[0].waits_for = Some("group 0 waits for 2 more members".into());
        let order = r#"{"id":7,"slots":[{"first":0,"last":9}],"from":0,"to":3}"#;
        status.moves.push(serde_json::from_str(order).unwrap());
        assert!(render(&status).ends_with(
            "group 0 is draining: its slots go to other groups\n\
             group 0 waits for 2 more members\n\
             move 7: group 0 to 3, 10 slots: ordered\n"
        ));
    }

    #[test]
    fn the_status_as_text() {
        assert_eq!(
            render(&status()),
            "cluster c0ffee epoch 3\n\
             \n\
             MASTER  ADDRESS         STATE  ROLE    VERSION  DATA\n\
             \x20    0  127.0.0.1:3000  open   leader  -        -\n\
             \n\
             WORKER  GROUP  ADDRESS         STATE  ROLE      LAG  KEYS     SIZE  VERSION\n\
             \x20    0      0  127.0.0.1:3001  open   leader      -    12  2.0 KiB  0.1.0\n\
             \x20    1      0  127.0.0.1:3002  open   follower    1    12  2.0 KiB  0.1.0\n\
             \x20    2      0  127.0.0.1:3003  down   -           -    12  2.0 KiB  0.1.0\n\
             worker 2 was last seen 5 s ago; its folder on its machine: /data/2\n\
             \x20 start it again: catstore worker 3003\n\
             removed for good: worker 3 (replaced by worker 2)\n\
             \n\
             GROUP  LEADER  VOTERS  STANDBYS  SLOTS  KEYS     SIZE  MAY LOSE\n\
             \x20   0       0  0 1 2   -         16384    12  2.0 KiB  no further loss\n"
        );
    }

    #[test]
    fn chunks_that_were_not_well_are_told() {
        let mut worker = worker(1, "follower", true);
        assert_eq!(chunks(&worker), None);
        let facts = worker.facts.as_mut().unwrap();
        facts.chunks = ChunkFacts { fetched: 9, collected: 9, ..ChunkFacts::default() };
        assert_eq!(chunks(&worker), None);
        worker.facts.as_mut().unwrap().chunks.lacking = 1;
        assert_eq!(chunks(&worker).unwrap(), "worker 1 lacks chunks of 1 value\n");
        worker.facts.as_mut().unwrap().renewals = 1;
        assert_eq!(
            chunks(&worker).unwrap(),
            "worker 1 met rotten rows and pulled all rows anew, lacks chunks of 1 value\n  is its disk well? catstore verify 1\n"
        );
        let facts = worker.facts.as_mut().unwrap();
        facts.renewals = 0;
        (facts.chunks.mended, facts.chunks.rotten) = (1, 2);
        assert_eq!(
            chunks(&worker).unwrap(),
            "worker 1 met 2 rotten chunks, mended 1 chunk, lacks chunks of 1 value\n  is its disk well? catstore verify 1\n"
        );
    }

    #[test]
    fn masters_that_do_not_serve_are_named_with_what_to_do() {
        let mut status = status();
        status.masters.extend([master(1, "follower"), master(2, "follower")]);
        status.masters[1].state = "silent".into();
        status.masters[1].restart = Some("catstore master 3010".into());
        status.masters[2].state = "closed".into();
        let text = render(&status);
        assert!(
            text.contains("master 1 does not answer\n  start it again: catstore master 3010\n"),
            "{text}"
        );
        assert!(
            text.contains("master 2 is closed\n  open it again: catstore open --master 127.0.0.1:3020\n")
        );
        assert!(!text.contains("no master leads"));
        assert!(text.contains("of 3 masters master 0 alone votes"), "{text}");
        status.master_voters = vec![0, 1, 2];
        assert!(render(&status).contains("\nno further master may be lost\n"));
        status.masters[1].state = "open".into();
        status.masters[2].state = "open".into();
        assert!(render(&status).contains("\nany 1 of 3 masters may be lost\n"));
        status.master_outgoing = vec![0];
        assert!(render(&status).contains("\nthe masters' voters are changing: no loss until that is done\n"));
        status.master_outgoing.clear();
        status.masters = vec![MasterLine { index: None, state: "silent".into(), ..master(0, "") }];
        status.workers.clear();
        let text = render(&status);
        assert!(
            text.contains("the master at 127.0.0.1:3000 does not answer\nno master leads: reads"),
            "{text}"
        );
        assert!(text.contains("no worker yet"));
    }

    #[test]
    fn a_copy_under_way_shows_how_far_it_is() {
        let mut facts = worker(1, "standby", true).facts.unwrap();
        facts.copy = Some(CopyProgress { bytes: 45, total: 100, rows: 1, done: false });
        assert_eq!(role(&facts), "copying 45 %");
        facts.copy = None;
        assert_eq!(role(&facts), "standby");
        facts.voters.clear();
        assert_eq!(role(&facts), "joining");
    }
}
