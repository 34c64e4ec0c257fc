//! `identity.json`: who a data folder belongs to, written atomically and checked against its own checksum.

use super::files;
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The name of the file in a data folder.
pub const NAME: &str = "identity.json";

/// The format of the folder as a whole; a folder with a newer one is refused, one with an older one becomes one of this
/// format when it is opened. Since 2 the state may hold moves of slots, which an older catstore would pass over; since 3
/// values in chunks, which it could not read.
pub const FORMAT: u32 = 3;

/// The incarnation of a group that was never promoted. It is left out of the file, as before there were incarnations.
pub const FIRST_INCARNATION: u64 = 1;

fn first_incarnation() -> u64 {
    FIRST_INCARNATION
}

fn is_first_incarnation(incarnation: &u64) -> bool {
    *incarnation == FIRST_INCARNATION
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A node that keeps the directory.
    Master,
    /// A node that stores keys.
    Worker,
}

impl Role {
    /// `master` or `worker`.
    pub fn word(self) -> &'static str {
        match self {
            Role::Master => "master",
            Role::Worker => "worker",
        }
    }
}

/// What a clean close noted, so that the next start can tell a log that lost its tail from a short one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CleanClose {
    /// Index of the last entry of the log.
    pub last_index: u64,
    /// Its term.
    pub last_term: u64,
    /// Index of the last entry that the state's tables hold.
    pub applied: u64,
}

/// The contents of `identity.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// [`FORMAT`] of the catstore that wrote it.
    pub format: u32,
    /// Master or worker.
    pub role: Role,
    /// 32 random hexadecimal digits, made with the folder.
    pub uuid: String,
    /// The cluster, once it is known.
    pub cluster: Option<String>,
    /// The worker's (or master's) index, once it is known.
    pub index: Option<u32>,
    /// The group, once it is known.
    pub group: Option<u32>,
    /// The incarnation of the group, which `promote` raises and nothing lowers. A new group has 1.
    #[serde(default = "first_incarnation", skip_serializing_if = "is_first_incarnation")]
    pub incarnation: u64,
    /// The incarnation that is to begin with this folder's copy, from before its membership is changed until that is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promoting: Option<u64>,
    /// The incarnation that began with this folder, from a copy or from nothing: it serves only once the masters have said
    /// which slots are its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopts: Option<u64>,
    /// True once the stores (`log/` and `state/`) were made whole; until then what lies there is half-made.
    pub stores: bool,
    /// How often the stores were opened.
    pub starts: u64,
    /// The run that began to start and that no master has confirmed yet. The next start repeats its number and
    /// counts nothing, so that a start that died on the way is no copy, and a copy that was refused stays refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<u64>,
    /// The machine's boot id at the last start.
    pub boot: String,
    /// Set by a clean close, removed by the next start.
    pub clean: Option<CleanClose>,
}

impl Identity {
    /// The identity of a new folder: a fresh uuid, no cluster, no stores.
    ///
    /// Errors: [`Kind::System`] if the operating system has no randomness.
    pub fn fresh(role: Role) -> Result<Identity> {
        let mut random = [0u8; 16];
        getrandom::fill(&mut random).map_err(|cause| {
            Error::new(Kind::System, format!("the system gives no random bytes: {cause}"))
        })?;
        Ok(Identity {
            format: FORMAT,
            role,
            uuid: random.iter().map(|byte| format!("{byte:02x}")).collect(),
            cluster: None,
            index: None,
            group: None,
            incarnation: FIRST_INCARNATION,
            promoting: None,
            adopts: None,
            stores: false,
            starts: 0,
            pending: None,
            boot: String::new(),
            clean: None,
        })
    }
}

/// Reads and checks `identity.json` in `folder`; `None` if there is none.
///
/// Errors: [`crate::error::Kind::Damaged`] (naming the file) if its checksum or form is wrong,
/// [`crate::error::Kind::Foreign`] if a newer format wrote it.
pub fn read(folder: &Path) -> Result<Option<Identity>> {
    let path = folder.join(NAME);
    let Some(content) = files::read_sealed(&path)? else {
        return Ok(None);
    };
    // The format is read alone first: a newer one may have fields of another shape.
    let document: serde_json::Value =
        serde_json::from_str(&content).map_err(|cause| files::damaged(&path, cause))?;
    let format = document.get("format").and_then(serde_json::Value::as_u64);
    match format {
        Some(format) if format > u64::from(FORMAT) => Err(newer(folder, format)),
        Some(_) => {
            let identity: Identity =
                serde_json::from_value(document).map_err(|cause| files::damaged(&path, cause))?;
            Ok(Some(Identity { format: FORMAT, ..identity }))
        }
        None => Err(files::damaged(&path, "it names no format")),
    }
}

