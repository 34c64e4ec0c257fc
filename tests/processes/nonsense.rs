//! "Somebody sends rubbish and it falls over." Bad input of every kind gets its own clear error, changes nothing,
//! and leaves the node serving everybody else.

use crate::common;
use crate::common::http::connect;
use crate::common::node::kv;
use crate::common::{Cluster, Node, PATIENCE, Session, within};
use serde_json::json;
use std::io::Write;
use std::net::Shutdown;
use std::time::{Duration, Instant};

/// The worker and the master, which answer nonsense alike.
fn both(cluster: &Cluster) -> [(&'static str, &Node); 2] {
    [("worker", &cluster.worker), ("master", &cluster.master)]
}

/// Fails if anything was stored or the node serves no longer.
#[track_caller]
fn unharmed(cluster: &Cluster) {
    for (name, node) in both(cluster) {
        node.get("/health").must_be(200);
        assert_eq!(node.get("/kv").must_be(200).json()["keys"], json!([]), "on {name}");
    }
}

#[test]
fn unknown_paths_and_methods() {
    let cluster = Cluster::start();
    for (name, node) in both(&cluster) {
        for path in [
            "/cat",
            "/kvx",
            "/putt/A/b",
            "/favicon.ico",
            "/get",
            "/get/",
            "/delete",
            "/%",
            "//",
            "/kv/../cat/x?y",
        ] {
            let reply = node.get(path);
            assert!(
                (400..500).contains(&reply.status),
                "{path} on {name}: {} {}",
                reply.status,
                reply.text()
            );
        }
        node.get("/cat").must_be_problem(404, "not_found");
        for (method, path) in [
            ("PATCH", "/kv/A"),
            ("POST", "/kv/A"),
            ("BREW", "/kv/A"),
            ("PUT", "/health"),
            ("GET", "/batch"),
            ("DELETE", "/batch"),
            ("POST", "/cluster"),
        ] {
            let reply = node.ask(method, path, &[], None);
            assert!(
                matches!(reply.status, 404 | 405),
                "{method} {path} on {name}: {} {}",
                reply.status,
                reply.text()
            );
        }
        node.ask("PATCH", "/kv/A", &[], Some(b"x")).must_be_problem(405, "method_not_allowed");
        node.ask("PATCH", "/get/A", &[], None).must_be_problem(405, "method_not_allowed");
    }
    unharmed(&cluster);
}

#[test]
fn bad_percent_encoding() {
    let cluster = Cluster::start();
    for (name, node) in both(&cluster) {
        for path in ["/kv/%", "/kv/%4", "/kv/%zz", "/kv/A%", "/kv/%%41", "/kv/%u0041", "/kv/% 41"] {
            if path.contains(' ') {
                continue;
            }
            for (method, body) in [("GET", None), ("PUT", Some(b"v".as_slice())), ("DELETE", None)] {
                let reply = node.ask(method, path, &[], body);
                assert_eq!(
                    (reply.status, reply.word().as_str()),
                    (400, "bad_request"),
                    "{method} {path} on {name}"
                );
            }
        }
        for path in ["/put/%zz/v", "/put/A/%zz", "/get/%f", "/delete/%", "/put/A/100%"] {
            let reply = node.get(path);
            assert_eq!((reply.status, reply.word().as_str()), (400, "bad_request"), "{path} on {name}");
        }
        node.get("/kv?prefix=%zz").must_be_problem(400, "bad_request");
    }
    unharmed(&cluster);
}

#[test]
fn a_body_that_ends_too_early_is_not_a_value() {
    let cluster = Cluster::start();
    for (name, node) in both(&cluster) {
        for (length, sent) in [(10, 0), (10, 9), (1 << 20, 1 << 19)] {
            let path = kv(format!("short on {name}"));
            let head = format!("PUT {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n");
            let mut stream = connect(node.port).unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(&vec![b'v'; sent]).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            // An error or nothing at all is the answer; never success.
            let mut reader = std::io::BufReader::new(stream);
            if let Ok(reply) = common::http::read_reply(&mut reader, false) {
                assert!((400..500).contains(&reply.status), "{} {}", reply.status, reply.text());
            }
            assert_eq!(node.get(&path).status, 404, "{sent} of {length} bytes were stored on {name}");
        }
        // The same in chunks: the last chunk never comes.
        let head =
            "PUT /kv/chunked HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhappy\r\n";
        let mut stream = connect(node.port).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut reader = std::io::BufReader::new(stream);
        if let Ok(reply) = common::http::read_reply(&mut reader, false) {
            assert!((400..500).contains(&reply.status), "{} {}", reply.status, reply.text());
        }
        // A batch by half.
        let body = json!({"ops": [{"op": "put", "key": "A", "value": "v"}]}).to_string();
        let length = (body.len() + 1).to_string();
        let bytes = common::http::request(
            node.port,
            "POST",
            "/batch",
            &[("Content-Length", &length)],
            Some(body.as_bytes()),
        );
        let mut stream = connect(node.port).unwrap();
        stream.write_all(&bytes).unwrap();
        drop(stream);
    }
    unharmed(&cluster);
}

#[test]
fn requests_that_are_not_http() {
    let cluster = Cluster::start();
    for (name, node) in both(&cluster) {
        let put = "PUT /kv/A HTTP/1.1\r\nHost: 127.0.0.1\r\n";
        let cases: Vec<Vec<u8>> = vec![
            b"cat\r\n\r\n".to_vec(),
            b"GET\r\n\r\n".to_vec(),
            b"GET /kv/A\r\n\r\n".to_vec(),
            b"\0\0\0\0\r\n\r\n".to_vec(),
            b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03".to_vec(),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            b"GET /kv/A HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n".to_vec(),
            b"GET /kv/A b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".to_vec(),
            b"GET /kv/\xff\xfe HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".to_vec(),
            b"GET /kv/A HTTP/1.1\r\nHost 127.0.0.1\r\n\r\n".to_vec(),
            b"GET /kv/A HTTP/1.1\r\nHo st: 127.0.0.1\r\n\r\n".to_vec(),
            b"GET /kv/A HTTP/1.1\r\nHost: 127.0.0.1\r\nX: \0\r\n\r\n".to_vec(),
            b"GET /kv/A HTTP/1.1\r\nHost: 127.0.0.1\r\n".to_vec(),
            format!("{put}Content-Length: cat\r\n\r\nv").into_bytes(),
            format!("{put}Content-Length: -1\r\n\r\nv").into_bytes(),
            format!("{put}Content-Length: +1\r\n\r\nv").into_bytes(),
            format!("{put}Content-Length: 1\r\nContent-Length: 2\r\n\r\nvv").into_bytes(),
            format!("{put}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n").into_bytes(),
            format!("{put}Transfer-Encoding: chunked\r\n\r\nzz\r\nhappy\r\n0\r\n\r\n").into_bytes(),
            format!("{put}Transfer-Encoding: cat\r\n\r\nv").into_bytes(),
        ];
        for case in cases {
            let shown = String::from_utf8_lossy(&case).into_owned();
            let mut stream = connect(node.port).unwrap();
            stream.write_all(&case).unwrap();
            let _ = stream.shutdown(Shutdown::Write);
            let reply = common::http::read_reply(&mut std::io::BufReader::new(stream), false)
                .unwrap_or_else(|error| panic!("{shown:?} on {name}: {error}"));
            let reply = reply.must_be_problem(400, "bad_request");
            assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{shown:?}");
        }
    }
    unharmed(&cluster);
}

#[test]
fn old_http_and_whole_urls() {
    let cluster = Cluster::start();
    for (name, node) in both(&cluster) {
        let port = node.port;
        node.put("A", "happy");
        let send = |text: String| {
            node.raw(text.as_bytes()).unwrap_or_else(|error| panic!("{text:?} on {name}: {error}"))
        };
        assert_eq!(send("GET /get/A HTTP/1.0\r\n\r\n".into()).must_be(200).text(), "happy");
        let whole =
            |host: &str| send(format!("GET http://{host}/put/A/new HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        whole(&format!("127.0.0.1:{port}")).must_be(200);
        whole("evil.example").must_be_problem(403, "forbidden");
        // The URL counts, not the header beside it (RFC 9112, 3.2.2).
        let text = format!("GET http://evil.example/put/A/evil HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n");
        send(text).must_be_problem(403, "forbidden");
        let two = format!("GET /put/A/evil HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nHost: evil.example\r\n\r\n");
        assert!((400..500).contains(&send(two).status), "on {name}");
        let none = send("GET /put/A/evil HTTP/1.1\r\n\r\n".into());
        assert!((400..500).contains(&none.status), "HTTP/1.1 without a Host on {name}: {}", none.status);
        assert_eq!(node.value("A").as_deref(), Some(b"new".as_slice()), "on {name}");
        node.ask("DELETE", "/kv/A", &[], None).must_be(204);
    }
    unharmed(&cluster);
}

#[test]
fn headers_and_urls_without_end() {
    let cluster = Cluster::start();
    for (name, node) in both(&cluster) {
        let large = "x".repeat(1 << 20);
        let head = "PUT /kv/A HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\n";
        let many: String =
            (0..20_000).map(|number| format!("X-{number}: cat, cat, and more cats\r\n")).collect();
        let hundred: String = (0..100).map(|number| format!("X-{number}: cat\r\n")).collect();
        let url = |length| format!("GET /put/A/{} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", &large[..length]);
        for (bytes, status, word) in [
            (format!("{head}X-Large: {large}\r\n\r\nv"), 431, "head_too_large"),
            (format!("{head}{many}\r\nv"), 431, "head_too_large"),
            (format!("{head}{hundred}\r\nv"), 431, "head_too_large"),
            (url(1 << 20), 431, "head_too_large"),
            (url(66_000), 414, "url_too_long"),
        ] {
            let reply =
                node.raw(bytes.as_bytes()).unwrap_or_else(|error| panic!("{word} on {name}: {error}"));
            let reply = reply.must_be_problem(status, word);
            assert_eq!(reply.header("connection"), Some("close"), "{word} on {name}");
            node.get("/health").must_be(200);
        }
        assert!(common::resident(node.pid()) < 300 << 20, "{} bytes resident", common::resident(node.pid()));
    }
    unharmed(&cluster);
}

#[test]
fn json_that_is_not() {
    let cluster = Cluster::start();
    let deep = "[".repeat(200_000);
    let cases = [
        "",
        "{",
        "cat",
        "null",
        "[]",
        "7",
        "{}",
        "{\"ops\":7}",
        "{\"ops\":[7]}",
        "{\"ops\":[{}]}",
        "{\"ops\":[{\"op\":\"fly\",\"key\":\"A\"}]}",
        "{\"ops\":[{\"op\":\"put\",\"key\":\"A\"}]}",
        "{\"ops\":[{\"op\":\"put\",\"key\":7,\"value\":\"v\"}]}",
        "{\"ops\":[{\"op\":\"put\",\"key\":\"A\",\"value\":7}]}",
        "{\"ops\":[{\"op\":\"put\",\"key\":\"A\",\"value\":{\"base64\":\"*\"}}]}",
        "{\"ops\":[{\"op\":\"put\",\"key\":\"A\",\"value\":{\"base16\":\"00\"}}]}",
        "{\"ops\":[{\"op\":\"put\",\"key\":\"A\",\"value\":\"v\",\"tll\":\"60s\"}]}",
        "{\"ops\":[{\"op\":\"put\",\"key\":\"A\",\"value\":\"v\",\"ttl\":\"cat\"}]}",
        "{\"ops\":[{\"op\":\"check\",\"key\":\"A\",\"version\":-1}]}",
        "{\"ops\":[{\"op\":\"check\",\"key\":\"A\",\"version\":18446744073709551616}]}",
        "{\"ops\":[{\"op\":\"put\",\"key\":\"A\",\"value\":\"v\"}]",
        "{\"ops\":[{\"op\":\"put\",\"key\":\"A\",\"value\":\"v\"}]} {}",
        "{\"ops\":[{\"op\":\"put\",\"key\":\"A\",\"value\":\"\\ud800\"}]}",
        deep.as_str(),
    ];
    for (name, node) in both(&cluster) {
        for case in cases {
            let reply = node.ask("POST", "/batch", &[], Some(case.as_bytes()));
            let shown = &case[..case.len().min(80)];
            assert_eq!(
                (reply.status, reply.word().as_str()),
                (400, "bad_request"),
                "{shown} on {name}: {}",
                reply.text()
            );
        }
        node.ask(
            "POST",
            "/batch",
            &[],
            Some(b"{\"ops\":[{\"op\":\"put\",\"key\":\"\xff\",\"value\":\"\"}]}"),
        )
        .must_be_problem(400, "bad_request");
    }
    unharmed(&cluster);
}

/// How many idle connections this process and a node may hold.
fn idle_connections() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(20_000);
    (limit as usize / 4).min(4_000)
}

#[test]
fn idle_connections_keep_nobody_from_being_served() {
    let cluster = Cluster::start();
    let count = idle_connections();
    for (name, node) in both(&cluster) {
        let mut idle = Vec::with_capacity(count);
        for number in 0..count {
            let mut stream =
                connect(node.port).unwrap_or_else(|error| panic!("connection {number}: {error}"));
            // Half of them say nothing, half of them begin and stop.
            if number % 2 == 0 {
                let _ = stream
                    .write_all(b"PUT /kv/idle HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\n\r\nha");
            }
            idle.push(stream);
        }
        // Somebody else is served as if they were not there: each request on a connection of its own.
        let start = Instant::now();
        for number in 0..20 {
            node.get("/health").must_be(200);
            node.put("busy", number.to_string());
        }
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "40 requests took {:?} on {name}",
            start.elapsed()
        );
        assert!(common::resident(node.pid()) < 400 << 20, "{} bytes resident", common::resident(node.pid()));
        // They are let go of in the end, or at least when they hang up.
        drop(idle);
        let files = || std::fs::read_dir(format!("/proc/{}/fd", node.pid())).map_or(0, Iterator::count);
        within(PATIENCE, "the connections are closed", || (files() < count / 2).then_some(()));
        node.ask("DELETE", "/kv/busy", &[], None).must_be(204);
    }
    unharmed(&cluster);
}

#[test]
fn a_client_that_trickles_is_cut_off() {
    let cluster = Cluster::start();
    let start = Instant::now();
    let mut stream = connect(cluster.worker.port).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    stream.write_all(b"GET /kv/A HTTP/1.1\r\nHost: 127.0.0.1\r\n").unwrap();
    let mut byte = [0; 1];
    loop {
        // A header that never ends; a node that lets this go on for minutes can be tied up by anybody.
        let sent = stream.write_all(b"X-Slow: 1\r\n");
        let cut = match std::io::Read::read(&mut stream, &mut byte) {
            Ok(_) => true,
            Err(error) => {
                !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
            }
        };
        if cut || sent.is_err() {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(50), "still not cut off after {:?}", start.elapsed());
    }
    unharmed(&cluster);
}

#[test]
fn a_body_that_never_comes_is_given_up() {
    let cluster = Cluster::start();
    let start = Instant::now();
    let streams = both(&cluster).map(|(_, node)| {
        let mut stream = connect(node.port).unwrap();
        stream.write_all(b"PUT /kv/A HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10\r\n\r\nhalf").unwrap();
        stream
    });
    for stream in streams {
        match common::http::read_reply(&mut std::io::BufReader::new(stream), false) {
            Ok(reply) => {
                assert!(matches!(reply.word().as_str(), "too_slow"), "{} {}", reply.status, reply.text())
            }
            Err(error) => assert!(
                !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
                "still waiting after {:?}",
                start.elapsed()
            ),
        }
    }
    unharmed(&cluster);
}

#[test]
fn a_pipeline_of_good_and_bad_is_answered_in_order() {
    let cluster = Cluster::start();
    let port = cluster.worker.port;
    let mut stream = connect(port).unwrap();
    for (method, path) in [("PUT", "/kv/A"), ("GET", "/kv/%zz"), ("GET", "/kv/A"), ("DELETE", "/kv/A")] {
        let body = (method == "PUT").then_some(b"happy".as_slice());
        stream.write_all(&common::http::request(port, method, path, &[], body)).unwrap();
    }
    let mut reader = std::io::BufReader::new(stream);
    let statuses = [201, 400, 200, 204].map(|_| common::http::read_reply(&mut reader, false).unwrap().status);
    assert_eq!(statuses, [201, 400, 200, 204]);
    // What is not HTTP breaks a pipeline, after the answers that came before it.
    let mut stream = connect(port).unwrap();
    let good = common::http::request(port, "GET", "/kv/A", &[], None);
    stream.write_all(&[&good[..], &good, b"cat\r\n\r\n", &good].concat()).unwrap();
    let mut reader = std::io::BufReader::new(stream);
    for _ in 0..2 {
        common::http::read_reply(&mut reader, false).unwrap().must_be(404);
    }
    common::http::read_reply(&mut reader, false).unwrap().must_be_problem(400, "bad_request");
    assert!(common::http::read_reply(&mut reader, false).is_err());
    let mut session = Session::new(port);
    session.ask("GET", "/kv/A", &[], None).must_be(404);
    unharmed(&cluster);
}
