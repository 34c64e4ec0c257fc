//! Slots that change hands, as nodes see it that are asked for them: a master outside of all groups, and a worker whose
//! own replica gives slots away. The other groups are a few lines of test; real ones are tested with whole processes.

use super::config::WorkerOptions;
use super::guard::Guard;
use super::node::{Mode, Node};
use super::patience::Limits;
use super::peers::HttpWire;
use super::replica_options;
use super::run::serve;
use super::site::{Member, Site};
use super::wire_tests::{Answer, Running, master, node_options};
use super::worker::{self, Worker};
use crate::cluster::moves::{MoveOrder, SlotSet, Span};
use crate::cluster::slots::{SlotRange, SlotTable, slot};
use crate::cluster::view::{ClusterView, GroupView, HeartbeatReply, MemberView, RegisterReply};
use crate::replica::command::{Command, MoveStep, Reply, Request};
use crate::replica::handle::KeyspaceHandle;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub(super) type Seen = Arc<Mutex<Vec<String>>>;

const CREATED: &str = "HTTP/1.1 201 Created\r\nContent-Length: 0\r\nETag: \"1\"\r\n\r\n";

/// A node that answers each request, its first line and what follows, as `act` says.
pub(super) fn scripted(act: impl FnMut(&str) -> String + Send + 'static) -> (String, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (seen, act) = (Seen::default(), Arc::new(Mutex::new(act)));
    let list = seen.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let (list, act) = (list.clone(), act.clone());
            std::thread::spawn(move || {
                let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
                while let Ok(read @ 1..) = stream.read(&mut chunk) {
                    bytes.extend_from_slice(&chunk[..read]);
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                    let head = head.to_ascii_lowercase();
                    let length =
                        head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
                    if body.len() < length.unwrap_or(0) {
                        continue;
                    }
                    bytes.clear();
                    let answer = (act.lock().unwrap())(&text);
                    if !text.starts_with("GET /cluster") && !text.starts_with("POST /internal/") {
                        list.lock().unwrap().push(text);
                    }
                    let (first, rest) = answer.split_once("\r\n").unwrap();
                    let _ = stream.write_all(format!("{first}\r\nCatstore-Cluster: c\r\n{rest}").as_bytes());
                }
            });
        }
    });
    (address, seen)
}

fn refusal(word: &str, headers: &str) -> String {
    format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nCatstore-Error: {word}\r\n{headers}\r\n"
    )
}