/// Writes `identity.json` atomically: a temporary file, synced, renamed, the folder synced.
pub fn write(folder: &Path, identity: &Identity) -> Result<()> {
    let document = serde_json::to_string_pretty(identity)
        .map_err(|cause| Error::new(Kind::System, "cannot encode an identity").cause(cause))?;
    files::write_sealed(folder, NAME, &format!("{document}\n"))
}

/// The refusal of a folder whose format is newer than this catstore.
pub(super) fn newer(folder: &Path, format: u64) -> Error {
    Error::new(
        Kind::Foreign,
        format!("{} was written in format {format}, this catstore knows {FORMAT}", folder.display()),
    )
    .hint("use a newer catstore")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn identity() -> Identity {
        Identity {
            format: FORMAT,
            role: Role::Worker,
            uuid: "00112233445566778899aabbccddeeff".into(),
            cluster: Some("c1".into()),
            index: Some(0),
            group: Some(0),
            incarnation: 1,
            promoting: None,
            adopts: None,
            stores: true,
            starts: 3,
            pending: None,
            boot: "b1".into(),
            clean: Some(CleanClose { last_index: 9, last_term: 2, applied: 8 }),
        }
    }

    const GOLDEN: &str = r#"{
  "format": 3,
  "role": "worker",
  "uuid": "00112233445566778899aabbccddeeff",
  "cluster": "c1",
  "index": 0,
  "group": 0,
  "stores": true,
  "starts": 3,
  "boot": "b1",
  "clean": {
    "last_index": 9,
    "last_term": 2,
    "applied": 8
  }
}
crc32 "#;

    #[test]
    fn golden_identity() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &identity()).unwrap();
        let text = std::fs::read_to_string(folder.path().join(NAME)).unwrap();
        assert_eq!(text.strip_prefix(GOLDEN), Some("306074e6\n"));
        assert_eq!(read(folder.path()).unwrap(), Some(identity()));
        let promoted = Identity { incarnation: 7, ..identity() };
        write(folder.path(), &promoted).unwrap();
        let text = std::fs::read_to_string(folder.path().join(NAME)).unwrap();
        let golden = GOLDEN.replace("  \"group\": 0,\n", "  \"group\": 0,\n  \"incarnation\": 7,\n");
        assert_eq!(text.strip_prefix(&golden), Some("345b8c32\n"));
        assert_eq!(read(folder.path()).unwrap(), Some(promoted));
    }

    #[test]
    fn every_flip_and_every_cut_is_damage_that_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &identity()).unwrap();
        let path = folder.path().join(NAME);
        let bytes = std::fs::read(&path).unwrap();
        for position in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[position] ^= 1 << (position % 8);
            for broken in [&flipped[..], &bytes[..position]] {
                std::fs::write(&path, broken).unwrap();
                let error = read(folder.path()).unwrap_err();
                assert_eq!(error.kind(), Kind::Damaged);
                assert!(error.detail().contains(path.to_str().unwrap()));
            }
        }
    }

    #[test]
    fn a_newer_format_is_foreign_even_if_its_fields_differ() {
        let folder = tempfile::tempdir().unwrap();
        files::write_sealed(folder.path(), NAME, "{\"format\": 4, \"who\": []}\n").unwrap();
        let error = read(folder.path()).unwrap_err();
        assert_eq!(error.kind(), Kind::Foreign);
        assert!(error.to_string().contains("use a newer catstore"), "{error}");
    }

    #[test]
    fn fresh_identities_differ() {
        let (one, two) = (Identity::fresh(Role::Master).unwrap(), Identity::fresh(Role::Master).unwrap());
        assert_ne!(one.uuid, two.uuid);
        assert_eq!(one.uuid.len(), 32);
    }

    proptest! {
        #[test]
        fn sealed_nonsense_never_panics(content: String) {
            let folder = tempfile::tempdir().unwrap();
            files::write_sealed(folder.path(), NAME, &content).unwrap();
            prop_assert!(read(folder.path()).is_err());
        }
    }
}
