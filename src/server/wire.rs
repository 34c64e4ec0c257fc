//! The socket of one connection, as actix's parser sees it: it passes bytes through and tells the line about them.
//!
//! The parser answers a head that it cannot read with a status and an empty body. Such an answer is the last that it
//! writes before it gives up, so whatever looks like one is kept back, and sent after all unless the parser does give
//! up: then the front says it in words instead. So no value that happens to end in these bytes is harmed.

use super::line::Line;
use actix_web::rt::net::TcpStream;
use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// More bytes than an answer of the parser's own has.
const LONGEST: usize = 160;

/// The socket, which outlives the parser.
pub(crate) struct Wire {
    /// The socket.
    pub(crate) socket: TcpStream,
    line: Rc<Line>,
    /// The end of an answer that is kept back.
    kept: Vec<u8>,
    /// True until the parser has flushed once with something kept back.
    fresh: bool,
    /// Look into the socket itself at the next read, whatever the event loop knows of it.
    look: Cell<bool>,
}

/// The parser's share of a [`Wire`].
pub(crate) struct End(Rc<RefCell<Wire>>);

impl Wire {
    /// A wire over `socket` that tells `line` what passes.
    pub(crate) fn new(socket: TcpStream, line: Rc<Line>) -> Wire {
        Wire { socket, line, kept: Vec::new(), fresh: false, look: Cell::new(false) }
    }

    /// Lets the next read ask the system instead of waiting for its event: a thread that was busy may be late.
    pub(crate) fn look_once(&self) {
        self.look.set(true);
    }

    /// The status of the answer that is kept back.
    pub(crate) fn refused(&self) -> Option<u16> {
        std::str::from_utf8(self.kept.get(9..12)?).ok()?.parse().ok()
    }

    fn poll_kept(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.kept.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_write(context, &self.kept))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => drop(self.kept.drain(..written)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl End {
    /// The parser's end of `wire`.
    pub(crate) fn of(wire: &Rc<RefCell<Wire>>) -> End {
        End(Rc::clone(wire))
    }

    /// The line that the wire tells what passes.
    pub(crate) fn line(&self) -> Rc<Line> {
        Rc::clone(&self.0.borrow().line)
    }
}

impl AsyncRead for End {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let wire = &mut *self.0.borrow_mut();
        if !wire.kept.is_empty()
            && let Poll::Ready(Err(error)) = wire.poll_kept(context)
        {
            return Poll::Ready(Err(error));
        }
        let before = buffer.filled().len();
        let mut polled = Pin::new(&mut wire.socket).poll_read(context, buffer);
        if wire.look.take() && polled.is_pending() {
            polled = look(&wire.socket, buffer);
        }
        if let Poll::Ready(Ok(())) = polled {
            wire.line.read(&buffer.filled()[before..]);
        }
        polled
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wire = &mut *self.0.borrow_mut();
        if !wire.kept.is_empty() {
            ready!(wire.poll_kept(context))?;
        }
        wire.line.set_unsent(true);
        let Some(place) = last_refusal(bytes) else {
            return Pin::new(&mut wire.socket).poll_write(context, bytes);
        };
        let (before, refusal) = bytes.split_at(place);
        if !before.is_empty() {
            let written = ready!(Pin::new(&mut wire.socket).poll_write(context, before))?;
            if written < before.len() {
                return Poll::Ready(Ok(written));
            }
        }
        wire.kept = refusal.to_vec();
        wire.fresh = true;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = &mut *self.0.borrow_mut();
        if !wire.kept.is_empty() {
            if wire.fresh {
                // If the parser does not give up now, it is to come by again.
                wire.fresh = false;
                context.waker().wake_by_ref();
                return Poll::Ready(Ok(()));
            }
            ready!(wire.poll_kept(context))?;
        }
        wire.line.set_unsent(false);
        Pin::new(&mut wire.socket).poll_flush(context)
    }

    /// The front closes the socket, when the parser has left.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = &mut *self.0.borrow_mut();
        if wire.line.hung_up() { wire.poll_kept(context) } else { Poll::Ready(Ok(())) }
    }
}

/// Reads what the socket holds now.
fn look(socket: &TcpStream, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
    match rustix::io::read(socket, buffer.initialize_unfilled()) {
        Ok(count) => {
            buffer.advance(count);
            Poll::Ready(Ok(()))
        }
        Err(error) if error == rustix::io::Errno::AGAIN || error == rustix::io::Errno::INTR => Poll::Pending,
        Err(error) => Poll::Ready(Err(error.into())),
    }
}

