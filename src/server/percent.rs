//! Percent-encoding of keys and values in paths (RFC 3986, section 2.1), strict: what is not an escape of two
//! hexadecimal digits is refused instead of being taken literally. Keys are bytes, so the result need not be UTF-8.
//! Works on the raw path, because a router that decodes first cannot tell `%2F` from `/`.

use crate::error::{Error, Kind, Result};

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// Decodes `%XX` escapes; every other byte stands for itself.
///
/// Errors: [`Kind::BadRequest`] for `%` without two hexadecimal digits behind it.
pub fn decode(text: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(position) = rest.iter().position(|byte| *byte == b'%') {
        bytes.extend_from_slice(&rest[..position]);
        let digits = rest.get(position + 1..position + 3).unwrap_or(&[]);
        match digits {
            [high, low] => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => bytes.push(high << 4 | low),
                _ => return Err(bad_escape(&rest[position..])),
            },
            _ => return Err(bad_escape(&rest[position..])),
        }
        rest = &rest[position + 3..];
    }
    bytes.extend_from_slice(rest);
    Ok(bytes)
}

/// Encodes `bytes` for one path segment: everything but unreserved characters becomes an escape.
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            text.push(char::from(*byte));
        } else {
            text.push('%');
            text.push(char::from(HEX[usize::from(byte >> 4)]));
            text.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    text
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|value| value as u8)
}

fn bad_escape(rest: &[u8]) -> Error {
    let shown = String::from_utf8_lossy(&rest[..rest.len().min(3)]).escape_debug().to_string();
    Error::new(Kind::BadRequest, format!("`{shown}` is not a percent-escape of two hexadecimal digits"))
        .hint("write a percent sign as %25")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escapes_are_strict() {
        assert_eq!(decode(b"a%20b%2Fc%2f%00%ff").unwrap(), b"a b/c/\x00\xff");
        assert_eq!(decode(b"a+b").unwrap(), b"a+b");
        for bad in [&b"%zz"[..], b"%4", b"%", b"a%", b"%%41", b"%+1"] {
            assert_eq!(decode(bad).unwrap_err().kind(), Kind::BadRequest, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn bytes_come_back(bytes: Vec<u8>) {
            prop_assert_eq!(decode(encode(&bytes).as_bytes()).unwrap(), bytes);
        }

        #[test]
        fn arbitrary_text_never_panics(text: Vec<u8>) {
            if let Ok(bytes) = decode(&text) {
                prop_assert!(bytes.len() <= text.len());
            }
        }
    }
}
