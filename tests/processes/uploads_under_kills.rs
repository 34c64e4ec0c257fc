//! "It died while my file went up, and what is there now?" kill -9 at any moment of an upload, of the leader or of a
//! follower: afterwards the key is absent, or old, or new, entire; what was acknowledged survives the loss of any one disk;
//! and what nothing refers to goes away.

// A test stops at the first surprise, in its helpers too.
#![allow(clippy::unwrap_used)]

use crate::common::group::{Group, role};
use crate::common::node::kv;
use crate::common::{Dice, Node, Session, files_below, pause, within};
use std::time::Duration;

const CHUNK: usize = 1 << 20;
const SOON: Duration = Duration::from_secs(60);

/// A value whose bytes name it.
fn value(number: usize, chunks: usize) -> Vec<u8> {
    let mut bytes = Dice::new(number as u64 + 1).bytes(chunks * CHUNK + 100 + number);
    bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
    bytes
}

fn put(port: u16, key: &str, bytes: &[u8]) -> Option<u16> {
    let mut session = Session::patient(port, Duration::from_secs(30));
    session.send("PUT", &kv(key), &[], Some(bytes)).ok().map(|reply| reply.status)
}

fn get(node: &Node, key: &str) -> Option<Vec<u8>> {
    within(SOON, "an answer", || {
        let reply =
            Session::patient(node.port, Duration::from_secs(15)).send("GET", &kv(key), &[], None).ok()?;
        match reply.status {
            200 => Some(Some(reply.body)),
            404 => Some(None),
            _ => None,
        }
    })
}

fn chunks_of(node: &Node) -> usize {
    files_below(&node.data.join("blobs")).len()
}

#[test]
fn a_key_is_absent_or_old_or_new_whoever_dies() {
    let mut group = Group::start(3, &["--keep-uploads", "1s"]);
    let mut dice = Dice::fresh();
    let mut acknowledged: Vec<Option<usize>> = vec![None; 3];
    let mut possible: Vec<Vec<Option<usize>>> = vec![vec![None]; 3];
    for round in 0..50 {
        let key = round % 3;
        let victim = dice.below(3) as usize;
        let door = (victim + 1 + dice.below(2) as usize) % 3;
        let (port, delay) = (group.workers[door].port, dice.below(250));
        let sent = std::thread::spawn(move || put(port, &format!("key {key}"), &value(round, 1 + round % 4)));
        pause(delay);
        group.workers[victim].kill();
        pause(dice.below(300));
        group.workers[victim].restart();
        match sent.join().unwrap() {
            Some(200 | 201) => {
                acknowledged[key] = Some(round);
                possible[key] = vec![Some(round)];
            }
            // 503: certainly not written. Anything else: it may have been.
            Some(503) => {}
            _ => possible[key].push(Some(round)),
        }
        group.settle_under_load();
        for (node, key) in [(0, key), (1, key), (2, (key + 1) % 3)] {
            let read = get(&group.workers[node], &format!("key {key}"));
            let number =
                read.as_ref().map(|bytes| u64::from_be_bytes(bytes[..8].try_into().unwrap()) as usize);
            assert!(
                possible[key].contains(&number),
                "round {round}: key {key} is {number:?}, not one of {:?}",
                possible[key]
            );
            if let (Some(number), Some(bytes)) = (number, read) {
                assert!(bytes == value(number, 1 + number % 4), "round {round}: key {key} is not entire");
            }
        }
    }
    assert!(acknowledged.iter().any(Option::is_some), "nothing was ever acknowledged");
    // One disk is lost for good: what was acknowledged is on the others.
    let lost = group.settle();
    group.workers[lost].kill();
    std::fs::remove_dir_all(group.workers[lost].data.join("blobs")).unwrap();
    std::fs::create_dir(group.workers[lost].data.join("blobs")).unwrap();
    group.workers[lost].restart();
    group.settle();
    for (key, possible) in possible.iter().enumerate() {
        for node in &group.workers {
            let read = get(node, &format!("key {key}"));
            let number =
                read.as_ref().map(|bytes| u64::from_be_bytes(bytes[..8].try_into().unwrap()) as usize);
            assert!(possible.contains(&number), "key {key} is {number:?} after a disk was lost");
        }
    }
    // In the end each member has the chunks of three values at most, and no others.
    let needed = |node: &Node| -> usize {
        (0..3)
            .filter_map(|key| get(node, &format!("key {key}")))
            .map(|bytes| bytes.len().div_ceil(CHUNK))
            .sum()
    };
    for node in &group.workers {
        let needed = needed(node);
        within(SOON, "no orphans, and nothing missing", || (chunks_of(node) == needed).then_some(()));
    }
}

