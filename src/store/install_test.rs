//! A snapshot install that a crash interrupts at every step: the old state with the old log, or the new state with a
//! log that the start resets. Never a refusal, never a loss of term or vote.

use super::current::{self, Current};
use super::damage_test::copy;
use super::doubles::{Disk, MemoryGenerations, MemoryLog, Random};
use super::files;
use super::folder::{Folder, Sizes, Stores};
use super::identity::{self, Identity, Role};
use super::install::settle;
use super::keys;
use super::log::{LogWrite, RaftLog};
use super::state::{Batch, Building, Generations, Installed, State};
use super::suite::{append, entries};
use crate::error::{Kind, Result};
use raft::eraftpb::{ConfState, HardState};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const SIZES: Sizes = Sizes { cache: 1 << 20 };
/// The follower's log before the install ends here, and its state has applied this.
const OLD_LAST: u64 = 5;
const OLD_APPLIED: u64 = 3;

fn counters(index: u64, term: u64) -> Batch {
    let mut batch = Batch::default();
    batch.put(keys::COUNTERS_ROW.to_vec(), [index.to_le_bytes(), term.to_le_bytes()].concat());
    batch
}

fn installed() -> Installed {
    let membership = ConfState { voters: vec![1, 2, 3], learners: vec![4], ..ConfState::default() };
    Installed { index: 20, term: 2, membership: (membership, 15) }
}

fn hard_state() -> HardState {
    HardState { term: 3, vote: 2, commit: OLD_APPLIED, ..HardState::default() }
}

/// A member that joined with an empty folder and then followed for a while.
fn follower(path: &Path) -> (Folder, Stores) {
    let mut folder = Folder::open(path, Role::Worker).unwrap();
    folder.found(ConfState::default(), &counters(0, 0), SIZES).unwrap();
    let mut stores = folder.open_stores(SIZES).unwrap();
    assert_eq!(stores.log.membership(), (ConfState::default(), 0));
    let hard_state = Some(hard_state());
    let entries = entries(1..OLD_LAST + 1, 1);
    stores.log.write(LogWrite { entries, hard_state, sync: true, ..LogWrite::default() }).unwrap();
    stores.state.live().write(&counters(OLD_APPLIED, 1)).unwrap();
    stores.state.live().flush().unwrap();
    (folder, stores)
}

/// Writes the rows of a snapshot at `installed()`.
fn fill(building: &mut impl Building) {
    building.write(&counters(20, 2)).unwrap();
    for number in 0..50u8 {
        let (row, value) = (keys::record(&[number]), vec![number; 100]);
        // One way and the other, in turns.
        if number % 2 == 0 {
            building.add(&row, &value).unwrap();
            continue;
        }
        let mut batch = Batch::default();
        batch.put(row, value);
        building.write(&batch).unwrap();
    }
}

/// Builds and installs the snapshot; the log is left as it is.
fn switch(generations: &mut impl Generations) {
    let mut built = generations.begin().unwrap();
    fill(&mut built);
    built.finish().unwrap();
    generations.install(built, installed()).unwrap();
}

/// Opens a folder and checks that it is as before the install, or as after it, and ready to go on.
fn check(path: &Path, new: bool) {
    for _ in 0..2 {
        let mut folder = Folder::open(path, Role::Worker).unwrap();
        let mut stores = folder.open_stores(SIZES).unwrap();
        let log = &stores.log;
        let state = stores.state.live();
        let applied = keys::applied_of(&state.get(&keys::COUNTERS_ROW).unwrap().unwrap()).unwrap();
        let (from, to) = keys::records();
        let mut count = 0;
        state
            .scan(&from, &to, &mut |row, value| {
                assert_eq!(value, vec![row[1]; 100]);
                count += 1;
                ControlFlow::Continue(())
            })
            .unwrap();
        let ends = (log.truncated(), log.last_index(), applied, count, log.membership());
        assert_eq!(stores.state.installed(), None);
        if new {
            assert_eq!(ends, ((20, 2), 20, (20, 2), 50, installed().membership));
            assert_eq!(log.hard_state(), HardState { commit: 20, ..hard_state() });
            append(&mut stores.log, entries(21..23, 3), true);
            stores.log.reset(20, 2, installed().membership).unwrap();
        } else {
            assert_eq!(ends, ((0, 0), OLD_LAST, (OLD_APPLIED, 1), 0, (ConfState::default(), 0)));
            assert_eq!(log.hard_state(), hard_state());
        }
    }
}

/// As [`check`], on copies of `path` as a kill, and as a power loss, would leave it. `change` may add what a crash in
/// the middle of a step leaves.
fn check_copies(path: &Path, new: bool, change: impl Fn(&Path)) {
    for power_lost in [false, true] {
        let copied = tempfile::tempdir().unwrap();
        copy(path, copied.path());
        change(copied.path());
        if power_lost {
            let identity = identity::read(copied.path()).unwrap().unwrap();
            identity::write(copied.path(), &Identity { boot: "another boot".into(), ..identity }).unwrap();
        }
        check(copied.path(), new);
    }
}

