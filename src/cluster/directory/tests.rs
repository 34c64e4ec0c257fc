//! Rules of the directory, one test each, and any commands in any order.

use super::*;
use crate::cluster::moves::Span;
use crate::cluster::slots::SLOTS;
use crate::cluster::view::{CopyProgress, WorkerFacts};
use proptest::prelude::*;

pub(super) fn directory() -> Directory {
    Directory { cluster: "c".into(), masters: vec!["127.0.0.1:3000".into()], ..Directory::default() }
}

pub(super) fn request(uuid: &str, port: u16, starts: u64) -> RegisterRequest {
    RegisterRequest {
        uuid: uuid.into(),
        run: starts * 7,
        starts,
        address: format!("127.0.0.1:{port}"),
        data: format!("/data/{uuid}"),
        index: None,
        cluster: None,
        clone: None,
        replace: None,
        accept_data_loss: false,
        software: "0".into(),
    }
}

pub(super) fn clone(uuid: &str, port: u16, source: u32) -> RegisterRequest {
    RegisterRequest { clone: Some(source), ..request(uuid, port, 1) }
}

pub(super) fn replace(uuid: &str, port: u16, lost: u32) -> RegisterRequest {
    RegisterRequest { replace: Some(lost), ..request(uuid, port, 1) }
}

/// A reply as one line, and a refusal as another: `detail: hint`.
pub(super) fn run(directory: &mut Directory, command: &DirectoryCommand) -> Result<DirectoryReply, String> {
    let before = directory.clone();
    let reply = directory.apply(command);
    assert_eq!(directory.check(), Ok(()));
    let changed = Directory { epoch: 0, ..before.clone() } != Directory { epoch: 0, ..directory.clone() };
    match reply {
        DirectoryReply::Refused { detail, hint } => {
            assert_eq!(before, *directory, "a refusal changes nothing");
            Err(format!("{detail}: {}", hint.expect("every refusal says what to do")))
        }
        reply => {
            assert!(directory.epoch >= before.epoch && (changed || directory.epoch == before.epoch));
            Ok(reply)
        }
    }
}

/// Registers; returns index, group, ranges of slots, and whether it founds a group.
pub(super) fn join(
    directory: &mut Directory,
    request: RegisterRequest,
    alive: &[u32],
    heard: &Heard,
) -> Result<(u32, u32, usize, bool), String> {
    let command = DirectoryCommand::Register { request, alive: alive.to_vec(), heard: heard.clone() };
    match run(directory, &command)? {
        DirectoryReply::Registered { index, group, slots, found, .. } => {
            Ok((index, group, slots.len(), found))
        }
        other => panic!("not a registration: {other:?}"),
    }
}

pub(super) fn register(
    directory: &mut Directory,
    request: RegisterRequest,
    alive: &[u32],
) -> Result<(u32, u32, usize, bool), String> {
    join(directory, request, alive, &Heard::default())
}

pub(super) fn refusal<T: std::fmt::Debug>(result: Result<T, String>, expected: &str) {
    let said = result.unwrap_err();
    assert!(said.contains(expected), "{said}\nshould say: {expected}");
}

/// A group of worker 0 and so many clones, at ports 3001, 3002 …, with uuids `a`, `b` ….
pub(super) fn group_of(members: u16) -> Directory {
    let mut directory = directory();
    register(&mut directory, request("a", 3001, 1), &[]).unwrap();
    for (at, uuid) in (1..members).zip(["b", "c", "d", "e"]) {
        let joined = register(&mut directory, clone(uuid, 3001 + at, 0), &[]).unwrap();
        assert_eq!(joined, (u32::from(at), 0, 0, false));
    }
    directory
}

/// What was heard of a group with these voters, of which these are alive with logs that end at (term 1, index).
pub(super) fn heard(voters: &[u32], last: &[(u32, u64)]) -> Heard {
    Heard {
        incarnation: 1,
        voters: voters.to_vec(),
        able: last.iter().map(|(index, _)| *index).collect(),
        last: last.iter().map(|(index, end)| (*index, (1, *end))).collect(),
        ..Heard::default()
    }
}

#[test]
fn the_first_founder_gets_every_slot_and_later_ones_none() {
    let mut directory = directory();
    assert_eq!(register(&mut directory, request("a", 3001, 1), &[]), Ok((0, 0, 1, true)));
    assert_eq!(register(&mut directory, request("b", 3002, 1), &[]), Ok((1, 1, 0, true)));
    assert_eq!(directory.slots.count(0), SLOTS);
    let view = directory.view();
    let group = view.group_of_key(b"A").unwrap();
    assert_eq!((group.group, group.leader, group.incarnation, group.members[0].voter), (0, Some(0), 1, true));
}

