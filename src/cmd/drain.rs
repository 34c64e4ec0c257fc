//! `catstore drain IDX`: a worker leaves its group for good. `--group IDX`: a group gives its slots to the others and is
//! dissolved; its workers end.

use super::options::ClientArgs;
use super::output;
use super::rebalance::{describe, follow, lines};
use crate::cluster::view::{DrainReply, DrainRequest};
use crate::error::Result;

/// Arguments of `catstore drain`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The worker that leaves its group; the others hold the same keys
    #[arg(value_name = "IDX", required_unless_present = "group", conflicts_with = "group")]
    index: Option<u32>,
    /// The group whose slots go to the others
    #[arg(long, value_name = "IDX")]
    group: Option<u32>,
    /// Only says what would happen
    #[arg(long)]
    dry_run: bool,
    /// With --group: it keeps the slots that it still has
    #[arg(long, requires = "group", conflicts_with = "dry_run")]
    undo: bool,
    /// Does not wait until it is done
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    client: ClientArgs,
}

impl Args {
    /// Says what happens, and waits for it.
    pub fn run(self) -> Result<()> {
        let client = self.client.client()?;
        let request =
            DrainRequest { index: self.index, group: self.group, dry_run: self.dry_run, undo: self.undo };
        let reply = client.drain(request)?;
        if self.undo {
            return output::write(format!("group {} keeps its slots\n", reply.group).as_bytes());
        }
        let done = self.done(&reply);
        if reply.done {
            return output::write(format!("{done}\n").as_bytes());
        }
        output::write(self.intent(&reply).as_bytes())?;
        if self.dry_run || self.no_wait {
            return Ok(());
        }
        let what = match self.index {
            Some(index) => index.to_string(),
            None => format!("--group {}", reply.group),
        };
        let command = format!("catstore drain {what}{}", self.client.words());
        // A repeat says how far it is.
        let look = || {
            let now = client.drain(request)?;
            Ok((!now.done).then(|| lines(&now.plan)))
        };
        follow(&command, &done, look)
    }

    fn intent(&self, reply: &DrainReply) -> String {
        let group = reply.group;
        let workers: Vec<String> = reply.leaves.iter().map(|index| format!("worker {index}")).collect();
        match self.index {
            Some(index) => {
                let leaves = if self.dry_run { "would leave" } else { "leaves" };
                format!("worker {index} {leaves} group {group} for good; the others hold its keys\n")
            }
            None => format!(
                "{}then group {group} is dissolved: {} may go\n",
                describe(&reply.plan),
                workers.join(", ")
            ),
        }
    }

    fn done(&self, reply: &DrainReply) -> String {
        match self.index {
            Some(index) => format!("worker {index} has left group {}", reply.group),
            None => format!("group {} is dissolved", reply.group),
        }
    }
}
