//! One small request at a time that never waits: a thread may have many of them under way.
//!
//! A lane keeps a connection to each node that its keys led it to, as a client with a pool does. It knows the plain way
//! only: it asks the node that ought to answer, and takes what that says of the key. Everything else is [`Heard::Lost`], and
//! for the lane's [`Client`] to ask again, which knows what to do: about other nodes, newer routes, pauses and reasons. A
//! write is then another write, under another id.

use super::answer::Answer;
use super::decide::Outcome;
use super::sessions::WriteId;
use super::wire::heard;
use super::{Client, GetOptions, Operation, PutOptions, Stored, Target, Value};
use super::{body::Body, early, requests, transfer, upload};
use crate::cluster::view::{BatchBody, BatchReply};
use crate::error::{Error, Kind};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;
use ureq::http::HeaderValue;

/// Requests and answers have at most so many bytes.
pub const MOST_BYTES: usize = 64 * 1024;
/// What the node is told of how long it may take.
const WAIT: Duration = Duration::from_secs(5);
/// A node that lives accepts a connection within this time.
const CONNECT: Duration = Duration::from_secs(1);
/// So many connections a lane has at most; for one more it closes all and begins anew.
const MOST_CONNECTIONS: usize = 64;

type Opened<'a> = dyn Fn(&TcpStream) -> io::Result<()> + 'a;

/// Connections with up to one request under way on all of them.
pub struct Lane<'a> {
    client: &'a Client,
    /// Told of each new connection.
    opened: Box<Opened<'a>>,
    /// One for each node.
    connections: Vec<Connection>,
    asked: Option<Asked<'a>>,
    /// What came of the answer.
    heard: Vec<u8>,
    /// The highest epoch that an answer named.
    epoch: Option<u64>,
}

/// A way to a node.
struct Connection {
    address: String,
    stream: TcpStream,
}

/// What was asked.
struct Asked<'a> {
    what: What,
    /// Which of the connections it was asked on.
    connection: usize,
    cluster: Option<HeaderValue>,
    /// The id of a write, in use until it is answered.
    _id: Option<WriteId<'a>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Get,
    Put,
    Batch,
}

/// What became of a request.
#[derive(Debug)]
pub enum Heard {
    /// Nothing yet.
    Nothing,
    /// Its answer.
    Reply(Reply),
    /// A value that does not match its checksum.
    Damaged(Error),
    /// There will be no answer that could be used. A write may have been done.
    Lost,
}

/// An answer.
#[derive(Debug)]
pub enum Reply {
    /// To a get; `None` if the key does not exist.
    Value(Option<Value>),
    /// To a put.
    Stored(Stored),
    /// To a batch.
    Batch(BatchReply),
}