#[test]
fn registration_is_idempotent_by_uuid() {
    let mut directory = directory();
    assert_eq!(register(&mut directory, request("a", 3001, 1), &[]), Ok((0, 0, 1, true)));
    let epoch = directory.epoch;
    assert_eq!(register(&mut directory, request("a", 3001, 1), &[0]), Ok((0, 0, 1, true)));
    assert_eq!(directory.epoch, epoch);
    assert_eq!(register(&mut directory, request("a", 3005, 2), &[]), Ok((0, 0, 1, true)));
    assert_eq!(directory.workers[&0].address, "127.0.0.1:3005");
    assert!(directory.epoch > epoch);
    assert_eq!(register(&mut directory, clone("b", 3002, 0), &[]), Ok((1, 0, 0, false)));
    assert_eq!(register(&mut directory, clone("b", 3002, 0), &[]), Ok((1, 0, 0, false)));
}

#[test]
fn copies_of_a_folder_are_refused() {
    let mut directory = directory();
    register(&mut directory, request("a", 3001, 5), &[]).unwrap();
    refusal(register(&mut directory, request("a", 3001, 4), &[]), "old copy");
    let same_count = RegisterRequest { run: 99, ..request("a", 3001, 5) };
    refusal(register(&mut directory, same_count, &[]), "old copy");
    refusal(register(&mut directory, request("a", 3009, 6), &[0]), "alive");
    assert_eq!(register(&mut directory, request("a", 3001, 6), &[0]), Ok((0, 0, 1, true)));
}

#[test]
fn clones_join_the_group_of_the_worker_that_they_name() {
    let mut directory = directory();
    refusal(
        register(&mut directory, clone("a", 3001, 1), &[]),
        "no worker 1 to clone: workers of this cluster: there is none yet",
    );
    let command = DirectoryCommand::Register {
        request: clone("a", 3001, 0),
        alive: Vec::new(),
        heard: Heard::default(),
    };
    let reply = run(&mut directory, &command).unwrap();
    assert!(
        matches!(reply, DirectoryReply::Registered { index: 0, note: Some(note), .. } if note.contains("founds"))
    );
    assert_eq!(register(&mut directory, clone("a", 3001, 0), &[]), Ok((0, 0, 1, true)), "its own index");
    assert_eq!(register(&mut directory, clone("b", 3002, 0), &[]), Ok((1, 0, 0, false)));
    assert_eq!(
        register(&mut directory, clone("c", 3003, 1), &[]),
        Ok((2, 0, 0, false)),
        "a clone of a clone"
    );
    refusal(
        register(&mut directory, clone("d", 3004, 7), &[]),
        "no worker 7 to clone: workers of this cluster: 0, 1, 2",
    );
    assert_eq!(register(&mut directory, clone("c", 3003, 0), &[]), Ok((2, 0, 0, false)), "its own group");
    register(&mut directory, request("d", 3004, 1), &[]).unwrap();
    refusal(register(&mut directory, clone("d", 3004, 0), &[]), "cannot become a clone of worker 0");
    refusal(register(&mut directory, clone("d", 3004, 9), &[]), "cannot become a clone of worker 9");
    let view = directory.view();
    let group = view.group(0).unwrap();
    assert_eq!(group.members.len(), 3);
    assert!(group.leader.is_none() && group.members.iter().all(|member| !member.voter), "not known here");
    assert!(group.target().is_some());
}

#[test]
fn strangers_are_refused() {
    let mut directory = directory();
    let long = RegisterRequest { data: "x".repeat(5000), ..request("a", 3001, 1) };
    refusal(register(&mut directory, long, &[]), "4096");
    register(&mut directory, request("a", 3001, 1), &[]).unwrap();
    let foreign = RegisterRequest { cluster: Some("other".into()), ..request("b", 3002, 1) };
    refusal(register(&mut directory, foreign, &[]), "belongs to cluster other");
    let unknown = RegisterRequest { index: Some(4), ..request("b", 3002, 1) };
    refusal(register(&mut directory, unknown, &[]), "never seen");
    let expected = "worker 0 lived here in /data/a: use --data /data/a, or --replace 0";
    refusal(register(&mut directory, request("b", 3001, 1), &[]), expected);
    refusal(register(&mut directory, clone("b", 3001, 0), &[]), expected);
    register(&mut directory, request("b", 3002, 1), &[]).unwrap();
    refusal(register(&mut directory, replace("c", 3002, 0), &[]), "worker 1 lived here");
}

#[test]
fn a_new_worker_fills_up_a_group_that_has_too_few() {
    let mut directory = directory();
    let settings = |replicas| DirectoryCommand::Settings(Settings { replicas, ..Settings::default() });
    refusal(run(&mut directory, &settings(0)), "at least 1");
    assert_eq!(run(&mut directory, &settings(2)), Ok(DirectoryReply::Done));
    let epoch = directory.epoch;
    assert_eq!(run(&mut directory, &settings(2)), Ok(DirectoryReply::Done));
    assert_eq!(directory.epoch, epoch);
    assert_eq!(register(&mut directory, request("a", 3001, 1), &[]), Ok((0, 0, 1, true)));
    assert_eq!(register(&mut directory, request("b", 3002, 1), &[]), Ok((1, 0, 0, false)));
    assert_eq!(register(&mut directory, request("c", 3003, 1), &[]), Ok((2, 2, 0, true)));
    // Group 2 owns no slots yet: without as many members as others it never would.
    assert_eq!(register(&mut directory, request("d", 3004, 1), &[]), Ok((3, 2, 0, false)));
    assert_eq!(register(&mut directory, request("e", 3005, 1), &[]), Ok((4, 4, 0, true)));
    run(&mut directory, &settings(3)).unwrap();
    assert_eq!(register(&mut directory, request("f", 3006, 1), &[]), Ok((5, 0, 0, false)));
    let drain = DirectoryCommand::DrainGroup { group: 2, undo: false };
    run(&mut directory, &drain).unwrap();
    assert_eq!(
        register(&mut directory, request("g", 3007, 1), &[]),
        Ok((6, 4, 0, false)),
        "not where it drains"
    );
}

