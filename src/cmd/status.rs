//! `catstore status`: nodes, groups, and what each group may lose. If no master answers, it is put together from what
//! the workers know.

use super::options::ClientArgs;
use super::{output, text};
use crate::client::Client;
use crate::cluster::slots::SlotTable;
use crate::cluster::view::{ClusterView, GroupStatus, GroupView, MemberView, WorkerStatus};
use crate::error::{Error, Kind, Result};
use serde::Serialize;
use std::time::Duration;

/// Arguments of `catstore status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// One JSON document
    #[arg(long, conflicts_with = "watch")]
    pub json: bool,
    /// Shows it again each second, until Ctrl-C
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// What is known of one master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MasterLine {
    /// Where it serves.
    pub address: String,
    /// `open`, `closed`, `failed` or `silent`.
    pub state: String,
    /// Its data folder, if it answered.
    pub data: Option<String>,
    /// The version of catstore that it runs, if it answered.
    pub software: Option<String>,
}

/// What `catstore status --json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The id of the cluster.
    pub cluster: String,
    /// The directory's epoch.
    pub epoch: u64,
    /// The masters.
    pub masters: Vec<MasterLine>,
    /// The workers, by ascending index.
    pub workers: Vec<WorkerStatus>,
    /// The groups, by ascending id.
    pub groups: Vec<GroupStatus>,
    /// Slot ranges and their owners.
    pub slots: SlotTable,
}

