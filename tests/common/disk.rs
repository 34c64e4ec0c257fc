//! Small disks.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system of its own in memory, unmounted when it is dropped.
pub struct SmallDisk {
    /// Where it is mounted.
    pub place: PathBuf,
}

impl SmallDisk {
    /// Nothing if this user may not mount; the reason is printed.
    pub fn mount(place: PathBuf, options: &str) -> Option<SmallDisk> {
        std::fs::create_dir_all(&place).expect("a mount point");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&place).output();
        match mount {
            Ok(output) if output.status.success() => Some(SmallDisk { place }),
            Ok(output) => {
                println!("skipped: mount says {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                println!("skipped: mount: {error}");
                None
            }
        }
    }

    /// Changes its size, for one.
    pub fn remount(&self, options: &str) {
        let done =
            Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.place).status();
        assert!(done.is_ok_and(|status| status.success()), "remount with {options}");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a node that was just killed may still be letting go of its files.
        let _ = Command::new("umount").arg("-l").arg(&self.place).status();
    }
}

/// Free bytes of the disk that `place` is on.
pub fn free_bytes(place: &Path) -> usize {
    let output = Command::new("df").args(["-k", "--output=avail"]).arg(place).output().expect("df");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let kibibytes = text.lines().nth(1).and_then(|line| line.trim().parse::<usize>().ok());
    kibibytes.unwrap_or_else(|| panic!("df says {text:?}")) * 1024
}
