//! "I restarted it and requests broke." SIGTERM under load: what was accepted is answered, the process is gone
//! within five seconds with exit code 0, and everything acknowledged is there at the next start.

use crate::common;
use crate::common::load::{Ending, Load, Writer};
use crate::common::{Cluster, Dice, until};
use rustix::process::Signal;
use std::time::{Duration, Instant};

#[test]
fn every_accepted_request_is_answered() {
    let mut cluster = Cluster::start();
    let mut dice = Dice::fresh();
    let mut writers: Vec<Writer> = (0..24)
        .map(|number| Writer::new(&format!("w{number}"), cluster.worker.port, dice.throw(), 40_000))
        .collect();
    for round in 0..5 {
        let load = Load::start(writers);
        until("all are at work", || (load.done() > 200).then_some(()));
        let start = Instant::now();
        cluster.worker.signal(Signal::TERM);
        let code = cluster.worker.wait(Duration::from_secs(20));
        let took = start.elapsed();
        assert_eq!(code, 0, "{}", cluster.worker.log());
        assert!(took < Duration::from_secs(6), "it took {took:?} to stop");
        writers = load.finish();
        let dropped: Vec<Duration> = writers
            .iter()
            .flat_map(|writer| &writer.endings)
            .filter(|(_, ending)| *ending == Ending::Unknown)
            .map(|(begun, _)| start.saturating_duration_since(*begun))
            .collect();
        // Each of them keeps its connection, hears that it closes, and finds nobody when it comes back.
        assert!(dropped.is_empty(), "without an answer, begun so long before the signal: {dropped:?}");
        println!("round {round}: stopped after {took:?}");
        cluster.worker.restart();
        for writer in &mut writers {
            writer.check(&cluster.worker);
        }
    }
}

/// What a client without patience for a second try does: each request on a connection of its own.
fn come_and_go(port: u16, start: Instant) -> (u32, Vec<(Duration, std::io::Error)>) {
    use crate::common::http::{connect, read_reply, request};
    use std::io::{BufReader, Write};
    let (mut answered, mut broken) = (0, Vec::new());
    let bytes = request(port, "GET", "/kv/A", &[("Connection", "close")], None);
    while let Ok(mut stream) = connect(port) {
        let begun = start.elapsed();
        let sent = stream.write_all(&bytes);
        match sent.and_then(|()| read_reply(&mut BufReader::new(stream), false)) {
            Ok(reply) if reply.status == 200 => answered += 1,
            Ok(reply) => drop(reply.must_be_problem(503, "closed")),
            Err(error) => broken.push((begun, error)),
        }
    }
    (answered, broken)
}

#[test]
fn connections_that_come_while_it_stops_are_answered_or_refused() {
    let mut cluster = Cluster::start();
    cluster.worker.put("A", "happy");
    let mut lost = 0;
    for round in 0..5 {
        let (port, start) = (cluster.worker.port, Instant::now());
        let clients: Vec<_> = (0..8).map(|_| std::thread::spawn(move || come_and_go(port, start))).collect();
        std::thread::sleep(Duration::from_millis(300));
        let signal = start.elapsed();
        cluster.worker.stop();
        for client in clients {
            let (answered, broken) = client.join().unwrap();
            assert!(answered > 0, "a client was not served at all");
            println!("round {round}: {answered} answered; signal after {signal:?}; broken: {broken:?}");
            lost += broken.len();
        }
        cluster.worker.restart();
    }
    assert_eq!(lost, 0);
}

#[test]
fn who_kept_a_connection_and_was_told_nothing_is_answered() {
    use crate::common::http::{connect, read_reply, request};
    use std::io::{BufReader, Write};
    // The node keeps an idle connection for 100 ms after it was told to stop; what is sent until then is answered.
    const GRACE: Duration = Duration::from_millis(80);
    let mut cluster = Cluster::start();
    cluster.worker.put("A", "happy");
    for round in 0..5 {
        let port = cluster.worker.port;
        let bytes = request(port, "GET", "/kv/A", &[], None);
        let idle: Vec<_> = (0..30)
            .map(|_| {
                let mut stream = BufReader::new(connect(port).unwrap());
                stream.get_mut().write_all(&bytes).unwrap();
                let reply = read_reply(&mut stream, false).unwrap().must_be(200);
                assert_eq!(reply.header("connection"), None);
                stream
            })
            .collect();
        let signal = Instant::now();
        cluster.worker.signal(Signal::TERM);
        let clients: Vec<_> = idle
            .into_iter()
            .enumerate()
            .map(|(number, mut stream)| {
                let bytes = bytes.clone();
                std::thread::spawn(move || {
                    // From at once to later than the node waits.
                    let pause = Duration::from_millis(number as u64 * 4);
                    std::thread::sleep(pause.saturating_sub(signal.elapsed()));
                    let sent = stream.get_mut().write_all(&bytes);
                    let when = signal.elapsed();
                    (when, sent.and_then(|()| read_reply(&mut stream, false)))
                })
            })
            .collect();
        let mut late = 0;
        for client in clients {
            match client.join().unwrap() {
                (_, Ok(reply)) => {
                    assert_eq!(reply.must_be(200).text(), "happy");
                }
                (when, Err(error)) => {
                    assert!(when > GRACE, "sent {when:?} after the signal and not answered: {error}");
                    late += 1;
                }
            }
        }
        println!("round {round}: {late} of 30 came too late");
        assert_eq!(cluster.worker.wait(Duration::from_secs(10)), 0, "{}", cluster.worker.log());
        cluster.worker.restart();
    }
}

