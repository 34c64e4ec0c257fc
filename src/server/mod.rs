//! HTTP. A placeholder: the signatures that the command line is built against.
#![allow(clippy::todo)]

use crate::error::Result;
use std::path::PathBuf;

/// What every node is told at its start.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// The address to listen on.
    pub host: String,
    /// The port to listen on.
    pub port: u16,
    /// The data folder.
    pub data: PathBuf,
    /// The address that others reach this node by.
    pub advertise: Option<String>,
    /// Names that a `Host` header may carry.
    pub allow_hosts: Vec<String>,
    /// The token that every request must carry.
    pub token: Option<String>,
    /// Listens beyond loopback without a token.
    pub insecure: bool,
    /// HTTP threads.
    pub threads: Option<usize>,
    /// LevelDB's block cache in bytes.
    pub cache: usize,
}

/// What a master is told at its start.
#[derive(Debug, Clone)]
pub struct MasterOptions {
    /// What every node is told.
    pub node: NodeOptions,
}

/// What a worker is told at its start.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// What every node is told.
    pub node: NodeOptions,
    /// Where the masters are.
    pub masters: Vec<String>,
    /// The worker to clone.
    pub clone: Option<u32>,
    /// The folder below which `/put_file` reads.
    pub files: Option<PathBuf>,
    /// The largest value in bytes.
    pub max_value: usize,
}

/// Runs a master until a signal stops it.
pub fn run_master(options: MasterOptions) -> Result<()> {
    let _ = options;
    todo!()
}

/// Runs a worker until a signal stops it.
pub fn run_worker(options: WorkerOptions) -> Result<()> {
    let _ = options;
    todo!()
}
