//! Values that go out as streams: what is sent again, what cannot be, and what only the missing chunks need.

use super::{
    Act, STORED, Seen, alone, answer, at_first, client, document, name_cluster, one_request, problem,
    read_head, view,
};
use crate::client::frames::{self, CHUNK, Frame, HEAD};
use crate::client::{Progress, PutOptions, Stage};
use crate::error::Kind;
use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Cursor, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

const BIG: usize = 200_000;

fn value(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index / 7) as u8 ^ (index / CHUNK) as u8).collect()
}

fn header(request: &Seen, name: &str) -> Option<String> {
    let head = request.head.to_ascii_lowercase();
    head.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned)
}

#[test]
fn files_are_sent_again_whole_under_one_id() {
    let node = alone(at_first(2, || Act::Hangup, || answer("201 Created", STORED, "")));
    let mut file = Cursor::new(value(BIG));
    let told = RefCell::new(Vec::new());
    let progress = |progress: Progress| told.borrow_mut().push(progress.done);
    let options = PutOptions { progress: Some(&progress), ..PutOptions::default() };
    let stored = client(&node.address).put_file("A", &mut file, BIG as u64, options).unwrap();
    assert_eq!((stored.version, stored.created), (7, true));
    let seen = node.seen();
    assert_eq!(seen.len(), 3);
    one_request(&seen);
    assert_eq!(header(&seen[2], "content-length: "), Some(BIG.to_string()));
    assert!(seen[2].body == file.into_inner());
    assert_eq!(told.borrow().last(), Some(&(BIG as u64)));
}

/// A node that answers a put when it has got its first bytes, and closes the connection.
fn hasty_node(text: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let view = view("c", &[], &[&address]);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // Side by side: the client may keep a connection that it has no use for.
            let document = document(&view);
            std::thread::spawn(move || answer_hastily(&stream, document, text));
        }
    });
    address
}

fn answer_hastily(mut stream: &TcpStream, document: Act, text: &str) {
    let mut line = String::new();
    let _ = BufReader::with_capacity(8192, stream).read_line(&mut line);
    let answer = match (line.split(' ').next(), document) {
        (Some("GET"), Act::Answer(text)) => text,
        (Some("HEAD"), _) => "HTTP/1.1 200 OK\r\nCatstore-Cluster: c\r\n\r\n".to_owned(),
        _ => text.to_owned(),
    };
    let _ = stream.write_all(answer.as_bytes());
    let _ = stream.shutdown(Shutdown::Write);
    if line.starts_with("PUT") {
        // As long as a node may wait for the rest of a body that it does not want.
        std::thread::sleep(std::time::Duration::from_millis(100));
    } else {
        let _ = stream.read_to_end(&mut Vec::new());
    }
}

#[test]
fn a_refusal_is_heard_while_the_body_is_on_its_way() {
    let refusal = "HTTP/1.1 412 Precondition Failed\r\nCatstore-Cluster: c\r\nContent-Length: 79\r\n\
        Content-Type: application/problem+json\r\n\r\n\
        {\"type\":\"condition_failed\",\"title\":\"t\",\"detail\":\"it has version 9\",\"hint\":\"h\"}  ";
    let length = 32 << 20;
    let client_of = |text| client(&hasty_node(text));
    let put = |text| {
        let mut file = Cursor::new(value(length));
        client_of(text).put_file("A", &mut file, length as u64, PutOptions::default()).unwrap_err()
    };
    let error = put(refusal);
    assert_eq!((error.kind(), error.detail()), (Kind::ConditionFailed, "it has version 9"));
    let mut input = Cursor::new(value(length));
    let error = client_of(refusal).put_stream("A", &mut input, PutOptions::default()).unwrap_err();
    assert_eq!(error.kind(), Kind::ConditionFailed, "{error:?}");
    // Whoever says that it is unknown, or that it is done, had not got it.
    for text in
        ["HTTP/1.1 504 Late\r\nCatstore-Cluster: c\r\n\r\n", "HTTP/1.1 200 OK\r\nCatstore-Cluster: c\r\n\r\n"]
    {
        let error = put(text);
        assert_eq!(error.kind(), Kind::Unreachable, "{error}");
        assert!(error.to_string().contains("nothing was written"), "{error}");
    }
}

#[test]
fn a_file_that_changes_its_length_is_not_written() {
    let node = alone(|_| answer("201 Created", STORED, ""));
    for length in [BIG - 1, BIG + 1, 0] {
        let mut file = Cursor::new(value(BIG));
        let client = client(&node.address);
        let error = client.put_file("A", &mut file, length as u64, PutOptions::default()).unwrap_err();
        assert_eq!(error.kind(), Kind::System, "{length}");
        assert!(error.to_string().contains("nothing was written"), "{error}");
    }
    assert!(node.seen().is_empty());
}

