//! A node that stands outside of a group of several members, and what it makes of their answers. The members are a few
//! lines of test; real ones are tested with whole processes.

use super::wire_tests::{Answer, Owner, Running, master, owner};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const CREATED: Owner = Owner::Answers("HTTP/1.1 201 Created\r\nContent-Length: 0\r\nETag: \"1\"\r\n\r\n");
const VALUE: Owner = Owner::Answers("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: \"1\"\r\n\r\nhappy");
const REFUSED: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nCatstore-Error: ";

type Seen = Arc<Mutex<Vec<String>>>;

/// A master that knows these members of the group; the first one is said to lead.
fn outside(kinds: &[Owner]) -> (Running, Vec<Seen>) {
    let (addresses, seen): (Vec<String>, Vec<Seen>) = kinds.iter().map(|kind| owner(*kind)).unzip();
    let master = master(None);
    master.route_to_members(&addresses);
    (master, seen)
}

fn refuses(word: &str) -> Owner {
    Owner::Answers(format!("{REFUSED}{word}\r\n\r\n").leak())
}

/// An address at which nobody listens.
fn nobody() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn put(node: &Running, headers: &str) -> Answer {
    let head = format!(
        "PUT /kv/A HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nConnection: close\r\n{headers}\r\nhappy"
    );
    node.ask(head.as_bytes())
}

fn counts(seen: &[Seen]) -> Vec<usize> {
    seen.iter().map(|seen| seen.lock().unwrap().len()).collect()
}

#[test]
fn a_member_that_is_down_is_passed_over_and_remembered() {
    let (address, seen) = owner(CREATED);
    let master = master(None);
    master.route_to_members(&[nobody(), address]);
    for _ in 0..3 {
        assert_eq!(put(&master, "").status, 201);
    }
    assert_eq!(seen.lock().unwrap().len(), 3);
    assert_eq!(master.site.next_member(0, &[]).map(|target| target.index), Some(1));
    assert!(seen.lock().unwrap()[0].to_ascii_lowercase().contains("catstore-forwarded: 1\r\n"));
}

#[test]
fn who_leads_is_learned_from_any_answer() {
    let moved = Owner::Answers(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nCatstore-Error: moved\r\nCatstore-Leader: 0:2\r\n\r\n",
    );
    let (master, seen) = outside(&[moved, refuses("moved"), CREATED]);
    assert_eq!(put(&master, "").status, 201);
    assert_eq!(put(&master, "").status, 201);
    assert_eq!(counts(&seen), [1, 0, 2]);
}

#[test]
fn who_refuses_is_not_the_last_word() {
    for word in ["moved", "no_majority", "closed", "failed"] {
        let (master, seen) = outside(&[refuses(word), CREATED]);
        assert_eq!(put(&master, "").status, 201, "{word}");
        assert_eq!(counts(&seen), [1, 1], "{word}");
        let (master, seen) = outside(&[refuses(word), VALUE]);
        assert_eq!(master.get("/kv/A", "").body, "happy", "{word}");
        assert_eq!(counts(&seen), [1, 1], "{word}");
    }
    for word in ["overloaded", "no_worker"] {
        let (master, seen) = outside(&[refuses(word), CREATED]);
        let answer = put(&master, "");
        assert_eq!(answer.status, 503, "{word}");
        assert!(answer.head.contains(&format!("catstore-error: {word}")), "{}", answer.head);
        assert_eq!(counts(&seen), [1, 0], "{word}: it was the leader's own answer");
    }
}

#[test]
fn a_group_without_a_leader_is_waited_for_until_the_deadline() {
    let (master, seen) = outside(&[refuses("no_majority"), refuses("moved")]);
    let began = Instant::now();
    let answer = put(&master, "Catstore-Deadline: 1500\r\n");
    assert_eq!((answer.status, answer.word().as_str()), (503, "no_majority"), "{}", answer.body);
    assert!(began.elapsed() >= Duration::from_millis(1100), "{:?}", began.elapsed());
    assert!(counts(&seen).iter().all(|count| *count > 3), "{:?}", counts(&seen));
}

#[test]
fn a_group_whose_members_are_all_down_is_not() {
    let master = master(None);
    master.route_to_members(&[nobody(), nobody()]);
    let began = Instant::now();
    let answer = put(&master, "");
    assert_eq!((answer.status, answer.word().as_str()), (503, "no_majority"));
    assert!(answer.body.contains("start it: catstore worker") || answer.body.contains("see whether worker"));
    let (closed, seen) = outside(&[refuses("closed"), refuses("closed")]);
    assert_eq!(put(&closed, "").word(), "closed");
    assert_eq!(counts(&seen), [1, 1]);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn a_write_of_unknown_outcome_is_repeated_under_its_id_only() {
    let lost = Owner::Answers(
        "HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 0\r\nCatstore-Error: unknown_outcome\r\n\r\n",
    );
    for first in [Owner::HangsUp, lost] {
        let (master, seen) = outside(&[first, CREATED]);
        let answer = put(&master, "");
        assert_eq!((answer.status, answer.word().as_str()), (504, "unknown_outcome"), "{}", answer.body);
        assert_eq!(counts(&seen), [1, 0]);

        let (master, seen) = outside(&[first, CREATED]);
        assert_eq!(put(&master, "Catstore-Request-Id: i\r\n").status, 201);
        assert_eq!(counts(&seen), [1, 1]);
        assert!(seen[1].lock().unwrap()[0].to_ascii_lowercase().contains("catstore-request-id: i\r\n"));

        // What the others say does not undo what the first one may have done.
        for word in ["overloaded", "no_majority", "closed", "disk_full"] {
            let (master, _) = outside(&[first, refuses(word)]);
            let answer = put(&master, "Catstore-Request-Id: i\r\nCatstore-Deadline: 900\r\n");
            assert_eq!(
                (answer.status, answer.word().as_str()),
                (504, "unknown_outcome"),
                "{word}: {}",
                answer.body
            );
        }
        // The reply of a condition is remembered with its id.
        let failed = Owner::Answers("HTTP/1.1 412 Precondition Failed\r\nContent-Length: 0\r\n\r\n");
        let (master, _) = outside(&[first, failed]);
        assert_eq!(put(&master, "Catstore-Request-Id: i\r\n").status, 412);
    }
}

#[test]
fn a_silent_member_is_left_for_another_one_where_that_is_harmless() {
    let (master, seen) = outside(&[Owner::Silent, VALUE]);
    assert_eq!(master.get("/kv/A", "").body, "happy");
    assert_eq!(master.get("/kv/A?consistency=stale", "").body, "happy");
    assert_eq!(counts(&seen), [1, 2], "it is not asked again at once");
    let (master, seen) = outside(&[Owner::Silent, CREATED]);
    let answer = put(&master, "Catstore-Deadline: 3000\r\n");
    assert_eq!((answer.status, answer.word().as_str()), (504, "unknown_outcome"));
    assert_eq!(counts(&seen), [1, 0]);
}

#[test]
fn a_request_goes_round_in_no_circle() {
    let (master, seen) = outside(&[CREATED]);
    for hops in ["1", "2", "99", "cat"] {
        let answer = put(&master, &format!("Catstore-Forwarded: {hops}\r\n"));
        assert_eq!((answer.status, answer.word().as_str()), (503, "moved"), "{hops}");
    }
    assert_eq!(counts(&seen), [0]);
}
