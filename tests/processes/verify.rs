//! "A disk has rotted my files, and nobody noticed." Bits are flipped in chunks and tables of members; `catstore verify`
//! finds each, mends what another member has, and names what nobody has whole.

// A test stops at the first surprise, in its helpers too.
#![allow(clippy::unwrap_used)]

use crate::common;
use crate::common::group::{Group, facts};
use crate::common::{Dice, Node, counter, files_below, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::SystemTime;

const CHUNK: usize = 1 << 20;

/// A group of three with small values and two large ones; what was stored under `large/one` and `large/two`.
fn group() -> (Group, Vec<u8>, Vec<u8>) {
    let group = Group::start(3, &[]);
    let mut dice = Dice::fresh();
    let (one, two) = (dice.bytes(3 * CHUNK + 17), dice.bytes(CHUNK + 1));
    for number in 0..50 {
        group.workers[0].put(format!("small/{number}"), dice.bytes(200));
    }
    group.workers[0].put("large/one", &one);
    group.workers[0].put("large/two", &two);
    group.settle();
    until("every member has all chunks", || {
        group.workers.iter().all(|node| chunks(&node.data).len() == 6).then_some(())
    });
    (group, one, two)
}

/// The chunks in a data folder, by their names below `blobs`.
fn chunks(data: &Path) -> Vec<PathBuf> {
    let blobs = data.join("blobs");
    let files = files_below(&blobs).into_iter().filter(|file| !file.starts_with(blobs.join("arriving")));
    files.map(|file| file.strip_prefix(&blobs).unwrap().to_owned()).collect()
}

fn flip(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(file, bytes).unwrap();
}

/// The chunk, as its bytes are, that `value` holds at `place`.
fn chunk_of(node: &Node, value: &[u8], place: usize) -> PathBuf {
    let wanted = &value[place..(place + CHUNK).min(value.len())];
    let found = chunks(&node.data)
        .into_iter()
        .find(|name| fs::read(node.data.join("blobs").join(name)).unwrap() == wanted);
    found.expect("the chunk of a value")
}

/// What a chunk is called: its folder and its file together.
fn hash(name: &Path) -> String {
    name.display().to_string().replace('/', "")
}

#[test]
fn a_flipped_bit_is_mended_on_the_leader_and_on_a_follower() {
    let (group, one, _) = group();
    let home = &group.home;
    let whole = home.run_at(&group.master, &["verify"]).exits(0).text();
    assert_eq!(whole.lines().count(), 3, "{whole}");
    assert!(
        whole
            .lines()
            .all(|line| line.contains("52 keys and 6 chunks") && line.ends_with("everything is whole")),
        "{whole}"
    );
    let leader = group.settle();
    let follower = (leader + 1) % 3;
    let places = [
        (leader, chunk_of(&group.workers[leader], &one, 0)),
        (follower, chunk_of(&group.workers[leader], &one, CHUNK)),
    ];
    let file = |(index, name): &(usize, PathBuf)| group.workers[*index].data.join("blobs").join(name);
    let before: Vec<Vec<u8>> = places.iter().map(|place| fs::read(file(place)).unwrap()).collect();
    places.iter().for_each(|place| flip(&file(place)));
    let mended = home.run_at(&group.master, &["verify"]).exits(0).text();
    let lines: Vec<&str> = mended.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        let expected = if index == leader || index == follower {
            "1 chunk rotten, mended"
        } else {
            "everything is whole"
        };
        assert!(line.starts_with(&format!("worker {index}: ")) && line.ends_with(expected), "{mended}");
    }
    for (place, bytes) in places.iter().zip(&before) {
        assert!(fs::read(file(place)).unwrap() == *bytes, "{place:?} is whole again");
    }
    assert!(group.workers[follower].value("large/one").unwrap() == one);
    // It is counted, and told.
    let page = group.workers[leader].get("/metrics").must_be(200).text();
    assert_eq!(
        (counter(&page, "catstore_chunks_mended_total"), counter(&page, "catstore_chunks_rotten_total")),
        (1.0, 1.0)
    );
    assert_eq!(facts(&group.workers[follower])["chunks"]["mended"], 1);
    until("the status says so", || {
        let status = home.run_at(&group.master, &["status"]).exits(0).text();
        let said = format!("worker {leader} met 1 rotten chunk, mended 1 chunk\n");
        status.contains(&said).then_some(())
    });
    let again = home.run_at(&group.workers[0], &["verify", "1", "--json"]).exits(0).text();
    let document: Value = serde_json::from_str(&again).unwrap();
    let worker = &document["workers"][0];
    assert_eq!(
        (&document["whole"], &worker["worker"], &worker["keys"]),
        (&true.into(), &1.into(), &52.into())
    );
    assert_eq!((&worker["rotten"], &worker["course"]), (&0.into(), &"done".into()));
}

