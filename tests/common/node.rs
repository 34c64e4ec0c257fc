//! Processes: a [`Home`] to live in, a [`Launch`] that says how one starts, a [`Node`] that runs.

use super::http::{self, Reply, Session};
use super::{PATIENCE, pause};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_catstore");

/// Names nodes' folders.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A port on which nothing listens. It lies below the range from which the system takes ports for outgoing
/// connections, so that none of the thousands that the tests make sits on it when a node comes back.
pub fn free_port() -> u16 {
    use std::hash::{BuildHasher, RandomState};
    for attempt in 0..10_000_u64 {
        let port = 12_000 + (RandomState::new().hash_one(attempt) % 20_000) as u16;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("this machine has no free port between 12000 and 32000");
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

/// How a node starts; the same launch starts it again.
#[derive(Debug, Clone)]
pub struct Launch {
    pub port: u16,
    pub data: PathBuf,
    pub words: Vec<String>,
    pub environment: Vec<(String, String)>,
    pub here: PathBuf,
}

impl Launch {
    /// The launch with an environment variable set.
    pub fn env(mut self, key: &str, value: &str) -> Launch {
        self.environment.retain(|(known, _)| known != key);
        self.environment.push((key.into(), value.into()));
        self
    }

    /// The launch on another data folder.
    pub fn data(mut self, data: &Path) -> Launch {
        let place = self.words.iter().position(|word| word == "--data").expect("--data");
        self.words[place + 1] = data.display().to_string();
        self.data = data.to_path_buf();
        self
    }

    /// The launch on another port.
    pub fn port(mut self, port: u16) -> Launch {
        self.words[1] = port.to_string();
        self.port = port;
        self
    }

    /// The launch from another current folder.
    pub fn here(mut self, here: &Path) -> Launch {
        self.here = here.to_path_buf();
        self
    }

    /// The command that this launch is.
    pub fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command.env_clear().envs(self.environment.iter().map(|(key, value)| (key, value)));
        command.args(&self.words).current_dir(&self.here).stdin(Stdio::null());
        command
    }

    /// Starts the node and waits for its ready line; gives what it left if it ends instead.
    pub fn start(&self) -> Result<Node, Outcome> {
        let mut node = Node::spawn(self.clone(), self.command());
        let start = Instant::now();
        loop {
            let lines = node.out.text();
            if let Some(line) =
                lines.lines().find(|line| line.starts_with("ready ") && line.contains(" data "))
            {
                node.ready = line.to_owned();
                return Ok(node);
            }
            if let Some(code) = node.exit_code() {
                // Joined, so that everything it said is there.
                let (out, err) = node.end_of_output();
                node.watched = false;
                return Err(Outcome { code, out: out.into_bytes(), err });
            }
            if start.elapsed() > PATIENCE {
                let err = node.err.text();
                node.watched = false;
                panic!(
                    "{:?} printed no ready line within {PATIENCE:?}\nstdout: {lines}\nstderr: {err}",
                    self.words
                );
            }
            pause(5);
        }
    }

    /// Starts the node, which must serve.
    #[track_caller]
    pub fn serve(&self) -> Node {
        self.start().unwrap_or_else(|outcome| {
            panic!("{:?} ended with {} instead of serving:\n{}", self.words, outcome.code, outcome.err)
        })
    }

    /// Starts the node, which must refuse to: gives what it left.
    #[track_caller]
    pub fn refuse(&self) -> Outcome {
        match self.start() {
            Err(outcome) => {
                assert!(!outcome.err.contains("panicked at"), "{}", outcome.err);
                outcome
            }
            Ok(node) => panic!("{:?} serves although it should not: {}", self.words, node.ready),
        }
    }
}

/// A pipe's bytes as they come.
struct Gathered {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Gathered {
    fn from(mut pipe: impl Read + Send + 'static) -> Gathered {
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

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().expect("the gathered bytes")).into_owned()
    }

    fn join(&mut self) -> Vec<u8> {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader of a pipe");
        }
        self.bytes.lock().expect("the gathered bytes").clone()
    }
}

