//! "Durable means slow." Many writers share one sync of the log: counted, not timed.

use crate::common::{Cluster, Session, counter};

#[test]
fn concurrent_writes_share_syncs() {
    let cluster = Cluster::start();
    let page = |name: &str| counter(&cluster.worker.get("/metrics").must_be(200).text(), name);
    let (syncs, commands) = (page("catstore_log_syncs_total"), page("catstore_commands_total"));
    let port = cluster.worker.port;
    let threads: Vec<_> = (0..32)
        .map(|writer| {
            std::thread::spawn(move || {
                let mut session = Session::new(port);
                for number in 0..60 {
                    let path = format!("/kv/w{writer}-{number}");
                    session.ask("PUT", &path, &[], Some(b"a value")).must_be(201);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let (syncs, commands) =
        (page("catstore_log_syncs_total") - syncs, page("catstore_commands_total") - commands);
    println!("{commands} commands, {syncs} syncs");
    assert!(commands >= 1920.0, "{commands} commands were counted for 1920 writes");
    assert!(syncs >= 1920.0 / 4096.0, "a write was acknowledged without a sync");
    assert!(syncs < commands * 0.7, "{syncs} syncs for {commands} commands: hardly any were shared");
}

#[test]
fn a_lone_write_is_synced_before_it_is_acknowledged() {
    let cluster = Cluster::start();
    let syncs = || counter(&cluster.worker.get("/metrics").must_be(200).text(), "catstore_log_syncs_total");
    for number in 0..20 {
        let before = syncs();
        cluster.worker.put("A", number.to_string());
        assert!(syncs() > before, "write {number} was acknowledged, and nothing was synced");
    }
}
