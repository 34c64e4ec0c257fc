//! `catstore clear IDX`: removes every key of a group; `--all` of all groups.

use super::options::ClientArgs;
use super::{output, text};
use crate::client::Client;
use crate::error::{Error, Kind, Result};

/// Arguments of `catstore clear`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The group: the index of its founder
    #[arg(value_name = "IDX", required_unless_present = "all", conflicts_with = "all")]
    index: Option<u32>,
    /// Every group
    #[arg(long)]
    all: bool,
    /// Does not ask
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    client: ClientArgs,
}

impl Args {
    /// Asks, then clears.
    pub fn run(self) -> Result<()> {
        let client = self.client.client()?;
        let groups = match self.index {
            Some(index) => vec![index],
            None => client.cluster()?.groups.iter().map(|group| group.group).collect(),
        };
        if !self.yes && !groups.is_empty() && !agreed(self.index)? {
            return Err(Error::new(Kind::Conflict, "nothing was cleared").hint("answer y, or say --yes"));
        }
        for group in groups {
            clear(&client, group)?;
        }
        Ok(())
    }
}

fn clear(client: &Client, group: u32) -> Result<()> {
    let keys = client
        .clear(group)?
        .map_or_else(|| "cleared".to_owned(), |keys| text::plural(keys, "key") + " removed");
    output::remark(format!("group {group}: {keys}"));
    Ok(())
}

fn agreed(index: Option<u32>) -> Result<bool> {
    let what = index.map_or_else(|| "all groups".to_owned(), |index| format!("group {index}"));
    output::agreed("clear", &format!("Remove every key of {what}?"))
}
