//! `catstore close IDX`: closes the store of a worker, or the master; the process stays.

use super::options::{TokenArgs, client};
use super::output;
use crate::client::Client;
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
    /// Without IDX: the master itself, at ADDR. With IDX: where the cluster is, as for other commands
    #[arg(long, value_name = "ADDR,…", num_args = 0..=1)]
    master: Option<Option<String>>,
    #[command(flatten)]
    token: TokenArgs,
}

/// A node to close or open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The worker with this index.
    Worker(u32),
    /// The master.
    Master,
}

impl WhichArgs {
    /// The node, and the client of its cluster.
    pub fn resolve(&self) -> Result<(Which, Client)> {
        let which = self.index.map_or(Which::Master, Which::Worker);
        let named = self.master.clone().flatten().or_else(|| std::env::var("CATSTORE_MASTER").ok());
        let addresses: Vec<String> =
            named.iter().flat_map(|list| list.split(',')).map(str::to_owned).collect();
        Ok((which, client(&addresses, &self.token)?))
    }
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
            Which::Master => {
                client.close_master().map_err(|error| already(error, "the master is closed already"))?;
                output::remark("the master is closed; `catstore open --master` opens it again");
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
        assert_eq!(parse("--master").unwrap().resolve().unwrap().0, Which::Master);
    }
}
