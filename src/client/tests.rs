//! The client against servers that misbehave on purpose: what it repeats, where, and what it never does.

use super::{Client, Condition, GetOptions, ListOptions, PutOptions};
use crate::cluster::slots::SlotTable;
use crate::cluster::view::{ClusterView, GroupView, MemberView};
use crate::error::Kind;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

mod downloads;
mod groups;
mod lanes;
mod repeats;
mod strangers;
mod uploads;

/// What the server does with a request.
enum Act {
    /// Sends this.
    Answer(String),
    /// Sends this as somebody who knows no cluster.
    Stranger(String),
    /// Closes the connection.
    Hangup,
    /// Keeps the connection open and says nothing, as a stopped process does.
    Silence,
}

/// A request as the server saw it.
#[derive(Debug, Clone)]
struct Seen {
    line: String,
    head: String,
    body: Vec<u8>,
}

/// A server on a free port that answers one request per connection.
struct Fake {
    address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Fake {
    fn start(act: impl FnMut(&Seen) -> Act + Send + 'static) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        Fake::on(listener, address, act)
    }

    fn on(
        listener: TcpListener,
        address: String,
        mut act: impl FnMut(&Seen) -> Act + Send + 'static,
    ) -> Fake {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let list = seen.clone();
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            for stream in listener.incoming().map_while(Result::ok) {
                let Some(request) = read(&stream) else { continue };
                let act = act(&request);
                let text = match act {
                    Act::Answer(text) => name_cluster(text, &request),
                    Act::Stranger(text) => text,
                    Act::Hangup => String::new(),
                    Act::Silence => {
                        list.lock().unwrap().push(request);
                        kept.push(stream);
                        continue;
                    }
                };
                list.lock().unwrap().push(request);
                let _ = (&stream).write_all(text.as_bytes());
            }
        });
        Fake { address, seen }
    }

    /// The requests other than `GET /cluster`.
    fn seen(&self) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|request| !request.line.starts_with("GET /cluster")).cloned().collect()
    }
}

/// Lets a node answer for the cluster that it was asked for, unless it names one itself.
fn name_cluster(text: String, request: &Seen) -> String {
    match (cluster_of(request), text.split_once("\r\n")) {
        (Some(cluster), Some((first, rest))) if !rest.contains("Catstore-Cluster: ") => {
            format!("{first}\r\nCatstore-Cluster: {cluster}\r\n{rest}")
        }
        _ => text,
    }
}

/// The cluster that a request names.
fn cluster_of(request: &Seen) -> Option<String> {
    let head = request.head.to_ascii_lowercase();
    head.lines().find_map(|line| line.strip_prefix("catstore-cluster: ")).map(str::to_owned)
}

fn read(stream: &TcpStream) -> Option<Seen> {
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut reader = BufReader::new(stream);
    let (line, head, length) = read_head(&mut reader)?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        body = read_chunked(&mut reader)?;
    }
    Some(Seen { line: line.trim().to_owned(), head, body })
}

/// The line and the headers of a request, and the length of its body as they name it.
fn read_head(reader: &mut impl BufRead) -> Option<(String, String, usize)> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && head != "\r\n" {
        reader.read_line(&mut head).ok().filter(|count| *count > 0)?;
    }
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    Some((line, head, length.unwrap_or(0)))
}

/// A body whose length is told as it comes; nothing if it breaks off.
fn read_chunked(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
        let length = usize::from_str_radix(line.trim(), 16).ok()?;
        let mut piece = vec![0; length + 2];
        reader.read_exact(&mut piece).ok()?;
        if length == 0 {
            return Some(body);
        }
        body.extend_from_slice(&piece[..length]);
    }
}

fn answer(status: &str, headers: &str, body: &str) -> Act {
    let length = body.len();
    Act::Answer(format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    ))
}

fn problem(status: &str, kind: Kind, headers: &str) -> Act {
    let body = format!(
        "{{\"type\":\"{}\",\"title\":\"t\",\"detail\":\"said {}\",\"hint\":\"h\"}}",
        kind.word(),
        kind.word()
    );
    answer(status, &format!("Content-Type: application/problem+json\r\n{headers}"), &body)
}