pub(super) fn document(document: &impl serde::Serialize) -> String {
    let body = serde_json::to_string(document).unwrap();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn moved(to: Option<u32>) -> String {
    let slot = slot(b"A");
    let to = to.map_or_else(String::new, |to| format!(":{to}"));
    refusal("moved", &format!("Catstore-Owner: {slot}{to}\r\n"))
}

/// Groups 0, 1, … of one member each, which all slots belong to as `slots` say.
pub(super) fn view(epoch: u64, addresses: &[String], slots: SlotTable) -> ClusterView {
    let group = |(index, address): (u32, &String)| {
        let (address, data) = (address.clone(), "/w".to_owned());
        GroupView::new(index, Some(index), vec![MemberView { index, address, voter: true, fit: true, data }])
    };
    let groups = (0..).zip(addresses).map(group).collect();
    ClusterView { cluster: "c".into(), epoch, groups, slots, ..ClusterView::default() }
}

fn halves() -> SlotTable {
    let range = |first, last, group| SlotRange { first, last, group };
    SlotTable::from_ranges(vec![range(0, 8191, 0), range(8192, 16383, 1)]).unwrap()
}

fn put(node: &Running, headers: &str) -> Answer {
    let head = format!(
        "PUT /kv/A HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nConnection: close\r\n{headers}\r\nhappy"
    );
    node.ask(head.as_bytes())
}

fn count(seen: &Seen) -> usize {
    seen.lock().unwrap().len()
}

#[test]
fn who_names_the_new_owner_is_believed_until_newer_routes_come() {
    let (one, asked_one) = scripted(|_| moved(Some(1)));
    let (two, asked_two) = scripted(|_| CREATED.into());
    let addresses = [one, two];
    let master = master(None);
    master.site.learn(view(1, &addresses, SlotTable::whole(0)));
    for _ in 0..3 {
        assert_eq!(put(&master, "").status, 201);
    }
    assert_eq!((count(&asked_one), count(&asked_two)), (1, 3));
    assert!(asked_two.lock().unwrap().iter().all(|request| request.ends_with("happy")), "the body is kept");
    assert!(asked_two.lock().unwrap()[0].to_ascii_lowercase().contains("catstore-forwarded: 1\r\n"));
    master.site.learn(view(2, &addresses, SlotTable::whole(0)));
    assert_eq!(put(&master, "").status, 201);
    assert_eq!((count(&asked_one), count(&asked_two)), (2, 4));
    // Stale reads go the same way.
    master.site.learn(view(3, &addresses, SlotTable::whole(0)));
    assert_eq!(master.get("/kv/A?consistency=stale", "").status, 201);
    assert_eq!((count(&asked_one), count(&asked_two)), (3, 5));
}

#[test]
fn who_knows_no_owner_is_asked_for_newer_routes() {
    let known: Arc<Mutex<Option<ClusterView>>> = Arc::default();
    let newer = known.clone();
    let (one, asked_one) = scripted(move |request| match request.starts_with("GET /cluster") {
        true => document(newer.lock().unwrap().as_ref().unwrap()),
        false => moved(None),
    });
    let (two, asked_two) = scripted(|_| CREATED.into());
    let addresses = [one, two];
    for path in ["/kv/A", "/kv/A?consistency=stale"] {
        let master = master(None);
        master.site.learn(view(1, &addresses, SlotTable::whole(0)));
        *known.lock().unwrap() = Some(view(2, &addresses, SlotTable::whole(1)));
        let began = Instant::now();
        assert_eq!(master.get(path, "").status, 201);
        assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
        assert_eq!(master.site.epoch(), 2);
    }
    assert_eq!(count(&asked_two), 2);
    assert!(count(&asked_one) < 20, "{}", count(&asked_one));
}

#[test]
fn a_slot_without_an_owner_is_waited_for_until_the_deadline() {
    let (one, asked) = scripted(|_| moved(None));
    let master = master(None);
    master.site.learn(view(1, &[one], SlotTable::whole(0)));
    for (headers, word) in [("", "moved"), ("Catstore-Request-Id: i\r\n", "moved")] {
        let answer = put(&master, &format!("Catstore-Deadline: 900\r\n{headers}"));
        assert_eq!((answer.status, answer.word().as_str()), (503, word), "{}", answer.body);
    }
    assert!((4..200).contains(&count(&asked)), "{}", count(&asked));
}

#[test]
fn a_group_that_is_not_known_yet_is_waited_for() {
    let (two, _) = scripted(|_| CREATED.into());
    let both: Arc<Mutex<Vec<String>>> = Arc::default();
    let known = both.clone();
    let (one, _) = scripted(move |request| match request.starts_with("GET /cluster") {
        true => document(&view(2, &known.lock().unwrap(), SlotTable::whole(0))),
        false => moved(Some(1)),
    });
    *both.lock().unwrap() = vec![one.clone(), two];
    let master = master(None);
    master.site.learn(view(1, &[one], SlotTable::whole(0)));
    assert_eq!(put(&master, "").status, 201);
}

#[test]
fn a_group_that_has_ended_is_left_for_the_one_that_took_its_slots() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let both: Arc<Mutex<Vec<String>>> = Arc::default();
    let known = both.clone();
    let (two, _) = scripted(move |request| match request {
        _ if request.starts_with("GET /cluster") => {
            document(&view(2, &known.lock().unwrap(), SlotTable::whole(1)))
        }
        _ if request.starts_with("GET /internal/list") => {
            document(&json!({"keys": []})).replacen("\r\n", "\r\nCatstore-Slots: all\r\n", 1)
        }
        _ => CREATED.into(),
    });
    *both.lock().unwrap() = vec![gone, two];
    for list in [false, true] {
        let master = master(None);
        master.site.learn(view(1, &both.lock().unwrap(), SlotTable::whole(0)));
        match list {
            true => assert_eq!(keys(&master.get("/kv", "")), (Vec::new(), None)),
            false => assert_eq!(put(&master, "").status, 201),
        }
        // One that is only down is not waited for until the deadline.
        master.site.learn(view(3, &both.lock().unwrap(), SlotTable::whole(0)));
        let began = Instant::now();
        let answer = master.get(if list { "/kv" } else { "/kv/A" }, "");
        assert_eq!((answer.status, answer.word().as_str()), (503, "no_majority"), "{}", answer.body);
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    }
}

