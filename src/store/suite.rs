//! One suite for every log and every state: what production runs and what the simulator runs behave alike.

use super::doubles::{Disk, MemoryGenerations, MemoryLog, Random};
use super::folder::{Folder, Sizes};
use super::generation::{LastRun, LevelGenerations};
use super::identity::Role;
use super::keys;
use super::log::{LogWrite, RaftLog};
use super::raft_engine::{EngineLog, MAX_ENTRY};
use super::state::{Batch, Generations, State};
use crate::error::Kind;
use raft::eraftpb::{ConfState, Entry, HardState};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) const CACHE: usize = 1 << 20;

pub(super) fn entry(index: u64, term: u64, data: &[u8]) -> Entry {
    Entry { index, term, data: data.to_vec().into(), ..Entry::default() }
}

pub(super) fn entries(indices: std::ops::Range<u64>, term: u64) -> Vec<Entry> {
    indices.map(|index| entry(index, term, format!("entry {index} of {term}").as_bytes())).collect()
}

pub(super) fn append(log: &mut dyn RaftLog, entries: Vec<Entry>, sync: bool) {
    log.write(LogWrite { entries, sync, ..LogWrite::default() }).unwrap();
}

pub(super) fn all(log: &dyn RaftLog) -> Vec<Entry> {
    let mut all = Vec::new();
    let mut low = log.truncated().0 + 1;
    while low <= log.last_index() {
        let some = log.entries(low, log.last_index() + 1, 100).unwrap();
        assert!(!some.is_empty() && some[0].index == low, "at least one entry, the first that was asked for");
        low += some.len() as u64;
        all.extend(some);
    }
    all
}

type Session<'a> = &'a dyn Fn(&mut dyn RaftLog);

