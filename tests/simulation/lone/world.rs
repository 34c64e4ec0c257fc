//! One seed's world: a disk, a member that lives until it crashes and is opened again, and clients that write.

use super::model::Model;
use catstore::cluster::slots::SlotTable;
use catstore::error::Result;
use catstore::replica::command::{BatchCommand, Command, Condition, Put, Reply, Request};
use catstore::replica::core::Status;
use catstore::replica::keyspace::{Keyspace, founding_rows};
use catstore::replica::member::{Flush, Member, NOBODY, Rim, Setup, Ticket};
use catstore::replica::repeats::{Last, Session};
use catstore::store::doubles::{Disk, MemoryBuilding, MemoryGenerations, MemoryLog, Random};
use catstore::store::keys;
use catstore::store::log::{LogWrite, RaftLog};
use catstore::store::record::{Record, checksum};
use catstore::store::state::{Batch, Generations, Installed, State, View, Visit};
use raft::eraftpb::{ConfState, Entry, HardState, Message};
use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;

/// The sessions of the clients.
const SESSIONS: [u128; 2] = [1, 2];

/// A bug put in on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// None.
    None,
    /// Acknowledges before the log is synced.
    NoSync,
    /// Replays the state's write-ahead logs after a power loss.
    TrustLogs,
    /// Cuts the log up to what is applied, without a flush.
    CutBeyondTables,
    /// Writes the records and the applied index in two batches.
    AppliedApart,
}

/// What happened in all seeds of a run.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Totals {
    lives: u64,
    power_losses: u64,
    kills: u64,
    disk_errors: u64,
    crashes_at_steps: u64,
    entries: u64,
    commands: u64,
    clears: u64,
    flushes: u64,
    unknown_kept: u64,
    unknown_lost: u64,
}

impl Totals {
    /// Every kind of event must have happened in a run of many seeds.
    pub fn check(&self, seeds: u64) {
        let events = [
            self.power_losses,
            self.kills,
            self.disk_errors,
            self.crashes_at_steps,
            self.clears,
            self.flushes,
            self.unknown_kept,
            self.unknown_lost,
        ];
        assert!(
            seeds < 50 || events.iter().all(|count| *count > seeds / 10),
            "a kind of event is too rare: {self:?}"
        );
    }
}

type Subject = Member<Keyspace, Log, Root>;

/// A rim without others.
struct Nowhere;

impl Rim for Nowhere {
    fn publish(&mut self, _: &Status) {}
    fn send(&mut self, _: Vec<Message>) {}
}

/// A world of one seed.
pub struct World {
    random: Random,
    bug: Bug,
    disk: Disk,
    model: Model,
    clock: u64,
    next_ticket: Ticket,
    next_value: u64,
    past_ids: Vec<Request>,
    /// The number of the last request of each session.
    sessions: [u64; 2],
}

impl World {
    /// A new world.
    pub fn new(seed: u64, bug: Bug) -> World {
        let membership = ConfState { voters: vec![1], ..ConfState::default() };
        let rows = founding_rows(&SlotTable::whole(0)).expect("founding rows");
        let disk = Disk::new(seed, membership, &rows);
        disk.trust_logs(bug == Bug::TrustLogs);
        let random = Random::new(seed ^ 0x00C0_FFEE);
        let model = Model::default();
        World {
            random,
            bug,
            disk,
            model,
            clock: 1000,
            next_ticket: NOBODY + 1,
            next_value: 0,
            past_ids: Vec::new(),
            sessions: [0; 2],
        }
    }

    /// Lives and dies some times. Errors say what a client would have seen that it must not.
    pub fn live(&mut self, totals: &mut Totals) -> Result<(), String> {
        let lives = 3 + self.random.up_to(12);
        let mut power_lost = false;
        let mut candidate: Option<Model> = None;
        for life in 0..lives {
            totals.lives += 1;
            let mut member = self.open(power_lost).map_err(|why| format!("life {life}: {why}"))?;
            self.compare(&member, candidate.take(), totals).map_err(|why| format!("life {life}: {why}"))?;
            if life + 1 == lives {
                return Ok(());
            }
            if self.random.up_to(9) < 7 {
                let steps = 1 + self.random.up_to(40) as u64;
                if self.random.up_to(3) == 0 {
                    self.disk.fail_at(steps);
                } else {
                    self.disk.crash_at(steps);
                }
            }
            candidate = self.write_until_death(&mut member, totals)?;
            drop(member);
            power_lost = self.die(totals);
        }
        Ok(())
    }

