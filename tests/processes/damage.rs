//! "A bit rotted and I got a wrong value." Bits are flipped and files are cut all over a closed data folder. After
//! that each value is right, or the worker does not serve and says which file is damaged.

use crate::common;
use crate::common::node::kv;
use crate::common::{Cluster, Dice, Launch, Node, Session, copy_folder, files_below, free_port};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

const PLACES: u64 = 60;

/// What the folder holds, by key.
type Truth = BTreeMap<String, Vec<u8>>;

/// Fills a worker with values in tables, in write-ahead logs and in the Raft log, and closes it.
fn closed_folder(cluster: &mut Cluster) -> Truth {
    let mut truth = Truth::new();
    let mut dice = Dice::new(7);
    for round in 0..3 {
        for number in 0..40 {
            let key = format!("key {}", (round * 25 + number) % 100);
            let value = dice.bytes(if number % 10 == 0 { 40_000 } else { 300 });
            cluster.worker.put(&key, &value);
            truth.insert(key, value);
        }
        cluster.worker.ask("DELETE", &kv(format!("key {round}")), &[], None).must_be(204);
        truth.remove(&format!("key {round}"));
        if round < 2 {
            cluster.worker.stop();
            cluster.worker.restart();
        }
    }
    let batch = json!({"ops": [{"op": "put", "key": "{b}1", "value": "one"}, {"op": "put", "key": "{b}2", "value": "two"}]});
    cluster.worker.ask("POST", "/batch", &[], Some(batch.to_string().as_bytes())).must_be(200);
    truth.extend([("{b}1".to_owned(), b"one".to_vec()), ("{b}2".to_owned(), b"two".to_vec())]);
    cluster.worker.stop();
    truth
}

/// Damages one file of `folder`; says what was done.
fn damage(folder: &Path, dice: &mut Dice) -> (PathBuf, String) {
    let files: Vec<PathBuf> = files_below(folder)
        .into_iter()
        .filter(|file| fs::metadata(file).is_ok_and(|meta| meta.len() > 0))
        .collect();
    let file = files[dice.below(files.len() as u64) as usize].clone();
    let mut bytes = fs::read(&file).expect("a file of the folder");
    // The log's files are made large at once: most damage should hit what was written.
    let written = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1) as u64;
    let place = dice.below(written) as usize;
    let what = if dice.below(4) == 0 {
        bytes.truncate(place);
        format!("cut at {place} of {written}")
    } else {
        let bit = dice.below(8);
        bytes[place] ^= 1 << bit;
        format!("bit {bit} of byte {place} of {written} flipped")
    };
    fs::write(&file, &bytes).expect("the damaged file");
    (file, what)
}

/// Starts on a damaged folder and judges what it does.
fn judge(launch: &Launch, truth: &Truth, what: &str) -> &'static str {
    let mut node = match launch.start() {
        Ok(node) => node,
        Err(outcome) => {
            assert_eq!(outcome.code, 5, "{what}: exit {}\n{}", outcome.code, outcome.err);
            assert!(!outcome.err.contains("panicked at"), "{what}:\n{}", outcome.err);
            names_a_file(&outcome.err, &launch.data, what);
            return "refused";
        }
    };
    match read_all(&node, truth, what) {
        Ok(()) => "right",
        Err(error) => {
            // It found the damage while it served: then it serves no longer, and says why.
            let ended = node.exit_code();
            if let Some(code) = ended {
                assert_eq!(code, 5, "{what}: {error}\n{}", node.log());
            } else {
                let health = node.get("/health").status;
                assert_eq!(health, 503, "{what}: {error}, and it calls itself healthy");
            }
            names_a_file(&format!("{error}\n{}", node.log()), &launch.data, what);
            "stopped"
        }
    }
}

#[track_caller]
fn names_a_file(said: &str, folder: &Path, what: &str) {
    let folder = folder.display().to_string();
    assert!(said.contains(&format!("{folder}/")), "{what}: no file below {folder} is named:\n{said}");
}

/// Reads every key. Wrong or missing ones fail the test; an answer that it cannot serve is an error.
fn read_all(node: &Node, truth: &Truth, what: &str) -> Result<(), String> {
    let mut session = Session::new(node.port);
    let refusal = |status: u16, text: &str| Err(format!("{status} {text}"));
    for (key, value) in truth {
        let reply = match session.send("GET", &kv(key), &[], None) {
            Ok(reply) => reply,
            Err(error) => return Err(error.to_string()),
        };
        match reply.status {
            200 => assert!(reply.body == *value, "{what}: {key} has a wrong value"),
            500..=599 => return refusal(reply.status, &reply.text()),
            status => panic!("{what}: {status} for {key}, which was acknowledged: {}", reply.text()),
        }
    }
    for round in 0..3 {
        let key = format!("key {round}");
        let Ok(reply) = session.send("GET", &kv(&key), &[], None) else { return Err("it ended".into()) };
        match reply.status {
            404 => {}
            500..=599 => return refusal(reply.status, &reply.text()),
            _ => assert!(truth.contains_key(&key), "{what}: {key} was deleted and is back"),
        }
    }
    let reply = match session.send("GET", "/kv?limit=1000", &[], None) {
        Ok(reply) => reply,
        Err(error) => return Err(error.to_string()),
    };
    if reply.status >= 500 {
        return refusal(reply.status, &reply.text());
    }
    let listed = common::listed(&reply.must_be(200).json());
    let known: Vec<String> = truth.keys().cloned().collect();
    assert_eq!(listed, known, "{what}: the list is not what was stored");
    Ok(())
}

