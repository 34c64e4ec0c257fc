//! A request on its way to whoever answers for a group, until it is answered or its time is up: done here if this
//! member leads, sent on if another one does, and while nobody leads it waits. A change of leader costs a client time
//! and no error.
//!
//! A write whose outcome is unknown is never tried again, unless it carries a request id: then every repeat is exact,
//! but the last word must not be "not written" any more. What waits here waits without a thread, in bounded number,
//! and ends within its deadline; a node that another one sent a request to waits only a moment, so that the first
//! one can ask elsewhere.

use super::door::{Asked, Door};
use super::forward::{self, MARGIN, Parcel, Refused, Seat, Sent};
use super::owner::{Target, Way, does_not_lead};
use crate::error::{Error, Kind, Result};
use crate::replica::handle::KeyspaceHandle;
use actix_web::HttpResponse;
use actix_web::http::{Method, StatusCode};
use bytes::Bytes;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long a request that another node sent on waits for somebody to lead.
const MOMENT: Duration = Duration::from_secs(1);
/// How long an answer may take to begin before another member is asked, where that is harmless.
const PATIENCE: Duration = Duration::from_secs(2);
/// The first pause between two looks, and the step by which it grows.
const STEP: Duration = Duration::from_millis(10);
/// The longest pause.
const LONGEST: Duration = Duration::from_millis(50);
/// A leader that does not answer is asked again after this time, unless another one leads by then.
const HOLD_OFF: Duration = Duration::from_millis(200);

/// A request for one group.
pub(crate) struct Errand<'a> {
    /// The thread's door.
    pub(crate) door: &'a Door,
    /// The client's request.
    pub(crate) asked: &'a Asked<'a>,
    /// The group that answers.
    pub(crate) group: u32,
    /// What kind of answer is wanted.
    pub(crate) manner: Manner,
    /// When it must be answered.
    pub(crate) deadline: Instant,
    /// How it is sent on.
    pub(crate) wire: Wire<'a>,
}

/// What kind of answer a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// A read at the leader.
    Read,
    /// A read at any other member.
    Stale,
    /// A write.
    Write {
        /// True if it carries a request id.
        exact: bool,
    },
}

/// A request as another node gets it.
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
    /// It does not lead any more, and nothing was done: somebody else may do it.
    LeadLost(Error),
    /// It may have been written; a repeat under its request id can tell.
    Unknown(Error),
    /// This is the answer.
    End(Error),
}

impl From<Error> for Stop {
    /// An error of the replica: of kind `Moved` if another member leads.
    fn from(error: Error) -> Stop {
        match error.kind() {
            Kind::Moved => Stop::LeadLost(error),
            Kind::UnknownOutcome => Stop::Unknown(error),
            _ => Stop::End(error),
        }
    }
}

