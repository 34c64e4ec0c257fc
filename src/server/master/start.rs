//! How a master starts: it founds a cluster, joins one (`--join`), or goes on with its folder.

use super::super::address;
use super::super::call::Caller;
use super::super::config::MasterOptions;
use super::super::node::Mode;
use super::super::site::{Member, Place, Site};
use super::super::worker::refuses;
use super::watch::{self, Watch, Wishes};
use super::{Master, recover};
use crate::cluster::directory::{MasterEntry, Recovered};
use crate::cluster::view::{ClusterView, RegisterMasterReply, RegisterMasterRequest};
use crate::error::{Error, Kind, Result};
use crate::replica::{Folder, Role, found_master, join_master, recover_master};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a master that joins waits for one that leads, and for its copy of the directory.
const JOIN: Duration = Duration::from_secs(30);
/// How long a master that knows others waits for their word before it serves.
const KNOWN: Duration = Duration::from_secs(1);
/// How long one call may take.
const CALL: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(100);

/// Starts the master; returns its ready line. Blocks.
pub(crate) fn start_master(site: &Arc<Site>, options: &MasterOptions, port: u16) -> Result<String> {
    let Member::Master(master) = &site.member else {
        return Err(Error::new(Kind::System, "a worker was started as a master"));
    };
    let own = address::advertised(&options.node, port, options.join.first().map(String::as_str));
    let mut folder = Folder::open(&options.node.data, Role::Master)?;
    let place = Place { address: own.clone(), data: folder.path().to_owned() };
    let line = format!("ready master at http://{own} data {}", place.data.display());
    // Set once: start runs once per process.
    let _ = site.place.set(place);
    let caller = Caller::new(options.node.token.clone());
    let fresh = getrandom::u64()
        .map_err(|error| Error::new(Kind::System, format!("the system gives no random numbers: {error}")))?;
    master.node.set_run(folder.begin_start(fresh)?);
    if folder.has_stores() {
        check_cluster(&options.join, &folder, &caller)?;
    }
    if let Some(recovered) = &options.recovered {
        recover::check_empty(options, folder.has_stores())?;
        begin_recovered(&mut folder, recovered, &own, master)?;
    } else if options.join.is_empty() || folder.has_stores() {
        found_master(&mut folder, &own, master.node.options())?;
    } else {
        if options.join.iter().all(|master| *master == own) {
            return Err(Error::new(Kind::Usage, format!("a master at {own} cannot join itself")).hint(
                "say --join with the address of a master that runs; without --join it founds a cluster",
            ));
        }
        let request = watch::request(site, master.node.run(), folder.identity());
        let reply = join(&options.join, &own, &request, &caller)?;
        folder.confirm_start()?;
        if let Some(note) = &reply.note {
            eprintln!("{note}");
        }
        join_master(&mut folder, &reply, master.node.options())?;
        site.learn(reply.view);
    }
    let identity = folder.identity().clone();
    if let Some(index) = identity.index {
        // Set once: start runs once per process.
        let _ = master.index.set(index);
    }
    let known = site.view();
    master.reach(known.master_members.iter().map(|member| (member.index, member.address.clone())));
    master.node.start(folder)?;
    master.refresh(site);
    recover::check_with_workers(master, &caller)?;
    let request = watch::request(site, master.node.run(), &identity);
    let request = RegisterMasterRequest { starts: master.node.starts(), ..request };
    let wishes = Wishes {
        replicas: options.replicas,
        dead_after: options.dead_after,
        rebalance: options.rebalance,
        move_rate: options.move_rate,
    };
    let mut watch = Watch::new(Arc::clone(site), caller, request, wishes)?;
    wait_until_known(site, master, &mut watch)?;
    std::thread::Builder::new()
        .name("master".into())
        .spawn(move || watch.run())
        .map_err(|error| Error::new(Kind::System, "cannot start the master's thread").cause(error))?;
    Ok(line)
}

/// Makes this master the first of a recovered directory.
fn begin_recovered(folder: &mut Folder, recovered: &Recovered, own: &str, master: &Master) -> Result<()> {
    let mut directory = recovered.directory.clone();
    let identity = folder.identity();
    let index = directory.begin_with(MasterEntry {
        uuid: identity.uuid.clone(),
        address: own.to_owned(),
        data: folder.path().display().to_string(),
        starts: identity.starts,
        run: master.node.run(),
        removed: None,
        dead: false,
    });
    recover_master(folder, &directory, index, master.node.options())?;
    log::warn!("the directory is recovered: incarnation {} of the masters begins", directory.incarnation);
    Ok(())
}