#[test]
fn a_slot_on_its_way_is_waited_for() {
    let mut asked = 0;
    let (one, seen) = scripted(move |_| {
        asked += 1;
        if asked % 4 == 0 { CREATED.into() } else { refusal("moving", "Retry-After: 1\r\n") }
    });
    let master = master(None);
    master.site.learn(view(1, &[one], SlotTable::whole(0)));
    let began = Instant::now();
    // Also a write without a request id: it was certainly not done.
    assert_eq!(put(&master, "").status, 201);
    assert_eq!(count(&seen), 4);
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());

    let (one, _) = scripted(|_| refusal("moving", ""));
    master.site.learn(view(2, &[one], SlotTable::whole(0)));
    let answer = put(&master, "Catstore-Deadline: 700\r\n");
    assert_eq!((answer.status, answer.word().as_str()), (503, "moving"), "{}", answer.body);
}

#[test]
fn what_may_have_been_written_stays_unknown_wherever_it_goes() {
    let mut first = true;
    let (one, _) = scripted(move |_| match std::mem::take(&mut first) {
        true => {
            "HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 0\r\nCatstore-Error: unknown_outcome\r\n\r\n"
                .into()
        }
        false => moved(Some(1)),
    });
    let (two, asked_two) = scripted(|_| refusal("overloaded", ""));
    let master = master(None);
    master.site.learn(view(1, &[one, two], SlotTable::whole(0)));
    let answer = put(&master, "Catstore-Request-Id: i\r\nCatstore-Deadline: 900\r\n");
    assert_eq!((answer.status, answer.word().as_str()), (504, "unknown_outcome"), "{}", answer.body);
    assert_eq!(count(&asked_two), 1, "the repeat goes to the new owner");
}

/// The page of a group with these keys and slots.
fn page(keys: &[&str], after: Option<&str>, slots: &[(u16, u16)]) -> String {
    let keys: Vec<Value> = keys
        .iter()
        .map(|key| json!({"key": key, "version": 1, "size": 1, "modified": 0, "content_type": ""}))
        .collect();
    let slots: Vec<Value> = slots.iter().map(|(first, last)| json!({"first": first, "last": last})).collect();
    let mut page = json!({"keys": keys, "slots": slots});
    if let Some(after) = after {
        page["after"] = json!(after);
    }
    document(&page)
}

fn keys(answer: &Answer) -> (Vec<String>, Option<String>) {
    let page: Value = serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("{}", answer.body));
    assert!(page.get("slots").is_none(), "{page}");
    let keys = page["keys"].as_array().unwrap().iter().map(|key| key["key"].as_str().unwrap().to_owned());
    (keys.collect(), page["after"].as_str().map(str::to_owned))
}

#[test]
fn a_list_is_made_of_pages_of_all_groups() {
    let (one, asked_one) = scripted(|_| page(&["a", "c"], Some("c"), &[(0, 8191)]));
    let (two, asked_two) = scripted(|_| page(&["b", "d"], None, &[(8192, 16383)]));
    let master = master(None);
    master.site.learn(view(1, &[one, two], halves()));
    let answer = master.get("/kv?prefix=%20x%26&after=y&limit=7&values=true", "");
    assert_eq!(keys(&answer), (vec!["a".into(), "b".into(), "c".into()], Some("c".into())));
    assert!(!answer.head.contains("catstore-slots"), "{}", answer.head);
    let request = asked_two.lock().unwrap()[0].clone();
    let line = "GET /internal/list?group=1&limit=7&values=true&prefix=%20x%26&after=y HTTP/1.1\r\n";
    assert!(request.starts_with(line), "{request}");
    assert_eq!((count(&asked_one), count(&asked_two)), (1, 1));
}

