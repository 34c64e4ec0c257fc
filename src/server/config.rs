//! What a node is told when it starts, and the checks that need nothing but these options.
//! The command line fills them in; a token is already read from its file.

use super::address;
use crate::cluster::directory::Recovered;
use crate::error::{Error, Kind, Result};
use std::path::PathBuf;
use std::time::Duration;

/// The options that masters and workers have in common.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// The address to listen on: a host name or an IP literal; `127.0.0.1` by default.
    pub host: String,
    /// The port to listen on; 0 takes a free one.
    pub port: u16,
    /// The data folder.
    pub data: PathBuf,
    /// The address (`host` or `host:port`) by which others reach this node.
    pub advertise: Option<String>,
    /// Further names in `Host` headers that are this node's own.
    pub allow_hosts: Vec<String>,
    /// The token that every request must carry.
    pub token: Option<String>,
    /// Listen beyond loopback without a token.
    pub insecure: bool,
    /// Threads that serve HTTP; one per core if none.
    pub threads: Option<usize>,
    /// Bytes of memory for rows that were read or written lately.
    pub cache: usize,
}

/// The options of a master.
#[derive(Debug, Clone)]
pub struct MasterOptions {
    /// What every node has.
    pub node: NodeOptions,
    /// Masters to join, as `host:port`; none: found a cluster, or go on with the folder's own.
    pub join: Vec<String>,
    /// Workers to build a lost directory from, as `host:port`; none: nothing is recovered.
    pub recover: Vec<String>,
    /// The directory that was built of what they know, and that a person has agreed to.
    pub recovered: Option<Recovered>,
    /// Members that a group should have, if that was said.
    pub replicas: Option<u32>,
    /// After how long a node that is not heard of is unfit to vote, if that was said.
    pub dead_after: Option<Duration>,
    /// Whether slots move by themselves, if that was said.
    pub rebalance: Option<bool>,
    /// Bytes a second that the copy of a move may take, if that was said.
    pub move_rate: Option<u64>,
}

/// The options of a worker.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// What every node has.
    pub node: NodeOptions,
    /// The masters, as `host:port`.
    pub masters: Vec<String>,
    /// The worker to clone.
    pub clone: Option<u32>,
    /// The lost worker whose place it takes.
    pub replace: Option<u32>,
    /// With `replace`: also where no majority of the group is left.
    pub accept_data_loss: bool,
    /// The folder that `/put_file` may read; the current folder on a loopback worker if none.
    pub files: Option<PathBuf>,
    /// The longest value in bytes.
    pub max_value: u64,
    /// Free bytes of the disk below which nothing is stored.
    pub reserve: u64,
    /// How long what arrived of an upload that broke off is kept, so that it can be resumed.
    pub keep_uploads: Duration,
    /// Every read asks a majority of the group.
    pub quorum_reads: bool,
}

impl NodeOptions {
    /// Refuses to listen beyond loopback without a token. Errors with [`Kind::Usage`].
    pub fn check(&self) -> Result<()> {
        if self.token.is_some() || self.insecure || address::is_loopback(&self.host) {
            return Ok(());
        }
        Err(Error::new(
            Kind::Usage,
            format!("--host {} lets other machines in, and there is no token", self.host),
        )
        .hint("add --token-file FILE (`catstore token` makes one), or --insecure"))
    }

    /// The names in `Host` headers that are this node's own, beside localhost and IP literals.
    pub fn names(&self) -> Vec<String> {
        let mut names = self.allow_hosts.clone();
        names.extend(self.advertise.clone());
        names.push(self.host.clone());
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(host: &str, token: Option<&str>, insecure: bool) -> NodeOptions {
        NodeOptions {
            host: host.into(),
            port: 3000,
            data: "/data".into(),
            advertise: None,
            allow_hosts: Vec::new(),
            token: token.map(str::to_owned),
            insecure,
            threads: None,
            cache: 0,
        }
    }

    #[test]
    fn other_machines_need_a_token() {
        assert!(options("127.0.0.1", None, false).check().is_ok());
        assert!(options("::1", None, false).check().is_ok());
        assert!(options("localhost", None, false).check().is_ok());
        assert!(options("0.0.0.0", Some("t"), false).check().is_ok());
        assert!(options("0.0.0.0", None, true).check().is_ok());
        assert_eq!(options("0.0.0.0", None, false).check().unwrap_err().kind(), Kind::Usage);
        assert_eq!(options("cats.example", None, false).check().unwrap_err().kind(), Kind::Usage);
    }
}
