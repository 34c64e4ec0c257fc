//! `catstore open IDX`: opens what `catstore close` closed.

use super::close::{Which, WhichArgs};
use super::output;
use crate::error::Result;

/// Arguments of `catstore open`.
#[derive(Debug, clap::Args)]
#[command(override_usage = "catstore open <IDX | --master [ADDR]> [OPTIONS]")]
pub struct Args {
    #[command(flatten)]
    which: WhichArgs,
}

impl Args {
    /// Opens the node.
    pub fn run(self) -> Result<()> {
        let (which, client) = self.which.resolve()?;
        match which {
            Which::Worker(index) => {
                client.open(index)?;
                output::remark(format!("worker {index} is open"));
            }
            Which::Master(address) => {
                client.open_master(&address)?;
                output::remark(format!("the master at {address} is open"));
            }
        }
        Ok(())
    }
}
