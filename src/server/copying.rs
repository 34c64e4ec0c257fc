//! A new member's first minutes: it waits until its copy of the group's data is there, shows how far it is, and
//! compares a digest of its contents with its source's, at the same applied entry.

use super::call::Caller;
use super::internal::{DigestOrder, DigestOrdered, DigestTaken};
use super::node::Mode;
use super::site::Site;
use super::worker::Worker;
use crate::cluster::membership::raft_id;
use crate::error::{Error, Kind, Result};
use crate::replica::blobs::Chunks as _;
use crate::replica::handle::{KeyspaceHandle, Lead};
use std::io::{IsTerminal, Write};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often the copy is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// A copy that has not begun by then may have no source.
const LONG: Duration = Duration::from_secs(10);
/// How often progress is said where nobody watches.
const SAY: Duration = Duration::from_secs(5);
/// A copy has caught up when it lags behind by no more than this.
const CAUGHT_UP_MS: u64 = 500;
/// How long one call may take.
const CALL: Duration = Duration::from_secs(5);
/// How long digests are waited for, at least; large copies take longer.
const DIGEST: Duration = Duration::from_secs(60);
/// How often a digest is ordered anew, if the leader changes meanwhile.
const ORDERS: usize = 5;

/// Waits until the copy has caught up, then compares it with the leader's. Blocks.
///
/// Errors: `Damaged` if the copy differs; `Closed` if the node stops meanwhile.
pub(crate) fn wait_for_copy(site: &Site, worker: &Worker, caller: &Caller) -> Result<()> {
    let source = source(site, worker);
    let mut shown = Shown::new();
    loop {
        let replica = open_replica(site, worker)?;
        let numbers = replica.numbers();
        let (_, lag) = replica.stale_reader()?;
        let chunks = replica.keeper().gauges().fetched_bytes.load(Ordering::Relaxed);
        let bytes = replica.copying().map_or(0, |copied| copied.bytes) + chunks;
        // Values in chunks come behind the rows that name them.
        let complete = replica.keeper().complete() >= numbers.applied;
        if numbers.applied > 0 && lag.is_some_and(|lag| lag <= CAUGHT_UP_MS) && complete {
            let seconds = shown.began.elapsed().as_secs_f64();
            let keys = if numbers.keys == 1 { "1 key".to_owned() } else { format!("{} keys", numbers.keys) };
            shown.end(&format!("copied {source} in {seconds:.1} s: {keys}, {}", size(bytes)));
            // The masters need not wait for the next heartbeat to hear of it.
            worker.beat.wake();
            return compare(site, worker, caller, &mut shown);
        }
        shown.show(|elapsed| match replica.copying() {
            None if elapsed > LONG => {
                format!("waiting for a copy of {source}, which nobody offers yet: has it a leader? (catstore status)")
            }
            None => format!("waiting for a copy of {source}"),
            Some(copied) if copied.done && !complete => {
                describe(&source, bytes, numbers.bytes.max(copied.total), elapsed)
            }
            Some(copied) if copied.done => format!("catching up with {source}"),
            Some(copied) => describe(&source, bytes, copied.total, elapsed),
        });
        std::thread::sleep(LOOK);
    }
}

/// Whom the copy is of: `worker 0`, or `group 0` where several could send it.
fn source(site: &Site, worker: &Worker) -> String {
    let group = worker.group().unwrap_or_default();
    let own = worker.index();
    match site.view().group(group).map(|group| group.members.as_slice()) {
        Some([one, two]) if Some(one.index) == own => format!("worker {}", two.index),
        Some([one, two]) if Some(two.index) == own => format!("worker {}", one.index),
        _ => format!("group {group}"),
    }
}

fn open_replica(site: &Site, worker: &Worker) -> Result<KeyspaceHandle> {
    if *site.stopping.borrow() {
        return Err(Error::new(Kind::Closed, "this worker stops"));
    }
    match &*worker.node.mode() {
        Mode::Open(replica) => Ok(replica.clone()),
        mode => Err(worker.node.refusal(mode)),
    }
}

/// Progress on standard error: a line that is written over on a terminal, a line now and then elsewhere.
struct Shown {
    terminal: bool,
    began: Instant,
    said: Instant,
    drawn: bool,
}

impl Shown {
    fn new() -> Shown {
        let now = Instant::now();
        Shown { terminal: std::io::stderr().is_terminal(), began: now, said: now, drawn: false }
    }

    /// Shows what `line` makes of the time since the beginning, if it is time to say something.
    fn show(&mut self, line: impl FnOnce(Duration) -> String) {
        if !self.terminal && self.said.elapsed() < SAY {
            return;
        }
        self.said = Instant::now();
        let line = line(self.began.elapsed());
        if self.terminal {
            eprint!("\r\x1b[K{line}");
            // A terminal that is gone is no reason to stop copying.
            let _ = std::io::stderr().flush();
            self.drawn = true;
        } else {
            eprintln!("{line}");
        }
    }

