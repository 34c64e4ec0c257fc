//! `If-Match` and `If-None-Match` (RFC 9110, section 13.1). A write takes one strong tag, since a list would need
//! more than the one condition that a command carries; a read compares leniently, as caches send lists and weak
//! tags. A tag is a version in quotes: `"7"`.

use crate::error::{Error, Kind, Result};
use crate::replica::command::Condition;

/// The condition of a write, from its `If-Match` and `If-None-Match` headers. Errors with [`Kind::BadRequest`].
pub fn of_write(if_match: Option<&[u8]>, if_none_match: Option<&[u8]>) -> Result<Condition> {
    match (if_match, if_none_match) {
        (None, None) => Ok(Condition::Any),
        (Some(tag), None) => match trim(tag) {
            b"*" => Ok(Condition::Exists),
            tag => match version(tag) {
                Some(version) => Ok(Condition::Version(version)),
                None => {
                    Err(refused("If-Match", tag, "send one version in quotes, as in If-Match: \"7\", or *"))
                }
            },
        },
        (None, Some(tag)) => match trim(tag) {
            b"*" => Ok(Condition::Absent),
            tag => {
                Err(refused("If-None-Match", tag, "a write takes If-None-Match: * (the key must not exist)"))
            }
        },
        (Some(_), Some(_)) => {
            Err(Error::new(Kind::BadRequest, "If-Match and If-None-Match contradict each other")
                .hint("send one of them"))
        }
    }
}

/// True if one of the tags of a read's header is `current`, or `*`.
pub fn matches(header: &[u8], current: u64) -> bool {
    header.split(|byte| *byte == b',').map(trim).any(|tag| {
        let tag = tag.strip_prefix(b"W/").unwrap_or(tag);
        tag == b"*" || version(tag) == Some(current)
    })
}

/// The version in `"7"`.
pub fn version(tag: &[u8]) -> Option<u64> {
    let digits = tag.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn trim(text: &[u8]) -> &[u8] {
    text.trim_ascii()
}

fn refused(header: &str, tag: &[u8], hint: &str) -> Error {
    let shown = String::from_utf8_lossy(&tag[..tag.len().min(60)]).escape_debug().to_string();
    Error::new(Kind::BadRequest, format!("{header}: {shown} is not understood")).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn conditions_of_writes() {
        assert_eq!(of_write(None, None).unwrap(), Condition::Any);
        assert_eq!(of_write(Some(b"\"7\""), None).unwrap(), Condition::Version(7));
        assert_eq!(of_write(Some(b" * "), None).unwrap(), Condition::Exists);
        assert_eq!(of_write(None, Some(b"*")).unwrap(), Condition::Absent);
        for bad in [
            &b"7"[..],
            b"W/\"7\"",
            b"\"7\", \"8\"",
            b"\"\"",
            b"\"+7\"",
            b"\"99999999999999999999\"",
            b"\"",
            b"",
        ] {
            assert_eq!(of_write(Some(bad), None).unwrap_err().kind(), Kind::BadRequest, "{bad:?}");
        }
        assert!(of_write(None, Some(b"\"7\"")).is_err());
        assert!(of_write(Some(b"*"), Some(b"*")).is_err());
    }

    #[test]
    fn reads_compare_leniently() {
        assert!(matches(b"\"7\"", 7) && matches(b"\"6\", W/\"7\"", 7) && matches(b"*", 7));
        assert!(!matches(b"\"6\"", 7) && !matches(b"7", 7) && !matches(b"", 7));
    }

    proptest! {
        #[test]
        fn arbitrary_headers_never_panic(first: Option<Vec<u8>>, second: Option<Vec<u8>>, current: u64) {
            let _ = of_write(first.as_deref(), second.as_deref());
            let _ = matches(first.as_deref().unwrap_or_default(), current);
        }
    }
}