/// How far an errand has come.
struct Course {
    /// How many nodes it came through before this one.
    hops: u32,
    /// When this node gives up.
    until: Instant,
    /// Members that were asked in this round.
    tried: Vec<u32>,
    /// True while every member of this round was dead.
    all_dead: bool,
    /// The leader that did not answer, and when it was asked.
    silent: Option<(u32, Instant)>,
    /// True once it may have been written.
    unknown: bool,
    /// Why the last attempt came to nothing.
    last: Option<Error>,
    /// Pauses so far.
    pauses: u32,
    seat: Option<Rc<Seat>>,
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
    /// A read of `group` that is sent on as it came.
    pub(crate) fn read(door: &'a Door, asked: &'a Asked<'a>, group: u32, stale: bool) -> Result<Errand<'a>> {
        let manner = if stale { Manner::Stale } else { Manner::Read };
        let wire = Wire::of(asked, Some(Bytes::new()));
        Ok(Errand { door, asked, group, manner, deadline: asked.deadline()?, wire })
    }

    /// Runs the errand; `here` does it at this member while it leads.
    ///
    /// Errors: `NoMajority` (nobody led in time), `UnknownOutcome`, `Overloaded`, and those of `here`.
    pub(crate) async fn run<T>(
        &self,
        mut here: impl AsyncFnMut(&KeyspaceHandle) -> Result<T, Stop>,
    ) -> Result<Done<T>> {
        let mut course = Course::new(self);
        loop {
            let goes_on = match self.way(&mut course).map_err(|error| course.last_word(error))? {
                Way::Here(replica) => match here(&replica).await {
                    Ok(done) => return Ok(Done::Here(done)),
                    Err(Stop::LeadLost(error)) => {
                        course.last = Some(error);
                        false
                    }
                    Err(Stop::Unknown(error)) => {
                        self.stumble(&mut course, error)?;
                        false
                    }
                    Err(Stop::End(error)) => return Err(course.last_word(error)),
                },
                Way::There(target) if self.wire.redirects => {
                    return Ok(Done::There(forward::redirect(&target, self.wire.path)));
                }
                Way::There(target) => match self.send(&mut course, &target).await? {
                    Sent::Answer(answer) => return course.pass(answer).map(Done::There),
                    Sent::Refused(refused) => self.refused(&mut course, &target, refused),
                    Sent::Unknown(error) => {
                        self.stumble(&mut course, error)?;
                        self.door.site.leaders.avoid(self.group, target.index);
                        self.goes_on_at_once()
                    }
                },
                Way::Nobody => false,
            };
            if !goes_on {
                self.pause(&mut course).await?;
            }
        }
    }

    /// Who is to be asked next.
    fn way(&self, course: &mut Course) -> Result<Way> {
        let site = &self.door.site;
        if site.is_member(self.group) && self.manner != Manner::Stale {
            let way = site.way_of_member(self.group, course.hops)?;
            return Ok(match way {
                Way::There(target) if course.holds_off(target.index) || self.wire.body.is_none() => {
                    Way::Nobody
                }
                way => way,
            });
        }
        if course.hops >= forward::MOST_HOPS || course.hops > 0 && !site.is_member(self.group) {
            return Err(forward::moved());
        }
        if let Some(target) = site.next_member(self.group, &course.tried) {
            return Ok(Way::There(target));
        }
        if course.all_dead {
            return Err(course.last.take().unwrap_or_else(|| site.no_leader(self.group)));
        }
        course.tried.clear();
        course.all_dead = true;
        Ok(Way::Nobody)
    }

    async fn send(&self, course: &mut Course, target: &Target) -> Result<Sent> {
        let site = &self.door.site;
        let seat = course.seat(self)?;
        let now = Instant::now();
        if self.deadline.saturating_duration_since(now) <= MARGIN && course.last.is_some() {
            return Err(course.give_up(self));
        }
        if self.goes_on_at_once() {
            course.tried.push(target.index);
        }
        course.silent = Some((target.index, now));
        // A silent node is left for another one where the request may be repeated and there is another one.
        let patience = match self.repeatable() && site.has_others(self.group) {
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

    /// Notes why a member did not do it; true if another one can be asked at once.
    fn refused(&self, course: &mut Course, target: &Target, refused: Refused) -> bool {
        let leaders = &self.door.site.leaders;
        match refused.dead {
            true => leaders.avoid(self.group, target.index),
            false => {
                course.silent = None;
                course.all_dead = false;
                if refused.error.kind() == Kind::Moved {
                    leaders.deny(self.group, target.index);
                }
            }
        }
        course.last = Some(refused.error);
        self.goes_on_at_once()
    }

    /// Notes an unknown outcome, unless it is the end because no repeat can make it known.
    fn stumble(&self, course: &mut Course, error: Error) -> Result<()> {
        if !self.repeatable() || !course.has_time() {
            return Err(course.last_word(error));
        }
        course.unknown |= self.changes();
        course.all_dead = false;
        course.last = Some(error);
        Ok(())
    }

    async fn pause(&self, course: &mut Course) -> Result<()> {
        if !course.has_time() {
            return Err(course.give_up(self));
        }
        course.seat(self)?;
        course.pauses += 1;
        let left = course.until.saturating_duration_since(Instant::now());
        tokio::time::sleep((STEP * course.pauses).min(LONGEST).min(left)).await;
        Ok(())
    }

    fn changes(&self) -> bool {
        matches!(self.manner, Manner::Write { .. })
    }

    /// True if it may be done twice.
    fn repeatable(&self) -> bool {
        self.manner != Manner::Write { exact: false }
    }

    /// A member knows one leader at most; any other node has the other members to ask.
    fn goes_on_at_once(&self) -> bool {
        self.manner == Manner::Stale || !self.door.site.is_member(self.group)
    }
}

impl Course {
    fn new(errand: &Errand<'_>) -> Course {
        let hops = forward::hops(errand.asked.request.headers());
        let patience = Instant::now() + MOMENT;
        Course {
            hops,
            until: if hops > 0 { errand.deadline.min(patience) } else { errand.deadline },
            tried: Vec::new(),
            all_dead: true,
            silent: None,
            unknown: false,
            last: None,
            pauses: 0,
            seat: None,
        }
    }

    fn has_time(&self) -> bool {
        Instant::now() < self.until
    }

    fn holds_off(&self, index: u32) -> bool {
        self.silent.is_some_and(|(silent, since)| silent == index && since.elapsed() < HOLD_OFF)
    }

    /// Its place among the requests that wait. Errors: `Overloaded`.
    fn seat(&mut self, errand: &Errand<'_>) -> Result<Rc<Seat>> {
        if let Some(seat) = &self.seat {
            return Ok(Rc::clone(seat));
        }
        let seat = Seat::take(&errand.door.site).map_err(|error| self.last_word(error))?;
        Ok(Rc::clone(self.seat.insert(seat)))
    }

    /// The answer of another node. After an attempt of unknown outcome only the reply to a request id counts: those of
    /// conditions and absent keys are remembered like any other.
    fn pass(&self, answer: HttpResponse) -> Result<HttpResponse> {
        let status = answer.status();
        let replied =
            status.is_success() || matches!(status, StatusCode::NOT_FOUND | StatusCode::PRECONDITION_FAILED);
        if self.unknown && !replied {
            return Err(self.last_word(Error::new(Kind::NoMajority, format!("a later attempt got {status}"))));
        }
        Ok(answer)
    }

    /// `error`, or that the outcome is unknown, if it is.
    fn last_word(&self, error: Error) -> Error {
        if !self.unknown || error.kind() == Kind::UnknownOutcome {
            return error;
        }
        Error::new(
            Kind::UnknownOutcome,
            format!("a member was sent the write and did not answer; then: {}", error.detail()),
        )
        .hint(
            "send it again with the same Catstore-Request-Id, or read the key to see whether it was written",
        )
    }

    /// The error of an errand whose time is up.
    fn give_up(&mut self, errand: &Errand<'_>) -> Error {
        let site = &errand.door.site;
        let error = match self.last.take() {
            Some(error) if error.kind() == Kind::UnknownOutcome => error,
            // What another one waited for in vain it has worded already; and who stays silent has a name.
            Some(error) if error.kind() == Kind::NoMajority && self.hops > 0 => error,
            Some(error) if error.kind() == Kind::NoMajority && error.hint_text().is_some() => {
                Error::new(Kind::NoMajority, error.detail()).hint(site.way_out(errand.group))
            }
            Some(_) if self.hops > 0 => does_not_lead(errand.group),
            _ => site.no_leader(errand.group),
        };
        self.last_word(error)
    }
}
