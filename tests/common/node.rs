//! Processes: a [`Launch`] says how one starts, a [`Node`] is one that runs.

use super::home::{Gathered, Outcome, PROGRAM};
use super::http::{self, Reply, Session};
use super::{PATIENCE, pause};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

/// The process that was last started for each port.
static STARTED: LazyLock<Mutex<HashMap<u16, u32>>> = LazyLock::new(Mutex::default);

/// The id of the process that was last started on `port`.
pub fn started_on(port: u16) -> Option<u32> {
    STARTED.lock().expect("the started processes").get(&port).copied()
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
        STARTED.lock().expect("the started processes").insert(launch.port, child.id());
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
