//! `catstore get KEY`: prints a value, or writes it to a file.

use super::options::ClientArgs;
use super::{output, parse, text};
use crate::client::{Client, GetOptions};
use crate::error::{Error, Kind, Result};
use std::ffi::OsString;
use std::fs::Permissions;
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Arguments of `catstore get`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The key
    #[arg(value_name = "KEY")]
    key: OsString,
    /// Writes the value to this file: beside it first, renamed when it is whole
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Takes the answer of any replica, even of one that is behind
    #[arg(long)]
    stale: bool,
    #[command(flatten)]
    client: ClientArgs,
}

impl Args {
    /// Prints or writes the value.
    pub fn run(self) -> Result<()> {
        let client = self.client.client()?;
        let key = parse::bytes(&self.key);
        let options = GetOptions { stale: self.stale };
        if let Some(path) = &self.output {
            return to_file(&client, key, options, path);
        }
        let value = client.get_with(key, options)?.ok_or_else(|| missing(key, options))?;
        remark_lag(key, value.lag.as_deref());
        let mut bytes = value.bytes;
        if output::is_terminal() {
            if !text::is_text(&bytes) {
                let detail = format!(
                    "the value of {} is binary ({})",
                    text::escape(key),
                    text::bytes(bytes.len() as u64)
                );
                return Err(
                    Error::new(Kind::Usage, detail).hint("write it to a file with -o FILE, or pipe it on")
                );
            }
            if !bytes.ends_with(b"\n") {
                bytes.push(b'\n');
            }
        }
        output::write(&bytes)
    }
}

/// The error for a key that does not exist.
pub fn absent(key: &[u8]) -> Error {
    Error::new(Kind::NotFound, format!("the key {} does not exist", text::escape(key)))
}

/// The same, as a replica says it that may be behind.
fn missing(key: &[u8], options: GetOptions) -> Error {
    let error = absent(key);
    if options.stale {
        error.hint("a replica that is behind may not have it yet; ask without --stale")
    } else {
        error
    }
}

/// Says on a terminal how far behind the replica may be that gave the value.
fn remark_lag(key: &[u8], lag: Option<&str>) {
    if let Some(lag) = lag {
        let key = text::escape(key);
        output::remark(format!("{key}: from a replica that may be behind (Catstore-Applied-Lag: {lag})"));
    }
}

/// Writes beside the file and renames at the end, so that the file is the old value or the new one, never a part. A
/// link is followed; what is no regular file (a pipe, `/dev/null`), or may be open elsewhere under another name
/// (`/dev/stdout`), is written to as it is, and stays.
fn to_file(client: &Client, key: &[u8], options: GetOptions, path: &Path) -> Result<()> {
    let wrong =
        |error| Error::new(Kind::System, format!("{} cannot be written", path.display())).cause(error);
    let there = std::fs::metadata(path).ok();
    if let Some(there) = there.as_ref().filter(|there| !there.is_file() || path.starts_with("/dev")) {
        if there.is_dir() {
            return Err(
                Error::new(Kind::Usage, format!("{} is a folder", path.display())).hint("name a file")
            );
        }
        let file = std::fs::OpenOptions::new().write(true).open(path).map_err(wrong)?;
        return fetch(client, key, options, BufWriter::new(file), wrong);
    }
    let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // A new file gets the mode of an ordinary one, to which the user's mask applies.
    let beside = tempfile::Builder::new()
        .prefix(".catstore-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)
        .map_err(wrong)?;
    fetch(client, key, options, BufWriter::new(beside.as_file()), wrong)?;
    if let Some(there) = there {
        beside.as_file().set_permissions(there.permissions()).map_err(wrong)?;
    }
    beside.persist(&target).map_err(|error| wrong(error.error))?;
    Ok(())
}

fn fetch(
    client: &Client,
    key: &[u8],
    options: GetOptions,
    mut writer: BufWriter<impl Write>,
    wrong: impl Fn(std::io::Error) -> Error,
) -> Result<()> {
    let facts = client.get_to(key, options, &mut writer)?.ok_or_else(|| missing(key, options))?;
    writer.flush().map_err(wrong)?;
    remark_lag(key, facts.lag.as_deref());
    Ok(())
}
