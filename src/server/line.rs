//! What a connection is at: a pure account of the bytes that came in and of the requests that the parser made of them.
//!
//! The parser belongs to actix and tells nobody whether it holds the beginning of a head. So the wire says what it
//! read, the front says when a request arrives and when its answer is gone, and this file draws the conclusion. It is
//! plain cells of one thread: a request costs a few of them.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

/// What a connection is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// Nothing has come yet.
    Fresh,
    /// A head has begun and not ended.
    Head,
    /// Between two requests.
    Idle,
    /// Between two requests, while the rest of a body comes that nobody wanted to the end.
    Waste,
    /// A request is under way, or its answer is being sent.
    Work,
}

/// The body of a request, as its head announces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    /// None.
    Nothing,
    /// So many bytes.
    Bytes(u64),
    /// It tells its length as it comes.
    Chunks,
}

/// The account of one connection.
#[derive(Debug)]
pub(crate) struct Line {
    at: Cell<At>,
    busy: Cell<bool>,
    unsent: Cell<bool>,
    hung_up: Cell<bool>,
    served: Cell<Instant>,
    /// The last four bytes that came.
    tail: Cell<[u8; 4]>,
    /// What of the last read stands behind the first head that ended in it, if that is known. A read that ends with
    /// an empty line is taken for a head without looking further; `body_ended` mends what that misses.
    behind: Cell<Option<Behind>>,
    /// Bytes of a body that are still to come; `u64::MAX` if nobody knows how many.
    owed: Cell<u64>,
}

/// Bytes that stand behind a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Behind {
    bytes: u64,
    /// How many of them, at the end, are line ends.
    blank: u64,
}

/// A request under way, until it is dropped: with its answer's body, when all of that was given to the connection.
pub(crate) struct Errand(Rc<Line>);

impl Line {
    /// A connection that was just made.
    pub(crate) fn new() -> Rc<Line> {
        Rc::new(Line {
            at: Cell::new(At::Fresh),
            busy: Cell::new(false),
            unsent: Cell::new(false),
            hung_up: Cell::new(false),
            served: Cell::new(Instant::now()),
            tail: Cell::new([0; 4]),
            behind: Cell::new(None),
            owed: Cell::new(0),
        })
    }

    /// What the connection is at.
    pub(crate) fn at(&self) -> At {
        match self.at.get() {
            _ if self.busy.get() || self.unsent.get() => At::Work,
            At::Idle if self.owed.get() > 0 => At::Waste,
            at => at,
        }
    }

    /// When the last request ended.
    pub(crate) fn served(&self) -> Instant {
        self.served.get()
    }

    /// True once the client has said that it sends nothing more.
    pub(crate) fn hung_up(&self) -> bool {
        self.hung_up.get()
    }

    /// Bytes came; none of them mean that no more will.
    pub(crate) fn read(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            self.hung_up.set(true);
            return;
        }
        let tail = joined(self.tail.get(), bytes);
        self.tail.set(tail);
        let (owed, count) = (self.owed.get(), bytes.len() as u64);
        if owed != u64::MAX {
            self.owed.set(owed.saturating_sub(count));
        }
        // Between requests the parser skips empty lines.
        if count > owed && !(self.at.get() == At::Idle && bytes.iter().all(is_line_end)) {
            self.at.set(At::Head);
            self.behind.set(match owed == 0 && !self.busy.get() {
                true if ends_a_head(tail) => Some(Behind { bytes: 0, blank: 0 }),
                true => behind_first_head(bytes),
                false => None,
            });
        }
    }

    /// A request was made of the bytes.
    pub(crate) fn arrived(self: &Rc<Line>, body: Expected) -> Errand {
        self.busy.set(true);
        let (owed, more) = match (body, self.behind.take()) {
            (Expected::Nothing, _) => (0, !ends_a_head(self.tail.get())),
            (Expected::Bytes(length), Some(behind)) => {
                (length.saturating_sub(behind.bytes), behind.bytes.saturating_sub(behind.blank) > length)
            }
            _ => (u64::MAX, false),
        };
        self.owed.set(owed);
        self.at.set(if more { At::Head } else { At::Idle });
        Errand(Rc::clone(self))
    }

    /// The body of the request was read to its end.
    pub(crate) fn body_ended(&self) {
        self.owed.set(0);
    }

    /// Whether bytes of an answer wait for the client to take them.
    pub(crate) fn set_unsent(&self, unsent: bool) {
        self.unsent.set(unsent);
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        self.0.busy.set(false);
        self.0.served.set(Instant::now());
    }
}

/// The last four bytes of `tail` and `bytes` together.
fn joined(mut tail: [u8; 4], bytes: &[u8]) -> [u8; 4] {
    if let Some(last) = bytes.last_chunk() {
        return *last;
    }
    tail.rotate_left(bytes.len());
    tail[4 - bytes.len()..].copy_from_slice(bytes);
    tail
}

/// True if an empty line is the last of these bytes.
fn ends_a_head(tail: [u8; 4]) -> bool {
    tail.ends_with(b"\n\r\n") || tail.ends_with(b"\n\n")
}

