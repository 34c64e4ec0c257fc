//! "What if somebody dies in the middle of it?" Leaders of the source, of the target and of the masters are killed one
//! after the other while slots move: nothing that was acknowledged is lost, every history is linearizable, and the move
//! ends.

mod common;

use common::clients::{Clients, Habits};
use common::{Home, Node, Session, pause, until};
use serde_json::{Value, json};
use std::time::Duration;

/// How long a node is left dead.
const DEAD: u64 = 700;

/// Three masters, and two groups of three workers: nodes 0 to 2, and 3 to 5.
struct Six {
    masters: Vec<Node>,
    workers: Vec<Node>,
    home: Home,
}

impl Six {
    /// All masters, and the first group, which holds every slot.
    fn begin() -> Six {
        let home = Home::new();
        let mut masters = vec![home.start("master", &["--move-rate", "150000"])];
        let first = masters[0].port.to_string();
        for _ in 0..2 {
            masters.push(home.start("master", &["--join", &first]));
        }
        let mut six = Six { masters, workers: Vec::new(), home };
        six.add_group();
        six
    }

    fn master_list(&self) -> String {
        let addresses: Vec<String> =
            self.masters.iter().map(|master| format!("127.0.0.1:{}", master.port)).collect();
        addresses.join(",")
    }

    /// A founder and two clones of it.
    fn add_group(&mut self) {
        let (masters, founder) = (self.master_list(), self.workers.len().to_string());
        for member in 0..3 {
            let mut words = vec!["--master", masters.as_str()];
            if member > 0 {
                words.extend(["--clone", &founder]);
            }
            self.workers.push(self.home.start("worker", &words));
        }
    }

    fn ports(&self) -> Vec<u16> {
        self.masters.iter().chain(&self.workers).map(|node| node.port).collect()
    }

    fn status(&self) -> Option<Value> {
        let outcome = self.home.run(&["status", "--json", "--master", &self.master_list()]);
        (outcome.code == 0).then(|| outcome.json())
    }

    /// The worker that leads `group`.
    fn leader_of(&self, group: u64) -> Option<usize> {
        let status = self.status()?;
        let groups = status["groups"].as_array()?;
        let leader = groups.iter().find(|status| status["group"] == group)?["leader"].as_u64();
        leader.map(|leader| leader as usize)
    }

    fn leading_master(&self) -> Option<usize> {
        let status = self.status()?;
        let leads = |master: &&Value| master["leader"] == true;
        let index = status["masters"].as_array()?.iter().find(leads)?["index"].as_u64()?;
        Some(index as usize)
    }

    /// Slots of both groups, and how many moves are under way.
    fn shares(&self) -> Option<(u64, u64, usize)> {
        let status = self.status()?;
        let slots = |group: u64| {
            let groups = status["groups"].as_array()?;
            groups.iter().find(|status| status["group"] == group)?["slots"].as_u64()
        };
        Some((slots(0)?, slots(3).unwrap_or(0), status["moves"].as_array().map_or(0, Vec::len)))
    }
}

fn fill(node: &Node) {
    let mut session = Session::new(node.port);
    for number in 0..20 {
        let key = |part: usize| format!("{{tag{number}}}still/{number:03}{part:02}");
        let value = "x".repeat(500);
        let ops: Vec<Value> =
            (0..100).map(|part| json!({"op": "put", "key": key(part), "value": value})).collect();
        let body = json!({ "ops": ops }).to_string();
        assert_eq!(session.ask("POST", "/batch", &[], Some(body.as_bytes())).status, 200);
    }
}

#[test]
fn leaders_of_all_sides_are_killed_in_turn() {
    let mut six = Six::begin();
    fill(&six.workers[0]);
    let habits = Habits { clients: 8, silence: Duration::from_secs(4), pause: 20, ..Habits::default() };
    let clients = Clients::start(&six.ports(), habits);
    clients.progress(50);
    six.add_group();
    clients.talk_to(&six.ports());
    until("a move is under way", || (six.shares()?.2 > 0).then_some(()));
    let mut turn = 0;
    // Until the shares are even; at least once around.
    until("the shares are even, whoever dies", || {
        let even = six.shares().is_some_and(|shares| shares == (8192, 8192, 0));
        if even && turn >= 3 {
            return Some(());
        }
        let victim = match turn % 3 {
            0 => six.leader_of(0).map(|index| &mut six.workers[index]),
            1 => six.leader_of(3).map(|index| &mut six.workers[index]),
            _ => six.leading_master().map(|index| &mut six.masters[index]),
        };
        if let Some(victim) = victim {
            victim.kill();
            pause(DEAD);
            victim.restart();
            turn += 1;
        }
        pause(DEAD);
        None
    });
    clients.progress(50);
    clients.finish_and_check(&six.ports());
    for node in six.masters.iter_mut().chain(&mut six.workers) {
        assert_eq!(node.exit_code(), None, "{:?} ended by itself:\n{}", node.launch.words, node.log());
    }
}

#[test]
fn a_move_that_was_begun_ends_without_any_master() {
    let mut six = Six::begin();
    fill(&six.workers[0]);
    six.add_group();
    let workers: Vec<u16> = six.workers.iter().map(|node| node.port).collect();
    let clients = Clients::start(&workers, Habits { clients: 4, pause: 10, ..Habits::default() });
    until("the source has begun the move", || {
        let begun = |node: &Node| node.get("/worker").must_be(200).json()["moving"].is_object();
        six.workers[..3].iter().any(begun).then_some(())
    });
    six.masters.iter_mut().for_each(Node::kill);
    let owned = |node: &Node| -> Option<u64> {
        let facts = node.get("/worker").must_be(200).json();
        let spans = facts["slots"].as_array()?;
        Some(
            spans
                .iter()
                .map(|span| span["last"].as_u64().unwrap() - span["first"].as_u64().unwrap() + 1)
                .sum(),
        )
    };
    until("the target owns its share", || (owned(&six.workers[3])? == 8192).then_some(()));
    until("the source has given it away", || (owned(&six.workers[0])? == 8192).then_some(()));
    // Whoever is asked finds the owner, with routes of before.
    clients.progress(100);
    assert_eq!(clients.failures(), 0, "{:?}", clients.counts());
    six.masters.iter_mut().for_each(Node::restart);
    until("the masters have heard of it", || (six.shares()? == (8192, 8192, 0)).then_some(()));
    clients.progress(50);
    clients.finish_and_check(&six.ports());
}
