use super::range::Piece;
use super::respond::{record, value};
use super::route::Style;
use crate::replica::{Meta, Record, checksum};
use actix_web::body::{BodySize, BoxBody, MessageBody, to_bytes};
use actix_web::http::{Method, StatusCode};
use actix_web::test::TestRequest;
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;

const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

fn meta(bytes: &[u8]) -> Meta {
    Meta {
        version: 7,
        modified: 784_111_777_250,
        expires: None,
        checksum: checksum(bytes),
        content_type: "text/plain".into(),
        size: bytes.len() as u64,
        in_chunks: false,
    }
}

fn request(method: Method, headers: &[(&str, &str)]) -> HttpRequest {
    let request = TestRequest::with_uri("/kv/A").method(method);
    headers.iter().fold(request, |request, header| request.append_header(*header)).to_http_request()
}

fn answer(bytes: &[u8], method: Method, headers: &[(&str, &str)]) -> HttpResponse {
    let stored = Record::decode(crate::store::record::encode(&meta(bytes), bytes)).unwrap();
    record(stored, &request(method, headers), Style::Resource)
}

fn header<'a>(response: &'a HttpResponse, name: &str) -> Option<&'a str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

async fn body(response: HttpResponse) -> Bytes {
    to_bytes(response.into_body()).await.unwrap()
}

#[actix_web::test]
async fn every_answer_with_bytes_says_the_same_of_the_value() {
    let sum = format!("crc32={:08X}", checksum(b"0123456789"));
    for (range, status) in [("cats", 200), ("bytes=0-1", 206), ("bytes=0-1,5-6", 206), ("bytes=10-", 416)] {
        let response = answer(b"0123456789", Method::GET, &[("range", range)]);
        assert_eq!(response.status().as_u16(), status, "{range}");
        for (name, value) in [
            ("etag", "\"7\""),
            ("last-modified", DATE),
            ("catstore-checksum", sum.as_str()),
            ("accept-ranges", "bytes"),
        ] {
            assert_eq!(header(&response, name), Some(value), "{range}: {name}");
        }
    }
}

#[actix_web::test]
async fn one_part_and_none() {
    let response = answer(b"0123456789", Method::GET, &[("range", "bytes=3-5"), ("if-range", DATE)]);
    assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(header(&response, "content-range"), Some("bytes 3-5/10"));
    assert_eq!(header(&response, "content-type"), Some("text/plain"));
    assert_eq!(body(response).await, "345");
    let response = answer(b"0123456789", Method::GET, &[("range", "bytes=10-")]);
    assert_eq!(header(&response, "content-range"), Some("bytes */10"));
    assert_eq!(header(&response, "catstore-error"), Some("out_of_range"));
    assert_eq!(header(&response, "content-type"), Some("application/problem+json"));
    let response = answer(b"", Method::GET, &[]);
    assert_eq!((response.status(), body(response).await.len()), (StatusCode::OK, 0));
}

#[actix_web::test]
async fn several_parts_short_and_long() {
    let long: Vec<u8> = (0..300_000u32).map(|number| number as u8).collect();
    for bytes in [&long[..1000], &long] {
        let last = bytes.len() - 101;
        let range = format!("bytes=500-{last},0-99");
        let response = answer(bytes, Method::GET, &[("range", &range), ("if-range", "\"7\"")]);
        assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT);
        assert_eq!(header(&response, "content-range"), None);
        let kind = header(&response, "content-type").unwrap().to_owned();
        let boundary = kind.strip_prefix("multipart/byteranges; boundary=").unwrap();
        let size = bytes.len();
        let head = |place: String| {
            format!("--{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes {place}/{size}\r\n\r\n")
        };
        let expected = [
            head(format!("500-{last}")).as_bytes(),
            &bytes[500..=last],
            b"\r\n",
            head("0-99".to_owned()).as_bytes(),
            &bytes[..100],
            format!("\r\n--{boundary}--\r\n").as_bytes(),
        ]
        .concat();
        assert_eq!(response.body().size(), BodySize::Sized(expected.len() as u64));
        assert!(body(response).await == expected);
        // The next answer has another boundary.
        let next = answer(bytes, Method::GET, &[("range", &range)]);
        assert_ne!(header(&next, "content-type"), Some(kind.as_str()));
    }
}

#[actix_web::test]
async fn conditions_come_before_ranges() {
    for range in ["bytes=0-1", "bytes=0-1,5-6", "bytes=10-"] {
        let unchanged = [("range", range), ("if-none-match", "\"7\"")];
        let response = answer(b"0123456789", Method::GET, &unchanged);
        assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
        assert_eq!((header(&response, "content-range"), header(&response, "etag")), (None, Some("\"7\"")));
        assert!(body(response).await.is_empty());
        let response = answer(b"0123456789", Method::GET, &[("range", range), ("if-match", "\"8\"")]);
        assert_eq!(response.status(), StatusCode::PRECONDITION_FAILED);
        assert_eq!(header(&response, "content-range"), None);
        let response = answer(b"0123456789", Method::GET, &[("range", range), ("if-range", "W/\"7\"")]);
        assert_eq!((response.status(), body(response).await.len()), (StatusCode::OK, 10));
    }
}

#[test]
fn bytes_are_asked_for_only_if_they_are_sent() {
    let answer = |method, headers: &[(&str, &str)]| {
        let mut asked = None;
        let response = value(&meta(b"0123456789"), &request(method, headers), Style::Resource, |plan| {
            asked = Some(plan.pieces);
            BoxBody::new(())
        });
        (response, asked)
    };
    let (response, asked) = answer(Method::HEAD, &[("range", "bytes=0-1")]);
    assert_eq!((response.status(), asked), (StatusCode::OK, None));
    assert_eq!(response.body().size(), BodySize::Sized(10));
    assert_eq!(header(&response, "content-range"), None);
    assert_eq!(answer(Method::GET, &[("if-none-match", "\"7\"")]).1, None);
    assert_eq!(answer(Method::GET, &[("if-match", "\"8\"")]).1, None);
    assert_eq!(answer(Method::GET, &[("range", "bytes=10-")]).1, None);
    let (_, asked) = answer(Method::GET, &[("range", "bytes=2-3")]);
    assert_eq!(asked, Some(vec![Piece::Value { from: 2, length: 2 }]));
    let (_, asked) = answer(Method::GET, &[]);
    assert_eq!(asked, Some(vec![Piece::Value { from: 0, length: 10 }]));
}
