//! `identity.json`: who a data folder belongs to, written atomically and checked against its own checksum.

use crate::error::Result;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The format of the folder as a whole; a folder with a newer one is refused.
pub const FORMAT: u32 = 1;

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
    /// How often the folder was opened.
    pub starts: u64,
    /// The machine's boot id at the last start.
    pub boot: String,
    /// Set by a clean close, removed by the next start.
    pub clean: Option<CleanClose>,
}

/// Reads and checks `identity.json` in `folder`; `None` if there is none.
///
/// Errors: [`crate::error::Kind::Damaged`] (naming the file) if its checksum or form is wrong,
/// [`crate::error::Kind::Foreign`] if a newer format wrote it.
pub fn read(folder: &Path) -> Result<Option<Identity>> {
    let _ = folder;
    todo!()
}

/// Writes `identity.json` atomically: a temporary file, synced, renamed, the folder synced.
pub fn write(folder: &Path, identity: &Identity) -> Result<()> {
    let _ = (folder, identity);
    todo!()
}
