//! The worker's own part: who it is, and how it starts.
//!
//! A new worker gets its index from the master and waits for it. A registered one gives the master a moment, so
//! that a copied folder is refused before it serves, and then serves with the routes that it remembers.

use super::address;
use super::beat::Heartbeat;
use super::call::Caller;
use super::config::WorkerOptions;
use super::copying::wait_for_copy;
use super::facts::SOFTWARE;
use super::moving::Moving;
use super::node::{Mode, Node};
use super::peers::HttpWire;
use super::site::{Place, Site};
use super::upload::Taking;
use crate::cluster::membership::{raft_id, wanted};
use crate::cluster::view::{ClusterView, CopyProgress, Introduction, RegisterReply, RegisterRequest};
use crate::error::{Error, Kind, Result};
use crate::replica::handle::KeyspaceHandle;
use crate::replica::{Folder, Role};
use crate::replica::{found_worker, promote_worker, read_routes, save_routes};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// How long a new worker waits for its master.
const WAIT_NEW: Duration = Duration::from_secs(30);
/// How long a registered worker waits for the answer of its master before it serves.
const WAIT_KNOWN: Duration = Duration::from_secs(1);
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(2);

/// What the master made of this worker.
#[derive(Debug, Clone)]
pub(crate) struct Registered {
    /// The id of its cluster.
    pub(crate) cluster: String,
    /// Its index.
    pub(crate) index: u32,
    /// Its group.
    pub(crate) group: u32,
    /// The uuid of its folder.
    pub(crate) uuid: String,
}

/// What a worker is beside its site.
pub(crate) struct Worker {
    /// Its mode and its replica.
    pub(crate) node: Node<KeyspaceHandle>,
    /// The masters that the command line named.
    pub(crate) masters: Vec<String>,
    /// The folder that `/put_file` may read, with links resolved.
    pub(crate) files: Option<PathBuf>,
    /// The longest value in bytes.
    pub(crate) max_value: u64,
    /// The worker that the command line wants to clone.
    pub(crate) clone: Option<u32>,
    /// The lost worker whose place the command line wants to take.
    pub(crate) replace: Option<u32>,
    /// Also where its group has no majority left.
    pub(crate) accept_data_loss: bool,
    /// How it reaches the other members of its group.
    pub(crate) wire: Arc<HttpWire>,
    /// The background task that keeps the master informed.
    pub(crate) beat: Heartbeat,
    /// Chunks that come with slots of other groups.
    pub(crate) taking: Taking,
    /// The background task that moves slots to other groups.
    pub(crate) moving: Moving,
    registered: OnceLock<Registered>,
}

impl Worker {
    /// A worker that has not started.
    pub(crate) fn new(
        options: &WorkerOptions,
        node: Node<KeyspaceHandle>,
        wire: Arc<HttpWire>,
    ) -> Result<Worker> {
        let run = getrandom::u64().map_err(|error| {
            Error::new(Kind::System, format!("the system gives no random numbers: {error}"))
        })?;
        node.set_run(run);
        Ok(Worker {
            node,
            masters: options.masters.clone(),
            files: files(options)?,
            max_value: options.max_value,
            clone: options.clone,
            replace: options.replace,
            accept_data_loss: options.accept_data_loss,
            wire,
            beat: Heartbeat::default(),
            taking: Taking::default(),
            moving: Moving::default(),
            registered: OnceLock::new(),
        })
    }

    /// What the master made of this worker, once it is known.
    pub(crate) fn registered(&self) -> Option<&Registered> {
        self.registered.get()
    }

    /// The random number of this run.
    pub(crate) fn run(&self) -> u64 {
        self.node.run()
    }

    /// Its index.
    pub(crate) fn index(&self) -> Option<u32> {
        self.registered().map(|registered| registered.index)
    }