impl<'a> Lane<'a> {
    /// A lane of `client`, which knows its cluster. `opened` is told of each connection, before anything is asked on it.
    pub fn new(client: &'a Client, opened: impl Fn(&TcpStream) -> io::Result<()> + 'a) -> Lane<'a> {
        Lane {
            client,
            opened: Box::new(opened),
            connections: Vec::new(),
            asked: None,
            heard: Vec::new(),
            epoch: None,
        }
    }

    /// Asks for the value of `key`. False if it cannot: nothing was sent that counts.
    pub fn get(&mut self, key: &[u8]) -> bool {
        let operation = transfer::get(key, GetOptions::default(), &[]);
        operation.is_ok_and(|operation| self.ask(operation, What::Get).is_some())
    }

    /// Puts `value` under `key`. False if it cannot.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> bool {
        let operation = upload::put(key, "", Body::Bytes(value), PutOptions::default());
        operation.is_ok_and(|operation| self.ask(operation, What::Put).is_some())
    }

    /// Sends a batch. False if it cannot.
    pub fn batch(&mut self, body: &BatchBody) -> bool {
        let json = requests::batch_body(body);
        json.is_ok_and(|json| self.ask(requests::batch(body, &json), What::Batch).is_some())
    }

    fn ask(&mut self, mut operation: Operation<'_>, what: What) -> Option<()> {
        let id = match what {
            What::Get => None,
            What::Put | What::Batch => Some(self.client.sessions.next().ok()?),
        };
        operation.request.id = id.as_ref().map(WriteId::text);
        let address = self.address(operation.target)?;
        let cluster = {
            let routes = self.client.routes();
            // Routes are renewed by the client.
            if self.epoch > routes.view.as_ref().map(|view| view.epoch) {
                return None;
            }
            routes.cluster.clone()
        };
        let bytes = self.client.wire.bytes(&address, &operation.request, cluster.as_ref(), WAIT)?;
        if bytes.len() > MOST_BYTES {
            return None;
        }
        let connection = self.connection(&address)?;
        // The kernel takes a small request whole, or there is something wrong.
        match self.connections[connection].stream.write(&bytes) {
            Ok(count) if count == bytes.len() => {
                self.asked = Some(Asked { what, connection, cluster, _id: id });
                Some(())
            }
            _ => {
                self.connections.remove(connection);
                None
            }
        }
    }

    /// Opens a connection to each group's leader, before anything is asked. False if one cannot be opened: the first request
    /// that needs it tries again.
    pub fn open(&mut self) -> bool {
        let view = self.client.routes().view.clone();
        let mut groups = view.iter().flat_map(|view| &view.groups).take(MOST_CONNECTIONS);
        groups.all(|group| {
            let address = self.address(Target::Group(group.group));
            address.is_none_or(|address| self.connection(&address).is_some())
        })
    }

    /// Who ought to answer.
    fn address(&self, target: Target<'_>) -> Option<String> {
        self.client.candidates(target).addresses.into_iter().next()
    }

    /// The number of the connection to `address`. `None` if there is none to be had.
    fn connection(&mut self, address: &str) -> Option<usize> {
        if let Some(known) = self.connections.iter().position(|known| known.address == address) {
            return Some(known);
        }
        let stream = self.connect(address).ok()?;
        if self.connections.len() == MOST_CONNECTIONS {
            self.close();
            self.connections.clear();
        }
        self.connections.push(Connection { address: address.to_owned(), stream });
        Some(self.connections.len() - 1)
    }

    fn connect(&self, address: &str) -> io::Result<TcpStream> {
        let place = address.to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
        let stream = TcpStream::connect_timeout(&place, CONNECT)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        (self.opened)(&stream)?;
        Ok(stream)
    }

    /// Hears what came.
    pub fn hear(&mut self) -> Heard {
        let Some(asked) = &self.asked else {
            self.drop_ended(None);
            return Heard::Nothing;
        };
        let connection = asked.connection;
        let mut buffer = [0; 4096];
        let before = self.heard.len();
        loop {
            match self.connections[connection].stream.read(&mut buffer) {
                Ok(count) if count > 0 && self.heard.len() + count <= MOST_BYTES => {
                    self.heard.extend_from_slice(&buffer[..count]);
                    if count < buffer.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // It ended, or says more than it was asked for.
                _ => return self.close(),
            }
        }
        if self.heard.len() == before {
            // It was another connection that woke the thread, and would go on waking it.
            self.drop_ended(Some(connection));
            return Heard::Nothing;
        }
        let Some(whole) = early::whole(&self.heard) else { return Heard::Nothing };
        let Some(asked) = self.asked.take() else { return Heard::Nothing };
        self.heard.clear();
        let address = &self.connections[asked.connection].address;
        let answer = heard(whole, address, asked.what != What::Get, asked.cluster.as_ref());
        let reply = answer.and_then(|answer: Answer| {
            self.epoch = self.epoch.max(answer.epoch());
            match asked.what {
                What::Get => transfer::value(answer).map(|value| Reply::Value(Some(value))),
                What::Put => upload::stored(&answer).map(Reply::Stored),
                What::Batch => requests::batched(answer).map(Reply::Batch),
            }
        });
        match reply {
            Ok(reply) => Heard::Reply(reply),
            Err(failure) => match failure.outcome {
                Outcome::Answered(Kind::NotFound, _) if asked.what == What::Get => {
                    Heard::Reply(Reply::Value(None))
                }
                Outcome::Answered(Kind::Damaged, _) => Heard::Damaged(failure.error),
                _ => Heard::Lost,
            },
        }
    }

    /// Gives the request up that is under way, and its connection; all connections if there is none.
    pub fn close(&mut self) -> Heard {
        self.heard.clear();
        match self.asked.take() {
            Some(asked) => {
                self.connections.remove(asked.connection);
                Heard::Lost
            }
            None => {
                self.connections.clear();
                Heard::Nothing
            }
        }
    }

    /// Drops the connections, but the one with the request, on which something came that nobody asked for: their end.
    fn drop_ended(&mut self, but: Option<usize>) {
        let asked = but.map(|connection| self.connections[connection].address.clone());
        self.connections.retain(|connection| {
            Some(&connection.address) == asked.as_ref()
                || matches!(connection.stream.peek(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
        });
        let place =
            self.connections.iter().position(|connection| Some(&connection.address) == asked.as_ref());
        if let (Some(asked), Some(place)) = (&mut self.asked, place) {
            asked.connection = place;
        }
    }
}
