//! `catstore status`: nodes, groups, and what each group may lose. Any master may be asked, each has heard of every
//! worker; if none answers, it is put together from what the workers know.

mod gather;
mod render;

pub use gather::gather;
pub use render::render;

use super::options::ClientArgs;
use super::output;
use crate::cluster::moves::MoveStatus;
use crate::cluster::slots::SlotTable;
use crate::cluster::view::{GroupStatus, WorkerStatus};
use crate::error::Result;
use serde::Serialize;
use std::time::Duration;

/// Arguments of `catstore status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// One JSON document
    #[arg(long, conflicts_with = "watch")]
    pub json: bool,
    /// Shows it again each second, until Ctrl-C
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// What is known of one master.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct MasterLine {
    /// Its index; none as long as nobody said it.
    pub index: Option<u32>,
    /// Where it serves.
    pub address: String,
    /// `open`, `starting`, `joining`, `closed`, `failed`, or `silent` if it did not answer this command.
    pub state: String,
    /// `leader`, `follower`, `candidate` or `standby`; none unless it is open.
    pub role: Option<String>,
    /// True if it leads, by the newest answer.
    pub leader: bool,
    /// Its data folder, if any master said it.
    pub data: Option<String>,
    /// The version of catstore that it runs, if it answered.
    pub software: Option<String>,
    /// For one that did not answer: the command that starts it again.
    pub restart: Option<String>,
}

/// What `catstore status --json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The id of the cluster.
    pub cluster: String,
    /// The directory's epoch.
    pub epoch: u64,
    /// The masters.
    pub masters: Vec<MasterLine>,
    /// The indices of the masters that vote; empty if no master said it.
    pub master_voters: Vec<u32>,
    /// Those that voted before, in the middle of a change of voters.
    pub master_outgoing: Vec<u32>,
    /// The workers, by ascending index; those that are removed for good say why.
    pub workers: Vec<WorkerStatus>,
    /// The groups, by ascending id.
    pub groups: Vec<GroupStatus>,
    /// Slot ranges and their owners.
    pub slots: SlotTable,
    /// The moves that are not finished, by ascending id.
    pub moves: Vec<MoveStatus>,
}

impl Args {
    /// Shows the status.
    pub fn run(self) -> Result<()> {
        let client = self.client.client()?;
        if self.json {
            return output::json(&gather(&client)?);
        }
        if !self.watch {
            return output::write(render(&gather(&client)?).as_bytes());
        }
        loop {
            let screen = match gather(&client) {
                Ok(status) => render(&status),
                // Whoever watches wants to see it come back.
                Err(error) => format!("{}\n", super::report::line(&error)),
            };
            let clear = if output::is_terminal() { "\x1b[H\x1b[2J" } else { "" };
            output::write(format!("{clear}{screen}").as_bytes())?;
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}
