//! `/put_file`: a file of the worker's own disk, and nothing but a file below `--files`. The path is checked part
//! by part, then where it really leads (links), then once more on the opened file, so that a link that changes in
//! between leads nowhere. Everything here blocks and runs on threads that may.

use super::content_type;
use super::many::blocking;
use super::site::Site;
use super::worker::Worker;
use crate::error::{Error, Kind, Result};
use crate::replica::buffers;
use bytes::Bytes;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file that is read piece by piece.
pub(crate) struct Reading {
    file: Arc<File>,
    path: Vec<u8>,
    limit: u64,
    read: u64,
    /// What its name suggests; empty if nothing.
    pub(crate) content_type: &'static str,
}

impl Reading {
    /// Opens the file at `path` below `root`, and not below `data`. Errors: `Forbidden`, `NotFound`, `BadRequest`,
    /// `ValueTooLarge`.
    pub(crate) async fn open(root: PathBuf, data: PathBuf, path: Vec<u8>, limit: u64) -> Result<Reading> {
        blocking(move || Reading::begin(&root, &data, path, limit)).await
    }

    fn begin(root: &Path, data: &Path, path: Vec<u8>, limit: u64) -> Result<Reading> {
        let (file, content_type) = open(root, data, &path)?;
        check_length(file.metadata().map_err(|error| unreadable(&path, error))?.len(), limit)?;
        Ok(Reading { file: Arc::new(file), path, limit, read: 0, content_type })
    }

    /// The next `length` bytes; fewer at the end.
    pub(crate) async fn next(&mut self, length: usize) -> Result<Bytes> {
        let (file, path) = (Arc::clone(&self.file), self.path.clone());
        let bytes = blocking(move || piece(&file, &path, length)).await?;
        self.read += bytes.len() as u64;
        // It may grow while it is read.
        check_length(self.read, self.limit)?;
        Ok(bytes)
    }
}

fn piece(mut file: &File, path: &[u8], length: usize) -> Result<Bytes> {
    let mut bytes = buffers::take();
    file.by_ref()
        .take(length as u64)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::new(Kind::System, format!("cannot read {}", shown(path))).cause(error))?;
    Ok(buffers::share(bytes))
}

/// The folder that a worker may read.
pub(crate) fn root(worker: &Worker) -> Result<&Path> {
    worker.files.as_deref().ok_or_else(|| {
        Error::new(Kind::Forbidden, "this worker reads no files, since other machines can reach it")
            .hint("start it with --files DIR, or use PUT /kv/KEY")
    })
}

/// The error of `/put_file` on a master.
pub(crate) fn on_a_master(site: &Site) -> Error {
    let view = site.view();
    let workers: Vec<String> = view
        .groups
        .iter()
        .flat_map(|group| &group.members)
        .map(|member| format!("http://{}", member.address))
        .collect();
    let error = Error::new(Kind::Conflict, "a master reads no files");
    if workers.is_empty() { error } else { error.hint(format!("ask a worker: {}", workers.join(", "))) }
}

fn open(root: &Path, data: &Path, path: &[u8]) -> Result<(File, &'static str)> {
    check_parts(path)?;
    let asked = root.join(OsStr::from_bytes(path));
    let real = asked.canonicalize().map_err(|error| unreadable(path, error))?;
    check_place(root, data, &real, path)?;
    // The mode may have changed since: never wait for a pipe, never follow a last link.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW)
        .open(&real)
        .map_err(|error| unreadable(path, error))?;
    let opened = opened_path(&file).unwrap_or_else(|| real.clone());
    check_place(root, data, &opened, path)?;
    let facts = file.metadata().map_err(|error| unreadable(path, error))?;
    if !facts.is_file() {
        return Err(Error::new(Kind::Forbidden, format!("{} is not a regular file", shown(path))));
    }
    Ok((file, content_type::of_path(&asked)))
}

/// Where an opened file really is, on systems that tell.
fn opened_path(file: &File) -> Option<PathBuf> {
    use std::os::fd::AsRawFd;
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()
}

