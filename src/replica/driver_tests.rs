//! The replica thread on memory doubles: acknowledgement, group commit, failing disks, full disks, close.

use super::*;
use crate::cluster::slots::SlotTable;
use crate::replica::command::{Command as Write, Condition, Put, Reply, Request};
use crate::replica::copies::SnapshotName;
use crate::replica::keyspace::{Keyspace, founding_rows};
use crate::replica::member::Setup;
use crate::replica::parcel::Sender;
use crate::store::doubles::{Disk, MemoryGenerations, MemoryLog};
use crate::store::record::checksum;
use raft::eraftpb::ConfState;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

type Started = Inbox<Keyspace, (MemoryLog, MemoryGenerations), <MemoryGenerations as Generations>::Building>;

const MIB: u64 = 1 << 20;

fn disk() -> Disk {
    let membership = ConfState { voters: vec![1], ..ConfState::default() };
    Disk::new(7, membership, &founding_rows(&SlotTable::whole(0)).unwrap())
}

fn start_on(disk: &Disk, free: Arc<AtomicU64>) -> Started {
    start_with(disk, free, |_| None)
}

fn start_with(
    disk: &Disk,
    free: Arc<AtomicU64>,
    chunks: impl FnOnce(&Arc<Shared<Keyspace>>) -> Option<Arc<dyn Chunks>>,
) -> Started {
    let (log, generations) = disk.open(false);
    let member = Member::open(setup(7), log, generations).unwrap();
    let own = Sender { cluster: "c".into(), group: 0, incarnation: 1, id: 1, starts: 1, run: 1 };
    let free_bytes = Box::new(move || Some(free.load(Ordering::Relaxed)));
    let shared = share(&member);
    let chunks = chunks(&shared);
    let world = World { wire: Arc::new(Nowhere), own, free_bytes, reserve: 64 << 20, chunks };
    let inbox = start(member, shared, world).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !inbox.shared().may_read() {
        assert!(Instant::now() < deadline, "it does not serve");
        std::thread::yield_now();
    }
    inbox
}

fn setup(seed: u64) -> Setup {
    Setup::new(1, 1, seed, 0)
}

/// A member that has nobody to talk to.
struct Nowhere;

impl Wire for Nowhere {
    fn deliver(&self, to: u64, _parcel: &[u8]) -> Result<()> {
        Err(Error::new(Kind::Unreachable, format!("there is no member {to}")))
    }

    fn pull(&self, from: u64, _name: SnapshotName, _after: Option<&[u8]>) -> Result<Vec<u8>> {
        Err(Error::new(Kind::Unreachable, format!("there is no member {from}")))
    }

    fn ask(&self, _to: u64, _envelope: &[u8]) -> Result<Vec<u8>> {
        unreachable!("nothing here has chunks")
    }
}

struct Silent;

impl Rim for Silent {
    fn publish(&mut self, _status: &Status) {}
    fn send(&mut self, messages: Vec<Message>) {
        assert!(messages.is_empty(), "a lone voter has nothing to say");
    }
}

fn plenty() -> Arc<AtomicU64> {
    Arc::new(AtomicU64::new(u64::MAX))
}

fn put(key: &str) -> Request {
    let put = Put {
        key: key.as_bytes().to_vec(),
        value: b"v".to_vec(),
        checksum: checksum(b"v"),
        content_type: String::new(),
        ttl: None,
        condition: Condition::Any,
    };
    Request { id: None, command: Write::Put(put) }
}