/// Cuts into the last batch of the log.
fn tear_log(path: &Path) {
    let file = path.join("log/0000000000000001.raftlog");
    let bytes = fs::read(&file).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    fs::write(&file, &bytes[..end - 5]).unwrap();
}

#[test]
fn a_crash_at_any_step_of_an_install_leaves_the_old_or_the_new() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("live");
    let (mut data, mut stores) = follower(&path);
    let same = |_: &Path| {};
    check_copies(&path, false, same);
    let mut built = stores.state.begin().unwrap();
    check_copies(&path, false, same);
    fill(&mut built);
    check_copies(&path, false, same);
    built.finish().unwrap();
    check_copies(&path, false, same);
    let before = tempfile::tempdir().unwrap();
    copy(&path, before.path());
    // A reader keeps the old generation from being removed while it is copied.
    let reader = stores.state.live();
    stores.state.install(built, installed()).unwrap();
    check_copies(&path, true, same);
    // The new CURRENT was written and not renamed.
    let current = fs::read(path.join("state/CURRENT")).unwrap();
    check_copies(before.path(), false, |copied| {
        fs::write(copied.join("state/CURRENT.tmp"), &current).unwrap();
    });
    stores.log.reset(20, 2, installed().membership).unwrap();
    check_copies(&path, true, same);
    check_copies(&path, true, tear_log);
    stores.state.settled().unwrap();
    check_copies(&path, true, same);
    drop(reader);
    data.close_stores(stores).unwrap();
    check_copies(&path, true, same);
}

#[test]
fn a_close_ends_an_install_and_notes_the_end_of_the_new_log() {
    let folder = tempfile::tempdir().unwrap();
    let (mut data, mut stores) = follower(folder.path());
    switch(&mut stores.state);
    data.close_stores(stores).unwrap();
    let note = data.identity().clean.unwrap();
    assert_eq!((note.last_index, note.last_term, note.applied), (20, 2, 20));
    let stores = data.open_stores(SIZES).unwrap();
    assert_eq!((stores.log.truncated(), stores.log.hard_state().vote), ((20, 2), 2));
}

/// A follower's folder after the switch, with `content` as CURRENT.
fn switched(path: &Path, change: impl Fn(String) -> String) -> PathBuf {
    let (_, mut stores) = follower(path);
    switch(&mut stores.state);
    drop(stores);
    let state = path.join("state");
    let text = files::read_sealed(&state.join(current::NAME)).unwrap().unwrap();
    files::write_sealed(&state, current::NAME, &change(text)).unwrap();
    state
}

#[test]
fn a_log_that_is_short_without_a_note_or_with_a_note_of_another_state_is_damaged_and_left_alone() {
    let without_note = |text: String| text.split_inclusive('\n').take(3).collect::<String>();
    let other_note = |text: String| text.replace("installed 20 2", "installed 30 2");
    let changes: [(&dyn Fn(String) -> String, &str); 2] =
        [(&without_note, "the log is shorter than the state"), (&other_note, "has applied Some((20, 2))")];
    for (change, word) in changes {
        let folder = tempfile::tempdir().unwrap();
        let state = switched(folder.path(), change);
        for _ in 0..2 {
            let mut data = Folder::open(folder.path(), Role::Worker).unwrap();
            let error = data.open_stores(SIZES).err().unwrap();
            assert_eq!(error.kind(), Kind::Damaged);
            assert!(error.detail().contains(word), "{error}");
            assert!(error.detail().contains(folder.path().to_str().unwrap()), "{error}");
        }
        // With the note it is whole: nothing was touched.
        let current = Current::read(&state).unwrap();
        Current { installed: Some(installed()), ..current }.write(&state).unwrap();
        let mut data = Folder::open(folder.path(), Role::Worker).unwrap();
        let stores = data.open_stores(SIZES).unwrap();
        assert_eq!((stores.log.truncated(), stores.log.hard_state().term), ((20, 2), 3));
    }
}

#[test]
fn an_incarnation_only_grows_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    let mut data = Folder::open(folder.path(), Role::Worker).unwrap();
    assert_eq!(data.identity().incarnation, 1);
    data.set_incarnation(1).unwrap();
    data.set_incarnation(4).unwrap();
    assert_eq!(data.set_incarnation(3).unwrap_err().kind(), Kind::Conflict);
    drop(data);
    assert_eq!(Folder::open(folder.path(), Role::Worker).unwrap().identity().incarnation, 4);
}

