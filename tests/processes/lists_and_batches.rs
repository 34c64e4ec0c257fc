//! "It listed half of it, or wrote half of it." Lists are whole and in order, page by page; batches happen as a whole
//! or not at all; a repeat with a request id happens once.

use crate::common::node::kv;
use crate::common::three::{Three, awkward_keys};
use crate::common::{Cluster, Node, Session, encode, listed};
use serde_json::{Value, json};

/// Every key of a listing, page by page, as bytes.
fn all_pages(node: &Node, query: &str) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    let mut after = String::new();
    loop {
        let page = node.get(&format!("/kv?{query}{after}")).must_be(200).json();
        let found = page["keys"].as_array().expect("keys").clone();
        keys.extend(found.iter().map(|key| json_bytes(&key["key"])));
        match &page["after"] {
            Value::Null => return keys,
            token => after = format!("&after={}", encode(json_bytes(token))),
        }
        assert!(!found.is_empty(), "a page without keys that says there are more: {page}");
    }
}

fn json_bytes(value: &Value) -> Vec<u8> {
    use base64::Engine as _;
    match value {
        Value::String(text) => text.as_bytes().to_vec(),
        other => {
            let text = other["base64"].as_str().unwrap_or_else(|| panic!("neither text nor base64: {other}"));
            base64::engine::general_purpose::STANDARD.decode(text).expect("base64")
        }
    }
}

#[test]
fn lists_are_in_byte_order_whole_and_in_pages() {
    let three = Three::start(&[]);
    let mut keys = awkward_keys();
    keys.extend((0..50).map(|number| format!("page/{number:03}").into_bytes()));
    let mut session = Session::new(three.cluster.worker.port);
    for key in &keys {
        session.ask("PUT", &kv(key), &[("Content-Type", "text/plain")], Some(b"four")).must_be(201);
    }
    keys.sort();
    for (name, node) in three.nodes() {
        for limit in [1, 7, 1000] {
            assert_eq!(all_pages(node, &format!("limit={limit}")), keys, "limit {limit} on {name}");
        }
        let pages: Vec<String> = (0..50).map(|number| format!("page/{number:03}")).collect();
        let page = node.get("/kv?prefix=page/&limit=50").must_be(200).json();
        assert_eq!(listed(&page), pages, "on {name}");
        assert_eq!(listed(&node.get("/kv?prefix=page/&limit=10").json()), pages[..10]);
        assert_eq!(listed(&node.get("/kv?prefix=page/&after=page/039").json()), pages[40..]);
        assert_eq!(listed(&node.get("/kv?prefix=page/&after=page/0395").json()), pages[40..]);
        assert_eq!(listed(&node.get("/kv?prefix=page/&after=page/049").json()), Vec::<String>::new());
        assert_eq!(listed(&node.get("/kv?prefix=page/&after=a").json()), pages, "before the prefix");
        assert_eq!(all_pages(node, "prefix=%FF"), [vec![0xff]]);
        assert_eq!(listed(&node.get("/kv?prefix=nothing").json()), Vec::<String>::new());

        let entry = &page["keys"][0];
        assert_eq!((&entry["size"], &entry["content_type"]), (&json!(4), &json!("text/plain")), "{entry}");
        assert!(entry["version"].is_u64() && !entry["modified"].is_null(), "{entry}");
        assert!(entry.get("value").is_none(), "{entry}");
        let page = node.get("/kv?prefix=page/&limit=2&values=true").must_be(200).json();
        assert_eq!(page["keys"][1]["value"], "four", "{page}");
        for wrong in ["limit=0", "limit=10001", "limit=cat", "limit=-1", "prefix=%zz", "after=%2"] {
            assert_eq!(node.get(&format!("/kv?{wrong}")).status, 400, "{wrong} on {name}");
        }
        node.get("/kv?limit=10000").must_be(200);
    }
}

#[test]
fn a_page_ends_at_8_mebibytes() {
    let cluster = Cluster::start();
    // The largest that are listed with their values: larger ones are in chunks.
    let value = vec![b'x'; 64 << 10];
    for number in 0..150 {
        cluster.worker.put(format!("large {number:03}"), &value);
    }
    cluster.worker.put("larger", vec![b'y'; (64 << 10) + 1]);
    let page = cluster.worker.get("/kv?values=true").must_be(200);
    assert!(page.body.len() < 13 << 20, "a page of {} bytes", page.body.len());
    let first = listed(&page.json());
    assert!(!first.is_empty() && first.len() < 150, "{first:?}");
    assert_eq!(all_pages(&cluster.master, "values=true").len(), 151);
    assert_eq!(listed(&cluster.worker.get("/kv").json()).len(), 151, "without values they fit");
    let larger = cluster.worker.get("/kv?prefix=larger&values=true").must_be(200).json();
    assert!(larger["keys"][0].get("value").is_none() && larger["keys"][0]["size"] == 65537, "{larger}");
}

