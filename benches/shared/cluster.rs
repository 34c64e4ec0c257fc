//! A master and a worker of the built binary, on free ports and in folders of their own.

use super::Result;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A port that was free a moment ago.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// A running process; killed when it is dropped before it was stopped.
pub struct Node {
    name: &'static str,
    child: Child,
    port: u16,
}

pub struct Cluster {
    pub master: Node,
    pub worker: Node,
    folder: PathBuf,
    /// Of the worker.
    options: Vec<String>,
}

impl Cluster {
    pub fn start(folder: &Path) -> Result<Cluster> {
        Cluster::with(folder, &[])
    }

    /// The same with options for the worker.
    pub fn with(folder: &Path, options: &[&str]) -> Result<Cluster> {
        fs::create_dir_all(folder)?;
        let port = free_port()?;
        let master = Node::start("master", port, &[port.to_string()], folder)?;
        master.wait_ready(Duration::from_secs(20))?;
        let worker = start_worker(folder, free_port()?, master.port, options)?;
        worker.wait_ready(Duration::from_secs(20))?;
        let options = options.iter().map(|word| (*word).to_owned()).collect();
        Ok(Cluster { master, worker, folder: folder.to_owned(), options })
    }

    /// Stops the worker and starts it again on its folder; the time from its start to its first answer.
    pub fn restart_worker(&mut self) -> Result<Duration> {
        self.worker.stop()?;
        let started = Instant::now();
        let options: Vec<&str> = self.options.iter().map(String::as_str).collect();
        self.worker = start_worker(&self.folder, self.worker.port, self.master.port, &options)?;
        self.worker.wait_answer(started)
    }

    /// Options for the worker from its next start on.
    pub fn set_options(&mut self, options: &[&str]) {
        self.options = options.iter().map(|word| (*word).to_owned()).collect();
    }

    /// Starts one more worker in a folder of its own, and waits until it can serve.
    pub fn join(&self, name: &str, options: &[&str]) -> Result<Node> {
        let folder = self.folder.join(name);
        fs::create_dir_all(&folder)?;
        let node = start_worker(&folder, free_port()?, self.master.port, options)?;
        node.wait_ready(Duration::from_secs(60))?;
        Ok(node)
    }

    pub fn stop(mut self) -> Result<()> {
        self.worker.stop()?;
        self.master.stop()
    }
}

fn start_worker(folder: &Path, port: u16, master: u16, options: &[&str]) -> Result<Node> {
    let mut words = vec![port.to_string(), "--master".to_owned(), master.to_string()];
    words.extend(options.iter().map(|word| (*word).to_owned()));
    Node::start("worker", port, &words, folder)
}

/// Starts a worker on a new folder; the time from its start to its first answer.
pub fn first_start(folder: &Path, number: usize) -> Result<Duration> {
    let folder = folder.join(format!("first-{number}"));
    fs::create_dir_all(&folder)?;
    let port = free_port()?;
    let mut master = Node::start("master", port, &[port.to_string()], &folder)?;
    master.wait_ready(Duration::from_secs(20))?;
    let started = Instant::now();
    let mut worker = start_worker(&folder, free_port()?, port, &[])?;
    let time = worker.wait_answer(started)?;
    worker.stop()?;
    master.stop()?;
    Ok(time)
}

impl Node {
    fn start(role: &'static str, port: u16, arguments: &[String], folder: &Path) -> Result<Node> {
        let log = fs::File::options().create(true).append(true).open(folder.join(format!("{role}.log")))?;
        let child = Command::new(env!("CARGO_BIN_EXE_catstore"))
            .arg(role)
            .args(arguments)
            .arg("--data")
            .arg(folder.join(role))
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        Ok(Node { name: role, child, port })
    }

    /// A server that is not ours.
    pub fn start_peer(program: &'static str, port: u16, arguments: &[String], folder: &Path) -> Result<Node> {
        let log = || fs::File::options().create(true).append(true).open(folder.join("log"));
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log()?)
            .stderr(log()?)
            .spawn()
            .map_err(|error| format!("{program} cannot be run ({error}); type: scripts/setup bench"))?;
        Ok(Node { name: program, child, port })
    }

    /// This program as a bare server.
    pub fn start_hello(port: u16, answer: &Path) -> Result<Node> {
        let child = Command::new(std::env::current_exe()?)
            .args(["hello", &port.to_string()])
            .arg(answer)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Node { name: "hello", child, port })
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Waits until `/health` says that it can serve.
    pub fn wait_ready(&self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if ureq::get(format!("http://{}/health", self.address())).call().is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(format!("the {} did not become ready within {patience:?}", self.name).into())
    }

    /// Polls a GET until it is answered from the store (404 for a key that is absent).
    fn wait_answer(&mut self, started: Instant) -> Result<Duration> {
        let url = format!("http://{}/kv/absent", self.address());
        while started.elapsed() < Duration::from_secs(60) {
            if let Err(ureq::Error::StatusCode(404)) = ureq::get(&url).call() {
                return Ok(started.elapsed());
            }
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("the {} ended at once: {status}", self.name).into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(format!("the {} gave no answer within a minute", self.name).into())
    }

    /// Resident memory in MiB: all of it, and the part that is not backed by files.
    pub fn resident(&self) -> Result<(f64, f64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
            number.map(|kilobytes| kilobytes / 1024.0).ok_or(format!("no {name} in /proc"))
        };
        Ok((field("VmRSS:")?, field("RssAnon:")?))
    }

    /// How often the log was synced, if `/metrics` says so.
    pub fn syncs(&self) -> Option<f64> {
        self.metrics().ok()?.lines().find_map(|line| metric(line, "catstore_log_syncs_total"))
    }

    /// How many requests it has answered.
    pub fn requests(&self) -> Result<f64> {
        Ok(self.metrics()?.lines().filter_map(|line| metric(line, "catstore_requests_total")).sum())
    }

    fn metrics(&self) -> Result<String> {
        let url = format!("http://{}/metrics", self.address());
        Ok(ureq::get(url).call()?.body_mut().read_to_string()?)
    }

    /// SIGTERM, and the end of the process.
    pub fn stop(&mut self) -> Result<()> {
        // The shell's kill: a signal needs no unsafe code here.
        Command::new("kill").arg(self.child.id().to_string()).status()?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(format!("the {} did not stop within 20 seconds", self.name).into())
    }
}

/// The number of a line of `/metrics` that is about `name`.
fn metric(line: &str, name: &str) -> Option<f64> {
    let rest = line.strip_prefix(name)?;
    if !rest.starts_with([' ', '{']) {
        return None;
    }
    rest.rsplit(' ').next()?.parse().ok()
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
