//! How far an errand has come: whom it asked, what they said, how long it waits next, and what its last word is.

use super::errand::Errand;
use super::forward::{self, Seat};
use super::owner::does_not_lead;
use super::site::Site;
use crate::error::{Error, Kind, Result};
use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long a request that another node sent on waits for somebody to lead, or for slots to be served again.
const MOMENT: Duration = Duration::from_secs(1);
/// A leader that does not answer is asked again after this time, unless another one leads by then.
const HOLD_OFF: Duration = Duration::from_millis(200);

/// Where all members of a group are dead the routes are given so long to be found old.
pub(super) const DOUBT: Duration = Duration::from_secs(1);

/// What is waited for between two looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// That somebody leads, or that routes come.
    Leader,
    /// That a slot that is on its way to another group has arrived: milliseconds.
    Thaw,
    /// That a move that touches the group comes to its end.
    Move,
}

impl Wait {
    /// The pause before look `number`, which counts from 1.
    fn pause(self, number: u32) -> Duration {
        let (step, longest) = match self {
            Wait::Leader => (10, 50),
            Wait::Thaw => (2, 10),
            Wait::Move => (50, 250),
        };
        Duration::from_millis((step * u64::from(number)).min(longest))
    }
}

/// How far an errand has come.
pub(super) struct Course {
    /// How many nodes it came through before this one.
    pub(super) hops: u32,
    /// When this node gives up.
    pub(super) until: Instant,
    /// The group that is asked.
    pub(super) group: u32,
    /// Members that were asked in this round.
    pub(super) tried: Vec<u32>,
    /// True if this member's own copy was looked at in this round.
    pub(super) looked: bool,
    /// True while every member of this round was dead.
    pub(super) all_dead: bool,
    /// True if a copy was asked in this round that does not own the slot, and may only be behind.
    pub(super) doubted: bool,
    /// The leader that did not answer, and when it was asked.
    pub(super) silent: Option<(u32, Instant)>,
    /// True once it may have been written.
    pub(super) unknown: bool,
    /// Why the last attempt came to nothing.
    pub(super) last: Option<Error>,
    /// Groups that said that they do not own the slot, since it was last waited.
    denied: Vec<u32>,
    /// True if that is why the last attempt came to nothing.
    homeless: bool,
    /// Since when all members of the group are dead.
    dead_since: Option<Instant>,
    /// What was waited for last, and how often.
    pauses: (Wait, u32),
    seat: Option<Rc<Seat>>,
}

impl Course {
    pub(super) fn new(errand: &Errand<'_>) -> Course {
        let hops = forward::hops(errand.asked.request.headers());
        let patience = Instant::now() + MOMENT;
        Course {
            hops,
            until: if hops > 0 { errand.deadline.min(patience) } else { errand.deadline },
            group: u32::MAX,
            tried: Vec::new(),
            looked: false,
            all_dead: true,
            doubted: false,
            silent: None,
            unknown: false,
            last: None,
            denied: Vec::new(),
            homeless: false,
            dead_since: None,
            pauses: (Wait::Leader, 0),
            seat: None,
        }
    }

    pub(super) fn has_time(&self) -> bool {
        Instant::now() < self.until
    }

    pub(super) fn holds_off(&self, index: u32) -> bool {
        self.silent.is_some_and(|(silent, since)| silent == index && since.elapsed() < HOLD_OFF)
    }

    /// From here on `group` is asked.
    pub(super) fn turn_to(&mut self, group: u32) {
        if self.group != group {
            self.group = group;
            (self.silent, self.dead_since) = (None, None);
            self.begin_round();
        }
    }

    /// Every member may be asked again.
    pub(super) fn begin_round(&mut self) {
        self.tried.clear();
        (self.looked, self.all_dead, self.doubted) = (false, true, false);
    }

    /// The attempt came to nothing because of `error`.
    pub(super) fn failed(&mut self, error: Error) {
        self.last = Some(error);
        self.homeless = false;
    }

    /// Somebody who lives says that it can be done a little later: he is asked again.
    pub(super) fn put_off(&mut self, error: Error) {
        self.failed(error);
        self.silent = None;
        self.begin_round();
        self.all_dead = false;
    }

    /// The group that is asked does not own the slot.
    pub(super) fn deny(&mut self) {
        self.last = Some(forward::moved());
        (self.homeless, self.all_dead) = (true, false);
        if !self.denied.contains(&self.group) {
            self.denied.push(self.group);
        }
    }

    /// True if `group` has said that it does not own the slot, since it was last waited.
    pub(super) fn is_denied(&self, group: u32) -> bool {
        self.denied.contains(&group)
    }

    /// True if all members of the group have been dead for a moment only, and there are other groups.
    pub(super) fn is_doubtful(&mut self, site: &Site) -> bool {
        let since = *self.dead_since.get_or_insert_with(Instant::now);
        site.view().groups.len() > 1 && since.elapsed() < DOUBT
    }

    /// The next pause, if it is for `wait`.
    pub(super) fn pause(&mut self, wait: Wait) -> Duration {
        let number = if self.pauses.0 == wait { self.pauses.1.saturating_add(1) } else { 1 };
        self.pauses = (wait, number);
        self.denied.clear();
        wait.pause(number).min(self.until.saturating_duration_since(Instant::now()))
    }

    /// Its place among the requests that wait. Errors: `Overloaded`.
    pub(super) fn seat(&mut self, errand: &Errand<'_>) -> Result<Rc<Seat>> {
        if let Some(seat) = &self.seat {
            return Ok(Rc::clone(seat));
        }
        let seat = Seat::take(&errand.door.site).map_err(|error| self.last_word(error))?;
        Ok(Rc::clone(self.seat.insert(seat)))
    }

    /// The answer of another node. After an attempt of unknown outcome only the reply to a request id counts: those of
    /// conditions and absent keys are remembered like any other.
    pub(super) fn pass(&self, answer: HttpResponse) -> Result<HttpResponse> {
        let status = answer.status();
        let replied =
            status.is_success() || matches!(status, StatusCode::NOT_FOUND | StatusCode::PRECONDITION_FAILED);
        if self.unknown && !replied {
            return Err(self.last_word(Error::new(Kind::NoMajority, format!("a later attempt got {status}"))));
        }
        Ok(answer)
    }

    /// `error`, or that the outcome is unknown, if it is.
    pub(super) fn last_word(&self, error: Error) -> Error {
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
    pub(super) fn give_up(&mut self, errand: &Errand<'_>) -> Error {
        let site = &errand.door.site;
        let error = match self.last.take() {
            Some(error) if matches!(error.kind(), Kind::UnknownOutcome | Kind::Frozen) => error,
            Some(error) if self.homeless => error,
            // What another one waited for in vain it has worded already; and who stays silent has a name.
            Some(error) if error.kind() == Kind::NoMajority && self.hops > 0 => error,
            Some(error) if error.kind() == Kind::NoMajority && error.hint_text().is_some() => {
                Error::new(Kind::NoMajority, error.detail()).hint(site.way_out(self.group))
            }
            Some(_) if self.hops > 0 => does_not_lead(self.group),
            _ => site.no_leader(self.group),
        };
        self.last_word(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        let pauses = |wait: Wait| [1, 2, 5, 6, 1000].map(|number| wait.pause(number).as_millis());
        assert_eq!(pauses(Wait::Leader), [10, 20, 50, 50, 50]);
        assert_eq!(pauses(Wait::Thaw), [2, 4, 10, 10, 10], "a freeze lasts milliseconds");
        assert_eq!(pauses(Wait::Move), [50, 100, 250, 250, 250]);
    }
}
