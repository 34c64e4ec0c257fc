//! What is read without LevelDB is what LevelDB reads.

use super::*;
use crate::store::doubles::Random;
use crate::store::leveldb::{Expect, LevelState};
use crate::store::state::{Batch, State};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

fn by_leveldb(state: &LevelState) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut rows = BTreeMap::new();
    let visit = &mut |row: &[u8], value: &[u8]| {
        rows.insert(row.to_vec(), value.to_vec());
        ControlFlow::Continue(())
    };
    state.scan(b"", b"\xff\xff\xff", visit).unwrap();
    rows
}

fn without(folder: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let closed = ClosedRows::open(folder, Left::Crashed).unwrap();
    assert_eq!(closed.check_tables(&mut |_| ()), []);
    let mut rows = Vec::new();
    let visit = &mut |row: &[u8], value: &[u8]| {
        rows.push((row.to_vec(), value.to_vec()));
        Ok(())
    };
    closed.visit(true, &mut |_| (), visit).unwrap();
    assert!(rows.is_sorted_by(|(one, _), (other, _)| one < other));
    rows.into_iter().collect()
}

#[test]
fn tables_and_logs_together_are_the_live_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows");
    let state = LevelState::open(&path, Expect::None, 1 << 20).unwrap();
    let mut random = Random::new(3);
    let mut tables = 0;
    for round in 0..8 {
        for _ in 0..40 {
            let mut batch = Batch::default();
            for _ in 0..25 {
                let row = format!("row {:04}", random.up_to(3000)).into_bytes();
                match random.up_to(4) {
                    0 => batch.delete(row),
                    _ => batch.put(row, vec![random.draw() as u8; random.up_to(2000)]),
                }
            }
            state.write(&batch).unwrap();
        }
        match round {
            7 => {}
            3 => state.compact(b"", b"\xfe"),
            _ => state.flush().unwrap(),
        }
        assert!(without(&path) == by_leveldb(&state), "round {round}");
        tables = tables.max(ClosedRows::open(&path, Left::Crashed).unwrap().version.tables.len());
    }
    assert!(tables > 3, "{tables} tables");
}

#[test]
fn a_flipped_byte_of_a_table_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows");
    let state = LevelState::open(&path, Expect::None, 1 << 20).unwrap();
    let mut batch = Batch::default();
    (0..100u8).for_each(|number| batch.put(vec![number], vec![number; 100]));
    state.write(&batch).unwrap();
    state.flush().unwrap();
    drop(state);
    let table = std::fs::read_dir(&path)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "ldb"))
        .unwrap();
    let mut bytes = std::fs::read(&table).unwrap();
    bytes[50] ^= 1;
    std::fs::write(&table, bytes).unwrap();
    let closed = ClosedRows::open(&path, Left::Crashed).unwrap();
    let damage = closed.check_tables(&mut |_| ());
    assert_eq!((damage.len(), damage[0].file.clone()), (1, table));
    assert!(closed.visit(true, &mut |_| (), &mut |_, _| Ok(())).is_err());
}

proptest::proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        let _ = (read_block(&bytes, &mut Vec::new()), read_batch(&bytes), entries_of(&bytes));
    }
}
