//! The front over real sockets, with little patience: slow, silent and broken clients, and what must go on working
//! beside them.

use super::front;
use super::patience::Limits;
use super::wire_tests::{Answer, Owner, Running, owner, patient_master};
use actix_web::dev::{Service, ServiceFactory};
use actix_web::rt::net::TcpListener;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

const LIMITS: Limits = Limits { head: Duration::from_millis(300), idle: Duration::from_millis(3000) };
const GET: &[u8] = b"GET /cluster HTTP/1.1\r\nHost: localhost\r\n\r\n";
const PUT: &[u8] = b"PUT /kv/A HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhappy";
const CHUNKED: &[u8] =
    b"PUT /kv/A HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhappy\r\n0\r\n\r\n";

fn master() -> Running {
    let master = patient_master(None, LIMITS);
    let (address, _) = owner(Owner::Answers("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"));
    master.route_to(address);
    master
}

/// Reads one answer and leaves the connection open.
fn next(stream: &mut BufReader<TcpStream>) -> (u16, String) {
    let (mut head, mut length) = (String::new(), 0);
    while !head.ends_with("\r\n\r\n") {
        let mut line = String::new();
        assert!(stream.read_line(&mut line).unwrap() > 0, "the connection ended in {head:?}");
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap();
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    (head[9..12].parse().unwrap(), head + &String::from_utf8(body).unwrap())
}

/// Asserts that what follows is 408 as a problem document, and the end.
#[track_caller]
fn cut_off(stream: TcpStream, what: &str) {
    let answer = Answer::read(stream);
    assert_eq!((answer.status, answer.word().as_str()), (408, "too_slow"), "{what}: {}", answer.head);
    assert!(answer.head.contains("connection: close"), "{what}: {}", answer.head);
    assert!(answer.head.contains("x-content-type-options: nosniff"), "{what}: {}", answer.head);
}

#[test]
fn slow_heads_are_cut_off_wherever_they_begin() {
    let master = master();
    for begun in [&b""[..], b"G", b"GET /cluster HTTP/1.1\r\nHost: localhost\r\n", b"\r\n"] {
        let mut stream = master.connect();
        stream.write_all(begun).unwrap();
        cut_off(stream, &format!("first {begun:?}"));
    }
    for whole in [GET, PUT, CHUNKED] {
        let shown = String::from_utf8_lossy(whole);
        // In a read of its own, and in one with the request before it.
        for together in [false, true] {
            if together && whole == CHUNKED {
                continue;
            }
            let mut stream = BufReader::new(master.connect());
            if together {
                stream.get_mut().write_all(&[whole, b"GET /cl"].concat()).unwrap();
            } else {
                stream.get_mut().write_all(whole).unwrap();
            }
            assert!(matches!(next(&mut stream).0, 200 | 201), "{shown}");
            if !together {
                stream.get_mut().write_all(b"GET /cl").unwrap();
            }
            cut_off(stream.into_inner(), &shown);
        }
    }
    // Byte by byte wins no time.
    let mut stream = master.connect();
    let began = Instant::now();
    while stream.write_all(b"X").is_ok() {
        assert!(began.elapsed() < Duration::from_secs(20), "not cut off");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn idle_connections_are_kept_longer_and_end_without_a_word() {
    let master = master();
    for whole in [GET, PUT, CHUNKED] {
        let mut stream = BufReader::new(master.connect());
        for _ in 0..3 {
            stream.get_mut().write_all(whole).unwrap();
            next(&mut stream);
            // Longer than a head may take.
            thread::sleep(LIMITS.head * 2);
        }
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert_eq!(String::from_utf8_lossy(&rest), "");
    }
}

#[test]
fn heads_that_cannot_be_read_are_told_so() {
    let master = master();
    let headers: String = (0..97).map(|number| format!("X-{number}: cat\r\n")).collect();
    let table = [
        ("cat\r\n\r\n".to_owned(), 400, "bad_request"),
        ("\0\r\n\r\n".to_owned(), 400, "bad_request"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 400, "bad_request"),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400, "bad_request"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(), 400, "bad_request"),
        ("PUT /kv/A HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n".to_owned(), 400, "bad_request"),
        ("GET / HTTP/1.1\r\nHost a\r\n\r\n".to_owned(), 400, "bad_request"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n"), 431, "head_too_large"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(1 << 20)), 431, "head_too_large"),
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(1 << 20)), 431, "head_too_large"),
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(70_000)), 414, "url_too_long"),
    ];
    for (head, status, word) in table {
        let shown: String = head.chars().take(60).collect();
        let answer = master.ask(head.as_bytes());
        assert_eq!((answer.status, answer.word().as_str()), (status, word), "{shown}: {}", answer.body);
        assert!(answer.head.contains("content-type: application/problem+json"), "{shown}: {}", answer.head);
        assert!(answer.head.contains("content-security-policy: sandbox"), "{shown}: {}", answer.head);
        assert!(answer.body.contains("\"hint\""), "{shown}: {}", answer.body);
    }
    // One that hangs up its half in the middle of a head.
    let mut stream = master.connect();
    stream.write_all(&GET[..20]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let answer = Answer::read(stream);
    assert_eq!((answer.status, answer.word().as_str()), (400, "bad_request"), "{}", answer.head);
    // And one that hangs up without a request, or after one, is told nothing more.
    let stream = master.connect();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(Answer::read(stream).head, "");
    let mut stream = BufReader::new(master.connect());
    stream.get_mut().write_all(GET).unwrap();
    stream.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!(next(&mut stream).0, 200);
    assert_eq!(Answer::read(stream.into_inner()).head, "");
}