fn delete(key: &str) -> Request {
    Request { id: None, command: Write::Delete { key: key.as_bytes().to_vec(), condition: Condition::Any } }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn ask(inbox: &Started, request: Request) -> Result<Reply> {
    inbox.send(request, soon())?.blocking_recv().expect("the thread answers")
}

#[test]
fn what_is_acknowledged_survives_a_power_loss() {
    let disk = disk();
    let inbox = start_on(&disk, plenty());
    for number in 0..50 {
        assert!(matches!(ask(&inbox, put(&number.to_string())), Ok(Reply::Stored { created: true, .. })));
    }
    disk.crash(3);
    let (log, generations) = disk.open(true);
    let mut member: Member<Keyspace, _, _> = Member::open(setup(8), log, generations).unwrap();
    member.run(0, &mut Silent).unwrap();
    assert_eq!(member.machine().publish().counters.keys, 50);
}

#[test]
fn commands_that_wait_together_share_an_entry_and_a_sync() {
    let (log, generations) = disk().open(false);
    let mut member: Member<Keyspace, _, _> = Member::open(setup(7), log, generations).unwrap();
    member.run(0, &mut Silent).unwrap();
    let before = member.core().log().syncs();
    let mut queue: VecDeque<_> = (0..5000).map(|number| (number + 1, put(&number.to_string()))).collect();
    let mut commands = 0;
    for entries in 1..=2 {
        assert!(member.propose(1, &mut queue).is_empty());
        let outputs = member.run(0, &mut Silent).unwrap();
        commands += outputs.commands;
        assert_eq!((outputs.entries, member.core().log().syncs() - before), (1, entries));
        assert_eq!(outputs.replies.len() as u64, outputs.commands);
    }
    assert_eq!((commands, queue.len()), (5000, 0), "4096 commands are one entry");
}

/// Looks at the rows when it is told that they are others.
struct Watcher {
    shared: Arc<Shared<Keyspace>>,
    keys: Arc<Mutex<Vec<u64>>>,
}

impl Chunks for Watcher {
    fn applied(&self, _index: u64, _term: u64, _chunked: Vec<Vec<u8>>) {}

    fn replaced(&self, _index: u64, _term: u64) {
        let live = self.shared.live.read().unwrap().clone();
        self.keys.lock().unwrap().push(live.expect("it is open").published.counters.keys);
    }

    fn complete(&self) -> u64 {
        u64::MAX
    }
}

#[test]
fn who_keeps_chunks_sees_the_new_rows_when_all_were_replaced() {
    let (disk, keys) = (disk(), Arc::default());
    let watcher = |shared: &Arc<Shared<Keyspace>>| {
        Some(Arc::new(Watcher { shared: Arc::clone(shared), keys: Arc::clone(&keys) }) as Arc<dyn Chunks>)
    };
    let inbox = start_with(&disk, plenty(), watcher);
    ask(&inbox, put("a")).unwrap();
    ask(&inbox, Request { id: None, command: Write::Clear }).unwrap();
    assert_eq!(*keys.lock().unwrap(), [0]);
}

#[test]
fn a_failing_disk_leaves_an_unknown_outcome_and_stops_the_node() {
    let disk = disk();
    let inbox = start_on(&disk, plenty());
    ask(&inbox, put("before")).unwrap();
    disk.fail_at(1);
    assert_eq!(ask(&inbox, put("during")).unwrap_err().kind(), Kind::UnknownOutcome);
    let deadline = soon();
    while inbox.shared().failure().is_none() {
        assert!(Instant::now() < deadline, "the failure does not show");
        std::thread::yield_now();
    }
    assert_eq!(ask(&inbox, put("after")).unwrap_err().kind(), Kind::Failed);
    assert!(!inbox.shared().may_read());
    assert!(inbox.shared().live.read().unwrap().is_none(), "nothing is read after a failure");
    assert!(inbox.close(Duration::from_secs(20)).is_err(), "there is nothing to close");
}

#[test]
fn what_is_published_after_a_failure_is_not_read() {
    let inbox = start_on(&disk(), plenty());
    ask(&inbox, put("before")).unwrap();
    let shared = inbox.shared();
    let live = shared.applied_here().unwrap();
    shared.fail(Error::new(Kind::Damaged, "a row"));
    *shared.live.write().unwrap() = Some(live);
    assert_eq!(shared.applied_here().map(drop).unwrap_err().kind(), Kind::Failed);
}

/// Asks until the thread has looked at the free space again.
fn ask_until(inbox: &Started, request: &Request, wanted: impl Fn(&Result<Reply>) -> bool) {
    let deadline = soon();
    while !wanted(&ask(inbox, request.clone())) {
        assert!(Instant::now() < deadline, "the free space is not looked at");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_full(reply: &Result<Reply>) -> bool {
    reply.as_ref().is_err_and(|error| error.kind() == Kind::DiskFull)
}

#[test]
fn a_full_disk_refuses_writes_then_deletes_and_serves_again_later() {
    let free = plenty();
    let inbox = start_on(&disk(), free.clone());
    ask(&inbox, put("A")).unwrap();
    ask(&inbox, put("B")).unwrap();
    free.store(64 * MIB - 1, Ordering::Relaxed);
    ask_until(&inbox, &put("B"), is_full);
    assert!(matches!(ask(&inbox, delete("A")), Ok(Reply::Deleted { .. })));
    free.store(16 * MIB - 1, Ordering::Relaxed);
    ask_until(&inbox, &delete("A"), is_full);
    free.store(u64::MAX, Ordering::Relaxed);
    ask_until(&inbox, &put("C"), |reply| matches!(reply, Ok(Reply::Stored { .. })));
}

#[test]
fn an_expired_request_is_not_proposed() {
    let inbox = start_on(&disk(), plenty());
    let late = inbox.send(put("A"), Instant::now()).unwrap().blocking_recv().unwrap();
    assert_eq!(late.unwrap_err().kind(), Kind::NoMajority);
    assert_eq!(inbox.shared().gauges.commands.load(Ordering::Relaxed), 0);
}

#[test]
fn a_close_finishes_what_was_accepted_and_refuses_the_rest() {
    let disk = disk();
    let inbox = start_on(&disk, plenty());
    let waiting: Vec<_> =
        (0..500).map(|number| inbox.send(put(&number.to_string()), soon()).unwrap()).collect();
    inbox.shared().closing.store(true, Ordering::Release);
    assert_eq!(inbox.send(put("late"), soon()).unwrap_err().kind(), Kind::Closed);
    let (log, _generations) = inbox.close(Duration::from_secs(20)).unwrap();
    for receiver in waiting {
        assert!(matches!(receiver.blocking_recv().unwrap(), Ok(Reply::Stored { .. })));
    }
    assert!(log.last_index() > 1);
}
