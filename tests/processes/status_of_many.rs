//! "I asked the wrong node, and it told me a fairy tale." What `status` says of three masters and a group of three,
//! whoever is asked and whoever is down, for people and for scripts.

use crate::common;
use crate::common::{Home, Node, Outcome, until};
use serde_json::Value;

struct Many {
    workers: Vec<Node>,
    masters: Vec<Node>,
    home: Home,
}

impl Many {
    /// A group of `workers` and `masters` masters.
    fn start(workers: usize, masters: usize) -> Many {
        let home = Home::new();
        let mut many = Many { workers: Vec::new(), masters: vec![home.master()], home };
        for number in 0..workers {
            let clone: &[&str] = if number == 0 { &[] } else { &["--clone", "0"] };
            many.workers.push(many.home.worker_with(&many.masters[0], clone));
        }
        for _ in 1..masters {
            let first = many.masters[0].port.to_string();
            many.masters.push(many.home.start("master", &["--join", &first]));
        }
        until("the masters have settled who votes", || {
            let told: Vec<Value> = many.masters.iter().map(|master| master.get("/master").json()).collect();
            let settled = |told: &Value| {
                let votes = told["voters"].as_array().map(Vec::len) == Some(masters);
                let heard = list(told, "workers").iter().filter(|worker| worker["alive"] == true).count();
                votes && told["outgoing"] == serde_json::json!([]) && heard == workers
            };
            told.iter().all(settled).then_some(())
        });
        many
    }

    fn status_at(&self, node: &Node) -> Value {
        self.home.run_at(node, &["status", "--json"]).exits(0).json()
    }

    fn text_at(&self, node: &Node) -> String {
        self.home.run_at(node, &["status"]).exits(0).text()
    }

    /// The status at `node`, once it is as `wanted` says.
    fn settled(&self, node: &Node, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        until(what, || Some(self.status_at(node)).filter(|status| wanted(status)))
    }
}

fn list<'a>(status: &'a Value, name: &str) -> &'a [Value] {
    status[name].as_array().unwrap_or_else(|| panic!("no {name}: {status}"))
}

/// The master that leads, by its place in the list; it is the only one.
fn leading_master(status: &Value) -> Option<usize> {
    let masters = list(status, "masters");
    let leaders: Vec<usize> = (0..masters.len()).filter(|place| masters[*place]["leader"] == true).collect();
    assert!(leaders.len() <= 1, "{masters:?}");
    leaders.first().copied()
}

fn all_vote(status: &Value) -> bool {
    let group = &status["groups"][0];
    group["voters"] == serde_json::json!([0, 1, 2]) && group["leader"].is_number()
}

#[test]
fn every_node_tells_the_same_of_three_masters_and_a_group_of_three() {
    let many = Many::start(3, 3);
    many.workers[1].put("A", "happy");
    let all_is_heard = |status: &Value| {
        let heard = list(status, "workers").iter().all(|worker| worker["facts"]["keys"] == 1);
        all_vote(status) && heard && leading_master(status).is_some()
    };
    for node in many.masters.iter().chain(&many.workers) {
        let status = many.settled(node, "everybody was heard of", all_is_heard);
        let masters = list(&status, "masters");
        assert_eq!(masters.len(), 3);
        for (index, (said, master)) in masters.iter().zip(&many.masters).enumerate() {
            assert_eq!(said["index"], index);
            assert_eq!(said["state"], "open");
            assert_eq!(said["address"], format!("127.0.0.1:{}", master.port));
            assert_eq!(said["data"], master.data.display().to_string());
            assert_eq!(said["role"], if said["leader"] == true { "leader" } else { "follower" });
            assert!(said["restart"].is_null(), "{said}");
        }
        let group = &status["groups"][0];
        assert_eq!(group["may_lose"], "any 1 of 3 may be lost", "{group}");
        assert_eq!((&group["keys"], &group["incarnation"]), (&1.into(), &1.into()));
        assert_eq!(group["standbys"], serde_json::json!([]));
        for (index, worker) in list(&status, "workers").iter().enumerate() {
            let leads = group["leader"] == index;
            assert_eq!(worker["alive"], true, "{worker}");
            assert_eq!(worker["facts"]["role"], if leads { "leader" } else { "follower" });
            assert_eq!(worker["facts"]["leader"], group["leader"]);
        }
        let text = many.text_at(node);
        assert!(text.contains("0 1 2") && text.contains("follower") && text.contains("LAG"), "{text}");
        assert!(!text.contains("removed") && !text.contains("no master leads"), "{text}");
        assert!(text.contains("any 1 of 3 masters may be lost"), "{text}");
    }
    // Each master tells it of itself as well.
    for (index, master) in many.masters.iter().enumerate() {
        let told = master.get("/master").must_be(200).json();
        assert_eq!((&told["index"], &told["state"]), (&index.into(), &"open".into()), "{told}");
        assert_eq!(told["workers"].as_array().map(Vec::len), Some(3));
        assert!(told["workers"].as_array().unwrap().iter().all(|worker| worker["alive"] == true), "{told}");
    }
}