fn check_parts(path: &[u8]) -> Result<()> {
    if path.is_empty() || path.contains(&0) {
        return Err(Error::new(Kind::BadRequest, "the path of the file is missing or has a NUL byte"));
    }
    for part in path.split(|byte| *byte == b'/') {
        if part.is_empty() || part.starts_with(b".") {
            return Err(Error::new(
                Kind::Forbidden,
                format!("{} has an empty part or one that begins with a dot", shown(path)),
            )
            .hint("give a plain path below --files"));
        }
    }
    Ok(())
}

fn check_place(root: &Path, data: &Path, real: &Path, path: &[u8]) -> Result<()> {
    let below = real.strip_prefix(root).map_err(|_| {
        Error::new(Kind::Forbidden, format!("{} leads out of the folder that may be read", shown(path)))
            .hint("start the worker with --files DIR")
    })?;
    let hidden = below.components().any(|part| part.as_os_str().as_bytes().starts_with(b"."));
    if hidden || real.starts_with(data) {
        return Err(Error::new(Kind::Forbidden, format!("{} leads to a file that is not read", shown(path))));
    }
    Ok(())
}

fn check_length(length: u64, limit: u64) -> Result<()> {
    if length <= limit {
        return Ok(());
    }
    Err(Error::new(Kind::ValueTooLarge, format!("the file has {length} bytes; the limit is {limit}"))
        .hint("the worker's --max-value raises it"))
}

fn unreadable(path: &[u8], error: std::io::Error) -> Error {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => {
            Error::new(Kind::NotFound, format!("there is no file {}", shown(path)))
                .hint("the path is taken below the worker's --files folder")
        }
        _ => Error::new(Kind::Forbidden, format!("cannot read {}", shown(path))).cause(error),
    }
}

fn shown(path: &[u8]) -> String {
    super::respond::shown(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_regular_files_below_the_root_are_read() {
        let outside = tempfile::tempdir().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let data = root.join("data");
        std::fs::write(outside.path().join("secret"), "s").unwrap();
        std::fs::create_dir(root.join("sub")).unwrap();
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("LOG"), "s").unwrap();
        std::fs::write(root.join("sub/cat.jpg"), "meow").unwrap();
        std::fs::write(root.join(".hidden"), "s").unwrap();
        symlink(outside.path().join("secret"), root.join("out")).unwrap();
        symlink(outside.path(), root.join("outdir")).unwrap();
        symlink(root.join(".hidden"), root.join("tohidden")).unwrap();
        symlink(root.join("sub/cat.jpg"), root.join("cat.png")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let load = |path: &[u8]| {
            let file = Reading::begin(&root, &data, path.to_vec(), 4)?;
            Ok::<_, Error>((piece(&file.file, path, 100)?, file.content_type))
        };
        let kind = |path: &[u8]| load(path).unwrap_err().kind();

        assert_eq!(load(b"sub/cat.jpg").unwrap(), (Bytes::from_static(b"meow"), "image/jpeg"));
        assert_eq!(&load(b"cat.png").unwrap().0[..], b"meow");
        for path in [
            &b"out"[..],
            b"outdir/secret",
            b"../x",
            b"sub/../out",
            b".hidden",
            b"tohidden",
            b"/etc/passwd",
            b"sub//cat.jpg",
            b"data/LOG",
            b"sub",
            b"./sub/cat.jpg",
            b"sub/",
        ] {
            assert_eq!(kind(path), Kind::Forbidden, "{}", String::from_utf8_lossy(path));
        }
        assert_eq!(kind(b"nothing"), Kind::NotFound);
        assert_eq!(kind(b"sub/cat.jpg/x"), Kind::NotFound);
        assert_eq!(kind(b""), Kind::BadRequest);
        assert_eq!(kind(b"a\0b"), Kind::BadRequest);
        assert!(load(b"loop").is_err());
        std::fs::write(root.join("big"), "five!").unwrap();
        assert_eq!(kind(b"big"), Kind::ValueTooLarge);
    }

    #[test]
    fn a_pipe_does_not_hang() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let made = std::process::Command::new("mkfifo").arg(root.join("pipe")).status();
        if made.is_ok_and(|status| status.success()) {
            let opened = Reading::begin(&root, Path::new("/none"), b"pipe".to_vec(), 4);
            assert_eq!(opened.map(drop).unwrap_err().kind(), Kind::Forbidden);
        }
    }
}
