//! "I started it on the wrong folder and it ate my data." A folder or port that is not this node's is refused with
//! the reason and the way out, and is not touched.

use crate::common::{Cluster, Home, copy_folder, files_below, free_port};
use catstore::store::identity;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Every file below `folder` with its bytes, but for lock files and human-readable logs.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = files_below(folder).into_iter();
    files.filter_map(|file| Some((file.clone(), std::fs::read(file).ok()?))).collect()
}

#[test]
fn a_port_that_is_in_use() {
    let cluster = Cluster::start();
    // By another program.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for role in ["master", "worker"] {
        let master = cluster.master.port.to_string();
        let arguments: &[&str] = if role == "worker" { &["--master", &master] } else { &[] };
        let outcome = cluster.home.launch(role, port, arguments).refuse();
        assert!(matches!(outcome.code, 2 | 4), "exit {}: {}", outcome.code, outcome.err);
        assert!(outcome.err.contains(&port.to_string()), "{}", outcome.err);
    }
    // By a master: it says which cluster runs there.
    let outcome = cluster.home.launch("master", cluster.master.port, &[]).refuse();
    assert!(matches!(outcome.code, 2 | 4), "exit {}: {}", outcome.code, outcome.err);
    let id = cluster.master.get("/master").json()["cluster"].as_str().unwrap().to_owned();
    assert!(outcome.err.contains(&id), "which cluster? {}", outcome.err);
    cluster.worker.get("/health").must_be(200);
}

#[test]
fn a_folder_that_is_in_use() {
    let cluster = Cluster::start();
    cluster.worker.put("A", "happy");
    for (role, node) in [("worker", &cluster.worker), ("master", &cluster.master)] {
        let master = cluster.master.port.to_string();
        let arguments: &[&str] = if role == "worker" { &["--master", &master] } else { &[] };
        let outcome = cluster.home.launch(role, free_port(), arguments).data(&node.data).refuse();
        assert!(matches!(outcome.code, 4 | 5), "exit {}: {}", outcome.code, outcome.err);
        assert!(outcome.err.contains("use"), "{}", outcome.err);
        assert!(outcome.err.contains(&node.data.display().to_string()), "{}", outcome.err);
        let id = cluster.master.get("/master").json()["cluster"].as_str().unwrap().to_owned();
        assert!(role == "worker" || outcome.err.contains(&id), "which cluster runs there? {}", outcome.err);
    }
    assert_eq!(cluster.master.value("A").as_deref(), Some(b"happy".as_slice()));
}

#[test]
fn a_folder_of_the_other_role() {
    let mut cluster = Cluster::start();
    cluster.worker.put("A", "happy");
    cluster.worker.stop();
    let before = contents(&cluster.worker.data);
    let outcome = cluster.home.launch("master", free_port(), &[]).data(&cluster.worker.data).refuse();
    assert!(matches!(outcome.code, 4 | 5), "exit {}: {}", outcome.code, outcome.err);
    assert!(outcome.err.contains("worker"), "{}", outcome.err);
    assert!(before == contents(&cluster.worker.data), "a refused folder was changed");

    let mut other = cluster.home.master();
    other.stop();
    let port = cluster.master.port.to_string();
    let outcome = cluster.home.launch("worker", free_port(), &["--master", &port]).data(&other.data).refuse();
    assert!(matches!(outcome.code, 4 | 5), "exit {}: {}", outcome.code, outcome.err);
    assert!(outcome.err.contains("master"), "{}", outcome.err);
    cluster.worker.restart();
    assert_eq!(cluster.worker.value("A").as_deref(), Some(b"happy".as_slice()));
}

#[test]
fn a_folder_of_another_cluster() {
    let mut cluster = Cluster::start();
    cluster.worker.put("A", "happy");
    let other = cluster.home.master();
    cluster.worker.stop();
    let mut launch = cluster.worker.launch.clone();
    let place = launch.words.iter().position(|word| word == "--master").unwrap();
    launch.words[place + 1] = other.port.to_string();
    let outcome = launch.refuse();
    assert!(matches!(outcome.code, 4 | 5), "exit {}: {}", outcome.code, outcome.err);
    let id = cluster.master.get("/master").json()["cluster"].as_str().unwrap().to_owned();
    assert!(outcome.err.contains(&id), "which cluster does it belong to? {}", outcome.err);
    assert_eq!(other.get("/master").json()["workers"].as_array().map(Vec::len), Some(0));
    cluster.worker.restart();
    assert_eq!(cluster.worker.value("A").as_deref(), Some(b"happy".as_slice()));
}

