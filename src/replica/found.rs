//! Founding: what a folder holds before its replica is opened for the first time, and the routes that it remembers.

use super::handle::Options;
use super::{directory, keyspace};
use crate::cluster::directory::Directory;
use crate::cluster::membership::raft_id;
use crate::cluster::slots::SlotTable;
use crate::cluster::view::{ClusterView, RegisterMasterReply, RegisterReply};
use crate::error::{Error, Kind, Result};
use crate::replica::Folder;
use crate::store::identity::{self, FIRST_INCARNATION};
use raft::eraftpb::ConfState;
use std::io::Write as _;
use std::path::Path;

/// The file that holds the last known routes. They are hints, but for the incarnation of the masters: whoever is of a
/// lower one is not believed.
const ROUTES: &str = "routes.json";
/// The index of the master that founds a cluster.
const FIRST_MASTER: u32 = 0;

/// Founds a new cluster in a master's folder: a fresh cluster id, an empty directory with `address` as its master.
/// Does nothing if it was founded before.
pub fn found_master(folder: &mut Folder, address: &str, options: &Options) -> Result<()> {
    if folder.has_stores() {
        return Ok(());
    }
    let mut identity = folder.identity().clone();
    if identity.incarnation > FIRST_INCARNATION {
        let detail = format!("the recovery of the masters into {} was cut short", folder.path().display());
        return Err(Error::new(Kind::Conflict, detail).hint("say --recover again"));
    }
    let cluster = match identity.cluster.clone() {
        Some(cluster) => cluster,
        None => {
            let cluster: String =
                super::handle::random_bytes::<16>()?.iter().map(|byte| format!("{byte:02x}")).collect();
            identity.cluster = Some(cluster.clone());
            identity.index = Some(FIRST_MASTER);
            folder.save(identity)?;
            cluster
        }
    };
    let directory = Directory {
        cluster,
        epoch: 1,
        incarnation: 1,
        masters: vec![address.to_owned()],
        ..Directory::default()
    };
    folder.found(lone_voter(FIRST_MASTER), &directory::founding_rows(&directory)?, options.sizes)
}

/// Makes the stores of a master whose directory was recovered from what the workers know; it is the only master, with
/// this index. Errors: `Conflict` if the folder belongs to another cluster or has stores.
pub fn recover_master(
    folder: &mut Folder,
    directory: &Directory,
    index: u32,
    options: &Options,
) -> Result<()> {
    let mut identity = folder.identity().clone();
    if let Some(cluster) = identity.cluster.filter(|cluster| *cluster != directory.cluster) {
        let detail =
            format!("{} belongs to cluster {cluster}, not to {}", folder.path().display(), directory.cluster);
        return Err(Error::new(Kind::Conflict, detail).hint("name an empty folder with --data"));
    }
    identity.cluster = Some(directory.cluster.clone());
    identity.index = Some(index);
    identity.incarnation = directory.incarnation;
    folder.save(identity)?;
    folder.found(lone_voter(index), &directory::founding_rows(directory)?, options.sizes)
}

/// True if `path` is a data folder with stores in it. Nothing is created.
pub fn holds_stores(path: &Path) -> Result<bool> {
    Ok(identity::read(path)?.is_some_and(|identity| identity.stores))
}

/// Makes the stores of a worker that the master registered: those of a group of its own (`found`, with the `slots` of
/// the reply), or empty ones that the group's leader fills. Does nothing if they were made before.
pub fn found_worker(folder: &mut Folder, reply: &RegisterReply, options: &Options) -> Result<()> {
    if folder.has_stores() {
        return Ok(());
    }
    let mut identity = folder.identity().clone();
    identity.cluster = Some(reply.view.cluster.clone());
    identity.index = Some(reply.index);
    identity.group = Some(reply.group);
    identity.incarnation = reply.incarnation;
    identity.adopts = (reply.found && reply.incarnation > FIRST_INCARNATION).then_some(reply.incarnation);
    folder.save(identity)?;
    let slots = SlotTable::from_ranges(reply.slots.clone())
        .map_err(|why| Error::new(Kind::BadRequest, format!("the master's answer is not usable: {why}")))?;
    let membership = if reply.found { lone_voter(reply.index) } else { ConfState::default() };
    folder.found(membership, &keyspace::founding_rows(&slots)?, options.sizes)
}

/// Makes the empty stores of a master that the others registered; their leader fills them. Does nothing if they were
/// made before.
pub fn join_master(folder: &mut Folder, reply: &RegisterMasterReply, options: &Options) -> Result<()> {
    if folder.has_stores() {
        return Ok(());
    }
    let mut identity = folder.identity().clone();
    identity.cluster = Some(reply.view.cluster.clone());
    identity.index = Some(reply.index);
    identity.incarnation = reply.incarnation;
    folder.save(identity)?;
    let directory = Directory { cluster: reply.view.cluster.clone(), ..Directory::default() };
    folder.found(ConfState::default(), &directory::founding_rows(&directory)?, options.sizes)
}

/// Makes a worker's copy the beginning of a new incarnation of its group: it is the only voter from now on. The caller
/// has just been told so by the masters. Nothing is lost that this copy holds. After a crash in the middle the folder is
/// not opened until the masters say it again.
pub fn promote_worker(folder: &mut Folder, incarnation: u64) -> Result<()> {
    let identity = folder.identity();
    if identity.incarnation >= incarnation && identity.promoting.is_none() || !folder.has_stores() {
        return Ok(());
    }
    let index =
        folder.identity().index.ok_or_else(|| Error::new(Kind::Failed, "this folder has no index yet"))?;
    folder.promote(raft_id(index), incarnation)
}

fn lone_voter(index: u32) -> ConfState {
    ConfState { voters: vec![u64::from(index) + 1], ..ConfState::default() }
}

/// The routes that this folder remembers from its last run, if any.
pub fn read_routes(folder: &Folder) -> Option<ClusterView> {
    let bytes = std::fs::read(folder.path().join(ROUTES)).ok()?;
    let view: ClusterView = serde_json::from_slice(&bytes).ok()?;
    (view.slots.check().is_ok() && Some(&view.cluster) == folder.identity().cluster.as_ref()).then_some(view)
}

/// Remembers routes for the next start; errors are only logged. `path` is the data folder.
pub fn save_routes(path: &Path, view: &ClusterView) {
    let written = serde_json::to_vec(view).map_err(std::io::Error::from).and_then(|bytes| {
        let beside = path.join("routes.json.new");
        let mut file = std::fs::File::create(&beside)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, path.join(ROUTES))
    });
    if let Err(error) = written {
        log::warn!("the routes are not remembered in {}: {error}", path.display());
    }
}
