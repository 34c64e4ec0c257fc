//! Lanes: what is heard on them, and what is left to the client.

use super::{Act, Fake, document};
use super::{STORED, alone, answer, client, id_of, nobody, problem, view};
use crate::client::{Client, Heard, Lane, Reply};
use crate::cluster::slots::{SLOTS, SlotRange, SlotTable, slot};
use crate::error::Kind;
use std::cell::Cell;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// A client that knows its cluster.
fn knowing(seed: &str) -> Client {
    let client = client(seed);
    client.cluster().unwrap();
    client
}

/// What comes of a request that is under way, or was closed.
fn hear(lane: &mut Lane<'_>) -> Heard {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        match lane.hear() {
            Heard::Nothing => assert!(Instant::now() < end, "nothing came"),
            heard => return heard,
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_lane_reads_and_writes() {
    let node = alone(|request| match request.line.split(' ').next() {
        Some("GET") if request.line.contains("/kv/A") => answer("200 OK", "ETag: \"3\"\r\n", "happy"),
        Some("GET") => problem("404 Not Found", Kind::NotFound, ""),
        _ => answer("201 Created", STORED, ""),
    });
    let client = knowing(&node.address);
    let mut lane = Lane::new(&client, |_| Ok(()));
    assert!(lane.get(b"A"));
    let Heard::Reply(Reply::Value(Some(value))) = hear(&mut lane) else { panic!("no value") };
    assert_eq!((value.bytes.as_slice(), value.version), (b"happy".as_slice(), 3));
    for key in ["B", "C"] {
        // The node closed the connection after its answer.
        lane.close();
        assert!(lane.get(key.as_bytes()));
        assert!(matches!(hear(&mut lane), Heard::Reply(Reply::Value(None))));
    }
    lane.close();
    assert!(lane.put(b"A", b"happy"));
    let Heard::Reply(Reply::Stored(stored)) = hear(&mut lane) else { panic!("not stored") };
    assert_eq!((stored.version, stored.created), (7, true));
    let seen = node.seen();
    let put = seen.last().unwrap();
    assert_eq!((put.line.as_str(), put.body.as_slice()), ("PUT /kv/A HTTP/1.1", b"happy".as_slice()));
    assert!(id_of(put).is_some() && id_of(&seen[0]).is_none());
    assert!(matches!(lane.close(), Heard::Nothing), "nothing is under way");
}

#[test]
fn what_is_not_plain_is_lost_and_what_is_wrong_is_told() {
    let acts: [(fn() -> Act, bool); 6] = [
        (|| problem("503 Service Unavailable", Kind::Overloaded, ""), false),
        (|| problem("421 Misdirected Request", Kind::Moved, ""), false),
        (|| Act::Hangup, false),
        (|| Act::Stranger("HTTP/1.1 200 OK\r\nETag: \"3\"\r\nContent-Length: 0\r\n\r\n".into()), false),
        (|| answer("200 OK", "", "no version"), false),
        (|| answer("200 OK", "ETag: \"3\"\r\nCatstore-Checksum: crc32=00000000\r\n", "happy"), true),
    ];
    for (index, (act, is_damaged)) in acts.into_iter().enumerate() {
        let node = alone(move |_| act());
        let client = knowing(&node.address);
        let mut lane = Lane::new(&client, |_| Ok(()));
        assert!(lane.get(b"A"));
        match hear(&mut lane) {
            Heard::Damaged(error) => assert!(is_damaged && error.kind() == Kind::Damaged, "{index}: {error}"),
            heard => assert!(matches!(heard, Heard::Lost) && !is_damaged, "{index}: {heard:?}"),
        }
    }
}

#[test]
fn a_lane_that_hears_of_newer_routes_waits_for_the_client_to_learn_them() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut view = view("c", &[], &[&address]);
    let node = Fake::on(listener, address, move |request| {
        if request.line.starts_with("GET /cluster") {
            let act = document(&view);
            view.epoch = 2;
            return act;
        }
        answer("200 OK", "ETag: \"3\"\r\nCatstore-Epoch: 2\r\n", "happy")
    });
    let client = client(&node.address);
    client.known(Instant::now() + Duration::from_secs(5)).unwrap();
    let mut lane = Lane::new(&client, |_| Ok(()));
    assert!(lane.get(b"A"));
    assert!(matches!(hear(&mut lane), Heard::Reply(_)));
    lane.close();
    assert!(!lane.get(b"A"));
    client.get("A").unwrap();
    assert!(lane.get(b"A"));
}

#[test]
fn a_lane_to_nobody_asks_nothing() {
    let node = Fake::start(|_| Act::Hangup);
    let gone = nobody();
    let shown = view("c", &[&node.address], &[&gone]);
    let master = Fake::start(move |_| document(&shown));
    let client = knowing(&master.address);
    let mut lane = Lane::new(&client, |_| Ok(()));
    assert!(!lane.open() && !lane.get(b"A") && !lane.put(b"A", b"happy"));
    assert!(!lane.get(b""), "a key has at least one byte");
}

/// A node that answers so many requests on each connection with one value, and closes it then.
fn patient(answers: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            for _ in 0..answers {
                let mut line = String::new();
                while reader.read_line(&mut line).unwrap() > 2 {
                    line.clear();
                }
                let answer =
                    "HTTP/1.1 200 OK\r\nCatstore-Cluster: c\r\nETag: \"3\"\r\nContent-Length: 5\r\n\r\nhappy";
                reader.get_mut().write_all(answer.as_bytes()).unwrap();
            }
        }
    });
    address
}

#[test]
fn a_lane_keeps_a_connection_to_each_node_until_that_ends() {
    const ANSWERS: usize = 4;
    let nodes = [patient(ANSWERS), patient(ANSWERS)];
    let mut shown = view("c", &[], &[&nodes[0], &nodes[1]]);
    let half = SLOTS / 2;
    let ranges = [(0, half - 1, 0), (half, SLOTS - 1, 1)];
    let ranges = ranges.map(|(first, last, group)| SlotRange { first, last, group });
    shown.slots = SlotTable::from_ranges(ranges.into()).unwrap();
    let master = Fake::start(move |_| document(&shown));
    let client = knowing(&master.address);
    let key = |group: u16| {
        let letters = (b'A'..=b'Z').map(|letter| [letter]);
        letters.into_iter().find(|key| slot(key) / half == group).unwrap()
    };
    let opened = Cell::new(0);
    let mut lane = Lane::new(&client, |_| {
        opened.set(opened.get() + 1);
        Ok(())
    });
    assert!(lane.open());
    assert_eq!(opened.get(), 2);
    for _ in 0..ANSWERS {
        for group in [0, 1] {
            assert!(lane.get(&key(group)));
            assert!(matches!(hear(&mut lane), Heard::Reply(Reply::Value(Some(_)))));
        }
    }
    assert_eq!(opened.get(), 2);
    // Both were closed by now, or will be: what hears of that while nothing is under way asks on another.
    let end = Instant::now() + Duration::from_secs(5);
    while opened.get() < 4 {
        assert!(Instant::now() < end, "a connection that ended is kept");
        std::thread::sleep(Duration::from_millis(10));
        assert!(matches!(lane.hear(), Heard::Nothing));
        for group in [0, 1] {
            if lane.get(&key(group)) {
                assert!(!matches!(hear(&mut lane), Heard::Damaged(_)));
            }
        }
    }
}
