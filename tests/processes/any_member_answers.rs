//! "It works on the first worker and not on its clone." Every operation, through the leader, a follower, the standby
//! and the master: the same answers, and each sees at once what another one was told.

use crate::common;
use crate::common::node::kv;
use crate::common::three::awkward_keys;
use crate::common::{Group, Node, Session, encode, listed, until};
use serde_json::json;

#[test]
fn everything_works_everywhere() {
    let group = Group::start(4, &[]);
    let files = group.home.path("here");
    std::fs::write(files.join("cat.jpg"), b"meow").unwrap();
    let leader = group.settle();
    for (name, node) in group.nodes() {
        println!("through {name}");
        single_keys(&group, node);
        conditions(node);
        pieces(node);
        many_keys(&group, node);
        whole_group(&group, node);
        redirects(&group, node, leader);
        what_a_node_says(&group, node, leader);
    }
    for node in &group.workers {
        node.get("/put_file/B/cat.jpg").must_be(200).version();
        assert_eq!(group.master.get("/get/B").must_be(200).text(), "meow");
        node.get("/delete/B").must_be(200);
    }
}

#[test]
fn reads_that_ask_a_majority_see_the_last_write_too() {
    let group = Group::start(3, &["--reads", "quorum"]);
    for (number, (name, writer)) in group.nodes().into_iter().enumerate() {
        writer.put("A", number.to_string());
        for (other, reader) in group.nodes() {
            let read = reader.value("A").unwrap_or_default();
            assert_eq!(read, number.to_string().as_bytes(), "put through {name}, read through {other}");
            assert_eq!(listed(&reader.get("/kv").must_be(200).json()), ["A"], "{other}");
        }
    }
}

#[test]
fn every_key_can_be_carried_over() {
    let group = Group::start(2, &[]);
    let standby = &group.workers[1 - group.settle()];
    let mut session = Session::new(standby.port);
    for key in awkward_keys() {
        let shown = String::from_utf8_lossy(&key[..key.len().min(40)]).into_owned();
        let value = [b" \0\xff ", key.as_slice()].concat();
        assert_eq!(session.ask("PUT", &kv(&key), &[], Some(&value)).status, 201, "{shown:?}");
        assert_eq!(group.master.get(&kv(&key)).must_be(200).body, value, "{shown:?}");
        session.ask("GET", &format!("/put/{}/{}", encode(&key), encode(&value)), &[], None).must_be(200);
        let read = session.ask("GET", &format!("/get/{}", encode(&key)), &[], None).must_be(200);
        assert_eq!(read.body, value, "{shown:?}");
        session.ask("DELETE", &kv(&key), &[], None).must_be(204);
        session.ask("GET", &kv(&key), &[], None).must_be_problem(404, "not_found");
    }
}

fn single_keys(group: &Group, node: &Node) {
    let large: Vec<u8> = (0..=250).cycle().take(2_000_000).collect();
    for (key, value) in [("empty", &b""[..]), ("small", b"happy"), ("large", &large)] {
        let version = node.ask("PUT", &kv(key), &[], Some(value)).must_be(201).version();
        for (other, reader) in group.nodes() {
            let read = reader.get(&kv(key)).must_be(200);
            assert!(read.body == value, "{key} read through {other}");
            assert_eq!(read.version(), version);
        }
        assert!(node.ask("PUT", &kv(key), &[], Some(value)).must_be(200).version() > version);
        let head = node.ask("HEAD", &kv(key), &[], None).must_be(200);
        assert_eq!(head.header("content-length"), Some(value.len().to_string().as_str()));
        node.ask("DELETE", &kv(key), &[], None).must_be(204);
        node.get(&kv(key)).must_be_problem(404, "not_found");
        node.ask("DELETE", &kv(key), &[], None).must_be_problem(404, "not_found");
        node.ask("HEAD", &kv(key), &[], None).must_be(404);
    }
    let said = node.get("/put/A/happy%2F/x").must_be(200);
    assert!(said.text().starts_with("A: 8 bytes, version "), "{}", said.text());
    assert_eq!(node.get("/get/A/").must_be(200).text(), "happy//x");
    assert!(node.get("/delete/A").must_be(200).text().contains("deleted"));
    let large = vec![7; (1 << 20) + 1];
    node.ask("PUT", "/kv/A", &[], Some(&large)).must_be(201);
    assert!(node.get("/kv/A").must_be(200).body == large, "a value in chunks came back changed");
    node.ask("DELETE", "/kv/A", &[], None).must_be(204);
}