/// A folder that has its place already may be told to join its own masters, and no others. Those that do not answer
/// say nothing against it.
fn check_cluster(join: &[String], folder: &Folder, caller: &Caller) -> Result<()> {
    for master in join {
        let Ok(view) = caller.get::<ClusterView>(master, "/cluster", KNOWN) else { continue };
        if !view.cluster.is_empty() && folder.identity().cluster.as_ref() != Some(&view.cluster) {
            let own = folder.identity().cluster.clone().unwrap_or_default();
            return Err(Error::new(
                Kind::Conflict,
                format!(
                    "{} belongs to cluster {own}, {master} to cluster {}",
                    folder.path().display(),
                    view.cluster
                ),
            )
            .hint("use another --data for a new master of that cluster, or leave out --join"));
        }
    }
    Ok(())
}

/// A lone master registers itself at once. One of several waits a moment for the leader's word, so that an old copy of a
/// folder is refused before it serves; one that joins waits for its copy of the directory.
fn wait_until_known(site: &Site, master: &Master, watch: &mut Watch) -> Result<()> {
    let Mode::Open(replica) = &*master.node.mode() else { return Ok(()) };
    let joins = replica.directory_here()?.epoch == 0;
    let deadline = Instant::now() + if joins { JOIN } else { KNOWN };
    loop {
        if let Some(error) = replica.failure() {
            return Err(error);
        }
        if *site.stopping.borrow() {
            return Err(Error::new(Kind::Closed, "this master stops"));
        }
        master.refresh(site);
        let here = replica.directory_here()?;
        let alone = here.master_indices().count() <= 1 && !joins;
        if here.epoch > 0 {
            match watch.register(master, replica) {
                Ok(()) => return Ok(()),
                Err(error) if refuses(&error) => return Err(error),
                Err(error) => log::debug!("registration: {error}"),
            }
        }
        if Instant::now() > deadline && !alone {
            if !joins {
                return Ok(());
            }
            return Err(Error::new(
                Kind::Unreachable,
                "the leading master sent no copy of the directory in time",
            )
            .hint("start this master again with the same options"));
        }
        std::thread::sleep(PAUSE);
    }
}

/// Registers a new master with the one that leads, which any of `masters` may know.
fn join(
    masters: &[String],
    own: &str,
    request: &RegisterMasterRequest,
    caller: &Caller,
) -> Result<RegisterMasterReply> {
    let deadline = Instant::now() + JOIN;
    let mut last = Error::new(Kind::Unreachable, "no master is known");
    let mut said = false;
    while Instant::now() < deadline {
        let mut candidates = masters.to_vec();
        for master in masters {
            match caller.get::<ClusterView>(master, "/cluster", CALL) {
                Ok(view) => candidates.extend(view.masters),
                Err(error) => last = error,
            }
        }
        candidates.sort();
        candidates.dedup();
        for master in candidates.iter().filter(|master| *master != own) {
            match caller.post::<_, RegisterMasterReply>(master, "/internal/register-master", request, CALL) {
                Ok(reply) => return Ok(reply),
                Err(error) if refuses(&error) => return Err(error),
                Err(error) if matches!(error.kind(), Kind::Unauthorized | Kind::Forbidden) => {
                    return Err(error);
                }
                Err(error) => last = error,
            }
        }
        if !std::mem::replace(&mut said, true) {
            log::warn!("waiting for a master that leads: {last}");
        }
        std::thread::sleep(2 * PAUSE);
    }
    let (seconds, masters) = (JOIN.as_secs(), masters.join(", "));
    Err(match last.kind() {
        Kind::Unreachable => {
            Error::new(Kind::Unreachable, format!("no master answered at {masters} for {seconds} s ({last})"))
                .hint("say --join with the address of a master that runs; without --join it founds a cluster")
        }
        // Somebody answered, and could do nothing.
        _ => Error::new(Kind::Unreachable, format!("no master took this one for {seconds} s ({last})")),
    })
}