/// Runs each session on a log that is closed and opened again in between, first on raft-engine, then on the double.
fn both_logs(sessions: &[Session<'_>]) {
    let folder = tempfile::tempdir().unwrap();
    for session in sessions {
        session(&mut EngineLog::open(folder.path()).unwrap());
    }
    let disk = Disk::new(1, ConfState::default(), &Batch::default());
    for session in sessions {
        session(&mut disk.open(false).0);
    }
}

#[test]
fn a_new_log_begins_behind_nothing() {
    both_logs(&[&|log: &mut dyn RaftLog| {
        assert_eq!((log.truncated(), log.last_index()), ((0, 0), 0));
        assert_eq!(log.term(0).unwrap(), Some(0));
        assert_eq!(log.term(1).unwrap(), None);
        assert_eq!(log.hard_state(), HardState::default());
        assert_eq!(log.membership(), (ConfState::default(), 0));
        assert_eq!(log.entries(1, 2, 100).unwrap(), []);
    }]);
}

#[test]
fn what_was_written_is_there_after_reopening() {
    let hard_state = HardState { term: 2, vote: 1, commit: 3, ..HardState::default() };
    let membership = (ConfState { voters: vec![1, 2, 3], ..ConfState::default() }, 2);
    both_logs(&[
        &|log: &mut dyn RaftLog| {
            let write = LogWrite {
                entries: entries(1..4, 1),
                hard_state: Some(hard_state.clone()),
                membership: Some(membership.clone()),
                sync: true,
            };
            log.write(write).unwrap();
            append(log, entries(4..6, 2), false);
            assert_eq!(log.syncs(), 1);
            log.write(LogWrite { sync: true, ..LogWrite::default() }).unwrap();
            assert_eq!(log.syncs(), 2);
        },
        &|log: &mut dyn RaftLog| {
            assert_eq!(all(log), [entries(1..4, 1), entries(4..6, 2)].concat());
            assert_eq!((log.hard_state(), log.membership()), (hard_state.clone(), membership.clone()));
            assert_eq!(
                (3..7).map(|index| log.term(index).unwrap()).collect::<Vec<_>>(),
                [Some(1), Some(2), Some(2), None]
            );
            assert_eq!(log.syncs(), 0);
        },
    ]);
}

#[test]
fn an_overlapping_append_deletes_the_tail_for_good() {
    both_logs(&[
        &|log: &mut dyn RaftLog| {
            append(log, entries(1..11, 1), true);
            append(log, entries(4..6, 2), true);
            assert_eq!(all(log), [entries(1..4, 1), entries(4..6, 2)].concat());
            assert_eq!((log.last_index(), log.term(6).unwrap()), (5, None));
        },
        &|log: &mut dyn RaftLog| {
            assert_eq!(all(log), [entries(1..4, 1), entries(4..6, 2)].concat());
            append(log, entries(1..2, 3), true);
        },
        &|log: &mut dyn RaftLog| assert_eq!(all(log), entries(1..2, 3)),
    ]);
}

#[test]
fn a_cut_keeps_the_term_before_the_first_entry() {
    both_logs(&[
        &|log: &mut dyn RaftLog| {
            append(log, [entries(1..6, 1), entries(6..11, 2)].concat(), true);
            log.cut(7).unwrap();
            log.cut(3).unwrap();
            assert_eq!((log.truncated(), log.last_index()), ((7, 2), 10));
            assert_eq!((log.term(6).unwrap(), log.term(7).unwrap()), (None, Some(2)));
            assert_eq!(log.entries(7, 9, 1000).unwrap(), []);
        },
        &|log: &mut dyn RaftLog| {
            assert_eq!((log.truncated(), all(log)), ((7, 2), entries(8..11, 2)));
            log.cut(99).unwrap();
            assert_eq!((log.truncated(), log.last_index()), ((10, 2), 10));
        },
        &|log: &mut dyn RaftLog| {
            assert_eq!((log.truncated(), log.last_index(), log.term(10).unwrap()), ((10, 2), 10, Some(2)));
            append(log, entries(11..13, 4), true);
        },
        &|log: &mut dyn RaftLog| assert_eq!(all(log), entries(11..13, 4)),
    ]);
}

#[test]
fn a_reset_forgets_every_entry_before_and_behind() {
    let membership = (ConfState { voters: vec![1, 5], ..ConfState::default() }, 4);
    for (index, commit) in [(5, 9), (50, 50)] {
        let hard_state = HardState { term: 7, vote: 3, commit: 9, ..HardState::default() };
        both_logs(&[
            &|log: &mut dyn RaftLog| {
                let hard_state = Some(hard_state.clone());
                let write = LogWrite { entries: entries(1..21, 1), hard_state, ..LogWrite::default() };
                log.write(write).unwrap();
                log.reset(index, 6, membership.clone()).unwrap();
                assert_eq!((log.truncated(), log.last_index(), all(log).len()), ((index, 6), index, 0));
            },
            &|log: &mut dyn RaftLog| {
                assert_eq!((log.truncated(), log.last_index(), all(log).len()), ((index, 6), index, 0));
                assert_eq!(log.hard_state(), HardState { commit, ..hard_state.clone() });
                assert_eq!(log.membership(), membership);
                append(log, entries(index + 1..index + 4, 7), true);
                assert_eq!(all(log), entries(index + 1..index + 4, 7));
            },
            &|log: &mut dyn RaftLog| assert_eq!(all(log), entries(index + 1..index + 4, 7)),
        ]);
    }
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    both_logs(&[&|log: &mut dyn RaftLog| {
        append(log, entries(1..6, 1), true);
        log.cut(2).unwrap();
        for wrong in [entries(7..8, 1), entries(2..4, 1), vec![entry(6, 1, b""), entry(8, 1, b"")]] {
            let write = LogWrite { entries: wrong, sync: true, ..LogWrite::default() };
            assert_eq!(log.write(write).unwrap_err().kind(), Kind::Failed);
        }
        append(log, entries(6..7, 1), true);
        assert_eq!(all(log), entries(3..7, 1));
    }]);
}

#[test]
fn the_largest_entry_works_and_a_larger_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let large = vec![7; MAX_ENTRY];
    let mut log = EngineLog::open(folder.path()).unwrap();
    let too_large = LogWrite { entries: vec![entry(1, 1, &vec![7; MAX_ENTRY + 1])], ..LogWrite::default() };
    assert_eq!(log.write(too_large).unwrap_err().kind(), Kind::TooLarge);
    append(&mut log, vec![entry(1, 1, &large), entry(2, 1, &large)], true);
    append(&mut log, entries(3..4, 1), true);
    assert_eq!(log.entries(1, 4, 1).unwrap(), [entry(1, 1, &large)]);
    drop(log);
    let log = EngineLog::open(folder.path()).unwrap();
    assert_eq!(log.entries(2, 4, u64::MAX).unwrap(), [vec![entry(2, 1, &large)], entries(3..4, 1)].concat());
}

