//! Where the status comes from: the masters, all asked at once, or the workers.

use super::{MasterLine, Status};
use crate::client::Client;
use crate::cluster::moves::{MoveOrder, MoveStatus};
use crate::cluster::view::{
    ClusterView, GroupStatus, GroupView, MasterStatus, MasterStatusEntry, MemberView, WorkerStatus,
};
use crate::cmd::text;
use crate::error::{Error, Kind, Result};

/// What one master answered.
struct Asked {
    address: String,
    answer: Result<MasterStatus>,
}

/// Asks the masters; if none tells, each worker of the view.
pub fn gather(client: &Client) -> Result<Status> {
    let view = client.cluster()?;
    let mut asked = ask(client, view.masters.clone());
    let unknown: Vec<String> = newest(&asked)
        .into_iter()
        .flat_map(|newest| &newest.masters)
        .map(|master| master.address.clone())
        .filter(|address| !view.masters.contains(address))
        .collect();
    asked.extend(ask(client, unknown));
    match newest(&asked).cloned() {
        Some(newest) => Ok(Status {
            masters: masters(&newest.masters, &asked),
            master_voters: newest.voters,
            master_outgoing: newest.outgoing,
            cluster: newest.cluster,
            epoch: newest.epoch,
            workers: newest.workers,
            groups: newest.groups,
            slots: newest.slots,
            moves: newest.moves,
        }),
        None => match asked.iter().find_map(|asked| refusal(&asked.answer)) {
            Some(refusal) => Err(refusal),
            None => Ok(from_workers(client, view, &asked)),
        },
    }
}

fn ask(client: &Client, addresses: Vec<String>) -> Vec<Asked> {
    let answers = client.master_statuses(&addresses);
    addresses.into_iter().zip(answers).map(|(address, answer)| Asked { address, answer }).collect()
}

/// The answer that knows most: of the master that leads, else with the highest epoch. One that is joining knows nothing.
fn newest(asked: &[Asked]) -> Option<&MasterStatus> {
    let answers = asked.iter().filter_map(|asked| asked.answer.as_ref().ok());
    let known = answers.filter(|answer| !answer.cluster.is_empty());
    known.max_by_key(|answer| (answer.leader.is_some() && answer.leader == answer.index, answer.epoch))
}

fn refusal(answer: &Result<MasterStatus>) -> Option<Error> {
    let refuses = |error: &&Error| matches!(error.kind(), Kind::Unauthorized | Kind::Forbidden);
    answer.as_ref().err().filter(refuses).cloned()
}

/// One line for each of `entries`, and for those that are in none of them because they have just begun.
fn masters(entries: &[MasterStatusEntry], asked: &[Asked]) -> Vec<MasterLine> {
    let mut lines: Vec<MasterLine> = entries
        .iter()
        .map(|entry| {
            let asked = asked.iter().find(|asked| asked.address == entry.address);
            let mut line = MasterLine {
                index: Some(entry.index),
                leader: entry.leader,
                data: Some(entry.data.clone()),
                ..line(&entry.address, asked)
            };
            line.restart = entry.restart.clone().filter(|_| line.state == "silent");
            line
        })
        .collect();
    if lines.is_empty() {
        lines.extend(asked.iter().map(|asked| line(&asked.address, Some(asked))));
    }
    lines
}

fn line(address: &str, asked: Option<&Asked>) -> MasterLine {
    let answer = asked.map(|asked| &asked.answer);
    let own = answer.and_then(|answer| answer.as_ref().ok());
    let state = match answer {
        Some(Ok(own)) if own.cluster.is_empty() => "joining",
        Some(Ok(own)) => own.state.as_str(),
        Some(Err(error)) => match error.kind() {
            Kind::Closed => "closed",
            Kind::Failed | Kind::Damaged => "failed",
            Kind::NoMajority => "starting",
            _ => "silent",
        },
        None => "silent",
    };
    MasterLine {
        index: own.and_then(|own| own.index),
        address: address.to_owned(),
        state: state.to_owned(),
        role: own.map(|own| own.role.clone()).filter(|role| !role.is_empty()),
        leader: own.is_some_and(|own| own.index.is_some() && own.leader == own.index),
        data: own.map(|own| own.data.clone()),
        software: own.map(|own| own.software.clone()),
        restart: None,
    }
}

fn from_workers(client: &Client, view: ClusterView, asked: &[Asked]) -> Status {
    let members =
        view.groups.iter().flat_map(|group| group.members.iter().map(move |member| (group, member)));
    let mut workers: Vec<WorkerStatus> = std::thread::scope(|scope| {
        let view = &view;
        let calls: Vec<_> = members
            .map(|(group, member)| scope.spawn(move || ask_worker(client, view, group, member)))
            .collect();
        // A thread that ended early told nothing.
        calls.into_iter().filter_map(|call| call.join().ok()).collect()
    });
    workers.sort_by_key(|worker| worker.index);
    let mut masters = masters(&[], asked);
    for line in &mut masters {
        let known = view.master_members.iter().find(|master| master.address == line.address);
        line.index = known.map(|master| master.index);
    }
    Status {
        masters,
        master_voters: Vec::new(),
        master_outgoing: Vec::new(),
        groups: view
            .groups
            .iter()
            .filter(|group| !group.members.is_empty())
            .map(|group| GroupStatus::of(group, view.slots.count(group.group), &workers))
            .collect(),
        moves: moves(view.moves, &workers),
        workers,
        cluster: view.cluster,
        epoch: view.epoch,
        slots: view.slots,
    }
}

/// What the workers that lead say of the moves.
fn moves(orders: Vec<MoveOrder>, workers: &[WorkerStatus]) -> Vec<MoveStatus> {
    let facts = |id: u64| {
        let moving = workers.iter().filter_map(|worker| worker.facts.as_ref()?.moving.as_ref());
        moving.filter(|moving| moving.id == id).max_by_key(|moving| moving.bytes).cloned()
    };
    orders.into_iter().map(|order| MoveStatus { facts: facts(order.id), order }).collect()
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
        dead: !member.fit,
        removed: None,
    }
}

/// The command that starts a worker again.
fn restart(view: &ClusterView, member: &MemberView) -> String {
    let port = member.address.rsplit_once(':').map_or("PORT", |(_, port)| port);
    let masters = view.masters.join(",");
    format!("catstore worker {port} --master {} --data {}", text::quote(&masters), text::quote(&member.data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_that_starts_a_worker_again() {
        let view = ClusterView { masters: vec!["127.0.0.1:3000".into()], ..ClusterView::default() };
        let member = MemberView {
            index: 0,
            address: "[::1]:3001".into(),
            voter: true,
            fit: true,
            data: "/a b".into(),
        };
        assert_eq!(restart(&view, &member), "catstore worker 3001 --master 127.0.0.1:3000 --data '/a b'");
    }
}
