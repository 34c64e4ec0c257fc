//! The door as clients see it, over real sockets: a master that forwards to an owner which is a few lines of test.
//! What needs a store is tested with whole processes elsewhere.

use super::config::NodeOptions;
use super::guard::Guard;
use super::master::Master;
use super::node::Node;
use super::patience::Limits;
use super::peers::HttpWire;
use super::replica_options;
use super::run::{Serving, serve};
use super::site::{Event, Member, Place, Site};
use crate::cluster::slots::SlotTable;
use crate::cluster::view::{ClusterView, GroupView, MemberView};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

pub(super) struct Running {
    pub(super) site: Arc<Site>,
    pub(super) serving: Option<Serving>,
    pub(super) port: u16,
    pub(super) events: Mutex<Receiver<Event>>,
}

pub(super) fn node_options() -> NodeOptions {
    NodeOptions {
        host: "127.0.0.1".into(),
        port: 0,
        data: "/none".into(),
        advertise: None,
        allow_hosts: Vec::new(),
        token: None,
        insecure: false,
        threads: Some(1),
        cache: 0,
    }
}

pub(super) fn master(token: Option<&str>) -> Running {
    patient_master(token, Limits::default())
}

/// A master that waits for clients as long as `limits` say.
pub(super) fn patient_master(token: Option<&str>, limits: Limits) -> Running {
    let (events, ear) = channel();
    let options = node_options();
    let wire = Arc::new(HttpWire::new(None));
    let member =
        Member::Master(Box::new(Master::new(Node::new("master", replica_options(&options, &wire)), wire)));
    let site = Arc::new(Site::new(member, Guard::new(token.map(str::to_owned), options.names()), events));
    let serving = serve(&options, &site, limits).unwrap();
    let port = serving.port;
    let _ = site.place.set(Place { address: format!("127.0.0.1:{port}"), data: "/none".into() });
    Running::of(site, serving, ear)
}

impl Running {
    /// What serves `site`; `ear` hears its events.
    pub(super) fn of(site: Arc<Site>, serving: Serving, ear: Receiver<Event>) -> Running {
        let port = serving.port;
        Running { site, port, serving: Some(serving), events: Mutex::new(ear) }
    }

    /// Lets `address` own every slot.
    pub(super) fn route_to(&self, address: String) {
        self.route_to_members(&[address]);
    }

    /// Lets a group of these members own every slot; the first one is said to lead.
    pub(super) fn route_to_members(&self, addresses: &[String]) {
        let members = addresses.iter().zip(0..).map(|(address, index)| MemberView {
            index,
            address: address.clone(),
            voter: true,
            fit: true,
            data: "/w".into(),
        });
        let group = GroupView::new(0, Some(0), members.collect());
        self.site.learn(ClusterView {
            cluster: "c".into(),
            epoch: 1,
            groups: vec![group],
            slots: SlotTable::whole(0),
            ..ClusterView::default()
        });
    }

    pub(super) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Sends `request` and reads until the connection is closed.
    pub(super) fn ask(&self, request: &[u8]) -> Answer {
        let mut stream = self.connect();
        // An early answer may close the connection while we still write.
        let _ = stream.write_all(request);
        Answer::read(stream)
    }

    pub(super) fn get(&self, target: &str, headers: &str) -> Answer {
        self.line("GET", target, headers)
    }

    fn line(&self, method: &str, target: &str, headers: &str) -> Answer {
        let head =
            format!("{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{headers}\r\n");
        self.ask(head.as_bytes())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(serving) = self.serving.take() {
            drop(serving.handle.stop(false));
            let _ = serving.thread.join();
        }
    }
}

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn read(mut stream: TcpStream) -> Answer {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let text = text.strip_prefix("HTTP/1.1 100 Continue\r\n\r\n").unwrap_or(&text);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    /// The stable word of a problem document.
    pub(super) fn word(&self) -> String {
        let document: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        document["type"].as_str().unwrap_or("none").to_owned()
    }
}

