//! `catstore put KEY VALUE`: stores a value.

use super::bar::Bar;
use super::options::ClientArgs;
use super::{output, parse, text};
use crate::client::{Client, Condition, Progress, PutOptions, Stored};
use crate::error::{Error, Kind, Result};
use std::cell::Cell;
use std::ffi::OsString;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

/// Arguments of `catstore put`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The key, 1 to 4096 bytes
    #[arg(value_name = "KEY")]
    key: OsString,
    /// The value; `-` reads standard input, of any size
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

    /// These options as words of a command line.
    pub fn words(&self) -> String {
        let mut words = String::new();
        if self.if_absent {
            words.push_str(" --if-absent");
        }
        if let Some(version) = self.if_version {
            words.push_str(&format!(" --if-version {version}"));
        }
        match self.ttl.map(|ttl| (ttl.as_millis(), ttl.as_secs())) {
            Some((milliseconds, seconds)) if milliseconds.is_multiple_of(1000) => {
                words.push_str(&format!(" --ttl {seconds}s"));
            }
            Some((milliseconds, _)) => words.push_str(&format!(" --ttl {milliseconds}ms")),
            None => {}
        }
        words
    }
}

impl Args {
    /// Stores the value.
    pub fn run(self) -> Result<()> {
        let client = self.client.client()?;
        let key = parse::bytes(&self.key);
        let value = match parse::bytes(&self.value) {
            b"-" => return stream(&client, key, &mut io::stdin().lock(), None, &self.condition),
            value => value,
        };
        let options = self.condition.options(parse::content_type_of_value(value));
        let stored = client.put(key, value, options)?;
        report(&client, key, value.len() as u64, stored);
        Ok(())
    }
}

/// Stores all that `input` gives, which can be read once; `path` is where it comes from, if that has a name.
pub fn stream(
    client: &Client,
    key: &[u8],
    input: &mut dyn Read,
    path: Option<&Path>,
    condition: &ConditionArgs,
) -> Result<()> {
    let mut beginning = Vec::new();
    let unreadable =
        |error| Error::new(Kind::System, "the input cannot be read; nothing was written").cause(error);
    input.take(parse::GLANCE as u64).read_to_end(&mut beginning).map_err(unreadable)?;
    let content_type = match path {
        Some(path) => parse::content_type_of_file(path, &beginning),
        None => parse::content_type_of_value(&beginning),
    };
    let bar = Bar::new(text::escape(key));
    let size = Cell::new(0);
    let progress = |progress: Progress| {
        size.set(progress.done);
        bar.show(progress.done, 0, None);
    };
    let options = PutOptions { progress: Some(&progress), ..condition.options(content_type) };
    let stored = client.put_stream(key, &mut beginning.as_slice().chain(input), options);
    bar.clear();
    report(client, key, size.get(), stored?);
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::{Cli, Command};
    use clap::Parser;

    #[test]
    fn conditions_as_words() {
        let words = |line: &[&str]| args(&[&["A", "x"], line].concat()).condition.words();
        assert_eq!(words(&[]), "");
        assert_eq!(words(&["--if-version", "3", "--ttl", "1500ms"]), " --if-version 3 --ttl 1500ms");
        assert_eq!(words(&["--ttl", "2m", "--if-absent"]), " --if-absent --ttl 120s");
    }

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