#[test]
fn an_empty_file_is_a_plain_put() {
    let node = alone(|_| answer("201 Created", STORED, ""));
    let mut file = Cursor::new(Vec::new());
    client(&node.address).put_file("A", &mut file, 0, PutOptions::default()).unwrap();
    client(&node.address).put_file_resumed("A", &mut file, 0, PutOptions::default()).unwrap();
    for seen in node.seen() {
        assert_eq!(header(&seen, "content-length: ").as_deref(), Some("0"));
        assert_eq!(seen.line, "PUT /kv/A HTTP/1.1");
    }
}

#[test]
fn small_inputs_are_repeated_like_other_values() {
    let node = alone(at_first(2, || Act::Hangup, || answer("200 OK", STORED, "")));
    let mut input = Cursor::new(value(65_536));
    client(&node.address).put_stream("A", &mut input, PutOptions::default()).unwrap();
    let seen = node.seen();
    assert_eq!(seen.len(), 3);
    one_request(&seen);
    assert_eq!(header(&seen[0], "content-length: ").as_deref(), Some("65536"));
}

#[test]
fn large_inputs_go_out_in_pieces_once_their_owner_answers() {
    let mut count = 0;
    let node = alone(move |request| {
        count += 1;
        match (count, request.line.starts_with("HEAD")) {
            (1, _) => answer("503 Service Unavailable", "Catstore-Error: no_majority\r\n", ""),
            (_, true) => answer("404 Not Found", "Catstore-Error: not_found\r\n", ""),
            _ => answer("200 OK", STORED, ""),
        }
    });
    let mut input = Cursor::new(value(BIG));
    client(&node.address).put_stream("A", &mut input, PutOptions::default()).unwrap();
    let seen = node.seen();
    assert_eq!(seen.len(), 3);
    assert!(seen[0].line.starts_with("HEAD") && seen[1].line.starts_with("HEAD"));
    assert_eq!(header(&seen[2], "transfer-encoding: ").as_deref(), Some("chunked"));
    assert_eq!(header(&seen[2], "content-length: "), None);
    assert!(seen[2].body == value(BIG));
}

#[test]
fn an_input_that_is_gone_is_not_sent_again_and_may_have_been_written() {
    let node = alone(|request| match request.line.starts_with("HEAD") {
        true => answer("200 OK", STORED, ""),
        false => Act::Hangup,
    });
    let mut input = Cursor::new(value(BIG));
    let error = client(&node.address).put_stream("A", &mut input, PutOptions::default()).unwrap_err();
    assert_eq!((error.kind(), node.seen().len()), (Kind::UnknownOutcome, 2), "{error}");
}

#[test]
fn an_input_that_fails_is_not_written() {
    struct Failing(usize);
    impl Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let count = buffer.len().min(self.0);
            self.0 -= count;
            if count == 0 { Err(std::io::Error::other("the tape is torn")) } else { Ok(count) }
        }
    }
    let node = alone(|_| answer("200 OK", STORED, ""));
    for length in [10, BIG] {
        let mut input = Failing(length);
        let error = client(&node.address).put_stream("A", &mut input, PutOptions::default()).unwrap_err();
        assert_eq!(error.kind(), Kind::System);
        assert!(error.to_string().contains("nothing was written: the tape is torn"), "{error}");
    }
    assert!(node.seen().iter().all(|seen| seen.line.starts_with("HEAD")));
}

/// A node that holds chunks: it answers which, and puts values together from frames.
#[derive(Default)]
struct Chunks {
    held: HashMap<frames::Hash, Vec<u8>>,
    /// Chunks that it says it has, and does not.
    lies: u32,
    value: Vec<u8>,
    came: usize,
}

impl Chunks {
    fn act(&mut self, request: &Seen) -> Act {
        if request.line.starts_with("POST /kv/A?chunks ") {
            let has = |hash: &[u8]| self.held.contains_key(hash) || self.lies > 0;
            let flags = request.body.chunks(32).map(|hash| if has(hash) { '1' } else { '0' });
            return answer("200 OK", "", &flags.collect::<String>());
        }
        assert!(request.line.starts_with("PUT /kv/A?chunks&ttl=60s "), "{}", request.line);
        let mut body = request.body.as_slice();
        self.value.clear();
        while let Some((head, rest)) = body.split_first_chunk::<HEAD>() {
            let frame = Frame::decode(head).unwrap();
            body = rest;
            if frame.follows {
                let (chunk, rest) = body.split_at(frame.length as usize);
                assert_eq!(frames::hash(chunk), frame.hash);
                self.held.insert(frame.hash, chunk.to_vec());
                self.came += chunk.len();
                body = rest;
            }
            let Some(chunk) = self.held.get(&frame.hash) else {
                self.lies = self.lies.saturating_sub(1);
                return problem("409 Conflict", Kind::ChunkMissing, "");
            };
            assert_eq!(chunk.len(), frame.length as usize);
            self.value.extend_from_slice(chunk);
        }
        answer("201 Created", STORED, "")
    }
}

