use super::*;
use actix_web::http::header::IF_MATCH;
use proptest::prelude::*;

/// 1994-11-06 08:49:37, and some milliseconds.
const MODIFIED: u64 = 784_111_777_250;
const NUMBER: u128 = 7;
const BOUNDARY: &str = "catstore-00000000000000000000000000000007";
static TEXT: HeaderValue = HeaderValue::from_static("text/plain");

fn facts(size: u64) -> Facts<'static> {
    Facts { size, version: 7, modified: MODIFIED, content_type: &TEXT }
}

fn headers(lines: &[(HeaderName, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(name.clone(), HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn planned(lines: &[(HeaderName, &str)], size: u64) -> Plan {
    plan(&Method::GET, &headers(lines), &facts(size), || Some(NUMBER))
}

/// First and last positions of the stretches.
fn stretches(plan: &Plan) -> Vec<(u64, u64)> {
    let stretch = |piece: &Piece| match piece {
        Piece::Value { from, length } => Some((*from, from + length - 1)),
        Piece::Text(_) => None,
    };
    plan.pieces.iter().filter_map(stretch).collect()
}

#[track_caller]
fn check(plan: &Plan, size: u64) {
    let mut total = 0;
    for piece in &plan.pieces {
        if let Piece::Value { from, length } = piece {
            assert!(*length > 0 && from.checked_add(*length).unwrap() <= size, "{plan:?}");
            total += u128::from(*length);
        }
    }
    assert!(total <= u128::from(size), "{plan:?}");
    let sum: u128 = plan.pieces.iter().map(|piece| u128::from(piece.length())).sum();
    assert_eq!(sum, u128::from(plan.content_length), "{plan:?}");
    assert!(plan.pieces.len() <= 2 * MOST + 1);
    let single = plan.status == StatusCode::PARTIAL_CONTENT && plan.content_type.is_none();
    let outside = plan.status == StatusCode::RANGE_NOT_SATISFIABLE;
    assert_eq!(plan.content_range.is_some(), single || outside, "{plan:?}");
}

#[test]
fn one_range() {
    for (range, first, last) in [
        ("bytes=0-4", 0, 4),
        ("bytes=0-0", 0, 0),
        ("bytes=5-", 5, 9),
        ("bytes=-3", 7, 9),
        ("bytes=-30", 0, 9),
        ("bytes=9-99999999999999999999999", 9, 9),
        ("bytes=-99999999999999999999999", 0, 9),
        ("BYTES=1-2", 1, 2),
        (" bytes= 1-2 ", 1, 2),
        // Lists whose other elements are empty, or lie outside.
        ("bytes=,1-2, ,", 1, 2),
        ("bytes=20-30,1-2,-0", 1, 2),
        // What overlaps or touches is one.
        ("bytes=0-4,3-6", 0, 6),
        ("bytes=0-4,5-6", 0, 6),
        ("bytes=5-6,0-4", 0, 6),
        ("bytes=0-9,2-3,-1", 0, 9),
        ("bytes=0-0,2-2,1-1", 0, 2),
        ("bytes=0-,0-,0-,0-,0-,0-,0-", 0, 9),
    ] {
        let plan = planned(&[(RANGE, range)], 10);
        check(&plan, 10);
        assert_eq!(plan.status, StatusCode::PARTIAL_CONTENT, "{range}");
        assert_eq!(plan.pieces, [Piece::Value { from: first, length: last - first + 1 }], "{range}");
        assert_eq!(plan.content_range.unwrap(), format!("bytes {first}-{last}/10"), "{range}");
        assert_eq!(plan.content_type, None);
    }
}

#[test]
fn what_is_malformed_or_of_other_units_is_ignored() {
    for range in [
        "",
        "bytes",
        "bytes=",
        "bytes=,",
        "bytes=-",
        "bytes=4-2",
        "bytes=a-b",
        "bytes=+1-2",
        "bytes=1",
        "bytes=1-2-3",
        "bytes=1 -2",
        "bytes=--2",
        "bytes =1-2",
        "bytes=0-1,cat",
        "bytes=0-1,4-2",
        "bytes=0-1;3-4",
        "lines=0-1",
    ] {
        assert_eq!(planned(&[(RANGE, range)], 10), whole(10), "{range}");
    }
    assert_eq!(planned(&[], 10), whole(10));
    assert_eq!(planned(&[(RANGE, "bytes=0-1"), (RANGE, "bytes=3-4")], 10), whole(10));
    let bytes = HeaderValue::from_bytes(b"bytes=0-1\xff").unwrap();
    assert_eq!(plan(&Method::GET, &HeaderMap::from_iter([(RANGE, bytes)]), &facts(10), || None), whole(10));
}

#[test]
fn nothing_of_it_is_there() {
    for (range, size) in [
        ("bytes=10-", 10),
        ("bytes=10-12", 10),
        ("bytes=99999999999999999999999-", 10),
        ("bytes=-0", 10),
        ("bytes=-0,10-,20-30", 10),
        ("bytes=0-", 0),
        ("bytes=0-0,-0", 0),
    ] {
        let plan = planned(&[(RANGE, range)], size);
        assert_eq!(plan, unsatisfiable(size), "{range}");
        assert_eq!(plan.content_range.unwrap(), format!("bytes */{size}"));
    }
    // A suffix of an empty value is all of it.
    assert_eq!(planned(&[(RANGE, "bytes=-1")], 0), whole(0));
    assert_eq!(planned(&[(RANGE, "bytes=0-0,-1,-2")], 0), whole(0));
}

#[test]
fn several_ranges() {
    for (range, parts) in [
        ("bytes=0-0,-1", vec![(0, 0), (9, 9)]),
        ("bytes=-1,0-0", vec![(9, 9), (0, 0)]),
        ("bytes=6-7,0-1,3-4", vec![(6, 7), (0, 1), (3, 4)]),
        ("bytes=6-7,0-1,8-8,40-", vec![(6, 8), (0, 1)]),
        ("bytes=0-1,6-7,1-3", vec![(0, 3), (6, 7)]),
        ("bytes=8-8,0-1,6-7,3-3", vec![(6, 8), (0, 1), (3, 3)]),
    ] {
        let plan = planned(&[(RANGE, range)], 10);
        check(&plan, 10);
        assert_eq!((plan.status, stretches(&plan)), (StatusCode::PARTIAL_CONTENT, parts), "{range}");
    }
}

#[test]
fn parts_have_heads_and_an_end() {
    let plan = planned(&[(RANGE, "bytes=7-,0-1")], 10);
    let text = |text: String| Piece::Text(Bytes::from(text));
    let head = "\r\nContent-Type: text/plain\r\nContent-Range: bytes";
    let pieces = [
        text(format!("--{BOUNDARY}{head} 7-9/10\r\n\r\n")),
        Piece::Value { from: 7, length: 3 },
        text(format!("\r\n--{BOUNDARY}{head} 0-1/10\r\n\r\n")),
        Piece::Value { from: 0, length: 2 },
        text(format!("\r\n--{BOUNDARY}--\r\n")),
    ];
    assert_eq!(plan.pieces, pieces);
    assert_eq!(plan.content_type.unwrap(), format!("multipart/byteranges; boundary={BOUNDARY}"));
    // Without chance there are no parts; and a single one needs none.
    let without = |range| super::plan(&Method::GET, &headers(&[(RANGE, range)]), &facts(10), || None);
    assert_eq!(without("bytes=7-,0-1"), whole(10));
    assert_eq!(without("bytes=7-").status, StatusCode::PARTIAL_CONTENT);
}

#[test]
fn too_many_parts_are_the_whole_value() {
    let every_other = |count: u64| {
        let ranges: Vec<String> = (0..count).map(|place| format!("{0}-{0}", 2 * place)).collect();
        format!("bytes={}", ranges.join(","))
    };
    let plan = planned(&[(RANGE, &every_other(64))], 1000);
    check(&plan, 1000);
    assert_eq!(stretches(&plan).len(), 64);
    assert_eq!(planned(&[(RANGE, &every_other(65))], 1000), whole(1000));
    // They are counted once they are joined.
    let plan = planned(&[(RANGE, &format!("{},0-700", every_other(300)))], 1000);
    assert_eq!(stretches(&plan), [(0, 700)]);
}

#[test]
fn only_get_knows_ranges() {
    for method in [Method::HEAD, Method::PUT] {
        let asked = headers(&[(RANGE, "bytes=0-1,5-6")]);
        assert_eq!(plan(&method, &asked, &facts(10), || Some(NUMBER)), whole(10));
        let asked = headers(&[(RANGE, "bytes=10-")]);
        assert_eq!(plan(&method, &asked, &facts(10), || Some(NUMBER)), whole(10));
    }
}

#[test]
fn if_range_holds_for_the_same_tag_or_second() {
    for (validator, holds) in [
        ("\"7\"", true),
        (" \"7\" ", true),
        ("\"8\"", false),
        ("\"07\"", false),
        ("W/\"7\"", false),
        ("\"7\", \"7\"", false),
        ("7", false),
        ("*", false),
        ("", false),
        ("\"", false),
        ("Sun, 06 Nov 1994 08:49:37 GMT", true),
        ("Sunday, 06-Nov-94 08:49:37 GMT", true),
        ("Sun Nov  6 08:49:37 1994", true),
        ("Sun, 06 Nov 1994 08:49:36 GMT", false),
        ("Sun, 06 Nov 1994 08:49:38 GMT", false),
        ("Sun, 06 Nov 2994 08:49:37 GMT", false),
        ("784111777", false),
    ] {
        let plan = planned(&[(RANGE, "bytes=0-1"), (IF_RANGE, validator)], 10);
        assert_eq!(plan.status == StatusCode::PARTIAL_CONTENT, holds, "{validator}");
        // What does not hold also hides that a range lies outside.
        let outside = planned(&[(RANGE, "bytes=10-"), (IF_RANGE, validator)], 10);
        assert_eq!(outside, if holds { unsatisfiable(10) } else { whole(10) }, "{validator}");
        assert_eq!(planned(&[(IF_RANGE, validator)], 10), whole(10));
    }
    let twice = [(RANGE, "bytes=0-1"), (IF_RANGE, "\"7\""), (IF_RANGE, "\"7\"")];
    assert_eq!(planned(&twice, 10), whole(10));
    assert_eq!(planned(&[(RANGE, "bytes=0-1"), (IF_MATCH, "\"8\"")], 10).content_length, 2);
}

proptest! {
    #[test]
    fn arbitrary_headers_never_panic(
        range: Vec<u8>, if_range: Option<Vec<u8>>, size: u64, version: u64, modified: u64,
    ) {
        let facts = Facts { version, modified, ..facts(size) };
        let mut asked = HeaderMap::new();
        let lines = [(RANGE, Some([&b"bytes="[..], &range].concat())), (RANGE, Some(range)), (IF_RANGE, if_range)];
        for (name, value) in lines {
            if let Some(value) = value.and_then(|value| HeaderValue::from_bytes(&value).ok()) {
                asked.insert(name, value);
                check(&plan(&Method::GET, &asked, &facts, || Some(NUMBER)), size);
            }
        }
    }

    #[test]
    fn plausible_ranges_lie_inside(
        range in "(bytes|BYTES|lines)=([0-9]{0,2}-[0-9]{0,2}[, ]{1,2}){0,9}[0-9]{0,21}-[0-9]{0,21}",
        size in prop_oneof![0u64..100, Just(u64::MAX), any::<u64>()],
    ) {
        check(&planned(&[(RANGE, &range)], size), size);
    }

    /// Every byte that was asked for is sent, and no other one, except where the answer is the whole value.
    #[test]
    fn what_is_asked_is_what_is_sent(
        asked in proptest::collection::vec((0u64..120, 0u64..20), 1..100),
        size in 1u64..120,
    ) {
        let ranges: Vec<String> =
            asked.iter().map(|(first, more)| format!("{first}-{}", first + more)).collect();
        let plan = planned(&[(RANGE, &format!("bytes={}", ranges.join(",")))], size);
        check(&plan, size);
        let wanted = |position: u64| asked.iter().any(|(first, more)| (*first..=first + more).contains(&position));
        let sent = |position| stretches(&plan).iter().any(|(first, last)| (*first..=*last).contains(&position));
        if plan.status != StatusCode::OK {
            prop_assert!((0..size).all(|position| wanted(position) == sent(position)));
        }
        // The first part is the one that the first satisfiable range is in.
        if let (Some((first, _)), StatusCode::PARTIAL_CONTENT) =
            (asked.iter().find(|(first, _)| *first < size), plan.status)
        {
            let (from, last) = stretches(&plan)[0];
            prop_assert!((from..=last).contains(first));
        }
    }
}