#[test]
fn a_lost_worker_is_replaced_while_a_majority_is_alive() {
    let mut directory = group_of(3);
    let majority = heard(&[0, 1, 2], &[(0, 9), (2, 9)]);
    refusal(join(&mut directory, replace("d", 3004, 7), &[], &majority), "no worker 7 to replace");
    refusal(join(&mut directory, replace("d", 3004, 1), &[0, 1, 2], &majority), "worker 1 is alive");
    let both = RegisterRequest { clone: Some(9), ..replace("d", 3004, 1) };
    refusal(join(&mut directory, both, &[0, 2], &majority), "say either --replace or --clone");
    let both = RegisterRequest { clone: Some(0), ..replace("d", 3002, 1) };
    assert_eq!(join(&mut directory, both, &[0, 2], &majority), Ok((3, 0, 0, false)), "at its address too");
    assert_eq!(directory.workers[&1].removed.as_deref(), Some("replaced by worker 3"));
    let view = directory.view();
    let group = view.group(0).unwrap();
    assert_eq!((group.removed.as_slice(), group.incarnation), (&[1][..], 1));
    assert_eq!(group.members.iter().map(|member| member.index).collect::<Vec<_>>(), [0, 2, 3]);
    // Its folder is refused from now on, and so is a second replacement.
    refusal(
        register(&mut directory, request("b", 3002, 2), &[]),
        "worker 1 was removed: replaced by worker 3",
    );
    refusal(join(&mut directory, replace("e", 3005, 1), &[0, 2], &majority), "say --clone 0");
    refusal(register(&mut directory, clone("e", 3005, 1), &[]), "members of its group: 0, 2, 3");
    // The same command line again changes nothing; another wish is refused.
    let again = RegisterRequest { starts: 2, ..replace("d", 3002, 1) };
    assert_eq!(register(&mut directory, again, &[]), Ok((3, 0, 0, false)));
    let other = RegisterRequest { starts: 3, ..replace("d", 3002, 0) };
    refusal(register(&mut directory, other, &[]), "cannot take the place of worker 0");
}

