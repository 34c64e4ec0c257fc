//! `catstore delete KEY`: removes a key.

use super::get::absent;
use super::options::ClientArgs;
use super::{output, parse, text};
use crate::client::Condition;
use crate::error::Result;
use std::ffi::OsString;

/// Arguments of `catstore delete`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The key
    #[arg(value_name = "KEY")]
    key: OsString,
    /// Only if the key has this version
    #[arg(long, value_name = "V")]
    if_version: Option<u64>,
    #[command(flatten)]
    client: ClientArgs,
}

impl Args {
    /// Removes the key.
    pub fn run(self) -> Result<()> {
        let key = parse::bytes(&self.key);
        let condition = self.if_version.map_or(Condition::Any, Condition::Version);
        if !self.client.client()?.delete(key, condition)? {
            return Err(absent(key));
        }
        output::remark(format!("{}: deleted", text::escape(key)));
        Ok(())
    }
}