/// Where the answer begins that the parser gives of itself, if `bytes` end in one: an error without a body, and with
/// no other header than those that frame it.
fn last_refusal(bytes: &[u8]) -> Option<usize> {
    if !bytes.ends_with(b"\r\n\r\n") {
        return None;
    }
    let from = bytes.len().saturating_sub(LONGEST);
    let place = from + bytes[from..].windows(7).rposition(|window| window == b"HTTP/1.")?;
    let text = std::str::from_utf8(&bytes[place..]).ok()?;
    let mut lines = text.strip_suffix("\r\n\r\n")?.split("\r\n");
    let status = lines.next()?.get(9..12)?;
    let framed = lines.all(|line| {
        let name = line.split(':').next().unwrap_or_default();
        line == "content-length: 0" || matches!(name, "connection" | "date")
    });
    (matches!(status, "400" | "431") && framed).then_some(place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::line::At;
    use std::future::poll_fn;
    use tokio::io::AsyncReadExt;

    const REFUSAL: &str = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n";

    #[test]
    fn the_parsers_own_answers_are_known() {
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhappy";
        let large = REFUSAL.replace("400 Bad Request", "431 Request Header Fields Too Large");
        let table = [
            (REFUSAL.to_owned(), Some(0)),
            (format!("{answer}{REFUSAL}"), Some(answer.len())),
            (format!("{answer}{large}"), Some(answer.len())),
            (REFUSAL.replace("1.1", "1.0"), Some(0)),
            (REFUSAL.replace("connection: close\r\n", ""), Some(0)),
            (answer.to_owned(), None),
            (format!("{REFUSAL}{answer}"), None),
            (REFUSAL.replace("400 Bad Request", "204 No Content"), None),
            (REFUSAL.replace("400 Bad Request", "100 Continue"), None),
            (REFUSAL.replace("date", "etag"), None),
            (REFUSAL.replace("content-length: 0", "content-length: 5"), None),
            ("\r\n\r\n".to_owned(), None),
            (String::new(), None),
        ];
        for (bytes, place) in table {
            assert_eq!(last_refusal(bytes.as_bytes()), place, "{bytes:?}");
        }
    }

    async fn pair() -> (Rc<RefCell<Wire>>, Rc<Line>, TcpStream) {
        let listener = actix_web::rt::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let line = Line::new();
        let wire = Wire::new(listener.accept().await.unwrap().0, Rc::clone(&line));
        (Rc::new(RefCell::new(wire)), line, client)
    }

    async fn write(end: &mut End, bytes: &[u8]) -> usize {
        poll_fn(|context| Pin::new(&mut *end).poll_write(context, bytes)).await.unwrap()
    }

    async fn flush(end: &mut End) {
        poll_fn(|context| Pin::new(&mut *end).poll_flush(context)).await.unwrap();
    }

    #[actix_web::test]
    async fn a_refusal_is_kept_back_until_the_parser_goes_on() {
        let (wire, line, mut client) = pair().await;
        let mut end = End::of(&wire);
        let both = format!("before{REFUSAL}");
        assert_eq!(write(&mut end, both.as_bytes()).await, both.len());
        flush(&mut end).await;
        assert_eq!((line.at(), wire.borrow().refused()), (At::Work, Some(400)));
        let mut got = vec![0; 6];
        client.read_exact(&mut got).await.unwrap();
        assert_eq!(got, b"before");
        // The parser comes by again: it was the end of a value.
        flush(&mut end).await;
        assert_eq!((line.at(), wire.borrow().refused()), (At::Fresh, None));
        let mut got = vec![0; REFUSAL.len()];
        client.read_exact(&mut got).await.unwrap();
        assert_eq!(got, REFUSAL.as_bytes());
    }

    #[actix_web::test]
    async fn what_is_kept_back_goes_before_what_follows() {
        let (wire, _line, mut client) = pair().await;
        let mut end = End::of(&wire);
        write(&mut end, REFUSAL.as_bytes()).await;
        flush(&mut end).await;
        write(&mut end, b"after").await;
        drop((end, wire));
        let mut got = String::new();
        client.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, format!("{REFUSAL}after"));
    }

    #[actix_web::test]
    async fn a_look_finds_what_no_event_has_told_of() {
        let (wire, line, client) = pair().await;
        let mut end = End::of(&wire);
        let mut space = [0; 64];
        // The event loop has no turn between these lines.
        let read = |end: &mut End, space: &mut [u8]| {
            let mut buffer = ReadBuf::new(space);
            let mut context = Context::from_waker(std::task::Waker::noop());
            Pin::new(end).poll_read(&mut context, &mut buffer).map_ok(|()| buffer.filled().len())
        };
        assert!(read(&mut end, &mut space).is_pending());
        assert_eq!(client.try_write(b"GET").unwrap(), 3);
        assert!(read(&mut end, &mut space).is_pending());
        wire.borrow().look_once();
        assert!(matches!(read(&mut end, &mut space), Poll::Ready(Ok(3))));
        assert_eq!(line.at(), At::Head);
    }
}
