//! Rules of moves and of those who leave, one test each.

use super::tests::{clone, directory, group_of, heard, join, refusal, register, replace, request, run};
use super::*;
use crate::cluster::moves::Span;
use crate::cluster::slots::SLOTS;

fn set(first: u16, last: u16) -> SlotSet {
    SlotSet::of([Span { first, last }])
}

/// Three groups of one member; the first owns every slot.
fn three_groups() -> Directory {
    let mut directory = directory();
    for (uuid, port) in [("a", 3001), ("b", 3002), ("c", 3003)] {
        register(&mut directory, request(uuid, port, 1), &[]).unwrap();
    }
    directory
}

fn start(directory: &mut Directory, from: u32, to: u32, slots: SlotSet) -> Result<u64, String> {
    match run(directory, &DirectoryCommand::StartMove { from, to, slots })? {
        DirectoryReply::MoveStarted { id } => Ok(id),
        other => panic!("not a move: {other:?}"),
    }
}

fn done(directory: &mut Directory, command: DirectoryCommand) -> Result<(), String> {
    run(directory, &command).map(|reply| assert_eq!(reply, DirectoryReply::Done))
}

#[test]
fn a_move_is_ordered_switches_and_is_over() {
    let mut directory = three_groups();
    refusal(start(&mut directory, 0, 7, set(0, 9)), "there is no group 7: groups of this cluster: 0, 1, 2");
    refusal(start(&mut directory, 1, 2, set(0, 9)), "group 1 does not own slot 0");
    refusal(start(&mut directory, 0, 0, set(0, 9)), "from one group to another");
    refusal(start(&mut directory, 0, 1, SlotSet::default()), "from one group to another");
    assert_eq!(start(&mut directory, 0, 1, set(0, 9)), Ok(1));
    refusal(start(&mut directory, 0, 2, set(10, 19)), "groups 0 and 1 are in move 1");
    assert_eq!((directory.slots.owner(3), directory.view().moves.len()), (Some(0), 1));
    let switched = || DirectoryCommand::MoveSwitched { id: 1 };
    done(&mut directory, switched()).unwrap();
    assert_eq!((directory.slots.count(1), directory.moves[&1].switched), (10, true));
    let epoch = directory.epoch;
    done(&mut directory, switched()).unwrap();
    assert_eq!(directory.epoch, epoch, "a repeat changes nothing");
    refusal(done(&mut directory, DirectoryCommand::CancelMove { id: 1 }), "have changed hands");
    let over = || DirectoryCommand::MoveDone { id: 1, withdrawn: false };
    done(&mut directory, over()).unwrap();
    done(&mut directory, over()).unwrap();
    done(&mut directory, switched()).unwrap();
    refusal(done(&mut directory, DirectoryCommand::CancelMove { id: 1 }), "move 1 is over");
    refusal(done(&mut directory, DirectoryCommand::MoveDone { id: 2, withdrawn: true }), "no move 2");
    assert_eq!((directory.moves.len(), directory.view().next_move), (0, 2));
    // One that is over and was never heard to switch has switched.
    assert_eq!(start(&mut directory, 0, 2, set(10, 29)), Ok(2));
    done(&mut directory, DirectoryCommand::MoveDone { id: 2, withdrawn: false }).unwrap();
    assert_eq!(directory.slots.count(2), 20);
}

#[test]
fn a_move_that_is_called_off_leaves_the_slots() {
    let mut directory = three_groups();
    start(&mut directory, 0, 1, set(0, 9)).unwrap();
    done(&mut directory, DirectoryCommand::CancelMove { id: 1 }).unwrap();
    done(&mut directory, DirectoryCommand::CancelMove { id: 1 }).unwrap();
    assert!(directory.view().moves[0].cancelled);
    done(&mut directory, DirectoryCommand::MoveDone { id: 1, withdrawn: true }).unwrap();
    assert_eq!(directory.slots.count(0), SLOTS);
    // It came too late: the target has them.
    start(&mut directory, 0, 1, set(0, 9)).unwrap();
    done(&mut directory, DirectoryCommand::CancelMove { id: 2 }).unwrap();
    done(&mut directory, DirectoryCommand::MoveSwitched { id: 2 }).unwrap();
    assert!(!directory.moves[&2].cancelled);
    // And has lost them again, because it was revived.
    done(&mut directory, DirectoryCommand::MoveDone { id: 2, withdrawn: true }).unwrap();
    assert_eq!(directory.slots.count(0), SLOTS);
}