#[test]
fn only_missing_chunks_go_out() {
    for (lies, lost) in [(0, false), (2, false), (9, true)] {
        let length = 3 * CHUNK + 1000;
        let whole = value(length);
        let chunks = Arc::new(Mutex::new(Chunks { lies, ..Chunks::default() }));
        for index in [0, 3] {
            let chunk = whole[index * CHUNK..].chunks(CHUNK).next().unwrap();
            chunks.lock().unwrap().held.insert(frames::hash(chunk), chunk.to_vec());
        }
        let store = chunks.clone();
        let node = alone(move |request| store.lock().unwrap().act(request));
        let told = RefCell::new(Vec::new());
        let progress = |progress: Progress| told.borrow_mut().push(progress);
        let ttl = Some(std::time::Duration::from_secs(60));
        let options = PutOptions { progress: Some(&progress), ttl, ..PutOptions::default() };
        let mut file = Cursor::new(whole.clone());
        let result = client(&node.address).put_file_resumed("A", &mut file, length as u64, options);
        if lost {
            assert_eq!(result.unwrap_err().kind(), Kind::ChunkMissing);
            continue;
        }
        let resumed = result.unwrap();
        assert_eq!((resumed.stored.version, resumed.held), (7, CHUNK as u64 + 1000));
        let chunks = chunks.lock().unwrap();
        assert!(chunks.value == whole);
        assert_eq!(chunks.came, 2 * CHUNK);
        let told = told.borrow();
        assert_eq!(told[3], Progress { stage: Stage::Hashing, done: length as u64, held: 0 });
        let end = Progress { stage: Stage::Sending, done: length as u64, held: CHUNK as u64 + 1000 };
        assert_eq!(told.last(), Some(&end));
    }
}

#[test]
fn an_upload_that_breaks_off_asks_again_what_is_missing() {
    // What is left when it breaks is more than sockets hold: what is all out may have been written, and is repeated whole.
    const LENGTH: usize = 16 * CHUNK;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size(&listener, CHUNK).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let view = view("c", &[], &[&address]);
    let chunks = Arc::new(Mutex::new(Chunks::default()));
    let store = chunks.clone();
    std::thread::spawn(move || {
        let mut breaks = 1;
        for stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(&stream);
            let Some((line, head, length)) = read_head(&mut reader) else { continue };
            let mut store = store.lock().unwrap();
            if line.starts_with("PUT") && breaks > 0 {
                breaks -= 1;
                for _ in 0..6 {
                    let mut frame = vec![0; HEAD + CHUNK];
                    reader.read_exact(&mut frame).unwrap();
                    let chunk = frame.split_off(HEAD);
                    store.came += chunk.len();
                    store.held.insert(frames::hash(&chunk), chunk);
                }
                continue;
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let seen = Seen { line: line.trim().to_owned(), head, body };
            let act = if line.starts_with("GET") { document(&view) } else { store.act(&seen) };
            let Act::Answer(text) = act else { continue };
            let _ = (&stream).write_all(name_cluster(text, &seen).as_bytes());
        }
    });
    let mut file = Cursor::new(value(LENGTH));
    let ttl = Some(std::time::Duration::from_secs(60));
    let options = PutOptions { ttl, ..PutOptions::default() };
    let resumed = client(&address).put_file_resumed("A", &mut file, LENGTH as u64, options).unwrap();
    let chunks = chunks.lock().unwrap();
    assert_eq!((resumed.held, chunks.came), (6 * CHUNK as u64, LENGTH), "each chunk went out once");
    assert!(chunks.value == value(LENGTH));
}

#[test]
fn a_file_that_changes_after_it_was_hashed_is_not_written() {
    /// A file whose byte at a place is another one each time it is read.
    struct Changing(Cursor<Vec<u8>>);
    impl Read for Changing {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let last = &mut self.0.get_mut()[BIG - 1];
            *last = last.wrapping_add(1);
            self.0.read(buffer)
        }
    }
    impl std::io::Seek for Changing {
        fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
            self.0.seek(to)
        }
    }
    let node = alone(|_| answer("200 OK", "", "0"));
    let mut file = Changing(Cursor::new(value(BIG)));
    let client = client(&node.address);
    let error = client.put_file_resumed("A", &mut file, BIG as u64, PutOptions::default()).unwrap_err();
    assert_eq!(error.kind(), Kind::System, "{error}");
    assert_eq!(node.seen().len(), 1, "nothing but the question came whole");
}
