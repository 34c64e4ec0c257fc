//! Keys and values of the benchmark, how they get into the store, and one answer recorded byte by byte.

use super::{CONNECTIONS, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Keys that share a tag, and with it a slot, where they have tags: so many are loaded at once.
pub const BATCH: usize = 1000;
/// Bytes of values that one batch has at most, about: a body has a limit.
const BATCH_BYTES: usize = 1 << 20;

/// What keys look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// `key-000042`: each has a slot of its own.
    Plain,
    /// `{0}-0000042`: neighbours share a slot, so that many can be loaded in one batch.
    Tagged,
}

/// Keys and values.
#[derive(Debug, Clone, Copy)]
pub struct Data {
    pub keys: usize,
    /// Bytes of each value.
    pub size: usize,
    pub names: Names,
}

impl Data {
    /// Keys without tags.
    pub fn plain(keys: usize, size: usize) -> Data {
        Data { keys, size, names: Names::Plain }
    }

    /// Keys with tags.
    pub fn tagged(keys: usize, size: usize) -> Data {
        Data { keys, size, names: Names::Tagged }
    }

    /// The key with this number, as the wrk scripts make it too.
    pub fn key(&self, number: usize) -> String {
        match self.names {
            Names::Plain => format!("key-{number:06}"),
            Names::Tagged => format!("{{{}}}-{number:07}", number / BATCH),
        }
    }

    /// Puts all of it.
    pub fn load(&self, address: &str) -> Result<()> {
        match self.names {
            Names::Plain => self.puts(address),
            Names::Tagged => self.batches(address),
        }
    }

    /// One request for each key, over 50 connections.
    fn puts(&self, address: &str) -> Result<()> {
        let next = AtomicUsize::new(0);
        let value = value(self.size);
        in_threads(|agent| {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= self.keys {
                    return Ok(());
                }
                agent
                    .put(format!("http://{address}/kv/{}", self.key(number)))
                    .send(&value[..])?
                    .body_mut()
                    .read_to_vec()?;
            }
        })
    }

    /// Batches, each within one tag.
    fn batches(&self, address: &str) -> Result<()> {
        let next = AtomicUsize::new(0);
        let value = serde_json::json!({ "base64": BASE64.encode(value(self.size)) });
        let most = (BATCH_BYTES / self.size.max(1)).clamp(1, BATCH);
        in_threads(|agent| {
            loop {
                let first = next.fetch_add(BATCH, Ordering::Relaxed);
                if first >= self.keys {
                    return Ok(());
                }
                let numbers: Vec<usize> = (first..self.keys.min(first + BATCH)).collect();
                for some in numbers.chunks(most) {
                    let put = |number: &usize| serde_json::json!({"op": "put", "key": self.key(*number), "value": value});
                    let ops: Vec<serde_json::Value> = some.iter().map(put).collect();
                    let body = serde_json::to_vec(&serde_json::json!({ "ops": ops }))?;
                    let request =
                        agent.post(format!("http://{address}/batch")).content_type("application/json");
                    request.send(&body[..])?.body_mut().read_to_vec()?;
                }
            }
        })
    }
}

/// Bytes that are not text, and do not compress.
fn value(size: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(size)
    .collect()
}

fn in_threads(work: impl Fn(&ureq::Agent) -> Result<()> + Sync) -> Result<()> {
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..CONNECTIONS).map(|_| scope.spawn(move || work(&ureq::Agent::new_with_defaults()))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a loading thread panicked")?)
    })
}

/// One answer, recorded: its headers without those that every server makes itself, its body, its length in all.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Answer {
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub length: usize,
}

/// `GET /kv/KEY` with a plain socket, so that every byte of the answer is seen.
pub fn raw_get(address: &str, key: &str) -> Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(
        format!("GET /kv/{key} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let split = bytes.windows(4).position(|four| four == b"\r\n\r\n").ok_or("an answer without headers")?;
    let head = String::from_utf8(bytes[..split].to_vec())?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(format!("GET /kv/{key} was answered: {head}").into());
    }
    let headers = head
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(": "))
        .filter(|(name, _)| !["content-length", "date", "connection"].contains(&name.to_lowercase().as_str()))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    Ok(Answer { headers, body: bytes[split + 4..].to_vec(), length: bytes.len() })
}
