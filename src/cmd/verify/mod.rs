//! `catstore verify [IDX]`: has workers read everything that they hold, and mend what is rotten or missing from the other
//! members. `--data DIR` reads the folder of a node that does not run, and changes nothing.

mod folder;
mod online;
mod words;

use super::options::ClientArgs;
use crate::error::Result;
use std::path::PathBuf;

/// Arguments of `catstore verify`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The worker that reads and mends what it holds; without it, all of them
    #[arg(value_name = "IDX", conflicts_with = "data")]
    index: Option<u32>,
    /// Reads this data folder, of a node that does not run, and changes nothing
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// One JSON document
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

impl Args {
    /// Verifies, shows how far that is, and says what was found.
    pub fn run(self) -> Result<()> {
        match &self.data {
            Some(data) => folder::run(data, self.json),
            None => online::run(self.index, self.json, &self.client),
        }
    }
}
