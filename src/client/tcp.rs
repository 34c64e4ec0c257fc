//! A connection over TCP for `ureq`. Its own one asks the kernel ten times for a small request: it probes an idle
//! connection before it puts it away and again before it takes it, with three calls each, and sets anew how long to
//! wait whenever that differs by a microsecond. Here it is probed when it is taken, with one call, and times are round.

use rustix::net::{RecvFlags, recv};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport, time,
};
use ureq::{Error, Timeout};

/// A wait may last so much longer than asked for.
const GRAIN: Duration = Duration::from_millis(10);

/// Reads the address that a URI names by its numbers: names were resolved before.
#[derive(Debug)]
pub(super) struct Numbers;

impl Resolver for Numbers {
    fn resolve(&self, uri: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let address = uri.authority().and_then(|authority| authority.as_str().parse::<SocketAddr>().ok());
        let mut found = self.empty();
        found.push(address.ok_or(Error::HostNotFound)?);
        Ok(found)
    }
}

/// Connects to the address that [`Numbers`] read.
#[derive(Debug)]
pub(super) struct Tcp;

impl Connector<()> for Tcp {
    type Out = Connection;

    fn connect(&self, details: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<Connection>, Error> {
        let address = details.addrs.first().ok_or(Error::HostNotFound)?;
        let connected = match left(details.timeout)? {
            Some(most) => TcpStream::connect_timeout(address, most),
            None => TcpStream::connect(address),
        };
        let stream = connected.map_err(|error| in_time(error, Timeout::Connect))?;
        stream.set_nodelay(details.config.no_delay())?;
        let buffers =
            LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(Connection { stream, buffers, reads: None, writes: None, used: false }))
    }
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    buffers: LazyBuffers,
    /// How long the kernel waits when it reads, as it was told last.
    reads: Option<Duration>,
    /// The same when it writes.
    writes: Option<Duration>,
    /// Something came since it was looked at.
    used: bool,
}

impl Transport for Connection {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let timeout = timeout.for_write();
        let most = left(timeout)?.map(rounded);
        if most != self.writes {
            self.stream.set_write_timeout(most)?;
            self.writes = most;
        }
        let output = &self.buffers.output()[..amount];
        (&self.stream).write_all(output).map_err(|error| in_time(error, timeout.reason))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let timeout = timeout.for_read();
        let (most, began) = (left(timeout)?, Instant::now());
        let mut rest = most;
        loop {
            let next = rest.map(rounded);
            if next != self.reads {
                self.stream.set_read_timeout(next)?;
                self.reads = next;
            }
            match (&self.stream).read(self.buffers.input_append_buf()) {
                Ok(count) => {
                    self.used = true;
                    self.buffers.input_appended(count);
                    return Ok(count > 0);
                }
                // A signal.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    rest = most.map(|most| most.saturating_sub(began.elapsed()));
                    if rest.is_some_and(|rest| rest.is_zero()) {
                        return Err(Error::Timeout(timeout.reason));
                    }
                }
                Err(error) => return Err(in_time(error, timeout.reason)),
            }
        }
    }

    /// `ureq` asks when it puts a connection away and when it takes it again. The second answer is the one that counts.
    fn is_open(&mut self) -> bool {
        if std::mem::take(&mut self.used) {
            return true;
        }
        let looked = recv(&self.stream, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        // Nothing is there, not even an end.
        looked.is_err_and(|error| error == rustix::io::Errno::AGAIN)
    }
}

/// How long it may take; `None` has no end. Errors: the time is over.
fn left(timeout: NextTimeout) -> Result<Option<Duration>, Error> {
    match timeout.after {
        time::Duration::NotHappening => Ok(None),
        time::Duration::Exact(left) if left.is_zero() => Err(Error::Timeout(timeout.reason)),
        time::Duration::Exact(left) => Ok(Some(left)),
    }
}

/// Up to the next multiple of [`GRAIN`].
fn rounded(time: Duration) -> Duration {
    let grains = time.as_nanos().div_ceil(GRAIN.as_nanos());
    GRAIN.saturating_mul(u32::try_from(grains).unwrap_or(u32::MAX))
}

/// The error of `ureq` for an error of the kernel, which says in two ways that time is over.
fn in_time(error: io::Error, reason: Timeout) -> Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::Timeout(reason),
        _ => Error::Io(error),
    }
}
