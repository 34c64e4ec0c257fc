//! One member whose chunks rot, and another one that gives what it has.

use super::super::talk::{self, Question};
use super::super::{Ground, Standing};
use super::*;
use crate::replica::copies::SnapshotName;
use crate::replica::core::Status;
use crate::replica::parcel::{self, Gate, Sender};
use crate::replica::shared::Members;
use crate::replica::transport::Wire;
use crate::store::blobs::{Blobs, ChunkFolder};
use crate::store::chunk::{Builder, CHUNK, MOST_NAMES};
use crate::store::doubles::Disk;
use crate::store::record::{Meta, checksum, encode};
use crate::store::state::{Batch, Generations as _, State};
use raft::eraftpb::ConfState;
use std::path::PathBuf;

fn sender(id: u64) -> Sender {
    Sender { cluster: "c".into(), group: 0, incarnation: 1, id, starts: 1, run: 1 }
}

struct Place {
    state: Arc<dyn State>,
    failure: Mutex<Option<Error>>,
}

impl Standing for Place {
    fn check_open(&self) -> Result<()> {
        lock(&self.failure).clone().map_or(Ok(()), Err)
    }
    fn status(&self) -> Status {
        Status::default()
    }
    fn may_read(&self) -> bool {
        true
    }
    fn members(&self) -> Arc<Members> {
        Arc::new(Members { voters: vec![1, 2], ..Members::default() })
    }
    fn state(&self) -> Result<Arc<dyn State>> {
        self.check_open().map(|()| self.state.clone())
    }
    fn fail(&self, error: Error) {
        *lock(&self.failure) = Some(error);
    }
    fn renew(&self, _: &Error) -> bool {
        false
    }
    fn renews(&self) -> bool {
        false
    }
    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// The other member. Before it answers, the state takes what is here.
struct Other {
    blobs: ChunkFolder,
    place: Arc<Place>,
    meanwhile: Mutex<Option<Batch>>,
}

impl Wire for Other {
    fn deliver(&self, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }
    fn pull(&self, _: u64, _: SnapshotName, _: Option<&[u8]>) -> Result<Vec<u8>> {
        Err(Error::new(Kind::Unreachable, "no snapshots here"))
    }
    fn ask(&self, to: u64, envelope: &[u8]) -> Result<Vec<u8>> {
        if let Some(batch) = lock(&self.meanwhile).take() {
            self.place.state.write(&batch)?;
        }
        let gate = Gate::new(sender(to));
        let Question::Give(name) = Question::decode(parcel::open_envelope(envelope, &gate)?)? else {
            panic!("another question");
        };
        Ok(talk::encode_gift(match self.blobs.read(&name)? {
            Found::Whole(bytes) => Some(bytes),
            Found::Rotten | Found::Missing => None,
        }))
    }
}

struct World {
    keeper: Arc<Keeper>,
    place: Arc<Place>,
    other: Arc<Other>,
    here: tempfile::TempDir,
    there: tempfile::TempDir,
}

impl World {
    fn new() -> World {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let state = Disk::new(1, ConfState::default(), &Batch::default()).open(false).1.live();
        let place = Arc::new(Place { state, failure: Mutex::default() });
        let blobs = ChunkFolder::open(there.path(), 0).unwrap();
        let other = Arc::new(Other { blobs, place: place.clone(), meanwhile: Mutex::default() });
        let keeper = Arc::new(Keeper::new_without_threads(Ground {
            blobs: Box::new(ChunkFolder::open(here.path(), 0).unwrap()),
            own: sender(1),
            wire: other.clone(),
            standing: place.clone(),
            applied: (1, 1),
            term: 1,
            keep: Duration::ZERO,
            lanes: 1,
        }));
        World { keeper, place, other, here, there }
    }

    /// Both members have the chunk.
    fn store(&self, bytes: &[u8]) -> Name {
        let name = Name::of(bytes);
        self.keeper.blobs.put(&name, bytes).unwrap();
        self.other.blobs.put(&name, bytes).unwrap();
        name
    }

    fn put(&self, key: &str, row: Vec<u8>) {
        self.place.state.write(&change(key, row)).unwrap();
    }

    /// A value of chunks with these bytes, which count as full ones.
    fn put_chunks(&self, key: &str, chunks: &[&[u8]]) -> Vec<Name> {
        let mut builder = Builder::default();
        for bytes in chunks {
            if let Some(node) = builder.push(self.store(bytes), CHUNK) {
                self.store(&node);
            }
        }
        let (manifest, node) = builder.finish();
        if let Some(node) = node {
            self.store(&node);
        }
        self.put(key, row(1, true, manifest.size, &manifest.encode()));
        manifest.names
    }

