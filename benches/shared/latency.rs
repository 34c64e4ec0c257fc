//! The shipped `catstore bench` at a rate: it counts each request from when it was due, and keeps a histogram.

use super::Result;
use std::process::Command;

/// What is read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Get,
    Put,
}

/// A run of `catstore bench`.
#[derive(Debug, Clone)]
pub struct Load {
    /// Any node of the cluster.
    pub address: String,
    /// How many of 100 requests read.
    pub reads: u8,
    pub connections: usize,
    pub keys: usize,
    pub seconds: u64,
    /// Requests a second; as many as there can be if there is none.
    pub rate: Option<u64>,
}

/// What it saw of one kind of request, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    pub per_second: f64,
    /// p50, p90, p99, p99.9.
    pub percentiles: [f64; 4],
    pub longest: f64,
}

/// What [`Times::percentiles`] are called.
pub const PERCENTILES: [&str; 4] = ["p50", "p90", "p99", "p99.9"];

impl Load {
    /// Only one kind of request, by 50 connections on as many keys.
    pub fn only(kind: Kind, address: &str, keys: usize, seconds: u64) -> Load {
        let reads = if kind == Kind::Get { 100 } else { 0 };
        Load {
            address: address.to_owned(),
            reads,
            connections: super::CONNECTIONS,
            keys,
            seconds,
            rate: None,
        }
    }

    /// The same at a rate.
    pub fn at(&self, rate: f64) -> Load {
        Load { rate: Some((rate as u64).max(1)), ..self.clone() }
    }

    /// As a command.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_catstore"));
        command
            .args(["bench", "--json", "--master", &self.address, "--reads", &self.reads.to_string()])
            .args(["--connections", &self.connections.to_string(), "--keys", &self.keys.to_string()])
            .args(["--seconds", &self.seconds.to_string()]);
        if let Some(rate) = self.rate {
            command.args(["--rate", &rate.to_string()]);
        }
        command
    }

    /// Runs it: reads and writes. A request that failed is an error.
    pub fn run(&self) -> Result<(Times, Times)> {
        let output = self.command().output()?;
        if !output.status.success() {
            return Err(format!("catstore bench failed: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        read(&output.stdout)
    }

    /// Runs it where there is only one kind.
    pub fn run_only(&self) -> Result<Times> {
        let (reads, writes) = self.run()?;
        Ok(if self.reads > 0 { reads } else { writes })
    }
}

/// The document that `catstore bench --json` prints.
pub fn read(document: &[u8]) -> Result<(Times, Times)> {
    let document: serde_json::Value = serde_json::from_slice(document)?;
    if let Some(failure) = document["first_failure"].as_str() {
        return Err(format!("a request of catstore bench failed: {failure}").into());
    }
    let part = |part: &serde_json::Value| {
        let number = |name: &str| part[name].as_f64().unwrap_or(f64::NAN);
        Times {
            per_second: number("requests_per_second"),
            percentiles: ["p50_ms", "p90_ms", "p99_ms", "p999_ms"].map(number),
            longest: number("longest_ms"),
        }
    };
    Ok((part(&document["reads"]), part(&document["writes"])))
}
