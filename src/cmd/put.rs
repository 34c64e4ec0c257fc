//! `catstore put KEY VALUE`: stores a value.

use super::options::ClientArgs;
use super::{output, parse, text};
use crate::client::{Client, Condition, MAX_VALUE, PutOptions, Stored};
use crate::error::{Error, Kind, Result};
use std::ffi::OsString;
use std::io::Read;
use std::time::Duration;

/// Arguments of `catstore put`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The key, 1 to 4096 bytes
    #[arg(value_name = "KEY")]
    key: OsString,
    /// The value; `-` reads standard input
    #[arg(value_name = "VALUE", allow_hyphen_values = true)]
    value: OsString,
    #[command(flatten)]
    condition: ConditionArgs,
    #[command(flatten)]
    client: ClientArgs,
}

/// When and for how long to store; shared with `put-file`.
#[derive(Debug, clap::Args)]
pub struct ConditionArgs {
    /// Only if the key does not exist
    #[arg(long, conflicts_with = "if_version")]
    if_absent: bool,
    /// Only if the key has this version
    #[arg(long, value_name = "V")]
    if_version: Option<u64>,
    /// The key is gone after this time: 60s, 5m, 2h, 1d
    #[arg(long, value_name = "TIME", value_parser = parse::time)]
    ttl: Option<Duration>,
}

impl ConditionArgs {
    /// The options of the put.
    pub fn options(&self, content_type: &str) -> PutOptions<'static> {
        let condition = match (self.if_absent, self.if_version) {
            (true, _) => Condition::Absent,
            (_, Some(version)) => Condition::Version(version),
            _ => Condition::Any,
        };
        PutOptions { content_type: Some(content_type.to_owned()), ttl: self.ttl, condition, progress: None }
    }
}

impl Args {
    /// Stores the value.
    pub fn run(self) -> Result<()> {
        let client = self.client.client()?;
        let input;
        let value = match parse::bytes(&self.value) {
            b"-" => {
                input = read_input()?;
                &input
            }
            value => value,
        };
        let key = parse::bytes(&self.key);
        let options = self.condition.options(parse::content_type_of_value(value));
        let stored = client.put(key, value, options)?;
        report(&client, key, value.len() as u64, stored);
        Ok(())
    }
}

/// Says on a terminal what was stored and how safe it is.
pub fn report(client: &Client, key: &[u8], size: u64, stored: Stored) {
    // The view was learned for the put and costs nothing here.
    let voters = client.cluster_known().and_then(|view| {
        let group = view.group_of_key(key)?;
        Some(group.members.iter().filter(|member| member.voter).count()).filter(|voters| *voters > 0)
    });
    let synced =
        voters.map_or_else(String::new, |voters| format!(", synced on {} of {voters}", voters / 2 + 1));
    output::remark(format!(
        "{}: {}, version {}{synced}",
        text::escape(key),
        text::bytes(size),
        stored.version
    ));
}

fn read_input() -> Result<Vec<u8>> {
    let mut value = Vec::new();
    std::io::stdin()
        .lock()
        .take(MAX_VALUE as u64 + 1)
        .read_to_end(&mut value)
        .map_err(|error| Error::new(Kind::System, "standard input cannot be read").cause(error))?;
    if value.len() > MAX_VALUE {
        return Err(Error::new(
            Kind::ValueTooLarge,
            "standard input has more than 8 MiB, the limit for a value",
        )
        .hint("split it over several keys; nothing was written"));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::{Cli, Command};
    use clap::Parser;

    fn args(line: &[&str]) -> Args {
        let words = ["catstore", "put"].iter().chain(line);
        let Command::Put(args) = Cli::try_parse_from(words).unwrap().command else { panic!("not a put") };
        args
    }

    #[test]
    fn values_may_begin_with_a_hyphen() {
        assert_eq!(args(&["A", "-5"]).value, "-5");
        assert_eq!(args(&["A", "-"]).value, "-");
        assert_eq!(args(&["A", "--", "--yes"]).value, "--yes");
        let negative = args(&["A", "-5", "--ttl", "60s", "--if-absent"]);
        assert_eq!(negative.value, "-5");
        assert_eq!(negative.condition.ttl, Some(Duration::from_secs(60)));
        assert_eq!(negative.condition.options("x/y").condition, Condition::Absent);
        let version = args(&["A", "", "--if-version", "3"]);
        assert_eq!(
            (version.value.len(), version.condition.options("x/y").condition),
            (0, Condition::Version(3))
        );
    }
}