#[test]
fn pages_between_which_slots_changed_hands_are_asked_for_again() {
    // Group 1 has taken slots of group 0 already; group 0 says so at the second time only.
    let mut asked = 0;
    let (one, _) = scripted(move |request| {
        if request.starts_with("GET /cluster") {
            return refusal("overloaded", "");
        }
        asked += 1;
        page(&["a"], None, &[(0, if asked < 3 { 8191 } else { 99 })])
    });
    let (two, asked_two) = scripted(|_| page(&["b"], None, &[(100, 16383)]));
    let master = master(None);
    master.site.learn(view(1, &[one, two], halves()));
    let answer = master.get("/kv?consistency=stale", "");
    assert_eq!(keys(&answer), (vec!["a".into(), "b".into()], None));
    assert!(answer.head.contains("catstore-applied-lag: 0"), "{}", answer.head);
    assert_eq!(count(&asked_two), 3);
    let lines: Vec<bool> =
        asked_two.lock().unwrap().iter().map(|request| request.contains("&consistency=stale")).collect();
    assert_eq!(lines, [true, false, false], "copies that contradict each other are not asked for long");

    let (one, _) = scripted(|_| page(&["a"], None, &[(0, 99)]));
    let (two, _) = scripted(|_| page(&["b"], None, &[(200, 16383)]));
    master.site.learn(view(2, &[one, two], halves()));
    let answer = master.get("/kv", "Catstore-Deadline: 700\r\n");
    assert_eq!((answer.status, answer.word().as_str()), (503, "moving"), "{}", answer.body);
}

#[test]
fn a_page_names_a_group_that_the_routes_do_not() {
    let (one, _) = scripted(|request| match request.starts_with("GET /cluster") {
        true => refusal("overloaded", ""),
        false => document(&json!({"keys": [], "slots": [{"first": 0, "last": 99}], "gave_to": 1})),
    });
    let (two, _) = scripted(|_| page(&["b"], None, &[(100, 16383)]));
    let master = master(None);
    master.site.learn(view(1, &[one, two], SlotTable::whole(0)));
    assert_eq!(keys(&master.get("/kv", "")), (vec!["b".into()], None));
}

#[test]
fn one_group_with_every_slot_answers_by_itself() {
    let whole = r#"{"keys":[],"after":"x"}"#;
    let answer =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nCatstore-Slots: all\r\n\r\n{whole}", whole.len());
    let (one, _) = scripted(move |_| answer.clone());
    let master = master(None);
    master.site.learn(view(1, std::slice::from_ref(&one), SlotTable::whole(0)));
    let answer = master.get("/kv?limit=3", "");
    assert_eq!((answer.status, answer.body.as_str()), (200, whole));
    assert!(!answer.head.contains("catstore-slots"));
    let redirected = master.get("/kv?limit=3", "Prefer: redirect\r\n");
    assert!(redirected.head.contains(&format!("location: http://{one}/kv?limit=3")), "{}", redirected.head);
}

/// A worker with a replica of its own; its master is a few lines of test.
pub(super) struct Source {
    pub(super) node: Running,
    _folder: tempfile::TempDir,
}

/// What the master of workers tells them.
type Routes = Arc<Mutex<ClusterView>>;

/// Workers 0 to `count` - 1, each the founder of a group; group 0 owns every slot. Behind them come groups of `others`.
fn workers(count: usize, others: &[String]) -> (Vec<Source>, Routes) {
    let routes = Routes::default();
    let (known, mut next) = (routes.clone(), 0);
    let (master, _) = scripted(move |request| {
        let view = known.lock().unwrap().clone();
        if request.starts_with("POST /internal/register") {
            let slots = if next == 0 { SlotTable::whole(0).ranges().to_vec() } else { Vec::new() };
            let (index, note, found, incarnation) = (next, None, true, 1);
            next += 1;
            return document(&RegisterReply { index, group: index, note, slots, found, incarnation, view });
        }
        let (leaders, view) = (view.leaders(), Some(view));
        document(&HeartbeatReply {
            register: false,
            view,
            leaders,
            refused: None,
            leads: true,
            incarnation: 1,
        })
    });
    let sources: Vec<(Source, WorkerOptions)> = (0..count).map(|_| Source::new(&master)).collect();
    let own = sources.iter().map(|(source, _)| format!("127.0.0.1:{}", source.node.port));
    let addresses: Vec<String> = own.chain(others.iter().cloned()).collect();
    *routes.lock().unwrap() = view(1, &addresses, SlotTable::whole(0));
    for (source, options) in &sources {
        worker::start(&source.node.site, options, source.node.port).unwrap();
    }
    (sources.into_iter().map(|(source, _)| source).collect(), routes)
}