fn conditions(node: &Node) {
    let absent = [("If-None-Match", "*")];
    let version = node.ask("PUT", "/kv/C", &absent, Some(b"1")).must_be(201).version();
    node.ask("PUT", "/kv/C", &absent, Some(b"2")).must_be_problem(412, "condition_failed");
    let tag = format!("\"{version}\"");
    let matching = [("If-Match", tag.as_str())];
    let newer = node.ask("PUT", "/kv/C", &matching, Some(b"3")).must_be(200).version();
    let refused = node.ask("DELETE", "/kv/C", &matching, None).must_be_problem(412, "condition_failed");
    assert_eq!(refused.version(), newer);
    node.ask("GET", "/kv/C", &[("If-None-Match", &format!("\"{newer}\""))], None).must_be(304);

    let id = format!("id-{newer}");
    let with_id = [("Catstore-Request-Id", id.as_str())];
    let first = node.ask("PUT", "/kv/D", &with_id, Some(b"once")).must_be(201).version();
    assert_eq!(node.ask("PUT", "/kv/D", &with_id, Some(b"once")).must_be(201).version(), first);
    node.ask("DELETE", "/kv/D", &[], None).must_be(204);
    node.ask("DELETE", "/kv/C", &[], None).must_be(204);
    node.ask("PUT", "/kv/E?ttl=1s", &[], Some(b"soon gone")).must_be(201);
    until("it has expired", || (node.get("/kv/E").status == 404).then_some(()));
}

fn pieces(node: &Node) {
    node.ask("PUT", "/kv/R", &[("Content-Type", "image/png")], Some(b"0123456789")).must_be(201);
    let part = node.ask("GET", "/kv/R", &[("Range", "bytes=2-4")], None).must_be(206);
    assert_eq!((part.text().as_str(), part.header("content-range")), ("234", Some("bytes 2-4/10")));
    assert_eq!(part.header("content-type"), Some("image/png"));
    assert!(part.header("catstore-checksum").is_some());
    node.ask("GET", "/kv/R", &[("Range", "bytes=20-")], None).must_be_problem(416, "out_of_range");
    node.ask("DELETE", "/kv/R", &[], None).must_be(204);
}

fn many_keys(group: &Group, node: &Node) {
    let op = |op: &str, key: &str| json!({"op": op, "key": key, "value": "v"});
    let ops: Vec<_> = (0..5).map(|number| op("put", &format!("{{list}}{number}"))).collect();
    let batch = |ops: &[serde_json::Value]| {
        node.ask("POST", "/batch", &[], Some(json!({ "ops": ops }).to_string().as_bytes()))
    };
    assert_eq!(batch(&ops).must_be(200).json()["versions"].as_array().map(Vec::len), Some(5));
    batch(&[json!({"op": "check", "key": "{list}1", "version": 1}), op("put", "{list}9")])
        .must_be_problem(412, "condition_failed");
    batch(&[op("put", "a"), op("put", "b")]).must_be_problem(400, "cross_slot");
    for (other, reader) in group.nodes() {
        let page = reader.get("/kv?prefix=%7Blist%7D&limit=3&values=true").must_be(200).json();
        assert_eq!(listed(&page), ["{list}0", "{list}1", "{list}2"], "{other}");
        let rest = reader.get("/kv?after=%7Blist%7D2").must_be(200).json();
        assert_eq!(listed(&rest), ["{list}3", "{list}4"], "{other}");
    }
}

fn whole_group(group: &Group, node: &Node) {
    let cleared = node.get("/clear/0").must_be(200).json();
    assert_eq!(cleared, json!({"group": 0, "cleared": 5}));
    for (other, reader) in group.nodes() {
        assert_eq!(listed(&reader.get("/kv").must_be(200).json()).len(), 0, "{other}");
    }
    let refused = node.get("/clear/1").must_be_problem(409, "conflict").json();
    assert_eq!(refused["detail"], "worker 1 holds the same keys as worker 0; /clear/0 clears all copies");
    node.get("/clear/9").must_be_problem(404, "not_found");
}

fn redirects(group: &Group, node: &Node, leader: usize) {
    let leads = node.port == group.workers[leader].port;
    let location = format!("http://127.0.0.1:{}/kv/redirected", group.workers[leader].port);
    for (method, body) in [("GET", None), ("PUT", Some(&b"x"[..])), ("DELETE", None)] {
        let reply = node.ask(method, "/kv/redirected", &[("Prefer", "redirect")], body);
        match leads {
            true => assert!(matches!(reply.status, 201 | 204 | 404), "{method}: {}", reply.status),
            false => assert_eq!(reply.must_be(307).header("location"), Some(location.as_str()), "{method}"),
        }
    }
}

fn what_a_node_says(group: &Group, node: &Node, leader: usize) {
    node.get("/health").must_be(200);
    let view = until("the node knows the group", || {
        let view = node.get("/cluster").must_be(200).json();
        let members = view["groups"][0]["members"].as_array()?.clone();
        let voters = members.iter().filter(|member| member["voter"] == true).count();
        (members.len() == 4 && voters == 3).then_some(view)
    });
    assert_eq!(view["groups"][0]["leader"], leader, "{view}");
    let metrics = node.get("/metrics").must_be(200).text();
    if node.port != group.master.port {
        let leads = u8::from(node.port == group.workers[leader].port);
        for line in [
            format!("catstore_leader {leads}"),
            "catstore_members{kind=\"voter\"} 3".into(),
            "catstore_members{kind=\"standby\"} 1".into(),
        ] {
            assert!(metrics.lines().any(|known| known == line), "no {line}:\n{metrics}");
        }
        assert_eq!(common::counter(&metrics, "catstore_role"), 1.0);
        assert!(common::counter(&metrics, "catstore_applied_lag_milliseconds") < 60_000.0);
    }
}
