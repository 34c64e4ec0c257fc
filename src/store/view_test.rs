//! Views, and generations that a snapshot fills: one suite for LevelDB and the double.

use super::doubles::{Disk, MemoryGenerations, Random};
use super::generation::{LastRun, LevelGenerations};
use super::keys;
use super::log::RaftLog;
use super::state::{Batch, Building, Generations, Installed, View};
use super::suite::{CACHE, both_states, eventually, rows, scan, strings};
use crate::error::{Kind, Result};
use raft::eraftpb::ConfState;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

fn seen(view: &dyn View, from: &[u8], to: &[u8]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let visit = &mut |row: &[u8], value: &[u8]| {
        // The local rows of a LevelDB generation are not part of what is compared.
        if row[0] != 1 {
            found.push((text(row), text(value)));
        }
        ControlFlow::Continue(())
    };
    view.scan(from, to, visit).unwrap();
    found
}

fn at(index: u64) -> Installed {
    let membership = ConfState { voters: vec![1, 2, 3], learners: vec![4], ..ConfState::default() };
    Installed { index, term: 2, membership: (membership, index - 1) }
}

/// The counters of a machine that has applied `at(index)`.
fn counters(index: u64) -> Batch {
    let mut batch = Batch::default();
    batch.put(keys::COUNTERS_ROW.to_vec(), [index.to_le_bytes(), 2u64.to_le_bytes()].concat());
    batch
}

/// Fills a generation with `n` = `value`, as of `at(index)`, on another thread.
fn fill<B: Building>(mut building: B, index: u64, value: &str) -> B {
    std::thread::scope(|scope| {
        let filled = scope.spawn(move || -> Result<B> {
            building.write(&counters(index))?;
            building.write(&rows(&[("n", Some(value))]))?;
            // Nothing comes twice, or earlier, and nothing is removed.
            for wrong in [("n", Some("again")), ("m", Some("late")), ("o", None)] {
                assert_eq!(building.write(&rows(&[wrong])).unwrap_err().kind(), Kind::Conflict);
            }
            for wrong in ["m", "n"] {
                assert_eq!(building.add(wrong.as_bytes(), b"late").unwrap_err().kind(), Kind::Conflict);
            }
            building.finish()?;
            assert_eq!(building.add(b"o", b"too late").unwrap_err().kind(), Kind::Conflict);
            Ok(building)
        });
        filled.join().unwrap().unwrap()
    })
}

#[test]
fn a_view_shows_one_moment_whatever_is_written_flushed_and_replaced() {
    both_states!(|open| {
        let mut generations = open();
        let state = generations.live();
        state.write(&rows(&[("b", Some("2")), ("c", Some("3"))])).unwrap();
        let view = state.view().unwrap();
        state.write(&rows(&[("b", Some("9")), ("c", None), ("d", Some("4"))])).unwrap();
        let later = state.view().unwrap();
        state.flush().unwrap();
        state.write(&rows(&[("a", None)])).unwrap();
        generations.replace(&rows(&[("n", Some("new"))])).unwrap();
        drop(state);
        let built = fill(generations.begin().unwrap(), 7, "newer");
        generations.install(built, at(7)).unwrap();
        for _ in 0..2 {
            assert_eq!(seen(&*view, b"", b"\xff"), strings(&[("a", "1"), ("b", "2"), ("c", "3")]));
            assert_eq!(seen(&*view, b"b", b"c"), strings(&[("b", "2")]));
            assert_eq!(seen(&*view, b"c", b"b"), []);
            assert_eq!(view.get(b"b").unwrap().as_deref(), Some(&b"2"[..]));
            assert_eq!(view.get(b"d").unwrap(), None);
            assert_eq!(seen(&*later, b"", b"\xff"), strings(&[("a", "1"), ("b", "9"), ("d", "4")]));
        }
        let first = std::cell::Cell::new(0);
        view.scan(b"a", b"z", &mut |_, _| {
            first.set(first.get() + 1);
            ControlFlow::Break(())
        })
        .unwrap();
        assert_eq!(first.get(), 1);
    });
}