#[test]
fn a_chunk_that_nobody_has_whole_is_named_and_never_given() {
    let (group, one, two) = group();
    let home = &group.home;
    let name = chunk_of(&group.workers[0], &one, 0);
    group.workers.iter().for_each(|node| flip(&node.data.join("blobs").join(&name)));
    let outcome = home.run_at(&group.master, &["verify"]).exits(5);
    assert!(outcome.err.contains("1 key is hurt and could not be mended: large/one;"), "{}", outcome.err);
    assert!(outcome.err.contains(&hash(&name)), "{}", outcome.err);
    assert_eq!(outcome.err.lines().count(), 1, "{}", outcome.err);
    assert_eq!(
        outcome.text().lines().filter(|line| line.ends_with("1 chunk rotten, 0 mended; 1 key hurt")).count(),
        3,
        "{}",
        outcome.text()
    );
    let json = home.run_at(&group.master, &["verify", "2", "--json"]).exits(5).text();
    let document: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&document["whole"], &document["workers"][0]["hurt_keys"][0]),
        (&false.into(), &"large/one".into())
    );
    for (who, node) in group.nodes() {
        let reply = node.get("/kv/large/one");
        assert!(reply.text().contains("the value of large/one"), "{who}: {}", reply.text());
        reply.must_be_problem(503, "value_hurt");
        assert!(node.value("large/two").unwrap() == two, "{who}");
    }
    let get = home.run_at(&group.master, &["get", "large/one"]).exits(5);
    assert!(get.err.contains("large/one") && get.out.is_empty(), "{}", get.err);
    // Put again, it is whole again.
    group.workers[0].put("large/one", &one);
    group.settle();
    home.run_at(&group.master, &["verify"]).exits(0);
    assert!(group.workers[1].value("large/one").unwrap() == one);
}

#[test]
fn a_worker_that_is_down_is_said_and_the_others_are_verified() {
    let (mut group, _, _) = group();
    group.workers[2].stop();
    group.workers[1].get("/verify/1").must_be_problem(404, "not_found");
    let outcome = group.home.run_at(&group.master, &["verify"]).exits(3);
    assert_eq!(outcome.text().lines().count(), 2, "{}", outcome.text());
    group.home.run_at(&group.master, &["verify", "0"]).exits(0);
    let nobody = group.home.run_at(&group.master, &["verify", "7"]).exits(1);
    assert!(nobody.err.contains("no worker 7"), "{}", nobody.err);
    let wrong = group.workers[0].ask("POST", "/verify/1", &[], None);
    wrong.must_be_problem(409, "conflict");
}

#[test]
fn a_command_that_is_interrupted_is_taken_up_again() {
    let (group, _, _) = group();
    let mut command = group.home.command(common::PROGRAM);
    command.args(["verify", "0"]).env("CATSTORE_MASTER", group.master.port.to_string());
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("it has begun", || {
        (group.workers[0].get("/health").status == 200 && begun(&group.workers[0])).then_some(())
    });
    let pid = Pid::from_raw(child.id() as i32).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "Ctrl-C ends the command alone");
    let first = until("it ended without the command", || {
        let now = group.workers[0].get("/verify/0").must_be(200).json();
        (now["course"] == "done").then_some(now)
    });
    assert_eq!((&first["number"], &first["keys"]), (&1.into(), &52.into()));
    let document: Value =
        serde_json::from_str(&group.home.run_at(&group.master, &["verify", "0", "--json"]).exits(0).text())
            .unwrap();
    assert_eq!(document["workers"][0]["number"], 2, "the first one was heard of");
}

