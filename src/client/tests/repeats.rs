//! Which writes are sent again, under which id, and what their errors say.

use super::{Act, STORED, alone, answer, at_first, client, hasty, id_of, one_request, problem, put};
use crate::client::{Client, Condition, PutOptions, Stored};
use crate::cluster::view::{BatchBody, BatchOp, JsonBytes};
use crate::error::Kind;

#[test]
fn a_write_that_broke_after_it_was_sent_is_repeated_under_its_id() {
    let unknown = || problem("504 Gateway Timeout", Kind::UnknownOutcome, "");
    let proxy = || answer("502 Bad Gateway", "", "<html>");
    let kinds: [fn() -> Act; 3] = [|| Act::Hangup, unknown, proxy];
    for first in kinds {
        let node = alone(at_first(2, first, || answer("201 Created", STORED, "")));
        let client = client(&node.address);
        assert_eq!(put(&client), Ok(Stored { version: 7, created: true }));
        let seen = node.seen();
        assert_eq!((seen.len(), seen[0].body.as_slice()), (3, b"happy".as_slice()));
        let id = one_request(&seen);
        let session = id.strip_suffix(":1").expect("the first request of a session");
        assert!(put(&client).is_ok());
        assert_eq!(id_of(&node.seen()[3]), Some(format!("{session}:2")));
    }
}

#[test]
fn every_kind_of_write_carries_an_id_and_goes_on_until_its_deadline() {
    let body = BatchBody { ops: vec![BatchOp::Delete { key: JsonBytes(b"A".to_vec()) }] };
    let writes: [&dyn Fn(&Client) -> Kind; 4] = [
        &|client| put(client).unwrap_err(),
        &|client| client.delete("A", Condition::Any).unwrap_err().kind(),
        &|client| client.batch(&body).unwrap_err().kind(),
        &|client| client.clear(0).unwrap_err().kind(),
    ];
    for write in writes {
        let node = alone(|_| Act::Hangup);
        assert_eq!(write(&hasty(&node.address)), Kind::UnknownOutcome);
        let seen = node.seen();
        one_request(&seen);
        assert!(seen.len() > 2, "{seen:?}");
    }
}

#[test]
fn what_carries_no_id_is_attempted_once() {
    let node = alone(|_| Act::Hangup);
    let client = client(&node.address);
    let kinds = [client.close(0).unwrap_err().kind(), client.open(0).unwrap_err().kind()];
    assert_eq!(kinds, [Kind::UnknownOutcome; 2]);
    let seen = node.seen();
    assert_eq!(seen.iter().filter_map(id_of).count(), 0);
    let lines: Vec<&str> = seen.iter().map(|request| request.line.as_str()).collect();
    assert_eq!(lines, ["POST /close/0 HTTP/1.1", "POST /worker/0 HTTP/1.1"]);
}

#[test]
fn a_refusal_after_an_unknown_attempt_says_nothing_of_that_attempt() {
    for (status, kind) in [
        ("503 Service Unavailable", Kind::NoMajority),
        ("503 Service Unavailable", Kind::Closed),
        ("507 Insufficient Storage", Kind::DiskFull),
        ("413 Payload Too Large", Kind::ValueTooLarge),
        ("409 Conflict", Kind::Conflict),
        ("401 Unauthorized", Kind::Unauthorized),
    ] {
        let node = alone(at_first(1, || Act::Hangup, move || problem(status, kind, "")));
        let error = hasty(&node.address).put("A", "happy", PutOptions::default()).unwrap_err();
        assert_eq!(error.kind(), Kind::UnknownOutcome, "{kind:?}: {error}");
        let last = format!("the last time: said {}; read it back before you write again", kind.word());
        assert!(error.to_string().ends_with(&last), "{error}");
        one_request(&node.seen());
    }
}

#[test]
fn what_the_machine_says_after_an_unknown_attempt_is_the_truth() {
    let condition = || problem("412 Precondition Failed", Kind::ConditionFailed, "");
    let node = alone(at_first(1, || Act::Hangup, condition));
    assert_eq!(put(&client(&node.address)), Err(Kind::ConditionFailed));
    let absent = || problem("404 Not Found", Kind::NotFound, "");
    let node = alone(at_first(1, || Act::Hangup, absent));
    assert!(!client(&node.address).delete("A", Condition::Any).unwrap());
    // To a clear a 404 says that a node knows no such group: that is not the machine.
    let node = alone(at_first(1, || Act::Hangup, absent));
    assert_eq!(hasty(&node.address).clear(0).unwrap_err().kind(), Kind::UnknownOutcome);
}
