//! The nodes of the cluster that a list of seeds led to, remembered in the user's cache folder for the day on which
//! no seed answers. Best effort: a memory that cannot be read or written costs nothing but its help.

use crate::cluster::view::ClusterView;
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// At most so many nodes are remembered.
const MOST_NODES: usize = 64;
/// A larger file was not written by us.
const MOST_BYTES: u64 = 64 * 1024;

/// What the file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The id of the cluster, so that a stranger at a remembered address is not taken for it.
    pub cluster: String,
    /// `host:port` of its nodes.
    pub nodes: Vec<String>,
}

impl Memory {
    /// What is worth remembering of `view`.
    pub fn of(view: &ClusterView) -> Memory {
        let mut nodes = super::routes::nodes(view);
        nodes.truncate(MOST_NODES);
        Memory { cluster: view.cluster.clone(), nodes }
    }
}

/// `${XDG_CACHE_HOME:-~/.cache}/catstore`, if the user has a home.
pub fn default_folder() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
    Some(cache.join("catstore"))
}

/// The file for a list of seeds: readable, and distinct where the readable part is not.
pub fn file(folder: &Path, seeds: &[String]) -> PathBuf {
    let list = seeds.join(",");
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' };
    let readable: String = list.chars().take(80).map(plain).collect();
    folder.join(format!("nodes-{readable}-{:08x}.json", crc32fast::hash(list.as_bytes())))
}

/// Reads what was remembered.
pub fn read(path: &Path) -> Option<Memory> {
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(MOST_BYTES).read_to_string(&mut text).ok()?;
    let mut memory: Memory = serde_json::from_str(&text).ok()?;
    memory.nodes.truncate(MOST_NODES);
    memory.nodes.retain(|node| super::address::parse_address(node).is_ok());
    Some(memory)
}

/// Remembers, atomically, unless the file says the same already.
pub fn write(path: &Path, memory: &Memory) {
    if read(path).as_ref() == Some(memory) {
        return;
    }
    if let Err(error) = try_write(path, memory) {
        log::debug!("cannot remember the nodes of the cluster in {}: {error}", path.display());
    }
}

fn try_write(path: &Path, memory: &Memory) -> std::io::Result<()> {
    let folder = path.parent().ok_or(std::io::ErrorKind::InvalidInput)?;
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(&serde_json::to_vec(memory)?)?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_remembered_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(&folder.path().join("catstore"), &["127.0.0.1:3000".into(), "../x:1".into()]);
        assert_eq!(read(&path), None);
        let memory = Memory { cluster: "c".into(), nodes: vec!["a:1".into(), "b:2".into()] };
        write(&path, &memory);
        assert_eq!(read(&path), Some(memory));
        assert_eq!(path.parent(), Some(folder.path().join("catstore").as_path()));
    }

    #[test]
    fn nonsense_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(folder.path(), &["a:1".into()]);
        std::fs::write(&path, b"{\"cluster\":7}").unwrap();
        assert_eq!(read(&path), None);
        std::fs::write(&path, b"{\"cluster\":\"c\",\"nodes\":[\"a:1\",\"x y\"]}").unwrap();
        assert_eq!(read(&path).unwrap().nodes, ["a:1"]);
        write(&folder.path().join("nodes\0"), &Memory { cluster: "c".into(), nodes: Vec::new() });
    }

    #[test]
    fn files_are_distinct() {
        let folder = Path::new("/x");
        assert_ne!(file(folder, &["a-b:1".into()]), file(folder, &["a_b:1".into()]));
        assert!(file(folder, &vec!["a:1".to_owned(); 500]).as_os_str().len() < 120);
    }
}
