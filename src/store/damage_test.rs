//! Data folders as they are found again: closed, killed, without power, damaged, and not ours at all.

use super::doubles::Random;
use super::files;
use super::folder::{Folder, Sizes, Stores};
use super::generation::{LastRun, LevelGenerations};
use super::identity::{self, Identity, Role};
use super::keys;
use super::log::{LogWrite, RaftLog};
use super::state::{Batch, Generations};
use super::suite::entry;
use super::tables;
use crate::error::{Error, Kind, Result};
use raft::eraftpb::{ConfState, HardState};
use std::fs;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

const SIZES: Sizes = Sizes { cache: 1 << 20 };
const LAST: u64 = 60;
const FLUSHED: u64 = 40;
const CUT: u64 = 10;

fn counters(index: u64) -> Vec<u8> {
    let term = u64::from(index > 0);
    [index.to_le_bytes(), term.to_le_bytes()].concat()
}

fn value(index: u64) -> Vec<u8> {
    let mut random = Random::new(index);
    (0..500).map(|_| random.draw() as u8).collect()
}

/// The rows that the entry at `index` makes.
fn effect(index: u64) -> Batch {
    let mut batch = Batch::default();
    batch.put(keys::record(format!("key {:02}", index % 30).as_bytes()), value(index));
    batch.put(keys::COUNTERS_ROW.to_vec(), counters(index));
    batch
}

fn found(path: &Path) -> Folder {
    let mut folder = Folder::open(path, Role::Worker).unwrap();
    let mut rows = Batch::default();
    rows.put(keys::COUNTERS_ROW.to_vec(), counters(0));
    let membership = ConfState { voters: vec![1], ..ConfState::default() };
    folder.found(membership, &rows, SIZES).unwrap();
    folder
}

fn write(stores: &mut Stores, indices: std::ops::RangeInclusive<u64>) {
    for index in indices {
        let hard_state = HardState { term: 1, vote: 1, commit: index, ..HardState::default() };
        let entries = vec![entry(index, 1, &value(index))];
        let write = LogWrite { entries, hard_state: Some(hard_state), sync: true, ..LogWrite::default() };
        stores.log.write(write).unwrap();
        stores.state.live().write(&effect(index)).unwrap();
    }
}

/// A folder with [`LAST`] entries, of which the first [`CUT`] are cut from the log.
fn filled(path: &Path) -> (Folder, Stores) {
    let mut folder = found(path);
    let mut stores = folder.open_stores(SIZES).unwrap();
    write(&mut stores, 1..=FLUSHED);
    stores.state.live().flush().unwrap();
    stores.log.cut(CUT).unwrap();
    write(&mut stores, FLUSHED + 1..=LAST);
    (folder, stores)
}

/// Opens a folder and does what a replica does: replays the log onto the state, then compares every row.
fn verify(path: &Path) -> Result<()> {
    let mut folder = Folder::open(path, Role::Worker)?;
    if !folder.has_stores() {
        return Err(Error::new(Kind::Damaged, format!("{} has forgotten its stores", path.display())));
    }
    let stores = folder.open_stores(SIZES)?;
    let state = stores.state.live();
    let (applied, _) = keys::applied_of(&state.get(&keys::COUNTERS_ROW)?.unwrap())?;
    assert_eq!(stores.log.last_index(), LAST, "the log is whole");
    for index in applied + 1..=LAST {
        let entries = stores.log.entries(index, index + 1, u64::MAX)?;
        assert_eq!(entries, [entry(index, 1, &value(index))], "an entry is right");
        state.write(&effect(index))?;
    }
    let (from, to) = keys::records();
    let mut count = 0;
    state.scan(&from, &to, &mut |row, bytes| {
        let number: u64 = std::str::from_utf8(&row[5..]).unwrap().parse().unwrap();
        let newest = (LAST - 29..=LAST).find(|index| index % 30 == number).unwrap();
        assert_eq!(bytes, value(newest), "a value is right");
        count += 1;
        ControlFlow::Continue(())
    })?;
    assert_eq!(count, 30, "no row is lost");
    for number in 0..30 {
        let row = keys::record(format!("key {number:02}").as_bytes());
        assert!(state.get(&row)?.is_some(), "a row is found");
    }
    Ok(())
}

pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn all_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(all_files(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}

#[test]
fn a_closed_folder_can_be_copied_and_counts_its_starts() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let (mut data, stores) = filled(&one);
    data.close_stores(stores).unwrap();
    let clean = data.identity().clean.unwrap();
    assert_eq!((clean.last_index, clean.last_term, clean.applied), (LAST, 1, LAST));
    assert_eq!(data.identity().starts, 1);
    // The folder is still locked, its stores are closed.
    copy(&one, &two);
    verify(&two).unwrap();
    let stores = data.open_stores(SIZES).unwrap();
    assert_eq!((data.identity().starts, data.identity().clean), (2, None));
    assert_eq!(stores.log.membership(), (ConfState { voters: vec![1], ..ConfState::default() }, 0));
    drop((stores, data));
    assert_eq!(identity::read(&one).unwrap().unwrap().starts, 2);
    verify(&one).unwrap();
}

#[test]
fn a_killed_process_finds_everything_and_so_does_a_lost_boot() {
    let folder = tempfile::tempdir().unwrap();
    for power_lost in [false, true] {
        let (path, copied) = (folder.path().join(format!("{power_lost}")), folder.path().join("copy"));
        let (data, stores) = filled(&path);
        // A copy of the open folder is what kill -9 leaves.
        let _ = fs::remove_dir_all(&copied);
        copy(&path, &copied);
        drop((stores, data));
        if power_lost {
            let identity = identity::read(&copied).unwrap().unwrap();
            identity::write(&copied, &Identity { boot: "another boot".into(), ..identity }).unwrap();
        }
        let mut data = Folder::open(&copied, Role::Worker).unwrap();
        let stores = data.open_stores(SIZES).unwrap();
        let counters = stores.state.live().get(&keys::COUNTERS_ROW).unwrap().unwrap();
        let applied = keys::applied_of(&counters).unwrap().0;
        assert_eq!(applied, if power_lost { FLUSHED } else { LAST });
        drop((stores, data));
        verify(&copied).unwrap();
    }
}

/// The newest write-ahead log of the first generation in `state`.
fn write_ahead_log(state: &Path) -> PathBuf {
    tables::write_ahead_logs(&state.join("000001")).unwrap().pop().unwrap()
}

#[test]
fn a_hole_in_a_killed_folders_write_ahead_log_is_replayed_from_the_raft_log() {
    let folder = tempfile::tempdir().unwrap();
    for (bytes, whole) in [(4096..8192, false), (0..10, false), (0..0, true)] {
        let path = folder.path().join(format!("{bytes:?}"));
        drop(filled(&path));
        let log = write_ahead_log(&path.join("state"));
        let mut content = fs::read(&log).unwrap();
        assert!(content.len() > 8192 + 1000, "records lie behind the hole");
        content[bytes].fill(0);
        fs::write(&log, content).unwrap();
        let mut data = Folder::open(&path, Role::Worker).unwrap();
        let stores = data.open_stores(SIZES).unwrap();
        let counters = stores.state.live().get(&keys::COUNTERS_ROW).unwrap().unwrap();
        assert_eq!(keys::applied_of(&counters).unwrap().0, if whole { LAST } else { FLUSHED });
        drop((stores, data));
        verify(&path).unwrap();
    }
}

