//! `catstore token [FILE]`: makes a token file that only its owner can read.

use super::{output, text};
use crate::error::{Error, Kind, Result};
use std::fmt::Write as _;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Arguments of `catstore token`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file to make; one that exists is never overwritten
    #[arg(value_name = "FILE", default_value = "catstore-token")]
    file: PathBuf,
}

impl Args {
    /// Makes the file.
    pub fn run(self) -> Result<()> {
        make(&self.file)?;
        let path = std::path::absolute(&self.file).unwrap_or(self.file);
        let word = text::quote(&path.to_string_lossy());
        output::write(format!("{}\n", path.display()).as_bytes())?;
        output::remark(format!(
            "start nodes and client commands with --token-file {word}, or CATSTORE_TOKEN_FILE={word}"
        ));
        Ok(())
    }
}

fn make(path: &Path) -> Result<()> {
    let wrong =
        |error| Error::new(Kind::System, format!("{} cannot be written", path.display())).cause(error);
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|error| {
        Error::new(Kind::System, "the system has no random numbers")
            .cause(std::io::Error::other(error.to_string()))
    })?;
    let mut token = String::new();
    for byte in random {
        // Writing to a String cannot fail.
        let _ = write!(token, "{byte:02x}");
    }
    token.push('\n');
    let mut file = match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(Error::new(Kind::Conflict, format!("{} exists already", path.display()))
                .hint("use it, or name another file"));
        }
        Err(error) => return Err(wrong(error)),
    };
    file.write_all(token.as_bytes()).and_then(|()| file.sync_all()).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_token_is_made_once_and_for_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        make(&path).unwrap();
        let token = std::fs::read_to_string(&path).unwrap();
        assert_eq!(token.trim().len(), 64);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(make(&path).map_err(|error| error.kind()), Err(Kind::Conflict));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), token);
    }
}
