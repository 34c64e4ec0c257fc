//! A fleet: masters and the workers of one group, as processes that can be killed, stopped and cut off.

use super::http::{Reply, Session};
use super::net::{Flow, Net};
use super::{Home, Node, until};
use serde_json::Value;
use std::time::Duration;

/// A node that says nothing for so long about itself is taken for one that cannot.
const SILENCE: Duration = Duration::from_secs(2);

/// How a group begins.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How many masters.
    pub masters: usize,
    /// How many workers.
    pub workers: usize,
    /// Links between nodes can be cut.
    pub links: bool,
    /// More words for each worker.
    pub words: &'static [&'static str],
}

/// Masters, and the workers of group 0; worker *i* has the index *i*.
pub struct Fleet {
    // Dropped in this order: the processes first, then their folders.
    pub workers: Vec<Node>,
    pub masters: Vec<Node>,
    pub net: Option<Net>,
    pub home: Home,
    words: &'static [&'static str],
}

impl Fleet {
    /// A group whose members all serve and vote as they should.
    pub fn of(masters: usize, workers: usize) -> Fleet {
        Fleet::start(Plan { masters, workers, links: false, words: &[] })
    }

    /// The same, with links that can be cut.
    pub fn with_links(masters: usize, workers: usize) -> Fleet {
        Fleet::start(Plan { masters, workers, links: true, words: &[] })
    }

    /// Starts what `plan` says, and waits until it is complete.
    pub fn start(plan: Plan) -> Fleet {
        let net = plan.links.then(Net::new);
        let mut fleet =
            Fleet { workers: Vec::new(), masters: Vec::new(), net, home: Home::new(), words: plan.words };
        for _ in 0..plan.masters {
            fleet.add_master();
        }
        for _ in 0..plan.workers {
            fleet.add_worker();
        }
        fleet.await_voters(odd(plan.workers));
        fleet
    }

    /// One more master.
    pub fn add_master(&mut self) -> &mut Node {
        let first = self.masters.first().map(|master| self.address(master.port));
        let words: Vec<&str> = first.iter().flat_map(|first| ["--join", first]).collect();
        let node = self.launch("master", &words);
        self.masters.push(node);
        self.masters.last_mut().expect("the new master")
    }

    /// One more worker; all but the first clone worker 0.
    pub fn add_worker(&mut self) -> &mut Node {
        self.add_clone_of(0)
    }

    /// One more worker, which clones worker `source` unless it is the first.
    pub fn add_clone_of(&mut self, source: usize) -> &mut Node {
        let index = self.workers.len();
        let node = self.worker(source);
        assert!(node.ready.starts_with(&format!("ready worker {index} ")), "{}", node.ready);
        self.workers.push(node);
        self.workers.last_mut().expect("the new worker")
    }

    fn worker(&self, source: usize) -> Node {
        let (source, masters) = (source.to_string(), self.master_list());
        let mut words = vec!["--master", masters.as_str()];
        if !self.workers.is_empty() {
            words.extend(["--clone", &source]);
        }
        words.extend(self.words);
        self.launch("worker", &words)
    }

    /// The addresses of all masters, as `--master` takes them.
    pub fn master_list(&self) -> String {
        self.masters.iter().map(|master| self.address(master.port)).collect::<Vec<_>>().join(",")
    }

    fn launch(&self, role: &str, words: &[&str]) -> Node {
        let Some(net) = &self.net else { return self.home.start(role, words) };
        let port = super::free_port();
        let address = net.address_for(port);
        let words: Vec<&str> = words.iter().copied().chain(["--advertise", &address]).collect();
        self.home.launch(role, port, &words).serve()
    }

    /// Where the other nodes reach the one that listens on `port`.
    fn address(&self, port: u16) -> String {
        let nodes = self.masters.iter().chain(&self.workers);
        let words = nodes.filter(|node| node.port == port).flat_map(|node| &node.launch.words);
        let advertised = words.skip_while(|word| *word != "--advertise").nth(1).cloned();
        advertised.unwrap_or_else(|| format!("127.0.0.1:{port}"))
    }

