//! Many seeds on all cores, and what they come to.

use crate::bug::Bug;
use crate::system::Totals;
use crate::world::{self, Outcome};
use std::backtrace::Backtrace;
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// What must happen at least once in ten seeds.
const KINDS: &[&str] = &[
    "answer about chunks lost",
    "asked the wrong group",
    "batch across a move",
    "changes sent",
    "chunk damaged on its way",
    "chunk collected",
    "chunk fetched",
    "chunk of an upload missing",
    "chunk read from another member",
    "chunk that nobody gave",
    "chunks moved",
    "clear put off by a move",
    "clear",
    "clock that drifts by more than 2 %",
    "closed",
    "crash in the middle of a step",
    "collection held up by a reader",
    "collection waits for the leader's word",
    "copy sent",
    "delete across a move",
    "disk error",
    "fitness to vote changed",
    "group drained",
    "group founded",
    "handover unheard",
    "key listing complete",
    "killed",
    "leader alone with standbys",
    "leader cut off",
    "leader elected",
    "leadership handed over",
    "leaving a joint configuration held up",
    "log truncated",
    "master joined",
    "master lost for good",
    "master removed",
    "masters lost in a move",
    "message cut off",
    "message delayed",
    "message lost",
    "message repeated",
    "move begun",
    "move called off",
    "move ended in vain",
    "move finished",
    "move planned by the masters",
    "one-way cut",
    "pages that do not fit together",
    "parcel of a stranger",
    "parcel refused at the gate",
    "partition",
    "pause longer than the election timeout",
    "power lost everywhere",
    "power lost",
    "question about chunks cut off",
    "question about chunks late",
    "question about chunks lost",
    "question about chunks not answered",
    "read by lease",
    "read by round",
    "removed worker stopped",
    "replaced worker came back",
    "request id across a move",
    "request repeated",
    "restart within the promise",
    "run on a slow disk",
    "slot frozen",
    "snapshot installed",
    "snapshot no longer held",
    "source lost in Copy",
    "source lost in Follow",
    "source lost in Frozen",
    "source lost in Given",
    "source lost in Release",
    "source lost in Withdraw",
    "split while joint",
    "stale read",
    "state flushed",
    "step of a move not answered",
    "target lost in Copy",
    "target lost in Follow",
    "target lost in Frozen",
    "target lost in Given",
    "target lost in Release",
    "target lost in Withdraw",
    "ticks dropped",
    "time of day set",
    "ttl across a move",
    "upload broken off",
    "upload not secured",
    "upload settled late",
    "value in chunks put",
    "value in chunks read",
    "view delivered late",
    "worker given up while it runs",
    "worker joined",
    "worker replaced",
    "worker to leave its group",
    "write given up",
];

/// A number from the environment.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

/// Another one each time.
pub fn first_seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    since.as_nanos() as u64 % 1_000_000_000
}

thread_local! {
    /// The last panic of a seed, while one is under way.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Panics of seeds are kept, those of tests are printed.
fn keep_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let kept = PANIC.with_borrow_mut(|kept| {
                kept.as_mut().map(|kept| *kept = format!("{info}\n{}", Backtrace::capture()))
            });
            if kept.is_none() {
                print(info);
            }
        }));
    });
}

/// Lives through one seed; a panic is a failure as any other.
pub fn live(seed: u64, bug: Bug) -> Outcome {
    keep_panics();
    PANIC.set(Some(String::new()));
    let outcome = catch_unwind(AssertUnwindSafe(|| world::live(seed, bug)));
    let panic = PANIC.take();
    outcome.unwrap_or_else(|_| Outcome { totals: Totals::default(), trace: 0, events: 0, failure: panic })
}

/// Lives through `seeds` seeds from `first` on, on all cores. Panics with the first that fails.
pub fn many(first: u64, seeds: u64) {
    println!("seeds {first} to {}", first + seeds - 1);
    let began = Instant::now();
    let next = AtomicU64::new(first);
    let done = Mutex::new((Totals::default(), 0, Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(seeds as usize);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds {
                        return;
                    }
                    let outcome = live(seed, Bug::None);
                    let mut done = done.lock().expect("no panic while it is held");
                    done.0.add(&outcome.totals);
                    done.1 += outcome.events;
                    if let Some(why) = outcome.failure {
                        println!("seed {seed} fails: {why}");
                        done.2.push(seed);
                        if done.2.len() as u64 >= number("FAILURES").unwrap_or(1) {
                            next.store(first + seeds, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let (totals, events, failed) = done.into_inner().expect("no panic while it was held");
    let all: Vec<u64> = (first..first + seeds).collect();
    report(&all, &totals, events, Some(began));
    assert!(
        failed.is_empty(),
        "seeds {failed:?} fail; replay one with SEED={} cargo test --release --test simulation -- --nocapture",
        failed[0]
    );
    let rare: Vec<&&str> = KINDS.iter().filter(|kind| totals.get(kind) < least(seeds)).collect();
    assert!(rare.is_empty(), "too rare in {seeds} seeds: {rare:?}");
}

/// How often each kind must happen in `seeds` seeds: a tenth of them. Of the rarest kinds few seeds see few, and their
/// number varies by chance: there, four of its standard deviations (Poisson) less, so that no run fails by chance.
fn least(seeds: u64) -> u64 {
    let mean = seeds as f64 / 10.0;
    if seeds >= 10_000 { mean as u64 } else { (mean - 4.0 * mean.sqrt()).max(0.0) as u64 }
}

/// Prints what happened.
pub fn report(seeds: &[u64], totals: &Totals, events: u64, began: Option<Instant>) {
    for (kind, count) in &totals.0 {
        println!("{count:>12}  {kind}");
    }
    println!("{events:>12}  events in {} seeds", seeds.len());
    if let Some(began) = began {
        let seconds = began.elapsed().as_secs_f64();
        let operations = totals.get("operation") as f64;
        println!(
            "{:.1} s: {:.1} seeds, {:.0} events, {:.0} operations per second",
            seconds,
            seeds.len() as f64 / seconds,
            events as f64 / seconds,
            operations / seconds
        );
    }
}