impl Source {
    /// A worker that has not started.
    pub(super) fn new(master: &str) -> (Source, WorkerOptions) {
        let folder = tempfile::tempdir().unwrap();
        let mut options = WorkerOptions {
            node: node_options(),
            masters: vec![master.to_owned()],
            clone: None,
            replace: None,
            accept_data_loss: false,
            files: None,
            max_value: 1 << 20,
            reserve: 0,
            keep_uploads: Duration::ZERO,
            quorum_reads: false,
        };
        options.node.data = folder.path().join("w");
        let (events, ear) = channel();
        let wire = Arc::new(HttpWire::new(None));
        let node = Node::new("worker", replica_options(&options.node, &wire));
        let member = Member::Worker(Box::new(Worker::new(&options, node, wire).unwrap()));
        let site = Arc::new(Site::new(member, Guard::new(None, options.node.names()), events));
        let serving = serve(&options.node, &site, Limits::default()).unwrap();
        (Source { node: Running::of(site, serving, ear), _folder: folder }, options)
    }

    fn replica(&self) -> KeyspaceHandle {
        let Mode::Open(replica) = &*self.node.site.worker().unwrap().node.mode() else { panic!("not open") };
        replica.clone()
    }

    /// Takes a step of the move, as its mover would.
    fn step(&self, step: MoveStep) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let request = Request { id: None, command: Command::Move(step) };
        let reply = runtime.block_on(self.replica().submit(request, Instant::now() + Duration::from_secs(5)));
        assert_eq!(reply.unwrap(), Reply::MoveNoted);
    }

    fn begin(&self) {
        let slots = SlotSet::of([Span { first: slot(b"A"), last: slot(b"A") }]);
        self.step(MoveStep::Begin { id: 1, attempt: 1, slots, to: 1 });
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let _ = self.node.site.stopping.send(true);
        let _ = self.node.site.close();
    }
}

#[test]
fn a_source_lets_requests_wait_and_sends_them_on() {
    let (other, seen) = scripted(|request| match request {
        _ if request.starts_with("GET /internal/list") => page(&["A"], None, &[(slot(b"A"), slot(b"A"))]),
        _ if request.starts_with("GET /kv/A") => {
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nETag: \"9\"\r\n\r\nnew".into()
        }
        _ if request.starts_with("POST /internal/") => refusal("no_majority", ""),
        _ => CREATED.into(),
    });
    let (sources, _) = workers(1, &[other]);
    let source = &sources[0];
    let (node, given) = (&source.node, format!("catstore-owner: {}:1", slot(b"A")));
    assert_eq!(put(node, "").status, 201);
    assert_eq!(node.get("/put/B/x", "").status, 200);
    assert_eq!(keys(&node.get("/kv", "")).0, ["A", "B"]);
    assert!(seen.lock().unwrap().is_empty());

    source.begin();
    let cleared = node.get("/clear/0", "Catstore-Deadline: 500\r\n");
    assert_eq!((cleared.status, cleared.word().as_str()), (503, "moving"), "{}", cleared.body);
    assert!(cleared.body.contains("catstore status"), "{}", cleared.body);
    assert_eq!(node.get("/kv/A", "").body, "happy", "the source serves while it copies");

    source.step(MoveStep::Freeze { id: 1 });
    for path in ["/kv/A", "/kv/A?consistency=stale", "/kv", "/kv?consistency=stale"] {
        let frozen = node.get(path, "Catstore-Deadline: 300\r\n");
        assert_eq!((frozen.status, frozen.word().as_str()), (503, "moving"), "{path}: {}", frozen.body);
    }
    assert_eq!(node.get("/kv/B", "").body, "x", "other slots are served");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| put(node, "").status);
        let reading = scope.spawn(|| node.get("/kv/A", "").body);
        std::thread::sleep(Duration::from_millis(100));
        source.step(MoveStep::Give { id: 1 });
        assert_eq!((waiting.join().unwrap(), reading.join().unwrap().as_str()), (201, "new"));
    });
    let before = count(&seen);
    assert_eq!(put(node, "").status, 201);
    assert_eq!(node.get("/kv/A?consistency=stale", "").body, "new");
    assert_eq!(count(&seen), before + 2);
    assert_eq!(keys(&node.get("/kv", "")).0, ["A", "B"]);

    // Whoever sent a request here turns to the other group himself.
    for path in ["/kv/A", "/kv/A?consistency=stale", "/put/A/x"] {
        let forwarded = node.get(path, "Catstore-Forwarded: 1\r\n");
        assert_eq!((forwarded.status, forwarded.word().as_str()), (503, "moved"), "{path}");
        assert!(forwarded.head.contains(&given), "{path}: {}", forwarded.head);
    }
    let other_group = node.get("/internal/list?group=1", "Catstore-Forwarded: 1\r\n");
    assert_eq!((other_group.status, other_group.word().as_str()), (503, "moved"));
    assert!(node.get("/internal/list?group=0", "Catstore-Forwarded: 1\r\n").body.contains("\"gave_to\":1"));
}