fn view(cluster: &str, masters: &[&str], workers: &[&str]) -> ClusterView {
    let group = |(index, address): (usize, &&str)| {
        let index = u32::try_from(index).unwrap();
        let member =
            MemberView { index, address: (*address).to_owned(), voter: true, fit: true, data: "/d".into() };
        GroupView::new(index, Some(index), vec![member])
    };
    ClusterView {
        cluster: cluster.into(),
        epoch: 1,
        masters: masters.iter().map(|address| (*address).to_owned()).collect(),
        groups: workers.iter().enumerate().map(group).collect(),
        slots: if workers.is_empty() { SlotTable::default() } else { SlotTable::whole(0) },
        master_members: Vec::new(),
        ..ClusterView::default()
    }
}

fn document(view: &ClusterView) -> Act {
    answer("200 OK", "Content-Type: application/json\r\n", &serde_json::to_string(view).unwrap())
}

/// A node that is the whole cluster: it answers `/cluster` with itself, and everything else with `act`.
fn alone(mut act: impl FnMut(&Seen) -> Act + Send + 'static) -> Fake {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let view = view("c", &[], &[&address]);
    Fake::on(listener, address, move |request| {
        if request.line.starts_with("GET /cluster") { document(&view) } else { act(request) }
    })
}

/// An address at which nobody listens.
fn nobody() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn client(seed: &str) -> Client {
    let deadline = Duration::from_secs(5);
    Client::builder(vec![seed.to_owned()]).memory(None).deadline(deadline).build().unwrap()
}

fn put(client: &Client) -> Result<super::Stored, Kind> {
    client.put("A", "happy", PutOptions::default()).map_err(|error| error.kind())
}

const STORED: &str = "ETag: \"7\"\r\n";

/// The request id that a request carries.
fn id_of(request: &Seen) -> Option<String> {
    let head = request.head.to_ascii_lowercase();
    head.lines().find_map(|line| line.strip_prefix("catstore-request-id: ")).map(str::to_owned)
}

/// Asserts that all of `seen` are attempts of one request, and returns its id.
fn one_request(seen: &[Seen]) -> String {
    let id = id_of(&seen[0]).expect("a write carries an id");
    for request in seen {
        assert_eq!((&request.line, &request.body), (&seen[0].line, &seen[0].body));
        assert_eq!(id_of(request).as_ref(), Some(&id));
    }
    id
}

/// A client that gives up soon.
fn hasty(seed: &str) -> Client {
    let deadline = Duration::from_millis(600);
    Client::builder(vec![seed.to_owned()]).memory(None).deadline(deadline).build().unwrap()
}

/// Answers the first `count` requests with `first`, and all others with `then`.
fn at_first(
    count: usize,
    mut first: impl FnMut() -> Act + Send + 'static,
    mut then: impl FnMut() -> Act + Send + 'static,
) -> impl FnMut(&Seen) -> Act + Send + 'static {
    let mut seen = 0;
    move |_| {
        seen += 1;
        if seen <= count { first() } else { then() }
    }
}

#[test]
fn an_owner_that_refuses_connections_is_gone_around() {
    let owner = nobody();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let master = listener.local_addr().unwrap().to_string();
    let view = view("c", &[&master], &[&owner]);
    let master = Fake::on(listener, master, move |request| {
        if request.line.starts_with("GET /cluster") {
            document(&view)
        } else {
            answer("201 Created", STORED, "")
        }
    });
    let stored = put(&client(&master.address)).unwrap();
    assert_eq!((stored.version, stored.created), (7, true));
    assert_eq!(master.seen().len(), 1);
}

#[test]
fn an_overloaded_node_is_asked_again_when_it_said_so() {
    let mut count = 0;
    let node = alone(move |_| {
        count += 1;
        if count == 1 {
            problem("503 Service Unavailable", Kind::Overloaded, "Retry-After: 1\r\n")
        } else {
            answer("200 OK", STORED, "")
        }
    });
    let start = Instant::now();
    assert_eq!(put(&client(&node.address)).map(|stored| stored.created), Ok(false));
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_eq!(node.seen().len(), 2);
}

#[test]
fn a_closed_store_is_not_waited_for() {
    let node = alone(|_| problem("503 Service Unavailable", Kind::Closed, "Retry-After: 1\r\n"));
    let error = client(&node.address).put("A", "happy", PutOptions::default()).unwrap_err();
    assert_eq!((error.kind(), error.detail(), error.hint_text()), (Kind::Closed, "said closed", Some("h")));
    assert_eq!(node.seen().len(), 1);
}

