//! A port that the harness gives is free when it is given, however many processes other tests start in this moment.

use crate::common::free_port;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

/// A process that starts has copies of all sockets until it executes its program: a port that was tried by listening on
/// it was taken for that long, once in about 150 times.
#[test]
fn a_given_port_is_free_while_processes_start() {
    let over = AtomicBool::new(false);
    let start_processes = || {
        while !over.load(Ordering::Relaxed) {
            let status = Command::new("true").stdin(Stdio::null()).status().expect("a process");
            assert!(status.success());
        }
    };
    std::thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(start_processes);
        }
        let refused = (0..2000).find_map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, free_port())).err());
        over.store(true, Ordering::Relaxed);
        assert!(refused.is_none(), "{refused:?}");
    });
}
