//! A request on its way to whoever answers for a slot or a group, until it is answered or its time is up: done here if
//! this member leads, sent on if another one does, and while nobody leads it waits. A change of leader costs a client
//! time and no error. So does a move: while a slot is on its way the request waits, and where the group that was asked
//! does not own the slot any more it goes on to the one that does. Only the first node turns to another group; a node
//! that another one sent a request to says that its group does not own the slot, and which one does, if it knows.
//!
//! A write whose outcome is unknown is never tried again, unless it carries a request id: then every repeat is exact,
//! but the last word must not be "not written" any more. What waits here waits without a thread, in bounded number,
//! and ends within its deadline; a node that another one sent a request to waits only a moment, so that the first
//! one can ask elsewhere.

use super::course::{Course, Wait};
use super::door::{Asked, Door};
use super::forward::{self, MARGIN, Parcel, Refused, Sent};
use super::given::NotOwned;
use super::news;
use super::node::Mode;
use super::owner::{Target, Way};
use crate::error::{Error, Kind, Result};
use crate::replica::handle::KeyspaceHandle;
use actix_web::http::Method;
use actix_web::{HttpMessage as _, HttpResponse};
use bytes::Bytes;
use std::time::{Duration, Instant};

/// How long an answer may take to begin before another member is asked, where that is harmless.
const PATIENCE: Duration = Duration::from_secs(2);

/// No attempt begins with less time than this where the one before was put off because of a move.
const LAST_ATTEMPT: Duration = Duration::from_millis(100);

/// A request for one group.
pub(crate) struct Errand<'a> {
    /// The thread's door.
    pub(crate) door: &'a Door,
    /// The client's request.
    pub(crate) asked: &'a Asked<'a>,
    /// Who answers.
    pub(crate) aim: Aim,
    /// What kind of answer is wanted.
    pub(crate) manner: Manner,
    /// When it must be answered.
    pub(crate) deadline: Instant,
    /// How it is sent on.
    pub(crate) wire: Wire<'a>,
}

/// Who answers a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aim {
    /// The group that owns this slot, whichever it is by then.
    Slot(u16),
    /// This group.
    Group(u32),
}

/// What kind of answer a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// A read at the leader.
    Read,
    /// A read at any member.
    Stale,
    /// A write.
    Write {
        /// True if it carries a request id.
        exact: bool,
    },
}

/// A request as another node gets it.
#[derive(Clone)]
pub(crate) struct Wire<'a> {
    /// Its method.
    pub(crate) method: Method,
    /// Its raw path and query.
    pub(crate) path: &'a str,
    /// Its body; none if this member alone can do it, and the bytes are not kept.
    pub(crate) body: Option<Bytes>,
    /// A content type that replaces the one of the client's request.
    pub(crate) content_type: Option<&'static str>,
    /// True if the client may be sent to the other node instead.
    pub(crate) redirects: bool,
}

/// Where an errand ended.
pub(crate) enum Done<T> {
    /// At this member, with this.
    Here(T),
    /// At another node, which gave this answer.
    There(HttpResponse),
}

/// Why this member did not do an errand.
pub(crate) enum Stop {
    /// It does not lead any more, or has no copy yet, and nothing was done: somebody else may do it.
    LeadLost(Error),
    /// The slot is on its way to another group, and nothing was done.
    Frozen(Error),
    /// A move touches the group, and nothing was done.
    Moving(Error),
    /// Its group does not own the slot, and nothing was done.
    NotOwned(NotOwned),
    /// It may have been written; a repeat under its request id can tell.
    Unknown(Error),
    /// This is the answer.
    End(Error),
}

/// What follows an attempt that came to nothing.
enum Next {
    /// Somebody else can be asked at once.
    AtOnce,
    /// A pause.
    Later(Wait),
}

impl From<Error> for Stop {
    /// An error of the replica: of kind `Moved` if another member leads.
    fn from(error: Error) -> Stop {
        match error.kind() {
            Kind::Moved => Stop::LeadLost(error),
            Kind::Frozen => Stop::Frozen(error),
            Kind::UnknownOutcome => Stop::Unknown(error),
            _ => Stop::End(error),
        }
    }
}

impl From<Stop> for Error {
    fn from(stop: Stop) -> Error {
        match stop {
            Stop::LeadLost(error)
            | Stop::Frozen(error)
            | Stop::Moving(error)
            | Stop::Unknown(error)
            | Stop::End(error) => error,
            Stop::NotOwned(_) => forward::moved(),
        }
    }
}