fn begun(node: &Node) -> bool {
    node.get("/verify/0").status == 200
}

/// Flips a bit in the largest table of a worker, which has it open, and names the table. The worker is restarted before, so
/// that its rows are in tables and not in memory.
fn rot_a_table(node: &mut Node) -> String {
    node.stop();
    node.restart();
    let tables = files_below(&node.data).into_iter();
    let tables = tables.filter(|file| file.extension().is_some_and(|extension| extension == "ldb"));
    let table = tables.max_by_key(|file| fs::metadata(file).unwrap().len()).unwrap();
    let file = fs::OpenOptions::new().read(true).write(true).open(&table).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 300).unwrap();
    file.write_all_at(&[byte[0] ^ 4], 300).unwrap();
    table.file_name().unwrap().to_str().unwrap().to_owned()
}

/// Waits until a worker says that it has other rows in the place of rotten ones, whoever met those first: a verification,
/// or the collector of chunks, which goes through all rows too.
fn await_renewal(node: &Node) {
    until("rows were pulled anew", || node.log().contains("all rows were pulled anew").then_some(()));
}

/// Sees to it that worker `wanted` leads: whoever else does is stopped and started again. A leader that stops hands over to the
/// first voter that can lead, so that it must be worker 0 or 1: the lead may never come to worker 2.
fn make_lead(group: &mut Group, wanted: usize) {
    until("the worker leads that is to lead", || {
        let leader = group.settle();
        if leader != wanted {
            group.workers[leader].stop();
            group.workers[leader].restart();
        }
        (leader == wanted).then_some(())
    });
}

fn small_values(node: &Node) -> Vec<Vec<u8>> {
    (0..50).map(|number| node.get(&format!("/kv/small/{number}")).must_be(200).body).collect()
}

#[test]
fn rotten_rows_are_pulled_anew_by_a_follower_and_by_a_leader() {
    let (mut group, one, _) = group();
    let small = small_values(&group.workers[0]);
    for (index, leads) in [(2, false), (1, true)] {
        rot_a_table(&mut group.workers[index]);
        group.settle();
        if leads {
            make_lead(&mut group, index);
        }
        let shown = index.to_string();
        group.home.run_at(&group.master, &["verify", &shown]).exits(0);
        await_renewal(&group.workers[index]);
        let outcome = group.home.run_at(&group.master, &["verify", &shown]).exits(0);
        assert!(outcome.text().contains("everything is whole"), "{}", outcome.text());
        // What it has now is right, and it takes part.
        group.settle();
        for (number, value) in small.iter().enumerate() {
            let path = format!("/kv/small/{number}?consistency=stale");
            assert_eq!(&group.workers[index].get(&path).must_be(200).body, value);
        }
        assert_eq!(group.workers[index].get("/kv/large/one").must_be(200).body, one);
        group.workers[index].put("after", &shown);
    }
}

/// Nobody verifies: somebody just reads, at the worker that leads.
#[test]
fn whoever_reads_a_rotten_row_of_the_leader_gets_the_value_of_another_member() {
    let (mut group, _, _) = group();
    let small = small_values(&group.workers[0]);
    rot_a_table(&mut group.workers[1]);
    make_lead(&mut group, 1);
    assert_eq!(small_values(&group.workers[1]), small);
    await_renewal(&group.workers[1]);
    let page = group.workers[1].get("/metrics").must_be(200).text();
    assert!(counter(&page, "catstore_rows_renewed_total") >= 1.0);
    let outcome = group.home.run_at(&group.master, &["verify", "1"]).exits(0);
    assert!(outcome.text().contains("everything is whole"), "{}", outcome.text());
}