#[test]
fn cuts_give_disk_space_back_and_never_bring_entries_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = EngineLog::open(folder.path()).unwrap();
    let data = vec![5; 1 << 20];
    let membership = (ConfState { voters: vec![1], ..ConfState::default() }, 0);
    log.write(LogWrite { membership: Some(membership.clone()), ..LogWrite::default() }).unwrap();
    for index in 1..=300 {
        append(&mut log, vec![entry(index, index / 100 + 1, &data)], false);
        if index % 40 == 0 {
            log.cut(index - 20).unwrap();
        }
    }
    assert!(log.bytes() <= 4 * (32 << 20), "{} bytes", log.bytes());
    log.close().unwrap();
    for _ in 0..2 {
        let mut log = EngineLog::open(folder.path()).unwrap();
        assert_eq!(
            (log.truncated(), log.last_index(), log.membership()),
            ((260, 3), 300, membership.clone())
        );
        let kept = all(&log);
        assert_eq!(kept.len(), 40);
        assert!(kept.iter().all(|entry| entry.data == data));
        append(&mut log, vec![entry(300, 4, &data)], true);
    }
}

#[test]
fn two_logs_on_one_thread_do_not_read_each_other() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    for (folder, word) in folders.iter().zip(["one", "two"]) {
        append(&mut EngineLog::open(folder.path()).unwrap(), vec![entry(1, 1, word.as_bytes())], true);
    }
    for (folder, word) in folders.iter().zip(["one", "two"]) {
        let log = EngineLog::open(folder.path()).unwrap();
        assert_eq!(all(&log), [entry(1, 1, word.as_bytes())]);
    }
}

#[test]
fn a_torn_tail_is_cut_off_and_what_was_before_stays() {
    let folder = tempfile::tempdir().unwrap();
    for cut in [1, 3, 10, 30] {
        let path = folder.path().join(format!("{cut}"));
        std::fs::create_dir(&path).unwrap();
        let mut log = EngineLog::open(&path).unwrap();
        append(&mut log, entries(1..4, 1), true);
        append(&mut log, entries(4..5, 1), true);
        drop(log);
        let file = path.join("0000000000000001.raftlog");
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(&file, &bytes[..bytes.len() - cut]).unwrap();
        let mut log = EngineLog::open(&path).unwrap();
        assert_eq!(all(&log), entries(1..4, 1));
        append(&mut log, entries(4..6, 2), true);
        drop(log);
        assert_eq!(all(&EngineLog::open(&path).unwrap()), [entries(1..4, 1), entries(4..6, 2)].concat());
    }
}

#[test]
fn damage_in_a_log_of_many_files_is_an_error_or_a_shorter_log() {
    let folder = tempfile::tempdir().unwrap();
    let (good, bad) = (folder.path().join("good"), folder.path().join("bad"));
    std::fs::create_dir(&good).unwrap();
    let mut log = EngineLog::open_sized(&good, 512, 4096).unwrap();
    for index in 1..=60 {
        append(&mut log, entries(index..index + 1, index / 20), true);
    }
    log.close().unwrap();
    let files: Vec<_> = std::fs::read_dir(&good).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(files.len() > 4, "{files:?}");
    let mut random = Random::new(3);
    let (mut errors, mut shorter) = (0, 0);
    for round in 0..300 {
        let _ = std::fs::remove_dir_all(&bad);
        std::fs::create_dir(&bad).unwrap();
        for name in &files {
            std::fs::copy(good.join(name), bad.join(name)).unwrap();
        }
        let file = bad.join(&files[round % files.len()]);
        let mut bytes = std::fs::read(&file).unwrap();
        if bytes.is_empty() {
            continue;
        }
        let position = random.up_to(bytes.len() - 1);
        if round % 7 == 0 {
            bytes.truncate(position)
        } else {
            bytes[position] ^= 1 << random.up_to(7)
        }
        std::fs::write(&file, &bytes).unwrap();
        match EngineLog::open_sized(&bad, 512, 4096) {
            Ok(log) => {
                let (first, last) = (log.truncated().0 + 1, log.last_index());
                let expected: Vec<_> =
                    (first..=last).flat_map(|index| entries(index..index + 1, index / 20)).collect();
                assert_eq!(all(&log), expected);
                shorter += u32::from(last < 60);
                assert_eq!(first, 1);
            }
            Err(error) => {
                assert_eq!(error.kind(), Kind::Damaged, "{error}");
                assert!(error.detail().contains(bad.to_str().unwrap()), "{error}");
                errors += 1;
            }
        }
    }
    assert!(errors > 50, "{errors} errors, {shorter} shorter");
}

