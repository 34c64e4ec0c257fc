//! The sockets that a node listens on, and who comes to them while it stops.
//!
//! A listening socket that is closed resets the connections that wait in it. So when the node stops, they are taken
//! out to the last and told that nothing was done, instead of being left to wonder.

use super::refuse;
use std::io::{self, Write};
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs};

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Second handles of the sockets that a node listens on.
pub(crate) struct Listeners(Vec<TcpListener>);

/// Those who came too late. They were answered; closing them at once could take the answers back.
pub(crate) struct Late(Vec<TcpStream>);

/// Binds every address that `host` stands for, as far as they can be bound.
pub(crate) fn bind(host: &str, port: u16) -> io::Result<Vec<TcpListener>> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let mut listeners = Vec::new();
    let mut refused = None;
    for address in (host, port).to_socket_addrs()? {
        match TcpListener::bind(address) {
            Ok(listener) => {
                listener.set_nonblocking(true)?;
                rustix::net::listen(&listener, BACKLOG)?;
                listeners.push(listener);
            }
            Err(error) => refused = Some(error),
        }
    }
    match refused {
        Some(error) if listeners.is_empty() => Err(error),
        _ => Ok(listeners),
    }
}

impl Listeners {
    /// Second handles of `listeners`.
    pub(crate) fn of(listeners: &[TcpListener]) -> io::Result<Listeners> {
        Ok(Listeners(listeners.iter().map(TcpListener::try_clone).collect::<io::Result<_>>()?))
    }

    /// Ends the listening, through whatever handle, and tells those who still wait to be accepted. Nobody else may
    /// accept at the same time.
    pub(crate) fn close(self) -> Late {
        let mut late = Vec::new();
        for listener in &self.0 {
            // All of them first, answers later: who is answered might come back at once.
            late.extend(std::iter::from_fn(|| listener.accept().ok()).map(|(stream, _)| stream));
            if let Err(error) = rustix::net::shutdown(listener, rustix::net::Shutdown::Read) {
                log::debug!("a socket still listens: {error}");
            }
        }
        let (_, answer) = refuse::answer(&refuse::stopping());
        for stream in &mut late {
            // A new socket has room for it; a client that went away needs no answer.
            let _ = stream.write_all(&answer).and_then(|()| stream.shutdown(Shutdown::Write));
        }
        Late(late)
    }
}

impl Late {
    /// How many they are.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn who_comes_late_is_told_so() {
        let listeners = bind("127.0.0.1", 0).unwrap();
        let address = listeners[0].local_addr().unwrap();
        let second = Listeners::of(&listeners).unwrap();
        let mut clients: Vec<_> = (0..5).map(|_| TcpStream::connect(address).unwrap()).collect();
        for client in &mut clients {
            client.write_all(b"PUT /kv/A HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nv").unwrap();
        }
        assert_eq!(second.close().count(), 5);
        for client in &mut clients {
            let mut text = String::new();
            client.read_to_string(&mut text).unwrap();
            assert!(text.starts_with("HTTP/1.1 503 ") && text.contains("\"type\":\"closed\""), "{text}");
        }
        assert!(TcpStream::connect(address).is_err());
    }

    #[test]
    fn a_port_in_use_is_seen() {
        let listeners = bind("[127.0.0.1]", 0).unwrap();
        let port = listeners[0].local_addr().unwrap().port();
        assert_eq!(bind("127.0.0.1", port).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
