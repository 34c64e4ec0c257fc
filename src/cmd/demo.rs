//! `catstore demo`: a cluster in a temporary folder, a value and a picture put and read back, until Ctrl-C.

use super::children::Node;
use super::{output, signals, status, text};
use crate::client::{Client, PutOptions};
use crate::cluster::view::WorkerStatus;
use crate::error::{Error, Kind, Result};
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The picture that goes into `B`.
const PICTURE: &[u8] = include_bytes!("../../examples/cat.jpg");
/// A node is ready within this time.
const START: Duration = Duration::from_secs(30);
/// `--cache` of each worker: they share one machine, and there may be many.
const CACHE: &str = "64MiB";
/// The master hears of the workers' keys and votes within this time.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How often the nodes are looked at while the demo is up.
const LOOK: Duration = Duration::from_millis(100);

/// Arguments of `catstore demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many workers: the first founds a group, the others clone it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// Ends when everything was shown, instead of waiting for Ctrl-C
    #[arg(long)]
    exit: bool,
}

impl Args {
    /// Runs the demo.
    pub fn run(self) -> Result<()> {
        let stop = signals::watch()?;
        let folder = tempfile::Builder::new()
            .prefix("catstore-demo-")
            .tempdir()
            .map_err(|error| Error::new(Kind::System, "no temporary folder can be made").cause(error))?;
        let mut nodes = Vec::new();
        let result = self.show(folder.path(), &mut nodes, &stop);
        // Workers first: they say goodbye to a master that still listens.
        while let Some(node) = nodes.pop() {
            node.stop();
        }
        let path = folder.path().display().to_string();
        let removed = folder.close().map_err(|error| {
            Error::new(Kind::System, format!("{path} cannot be removed")).hint("remove it").cause(error)
        });
        result.and(removed)
    }

    fn show(&self, folder: &Path, nodes: &mut Vec<Node>, stop: &AtomicBool) -> Result<()> {
        let ports = free_ports(1 + self.workers)?;
        let (master, workers) = (ports[0], &ports[1..]);
        output::write(format!("a cluster in {}\n", folder.display()).as_bytes())?;
        let data = |name: String| folder.join(name).to_string_lossy().into_owned();
        let arguments =
            ["master".to_owned(), master.to_string(), "--data".to_owned(), data(format!("master-{master}"))];
        if !start("the master", &arguments, folder, nodes, stop)? {
            return Ok(());
        }
        for (index, port) in workers.iter().enumerate() {
            let (port, master) = (port.to_string(), master.to_string());
            let data = data(format!("worker-{port}"));
            let mut arguments = ["worker", &port, "--master", &master].map(str::to_owned).to_vec();
            if index > 0 {
                arguments.extend(["--clone", "0"].map(str::to_owned));
            }
            arguments.extend(["--cache".to_owned(), CACHE.to_owned()]);
            arguments.extend(["--data".to_owned(), data]);
            if !start(&format!("worker {index}"), &arguments, folder, nodes, stop)? {
                return Ok(());
            }
        }
        let client = Client::builder(vec![master.to_string()]).memory(None).build()?;
        put_and_get(&client, "A", b"happy", "text/plain; charset=utf-8")?;
        put_and_get(&client, "B", PICTURE, "image/jpeg")?;
        output::write(format!("\n{}", status::render(&settled(&client, self.workers)?)).as_bytes())?;
        if self.exit {
            return Ok(());
        }
        output::write(commands(master).as_bytes())?;
        while !stop.load(Ordering::Relaxed) {
            if let Some(error) = nodes.iter_mut().find_map(Node::ended) {
                return Err(error);
            }
            std::thread::sleep(LOOK);
        }
        output::write(b"\nstopping, and removing everything\n")
    }
}