#[test]
fn a_hole_that_leveldb_passes_over_does_not_leave_a_hole_in_the_state() {
    const PAGE: usize = 4096;
    const RECORDS: usize = 24;
    let folder = tempfile::tempdir().unwrap();
    let (path, killed) = (folder.path().join("state"), folder.path().join("killed"));
    let patience = std::time::Duration::from_secs(10);
    LevelGenerations::create(&path, &Batch::default(), SIZES.cache).unwrap().close(patience).unwrap();
    let state = LevelGenerations::open(&path, SIZES.cache, LastRun::Closed).unwrap();
    let row = |number: usize| format!("{number:03}").into_bytes();
    for number in 0..RECORDS {
        let mut batch = Batch::default();
        // With the record's header, the batch's header, and the tag and lengths of key and value: a page.
        batch.put(row(number), vec![1; PAGE - 7 - 12 - (1 + 1 + 3 + 2)]);
        state.live().write(&batch).unwrap();
    }
    copy(&path, &killed);
    state.close(patience).unwrap();
    let log = write_ahead_log(&killed);
    let good = fs::read(&log).unwrap();
    assert_eq!(good.len(), RECORDS * PAGE, "every record fills a page");
    let rows_of = |content: &[u8]| -> Vec<usize> {
        let folder = folder.path().join("opened");
        let _ = fs::remove_dir_all(&folder);
        copy(&killed, &folder);
        fs::write(write_ahead_log(&folder), content).unwrap();
        let state = LevelGenerations::open(&folder, SIZES.cache, LastRun::Killed).unwrap();
        let live = state.live();
        (0..RECORDS).filter(|number| live.get(&row(*number)).unwrap().is_some()).collect()
    };
    assert_eq!(rows_of(&good).len(), RECORDS);
    for cut in [1, PAGE - 3, PAGE + 1] {
        let kept = RECORDS - cut.div_ceil(PAGE);
        assert_eq!(
            rows_of(&good[..good.len() - cut]),
            (0..kept).collect::<Vec<_>>(),
            "a torn tail is cut off"
        );
    }
    for page in 0..RECORDS {
        let mut content = good.clone();
        content[page * PAGE..(page + 1) * PAGE].fill(0);
        assert_eq!(rows_of(&content), [0; 0], "a hole at page {page}");
    }
}

#[test]
fn the_last_files_of_a_log_are_written_anew_at_every_start() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().unwrap();
    let (path, killed) = (folder.path().join("live"), folder.path().join("killed"));
    let (mut data, stores) = filled(&path);
    copy(&path, &killed);
    data.close_stores(stores).unwrap();
    drop(data);
    // Also after a clean close: a start that failed in a sync has left its note.
    for path in [&path, &killed] {
        let last =
            ["log/0000000000000001.raftlog", "log/0000000000000001.rewrite"].map(|name| path.join(name));
        let inodes = || last.each_ref().map(|file| fs::metadata(file).unwrap().ino());
        let left = path.join("log/0000000000000001.raftlog.tmp");
        fs::write(&left, "half a copy").unwrap();
        let before = inodes();
        verify(path).unwrap();
        assert!(!left.exists());
        assert!(before.iter().zip(inodes()).all(|(before, after)| *before != after));
    }
}

#[test]
fn a_log_that_is_shorter_than_the_state_after_a_crash_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    let (data, stores) = filled(folder.path());
    drop((stores, data));
    let log = folder.path().join("log/0000000000000001.raftlog");
    let bytes = fs::read(&log).unwrap();
    fs::write(&log, &bytes[..bytes.len() - 10]).unwrap();
    for _ in 0..2 {
        let error = verify(folder.path()).unwrap_err();
        assert_eq!(error.kind(), Kind::Damaged);
        assert!(error.detail().contains("the log is shorter than the state"), "{error}");
        assert!(error.detail().contains("/log"), "{error}");
    }
}

#[test]
fn a_crash_in_the_middle_of_founding_is_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let data = found(folder.path());
    let identity = data.identity().clone();
    drop(data);
    identity::write(folder.path(), &Identity { stores: false, ..identity }).unwrap();
    let mut data = Folder::open(folder.path(), Role::Worker).unwrap();
    assert!(!data.has_stores());
    assert_eq!(data.open_stores(SIZES).err().unwrap().kind(), Kind::Conflict);
    drop(data);
    let mut data = found(folder.path());
    let stores = data.open_stores(SIZES).unwrap();
    assert_eq!((stores.log.truncated(), stores.log.last_index()), ((0, 0), 0));
    drop(stores);
    let again = data.found(ConfState::default(), &Batch::default(), SIZES);
    assert_eq!(again.unwrap_err().kind(), Kind::Conflict);
}

