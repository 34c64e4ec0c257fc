//! Closed folders, crashed ones, and ones with a flipped byte: each is left as it is.

use super::*;
use crate::store::chunk::{Builder, CHUNK};
use crate::store::folder::{Folder, Sizes, Stores};
use crate::store::identity::Role;
use crate::store::log::{LogWrite, RaftLog as _};
use crate::store::record::{Meta, checksum, encode};
use crate::store::state::{Batch, Generations as _};
use raft::eraftpb::{ConfState, Entry, HardState};
use std::collections::BTreeMap;
use std::time::SystemTime;

const SIZES: Sizes = Sizes { cache: 1 << 20 };

fn row(in_chunks: bool, value: &[u8]) -> Vec<u8> {
    let meta = Meta {
        version: 1,
        modified: 1,
        expires: None,
        checksum: checksum(value),
        content_type: String::new(),
        size: value.len() as u64,
        in_chunks,
    };
    encode(&meta, value)
}

/// A folder with 100 small values and one of two chunks; it is open.
fn filled(path: &Path) -> (Folder, Stores, Vec<Name>) {
    let mut folder = Folder::open(path, Role::Worker).unwrap();
    let counters = |index: u64| [index.to_le_bytes(), u64::from(index > 0).to_le_bytes()].concat();
    let mut rows = Batch::default();
    rows.put(keys::COUNTERS_ROW.to_vec(), counters(0));
    folder.found(ConfState { voters: vec![1], ..ConfState::default() }, &rows, SIZES).unwrap();
    let mut stores = folder.open_stores(SIZES).unwrap();
    let blobs = ChunkFolder::open(path, 0).unwrap();
    let mut builder = Builder::default();
    let chunks: [&[u8]; 2] = [b"one", b"two"];
    let names: Vec<Name> = chunks.iter().map(|bytes| Name::of(bytes)).collect();
    for (name, bytes) in names.iter().zip(chunks) {
        blobs.put(name, bytes).unwrap();
        builder.push(*name, CHUNK);
    }
    let mut batch = Batch::default();
    batch.put(keys::COUNTERS_ROW.to_vec(), counters(1));
    batch.put(keys::record(b"large"), row(true, &builder.finish().0.encode()));
    for number in 0..100 {
        batch.put(keys::record(format!("key {number}").as_bytes()), row(false, &[number; 300]));
    }
    let hard_state = Some(HardState { term: 1, vote: 1, commit: 1, ..HardState::default() });
    let entries = vec![Entry { index: 1, term: 1, data: vec![7; 500].into(), ..Entry::default() }];
    stores.log.write(LogWrite { entries, hard_state, sync: true, ..LogWrite::default() }).unwrap();
    stores.state.live().write(&batch).unwrap();
    (folder, stores, names)
}

fn closed(path: &Path) -> Vec<Name> {
    let (mut folder, stores, names) = filled(path);
    folder.close_stores(stores).unwrap();
    names
}

/// Every file with its bytes and its time.
fn picture(path: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(path).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(picture(&path));
        } else {
            files.insert(
                path.clone(),
                (fs::read(&path).unwrap(), entry.metadata().unwrap().modified().unwrap()),
            );
        }
    }
    files
}

/// Inspects the folder, which stays as it is.
fn look(path: &Path) -> Result<Inspection> {
    let before = picture(path);
    let mut last = (0, 0);
    let inspection = inspect(path, &mut |done, total| {
        assert!(done >= last.0 && total >= done);
        last = (done, total);
    });
    assert!(picture(path) == before, "the folder was changed");
    inspection
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 1;
    fs::write(file, bytes).unwrap();
}

fn file_below(path: &Path, extension: &str) -> PathBuf {
    picture(path).into_keys().find(|path| path.extension().is_some_and(|end| end == extension)).unwrap()
}

#[test]
fn a_closed_folder_is_read_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    closed(folder.path());
    let inspection = look(folder.path()).unwrap();
    assert!(inspection.is_whole(), "{inspection:?}");
    assert_eq!(inspection.remarks, Vec::<String>::new());
    let findings = inspection.findings.unwrap();
    assert_eq!((findings.keys, findings.chunks), (101, 2));
    // A copy without its lock file too.
    fs::remove_file(folder.path().join(lock::NAME)).unwrap();
    assert!(look(folder.path()).unwrap().is_whole());
}

#[test]
fn a_folder_that_was_killed_is_read_and_left_as_it_is() {
    let (folder, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = folder.path().join("data");
    let (held, stores, _) = filled(&path);
    assert_eq!(inspect(&path, &mut |_, _| ()).unwrap_err().kind(), Kind::Foreign, "it is in use");
    let killed = copy.path().join("data");
    for (file, (bytes, _)) in picture(&path) {
        let target = killed.join(file.strip_prefix(&path).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::write(target, bytes).unwrap();
    }
    drop((held, stores));
    let inspection = look(&killed).unwrap();
    assert!(inspection.is_whole(), "{inspection:?}");
    let findings = inspection.findings.as_ref().unwrap();
    assert_eq!((findings.keys, findings.chunks), (101, 2), "from the write-ahead log");
    assert_eq!(inspection.remarks.len(), 1, "{:?}", inspection.remarks);
}

#[test]
fn chunks_that_are_rotten_or_missing_hurt_their_key() {
    let folder = tempfile::tempdir().unwrap();
    let names = closed(folder.path());
    let place = |name: &Name| folder.path().join("blobs").join(&name.hex()[..2]).join(&name.hex()[2..]);
    flip(&place(&names[0]), 1);
    fs::remove_file(place(&names[1])).unwrap();
    let inspection = look(folder.path()).unwrap();
    assert!(!inspection.is_whole() && inspection.damage.is_empty());
    let findings = inspection.findings.unwrap();
    assert_eq!((findings.rotten, findings.missing, findings.hurt), (1, 1, 1));
    assert_eq!(findings.hurt_keys[0].0, b"large");
}

#[test]
fn every_kind_of_file_is_looked_at() {
    for (extension, at) in [("ldb", 20), ("raftlog", 100), ("rewrite", 20)] {
        let folder = tempfile::tempdir().unwrap();
        closed(folder.path());
        let file = file_below(folder.path(), extension).canonicalize().unwrap();
        flip(&file, at);
        let inspection = look(folder.path()).unwrap();
        assert_eq!(inspection.damage.len(), 1, "{extension}: {inspection:?}");
        assert!(inspection.damage[0].contains(file.to_str().unwrap()), "{:?}", inspection.damage);
        assert_eq!(inspection.findings.is_some(), extension != "ldb");
    }
    let folder = tempfile::tempdir().unwrap();
    closed(folder.path());
    flip(&folder.path().join(identity::NAME), 30);
    assert_eq!(look(folder.path()).unwrap_err().kind(), Kind::Damaged);
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(look(empty.path()).unwrap_err().kind(), Kind::Foreign);
}

#[test]
fn a_rotten_record_hurts_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let (mut held, stores, _) = filled(folder.path());
    let mut rotten = row(false, b"happy");
    *rotten.last_mut().unwrap() ^= 1;
    let mut batch = Batch::default();
    batch.put(keys::record(b"key 7"), rotten);
    stores.state.live().write(&batch).unwrap();
    held.close_stores(stores).unwrap();
    drop(held);
    let inspection = look(folder.path()).unwrap();
    assert_eq!(
        (inspection.rotten_records, inspection.findings.unwrap().hurt_keys[0].0.as_slice()),
        (1, &b"key 7"[..])
    );
}
