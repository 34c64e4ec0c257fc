//! Keys and values of the benchmark, how they get into the store, and one answer recorded byte by byte.

use crate::{CONNECTIONS, Result, VALUE};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Operations of one batch when many keys are loaded.
const BATCH: usize = 2000;

/// The key with this number, as the wrk scripts make it too.
pub fn key(number: usize) -> String {
    format!("key-{number:06}")
}

/// Puts keys `0..count`, one request each, over 50 connections.
pub fn puts(address: &str, count: usize) -> Result<()> {
    let next = AtomicUsize::new(0);
    let value = value();
    in_threads(|agent| {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return Ok(());
            }
            agent
                .put(format!("http://{address}/kv/{}", key(number)))
                .send(&value[..])?
                .body_mut()
                .read_to_vec()?;
        }
    })
}

/// Puts `count` keys in batches: they carry a tag, because a batch stays within one slot.
pub fn batches(address: &str, count: usize) -> Result<()> {
    let next = AtomicUsize::new(0);
    let value = serde_json::json!({ "base64": BASE64.encode(value()) });
    in_threads(|agent| {
        loop {
            let first = next.fetch_add(BATCH, Ordering::Relaxed);
            if first >= count {
                return Ok(());
            }
            let ops: Vec<serde_json::Value> = (first..count.min(first + BATCH))
                .map(|number| serde_json::json!({"op": "put", "key": format!("{{k}}-{number:07}"), "value": value}))
                .collect();
            let body = serde_json::to_vec(&serde_json::json!({ "ops": ops }))?;
            let request = agent.post(format!("http://{address}/batch")).content_type("application/json");
            request.send(&body[..])?.body_mut().read_to_vec()?;
        }
    })
}

/// 100 bytes that are not text, and do not compress.
fn value() -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(VALUE)
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