#[test]
fn a_folder_that_is_not_ours_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("cat.jpg"), "meow").unwrap();
    let error = Folder::open(folder.path(), Role::Worker).err().unwrap();
    assert_eq!(error.kind(), Kind::Foreign);
    assert!(error.to_string().contains("choose another --data"), "{error}");
    assert_eq!(all_files(folder.path()).len(), 1);
    let file = folder.path().join("cat.jpg");
    assert_eq!(Folder::open(&file, Role::Worker).err().unwrap().kind(), Kind::System);
}

#[test]
fn a_folder_of_the_other_role_or_in_use_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("a/b");
    let mut data = Folder::open(&path, Role::Master).unwrap();
    data.save(Identity { index: Some(3), ..data.identity().clone() }).unwrap();
    let error = Folder::open(&path, Role::Master).err().unwrap();
    assert_eq!(error.kind(), Kind::Foreign);
    let holder = format!("is in use by process {} (master 3)", std::process::id());
    assert!(error.to_string().contains(&holder), "{error}");
    assert!(data.free_bytes().unwrap() > 0);
    let uuid = data.identity().uuid.clone();
    drop(data);
    let error = Folder::open(&path, Role::Worker).err().unwrap();
    assert_eq!(error.kind(), Kind::Foreign);
    assert!(error.to_string().contains("belongs to a master"), "{error}");
    assert_eq!(Folder::open(&path, Role::Master).unwrap().identity().uuid, uuid);
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn an_interrupted_first_start_is_a_fresh_start_but_a_lost_identity_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("LOCK"), "process 1 (worker)").unwrap();
    fs::write(folder.path().join("identity.json.tmp"), "{").unwrap();
    drop(found(folder.path()));
    fs::remove_file(folder.path().join("identity.json")).unwrap();
    for _ in 0..2 {
        let error = Folder::open(folder.path(), Role::Worker).err().unwrap();
        assert_eq!(error.kind(), Kind::Damaged);
        assert!(error.detail().contains("identity.json"), "{error}");
        let _ = fs::remove_file(folder.path().join("LOCK"));
    }
}

#[test]
fn missing_stores_are_damage() {
    for name in ["log", "state", "state/CURRENT", "state/000001", "state/000001/CURRENT"] {
        let folder = tempfile::tempdir().unwrap();
        drop(filled(folder.path()));
        let path = folder.path().join(name);
        if path.is_dir() {
            fs::remove_dir_all(&path).unwrap()
        } else {
            fs::remove_file(&path).unwrap()
        }
        let error = verify(folder.path()).unwrap_err();
        assert_eq!(error.kind(), Kind::Damaged, "{name}");
        assert!(error.detail().contains(path.to_str().unwrap()), "{name}: {error}");
    }
}

#[test]
fn a_folder_that_cannot_be_made_names_itself_and_the_cause() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Folder::open(&file.join("data"), Role::Worker).err().unwrap();
    assert_eq!(error.kind(), Kind::System);
    assert!(error.to_string().contains("file/data"), "{error}");
    assert!(error.to_string().contains("Not a directory"), "{error}");
    use std::os::unix::ffi::OsStrExt;
    let strange = folder.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9"));
    assert_eq!(Folder::open(&strange, Role::Worker).err().unwrap().kind(), Kind::System);
}

/// What a flip, a cut or a lost file may lead to: the right values, or an error that names a file in the folder.
fn check_damage(path: &Path, what: &str) -> bool {
    match catch_unwind(AssertUnwindSafe(|| verify(path))) {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            assert!(matches!(error.kind(), Kind::Damaged | Kind::Foreign), "{what}: {error}");
            assert!(error.detail().contains(path.to_str().unwrap()), "{what} names no file: {error}");
            false
        }
        Err(_) => panic!("{what}: a wrong value, a loss or a panic"),
    }
}