/// A random walk over both logs, which must agree with each other at every step.
#[test]
fn both_logs_walk_alike() {
    let mut rewritten = 0;
    // With seeds 77, 79 and 87 raft-engine brings back entries that a reset has forgotten.
    for seed in [0, 1, 2, 3, 77, 79, 87] {
        let mut random = Random::new(seed);
        // Tiny files make raft-engine rewrite and purge all the time.
        let file = 256 << random.up_to(4);
        let open = |path| EngineLog::open_sized(path, file, 4 * file).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::new(seed, ConfState::default(), &Batch::default());
        let mut engine = open(folder.path());
        let mut memory = disk.open(false).0;
        for step in 0..300u64 {
            let (first, last) = (memory.truncated().0, memory.last_index());
            let some = first + random.up_to((last - first) as usize) as u64;
            match random.up_to(9) {
                0 => {
                    // Small cuts leave entries in old files, which raft-engine rewrites to free them.
                    let index = if seed % 2 == 0 { some } else { last.min(first + 2) };
                    engine.cut(index).unwrap();
                    memory.cut(index).unwrap();
                }
                1 if random.up_to(9) == 0 => {
                    let index = first + random.up_to((last - first) as usize + 5) as u64;
                    let membership = (ConfState { voters: vec![step], ..ConfState::default() }, index);
                    engine.reset(index, step + 1, membership.clone()).unwrap();
                    memory.reset(index, step + 1, membership).unwrap();
                }
                2 => {
                    drop(engine);
                    engine = open(folder.path());
                }
                choice => {
                    let from = if choice < 5 { some + 1 } else { last + 1 };
                    let count = random.up_to(4) as u64;
                    let write = LogWrite {
                        entries: entries(from..from + count, step + 1),
                        hard_state: Some(HardState { term: step, ..HardState::default() }),
                        membership: None,
                        sync: choice == 3,
                    };
                    engine.write(write.clone()).unwrap();
                    memory.write(write).unwrap();
                }
            }
            assert_eq!(engine.truncated(), memory.truncated(), "seed {seed} step {step}");
            assert_eq!(all(&engine), all(&memory), "seed {seed} step {step}");
            assert_eq!(engine.hard_state(), memory.hard_state());
            assert_eq!(engine.membership(), memory.membership());
            for index in engine.truncated().0.saturating_sub(1)..engine.last_index() + 2 {
                assert_eq!(
                    engine.term(index).unwrap(),
                    memory.term(index).unwrap(),
                    "seed {seed} step {step}"
                );
            }
        }
        rewritten += std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.file_name().to_str().unwrap().ends_with(".rewrite"))
            .map(|entry| entry.metadata().unwrap().len())
            .sum::<u64>();
    }
    assert!(rewritten > 2_000, "only {rewritten} bytes were rewritten");
}

pub(super) fn rows(pairs: &[(&str, Option<&str>)]) -> Batch {
    let changes = pairs.iter().map(|(row, value)| (row.as_bytes().to_vec(), value.map(|value| value.into())));
    Batch { changes: changes.collect() }
}

