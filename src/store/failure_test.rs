//! Disks that return errors: a store latches, says so, and goes on being read.
//!
//! A file that a library has open is replaced under its descriptor by a device: `/dev/full` refuses every byte,
//! `/dev/null` takes them and refuses to be synced; the process's own memory, of which the first bytes are never there,
//! refuses to be read.

use super::generation::{LastRun, LevelBuilding, LevelGenerations};
use super::keys;
use super::leveldb::{Expect, LevelState};
use super::log::{LogWrite, RaftLog};
use super::raft_engine::EngineLog;
use super::state::{Batch, Building, Generations, Installed, State};
use super::suite::entries;
use crate::error::Kind;
use raft::eraftpb::ConfState;
use std::fs::{self, OpenOptions};
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

const CACHE: usize = 1 << 20;

/// Puts `device` under every descriptor of this process that writes to a file in `folder` with this extension or
/// beginning.
fn replace(folder: &Path, name: &str, device: &str) {
    let folder = folder.canonicalize().unwrap();
    let device = OpenOptions::new().read(true).write(true).open(device).unwrap();
    let mut replaced = 0;
    for entry in fs::read_dir("/proc/self/fd").unwrap() {
        let entry = entry.unwrap();
        let Ok(target) = fs::read_link(entry.path()) else {
            continue;
        };
        if target.starts_with(&folder) && target.file_name().unwrap().to_str().unwrap().contains(name) {
            let descriptor = entry.file_name().to_str().unwrap().parse().unwrap();
            // SAFETY: both descriptors are open; the one that is replaced belongs to a store of this test.
            assert!(unsafe { libc::dup2(device.as_raw_fd(), descriptor) } >= 0);
            replaced += 1;
        }
    }
    assert!(replaced > 0, "no {name} is open");
}

fn rows(row: &str, value: &str) -> Batch {
    let mut batch = Batch::default();
    batch.put(row.into(), value.into());
    batch
}

fn append(log: &mut EngineLog, indices: std::ops::Range<u64>) -> crate::error::Result<()> {
    log.write(LogWrite { entries: entries(indices, 1), sync: true, ..LogWrite::default() })
}

#[test]
fn a_log_on_a_full_or_failing_disk_latches_and_is_dropped_quietly() {
    for device in ["/dev/full", "/dev/null"] {
        let folder = tempfile::tempdir().unwrap();
        let mut log = EngineLog::open(folder.path()).unwrap();
        append(&mut log, 1..4).unwrap();
        replace(folder.path(), ".raftlog", device);
        let error = append(&mut log, 4..5).unwrap_err();
        assert_eq!(error.kind(), Kind::Failed);
        assert!(error.detail().contains(folder.path().to_str().unwrap()), "{error}");
        let again = append(&mut log, 4..5).unwrap_err();
        assert!(again.to_string().contains("failed earlier"), "{again}");
        assert_eq!((log.last_index(), log.syncs()), (3, 1), "what was not written is not there");
        assert_eq!(log.entries(1, 9, u64::MAX).unwrap(), entries(1..4, 1));
        assert!(log.cut(2).is_err() && log.reset(9, 9, (ConfState::default(), 9)).is_err());
        assert_eq!(log.truncated(), (0, 0));
        drop(log);
    }
}

#[test]
fn a_state_on_a_full_disk_latches_and_is_still_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let state = LevelState::open(&path, Expect::None, CACHE).unwrap();
    state.write(&rows("a", "1")).unwrap();
    replace(&path, ".log", "/dev/full");
    let error = state.write(&rows("b", "2")).unwrap_err();
    assert_eq!(error.kind(), Kind::Failed);
    assert!(error.detail().contains(path.to_str().unwrap()), "{error}");
    assert_eq!(state.failure().unwrap().detail(), error.detail());
    assert!(state.write(&rows("c", "3")).unwrap_err().to_string().contains("failed earlier"));
    assert!(state.flush().is_err());
    assert_eq!(state.get(b"a").unwrap().as_deref(), Some(&b"1"[..]));
}

/// A state whose rows `00` to `99` are in tables, the row `00` having been read from there.
fn in_tables(path: &Path) -> LevelState {
    let state = LevelState::open(path, Expect::None, 0).unwrap();
    let mut batch = Batch::default();
    for number in 0..100 {
        batch.put(format!("{number:02}").into(), vec![7; 1000]);
    }
    state.write(&batch).unwrap();
    state.flush().unwrap();
    assert_eq!(state.get(b"00").unwrap(), Some(vec![7; 1000]));
    state
}

#[test]
fn a_sector_that_cannot_be_read_is_an_error_and_not_the_end_of_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let state = in_tables(&path);
    replace(&path, ".ldb", "/proc/self/mem");
    let error = state.get(b"99").unwrap_err();
    assert_eq!(error.kind(), Kind::Failed);
    assert!(error.detail().contains(path.to_str().unwrap()), "{error}");
    assert!(error.detail().contains("Input/output error"), "{error}");
    let scanned = state.scan(b"00", b"99", &mut |_, _| ControlFlow::Continue(()));
    assert_eq!(scanned.unwrap_err().kind(), Kind::Failed);
}

#[test]
fn a_table_that_is_cut_under_an_open_state_is_damage_and_not_the_end_of_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let state = in_tables(&path);
    for entry in fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.extension().is_some_and(|extension| extension == "ldb") {
            OpenOptions::new().write(true).open(entry).unwrap().set_len(0).unwrap();
        }
    }
    let error = state.get(b"99").unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged);
    assert!(error.detail().contains(".ldb"), "{error}");
    assert!(state.write(&rows("a", "1")).is_err(), "a damaged state is not written");
}

