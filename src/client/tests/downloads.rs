//! Values that come as streams: what goes on after a break, and what does not.

use super::{Act, Fake, Seen, alone, answer, client, document, master_of, problem, view};
use crate::client::{GetOptions, Held};
use crate::error::Kind;
use std::net::TcpListener;

/// The value that a node gives, and what it does to break off.
fn give(request: &Seen, value: &[u8], version: u64, break_after: Option<usize>) -> Act {
    let head = request.head.to_ascii_lowercase();
    let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
    let fits = header("if-range: ").is_some_and(|text| text == format!("\"{version}\""));
    let first = header("range: bytes=").and_then(|text| text.strip_suffix('-')?.parse::<usize>().ok());
    let first = first.filter(|_| fits);
    if first.is_some_and(|first| first >= value.len()) {
        return problem("416 Range Not Satisfiable", Kind::OutOfRange, "");
    }
    let rest = &value[first.unwrap_or(0)..];
    let (status, range) = match first {
        Some(first) => {
            let range = format!("Content-Range: bytes {first}-{}/{}\r\n", value.len() - 1, value.len());
            ("206 Partial Content", range)
        }
        None => ("200 OK", String::new()),
    };
    let sent = &rest[..break_after.unwrap_or(rest.len()).min(rest.len())];
    let sent = if request.line.starts_with("HEAD") { &[] } else { sent };
    Act::Answer(format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nETag: \"{version}\"\r\nCatstore-Checksum: crc32={:08x}\r\n\
         Content-Length: {}\r\n{range}\r\n{}",
        crc32fast::hash(value),
        rest.len(),
        std::str::from_utf8(sent).unwrap()
    ))
}

fn ranges(node: &Fake) -> Vec<Option<String>> {
    let range = |seen: &Seen| {
        let head = seen.head.to_ascii_lowercase();
        head.lines().find_map(|line| line.strip_prefix("range: ")).map(str::to_owned)
    };
    node.seen().iter().map(range).collect()
}

#[test]
fn a_value_that_breaks_off_goes_on_from_there() {
    let node = alone(|request| give(request, b"a happy cat", 7, Some(4)));
    let mut bytes = Vec::new();
    let facts = client(&node.address).get_to("A", GetOptions::default(), &mut bytes).unwrap().unwrap();
    assert_eq!((bytes.as_slice(), facts.version, facts.length), (b"a happy cat".as_slice(), 7, Some(11)));
    assert_eq!(ranges(&node), [None, Some("bytes=4-".to_owned()), Some("bytes=8-".to_owned())]);
}

#[test]
fn the_rest_comes_from_another_node() {
    let owner = Fake::start(|request| give(request, b"happy", 7, Some(2)));
    let master = master_of(&owner.address, |request| give(request, b"happy", 7, None));
    let mut bytes = Vec::new();
    client(&master.address).get_to("A", GetOptions::default(), &mut bytes).unwrap().unwrap();
    assert_eq!(bytes, b"happy");
}

#[test]
fn a_value_that_changed_meanwhile_is_not_mixed() {
    let mut count = 0;
    let node = alone(move |request| {
        count += 1;
        if count == 1 { give(request, b"happy", 7, Some(2)) } else { give(request, b"sad", 8, None) }
    });
    let mut bytes = Vec::new();
    let error = client(&node.address).get_to("A", GetOptions::default(), &mut bytes).unwrap_err();
    assert_eq!((error.kind(), bytes.as_slice()), (Kind::Conflict, b"ha".as_slice()));
    assert!(error.to_string().contains("are of version 7, it has version 8 now"), "{error}");
}

#[test]
fn a_key_that_is_removed_meanwhile_is_no_whole_value() {
    let mut count = 0;
    let node = alone(move |request| {
        count += 1;
        match count {
            1 => give(request, b"happy", 7, Some(2)),
            _ => problem("404 Not Found", Kind::NotFound, ""),
        }
    });
    let error = client(&node.address).get_to("A", GetOptions::default(), &mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
}

#[test]
fn a_value_that_always_breaks_off_is_given_up() {
    let node = alone(|request| give(request, b"a happy cat on a warm roof", 7, Some(1)));
    let mut bytes = Vec::new();
    let error = client(&node.address).get_to("A", GetOptions::default(), &mut bytes).unwrap_err();
    assert_eq!((error.kind(), bytes.as_slice()), (Kind::Unreachable, b"a happ".as_slice()));
    assert!(error.to_string().contains("broke off after 6 bytes"), "{error}");
}

#[test]
fn an_earlier_read_is_gone_on_with() {
    let node = alone(|request| give(request, b"happy", 7, None));
    let client = client(&node.address);
    let get = |version, there: &[u8]| {
        let held = Held::read(version, &mut &there[..]).unwrap();
        let mut bytes = std::io::BufWriter::new(Vec::new());
        let result = client.get_into("A", GetOptions::default(), Some(held), &mut bytes);
        (
            result.map(|facts| facts.unwrap().version).map_err(|error| error.kind()),
            bytes.into_inner().unwrap(),
        )
    };
    assert_eq!(get(7, b"hap"), (Ok(7), b"py".to_vec()));
    assert_eq!(get(7, b""), (Ok(7), b"happy".to_vec()));
    assert_eq!(get(7, b"happy"), (Ok(7), vec![]), "only the checksum is compared");
    assert_eq!(get(7, b"hippy").0, Err(Kind::Damaged));
    assert_eq!(get(7, b"hip").0, Err(Kind::Damaged));
    assert_eq!(get(6, b"hap"), (Err(Kind::Conflict), vec![]));
    assert_eq!(get(7, b"happy and more").0, Err(Kind::Unreachable));
}

#[test]
fn another_part_than_was_asked_for_is_refused() {
    let node =
        alone(|_| answer("206 Partial Content", "ETag: \"7\"\r\nContent-Range: bytes 1-4/5\r\n", "appy"));
    let held = Held::read(7, &mut &b"hap"[..]).unwrap();
    let mut bytes = std::io::BufWriter::new(Vec::new());
    let error =
        client(&node.address).get_into("A", GetOptions::default(), Some(held), &mut bytes).unwrap_err();
    assert!(error.to_string().contains("another part"), "{error}");
    assert!(bytes.into_inner().unwrap().is_empty());
}

/// Views are what a test node answers `/cluster` with; one that names two members lets either give the rest.
#[test]
fn a_stream_that_the_writer_breaks_is_not_asked_for_again() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let view = view("c", &[], &[&address]);
    let node = Fake::on(listener, address, move |request| {
        if request.line.starts_with("GET /cluster") {
            document(&view)
        } else {
            give(request, b"happy", 7, None)
        }
    });
    let error = client(&node.address).get_to("A", GetOptions::default(), &mut Full).unwrap_err();
    assert_eq!((error.kind(), node.seen().len()), (Kind::System, 1));
}
