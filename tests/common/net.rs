//! A network between nodes that can be cut: each node is reached by the others through a proxy of its own, which
//! finds out who is calling, so that every direction of every link can be held up by itself.
//!
//! A direction that is held loses nothing, as TCP loses nothing: what was sent before or during the cut arrives when it
//! is mended, late, unless the one who waited has closed the connection; then it arrives all the same if it was on its
//! way. A direction that is broken loses its connections.

use super::node::started_on;
use super::pause;
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

/// How often a proxy looks whether it may go on.
const LOOK: Duration = Duration::from_millis(20);

/// So many bytes at once.
const PIECE: usize = 32 << 10;

/// What a direction does with bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Flow {
    /// It carries them.
    #[default]
    Open,
    /// It carries them at about 1 MB/s.
    Slow,
    /// It keeps them until it is mended.
    Held,
    /// It closes the connection.
    Broken,
}

/// The network. Nodes are named by their ports; whoever is none of them, such as a test, is never cut off.
#[derive(Default)]
pub struct Net {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    ports: RwLock<Vec<u16>>,
    /// From, to.
    flows: RwLock<HashMap<(u16, u16), Flow>>,
    over: AtomicBool,
    listeners: Mutex<Vec<SocketAddr>>,
}

impl Net {
    /// A network without nodes.
    pub fn new() -> Net {
        Net::default()
    }

    /// A proxy for the node on `port`; returns the address that this node must advertise.
    pub fn address_for(&self, port: u16) -> String {
        // A port of the range from which nodes take theirs: it stays free of outgoing connections.
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, super::free_port())).expect("a port for a proxy");
        let address = listener.local_addr().expect("the port of a proxy");
        self.shared.ports.write().expect("the ports").push(port);
        self.shared.listeners.lock().expect("the listeners").push(address);
        let shared = self.shared.clone();
        std::thread::spawn(move || shared.accept(&listener, port));
        address.to_string()
    }

    /// What the direction `from` → `to` does from now on.
    pub fn set(&self, from: u16, to: u16, flow: Flow) {
        self.shared.flows.write().expect("the flows").insert((from, to), flow);
    }

    /// Cuts `one` off from each of `others`, both ways.
    pub fn cut_off(&self, one: u16, others: impl IntoIterator<Item = u16>, flow: Flow) {
        for other in others.into_iter().filter(|other| *other != one) {
            self.set(one, other, flow);
            self.set(other, one, flow);
        }
    }

    /// Everything flows again.
    pub fn mend(&self) {
        self.shared.flows.write().expect("the flows").clear();
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        for address in self.shared.listeners.lock().expect("the listeners").iter() {
            // Wakes the one who accepts.
            let _ = TcpStream::connect(address);
        }
    }
}

impl Shared {
    fn accept(self: &Arc<Shared>, listener: &TcpListener, to: u16) {
        for stream in listener.incoming() {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            let Ok(stream) = stream else { continue };
            let shared = self.clone();
            std::thread::spawn(move || {
                // A connection that fails is what networks are about.
                let _ = shared.carry(stream, to);
            });
        }
    }

    fn carry(self: &Arc<Shared>, caller: TcpStream, to: u16) -> io::Result<()> {
        let Some(from) = self.who_calls(&caller)? else { return Ok(()) };
        // To connect takes a word in both directions.
        if !self.may_pass(from, to) || !self.may_pass(to, from) {
            return Ok(());
        }
        let callee = TcpStream::connect((Ipv4Addr::LOCALHOST, to))?;
        for stream in [&caller, &callee] {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(LOOK))?;
        }
        let (caller_out, callee_out) = (caller.try_clone()?, callee.try_clone()?);
        let back = {
            let shared = self.clone();
            std::thread::spawn(move || shared.pump(callee, caller_out, to, from))
        };
        self.pump(caller, callee_out, from, to);
        let _ = back.join();
        Ok(())
    }

    /// Carries bytes one way until one end closes or the direction breaks.
    fn pump(&self, mut source: TcpStream, mut sink: TcpStream, from: u16, to: u16) {
        let mut buffer = vec![0; PIECE];
        loop {
            let read = match source.read(&mut buffer) {
                Ok(count) => count,
                Err(error) if is_timeout(&error) => {
                    if self.flow(from, to) == Flow::Broken || self.over.load(Ordering::Relaxed) {
                        break;
                    }
                    continue;
                }
                Err(_) => break,
            };
            // The end of a stream travels like its bytes.
            if !self.may_pass(from, to) {
                break;
            }
            if read == 0 {
                let _ = sink.shutdown(Shutdown::Write);
                return;
            }
            if sink.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        for stream in [&source, &sink] {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Waits while the direction is held; false if it is broken.
    fn may_pass(&self, from: u16, to: u16) -> bool {
        loop {
            match self.flow(from, to) {
                Flow::Open => return true,
                Flow::Slow => {
                    pause(PIECE as u64 / 1024);
                    return true;
                }
                Flow::Broken => return false,
                Flow::Held if self.over.load(Ordering::Relaxed) => return false,
                Flow::Held => pause(LOOK.as_millis() as u64),
            }
        }
    }

    fn flow(&self, from: u16, to: u16) -> Flow {
        self.flows.read().expect("the flows").get(&(from, to)).copied().unwrap_or_default()
    }

    /// The port of the node whose process has the other end of `stream`; 0 if it is none of them, none if the connection is
    /// gone: who is taken for a stranger passes every cut.
    fn who_calls(&self, stream: &TcpStream) -> io::Result<Option<u16>> {
        let Some(inode) = inode_of(stream.peer_addr()?.port(), stream.local_addr()?.port()) else {
            return Ok(None);
        };
        let socket = PathBuf::from(format!("socket:[{inode}]"));
        let ports = self.ports.read().expect("the ports").clone();
        let has = |pid: u32| {
            let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
            files.flatten().any(|file| std::fs::read_link(file.path()).is_ok_and(|link| link == socket))
        };
        Ok(Some(ports.into_iter().find(|port| started_on(*port).is_some_and(has)).unwrap_or(0)))
    }
}

/// The inode of the socket on this machine that is connected from `local` to `remote`, ports of loopback. Connections to
/// different ports may have the same local one.
pub fn inode_of(local: u16, remote: u16) -> Option<u64> {
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let ends = [local, remote].map(|port| format!("0100007F:{port:04X}"));
    table.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let connected = words.get(3).is_some_and(|state| *state == "01");
        (connected && words.get(1..3)? == ends).then(|| words.get(9)?.parse().ok())?
    })
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}
