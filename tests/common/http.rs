//! HTTP/1.1 over a plain socket, as little as the tests need: what is sent is exactly what a test wrote, malformed
//! requests included, and what comes back is taken apart without mercy.

use serde_json::Value;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// A silent server fails a test after this long; a node answers within 10 s.
const SILENCE: Duration = Duration::from_secs(40);

/// One answer.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    /// The value of the first header `name`.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!("{} with a body that is not JSON ({error}): {self:?}", self.status)
        })
    }

    /// The version in the ETag, which is a number in double quotes.
    pub fn version(&self) -> u64 {
        let tag = self.header("etag").unwrap_or_else(|| panic!("no ETag: {self:?}"));
        let inner = tag.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        inner.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("not a version: {tag}"))
    }

    /// Asserts the status.
    #[track_caller]
    pub fn must_be(self, status: u16) -> Reply {
        assert_eq!(self.status, status, "{} {:?}\n{}", self.status, self.headers, self.text());
        self
    }

    /// Asserts a problem document of this status and kind, complete in its parts.
    #[track_caller]
    pub fn must_be_problem(self, status: u16, word: &str) -> Reply {
        let reply = self.must_be(status);
        assert!(
            reply.header("content-type").is_some_and(|kind| kind.starts_with("application/problem+json")),
            "not a problem document: {:?} {}",
            reply.headers,
            reply.text()
        );
        let problem = reply.json();
        assert_eq!(problem["type"], word, "{problem}");
        for part in ["title", "detail"] {
            assert!(problem[part].as_str().is_some_and(|text| !text.is_empty()), "no {part}: {problem}");
        }
        reply
    }

    /// The word of a problem document, or nothing.
    pub fn word(&self) -> String {
        serde_json::from_slice::<Value>(&self.body)
            .ok()
            .and_then(|problem| problem["type"].as_str().map(str::to_owned))
            .unwrap_or_default()
    }
}

/// A kept-alive connection to one node; it is made anew after a failure.
pub struct Session {
    port: u16,
    silence: Duration,
    stream: Option<BufReader<TcpStream>>,
}

impl Session {
    /// A session with the node on `port`; nothing is sent yet.
    pub fn new(port: u16) -> Session {
        Session::patient(port, SILENCE)
    }

    /// The same, of a client that gives a silent node up after `silence`.
    pub fn patient(port: u16, silence: Duration) -> Session {
        Session { port, silence, stream: None }
    }

    /// True while the connection of an earlier request is still at hand.
    pub fn is_connected(&self) -> bool {
        self.stream.is_some()
    }

    /// Sends one request and reads its reply. `ConnectionRefused` means that nothing was sent.
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> io::Result<Reply> {
        let mut stream = match self.stream.take().filter(is_open) {
            Some(stream) => stream,
            None => BufReader::new(connect_within(self.port, self.silence)?),
        };
        stream.get_mut().write_all(&request(self.port, method, path, headers, body))?;
        let reply = read_reply(&mut stream, method == "HEAD")?;
        if !reply.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            self.stream = Some(stream);
        }
        Ok(reply)
    }

    /// Like [`Session::send`], for requests that must get through.
    #[track_caller]
    pub fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> Reply {
        self.send(method, path, headers, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }
}

/// False if the node has closed that idle connection meanwhile: it may have stopped and started since.
fn is_open(stream: &BufReader<TcpStream>) -> bool {
    let idle = |stream: &TcpStream| {
        stream.set_nonblocking(true)?;
        let peeked = stream.peek(&mut [0]);
        stream.set_nonblocking(false)?;
        peeked
    };
    matches!(idle(stream.get_ref()), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// A connection to a node on this machine.
pub fn connect(port: u16) -> io::Result<TcpStream> {
    connect_within(port, SILENCE)
}

/// The same; whatever the node does may take as long as `silence`.
pub fn connect_within(port: u16, silence: Duration) -> io::Result<TcpStream> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let stream = TcpStream::connect_timeout(&address, silence).map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => error,
        // A connection that was never made sent nothing either.
        _ => io::Error::new(io::ErrorKind::ConnectionRefused, error),
    })?;
    stream.set_read_timeout(Some(silence))?;
    stream.set_write_timeout(Some(silence))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The bytes of a request. `Host` and `Content-Length` are added unless the test gives its own.
