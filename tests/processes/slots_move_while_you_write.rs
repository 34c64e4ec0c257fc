//! "What if it moves my keys while I write them?" A second founder takes its share, and gives it back when it is drained;
//! nobody who reads, writes or lists meanwhile sees an error, a stale value or a key less.

use crate::common;
use crate::common::clients::{Clients, Habits};
use crate::common::node::kv;
use crate::common::{Home, Node, Session, pause, until};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

/// Keys beside those of the clients.
const KEYS: usize = 3000;

/// A master whose moves are slow enough to be met, and the worker that holds every slot.
fn begin(home: &Home) -> (Node, Node) {
    let master = home.start("master", &["--move-rate", "300000"]);
    let worker = home.worker(&master);
    fill(&worker);
    (master, worker)
}

fn fill(node: &Node) {
    let mut session = Session::new(node.port);
    for number in 0..KEYS / 100 {
        let key = |part: usize| format!("{{tag{number}}}still/{number:03}{part:02}");
        let ops: Vec<Value> = (0..100)
            .map(|part| json!({"op": "put", "key": key(part), "value": format!("{number} {part} {}", "x".repeat(300))}))
            .collect();
        let body = json!({ "ops": ops }).to_string();
        assert_eq!(session.ask("POST", "/batch", &[], Some(body.as_bytes())).status, 200);
    }
}

/// How many slots each group owns, as this node knows, if nothing moves.
fn shares(node: &Node) -> Option<Vec<(u64, u64)>> {
    let view = node.get("/cluster").must_be(200).json();
    if view["moves"].as_array().is_none_or(|moves| !moves.is_empty()) {
        return None;
    }
    let mut shares = std::collections::BTreeMap::new();
    for range in view["slots"].as_array()? {
        let number = |name: &str| range[name].as_u64().expect("a number");
        *shares.entry(number("group")).or_default() += number("last") - number("first") + 1;
    }
    Some(shares.into_iter().collect())
}

fn await_shares(node: &Node, wanted: &[(u64, u64)]) {
    until(&format!("the shares are {wanted:?}"), || (shares(node)? == wanted).then_some(()));
}

/// Every key of `fill`, listed in pages: in order, each once, all of them.
fn list_all(node: &Node) {
    let mut session = Session::new(node.port);
    let (mut after, mut all) = (String::new(), Vec::new());
    loop {
        let path = match after.as_str() {
            "" => "/kv?limit=700".to_owned(),
            after => format!("/kv?limit=700&after={after}"),
        };
        let page = session.ask("GET", &path, &[], None);
        assert_eq!(page.status, 200, "{}", page.text());
        let page = page.json();
        all.extend(common::listed(&page));
        match page["after"].as_str() {
            Some(last) => after = common::encode(last),
            None => break,
        }
    }
    assert!(all.windows(2).all(|pair| pair[0] < pair[1]), "in order, each once");
    let still: BTreeSet<&String> = all.iter().filter(|key| key.contains("}still/")).collect();
    assert_eq!(still.len(), KEYS);
}

#[test]
fn a_second_founder_takes_its_share_and_gives_it_back_and_nobody_notices() {
    let home = Home::new();
    let (master, first) = begin(&home);
    let clients = Clients::start(&[master.port, first.port], Habits::default());
    clients.progress(100);
    let mut second = home.worker(&master);
    assert!(second.ready.starts_with("ready worker 1 "), "{}", second.ready);
    clients.talk_to(&[master.port, first.port, second.port]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let lister = scope.spawn(|| {
            let mut lists = 0;
            while !stop.load(Ordering::Relaxed) {
                [&master, &first, &second].into_iter().for_each(list_all);
                lists += 1;
            }
            lists
        });
        await_shares(&master, &[(0, 8192), (1, 8192)]);
        stop.store(true, Ordering::Relaxed);
        assert!(lister.join().expect("lists that are complete") > 0);
    });
    clients.progress(100);
    for node in [&master, &first, &second] {
        list_all(node);
    }
    assert_eq!(clients.failures(), 0, "{:?}", clients.counts());

    // The second one gives everything back, and goes.
    clients.talk_to(&[master.port, first.port]);
    pause(300);
    home.run_at(&master, &["drain", "--group", "1"]).exits(0);
    await_shares(&master, &[(0, 16384)]);
    until("the drained worker ends", || second.exit_code());
    assert_eq!(second.exit_code(), Some(0), "{}", second.log());
    clients.progress(100);
    assert_eq!(clients.failures(), 0, "{:?}", clients.counts());
    list_all(&first);
    clients.finish_and_check(&[master.port, first.port]);
}

#[test]
fn what_was_written_in_one_group_is_the_same_in_the_next() {
    let home = Home::new();
    let (master, first) = begin(&home);
    // What a record is beside its bytes comes along: version, type, time, time to live, and the reply to a request id.
    let typed = [("Content-Type", "text/cat"), ("Catstore-Request-Id", "once")];
    let before: Vec<_> = (0..64)
        .map(|number| {
            let key = format!("typed/{number}");
            let reply = first.ask("PUT", &format!("{}?ttl=1h", kv(&key)), &typed, Some(b"meow"));
            assert_eq!(reply.status, 201);
            (key.clone(), first.get(&kv(&key)))
        })
        .collect();
    let second = home.worker(&master);
    await_shares(&master, &[(0, 8192), (1, 8192)]);
    for (key, before) in &before {
        for node in [&master, &first, &second] {
            let now = node.get(&kv(key));
            assert_eq!((now.status, &now.body), (200, &before.body));
            for name in ["etag", "content-type", "last-modified", "catstore-checksum"] {
                assert_eq!(now.header(name), before.header(name), "{name} of {key}");
            }
        }
        // A repeat gets the first reply, wherever the key is by now.
        let repeat = second.ask("PUT", &format!("{}?ttl=1h", kv(key)), &typed, Some(b"meow"));
        assert_eq!((repeat.status, repeat.version()), (201, before.version()));
        let next = second.ask("PUT", &kv(key), &[], Some(b"purr"));
        assert!(next.status == 200 && next.version() > before.version(), "versions go on");
    }
    // Neither side holds what is the other's.
    let keys = |node: &Node| node.get("/worker").must_be(200).json()["keys"].as_u64().expect("a number");
    until("the source has let go of what it gave", || {
        (keys(&first) + keys(&second) == (KEYS + before.len()) as u64).then_some(())
    });
    // Clear of one group clears its share and no more.
    master.ask("POST", "/clear/1", &[], None).must_be(200);
    until("group 1 is empty", || (keys(&second) == 0).then_some(()));
    assert!(keys(&first) > 0);
}