#[test]
fn moved_slots_are_followed() {
    let owner = alone(|_| answer("200 OK", STORED, ""));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let old = listener.local_addr().unwrap().to_string();
    let (before, mut after) = (view("c", &[], &[&old]), view("c", &[], &[&owner.address]));
    after.epoch = 2;
    let mut moved = false;
    let old = Fake::on(listener, old, move |request| match request.line.starts_with("GET /cluster") {
        true => document(if moved { &after } else { &before }),
        false => {
            moved = true;
            problem("421 Misdirected Request", Kind::Moved, "")
        }
    });
    assert!(put(&client(&old.address)).is_ok());
    assert_eq!((old.seen().len(), owner.seen().len()), (1, 1));
}

#[test]
fn reads_are_repeated_when_they_break() {
    let mut count = 0;
    let node = alone(move |_| {
        count += 1;
        match count {
            1 => Act::Hangup,
            2 => Act::Answer("HTTP/1.1 200 OK\r\nETag: \"3\"\r\nContent-Length: 5\r\n\r\nhap".into()),
            _ => answer("200 OK", "ETag: \"3\"\r\n", "happy"),
        }
    });
    assert_eq!(client(&node.address).get("A").unwrap().unwrap().bytes, b"happy");
    assert_eq!(node.seen().len(), 3);
}

#[test]
fn a_read_that_meets_silence_is_asked_elsewhere() {
    let owner = Fake::start(|_| Act::Silence);
    let master = master_of(&owner.address, |_| answer("200 OK", "ETag: \"3\"\r\n", "happy"));
    let builder = Client::builder(vec![master.address.clone()]).memory(None);
    assert_eq!(builder.build().unwrap().get("A").unwrap().unwrap().bytes, b"happy");
    assert_eq!((owner.seen().len(), master.seen().len()), (1, 1));
    let deadline = |request: &Seen| {
        let head = request.head.to_ascii_lowercase();
        head.lines().find_map(|line| line.strip_prefix("catstore-deadline: ")?.parse().ok())
    };
    let left: u64 = deadline(&master.seen()[0]).unwrap();
    assert!((1..5000).contains(&left), "whoever forwards has time to say why not: {left} ms");
}

#[test]
fn a_read_that_nobody_answers_says_for_how_long() {
    let owner = alone(|request| match request.line.starts_with("GET /kv/B ") {
        true => problem("503 Service Unavailable", Kind::NoMajority, ""),
        false => Act::Silence,
    });
    let told = Arc::new(Mutex::new(Vec::new()));
    let list = told.clone();
    let builder = Client::builder(vec![owner.address.clone()]).memory(None);
    let builder = builder.deadline(Duration::from_millis(2500));
    let client =
        builder.notice(move |text| list.lock().unwrap().push(text.map(str::to_owned))).build().unwrap();
    let error = client.get("A").unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(error.to_string().contains("did not answer within 3 s"), "{error}");
    assert!(told.lock().unwrap().is_empty());
    let error = client.get("B").unwrap_err();
    assert_eq!(error.kind(), Kind::NoMajority);
    assert!(error.to_string().starts_with("said no_majority; tried "), "{error}");
    let told = told.lock().unwrap();
    assert!(told[0].as_ref().is_some_and(|text| text.starts_with("said no_majority; trying again")));
    assert_eq!(told.last(), Some(&None), "{told:?}");
}

#[test]
fn values_and_their_facts() {
    let headers = format!(
        "ETag: \"3\"\r\nContent-Type: a/b\r\nCatstore-Checksum: crc32={:08x}\r\n\
         Last-Modified: Thu, 01 Jan 1970 00:00:05 GMT\r\n",
        crc32fast::hash(b"happy")
    );
    let node = alone(move |request| match request.line.contains("/kv/A") {
        true => answer("200 OK", &headers, "happy"),
        false => problem("404 Not Found", Kind::NotFound, ""),
    });
    let client = client(&node.address);
    let value = client.get_with("A", GetOptions { stale: true }).unwrap().unwrap();
    assert_eq!(
        (value.bytes.as_slice(), value.version, value.content_type.as_str()),
        (b"happy".as_slice(), 3, "a/b")
    );
    assert_eq!(value.modified, Some(std::time::UNIX_EPOCH + Duration::from_secs(5)));
    assert!(node.seen()[0].line.starts_with("GET /kv/A?consistency=stale "));
    let mut bytes = Vec::new();
    let facts = client.get_to("A", GetOptions::default(), &mut bytes).unwrap().unwrap();
    assert_eq!((bytes.as_slice(), facts.version), (b"happy".as_slice(), 3));
    assert_eq!(client.get("B").unwrap(), None);
    assert!(!client.delete("B", Condition::Any).unwrap());
}

