//! `catstore get KEY`: prints a value, or writes it to a file.

use super::bar::Bar;
use super::options::ClientArgs;
use super::partial::Partial;
use super::{output, parse, text};
use crate::client::{Client, Facts, GetOptions, Held, Sink};
use crate::error::{Error, Kind, Result};
use std::ffi::OsString;
use std::fs::Permissions;
use std::io::{self, BufWriter, Write};
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
    /// Keeps what came of the value beside FILE when it breaks off, and goes on from there the next time
    #[arg(long, requires = "output")]
    resume: bool,
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
        let result = match &self.output {
            Some(path) if self.resume => {
                resume(&client, key, options, path).map_err(|error| self.advise(error, path))
            }
            Some(path) => to_file(&client, key, options, path),
            None if output::is_terminal() => to_terminal(&client, key, options),
            None => {
                let mut out = output::stream();
                fetch(&client, key, options, &mut out).and_then(|facts| {
                    out.flush().map_err(output::failed)?;
                    Ok(facts)
                })
            }
        };
        remark_lag(key, result?.lag.as_deref());
        Ok(())
    }

    /// Adds how to go on.
    fn advise(&self, error: Error, path: &Path) -> Error {
        if error.kind() != Kind::Unreachable {
            return error;
        }
        let key = text::quote(&self.key.to_string_lossy());
        let path = text::quote(&path.to_string_lossy());
        let stale = if self.stale { " --stale" } else { "" };
        let command = format!("catstore get {key} -o {path} --resume{stale}{}", self.client.words());
        error.hint(format!("`{command}` goes on from what came"))
    }
}

/// Prints a value for people: text, with a newline behind it.
fn to_terminal(client: &Client, key: &[u8], options: GetOptions) -> Result<Facts> {
    let elsewhere = "write it to a file with -o FILE, or pipe it on";
    let value = match client.get_with(key, options) {
        Err(error) if error.kind() == Kind::TooLarge => {
            let detail = format!("the value of {} is too large for a terminal", text::escape(key));
            return Err(Error::new(Kind::Usage, detail).hint(elsewhere));
        }
        value => value?.ok_or_else(|| missing(key, options))?,
    };
    let (mut bytes, facts) = value.into_parts();
    if !text::is_text(&bytes) {
        let size = text::bytes(bytes.len() as u64);
        let detail = format!("the value of {} is binary ({size})", text::escape(key));
        return Err(Error::new(Kind::Usage, detail).hint(elsewhere));
    }
    if !bytes.ends_with(b"\n") {
        bytes.push(b'\n');
    }
    output::write(&bytes)?;
    Ok(facts)
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

/// A sink whose bytes a bar counts.
struct Shown<'a> {
    sink: &'a mut dyn Sink,
    bar: Bar,
    held: u64,
    done: u64,
    total: Option<u64>,
}

impl<'a> Shown<'a> {
    fn new(key: &[u8], held: u64, sink: &'a mut dyn Sink) -> Shown<'a> {
        Shown { sink, bar: Bar::new(text::escape(key)), held, done: held, total: None }
    }
}

impl Write for Shown<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.sink.write(bytes)?;
        self.done += count as u64;
        self.bar.show(self.done, self.held, self.total);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

impl Sink for Shown<'_> {
    fn begin(&mut self, facts: &Facts) -> io::Result<()> {
        self.total = facts.length;
        self.sink.begin(facts)
    }
}

/// Where a value is written that is to stand at a path.
enum Place {
    /// What stands there is written to as it is, and stays: no regular file (a pipe, `/dev/null`), or one that may be
    /// open elsewhere under another name (`/dev/stdout`).
    There,
    /// Beside this file, which it becomes at the end; so that the file is the old value or the new one, never a part.
    Beside(PathBuf),
}

/// A link is followed.
fn place(path: &Path) -> Result<Place> {
    let there = std::fs::metadata(path).ok();
    if there.as_ref().is_some_and(|there| there.is_dir()) {
        return Err(Error::new(Kind::Usage, format!("{} is a folder", path.display())).hint("name a file"));
    }
    if there.is_some_and(|there| !there.is_file() || path.starts_with("/dev")) {
        return Ok(Place::There);
    }
    Ok(Place::Beside(std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())))
}

fn unwritable(path: &Path) -> impl Fn(io::Error) -> Error {
    move |error| Error::new(Kind::System, format!("{} cannot be written", path.display())).cause(error)
}

