//! "What I put is not what I get." The resource `/kv/KEY` on each kind of node: bytes, types, versions, limits,
//! conditions, ranges, times to live.

use crate::common::node::kv;
use crate::common::three::Three;
use crate::common::{Session, encode, within};
use serde_json::json;
use std::time::Duration;

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
fn the_limit_is_what_was_said_and_not_a_byte_more() {
    const LIMIT: usize = 8 << 20;
    let three = Three::start(&["--max-value", "8MiB"]);
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
