//! Maps by numbers that are hashes already, made with a key that nobody outside knows: they are not hashed once more.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map by hashes.
pub type ByHash<V> = HashMap<u64, V, BuildHasherDefault<Same>>;

/// Hashes what is a hash already.
#[derive(Debug, Default)]
pub struct Same(u64);

impl Hasher for Same {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