/// Starts a node and waits until it is ready; false if a signal came first.
fn start(
    name: &str,
    arguments: &[String],
    folder: &Path,
    nodes: &mut Vec<Node>,
    stop: &AtomicBool,
) -> Result<bool> {
    output::write(
        format!(
            "$ catstore {}\n",
            arguments.iter().map(|word| text::quote(word)).collect::<Vec<_>>().join(" ")
        )
        .as_bytes(),
    )?;
    nodes.push(Node::start(name, arguments, folder)?);
    let Some(node) = nodes.last_mut() else { return Ok(false) };
    match node.ready(Instant::now() + START, || stop.load(Ordering::Relaxed))? {
        Some(line) => output::write(format!("{line}\n").as_bytes()).map(|()| true),
        None => Ok(false),
    }
}

fn put_and_get(client: &Client, key: &str, value: &[u8], content_type: &str) -> Result<()> {
    let options = PutOptions { content_type: Some(content_type.to_owned()), ..PutOptions::default() };
    let stored = client.put(key, value, options)?;
    let read = client.get(key)?;
    if read.is_none_or(|read| read.bytes != value) {
        return Err(Error::new(Kind::Damaged, format!("{key} came back different from what was put")));
    }
    let size = text::bytes(value.len() as u64);
    output::write(
        format!("{key}: {size} put as version {}, read back byte for byte\n", stored.version).as_bytes(),
    )
}

/// The status once the master has heard by heartbeats that `workers` workers hold both keys and as many of them vote as
/// will; as it is if that takes long.
fn settled(client: &Client, workers: u16) -> Result<status::Status> {
    let deadline = Instant::now() + HEARTBEAT;
    let voters = usize::from(workers - u16::from(workers.is_multiple_of(2)));
    loop {
        let status = status::gather(client)?;
        let holds = |worker: &WorkerStatus| worker.facts.as_ref().is_some_and(|facts| facts.keys >= 2);
        let settled = status.workers.iter().filter(|worker| holds(worker)).count() >= usize::from(workers)
            && status.groups.iter().all(|group| group.voters.len() >= voters);
        if settled || Instant::now() >= deadline {
            return Ok(status);
        }
        std::thread::sleep(LOOK);
    }
}

/// What to try, as lines that can be copied.
fn commands(master: u16) -> String {
    let option = if master == 3000 { String::new() } else { format!(" --master {master}") };
    format!(
        "\nIt is up until Ctrl-C. In another terminal, try:\n  \
         catstore get A{option}\n  \
         catstore put C 'hello, cat'{option}\n  \
         catstore get B -o cat.jpg{option}\n  \
         catstore list{option}\n  \
         catstore status --watch{option}\n  \
         curl http://127.0.0.1:{master}/kv/A\n  \
         open http://127.0.0.1:{master}/kv/B in a browser\n"
    )
}

/// 3000, 3001 … where nobody listens; others where somebody does.
fn free_ports(count: u16) -> Result<Vec<u16>> {
    let wrong = |error| Error::new(Kind::System, "there is no free port").cause(error);
    // All are held until all are found, so that they are distinct. Then they are let go: whoever is quicker than our
    // node makes it fail with a clear error.
    let held: Vec<TcpListener> = (3000..)
        .take(usize::from(count))
        .map(|wished| {
            TcpListener::bind(("127.0.0.1", wished)).or_else(|_| TcpListener::bind(("127.0.0.1", 0)))
        })
        .collect::<std::io::Result<_>>()
        .map_err(wrong)?;
    held.iter().map(|listener| Ok(listener.local_addr().map_err(wrong)?.port())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_distinct_and_free() {
        let ports = free_ports(3).unwrap();
        let distinct: std::collections::HashSet<_> = ports.iter().collect();
        assert_eq!(distinct.len(), 3);
    }

    #[test]
    fn commands_name_the_master_where_it_is_not_the_usual_one() {
        assert!(commands(3000).contains("catstore get A\n"));
        assert!(commands(4000).contains("catstore get A --master 4000\n"));
    }
}
