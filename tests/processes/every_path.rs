//! "The page promises a path and it does something else." Each row of the tables of paths, on each kind of node:
//! the worker that owns the keys, the master, and a second founder without slots, which both forward.

use crate::common;
use crate::common::node::kv;
use crate::common::three::{Three, awkward_keys};
use crate::common::{Session, encode, until};
use serde_json::json;

#[test]
fn every_key_works_on_every_node() {
    let three = Three::start(&[]);
    for (name, node) in three.nodes() {
        let mut session = Session::new(node.port);
        for key in awkward_keys() {
            let shown = String::from_utf8_lossy(&key[..key.len().min(40)]).into_owned();
            let value = [name.as_bytes(), b" \0\xff ", &key].concat();
            let path = kv(&key);
            let reply = session.ask("PUT", &path, &[], Some(&value));
            assert!(
                matches!(reply.status, 200 | 201),
                "{shown:?} on {name}: {} {}",
                reply.status,
                reply.text()
            );
            for (reader, other) in three.nodes() {
                let reply = other.get(&path);
                assert_eq!(reply.status, 200, "{shown:?} put on {name}, read on {reader}: {}", reply.text());
                assert_eq!(reply.body, value, "{shown:?} put on {name}, read on {reader}");
            }
            assert_eq!(session.ask("DELETE", &path, &[], None).status, 204, "{shown:?} on {name}");
            assert_eq!(session.ask("GET", &path, &[], None).status, 404, "{shown:?} on {name}");
            assert_eq!(session.ask("DELETE", &path, &[], None).status, 404, "{shown:?} on {name}");
        }
    }
}

#[test]
fn every_key_works_on_the_classic_paths() {
    let three = Three::start(&[]);
    for (name, node) in three.nodes() {
        let mut session = Session::new(node.port);
        for key in awkward_keys() {
            let shown = String::from_utf8_lossy(&key[..key.len().min(40)]).into_owned();
            let (key_text, value) = (encode(&key), b"a value/with %, \xff and \0".to_vec());
            let version = session
                .ask("GET", &format!("/put/{key_text}/{}", encode(&value)), &[], None)
                .must_be(200)
                .version();
            let reply = session.ask("GET", &format!("/get/{key_text}"), &[], None).must_be(200);
            assert_eq!(reply.body, value, "{shown:?} on {name}");
            assert_eq!(reply.header("cache-control"), Some("no-store"), "{:?}", reply.headers);
            let reply = session.ask("GET", &kv(&key), &[], None).must_be(200);
            assert_eq!(
                (reply.body.as_slice(), reply.version()),
                (value.as_slice(), version),
                "{shown:?} on {name}"
            );
            session.ask("GET", &format!("/delete/{key_text}"), &[], None).must_be(200);
            session.ask("GET", &format!("/get/{key_text}"), &[], None).must_be_problem(404, "not_found");
            session.ask("GET", &format!("/delete/{key_text}"), &[], None).must_be_problem(404, "not_found");
        }
    }
}

#[test]
fn a_slash_in_a_key_may_stand_plain_in_the_resource() {
    let three = Three::start(&[]);
    for (name, node) in three.nodes() {
        node.ask("PUT", "/kv/a/b/c", &[], Some(name.as_bytes()));
        assert_eq!(node.value("a/b/c").as_deref(), Some(name.as_bytes()));
        assert_eq!(node.get("/kv/a%2Fb/c").must_be(200).body, name.as_bytes());
        assert_eq!(node.get("/get/a%2Fb%2Fc").must_be(200).body, name.as_bytes());
        // The lower-case escape is the same byte.
        assert_eq!(node.get("/get/a%2fb%2fc").must_be(200).body, name.as_bytes());
        // A trailing slash of the resource belongs to the key, or is ignored; it is never another key's value.
        assert!(matches!(node.get("/kv/a/b/").status, 404));
    }
}

