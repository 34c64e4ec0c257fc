//! A folder that was promoted, or founded as another incarnation, opens, leads, and serves nothing until its group has
//! adopted the slots that the masters give it; then it serves what it holds, also after the next start.

use crate::lone::{options, soon};
use catstore::cluster::slots::SlotTable;
use catstore::cluster::view::{ClusterView, RegisterReply};
use catstore::error::{Kind, Result};
use catstore::replica::command::{Adopt, Command, Condition, MoveStep, Put, Reply, Request};
use catstore::replica::handle::KeyspaceHandle;
use catstore::replica::reader::ListQuery;
use catstore::replica::{Folder, Role, checksum, found_worker, promote_worker};
use std::path::Path;

fn founded(path: &Path, incarnation: u64) -> Folder {
    let mut folder = Folder::open(path, Role::Worker).expect("a new folder");
    folder.begin_start(1).expect("a start");
    let reply = RegisterReply {
        index: 0,
        group: 0,
        note: None,
        slots: SlotTable::whole(0).ranges().to_vec(),
        found: true,
        incarnation,
        view: ClusterView { cluster: "0123456789abcdef0123456789abcdef".into(), ..ClusterView::default() },
    };
    found_worker(&mut folder, &reply, &options()).expect("stores");
    folder
}

fn open(folder: Folder) -> KeyspaceHandle {
    let handle = KeyspaceHandle::open(folder, &options(), 1).expect("an open replica");
    handle.wait_ready(soon()).expect("a leader");
    handle
}

fn submit(handle: &KeyspaceHandle, command: Command) -> Result<Reply> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(handle.submit(Request { id: None, command }, soon()))
}

fn put(value: &str) -> Command {
    Command::Put(Put {
        key: b"A".to_vec(),
        value: value.into(),
        checksum: checksum(value.as_bytes()),
        content_type: String::new(),
        ttl: None,
        condition: Condition::Any,
    })
}

fn get(handle: &KeyspaceHandle) -> Result<Option<Vec<u8>>> {
    let reader = handle.reader()?.expect("it leads");
    Ok(reader.get(b"A")?.map(|record| record.value().to_vec()))
}

#[track_caller]
fn serves_nothing(handle: &KeyspaceHandle) {
    assert!(handle.awaits().expect("no error") && handle.numbers().awaits);
    assert_eq!(get(handle).expect_err("it waits").kind(), Kind::Frozen);
    let (stale, _) = handle.stale_reader().expect("no error");
    assert_eq!(stale.get(b"A").expect_err("it waits").kind(), Kind::Frozen);
    let query = ListQuery { prefix: Vec::new(), after: None, limit: 10, values: false };
    assert_eq!(stale.list(&query).expect_err("it waits").kind(), Kind::Frozen);
    let delete = Command::Delete { key: b"A".to_vec(), condition: Condition::Any };
    for command in [put("too early"), delete, Command::Batch(Vec::new()), Command::Clear] {
        assert_eq!(submit(handle, command).expect_err("it waits").kind(), Kind::Frozen);
    }
}

fn adopt(handle: &KeyspaceHandle, incarnation: u64) {
    let word = Adopt { group: 0, incarnation, slots: SlotTable::whole(0), order: None, next_move: 1 };
    assert_eq!(submit(handle, Command::Move(MoveStep::Adopt(word))).expect("no error"), Reply::MoveNoted);
    assert!(!handle.awaits().expect("no error"));
}

#[test]
fn a_promoted_copy_serves_what_it_holds_once_it_knows_its_slots() {
    let root = tempfile::tempdir().expect("a folder");
    let handle = open(founded(&root.path().join("w"), 1));
    assert!(!handle.awaits().expect("no error"));
    submit(&handle, put("happy")).expect("no error");
    let mut folder = handle.close().expect("a clean close");
    promote_worker(&mut folder, 2).expect("a promotion");
    let handle = open(folder);
    serves_nothing(&handle);
    // Nor after another start.
    let handle = open(handle.close().expect("a clean close"));
    serves_nothing(&handle);
    adopt(&handle, 2);
    assert_eq!(get(&handle).expect("no error").as_deref(), Some(&b"happy"[..]));
    let Reply::Stored { version, .. } = submit(&handle, put("alone")).expect("no error") else {
        panic!("not stored")
    };
    assert!(version > 3 << 40, "{version} may be one that was given before");
    let handle = open(handle.close().expect("a clean close"));
    assert!(!handle.awaits().expect("no error"));
    assert_eq!(get(&handle).expect("no error").as_deref(), Some(&b"alone"[..]));
    handle.close().expect("a clean close");
}

#[test]
fn so_does_a_group_that_begins_anew() {
    let root = tempfile::tempdir().expect("a folder");
    let handle = open(founded(&root.path().join("w"), 5));
    serves_nothing(&handle);
    adopt(&handle, 5);
    assert_eq!(get(&handle).expect("no error"), None);
    submit(&handle, put("new")).expect("no error");
    handle.close().expect("a clean close");
}
