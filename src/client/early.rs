//! Answers that come before a body is out. A node that refuses a large value says why, and closes the connection while
//! the rest is still on its way: writing fails, and the reason waits to be read.

use super::tcp::{self, Tcp};
use std::fmt;
use std::io;
use std::time::{Duration, Instant};
use ureq::Error;
use ureq::http::{HeaderMap, HeaderName, HeaderValue};
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

/// The reason is there when writing fails, or soon.
const PATIENCE: Duration = Duration::from_millis(500);
/// A head and a problem document are not larger.
const MOST_BYTES: usize = 64 * 1024;

/// The start of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Early {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// As much of its body as came.
    pub body: Vec<u8>,
}

/// The cause of an error of writing, if an answer was there.
#[derive(Debug)]
struct Answered(Vec<u8>);

impl fmt::Display for Answered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an answer came before the request was out")
    }
}

impl std::error::Error for Answered {}

/// The answer that came before the request was out, if `error` carries one that is no success.
pub(super) fn answer(error: &Error) -> Option<Early> {
    let Error::Io(error) = error else { return None };
    let Answered(bytes) = error.get_ref()?.downcast_ref()?;
    parse(bytes).filter(|early| early.status >= 300)
}

/// Connects over plain TCP.
#[derive(Debug)]
pub(super) struct Listening;

impl Connector<()> for Listening {
    type Out = Line<tcp::Connection>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<()>,
    ) -> Result<Option<Self::Out>, Error> {
        Ok(Tcp.connect(details, chained)?.map(Line))
    }
}

/// A connection that looks for an answer when writing fails.
#[derive(Debug)]
pub(super) struct Line<T>(T);

impl<T: Transport> Line<T> {
    /// What the other side said.
    fn heard(&mut self, timeout: NextTimeout) -> Vec<u8> {
        let end = Instant::now() + PATIENCE;
        loop {
            let heard = self.0.buffers().input();
            let left = end.saturating_duration_since(Instant::now());
            if heard.len() >= MOST_BYTES || left.is_zero() || is_whole(heard) {
                return heard.to_vec();
            }
            let next = NextTimeout { after: left.into(), per_read: None, ..timeout };
            if !self.0.await_input(next).unwrap_or(false) {
                return self.0.buffers().input().to_vec();
            }
        }
    }
}

impl<T: Transport> Transport for Line<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.0.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.0.transmit_output(amount, timeout).map_err(|error| match self.heard(timeout) {
            heard if heard.is_empty() => error,
            heard => Error::Io(io::Error::new(io::ErrorKind::BrokenPipe, Answered(heard))),
        })
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.0.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.0.is_open()
    }
}

/// An answer, if its body is there as well.
pub(super) fn whole(bytes: &[u8]) -> Option<Early> {
    parse(bytes).filter(|early| length(&early.headers).is_some_and(|length| early.body.len() == length))
}

fn is_whole(bytes: &[u8]) -> bool {
    whole(bytes).is_some()
}

/// How many bytes the body has, if the head says so.
fn length(headers: &HeaderMap) -> Option<usize> {
    headers.get("content-length")?.to_str().ok()?.parse().ok()
}

/// Reads the head of an answer, and as much of its body as is there.
fn parse(bytes: &[u8]) -> Option<Early> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let mut lines = std::str::from_utf8(&bytes[..end]).ok()?.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':')?;
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        headers.append(name, HeaderValue::from_str(value.trim()).ok()?);
    }
    let rest = &bytes[end + 4..];
    let body = rest[..length(&headers).unwrap_or(rest.len()).min(rest.len())].to_vec();
    Some(Early { status, headers, body })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn heads_and_what_follows() {
        let early = parse(b"HTTP/1.1 412 No\r\nContent-Length: 2\r\nETag:\"7\"\r\n\r\nno").unwrap();
        assert_eq!((early.status, early.body.as_slice()), (412, b"no".as_slice()));
        assert_eq!(early.headers.get("etag").and_then(|value| value.to_str().ok()), Some("\"7\""));
        assert!(is_whole(b"HTTP/1.1 412 No\r\nContent-Length: 2\r\n\r\nno"));
        assert!(!is_whole(b"HTTP/1.1 412 No\r\nContent-Length: 3\r\n\r\nno"));
        assert!(!is_whole(b"HTTP/1.1 412 No\r\n\r\nno"));
        let longer = parse(b"HTTP/1.1 412 No\r\nContent-Length: 1\r\n\r\nno").unwrap();
        assert_eq!(longer.body, b"n");
        for text in ["", "HTTP/1.1 412 No\r\n", "HTTP/1.1\r\n\r\n", "cat\r\n\r\n", "HTTP/1.1 4x2 No\r\n\r\n"]
        {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes: Vec<u8>) {
            let _ = (parse(&bytes), is_whole(&bytes));
        }
    }
}