    fn open(&mut self, power_lost: bool) -> Result<Subject, String> {
        let (log, generations) = self.disk.open(power_lost);
        let log = Log { inner: log, bug: self.bug };
        let root = Root { inner: generations, bug: self.bug };
        let seed = self.random.draw();
        let mut member = Member::open(Setup::new(1, 1, seed, self.clock), log, root)
            .map_err(|error| format!("it does not open: {error}"))?;
        let outputs =
            member.run(self.clock, &mut Nowhere).map_err(|error| format!("it does not start: {error}"))?;
        if !outputs.replies.is_empty() || member.status().lease != u64::MAX {
            return Err("a lone voter does not serve after its start".into());
        }
        Ok(member)
    }

    /// The state must be the model, or the model and the whole of what was under way.
    fn compare(
        &mut self,
        member: &Subject,
        candidate: Option<Model>,
        totals: &mut Totals,
    ) -> Result<(), String> {
        let seen = visible(&*member.state(), member)?;
        if let Some(candidate) = candidate {
            if same(&seen, &candidate) {
                totals.unknown_kept += 1;
                self.model = candidate;
                return Ok(());
            }
            totals.unknown_lost += 1;
        }
        if same(&seen, &self.model) {
            return Ok(());
        }
        Err(format!(
            "acknowledged: {:?}\nfound: {:?} at version {}, {} ids",
            self.model, seen.keys, seen.version, seen.requests
        ))
    }

    /// Returns what the state will be if the entry whose outcome is unknown was written.
    fn write_until_death(
        &mut self,
        member: &mut Subject,
        totals: &mut Totals,
    ) -> Result<Option<Model>, String> {
        let mut flushes: Vec<Flush> = Vec::new();
        for _ in 0..self.random.up_to(60) {
            // A whole seed takes less than ten minutes of the group's clock: no request id is forgotten.
            self.clock += self.random.up_to(300) as u64;
            let mut queue = VecDeque::new();
            let mut requests = Vec::new();
            for _ in 0..self.random.up_to(5) {
                let request = self.request();
                requests.push((self.next_ticket, request.clone()));
                queue.push_back((self.next_ticket, request));
                self.next_ticket += 1;
            }
            if self.random.up_to(9) == 0 {
                member.tick(self.clock);
            }
            while !queue.is_empty() || !requests.is_empty() {
                let waiting = queue.len();
                let refused = member.propose(self.clock, &mut queue);
                if !refused.is_empty() {
                    return Err(format!("a lone leader refuses: {}", refused[0].1));
                }
                let entry: Vec<(Ticket, Request)> = requests.drain(..waiting - queue.len()).collect();
                let mut after = self.model.clone();
                let expected: Vec<Reply> = entry.iter().map(|(_, request)| after.apply(request)).collect();
                let Ok(outputs) = member.run(self.clock, &mut Nowhere) else { return Ok(Some(after)) };
                let tickets: Vec<Ticket> = entry.iter().map(|(ticket, _)| *ticket).collect();
                let answered: Vec<Ticket> = outputs.replies.iter().map(|(ticket, _)| *ticket).collect();
                if answered != tickets {
                    return Err(format!("{tickets:?} were proposed, {answered:?} answered"));
                }
                for ((_, reply), expected) in outputs.replies.into_iter().zip(expected) {
                    let reply = reply.map_err(|error| error.to_string())?;
                    if reply != expected {
                        return Err(format!("the reply is {reply:?}, not {expected:?}"));
                    }
                    totals.clears += u64::from(matches!(reply, Reply::Cleared { .. }));
                }
                self.model = after;
                totals.entries += outputs.entries;
                totals.commands += outputs.commands;
                flushes.extend(outputs.flush);
            }
            // What the thread does every 32 MiB, here at any time; its answer may come late.
            if self.random.up_to(7) == 0 {
                flushes.push(Flush { state: member.state(), index: member.core().log().last_index() });
            }
            if self.random.up_to(3) == 0
                && let Some(flush) = flushes.pop()
            {
                if flush.state.flush().is_err() || member.flushed(self.clock, flush.index).is_err() {
                    return Ok(None);
                }
                totals.flushes += 1;
            }
        }
        // Killed between two steps, with what is due by itself perhaps in the log: it changes nothing visible.
        Ok(None)
    }