#[test]
fn a_lone_voter_is_forced_on_folders_that_were_closed_killed_or_half_installed() {
    for case in ["closed", "killed", "installed", "power lost"] {
        let folder = tempfile::tempdir().unwrap();
        let (mut data, mut stores) = follower(folder.path());
        let joint = ConfState { voters: vec![1, 2, 3], voters_outgoing: vec![1, 2], ..ConfState::default() };
        let membership = Some((joint, 2));
        stores.log.write(LogWrite { membership, sync: true, ..LogWrite::default() }).unwrap();
        let (mut last, mut made_at) = (OLD_LAST, 2);
        match case {
            "closed" => data.close_stores(stores).unwrap(),
            "installed" => {
                switch(&mut stores.state);
                drop(stores);
                (last, made_at) = (20, 15);
            }
            "killed" => drop(stores),
            _ => {
                drop(stores);
                data.save(Identity { boot: "another boot".into(), ..data.identity().clone() }).unwrap();
            }
        }
        data.promote(2, 7).unwrap();
        assert_eq!((data.identity().incarnation, data.identity().promoting), (7, None));
        assert_eq!(data.identity().adopts, Some(7));
        assert_eq!(data.identity().clean.unwrap().last_index, last, "{case}");
        drop(data);
        let mut data = Folder::open(folder.path(), Role::Worker).unwrap();
        let stores = data.open_stores(SIZES).unwrap();
        let alone = ConfState { voters: vec![2], ..ConfState::default() };
        assert_eq!(stores.log.membership(), (alone, made_at), "{case}");
        assert_eq!(stores.log.last_index(), last);
        assert_eq!((stores.log.hard_state().term, stores.log.hard_state().vote), (3, 2));
    }
    let folder = tempfile::tempdir().unwrap();
    let mut data = Folder::open(folder.path(), Role::Worker).unwrap();
    assert_eq!(data.force_lone_voter(2).unwrap_err().kind(), Kind::Conflict, "no stores yet");
}

#[test]
fn a_folder_stays_locked_until_the_last_view_of_it_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let (data, stores) = follower(folder.path());
    let view = stores.state.live().view().unwrap();
    drop((data, stores));
    let error = Folder::open(folder.path(), Role::Worker).err().unwrap();
    assert_eq!(error.kind(), Kind::Foreign);
    assert!(error.to_string().contains("is in use by process"), "{error}");
    drop(view);
    let deadline = Instant::now() + Duration::from_secs(10);
    while Folder::open(folder.path(), Role::Worker).is_err() {
        assert!(Instant::now() < deadline, "it stays locked");
        std::thread::yield_now();
    }
}

/// What is done wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// The log is reset before the switch.
    ResetFirst,
    /// The note is removed before the log is reset.
    NoteFirst,
}

/// The rows that a machine holds after entry `index`.
fn rows_at(index: u64) -> Vec<(Vec<u8>, Vec<u8>)> {
    let oldest = index.saturating_sub(9).max(1);
    let rows =
        (oldest..=index).map(|index| (keys::record(&[(index % 10) as u8]), index.to_le_bytes().to_vec()));
    let mut rows: Vec<_> = rows.collect();
    rows.sort();
    rows
}

fn term_at(index: u64) -> u64 {
    index / 10 + 1
}

fn membership_at(index: u64) -> (ConfState, u64) {
    (ConfState { voters: vec![index], ..ConfState::default() }, index)
}

/// What a follower has promised: it must never forget it.
#[derive(Debug, Clone, Default)]
struct Promises {
    acknowledged: u64,
    votes: HardState,
    membership: (ConfState, u64),
    installs: u64,
}

type Opened = (MemoryLog, MemoryGenerations);

/// Appends an entry, votes, installs a snapshot, or flushes and cuts.
fn do_something(stores: &mut Opened, promises: &mut Promises, random: &mut Random, bug: Bug) -> Result<()> {
    let (log, generations) = stores;
    let last = log.last_index();
    match random.up_to(9) {
        0 => {
            let next = last + 1 + random.up_to(30) as u64;
            install(log, generations, next, bug)?;
            promises.acknowledged = next;
            promises.membership = membership_at(next);
            promises.installs += 1;
        }
        1 => {
            let term = log.hard_state().term + 1;
            let hard_state = HardState { term, vote: random.up_to(3) as u64, ..log.hard_state() };
            let write = LogWrite { hard_state: Some(hard_state.clone()), sync: true, ..LogWrite::default() };
            log.write(write)?;
            promises.votes = hard_state;
        }
        2 => {
            let applied = last;
            generations.live().flush()?;
            log.cut(applied)?;
        }
        _ => {
            let entries = entries(last + 1..last + 2, term_at(last + 1));
            log.write(LogWrite { entries, sync: true, ..LogWrite::default() })?;
            promises.acknowledged = last + 1;
            apply(&*generations.live(), last + 1)?;
        }
    }
    Ok(())
}

