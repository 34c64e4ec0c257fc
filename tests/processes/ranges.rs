//! "My download went on in another value." Parts of values (RFC 9110, section 14) through each kind of node: one and
//! several, conditions on the version, and what makes no sense.

use crate::common::node::kv;
use crate::common::three::Three;
use crate::common::{Node, Reply};

fn ask(node: &Node, path: &str, range: &str, if_range: Option<&str>) -> Reply {
    let mut headers = vec![("Range", range)];
    headers.extend(if_range.map(|validator| ("If-Range", validator)));
    node.ask("GET", path, &headers, None)
}

/// The parts of a multipart answer: where they lie, and their bytes.
fn parts(reply: &Reply) -> Vec<(String, Vec<u8>)> {
    let kind = reply.header("content-type").expect("a content type");
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=").unwrap_or_else(|| panic!("{kind}"));
    let (first, next) = (format!("--{boundary}\r\n"), format!("\r\n--{boundary}"));
    let mut rest = reply.body.strip_prefix(first.as_bytes()).expect("the first boundary");
    let mut parts = Vec::new();
    loop {
        let end = find(rest, b"\r\n\r\n").expect("the end of a head");
        let head = String::from_utf8_lossy(&rest[..end]);
        let place = head.strip_prefix("Content-Type: image/jpeg\r\nContent-Range: ");
        let place = place.unwrap_or_else(|| panic!("{head}")).to_owned();
        rest = &rest[end + 4..];
        let end = find(rest, next.as_bytes()).expect("the next boundary");
        parts.push((place, rest[..end].to_vec()));
        rest = &rest[end + next.len()..];
        if rest == b"--\r\n" {
            return parts;
        }
        rest = rest.strip_prefix(b"\r\n").expect("a line that ends after the boundary");
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[test]
fn several_parts_come_through_every_node() {
    let three = Three::start(&[]);
    // Long enough that an answer is passed on as it comes.
    let value: Vec<u8> = (0..400_000u32).map(|number| (number / 7) as u8).collect();
    for (name, node) in three.nodes() {
        let path = kv(format!("of {name}"));
        node.ask("PUT", &path, &[("Content-Type", "image/jpeg")], Some(&value)).must_be(201);
        for (range, places) in [
            ("bytes=-2,0-1", vec![(399_998, 399_999), (0, 1)]),
            ("bytes=300000-,0-199999,200000-200009,900000-", vec![(300_000, 399_999), (0, 200_009)]),
        ] {
            let reply = ask(node, &path, range, None).must_be(206);
            assert_eq!(reply.header("content-range"), None, "{name} {range}");
            let expected: Vec<_> = places
                .into_iter()
                .map(|(first, last)| (format!("bytes {first}-{last}/400000"), value[first..=last].to_vec()))
                .collect();
            assert!(parts(&reply) == expected, "{name} {range}: {:?}", reply.headers);
        }
        // Ranges that become one are one.
        let reply = ask(node, &path, "bytes=5-9,0-4", None).must_be(206);
        assert_eq!(reply.header("content-range"), Some("bytes 0-9/400000"));
        assert_eq!((reply.header("content-type"), &reply.body[..]), (Some("image/jpeg"), &value[..10]));
        let many: Vec<String> = (0..65).map(|place| format!("{0}-{0}", 2 * place)).collect();
        let reply = ask(node, &path, &format!("bytes={}", many.join(",")), None).must_be(200);
        assert!(reply.body == value, "{name}");
        let twice = [("Range", "bytes=0-1"), ("Range", "bytes=5-6")];
        assert!(node.ask("GET", &path, &twice, None).must_be(200).body == value, "{name}");
        ask(node, &path, "bytes=400000-,-0", None).must_be_problem(416, "out_of_range");
        let head = node.ask("HEAD", &path, &[("Range", "bytes=0-1,5-6")], None).must_be(200);
        assert_eq!(head.header("content-length"), Some("400000"), "{name}");
    }
}

#[test]
fn a_download_goes_on_only_in_the_same_value() {
    let three = Three::start(&[]);
    for (name, node) in three.nodes() {
        let path = kv(format!("of {name}"));
        node.ask("PUT", &path, &[], Some(b"0123456789")).must_be(201);
        let first = ask(node, &path, "bytes=0-3", None).must_be(206);
        let (tag, date) = (first.header("etag").unwrap(), first.header("last-modified").unwrap());
        for validator in [tag, date] {
            let rest = ask(node, &path, "bytes=4-", Some(validator)).must_be(206);
            assert_eq!(rest.text(), "456789", "{name} {validator}");
        }
        for validator in [&format!("W/{tag}"), "\"0\"", "Sun, 06 Nov 1994 08:49:37 GMT", "cat"] {
            let whole = ask(node, &path, "bytes=4-", Some(validator)).must_be(200);
            assert_eq!(whole.text(), "0123456789", "{name} {validator}");
        }
        node.ask("PUT", &path, &[], Some(b"short")).must_be(200);
        assert_eq!(ask(node, &path, "bytes=4-", Some(tag)).must_be(200).text(), "short", "{name}");
        assert_eq!(ask(node, &path, "bytes=8-", Some(tag)).must_be(200).text(), "short", "{name}");
    }
}
