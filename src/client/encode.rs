//! Percent-encoding of keys and query values, and the small header formats of the resource (ETag, checksum).
//! RFC 3986 unreserved characters stay plain, everything else is encoded. No I/O here.

use std::fmt::Write as _;

/// Percent-encodes `bytes` so that they are one path segment, or one query value.
pub fn percent_encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            text.push(char::from(*byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// The path of `key`'s resource.
///
/// A key that is `.` or `..` is encoded whole: as plain path segments they would be taken for folders.
pub fn key_path(key: &[u8]) -> String {
    match key {
        b"." => "/kv/%2E".to_owned(),
        b".." => "/kv/%2E%2E".to_owned(),
        _ => format!("/kv/{}", percent_encode(key)),
    }
}

/// The version in an `ETag`: `"7"`.
pub fn parse_etag(text: &str) -> Option<u64> {
    text.trim().strip_prefix('"')?.strip_suffix('"')?.parse().ok()
}

/// The checksum in a `Catstore-Checksum`: `crc32=89abcdef`. Other algorithms give `None`.
pub fn parse_checksum(text: &str) -> Option<u32> {
    let digits = text.trim().strip_prefix("crc32=")?;
    if digits.len() != 8 { None } else { u32::from_str_radix(digits, 16).ok() }
}

/// The first byte and the length of the whole value in a `Content-Range`: `bytes 5-9/10`.
pub fn parse_content_range(text: &str) -> Option<(u64, u64)> {
    let (range, whole) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, whole): (u64, u64, u64) =
        (first.parse().ok()?, last.parse().ok()?, whole.parse().ok()?);
    (first <= last && last < whole).then_some((first, whole))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn unreserved_characters_stay_plain() {
        assert_eq!(percent_encode(b"aZ0-._~"), "aZ0-._~");
        assert_eq!(percent_encode(b"a/b c%\0\xff"), "a%2Fb%20c%25%00%FF");
        assert_eq!(percent_encode("🐈".as_bytes()), "%F0%9F%90%88");
        assert_eq!(key_path(b".."), "/kv/%2E%2E");
        assert_eq!(key_path(b"..."), "/kv/...");
        assert_eq!(key_path(b"A"), "/kv/A");
    }

    #[test]
    fn header_formats() {
        assert_eq!(parse_etag("\"17\""), Some(17));
        assert_eq!(parse_etag("17"), None);
        assert_eq!(parse_etag("\"\""), None);
        assert_eq!(parse_etag("\""), None);
        assert_eq!(parse_checksum("crc32=CBF43926"), Some(0xCBF4_3926));
        assert_eq!(parse_checksum("crc32=cbf43926"), Some(0xCBF4_3926));
        assert_eq!(parse_checksum("crc32=1"), None);
        assert_eq!(parse_checksum("sha256=00000000"), None);
        assert_eq!(parse_content_range("bytes 5-9/10"), Some((5, 10)));
        for text in ["bytes 5-10/10", "bytes 6-5/10", "bytes */10", "bytes 5-9/*", "5-9/10", "bytes 5-9"] {
            assert_eq!(parse_content_range(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn encoded_bytes_decode_to_themselves(bytes: Vec<u8>) {
            let text = percent_encode(&bytes);
            let mut decoded = Vec::new();
            let mut rest = text.as_bytes();
            while let Some((first, tail)) = rest.split_first() {
                if *first == b'%' {
                    decoded.push(u8::from_str_radix(std::str::from_utf8(&tail[..2]).unwrap(), 16).unwrap());
                    rest = &tail[2..];
                } else {
                    decoded.push(*first);
                    rest = tail;
                }
            }
            prop_assert_eq!(decoded, bytes);
        }
    }
}