#[test]
fn masters_that_die_one_by_one_are_named_and_cost_no_key() {
    let mut many = Many::start(3, 3);
    let before = many.settled(&many.masters[0], "all vote, and a master leads", |status| {
        all_vote(status) && leading_master(status).is_some()
    });
    let first = leading_master(&before).unwrap();
    many.masters[first].kill();
    let witness = &many.workers[0];
    // It takes a moment until the next one misses the former.
    let status = many.settled(witness, "another master leads, and misses the first", |status| {
        let missed = list(status, "masters").get(first).is_some_and(|lost| lost["restart"].is_string());
        missed && leading_master(status).is_some_and(|leader| leader != first)
    });
    let lost = &list(&status, "masters")[first];
    assert_eq!((&lost["state"], &lost["leader"]), (&"silent".into(), &false.into()));
    let restart = lost["restart"].as_str().unwrap_or_else(|| panic!("no command: {lost}")).to_owned();
    let master = &many.masters[first];
    // It names the others, so that an empty folder there does not become a cluster of its own.
    let others = many.masters.iter().filter(|other| other.port != master.port);
    let others: Vec<String> = others.map(|other| format!("127.0.0.1:{}", other.port)).collect();
    let wanted = format!(
        "catstore master {} --join {} --data {}",
        master.port,
        others.join(","),
        master.data.display()
    );
    assert_eq!(restart, wanted);
    // Any master may be asked, and each misses the first by its own clock.
    let said = format!("master {first} does not answer\n  start it again: {restart}");
    common::until("every master says how to start the first again", || {
        many.text_at(witness).contains(&said).then_some(())
    });
    // The heartbeats went to all masters before: nobody is taken for dead now.
    assert!(list(&status, "workers").iter().all(|worker| worker["alive"] == true), "{status}");

    let second = leading_master(&status).unwrap();
    many.masters[second].kill();
    let witness = &many.workers[0];
    let status = many.settled(witness, "no master leads", |status| leading_master(status).is_none());
    assert_eq!(list(&status, "masters").iter().filter(|master| master["state"] == "silent").count(), 2);
    let text = many.text_at(witness);
    assert!(text.contains("no master leads: reads and writes go on"), "{text}");
    many.home.run_at(witness, &["put", "A", "happy"]).exits(0);
    let third = (0..3).find(|place| ![first, second].contains(place)).unwrap();
    assert_eq!(many.home.run_at(&many.masters[third], &["get", "A"]).exits(0).text(), "happy");
    let said = many.home.run_at(witness, &["promote", "1"]).exits(3).err;
    assert!(said.contains("a majority of the masters must be up"), "{said}");

    many.masters[third].kill();
    let text = many.text_at(&many.workers[2]);
    assert!(text.contains("any 1 of 3 may be lost"), "put together from what the workers know:\n{text}");
    many.home.run_at(&many.workers[1], &["put", "A", "happier"]).exits(0);

    for place in [first, second, third] {
        many.masters[place].restart();
    }
    many.settled(&many.masters[third], "a master leads again", |status| leading_master(status).is_some());
}

#[test]
fn a_closed_master_stays_closed_until_it_is_opened_by_name() {
    let many = Many::start(1, 3);
    let address = |index: usize| format!("127.0.0.1:{}", many.masters[index].port);
    let run = |words: &[&str]| -> Outcome { many.home.run_at(&many.masters[0], words) };
    // Which of them is meant must be said where there are several: by --master, or by the environment.
    let list_of_two = format!("{},{}", address(1), address(2));
    let said = run(&["close", "--master", &list_of_two]).exits(2).err;
    assert!(said.contains("3 masters") && said.contains(&address(0)), "{said}");
    let said = run(&["close", "--master", &many.workers[0].port.to_string()]).exits(2).err;
    assert!(said.contains("none of this cluster's masters") && said.contains(&address(1)), "{said}");

    run(&["close", "--master", &address(2)]).exits(0);
    for _ in 0..2 {
        let status = many.status_at(&many.masters[0]);
        assert_eq!(status["masters"][2]["state"], "closed", "asking opens nothing: {status}");
    }
    let text = many.text_at(&many.masters[0]);
    assert!(text.contains(&format!("catstore open --master {}", address(2))), "{text}");
    many.masters[2].get("/health").must_be_problem(503, "closed");
    run(&["open", "--master", &address(2)]).exits(0);
    let opened = |status: &Value| status["masters"][2]["state"] == "open" && leading_master(status).is_some();
    many.settled(&many.masters[0], "it is open again", opened);

    // The one that the environment names.
    run(&["close", "--master"]).exits(0);
    many.settled(&many.masters[1], "closed", |status| status["masters"][0]["state"] == "closed");
    // `/master` opens the one that is asked, as ever.
    many.masters[0].get("/master").must_be(200);
    many.settled(&many.masters[1], "open", |status| status["masters"][0]["state"] == "open");
}

#[test]
fn workers_that_are_down_or_removed_are_told_apart() {
    let mut many = Many::start(3, 1);
    let master = &many.masters[0];
    many.settled(master, "all vote", all_vote);
    many.workers[2].kill();
    let status = many.settled(master, "worker 2 is down", |status| status["workers"][2]["alive"] == false);
    let restart = status["workers"][2]["restart"].as_str().expect("a command").to_owned();
    let port = many.workers[2].port;
    assert!(
        restart.starts_with(&format!("catstore worker {port} --master 127.0.0.1:{}", master.port)),
        "{restart}"
    );
    let text = many.text_at(master);
    assert!(text.contains("worker 2 was last seen") && text.contains(&restart), "{text}");
    assert!(text.contains("no further loss: worker 2 is down"), "{text}");

    let replacement = many.home.worker_with(master, &["--replace", "2"]);
    let status = many.settled(master, "the new one votes", |status| {
        status["groups"][0]["voters"] == serde_json::json!([0, 1, 3])
    });
    assert_eq!(status["groups"][0]["members"], serde_json::json!([0, 1, 3]));
    assert_eq!(status["workers"][2]["removed"], "replaced by worker 3");
    assert!(status["workers"][2]["restart"].is_null(), "{}", status["workers"][2]);
    let text = many.text_at(master);
    assert!(text.contains("removed for good: worker 2 (replaced by worker 3)\n"), "{text}");
    assert!(!text.contains(&format!(":{port} ")), "it has no line of its own:\n{text}");
    drop(replacement);
}