    /// Says `line` in place of what was shown.
    fn end(&mut self, line: &str) {
        if std::mem::take(&mut self.drawn) {
            eprint!("\r\x1b[K");
        }
        eprintln!("{line}");
    }
}

/// `copying worker 0  [=====>    ]  51 %  512.0 MiB of 1.0 GiB  98.1 MiB/s  5 s left`
fn describe(source: &str, bytes: u64, total: u64, elapsed: Duration) -> String {
    const WIDTH: u64 = 20;
    let total = total.max(bytes).max(1);
    let filled = (WIDTH * bytes / total) as usize;
    let bar: String = (0..WIDTH as usize)
        .map(|at| match at.cmp(&filled) {
            std::cmp::Ordering::Less => '=',
            std::cmp::Ordering::Equal => '>',
            std::cmp::Ordering::Greater => ' ',
        })
        .collect();
    let rate = bytes as f64 / elapsed.as_secs_f64().max(0.001);
    let left = if rate > 0.0 { ((total - bytes) as f64 / rate).ceil() as u64 } else { 0 };
    format!(
        "copying {source}  [{bar}]  {} %  {} of {}  {}/s  {left} s left",
        100 * bytes / total,
        size(bytes),
        size(total),
        size(rate as u64)
    )
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut number = bytes as f64 / 1024.0;
    let mut unit = 0;
    while number >= 1024.0 && unit + 1 < UNITS.len() {
        number /= 1024.0;
        unit += 1;
    }
    format!("{number:.1} {}", UNITS[unit])
}

/// Orders a digest of both and compares. That it cannot be had is only said: the copy goes on being one.
fn compare(site: &Site, worker: &Worker, caller: &Caller, shown: &mut Shown) -> Result<()> {
    let own = worker.index().unwrap_or_default();
    let mut last = None;
    for _ in 0..ORDERS {
        let replica = open_replica(site, worker)?;
        let Lead::There(leader) = replica.lead() else {
            std::thread::sleep(LOOK);
            continue;
        };
        match digests(site, worker, caller, &replica, leader, shown) {
            Ok((ours, theirs)) if ours == theirs => {
                shown.end(&format!(
                    "worker {own} and worker {leader} hold the same {} rows at entry {}: digest {}",
                    ours.rows, ours.index, ours.hash
                ));
                return Ok(());
            }
            Ok((ours, theirs)) => {
                return Err(Error::new(
                    Kind::Damaged,
                    format!(
                        "the copy differs from worker {leader} at entry {}: digest {} here, {} there",
                        ours.index, ours.hash, theirs.hash
                    ),
                )
                .hint("keep both folders as they are; start another clone with a new --data"));
            }
            Err(error) if error.kind() == Kind::Closed => return Err(error),
            Err(error) => last = Some(error),
        }
    }
    if let Some(error) = last {
        log::warn!("the copy was not compared with its source: {error}");
    }
    Ok(())
}

fn digests(
    site: &Site,
    worker: &Worker,
    caller: &Caller,
    replica: &KeyspaceHandle,
    leader: u32,
    shown: &mut Shown,
) -> Result<(DigestTaken, DigestTaken)> {
    let view = site.view();
    let (_, member) = view.worker(leader).ok_or_else(|| {
        Error::new(Kind::Unreachable, format!("the address of worker {leader} is not known"))
    })?;
    let members = vec![raft_id(leader), raft_id(worker.index().unwrap_or_default())];
    let order = DigestOrder { members };
    let DigestOrdered { id } = caller.post(&member.address, "/internal/digest", &order, CALL)?;
    let bytes = replica.numbers().bytes;
    let deadline = Instant::now() + DIGEST + Duration::from_secs(bytes >> 24);
    let (mut ours, mut theirs) = (None, None);
    loop {
        open_replica(site, worker)?;
        ours = ours.or_else(|| {
            let digest = replica.digest(id)?;
            Some(DigestTaken { index: digest.index, hash: digest.hash, rows: digest.rows })
        });
        if theirs.is_none() {
            match caller.get::<DigestTaken>(&member.address, &format!("/internal/digest/{id}"), CALL) {
                Ok(digest) => theirs = Some(digest),
                Err(error) if error.kind() == Kind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        if let (Some(ours), Some(theirs)) = (&ours, &theirs) {
            return Ok((ours.clone(), theirs.clone()));
        }
        if Instant::now() > deadline {
            return Err(Error::new(Kind::Unreachable, "the digests were not taken in time"));
        }
        shown.show(|_| format!("comparing the copy with worker {leader}'s"));
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_reads_well() {
        let line = describe("worker 0", 512 << 20, 1 << 30, Duration::from_secs(4));
        assert_eq!(
            line,
            "copying worker 0  [==========>         ]  50 %  512.0 MiB of 1.0 GiB  128.0 MiB/s  4 s left"
        );
        assert!(describe("worker 0", 0, 0, Duration::ZERO).contains("0 %"));
        assert_eq!((size(0), size(1023), size(1536)), ("0 B".into(), "1023 B".into(), "1.5 KiB".into()));
    }
}
