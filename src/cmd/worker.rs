//! `catstore worker PORT`: runs a worker.

use super::options::{NodeArgs, masters};
use super::{parent, parse};
use crate::client::parse_address;
use crate::error::{Error, Kind, Result};
use crate::server::{MOST_BYTES, WorkerOptions, run_worker};
use std::path::PathBuf;
use std::time::Duration;

/// Arguments of `catstore worker`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The port to listen on; 0 takes a free one
    #[arg(value_name = "PORT")]
    port: u16,
    /// Where the master is, several with commas; else $MASTER [default: 127.0.0.1:3000]
    #[arg(long, value_name = "ADDR,…", value_delimiter = ',', env = "CATSTORE_MASTER")]
    master: Vec<String>,
    /// The worker whose keys this one holds too, as a live copy; on a cluster without workers 0 founds worker 0
    #[arg(long, value_name = "IDX", env = "CLONE")]
    clone: Option<String>,
    /// The lost worker whose place in its group this one takes, under a new index
    #[arg(long, value_name = "IDX")]
    replace: Option<u32>,
    /// With --replace, also where no majority of the group is left: what only the lost ones held is gone
    #[arg(long, requires = "replace")]
    accept_data_loss: bool,
    /// The folder below which `/put_file` reads [default: the current folder, on loopback]
    #[arg(long, value_name = "DIR")]
    files: Option<PathBuf>,
    /// How the leader of a group makes sure that it still leads before it reads: by a lease, or by asking each time
    #[arg(long, value_name = "lease|quorum", default_value = "lease", value_parser = ["lease", "quorum"])]
    reads: String,
    /// The largest value
    #[arg(long, value_name = "BYTES", default_value = "1TiB", value_parser = parse::size)]
    max_value: usize,
    /// Free bytes of the disk below which nothing is stored
    #[arg(long, value_name = "BYTES", default_value = "1GiB", value_parser = parse::size)]
    reserve: usize,
    /// How long what arrived of an upload that broke off is kept for put-file --resume
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse::time)]
    keep_uploads: Duration,
    #[command(flatten)]
    node: NodeArgs,
}

impl Args {
    /// Runs the worker until a signal stops it.
    pub fn run(self) -> Result<()> {
        let options = self.options(std::env::var("MASTER").ok())?;
        parent::watch();
        run_worker(options)
    }

    fn options(self, older_name: Option<String>) -> Result<WorkerOptions> {
        if self.max_value as u64 > MOST_BYTES {
            let detail = format!("--max-value {} is more than {MOST_BYTES}", self.max_value);
            return Err(Error::new(Kind::Usage, detail).hint("the largest value has 64TiB"));
        }
        let mut named: Vec<String> = self.master.into_iter().filter(|text| !text.trim().is_empty()).collect();
        if named.is_empty() {
            named.extend(older_name.iter().flat_map(|list| list.split(',')).map(str::to_owned));
        }
        Ok(WorkerOptions {
            node: self.node.node("worker", self.port)?,
            masters: masters(&named).iter().map(|text| parse_address(text)).collect::<Result<_>>()?,
            clone: parse::index(self.clone.as_deref().unwrap_or_default())?,
            replace: self.replace,
            accept_data_loss: self.accept_data_loss,
            files: self.files,
            max_value: self.max_value as u64,
            reserve: self.reserve as u64,
            keep_uploads: self.keep_uploads,
            quorum_reads: self.reads == "quorum",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::{Cli, Command};
    use clap::Parser;

    fn options(line: &str, older_name: Option<&str>) -> Result<WorkerOptions> {
        let words = ["catstore", "worker"].into_iter().chain(line.split(' '));
        let Command::Worker(args) = Cli::try_parse_from(words).unwrap().command else {
            panic!("not a worker")
        };
        args.options(older_name.map(str::to_owned))
    }

    #[test]
    fn masters_come_from_the_option_then_the_older_name_then_the_default() {
        let masters = |line, older| options(line, older).unwrap().masters;
        assert_eq!(masters("3001 --data /x", None), ["127.0.0.1:3000"]);
        assert_eq!(masters("3001 --data /x", Some("3005,b:1")), ["127.0.0.1:3005", "b:1"]);
        assert_eq!(masters("3001 --data /x --master 3006,c:2", Some("3005")), ["127.0.0.1:3006", "c:2"]);
        assert_eq!(options("3001 --data /x --master x", None).unwrap_err().kind(), Kind::Usage);
    }

    #[test]
    fn limits_and_folders() {
        assert_eq!(options("3001 --data /x --max-value 65t", None).unwrap_err().kind(), Kind::Usage);
        let worker = options("3001 --data x --max-value 1m --clone 0 --cache 1m --threads 2", None).unwrap();
        assert_eq!((worker.max_value, worker.clone, worker.node.cache), (1 << 20, Some(0), 1 << 20));
        assert!(worker.node.data.is_absolute() && !worker.quorum_reads);
        assert!(options("3001 --data /x --reads quorum", None).unwrap().quorum_reads);
        assert_eq!(options("3001 --data /x --clone y", None).unwrap_err().kind(), Kind::Usage);
    }
}