/// The version that an answer names.
fn version(answer: &Answer) -> u64 {
    let tag = answer.head.lines().find_map(|line| line.strip_prefix("etag: \"")?.strip_suffix('"'));
    tag.unwrap_or_else(|| panic!("{} {}", answer.head, answer.body)).parse().unwrap()
}

/// Writes and reads keys of its own through one node after the other until it is told to stop; returns how often. Some
/// writes are said twice, under one id.
fn rounds(nodes: &[&Running], writer: usize, stop: &AtomicBool) -> usize {
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        let (key, node) = (format!("w{writer}-{}", round % 40), nodes[(round + writer) % nodes.len()]);
        let id = match round % 2 {
            0 => String::new(),
            _ => format!("Catstore-Request-Id: {writer:032x}:{}\r\n", round + 1),
        };
        let path = format!("/put/{key}/{round}");
        let written = node.get(&path, &id);
        assert_eq!(written.status, 200, "{key}: {}", written.body);
        if !id.is_empty() {
            let again = nodes[(round + writer + 1) % nodes.len()].get(&path, &id);
            assert_eq!(version(&again), version(&written), "{key}: {}", again.body);
        }
        let node = nodes[(round / 2) % nodes.len()];
        let read = node.get(&format!("/kv/{key}"), "");
        assert_eq!((read.status, read.body.as_str()), (200, round.to_string().as_str()), "{key}");
        round += 1;
    }
    round
}

/// Lists until it is told to stop: keys that nobody touches are always all there, once and in order.
fn lists(nodes: &[&Running], expected: &[String], stop: &AtomicBool) -> usize {
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        let stale = if round % 3 == 2 { "&consistency=stale" } else { "" };
        let (mut found, mut after) = (Vec::new(), String::new());
        loop {
            let path = format!("/kv?prefix=k&limit=70{after}{stale}");
            let (keys, next) = keys(&nodes[round % nodes.len()].get(&path, ""));
            found.extend(keys);
            let Some(next) = next else { break };
            after = format!("&after={next}");
        }
        assert_eq!(found, expected, "round {round}");
        round += 1;
    }
    round
}

#[test]
fn half_of_the_slots_move_and_nobody_notices_though_the_masters_never_hear_of_it() {
    let (sources, routes) = workers(2, &[]);
    let outside = master(None);
    outside.site.learn(routes.lock().unwrap().clone());
    let expected: Vec<String> = (0..200).map(|number| format!("k{number:03}")).collect();
    for key in &expected {
        assert_eq!(outside.get(&format!("/put/{key}/{key}"), "").status, 200);
    }
    let nodes = [&sources[0].node, &sources[1].node, &outside];
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut threads: Vec<_> = (0..3)
            .map(|writer| {
                let (nodes, stop) = (&nodes, &stop);
                scope.spawn(move || rounds(nodes, writer, stop))
            })
            .collect();
        threads.push(scope.spawn(|| lists(&nodes, &expected, &stop)));
        std::thread::sleep(Duration::from_millis(300));
        let slots = SlotSet::of([Span { first: 0, last: 8191 }]);
        {
            let mut routes = routes.lock().unwrap();
            routes.moves =
                vec![MoveOrder { id: 1, slots, from: 0, to: 1, cancelled: false, switched: false }];
            (routes.epoch, routes.next_move) = (2, 2);
        }
        let end = Instant::now() + Duration::from_secs(30);
        let owned = |at: usize| sources[at].replica().applied().unwrap().published.slots.ranges().len();
        while owned(1) == 0 && Instant::now() < end && threads.iter().all(|thread| !thread.is_finished()) {
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(Duration::from_millis(500));
        stop.store(true, Ordering::Relaxed);
        assert_eq!(owned(1), 1, "it moved");
        let counts: Vec<usize> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(counts.iter().all(|count| *count > 3), "{counts:?}");
    });
    assert!(nodes.iter().all(|node| node.site.view().slots.count(1) == 0), "nobody told the nodes");
    for node in nodes {
        for key in &expected {
            let read = node.get(&format!("/kv/{key}?consistency=stale"), "");
            assert_eq!((read.status, &read.body), (200, key));
        }
        assert_eq!(node.get("/kv?prefix=w", "").status, 200);
    }
}
