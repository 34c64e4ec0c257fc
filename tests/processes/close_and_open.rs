//! "Can I take a backup, and does it open?" A closed worker answers `closed`, its folder may be copied, it opens
//! again with everything, and the copy is a whole folder too.

use crate::common::load::{Load, Writer};
use crate::common::{Cluster, Dice, copy_folder, until};

#[test]
fn a_closed_worker_says_so_and_opens_again() {
    let cluster = Cluster::start();
    cluster.worker.put("A", "happy");
    let version = cluster.worker.put("B", "x").version();
    // Another worker's index closes nothing here.
    cluster.worker.get("/close/7").must_be_problem(409, "conflict");
    cluster.worker.get("/health").must_be(200);
    cluster.worker.get("/close/0").must_be(200);
    cluster.worker.get("/close/0").must_be(200);

    for node in [&cluster.worker, &cluster.master] {
        node.get("/kv/A").must_be_problem(503, "closed");
        node.get("/get/A").must_be_problem(503, "closed");
        node.ask("PUT", "/kv/A", &[], Some(b"x")).must_be_problem(503, "closed");
        node.ask("DELETE", "/kv/A", &[], None).must_be_problem(503, "closed");
        node.get("/kv").must_be_problem(503, "closed");
        node.ask("POST", "/batch", &[], Some(b"{\"ops\":[{\"op\":\"delete\",\"key\":\"A\"}]}"))
            .must_be_problem(503, "closed");
        node.get("/clear/0").must_be_problem(503, "closed");
    }
    assert_eq!(cluster.worker.get("/health").status, 503);
    cluster.master.get("/health").must_be(200);

    // A closed worker is not a dead one.
    until("the master sees it closed and alive", || {
        let worker = cluster.master.get("/master").must_be(200).json()["workers"][0].clone();
        assert_eq!(worker["alive"], true, "{worker}");
        (worker["facts"]["state"] == "closed").then_some(())
    });
    assert!(cluster.run(&["status"]).exits(0).text().contains("closed"));
    let refused = cluster.run(&["get", "A"]).exits(3);
    assert!(refused.err.contains("closed") && refused.err.contains("open"), "{}", refused.err);

    // HEAD and OPTIONS change nothing, and another site changes nothing: neither opens it.
    for (method, headers) in
        [("HEAD", None), ("OPTIONS", None), ("GET", Some(("Sec-Fetch-Site", "cross-site")))]
    {
        cluster.worker.ask(method, "/worker/0", headers.as_slice(), None);
        cluster.worker.ask(method, "/worker", headers.as_slice(), None);
        cluster.worker.get("/kv/A").must_be_problem(503, "closed");
    }

    let facts = cluster.worker.get("/worker/0").must_be(200).json();
    assert_eq!(facts["state"], "open", "{facts}");
    cluster.worker.get("/health").must_be(200);
    assert_eq!(cluster.worker.value("A").as_deref(), Some(b"happy".as_slice()));
    assert_eq!(cluster.master.value("A").as_deref(), Some(b"happy".as_slice()));
    assert!(cluster.worker.put("A", "happier").version() > version);
    cluster.worker.get("/worker/7").must_be_problem(409, "conflict");
}

#[test]
fn the_command_line_closes_and_opens() {
    let cluster = Cluster::start();
    cluster.run(&["put", "A", "happy"]).exits(0);
    cluster.run(&["close", "0"]).exits(0);
    cluster.worker.get("/kv/A").must_be_problem(503, "closed");
    cluster.run(&["open", "0"]).exits(0);
    assert_eq!(cluster.run(&["get", "A"]).exits(0).text(), "happy");
    let outcome = cluster.run(&["close", "7"]);
    assert!(matches!(outcome.code, 1 | 4), "exit {}: {}", outcome.code, outcome.err);
    assert!(outcome.err.contains('7'), "{}", outcome.err);
}

#[test]
fn a_closed_master_keeps_nobody_from_his_data() {
    let cluster = Cluster::start();
    let second = cluster.home.worker(&cluster.master);
    cluster.worker.put("A", "happy");
    cluster.master.get("/close").must_be(200);
    assert_eq!(cluster.worker.value("A").as_deref(), Some(b"happy".as_slice()));
    second.put("A", "by way of the second");
    assert_eq!(cluster.worker.value("A").as_deref(), Some(b"by way of the second".as_slice()));
    // It forwards with the last known routes.
    assert_eq!(cluster.master.value("A").as_deref(), Some(b"by way of the second".as_slice()));
    cluster.master.put("A", "by way of the master");

    let status = cluster.master.get("/master").must_be(200).json();
    assert_eq!(status["state"], "open", "{status}");
    assert_eq!(status["workers"].as_array().map(Vec::len), Some(2), "{status}");
    let third = cluster.home.worker(&cluster.master);
    assert!(third.ready.starts_with("ready worker 2 at "), "{}", third.ready);
    assert_eq!(third.value("A").as_deref(), Some(b"by way of the master".as_slice()));

    cluster.run(&["close", "--master"]).exits(0);
    cluster.worker.put("A", "again");
    cluster.run(&["open", "--master"]).exits(0);
    assert_eq!(cluster.master.get("/master").must_be(200).json()["state"], "open");
}

#[test]
fn a_copy_taken_while_closed_is_a_whole_folder() {
    let mut cluster = Cluster::start();
    let mut writers = vec![Writer::new("before", cluster.worker.port, Dice::fresh().throw(), 50_000)];
    let load = Load::start(writers);
    until("there is something to back up", || (load.done() > 200).then_some(()));
    writers = load.finish();
    cluster.worker.get("/close/0").must_be(200);
    let copy = cluster.home.path("backup");
    copy_folder(&cluster.worker.data, &copy);
    // The original goes away; what was copied takes its place.
    cluster.worker.stop();
    let backup = cluster.worker.launch.clone().data(&copy).serve();
    assert!(backup.ready.starts_with("ready worker 0 at "), "{}", backup.ready);
    assert!(backup.ready.ends_with(&copy.display().to_string()), "{}", backup.ready);
    writers[0].check(&backup);
    writers[0].check(&cluster.master);
    backup.put("A", "happy");
    // Now the original is the old copy.
    drop(backup);
    let outcome = cluster.worker.launch.refuse();
    assert!(matches!(outcome.code, 4 | 5), "exit {}: {}", outcome.code, outcome.err);
}

#[test]
fn closing_under_load_loses_nothing() {
    let cluster = Cluster::start();
    let mut dice = Dice::fresh();
    let writers: Vec<Writer> = (0..8)
        .map(|number| Writer::new(&format!("w{number}"), cluster.worker.port, dice.throw(), 10_000))
        .collect();
    let load = Load::start(writers);
    for _ in 0..5 {
        let before = load.done();
        until("writes go on", || (load.done() > before + 50).then_some(()));
        cluster.worker.get("/close/0").must_be(200);
        cluster.worker.get("/kv/A").must_be_problem(503, "closed");
        cluster.worker.get("/worker/0").must_be(200);
    }
    for writer in &mut load.finish() {
        writer.check(&cluster.worker);
    }
}