#[test]
fn a_batch_is_all_or_nothing() {
    let three = Three::start(&[]);
    for (name, node) in three.nodes() {
        let batch =
            |ops: Value| node.ask("POST", "/batch", &[], Some(json!({ "ops": ops }).to_string().as_bytes()));
        let key = |part: &str| format!("{{{name}}}{part}");
        let reply = batch(json!([
            {"op": "put", "key": key("a"), "value": "1"},
            {"op": "put", "key": key("b"), "value": {"base64": "/wA="}},
            {"op": "check", "key": key("c"), "version": 0},
            {"op": "delete", "key": key("absent")},
        ]))
        .must_be(200)
        .json();
        let versions = reply["versions"].as_array().unwrap();
        assert_eq!(versions.len(), 4, "{reply}");
        assert!(versions[2].is_null() && versions[3].is_null(), "{reply}");
        let found = node.get(&kv(key("b"))).must_be(200);
        assert_eq!(
            (found.body.as_slice(), found.version()),
            (b"\xff\0".as_slice(), versions[1].as_u64().unwrap())
        );

        // One failed check, and nothing of it happens.
        batch(json!([
            {"op": "put", "key": key("a"), "value": "2"},
            {"op": "delete", "key": key("b")},
            {"op": "check", "key": key("a"), "version": 999_999},
        ]))
        .must_be_problem(412, "condition_failed");
        assert_eq!(node.value(key("a")).as_deref(), Some(b"1".as_slice()));
        assert!(node.value(key("b")).is_some());

        let version = versions[0].as_u64().unwrap();
        batch(json!([
            {"op": "check", "key": key("a"), "version": version},
            {"op": "put", "key": key("a"), "value": "2"},
            {"op": "delete", "key": key("b")},
        ]))
        .must_be(200);
        assert_eq!((node.value(key("a")).as_deref(), node.value(key("b"))), (Some(b"2".as_slice()), None));

        batch(json!([{"op": "put", "key": "one", "value": ""}, {"op": "put", "key": "two", "value": ""}]))
            .must_be_problem(400, "cross_slot");
        assert_eq!((node.value("one"), node.value("two")), (None, None));
    }
}

#[test]
fn a_batch_has_limits() {
    let cluster = Cluster::start();
    let ops = |count: usize, value: &str| {
        let ops: Vec<Value> = (0..count)
            .map(|number| json!({"op": "put", "key": format!("{{t}}{number}"), "value": value}))
            .collect();
        json!({ "ops": ops }).to_string().into_bytes()
    };
    for node in [&cluster.worker, &cluster.master] {
        node.ask("POST", "/batch", &[], Some(&ops(10_000, "v"))).must_be(200);
        assert_eq!(
            cluster.worker.get("/kv?limit=10000").json()["keys"].as_array().map(Vec::len),
            Some(10_000)
        );
        node.get("/clear/0").must_be(200);
        let reply = node.ask("POST", "/batch", &[], Some(&ops(10_001, "v")));
        assert!(matches!(reply.status, 400 | 413), "{} {}", reply.status, reply.text());
        let reply = node.ask("POST", "/batch", &[], Some(&ops(10, &"v".repeat(900_000))));
        assert_eq!(reply.status, 413, "{}", reply.text());
        assert_eq!(node.get("/kv").json()["keys"], json!([]), "a refused batch leaves nothing");
    }
}

#[test]
fn a_repeat_with_a_request_id_gets_the_first_reply() {
    let three = Three::start(&[]);
    for (name, node) in three.nodes() {
        let path = kv(format!("repeat on {name}"));
        let put = |id: &str, body: &str| {
            node.ask("PUT", &path, &[("Catstore-Request-Id", id)], Some(body.as_bytes()))
        };
        let id = format!("first-{name}");
        let first = put(&id, "mine").must_be(201);
        let newer = node.ask("PUT", &path, &[], Some(b"somebody else's")).must_be(200);
        let repeat = put(&id, "mine").must_be(201);
        assert_eq!(repeat.version(), first.version());
        assert_eq!(node.get(&path).text(), "somebody else's", "a late repeat must not undo a newer write");
        assert_eq!(node.get(&path).version(), newer.version());

        // The id is known on every node, for it is the machine that remembers it.
        for (_, other) in three.nodes() {
            let headers = [("Catstore-Request-Id", id.as_str())];
            assert_eq!(
                other.ask("PUT", &path, &headers, Some(b"mine")).must_be(201).version(),
                first.version()
            );
        }
        // It stands for one request: another one under it is refused, not answered with the first one's reply.
        put(&id, "something else").must_be_problem(409, "conflict");
        // A failed condition and a delete are replies too.
        let id = format!("delete-1-{name}");
        let headers = [("Catstore-Request-Id", id.as_str()), ("If-Match", "\"999999\"")];
        node.ask("DELETE", &path, &headers, None).must_be_problem(412, "condition_failed");
        let headers = [("Catstore-Request-Id", format!("delete-2-{name}"))];
        let headers: Vec<(&str, &str)> = headers.iter().map(|(key, value)| (*key, value.as_str())).collect();
        node.ask("DELETE", &path, &headers, None).must_be(204);
        node.ask("DELETE", &path, &headers, None).must_be(204);
        node.ask("DELETE", &path, &[], None).must_be(404);
        let batch = json!({"ops": [{"op": "check", "key": format!("q{name}"), "version": 0}, {"op": "put", "key": format!("q{name}"), "value": name}]});
        let id = format!("batch-{name}");
        let headers = [("Catstore-Request-Id", id.as_str())];
        let first =
            node.ask("POST", "/batch", &headers, Some(batch.to_string().as_bytes())).must_be(200).json();
        let again =
            node.ask("POST", "/batch", &headers, Some(batch.to_string().as_bytes())).must_be(200).json();
        assert_eq!(first, again);
    }
}

#[test]
fn request_ids_survive_a_kill() {
    let mut cluster = Cluster::start();
    let headers = [("Catstore-Request-Id", "before-the-crash")];
    let first = cluster.worker.ask("PUT", "/kv/A", &headers, Some(b"mine")).must_be(201).version();
    cluster.worker.put("A", "newer");
    for boot in ["one", "two"] {
        cluster.worker.kill();
        cluster.worker.launch = cluster.worker.launch.clone().env("CATSTORE_BOOT_ID", boot);
        cluster.worker.restart();
        assert_eq!(cluster.worker.ask("PUT", "/kv/A", &headers, Some(b"mine")).must_be(201).version(), first);
        assert_eq!(cluster.worker.value("A").as_deref(), Some(b"newer".as_slice()));
    }
}