/// Writes the value to a file; what came of it goes away if it does not come whole.
fn to_file(client: &Client, key: &[u8], options: GetOptions, path: &Path) -> Result<Facts> {
    let wrong = unwritable(path);
    let Place::Beside(target) = place(path)? else {
        let file = std::fs::OpenOptions::new().write(true).open(path).map_err(&wrong)?;
        let mut writer = BufWriter::new(file);
        let facts = fetch(client, key, options, &mut writer)?;
        writer.flush().map_err(wrong)?;
        return Ok(facts);
    };
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // A new file gets the mode of an ordinary one, to which the user's mask applies.
    let beside = tempfile::Builder::new()
        .prefix(".catstore-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)
        .map_err(&wrong)?;
    let mut writer = BufWriter::new(beside.as_file());
    let facts = fetch(client, key, options, &mut Shown::new(key, 0, &mut writer))?;
    writer.flush().map_err(&wrong)?;
    drop(writer);
    if let Ok(there) = std::fs::metadata(&target) {
        beside.as_file().set_permissions(there.permissions()).map_err(&wrong)?;
    }
    beside.persist(&target).map_err(|error| wrong(error.error))?;
    Ok(facts)
}

/// Writes the value to a file, going on from what an earlier read left beside it, and leaves there what comes if it does
/// not come whole.
fn resume(client: &Client, key: &[u8], options: GetOptions, path: &Path) -> Result<Facts> {
    let Place::Beside(target) = place(path)? else {
        let detail = format!("{} is no file that a part could be kept beside", path.display());
        return Err(Error::new(Kind::Usage, detail).hint("leave --resume out"));
    };
    let mut partial = Partial::new(key, &target);
    let held = partial.find()?;
    let had = held.is_some();
    let mut result = fetch_rest(client, key, options, held, &mut partial);
    let of_no_use = |result: &Result<Facts>| {
        result.as_ref().is_err_and(|error| matches!(error.kind(), Kind::Conflict | Kind::Damaged))
    };
    if had && of_no_use(&result) {
        output::remark(format!("{}: what was there is of another value; all of it comes", text::escape(key)));
        partial.discard();
        result = fetch_rest(client, key, options, None, &mut partial);
    }
    if of_no_use(&result) {
        partial.discard();
    }
    let facts = result?;
    partial.persist(&target)?;
    Ok(facts)
}

fn fetch_rest(
    client: &Client,
    key: &[u8],
    options: GetOptions,
    held: Option<Held>,
    partial: &mut Partial,
) -> Result<Facts> {
    let there = held.as_ref().map_or(0, |held| held.length);
    let mut shown = Shown::new(key, there, partial);
    client.get_into(key, options, held, &mut shown)?.ok_or_else(|| missing(key, options))
}

fn fetch(client: &Client, key: &[u8], options: GetOptions, sink: &mut dyn Sink) -> Result<Facts> {
    client.get_into(key, options, None, sink)?.ok_or_else(|| missing(key, options))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::{Cli, Command};
    use clap::Parser;

    fn parsed(line: &[&str]) -> Option<Args> {
        let words = ["catstore", "get"].iter().chain(line);
        match Cli::try_parse_from(words).ok()?.command {
            Command::Get(args) => Some(args),
            _ => None,
        }
    }

    #[test]
    fn only_a_file_can_be_gone_on_with() {
        assert!(parsed(&["A", "--resume"]).is_none());
        let args = parsed(&["A", "-o", "my file", "--resume", "--master", "box:3000"]).unwrap();
        let error = args.advise(Error::new(Kind::Unreachable, "it broke"), Path::new("my file"));
        let command = "catstore get A -o 'my file' --resume --master box:3000";
        assert_eq!(error.hint_text(), Some(format!("`{command}` goes on from what came").as_str()));
        let error = args.advise(Error::new(Kind::NotFound, "no"), Path::new("my file"));
        assert_eq!(error.hint_text(), None);
    }

    #[test]
    fn files_are_written_beside_and_all_else_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        assert!(matches!(place(&path), Ok(Place::Beside(_))));
        std::fs::write(&path, "x").unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let Ok(Place::Beside(target)) = place(&link) else { panic!("not beside") };
        assert_eq!(target, std::fs::canonicalize(&path).unwrap());
        assert!(matches!(place(Path::new("/dev/null")), Ok(Place::There)));
        assert_eq!(place(folder.path()).map_err(|error| error.kind()).err(), Some(Kind::Usage));
    }
}
