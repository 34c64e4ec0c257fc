//! "It slept for ten seconds, and then it answered as if nothing had happened." A leader that is stopped and goes on
//! later, as after a long pause of a virtual machine, reads nothing stale and loses no write, although it believes for
//! a moment that it still leads.

use crate::common;
use crate::common::clients::{Clients, Habits};
use crate::common::http::{connect, read_reply, request};
use crate::common::node::kv;
use crate::common::{Fleet, until};
use rustix::process::Signal;
use std::io::{BufReader, Write};
use std::time::{Duration, Instant};

/// Longer than any lease, promise or election.
const PAUSE: Duration = Duration::from_secs(10);

#[test]
fn nothing_stale_and_nothing_lost() {
    let mut fleet = Fleet::of(1, 3);
    // Clients that give a silent node up soon, so that many of them wait for the stopped one when it wakes up.
    let habits = Habits { clients: 12, silence: Duration::from_secs(3), ..Habits::default() };
    let clients = Clients::start(&fleet.ports(), habits);
    clients.progress(50);
    for round in 0..2 {
        let leader = fleet.leader();
        let others = fleet.others(leader);
        let before = format!("round {round}, before");
        fleet.workers[leader].put("A", &before);
        let stopped = Instant::now();
        fleet.workers[leader].signal(Signal::STOP);
        clients.progress(30);
        let after = format!("round {round}, after");
        until("another one takes writes", || {
            let reply = fleet.workers[others[0]].ask("PUT", &kv("A"), &[], Some(after.as_bytes()));
            (reply.status == 200).then_some(())
        });
        common::pause(PAUSE.saturating_sub(stopped.elapsed()).as_millis() as u64);
        // These reach the sleeper before it has heard of anybody else.
        let port = fleet.workers[leader].port;
        let waiting: Vec<_> = (0..8)
            .map(|_| {
                let mut stream = connect(port).expect("a connection to a stopped node");
                stream.write_all(&request(port, "GET", &kv("A"), &[], None)).expect("a request");
                stream
            })
            .collect();
        fleet.workers[leader].signal(Signal::CONT);
        for stream in waiting {
            let reply = read_reply(&mut BufReader::new(stream), false).expect("an answer");
            match reply.status {
                200 => assert_eq!(reply.text(), after, "a stale read"),
                status => assert!(matches!(status, 408 | 503), "{status} {}", reply.text()),
            }
        }
        clients.progress(30);
        fleet.await_equal();
    }
    clients.finish_and_check(&fleet.ports());
    fleet.all_run();
}