#[test]
fn a_value_that_does_not_match_its_checksum_is_never_returned() {
    let node = alone(|_| answer("200 OK", "ETag: \"3\"\r\nCatstore-Checksum: crc32=00000001\r\n", "happy"));
    let client = client(&node.address);
    assert_eq!(client.get("A").unwrap_err().kind(), Kind::Damaged);
    let streamed = client.get_to("A", GetOptions::default(), &mut Vec::new());
    assert_eq!(streamed.unwrap_err().kind(), Kind::Damaged);
}

#[test]
fn conditions_travel_as_headers() {
    let node = alone(|_| problem("412 Precondition Failed", Kind::ConditionFailed, ""));
    let client = client(&node.address);
    for (condition, header) in [
        (Condition::Absent, "if-none-match: *"),
        (Condition::Exists, "if-match: *"),
        (Condition::Version(9), "if-match: \"9\""),
    ] {
        let ttl = Some(Duration::from_secs(60));
        let options = PutOptions { condition, ttl, content_type: Some("x/y".into()), progress: None };
        assert_eq!(client.put("a/b", "", options).unwrap_err().kind(), Kind::ConditionFailed);
        let seen = node.seen().pop().unwrap();
        assert_eq!(seen.line, "PUT /kv/a%2Fb?ttl=60s HTTP/1.1");
        let head = seen.head.to_ascii_lowercase();
        assert!(
            head.contains(header) && head.contains("content-length: 0") && head.contains("content-type: x/y"),
            "{head}"
        );
    }
}

#[test]
fn keys_and_values_that_no_node_takes_are_not_sent() {
    let node = alone(|_| Act::Hangup);
    let client = client(&node.address);
    let kind = |key: &[u8], value: &[u8]| client.put(key, value, PutOptions::default()).unwrap_err().kind();
    assert_eq!(kind(b"", b"x"), Kind::KeyEmpty);
    assert_eq!(kind(&[b'a'; 4097], b"x"), Kind::KeyTooLong);
    assert_eq!(kind(b"a", &vec![0; super::MAX_HELD + 1]), Kind::ValueTooLarge);
    assert!(node.seen().is_empty());
}

#[test]
fn lists_come_page_after_page_and_end() {
    let node = alone(|request| {
        let body = match () {
            () if request.line.contains("after=b") => {
                "{\"keys\":[{\"key\":\"c\",\"version\":1,\"size\":0,\"modified\":0,\"content_type\":\"\"}]}"
            }
            () => {
                "{\"keys\":[{\"key\":\"b\",\"version\":1,\"size\":0,\"modified\":0,\"content_type\":\"\"}],\"after\":\"b\"}"
            }
        };
        answer("200 OK", "Content-Type: application/json\r\n", body)
    });
    let client = client(&node.address);
    let options = ListOptions { prefix: b"x/".to_vec(), limit: Some(1), ..ListOptions::default() };
    let keys: Vec<_> =
        client.pages(options).flat_map(|page| page.unwrap().keys).map(|listed| listed.key.0).collect();
    assert_eq!(keys, [b"b", b"c"]);
    assert_eq!(node.seen()[1].line, "GET /kv?prefix=x%2F&after=b&limit=1 HTTP/1.1");
}

#[test]
fn remembered_nodes_help_when_the_seed_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let worker = alone(|_| answer("200 OK", STORED, ""));
    let seed = nobody();
    let build = || {
        let builder = Client::builder(vec![seed.clone()]).memory(Some(folder.path().to_owned()));
        builder.deadline(Duration::from_secs(2)).build().unwrap()
    };
    let error = build().get("A").unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(error.to_string().contains(&seed) && error.to_string().contains("catstore master"), "{error}");
    let path = super::memory::file(folder.path(), std::slice::from_ref(&seed));
    let remember = |cluster: &str| {
        let memory = super::memory::Memory { cluster: cluster.into(), nodes: vec![worker.address.clone()] };
        super::memory::write(&path, &memory);
    };
    remember("another");
    assert_eq!(put(&build()), Err(Kind::Unreachable));
    assert!(worker.seen().is_empty(), "a node of another cluster was written to");
    remember("c");
    assert!(put(&build()).is_ok());
}

