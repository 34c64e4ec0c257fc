//! What people would pick instead, one server each, with the settings that make a write durable: Redis that syncs its log
//! before each answer, and etcd as it comes.

use super::Result;
use super::cluster::{Node, free_port};
use super::load::Data;
use super::wrk::{Script, Seen};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(30);
/// Keys that Redis is sent before its answers are read.
const PIPELINE: usize = 1000;
/// Operations of a transaction of etcd; it takes at most 128, and 1.5 MiB.
const TRANSACTION: usize = 100;
const TRANSACTION_BYTES: usize = 1 << 20;
/// Requests of each connection, and at most, that tell how many take about as long as is wanted.
const TASTE: (usize, usize) = (100, 10_000);

/// A Redis server.
pub struct Redis {
    node: Node,
    data: Data,
}

impl Redis {
    /// Starts it, and sets as many keys as redis-benchmark draws from.
    pub fn start(folder: &Path, data: &Data) -> Result<Redis> {
        let (folder, port) = (folder.join("redis"), free_port()?);
        fs::create_dir_all(&folder)?;
        let arguments = [
            format!("--port {port}"),
            "--bind 127.0.0.1".into(),
            format!("--dir {}", folder.display()),
            "--appendonly yes".into(),
            "--appendfsync always".into(),
        ];
        let words: Vec<String> = arguments
            .iter()
            .flat_map(|words| words.split(' ').map(str::to_owned))
            .chain(["--save".into(), String::new()])
            .collect();
        let node = Node::start_peer("redis-server", port, &words, &folder)?;
        let redis = Redis { node, data: *data };
        let mut stream = redis.connect()?;
        let numbers: Vec<usize> = (0..data.keys).collect();
        let (size, value) = (data.size, "v".repeat(data.size));
        for some in numbers.chunks(PIPELINE) {
            let sets: String = some
                .iter()
                .map(|number| format!("*3\r\n$3\r\nSET\r\n$16\r\nkey:{number:012}\r\n${size}\r\n{value}\r\n"))
                .collect();
            stream.write_all(sets.as_bytes())?;
            let mut answers = vec![0; some.len() * "+OK\r\n".len()];
            stream.read_exact(&mut answers)?;
            if answers != "+OK\r\n".repeat(some.len()).as_bytes() {
                return Err(format!("redis did not take a key: {}", String::from_utf8_lossy(&answers)).into());
            }
        }
        Ok(redis)
    }