    /// Passes on what the routes say of its group: where the other members are, and who should be one.
    pub(crate) fn follow(&self, site: &Site) {
        let Some(registered) = self.registered() else { return };
        let view = site.view();
        let Some(group) = view.group(registered.group) else { return };
        let members = group.members.iter().map(|member| (member.index, &member.address));
        let former = group.former.iter().map(|former| (former.index, &former.address));
        let addresses = members.chain(former).map(|(index, address)| (raft_id(index), address.clone()));
        self.wire.set(raft_id(registered.index), addresses.collect());
        // A promoted group has no other member before it knows its slots: nobody else would know that it has to hear of them.
        if let Mode::Open(replica) = &*self.node.mode()
            && replica.awaits().is_ok_and(|awaits| !awaits)
        {
            replica.want(wanted(&view, registered.group));
        }
    }

    /// Begins a new incarnation of the group from this worker's copy, if the masters say so: the store is closed, its
    /// membership and incarnation are written, and it is opened again. Blocks. Only after the leading master has just
    /// spoken: by routes of yesterday, another copy may be the one by now.
    pub(crate) fn promote_if_told(&self, site: &Site) {
        let Some(registered) = self.registered() else { return };
        let view = site.view();
        let Some(group) = view.group(registered.group) else { return };
        let behind =
            matches!(&*self.node.mode(), Mode::Open(replica) if replica.incarnation() < group.incarnation);
        if group.promoted != Some(registered.index) || !behind {
            return;
        }
        log::warn!(
            "worker {} is promoted: incarnation {} of group {} begins with its copy",
            registered.index,
            group.incarnation,
            group.group
        );
        let incarnation = group.incarnation;
        if let Err(error) = self.node.reopen(|folder| promote_worker(folder, incarnation)) {
            log::error!("the promotion failed: {error}; start this worker again");
        }
        self.follow(site);
        self.moving.wake();
        // The masters hear at once that it leads.
        self.beat.wake();
    }

    /// How far the copy of its group's data is: the one under way, or the last of this run.
    pub(crate) fn copying(&self) -> Option<CopyProgress> {
        let Mode::Open(replica) = &*self.node.mode() else { return None };
        replica.copying().map(|copied| CopyProgress {
            bytes: copied.bytes,
            total: copied.total,
            rows: copied.rows,
            done: copied.done,
        })
    }

    /// True if it has joined a group whose data never arrived here: in this run or, cut short, in one before.
    fn lacks_copy(&self) -> bool {
        matches!(&*self.node.mode(), Mode::Open(replica) if replica.numbers().voters.is_empty())
    }

    /// Its group.
    pub(crate) fn group(&self) -> Option<u32> {
        self.registered().map(|registered| registered.group)
    }
}

/// The folder that `/put_file` may read: the one that was given, or on a loopback worker the current one.
fn files(options: &WorkerOptions) -> Result<Option<PathBuf>> {
    let folder = match &options.files {
        Some(folder) => folder.clone(),
        None if address::is_loopback(&options.node.host) => match std::env::current_dir() {
            Ok(folder) => folder,
            Err(_) => return Ok(None),
        },
        None => return Ok(None),
    };
    match folder.canonicalize() {
        Ok(folder) => Ok(Some(folder)),
        Err(error) if options.files.is_some() => {
            Err(Error::new(Kind::Usage, format!("--files {} is not a folder", folder.display())).cause(error))
        }
        Err(_) => Ok(None),
    }
}