#[test]
fn no_damage_gives_a_wrong_value() {
    let mut cluster = Cluster::start();
    let truth = closed_folder(&mut cluster);
    let original = cluster.worker.data.clone();
    // Without the master, which would take each copy after the first for an old one.
    cluster.master.stop();
    let seed = Dice::fresh().throw();
    let places: Vec<u64> = (0..PLACES).collect();
    let verdicts = side_by_side(&places, |place| {
        let mut dice = Dice::new(seed.wrapping_add(*place));
        let folder = cluster.home.path(format!("damaged {place}"));
        copy_folder(&original, &folder);
        let (file, what) = damage(&folder, &mut dice);
        let name = file.strip_prefix(&folder).unwrap().display().to_string();
        let launch = cluster.worker.launch.clone().data(&folder).port(free_port());
        let verdict = judge(&launch, &truth, &format!("place {place}, {name}: {what}"));
        fs::remove_dir_all(&folder).unwrap();
        verdict
    });
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    verdicts.into_iter().for_each(|verdict| *counts.entry(verdict).or_default() += 1);
    println!("{counts:?}");
    assert!(counts.contains_key("refused"), "not one of {PLACES} places was noticed at start: {counts:?}");
}

#[test]
fn a_missing_file_is_noticed() {
    let mut cluster = Cluster::start();
    let truth = closed_folder(&mut cluster);
    let original = cluster.worker.data.clone();
    cluster.master.stop();
    let names: Vec<PathBuf> = files_below(&original)
        .iter()
        .map(|file| file.strip_prefix(&original).unwrap().to_path_buf())
        .collect();
    side_by_side(&names, |name| {
        let what = format!("{} is missing", name.display());
        let folder = cluster.home.path(format!("without {}", name.display().to_string().replace('/', " ")));
        copy_folder(&original, &folder);
        fs::remove_file(folder.join(name)).unwrap();
        let launch = cluster.worker.launch.clone().data(&folder).port(free_port());
        if name.as_os_str() == "identity.json" {
            // Without it the folder is nobody's: it is refused rather than taken for an empty one.
            let outcome = launch.refuse();
            assert!(matches!(outcome.code, 4 | 5), "exit {}: {}", outcome.code, outcome.err);
        } else {
            judge(&launch, &truth, &what);
        }
        fs::remove_dir_all(&folder).unwrap();
    });
}

/// Does `work` for each item, four at a time: a start without a master is mostly waiting.
fn side_by_side<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = work(item);
                    results.lock().expect("the results").push(result);
                }
            });
        }
    });
    results.into_inner().expect("the results")
}

#[test]
fn a_damaged_master_says_so_too() {
    let mut cluster = Cluster::start();
    cluster.worker.put("A", "happy");
    cluster.master.stop();
    let original = cluster.master.data.clone();
    let before = {
        cluster.master.restart();
        let workers = cluster.master.get("/master").json()["workers"].clone();
        cluster.master.stop();
        (workers[0]["uuid"].clone(), workers[0]["index"].clone())
    };
    let seed = Dice::fresh().throw();
    for place in 0..20 {
        let folder = cluster.home.path(format!("damaged master {place}"));
        copy_folder(&original, &folder);
        let (file, what) = damage(&folder, &mut Dice::new(seed.wrapping_add(place)));
        let what = format!("place {place}, {}: {what}", file.strip_prefix(&folder).unwrap().display());
        // On a port of its own, so that the worker does not talk to it.
        let launch = cluster.master.launch.clone().data(&folder).port(free_port());
        match launch.start() {
            Ok(node) => {
                let reply = node.get("/master");
                if reply.status == 200 {
                    let workers = reply.json()["workers"].clone();
                    assert_eq!((workers[0]["uuid"].clone(), workers[0]["index"].clone()), before, "{what}");
                } else {
                    assert_eq!(node.get("/health").status, 503, "{what}");
                }
            }
            Err(outcome) => {
                assert_eq!(outcome.code, 5, "{what}: {}", outcome.err);
                assert!(!outcome.err.contains("panicked at"), "{what}: {}", outcome.err);
                names_a_file(&outcome.err, &folder, &what);
            }
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