/// What an owner does with each connection.
#[derive(Clone, Copy)]
pub(super) enum Owner {
    Answers(&'static str),
    /// As somebody who knows no cluster.
    Stranger(&'static str),
    Silent,
    HangsUp,
}

/// A worker of the wire only; returns its address and the requests that it got.
pub(super) fn owner(kind: Owner) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let requests = Arc::clone(&seen);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let requests = Arc::clone(&requests);
            thread::spawn(move || serve_wire(stream, kind, &requests));
        }
    });
    (address, seen)
}

fn serve_wire(mut stream: TcpStream, kind: Owner, requests: &Mutex<Vec<String>>) {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(read) = stream.read(&mut chunk) {
        if read == 0 {
            return;
        }
        bytes.extend_from_slice(&chunk[..read]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let head = head.to_ascii_lowercase();
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        if body.len() < length {
            continue;
        }
        requests.lock().unwrap().push(text);
        bytes.clear();
        match kind {
            Owner::Answers(answer) => {
                let (first, rest) = answer.split_once("\r\n").unwrap();
                let answer = format!("{first}\r\nCatstore-Cluster: c\r\n{rest}");
                stream.write_all(answer.as_bytes()).unwrap();
            }
            Owner::Stranger(answer) => stream.write_all(answer.as_bytes()).unwrap(),
            Owner::Silent => {}
            Owner::HangsUp => return drop(stream.shutdown(Shutdown::Both)),
        }
    }
}

#[test]
fn errors_are_problems_with_their_own_word() {
    let master = master(None);
    let long_key = format!("/get/{}", "k".repeat(5000));
    let table = [
        ("GET", "/nothing", "", 404, "not_found"),
        ("BREW", "/get/A", "", 405, "method_not_allowed"),
        ("GET", "/get/%zz", "", 400, "bad_request"),
        ("GET", "/get/", "", 400, "key_empty"),
        ("GET", &long_key, "", 400, "key_too_long"),
        ("GET", "/get/A", "", 503, "no_worker"),
        ("GET", "/kv?prefix=a", "", 503, "no_worker"),
        ("GET", "/put/A/happy", "", 503, "no_worker"),
        ("GET", "/put/A/happy", "Sec-Fetch-Site: cross-site\r\n", 403, "forbidden"),
        ("GET", "/put/A/happy", "Origin: http://evil.example\r\n", 403, "forbidden"),
        ("GET", "/put/A/happy", "Sec-Purpose: prefetch\r\n", 403, "forbidden"),
        ("PUT", "/kv/A", "If-Match: 7\r\n", 400, "bad_request"),
        ("PUT", "/kv/A", "Catstore-Request-Id: a b\r\n", 400, "bad_request"),
        ("GET", "/put_file/A/cat.jpg", "", 409, "conflict"),
        ("GET", "/worker", "", 404, "not_found"),
        ("GET", "/worker/0", "", 409, "conflict"),
        ("GET", "/close/0", "", 409, "conflict"),
        ("GET", "/clear/0", "", 503, "no_worker"),
        ("GET", "/health", "", 503, "no_majority"),
        ("POST", "/internal/register", "", 400, "bad_request"),
    ];
    for (method, target, headers, status, word) in table {
        let answer = master.line(method, target, headers);
        assert_eq!(
            (answer.status, answer.word().as_str()),
            (status, word),
            "{method} {target}: {}",
            answer.body
        );
        assert!(answer.head.contains("content-type: application/problem+json"), "{target}");
        assert!(answer.head.contains("x-content-type-options: nosniff"), "{target}");
    }
    let foreign = master.ask(b"GET /put/A/x HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
    assert_eq!((foreign.status, foreign.word().as_str()), (403, "forbidden"));
    assert!(master.line("BREW", "/batch", "").head.contains("allow: post, options"));
}

#[test]
fn head_and_options_change_nothing() {
    let master = master(None);
    let options = master.line("OPTIONS", "/put/A/x", "");
    assert_eq!(options.status, 204);
    assert!(options.head.contains("allow: get, put, post, options"));
    assert_eq!(master.line("HEAD", "/put/A/x", "").status, 405);
    let (address, seen) =
        owner(Owner::Answers("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: \"7\"\r\n\r\n"));
    master.route_to(address);
    let head = master.line("HEAD", "/get/A", "");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert!(head.head.contains("content-length: 5") && head.head.contains("etag: \"7\""), "{}", head.head);
    assert!(seen.lock().unwrap()[0].starts_with("HEAD /get/A HTTP/1.1\r\n"));
}

#[test]
fn the_token_opens_every_path() {
    let master = master(Some("secret"));
    let refused = master.get("/cluster", "");
    assert_eq!((refused.status, refused.word().as_str()), (401, "unauthorized"));
    assert!(refused.head.contains("www-authenticate: bearer"));
    assert_eq!(master.get("/nothing", "Authorization: Bearer wrong\r\n").status, 401);
    assert_eq!(master.get("/cluster", "Authorization: Bearer secret\r\n").status, 200);
    let (address, seen) = owner(Owner::Answers("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
    master.route_to(address);
    assert_eq!(master.get("/get/A", "Authorization: Bearer secret\r\n").status, 200);
    assert!(seen.lock().unwrap()[0].to_ascii_lowercase().contains("authorization: bearer secret"));
}

#[test]
fn a_read_is_forwarded_as_it_came_and_its_answer_passed_back() {
    let master = master(None);
    let (address, seen) = owner(Owner::Answers(
        "HTTP/1.1 206 Partial Content\r\nContent-Length: 3\r\nETag: \"7\"\r\nContent-Type: image/png\r\n\
         Catstore-Checksum: crc32=00000001\r\nContent-Range: bytes 0-2/9\r\nServer: x\r\n\r\ncat",
    ));
    master.route_to(address.clone());
    let answer = master.get("/kv/a/b%2Fc%00?consistency=stale", "Range: bytes=0-2\r\nCookie: no\r\n");
    assert_eq!((answer.status, answer.body.as_str()), (206, "cat"));
    for header in [
        "etag: \"7\"",
        "content-type: image/png",
        "catstore-checksum: crc32=00000001",
        "content-range: bytes 0-2/9",
    ] {
        assert!(answer.head.contains(header), "{header} in {}", answer.head);
    }
    assert!(!answer.head.contains("server: x"));
    let request = seen.lock().unwrap()[0].clone();
    assert!(request.starts_with("GET /kv/a/b%2Fc%00?consistency=stale HTTP/1.1\r\n"), "{request}");
    let request = request.to_ascii_lowercase();
    assert!(request.contains("range: bytes=0-2") && request.contains("catstore-forwarded: 1"));
    assert!(request.contains("catstore-deadline: ") && !request.contains("cookie"));
    let redirected = master.get("/kv/a?consistency=stale", "Prefer: redirect\r\n");
    assert_eq!(redirected.status, 307);
    assert!(redirected.head.contains(&format!("location: http://{address}/kv/a?consistency=stale")));
    let twice = master.get("/kv/a", "Catstore-Forwarded: 1\r\n");
    assert_eq!((twice.status, twice.word().as_str()), (503, "moved"));
    assert_eq!(seen.lock().unwrap().len(), 1);
}

#[test]
fn a_write_is_sent_once_and_its_outcome_is_told() {
    let master = master(None);
    let put = b"PUT /kv/A HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhappy";

    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    master.route_to(gone.to_string());
    let answer = master.ask(put);
    assert_eq!((answer.status, answer.word().as_str()), (503, "no_majority"), "{}", answer.body);
    assert!(answer.head.contains("retry-after: "));

    let master = self::master(None);
    let (address, seen) = owner(Owner::HangsUp);
    master.route_to(address);
    let answer = master.ask(put);
    assert_eq!((answer.status, answer.word().as_str()), (504, "unknown_outcome"), "{}", answer.body);
    let read = master.get("/get/A", "");
    assert_eq!((read.status, read.word().as_str()), (503, "no_majority"), "{}", read.body);
    assert_eq!(seen.lock().unwrap().len(), 2);

    let master = self::master(None);
    let (address, seen) =
        owner(Owner::Answers("HTTP/1.1 201 Created\r\nContent-Length: 0\r\nETag: \"1\"\r\n\r\n"));
    master.route_to(address);
    for _ in 0..3 {
        assert_eq!(master.ask(put).status, 201);
    }
    assert!(seen.lock().unwrap().iter().all(|request| request.ends_with("\r\n\r\nhappy")));
    assert_eq!(seen.lock().unwrap().len(), 3);
    let short =
        b"PUT /kv/A HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\nConnection: close\r\n\r\nhappy";
    let mut stream = master.connect();
    stream.write_all(short).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let _ = Answer::read(stream);
    assert_eq!(seen.lock().unwrap().len(), 3, "a body that ends early changes nothing");
    let expect = b"PUT /kv/A HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n\r\n";
    let mut stream = master.connect();
    stream.write_all(expect).unwrap();
    let mut line = [0; 25];
    stream.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"happy").unwrap();
    assert_eq!(Answer::read(stream).status, 201);
}

#[test]
fn a_silent_owner_costs_its_own_waiters_only() {
    let master = master(None);
    let (address, _) = owner(Owner::Silent);
    master.route_to(address);
    let waiters: Vec<TcpStream> = (0..100)
        .map(|number| {
            let mut stream = master.connect();
            let method = if number % 2 == 0 { "GET /get/A" } else { "GET /put/A/x" };
            let head = format!(
                "{method} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nCatstore-Deadline: 2500\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).unwrap();
            stream
        })
        .collect();
    for _ in 0..20 {
        let began = Instant::now();
        assert_eq!(master.get("/cluster", "").status, 200);
        assert!(began.elapsed() < Duration::from_secs(1));
    }
    for (number, stream) in waiters.into_iter().enumerate() {
        let answer = Answer::read(stream);
        let expected = if number % 2 == 0 { (503, "no_majority") } else { (504, "unknown_outcome") };
        assert_eq!((answer.status, answer.word().as_str()), expected, "{}", answer.body);
    }
}

#[test]
fn limits_have_answers() {
    let master = master(None);
    let (address, seen) = owner(Owner::Answers("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"));
    master.route_to(address);
    let large = master.line("PUT", "/kv/A", "Content-Length: 999999999999999\r\n");
    assert_eq!((large.status, large.word().as_str()), (413, "value_too_large"));
    let batch = master.line("POST", "/batch", "Content-Length: 8388609\r\n");
    assert_eq!((batch.status, batch.word().as_str()), (413, "too_large"));
    let headers = format!("X: {}\r\n", "x".repeat(1 << 20));
    assert_eq!(master.line("PUT", "/kv/A", &headers).status, 431);
    assert!(seen.lock().unwrap().is_empty());
    assert_eq!(master.get("/cluster", "").status, 200);
    let metrics = master.get("/metrics", "");
    assert!(
        metrics.body.contains("catstore_requests_total{route=\"put\",status=\"413\"} 1"),
        "{}",
        metrics.body
    );
}

#[test]
fn a_node_that_stops_answers_what_it_accepted() {
    let mut master = master(None);
    let (address, _) = owner(Owner::Silent);
    master.route_to(address);
    let mut waiting = master.connect();
    waiting.write_all(b"GET /get/A HTTP/1.1\r\nHost: localhost\r\nCatstore-Deadline: 1000\r\n\r\n").unwrap();
    let mut idle = master.connect();
    idle.write_all(b"GET /cluster HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut arriving = master.connect();
    arriving.write_all(b"PUT /kv/A HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhap").unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while master.site.metrics.in_flight.load(std::sync::atomic::Ordering::Relaxed) < 2 {
        assert!(Instant::now() < deadline, "both requests are under way");
        thread::sleep(Duration::from_millis(5));
    }
    let began = Instant::now();
    master.site.stopping.send_replace(true);
    let serving = master.serving.take().unwrap();
    drop(serving.handle.stop(true));
    assert_eq!(Answer::read(waiting).status, 503);
    let _ = (Answer::read(idle), Answer::read(arriving));
    serving.thread.join().unwrap();
    assert!(began.elapsed() < Duration::from_millis(2900), "{:?}", began.elapsed());
}

#[test]
fn a_node_of_another_cluster_does_nothing() {
    let master = master(None);
    let starting = master.get("/get/A", "Catstore-Cluster: c\r\n");
    assert_eq!((starting.status, starting.word().as_str()), (503, "no_majority"), "{}", starting.body);
    assert!(!starting.head.contains("catstore-cluster"), "{}", starting.head);
    let (address, seen) = owner(Owner::Answers("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
    master.route_to(address);
    let table =
        [("PUT", "/kv/A"), ("GET", "/kv/A"), ("GET", "/put/A/x"), ("POST", "/close"), ("GET", "/health")];
    for (method, target) in table {
        let answer = master.line(method, target, "Catstore-Cluster: d\r\n");
        assert_eq!((answer.status, answer.word().as_str()), (503, "moved"), "{method} {target}");
        assert!(answer.head.contains("catstore-cluster: c\r\n"), "{}", answer.head);
        assert!(answer.body.contains("belongs to cluster c, not d; nothing was done"), "{}", answer.body);
    }
    let twice = master.get("/kv/A", "Catstore-Cluster: c\r\nCatstore-Cluster: d\r\n");
    assert_eq!(twice.word(), "moved");
    assert!(seen.lock().unwrap().is_empty());
    let ours = master.get("/get/A", "Catstore-Cluster: c\r\n");
    assert_eq!(ours.status, 200);
    assert!(ours.head.contains("catstore-cluster: c\r\n"), "{}", ours.head);
    let plain = master.get("/get/A", "");
    assert!(plain.status == 200 && !plain.head.contains("catstore-cluster"), "{}", plain.head);
    for request in seen.lock().unwrap().iter() {
        assert!(request.to_ascii_lowercase().contains("catstore-cluster: c\r\n"), "{request}");
    }
}

#[test]
fn an_answer_of_something_else_is_not_passed_on() {
    let put = b"PUT /kv/A HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhappy";
    let table = [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: \"1\"\r\n\r\nwrong",
            "no_majority",
            "unknown_outcome",
        ),
        (
            "HTTP/1.1 201 Created\r\nCatstore-Cluster: d\r\nContent-Length: 0\r\n\r\n",
            "no_majority",
            "unknown_outcome",
        ),
        ("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", "no_majority", "unknown_outcome"),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "no_majority", "no_majority"),
        (
            "HTTP/1.1 503 Service Unavailable\r\nCatstore-Cluster: d\r\nContent-Length: 0\r\n\r\n",
            "no_majority",
            "unknown_outcome",
        ),
        ("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", "no_majority", "unknown_outcome"),
    ];
    for (wire, read, write) in table {
        let master = master(None);
        let (address, seen) = owner(Owner::Stranger(wire));
        master.route_to(address);
        let answer = master.get("/get/A", "");
        assert_eq!(answer.word(), read, "{wire}: {}", answer.body);
        assert!(answer.body.contains("no node of this cluster"), "{}", answer.body);
        assert_eq!(master.ask(put).word(), write, "{wire}");
        assert_eq!(seen.lock().unwrap().len(), 2, "each was sent once");
    }
}