    /// Ends the life; true if the power was lost.
    fn die(&mut self, totals: &mut Totals) -> bool {
        totals.crashes_at_steps += u64::from(!self.disk.fault_is_pending());
        match self.random.up_to(3) {
            0 => {
                totals.kills += 1;
                self.disk.kill();
                false
            }
            1 => {
                totals.kills += 1;
                totals.disk_errors += 1;
                self.disk.kill();
                true
            }
            _ => {
                totals.power_losses += 1;
                let seed = self.random.draw();
                self.disk.crash(seed);
                true
            }
        }
    }

    fn request(&mut self) -> Request {
        if self.random.up_to(11) == 0 && !self.past_ids.is_empty() {
            let position = self.random.up_to(self.past_ids.len() - 1);
            return self.past_ids[position].clone();
        }
        let command = self.command();
        let id = match self.random.up_to(7) {
            0 => Some(format!("id{}", self.random.draw())),
            session @ 1..=2 => {
                let number = &mut self.sessions[session - 1];
                *number += 1;
                Some(format!("{:032x}:{number}", SESSIONS[session - 1]))
            }
            _ => None,
        };
        let request = Request { id, command };
        if request.id.is_some() {
            self.past_ids.push(request.clone());
        }
        request
    }

    fn command(&mut self) -> Command {
        match self.random.up_to(19) {
            0..=9 => Command::Put(self.put()),
            10..=13 => Command::Delete { key: self.key(), condition: self.condition() },
            14..=18 => {
                let mut commands = Vec::new();
                for _ in 0..self.random.up_to(4) {
                    commands.push(match self.random.up_to(5) {
                        0 => BatchCommand::Check { key: self.key(), condition: self.condition() },
                        1 => BatchCommand::Delete { key: self.key() },
                        _ => BatchCommand::Put(Put { condition: Condition::Any, ..self.put() }),
                    });
                }
                Command::Batch(commands)
            }
            _ => Command::Clear,
        }
    }

    fn put(&mut self) -> Put {
        self.next_value += 1;
        let value = self.next_value.to_string().into_bytes();
        Put {
            key: self.key(),
            checksum: checksum(&value),
            value,
            content_type: String::new(),
            ttl: None,
            condition: self.condition(),
        }
    }

    fn key(&mut self) -> Vec<u8> {
        format!("{{t}}{}", self.random.up_to(7)).into_bytes()
    }

    fn condition(&mut self) -> Condition {
        match self.random.up_to(9) {
            0 => Condition::Absent,
            1 => Condition::Exists,
            2 => Condition::Version(self.random.up_to(self.model.version as usize + 1) as u64),
            _ => Condition::Any,
        }
    }
}

/// What a reader of the state sees.
struct Seen {
    keys: BTreeMap<Vec<u8>, super::model::Entry>,
    version: u64,
    requests: u64,
    /// The number of each session's last request: a request that changed nothing else was executed all the same.
    sessions: BTreeMap<Session, u64>,
}

/// The remembered replies themselves show in the replies to repeats.
fn same(seen: &Seen, model: &Model) -> bool {
    let requests = (model.replies.len() + model.sessions.len()) as u64;
    let sessions = model.sessions.iter().map(|(session, (number, _))| (*session, *number));
    seen.keys == model.keys
        && seen.version == model.version
        && seen.requests == requests
        && sessions.eq(seen.sessions.iter().map(|(session, number)| (*session, *number)))
}

