//! Many open connections: most of them idle, held by a process of its own, and a thousand active ones by wrk. The same of a bare
//! actix-web server, by turns, shows what they cost whoever answers.

use crate::Measure;
use crate::shared::cluster::Cluster;
use crate::shared::figures::{Figure, p99, rate};
use crate::shared::hello::Hello;
use crate::shared::load::{Data, raw_get};
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
    let hello = Hello::start(folder, &raw_get(&address, &data.key(0))?)?;
    let get = wrk::Script::get(folder, &data)?;
    let put = wrk::Script::put(folder, &data)?;
    let (mut reads, mut bare, mut writes) = (Pairs::default(), Pairs::default(), Pairs::default());
    // All reads, then all writes: a read behind writes would meet compactions of these.
    std::thread::sleep(SETTLE);
    for round in 1..=measure.rounds {
        note(&format!("reads, round {round} of {}", measure.rounds));
        reads.add(&get, &address, true, measure.seconds)?;
        // It closes connections that idle for five seconds.
        bare.add(&get, &hello.address(), false, measure.seconds)?;
    }
    hello.stop()?;
    std::thread::sleep(SETTLE);
    for round in 1..=measure.rounds {
        note(&format!("writes, round {round} of {}", measure.rounds));
        writes.add(&put, &address, true, measure.seconds)?;
    }
    cluster.stop()?;
    let beside = format!(" beside {IDLE} idle ones");
    Ok(vec![
        reads.figure("`GET`", "linearizable read", &beside),
        bare.figure("bare actix-web", "none: bytes that never change", "").without_target(),
        writes.figure("`PUT`", "synced before the answer", &beside),
    ])
}

/// What was seen over a few connections, and right behind it over many.
#[derive(Default)]
struct Pairs {
    few: Vec<wrk::Seen>,
    many: Vec<wrk::Seen>,
}

impl Pairs {
    fn add(&mut self, script: &wrk::Script, address: &str, idle: bool, seconds: u64) -> Result<()> {
        self.few.push(wrk::run(script, address, CONNECTIONS, seconds)?);
        let idle = idle.then(|| Idle::open(address)).transpose()?;
        // wrk fails the run if a single answer is not 2xx, or a connection breaks.
        self.many.push(wrk::run(script, address, ACTIVE, seconds)?);
        idle.map_or(Ok(()), Idle::close)?;
        std::thread::sleep(SETTLE);
        Ok(())
    }

    fn figure(&self, what: &str, durability: &str, beside: &str) -> Figure {
        let (seen, base) = (rate(&self.many), rate(&self.few));
        let name = format!("{what} over {ACTIVE} connections{beside} / over {CONNECTIONS} connections");
        let more = format!("{seen:.0} / {base:.0} a second, p99 {:.1} ms; no errors", p99(&self.many));
        Figure::ratio(&name, durability, seen / base, 0.8).with(&more)
    }
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
