//! `catstore put-file KEY PATH`: stores the contents of a file, of any size.

use super::bar::Bar;
use super::options::ClientArgs;
use super::put::{ConditionArgs, report, stream};
use super::{output, parse, text};
use crate::client::{Client, Progress, PutOptions, Resumed, Stage, Stored};
use crate::error::{Advice, Error, Kind, Result};
use std::cell::Cell;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Arguments of `catstore put-file`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The key, 1 to 4096 bytes
    #[arg(value_name = "KEY")]
    key: OsString,
    /// The file, of any size; or a pipe
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Goes on with a put of this file that broke off: sends only what the store does not have yet
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    condition: ConditionArgs,
    #[command(flatten)]
    client: ClientArgs,
}

impl Args {
    /// Stores the file.
    pub fn run(self) -> Result<()> {
        let client = self.client.client()?;
        let key = parse::bytes(&self.key);
        let mut file = match open(&self.path)? {
            Opened::File(file) => file,
            Opened::Pipe(mut pipe) => {
                if self.resume && !pipe.metadata().is_ok_and(|metadata| metadata.is_file()) {
                    let detail = format!("{} is no file that can be read again", self.path.display());
                    return Err(Error::new(Kind::Usage, detail).hint("leave --resume out"));
                }
                let path = Some(self.path.as_path());
                return stream(&client, key, &mut pipe, path, &self.condition);
            }
        };
        let length = file.metadata().map_err(|error| unreadable(&self.path, error))?.len();
        let glance = glance(&mut file).map_err(|error| unreadable(&self.path, error))?;
        let bar = Bar::new(text::escape(key));
        let sent = Cell::new(0);
        let stage = Cell::new(None);
        let progress = |progress: Progress| show(&bar, &stage, &sent, progress, length);
        let mut options = self.condition.options(parse::content_type_of_file(&self.path, &glance));
        options.progress = Some(&progress);
        let done = self.send(&client, &mut file, length, options);
        bar.clear();
        let Resumed { stored, held } = done.map_err(|error| self.advise(error, sent.get()))?;
        report(&client, key, length, stored);
        if self.resume {
            output::remark(format!("{} of it were there already", text::bytes(held)));
        }
        Ok(())
    }

    fn send(
        &self,
        client: &Client,
        file: &mut File,
        length: u64,
        options: PutOptions<'_>,
    ) -> Result<Resumed> {
        let key = parse::bytes(&self.key);
        if self.resume {
            return client.put_file_resumed(key, file, length, options);
        }
        let stored: Stored = client.put_file(key, file, length, options)?;
        Ok(Resumed { stored, held: 0 })
    }

    /// Adds how to go on, if bytes are out and going on can help.
    fn advise(&self, error: Error, sent: u64) -> Error {
        let kind = error.kind();
        let may_help = kind.advice() != Advice::Never || matches!(kind, Kind::TooSlow | Kind::ChunkMissing);
        if sent == 0 || !may_help {
            return error;
        }
        let command = self.command();
        match error.hint_text().map(str::to_owned) {
            Some(hint) => error.hint(format!("{hint}; `{command}` sends only what is missing")),
            None => error.hint(format!("`{command}` sends only what is missing")),
        }
    }

    /// The command that goes on.
    fn command(&self) -> String {
        let key = text::quote(&self.key.to_string_lossy());
        let path = text::quote(&self.path.to_string_lossy());
        let (condition, client) = (self.condition.words(), self.client.words());
        format!("catstore put-file {key} {path} --resume{condition}{client}")
    }
}

fn show(bar: &Bar, stage: &Cell<Option<Stage>>, sent: &Cell<u64>, progress: Progress, length: u64) {
    if stage.replace(Some(progress.stage)) != Some(progress.stage) {
        bar.restart();
    }
    if progress.stage == Stage::Sending {
        sent.set(sent.get().max(progress.done - progress.held));
    }
    bar.show(progress.done, progress.held, Some(length));
}

/// What stands at a path.
enum Opened {
    /// A file that can be read from any place.
    File(File),
    /// Something that can be read once.
    Pipe(File),
}

fn open(path: &Path) -> Result<Opened> {
    let file = File::open(path).map_err(|error| unreadable(path, error))?;
    let metadata = file.metadata().map_err(|error| unreadable(path, error))?;
    if metadata.is_dir() {
        return Err(Error::new(Kind::Usage, format!("{} is a folder", path.display())).hint("name a file"));
    }
    // Files of the kernel (`/proc`) claim to be empty.
    let is_plain = metadata.is_file() && metadata.len() > 0;
    Ok(if is_plain { Opened::File(file) } else { Opened::Pipe(file) })
}

fn unreadable(path: &Path, error: std::io::Error) -> Error {
    Error::new(Kind::Usage, format!("{} cannot be read", path.display())).cause(error)
}

/// The first bytes of a file, which stands at its beginning afterwards.
fn glance(file: &mut File) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.by_ref().take(parse::GLANCE as u64).read_to_end(&mut bytes)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::{Cli, Command};
    use clap::Parser;
    use std::io::Write;

    fn args(line: &[&str]) -> Args {
        let words = ["catstore", "put-file"].iter().chain(line);
        let Command::PutFile(args) = Cli::try_parse_from(words).unwrap().command else {
            panic!("not a put-file")
        };
        args
    }

    #[test]
    fn files_are_told_from_what_can_be_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut file = File::create(&path).unwrap();
        assert!(matches!(open(&path), Ok(Opened::Pipe(_))), "an empty one may be of the kernel");
        file.write_all(&[b'x'; 5000]).unwrap();
        let Ok(Opened::File(mut file)) = open(&path) else { panic!("not a file") };
        assert_eq!(glance(&mut file).unwrap().len(), 4096);
        assert_eq!(file.stream_position().unwrap(), 0);
        assert!(matches!(open(Path::new("/dev/null")), Ok(Opened::Pipe(_))));
        assert_eq!(open(folder.path()).map_err(|error| error.kind()).err(), Some(Kind::Usage));
        assert_eq!(open(&folder.path().join("none")).map_err(|error| error.kind()).err(), Some(Kind::Usage));
    }

    #[test]
    fn a_put_that_broke_off_says_how_to_go_on() {
        let args = args(&["my key", "cat.jpg", "--ttl", "60s", "--if-absent", "--master", "box:3000"]);
        assert!(!args.resume);
        let command = "catstore put-file 'my key' cat.jpg --resume --if-absent --ttl 60s --master box:3000";
        assert_eq!(args.command(), command);
        let broken = || Error::new(Kind::Unreachable, "it broke").hint("look");
        let advised = args.advise(broken(), 1);
        assert_eq!(
            advised.hint_text(),
            Some(format!("look; `{command}` sends only what is missing").as_str())
        );
        assert_eq!(args.advise(broken(), 0).hint_text(), Some("look"));
        let refused = Error::new(Kind::ConditionFailed, "no");
        assert_eq!(args.advise(refused, 1).hint_text(), None);
    }

    #[test]
    fn resuming_is_an_option() {
        assert!(args(&["A", "b", "--resume"]).resume);
    }
}