#[test]
fn without_a_majority_a_replacement_costs_data_and_says_so() {
    // Worker 0 voted alone; worker 1 holds a copy.
    let mut directory = group_of(2);
    let left = heard(&[0], &[(1, 8)]);
    let said = join(&mut directory, replace("c", 3003, 0), &[1], &left).unwrap_err();
    assert!(
        said.contains("without worker 0 group 0 has no majority: start worker 0 again on /data/a"),
        "{said}"
    );
    assert!(said.contains("--accept-data-loss: the group goes on from worker 1's copy"), "{said}");
    refusal(join(&mut directory, replace("c", 3003, 0), &[1], &Heard::default()), "no majority");
    let accept = RegisterRequest { accept_data_loss: true, ..replace("c", 3003, 0) };
    let closed = Heard { able: vec![1], closed: vec![1], ..heard(&[0], &[]) };
    refusal(join(&mut directory, accept.clone(), &[1], &closed), "catstore open 1");
    assert_eq!(join(&mut directory, accept, &[1], &left), Ok((2, 0, 0, false)));
    assert_eq!(directory.group(0), GroupEntry { incarnation: 2, promoted: Some(1), ..GroupEntry::default() });
    assert_eq!(directory.members(0).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(directory.workers[&0].removed.as_deref(), Some("replaced by worker 2"));
}

#[test]
fn a_group_without_any_copy_begins_anew() {
    let mut directory = group_of(3);
    let said = join(&mut directory, replace("x", 3001, 0), &[], &Heard::default()).unwrap_err();
    assert!(said.contains("first the others of its group (1, 2)") && said.contains("EMPTY"), "{said}");
    let accept = RegisterRequest { accept_data_loss: true, ..replace("x", 3001, 0) };
    for (index, missed) in [(1, "its members 1, 2 may come back"), (2, "its members 2 may come back")] {
        refusal(register(&mut directory, accept.clone(), &[]), missed);
        run(&mut directory, &DirectoryCommand::Dead { index, dead: true }).unwrap();
    }
    assert_eq!(
        register(&mut directory, accept.clone(), &[]),
        Ok((3, 0, 1, true)),
        "it founds, with the slots"
    );
    assert_eq!(directory.group(0), GroupEntry { incarnation: 2, founder: Some(3), ..GroupEntry::default() });
    assert_eq!(directory.members(0).collect::<Vec<_>>(), [3]);
    assert_eq!(register(&mut directory, accept, &[]), Ok((3, 0, 1, true)), "a repeat founds too");
    refusal(register(&mut directory, request("b", 3002, 2), &[]), "group 0 began anew with worker 3");
    assert_eq!(register(&mut directory, clone("y", 3002, 3), &[]), Ok((4, 0, 0, false)));
    // A lone worker whose disk is lost is the usual case.
    let mut directory = group_of(1);
    refusal(register(&mut directory, replace("x", 3001, 0), &[]), "all its keys are lost");
}

#[test]
fn promotion_revives_a_group_from_one_copy() {
    let promote = |directory: &mut Directory, index, heard: &Heard| {
        run(directory, &DirectoryCommand::Promote { index, heard: heard.clone() })
    };
    let mut directory = group_of(3);
    let left = heard(&[0, 1, 2], &[(1, 8)]);
    refusal(promote(&mut directory, 7, &left), "no worker 7");
    refusal(promote(&mut directory, 2, &left), "worker 2 is not alive");
    let two = heard(&[0, 1, 2], &[(1, 8), (2, 9)]);
    refusal(promote(&mut directory, 1, &two), "a majority of group 0 is alive (workers 1, 2)");
    let joint = Heard { outgoing: vec![0], ..two.clone() };
    refusal(promote(&mut directory, 1, &joint), "worker 2 holds more: its log ends at entry 9");
    let one_closed = Heard { able: vec![1, 2], closed: vec![2], ..left.clone() };
    refusal(promote(&mut directory, 1, &one_closed), "catstore open 2");
    let five = Heard { voters: vec![0, 1, 2, 8, 9], ..one_closed };
    refusal(promote(&mut directory, 1, &five), "worker 2 is closed");
    let empty = Heard { able: vec![1], ..heard(&[0, 1, 2], &[]) };
    refusal(promote(&mut directory, 1, &empty), "holds no copy");
    let promoted =
        |left: &[u32]| DirectoryReply::Promoted { group: 0, incarnation: 2, left_behind: left.to_vec() };
    assert_eq!(promote(&mut directory, 1, &left), Ok(promoted(&[0, 2])));
    assert_eq!(promote(&mut directory, 1, &left), Ok(promoted(&[])), "a repeat changes nothing");
    refusal(promote(&mut directory, 0, &left), "left behind when worker 1 was promoted");
    refusal(
        register(&mut directory, request("a", 3001, 2), &[]),
        "worker 0 was removed: left behind when worker 1 was promoted; its folder /data/a may not come back: to hold the keys of group 0 again use a new --data and --clone 1",
    );
    let view = directory.view();
    let group = view.group(0).unwrap();
    assert_eq!((group.incarnation, group.promoted, group.leader), (2, Some(1), Some(1)));
    assert_eq!(group.removed, [0, 2]);
    assert_eq!(
        register(&mut directory, request("b", 3002, 2), &[]),
        Ok((1, 0, 0, false)),
        "it founds nothing"
    );
    // With a new member the group is one like others.
    register(&mut directory, clone("x", 3001, 1), &[]).unwrap();
    assert_eq!(directory.view().group(0).unwrap().leader, None);
    refusal(promote(&mut directory, 1, &left), "worker 1 is not alive");
    let new = Heard { incarnation: 2, ..heard(&[1], &[(1, 8)]) };
    refusal(promote(&mut directory, 1, &new), "a majority");
}

#[test]
fn unfit_workers_are_named_in_the_view_until_they_register() {
    let mut directory = group_of(2);
    let dead = |index, dead| DirectoryCommand::Dead { index, dead };
    refusal(run(&mut directory, &dead(7, true)), "no worker 7");
    let fit = |directory: &Directory| directory.view().worker(1).unwrap().1.fit;
    for unfit in [true, true, false, true] {
        assert_eq!(run(&mut directory, &dead(1, unfit)), Ok(DirectoryReply::Done));
        assert_eq!(fit(&directory), !unfit);
    }
    register(&mut directory, RegisterRequest { starts: 2, ..clone("b", 3002, 0) }, &[]).unwrap();
    assert!(fit(&directory));
    join(&mut directory, replace("c", 3003, 1), &[0], &heard(&[0], &[(0, 5)])).unwrap();
    refusal(run(&mut directory, &dead(1, true)), "no worker 1");
}

#[test]
fn what_is_heard_is_of_this_group_and_incarnation() {
    let mut directory = group_of(4);
    register(&mut directory, request("z", 3009, 1), &[]).unwrap();
    let facts = |index: u32, uuid: &str, applied| WorkerFacts {
        index,
        uuid: uuid.into(),
        state: "open".into(),
        applied,
        last: applied,
        last_term: 2,
        voters: vec![0],
        ..WorkerFacts::default()
    };
    let newest = WorkerFacts { voters: vec![0, 1, 2], outgoing: vec![0], ..facts(1, "b", 9) };
    let closed = WorkerFacts { state: "closed".into(), voters: Vec::new(), ..facts(2, "c", 0) };
    let copy = Some(CopyProgress { done: false, ..CopyProgress::default() });
    let copying = WorkerFacts { copy, voters: Vec::new(), ..facts(3, "d", 3) };
    let stranger = WorkerFacts { uuid: "other".into(), ..facts(3, "d", 99) };
    let elsewhere = WorkerFacts { group: 4, ..facts(4, "z", 99) };
    let beats = [
        (&facts(0, "a", 7), true),
        (&newest, false),
        (&closed, true),
        (&copying, true),
        (&stranger, true),
        (&elsewhere, true),
    ];
    let expected = Heard {
        incarnation: 1,
        voters: vec![0, 1, 2],
        outgoing: vec![0],
        able: vec![0, 3, 2],
        closed: vec![2],
        last: BTreeMap::from([(0, (2, 7))]),
    };
    assert_eq!(directory.heard(0, beats), expected);
    directory.groups.insert(0, GroupEntry { incarnation: 2, promoted: Some(0), ..GroupEntry::default() });
    let nothing = Heard { incarnation: 2, ..Heard::default() };
    assert_eq!(directory.heard(0, beats), nothing, "of a former incarnation");
}

#[test]
fn a_majority_is_only_what_was_heard() {
    let directory = group_of(4);
    let majority = |heard: &Heard, without| directory.has_majority(0, heard, without);
    assert!(majority(&heard(&[0, 1, 2], &[(0, 1), (1, 1)]), None));
    assert!(!majority(&heard(&[0, 1, 2], &[(0, 1), (1, 1)]), Some(1)));
    assert!(!majority(&heard(&[0, 1, 2], &[(0, 1), (3, 1)]), None), "a standby does not count");
    let joint = Heard { outgoing: vec![0, 2, 3], ..heard(&[0, 1, 2], &[(0, 1), (1, 1)]) };
    assert!(!majority(&joint, None), "both halves count");
    // Nobody has said who votes: three of the four do.
    assert!(majority(&heard(&[], &[(0, 1), (1, 1), (2, 1)]), None));
    assert!(!majority(&heard(&[], &[(0, 1), (1, 1)]), None));
}

fn master(uuid: &str, port: u16) -> RegisterMasterRequest {
    RegisterMasterRequest {
        uuid: uuid.into(),
        run: 7,
        starts: 1,
        address: format!("127.0.0.1:{port}"),
        data: format!("/master/{port}"),
        index: None,
        cluster: None,
        software: "0".into(),
    }
}

fn first_master() -> RegisterMasterRequest {
    RegisterMasterRequest { index: Some(0), cluster: Some("c".into()), ..master("m", 3000) }
}

fn register_master(
    directory: &mut Directory,
    request: RegisterMasterRequest,
    alive: &[u32],
) -> Result<(u32, Option<String>), String> {
    match run(directory, &DirectoryCommand::RegisterMaster { request, alive: alive.to_vec() })? {
        DirectoryReply::MasterRegistered { index, note, .. } => Ok((index, note)),
        other => panic!("not a registration: {other:?}"),
    }
}

#[test]
fn masters_join_once_the_first_has_said_who_it_is() {
    let mut directory = directory();
    refusal(register_master(&mut directory, master("n", 3010), &[]), "try again");
    let stranger = RegisterMasterRequest { cluster: None, ..first_master() };
    refusal(register_master(&mut directory, stranger, &[]), "try again");
    assert_eq!(register_master(&mut directory, first_master(), &[]), Ok((0, None)));
    assert_eq!(directory.masters, ["127.0.0.1:3000"]);
    let (index, note) = register_master(&mut directory, master("n", 3010), &[0]).unwrap();
    assert_eq!(index, 1);
    assert!(note.unwrap().starts_with("2 masters, 1 can vote"));
    let epoch = directory.epoch;
    assert_eq!(register_master(&mut directory, master("n", 3010), &[0, 1]), Ok((1, None)));
    assert_eq!(directory.epoch, epoch, "a repeat changes nothing");
    assert_eq!(register_master(&mut directory, master("o", 3020), &[0, 1]), Ok((2, None)));
    assert_eq!(directory.masters, ["127.0.0.1:3000", "127.0.0.1:3010", "127.0.0.1:3020"]);
    let moved = RegisterMasterRequest { starts: 2, run: 8, ..master("n", 3011) };
    refusal(register_master(&mut directory, moved.clone(), &[1]), "a second process");
    assert_eq!(register_master(&mut directory, moved, &[]), Ok((1, None)));
    assert_eq!(directory.masters[1], "127.0.0.1:3011");
    refusal(register_master(&mut directory, master("n", 3010), &[]), "old copy");
    let unknown = RegisterMasterRequest { index: Some(5), ..master("p", 3030) };
    refusal(register_master(&mut directory, unknown, &[]), "never seen");
    let foreign = RegisterMasterRequest { cluster: Some("d".into()), ..master("p", 3030) };
    refusal(register_master(&mut directory, foreign, &[]), "belongs to cluster d");
    run(&mut directory, &DirectoryCommand::MasterAddress { address: "x:1".into() }).unwrap();
    assert_eq!(directory.masters.len(), 3, "masters that register say their address themselves");
    assert_eq!(directory.view().master_members.len(), 3);
}

#[test]
fn a_lost_master_is_replaced_at_its_own_place_or_removed() {
    let mut directory = directory();
    register_master(&mut directory, first_master(), &[]).unwrap();
    register_master(&mut directory, master("n", 3010), &[0]).unwrap();
    register_master(&mut directory, master("o", 3020), &[0]).unwrap();
    let new = master("p", 3010);
    refusal(register_master(&mut directory, new.clone(), &[0, 1, 2]), "master 1 is alive");
    let elsewhere = RegisterMasterRequest { data: "/other".into(), ..new.clone() };
    refusal(
        register_master(&mut directory, elsewhere, &[0, 2]),
        "master 1 lived here in /master/3010: use --data",
    );
    let (index, note) = register_master(&mut directory, new, &[0, 2]).unwrap();
    assert_eq!((index, note.unwrap().contains("place of master 1")), (3, true));
    assert_eq!(directory.master_indices().collect::<Vec<_>>(), [0, 2, 3]);
    let back = RegisterMasterRequest { starts: 2, run: 8, ..master("n", 3010) };
    refusal(register_master(&mut directory, back, &[0, 2, 3]), "master 1 was removed: replaced by master 3");

    let remove = |index, alive: &[u32]| DirectoryCommand::RemoveMaster { index, alive: alive.to_vec() };
    refusal(run(&mut directory, &remove(9, &[0])), "no master 9: masters of this cluster: 0, 2, 3");
    refusal(run(&mut directory, &remove(2, &[0, 2])), "master 2 is alive");
    assert_eq!(run(&mut directory, &remove(2, &[0, 3])), Ok(DirectoryReply::Done));
    assert_eq!(run(&mut directory, &remove(2, &[0, 3])), Ok(DirectoryReply::Done), "a repeat");
    assert_eq!(directory.masters, ["127.0.0.1:3000", "127.0.0.1:3010"]);
    run(&mut directory, &remove(3, &[0])).unwrap();
    refusal(run(&mut directory, &remove(0, &[])), "the only one");

    let dead = |index, dead| DirectoryCommand::MasterDead { index, dead };
    refusal(run(&mut directory, &dead(2, true)), "no master 2");
    run(&mut directory, &dead(0, true)).unwrap();
    assert!(!directory.view().master_members[0].fit);
    let again = RegisterMasterRequest { starts: 2, run: 8, ..first_master() };
    register_master(&mut directory, again, &[]).unwrap();
    assert!(directory.view().master_members[0].fit);
}

#[test]
fn a_directory_of_format_1_is_read() {
    let old = r#"{"cluster":"c","incarnation":1,"epoch":3,"masters":["127.0.0.1:3000"],
        "workers":{"0":{"uuid":"a","group":0,"address":"127.0.0.1:3001","data":"/data/a","starts":1,"run":7}},
        "slots":[{"first":0,"last":16383,"group":0}],"next_index":1}"#;
    let mut directory: Directory = serde_json::from_str(old).unwrap();
    assert_eq!(directory.settings, Settings::default());
    assert_eq!(directory.check(), Ok(()));
    assert_eq!(register(&mut directory, clone("b", 3002, 0), &[0]), Ok((1, 0, 0, false)));
    let command = r#"{"Register":{"request":{"uuid":"c","run":1,"starts":1,"address":"h:1","data":"/c","index":null,"cluster":null,"clone":0,"software":"0"},"alive":[]}}"#;
    let command: DirectoryCommand = serde_json::from_str(command).unwrap();
    assert!(matches!(
        run(&mut directory, &command),
        Ok(DirectoryReply::Registered { index: 2, group: 0, .. })
    ));
}

