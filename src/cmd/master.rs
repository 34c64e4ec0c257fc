//! `catstore master [PORT]`: runs a master.

use super::options::NodeArgs;
use super::parent;
use crate::error::Result;
use crate::server::{MasterOptions, run_master};

/// Arguments of `catstore master`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The port to listen on; 0 takes a free one
    #[arg(value_name = "PORT", default_value = "3000")]
    port: u16,
    #[command(flatten)]
    node: NodeArgs,
}

impl Args {
    /// Runs the master until a signal stops it.
    pub fn run(self) -> Result<()> {
        let node = self.node.node("master", self.port)?;
        parent::watch();
        run_master(MasterOptions { node })
    }
}
