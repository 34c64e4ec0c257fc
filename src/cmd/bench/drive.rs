//! Many requests under way on one thread: what is due is sent on a connection that is free, and what comes is heard.
//!
//! To wake a thread costs a machine about as much as a small request does. A thread for each connection is woken for each
//! request twice: when it is due, and when its answer is there. Here one thread is woken for whatever there is to do; the
//! more there is, the more of it at once. What is large, or not answered plainly, is for the helper of the connection: a
//! thread that asks through the client, however long that takes, and counts from when the request was due as well.

use super::crew::Crew;
use super::pace::{Pace, Turn};
use super::plan::Next;
use super::tally::Tally;
use crate::client::{Client, Heard, Lane};
use crate::error::{Error, Kind, Result};
use rand::rngs::SmallRng;
use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

/// It looks at least so often whether it is to stop, and whether an answer is missing.
const NAP: Duration = Duration::from_millis(100);
/// An answer that is not there by then is looked for by the client.
const MISSING: Duration = Duration::from_secs(5);
/// So many events are taken at once.
const MOST_EVENTS: usize = 64;
/// The event that the next request is due. Smaller numbers are connections.
const CLOCK: u64 = u64::MAX;
/// The event that a helper is done.
const HELPED: u64 = u64::MAX - 1;

/// A request under way.
struct Job {
    due: Instant,
    begun: Instant,
    next: Next,
    /// The version that a read has to find at least.
    wanted: u64,
}

/// A connection to each node that it is led to.
struct Seat<'scope, 'env> {
    client: &'env Client,
    lane: Lane<'env>,
    job: Option<Job>,
    helper: Option<Helper<'scope>>,
    /// The helper has the job.
    helped: bool,
}

/// A thread that does what the lane cannot.
struct Helper<'scope> {
    jobs: Sender<Next>,
    thread: ScopedJoinHandle<'scope, ()>,
}

/// What a helper says: of which connection it is, and how the request ended.
type Done = (usize, Result<()>);

/// Does a part of a measurement with `clients`, one request of each under way, until it is over. Connections are opened before
/// `pace` says when it begins, unless one cannot be: then its request tries again.
pub fn drive<'a>(
    crew: &Crew<'_>,
    clients: &[Client],
    pace: impl FnOnce() -> Pace<'a>,
    done: &AtomicU64,
) -> Result<Tally> {
    let bell = &Bell::new().map_err(nothing_to_wait_with)?;
    let (told, tells) = channel();
    std::thread::scope(|scope| {
        let seat = |(number, client)| {
            let watch = move |stream: &TcpStream| bell.watch(stream, number);
            let lane = Lane::new(client, watch);
            Seat { client, lane, job: None, helper: None, helped: false }
        };
        let mut seats: Vec<Seat<'_, '_>> = (0..).zip(clients).map(seat).collect();
        let _ = seats.iter_mut().all(|seat| !crew.is_stopped() && seat.lane.open());
        let mut pace = pace();
        let mut drive = Drive {
            crew,
            scope,
            bell,
            seats,
            free: (0..clients.len()).collect(),
            told,
            dice: crew.plan().dice(pace.part()),
            tally: Tally::new(),
            done,
        };
        drive.run(&mut pace, &tells)?;
        drive.tally.behind = pace.behind(Instant::now());
        Ok(drive.tally)
    })
}

/// A part of a measurement.
struct Drive<'scope, 'env> {
    crew: &'env Crew<'env>,
    scope: &'scope Scope<'scope, 'env>,
    bell: &'env Bell,
    seats: Vec<Seat<'scope, 'env>>,
    /// The connections that have nothing to do; the one that waits for longest is the next.
    free: VecDeque<usize>,
    told: Sender<Done>,
    dice: SmallRng,
    tally: Tally,
    done: &'env AtomicU64,
}