fn is_line_end(byte: &u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

fn behind_first_head(bytes: &[u8]) -> Option<Behind> {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let mut read = lines.next()?.len() + 1;
    for line in lines {
        read += line.len() + 1;
        if matches!(line, b"" | b"\r") {
            let behind = bytes.get(read..)?;
            let blank = behind.iter().rev().take_while(|byte| is_line_end(byte)).count() as u64;
            return Some(Behind { bytes: behind.len() as u64, blank });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &[u8] = b"GET /kv/A HTTP/1.1\r\nHost: a\r\n\r\n";
    const PUT: &[u8] = b"PUT /kv/A HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n";

    /// Where a connection is after a request that came as `reads`, with the body that it announced, all of it read.
    fn after(reads: &[&[u8]], body: Expected) -> At {
        let line = Line::new();
        reads.iter().for_each(|bytes| line.read(bytes));
        let errand = line.arrived(body);
        assert_eq!(line.at(), At::Work);
        line.body_ended();
        drop(errand);
        line.at()
    }

    #[test]
    fn a_head_is_one_from_its_first_byte_to_its_request() {
        let line = Line::new();
        assert_eq!(line.at(), At::Fresh);
        line.read(b"G");
        assert_eq!(line.at(), At::Head);
        line.read(&GET[1..]);
        let errand = line.arrived(Expected::Nothing);
        assert_eq!(line.at(), At::Work);
        line.set_unsent(true);
        drop(errand);
        assert_eq!(line.at(), At::Work);
        line.set_unsent(false);
        assert_eq!(line.at(), At::Idle);
        line.read(b"\r\n");
        assert_eq!(line.at(), At::Idle);
        line.read(b"GET /");
        assert_eq!(line.at(), At::Head);
        assert!(!line.hung_up());
        line.read(b"");
        assert!(line.hung_up());
    }

    #[test]
    fn what_stands_behind_a_request_is_the_next_head() {
        let half = [GET, b"GET /kv/B HT"].concat();
        assert_eq!(after(&[GET], Expected::Nothing), At::Idle);
        assert_eq!(after(&[b"GET / HTTP/1.0\n\n"], Expected::Nothing), At::Idle);
        assert_eq!(after(&[&half], Expected::Nothing), At::Head);
        let typed: Vec<&[u8]> = GET.chunks(1).collect();
        assert_eq!(after(&typed, Expected::Nothing), At::Idle);
        assert_eq!(after(&[&GET[..GET.len() - 2], b"\r\n"], Expected::Nothing), At::Idle);
    }

    #[test]
    fn a_body_is_no_head() {
        let whole = [PUT, b"happy"].concat();
        let blank = [PUT, b"hap\n\n"].concat();
        let half = [PUT, b"happyGET /"].concat();
        let echoed = [PUT, b"happy\n"].concat();
        assert_eq!(after(&[&echoed], Expected::Bytes(5)), At::Idle);
        assert_eq!(after(&[&whole], Expected::Bytes(5)), At::Idle);
        assert_eq!(after(&[&blank], Expected::Bytes(5)), At::Idle);
        assert_eq!(after(&[&half], Expected::Bytes(5)), At::Head);
        assert_eq!(after(&[PUT], Expected::Bytes(5)), At::Idle);
        assert_eq!(after(&[&half], Expected::Chunks), At::Idle);
    }

    #[test]
    fn what_comes_while_a_request_is_under_way_belongs_to_its_body_first() {
        for body in [Expected::Bytes(5), Expected::Chunks] {
            let line = Line::new();
            line.read(PUT);
            let errand = line.arrived(body);
            line.read(b"hap");
            line.read(b"py");
            line.body_ended();
            drop(errand);
            assert_eq!(line.at(), At::Idle, "{body:?}");
            line.read(b"GET");
            assert_eq!(line.at(), At::Head, "{body:?}");
        }
        let line = Line::new();
        line.read(PUT);
        let errand = line.arrived(Expected::Bytes(5));
        line.read(b"happyGE");
        drop(errand);
        assert_eq!(line.at(), At::Head);
        // A body that nobody reads to its end is not taken for a head while it is thrown away.
        for (body, at) in [(Expected::Bytes(12), At::Idle), (Expected::Chunks, At::Waste)] {
            let line = Line::new();
            line.read(PUT);
            drop(line.arrived(body));
            line.read(b"5\r\nhap");
            assert_eq!(line.at(), At::Waste, "{body:?}");
            line.read(b"py\r\n!!");
            assert_eq!(line.at(), at, "{body:?}");
        }
    }

    #[test]
    fn requests_in_one_read_are_taken_one_by_one() {
        let line = Line::new();
        line.read(&[GET, PUT, b"happy"].concat());
        drop(line.arrived(Expected::Nothing));
        let errand = line.arrived(Expected::Bytes(5));
        line.body_ended();
        drop(errand);
        assert_eq!(line.at(), At::Idle);
        let line = Line::new();
        line.read(&[PUT, b"happy", GET].concat());
        drop(line.arrived(Expected::Bytes(5)));
        drop(line.arrived(Expected::Nothing));
        assert_eq!(line.at(), At::Idle);
    }

    #[test]
    fn the_end_of_a_head_is_found() {
        for (bytes, behind) in [
            (&b"a\r\n\r\nbody"[..], Some((4, 0))),
            (b"a\n\nbody\r\n", Some((6, 2))),
            (b"a\r\n\r\n", Some((0, 0))),
            (b"a\r\nb: c\r\n", None),
            (b"a\r\n", None),
            (b"a", None),
            (b"", None),
            (b"\r\n\r\n", Some((0, 0))),
        ] {
            let behind = behind.map(|(bytes, blank)| Behind { bytes, blank });
            assert_eq!(behind_first_head(bytes), behind, "{bytes:?}");
        }
    }
}
