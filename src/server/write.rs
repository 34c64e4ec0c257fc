//! A write as this node holds it: as a command for its own replica, and as bytes for another node's. Where another
//! member may come to lead before it is done, or another group to own its slot, both are kept until the end.

use super::body;
use super::door::{Asked, Door};
use super::errand::{Aim, Done, Errand, Manner, Stop, Wire};
use super::given::NotOwned;
use super::site::Site;
use crate::error::{Error, Kind, Result};
use crate::replica::checksum;
use crate::replica::command::{BatchCommand, Command, Reply, Request};
use crate::replica::handle::KeyspaceHandle;
use crate::replica::keyspace::{awaiting, frozen};
use bytes::Bytes;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// A write.
pub(crate) struct Write {
    /// The group that does it.
    pub(crate) aim: Aim,
    /// The command; the value of a put stands beside it.
    pub(crate) request: Request,
    /// The value of a put.
    pub(crate) value: Option<Bytes>,
    /// The share of the budget that its bytes have.
    pub(crate) lease: Option<body::Lease>,
}

/// What of a write is still here to be handed to this member's replica.
struct Kept {
    request: Option<Request>,
    value: Option<Bytes>,
    /// True if it may be needed again.
    keep: bool,
}

impl Kept {
    /// The request. Errors if it was given away: certainly not written.
    fn take(&mut self) -> Result<Request> {
        let gone = || {
            Error::new(Kind::NoMajority, "the group changed while this was on its way; nothing was written")
                .hint("try again")
        };
        let (request, value) = match self.keep {
            true => (self.request.clone(), self.value.clone()),
            false => (self.request.take(), self.value.take()),
        };
        let mut request = request.ok_or_else(gone)?;
        if let Command::Put(put) = &mut request.command {
            put.value = Vec::from(value.ok_or_else(gone)?);
            put.checksum = checksum(&put.value);
        }
        Ok(request)
    }
}

impl Write {
    /// Does it, here or elsewhere. `wire` is how it is sent on.
    ///
    /// Errors: `ValueTooLarge`, and those of [`Errand::run`] and [`submit`].
    pub(crate) async fn run<'a>(
        self,
        door: &'a Door,
        asked: &'a Asked<'a>,
        mut wire: Wire<'a>,
    ) -> Result<Done<Reply>> {
        let site = &door.site;
        let Write { aim, request, value, lease } = self;
        let deadline = asked.deadline()?;
        let keep = !site.is_alone();
        if !keep {
            wire.body = None;
        }
        let manner = Manner::Write { exact: request.id.is_some() };
        let mut kept = Kept { request: Some(request), value, keep };
        let errand = Errand { door, asked, aim, manner, deadline, wire };
        let done = errand
            .run(async |replica| {
                // Before the request is given away: it is asked again.
                if replica.awaits()? {
                    return Err(awaiting().into());
                }
                let request = kept.take()?;
                check_length(&request.command, site.worker()?.max_value)?;
                judge(replica, hand_over(site, replica, request, deadline).await?)
            })
            .await;
        drop(lease);
        done
    }
}

/// Hands a command to this worker's replica, which must lead.
///
/// Errors: as the replica's; `Moved` also if the group does not own the slot, `Frozen`, `Overloaded`, `Conflict`.
pub(crate) async fn submit(site: &Site, request: Request, deadline: Instant) -> Result<Reply> {
    let replica = site.with_open(&site.worker()?.node.mode(), |replica| Ok(replica.clone()))?;
    Ok(judge(&replica, hand_over(site, &replica, request, deadline).await?)?)
}

pub(crate) async fn hand_over(
    site: &Site,
    replica: &KeyspaceHandle,
    request: Request,
    deadline: Instant,
) -> Result<Reply> {
    let _under_way = UnderWay::begin(site);
    replica.submit(request, deadline).await.map_err(|error| match error.kind() {
        Kind::Closed => site.refusal(),
        _ => error,
    })
}

/// The replies that mean "not so".
pub(crate) fn judge(replica: &KeyspaceHandle, reply: Reply) -> Result<Reply, Stop> {
    let refused = |kind, detail: &str, hint: &str| Err(Stop::End(Error::new(kind, detail).hint(hint)));
    match reply {
        Reply::NotOwner { slot } => Err(not_owned(replica, slot)),
        Reply::Frozen { slot } => Err(Stop::Frozen(frozen(slot))),
        Reply::Moving { id } => Err(Stop::Moving(
            Error::new(Kind::Frozen, format!("the group is in move {id}; nothing was removed"))
                .hint("`catstore status` shows how far it is; the same command later"),
        )),
        Reply::TooManyRequestIds => Err(Stop::End(Error::new(
            Kind::Overloaded,
            "too many request ids were given in the last ten minutes",
        ))),
        Reply::RequestIdReused => refused(
            Kind::Conflict,
            "the request id belongs to another request of the last ten minutes",
            "give each request an id of its own; only a repeat has the same",
        ),
        Reply::RequestIdPassed => refused(
            Kind::UnknownOutcome,
            "a later request of the same session was done: whether this one was is not known any more",
            "a session has one request under way at a time; read the key to see whether it was written",
        ),
        reply => Ok(reply),
    }
}

/// Why a group that does not own `slot` did nothing, with what its copy here knows of who does.
pub(crate) fn not_owned(replica: &KeyspaceHandle, slot: u16) -> Stop {
    let to = replica.applied().ok().and_then(|applied| applied.published.moves.given_to(slot));
    Stop::NotOwned(NotOwned { slot, to })
}

/// Counts a command as waiting for the replica until it is dropped.
struct UnderWay<'a>(&'a Site);

impl<'a> UnderWay<'a> {
    fn begin(site: &'a Site) -> UnderWay<'a> {
        site.submitting.fetch_add(1, Ordering::Relaxed);
        UnderWay(site)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.submitting.fetch_sub(1, Ordering::Relaxed);
    }
}

fn check_length(command: &Command, limit: u64) -> Result<()> {
    match command {
        Command::Put(put) => check_value(put.value.len() as u64, limit),
        Command::Batch(commands) => commands.iter().enumerate().try_for_each(|(position, command)| {
            let BatchCommand::Put(put) = command else { return Ok(()) };
            check_value(put.value.len() as u64, limit).map_err(|error| {
                let detail = format!("operation {position} of the batch: {}", error.detail());
                Error::new(error.kind(), detail).hint(error.hint_text().unwrap_or_default())
            })
        }),
        _ => Ok(()),
    }
}

/// Refuses a value of more than `limit` bytes.
pub(crate) fn check_value(length: u64, limit: u64) -> Result<()> {
    if length <= limit {
        return Ok(());
    }
    Err(Error::new(Kind::ValueTooLarge, format!("the value has {length} bytes; the limit is {limit}"))
        .hint("the worker's --max-value raises it"))
}
