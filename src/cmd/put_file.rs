//! `catstore put-file KEY PATH`: stores the contents of a file.

use super::options::ClientArgs;
use super::put::{ConditionArgs, report};
use super::{parse, progress, text};
use crate::client::{MAX_VALUE, too_large};
use crate::error::{Error, Kind, Result};
use std::cell::Cell;
use std::ffi::OsString;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Arguments of `catstore put-file`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The key, 1 to 4096 bytes
    #[arg(value_name = "KEY")]
    key: OsString,
    /// The file, at most 8 MiB
    #[arg(value_name = "PATH")]
    path: PathBuf,
    #[command(flatten)]
    condition: ConditionArgs,
    #[command(flatten)]
    client: ClientArgs,
}

impl Args {
    /// Stores the file.
    pub fn run(self) -> Result<()> {
        let client = self.client.client()?;
        let contents = read(&self.path)?;
        let key = parse::bytes(&self.key);
        let bar = Bar::new(text::escape(key), contents.len() as u64);
        let progress = |sent| bar.show(sent);
        let mut options = self.condition.options(parse::content_type_of_file(&self.path, &contents));
        options.progress = Some(&progress);
        let stored = client.put(key, &contents, options);
        bar.clear();
        report(&client, key, contents.len() as u64, stored?);
        Ok(())
    }
}

/// Reads a regular file of at most the largest value, and looks at its size before it reads.
fn read(path: &Path) -> Result<Vec<u8>> {
    let wrong = |error| Error::new(Kind::Usage, format!("{} cannot be read", path.display())).cause(error);
    let file = std::fs::File::open(path).map_err(wrong)?;
    let metadata = file.metadata().map_err(wrong)?;
    if metadata.is_dir() {
        return Err(Error::new(Kind::Usage, format!("{} is a folder", path.display())).hint("name a file"));
    }
    if metadata.len() > MAX_VALUE as u64 {
        return Err(too_large(metadata.len()));
    }
    let mut contents = Vec::with_capacity(metadata.len() as usize);
    // It may grow while it is read, or be a pipe.
    file.take(MAX_VALUE as u64 + 1).read_to_end(&mut contents).map_err(wrong)?;
    if contents.len() > MAX_VALUE { Err(too_large(contents.len() as u64)) } else { Ok(contents) }
}

/// A line on a terminal that says how much went out; nothing for what is quick.
struct Bar {
    name: String,
    total: u64,
    start: Instant,
    shown: Cell<Option<Instant>>,
    terminal: bool,
}

impl Bar {
    fn new(name: String, total: u64) -> Bar {
        let terminal = std::io::stderr().is_terminal();
        Bar { name, total, start: Instant::now(), shown: Cell::new(None), terminal }
    }

    fn show(&self, sent: u64) {
        const EVERY: Duration = Duration::from_millis(100);
        let now = Instant::now();
        if !self.terminal || now.duration_since(self.shown.get().unwrap_or(self.start)) < EVERY {
            return;
        }
        self.shown.set(Some(now));
        let _ = write!(std::io::stderr(), "\r\x1b[K{}", line(&self.name, sent, self.total));
    }

    fn clear(&self) {
        if self.shown.get().is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn line(name: &str, sent: u64, total: u64) -> String {
    format!("{name}: {}", progress::bar(sent, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_over_the_limit_are_refused_before_they_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("big");
        std::fs::File::create(&path).unwrap().set_len(MAX_VALUE as u64 + 1).unwrap();
        assert_eq!(read(&path).map_err(|error| error.kind()), Err(Kind::ValueTooLarge));
        std::fs::File::create(&path).unwrap().set_len(MAX_VALUE as u64).unwrap();
        assert_eq!(read(&path).unwrap().len(), MAX_VALUE);
        assert_eq!(read(folder.path()).map_err(|error| error.kind()), Err(Kind::Usage));
        assert_eq!(read(&folder.path().join("none")).map_err(|error| error.kind()), Err(Kind::Usage));
    }

    #[test]
    fn bars() {
        assert_eq!(line("A", 0, 0), format!("A: [{}] 0 bytes of 0 bytes", "#".repeat(30)));
        assert!(line("A", 5, 10).starts_with(&format!("A: [{}{}]", "#".repeat(15), " ".repeat(15))));
    }
}
