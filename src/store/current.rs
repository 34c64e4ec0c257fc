//! `state/CURRENT`: which generation is live, and an install that is not finished.
//!
//! A sealed text (see `files.rs`), one fact a line: the format, the number of the live generation, the next number,
//! which only grows, so that no number is used twice. Between the switch to a generation that a snapshot filled and
//! the reset of the log two more lines say where that generation stands: `installed INDEX TERM` and `membership INDEX
//! HEX`, the index of the membership's entry and the membership (eraftpb.ConfState) in hexadecimal digits.
//!
//! A catstore that does not know these lines passes over them. It then finds a state that is ahead of its log and
//! refuses the folder as damaged; the lines stay, for one that knows them.

use super::keys::FORMAT;
use super::state::Installed;
use super::{files, identity};
use crate::error::Result;
use protobuf::Message;
use raft::eraftpb::ConfState;
use std::fmt::Write;
use std::path::Path;

/// The name of the file in `state/`.
pub const NAME: &str = "CURRENT";

/// The contents of `CURRENT`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Current {
    /// The live generation.
    pub(super) live: u64,
    /// The number of the next generation.
    pub(super) next: u64,
    /// Where the live generation stands, while the log was perhaps not reset to it.
    pub(super) installed: Option<Installed>,
}

impl Current {
    /// Reads `folder/CURRENT`.
    ///
    /// Errors: [`crate::error::Kind::Damaged`] naming the file, [`crate::error::Kind::Foreign`] if a newer format wrote
    /// it, [`crate::error::Kind::System`].
    pub(super) fn read(folder: &Path) -> Result<Current> {
        let path = folder.join(NAME);
        let content = files::read_sealed(&path)?.ok_or_else(|| files::damaged(&path, "it is missing"))?;
        match fact(&content, "format").map(str::parse::<u64>) {
            Some(Ok(format)) if format > u64::from(FORMAT) => return Err(identity::newer(folder, format)),
            Some(Ok(_)) => {}
            _ => return Err(files::damaged(&path, "it names no format")),
        }
        let number = |word| fact(&content, word).and_then(|number| number.parse().ok());
        let (live, next) = number("live")
            .zip(number("next"))
            .ok_or_else(|| files::damaged(&path, "it names no generation"))?;
        let installed = match (fact(&content, "installed"), fact(&content, "membership")) {
            (None, None) => None,
            (at, membership) => Some(
                at.zip(membership)
                    .and_then(|(at, membership)| parse_installed(at, membership))
                    .ok_or_else(|| files::damaged(&path, "its note of an install has no form"))?,
            ),
        };
        Ok(Current { live, next, installed })
    }

    /// Replaces `folder/CURRENT` atomically and durably.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        files::write_sealed(folder, NAME, &self.text()?)
    }

    fn text(&self) -> Result<String> {
        let Current { live, next, installed } = self;
        let mut text = format!("format {FORMAT}\nlive {live:06}\nnext {next:06}\n");
        if let Some(Installed { index, term, membership: (membership, made_at) }) = installed {
            let hexadecimal = hexadecimal(&super::raft_engine::encode(membership)?);
            text += &format!("installed {index} {term}\nmembership {made_at} {hexadecimal}\n");
        }
        Ok(text)
    }
}

/// What stands behind `word` on its line.
fn fact<'a>(content: &'a str, word: &str) -> Option<&'a str> {
    content.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(' '))
}

fn parse_installed(at: &str, membership: &str) -> Option<Installed> {
    let (index, term) = at.split_once(' ')?;
    let (made_at, digits) = membership.split_once(' ')?;
    let membership = ConfState::parse_from_bytes(&bytes(digits)?).ok()?;
    Some(Installed {
        index: index.parse().ok()?,
        term: term.parse().ok()?,
        membership: (membership, made_at.parse().ok()?),
    })
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut digits, byte| {
        // Writing to a String does not fail.
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

fn bytes(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.as_bytes();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    if digits.len().is_multiple_of(2) { digits.chunks(2).map(pair).collect() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use proptest::prelude::*;

    fn installed() -> Installed {
        let membership = ConfState {
            voters: vec![1, 2, 300],
            learners: vec![4],
            auto_leave: true,
            ..ConfState::default()
        };
        Installed { index: 57, term: 3, membership: (membership, 41) }
    }

    #[test]
    fn golden_current() {
        let folder = tempfile::tempdir().unwrap();
        let read = || std::fs::read_to_string(folder.path().join(NAME)).unwrap();
        let current = Current { live: 3, next: 5, installed: None };
        current.write(folder.path()).unwrap();
        assert_eq!(read(), "format 1\nlive 000003\nnext 000005\ncrc32 261d71fb\n");
        assert_eq!(Current::read(folder.path()).unwrap(), current);
        let current = Current { installed: Some(installed()), ..current };
        current.write(folder.path()).unwrap();
        assert_eq!(
            read(),
            "format 1\nlive 000003\nnext 000005\ninstalled 57 3\nmembership 41 0801080208ac0210042801\ncrc32 07d616af\n"
        );
        assert_eq!(Current::read(folder.path()).unwrap(), current);
        let nobody = Installed { membership: (ConfState::default(), 0), ..installed() };
        let current = Current { installed: Some(nobody), ..current };
        current.write(folder.path()).unwrap();
        assert_eq!(Current::read(folder.path()).unwrap(), current);
    }

    #[test]
    fn a_note_without_a_form_is_damage() {
        let folder = tempfile::tempdir().unwrap();
        for note in
            ["installed 5 1", "membership 1 ", "installed 5\nmembership 1 ", "installed 5 1\nmembership 1 0"]
        {
            let content = format!("format 1\nlive 000003\nnext 000005\n{note}\n");
            files::write_sealed(folder.path(), NAME, &content).unwrap();
            let error = Current::read(folder.path()).unwrap_err();
            assert_eq!(error.kind(), Kind::Damaged, "{note}");
            assert!(error.detail().contains("/CURRENT"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_notes_never_panic(at: String, membership: String) {
            let _ = parse_installed(&at, &membership);
        }

        #[test]
        fn bytes_come_back(content: Vec<u8>) {
            prop_assert_eq!(bytes(&hexadecimal(&content)), Some(content));
        }
    }
}