/// Every field once, as it lies in the state of the masters: a change here changes the format.
#[test]
fn the_directory_as_it_is_stored() {
    let mut directory = group_of(2);
    join(
        &mut directory,
        RegisterRequest { accept_data_loss: true, ..replace("c", 3003, 0) },
        &[1],
        &heard(&[0], &[(1, 8)]),
    )
    .unwrap();
    register(&mut directory, request("d", 3009, 1), &[]).unwrap();
    run(&mut directory, &DirectoryCommand::Dead { index: 2, dead: true }).unwrap();
    register_master(&mut directory, first_master(), &[]).unwrap();
    register_master(&mut directory, master("n", 3010), &[0]).unwrap();
    run(&mut directory, &DirectoryCommand::RemoveMaster { index: 1, alive: vec![0] }).unwrap();
    run(
        &mut directory,
        &DirectoryCommand::Settings(Settings { replicas: 3, dead_after_ms: 5000, ..Settings::default() }),
    )
    .unwrap();
    run(
        &mut directory,
        &DirectoryCommand::StartMove { from: 0, to: 3, slots: SlotSet::of([Span { first: 0, last: 9 }]) },
    )
    .unwrap();
    run(&mut directory, &DirectoryCommand::DrainGroup { group: 3, undo: false }).unwrap();
    run(&mut directory, &DirectoryCommand::Rebalance(Some(Rebalance { accept_fewer_copies: true }))).unwrap();
    let stored = concat!(
        r#"{"cluster":"c","incarnation":0,"epoch":12,"masters":["127.0.0.1:3000"],"workers":{"#,
        r#""0":{"uuid":"a","group":0,"address":"127.0.0.1:3001","data":"/data/a","starts":1,"run":7,"removed":"replaced by worker 2","dead":false},"#,
        r#""1":{"uuid":"b","group":0,"address":"127.0.0.1:3002","data":"/data/b","starts":1,"run":7,"dead":false},"#,
        r#""2":{"uuid":"c","group":0,"address":"127.0.0.1:3003","data":"/data/c","starts":1,"run":7,"dead":true},"#,
        r#""3":{"uuid":"d","group":3,"address":"127.0.0.1:3009","data":"/data/d","starts":1,"run":7,"dead":false}},"#,
        r#""slots":[{"first":0,"last":16383,"group":0}],"next_index":4,"#,
        r#""groups":{"0":{"incarnation":2,"promoted":1},"3":{"incarnation":1,"draining":true}},"#,
        r#""master_nodes":{"0":{"uuid":"m","address":"127.0.0.1:3000","data":"/master/3000","starts":1,"run":7,"dead":false},"#,
        r#""1":{"uuid":"n","address":"127.0.0.1:3010","data":"/master/3010","starts":1,"run":7,"removed":"it was lost","dead":false}},"#,
        r#""next_master":2,"settings":{"replicas":3,"dead_after_ms":5000,"rebalance":true,"move_rate":null},"#,
        r#""moves":{"1":{"id":1,"slots":[{"first":0,"last":9}],"from":0,"to":3,"cancelled":true,"switched":false}},"next_move":2,"#,
        r#""asked":{"accept_fewer_copies":true}}"#
    );
    assert_eq!(serde_json::to_string(&directory).unwrap(), stored);
    assert_eq!(serde_json::from_str::<Directory>(stored).unwrap(), directory);
}