pub(super) fn scan(state: &dyn State, from: &[u8], to: &[u8]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    state
        .scan(from, to, &mut |row, value| {
            // The local rows of a LevelDB generation are not part of what is compared.
            if row[0] != 1 {
                found.push((text(row), text(value)));
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    found
}

pub(super) fn strings(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(row, value)| (row.to_string(), value.to_string())).collect()
}

/// Runs `suite` on a LevelDB; `open` closes and opens.
pub(super) fn on_leveldb(suite: impl Fn(&mut dyn FnMut() -> LevelGenerations)) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    LevelGenerations::create(&path, &rows(&[("a", Some("1"))]), CACHE)
        .unwrap()
        .close(Duration::from_secs(10))
        .unwrap();
    suite(&mut || LevelGenerations::open(&path, CACHE, LastRun::Killed).unwrap());
}

/// As [`on_leveldb`], on a double.
pub(super) fn on_double(suite: impl Fn(&mut dyn FnMut() -> MemoryGenerations)) {
    let disk = Disk::new(1, ConfState::default(), &rows(&[("a", Some("1"))]));
    suite(&mut || disk.open(false).1);
}

/// Runs a suite on a LevelDB and on a double.
macro_rules! both_states {
    ($suite:expr) => {
        $crate::store::suite::on_leveldb($suite);
        $crate::store::suite::on_double($suite);
    };
}
pub(super) use both_states;

#[test]
fn rows_are_read_scanned_changed_and_kept() {
    both_states!(|open| {
        let generations = open();
        let state = generations.live();
        assert_eq!(state.get(b"a").unwrap().as_deref(), Some(&b"1"[..]));
        state.write(&rows(&[("b", Some("2")), ("c", Some("3")), ("a", None), ("c", Some("4"))])).unwrap();
        assert_eq!(state.get(b"a").unwrap(), None);
        assert_eq!(state.get(b"").unwrap(), None);
        assert_eq!(scan(&*state, b"", b"\xff"), strings(&[("b", "2"), ("c", "4")]));
        assert_eq!(scan(&*state, b"b", b"c"), strings(&[("b", "2")]));
        assert_eq!(scan(&*state, b"c", b"b"), []);
        state.write(&rows(&[("empty", Some(""))])).unwrap();
        assert_eq!(state.get(b"empty").unwrap().as_deref(), Some(&b""[..]));
        state.flush().unwrap();
        state.write(&rows(&[("d", Some("5"))])).unwrap();
        assert!(state.failure().is_none());
        drop((state, generations));
        let generations = open();
        assert_eq!(
            scan(&*generations.live(), b"", b"\xff"),
            strings(&[("b", "2"), ("c", "4"), ("d", "5"), ("empty", "")])
        );
    });
}

#[test]
fn a_scan_ends_at_a_break_and_sees_one_moment() {
    both_states!(|open| {
        let generations = open();
        let state = generations.live();
        state.write(&rows(&[("b", Some("2")), ("c", Some("3"))])).unwrap();
        let mut seen = Vec::new();
        state
            .scan(b"a", b"z", &mut |row, _| {
                state.write(&rows(&[("bb", Some("new")), ("c", None)])).unwrap();
                assert_eq!(state.get(b"bb").unwrap().as_deref(), Some(&b"new"[..]));
                seen.push(row[0]);
                if row == b"c" { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .unwrap();
        assert_eq!(seen, b"abc");
    });
}

#[test]
fn a_replaced_generation_serves_its_readers_and_then_goes() {
    both_states!(|open| {
        let mut generations = open();
        let old = generations.live();
        let new = generations.replace(&rows(&[("n", Some("new"))])).unwrap();
        assert_eq!(scan(&*new, b"", b"\xff"), strings(&[("n", "new")]));
        assert_eq!(scan(&*generations.live(), b"", b"\xff"), strings(&[("n", "new")]));
        assert_eq!(old.get(b"a").unwrap().as_deref(), Some(&b"1"[..]));
        drop((old, new));
        generations.replace(&rows(&[("m", Some("newer"))])).unwrap();
        drop(generations);
        assert_eq!(scan(&*open().live(), b"", b"\xff"), strings(&[("m", "newer")]));
    });
}

/// Polls until `holds`. Panics if it does not within ten seconds.
pub(super) fn eventually(holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "it did not come within ten seconds");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn generations_leave_one_folder_and_never_use_a_number_twice() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let names = || {
        let mut names: Vec<_> = std::fs::read_dir(&path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let patience = Duration::from_secs(10);
    let mut generations = LevelGenerations::create(&path, &rows(&[]), CACHE).unwrap();
    assert_eq!(
        std::fs::read_to_string(path.join("CURRENT")).unwrap(),
        "format 1\nlive 000001\nnext 000002\ncrc32 88322391\n"
    );
    generations.replace(&rows(&[])).unwrap();
    generations.close(patience).unwrap();
    assert_eq!(names(), ["000002", "CURRENT"]);
    // A crash in the middle of a replace left the next one half-made.
    std::fs::create_dir(path.join("000003")).unwrap();
    let mut generations = LevelGenerations::open(&path, CACHE, LastRun::Killed).unwrap();
    assert_eq!(names(), ["000002", "CURRENT"]);
    generations.replace(&rows(&[])).unwrap();
    let reader = generations.live();
    let error = generations.close(Duration::from_millis(20)).unwrap_err();
    assert_eq!(error.kind(), Kind::Failed, "a reader holds it");
    drop(reader);
    // The close that failed did not wait for the thread that removes the one before.
    eventually(|| names() == ["000004", "CURRENT"]);
}

#[test]
fn a_newer_format_of_a_generation_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let generations = LevelGenerations::create(&path, &rows(&[]), CACHE).unwrap();
    let mut newer = Batch::default();
    newer.put(keys::FORMAT_ROW.to_vec(), 2u32.to_be_bytes().to_vec());
    generations.live().write(&newer).unwrap();
    drop(generations);
    let error = LevelGenerations::open(&path, CACHE, LastRun::Killed).err().unwrap();
    assert_eq!(error.kind(), Kind::Foreign);
}

#[test]
fn flushed_rows_survive_the_loss_of_the_write_ahead_logs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let generations = LevelGenerations::create(&path, &rows(&[("a", Some("1"))]), CACHE).unwrap();
    let state = generations.live();
    for number in 0..200 {
        state.write(&rows(&[(&format!("flushed {number:03}"), Some("x"))])).unwrap();
    }
    state.flush().unwrap();
    state.write(&rows(&[("unflushed", Some("y"))])).unwrap();
    drop((state, generations));
    let generations = LevelGenerations::open(&path, CACHE, LastRun::PowerLost).unwrap();
    let found = scan(&*generations.live(), b"", b"\xff");
    assert_eq!(found.len(), 201, "everything before the flush, nothing after it");
    assert!(found.iter().all(|(row, _)| row != "unflushed"));
}

/// Replays what a power loss leaves of a state whose batches are numbered, and says if it is a prefix.
fn is_a_prefix(disk: &Disk, power_lost: bool, flushed: u64) -> bool {
    let state = disk.open(power_lost).1.live();
    let found = scan(&*state, b"", b"\xff").len() as u64;
    assert!(found >= flushed, "flushed rows are kept");
    (0..found).all(|number| state.get(format!("{number:04}").as_bytes()).unwrap().is_some())
}

#[test]
fn the_double_shows_the_bug_of_trusting_write_ahead_logs_after_a_power_loss() {
    let mut holes = 0;
    for seed in 0..200 {
        for trust in [false, true] {
            let disk = Disk::new(seed, ConfState::default(), &Batch::default());
            disk.trust_logs(trust);
            let state = disk.open(false).1.live();
            let mut flushed = 0;
            for number in 0..30u64 {
                state.write(&rows(&[(&format!("{number:04}"), Some("x"))])).unwrap();
                if seed % 3 == 0 && number == 10 {
                    state.flush().unwrap();
                    flushed = 11;
                }
            }
            disk.crash(seed);
            let prefix = is_a_prefix(&disk, true, flushed);
            assert!(prefix || trust, "seed {seed}");
            holes += u32::from(!prefix);
        }
    }
    assert!(holes > 20, "only {holes} holes");
}

#[test]
fn a_killed_process_loses_nothing_and_a_power_loss_only_what_was_not_synced() {
    for seed in 0..200 {
        let disk = Disk::new(seed, ConfState::default(), &Batch::default());
        let (mut log, generations) = disk.open(false);
        append(&mut log, entries(1..4, 1), true);
        append(&mut log, entries(4..6, 1), false);
        append(&mut log, entries(5..7, 2), false);
        generations.live().write(&rows(&[("a", Some("1"))])).unwrap();
        if seed % 2 == 0 {
            disk.kill();
            assert!(generations.live().get(b"a").is_err(), "what was open is dead");
            let (log, generations) = disk.open(false);
            assert_eq!(log.last_index(), 6);
            assert_eq!(scan(&*generations.live(), b"", b"z"), strings(&[("a", "1")]));
        } else {
            disk.crash(seed);
            let (log, _) = disk.open(true);
            assert!([3, 5, 6].contains(&log.last_index()));
            assert_eq!(all(&log)[..3], entries(1..4, 1));
        }
    }
}

#[test]
fn faults_come_at_their_step_and_latch() {
    let disk = Disk::new(1, ConfState::default(), &Batch::default());
    let (mut log, generations) = disk.open(false);
    let state = generations.live();
    disk.fail_at(2);
    append(&mut log, entries(1..2, 1), true);
    assert_eq!(state.write(&rows(&[("a", Some("1"))])).unwrap_err().kind(), Kind::Failed);
    assert!(state.failure().is_some());
    assert!(log.write(LogWrite { entries: entries(2..3, 1), sync: true, ..LogWrite::default() }).is_err());
    assert!(state.flush().is_err());
    assert_eq!(state.get(b"a").unwrap(), None, "reads go on");
    let mut outcomes = BTreeMap::new();
    for seed in 0..50 {
        let disk = Disk::new(seed, ConfState::default(), &Batch::default());
        let (mut log, _) = disk.open(false);
        disk.crash_at(1);
        assert!(
            log.write(LogWrite { entries: entries(1..2, 1), sync: true, ..LogWrite::default() }).is_err()
        );
        assert!(log.term(0).is_err(), "everything after a crash is an error");
        disk.crash(seed);
        *outcomes.entry(disk.open(true).0.last_index()).or_insert(0) += 1;
    }
    assert_eq!(outcomes.keys().copied().collect::<Vec<_>>(), [0, 1], "the write happened, or not");
}

#[test]
fn stores_may_be_used_by_any_thread() {
    fn shared<T: Send + Sync>(_: &T) {}
    fn sent<T: Send>() {}
    sent::<EngineLog>();
    sent::<MemoryLog>();
    sent::<LevelGenerations>();
    sent::<MemoryGenerations>();
    let disk = Disk::new(1, ConfState::default(), &Batch::default());
    let state: Arc<dyn State> = disk.open(false).1.live();
    shared(&state);
    let _ = (Folder::open, Role::Worker, Sizes { cache: 0 });
}

/// One life after another of a lone member on a double: each entry is synced to the log, then applied unsynced; now
/// and then the state is flushed and the log cut. Returns whether every acknowledged entry was there after each crash.
fn survives_crashes(seed: u64, trust_logs: bool) -> bool {
    let mut random = Random::new(seed);
    let mut first = Batch::default();
    first.put(keys::COUNTERS_ROW.to_vec(), [0; 16].to_vec());
    let disk = Disk::new(seed, ConfState::default(), &first);
    disk.trust_logs(trust_logs);
    let (mut acknowledged, mut power_lost) = (0, false);
    for _ in 0..6 {
        let (mut log, generations) = disk.open(power_lost);
        let state = generations.live();
        let row = |index: u64| keys::record(format!("{:02}", index % 20).as_bytes());
        let apply = |index: u64| {
            let mut effect = Batch::default();
            effect.put(row(index), index.to_le_bytes().to_vec());
            effect.put(keys::COUNTERS_ROW.to_vec(), [index.to_le_bytes(), 1u64.to_le_bytes()].concat());
            state.write(&effect)
        };
        let counters = state.get(&keys::COUNTERS_ROW).unwrap().unwrap();
        let applied = keys::applied_of(&counters).unwrap().0;
        let last = log.last_index();
        if last < acknowledged || applied > last || applied < log.truncated().0 {
            return false;
        }
        (applied + 1..=last).for_each(|index| apply(index).unwrap());
        acknowledged = last;
        for index in (last + 1).saturating_sub(20).max(1)..=last {
            if state.get(&row(index)).unwrap() != Some(index.to_le_bytes().to_vec()) {
                return false;
            }
        }
        disk.crash_at(1 + random.up_to(60) as u64);
        let mut live = || -> crate::error::Result<()> {
            loop {
                let index = acknowledged + 1;
                log.write(LogWrite {
                    entries: entries(index..index + 1, 1),
                    sync: true,
                    ..LogWrite::default()
                })?;
                apply(index)?;
                acknowledged = index;
                if random.up_to(9) == 0 {
                    state.flush()?;
                    log.cut(index)?;
                }
            }
        };
        live().unwrap_err();
        power_lost = random.up_to(1) == 0;
        if power_lost { disk.crash(random.draw()) } else { disk.kill() }
    }
    true
}

#[test]
fn nothing_acknowledged_is_lost_on_the_doubles_and_the_planted_bug_is_found() {
    assert_eq!((0..1000).find(|seed| !survives_crashes(*seed, false)), None, "a seed that loses something");
    let found = (0..1000).filter(|seed| !survives_crashes(*seed, true)).count();
    assert!(found > 100, "only {found} seeds found the bug");
}