pub fn request(
    port: u16,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&[u8]>,
) -> Vec<u8> {
    let has = |name: &str| headers.iter().any(|(key, _)| key.eq_ignore_ascii_case(name));
    let mut bytes = format!("{method} {path} HTTP/1.1\r\n").into_bytes();
    if !has("host") {
        bytes.extend_from_slice(format!("Host: 127.0.0.1:{port}\r\n").as_bytes());
    }
    if let Some(body) = body.filter(|_| !has("content-length") && !has("transfer-encoding")) {
        bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
    }
    for (key, value) in headers {
        bytes.extend_from_slice(format!("{key}: {value}\r\n").as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body.unwrap_or_default());
    bytes
}

/// Sends bytes as they are on a connection of their own and reads one reply. A server may answer and close before
/// it has read everything, so a failure to send is not yet one.
pub fn raw(port: u16, bytes: &[u8]) -> io::Result<Reply> {
    let mut stream = BufReader::new(connect(port)?);
    let sent = stream.get_mut().write_all(bytes);
    match (read_reply(&mut stream, bytes.starts_with(b"HEAD ")), sent) {
        (Ok(reply), _) => Ok(reply),
        (Err(_), Err(error)) | (Err(error), Ok(())) => Err(error),
    }
}

/// Reads one reply; interim (1xx) ones are skipped.
pub fn read_reply(stream: &mut impl BufRead, is_head: bool) -> io::Result<Reply> {
    loop {
        let (status, headers) = read_head(stream)?;
        if (100..200).contains(&status) {
            continue;
        }
        let mut reply = Reply { status, headers, body: Vec::new() };
        if is_head || status == 204 || status == 304 {
            return Ok(reply);
        }
        if reply.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            reply.body = read_chunks(stream)?;
        } else if let Some(length) = reply.header("content-length") {
            let length = length.parse().map_err(|_| invalid("Content-Length is not a number"))?;
            reply.body = vec![0; length];
            stream.read_exact(&mut reply.body)?;
        } else {
            stream.read_to_end(&mut reply.body)?;
        }
        return Ok(reply);
    }
}

/// A status and the headers that came with it.
type Head = (u16, Vec<(String, String)>);

fn read_head(stream: &mut impl BufRead) -> io::Result<Head> {
    let line = read_line(stream)?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| invalid(&format!("not a status line: {line:?}")))?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(stream)?;
        if line.is_empty() {
            return Ok((status, headers));
        }
        let (key, value) = line.split_once(':').ok_or_else(|| invalid(&format!("not a header: {line:?}")))?;
        headers.push((key.to_owned(), value.trim().to_owned()));
    }
}

fn read_line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line)?;
    if line.pop() != Some(b'\n') || line.pop() != Some(b'\r') {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended within a reply"));
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

fn read_chunks(stream: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = read_line(stream)?;
        let digits = line.split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(digits.trim(), 16).map_err(|_| invalid("a chunk without a size"))?;
        let start = body.len();
        body.resize(start + size, 0);
        stream.read_exact(&mut body[start..])?;
        if !read_line(stream)?.is_empty() {
            return Err(invalid("a chunk that is longer than it says"));
        }
        if size == 0 {
            return Ok(body);
        }
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// Percent-encodes everything that is not a letter, a digit or one of `-_.~`: a key as one path segment.
pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    let mut text = String::new();
    for byte in bytes.as_ref() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                text.push(char::from(*byte))
            }
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}
