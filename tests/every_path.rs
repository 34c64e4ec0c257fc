//! "The page promises a path and it does something else." Each row of the tables of paths, on each kind of node:
//! the worker that owns the keys, the master, and a second founder without slots, which both forward.

mod common;

use common::node::kv;
use common::{Cluster, Node, Session, encode, listed, until, within};
use serde_json::{Value, json};
use std::time::Duration;

/// A cluster with a second founder, and the three nodes that any request may be sent to.
struct Three {
    second: Node,
    cluster: Cluster,
}

impl Three {
    fn start(arguments: &[&str]) -> Three {
        let cluster = Cluster::with(arguments);
        let second = cluster.home.worker_with(&cluster.master, arguments);
        Three { second, cluster }
    }

    fn nodes(&self) -> [(&'static str, &Node); 3] {
        [("worker", &self.cluster.worker), ("master", &self.cluster.master), ("second", &self.second)]
    }
}

/// Keys that are awkward in URLs, in JSON or on disk.
fn awkward_keys() -> Vec<Vec<u8>> {
    let mut keys: Vec<Vec<u8>> = [
        "plain",
        "with space",
        "with/slash",
        "/",
        "//",
        "/leading",
        "trailing/",
        "100%",
        "%41",
        "a+b",
        "a&b=c?d#e",
        "grüße",
        "😀🐈",
        "..",
        ".",
        "a/../b",
        "\"quoted\"",
        "back\\slash",
        "new\nline",
        "tab\t",
        "a;b",
        "<b>",
        "{tag}x",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect();
    keys.push(vec![0]);
    keys.push(vec![0xff]);
    keys.push(b"a\0b\xff\xfe/".to_vec());
    keys.push(vec![b'k'; 4096]);
    keys
}

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
fn a_put_says_created_or_replaced_and_keeps_the_content_type() {
    let three = Three::start(&[]);
    for (name, node) in three.nodes() {
        let key = format!("of {name}");
        let path = kv(&key);
        let created =
            node.ask("PUT", &path, &[("Content-Type", "image/jpeg")], Some(b"\xff\xd8")).must_be(201);
        let replaced =
            node.ask("PUT", &path, &[("Content-Type", "image/jpeg")], Some(b"\xff\xd8\xff")).must_be(200);
        assert!(replaced.version() > created.version());

        let reply = node.get(&path).must_be(200);
        assert_eq!(reply.body, b"\xff\xd8\xff");
        assert_eq!(reply.header("content-type"), Some("image/jpeg"));
        assert_eq!(reply.header("content-length"), Some("3"));
        assert_eq!(reply.version(), replaced.version());
        for needed in ["last-modified", "catstore-checksum"] {
            assert!(reply.header(needed).is_some(), "no {needed} on {name}: {:?}", reply.headers);
        }
        assert!(reply.header("last-modified").unwrap().ends_with(" GMT"));
        let head = node.ask("HEAD", &path, &[], None).must_be(200);
        assert!(head.body.is_empty());
        for same in ["etag", "last-modified", "content-type", "content-length", "catstore-checksum"] {
            assert_eq!(head.header(same), reply.header(same), "{same} on {name}");
        }
        node.ask("HEAD", "/kv/absent", &[], None).must_be(404);
        // The classic path gives the same bytes under the same type.
        let classic = node.get(&format!("/get/{}", encode(&key))).must_be(200);
        assert_eq!((classic.body.as_slice(), classic.version()), (reply.body.as_slice(), reply.version()));
    }
}

#[test]
fn empty_values_are_values() {
    let three = Three::start(&[]);
    for (name, node) in three.nodes() {
        let path = kv(name);
        node.ask("PUT", &path, &[], Some(b"")).must_be(201);
        let reply = node.get(&path).must_be(200);
        assert_eq!((reply.body.len(), reply.header("content-length")), (0, Some("0")));
        assert_eq!(node.ask("HEAD", &path, &[], None).must_be(200).header("content-length"), Some("0"));
        node.ask("PUT", &path, &[], Some(b"")).must_be(200);
        // A PUT without a body and without a length is an empty value too.
        node.ask("PUT", &path, &[], None).must_be(200);
        node.get(&format!("/put/{name}/")).must_be(200);
        assert_eq!(node.value(name).as_deref(), Some(b"".as_slice()));
        node.ask("DELETE", &path, &[], None).must_be(204);
    }
}

#[test]
fn the_limit_is_8_mebibytes_and_not_a_byte_more() {
    const LIMIT: usize = 8 << 20;
    let three = Three::start(&[]);
    let mut value = vec![b'v'; LIMIT + 1];
    value[LIMIT - 1] = b'!';
    for (name, node) in three.nodes() {
        let path = kv(format!("limit of {name}"));
        node.ask("PUT", &path, &[], Some(&value)).must_be_problem(413, "value_too_large");
        assert_eq!(node.get(&path).status, 404);
        node.ask("PUT", &path, &[], Some(&value[..LIMIT])).must_be(201);
        let reply = node.get(&path).must_be(200);
        assert!(reply.body == value[..LIMIT], "8 MiB came back changed on {name}");
    }
    assert!(three.cluster.worker.get(&kv("limit of master")).body == value[..LIMIT]);
}

#[test]
fn the_limit_holds_on_every_way_in() {
    let three = Three::start(&["--max-value", "1000"]);
    let (fits, over) = (vec![b'v'; 1000], vec![b'v'; 1001]);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    for (name, node) in three.nodes() {
        node.ask("PUT", "/kv/A", &[], Some(&fits));
        assert_eq!(node.value("A").as_deref(), Some(fits.as_slice()), "on {name}");
        node.ask("PUT", "/kv/A", &[], Some(&over)).must_be_problem(413, "value_too_large");
        // Chunked, the length is not known before.
        let chunked =
            |body: &[u8]| [format!("{:x}\r\n", body.len()).as_bytes(), body, b"\r\n0\r\n\r\n"].concat();
        let streamed = [("Transfer-Encoding", "chunked")];
        assert_eq!(node.ask("PUT", "/kv/A", &streamed, Some(&chunked(&fits))).status, 200, "on {name}");
        node.ask("PUT", "/kv/A", &streamed, Some(&chunked(&over))).must_be_problem(413, "value_too_large");
        node.get(&format!("/put/A/{}", text(&fits))).must_be(200);
        node.get(&format!("/put/A/{}", text(&over))).must_be_problem(413, "value_too_large");
        let batch =
            |value: &[u8]| json!({"ops": [{"op": "put", "key": "A", "value": text(value)}]}).to_string();
        node.ask("POST", "/batch", &[], Some(batch(&fits).as_bytes())).must_be(200);
        node.ask("POST", "/batch", &[], Some(batch(&over).as_bytes()))
            .must_be_problem(413, "value_too_large");
        assert_eq!(node.value("A").as_deref(), Some(fits.as_slice()), "on {name}");
        node.ask("DELETE", "/kv/A", &[], None).must_be(204);
    }
}

#[test]
fn keys_have_limits_too() {
    let three = Three::start(&[]);
    let long = "k".repeat(4097);
    for (name, node) in three.nodes() {
        for method in ["GET", "PUT", "DELETE", "HEAD"] {
            let body = (method == "PUT").then_some(b"v".as_slice());
            let reply = node.ask(method, &format!("/kv/{long}"), &[], body);
            if method != "HEAD" {
                assert_eq!(reply.word(), "key_too_long", "{method} on {name}: {}", reply.text());
            }
            assert!((400..500).contains(&reply.status), "{}", reply.status);
        }
        assert_eq!(node.get(&format!("/put/{long}/v")).word(), "key_too_long");
        assert_eq!(node.get(&format!("/get/{long}")).word(), "key_too_long");
        // 4096 bytes that are all escapes are a URL of 12 kB.
        let escaped = "%FF".repeat(4096);
        node.ask("PUT", &format!("/kv/{escaped}"), &[], Some(name.as_bytes()));
        assert_eq!(node.get(&format!("/kv/{escaped}")).must_be(200).text(), name);
        let reply = node.ask("PUT", "/kv/", &[], Some(b"v"));
        assert!((400..500).contains(&reply.status), "{} {}", reply.status, reply.text());
        let batch = json!({"ops": [{"op": "put", "key": "", "value": ""}]}).to_string();
        node.ask("POST", "/batch", &[], Some(batch.as_bytes())).must_be_problem(400, "key_empty");
    }
}

#[test]
fn conditions_hold_or_nothing_is_written() {
    let three = Three::start(&[]);
    for (name, node) in three.nodes() {
        let path = kv(format!("condition on {name}"));
        let put =
            |headers: &[(&str, &str)], body: &str| node.ask("PUT", &path, headers, Some(body.as_bytes()));
        put(&[("If-Match", "\"1\"")], "x").must_be_problem(412, "condition_failed");
        let first = put(&[("If-None-Match", "*")], "first").must_be(201);
        let tag = first.header("etag").unwrap().to_owned();
        put(&[("If-None-Match", "*")], "x").must_be_problem(412, "condition_failed");
        assert_eq!(node.get(&path).text(), "first");
        let second = put(&[("If-Match", &tag)], "second").must_be(200);
        put(&[("If-Match", &tag)], "x").must_be_problem(412, "condition_failed");
        let old = tag;
        let tag = second.header("etag").unwrap().to_owned();

        let unchanged = node.ask("GET", &path, &[("If-None-Match", &tag)], None).must_be(304);
        assert!(unchanged.body.is_empty());
        assert_eq!(unchanged.header("etag"), Some(tag.as_str()));
        node.ask("HEAD", &path, &[("If-None-Match", &tag)], None).must_be(304);
        assert_eq!(node.ask("GET", &path, &[("If-None-Match", &old)], None).must_be(200).text(), "second");

        node.ask("DELETE", &path, &[("If-Match", &old)], None).must_be_problem(412, "condition_failed");
        assert_eq!(node.get(&path).text(), "second");
        node.ask("DELETE", &path, &[("If-Match", &tag)], None).must_be(204);
        // A key that comes back never has an old version again.
        assert!(put(&[("If-None-Match", "*")], "again").must_be(201).version() > second.version());
        for nonsense in ["cat", "\"cat\"", "\"-1\"", ""] {
            let reply = put(&[("If-Match", nonsense)], "x");
            assert!(matches!(reply.status, 400 | 412), "If-Match: {nonsense}: {}", reply.status);
        }
        assert_eq!(node.get(&path).text(), "again");
    }
}

#[test]
fn one_of_many_wins_a_conditional_write() {
    let three = Three::start(&[]);
    let ports: Vec<u16> = three.nodes().iter().map(|(_, node)| node.port).collect();
    let threads: Vec<_> = (0..12)
        .map(|number| {
            let port = ports[number % 3];
            std::thread::spawn(move || {
                let mut wins = 0;
                let mut session = Session::new(port);
                for round in 0..20 {
                    let (path, body) = (format!("/kv/round{round}"), number.to_string());
                    let reply = session.ask("PUT", &path, &[("If-None-Match", "*")], Some(body.as_bytes()));
                    assert!(matches!(reply.status, 201 | 412), "{} {}", reply.status, reply.text());
                    wins += u32::from(reply.status == 201);
                }
                wins
            })
        })
        .collect();
    let wins: u32 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert_eq!(wins, 20, "each key is created exactly once");
}

#[test]
fn ranges_are_served() {
    let three = Three::start(&[]);
    three.cluster.worker.put("R", "0123456789");
    for (name, node) in three.nodes() {
        for (range, part, place) in [
            ("bytes=0-3", "0123", "bytes 0-3/10"),
            ("bytes=4-", "456789", "bytes 4-9/10"),
            ("bytes=-2", "89", "bytes 8-9/10"),
            ("bytes=9-99", "9", "bytes 9-9/10"),
            ("bytes=0-0", "0", "bytes 0-0/10"),
            ("bytes=-99", "0123456789", "bytes 0-9/10"),
        ] {
            let reply = node.ask("GET", "/kv/R", &[("Range", range)], None).must_be(206);
            assert_eq!(reply.text(), part, "{range} on {name}");
            assert_eq!(reply.header("content-range"), Some(place), "{range} on {name}");
            assert!(reply.header("etag").is_some());
        }
        for range in ["bytes=10-", "bytes=99-100", "bytes=-0"] {
            let reply = node.ask("GET", "/kv/R", &[("Range", range)], None).must_be(416);
            assert_eq!(reply.header("content-range"), Some("bytes */10"), "{range} on {name}");
        }
        // What is no range is ignored (RFC 9110, 14.2).
        for range in ["cats=0-1", "bytes=5-2", "bytes=", "bytes=a-b"] {
            let reply = node.ask("GET", "/kv/R", &[("Range", range)], None);
            assert!(matches!(reply.status, 200 | 400 | 416), "{range}: {}", reply.status);
        }
    }
}

#[test]
fn a_key_with_a_time_to_live_goes_and_stays_away() {
    let three = Three::start(&[]);
    for (name, node) in three.nodes() {
        node.ask("PUT", &format!("/kv/short-{name}?ttl=1s"), &[], Some(b"soon gone")).must_be(201);
        node.ask("PUT", &format!("/kv/long-{name}?ttl=1h"), &[], Some(b"stays")).must_be(201);
    }
    for (name, node) in three.nodes() {
        let path = format!("/kv/short-{name}");
        let mut session = Session::new(node.port);
        within(Duration::from_secs(20), "the key expires", || {
            let reply = session.ask("GET", &path, &[], None);
            if reply.status == 200 {
                assert_eq!(reply.body, b"soon gone");
            }
            (reply.status == 404).then_some(())
        });
        for (_, other) in three.nodes() {
            other.get(&path).must_be_problem(404, "not_found");
            assert_eq!(other.ask("HEAD", &path, &[], None).status, 404);
        }
        assert_eq!(node.ask("DELETE", &path, &[], None).status, 404);
        assert_eq!(node.get(&format!("/kv/long-{name}")).must_be(200).body, b"stays");
        for nonsense in ["cat", "-1s", "", "0s", "1", "99999999999999999999s"] {
            let path = format!("/kv/never?ttl={nonsense}");
            let reply = node.ask("PUT", &path, &[], Some(b"x"));
            assert!(reply.status == 400 || nonsense == "1", "ttl={nonsense}: {}", reply.status);
        }
    }
    let page = three.cluster.master.get("/kv?prefix=short").must_be(200).json();
    assert_eq!(page["keys"], json!([]), "expired keys are in no list");
    // A put without a time to live makes the key stay.
    let worker = &three.cluster.worker;
    worker.ask("PUT", "/kv/kept?ttl=1s", &[], Some(b"1")).must_be(201);
    worker.ask("PUT", "/kv/kept", &[], Some(b"2"));
    worker.ask("PUT", "/kv/measure?ttl=2s", &[], Some(b"")).must_be(201);
    within(Duration::from_secs(20), "the measure expires", || {
        (worker.get("/kv/measure").status == 404).then_some(())
    });
    assert_eq!(worker.value("kept").as_deref(), Some(b"2".as_slice()));
    // An expired key can be created anew.
    worker.ask("PUT", "/kv/measure", &[("If-None-Match", "*")], Some(b"again")).must_be(201);
}

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
    let value = vec![b'x'; 3 << 20];
    for number in 0..5 {
        cluster.worker.put(format!("large {number}"), &value);
    }
    let page = cluster.worker.get("/kv?values=true").must_be(200);
    assert!(page.body.len() < 13 << 20, "a page of {} bytes", page.body.len());
    let first = listed(&page.json());
    assert!(!first.is_empty() && first.len() < 5, "{first:?}");
    assert_eq!(all_pages(&cluster.master, "values=true").len(), 5);
    assert_eq!(listed(&cluster.worker.get("/kv").json()).len(), 5, "without values they fit");
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
        // A failed condition and a delete are replies too.
        let headers = [("Catstore-Request-Id", "delete-1"), ("If-Match", "\"999999\"")];
        node.ask("DELETE", &path, &headers, None).must_be_problem(412, "condition_failed");
        let headers = [("Catstore-Request-Id", format!("delete-2-{name}"))];
        let headers: Vec<(&str, &str)> = headers.iter().map(|(key, value)| (*key, value.as_str())).collect();
        node.ask("DELETE", &path, &headers, None).must_be(204);
        node.ask("DELETE", &path, &headers, None).must_be(204);
        node.ask("DELETE", &path, &[], None).must_be(404);
        let batch = json!({"ops": [{"op": "check", "key": "q", "version": 0}, {"op": "put", "key": "q", "value": name}]});
        let headers = [("Catstore-Request-Id", "batch-1")];
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

#[test]
fn whoever_prefers_a_redirect_gets_one() {
    let three = Three::start(&[]);
    let Three { second, cluster } = &three;
    cluster.worker.put("A B", "happy");
    let prefer = [("Prefer", "redirect")];
    for node in [&cluster.master, second] {
        for (method, query, body) in
            [("GET", "", None), ("PUT", "?ttl=60s", Some(b"never stored".as_slice())), ("DELETE", "", None)]
        {
            let reply = node.ask(method, &format!("/kv/A%20B{query}"), &prefer, body).must_be(307);
            let location =
                reply.header("location").unwrap_or_else(|| panic!("no Location: {:?}", reply.headers));
            assert_eq!(
                location,
                format!("http://127.0.0.1:{}/kv/A%20B{query}", cluster.worker.port),
                "{method}"
            );
        }
    }
    // The owner has nowhere to send anybody.
    assert_eq!(cluster.worker.ask("GET", "/kv/A%20B", &prefer, None).must_be(200).text(), "happy");
}

#[test]
fn stale_reads_say_how_stale() {
    let three = Three::start(&[]);
    three.cluster.worker.put("A", "happy");
    let reply = three.cluster.worker.get("/kv/A?consistency=stale").must_be(200);
    assert_eq!(reply.text(), "happy");
    assert!(reply.header("catstore-applied-lag").is_some(), "{:?}", reply.headers);
    // A node without a replica of the key asks the owner.
    for node in [&three.cluster.master, &three.second] {
        assert_eq!(node.get("/kv/A?consistency=stale").must_be(200).text(), "happy");
    }
    three.cluster.worker.get("/kv/absent?consistency=stale").must_be_problem(404, "not_found");
    assert_eq!(three.cluster.worker.get("/kv/A?consistency=cat").status, 400);
    assert!(three.cluster.worker.get("/kv/A").header("catstore-applied-lag").is_none());
}

#[test]
fn stored_values_never_become_pages_of_ours() {
    let three = Three::start(&[]);
    let page = b"<script>alert('cat')</script>";
    three.cluster.worker.ask("PUT", "/kv/page", &[("Content-Type", "text/html")], Some(page)).must_be(201);
    for (name, node) in three.nodes() {
        for path in ["/kv/page", "/get/page"] {
            let reply = node.get(path).must_be(200);
            assert_eq!(reply.body, page);
            assert_eq!(
                reply.header("x-content-type-options"),
                Some("nosniff"),
                "{path} on {name}: {:?}",
                reply.headers
            );
            let policy = reply.header("content-security-policy").unwrap_or_default();
            assert!(policy.contains("sandbox"), "{path} on {name}: {:?}", reply.headers);
        }
        assert_eq!(node.get("/get/page").header("cache-control"), Some("no-store"));
    }
    // A content type cannot smuggle a header in.
    let reply = three.cluster.worker.ask("PUT", "/kv/smuggled", &[("Content-Type", "a\u{1}b")], Some(b""));
    assert!(reply.status < 500, "{}", reply.status);
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