/// Starts the worker; returns its ready line. Blocks, for up to 30 seconds if the master does not answer.
pub(crate) fn start(site: &Arc<Site>, options: &WorkerOptions, port: u16) -> Result<String> {
    let worker = site.worker()?;
    let own = address::advertised(&options.node, port, options.masters.first().map(String::as_str));
    for master in &options.masters {
        address::check_pair(options, &own, master)?;
    }
    let mut folder = Folder::open(&options.node.data, Role::Worker)?;
    let place = Place { address: own, data: folder.path().to_owned() };
    let line = format!("at http://{} data {}", place.address, place.data.display());
    // Set once: start runs once per process.
    let _ = site.place.set(place);
    if let Some(view) = read_routes(&folder) {
        site.learn(view);
    }
    let caller = Caller::new(options.node.token.clone());
    // The start is counted on disk before the master hears of it.
    worker.node.set_run(folder.begin_start(worker.run())?);
    let reply = introduce(site, worker, &folder, &caller)?;
    if let Some(reply) = &reply {
        folder.confirm_start()?;
        if let Some(note) = &reply.note {
            eprintln!("{note}");
        }
        found_worker(&mut folder, reply, worker.node.options())?;
        if promoted(&reply.view, reply.group) == Some(reply.index) {
            promote_worker(&mut folder, reply.incarnation)?;
        }
        if site.learn(reply.view.clone()) {
            save_routes(folder.path(), &reply.view);
        }
    }
    let registered = identify(&folder, reply.as_ref())?;
    let index = registered.index;
    let _ = worker.registered.set(registered);
    worker.follow(site);
    worker.node.start(folder)?;
    worker.follow(site);
    worker.beat.spawn(Arc::clone(site), caller, reply.is_some())?;
    worker.moving.spawn(Arc::clone(site), Caller::new(options.node.token.clone()))?;
    // It is new, or its first copy was interrupted: a founder has applied something by now.
    if worker.lacks_copy() {
        wait_for_copy(site, worker, &Caller::new(options.node.token.clone()))?;
    }
    Ok(format!("ready worker {index} {line}"))
}

/// Registers with `master`. Errors: as it says, and `Moved` if it is of an incarnation that is over.
pub(crate) fn register(
    site: &Site,
    caller: &Caller,
    master: &str,
    request: &RegisterRequest,
    timeout: Duration,
) -> Result<RegisterReply> {
    let view = site.view();
    let incarnation = if view.cluster.is_empty() { 0 } else { view.rank().0 };
    let introduction = Introduction { request: request.clone(), incarnation };
    let reply = caller.post::<_, RegisterReply>(master, "/internal/register", &introduction, timeout)?;
    if reply.view.rank().0 < incarnation { Err(former_master()) } else { Ok(reply) }
}

/// The error for the word of a master that was lost when the others were recovered.
pub(crate) fn former_master() -> Error {
    Error::new(Kind::Moved, "this master was lost and the masters were recovered without it")
}

/// What this worker sends to register; `starts` is on disk already.
pub(crate) fn request(site: &Site, worker: &Worker, starts: u64, folder: Option<&Folder>) -> RegisterRequest {
    let known = worker.registered();
    let identity = folder.map(Folder::identity);
    RegisterRequest {
        uuid: identity
            .map_or_else(|| known.map(|known| known.uuid.clone()).unwrap_or_default(), |i| i.uuid.clone()),
        run: worker.run(),
        starts,
        address: site.address().to_owned(),
        data: site.place.get().map(|place| place.data.display().to_string()).unwrap_or_default(),
        index: identity.map_or_else(|| known.map(|known| known.index), |identity| identity.index),
        cluster: identity.map_or_else(|| known.map(|known| known.cluster.clone()), |i| i.cluster.clone()),
        clone: worker.clone,
        replace: worker.replace,
        accept_data_loss: worker.accept_data_loss,
        software: SOFTWARE.to_owned(),
    }
}

/// The worker whose copy the present incarnation of `group` began with, if it was promoted.
pub(crate) fn promoted(view: &ClusterView, group: u32) -> Option<u32> {
    view.group(group).and_then(|group| group.promoted)
}

fn identify(folder: &Folder, reply: Option<&RegisterReply>) -> Result<Registered> {
    let identity = folder.identity();
    let index = identity.index.or(reply.map(|reply| reply.index));
    let group = identity.group.or(reply.map(|reply| reply.group));
    let cluster = identity.cluster.clone().or(reply.map(|reply| reply.view.cluster.clone()));
    match (index, group, cluster) {
        (Some(index), Some(group), Some(cluster)) => {
            Ok(Registered { cluster, index, group, uuid: identity.uuid.clone() })
        }
        _ => Err(Error::new(
            Kind::Damaged,
            format!("{} does not say which worker it is", folder.path().display()),
        )),
    }
}