impl<'a> Wire<'a> {
    /// The client's request as it came, with `body`.
    pub(crate) fn of(asked: &Asked<'a>, body: Option<Bytes>) -> Wire<'a> {
        Wire {
            method: asked.request.method().clone(),
            path: asked.path_and_query(),
            body,
            content_type: None,
            redirects: asked.wants_redirect(),
        }
    }
}

impl<'a> Errand<'a> {
    /// A read that is sent on as it came.
    pub(crate) fn read(door: &'a Door, asked: &'a Asked<'a>, aim: Aim, stale: bool) -> Result<Errand<'a>> {
        let manner = if stale { Manner::Stale } else { Manner::Read };
        let wire = Wire::of(asked, Some(Bytes::new()));
        Ok(Errand { door, asked, aim, manner, deadline: asked.deadline()?, wire })
    }

    /// Runs the errand; `here` does it at this member while it leads, and a stale read also where it does not.
    ///
    /// Errors: `NoMajority` (nobody led in time), `Frozen` (a move did not come to its end in time), `Moved`,
    /// `UnknownOutcome`, `Overloaded`, and those of `here`.
    pub(crate) async fn run<T>(
        &self,
        mut here: impl AsyncFnMut(&KeyspaceHandle) -> Result<T, Stop>,
    ) -> Result<Done<T>> {
        let mut course = Course::new(self);
        loop {
            let next = match self.way(&mut course).map_err(|error| course.last_word(error))? {
                Way::Here(replica) => match here(&replica).await {
                    Ok(done) => return Ok(Done::Here(done)),
                    Err(stop) => self.stopped(&mut course, stop)?,
                },
                Way::There(target) if self.wire.redirects => {
                    return Ok(Done::There(forward::redirect(&target, self.wire.path)));
                }
                Way::There(target) => match self.send(&mut course, &target).await? {
                    Sent::Answer(answer) => return course.pass(answer).map(Done::There),
                    Sent::Refused(refused) => self.refused(&mut course, &target, refused)?,
                    Sent::Unknown(error) => {
                        self.stumble(&mut course, error)?;
                        self.door.site.leaders.avoid(course.group, target.index);
                        self.next_member(&course)
                    }
                },
                Way::Nobody => Next::Later(Wait::Leader),
            };
            if let Next::Later(wait) = next {
                self.pause(&mut course, wait).await?;
            }
        }
    }

    /// Who is to be asked next.
    fn way(&self, course: &mut Course) -> Result<Way> {
        let site = &self.door.site;
        let group = match self.aim {
            Aim::Group(group) => Some(group),
            // Whoever sent it here believes that it is ours, and may know more than this node's routes.
            Aim::Slot(_) if course.hops > 0 => Some(site.own_group()?),
            Aim::Slot(slot) => site.owners(slot)?.into_iter().find(|group| !course.is_denied(*group)),
        };
        let Some(group) = group else { return Ok(Way::Nobody) };
        course.turn_to(group);
        if self.manner == Manner::Stale || !site.is_member(group) {
            return self.way_of_any(course);
        }
        let way = site.way_of_member(group, course.hops)?;
        Ok(match way {
            Way::There(target) if course.holds_off(target.index) || self.wire.body.is_none() => Way::Nobody,
            way => way,
        })
    }

    /// Which member is asked next by a node that knows the group from outside, or for a stale read.
    fn way_of_any(&self, course: &mut Course) -> Result<Way> {
        let (site, group) = (&self.door.site, course.group);
        let is_member = site.is_member(group);
        if is_member && !course.looked {
            course.looked = true;
            if let Mode::Open(replica) = &*site.worker()?.node.mode() {
                return Ok(Way::Here(replica.clone()));
            }
        }
        if course.hops >= forward::MOST_HOPS || course.hops > 0 && !is_member {
            return Err(forward::moved());
        }
        if let Some(target) = site.next_member(group, &course.tried) {
            return Ok(Way::There(target));
        }
        let is_known = is_member || site.view().group(group).is_some();
        if course.doubted || !is_known {
            news::ask(self.door, None);
            course.begin_round();
            course.deny();
            return Ok(Way::Nobody);
        }
        if course.all_dead && !self.may_be_old(course) {
            return Err(course.last.take().unwrap_or_else(|| site.no_leader(group)));
        }
        course.begin_round();
        Ok(Way::Nobody)
    }

    /// True while it may be the routes that are dead: a group that has given all its slots away ends. Asks for newer ones.
    fn may_be_old(&self, course: &mut Course) -> bool {
        if course.hops > 0 || matches!(self.aim, Aim::Group(_)) || !course.is_doubtful(&self.door.site) {
            return false;
        }
        news::ask(self.door, None);
        true
    }

    async fn send(&self, course: &mut Course, target: &Target) -> Result<Sent> {
        let site = &self.door.site;
        let seat = course.seat(self)?;
        let now = Instant::now();
        if self.deadline.saturating_duration_since(now) <= MARGIN && course.last.is_some() {
            return Err(course.give_up(self));
        }
        if matches!(self.next_member(course), Next::AtOnce) {
            course.tried.push(target.index);
        }
        course.silent = Some((target.index, now));
        // A silent node is left for another one where the request may be repeated and there is another one.
        let patience = match self.repeatable() && site.has_others(course.group) {
            true => PATIENCE,
            false => Duration::MAX,
        };
        let parcel = Parcel {
            request: self.asked.request,
            method: self.wire.method.clone(),
            path: self.wire.path,
            body: self.wire.body.clone().unwrap_or_default(),
            content_type: self.wire.content_type,
            changes: self.changes(),
            deadline: self.deadline,
            patience,
        };
        let sent = forward::send(site, &self.door.client, &seat, target, parcel).await;
        sent.map_err(|error| course.last_word(error))
    }

    /// Notes why this member did not do it.
    fn stopped(&self, course: &mut Course, stop: Stop) -> Result<Next> {
        match stop {
            Stop::LeadLost(error) => {
                course.failed(error);
                Ok(self.next_member(course))
            }
            Stop::Frozen(error) => {
                course.put_off(error);
                Ok(Next::Later(Wait::Thaw))
            }
            Stop::Moving(error) => {
                course.put_off(error);
                Ok(Next::Later(Wait::Move))
            }
            Stop::NotOwned(word) => self.not_owned(course, word, None),
            Stop::Unknown(error) => {
                self.stumble(course, error)?;
                Ok(Next::Later(Wait::Leader))
            }
            Stop::End(error) => Err(course.last_word(error)),
        }
    }

    /// Notes why another member did not do it.
    fn refused(&self, course: &mut Course, target: &Target, refused: Refused) -> Result<Next> {
        let leaders = &self.door.site.leaders;
        let kind = refused.error.kind();
        if refused.dead {
            leaders.avoid(course.group, target.index);
        } else {
            course.silent = None;
            course.all_dead = false;
            match (refused.word, kind) {
                (Some(word), Kind::Moved) if self.aim == Aim::Slot(word.slot) => {
                    return self.not_owned(course, word, Some(target));
                }
                (_, Kind::Moved) => leaders.deny(course.group, target.index),
                (_, Kind::Frozen) => {
                    course.put_off(refused.error);
                    return Ok(Next::Later(Wait::Thaw));
                }
                _ => {}
            }
        }
        course.failed(refused.error);
        Ok(self.next_member(course))
    }

    /// Takes the word of the group that was asked that it does not own the slot; `by` is the member that said so, if it
    /// is not this one. Errors: `Moved` where another node is to turn to another group, `NoWorker`.
    fn not_owned(&self, course: &mut Course, word: NotOwned, by: Option<&Target>) -> Result<Next> {
        let site = &self.door.site;
        if word.to.is_none() && site.view().slots.ranges().is_empty() {
            return Err(course.last_word(site.no_worker()));
        }
        if course.hops > 0 {
            self.asked.request.extensions_mut().insert(word);
            return Err(course.last_word(forward::moved()));
        }
        if word.to.is_none() {
            news::ask(self.door, by);
        }
        if word.to.is_none() && self.manner == Manner::Stale {
            // This copy may only be behind.
            course.failed(forward::moved());
            (course.all_dead, course.doubted) = (false, true);
            return Ok(Next::AtOnce);
        }
        site.given.heard(course.group, word);
        course.deny();
        Ok(Next::AtOnce)
    }

    /// Notes an unknown outcome, unless it is the end because no repeat can make it known.
    fn stumble(&self, course: &mut Course, error: Error) -> Result<()> {
        if !self.repeatable() || !course.has_time() {
            return Err(course.last_word(error));
        }
        course.unknown |= self.changes();
        course.all_dead = false;
        course.failed(error);
        Ok(())
    }

    async fn pause(&self, course: &mut Course, wait: Wait) -> Result<()> {
        // What is certainly not written must not end as an attempt that had no time for its answer.
        let last = if wait == Wait::Leader { Duration::ZERO } else { LAST_ATTEMPT };
        let left = self.deadline.saturating_duration_since(Instant::now()).saturating_sub(last);
        if !course.has_time() || left.is_zero() {
            return Err(course.give_up(self));
        }
        course.seat(self)?;
        tokio::time::sleep(course.pause(wait).min(left)).await;
        Ok(())
    }

    fn changes(&self) -> bool {
        matches!(self.manner, Manner::Write { .. })
    }

    /// True if it may be done twice.
    fn repeatable(&self) -> bool {
        self.manner != Manner::Write { exact: false }
    }

    /// A member knows one leader at most; any other node has the other members to ask, and so has a stale read.
    fn next_member(&self, course: &Course) -> Next {
        match self.manner == Manner::Stale || !self.door.site.is_member(course.group) {
            true => Next::AtOnce,
            false => Next::Later(Wait::Leader),
        }
    }
}
