//! The three servers of one measurement, which hold the same keys and values.

use crate::shared::cluster::Cluster;
use crate::shared::load::Data;
use crate::shared::peers::{Etcd, Redis};
use crate::shared::wrk::{self, Script, Seen};
use crate::shared::{Result, note};
use std::path::Path;

/// Whose server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Catstore,
    Redis,
    Etcd,
}

impl Who {
    pub const ALL: [Who; 3] = [Who::Catstore, Who::Redis, Who::Etcd];

    pub fn name(self) -> &'static str {
        match self {
            Who::Catstore => "catstore",
            Who::Redis => "Redis",
            Who::Etcd => "etcd",
        }
    }
}

/// What is asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Get,
    Put,
}

impl Op {
    pub const BOTH: [Op; 2] = [Op::Get, Op::Put];

    pub fn name(self) -> &'static str {
        match self {
            Op::Get => "GET",
            Op::Put => "PUT",
        }
    }

    /// How durable, or how fresh.
    pub fn durability(self) -> &'static str {
        match self {
            Op::Get => "linearizable reads",
            Op::Put => "synced before the answer",
        }
    }
}

/// Running servers with their keys.
pub struct Servers {
    cluster: Cluster,
    redis: Option<Redis>,
    etcd: Option<Etcd>,
    get: Script,
    put: Script,
}

impl Servers {
    /// Starts those of `who`, and loads them.
    pub fn start(folder: &Path, data: &Data, who: &[Who]) -> Result<Servers> {
        note(&format!("loading {} keys of {} bytes", data.keys, data.size));
        let cluster = Cluster::start(folder)?;
        data.load(&cluster.worker.address())?;
        let redis = who.contains(&Who::Redis).then(|| Redis::start(folder, data)).transpose()?;
        let etcd = who.contains(&Who::Etcd).then(|| Etcd::start(folder, data)).transpose()?;
        let (get, put) = (Script::get(folder, data)?, Script::put(folder, data)?);
        Ok(Servers { cluster, redis, etcd, get, put })
    }

    /// One measurement; none of a server that was not started.
    pub fn run(&self, who: Who, op: Op, connections: usize, seconds: u64) -> Result<Option<Seen>> {
        let seen = match (who, &self.redis, &self.etcd) {
            (Who::Catstore, ..) => {
                let script = if op == Op::Get { &self.get } else { &self.put };
                wrk::run(script, &self.cluster.worker.address(), connections, seconds)
            }
            (Who::Redis, Some(redis), _) => {
                redis.run(if op == Op::Get { "get" } else { "set" }, connections, seconds)
            }
            (Who::Etcd, _, Some(etcd)) => {
                let script = if op == Op::Get { etcd.get() } else { etcd.put() };
                wrk::run(script, &etcd.address(), connections, seconds)
            }
            _ => return Ok(None),
        };
        seen.map(Some)
    }

    pub fn stop(self) -> Result<()> {
        self.redis.map_or(Ok(()), Redis::stop)?;
        self.etcd.map_or(Ok(()), Etcd::stop)?;
        self.cluster.stop()
    }
}
