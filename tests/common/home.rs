//! One test's own machine, and commands that run to their end in it.

use super::node::{Launch, Node};
use super::{PATIENCE, pause};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_catstore");

/// Names nodes' folders.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A port on which nothing listens. It lies below the range from which the system takes ports for outgoing
/// connections, so that none of the thousands that the tests make sits on it when a node comes back. No test gets a port
/// that another one had: a worker is refused where another worker of its cluster lived.
///
/// Whether somebody listens is found by connecting. To listen for a moment would take the port: a process that another
/// test starts in this moment has a copy of the listening socket until it executes its program.
pub fn free_port() -> u16 {
    use std::hash::{BuildHasher, RandomState};
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().expect("the ports that were given");
    for attempt in 0..10_000_u64 {
        let port = 12_000 + (RandomState::new().hash_one(attempt) % 20_000) as u16;
        if !given.contains(&port) && nobody_listens(port) {
            given.insert(port);
            return port;
        }
    }
    panic!("this machine has no free port between 12000 and 32000");
}

fn nobody_listens(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let answer = TcpStream::connect_timeout(&address, Duration::from_secs(1));
    answer.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// What a finished command left.
#[derive(Debug)]
pub struct Outcome {
    pub code: i32,
    pub out: Vec<u8>,
    pub err: String,
}

impl Outcome {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    /// Standard output, which must be one JSON document.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.out)
            .unwrap_or_else(|error| panic!("not one JSON document ({error}): {self:?}"))
    }

    /// Asserts the exit code, and that a failure says on standard error what happened.
    #[track_caller]
    pub fn exits(self, code: i32) -> Outcome {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.text(), self.err);
        assert!(!self.err.contains("panicked at"), "{}", self.err);
        self
    }
}

/// One test's own machine: HOME, caches and data folders of its own, gone when it is dropped.
pub struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    /// An empty home.
    pub fn new() -> Home {
        let folder = tempfile::Builder::new().prefix("catstore-test-").tempdir().expect("a temporary folder");
        let home = Home { folder };
        for name in ["home", "data", "cache", "config", "tmp", "here"] {
            std::fs::create_dir(home.path(name)).expect("a folder of the home");
        }
        home
    }

    /// A path in it.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command that sees this home alone, with `here` as its current folder.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path("home"))
            .env("XDG_DATA_HOME", self.path("data"))
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("TMPDIR", self.path("tmp"))
            .current_dir(self.path("here"))
            .stdin(Stdio::null());
        command
    }

    /// Runs catstore to its end.
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        let mut command = self.command(PROGRAM);
        command.args(arguments);
        finish(command, &[])
    }

    /// Runs a client subcommand with `$CATSTORE_MASTER` naming `node`.
    pub fn run_at(&self, node: &Node, arguments: &[&str]) -> Outcome {
        self.run_with_input(node, arguments, &[])
    }

    /// The same, with bytes on standard input.
    pub fn run_with_input(&self, node: &Node, arguments: &[&str], input: &[u8]) -> Outcome {
        let mut command = self.command(PROGRAM);
        command.args(arguments).env("CATSTORE_MASTER", node.port.to_string());
        finish(command, input)
    }

    /// How a node with these arguments would start, its data in a folder of its own.
    pub fn launch(&self, role: &str, port: u16, arguments: &[&str]) -> Launch {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let data = self.path(format!("{role}-{number}"));
        let mut words = vec![role.to_owned(), port.to_string(), "--data".into(), data.display().to_string()];
        words.extend(arguments.iter().map(|word| (*word).to_owned()));
        let command = self.command(PROGRAM);
        let environment = command
            .get_envs()
            .filter_map(|(key, value)| {
                Some((key.to_string_lossy().into_owned(), value?.to_string_lossy().into_owned()))
            })
            .collect();
        Launch { port, data, words, environment, here: self.path("here") }
    }

    /// A new master.
    pub fn master(&self) -> Node {
        self.start("master", &[])
    }

    /// A new worker of `master`.
    pub fn worker(&self, master: &Node) -> Node {
        self.worker_with(master, &[])
    }

    /// A new worker of `master` with more arguments.
    pub fn worker_with(&self, master: &Node, arguments: &[&str]) -> Node {
        let port = master.port.to_string();
        let mut words = vec!["--master", port.as_str()];
        words.extend_from_slice(arguments);
        self.start("worker", &words)
    }

    /// A new node on a free port; another one is tried if somebody takes it first.
    pub fn start(&self, role: &str, arguments: &[&str]) -> Node {
        for _ in 0..5 {
            let launch = self.launch(role, free_port(), arguments);
            let busy = format!("{}", launch.port);
            match launch.start() {
                Ok(node) => return node,
                Err(outcome) if outcome.err.contains("in use") && outcome.err.contains(&busy) => {}
                Err(outcome) => panic!("{role} did not start: exit {}\n{}", outcome.code, outcome.err),
            }
        }
        panic!("five ports in a row were taken");
    }
}

/// Runs a command to its end, with `input` on its standard input; it must end within [`PATIENCE`].
pub fn finish(mut command: Command, input: &[u8]) -> Outcome {
    use std::io::Write;
    command.stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut out = Gathered::from(child.stdout.take().expect("stdout"));
    let mut err = Gathered::from(child.stderr.take().expect("stderr"));
    let feeder = child.stdin.take().map(|mut stdin| {
        let input = input.to_vec();
        // A command that refuses its arguments does not read: that is its right.
        std::thread::spawn(move || drop(stdin.write_all(&input)))
    });
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("the state of a child") {
            break status;
        }
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{command:?} did not end within {PATIENCE:?}:\n{}", err.text());
        }
        pause(5);
    };
    if let Some(feeder) = feeder {
        feeder.join().expect("the feeder of a pipe");
    }
    let err = String::from_utf8_lossy(&err.join()).into_owned();
    Outcome { code: status.code().unwrap_or(-1), out: out.join(), err }
}

/// A pipe's bytes as they come.
pub struct Gathered {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Gathered {
    pub fn from(mut pipe: impl Read + Send + 'static) -> Gathered {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&bytes);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                sink.lock().expect("the gathered bytes").extend_from_slice(&buffer[..count]);
            }
        });
        Gathered { bytes, reader: Some(reader) }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().expect("the gathered bytes")).into_owned()
    }

    pub fn join(&mut self) -> Vec<u8> {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader of a pipe");
        }
        self.bytes.lock().expect("the gathered bytes").clone()
    }
}
