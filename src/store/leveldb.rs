//! The bindings to LevelDB: the only file that names the `leveldb` crate.