/// Registers with a master. A new worker insists; a registered one asks once, and goes on without an answer.
fn introduce(
    site: &Site,
    worker: &Worker,
    folder: &Folder,
    caller: &Caller,
) -> Result<Option<RegisterReply>> {
    // Nor does one whose promotion was cut short serve before a master has said again that it is to.
    let identity = folder.identity();
    let new = identity.index.is_none() || !folder.has_stores() || identity.promoting.is_some();
    let request = request(site, worker, folder.identity().starts, Some(folder));
    let deadline = Instant::now() + if new { WAIT_NEW } else { WAIT_KNOWN };
    let mut masters = candidates(site, worker);
    let mut said: Option<Instant> = None;
    loop {
        let mut last = Error::new(Kind::Unreachable, "no master is known");
        let mut foreign = None;
        let mut strangers = 0;
        let mut next = 0;
        while let Some(master) = masters.get(next).cloned() {
            // Whoever names masters of another cluster only does not mean the ones that this folder remembers.
            if next == worker.masters.len() && strangers == next {
                break;
            }
            next += 1;
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
            match register(site, caller, &master, &request, left.min(ATTEMPT)) {
                Ok(reply) => return Ok(Some(reply)),
                // Another of the masters may be of its cluster.
                Err(error) if error.kind() == Kind::Foreign => {
                    foreign = Some(error);
                    strangers += 1;
                }
                Err(error) if refuses(&error) => return Err(as_refusal(error)),
                Err(error) if !new && !retries(&error) => log::warn!("registration: {error}"),
                Err(error) if !retries(&error) => return Err(as_refusal(error)),
                Err(error) => {
                    if error.kind() == Kind::Moved {
                        // It does not lead; the one that does may be none that the command line names.
                        learn_masters(&mut masters, &master, caller);
                    }
                    last = error;
                }
            }
        }
        if let Some(error) = foreign {
            return Err(as_refusal(error));
        }
        if !new {
            return Ok(None);
        }
        if Instant::now() + Duration::from_millis(200) >= deadline {
            return Err(no_master(worker, last));
        }
        if last.kind() != Kind::Moved && said.is_none_or(|said| said.elapsed() > Duration::from_secs(5)) {
            log::warn!("waiting for a master: {last}");
            said = Some(Instant::now());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Adds the masters that `master` knows.
fn learn_masters(masters: &mut Vec<String>, master: &str, caller: &Caller) {
    let Ok(view) = caller.get::<ClusterView>(master, "/cluster", ATTEMPT) else { return };
    for other in view.masters {
        if !masters.contains(&other) {
            masters.push(other);
        }
    }
}

/// The masters to try: those of the command line, then those of the routes.
pub(crate) fn candidates(site: &Site, worker: &Worker) -> Vec<String> {
    let mut masters = worker.masters.clone();
    for master in &site.view().masters {
        if !masters.contains(master) {
            masters.push(master.clone());
        }
    }
    masters
}

/// True if the master said no, and will say so again.
pub(crate) fn refuses(error: &Error) -> bool {
    matches!(error.kind(), Kind::Conflict | Kind::Foreign)
}

/// True if the same call may succeed a little later.
fn retries(error: &Error) -> bool {
    !matches!(
        error.kind(),
        Kind::NotFound | Kind::BadRequest | Kind::Unauthorized | Kind::Forbidden | Kind::MethodNotAllowed
    )
}

/// A refusal as the process ends with it: exit code 4, whatever word the master used.
fn as_refusal(error: Error) -> Error {
    let refusal = Error::new(Kind::Conflict, error.detail());
    match error.hint_text() {
        Some(hint) => refusal.hint(hint),
        None => refusal,
    }
}

fn no_master(worker: &Worker, last: Error) -> Error {
    let masters = worker.masters.join(", ");
    let port = worker.masters.first().and_then(|master| address::split(master).1).unwrap_or(3000);
    let seconds = WAIT_NEW.as_secs();
    match last.kind() {
        Kind::Unreachable => {
            Error::new(Kind::Unreachable, format!("no master answered at {masters} for {seconds} s ({last})"))
                .hint(format!("start one: catstore master {port}; or name one with --master ADDR"))
        }
        // Somebody answered, and could do nothing.
        _ => Error::new(Kind::Unreachable, format!("no master took this worker for {seconds} s ({last})")),
    }
}