#[test]
fn what_waits_for_another_node_is_answered_too() {
    use crate::common::http::{connect, read_reply, request};
    use std::io::{BufReader, Write};
    let mut cluster = Cluster::start();
    cluster.master.put("A", "happy");
    cluster.worker.signal(Signal::STOP);
    let port = cluster.master.port;
    let waiting: Vec<_> = (0..20)
        .map(|number| {
            let mut stream = connect(port).unwrap();
            let bytes = request(port, "PUT", &format!("/kv/key{number}"), &[], Some(b"forwarded"));
            stream.write_all(&bytes).unwrap();
            stream
        })
        .collect();
    // It has read them all once it has answered somebody who came later, on every thread that it has.
    for _ in 0..50 {
        cluster.master.get("/health").must_be(200);
    }
    let start = Instant::now();
    cluster.master.signal(Signal::TERM);
    until("it takes no more connections", || connect(port).err());
    cluster.worker.signal(Signal::CONT);
    for stream in waiting {
        let reply = read_reply(&mut BufReader::new(stream), false).expect("an accepted request is answered");
        assert_eq!(reply.status, 201, "{}", reply.text());
    }
    assert_eq!(cluster.master.wait(Duration::from_secs(10)), 0, "{}", cluster.master.log());
    assert!(start.elapsed() < Duration::from_secs(6), "it took {:?} to stop", start.elapsed());
    assert_eq!(cluster.worker.value("key19").as_deref(), Some(b"forwarded".as_slice()));
}

#[test]
fn what_waits_for_a_dead_end_holds_it_up_for_five_seconds_at_most() {
    use crate::common::http::{connect, read_reply, request};
    use std::io::{BufReader, Write};
    let mut cluster = Cluster::start();
    cluster.master.put("A", "happy");
    cluster.worker.signal(Signal::STOP);
    let port = cluster.master.port;
    let mut stream = connect(port).unwrap();
    stream.write_all(&request(port, "PUT", "/kv/A", &[], Some(b"sad"))).unwrap();
    for _ in 0..50 {
        cluster.master.get("/health").must_be(200);
    }
    let start = Instant::now();
    cluster.master.stop();
    assert!(start.elapsed() < Duration::from_secs(6), "it took {:?} to stop", start.elapsed());
    // An answer or a broken connection: neither says that it was not written.
    if let Ok(reply) = read_reply(&mut BufReader::new(stream), false) {
        assert_eq!((reply.status, reply.word().as_str()), (504, "unknown_outcome"), "{}", reply.text());
    }
}

#[test]
fn idle_and_half_sent_requests_do_not_hold_it_up() {
    use std::io::Write;
    let mut cluster = Cluster::start();
    let mut idle = Vec::new();
    for number in 0..50 {
        let mut stream = common::http::connect(cluster.worker.port).unwrap();
        if number % 2 == 0 {
            stream
                .write_all(b"PUT /kv/half HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\nhalf")
                .unwrap();
        }
        idle.push(stream);
    }
    cluster.worker.put("A", "happy");
    let start = Instant::now();
    cluster.worker.stop();
    assert!(start.elapsed() < Duration::from_secs(6), "it took {:?} to stop", start.elapsed());
    cluster.worker.restart();
    assert_eq!(cluster.worker.value("half"), None);
    assert_eq!(cluster.worker.value("A").as_deref(), Some(b"happy".as_slice()));
}

#[test]
fn sigint_is_as_good_and_a_second_signal_quits_at_once() {
    let mut cluster = Cluster::start();
    cluster.worker.put("A", "happy");
    cluster.worker.signal(Signal::INT);
    assert_eq!(cluster.worker.wait(Duration::from_secs(10)), 0);
    cluster.master.signal(Signal::INT);
    assert_eq!(cluster.master.wait(Duration::from_secs(10)), 0);
    cluster.master.restart();
    cluster.worker.restart();
    let start = Instant::now();
    cluster.worker.signal(Signal::TERM);
    cluster.worker.signal(Signal::TERM);
    cluster.worker.wait(Duration::from_secs(10));
    assert!(start.elapsed() < Duration::from_secs(6));
    cluster.worker.restart();
    assert_eq!(cluster.worker.value("A").as_deref(), Some(b"happy".as_slice()));
}
