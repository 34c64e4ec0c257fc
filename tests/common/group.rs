//! A master and one group of several members.

use super::{Home, Node, until};
use serde_json::Value;

/// A group whose members have all joined and caught up when it is handed out. The workers stand at their index.
pub struct Group {
    // Dropped in this order: the processes first, then their folders.
    pub workers: Vec<Node>,
    pub master: Node,
    pub home: Home,
}

impl Group {
    /// A group of `size` members; each worker gets `arguments` too.
    pub fn start(size: usize, arguments: &[&str]) -> Group {
        let home = Home::new();
        let master = home.master();
        let mut group = Group { workers: Vec::new(), master, home };
        for number in 0..size {
            let mut words = if number == 0 { Vec::new() } else { vec!["--clone", "0"] };
            words.extend_from_slice(arguments);
            group.workers.push(group.home.worker_with(&group.master, &words));
        }
        group.settle();
        group
    }

    /// Waits until all members are open, follow one leader, vote in odd number and have applied the same; returns the
    /// leader.
    pub fn settle(&self) -> usize {
        self.wait(|facts| facts.iter().all(|one| one["applied"] == facts[0]["applied"]))
    }

    /// The same while writes go on: each member has applied what was the last entry a moment ago.
    pub fn settle_under_load(&self) -> usize {
        let last = self.workers.iter().map(|node| facts(node)["last"].as_u64()).max().flatten();
        self.wait(|facts| facts.iter().all(|one| one["applied"].as_u64() >= last))
    }

    fn wait(&self, also: impl Fn(&[Value]) -> bool) -> usize {
        let size = self.workers.len();
        let voters = if size.is_multiple_of(2) { size - 1 } else { size };
        let count = |one: &Value, what: &str| one[what].as_array().map(Vec::len);
        until("the members agree on who leads and who votes", || {
            let facts: Vec<Value> = self.workers.iter().map(facts).collect();
            let leader = facts[0]["leader"].as_u64()?;
            let agreed = facts.iter().all(|one| {
                (&one["leader"], &one["state"]) == (&leader.into(), &"open".into())
                    && count(one, "voters") == Some(voters)
                    && count(one, "outgoing") == Some(0)
                    && count(one, "standbys") == Some(size - voters)
            });
            (agreed && also(&facts)).then_some(leader as usize)
        })
    }

    /// All nodes, with their names.
    pub fn nodes(&self) -> Vec<(String, &Node)> {
        let workers = self.workers.iter().enumerate();
        let workers = workers.map(|(index, node)| (format!("worker {index} ({})", role(node)), node));
        workers.chain([("the master".to_owned(), &self.master)]).collect()
    }

    /// The ports of all nodes but worker `index`.
    pub fn ports_without(&self, index: usize) -> Vec<u16> {
        let others = self.workers.iter().enumerate().filter(|(number, _)| *number != index);
        others.map(|(_, node)| node.port).chain([self.master.port]).collect()
    }
}

/// What a worker says of itself.
pub fn facts(node: &Node) -> Value {
    node.get("/worker").must_be(200).json()
}

/// A worker's role in its group.
pub fn role(node: &Node) -> String {
    facts(node)["role"].as_str().unwrap_or_default().to_owned()
}