#[test]
fn a_filled_generation_is_installed_with_a_note_that_stays_until_it_is_settled() {
    both_states!(|open| {
        let mut generations = open();
        assert_eq!(generations.installed(), None);
        let old = generations.live();
        let built = fill(generations.begin().unwrap(), 7, "new");
        assert_eq!(scan(&*generations.live(), b"", b"\xff"), strings(&[("a", "1")]));
        old.write(&rows(&[("b", Some("2"))])).unwrap();
        let new = generations.install(built, at(7)).unwrap();
        assert_eq!(scan(&*new, b"", b"\xff"), strings(&[("n", "new")]));
        assert_eq!(scan(&*generations.live(), b"", b"\xff"), strings(&[("n", "new")]));
        assert_eq!(scan(&*old, b"", b"\xff"), strings(&[("a", "1"), ("b", "2")]));
        assert_eq!(generations.installed(), Some(at(7)));
        drop((old, new, generations));
        let mut generations = open();
        assert_eq!(generations.installed(), Some(at(7)));
        assert_eq!(scan(&*generations.live(), b"", b"\xff"), strings(&[("n", "new")]));
        // Another one may begin, and go, while the note is there.
        drop(generations.begin().unwrap());
        drop(generations);
        let mut generations = open();
        assert_eq!(generations.installed(), Some(at(7)));
        generations.settled().unwrap();
        assert_eq!(generations.installed(), None);
        generations.settled().unwrap();
        drop(generations);
        let generations = open();
        assert_eq!(generations.installed(), None);
        assert_eq!(scan(&*generations.live(), b"", b"\xff"), strings(&[("n", "new")]));
    });
}

#[test]
fn only_a_finished_generation_that_stands_where_it_should_is_installed() {
    both_states!(|open| {
        let mut generations = open();
        let mut half = generations.begin().unwrap();
        half.write(&counters(7)).unwrap();
        assert_eq!(generations.install(half, at(7)).err().unwrap().kind(), Kind::Conflict);
        let mut without_counters = generations.begin().unwrap();
        without_counters.finish().unwrap();
        assert_eq!(without_counters.write(&counters(7)).unwrap_err().kind(), Kind::Conflict);
        assert_eq!(generations.install(without_counters, at(7)).err().unwrap().kind(), Kind::Conflict);
        let other = fill(generations.begin().unwrap(), 8, "new");
        assert_eq!(generations.install(other, at(7)).err().unwrap().kind(), Kind::Conflict);
        assert_eq!(generations.installed(), None);
        assert!(generations.live().failure().is_none(), "nothing happened to the live one");
        generations.live().write(&rows(&[("b", Some("2"))])).unwrap();
        // Two at once: the later one wins, the other one is not needed any more.
        let (one, two) = (generations.begin().unwrap(), generations.begin().unwrap());
        let (one, two) = (fill(one, 7, "one"), fill(two, 9, "two"));
        generations.install(two, at(9)).unwrap();
        drop(one);
        assert_eq!(scan(&*generations.live(), b"", b"\xff"), strings(&[("n", "two")]));
        assert_eq!(generations.installed(), Some(at(9)));
    });
}

fn names(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_generation_that_is_not_installed_goes_and_its_number_never_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let mut generations = LevelGenerations::create(&path, &rows(&[("a", Some("1"))]), CACHE).unwrap();
    let built = fill(generations.begin().unwrap(), 7, "new");
    assert_eq!(names(&path), ["000001", "000002", "CURRENT"]);
    drop(built);
    generations.close(PATIENCE).unwrap();
    assert_eq!(names(&path), ["000001", "CURRENT"]);
    let mut generations = LevelGenerations::open(&path, CACHE, LastRun::Killed).unwrap();
    let built = fill(generations.begin().unwrap(), 7, "new");
    assert_eq!(names(&path), ["000001", "000003", "CURRENT"]);
    // The process dies while it is filled.
    std::mem::forget(built);
    let copied = folder.path().join("copied");
    std::fs::create_dir(&copied).unwrap();
    super::damage_test::copy(&path, &copied);
    let mut generations = LevelGenerations::open(&copied, CACHE, LastRun::PowerLost).unwrap();
    assert_eq!(names(&copied), ["000001", "CURRENT"]);
    let built = fill(generations.begin().unwrap(), 7, "new");
    let view = generations.live().view().unwrap();
    generations.install(built, at(7)).unwrap();
    assert_eq!(names(&copied), ["000001", "000004", "CURRENT"], "a view keeps the old one");
    assert_eq!(generations.close(Duration::from_millis(20)).unwrap_err().kind(), Kind::Failed);
    assert_eq!(seen(&*view, b"", b"\xff"), strings(&[("a", "1")]));
    drop(view);
    // A close that failed waits for nobody: the old one is removed by a thread of its own.
    eventually(|| names(&copied) == ["000004", "CURRENT"]);
    let generations = LevelGenerations::open(&copied, CACHE, LastRun::PowerLost).unwrap();
    assert_eq!(scan(&*generations.live(), b"", b"\xff"), strings(&[("n", "new")]), "all of it is in tables");
    generations.close(PATIENCE).unwrap();
    assert_eq!(names(&copied), ["000004", "CURRENT"]);
}

