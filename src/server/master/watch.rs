//! What a master does by itself, on a thread of its own: it follows the directory as it is applied here; it registers
//! (again) with whoever leads, so that the others know where it is; and while it leads it declares who has been dead
//! for too long to vote, sets the settings of its command line, orders moves of slots and notes what became of them.

use super::super::call::Caller;
use super::super::facts::SOFTWARE;
use super::super::node::Mode;
use super::super::site::{Event, Member, Site};
use super::super::worker::refuses;
use super::{ALIVE, Master, recover, requests};
use crate::cluster::directory::{Directory, DirectoryCommand, DirectoryReply, Settings};
use crate::cluster::planning;
use crate::cluster::view::{RegisterMasterReply, RegisterMasterRequest};
use crate::error::{Error, Kind, Result};
use crate::replica::handle::{DirectoryHandle, Lead};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// How often the directory is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How often the rest is done.
const ROUND: Duration = Duration::from_secs(1);
/// How long one command may take.
const CALL: Duration = Duration::from_secs(3);
/// How long another master is waited for.
const WORD: Duration = Duration::from_millis(1500);
/// The shortest and the longest pause before silent workers are told again who the recovered masters are.
const TELL: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(15));

/// What the command line says for the whole cluster, where it says something.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wishes {
    /// Members that a group should have.
    pub(super) replicas: Option<u32>,
    /// After how long a silent node is unfit to vote.
    pub(super) dead_after: Option<Duration>,
    /// Whether slots move by themselves.
    pub(super) rebalance: Option<bool>,
    /// Bytes a second that the copy of a move may take.
    pub(super) move_rate: Option<u64>,
}

/// What the thread knows.
pub(super) struct Watch {
    site: Arc<Site>,
    caller: Caller,
    runtime: Runtime,
    /// What this master says when it registers.
    request: RegisterMasterRequest,
    /// The command line's settings, until the directory has them.
    wishes: Wishes,
    /// True once the leader knows this run.
    registered: bool,
    /// When each node was last heard of, or this master began to lead.
    workers: BTreeMap<u32, Instant>,
    masters: BTreeMap<u32, Instant>,
    /// When silent workers were told last where the masters are, and how long until they are told again.
    told: Option<(Instant, Duration)>,
}