    fn connect(&self) -> Result<TcpStream> {
        let deadline = Instant::now() + SOON;
        loop {
            match TcpStream::connect(self.node.address()) {
                Ok(stream) => return Ok(stream),
                Err(error) if Instant::now() > deadline => return Err(error.into()),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// `get` or `set` of random keys for about so many seconds, without pipelining.
    pub fn run(&self, test: &str, connections: usize, seconds: u64) -> Result<Seen> {
        let least = (connections * TASTE.0).min(TASTE.1);
        let taste = self.benchmark(test, connections, least)?;
        self.benchmark(test, connections, ((taste.per_second * seconds as f64) as usize).max(least))
    }

    fn benchmark(&self, test: &str, connections: usize, requests: usize) -> Result<Seen> {
        let output = Command::new("redis-benchmark")
            .args(["-h", "127.0.0.1", "-p", &self.node.port().to_string(), "--csv", "-t", test])
            .args(["-c", &connections.to_string(), "-d", &self.data.size.to_string()])
            .args(["-r", &self.data.keys.to_string(), "-n", &requests.to_string()])
            .output()
            .map_err(|error| format!("redis-benchmark cannot be run ({error}); type: scripts/setup bench"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        // "GET","123.45",average,shortest,p50,p95,p99,longest
        let row = text.lines().find(|line| line.to_lowercase().starts_with(&format!("\"{test}\"")));
        let cells: Vec<f64> = row
            .into_iter()
            .flat_map(|row| row.split(',').skip(1))
            .filter_map(|cell| cell.trim_matches('"').parse().ok())
            .collect();
        match (output.status.success(), &cells[..]) {
            (true, [per_second, _, _, _, _, p99, _]) => Ok(Seen { per_second: *per_second, p99: *p99 }),
            _ => Err(format!("redis-benchmark printed something unexpected: {text}").into()),
        }
    }

    pub fn stop(mut self) -> Result<()> {
        self.node.stop()
    }
}

/// An etcd server.
pub struct Etcd {
    node: Node,
    get: Script,
    put: Script,
}

impl Etcd {
    /// Starts it, puts the keys, and starts it again: reads are at their best then.
    pub fn start(folder: &Path, data: &Data) -> Result<Etcd> {
        let folder = folder.join("etcd");
        fs::create_dir_all(&folder)?;
        let (port, peer) = (free_port()?, free_port()?);
        let mut node = start_etcd(&folder, port, peer)?;
        let value = BASE64.encode("v".repeat(data.size));
        let numbers: Vec<usize> = (0..data.keys).collect();
        for some in numbers.chunks((TRANSACTION_BYTES / data.size.max(1)).clamp(1, TRANSACTION)) {
            let puts: Vec<serde_json::Value> = some
                .iter()
                .map(|number| {
                    let key = BASE64.encode(data.key(*number));
                    serde_json::json!({ "requestPut": { "key": key, "value": value } })
                })
                .collect();
            let body = serde_json::to_vec(&serde_json::json!({ "success": puts }))?;
            ureq::post(format!("http://{}/v3/kv/txn", node.address()))
                .send(&body[..])?
                .body_mut()
                .read_to_vec()?;
        }
        node.stop()?;
        let node = start_etcd(&folder, port, peer)?;
        let keys = || (0..data.keys).map(|number| data.key(number));
        let get = Script::post(&folder, "/v3/kv/range", keys(), "")?;
        let put = Script::post(&folder, "/v3/kv/put", keys(), &format!(",\"value\":\"{value}\""))?;
        Ok(Etcd { node, get, put })
    }

    pub fn address(&self) -> String {
        self.node.address()
    }

    /// Linearizable reads of random keys.
    pub fn get(&self) -> &Script {
        &self.get
    }

    /// Puts of random keys.
    pub fn put(&self) -> &Script {
        &self.put
    }

    pub fn stop(mut self) -> Result<()> {
        self.node.stop()
    }
}

fn start_etcd(folder: &Path, port: u16, peer: u16) -> Result<Node> {
    let data: PathBuf = folder.join("data");
    let arguments = [
        "--name=one".to_owned(),
        format!("--data-dir={}", data.display()),
        format!("--listen-client-urls=http://127.0.0.1:{port}"),
        format!("--advertise-client-urls=http://127.0.0.1:{port}"),
        format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
        format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
        format!("--initial-cluster=one=http://127.0.0.1:{peer}"),
        // Puts of large values fill its default of 2 GiB within minutes.
        "--quota-backend-bytes=8589934592".to_owned(),
        "--log-level=error".to_owned(),
    ];
    let node = Node::start_peer("etcd", port, &arguments, folder)?;
    node.wait_ready(SOON)?;
    Ok(node)
}

/// The versions of what is measured against.
pub fn versions() -> String {
    let first = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text).lines().next().map(str::to_owned)
    };
    let redis = first("redis-server", "--version").unwrap_or_default();
    let redis = redis.split_whitespace().find_map(|word| word.strip_prefix("v=")).unwrap_or("?").to_owned();
    let etcd = first("etcd", "--version").unwrap_or_default();
    let etcd = etcd.rsplit(' ').next().unwrap_or("?").to_owned();
    let wrk = first("wrk", "--version").unwrap_or_default();
    let wrk = wrk.split_whitespace().nth(1).unwrap_or("?").to_owned();
    format!("redis {redis}, etcd {etcd}, wrk {wrk}")
}
