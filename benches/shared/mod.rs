//! What several benchmarks share: servers and their peers, load, figures and plots, and the document that holds them.
//!
//! Each benchmark is its own crate and uses its own part of this module.
#![allow(dead_code)]

pub mod cluster;
pub mod document;
pub mod figures;
pub mod hello;
pub mod latency;
pub mod leveldb;
pub mod load;
pub mod peers;
pub mod plot;
pub mod wrk;

use std::error::Error;
use std::process::ExitCode;

pub type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// Bytes of a value, where nothing else is said.
pub const VALUE: usize = 100;
/// Connections of wrk and of redis-benchmark, where nothing else is said.
pub const CONNECTIONS: usize = 50;

/// The number that an environment variable holds.
pub fn number(variable: &str, default: usize) -> Result<usize> {
    match std::env::var(variable) {
        Ok(text) => text.parse().map_err(|_| format!("{variable}={text} is not a number").into()),
        Err(_) => Ok(default),
    }
}

/// The parts of a benchmark that the command line asks for; all of `all` if it names none.
pub fn parts<'a>(all: &[&'a str]) -> Vec<&'a str> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let named: Vec<&str> = all.iter().copied().filter(|part| words.iter().any(|word| word == part)).collect();
    if named.is_empty() { all.to_vec() } else { named }
}

/// Whether cargo asks for a measurement: `cargo test --benches` starts benchmarks too, to see that they run, and that is not
/// worth minutes.
pub fn asked(name: &str) -> bool {
    let asked = std::env::args().any(|argument| argument == "--bench");
    if !asked {
        println!("a benchmark: run it by `cargo bench --bench {name}`");
    }
    asked
}

/// How a benchmark ends.
pub fn ended(done: Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Says how far it is, beside the figures.
pub fn note(text: &str) {
    eprintln!("bench: {text}");
}
