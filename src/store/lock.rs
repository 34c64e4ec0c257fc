//! The lock of a data folder: the file `LOCK`, held with flock while the folder is in use, says by whom.

use super::files::system;
use super::identity::Identity;
use crate::error::{Error, Kind, Result};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The name of the file in a data folder.
pub(super) const NAME: &str = "LOCK";

/// Locks `folder`, until the file and all its clones are closed.
///
/// Errors: [`Kind::Foreign`] if it is in use, saying by whom, [`Kind::System`].
pub(super) fn take(folder: &Path) -> Result<File> {
    let path = folder.join(NAME);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|cause| system("write", &path, cause))?;
    hold(&mut file, folder, &path)?;
    Ok(file)
}

/// Locks `folder` and leaves it exactly as it is: none if it has no lock file, as a copy may have none. Errors: as
/// [`take`].
pub(super) fn take_quietly(folder: &Path) -> Result<Option<File>> {
    let path = folder.join(NAME);
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(system("read", &path, cause)),
    };
    hold(&mut file, folder, &path)?;
    Ok(Some(file))
}

fn hold(file: &mut File, folder: &Path, path: &Path) -> Result<()> {
    // SAFETY: `file` is an open descriptor.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(());
    }
    let cause = std::io::Error::last_os_error();
    if cause.kind() != std::io::ErrorKind::WouldBlock {
        return Err(system("lock", path, cause));
    }
    let mut holder = String::new();
    let holder = match file.read_to_string(&mut holder) {
        Ok(_) if !holder.is_empty() => holder.as_str(),
        _ => "another process",
    };
    let detail = format!("the data folder {} is in use by {holder}", folder.display());
    Err(Error::new(Kind::Foreign, detail).hint("stop it, or choose another --data"))
}

/// Says in the locked file who holds `folder`.
pub(super) fn sign(mut lock: &File, folder: &Path, identity: &Identity) -> Result<()> {
    let role = identity.role.word();
    let index = identity.index.map(|index| format!(" {index}")).unwrap_or_default();
    let cluster = identity.cluster.as_ref().map(|id| format!(" of cluster {id}")).unwrap_or_default();
    let holder = format!("process {} ({role}{index}{cluster})", std::process::id());
    let mut sign = || -> std::io::Result<()> {
        lock.rewind()?;
        lock.set_len(0)?;
        lock.write_all(holder.as_bytes())
    };
    sign().map_err(|cause| system("write", &folder.join(NAME), cause))
}
