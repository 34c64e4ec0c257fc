//! Three nodes that must answer alike, and keys that are hard to carry.

use super::{Cluster, Node};

/// A cluster with a second founder, and the three nodes that any request may be sent to.
pub struct Three {
    pub second: Node,
    pub cluster: Cluster,
}

impl Three {
    /// Starts the three.
    pub fn start(arguments: &[&str]) -> Three {
        let cluster = Cluster::with(arguments);
        let second = cluster.home.worker_with(&cluster.master, arguments);
        Three { second, cluster }
    }

    /// Each with its name.
    pub fn nodes(&self) -> [(&'static str, &Node); 3] {
        [("worker", &self.cluster.worker), ("master", &self.cluster.master), ("second", &self.second)]
    }
}

/// Keys that are awkward in URLs, in JSON or on disk.
pub fn awkward_keys() -> Vec<Vec<u8>> {
    let mut keys: Vec<Vec<u8>> = [
        "plain",
        "with space",
        "with/slash",
        "/",
        "//",
        "/leading",
        "trailing/",
        "100%",
        "%41",
        "a+b",
        "a&b=c?d#e",
        "grüße",
        "😀🐈",
        "..",
        ".",
        "a/../b",
        "\"quoted\"",
        "back\\slash",
        "new\nline",
        "tab\t",
        "a;b",
        "<b>",
        "{tag}x",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect();
    keys.push(vec![0]);
    keys.push(vec![0xff]);
    keys.push(b"a\0b\xff\xfe/".to_vec());
    keys.push(vec![b'k'; 4096]);
    keys
}