fn visible(state: &dyn State, member: &Subject) -> Result<Seen, String> {
    use catstore::replica::machine::Machine as _;
    let (from, to) = keys::records();
    let counters = member.machine().publish().counters;
    let mut model = Seen {
        keys: BTreeMap::new(),
        version: counters.version,
        requests: counters.requests,
        sessions: BTreeMap::new(),
    };
    for session in SESSIONS {
        let session = session.to_be_bytes();
        if let Some(row) = state.get(&keys::session(&session)).map_err(|error| error.to_string())? {
            let last = Last::decode(&row).map_err(|error| error.to_string())?;
            model.sessions.insert(session, last.number);
        }
    }
    let mut problem = None;
    state
        .scan(&from, &to, &mut |row, value| {
            match (keys::record_key(row), Record::decode(value.to_vec())) {
                (Some(key), Ok(record)) => {
                    model.keys.insert(key.to_vec(), (record.value().to_vec(), record.meta.version));
                }
                (_, Err(error)) => problem = Some(error.to_string()),
                (None, _) => problem = Some("a row without a key".into()),
            }
            ControlFlow::Continue(())
        })
        .map_err(|error| error.to_string())?;
    if counters.keys != model.keys.len() as u64 {
        return Err("the counted keys are not the stored ones".into());
    }
    problem.map_or(Ok(model), Err)
}

/// The double of the log, with room for bugs.
pub struct Log {
    inner: MemoryLog,
    bug: Bug,
}

impl RaftLog for Log {
    fn truncated(&self) -> (u64, u64) {
        self.inner.truncated()
    }
    fn last_index(&self) -> u64 {
        self.inner.last_index()
    }
    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>> {
        self.inner.entries(low, high, max_bytes)
    }
    fn term(&self, index: u64) -> Result<Option<u64>> {
        self.inner.term(index)
    }
    fn hard_state(&self) -> HardState {
        self.inner.hard_state()
    }
    fn membership(&self) -> (ConfState, u64) {
        self.inner.membership()
    }
    fn write(&mut self, mut write: LogWrite) -> Result<()> {
        if self.bug == Bug::NoSync {
            write.sync = false;
        }
        self.inner.write(write)?;
        if self.bug == Bug::CutBeyondTables && self.inner.last_index() > 3 {
            self.inner.cut(self.inner.last_index() - 3)?;
        }
        Ok(())
    }
    fn cut(&mut self, index: u64) -> Result<()> {
        self.inner.cut(index)
    }
    fn reset(&mut self, index: u64, term: u64, membership: (ConfState, u64)) -> Result<()> {
        self.inner.reset(index, term, membership)
    }
    fn syncs(&self) -> u64 {
        self.inner.syncs()
    }
    fn bytes(&self) -> u64 {
        self.inner.bytes()
    }
}

/// The double of the generations, with room for bugs.
pub struct Root {
    inner: MemoryGenerations,
    bug: Bug,
}

impl Root {
    fn wrap(&self, state: Arc<dyn State>) -> Arc<dyn State> {
        if self.bug == Bug::AppliedApart { Arc::new(Apart(state)) } else { state }
    }
}

impl Generations for Root {
    type Building = MemoryBuilding;

    fn live(&self) -> Arc<dyn State> {
        self.wrap(self.inner.live())
    }
    fn replace(&mut self, rows: &Batch) -> Result<Arc<dyn State>> {
        let state = self.inner.replace(rows)?;
        Ok(self.wrap(state))
    }
    fn begin(&mut self) -> Result<MemoryBuilding> {
        self.inner.begin()
    }
    fn install(&mut self, built: MemoryBuilding, at: Installed) -> Result<Arc<dyn State>> {
        let state = self.inner.install(built, at)?;
        Ok(self.wrap(state))
    }
    fn installed(&self) -> Option<Installed> {
        self.inner.installed()
    }
    fn settled(&mut self) -> Result<()> {
        self.inner.settled()
    }
}

/// Writes the counters apart from the rest.
struct Apart(Arc<dyn State>);

impl State for Apart {
    fn get(&self, row: &[u8]) -> Result<Option<Vec<u8>>> {
        self.0.get(row)
    }
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        self.0.scan(from, to, visit)
    }
    fn write(&self, batch: &Batch) -> Result<()> {
        let (counters, rest): (Vec<_>, Vec<_>) =
            batch.changes.iter().cloned().partition(|(row, _)| row == &keys::COUNTERS_ROW);
        self.0.write(&Batch { changes: rest })?;
        self.0.write(&Batch { changes: counters })
    }
    fn flush(&self) -> Result<()> {
        self.0.flush()
    }
    fn view(&self) -> Result<Arc<dyn View>> {
        self.0.view()
    }
    fn failure(&self) -> Option<catstore::error::Error> {
        self.0.failure()
    }
}