#[test]
fn a_view_of_a_damaged_table_names_it_and_no_row_is_taken_for_the_last() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let mut many = Batch::default();
    (0..2000).for_each(|number| many.put(format!("{number:04}").into(), vec![b'x'; 50]));
    LevelGenerations::create(&path, &many, CACHE).unwrap().close(PATIENCE).unwrap();
    let table = std::fs::read_dir(path.join("000001")).unwrap().map(|entry| entry.unwrap().path());
    let table = table.max_by_key(|file| file.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&table).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&table, bytes).unwrap();
    let generations = LevelGenerations::open(&path, CACHE, LastRun::Killed).unwrap();
    let view = generations.live().view().unwrap();
    for _ in 0..2 {
        let mut count = 0;
        let visit = &mut |_: &[u8], _: &[u8]| {
            count += 1;
            ControlFlow::Continue(())
        };
        let error = view.scan(b"", b"z", visit).unwrap_err();
        assert_eq!(error.kind(), Kind::Damaged);
        assert!(error.detail().contains(table.to_str().unwrap()), "{error}");
        assert!((1..2000).contains(&count));
    }
    assert!(generations.live().failure().is_some(), "what a view finds latches the generation");
}

#[test]
fn a_generation_that_a_crash_hits_while_it_is_filled_is_gone() {
    for seed in 0..50 {
        let disk = Disk::new(seed, ConfState::default(), &rows(&[("a", Some("1"))]));
        let mut generations = disk.open(false).1;
        let mut built: <MemoryGenerations as Generations>::Building = generations.begin().unwrap();
        built.write(&counters(7)).unwrap();
        built.finish().unwrap();
        let view = generations.live().view().unwrap();
        if seed % 2 == 0 {
            disk.crash(seed)
        } else {
            disk.kill()
        }
        assert!(view.get(b"a").is_err(), "what was open is dead");
        assert!(generations.install(built, at(7)).is_err());
        let generations = disk.open(true).1;
        assert_eq!((generations.installed(), scan(&*generations.live(), b"", b"z").len()), (None, 1));
    }
}

#[test]
fn a_switch_that_a_fault_hits_happened_or_not_with_its_note() {
    let mut outcomes = BTreeMap::new();
    for seed in 0..200 {
        let disk = Disk::new(seed, ConfState::default(), &rows(&[("a", Some("1"))]));
        let mut generations = disk.open(false).1;
        let built = fill(generations.begin().unwrap(), 7, "new");
        if seed % 2 == 0 {
            disk.crash_at(1)
        } else {
            disk.fail_at(1)
        }
        assert!(generations.install(built, at(7)).is_err());
        if seed % 4 < 2 {
            disk.crash(seed)
        } else {
            disk.kill()
        }
        let generations = disk.open(true).1;
        let installed = generations.installed() == Some(at(7));
        let expected = if installed { [("n", "new")] } else { [("a", "1")] };
        assert_eq!(scan(&*generations.live(), b"", b"\xff"), strings(&expected));
        *outcomes.entry((seed % 4, installed)).or_insert(0) += 1;
    }
    assert_eq!(outcomes.len(), 8, "{outcomes:?}");
}

#[test]
fn equal_rows_have_equal_digests_on_every_way_to_them() {
    let disk = |seed| Disk::new(seed, ConfState::default(), &Batch::default());
    let (one, two) = (disk(1), disk(2));
    assert_eq!(
        (one.digest(), one.open(false).0.membership() == (ConfState::default(), 0)),
        (two.digest(), true)
    );
    let mut random = Random::new(5);
    let mut digests = BTreeMap::new();
    let mut model = BTreeMap::new();
    for step in 0..300 {
        let state = one.open(false).1.live();
        let row = vec![b'a' + random.up_to(3) as u8];
        let value = (random.up_to(2) > 0).then(|| vec![random.up_to(2) as u8]);
        let batch = Batch { changes: vec![(row.clone(), Some(vec![9])), (row.clone(), value.clone())] };
        state.write(&batch).unwrap();
        match value {
            Some(value) => model.insert(row, value),
            None => model.remove(&row),
        };
        one.kill();
        drop(one.open(false));
        let known = *digests.entry(model.clone()).or_insert(one.digest());
        assert_eq!(known, one.digest(), "step {step}");
        let mut whole = Batch::default();
        model.iter().for_each(|(row, value)| whole.put(row.clone(), value.clone()));
        two.open(false).1.replace(&whole).unwrap();
        assert_eq!(known, two.digest());
    }
    let different: std::collections::BTreeSet<u64> = digests.values().copied().collect();
    assert_eq!(different.len(), digests.len());
    assert!(digests.len() > 50);
}
