//! A worker that was removed for good while its group counts on its vote: it stays until the masters say that it may go.

use super::moved_tests::{Source, document, scripted, view};
use super::site::Event;
use super::worker;
use crate::cluster::slots::SlotTable;
use crate::cluster::view::{HeartbeatReply, RegisterReply};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// The answer of a master that takes the worker back no more.
fn refusal() -> String {
    let body = r#"{"type":"conflict","title":"Conflict","status":409,"detail":"worker 0 was removed"}"#;
    format!("HTTP/1.1 409 Conflict\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn a_removed_worker_that_votes_is_not_ended_by_a_refused_registration() {
    let (beats, needed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(true)));
    let (counted, votes) = (beats.clone(), needed.clone());
    let own = Arc::new(OnceLock::new());
    let (address, mut known) = (own.clone(), false);
    let (master, _) = scripted(move |request| {
        let mut view = view(1, std::slice::from_ref(address.get().unwrap()), SlotTable::whole(0));
        if request.starts_with("POST /internal/register") {
            if std::mem::replace(&mut known, true) {
                return refusal();
            }
            let (slots, note) = (SlotTable::whole(0).ranges().to_vec(), None);
            return document(&RegisterReply {
                index: 0,
                group: 0,
                note,
                slots,
                found: true,
                incarnation: 1,
                view,
            });
        }
        counted.fetch_add(1, Ordering::Relaxed);
        view.epoch = 2;
        (view.groups[0].members, view.groups[0].removed) = (Vec::new(), vec![0]);
        let refused = (!votes.load(Ordering::Relaxed)).then(|| "replaced".to_owned());
        let leaders = view.leaders();
        // A master that does not know this run asks for a registration.
        document(&HeartbeatReply {
            register: true,
            view: Some(view),
            leaders,
            refused,
            leads: true,
            incarnation: 1,
        })
    });
    let (source, options) = Source::new(&master);
    own.set(format!("127.0.0.1:{}", source.node.port)).unwrap();
    worker::start(&source.node.site, &options, source.node.port).unwrap();
    let events = source.node.events.lock().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while beats.load(Ordering::Relaxed) < 4 {
        assert!(Instant::now() < deadline, "{} heartbeats", beats.load(Ordering::Relaxed));
        if let Ok(Event::Fatal(error)) = events.recv_timeout(Duration::from_millis(20)) {
            panic!("it ended although its group needs it: {error}");
        }
    }
    needed.store(false, Ordering::Relaxed);
    loop {
        match events.recv_timeout(Duration::from_secs(30)) {
            Ok(Event::Fatal(error)) => {
                return assert!(error.to_string().contains("was removed: replaced"), "{error}");
            }
            Ok(_) => {}
            Err(_) => panic!("it goes on although nothing needs it"),
        }
    }
}
