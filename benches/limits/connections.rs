//! Many open connections: most of them idle, held by a process of its own, and a thousand active ones by wrk.

use crate::Measure;
use crate::shared::cluster::Cluster;
use crate::shared::figures::{Figure, p99, rate};
use crate::shared::load::Data;
use crate::shared::{CONNECTIONS, Result, VALUE, note, wrk};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

const IDLE: usize = 9_000;
const ACTIVE: usize = 1_000;
/// In that time idle connections are closed, and tables compacted.
const SETTLE: Duration = Duration::from_secs(2);
/// Open files beside the idle connections.
const SPARE: usize = 100;

pub fn measure(measure: &Measure, folder: &Path) -> Result<Vec<Figure>> {
    let data = Data::plain(measure.keys, VALUE);
    let cluster = Cluster::start(folder)?;
    let address = cluster.worker.address();
    data.load(&address)?;
    let scripts = [wrk::Script::get(folder, &data)?, wrk::Script::put(folder, &data)?];
    let (mut few, mut many) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    // All reads, then all writes: a read behind writes would meet compactions of these.
    for (at, script) in scripts.iter().enumerate() {
        std::thread::sleep(SETTLE);
        for round in 1..=measure.rounds {
            note(&format!("round {round} of {}", measure.rounds));
            few[at].push(wrk::run(script, &address, CONNECTIONS, measure.seconds)?);
            let idle = Idle::open(&address)?;
            // wrk fails the run if a single answer is not 2xx, or a connection breaks.
            many[at].push(wrk::run(script, &address, ACTIVE, measure.seconds)?);
            idle.close()?;
            std::thread::sleep(SETTLE);
        }
    }
    cluster.stop()?;
    let figure = |at: usize, name: &str, durability: &str| {
        let (seen, base) = (rate(&many[at]), rate(&few[at]));
        let name = format!(
            "`{name}` over {ACTIVE} connections beside {IDLE} idle ones / over {CONNECTIONS} connections"
        );
        let more = format!("{seen:.0} / {base:.0} a second, p99 {:.1} ms; no errors", p99(&many[at]));
        Figure::ratio(&name, durability, seen / base, 0.8).with(&more)
    };
    Ok(vec![figure(0, "GET", "linearizable read"), figure(1, "PUT", "synced before the answer")])
}

/// A process that holds idle connections.
struct Idle {
    child: Child,
    /// It ends when this is closed.
    until: Option<ChildStdin>,
    said: BufReader<std::process::ChildStdout>,
}

impl Idle {
    /// Opens them, and waits until each has had an answer.
    fn open(address: &str) -> Result<Idle> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["hold", address, &IDLE.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let said = child.stdout.take().ok_or("a process without an output")?;
        let mut idle = Idle { until: child.stdin.take(), child, said: BufReader::new(said) };
        match idle.line()?.as_str() {
            "held" => Ok(idle),
            other => Err(format!("the idle connections could not be opened: {other}").into()),
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.said.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    /// Has them used once more: an error if one was lost meanwhile.
    fn close(mut self) -> Result<()> {
        self.until.take();
        match self.line()?.as_str() {
            "kept" => Ok(()),
            other => Err(format!("idle connections were lost: {other}").into()),
        }
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process: `hold ADDRESS COUNT`. Each connection asks once, idles until standard input ends, and asks once more.
pub fn hold(arguments: &[String]) -> Result<()> {
    let [address, count] = arguments else {
        return Err("usage: hold ADDRESS COUNT".into());
    };
    let count: usize = count.parse()?;
    allow_files(count + SPARE)?;
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = TcpStream::connect(address)?;
        ask(&mut stream)?;
        held.push(stream);
    }
    println!("held");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    held.iter_mut().try_for_each(ask)?;
    println!("kept");
    Ok(())
}

/// A GET of a key that is there, and its answer.
fn ask(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"GET /kv/key-000000 HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut some = [0; 1024];
    while answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .is_none_or(|at| answer.len() < at + 4 + VALUE)
    {
        match stream.read(&mut some)? {
            0 => return Err("a connection was closed".into()),
            count => answer.extend_from_slice(&some[..count]),
        }
    }
    match answer.starts_with(b"HTTP/1.1 200") {
        true => Ok(()),
        false => Err(format!("an unexpected answer: {}", String::from_utf8_lossy(&answer)).into()),
    }
}

/// Lets this process open so many files.
fn allow_files(count: usize) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|most| most < count as u64) {
        return Err(format!("{count} open files are needed: raise the limit by `ulimit -Hn {count}`").into());
    }
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?)
}