    /// Verifies to the end, of which nobody hears.
    fn run(&self) {
        self.keeper.verify(7, 7).unwrap();
        while !lock(&self.keeper.verification).as_ref().unwrap().is_over() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn verify(&self) -> Verification {
        self.run();
        self.keeper.verification().unwrap()
    }
}

fn row(version: u64, in_chunks: bool, size: u64, value: &[u8]) -> Vec<u8> {
    let meta = Meta {
        version,
        modified: 1,
        expires: None,
        checksum: checksum(value),
        content_type: String::new(),
        size,
        in_chunks,
    };
    encode(&meta, value)
}

fn change(key: &str, row: Vec<u8>) -> Batch {
    let mut batch = Batch::default();
    batch.put(keys::record(key.as_bytes()), row);
    batch
}

fn file(folder: &tempfile::TempDir, name: &Name) -> PathBuf {
    let hex = name.hex();
    folder.path().join("blobs").join(&hex[..2]).join(&hex[2..])
}

fn rot(folder: &tempfile::TempDir, name: &Name) {
    let mut bytes = std::fs::read(file(folder, name)).unwrap();
    bytes[0] ^= 1;
    std::fs::write(file(folder, name), bytes).unwrap();
}

fn counts(of: &Verification) -> (u64, u64, u64, u64, u64, u64) {
    let Findings { keys, chunks, rotten, missing, mended, hurt, .. } = of.findings;
    (keys, chunks, rotten, missing, mended, hurt)
}

#[test]
fn what_is_whole_is_read_and_left_alone() {
    let world = World::new();
    (0..5000).for_each(|number| world.put(&format!("key {number}"), row(1, false, 5, b"happy")));
    world.put_chunks("large", &[b"one", b"two"]);
    let verification = world.verify();
    assert_eq!(counts(&verification), (5001, 2, 0, 0, 0, 0));
    assert_eq!((verification.worker, verification.course), (0, Course::Done));
    let keys: u64 = (0..5000).map(|number| format!("key {number}").len() as u64 + 5).sum();
    assert_eq!(verification.findings.bytes, keys + 5 + 6);
}

#[test]
fn rotten_and_missing_chunks_are_mended_from_the_other_member() {
    let world = World::new();
    let names = world.put_chunks("large", &[b"one", b"two", b"three"]);
    rot(&world.here, &names[0]);
    std::fs::remove_file(file(&world.here, &names[2])).unwrap();
    assert_eq!(counts(&world.verify()), (1, 3, 1, 1, 2, 0));
    for (name, bytes) in names.iter().zip([&b"one"[..], b"two", b"three"]) {
        assert_eq!(std::fs::read(file(&world.here, name)).unwrap(), bytes);
    }
    let facts = world.keeper.facts();
    assert_eq!((facts.mended, facts.rotten), (2, 1));
    assert_eq!(counts(&world.verify()), (1, 3, 0, 0, 0, 0));
}

#[test]
fn a_key_of_which_nobody_has_a_chunk_is_named() {
    let world = World::new();
    let names = world.put_chunks("hurt", &[b"one", b"two"]);
    world.put_chunks("well", &[b"three"]);
    rot(&world.here, &names[0]);
    rot(&world.there, &names[0]);
    let verification = world.verify();
    assert_eq!(counts(&verification), (2, 3, 1, 0, 0, 1));
    assert_eq!(verification.findings.hurt_keys[0].0, b"hurt");
    assert!(verification.findings.reason.unwrap().contains(&names[0].hex()));
    assert_eq!(verification.course, Course::Done);
    assert!(world.place.check_open().is_ok(), "a chunk stops nobody");
}

#[test]
fn a_chunk_that_nobody_has_keeps_no_other_one_from_coming() {
    let world = World::new();
    let names = world.put_chunks("hurt", &[b"one", b"two", b"three"]);
    names.iter().for_each(|name| std::fs::remove_file(file(&world.here, name)).unwrap());
    std::fs::remove_file(file(&world.there, &names[0])).unwrap();
    let mut listed = Batch::default();
    listed.put(keys::chunked(b"hurt"), Vec::new());
    world.place.state.write(&listed).unwrap();
    // After a start it looks at every value.
    world.keeper.check_one().unwrap();
    let here: Vec<bool> = names.iter().map(|name| file(&world.here, name).exists()).collect();
    assert_eq!(here, [false, true, true]);
}

#[test]
fn the_nodes_of_a_tree_are_chunks_too() {
    let world = World::new();
    let nodes = world.put_chunks("huge", &[&b"again"[..]; MOST_NAMES + 1]);
    rot(&world.here, &nodes[0]);
    rot(&world.here, &Name::of(b"again"));
    let all = MOST_NAMES as u64 + 1;
    assert_eq!(counts(&world.verify()), (1, all + 1, 2, 0, 2, 0));
    rot(&world.here, &nodes[0]);
    rot(&world.there, &nodes[0]);
    assert_eq!(counts(&world.verify()), (1, 1, 1, 0, 0, 1));
}

#[test]
fn a_value_that_is_replaced_meanwhile_is_not_hurt() {
    let world = World::new();
    let names = world.put_chunks("large", &[b"one", b"two"]);
    rot(&world.here, &names[0]);
    rot(&world.there, &names[0]);
    *lock(&world.other.meanwhile) = Some(change("large", row(2, false, 5, b"happy")));
    assert_eq!(counts(&world.verify()), (1, 2, 1, 0, 0, 0));
}

#[test]
fn a_rotten_record_stops_the_member() {
    let world = World::new();
    let mut rotten = row(1, false, 5, b"happy");
    *rotten.last_mut().unwrap() ^= 1;
    world.put("a\n", rotten);
    let verification = world.verify();
    assert_eq!((verification.course, verification.failure.as_deref()), (Course::Failed, Some("damaged")));
    let error = verification.error.unwrap();
    assert!(error.contains("the key a\\n is rotten") && error.contains("--replace"), "{error}");
    while world.place.check_open().is_ok() {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(world.place.check_open().unwrap_err().kind(), Kind::Damaged);
    assert_eq!(world.keeper.verify(1, 1).unwrap_err().kind(), Kind::Damaged);
}

#[test]
fn an_end_of_which_nobody_heard_is_told_once() {
    let world = World::new();
    assert!(world.keeper.verification().is_none());
    world.put("a", row(1, false, 5, b"happy"));
    world.run();
    let told = world.keeper.verify(7, 7).unwrap();
    assert_eq!((told.number, told.course, told.findings.keys), (1, Course::Done, 1));
    assert_eq!(world.keeper.verify(7, 7).unwrap().number, 2);
    assert!(world.verify().number <= 3);
}
