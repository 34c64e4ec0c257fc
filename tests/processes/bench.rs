//! `catstore bench`: it says how fast a cluster is, on keys of its own, and leaves none of them.

use crate::common::{Cluster, PROGRAM, until};
use std::process::Stdio;

#[test]
fn it_measures_reads_back_and_leaves_nothing() {
    let cluster = Cluster::start();
    cluster.run(&["put", "A", "happy"]).exits(0);
    let said = cluster
        .run(&["bench", "--json", "--seconds", "1", "--keys", "1050", "--connections", "8", "--zipf", "0.99"])
        .exits(0)
        .text();
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(report["keys"], 1050, "{said}");
    assert_eq!(report["synced_by"], serde_json::json!([1]));
    for part in ["reads", "writes"] {
        let count = |name: &str| report[part][name].as_f64().unwrap();
        assert!(
            count("requests") > 0.0
                && count("p50_ms") <= count("p99_ms")
                && count("p99_ms") <= count("longest_ms")
        );
    }
    assert_eq!(report["failed"], serde_json::json!({}), "{said}");
    assert_eq!(cluster.run(&["list", "--keys-only"]).exits(0).text(), "A\n");
}

#[test]
fn batches_large_values_and_a_rate() {
    let cluster = Cluster::start();
    let bench = |more: &[&str]| {
        let few = ["bench", "--seconds", "1", "--keys", "150", "--connections", "4", "--reads", "20"];
        cluster.run(&[&few, more].concat())
    };
    let said = bench(&["--batch", "40"]).exits(0).text();
    assert!(said.contains("A write puts 40 keys") && said.contains("All 150 keys were read back"), "{said}");
    let said = bench(&["--size", "100k", "--rate", "50"]).exits(0).text();
    assert!(said.contains("50 requests a second were due"), "{said}");
    assert!(said.contains("synced on one disk"), "{said}");
    assert_eq!(cluster.run(&["list"]).exits(0).text(), "");
}

#[test]
fn ctrl_c_ends_the_measurement_early_and_leaves_nothing() {
    let cluster = Cluster::start();
    let mut command = cluster.home.command(PROGRAM);
    command.env("CATSTORE_MASTER", cluster.master.port.to_string());
    command.args(["bench", "--seconds", "600", "--keys", "500", "--connections", "4"]);
    let bench = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Every key was written more than once: it measures.
    let version = || cluster.worker.get("/worker").json()["version"].as_u64();
    until("it measures", || (version()? > 1000).then_some(()));
    let pid = rustix::process::Pid::from_child(&bench);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let done = bench.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && said.contains("All 500 keys were read back"), "{said}");
    assert_eq!(cluster.run(&["list"]).exits(0).text(), "");
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let cluster = Cluster::start();
    for (more, word) in [
        (&["--reads", "101"][..], "101"),
        (&["--zipf", "0"], "above 0"),
        (&["--batch", "101"], "101"),
        (&["--batch", "20", "--keys", "10"], "more keys than there are"),
        (&["--size", "65m"], "at most"),
        (&["--size", "64m", "--connections", "50"], "fewer --connections"),
    ] {
        let said = cluster.run(&[&["bench"], more].concat()).exits(2).err;
        assert!(said.contains(word), "{said}");
    }
    let said = cluster.home.run(&["bench", "--master", "127.0.0.1:1", "--seconds", "1"]).exits(3).err;
    assert!(said.starts_with("catstore: "), "{said}");
}
