//! Processes: a master and workers of the built binary, and three etcd servers, on free ports and in folders of their
//! own below one folder.

use crate::shared::Result;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(60);

/// A running process; killed when it is dropped.
pub struct Process {
    child: Child,
    pub port: u16,
}

impl Process {
    fn start(program: &str, arguments: &[String], log: &Path, port: u16) -> Result<Process> {
        let log = fs::File::options().create(true).append(true).open(log)?;
        let child = Command::new(program)
            .args(arguments)
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|error| format!("{program} cannot be run ({error}); type: scripts/setup bench"))?;
        Ok(Process { child, port })
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Resident memory in MiB: its own, and with the files that are mapped, which the system takes back when it wants.
    pub fn resident(&self) -> Result<(f64, f64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let number = |name: &str| -> Result<f64> {
            let line = status.lines().find(|line| line.starts_with(name)).ok_or("no such line in /proc")?;
            let kilobytes: f64 = line.split_whitespace().nth(1).ok_or("no number in /proc")?.parse()?;
            Ok(kilobytes / 1024.0)
        };
        Ok((number("RssAnon:")?, number("VmRSS:")?))
    }

    fn terminate(&mut self) -> Result<()> {
        // The shell's kill: a signal needs no unsafe code here.
        Command::new("kill").arg(self.child.id().to_string()).status()?;
        wait(|| Ok(self.child.try_wait()?.is_some()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A master and a group of workers.
pub struct Group {
    folder: PathBuf,
    pub master: Process,
    pub workers: Vec<Process>,
}

impl Group {
    /// Starts a group of `size` members and waits until as many vote as should.
    pub fn start(folder: &Path, size: usize) -> Result<Group> {
        fs::create_dir_all(folder)?;
        let port = free_port()?;
        let arguments = ["master".into(), port.to_string(), "--data".into(), text(&folder.join("master"))];
        let master = Process::start(env!("CARGO_BIN_EXE_catstore"), &arguments, &folder.join("log"), port)?;
        wait(|| Ok(json(&master.address(), "/health").is_ok()))?;
        let mut group = Group { folder: folder.to_owned(), master, workers: Vec::new() };
        for _ in 0..size {
            group.add()?;
        }
        let voters = size - 1 + size % 2;
        wait(|| {
            Ok(group
                .workers
                .iter()
                .any(|worker| count(&worker.address(), "voters") == voters && is_leader(&worker.address())))
        })?;
        Ok(group)
    }

    /// Starts one more member, and waits until it is open.
    pub fn add(&mut self) -> Result<()> {
        self.spawn()?;
        let address = self.workers.last().ok_or("no worker")?.address();
        wait(|| Ok(json(&address, "/worker").is_ok_and(|facts| facts["state"] == "open")))
    }

    /// Starts one more member.
    pub fn spawn(&mut self) -> Result<()> {
        let port = free_port()?;
        let data = self.folder.join(format!("worker-{}", self.workers.len()));
        let arguments = [
            "worker".into(),
            port.to_string(),
            "--master".into(),
            self.master.port.to_string(),
            "--clone".into(),
            "0".into(),
            "--data".into(),
            text(&data),
        ];
        self.workers.push(Process::start(
            env!("CARGO_BIN_EXE_catstore"),
            &arguments,
            &self.folder.join("log"),
            port,
        )?);
        Ok(())
    }

    /// The data folder of a worker.
    pub fn data(&self, number: usize) -> PathBuf {
        self.folder.join(format!("worker-{number}"))
    }

    /// The address of the worker that leads.
    pub fn leader(&self) -> Result<String> {
        let leader = self.workers.iter().find(|worker| is_leader(&worker.address()));
        Ok(leader.ok_or("no worker leads")?.address())
    }

    pub fn stop(mut self) -> Result<()> {
        for worker in &mut self.workers {
            worker.terminate()?;
        }
        self.master.terminate()
    }
}

/// Three etcd servers with their durable defaults.
pub struct Etcd {
    members: Vec<Process>,
}

impl Etcd {
    pub fn start(folder: &Path) -> Result<Etcd> {
        fs::create_dir_all(folder)?;
        let ports: Vec<(u16, u16)> =
            (0..3).map(|_| Ok((free_port()?, free_port()?))).collect::<Result<_>>()?;
        let cluster: Vec<String> =
            ports.iter().enumerate().map(|(n, (_, peer))| format!("m{n}=http://127.0.0.1:{peer}")).collect();
        let mut members = Vec::new();
        for (number, (client, peer)) in ports.iter().enumerate() {
            let arguments = [
                format!("--name=m{number}"),
                format!("--data-dir={}", text(&folder.join(format!("m{number}")))),
                format!("--listen-client-urls=http://127.0.0.1:{client}"),
                format!("--advertise-client-urls=http://127.0.0.1:{client}"),
                format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
                format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
                format!("--initial-cluster={}", cluster.join(",")),
                "--log-level=error".to_owned(),
            ];
            members.push(Process::start("etcd", &arguments, &folder.join("log"), *client)?);
        }
        let etcd = Etcd { members };
        wait(|| Ok(etcd.leader().is_ok()))?;
        Ok(etcd)
    }

    /// The address of the member that leads.
    pub fn leader(&self) -> Result<String> {
        for member in &self.members {
            let url = format!("http://{}/v3/maintenance/status", member.address());
            let text = ureq::post(url).send("{}")?.body_mut().read_to_string()?;
            let status: serde_json::Value = serde_json::from_str(&text)?;
            if status["leader"].is_string() && status["leader"] == status["header"]["member_id"] {
                return Ok(member.address());
            }
        }
        Err("no etcd server leads".into())
    }

    pub fn stop(self) {
        drop(self);
    }
}

/// A document that a node answers.
pub fn json(address: &str, path: &str) -> Result<serde_json::Value> {
    let text = ureq::get(format!("http://{address}{path}")).call()?.body_mut().read_to_string()?;
    Ok(serde_json::from_str(&text)?)
}

fn is_leader(address: &str) -> bool {
    json(address, "/worker").is_ok_and(|facts| facts["role"] == "leader")
}

fn count(address: &str, list: &str) -> usize {
    json(address, "/worker").ok().and_then(|facts| Some(facts[list].as_array()?.len())).unwrap_or(0)
}

/// Polls until `done`.
pub fn wait(mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + SOON;
    while Instant::now() < deadline {
        if done()? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err("it did not come about within a minute".into())
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