#[test]
fn a_group_drains_and_is_dissolved() {
    let mut directory = three_groups();
    let drain = |group, undo| DirectoryCommand::DrainGroup { group, undo };
    let leave = |index| DirectoryCommand::DrainMember { index };
    refusal(done(&mut directory, leave(0)), "catstore drain --group 0 moves its slots");
    start(&mut directory, 0, 1, set(0, 9)).unwrap();
    done(&mut directory, drain(1, false)).unwrap();
    assert!(directory.moves[&1].cancelled, "it takes no slots");
    done(&mut directory, DirectoryCommand::MoveDone { id: 1, withdrawn: true }).unwrap();
    refusal(start(&mut directory, 0, 1, set(0, 9)), "group 1 is draining");
    done(&mut directory, drain(1, true)).unwrap();
    assert!(!directory.view().group(1).unwrap().draining);
    done(&mut directory, drain(0, false)).unwrap();
    refusal(register(&mut directory, clone("d", 3004, 0), &[]), "catstore drain --group 0 --undo");
    done(&mut directory, drain(1, false)).unwrap();
    refusal(done(&mut directory, drain(2, false)), "no group that could take the slots of group 2");
    done(&mut directory, drain(1, true)).unwrap();
    refusal(done(&mut directory, leave(0)), "still gives slots away");
    start(&mut directory, 0, 1, SlotSet::all()).unwrap();
    done(&mut directory, DirectoryCommand::MoveSwitched { id: 2 }).unwrap();
    refusal(done(&mut directory, leave(0)), "still gives slots away");
    done(&mut directory, DirectoryCommand::MoveDone { id: 2, withdrawn: false }).unwrap();
    done(&mut directory, leave(0)).unwrap();
    done(&mut directory, leave(0)).unwrap();
    assert!(directory.group(0).dissolved && directory.view().group(0).unwrap().members.is_empty());
    refusal(done(&mut directory, drain(0, true)), "group 0 was dissolved");
    refusal(start(&mut directory, 1, 0, set(0, 9)), "group 0 was dissolved");
    refusal(register(&mut directory, clone("d", 3004, 0), &[]), "group 0 was dissolved, with worker 0");
    refusal(
        register(&mut directory, replace("d", 3004, 0), &[]),
        "group 0 was dissolved: leave out --replace",
    );
    refusal(register(&mut directory, request("a", 3001, 2), &[]), "other groups hold its keys");
    let settings = Settings { replicas: 2, ..Settings::default() };
    run(&mut directory, &DirectoryCommand::Settings(settings)).unwrap();
    assert_eq!(
        register(&mut directory, request("d", 3001, 1), &[]),
        Ok((3, 1, 0, false)),
        "its place is free"
    );
}

#[test]
fn a_member_leaves_its_group() {
    let mut directory = group_of(3);
    done(&mut directory, DirectoryCommand::DrainMember { index: 1 }).unwrap();
    assert_eq!(directory.workers[&1].removed.as_deref(), Some("it left its group"));
    assert_eq!(directory.view().group(0).unwrap().removed, [1]);
    refusal(done(&mut directory, DirectoryCommand::DrainMember { index: 9 }), "no worker 9 to drain");
    refusal(register(&mut directory, request("b", 3002, 2), &[]), "worker 1 was removed: it left its group");
}

#[test]
fn a_target_that_is_revived_takes_nothing_and_a_source_goes_on() {
    let revived = |from, to| {
        let mut directory = group_of(3);
        register(&mut directory, request("x", 3009, 1), &[]).unwrap();
        if to == 0 {
            done(&mut directory, DirectoryCommand::MoveSwitched { id: 1 }).unwrap_err();
            start(&mut directory, 0, 3, SlotSet::all()).unwrap();
            done(&mut directory, DirectoryCommand::MoveDone { id: 1, withdrawn: false }).unwrap();
        }
        let id = start(&mut directory, from, to, set(0, 9)).unwrap();
        let left = heard(&[0, 1, 2], &[(1, 9)]);
        run(&mut directory, &DirectoryCommand::Promote { index: 1, heard: left }).unwrap();
        directory.moves[&id].cancelled
    };
    assert!(revived(3, 0));
    assert!(!revived(0, 3), "its target may own the slots already");
    // One that has switched stays so.
    let mut directory = group_of(2);
    register(&mut directory, request("x", 3009, 1), &[]).unwrap();
    start(&mut directory, 0, 2, set(0, 9)).unwrap();
    done(&mut directory, DirectoryCommand::MoveSwitched { id: 1 }).unwrap();
    let lost = RegisterRequest { accept_data_loss: true, ..replace("y", 3010, 2) };
    run(&mut directory, &DirectoryCommand::Dead { index: 2, dead: true }).unwrap();
    assert_eq!(join(&mut directory, lost, &[], &heard(&[2], &[])), Ok((3, 2, 1, true)));
    assert!(directory.moves[&1].switched && !directory.moves[&1].cancelled);
}

#[test]
fn a_rebalance_is_asked_for_and_over() {
    let mut directory = three_groups();
    let asked = Some(Rebalance { accept_fewer_copies: true });
    done(&mut directory, DirectoryCommand::Rebalance(asked)).unwrap();
    let epoch = directory.epoch;
    done(&mut directory, DirectoryCommand::Rebalance(asked)).unwrap();
    assert_eq!((directory.asked, directory.epoch), (asked, epoch));
    done(&mut directory, DirectoryCommand::Rebalance(None)).unwrap();
    assert_eq!(directory.asked, None);
    let none = Settings { move_rate: Some(0), ..Settings::default() };
    refusal(run(&mut directory, &DirectoryCommand::Settings(none)), "--move-rate");
}