impl Args {
    /// Shows the status.
    pub fn run(self) -> Result<()> {
        let client = self.client.client()?;
        if self.json {
            return output::json(&gather(&client)?);
        }
        if !self.watch {
            return output::write(render(&gather(&client)?).as_bytes());
        }
        loop {
            let screen = match gather(&client) {
                Ok(status) => render(&status),
                // Whoever watches wants to see it come back.
                Err(error) => format!("{}\n", super::report::line(&error)),
            };
            let clear = if output::is_terminal() { "\x1b[H\x1b[2J" } else { "" };
            output::write(format!("{clear}{screen}").as_bytes())?;
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}

/// Asks the master; without one, each worker of the view.
pub fn gather(client: &Client) -> Result<Status> {
    let view = client.cluster()?;
    match client.master_status() {
        Ok(master) => Ok(Status {
            cluster: master.cluster,
            epoch: master.epoch,
            masters: vec![MasterLine {
                address: master.address,
                state: master.state,
                data: Some(master.data),
                software: Some(master.software),
            }],
            workers: master.workers,
            groups: master.groups,
            slots: master.slots,
        }),
        Err(error) if matches!(error.kind(), Kind::Unauthorized | Kind::Forbidden) => Err(error),
        Err(error) => Ok(from_workers(client, view, &error)),
    }
}

fn from_workers(client: &Client, view: ClusterView, error: &Error) -> Status {
    let state = match error.kind() {
        Kind::Closed => "closed",
        Kind::Failed | Kind::Damaged => "failed",
        _ => "silent",
    };
    let line = |address: &String| MasterLine {
        address: address.clone(),
        state: state.into(),
        data: None,
        software: None,
    };
    let members =
        view.groups.iter().flat_map(|group| group.members.iter().map(move |member| (group, member)));
    let mut workers: Vec<WorkerStatus> =
        members.map(|(group, member)| ask_worker(client, &view, group, member)).collect();
    workers.sort_by_key(|worker| worker.index);
    Status {
        masters: view.masters.iter().map(line).collect(),
        groups: view.groups.iter().map(|group| group_status(&view, group, &workers)).collect(),
        workers,
        cluster: view.cluster,
        epoch: view.epoch,
        slots: view.slots,
    }
}

fn ask_worker(client: &Client, view: &ClusterView, group: &GroupView, member: &MemberView) -> WorkerStatus {
    let facts = client.worker_facts(&member.address);
    let alive = match &facts {
        Ok(facts) => facts.index == member.index && facts.cluster == view.cluster,
        // It answered, if only to say that it does not serve.
        Err(error) => error.kind() != Kind::Unreachable,
    };
    WorkerStatus {
        index: member.index,
        group: group.group,
        uuid: facts.as_ref().map(|facts| facts.uuid.clone()).unwrap_or_default(),
        address: member.address.clone(),
        data: member.data.clone(),
        alive,
        seen_ms: alive.then_some(0),
        facts: facts.ok().filter(|_| alive),
        restart: (!alive).then(|| restart(view, member)),
    }
}

/// The command that starts a worker again.
fn restart(view: &ClusterView, member: &MemberView) -> String {
    let port = member.address.rsplit_once(':').map_or("PORT", |(_, port)| port);
    let masters = view.masters.join(",");
    format!("catstore worker {port} --master {} --data {}", text::quote(&masters), text::quote(&member.data))
}

fn group_status(view: &ClusterView, group: &GroupView, workers: &[WorkerStatus]) -> GroupStatus {
    let members: Vec<u32> = group.members.iter().map(|member| member.index).collect();
    let leader = group.target().map(|member| member.index);
    let facts =
        workers.iter().find(|worker| Some(worker.index) == leader).and_then(|worker| worker.facts.as_ref());
    let may_lose = match members.as_slice() {
        [only] => format!("1 member: lose worker {only} and its keys are gone"),
        several => format!("{} members", several.len()),
    };
    GroupStatus {
        group: group.group,
        slots: view.slots.count(group.group),
        keys: facts.map(|facts| facts.keys),
        bytes: facts.map(|facts| facts.bytes),
        members,
        may_lose,
    }
}

/// The status as text.
pub fn render(status: &Status) -> String {
    let mut out = format!("cluster {} epoch {}\n\n", status.cluster, status.epoch);
    let masters: Vec<Vec<String>> = status.masters.iter().map(master_row).collect();
    out.push_str(&text::table(&["MASTER", "STATE", "VERSION", "DATA"], &[], &masters));
    for master in status.masters.iter().filter(|master| master.state != "open") {
        out.push_str(&format!(
            "the master at {} is {}: reads and writes go on, new workers wait\n",
            master.address, master.state
        ));
    }
    if status.workers.is_empty() {
        out.push_str("\nno worker yet: start one with `catstore worker 3001`\n");
        return out;
    }
    let workers: Vec<Vec<String>> = status.workers.iter().map(worker_row).collect();
    let head = ["WORKER", "GROUP", "ADDRESS", "STATE", "ROLE", "KEYS", "SIZE", "VERSION"];
    out.push('\n');
    out.push_str(&text::table(&head, &[0, 1, 5, 6], &workers));
    for worker in status.workers.iter().filter(|worker| !worker.alive) {
        out.push_str(&down(worker));
    }
    let groups: Vec<Vec<String>> = status.groups.iter().map(|group| group_row(status, group)).collect();
    out.push('\n');
    out.push_str(&text::table(
        &["GROUP", "LEADER", "SLOTS", "KEYS", "SIZE", "MAY LOSE"],
        &[0, 1, 2, 3, 4],
        &groups,
    ));
    out
}

fn master_row(master: &MasterLine) -> Vec<String> {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    vec![master.address.clone(), master.state.clone(), or_dash(&master.software), or_dash(&master.data)]
}

fn state(worker: &WorkerStatus) -> &str {
    match (&worker.facts, worker.alive) {
        (_, false) => "down",
        (Some(facts), true) => &facts.state,
        // It answered that it does not serve.
        (None, true) => "not open",
    }
}

fn worker_row(worker: &WorkerStatus) -> Vec<String> {
    let facts = worker.facts.as_ref();
    let or_dash =
        |text: Option<String>| text.filter(|text| !text.is_empty()).unwrap_or_else(|| "-".to_owned());
    vec![
        worker.index.to_string(),
        worker.group.to_string(),
        worker.address.clone(),
        state(worker).to_owned(),
        or_dash(facts.filter(|_| worker.alive).map(|facts| facts.role.clone())),
        or_dash(facts.map(|facts| facts.keys.to_string())),
        or_dash(facts.map(|facts| text::bytes(facts.bytes))),
        or_dash(facts.map(|facts| facts.software.clone())),
    ]
}

fn down(worker: &WorkerStatus) -> String {
    let seen = match worker.seen_ms {
        Some(milliseconds) => format!("was last seen {} ago", age(milliseconds)),
        None => "does not answer".to_owned(),
    };
    let mut text = format!("worker {} {seen}; its folder on its machine: {}\n", worker.index, worker.data);
    if let Some(restart) = &worker.restart {
        text.push_str(&format!("  start it again: {restart}\n"));
    }
    text
}

fn age(milliseconds: u64) -> String {
    match milliseconds / 1000 {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7199 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

fn group_row(status: &Status, group: &GroupStatus) -> Vec<String> {
    let leads = |worker: &&WorkerStatus| {
        worker.group == group.group
            && worker.alive
            && worker.facts.as_ref().is_some_and(|facts| facts.role == "leader")
    };
    let number = |number: Option<String>| number.unwrap_or_else(|| "-".to_owned());
    vec![
        group.group.to_string(),
        number(status.workers.iter().find(leads).map(|worker| worker.index.to_string())),
        group.slots.to_string(),
        number(group.keys.map(|keys| keys.to_string())),
        number(group.bytes.map(text::bytes)),
        group.may_lose.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::view::WorkerFacts;

    fn worker(index: u32, alive: bool) -> WorkerStatus {
        let facts = WorkerFacts {
            index,
            state: "open".into(),
            role: "leader".into(),
            keys: 12,
            bytes: 2048,
            software: "0.1.0".into(),
            ..WorkerFacts::default()
        };
        WorkerStatus {
            index,
            group: index,
            uuid: "u".into(),
            address: format!("127.0.0.1:300{}", index + 1),
            data: format!("/data/{index}"),
            alive,
            seen_ms: Some(5000),
            facts: Some(facts),
            restart: (!alive).then(|| format!("catstore worker 300{}", index + 1)),
        }
    }

    fn status() -> Status {
        let group = |group: u32| GroupStatus {
            group,
            members: vec![group],
            slots: SlotTable::whole(0).count(group),
            keys: Some(12),
            bytes: Some(2048),
            may_lose: format!("1 member: lose worker {group} and its keys are gone"),
        };
        Status {
            cluster: "c0ffee".into(),
            epoch: 3,
            masters: vec![MasterLine {
                address: "127.0.0.1:3000".into(),
                state: "open".into(),
                data: None,
                software: None,
            }],
            workers: vec![worker(0, true), worker(1, false)],
            groups: vec![group(0), group(1)],
            slots: SlotTable::whole(0),
        }
    }

    #[test]
    fn the_status_as_text() {
        assert_eq!(
            render(&status()),
            "cluster c0ffee epoch 3\n\
             \n\
             MASTER          STATE  VERSION  DATA\n\
             127.0.0.1:3000  open   -        -\n\
             \n\
             WORKER  GROUP  ADDRESS         STATE  ROLE    KEYS     SIZE  VERSION\n\
             \x20    0      0  127.0.0.1:3001  open   leader    12  2.0 KiB  0.1.0\n\
             \x20    1      1  127.0.0.1:3002  down   -         12  2.0 KiB  0.1.0\n\
             worker 1 was last seen 5 s ago; its folder on its machine: /data/1\n\
             \x20 start it again: catstore worker 3002\n\
             \n\
             GROUP  LEADER  SLOTS  KEYS     SIZE  MAY LOSE\n\
             \x20   0       0  16384    12  2.0 KiB  1 member: lose worker 0 and its keys are gone\n\
             \x20   1       -      0    12  2.0 KiB  1 member: lose worker 1 and its keys are gone\n"
        );
    }

    #[test]
    fn masters_that_do_not_answer_are_named() {
        let mut status = status();
        status.masters[0].state = "silent".into();
        assert!(render(&status).contains("the master at 127.0.0.1:3000 is silent: reads and writes go on"));
        status.workers.clear();
        assert!(render(&status).contains("no worker yet"));
    }

    #[test]
    fn the_command_that_starts_a_worker_again() {
        let view = ClusterView { masters: vec!["127.0.0.1:3000".into()], ..ClusterView::default() };
        let member = MemberView { index: 0, address: "[::1]:3001".into(), voter: true, data: "/a b".into() };
        assert_eq!(restart(&view, &member), "catstore worker 3001 --master 127.0.0.1:3000 --data '/a b'");
    }
}
