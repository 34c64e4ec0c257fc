//! Nodes of other clusters, what is no node at all, and nodes that do not know their cluster yet.

use super::{Act, Fake, STORED, alone, answer, client, cluster_of, master_of, problem, put};
use crate::client::Client;
use crate::error::Kind;
use std::time::Duration;

#[test]
fn requests_name_their_cluster_once_it_is_known() {
    let node = alone(|_| answer("200 OK", STORED, ""));
    let client = client(&node.address);
    assert!(put(&client).is_ok() && client.health(&node.address).is_ok());
    let seen = node.seen.lock().unwrap();
    let named: Vec<_> = seen.iter().map(|request| (request.line.as_str(), cluster_of(request))).collect();
    let c = || Some("c".to_owned());
    assert_eq!(
        named,
        [("GET /cluster HTTP/1.1", None), ("PUT /kv/A HTTP/1.1", c()), ("GET /health HTTP/1.1", c())]
    );
}

#[test]
fn a_write_that_something_else_took_is_of_unknown_outcome() {
    let Act::Answer(plain) = answer("201 Created", STORED, "") else { unreachable!() };
    let foreign = format!("{STORED}Catstore-Cluster: d\r\n");
    let acts = [
        Fake::start(move |_| Act::Stranger(plain.clone())),
        Fake::start(move |_| answer("201 Created", &foreign, "")),
    ];
    for owner in acts {
        let master = master_of(&owner.address, |_| answer("201 Created", STORED, ""));
        assert_eq!(put(&client(&master.address)), Err(Kind::UnknownOutcome));
        assert_eq!((owner.seen().len(), master.seen().len()), (1, 0), "the write is not repeated");
    }
}

#[test]
fn what_is_of_another_cluster_is_gone_around() {
    let facts = "ETag: \"9\"\r\n";
    let Act::Answer(plain) = answer("200 OK", facts, "wrong") else { unreachable!() };
    let foreign = "Catstore-Cluster: d\r\n";
    let read = format!("{facts}{foreign}");
    let owners = [
        Fake::start(move |_| Act::Stranger(plain.clone())),
        Fake::start(move |_| answer("200 OK", &read, "wrong")),
        Fake::start(move |_| problem("404 Not Found", Kind::NotFound, foreign)),
        Fake::start(move |_| problem("401 Unauthorized", Kind::Unauthorized, foreign)),
        Fake::start(move |_| problem("503 Service Unavailable", Kind::Moved, foreign)),
    ];
    for (number, owner) in owners.iter().enumerate() {
        let master = master_of(&owner.address, |_| answer("200 OK", "ETag: \"3\"\r\n", "happy"));
        let client = client(&master.address);
        assert_eq!(client.get("A").unwrap().map(|value| value.bytes), Some(b"happy".to_vec()), "{number}");
        if number >= 2 {
            assert!(put(&client).is_ok(), "{number}: a refusal changed nothing");
        }
        let end = Duration::from_millis(300);
        let builder = Client::builder(vec![master.address.clone()]).memory(None).deadline(end);
        let error = builder.build().unwrap().close(0).unwrap_err();
        let expected = if number < 2 { Kind::UnknownOutcome } else { Kind::Unreachable };
        assert_eq!(error.kind(), expected, "{number}: {error}");
    }
}

#[test]
fn a_node_that_starts_is_waited_for() {
    let Act::Answer(starting) = problem("503 Service Unavailable", Kind::NoMajority, "") else {
        unreachable!()
    };
    let mut count = 0;
    let node = alone(move |_| {
        count += 1;
        if count == 1 { Act::Stranger(starting.clone()) } else { answer("200 OK", STORED, "") }
    });
    assert!(put(&client(&node.address)).is_ok());
    assert_eq!(node.seen().len(), 2);
}
