//! "Both machines with a master burned down." All masters' folders are gone, the workers live: `--recover` brings the
//! cluster back, with every key readable and every index kept, and what the lost masters left never comes back.

use crate::common;
use crate::common::{Home, Launch, Node, copy_folder, free_port, until};
use serde_json::{Value, json};

/// Two masters, group 0 of the workers 0, 2 and 3, and group 1 of worker 1: each owns half of the slots.
struct Cluster {
    workers: Vec<Node>,
    masters: Vec<Node>,
    home: Home,
}

impl Cluster {
    fn start() -> Cluster {
        let home = Home::new();
        let first = home.master();
        let port = first.port.to_string();
        let second = home.start("master", &["--join", &port]);
        let list = format!("{port},{}", second.port);
        let worker = |words: &[&str]| home.start("worker", &[&["--master", list.as_str()], words].concat());
        let founders = [worker(&[]), worker(&[])];
        // While both have as many members: slots do not go to where there are fewer copies.
        until("both groups have their slots", || {
            let status = home.run_at(&first, &["status", "--json"]).exits(0).json();
            (status["groups"][1]["slots"] == 8192).then_some(())
        });
        let clones = [worker(&["--clone", "0"]), worker(&["--clone", "0"])];
        let workers = founders.into_iter().chain(clones).collect();
        let cluster = Cluster { workers, masters: vec![first, second], home };
        cluster.await_groups(&cluster.masters[0]);
        cluster
    }

    /// Waits until the groups are as they should be.
    fn await_groups(&self, master: &Node) {
        until("three workers vote, and both groups have their slots", || {
            let status = self.home.run_at(master, &["status", "--json"]).exits(0).json();
            let group = &status["groups"][0];
            let slots = |group: usize| status["groups"][group]["slots"] == 8192;
            let whole = group["voters"] == json!([0, 2, 3]) && group["leader"].is_number();
            (whole && slots(0) && slots(1)).then_some(())
        });
    }

    /// All masters die, and their folders with them; a copy of the first one's is left.
    fn lose_masters(&mut self) -> Launch {
        let rescued = self.home.path("rescued");
        self.masters.iter_mut().for_each(Node::kill);
        copy_folder(&self.masters[0].data, &rescued);
        for master in self.masters.drain(..) {
            std::fs::remove_dir_all(&master.data).expect("a folder");
        }
        self.home.launch("master", free_port(), &[]).data(&rescued)
    }

    /// How a master begins that recovers the directory from these workers.
    fn recovery(&self, words: &[&str]) -> Launch {
        self.home.launch("master", free_port(), words)
    }

    fn status(&self, master: &Node) -> Value {
        self.home.run_at(master, &["status", "--json"]).exits(0).json()
    }
}

fn index_of(node: &Node) -> u64 {
    node.get("/worker").json()["index"].as_u64().expect("an index")
}

fn incarnation(node: &Node) -> u64 {
    node.get("/cluster").json()["incarnation"].as_u64().expect("the masters' incarnation")
}

