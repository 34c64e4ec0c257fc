//! Addresses as people type them: `3000`, `host:3000`, `http://host:3000`, `[::1]:3000`. Inside, and in documents,
//! an address is always `host:port`. No I/O here.

use crate::error::{Error, Kind, Result};

/// Brings an address into the form `host:port`.
///
/// Errors: [`Kind::Usage`].
pub fn parse_address(text: &str) -> Result<String> {
    let text = text.trim();
    if text.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("https://")) {
        return Err(wrong(text, "catstore speaks plain HTTP"));
    }
    let rest = match text.get(..7) {
        Some(start) if start.eq_ignore_ascii_case("http://") => &text[7..],
        _ => text,
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(format!("127.0.0.1:{}", port(text, rest)?));
    }
    let Some((host, digits)) = rest.rsplit_once(':') else {
        return Err(wrong(text, "the port is missing"));
    };
    let port = port(text, digits)?;
    if let Some(inner) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return match inner.parse::<std::net::Ipv6Addr>() {
            Ok(_) => Ok(format!("{host}:{port}")),
            Err(_) => Err(wrong(text, "the IPv6 address is malformed")),
        };
    }
    if host.contains(':') {
        return Err(wrong(text, "an IPv6 address stands in brackets, as in [::1]:3000"));
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if host.is_empty() || !host.bytes().all(plain) {
        return Err(wrong(text, "the host name is malformed"));
    }
    Ok(format!("{host}:{port}"))
}

fn port(text: &str, digits: &str) -> Result<u16> {
    match digits.parse::<u16>() {
        Ok(port) if port > 0 && digits.bytes().all(|byte| byte.is_ascii_digit()) => Ok(port),
        _ => Err(wrong(text, "the port is not a number from 1 to 65535")),
    }
}

fn wrong(text: &str, why: &str) -> Error {
    Error::new(Kind::Usage, format!("{text:?} is not an address: {why}"))
        .hint("write 3000, host:3000 or http://host:3000")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_in_every_form() {
        for (text, expected) in [
            ("3000", "127.0.0.1:3000"),
            (" 3000 ", "127.0.0.1:3000"),
            ("box-1.lan:3000", "box-1.lan:3000"),
            ("http://box:3000", "box:3000"),
            ("HTTP://box:3000/", "box:3000"),
            ("http://3000", "127.0.0.1:3000"),
            ("10.0.0.7:1", "10.0.0.7:1"),
            ("[::1]:3000", "[::1]:3000"),
            ("http://[fe80::1]:65535/", "[fe80::1]:65535"),
        ] {
            assert_eq!(parse_address(text).ok().as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn malformed_addresses_are_refused() {
        for text in [
            "",
            ":",
            "box",
            "box:",
            "box:0",
            "box:65536",
            "0",
            "70000",
            ":3000",
            "::1:3000",
            "[::1]",
            "[x]:1",
            "a b:1",
            "https://box:1",
            "box:+1",
            "box:1/path",
            "http://",
            "user@box:1",
            "é:1",
        ] {
            assert_eq!(parse_address(text).map_err(|error| error.kind()), Err(Kind::Usage), "{text}");
        }
    }
}