/// A running (or killed) node.
pub struct Node {
    pub port: u16,
    pub data: PathBuf,
    pub launch: Launch,
    /// The ready line.
    pub ready: String,
    child: Child,
    out: Gathered,
    err: Gathered,
    watched: bool,
}

impl Node {
    fn spawn(launch: Launch, mut command: Command) -> Node {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{PROGRAM}: {error}"));
        let out = Gathered::from(child.stdout.take().expect("stdout"));
        let err = Gathered::from(child.stderr.take().expect("stderr"));
        let (port, data) = (launch.port, launch.data.clone());
        Node { port, data, launch, ready: String::new(), child, out, err, watched: true }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.err.text()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid() as i32).expect("a process id");
        kill_process(pid, signal).expect("a signal to a node that runs");
    }

    /// Kills it with -9.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Its exit code if it has ended; -1 if a signal ended it.
    pub fn exit_code(&mut self) -> Option<i32> {
        self.child.try_wait().expect("the state of a child").map(|status| status.code().unwrap_or(-1))
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> i32 {
        let start = Instant::now();
        loop {
            if let Some(code) = self.exit_code() {
                return code;
            }
            assert!(start.elapsed() < limit, "still running after {limit:?}:\n{}", self.log());
            pause(5);
        }
    }

    /// Sends SIGTERM and waits: it must exit 0 in time.
    #[track_caller]
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        // 5 seconds are promised; the rest is for a loaded machine.
        let code = self.wait(Duration::from_secs(10));
        assert_eq!(code, 0, "after SIGTERM:\n{}", self.log());
    }

    /// Starts the same line again, after the process has ended.
    #[track_caller]
    pub fn restart(&mut self) {
        assert!(self.exit_code().is_some(), "it still runs");
        let fresh = self.launch.serve();
        drop(std::mem::replace(self, fresh));
    }

    fn end_of_output(&mut self) -> (String, String) {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (text(self.out.join()), text(self.err.join()))
    }

    /// One request on a connection of its own.
    #[track_caller]
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> Reply {
        Session::new(self.port)
            .send(method, path, headers, body)
            .unwrap_or_else(|error| panic!("{method} {path} on port {}: {error}\n{}", self.port, self.log()))
    }

    /// `GET path`.
    #[track_caller]
    pub fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, &[], None)
    }

    /// `PUT /kv/KEY`, which must work.
    #[track_caller]
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Reply {
        let reply = self.ask("PUT", &kv(key), &[], Some(value.as_ref()));
        assert!(matches!(reply.status, 200 | 201), "{} {}", reply.status, reply.text());
        reply
    }

    /// The value of a key, if it is there.
    #[track_caller]
    pub fn value(&self, key: impl AsRef<[u8]>) -> Option<Vec<u8>> {
        let reply = self.get(&kv(key));
        match reply.status {
            200 => Some(reply.body),
            404 => {
                reply.must_be_problem(404, "not_found");
                None
            }
            status => panic!("{status} {}", reply.text()),
        }
    }

    /// Bytes as they are, on a connection of their own.
    pub fn raw(&self, bytes: &[u8]) -> std::io::Result<Reply> {
        http::raw(self.port, bytes)
    }
}

/// The path of a key's resource.
pub fn kv(key: impl AsRef<[u8]>) -> String {
    format!("/kv/{}", http::encode(key))
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        let (_, err) = self.end_of_output();
        if !self.watched {
            return;
        }
        if std::thread::panicking() {
            let lines: Vec<&str> = err.lines().collect();
            let tail = lines[lines.len().saturating_sub(30)..].join("\n");
            eprintln!("--- the last that {:?} said:\n{tail}\n---", self.launch.words);
        } else if err.contains("panicked at") {
            panic!("{:?} panicked:\n{err}", self.launch.words);
        }
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