impl<'env> Drive<'_, 'env> {
    fn run(&mut self, pace: &mut Pace<'_>, tells: &Receiver<Done>) -> Result<()> {
        let mut events = Vec::with_capacity(MOST_EVENTS);
        let mut looked = Instant::now();
        loop {
            let next = self.begin(pace);
            if pace.is_over(Instant::now()) && self.free.len() == self.seats.len() {
                return Ok(());
            }
            self.bell.wait(next, &mut events).map_err(nothing_to_wait_with)?;
            for event in events.drain(..) {
                match event.data.u64() {
                    CLOCK => {}
                    HELPED => self.bell.heard_helped(),
                    number => self.hear(number as usize)?,
                }
            }
            while let Ok((number, outcome)) = tells.try_recv() {
                self.seats[number].helped = false;
                self.end(number, outcome)?;
            }
            if looked.elapsed() >= NAP {
                looked = Instant::now();
                self.look_after()?;
            }
        }
    }

    /// Begins what is due, as long as a connection is free. When the next one is due, if it is not yet.
    fn begin(&mut self, pace: &mut Pace<'_>) -> Option<Instant> {
        while let Some(&number) = self.free.front() {
            let due = match pace.next(Instant::now()) {
                Turn::Due(due) => due,
                Turn::Later(due) => return Some(due),
                Turn::Over => return None,
            };
            self.free.pop_front();
            let (next, begun) = (self.crew.plan().next(&mut self.dice), Instant::now());
            let asked = self.crew.ask(&mut self.seats[number].lane, next);
            self.seats[number].job = Some(Job { due, begun, next, wanted: asked.unwrap_or_default() });
            if asked.is_none() {
                self.help(number);
            }
        }
        None
    }

    /// Hears what came on a connection.
    fn hear(&mut self, number: usize) -> Result<()> {
        let seat = &mut self.seats[number];
        match (seat.lane.hear(), &seat.job) {
            (Heard::Reply(reply), Some(job)) => {
                let outcome = self.crew.check(job.next, job.wanted, reply);
                self.end(number, outcome)
            }
            (Heard::Lost, Some(_)) if !seat.helped => {
                self.help(number);
                Ok(())
            }
            (Heard::Damaged(error), _) => Err(error),
            _ => Ok(()),
        }
    }

    /// Counts a request that has its answer, or failed.
    fn end(&mut self, number: usize, outcome: Result<()>) -> Result<()> {
        let Some(job) = self.seats[number].job.take() else { return Ok(()) };
        let (times, keys) = match job.next {
            Next::Read(_) => (&mut self.tally.reads, 1),
            Next::Write(_, count) => (&mut self.tally.writes, count),
        };
        match outcome {
            Ok(()) => times.add(job.due.elapsed(), keys),
            Err(error) if error.kind() == Kind::Damaged => return Err(error),
            Err(error) => self.tally.fail(error),
        }
        self.done.fetch_add(1, Ordering::Relaxed);
        self.free.push_back(number);
        Ok(())
    }

    /// Leaves a request to the connection's helper.
    fn help(&mut self, number: usize) {
        let (crew, bell, seat) = (self.crew, self.bell, &mut self.seats[number]);
        let Some(job) = &seat.job else { return };
        let (client, told) = (seat.client, &self.told);
        let helper = seat.helper.get_or_insert_with(|| {
            let (jobs, given) = channel();
            let told = told.clone();
            let thread = self.scope.spawn(move || {
                for next in given {
                    let done = (number, crew.once(client, next));
                    if told.send(done).is_err() {
                        break;
                    }
                    bell.helped();
                }
            });
            Helper { jobs, thread }
        });
        // It waits for the next one as long as the other end is here; if it panicked, `look_after` finds that.
        let _ = helper.jobs.send(job.next);
        seat.helped = true;
    }

    /// Looks for answers that do not come.
    fn look_after(&mut self) -> Result<()> {
        for number in 0..self.seats.len() {
            let seat = &mut self.seats[number];
            if seat.helped && seat.helper.as_ref().is_some_and(|helper| helper.thread.is_finished()) {
                return Err(Error::new(Kind::System, "a connection's thread panicked"));
            }
            let missing = seat.job.as_ref().is_some_and(|job| job.begun.elapsed() > MISSING);
            if missing && !seat.helped {
                seat.lane.close();
                self.help(number);
            }
        }
        Ok(())
    }
}

/// What wakes the thread.
struct Bell {
    epoll: OwnedFd,
    clock: OwnedFd,
    helped: OwnedFd,
}

impl Bell {
    fn new() -> io::Result<Bell> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let clock = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
        let helped = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // The clock tells once, and need not be read.
        let once = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &clock, epoll::EventData::new_u64(CLOCK), once)?;
        epoll::add(&epoll, &helped, epoll::EventData::new_u64(HELPED), epoll::EventFlags::IN)?;
        Ok(Bell { epoll, clock, helped })
    }

    /// Rings from now on when something comes on `stream`.
    fn watch(&self, stream: &TcpStream, number: u64) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, stream, epoll::EventData::new_u64(number), epoll::EventFlags::IN)?)
    }

    /// Waits until something comes, until `next`, or for a nap.
    fn wait(&self, next: Option<Instant>, events: &mut Vec<epoll::Event>) -> io::Result<()> {
        let left = next.map(|next| next.saturating_duration_since(Instant::now()));
        if let Some(left) = left.filter(|left| !left.is_zero() && *left < NAP) {
            let it_value = timespec(left);
            let never = timespec(Duration::ZERO);
            let time = Itimerspec { it_interval: never, it_value };
            timerfd_settime(&self.clock, TimerfdTimerFlags::empty(), &time)?;
        }
        let nap = timespec(if left.is_some_and(|left| left.is_zero()) { Duration::ZERO } else { NAP });
        match epoll::wait(&self.epoll, spare_capacity(events), Some(&nap)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// A helper is done.
    fn helped(&self) {
        // It fails only where nobody has looked for 2^64 times.
        let _ = rustix::io::write(&self.helped, &1u64.to_ne_bytes());
    }

    fn heard_helped(&self) {
        let _ = rustix::io::read(&self.helped, &mut [0; 8]);
    }
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() }
}

fn nothing_to_wait_with(error: io::Error) -> Error {
    Error::new(Kind::System, "the system gives nothing to wait for connections with").cause(error)
}