/// Every kind of command once, as it lies in the masters' log.
#[test]
fn commands_as_they_are_stored() {
    let heard = Heard { outgoing: vec![0], closed: vec![2], ..heard(&[0, 1], &[(1, 8)]) };
    let told =
        r#"{"incarnation":1,"voters":[0,1],"outgoing":[0],"able":[1],"closed":[2],"last":{"1":[1,8]}}"#;
    let commands = [
        (
            DirectoryCommand::Register { request: replace("a", 3001, 0), alive: vec![1], heard: heard.clone() },
            format!(
                r#"{{"Register":{{"request":{{"uuid":"a","run":7,"starts":1,"address":"127.0.0.1:3001","data":"/data/a","index":null,"cluster":null,"clone":null,"replace":0,"accept_data_loss":false,"software":"0"}},"alive":[1],"heard":{told}}}}}"#
            ),
        ),
        (DirectoryCommand::MasterAddress { address: "m:1".into() }, r#"{"MasterAddress":{"address":"m:1"}}"#.into()),
        (DirectoryCommand::Dead { index: 1, dead: true }, r#"{"Dead":{"index":1,"dead":true}}"#.into()),
        (DirectoryCommand::Promote { index: 1, heard }, format!(r#"{{"Promote":{{"index":1,"heard":{told}}}}}"#)),
        (
            DirectoryCommand::RegisterMaster { request: first_master(), alive: vec![0] },
            r#"{"RegisterMaster":{"request":{"uuid":"m","run":7,"starts":1,"address":"127.0.0.1:3000","data":"/master/3000","index":0,"cluster":"c","software":"0"},"alive":[0]}}"#.into(),
        ),
        (
            DirectoryCommand::RemoveMaster { index: 1, alive: vec![0] },
            r#"{"RemoveMaster":{"index":1,"alive":[0]}}"#.into(),
        ),
        (DirectoryCommand::MasterDead { index: 1, dead: true }, r#"{"MasterDead":{"index":1,"dead":true}}"#.into()),
        (
            DirectoryCommand::Settings(Settings::default()),
            r#"{"Settings":{"replicas":1,"dead_after_ms":600000,"rebalance":true,"move_rate":null}}"#.into(),
        ),
        (
            DirectoryCommand::StartMove { from: 0, to: 1, slots: SlotSet::of([Span { first: 3, last: 9 }]) },
            r#"{"StartMove":{"from":0,"to":1,"slots":[{"first":3,"last":9}]}}"#.into(),
        ),
        (DirectoryCommand::MoveSwitched { id: 1 }, r#"{"MoveSwitched":{"id":1}}"#.into()),
        (
            DirectoryCommand::MoveDone { id: 1, withdrawn: true },
            r#"{"MoveDone":{"id":1,"withdrawn":true}}"#.into(),
        ),
        (DirectoryCommand::CancelMove { id: 1 }, r#"{"CancelMove":{"id":1}}"#.into()),
        (
            DirectoryCommand::DrainGroup { group: 1, undo: true },
            r#"{"DrainGroup":{"group":1,"undo":true}}"#.into(),
        ),
        (DirectoryCommand::DrainMember { index: 1 }, r#"{"DrainMember":{"index":1}}"#.into()),
        (
            DirectoryCommand::Rebalance(Some(Rebalance { accept_fewer_copies: true })),
            r#"{"Rebalance":{"accept_fewer_copies":true}}"#.into(),
        ),
        (DirectoryCommand::Rebalance(None), r#"{"Rebalance":null}"#.into()),
    ];
    for (command, stored) in commands {
        assert_eq!(serde_json::to_string(&command).unwrap(), stored);
        assert_eq!(serde_json::from_str::<DirectoryCommand>(&stored).unwrap(), command);
    }
}

fn any_heard() -> impl Strategy<Value = Heard> {
    let few = || proptest::collection::vec(0..6u32, 0..4);
    (1..3u64, few(), few(), few(), few(), proptest::collection::btree_map(0..6u32, (0..3u64, 1..9u64), 0..4))
        .prop_map(|(incarnation, voters, outgoing, able, closed, last)| Heard {
            incarnation,
            voters,
            outgoing,
            able,
            closed,
            last,
        })
}

fn any_command() -> impl Strategy<Value = DirectoryCommand> {
    let alive = || proptest::collection::vec(0..6u32, 0..4);
    let named = || proptest::option::of(0..6u32);
    let worker = (0..8u16, 0..8u16, 1..4u64, named(), named(), any::<bool>());
    let worker = worker.prop_map(|(uuid, port, starts, clone, replace, accept_data_loss)| RegisterRequest {
        clone,
        replace,
        accept_data_loss,
        ..request(&format!("u{uuid}"), port, starts)
    });
    let one = (0..5u16, 0..5u16, 1..4u64, any::<bool>()).prop_map(|(uuid, port, starts, first)| {
        let request = RegisterMasterRequest { starts, ..master(&format!("m{uuid}"), port) };
        if first {
            RegisterMasterRequest { index: Some(0), cluster: Some("c".into()), ..request }
        } else {
            request
        }
    });
    prop_oneof![
        6 => (worker, alive(), any_heard())
            .prop_map(|(request, alive, heard)| DirectoryCommand::Register { request, alive, heard }),
        2 => (0..6u32, any_heard()).prop_map(|(index, heard)| DirectoryCommand::Promote { index, heard }),
        1 => (0..6u32, any::<bool>()).prop_map(|(index, dead)| DirectoryCommand::Dead { index, dead }),
        2 => (one, alive())
            .prop_map(|(request, alive)| DirectoryCommand::RegisterMaster { request, alive }),
        1 => (0..5u32, alive()).prop_map(|(index, alive)| DirectoryCommand::RemoveMaster { index, alive }),
        4 => (0..6u32, 0..6u32, 0..SLOTS, 0..6000u16).prop_map(|(from, to, first, more)| {
            let slots = SlotSet::of([Span { first, last: first.saturating_add(more).min(SLOTS - 1) }]);
            DirectoryCommand::StartMove { from, to, slots }
        }),
        2 => (0..8u64).prop_map(|id| DirectoryCommand::MoveSwitched { id }),
        2 => (0..8u64, any::<bool>()).prop_map(|(id, withdrawn)| DirectoryCommand::MoveDone { id, withdrawn }),
        1 => (0..8u64).prop_map(|id| DirectoryCommand::CancelMove { id }),
        1 => (0..6u32, any::<bool>()).prop_map(|(group, undo)| DirectoryCommand::DrainGroup { group, undo }),
        2 => (0..6u32).prop_map(|index| DirectoryCommand::DrainMember { index }),
        1 => prop::option::of(any::<bool>().prop_map(|accept_fewer_copies| Rebalance { accept_fewer_copies }))
            .prop_map(DirectoryCommand::Rebalance),
        1 => (0..4u32).prop_map(|replicas| DirectoryCommand::Settings(Settings { replicas, ..Settings::default() })),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_the_directory_keeps_its_word(commands in proptest::collection::vec(any_command(), 1..40)) {
        let mut directory = directory();
        for command in &commands {
            let before = directory.clone();
            let _ = run(&mut directory, command);
            for (index, worker) in &before.workers {
                let now = &directory.workers[index];
                prop_assert_eq!((&now.uuid, now.group), (&worker.uuid, worker.group), "an index is for life");
                prop_assert!(worker.removed.is_none() || now.removed == worker.removed, "removed is for good");
                prop_assert!(now.starts >= worker.starts);
            }
            for group in before.workers.values().map(|worker| worker.group) {
                prop_assert!(directory.group(group).incarnation >= before.group(group).incarnation);
            }
            for (index, master) in &before.master_nodes {
                let now = &directory.master_nodes[index];
                prop_assert!(now.uuid == master.uuid && (master.removed.is_none() || now.removed.is_some()));
            }
            prop_assert!(directory.master_nodes.is_empty() || directory.master_indices().next().is_some());
            prop_assert!(directory.next_index >= before.next_index && directory.next_master >= before.next_master);
            prop_assert!(directory.next_move >= before.next_move);
            for group in before.group_ids() {
                prop_assert!(!before.group(group).dissolved || directory.group(group).dissolved, "for good");
            }
            let stored = serde_json::to_string(&directory).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Directory>(&stored).unwrap(), &directory);
        }
    }
}