#[test]
fn space_comes_back() {
    let group = Group::start(3, &["--keep-uploads", "1s"]);
    let leader = &group.workers[group.settle()];
    for number in 0..3 {
        assert_eq!(put(leader.port, &format!("key {number}"), &value(number, 3)), Some(201));
    }
    // Two keys share what is equal.
    assert_eq!(put(leader.port, "same", &value(0, 3)), Some(201));
    for node in &group.workers {
        within(SOON, "every chunk is there, once", || (chunks_of(node) == 12).then_some(()));
    }
    leader.ask("DELETE", &kv("key 0"), &[], None).must_be(204);
    leader.ask("PUT", &kv("key 1"), &[], Some(b"small now")).must_be(200);
    for node in &group.workers {
        within(SOON, "what one key needed is gone", || (chunks_of(node) == 8).then_some(()));
        assert!(
            get(node, "same").unwrap() == value(0, 3),
            "what two keys shared is still there ({})",
            role(node)
        );
    }
    leader.get("/clear/0").must_be(200);
    for node in &group.workers {
        within(SOON, "nothing is left", || (chunks_of(node) == 0).then_some(()));
    }
}

#[test]
fn a_rotten_chunk_is_mended_and_never_served() {
    let mut group = Group::start(3, &[]);
    let leader = group.settle();
    assert_eq!(put(group.workers[leader].port, "file", &value(7, 2)), Some(201));
    for node in &group.workers {
        within(SOON, "every chunk is there", || (chunks_of(node) == 3).then_some(()));
    }
    // On the leader and on one more: the third one has it whole.
    let rot = |node: &Node| {
        for path in files_below(&node.data.join("blobs")) {
            let mut bytes = std::fs::read(&path).unwrap();
            let place = bytes.len() / 2;
            bytes[place] ^= 0x10;
            std::fs::write(&path, bytes).unwrap();
        }
    };
    rot(&group.workers[leader]);
    rot(&group.workers[(leader + 1) % 3]);
    for node in &group.workers {
        assert!(get(node, "file").unwrap() == value(7, 2));
    }
    group.workers[(leader + 2) % 3].stop();
    let leader = within(SOON, "two of them go on", || {
        (0..3).find(|index| {
            *index != (leader + 2) % 3 && role_now(&group.workers[*index]).as_deref() == Some("leader")
        })
    });
    // The one that leads now has mended its own while it was read, or mends it from the other.
    assert!(get(&group.workers[leader], "file").unwrap() == value(7, 2));
}

#[test]
fn what_is_rotten_everywhere_is_an_error_that_names_the_key() {
    let group = Group::start(1, &[]);
    let node = &group.workers[0];
    assert_eq!(put(node.port, "my file", &value(3, 2)), Some(201));
    let path = files_below(&node.data.join("blobs"))
        .into_iter()
        .max_by_key(|path| std::fs::metadata(path).unwrap().len());
    let path = path.unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[5] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let whole = value(3, 2);
    match Session::new(node.port).send("GET", &kv("my file"), &[], None) {
        // If it is the first chunk, the answer is an error.
        Ok(reply) => {
            assert_ne!(reply.status, 200, "wrong bytes were served: {}", reply.body == whole);
            assert!(reply.text().contains("my file"), "{}", reply.text());
        }
        // Otherwise the answer breaks off.
        Err(error) => println!("it broke off: {error}"),
    }
}

fn role_now(node: &Node) -> Option<String> {
    let reply = Session::new(node.port).send("GET", "/worker", &[], None).ok()?;
    Some(reply.json()["role"].as_str()?.to_owned())
}

#[test]
fn a_chunk_that_nobody_has_keeps_no_clone_waiting() {
    let group = Group::start(1, &[]);
    let node = &group.workers[0];
    for number in 0..3 {
        assert_eq!(put(node.port, &format!("key {number}"), &value(number, 1)), Some(201));
    }
    let lost = files_below(&node.data.join("blobs")).into_iter().next().unwrap();
    std::fs::remove_file(lost).unwrap();
    let clone = group.home.worker_with(&group.master, &["--clone", "0"]);
    assert!(clone.ready.starts_with("ready worker 1"), "{}", clone.ready);
    within(SOON, "every other chunk comes along", || (chunks_of(&clone) == 5).then_some(()));
}