#[test]
fn damage_anywhere_in_a_closed_folder_is_harmless_or_named() {
    let folder = tempfile::tempdir().unwrap();
    let (good, bad) = (folder.path().join("good"), folder.path().join("bad"));
    let (mut data, stores) = filled(&good);
    data.close_stores(stores).unwrap();
    // A second life leaves more than one table, and a write-ahead log with records in it.
    let mut stores = data.open_stores(SIZES).unwrap();
    let hard_state = HardState { term: 1, vote: 1, commit: LAST, ..HardState::default() };
    stores.log.write(LogWrite { hard_state: Some(hard_state), ..LogWrite::default() }).unwrap();
    data.close_stores(stores).unwrap();
    drop(data);
    let files = all_files(&good);
    let mut random = Random::new(7);
    let mut harmless = Vec::new();
    for round in 0..240 {
        let file = &files[round % files.len()];
        let name = file.strip_prefix(&good).unwrap();
        let mut bytes = fs::read(file).unwrap();
        if bytes.is_empty() {
            continue;
        }
        let _ = fs::remove_dir_all(&bad);
        copy(&good, &bad);
        let position = random.up_to(bytes.len() - 1);
        let what = if round / files.len() % 4 == 3 {
            bytes.truncate(position);
            format!("{} cut to {position}", name.display())
        } else {
            let bit = random.up_to(7);
            bytes[position] ^= 1 << bit;
            format!("{} bit {bit} of byte {position}", name.display())
        };
        fs::write(bad.join(name), &bytes).unwrap();
        if check_damage(&bad, &what) {
            harmless.push(what);
        } else {
            // Found damaged once, it is found damaged again: opening destroys no evidence.
            assert!(!check_damage(&bad, &what), "{what}: found damaged only once");
        }
    }
    // LOCK files and LevelDB's text log hold nothing, write-ahead logs and tiny tables only the mark of a flush.
    let is_mark =
        |file: &&PathBuf| file.extension() == Some("ldb".as_ref()) && file.metadata().unwrap().len() < 300;
    let marks: Vec<_> =
        files.iter().filter(is_mark).map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
    harmless.retain(|what| {
        !["LOCK", "/LOG", ".log cut to 0"].iter().chain(&marks).any(|name| what.contains(name))
    });
    assert_eq!(harmless, Vec::<String>::new());
}

#[test]
fn damage_anywhere_in_a_killed_folder_is_harmless_or_named() {
    let folder = tempfile::tempdir().unwrap();
    let (good, bad) = (folder.path().join("good"), folder.path().join("bad"));
    let (data, stores) = filled(&folder.path().join("live"));
    copy(&folder.path().join("live"), &good);
    drop((stores, data));
    let files = all_files(&good);
    let mut random = Random::new(11);
    for round in 0..200 {
        let file = &files[round % files.len()];
        let name = file.strip_prefix(&good).unwrap();
        let mut bytes = fs::read(file).unwrap();
        // Behind its batches the log holds zeros, which say nothing.
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
        if end == 0 {
            continue;
        }
        let _ = fs::remove_dir_all(&bad);
        copy(&good, &bad);
        let position = random.up_to(end);
        bytes[position] ^= 1 << random.up_to(7);
        fs::write(bad.join(name), &bytes).unwrap();
        check_damage(&bad, &format!("{} byte {position}", name.display()));
    }
}

#[test]
fn every_byte_of_the_small_files_counts() {
    let folder = tempfile::tempdir().unwrap();
    let (good, bad) = (folder.path().join("good"), folder.path().join("bad"));
    let (mut data, stores) = filled(&good);
    data.close_stores(stores).unwrap();
    drop(data);
    for name in ["identity.json", "state/CURRENT", "state/000001/CURRENT"] {
        copy(&good, &bad);
        let bytes = fs::read(good.join(name)).unwrap();
        for position in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[position] ^= 1 << (position % 8);
            fs::write(bad.join(name), &flipped).unwrap();
            assert!(!check_damage(&bad, &format!("{name} byte {position}")));
        }
        fs::write(bad.join(name), &bytes).unwrap();
    }
    files::sync_folder(&bad).unwrap();
    verify(&bad).unwrap();
}
