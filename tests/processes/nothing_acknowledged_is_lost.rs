//! "It said done, the machine died, and it was gone." Workers and masters are killed with -9 at random moments under
//! load; afterwards every acknowledged write is there, and no batch is there by half.

use crate::common;
use crate::common::load::{Load, Writer};
use crate::common::{Cluster, Dice, Home, Node, until};
use serde_json::Value;
use std::collections::BTreeMap;

const WRITERS: u64 = 16;

/// Kills the worker `rounds` times under load. `boot` says whether the machine looks restarted each time.
fn kill_rounds(rounds: u64, boot: bool) {
    let mut cluster = Cluster::start();
    let mut dice = Dice::fresh();
    let mut writers: Vec<Writer> = (0..WRITERS)
        .map(|number| {
            // Some come by way of the master, which forwards.
            let port = if number % 4 == 3 { cluster.master.port } else { cluster.worker.port };
            let largest = if number % 5 == 0 { 100_000 } else { 4_000 };
            Writer::new(&format!("writer {number}"), port, dice.throw(), largest)
        })
        .collect();
    let mut last = 0;
    for round in 0..rounds {
        let load = Load::start(writers);
        // At a random moment, but not before there is something to lose.
        let enough = 20 + dice.below(200);
        until("enough writes are acknowledged", || (load.done() >= enough).then_some(()));
        common::pause(dice.below(20));
        cluster.worker.kill();
        load.wind_down();
        if boot {
            let boot_id = format!("boot {round}");
            cluster.worker.launch = cluster.worker.launch.clone().env("CATSTORE_BOOT_ID", &boot_id);
        }
        cluster.worker.restart();
        assert!(cluster.worker.ready.starts_with("ready worker 0 at "), "{}", cluster.worker.ready);
        writers = load.finish();
        for writer in &mut writers {
            writer.check(&cluster.worker);
        }
        let version = cluster.worker.put("probe", round.to_string()).version();
        assert!(version > last, "the version counter went back from {last} to {version} in round {round}");
        last = version;
    }
    let done: u64 = writers.iter().map(|writer| writer.done).sum();
    println!("{rounds} rounds, {done} acknowledged writes, all there");
    // One last time after an orderly stop, and through the other door.
    cluster.worker.stop();
    cluster.worker.restart();
    for writer in &mut writers {
        writer.check(&cluster.master);
    }
}

#[test]
fn a_killed_worker_has_every_acknowledged_write() {
    kill_rounds(25, false);
}

#[test]
fn a_worker_on_a_machine_that_lost_power_has_every_acknowledged_write() {
    // With another boot id the node drops the state's write-ahead logs at start, as a power loss might have, and
    // the Raft log replays the rest.
    kill_rounds(25, true);
}