#[test]
fn classic_values_are_the_rest_of_the_path() {
    let three = Three::start(&[]);
    for (name, node) in three.nodes() {
        for (path, value) in [
            ("happy", "happy"),
            ("a/b/c", "a/b/c"),
            ("a%2Fb", "a/b"),
            ("with%20space", "with space"),
            ("trailing/", "trailing/"),
            ("/leading", "/leading"),
            ("a+b", "a+b"),
            ("100%25", "100%"),
            ("%F0%9F%90%88", "🐈"),
            ("", ""),
        ] {
            node.get(&format!("/put/A/{path}")).must_be(200);
            assert_eq!(node.get("/get/A").must_be(200).text(), value, "{path} on {name}");
        }
        // One trailing slash after the key is ignored where the key ends the path.
        node.get("/put/A/happy").must_be(200);
        assert_eq!(node.get("/get/A/").must_be(200).text(), "happy");
        node.get("/delete/A/").must_be(200);
        assert_eq!(node.value("A"), None);
        // The verbs that fit.
        for method in ["PUT", "POST"] {
            node.ask(method, "/put/A/happy", &[], None).must_be(200);
            assert_eq!(node.value("A").as_deref(), Some(b"happy".as_slice()));
            node.ask(method, "/delete/A", &[], None);
        }
        node.get("/put/A/happy").must_be(200);
        node.ask("DELETE", "/delete/A", &[], None).must_be(200);
        assert_eq!(node.value("A"), None);
    }
}

#[test]
fn head_and_options_change_nothing() {
    let three = Three::start(&[]);
    three.cluster.worker.put("A", "happy");
    for (name, node) in three.nodes() {
        for method in ["HEAD", "OPTIONS"] {
            for path in [
                "/put/A/changed",
                "/put/B/new",
                "/delete/A",
                "/clear/0",
                "/close/0",
                "/put_file/B/x",
                "/kv/A",
                "/batch",
                "/close",
            ] {
                let reply = node.ask(method, path, &[], None);
                assert!(reply.status < 500, "{method} {path} on {name}: {}", reply.status);
                let value = three.cluster.worker.value("A");
                assert_eq!(
                    value.as_deref(),
                    Some(b"happy".as_slice()),
                    "{method} {path} on {name} changed it"
                );
            }
        }
        assert_eq!(node.value("B"), None, "on {name}");
        node.put("C", name);
    }
}

#[test]
fn worker_and_master_say_who_they_are() {
    let three = Three::start(&[]);
    let Three { second, cluster } = &three;
    for (node, index) in [(&cluster.worker, 0), (second, 1)] {
        for path in [
            "/worker".to_owned(),
            "/worker/".to_owned(),
            format!("/worker/{index}"),
            format!("/worker/{index}/"),
        ] {
            let facts = node.get(&path).must_be(200).json();
            assert_eq!(facts["index"], index, "{facts}");
            assert_eq!(facts["state"], "open", "{facts}");
            assert_eq!(facts["address"], format!("127.0.0.1:{}", node.port), "{facts}");
            assert_eq!(facts["data"], node.data.display().to_string(), "{facts}");
        }
        node.get(&format!("/worker/{}", 1 - index)).must_be_problem(409, "conflict");
        let reply = node.get("/worker/cat");
        assert!(matches!(reply.status, 400 | 404), "{} {}", reply.status, reply.text());
        assert!((400..500).contains(&node.get("/master").status));
    }
    for path in ["/master", "/master/"] {
        let status = cluster.master.get(path).must_be(200).json();
        let indices: Vec<_> =
            status["workers"].as_array().unwrap().iter().map(|worker| &worker["index"]).collect();
        assert_eq!(indices, [0, 1], "{status}");
        assert_eq!(status["state"], "open", "{status}");
        assert!(status.to_string().contains("1 member: lose worker 0 and its keys are gone"), "{status}");
    }
    assert!((400..500).contains(&cluster.master.get("/worker").status));
}

#[test]
fn clear_is_counted_and_versions_go_on() {
    let three = Three::start(&[]);
    for (name, node) in three.nodes() {
        for number in 0..5 {
            node.put(format!("key {number}"), name);
        }
        let before = node.put("key 5", name).version();
        let said = node.get("/clear/0").must_be(200).text();
        assert!(said.contains('6'), "{said}");
        let page = node.get("/kv").must_be(200).json();
        assert_eq!(page["keys"], json!([]), "on {name}");
        let reply = node.put("key 0", name);
        assert_eq!(reply.status, 201);
        assert!(reply.version() > before, "{} after {before}", reply.version());
        node.get("/clear/0").must_be(200);
        assert_eq!(node.get("/clear/7").status / 100, 4);
        assert_eq!(node.get("/clear/cat").status / 100, 4);
    }
}