fn apply(state: &dyn State, index: u64) -> Result<()> {
    let mut batch = counters(index, term_at(index));
    batch.put(keys::record(&[(index % 10) as u8]), index.to_le_bytes().to_vec());
    state.write(&batch)
}

fn install(log: &mut MemoryLog, generations: &mut MemoryGenerations, index: u64, bug: Bug) -> Result<()> {
    let mut built = generations.begin()?;
    built.write(&counters(index, term_at(index)))?;
    for (row, value) in rows_at(index) {
        let mut batch = Batch::default();
        batch.put(row, value);
        built.write(&batch)?;
    }
    built.finish()?;
    let membership = membership_at(index);
    let at = Installed { index, term: term_at(index), membership: membership.clone() };
    match bug {
        Bug::ResetFirst => {
            log.reset(index, term_at(index), membership)?;
            generations.install(built, at)?;
        }
        Bug::NoteFirst => {
            generations.install(built, at)?;
            generations.settled()?;
            log.reset(index, term_at(index), membership)?;
        }
        Bug::None => {
            generations.install(built, at)?;
        }
    }
    settle(log, generations)
}

/// One life after another of a follower on a double. Returns how many snapshots it installed, or what was wrong after
/// a crash.
fn survives_crashes(seed: u64, bug: Bug) -> std::result::Result<u64, String> {
    let mut random = Random::new(seed);
    let disk = Disk::new(seed, ConfState::default(), &counters(0, 0));
    let (mut promises, mut power_lost) = (Promises::default(), false);
    for _ in 0..8 {
        let mut stores = disk.open(power_lost);
        settle(&mut stores.0, &mut stores.1).map_err(|error| error.to_string())?;
        check_promises(&stores, &promises)?;
        let (log, generations) = &stores;
        let state = generations.live();
        let applied = keys::applied_of(&state.get(&keys::COUNTERS_ROW).unwrap().unwrap()).unwrap().0;
        (applied + 1..=log.last_index()).for_each(|index| apply(&*state, index).unwrap());
        for (row, value) in rows_at(log.last_index()) {
            if state.get(&row).unwrap() != Some(value) {
                return Err(format!("a row is wrong at entry {}", log.last_index()));
            }
        }
        promises = Promises {
            acknowledged: log.last_index(),
            votes: log.hard_state(),
            membership: log.membership(),
            installs: promises.installs,
        };
        let steps = 1 + random.up_to(80) as u64;
        if random.up_to(3) == 0 {
            disk.fail_at(steps)
        } else {
            disk.crash_at(steps)
        }
        while do_something(&mut stores, &mut promises, &mut random, bug).is_ok() {}
        power_lost = random.up_to(2) > 0;
        if power_lost { disk.crash(random.draw()) } else { disk.kill() }
    }
    Ok(promises.installs)
}

fn check_promises((log, generations): &Opened, promises: &Promises) -> std::result::Result<(), String> {
    let counters = generations.live().get(&keys::COUNTERS_ROW).unwrap().ok_or("the counters are gone")?;
    let applied = keys::applied_of(&counters).unwrap();
    let hard_state = log.hard_state();
    let (first, last) = (log.truncated().0, log.last_index());
    let problems = [
        (last < promises.acknowledged, "an acknowledged entry is gone"),
        (applied.0 > last || applied.0 < first, "state and log do not meet"),
        (log.term(applied.0).unwrap() != Some(applied.1), "the applied entry has another term"),
        (hard_state.commit > last, "the commit index lies beyond the log"),
        (hard_state.term < promises.votes.term, "the term is gone"),
        (
            hard_state.term == promises.votes.term && hard_state.vote != promises.votes.vote,
            "the vote is gone",
        ),
        (log.membership().1 < promises.membership.1, "the membership is gone"),
        (log.membership() != membership_of(log.membership().1), "the membership is another one"),
        (generations.installed().is_some(), "the note is still there"),
    ];
    match problems.iter().find(|(wrong, _)| *wrong) {
        Some((_, what)) => Err(format!("{what}: log {first} to {last}, applied {applied:?}, {promises:?}")),
        None => Ok(()),
    }
}

fn membership_of(index: u64) -> (ConfState, u64) {
    if index == 0 { (ConfState::default(), 0) } else { membership_at(index) }
}

#[test]
fn a_follower_on_the_doubles_survives_crashes_and_the_planted_bugs_are_found() {
    let mut installs = 0;
    for seed in 0..1000 {
        installs += survives_crashes(seed, Bug::None).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
    assert!(installs > 1000, "only {installs}");
    for bug in [Bug::ResetFirst, Bug::NoteFirst] {
        let found = (0..1000).filter_map(|seed| survives_crashes(seed, bug).err()).collect::<Vec<_>>();
        assert!(found.len() > 20, "{bug:?} is found by {} seeds only", found.len());
    }
}