#[test]
fn a_seed_that_refuses_is_not_gone_around_by_memory() {
    let folder = tempfile::tempdir().unwrap();
    let worker = alone(|_| answer("200 OK", STORED, ""));
    let seed = Fake::start(|_| problem("401 Unauthorized", Kind::Unauthorized, ""));
    let memory = super::memory::Memory { cluster: "c".into(), nodes: vec![worker.address.clone()] };
    super::memory::write(&super::memory::file(folder.path(), std::slice::from_ref(&seed.address)), &memory);
    let builder = Client::builder(vec![seed.address.clone()]).memory(Some(folder.path().to_owned()));
    assert_eq!(put(&builder.build().unwrap()), Err(Kind::Unauthorized));
    assert!(worker.seen().is_empty());
}

#[test]
fn a_master_that_is_closed_is_not_opened_by_asking() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let view = view("c", &[&address], &[]);
    let master = Fake::on(listener, address, move |request| match request.line.split(' ').nth(1) {
        Some("/cluster") => document(&view),
        _ => problem("503 Service Unavailable", Kind::Closed, ""),
    });
    let answers = client(&master.address).master_statuses(std::slice::from_ref(&master.address));
    assert_eq!(answers[0].as_ref().unwrap_err().kind(), Kind::Closed);
    assert_eq!(master.seen().into_iter().map(|seen| seen.line).collect::<Vec<_>>(), ["GET /health HTTP/1.1"]);
}

#[test]
fn tokens_travel_and_strangers_are_named() {
    let node = Fake::start(|_| answer("200 OK", "", "<html>"));
    let builder = Client::builder(vec![node.address.clone()]).memory(None).token(Some("secret".into()));
    let error = builder.build().unwrap().get("A").unwrap_err();
    assert!(error.to_string().contains("does not answer like catstore"), "{error}");
    assert!(node.seen.lock().unwrap()[0].head.to_ascii_lowercase().contains("authorization: bearer secret"));
    let refused = Client::builder(vec!["3000".into()]).token(Some("a b".into())).build();
    assert_eq!(refused.err().map(|error| error.kind()), Some(Kind::Usage));
}

#[test]
fn a_name_that_does_not_resolve_has_got_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let master = listener.local_addr().unwrap().to_string();
    let view = view("c", &[&master], &["name.invalid:3001"]);
    let master = Fake::on(listener, master, move |request| {
        if request.line.starts_with("GET /cluster") { document(&view) } else { answer("200 OK", STORED, "") }
    });
    assert!(put(&client(&master.address)).is_ok());
    assert_eq!(master.seen().len(), 1);
}

#[test]
fn a_value_that_broke_off_on_its_way_was_not_written() {
    /// Enough to fill the buffers of a connection.
    const VALUE: usize = 8 << 20;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let view = view("c", &[], &[&address]);
    let puts = Arc::new(Mutex::new(0));
    let count = puts.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut line = String::new();
            // Hangs up in the middle of the value, as a node does that refuses its size.
            let _ = BufReader::with_capacity(64, &stream).read_line(&mut line);
            if line.starts_with("PUT") {
                *count.lock().unwrap() += 1;
            } else if let Act::Answer(text) = document(&view) {
                let _ = (&stream).write_all(text.as_bytes());
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let _ = (&stream).read_to_end(&mut Vec::new());
            }
        }
    });
    let sent = std::cell::Cell::new(0);
    let progress = |progress: super::Progress| sent.set(progress.done);
    let options = PutOptions { progress: Some(&progress), ..PutOptions::default() };
    let error = client(&address).put("A", vec![b'x'; VALUE], options).unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable, "{error}");
    assert!(error.to_string().contains("nothing was written"), "{error}");
    assert!(*puts.lock().unwrap() == 3 && sent.get() < VALUE as u64);
}

/// A master that routes to `owner`, and answers what comes to itself with `act`.
fn master_of(owner: &str, mut act: impl FnMut(&Seen) -> Act + Send + 'static) -> Fake {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let view = view("c", &[&address], &[owner]);
    Fake::on(listener, address, move |request| {
        if request.line.starts_with("GET /cluster") { document(&view) } else { act(request) }
    })
}