#[test]
fn a_pipeline_is_answered_to_the_point_where_it_breaks() {
    let master = master();
    let mut stream = BufReader::new(master.connect());
    stream.get_mut().write_all(&[GET, PUT, GET, b"cat\r\n\r\n"].concat()).unwrap();
    let statuses = [0; 4].map(|_| next(&mut stream));
    assert_eq!(statuses.each_ref().map(|(status, _)| *status), [200, 201, 200, 400]);
    assert!(statuses[3].1.contains("\"type\":\"bad_request\""), "{}", statuses[3].1);
    let mut rest = Vec::new();
    assert_eq!(stream.read_to_end(&mut rest).unwrap(), 0);
}

#[test]
fn what_looks_like_a_refusal_in_a_value_is_passed_on() {
    const VALUE: &str = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{VALUE}", VALUE.len());
    let master = patient_master(None, LIMITS);
    let (address, _) = owner(Owner::Answers(answer.leak()));
    master.route_to(address);
    let get = "GET /kv/A HTTP/1.1\r\nHost: localhost\r\n";
    let mut stream = BufReader::new(master.connect());
    for _ in 0..3 {
        stream.get_mut().write_all(format!("{get}\r\n").as_bytes()).unwrap();
        assert!(next(&mut stream).1.ends_with(VALUE));
    }
    for last in [format!("{get}Connection: close\r\n\r\n"), format!("{get}\r\ncat\r\n\r\n")] {
        stream = BufReader::new(master.connect());
        stream.get_mut().write_all(last.as_bytes()).unwrap();
        assert!(next(&mut stream).1.ends_with(VALUE));
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert_eq!(rest.is_empty(), last.contains("close"), "{rest}");
        assert!(rest.is_empty() || rest.contains("\"type\":\"bad_request\""), "{rest}");
    }
}

