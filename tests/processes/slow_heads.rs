//! "Somebody keeps my node's connections." A client whose request does not come to the end of its head is cut off and
//! told why, whether it is its first request or a later one; one that is between two requests is left alone.

use crate::common::Cluster;
use crate::common::http::{Reply, connect, read_reply, request};
use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// What the node gives a head, in seconds.
const PATIENCE: u64 = 10;

type Stream = BufReader<TcpStream>;

/// A connection on which the requests were answered, and after them the beginning of another one was sent.
fn begun(port: u16, whole: &[(&str, &str, Option<&[u8]>)], beginning: &[u8], together: bool) -> Stream {
    let mut stream = BufReader::new(connect(port).expect("a connection"));
    let mut bytes: Vec<u8> =
        whole.iter().flat_map(|(method, path, body)| request(port, method, path, &[], *body)).collect();
    if together {
        bytes.extend_from_slice(beginning);
    }
    stream.get_mut().write_all(&bytes).expect("sent");
    for (method, path, _) in whole {
        let reply = read_reply(&mut stream, false).expect("an answer");
        assert!(reply.status < 300, "{method} {path}: {} {}", reply.status, reply.text());
    }
    if !together {
        stream.get_mut().write_all(beginning).expect("sent");
    }
    stream
}

/// Waits until the client is cut off, and asserts that it is told why and had its time.
fn cut_off(what: &str, mut stream: Stream, since: Instant) -> Reply {
    let reply = read_reply(&mut stream, false).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(since.elapsed() >= Duration::from_secs(PATIENCE - 1), "{what}: after {:?}", since.elapsed());
    let reply = reply.must_be_problem(408, "too_slow");
    assert_eq!(reply.header("connection"), Some("close"), "{what}");
    assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{what}");
    assert_eq!(reply.header("content-security-policy"), Some("sandbox"), "{what}");
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.is_empty(), "{what}: more after the last answer");
    reply
}

#[test]
fn whoever_does_not_finish_a_head_is_cut_off() {
    let cluster = Cluster::start();
    cluster.worker.put("A", "happy");
    let get = ("GET", "/kv/A", None);
    let put = ("PUT", "/kv/A", Some(b"happy".as_slice()));
    let half: &[u8] = b"GET /kv/A HTTP/1.1\r\nHost: 127";
    let since = Instant::now();
    let mut waiting = Vec::new();
    for (name, port) in [("worker", cluster.worker.port), ("master", cluster.master.port)] {
        for (what, whole, beginning, together) in [
            ("silence", &[][..], &b""[..], false),
            ("one byte", &[], b"G", false),
            ("half a first head", &[], half, false),
            ("half a head after a get", &[get], half, false),
            ("half a head after a put", &[put], half, false),
            ("half a head with a get", &[get, get], half, true),
            ("half a head with a put", &[put], half, true),
        ] {
            let stream = begun(port, whole, beginning, together);
            let what = format!("{what} at the {name}");
            waiting.push(std::thread::spawn(move || cut_off(&what, stream, since)));
        }
    }
    // Meanwhile a client between two requests is left alone, and whoever asks is served.
    let mut idle = begun(cluster.worker.port, &[get], b"", false);
    for thread in waiting {
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        cluster.worker.get("/health").must_be(200);
    }
    idle.get_mut().write_all(&request(cluster.worker.port, "GET", "/kv/A", &[], None)).unwrap();
    assert_eq!(read_reply(&mut idle, false).unwrap().must_be(200).text(), "happy");
    let metrics = cluster.worker.get("/metrics").must_be(200).text();
    assert!(metrics.contains("catstore_requests_total{route=\"other\",status=\"408\"} 7\n"), "{metrics}");
}

#[test]
fn a_trickle_wins_no_time() {
    let cluster = Cluster::start();
    let (mut first, mut second) = (
        begun(cluster.worker.port, &[], b"G", false),
        begun(cluster.worker.port, &[("GET", "/kv", None)], b"G", false),
    );
    let since = Instant::now();
    for stream in [&mut first, &mut second] {
        stream.get_mut().set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    }
    for mut stream in [first, second] {
        let reply = loop {
            // The answer stands in the socket even if the node reads no more of this.
            let _ = stream.get_mut().write_all(b"E");
            match std::io::BufRead::fill_buf(&mut stream) {
                Ok(_) => break read_reply(&mut stream, false).unwrap(),
                Err(_) => assert!(since.elapsed() < Duration::from_secs(50), "still not cut off"),
            }
        };
        reply.must_be_problem(408, "too_slow");
    }
}