#[test]
fn a_worker_that_is_alone_stops_where_its_rows_are_damaged_and_says_so() {
    let mut group = Group::start(1, &[]);
    let mut dice = Dice::fresh();
    for number in 0..50 {
        group.workers[0].put(format!("small/{number}"), dice.bytes(200));
    }
    let mut node = group.workers.remove(0);
    let table = rot_a_table(&mut node);
    let outcome = group.home.run_at(&group.master, &["verify", "0"]).exits(5);
    assert!(outcome.err.contains("worker 0 has stopped, because its store is damaged"), "{}", outcome.err);
    assert!(outcome.err.contains(&table), "{}", outcome.err);
    assert_eq!(node.wait(common::PATIENCE), 5, "{}", node.log());
}

/// Every file of a folder with its bytes and its time.
fn picture(folder: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let read = |file: PathBuf| {
        let time = fs::metadata(&file).unwrap().modified().unwrap();
        (file.clone(), (fs::read(&file).unwrap(), time))
    };
    files_below(folder).into_iter().map(read).collect()
}

#[test]
fn the_folder_of_a_worker_that_does_not_run_is_read_and_left_alone() {
    let (mut group, one, _) = group();
    let data = group.workers[1].data.clone();
    let folder = data.display().to_string();
    let verify = |group: &Group, folder: &str| {
        let before = picture(Path::new(folder));
        let outcome = group.home.run(&["verify", "--data", folder]);
        assert!(picture(Path::new(folder)) == before, "the folder was changed");
        outcome
    };
    let used = group.home.run(&["verify", "--data", &folder]).exits(5);
    assert!(used.err.contains("is in use"), "{}", used.err);
    // As a crash leaves it.
    group.workers[1].kill();
    let text = verify(&group, &folder).exits(0).text();
    assert!(
        text.contains("worker 1: 52 keys and 6 chunks") && text.contains("everything is whole"),
        "{text}"
    );
    group.workers[1].restart();
    group.settle();
    group.workers[1].stop();
    let text = verify(&group, &folder).exits(0).text();
    assert!(text.contains("worker 1: 52 keys and 6 chunks"), "{text}");
    let json: Value =
        serde_json::from_slice(&group.home.run(&["verify", "--data", &folder, "--json"]).exits(0).out)
            .unwrap();
    assert_eq!((&json["whole"], &json["findings"]["keys"]), (&true.into(), &52.into()));

    let chunk = data.join("blobs").join(chunk_of(&group.workers[1], &one, 0));
    flip(&chunk);
    let hurt = verify(&group, &folder).exits(5);
    assert!(hurt.err.contains("large/one") && hurt.err.contains("catstore verify 1 mends"), "{}", hurt.err);
    let table = files_below(&data)
        .into_iter()
        .filter(|file| file.extension().is_some_and(|extension| extension == "ldb"))
        .max_by_key(|file| fs::metadata(file).unwrap().len())
        .unwrap();
    flip(&table);
    let damaged = verify(&group, &folder).exits(5);
    assert!(damaged.err.contains(table.file_name().unwrap().to_str().unwrap()), "{}", damaged.err);
    assert!(damaged.err.contains("--replace 1"), "{}", damaged.err);
    flip(&table);

    // As the hint says.
    group.workers[1].restart();
    group.settle();
    let mended = group.home.run_at(&group.master, &["verify", "1"]).exits(0).text();
    assert!(mended.ends_with("1 chunk rotten, mended\n"), "{mended}");
    group.home.run(&["verify", "--data", "/nowhere/at all"]).exits(4);
    let empty = group.home.path("empty");
    fs::create_dir(&empty).unwrap();
    let stranger = group.home.run(&["verify", "--data", &empty.display().to_string()]).exits(5);
    assert!(stranger.err.contains("is not a catstore data folder"), "{}", stranger.err);
}
