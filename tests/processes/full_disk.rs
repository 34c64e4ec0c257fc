//! "The disk ran full and the store broke." Writes are refused with their own word while there is still room to
//! say so; everything acknowledged stays readable, deletes work, and with room again so do writes.

use crate::common;
use crate::common::disk::{SmallDisk, free_bytes};
use crate::common::node::kv;
use crate::common::{Home, Launch, Node, Session, within};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// A worker that keeps `reserve` free.
fn launch(home: &Home, master: &Node, reserve: &str) -> Launch {
    let words = ["--master", &master.port.to_string(), "--reserve", reserve];
    home.launch("worker", common::free_port(), &words)
}

/// Puts a ballast file on the disk that leaves less and less until small writes are refused; gives the refusal's
/// words. Between two steps a node has time to look at its disk, which it need not do for each write.
fn fill(ballast: &Path, worker: &Node) -> String {
    let mut file = File::create(ballast).expect("a ballast file");
    for left in [48, 32, 24, 20] {
        let more = free_bytes(ballast).saturating_sub(left << 20);
        file.write_all(&vec![0; more]).expect("ballast that fits");
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(5) {
            let reply = worker.ask("PUT", &kv("probe"), &[], Some(b"a small value"));
            if reply.status == 507 {
                return reply.must_be_problem(507, "disk_full").text();
            }
            assert!(matches!(reply.status, 200 | 201), "{} {}", reply.status, reply.text());
            common::pause(20);
        }
    }
    panic!("20 MiB are left on the disk and nothing is refused");
}

#[test]
fn a_full_disk_refuses_writes_and_keeps_what_it_has() {
    let home = Home::new();
    let Some(disk) = SmallDisk::mount(home.path("disk"), "size=120m") else { return };
    let master = home.master();
    let launch = launch(&home, &master, "64MiB");
    let mut worker = launch.data(&disk.place.join("worker")).serve();
    let value = |number: usize| vec![b'a' + (number % 26) as u8; 100_000];
    for number in 0..50 {
        worker.put(format!("early {number}"), value(number));
    }
    let all_there = |worker: &Node| {
        let mut session = Session::new(worker.port);
        for number in 0..50 {
            let reply = session.ask("GET", &kv(format!("early {number}")), &[], None).must_be(200);
            assert!(reply.body == value(number), "early {number} came back changed");
        }
    };

    worker.put("probe", "a small value");
    let ballast = disk.place.join("ballast");
    let said = fill(&ballast, &worker);
    println!("refused with: {said}");
    all_there(&worker);
    master.ask("PUT", &kv("A"), &[], Some(b"x")).must_be_problem(507, "disk_full");
    worker.get("/put/A/x").must_be_problem(507, "disk_full");
    let refused = home.run_at(&master, &["put", "A", "x"]);
    assert!(matches!(refused.code, 1 | 4), "exit {}: {}", refused.code, refused.err);
    assert!(refused.err.contains("disk"), "{}", refused.err);
    assert_eq!(worker.value("A"), None);
    // Deletes are what makes room: they work.
    worker.ask("DELETE", &kv("probe"), &[], None).must_be(204);
    assert_eq!(worker.value("probe"), None);
    // A restart on the full disk finds everything.
    worker.stop();
    worker.restart();
    all_there(&worker);

    std::fs::remove_file(&ballast).unwrap();
    within(Duration::from_secs(15), "writes work again", || {
        let reply = worker.ask("PUT", &kv("A"), &[], Some(b"room again"));
        (reply.status == 201).then_some(())
    });
    all_there(&worker);

    // Now the store fills the disk by itself: what it acknowledged is there, what it refused is not.
    let mut session = Session::new(worker.port);
    // No two alike: what is equal is stored once.
    let large = |number: usize| {
        let mut value = vec![b'A' + (number % 26) as u8; 1 << 20];
        value[..8].copy_from_slice(&number.to_be_bytes());
        value
    };
    let mut stored = 0;
    loop {
        let reply = session.ask("PUT", &kv(format!("late {stored}")), &[], Some(&large(stored)));
        if reply.status == 507 {
            break;
        }
        assert_eq!(reply.status, 201, "{}", reply.text());
        stored += 1;
        assert!(stored < 150, "150 MiB fit on a disk of 120");
    }
    println!("{stored} values of 1 MiB fitted");
    let check = |worker: &Node| {
        let mut session = Session::new(worker.port);
        for number in 0..stored {
            let reply = session.ask("GET", &kv(format!("late {number}")), &[], None).must_be(200);
            assert!(reply.body == large(number), "late {number} came back changed");
        }
        session.ask("GET", &kv(format!("late {stored}")), &[], None).must_be(404);
        all_there(worker);
    };
    check(&worker);
    worker.kill();
    worker.restart();
    check(&worker);
    // And it digs itself out: clear works on a full disk, and gives the room back.
    worker.get("/clear/0").must_be(200);
    within(Duration::from_secs(30), "clear made room", || {
        let reply = worker.ask("PUT", &kv("A"), &[], Some(b"room again"));
        matches!(reply.status, 200 | 201).then_some(())
    });
}