    /// The ports of all nodes, masters first.
    pub fn ports(&self) -> Vec<u16> {
        self.masters.iter().chain(&self.workers).map(|node| node.port).collect()
    }

    /// The ports of the workers.
    pub fn worker_ports(&self) -> Vec<u16> {
        self.workers.iter().map(|node| node.port).collect()
    }

    /// Cuts a node off from all others, both ways.
    pub fn cut_off(&self, port: u16, flow: Flow) {
        self.net.as_ref().expect("links that can be cut").cut_off(port, self.ports(), flow);
    }

    /// All links are whole again.
    pub fn mend(&self) {
        self.net.as_ref().expect("links that can be cut").mend();
    }

    /// What worker `index` says of itself, if it says anything.
    pub fn facts(&self, index: usize) -> Option<Value> {
        let reply = ask(self.workers[index].port, "/worker")?;
        (reply.status == 200).then(|| reply.json())
    }

    /// The worker that leads, of those that answer: the others that answer follow it.
    pub fn leader(&self) -> usize {
        until("one worker leads", || self.leader_now())
    }

    /// The same, if there is one at this moment.
    pub fn leader_now(&self) -> Option<usize> {
        let facts: Vec<Value> = (0..self.workers.len()).filter_map(|index| self.facts(index)).collect();
        let leads = |facts: &&Value| facts["role"] == "leader";
        let leader = facts.iter().filter(leads).max_by_key(|facts| facts["term"].as_u64())?;
        let agreed = facts.iter().all(|facts| facts["leader"] == leader["index"]);
        agreed.then(|| leader["index"].as_u64().expect("an index") as usize)
    }

    /// The members that do not lead, by ascending index.
    pub fn others(&self, leader: usize) -> Vec<usize> {
        (0..self.workers.len()).filter(|index| *index != leader).collect()
    }

    /// Waits until the leader counts `count` voters and no change is under way.
    pub fn await_voters(&self, count: usize) {
        until(&format!("{count} workers vote"), || {
            let facts = self.facts(self.leader_now()?)?;
            let length = |name: &str| facts[name].as_array().map_or(0, Vec::len);
            (length("voters") == count && length("outgoing") == 0).then_some(())
        });
    }

    /// Waits until every worker that runs has applied what the leader has applied now.
    pub fn await_equal(&self) {
        let applied = |facts: &Value| facts["applied"].as_u64().expect("an index");
        let goal = applied(&self.facts(self.leader()).expect("the facts of the leader"));
        for index in 0..self.workers.len() {
            until(&format!("worker {index} has entry {goal}"), || {
                (applied(&self.facts(index)?) >= goal).then_some(())
            });
        }
    }

    /// Waits until a write through each of `ports` succeeds.
    pub fn await_writes(&self, ports: &[u16]) {
        for port in ports {
            until(&format!("a write through port {port} succeeds"), || {
                let mut session = Session::patient(*port, super::PATIENCE);
                let reply = session.send("PUT", &super::node::kv("await"), &[], Some(b"x")).ok()?;
                matches!(reply.status, 200 | 201).then_some(())
            });
        }
    }

    /// All nodes, masters first.
    pub fn nodes(&mut self) -> impl Iterator<Item = &mut Node> {
        self.masters.iter_mut().chain(&mut self.workers)
    }

    /// Asserts that nobody has ended.
    #[track_caller]
    pub fn all_run(&mut self) {
        for node in self.nodes() {
            let code = node.exit_code();
            assert_eq!(code, None, "{:?} ended by itself:\n{}", node.launch.words, node.log());
        }
    }
}

/// The largest odd number up to `members`: so many of them vote.
pub fn odd(members: usize) -> usize {
    members - (members + 1) % 2
}

/// `GET path` of a node that may be dead or silent.
pub fn ask(port: u16, path: &str) -> Option<Reply> {
    Session::patient(port, SILENCE).send("GET", path, &[], None).ok()
}
