//! "It gave me an old value and did not say so." A stale read is answered by whichever copy is at hand, says how far
//! behind that may be, and waits for nobody; every other read has the last write or no answer.

use crate::common::{Group, Node, Reply, listed, until};
use rustix::process::Signal;

const STALE: &str = "/kv/A?consistency=stale";

fn lag(reply: &Reply) -> String {
    reply.header("catstore-applied-lag").unwrap_or_else(|| panic!("no lag: {reply:?}")).to_owned()
}

fn milliseconds(reply: &Reply) -> u64 {
    lag(reply).parse().unwrap_or_else(|_| panic!("no number: {}", lag(reply)))
}

#[test]
fn every_node_answers_and_says_how_old_that_may_be() {
    let group = Group::start(4, &[]);
    let leader = group.settle();
    group.master.put("A", "happy");
    for (name, node) in group.nodes() {
        let reply =
            until("the write has arrived", || Some(node.get(STALE)).filter(|reply| reply.status == 200));
        assert_eq!(reply.text(), "happy", "{name}");
        assert!(milliseconds(&reply) < 60_000, "{name}: {reply:?}");
        assert!(
            milliseconds(&node.get("/kv/none?consistency=stale").must_be_problem(404, "not_found")) < 60_000
        );
        assert!(milliseconds(&node.get("/get/A?consistency=stale").must_be(200)) < 60_000);
        assert!(milliseconds(&node.ask("HEAD", STALE, &[], None).must_be(200)) < 60_000);
        let page = node.get("/kv?consistency=stale").must_be(200);
        assert!(milliseconds(&page) < 60_000, "{name}");
        assert_eq!(listed(&page.json()), ["A"], "{name}");
        // Nobody asked these for it.
        for path in ["/kv/A", "/kv", "/kv/none", "/kv/A?consistency=linearizable"] {
            assert_eq!(node.get(path).header("catstore-applied-lag"), None, "{name} {path}");
        }
        node.get("/kv/A?consistency=old").must_be_problem(400, "bad_request");
    }
    assert_eq!(milliseconds(&group.workers[leader].get(STALE)), 0, "the leader's own copy is the last word");
}

#[test]
fn without_a_majority_they_go_on_and_grow_older() {
    let mut group = Group::start(3, &[]);
    let leader = group.settle();
    group.master.put("A", "happy");
    let last = (leader + 2) % 3;
    until("the write has arrived", || (group.workers[last].get(STALE).status == 200).then_some(()));
    group.workers[leader].kill();
    group.workers[(leader + 1) % 3].kill();
    for node in [&group.workers[last], &group.master] {
        let first = milliseconds(&node.get(STALE).must_be(200));
        until("it is older than before", || {
            let reply = node.get(STALE).must_be(200);
            assert_eq!(reply.text(), "happy");
            (milliseconds(&reply) > first + 1000).then_some(())
        });
        assert_eq!(listed(&node.get("/kv?consistency=stale").must_be(200).json()), ["A"]);
    }
    refuses_all_else(&group, &group.workers[last], last);

    // After its start a member cannot tell how old its copy is, until somebody leads.
    group.workers[last].stop();
    group.workers[last].restart();
    let reply = group.workers[last].get(STALE).must_be(200);
    assert_eq!((reply.text().as_str(), lag(&reply).as_str()), ("happy", "unknown"));
    group.workers[leader].restart();
    until("somebody leads again", || (group.workers[last].get("/health").status == 200).then_some(()));
    assert_eq!(group.workers[last].value("A").as_deref(), Some(b"happy".as_slice()));
    until("its age is known again", || (lag(&group.workers[last].get(STALE)) != "unknown").then_some(()));
}

/// Without a majority, nothing but stale reads is answered, and that is said with the way out.
fn refuses_all_else(group: &Group, node: &Node, index: usize) {
    until("it knows that nobody leads", || (node.get("/health").status == 503).then_some(()));
    node.get("/health").must_be_problem(503, "no_majority");
    std::thread::scope(|scope| {
        for (method, path, body) in [
            ("GET", "/kv/A", None),
            ("GET", "/kv", None),
            ("PUT", "/kv/A", Some(&b"x"[..])),
            ("DELETE", "/kv/A", None),
        ] {
            scope.spawn(move || {
                let problem = node.ask(method, path, &[], body).must_be_problem(503, "no_majority").json();
                let hint = problem["hint"].as_str().unwrap_or_default();
                let promote = format!("catstore promote {index} --accept-data-loss");
                assert!(hint.contains("catstore status") && hint.contains(&promote), "{problem}");
                let problem = group.master.ask(method, path, &[], body).must_be_problem(503, "no_majority");
                assert!(problem.json()["hint"].as_str().is_some_and(|hint| hint.contains("catstore ")));
            });
        }
    });
}

#[test]
fn a_standby_reads_alone_while_its_voter_stands_still() {
    let group = Group::start(2, &[]);
    let voter = group.settle();
    group.master.put("A", "happy");
    let standby = &group.workers[1 - voter];
    until("the write has arrived", || (standby.get(STALE).status == 200).then_some(()));
    group.workers[voter].signal(Signal::STOP);
    let reply = standby.get(STALE).must_be(200);
    assert_eq!(reply.text(), "happy");
    milliseconds(&reply);
    // The master's first choice is silent; it asks the other one.
    assert_eq!(group.master.get(STALE).must_be(200).text(), "happy");
    group.workers[voter].signal(Signal::CONT);
    until("it is served again", || (group.master.get("/kv/A").status == 200).then_some(()));

    // A closed worker reads nothing.
    standby.get(&format!("/close/{}", 1 - voter)).must_be(200);
    standby.get(STALE).must_be_problem(503, "closed");
    assert_eq!(group.master.get(STALE).must_be(200).text(), "happy");
}
