//! Folders that earlier formats wrote are opened by this version and by every later one. Of format 1: a worker that was
//! closed, a worker that was killed (its entries are in the Raft log and in LevelDB's write-ahead log alone), and a
//! master. Of format 2: the two sides of a move of slots. They were made with the commands in
//! `tests/fixtures/format-N/README.md`.

use crate::lone::{options, soon};
use catstore::error::Kind;
use catstore::replica::handle::{DirectoryHandle, KeyspaceHandle};
use catstore::replica::moves::{InPhase, Moves, OutPhase};
use catstore::replica::reader::ListQuery;
use catstore::replica::{Folder, Role, checksum};
use std::fs;
use std::path::Path;
use std::sync::Arc;

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a fixture") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

/// A copy of a fixture of format 1, opened as a folder of `role`.
fn open(name: &str, role: Role, root: &Path) -> Folder {
    open_of("format-1", name, role, root)
}

fn open_of(format: &str, name: &str, role: Role, root: &Path) -> Folder {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(format).join(name);
    let folder = root.join(name);
    copy(&fixture, &folder);
    Folder::open(&folder, role).expect("a data folder")
}

fn check_worker(name: &str) {
    let root = tempfile::tempdir().expect("format 1 is read");
    let handle =
        KeyspaceHandle::open(open(name, Role::Worker, root.path()), &options(), 1).expect("format 1 is read");
    handle.wait_ready(soon()).expect("format 1 is read");
    let reader = handle.reader().expect("format 1 is read").expect("it leads");
    let expected: [(&[u8], Vec<u8>, u64, &str); 7] = [
        (b"\x00\xff/B b", b"\x00\xff\x80cat".to_vec(), 4, "image/jpeg"),
        (b"A", b"happy".to_vec(), 3, "text/plain"),
        (b"empty", Vec::new(), 6, "application/x-www-form-urlencoded"),
        (b"long", vec![b'z'; 3000], 11, "application/x-www-form-urlencoded"),
        (b"ttl", b"lasting".to_vec(), 5, "application/x-www-form-urlencoded"),
        (b"{t}1", b"x".to_vec(), 9, ""),
        (b"{t}2", vec![0xff, 0], 10, ""),
    ];
    for (key, value, version, content_type) in &expected {
        let record = reader.get(key).expect("format 1 is read").expect("format 1 is read");
        assert_eq!(record.value(), value, "{}", String::from_utf8_lossy(key));
        assert_eq!((record.meta.version, record.meta.content_type.as_str()), (*version, *content_type));
        assert_eq!(record.meta.expires.is_some(), *key == b"ttl");
    }
    let query = ListQuery { prefix: Vec::new(), after: None, limit: 100, values: false };
    let keys: Vec<Vec<u8>> =
        reader.list(&query).expect("format 1 is read").keys.into_iter().map(|listed| listed.key.0).collect();
    assert_eq!(keys, expected.iter().map(|(key, ..)| key.to_vec()).collect::<Vec<_>>());
    drop(reader);
    assert_eq!(handle.numbers().version, 11);
    let folder = handle.close().expect("format 1 is read");
    assert_eq!((folder.identity().index, folder.identity().group), (Some(0), Some(0)));
}

#[test]
fn a_closed_worker_of_format_1_opens() {
    check_worker("closed-worker");
}

#[test]
fn a_killed_worker_of_format_1_opens() {
    check_worker("killed-worker");
}

#[test]
fn a_closed_master_of_format_1_opens() {
    let root = tempfile::tempdir().expect("format 1 is read");
    let handle = DirectoryHandle::open(open("closed-master", Role::Master, root.path()), &options(), 1)
        .expect("format 1 is read");
    handle.wait_ready(soon()).expect("format 1 is read");
    let directory = handle.directory().expect("format 1 is read").expect("it leads");
    assert_eq!(directory.workers.len(), 1);
    assert_eq!(directory.workers[&0].address, "127.0.0.1:3201");
    assert_eq!(directory.slots.count(0), 16384);
    handle.close().expect("format 1 is read");
}

/// A worker of format 2, with what it knows of moves.
fn open_side(name: &str, root: &Path) -> (KeyspaceHandle, Arc<Moves>) {
    let folder = open_of("format-2", name, Role::Worker, root);
    let handle = KeyspaceHandle::open(folder, &options(), 1).expect("format 2 is read");
    handle.wait_ready(soon()).expect("format 2 is read");
    let moves = handle.applied().expect("format 2 is read").published.moves;
    (handle, moves)
}

#[test]
fn both_sides_of_a_move_of_format_2_open() {
    let root = tempfile::tempdir().expect("a folder");
    let (source, moves) = open_side("killed-source", root.path());
    let out = moves.outgoing.as_ref().expect("the move");
    assert_eq!((out.id, out.to, out.phase, out.slots.count()), (1, 1, OutPhase::Following, 8192));
    let changes = source.applied().expect("format 2 is read").outbox_rows(out.first, out.next, 1 << 20);
    assert!(changes.is_ok_and(|chunk| chunk.next == out.next), "every change is in the outbox");
    let reader = source.reader().expect("format 2 is read").expect("it leads");
    for (key, value) in [(&b"A"[..], &b"happy"[..]), (b"key1", b"later"), (b"key40", &[b'z'; 400])] {
        assert_eq!(reader.get(key).expect("format 2 is read").expect("the key").value(), value);
    }
    drop(reader);
    source.close().expect("format 2 is read");

    let (target, moves) = open_side("closed-target", root.path());
    let incoming = moves.incoming.as_ref().expect("the move");
    assert_eq!((incoming.id, incoming.from, incoming.phase), (1, 0, InPhase::Receiving));
    assert!(incoming.keys > 0);
    // What it does not own it does not show.
    let reader = target.reader().expect("format 2 is read").expect("it leads");
    assert_eq!(reader.get(b"key40").map(|_| ()).map_err(|error| error.kind()), Err(Kind::Moved));
    drop(reader);
    target.close().expect("format 2 is read");
}

#[test]
fn a_killed_worker_of_format_3_opens_with_its_values_in_chunks() {
    let root = tempfile::tempdir().expect("a folder");
    let folder = open_of("format-3", "killed-worker", Role::Worker, root.path());
    let handle = KeyspaceHandle::open(folder, &options(), 1).expect("format 3 is read");
    handle.wait_ready(soon()).expect("format 3 is read");
    let reader = handle.reader().expect("format 3 is read").expect("it leads");
    let film = reader.get(b"film").expect("format 3 is read").expect("format 3 is read");
    assert_eq!((film.meta.size, film.meta.content_type.as_str()), (70_000, "video/cat"));
    let manifest = film.manifest().expect("it is in chunks");
    let mut bytes = Vec::new();
    let keeper = handle.keeper();
    keeper
        .names(&manifest, &mut |names| {
            names.iter().try_for_each(|name| keeper.read(name).map(|chunk| bytes.extend_from_slice(&chunk)))
        })
        .expect("every chunk is there");
    let expected: Vec<u8> = (0..17_500u32).flat_map(u32::to_be_bytes).collect();
    assert!(bytes == expected && film.meta.checksum == checksum(&bytes), "the value has changed");
    assert_eq!(reader.get(b"A").expect("format 3 is read").expect("format 3 is read").value(), b"x");
    drop(reader);
    handle.close().expect("format 3 is read");
}