#[test]
fn put_file_stores_a_file_of_the_workers_disk() {
    let three = Three::start(&["--max-value", "1000"]);
    let here = three.cluster.home.path("here");
    std::fs::create_dir_all(here.join("sub folder")).unwrap();
    let picture: Vec<u8> = (0..=255).cycle().take(1000).collect();
    std::fs::write(here.join("cat.jpg"), &picture).unwrap();
    std::fs::write(here.join("sub folder/🐈.bin"), b"meow").unwrap();
    std::fs::write(here.join("empty"), b"").unwrap();
    std::fs::write(here.join("large"), [picture.as_slice(), b"1"].concat()).unwrap();

    for node in [&three.cluster.worker, &three.second] {
        for method in ["GET", "PUT", "POST"] {
            node.ask(method, "/put_file/B/cat.jpg", &[], None).must_be(200).version();
            assert_eq!(node.get("/get/B").must_be(200).body, picture);
            node.ask("DELETE", "/kv/B", &[], None).must_be(204);
        }
        node.get("/put_file/B/sub%20folder/%F0%9F%90%88.bin").must_be(200);
        assert_eq!(node.value("B").as_deref(), Some(b"meow".as_slice()));
        node.get("/put_file/B/empty").must_be(200);
        assert_eq!(node.value("B").as_deref(), Some(b"".as_slice()));
        node.get("/put_file/B/large").must_be_problem(413, "value_too_large");
        node.get("/put_file/B/absent").must_be_problem(404, "not_found");
        assert_eq!(node.value("B").as_deref(), Some(b"".as_slice()), "a refusal changes nothing");
    }
    // The files are a worker's: the master has none to offer.
    let reply = three.cluster.master.get("/put_file/M/cat.jpg");
    assert!((400..500).contains(&reply.status), "{} {}", reply.status, reply.text());
    assert_eq!(three.cluster.worker.value("M"), None);
}

#[test]
fn every_node_tells_its_health_its_metrics_and_the_cluster() {
    let three = Three::start(&[]);
    for (name, node) in three.nodes() {
        node.put(name, "x");
        node.get("/health").must_be(200);
        let metrics = node.get("/metrics").must_be(200);
        assert!(
            metrics.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")),
            "{:?}",
            metrics.headers
        );
        assert!(
            metrics.text().lines().any(|line| line.starts_with("# TYPE catstore_")),
            "{}",
            metrics.text()
        );
        let view = until("the node knows the cluster", || {
            let view = node.get("/cluster").must_be(200).json();
            (view["groups"].as_array().map(Vec::len) == Some(2)).then_some(view)
        });
        assert!(view["epoch"].is_u64(), "{view}");
        assert_eq!(view["slots"], json!([{"first": 0, "last": 16383, "group": 0}]), "on {name}");
        assert_eq!(view["groups"][0]["leader"], 0, "{view}");
        let members = &view["groups"][0]["members"];
        assert_eq!(members[0]["address"], format!("127.0.0.1:{}", three.cluster.worker.port), "{view}");
        assert_eq!(members[0]["index"], 0, "{view}");
        assert!(view["moves"].is_array(), "{view}");
    }
}

#[test]
fn before_the_first_worker_nobody_holds_keys_and_that_is_said() {
    let home = common::Home::new();
    let master = home.master();
    master.ask("PUT", "/kv/A", &[], Some(b"x")).must_be_problem(503, "no_worker");
    master.get("/kv/A").must_be_problem(503, "no_worker");
    master.get("/put/A/x").must_be_problem(503, "no_worker");
    let said = home.run_at(&master, &["put", "A", "x"]).exits(3);
    assert!(said.err.contains("catstore worker"), "the way out is missing: {}", said.err);
    let worker = home.worker(&master);
    master.ask("PUT", "/kv/A", &[], Some(b"x")).must_be(201);
    assert_eq!(worker.value("A").as_deref(), Some(b"x".as_slice()));
}
