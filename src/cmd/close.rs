//! `catstore close IDX`: closes the store of a worker, or a master; the process stays.

use super::options::{TokenArgs, client, masters};
use super::output;
use crate::client::{Client, parse_address};
use crate::error::{Error, Kind, Result};

/// Arguments of `catstore close`.
#[derive(Debug, clap::Args)]
#[command(override_usage = "catstore close <IDX | --master [ADDR]> [OPTIONS]")]
pub struct Args {
    #[command(flatten)]
    which: WhichArgs,
}

/// Which node to close or open.
#[derive(Debug, clap::Args)]
pub struct WhichArgs {
    /// The worker
    #[arg(value_name = "IDX", required_unless_present = "master")]
    index: Option<u32>,
    /// Without IDX: the master at ADDR; no ADDR is needed if there is one. With IDX: where the cluster is
    #[arg(long, value_name = "ADDR,…", num_args = 0..=1)]
    master: Option<Option<String>>,
    #[command(flatten)]
    token: TokenArgs,
}

/// A node to close or open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// The worker with this index.
    Worker(u32),
    /// The master at this address.
    Master(String),
}

impl WhichArgs {
    /// The node, and the client of its cluster.
    pub fn resolve(&self) -> Result<(Which, Client)> {
        let named = self.master.clone().flatten().or_else(|| std::env::var("CATSTORE_MASTER").ok());
        let addresses: Vec<String> =
            named.iter().flat_map(|list| list.split(',')).map(str::to_owned).collect();
        let client = client(&addresses, &self.token)?;
        let which = match self.index {
            Some(index) => Which::Worker(index),
            None => Which::Master(the_master(&masters(&addresses), &client.cluster()?.masters)?),
        };
        Ok((which, client))
    }
}

/// The master that is meant by `named`, of those that the cluster has: the only one, or the only one that is named.
fn the_master(named: &[String], masters: &[String]) -> Result<String> {
    if let [only] = masters {
        return Ok(only.clone());
    }
    let named: Vec<String> = named.iter().map(|text| parse_address(text)).collect::<Result<_>>()?;
    let meant: Vec<&String> = masters.iter().filter(|master| named.contains(master)).collect();
    match (meant.as_slice(), named.as_slice()) {
        ([one], _) => return Ok((*one).clone()),
        ([], [one]) => Err(format!("{one} is none of this cluster's masters")),
        _ => Err(format!("this cluster has {} masters", masters.len())),
    }
    .map_err(|detail| {
        Error::new(Kind::Usage, detail).hint(format!("say --master with one of: {}", masters.join(", ")))
    })
}

impl Args {
    /// Closes the node.
    pub fn run(self) -> Result<()> {
        let (which, client) = self.which.resolve()?;
        match which {
            Which::Worker(index) => {
                client
                    .close(index)
                    .map_err(|error| already(error, &format!("worker {index} is closed already")))?;
                output::remark(format!("worker {index} is closed; `catstore open {index}` opens it again"));
            }
            Which::Master(address) => {
                client
                    .close_master(&address)
                    .map_err(|error| already(error, &format!("the master at {address} is closed already")))?;
                output::remark(format!(
                    "the master at {address} is closed; `catstore open --master {address}` opens it again"
                ));
            }
        }
        Ok(())
    }
}

fn already(error: Error, detail: &str) -> Error {
    if error.kind() == Kind::Closed { Error::new(Kind::Closed, detail) } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::{Cli, Command};
    use clap::Parser;

    fn parse(line: &str) -> Option<WhichArgs> {
        match Cli::try_parse_from(format!("catstore close {line}").split_whitespace()).ok()?.command {
            Command::Close(args) => Some(args.which),
            _ => None,
        }
    }

    #[test]
    fn a_worker_or_the_master() {
        let read = |line| parse(line).map(|which| (which.index, which.master));
        assert_eq!(read("0"), Some((Some(0), None)));
        assert_eq!(read("0 --master 3005"), Some((Some(0), Some(Some("3005".into())))));
        assert_eq!(read("--master"), Some((None, Some(None))));
        assert_eq!(read("--master 3005"), Some((None, Some(Some("3005".into())))));
        assert_eq!(read(""), None);
    }

    #[test]
    fn the_master_that_is_meant() {
        let list = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let (one, three) = (list("a:1"), list("127.0.0.1:3000 b:1 c:1"));
        assert_eq!(the_master(&list("w:1"), &one).unwrap(), "a:1");
        assert_eq!(the_master(&list("3000"), &three).unwrap(), "127.0.0.1:3000");
        assert_eq!(the_master(&list("w:1 b:1"), &three).unwrap(), "b:1");
        for named in ["w:1", "b:1 c:1"] {
            let error = the_master(&list(named), &three).unwrap_err();
            assert!(error.to_string().contains("127.0.0.1:3000, b:1, c:1"), "{error}");
        }
    }
}
