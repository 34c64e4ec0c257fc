//! Groups of several members, some of which do not answer, know no leader, or are behind.

use super::{Act, Fake, STORED, Seen, answer, at_first, client, document, one_request, problem, put, view};
use crate::client::GetOptions;
use crate::cluster::slots::SlotTable;
use crate::cluster::view::MemberView;
use crate::error::Kind;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

type Script = Box<dyn FnMut(&Seen) -> Act + Send>;

/// A group of three, the first of which leads, as the members themselves show it.
fn three(mut acts: [Script; 3]) -> [Fake; 3] {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let addresses = listeners.each_ref().map(|listener| listener.local_addr().unwrap().to_string());
    let mut view = view("c", &[], &[&addresses[0]]);
    for (index, address) in (1..).zip(&addresses[1..]) {
        let member =
            MemberView { index, address: address.clone(), voter: true, fit: true, data: "/d".into() };
        view.groups[0].members.push(member);
    }
    let mut acts = acts.each_mut().map(|act| std::mem::replace(act, Box::new(|_| Act::Hangup))).into_iter();
    let mut addresses = addresses.into_iter();
    listeners.map(|listener| {
        let (view, mut act) = (view.clone(), acts.next().unwrap());
        Fake::on(listener, addresses.next().unwrap(), move |request| {
            if request.line.starts_with("GET /cluster") { document(&view) } else { act(request) }
        })
    })
}

#[test]
fn another_member_answers_what_the_leader_does_not() {
    let stored = |_: &Seen| answer("200 OK", STORED, "");
    let members = three([Box::new(|_| Act::Silence), Box::new(stored), Box::new(|_| Act::Hangup)]);
    let client = client(&members[1].address);
    assert!(put(&client).is_ok());
    one_request(&[members[0].seen(), members[1].seen()].concat());
    assert!(put(&client).is_ok());
    let counts = members.each_ref().map(|member| member.seen().len());
    assert_eq!(counts, [1, 2, 0], "who was silent is not asked first again");
}

#[test]
fn a_member_without_a_leader_is_gone_around_until_one_leads() {
    let none = || problem("503 Service Unavailable", Kind::NoMajority, "Retry-After: 1\r\n");
    let members = three([
        Box::new(|_| Act::Hangup),
        Box::new(move |_| none()),
        Box::new(at_first(2, none, || answer("201 Created", STORED, ""))),
    ]);
    assert!(put(&client(&members[1].address)).is_ok());
    one_request(&members.each_ref().map(Fake::seen).concat());
    let counts = members.each_ref().map(|member| member.seen().len());
    assert_eq!(counts[2], 3, "{counts:?}");
}

#[test]
fn a_read_goes_to_other_members_at_once() {
    let happy = |_: &Seen| answer("200 OK", "ETag: \"3\"\r\n", "happy");
    let none = |_: &Seen| problem("503 Service Unavailable", Kind::NoMajority, "");
    let members = three([Box::new(|_| Act::Silence), Box::new(none), Box::new(happy)]);
    let value = client(&members[1].address).get("A").unwrap().unwrap();
    assert_eq!(value.bytes, b"happy");
    assert_eq!(members.each_ref().map(|member| member.seen().len()), [1, 1, 1]);
}

#[test]
fn a_stale_read_takes_the_first_member_that_answers() {
    let behind = |_: &Seen| answer("200 OK", "ETag: \"3\"\r\nCatstore-Applied-Lag: 120\r\n", "happy");
    let closed = |_: &Seen| problem("503 Service Unavailable", Kind::Closed, "");
    let members = three([Box::new(|_| Act::Hangup), Box::new(behind), Box::new(closed)]);
    let stale = GetOptions { stale: true };
    for (seed, expected) in [(1, [0, 1, 0]), (2, [0, 2, 1])] {
        let value = client(&members[seed].address).get_with("A", stale).unwrap().unwrap();
        assert_eq!((value.bytes.as_slice(), value.lag.as_deref()), (b"happy".as_slice(), Some("120")));
        assert_eq!(members.each_ref().map(|member| member.seen().len()), expected);
    }
    assert!(members[1].seen().iter().all(|seen| seen.line.starts_with("GET /kv/A?consistency=stale ")));
}

#[test]
fn an_answer_that_names_newer_routes_makes_the_client_ask_for_them() {
    let current = Arc::new(Mutex::new((view("c", &[], &[]), 0)));
    let two = Fake::start(|_| answer("201 Created", STORED, ""));
    let told = current.clone();
    let one = Fake::start(move |request| {
        let mut current = told.lock().unwrap();
        if request.line.starts_with("GET /cluster") {
            current.1 += 1;
            return document(&current.0);
        }
        answer("201 Created", &format!("{STORED}Catstore-Epoch: {}\r\n", current.0.epoch), "")
    });
    let before = view("c", &[], &[&one.address, &two.address]);
    current.lock().unwrap().0 = before.clone();
    let client = client(&one.address);
    assert!(put(&client).is_ok() && put(&client).is_ok());
    assert_eq!((one.seen().len(), two.seen().len(), current.lock().unwrap().1), (2, 0, 1));
    let mut after = before;
    (after.epoch, after.slots) = (2, SlotTable::whole(1));
    current.lock().unwrap().0 = after;
    for _ in 0..3 {
        assert!(put(&client).is_ok());
    }
    assert_eq!((one.seen().len(), two.seen().len(), current.lock().unwrap().1), (3, 2, 2));
}