impl Watch {
    /// A thread's beginning. Errors: `System` without a runtime.
    pub(super) fn new(
        site: Arc<Site>,
        caller: Caller,
        request: RegisterMasterRequest,
        wishes: Wishes,
    ) -> Result<Watch> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(|error| Error::new(Kind::System, "cannot wait for the directory").cause(error))?;
        let (workers, masters) = (BTreeMap::new(), BTreeMap::new());
        Ok(Watch { site, caller, runtime, request, wishes, registered: false, workers, masters, told: None })
    }

    /// Goes on until the node stops.
    pub(super) fn run(mut self) {
        let mut next = Instant::now();
        while !*self.site.stopping.borrow() {
            let site = Arc::clone(&self.site);
            if let Member::Master(master) = &site.member {
                master.refresh(&site);
                if Instant::now() >= next {
                    next = Instant::now() + ROUND;
                    if let Err(error) = self.round(master) {
                        if refuses(&error) {
                            // The main thread may be gone already; then nobody needs to be told.
                            let _ = site.events.send(Event::Fatal(error));
                            return;
                        }
                        log::debug!("master: {error}");
                    }
                }
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Registers this master with whoever leads, itself included. Blocks.
    pub(super) fn register(&mut self, master: &Master, replica: &DirectoryHandle) -> Result<()> {
        match replica.lead() {
            Lead::Here => {
                let alive = replica.numbers().active;
                let command = DirectoryCommand::RegisterMaster { request: self.request.clone(), alive };
                match self.submit(replica, command)? {
                    DirectoryReply::MasterRegistered { .. } => {}
                    reply => return Err(requests::unfit(&reply)),
                }
            }
            Lead::There(leader) => self.tell(master, |index| index == leader)?,
            // Nobody may be able to say who leads, because this master serves at another address than before.
            Lead::Nobody => self.tell(master, |index| Some(&index) != master.index.get())?,
        }
        replica.confirm_start()?;
        self.registered = true;
        Ok(())
    }

    /// Registers with the first of the `wanted` masters that takes it.
    fn tell(&self, master: &Master, wanted: impl Fn(u32) -> bool) -> Result<()> {
        let directory = master.directory();
        let mut last = Error::new(Kind::NoMajority, "no master leads at the moment");
        for index in directory.master_indices().filter(|index| wanted(*index)) {
            let Some(entry) = directory.master_nodes.get(&index) else { continue };
            let path = "/internal/register-master";
            match self.caller.post::<_, RegisterMasterReply>(&entry.address, path, &self.request, WORD) {
                Ok(_) => return Ok(()),
                Err(error) if refuses(&error) => return Err(error),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn round(&mut self, master: &Master) -> Result<()> {
        let Mode::Open(replica) = &*master.node.mode() else {
            self.registered = false;
            return Ok(());
        };
        if replica.starts() != self.request.starts {
            // It was closed and opened again.
            self.request.starts = replica.starts();
            self.registered = false;
        }
        if !self.registered {
            self.register(master, replica)?;
        }
        if replica.lead() != Lead::Here {
            self.workers.clear();
            self.masters.clear();
            return Ok(());
        }
        self.settle(master, replica)?;
        self.tell_silent(master)?;
        self.declare_dead(master, replica)?;
        self.move_slots(master, replica)
    }

    /// Orders moves, notes what became of them, and takes out the members of drained groups.
    fn move_slots(&mut self, master: &Master, replica: &DirectoryHandle) -> Result<()> {
        // What was not heard yet is not gone.
        if master.check_listened().is_err() {
            return Ok(());
        }
        for command in planning::commands(&master.directory(), &master.hear()) {
            match self.submit(replica, command.clone())? {
                DirectoryReply::Refused { detail, .. } => log::debug!("{command:?} came too late: {detail}"),
                reply => say_move(&command, &reply),
            }
        }
        Ok(())
    }

    /// After a recovery: workers that are silent may not know where the masters are. They are told now and then.
    fn tell_silent(&mut self, master: &Master) -> Result<()> {
        if master.directory().incarnation <= 1 || self.told.is_some_and(|(at, pause)| at.elapsed() < pause) {
            return Ok(());
        }
        let pause = self.told.map_or(TELL.0, |(_, pause)| (2 * pause).min(TELL.1));
        recover::tell_silent(master, &self.caller)?;
        self.told = Some((Instant::now(), pause));
        Ok(())
    }

    /// Brings what the command line says into the directory, once.
    fn settle(&mut self, master: &Master, replica: &DirectoryHandle) -> Result<()> {
        let now = master.directory().settings;
        let Wishes { replicas, dead_after, rebalance, move_rate } = std::mem::take(&mut self.wishes);
        let wanted = Settings {
            replicas: replicas.unwrap_or(now.replicas),
            dead_after_ms: dead_after.map_or(now.dead_after_ms, |after| after.as_millis() as u64),
            rebalance: rebalance.unwrap_or(now.rebalance),
            move_rate: move_rate.or(now.move_rate),
        };
        if wanted != now
            && let Err(error) = self.submit(replica, DirectoryCommand::Settings(wanted))
        {
            self.wishes = Wishes { replicas, dead_after, rebalance, move_rate };
            return Err(error);
        }
        Ok(())
    }

    fn declare_dead(&mut self, master: &Master, replica: &DirectoryHandle) -> Result<()> {
        let directory = master.directory();
        let limit = Duration::from_millis(directory.settings.dead_after_ms);
        let commands = [
            self.changed_workers(master, &directory, limit),
            self.changed_masters(replica, &directory, limit),
        ];
        for command in commands.into_iter().flatten() {
            say(&command);
            self.submit(replica, command)?;
        }
        Ok(())
    }

    fn changed_workers(
        &mut self,
        master: &Master,
        directory: &Directory,
        limit: Duration,
    ) -> Vec<DirectoryCommand> {
        let now = Instant::now();
        let mut changed = Vec::new();
        let beats = master.beats();
        for (index, entry) in directory.workers.iter().filter(|(_, entry)| entry.removed.is_none()) {
            let seen = self.workers.entry(*index).or_insert(now);
            if let Some(beat) = beats.get(index) {
                *seen = (*seen).max(beat.seen);
            }
            let silent = now.saturating_duration_since(*seen);
            let dead = if entry.dead { silent > ALIVE } else { silent > limit };
            if dead != entry.dead {
                changed.push(DirectoryCommand::Dead { index: *index, dead });
            }
        }
        changed
    }

    fn changed_masters(
        &mut self,
        replica: &DirectoryHandle,
        directory: &Directory,
        limit: Duration,
    ) -> Vec<DirectoryCommand> {
        let now = Instant::now();
        let active = replica.numbers().active;
        let mut changed = Vec::new();
        for (index, entry) in directory.master_nodes.iter().filter(|(_, entry)| entry.removed.is_none()) {
            let own = entry.uuid == self.request.uuid;
            let seen = self.masters.entry(*index).or_insert(now);
            if own || active.contains(index) {
                *seen = now;
            }
            let silent = now.saturating_duration_since(*seen);
            let dead = if entry.dead { silent > ALIVE } else { silent > limit };
            if dead != entry.dead {
                changed.push(DirectoryCommand::MasterDead { index: *index, dead });
            }
        }
        changed
    }

    fn submit(&self, replica: &DirectoryHandle, command: DirectoryCommand) -> Result<DirectoryReply> {
        let reply = self.runtime.block_on(replica.submit(command, Instant::now() + CALL));
        if let Member::Master(master) = &self.site.member {
            master.refresh(&self.site);
        }
        reply
    }
}

/// Logs what is declared of a node.
fn say(command: &DirectoryCommand) {
    let (role, index, dead) = match command {
        DirectoryCommand::Dead { index, dead } => ("worker", index, dead),
        DirectoryCommand::MasterDead { index, dead } => ("master", index, dead),
        _ => return,
    };
    if *dead {
        log::warn!("{role} {index} was not heard of for --dead-after: a live standby may take its vote");
    } else {
        log::info!("{role} {index} is back and may vote again");
    }
}

/// Logs what becomes of moves and of those who leave.
fn say_move(command: &DirectoryCommand, reply: &DirectoryReply) {
    match (command, reply) {
        (DirectoryCommand::StartMove { from, to, slots }, DirectoryReply::MoveStarted { id }) => {
            log::info!("move {id}: {} slots go from group {from} to group {to}", slots.count());
        }
        (DirectoryCommand::MoveSwitched { id }, _) => log::info!("move {id}: the slots have changed hands"),
        (DirectoryCommand::MoveDone { id, withdrawn: false }, _) => log::info!("move {id} is done"),
        (DirectoryCommand::MoveDone { id, .. }, _) => log::info!("move {id} was called off"),
        (DirectoryCommand::DrainMember { index }, _) => log::info!("worker {index} left its group"),
        _ => {}
    }
}

/// What this master says when it registers.
pub(super) fn request(site: &Site, run: u64, identity: &crate::replica::Identity) -> RegisterMasterRequest {
    RegisterMasterRequest {
        uuid: identity.uuid.clone(),
        run,
        starts: identity.starts,
        address: site.address().to_owned(),
        data: site.place.get().map(|place| place.data.display().to_string()).unwrap_or_default(),
        index: identity.index,
        cluster: identity.cluster.clone(),
        software: SOFTWARE.to_owned(),
    }
}
