//! "The network broke in two, and both halves went on." The leader is cut off from everybody else, in each way in which
//! a network breaks, while clients talk to both sides: one side serves, nothing is lost, nothing is stale, and when the
//! network is whole again, with whatever was still on its way, so is the group.

use crate::common;
use crate::common::Fleet;
use crate::common::clients::{Clients, Habits};
use crate::common::fleet::ask;
use crate::common::net::{Flow, inode_of};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::time::Duration;

/// A group under load, whose clients soon turn from a silent node to another one.
fn under_load() -> (Fleet, Clients) {
    let fleet = Fleet::with_links(1, 3);
    let habits = Habits { clients: 10, silence: Duration::from_secs(4), ..Habits::default() };
    let clients = Clients::start(&fleet.ports(), habits);
    clients.progress(50);
    (fleet, clients)
}

fn finish(mut fleet: Fleet, clients: Clients) {
    clients.progress(50);
    fleet.await_equal();
    clients.finish_and_check(&fleet.ports());
    fleet.all_run();
}

/// Waits until the others follow somebody else.
fn another_leads(fleet: &Fleet, leader: usize) -> usize {
    let others = fleet.others(leader);
    common::until("another one leads", || {
        let facts: Vec<_> = others.iter().filter_map(|index| fleet.facts(*index)).collect();
        let new = facts.iter().find(|facts| facts["role"] == "leader")?["index"].as_u64()?;
        facts.iter().all(|facts| facts["leader"] == new).then_some(new as usize)
    })
}

fn cut_both_ways(flow: Flow) {
    let (fleet, clients) = under_load();
    for _ in 0..2 {
        let leader = fleet.leader();
        let port = fleet.workers[leader].port;
        fleet.workers[leader].put("A", "before");
        fleet.cut_off(port, flow);
        let new = another_leads(&fleet, leader);
        fleet.workers[new].put("A", "after");
        // It answers its own clients, but neither with what is old nor with what nobody else knows.
        let reply = ask(port, "/kv/A");
        assert!(reply.as_ref().is_none_or(|reply| reply.status != 200), "read behind the cut: {reply:?}");
        clients.progress(50);
        fleet.mend();
        fleet.await_equal();
    }
    finish(fleet, clients);
}

#[test]
fn what_is_sent_arrives_late() {
    cut_both_ways(Flow::Held);
}

#[test]
fn connections_break() {
    cut_both_ways(Flow::Broken);
}

#[test]
fn it_hears_and_is_not_heard() {
    let (fleet, clients) = under_load();
    let leader = fleet.leader();
    let net = fleet.net.as_ref().expect("links");
    for other in fleet.others(leader) {
        net.set(fleet.workers[leader].port, fleet.workers[other].port, Flow::Held);
    }
    another_leads(&fleet, leader);
    clients.progress(50);
    fleet.mend();
    finish(fleet, clients);
}

#[test]
fn it_is_heard_and_does_not_hear() {
    let (fleet, clients) = under_load();
    let leader = fleet.leader();
    let net = fleet.net.as_ref().expect("links");
    for other in fleet.others(leader) {
        net.set(fleet.workers[other].port, fleet.workers[leader].port, Flow::Held);
    }
    // It must notice by itself that nobody answers, and give way.
    another_leads(&fleet, leader);
    clients.progress(50);
    fleet.mend();
    finish(fleet, clients);
}

#[test]
fn one_link_of_three_breaks() {
    let (fleet, clients) = under_load();
    let leader = fleet.leader();
    let other = fleet.others(leader)[0];
    let (one, two) = (fleet.workers[leader].port, fleet.workers[other].port);
    fleet.net.as_ref().expect("links").cut_off(one, [two], Flow::Held);
    // The third one reaches both: a majority is never far.
    clients.progress(100);
    fleet.mend();
    finish(fleet, clients);
}

/// A connection from `port` of loopback, which others may use too, to `listener`.
fn connect_from(port: u16, listener: &TcpListener) -> TcpStream {
    let end = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    sockopt::set_socket_reuseaddr(&end, true).expect("an option");
    bind(&end, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).expect("a port");
    connect(&end, &listener.local_addr().expect("an address")).expect("a connection");
    TcpStream::from(end)
}

/// The system gives one local port to several connections; a cut must not take one caller for another.
#[test]
fn callers_with_the_same_port_are_told_apart() {
    let listeners = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener"));
    let first = connect_from(0, &listeners[0]);
    let port = first.local_addr().expect("an address").port();
    let second = connect_from(port, &listeners[1]);
    for (stream, listener) in [first, second].iter().zip(&listeners) {
        let inode = rustix::fs::fstat(stream).expect("a socket").st_ino;
        let remote = listener.local_addr().expect("an address").port();
        assert_eq!(inode_of(port, remote), Some(inode));
    }
}