#[test]
fn small_values_fill_a_disk_and_the_store_lives() {
    let home = Home::new();
    let Some(disk) = SmallDisk::mount(home.path("disk"), "size=480m") else { return };
    let master = home.master();
    let launch = launch(&home, &master, "192MiB");
    let mut worker = launch.data(&disk.place.join("worker")).serve();
    // Below the limit above which a value goes into chunks: these go through memtables, tables and compactions.
    let value = |number: usize| vec![b'a' + (number % 26) as u8; 60_000];
    let key = |number: usize| kv(format!("{:04}", number * 7919 % 10_000));
    let mut session = Session::new(worker.port);
    let mut stored = 0;
    loop {
        let reply = session.ask("PUT", &key(stored), &[], Some(&value(stored)));
        if reply.status == 507 {
            break;
        }
        assert_eq!(reply.status, 201, "{}", reply.text());
        stored += 1;
        assert!(stored < 8000, "480 MB fit on a disk of less");
    }
    println!("{stored} values of 60,000 bytes fitted");
    assert!(stored > 800, "only {stored} values fitted");
    let kept = |worker: &Node, from: usize| {
        let mut session = Session::new(worker.port);
        for number in from..stored {
            let reply = session.ask("GET", &key(number), &[], None).must_be(200);
            assert!(reply.body == value(number), "{} came back changed", key(number));
        }
    };
    kept(&worker, 0);
    worker.kill();
    worker.restart();
    kept(&worker, 0);
    // What is deleted makes room, though its tables have to be written anew for that.
    let mut session = Session::new(worker.port);
    for number in 0..stored / 2 {
        session.ask("DELETE", &key(number), &[], None).must_be(204);
    }
    worker.get("/health").must_be(200);
    kept(&worker, stored / 2);
    worker.kill();
    worker.restart();
    kept(&worker, stored / 2);
    worker.get("/clear/0").must_be(200);
    within(Duration::from_secs(30), "clear made room", || {
        let reply = worker.ask("PUT", &kv("A"), &[], Some(b"room again"));
        matches!(reply.status, 200 | 201).then_some(())
    });
}

/// What is in LevelDB's memtables when a node is killed goes into tables at its next start: there must be room for that even
/// where deletes were taken until the last of it.
#[test]
fn a_node_that_deleted_down_to_the_last_of_its_disk_starts_again() {
    let home = Home::new();
    let Some(disk) = SmallDisk::mount(home.path("disk"), "size=480m") else { return };
    let master = home.master();
    let launch = launch(&home, &master, "256MiB");
    let mut worker = launch.data(&disk.place.join("worker")).serve();
    let value = |number: usize| vec![b'a' + (number % 26) as u8; 60_000];
    // Nearly a memtable full.
    for number in 0..272 {
        worker.put(format!("key {number}"), value(number));
    }
    let path = disk.place.join("ballast");
    let mut ballast = File::create(&path).expect("a ballast file");
    let refused = [80, 56, 44, 28, 20, 15, 12].into_iter().find(|left| {
        let more = free_bytes(&path).saturating_sub(left << 20);
        ballast.write_all(&vec![0; more]).expect("ballast that fits");
        // Between two steps the node has time to look at its disk.
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(3) {
            let reply = worker.ask("DELETE", &kv("absent"), &[], None);
            if reply.status == 507 {
                return true;
            }
            assert_eq!(reply.status, 404, "{}", reply.text());
            common::pause(20);
        }
        false
    });
    println!("deletes are refused with {refused:?} MiB left");
    assert!(refused.is_some(), "12 MiB are left on the disk and deletes are taken");
    worker.kill();
    worker.restart();
    for number in 0..272 {
        assert!(
            worker.value(format!("key {number}")).is_some_and(|seen| seen == value(number)),
            "key {number}"
        );
    }
}

#[test]
fn a_read_only_folder_is_refused() {
    let home = Home::new();
    let master = home.master();
    let launch = launch(&home, &master, "64MiB");
    let (launch, disk) = if rustix::process::geteuid().is_root() {
        let Some(disk) = SmallDisk::mount(home.path("disk"), "size=128m") else { return };
        (launch.data(&disk.place.join("worker")), Some(disk))
    } else {
        (launch, None)
    };
    let mut worker = launch.serve();
    worker.put("A", "happy");
    worker.stop();
    let protect = |on: bool| match &disk {
        Some(disk) => disk.remount(if on { "ro" } else { "rw" }),
        None => {
            let mode = if on { "a-w" } else { "u+w" };
            let done = Command::new("chmod").args(["-R", mode]).arg(&launch.data).status();
            assert!(done.is_ok_and(|status| status.success()));
        }
    };
    protect(true);
    let outcome = launch.refuse();
    assert!(matches!(outcome.code, 4 | 5), "exit {}: {}", outcome.code, outcome.err);
    assert!(outcome.err.contains(&launch.data.display().to_string()), "{}", outcome.err);
    // A new folder that cannot be made.
    let fresh = launch.data.join("fresh");
    let outcome = launch.clone().data(&fresh).refuse();
    assert!(matches!(outcome.code, 4 | 5), "exit {}: {}", outcome.code, outcome.err);
    protect(false);
    worker.restart();
    assert_eq!(worker.value("A").as_deref(), Some(b"happy".as_slice()));
}
