//! Masters and groups of three.

use super::{Home, Node, pause};
use serde_json::Value;

/// Three masters, and two groups of three workers: nodes 0 to 2, and 3 to 5.
pub struct Six {
    pub masters: Vec<Node>,
    pub workers: Vec<Node>,
    pub home: Home,
}

impl Six {
    /// All masters, and the first group, which holds every slot.
    pub fn begin(arguments: &[&str]) -> Six {
        let home = Home::new();
        let mut masters = vec![home.start("master", arguments)];
        let first = masters[0].port.to_string();
        for _ in 0..2 {
            masters.push(home.start("master", &["--join", &first]));
        }
        let mut six = Six { masters, workers: Vec::new(), home };
        six.add_group();
        six
    }

    /// The addresses of all masters.
    pub fn master_list(&self) -> String {
        let addresses: Vec<String> =
            self.masters.iter().map(|master| format!("127.0.0.1:{}", master.port)).collect();
        addresses.join(",")
    }

    /// A founder and two clones of it.
    pub fn add_group(&mut self) {
        let (masters, founder) = (self.master_list(), self.workers.len().to_string());
        for member in 0..3 {
            let mut words = vec!["--master", masters.as_str()];
            if member > 0 {
                words.extend(["--clone", &founder]);
            }
            self.workers.push(self.home.start("worker", &words));
        }
    }

    /// All ports.
    pub fn ports(&self) -> Vec<u16> {
        self.masters.iter().chain(&self.workers).map(|node| node.port).collect()
    }

    /// What `catstore status` says, if a master answers.
    pub fn status(&self) -> Option<Value> {
        let outcome = self.home.run(&["status", "--json", "--master", &self.master_list()]);
        (outcome.code == 0).then(|| outcome.json())
    }

    /// The worker that leads `group`.
    pub fn leader_of(&self, group: u64) -> Option<usize> {
        let status = self.status()?;
        let groups = status["groups"].as_array()?;
        let leader = groups.iter().find(|status| status["group"] == group)?["leader"].as_u64();
        leader.map(|leader| leader as usize)
    }

    /// The master that leads.
    pub fn leading_master(&self) -> Option<usize> {
        let status = self.status()?;
        let leads = |master: &&Value| master["leader"] == true;
        let index = status["masters"].as_array()?.iter().find(leads)?["index"].as_u64()?;
        Some(index as usize)
    }

    /// Slots of both groups, and how many moves are under way.
    pub fn shares(&self) -> Option<(u64, u64, usize)> {
        let status = self.status()?;
        let slots = |group: u64| {
            let groups = status["groups"].as_array()?;
            groups.iter().find(|status| status["group"] == group)?["slots"].as_u64()
        };
        Some((slots(0)?, slots(3).unwrap_or(0), status["moves"].as_array().map_or(0, Vec::len)))
    }

    /// Kills a leader, and starts it again `dead` milliseconds later: of the first group, of the second and of the masters
    /// in turn. False if nobody leads there.
    pub fn kill_one(&mut self, turn: usize, dead: u64) -> bool {
        let victim = match turn % 3 {
            0 => self.leader_of(0).map(|index| &mut self.workers[index]),
            1 => self.leader_of(3).map(|index| &mut self.workers[index]),
            _ => self.leading_master().map(|index| &mut self.masters[index]),
        };
        let Some(victim) = victim else { return false };
        victim.kill();
        pause(dead);
        victim.restart();
        true
    }

    /// Nobody ended by itself.
    pub fn all_run(&mut self) {
        for node in self.masters.iter_mut().chain(&mut self.workers) {
            assert_eq!(node.exit_code(), None, "{:?} ended by itself:\n{}", node.launch.words, node.log());
        }
    }
}