#[test]
fn a_folder_of_a_newer_format() {
    let mut cluster = Cluster::start();
    cluster.worker.put("A", "happy");
    cluster.worker.stop();
    cluster.master.stop();
    for node in [&cluster.worker, &cluster.master] {
        let mut identity = identity::read(&node.data).unwrap().expect("an identity");
        identity.format += 1;
        identity::write(&node.data, &identity).unwrap();
        let before = contents(&node.data);
        let outcome = node.launch.refuse().exits(5);
        assert!(outcome.err.contains("newer") || outcome.err.contains("format"), "{}", outcome.err);
        assert!(before == contents(&node.data), "a folder of a newer format was changed");
        identity.format -= 1;
        identity::write(&node.data, &identity).unwrap();
    }
    cluster.master.restart();
    cluster.worker.restart();
    assert_eq!(cluster.master.value("A").as_deref(), Some(b"happy".as_slice()));
}

#[test]
fn an_old_copy_of_a_folder() {
    let mut cluster = Cluster::start();
    cluster.worker.put("A", "old");
    cluster.worker.stop();
    let copy = cluster.home.path("copy");
    copy_folder(&cluster.worker.data, &copy);
    cluster.worker.restart();
    cluster.worker.put("A", "new");

    // While the original lives, and after it.
    let elsewhere =
        cluster.home.launch("worker", free_port(), &["--master", &cluster.master.port.to_string()]);
    let outcome = elsewhere.data(&copy).refuse();
    assert!(matches!(outcome.code, 4 | 5), "exit {}: {}", outcome.code, outcome.err);
    assert_eq!(cluster.master.value("A").as_deref(), Some(b"new".as_slice()));
    cluster.worker.stop();
    cluster.worker.restart();
    cluster.worker.stop();
    // Trying again and again, as a supervisor would, does not make it young.
    for _ in 0..5 {
        let outcome = cluster.worker.launch.clone().data(&copy).refuse();
        assert!(matches!(outcome.code, 4 | 5), "exit {}: {}", outcome.code, outcome.err);
        assert!(outcome.err.contains("copy"), "{}", outcome.err);
        assert!(outcome.err.contains(&cluster.worker.data.display().to_string()), "way out: {}", outcome.err);
    }
    cluster.worker.restart();
    assert_eq!(cluster.master.value("A").as_deref(), Some(b"new".as_slice()));
}

#[test]
fn a_new_folder_at_a_registered_workers_address() {
    let mut cluster = Cluster::start();
    cluster.worker.put("A", "happy");
    cluster.worker.stop();
    let fresh = cluster.home.path("fresh");
    let outcome = cluster.worker.launch.clone().data(&fresh).refuse().exits(4);
    assert!(outcome.err.contains("worker 0 lived"), "{}", outcome.err);
    assert!(outcome.err.contains(&format!("--data {}", cluster.worker.data.display())), "{}", outcome.err);
    cluster.worker.restart();
    assert_eq!(cluster.worker.value("A").as_deref(), Some(b"happy".as_slice()));
}

#[test]
fn a_folder_with_something_else_in_it() {
    let home = Home::new();
    let folder = home.path("letters");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("to my cat.txt"), "dear cat").unwrap();
    let before = contents(&folder);
    let outcome = home.launch("master", free_port(), &[]).data(&folder).refuse();
    assert!(matches!(outcome.code, 4 | 5), "exit {}: {}", outcome.code, outcome.err);
    assert!(outcome.err.contains(&folder.display().to_string()), "{}", outcome.err);
    assert!(before == contents(&folder));

    let file = home.path("file");
    std::fs::write(&file, "not a folder").unwrap();
    let outcome = home.launch("master", free_port(), &[]).data(&file).refuse();
    assert_ne!(outcome.code, 0);
    assert!(outcome.err.contains(&file.display().to_string()), "{}", outcome.err);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "not a folder");
}