#[test]
fn every_key_is_readable_and_every_index_kept() {
    let mut cluster = Cluster::start();
    for number in 0..200 {
        cluster.workers[0].put(format!("key-{number}"), format!("value-{number}"));
    }
    let uuids: Vec<Value> =
        cluster.workers.iter().map(|worker| worker.get("/worker").json()["uuid"].clone()).collect();
    let named = cluster.workers[1].port.to_string();

    // While a master lives there is nothing to recover.
    let said = cluster.recovery(&["--recover", &named, "--yes"]).refuse().exits(4).err;
    assert!(said.contains("lives") && said.contains("--join"), "{said}");

    let rescued = cluster.lose_masters();
    cluster.workers[2].kill();
    // Nothing is done before somebody agrees.
    let asks = cluster.recovery(&["--recover", &named]).refuse().exits(2).err;
    assert!(asks.contains("say --yes") && asks.contains("worker 3 of group 0"), "{asks}");
    assert_eq!(incarnation(&cluster.workers[0]), 1);

    let master = cluster.recovery(&["--recover", &named, "--yes"]).serve();
    let log = master.log();
    for part in
        ["worker 1 of group 1", "has answered", "worker 2 of group 0", "SILENT", "8192 slots", "index 20"]
    {
        assert!(log.contains(part), "no {part:?}: {log}");
    }
    // The workers find it, although no command line names it.
    until("three workers are alive", || {
        let status = cluster.status(&master);
        let workers = status["workers"].as_array()?;
        assert_eq!(workers.len(), 4, "{status}");
        let alive = workers.iter().filter(|worker| worker["alive"] == true).count();
        (alive == 3).then_some(())
    });
    let status = cluster.status(&master);
    for (index, uuid) in uuids.iter().enumerate() {
        assert_eq!(
            (&status["workers"][index]["uuid"], &status["workers"][index]["index"]),
            (uuid, &json!(index))
        );
    }
    for number in 0..200 {
        let key = format!("key-{number}");
        let got = cluster.home.run_at(&master, &["get", &key]).exits(0);
        assert_eq!(got.text(), format!("value-{number}"));
    }
    cluster.home.run_at(&master, &["put", "after", "all"]).exits(0);

    // The worker that was silent comes back under its index, to masters that its command line does not name.
    cluster.workers[2].restart();
    assert_eq!(index_of(&cluster.workers[2]), 2);
    cluster.await_groups(&master);
    // A new one gets an index that nobody had, and is a live copy.
    let port = master.port.to_string();
    let new = cluster.home.start("worker", &["--master", &port, "--clone", "0"]);
    assert!(new.ready.starts_with("ready worker 20 at "), "{}", new.ready);
    assert_eq!(new.value("after").as_deref(), Some(b"all".as_slice()));
    // A second master joins as ever.
    let second = cluster.home.start("master", &["--join", &port]);
    assert!(incarnation(&second) > 1);

    // What the lost masters left is refused: it asks the workers before it serves.
    let said = rescued.refuse().exits(4).err;
    assert!(said.contains("recovered without this one"), "{said}");
    let mut joins = rescued.clone();
    joins.words.extend(["--join".into(), port.clone()]);
    let said = joins.refuse().exits(4).err;
    assert!(said.contains("recovered without this one"), "{said}");
    // Every worker follows the recovered masters: also the one that was silent is told who they are.
    until("all workers follow the same masters", || {
        let present = incarnation(&master);
        cluster.workers.iter().all(|worker| incarnation(worker) == present).then_some(())
    });
    assert_eq!(cluster.workers[0].value("key-7").as_deref(), Some(b"value-7".as_slice()));
    // A folder that holds a directory is never overwritten, and needs no recovery.
    let mut master = master;
    master.kill();
    let said = master.launch.refuse().exits(4).err;
    assert!(said.contains("holds a directory already"), "{said}");
}

#[test]
fn an_old_master_that_workers_still_call_ends_by_itself() {
    let mut cluster = Cluster::start();
    let at = cluster.masters[0].port;
    let rescued = cluster.lose_masters().port(at);
    let named = cluster.workers[0].port.to_string();
    let master = cluster.recovery(&["--recover", &named, "--yes"]).serve();
    until("all workers follow it", || {
        cluster.workers.iter().all(|worker| incarnation(worker) > 1).then_some(())
    });
    // While no worker can say a word the old one does not know; the first heartbeat ends it.
    let nodes = || cluster.workers.iter();
    nodes().for_each(|worker| worker.signal(rustix::process::Signal::STOP));
    let old = rescued.start();
    nodes().for_each(|worker| worker.signal(rustix::process::Signal::CONT));
    let said = match old {
        Ok(mut old) => {
            assert_eq!(old.wait(common::PATIENCE), 4, "{}", old.log());
            old.log()
        }
        Err(outcome) => outcome.exits(4).err,
    };
    assert!(said.contains("recovered without this one"), "{said}");
    until("the workers are alive for the recovered master", || {
        let status = cluster.status(&master);
        status["workers"].as_array()?.iter().all(|worker| worker["alive"] == true).then_some(())
    });
    cluster.home.run_at(&master, &["put", "A", "happy"]).exits(0);
}
