//! What only masters answer: what each of them knows of the cluster, and what only the one that leads may do.

use super::Client;
use super::body::Body;
use super::find::{ANSWER, jitter};
use super::routes::Target;
use super::wire::Request;
use crate::cluster::view::{
    DrainReply, DrainRequest, MasterStatus, Plan, PromoteReply, PromoteRequest, RebalanceRequest,
};
use crate::error::{Advice, Error, Kind, Result};
use std::time::{Duration, Instant};
use ureq::http::Method;

/// How long the master that leads is looked for: an election takes less.
const LEADER: Duration = Duration::from_secs(10);
/// How long a master may take to change the directory.
const CHANGE: Duration = Duration::from_secs(5);
/// The pause before all masters are asked again.
const PAUSE: Duration = Duration::from_millis(200);
/// A search that takes longer than this says so.
const QUIET: Duration = Duration::from_secs(1);

impl Client {
    /// What the masters at `addresses` know of workers and groups, in the same order. All are asked at once.
    ///
    /// Errors, each for one master: `Closed` if it is closed (to ask `/master` itself would open it), `Unreachable`.
    pub fn master_statuses(&self, addresses: &[String]) -> Vec<Result<MasterStatus>> {
        let ask = |address: &str| self.health(address).and_then(|()| self.document(address, "/master"));
        std::thread::scope(|scope| {
            let calls: Vec<_> = addresses.iter().map(|address| scope.spawn(move || ask(address))).collect();
            let lost = || Err(Error::new(Kind::System, "a thread that asked a master ended early"));
            calls.into_iter().map(|call| call.join().unwrap_or_else(|_| lost())).collect()
        })
    }

    /// Closes the master at `address`: changes of the directory go on with the others, data traffic in any case.
    pub fn close_master(&self, address: &str) -> Result<()> {
        self.control(Target::Node(&super::parse_address(address)?), "/close")
    }

    /// Opens the master at `address` again.
    pub fn open_master(&self, address: &str) -> Result<()> {
        self.control(Target::Node(&super::parse_address(address)?), "/master")
    }

    /// Revives the group of worker `index` from its copy, without the majority that is lost. Unless `accept_data_loss`
    /// is true it only says what may be missing, or why it would be refused. A repeat changes nothing.
    ///
    /// Errors: `NotFound` for no such worker; `Conflict` if nothing needs to be lost, or another copy holds more;
    /// `NoMajority` or `Unreachable` if no master leads.
    pub fn promote(&self, index: u32, accept_data_loss: bool) -> Result<PromoteReply> {
        let request = PromoteRequest { index, accept_data_loss };
        self.order("/internal/promote", &request, !accept_data_loss)
    }

    /// Moves slots until every group has its share, or only says what would move where. A repeat changes nothing.
    ///
    /// Errors: `NoMajority` or `Unreachable` if no master leads.
    pub fn rebalance(&self, request: RebalanceRequest) -> Result<Plan> {
        self.order("/internal/rebalance", &request, request.dry_run)
    }

    /// Lets a group give its slots away and dissolves it, or one worker leave its group. A repeat says how far it is.
    ///
    /// Errors: `NotFound` for no such worker; `Conflict` if it cannot be spared; `NoMajority` or `Unreachable` if no
    /// master leads.
    pub fn drain(&self, request: DrainRequest) -> Result<DrainReply> {
        self.order("/internal/drain", &request, request.dry_run)
    }

    /// Asks the master that leads for a change, or with `dry_run` only for what it would be.
    fn order<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        request: &impl serde::Serialize,
        dry_run: bool,
    ) -> Result<T> {
        let body = serde_json::to_vec(request).map_err(|error| {
            Error::new(Kind::System, "the request cannot be written as JSON").cause(error)
        })?;
        self.ask_leading(path, &body).map_err(|error| match error.kind() {
            Kind::UnknownOutcome if dry_run => Error::new(Kind::Unreachable, error.detail()),
            Kind::UnknownOutcome => Error::new(Kind::UnknownOutcome, error.detail())
                .hint("catstore status shows whether it was done; to ask again is safe"),
            _ => error,
        })
    }

    /// Asks all masters, again and again, until the one that leads answers. What is asked may be asked twice.
    fn ask_leading<T: serde::de::DeserializeOwned>(&self, path: &str, body: &[u8]) -> Result<T> {
        let start = Instant::now();
        let end = start + LEADER.min(self.deadline);
        let tell = |text: Option<&str>| {
            if let Some(notice) = self.notice.as_ref().filter(|_| start.elapsed() > QUIET) {
                (notice.0)(text);
            }
        };
        loop {
            let masters = &self.known(end)?.masters;
            let obstacle = match self.ask_each(masters, path, body) {
                Ok(answer) => {
                    tell(None);
                    return answer;
                }
                Err(obstacle) => obstacle,
            };
            let pause = PAUSE.mul_f64(0.5 + jitter());
            if Instant::now() + pause >= end {
                tell(None);
                return Err(no_leader(obstacle));
            }
            tell(Some(&format!("{}; looking for the master that leads", obstacle.detail())));
            std::thread::sleep(pause);
            self.refresh(end);
        }
    }

    /// The answer of the master that leads, or why there is none.
    fn ask_each<T: serde::de::DeserializeOwned>(
        &self,
        masters: &[String],
        path: &str,
        body: &[u8],
    ) -> Result<Result<T>, Error> {
        let mut obstacle = Error::new(Kind::Unreachable, "no address of a master is known");
        for address in masters {
            match self.ask_master(address, path, body) {
                Err(error) if error.kind().advice() != Advice::Never => obstacle = worse(obstacle, error),
                answer => return Ok(answer),
            }
        }
        Err(obstacle)
    }

    fn ask_master<T: serde::de::DeserializeOwned>(
        &self,
        address: &str,
        path: &str,
        body: &[u8],
    ) -> Result<T> {
        let mut request = Request { body: Body::Bytes(body), ..Request::new(Method::POST, path) };
        request.headers.push(("Content-Type", "application/json".to_owned()));
        let sent = self.wire.send(address, &request, self.cluster_id().as_ref(), CHANGE.max(ANSWER));
        self.note(address, sent.as_ref().err());
        sent.and_then(|mut answer| answer.json()).map_err(|failure| failure.error)
    }
}

/// Of two reasons why no master did it, the one that tells more.
fn worse(one: Error, other: Error) -> Error {
    let rank = |error: &Error| match error.kind() {
        Kind::UnknownOutcome => 4,
        Kind::NoMajority => 3,
        Kind::Moved => 2,
        Kind::Unreachable => 0,
        _ => 1,
    };
    if rank(&one) > rank(&other) { one } else { other }
}

fn no_leader(obstacle: Error) -> Error {
    match obstacle.kind() {
        Kind::UnknownOutcome => obstacle,
        Kind::Moved => {
            Error::new(Kind::Unreachable, format!("{}, and it does not answer", obstacle.detail()))
                .hint("catstore status shows the masters, and how to start those that are down")
        }
        kind => Error::new(kind, obstacle.detail())
            .hint("a majority of the masters must be up: catstore status shows them"),
    }
}
