//! `catstore master [PORT]`: runs a master.

use super::options::NodeArgs;
use super::{output, parent, parse};
use crate::client::parse_address;
use crate::cluster::directory::Recovered;
use crate::error::{Error, Kind, Result};
use crate::server::{MasterOptions, run_master, survey};
use std::time::Duration;

/// Arguments of `catstore master`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The port to listen on; 0 takes a free one
    #[arg(value_name = "PORT", default_value = "3000")]
    port: u16,
    /// Masters to join, several with commas: this one becomes one of them
    #[arg(long, value_name = "ADDR,…", value_delimiter = ',')]
    join: Vec<String>,
    /// A new worker without --clone joins the first group that has fewer members; of the whole cluster, so say the same on
    /// every master [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=7))]
    replicas: Option<u32>,
    /// A node that is dead for so long gives its vote to a live standby; of the whole cluster too [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = dead_after)]
    dead_after: Option<Duration>,
    /// All masters' disks are lost: builds a new directory from what the workers know; names some of them, the others
    /// are found. Says what it found and asks first
    #[arg(long, value_name = "ADDR,…", value_delimiter = ',', conflicts_with = "join")]
    recover: Vec<String>,
    /// With --recover: does not ask
    #[arg(short, long, requires = "recover")]
    yes: bool,
    /// Slots do not move by themselves, only on `catstore rebalance` and `drain`; of the whole cluster too
    #[arg(long)]
    no_rebalance: bool,
    /// How many bytes a second the copy of a move takes at most, for each group; of the whole cluster too [default: half
    /// of the time that it could]
    #[arg(long, value_name = "BYTES", value_parser = move_rate)]
    move_rate: Option<u64>,
    #[command(flatten)]
    node: NodeArgs,
}

/// Nobody is known to be dead within less than a few heartbeats.
const SHORTEST: Duration = Duration::from_secs(5);

fn dead_after(text: &str) -> Result<Duration, String> {
    match parse::time(text)? {
        time if time < SHORTEST => Err(format!("nobody is dead before {} s are over", SHORTEST.as_secs())),
        time => Ok(time),
    }
}

fn move_rate(text: &str) -> Result<u64, String> {
    match parse::size(text)? {
        0 => Err("a move needs some bytes a second".to_owned()),
        bytes => Ok(bytes as u64),
    }
}

impl Args {
    /// Runs the master until a signal stops it.
    pub fn run(self) -> Result<()> {
        let node = self.node.node("master", self.port)?;
        parent::watch();
        let addresses =
            |texts: &[String]| texts.iter().map(|text| parse_address(text)).collect::<Result<_>>();
        let (join, recover) = (addresses(&self.join)?, addresses(&self.recover)?);
        let mut options = MasterOptions {
            node,
            join,
            recover,
            recovered: None,
            replicas: self.replicas,
            dead_after: self.dead_after,
            rebalance: self.no_rebalance.then_some(false),
            move_rate: self.move_rate,
        };
        if !options.recover.is_empty() {
            options.recovered = Some(self.recovered(&options)?);
        }
        run_master(options)
    }

    /// What the workers know, once the person has seen it and agreed.
    fn recovered(&self, options: &MasterOptions) -> Result<Recovered> {
        let recovered = survey(options)?;
        recovered.remarks.iter().for_each(output::note);
        let question = "Begin with this directory, and never follow the former masters again?";
        if self.yes || output::agreed("--recover", question)? {
            return Ok(recovered);
        }
        Err(Error::new(Kind::Conflict, "nothing was recovered").hint("answer y, or say --yes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_go_on() {
        assert_eq!(move_rate("10MB"), Ok(10_000_000));
        assert!(move_rate("0").is_err() && move_rate("x").is_err());
    }

    #[test]
    fn the_dead_are_given_time() {
        assert_eq!(dead_after("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(dead_after("5s"), Ok(SHORTEST));
        for text in ["0", "4s", "x", "500ms"] {
            assert!(dead_after(text).is_err(), "{text}");
        }
    }
}