#[test]
fn everything_else_of_http_goes_on_working() {
    let master = master();
    let old = master.ask(b"GET /cluster HTTP/1.0\r\n\r\n");
    assert_eq!(old.status, 200);
    let head = master.ask(b"HEAD /cluster HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    let upgrade = master.ask(
        b"GET /cluster HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    assert_eq!(upgrade.status, 200);
    let mut stream = BufReader::new(master.connect());
    stream
        .get_mut()
        .write_all(
            b"PUT /kv/A HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
        )
        .unwrap();
    assert_eq!(next(&mut stream).0, 100);
    stream.get_mut().write_all(b"happy").unwrap();
    assert_eq!(next(&mut stream).0, 201);
    for whole in [CHUNKED, GET, PUT] {
        stream.get_mut().write_all(whole).unwrap();
        assert!(matches!(next(&mut stream).0, 200 | 201));
    }
    // A body in pieces, each of which is slower than a head may be.
    for piece in PUT.chunks(PUT.len() - 3) {
        stream.get_mut().write_all(piece).unwrap();
        thread::sleep(LIMITS.head * 2);
    }
    assert_eq!(next(&mut stream).0, 201);
}

#[test]
fn bodies_that_nobody_wants_do_not_hold_a_connection() {
    let master = master();
    let head = "POST /cat HTTP/1.1\r\nHost: localhost\r\n";
    // One whose end is known, and one that tells its length as it comes; both stop in the middle.
    for framed in ["Content-Length: 1000\r\n\r\nhap", "Transfer-Encoding: chunked\r\n\r\n5\r\nhap"] {
        let mut stream = BufReader::new(master.connect());
        stream.get_mut().write_all(format!("{head}{framed}").as_bytes()).unwrap();
        assert_eq!(next(&mut stream).0, 404, "{framed}");
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "", "{framed}");
    }
    // One that comes after all leaves the connection to the next request.
    let mut stream = BufReader::new(master.connect());
    stream
        .get_mut()
        .write_all(format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\nhap").as_bytes())
        .unwrap();
    assert_eq!(next(&mut stream).0, 404);
    thread::sleep(LIMITS.head * 2);
    stream.get_mut().write_all(b"py\r\n0\r\n\r\n").unwrap();
    thread::sleep(LIMITS.head * 2);
    stream.get_mut().write_all(GET).unwrap();
    assert_eq!(next(&mut stream).0, 200);
}

#[test]
fn connections_are_counted_and_let_go() {
    let master = master();
    let open = || master.site.metrics.connections.load(Ordering::Relaxed);
    let streams: Vec<_> = (0..20).map(|_| master.connect()).collect();
    let deadline = Instant::now() + Duration::from_secs(20);
    while open() < 20 {
        assert!(Instant::now() < deadline, "{} are open", open());
        thread::sleep(Duration::from_millis(1));
    }
    drop(streams);
    while open() > 0 {
        assert!(Instant::now() < deadline, "{} are open", open());
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_node_that_stops_answers_what_was_sent_and_closes_the_rest() {
    let mut master = patient_master(None, Limits::default());
    let mut idle: Vec<_> = (0..10).map(|_| BufReader::new(master.connect())).collect();
    for stream in &mut idle {
        stream.get_mut().write_all(GET).unwrap();
        assert_eq!(next(stream).0, 200);
    }
    let (mut sent, mut half, fresh) = (idle.split_off(5), master.connect(), master.connect());
    half.write_all(&GET[..20]).unwrap();
    let mut late = master.connect();
    late.write_all(&GET[..20]).unwrap();
    thread::sleep(Duration::from_millis(20));
    master.site.stopping.send_replace(true);
    // No wait here: these requests and the signal are there at once.
    for stream in &mut sent {
        stream.get_mut().write_all(GET).unwrap();
    }
    half.write_all(&GET[20..]).unwrap();
    for stream in sent.iter_mut() {
        let (status, text) = next(stream);
        assert!(status == 200 && text.to_ascii_lowercase().contains("connection: close"), "{text}");
    }
    assert_eq!(Answer::read(half).status, 200);
    assert_eq!(Answer::read(fresh).head, "");
    for stream in idle {
        assert_eq!(Answer::read(stream.into_inner()).head, "");
    }
    let late = Answer::read(late);
    assert_eq!((late.status, late.word().as_str()), (503, "closed"), "{}", late.head);
    let serving = master.serving.take().unwrap();
    drop(serving.handle.stop(true));
    serving.thread.join().unwrap();
}

/// The front on this very thread, so that a test can keep it busy.
#[actix_web::test]
async fn a_busy_thread_does_not_blame_the_client() {
    let site = Arc::clone(&patient_master(None, LIMITS).site);
    let service = front::service(site, LIMITS).new_service(()).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = thread::spawn(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(&GET[..20]).unwrap();
        thread::sleep(LIMITS.head / 2);
        stream.write_all(&GET[20..]).unwrap();
        next(&mut BufReader::new(stream)).0
    });
    let talk = actix_web::rt::spawn(service.call(listener.accept().await.unwrap().0));
    actix_web::rt::time::sleep(LIMITS.head / 4).await;
    thread::sleep(LIMITS.head * 2);
    talk.await.unwrap().unwrap();
    assert_eq!(client.join().unwrap(), 200);
}

#[test]
fn a_client_that_goes_away_leaves_nothing_behind() {
    let master = master();
    for sent in [&b""[..], &GET[..10], GET, &PUT[..60]] {
        let mut stream = master.connect();
        stream.write_all(sent).unwrap();
        drop(stream);
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    while master.site.metrics.connections.load(Ordering::Relaxed) > 0 {
        assert!(Instant::now() < deadline, "a connection is left");
        thread::sleep(Duration::from_millis(1));
    }
    let mut stream = master.connect();
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    stream.write_all(GET).unwrap();
    let mut text = Vec::new();
    let error = stream.read_to_end(&mut text).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
}