#[test]
fn a_flush_whose_manifest_is_not_synced_does_not_succeed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let state = LevelState::open(&path, Expect::None, CACHE).unwrap();
    state.write(&rows("a", "1")).unwrap();
    replace(&path, "MANIFEST", "/dev/null");
    assert_eq!(state.flush().unwrap_err().kind(), Kind::Failed);
    assert!(state.failure().is_some());
}

#[test]
fn a_replace_that_fails_leaves_the_old_generation_to_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let mut generations = LevelGenerations::create(&path, &rows("a", "1"), CACHE).unwrap();
    // A file stands where the next generation wants to be.
    fs::write(path.join("000002"), "").unwrap();
    assert!(generations.replace(&rows("b", "2")).is_err());
    let old = generations.live();
    assert!(old.failure().is_some(), "nothing may be added to the old one");
    assert_eq!(old.write(&rows("c", "3")).unwrap_err().kind(), Kind::Failed);
    assert_eq!(old.get(b"a").unwrap().as_deref(), Some(&b"1"[..]));
    drop(old);
    generations.close(Duration::from_secs(10)).unwrap();
    fs::remove_file(path.join("000002")).unwrap();
    let generations = LevelGenerations::open(&path, CACHE, LastRun::Killed).unwrap();
    assert_eq!(generations.live().get(b"a").unwrap().as_deref(), Some(&b"1"[..]));
}

/// A finished generation that has applied entry 7 of term 2.
fn built(generations: &mut LevelGenerations) -> LevelBuilding {
    let mut built = generations.begin().unwrap();
    let mut counters = Batch::default();
    counters.put(keys::COUNTERS_ROW.to_vec(), [7u64.to_le_bytes(), 2u64.to_le_bytes()].concat());
    built.write(&counters).unwrap();
    built.write(&rows("b", "2")).unwrap();
    built.finish().unwrap();
    built
}

#[test]
fn an_install_that_fails_leaves_either_generation_to_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let mut generations = LevelGenerations::create(&path, &rows("a", "1"), CACHE).unwrap();
    let built = built(&mut generations);
    // A folder stands where the next CURRENT wants to be.
    fs::create_dir(path.join("CURRENT.tmp")).unwrap();
    let at = Installed { index: 7, term: 2, membership: (ConfState::default(), 0) };
    assert!(generations.install(built, at).is_err());
    assert!(generations.begin().is_err(), "no generation without a number of its own");
    let old = generations.live();
    assert_eq!(old.write(&rows("c", "3")).unwrap_err().kind(), Kind::Failed);
    assert_eq!((old.get(b"a").unwrap().as_deref(), generations.installed()), (Some(&b"1"[..]), None));
    drop(old);
    generations.close(Duration::from_secs(10)).unwrap();
    assert!(path.join("000002").is_dir(), "it may be the live one");
    fs::remove_dir(path.join("CURRENT.tmp")).unwrap();
    let generations = LevelGenerations::open(&path, CACHE, LastRun::Killed).unwrap();
    assert_eq!(generations.live().get(b"a").unwrap().as_deref(), Some(&b"1"[..]));
    assert!(!path.join("000002").exists());
}

#[test]
fn a_generation_that_cannot_be_filled_does_not_harm_the_live_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let mut generations = LevelGenerations::create(&path, &rows("a", "1"), CACHE).unwrap();
    let mut building = generations.begin().unwrap();
    building.write(&rows("b", "2")).unwrap();
    // A folder stands where the first table wants to be.
    fs::create_dir(path.join("000002/000002.ldb")).unwrap();
    assert_eq!(building.finish().unwrap_err().kind(), Kind::System);
    assert_eq!(building.write(&rows("c", "3")).unwrap_err().kind(), Kind::Conflict);
    assert!(building.finish().is_err());
    drop(building);
    let mut unnamed = generations.begin().unwrap();
    unnamed.write(&rows("b", "2")).unwrap();
    fs::create_dir(path.join("000003/CURRENT")).unwrap();
    assert!(unnamed.finish().is_err());
    drop(unnamed);
    generations.live().write(&rows("c", "3")).unwrap();
    let built = built(&mut generations);
    let at = Installed { index: 7, term: 2, membership: (ConfState::default(), 0) };
    assert_eq!(generations.install(built, at).unwrap().get(b"b").unwrap().as_deref(), Some(&b"2"[..]));
    generations.close(Duration::from_secs(10)).unwrap();
    assert!(!path.join("000002").exists() && !path.join("000003").exists());
}

#[test]
fn a_missing_database_is_never_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let expect = Expect::One(super::tables::Left::Crashed);
    assert_eq!(LevelState::open(folder.path(), expect, CACHE).err().unwrap().kind(), Kind::Damaged);
    drop(LevelState::open(folder.path(), Expect::None, CACHE).unwrap());
    drop(LevelState::open(folder.path(), expect, CACHE).unwrap());
    assert!(LevelState::open(folder.path(), Expect::None, CACHE).is_err(), "one is there already");
    use std::os::unix::ffi::OsStrExt;
    for strange in [&b"caf\xe9"[..], b"a\0b"] {
        let path = folder.path().join(std::ffi::OsStr::from_bytes(strange));
        assert_eq!(LevelState::open(&path, Expect::None, CACHE).err().unwrap().kind(), Kind::System);
    }
}