#[test]
fn a_worker_that_is_killed_while_it_starts_has_everything_too() {
    let mut cluster = Cluster::start();
    let mut dice = Dice::fresh();
    let mut writers = vec![Writer::new("early", cluster.worker.port, dice.throw(), 50_000)];
    for round in 0..8 {
        let load = Load::start(writers);
        until("enough writes are acknowledged", || (load.done() >= 100).then_some(()));
        cluster.worker.kill();
        writers = load.finish();
        let launch = cluster.worker.launch.clone().env("CATSTORE_BOOT_ID", &format!("boot {round}"));
        for _ in 0..3 {
            let mut child = launch
                .command()
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap();
            common::pause(dice.below(300));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        cluster.worker.launch = launch;
        cluster.worker.restart();
        writers[0].check(&cluster.worker);
    }
}

#[test]
fn a_key_that_was_seen_expired_stays_away_after_a_kill() {
    let mut cluster = Cluster::start();
    for round in 0..4 {
        let paths = [format!("/kv/short{round}?ttl=1s"), format!("/kv/long{round}?ttl=1h")];
        for path in &paths {
            cluster.worker.ask("PUT", path, &[], Some(b"x")).must_be(201);
        }
        let short = format!("/kv/short{round}");
        if round % 2 == 0 {
            until("it expires", || (cluster.worker.get(&short).status == 404).then_some(()));
        }
        cluster.worker.kill();
        let boot_id = format!("boot {}", round / 2);
        cluster.worker.launch = cluster.worker.launch.clone().env("CATSTORE_BOOT_ID", &boot_id);
        cluster.worker.restart();
        if round % 2 == 0 {
            cluster.worker.get(&short).must_be_problem(404, "not_found");
        }
        until("it expires", || (cluster.worker.get(&short).status == 404).then_some(()));
        cluster.worker.get(&format!("/kv/long{round}")).must_be(200);
    }
}

/// A writer whose work is done; every one of its keys was written many times.
fn finished_writer(cluster: &Cluster) -> Writer {
    let load = Load::start(vec![Writer::new("w", cluster.worker.port, 1, 100)]);
    until("enough writes are acknowledged", || (load.done() >= 200).then_some(()));
    let mut writer = load.finish().pop().expect("the writer");
    writer.check(&cluster.worker);
    writer
}

#[test]
#[should_panic(expected = "instead of what was acknowledged")]
fn these_tests_would_notice_a_lost_write() {
    let cluster = Cluster::start();
    let mut writer = finished_writer(&cluster);
    for number in 0..6 {
        cluster.worker.ask("DELETE", &common::node::kv(format!("w/single {number}")), &[], None);
    }
    writer.check(&cluster.worker);
}

#[test]
#[should_panic(expected = "half a batch")]
fn these_tests_would_notice_half_a_batch() {
    let cluster = Cluster::start();
    let mut writer = finished_writer(&cluster);
    cluster.worker.ask("DELETE", &common::node::kv("{w}/0b"), &[], None).must_be(204);
    writer.check(&cluster.worker);
}

/// What the master says about each worker that matters for life: index to uuid and group.
fn registrations(master: &Node) -> BTreeMap<u64, (String, u64)> {
    let status: Value = master.get("/master").must_be(200).json();
    let workers = status["workers"].as_array().unwrap_or_else(|| panic!("no workers: {status}"));
    workers
        .iter()
        .map(|worker| {
            let uuid = worker["uuid"].as_str().expect("a uuid").to_owned();
            (worker["index"].as_u64().expect("an index"), (uuid, worker["group"].as_u64().expect("a group")))
        })
        .collect()
}

#[test]
fn a_killed_master_knows_every_worker_and_index() {
    let home = Home::new();
    let mut dice = Dice::fresh();
    let mut master = home.start("master", &["--no-rebalance"]);
    let cluster_id = master.get("/master").json()["cluster"].clone();
    let mut workers: Vec<Node> = Vec::new();
    let mut known: BTreeMap<u64, (String, u64)> = BTreeMap::new();
    for round in 0..12 {
        if round % 2 == 0 {
            let worker = home.worker(&master);
            let expected = format!("ready worker {} at ", workers.len());
            assert!(worker.ready.starts_with(&expected), "{} instead of {expected}", worker.ready);
            workers.push(worker);
        } else {
            common::pause(dice.below(50));
        }
        // Whatever it told anybody is for life.
        known.extend(registrations(&master));
        assert_eq!(known.len(), workers.len());
        let slots = master.get("/cluster").json()["slots"].clone();
        master.kill();
        if round % 3 == 2 {
            let boot_id = format!("boot {round}");
            master.launch = master.launch.clone().env("CATSTORE_BOOT_ID", &boot_id);
        }
        master.restart();
        assert_eq!(registrations(&master), known, "round {round}");
        let view = master.get("/cluster").json();
        assert_eq!(view["slots"], slots, "round {round}");
        assert_eq!(view["cluster"], cluster_id);
    }
    // A worker that comes back is who it was.
    let mut last = workers.pop().expect("a worker");
    last.stop();
    last.restart();
    assert!(last.ready.starts_with(&format!("ready worker {} at ", workers.len())), "{}", last.ready);
    assert_eq!(registrations(&master), known);
}

#[test]
fn a_master_that_is_killed_while_workers_register_gives_each_index_once() {
    let home = Home::new();
    let mut dice = Dice::fresh();
    let mut master = home.master();
    for _ in 0..3 {
        let launches: Vec<_> = (0..2)
            .map(|_| home.launch("worker", common::free_port(), &["--master", &master.port.to_string()]))
            .collect();
        let threads: Vec<_> =
            launches.into_iter().map(|launch| std::thread::spawn(move || launch.start())).collect();
        common::pause(dice.below(150));
        master.kill();
        master.restart();
        for thread in threads {
            // A worker whose master does not answer waits and asks again: it is registered in the end.
            let worker = thread.join().expect("a launch").unwrap_or_else(|outcome| {
                panic!(
                    "a worker gave up within the time it waits for a master: {} {}",
                    outcome.code, outcome.err
                )
            });
            let facts = worker.get("/worker").must_be(200).json();
            let known = registrations(&master);
            let (uuid, _) = &known[&facts["index"].as_u64().expect("an index")];
            assert_eq!(facts["uuid"], *uuid);
        }
        let known = registrations(&master);
        let indices: Vec<u64> = known.keys().copied().collect();
        assert_eq!(indices, (0..known.len() as u64).collect::<Vec<_>>(), "{known:?}");
    }
    assert_eq!(registrations(&master).len(), 6);
}
