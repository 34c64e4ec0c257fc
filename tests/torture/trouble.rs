//! Trouble by chance: what is broken now, and when it is mended.

use crate::common::home::Outcome;
use crate::common::net::Flow;
use crate::common::{Dice, Fleet, Node, pause};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// So much may be broken at the same time.
const MOST: usize = 3;
const STEP: u64 = 20;

/// What is broken, and how it is mended.
enum Broken {
    /// Node `0` is dead.
    Dead(usize),
    /// Node `0` is stopped.
    Stopped(usize),
    /// These directions do not flow.
    Cut(Vec<(u16, u16)>),
}

/// The one who makes trouble. Nodes are counted masters first.
pub struct Trouble {
    dice: Dice,
    broken: Vec<(Instant, Broken)>,
    starting: Vec<(usize, JoinHandle<Result<Node, Outcome>>)>,
    next: Instant,
    /// How much of each kind there was.
    pub counts: BTreeMap<&'static str, u64>,
}

impl Trouble {
    /// No trouble yet.
    pub fn new(dice: Dice) -> Trouble {
        let (broken, starting, counts) = (Vec::new(), Vec::new(), BTreeMap::new());
        Trouble { dice, broken, starting, next: Instant::now(), counts }
    }

    /// Mends what is due, breaks something if it is time, and sees to it that nobody ends by himself.
    pub fn go_on(&mut self, fleet: &mut Fleet) {
        let now = Instant::now();
        self.mend(fleet, |due| due <= now);
        self.gather(fleet, false);
        self.watch(fleet);
        if now >= self.next && self.broken.len() < MOST {
            self.break_something(fleet);
            self.next = now + Duration::from_millis(200 + self.dice.below(3000));
        }
        pause(STEP);
    }

    /// Mends everything.
    pub fn stop(&mut self, fleet: &mut Fleet) {
        self.mend(fleet, |_| true);
        self.gather(fleet, true);
        self.watch(fleet);
    }

    fn break_something(&mut self, fleet: &mut Fleet) {
        let masters = fleet.masters.len();
        let leader = fleet.leader_now().map(|leader| masters + leader);
        // Workers more often than masters, and of them the leader.
        let node = match self.dice.below(10) {
            0..3 => self.dice.below(masters as u64) as usize,
            3..6 => leader.unwrap_or(masters),
            _ => masters + self.dice.below(fleet.workers.len() as u64) as usize,
        };
        if !self.is_whole(node) {
            return;
        }
        let role = match node {
            node if node < masters => "master",
            node if Some(node) == leader => "leader",
            _ => "worker",
        };
        match self.dice.below(20) {
            0..6 => self.kill(fleet, node, role),
            6..11 => self.halt(fleet, node, role),
            11..19 => self.cut(fleet, node),
            _ => self.kill_all(fleet),
        }
    }

    fn kill(&mut self, fleet: &mut Fleet, node: usize, role: &str) {
        self.count(match role {
            "master" => "master killed",
            "leader" => "leader killed",
            _ => "worker killed",
        });
        node_of(fleet, node).kill();
        self.until(6000, Broken::Dead(node));
    }

    fn kill_all(&mut self, fleet: &mut Fleet) {
        self.count("all killed");
        for node in 0..fleet.masters.len() + fleet.workers.len() {
            if self.is_whole(node) {
                node_of(fleet, node).kill();
                self.until(1000, Broken::Dead(node));
            }
        }
    }

    fn halt(&mut self, fleet: &mut Fleet, node: usize, role: &str) {
        self.count(match role {
            "master" => "master stopped",
            "leader" => "leader stopped",
            _ => "worker stopped",
        });
        node_of(fleet, node).signal(Signal::STOP);
        self.until(10_000, Broken::Stopped(node));
    }

    fn cut(&mut self, fleet: &Fleet, node: usize) {
        let ports = fleet.ports();
        let one = ports[node];
        let others: Vec<u16> = ports.iter().copied().filter(|port| *port != one).collect();
        let some = others[self.dice.below(others.len() as u64) as usize];
        let to = |other: &u16| (one, *other);
        let from = |other: &u16| (*other, one);
        let (name, links): (_, Vec<(u16, u16)>) = match self.dice.below(6) {
            0 => ("one link cut one way", vec![(one, some)]),
            1 => ("one link cut both ways", vec![(one, some), (some, one)]),
            2 => ("not heard", others.iter().map(to).collect()),
            3 => ("does not hear", others.iter().map(from).collect()),
            _ => ("cut off", others.iter().map(to).chain(others.iter().map(from)).collect()),
        };
        self.count(name);
        let flow = match self.dice.below(4) {
            0 => Flow::Broken,
            1 => Flow::Slow,
            _ => Flow::Held,
        };
        self.count(match flow {
            Flow::Broken => "cut: broken",
            Flow::Slow => "cut: slow",
            _ => "cut: held up",
        });
        let net = fleet.net.as_ref().expect("links");
        for (from, to) in &links {
            net.set(*from, *to, flow);
        }
        self.until(8000, Broken::Cut(links));
    }

    /// Mends what is due; a node that is started again takes its time.
    fn mend(&mut self, fleet: &mut Fleet, is_due: impl Fn(Instant) -> bool) {
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.broken).into_iter().partition(|(when, _)| is_due(*when));
        self.broken = later;
        for (_, broken) in due {
            match broken {
                Broken::Dead(node) => {
                    let launch = node_of(fleet, node).launch.clone();
                    self.starting.push((node, std::thread::spawn(move || launch.start())));
                }
                Broken::Stopped(node) => node_of(fleet, node).signal(Signal::CONT),
                Broken::Cut(links) => {
                    let net = fleet.net.as_ref().expect("links");
                    for (from, to) in links {
                        net.set(from, to, Flow::Open);
                    }
                }
            }
        }
    }

    /// Takes those in that have started.
    fn gather(&mut self, fleet: &mut Fleet, all: bool) {
        let (done, under_way): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.starting).into_iter().partition(|(_, start)| all || start.is_finished());
        self.starting = under_way;
        for (node, start) in done {
            let started = start.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let fresh = started.unwrap_or_else(|outcome| {
                panic!("node {node} did not start again: exit {}\n{}", outcome.code, outcome.err)
            });
            *node_of(fleet, node) = fresh;
        }
    }

    fn watch(&mut self, fleet: &mut Fleet) {
        for number in 0..fleet.masters.len() + fleet.workers.len() {
            let dead =
                self.broken.iter().any(|(_, broken)| matches!(broken, Broken::Dead(dead) if *dead == number));
            if dead || self.starting.iter().any(|(starting, _)| *starting == number) {
                continue;
            }
            let node = node_of(fleet, number);
            assert_eq!(node.exit_code(), None, "{:?} ended by itself:\n{}", node.launch.words, node.log());
        }
    }

    /// True if nothing was done to the process of `node`.
    fn is_whole(&self, node: usize) -> bool {
        let touched =
            |broken: &Broken| matches!(broken, Broken::Dead(one) | Broken::Stopped(one) if *one == node);
        !self.broken.iter().any(|(_, broken)| touched(broken))
            && !self.starting.iter().any(|(starting, _)| *starting == node)
    }

    fn until(&mut self, longest: u64, broken: Broken) {
        let time = Duration::from_millis(self.dice.below(longest));
        self.broken.push((Instant::now() + time, broken));
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }
}

fn node_of(fleet: &mut Fleet, node: usize) -> &mut Node {
    match node.checked_sub(fleet.masters.len()) {
        Some(worker) => &mut fleet.workers[worker],
        None => &mut fleet.masters[node],
    }
}
