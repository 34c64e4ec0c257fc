//! Where a request stands between its attempts: whom it asked, since when, and what whoever waits is told.

use super::decide::{Outcome, Situation, patience};
use super::routes::Candidates;
use super::wire::{Failure, Request};
use crate::error::{Error, Kind};
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A stream that took longer than this is not sent again once an attempt may have been done: the first one of its kind
/// might be forgotten before the next one is whole.
const LONGEST_REPEAT: Duration = Duration::from_secs(100);
/// A request that takes longer than this says so.
const QUIET: Duration = Duration::from_secs(1);

type Tell = dyn Fn(Option<&str>) + Send + Sync;

/// Told what a request waits for, and `None` once it waits no more.
#[derive(Clone)]
pub(super) struct Notice(pub Arc<Tell>);

impl fmt::Debug for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Notice")
    }
}

/// A request on its way.
pub(super) struct Journey<'a> {
    pub start: Instant,
    pub end: Instant,
    write: bool,
    repeatable: bool,
    stream: bool,
    tried: HashSet<String>,
    silent: bool,
    /// Why it is not known whether the write was done.
    unknown: Option<Error>,
    /// The last refusal for want of a majority that said what can be done.
    helpful: Option<Error>,
    attempts: u32,
    rounds: u32,
    /// The longest time that the body was on its way.
    longest: Duration,
    notice: Option<&'a Notice>,
    noticed: bool,
}

impl<'a> Journey<'a> {
    pub fn new(deadline: Duration, request: &Request<'_>, notice: Option<&'a Notice>) -> Journey<'a> {
        let start = Instant::now();
        Journey {
            start,
            end: start + deadline,
            write: request.is_write(),
            repeatable: request.is_write() && request.may_repeat(),
            stream: request.body.is_stream(),
            tried: HashSet::new(),
            silent: false,
            unknown: None,
            helpful: None,
            attempts: 0,
            rounds: 0,
            longest: Duration::ZERO,
            notice,
            noticed: false,
        }
    }

    /// The best node that was not asked in this round.
    pub fn choose(&mut self, list: &Candidates) -> Option<String> {
        let untried = list.addresses.iter().find(|address| !self.tried.contains(*address));
        let address = untried.or(list.addresses.first())?.clone();
        self.tried.insert(address.clone());
        self.attempts += 1;
        Some(address)
    }

    /// Where it stands, but for chance: most requests end well and need none.
    pub fn situation(&self, list: &Candidates) -> Situation {
        let now = Instant::now();
        let untried = |addresses: &[String]| addresses.iter().any(|other| !self.tried.contains(other));
        Situation {
            write: self.write,
            repeatable: self.repeatable,
            stream: self.stream,
            unknown: self.unknown.is_some(),
            untried: untried(&list.addresses),
            untried_member: untried(&list.addresses[..list.members]),
            members: list.members,
            silent: self.silent,
            attempts: self.attempts,
            rounds: self.rounds,
            elapsed: now.saturating_duration_since(self.start),
            left: self.end.saturating_duration_since(now),
            jitter: 0.5,
        }
    }

    /// True if this was not the first attempt.
    pub fn was_long(&self) -> bool {
        self.attempts > 1
    }

    /// Notes that an attempt failed. `told` are the kinds that only the machine of the owner answers to this request:
    /// it remembers ids, so they are the truth also after an attempt of unknown outcome. If that one had been executed,
    /// this one would have got its reply.
    pub fn failed(&mut self, failure: &Failure, told: &[Kind]) {
        self.silent |= failure.outcome == Outcome::Silent;
        if is_helpful(&failure.error) {
            self.helpful = Some(failure.error.clone());
        }
        match failure.outcome {
            Outcome::Broken
            | Outcome::Silent
            | Outcome::Taken
            | Outcome::Answered(Kind::UnknownOutcome, _)
                if self.write =>
            {
                self.unknown = Some(failure.error.clone());
            }
            Outcome::Answered(kind, _) if told.contains(&kind) => self.unknown = None,
            _ => {}
        }
    }

    /// Notes that the body of a stream was on its way for `time`. That does not count as waiting, as long as no attempt
    /// may have been done.
    pub fn carried(&mut self, time: Duration) {
        self.longest = self.longest.max(time);
        if self.unknown.is_none() {
            self.start += time;
            self.end += time;
        }
    }

    /// True if the request may have been done, and takes too long to be sent again.
    pub fn is_too_long(&self) -> bool {
        self.unknown.is_some() && self.longest > LONGEST_REPEAT
    }

    /// The routes were learned anew: everybody may be asked again.
    pub fn rerouted(&mut self) {
        self.tried.clear();
    }

    /// The pause after a round is over.
    pub fn next_round(&mut self) {
        self.rounds += 1;
        self.tried.clear();
    }

    /// Says what the request waits for, if it will have waited for a while once `pause` is over.
    pub fn report(&mut self, error: &Error, situation: &Situation, pause: Duration) {
        if situation.elapsed + pause < QUIET {
            return;
        }
        let left = patience(error.kind(), situation).as_secs_f64().ceil();
        let text = format!("{}; trying again for up to {left} s", error.detail());
        if !self.noticed {
            log::info!("{text}");
        }
        self.noticed = true;
        if let Some(Notice(tell)) = self.notice {
            tell(Some(&text));
        }
    }

    /// The error that the request ends with, after a failure that was noted.
    pub fn last_word(&self, failure: Failure) -> Error {
        // The last attempt may have had too little time to learn more than an earlier one.
        let alike = |helpful: &&Error| helpful.kind() == failure.error.kind();
        let last = match (failure.error.hint_text(), self.helpful.as_ref().filter(alike)) {
            (None, Some(helpful)) => helpful.clone(),
            _ => failure.error,
        };
        let error = match &self.unknown {
            // Whatever the last attempt met: an earlier one may have been done.
            Some(unknown) => unknown.clone(),
            // A read has no outcome that could be unknown: the node that said so could not reach the owner.
            None if !self.write && last.kind() == Kind::UnknownOutcome => {
                Error::new(Kind::Unreachable, last.detail()).hint("try again")
            }
            // A last attempt that had no time left knows nothing of the cause.
            None if last.kind() == Kind::NoMajority && !is_helpful(&last) => {
                self.helpful.clone().unwrap_or_else(|| last.clone())
            }
            None => last.clone(),
        };
        let elapsed = self.start.elapsed();
        if self.attempts < 2 || (elapsed < QUIET && self.unknown.is_none()) {
            return error;
        }
        let mut hint =
            format!("tried {} times in {} s", self.attempts, elapsed.as_secs_f64().round().max(1.0));
        if error.detail() != last.detail() {
            hint = format!("{hint}, the last time: {}", last.detail());
        }
        if let Some(then) = error.hint_text() {
            hint = format!("{hint}; {then}");
        }
        error.hint(hint)
    }
}

fn is_helpful(error: &Error) -> bool {
    error.kind() == Kind::NoMajority && error.hint_text().is_some()
}

impl Drop for Journey<'_> {
    fn drop(&mut self) {
        if let (true, Some(Notice(tell))) = (self.noticed, self.notice) {
            tell(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use ureq::http::Method;

    #[test]
    fn it_is_said_before_a_pause_that_makes_the_wait_a_long_one() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let list = told.clone();
        let notice = Notice(Arc::new(move |text: Option<&str>| list.lock().unwrap().push(text.is_some())));
        let mut journey =
            Journey::new(Duration::from_secs(10), &Request::new(Method::GET, "/kv/A"), Some(&notice));
        let nobody = Candidates::default();
        let at = |milliseconds| Situation {
            elapsed: Duration::from_millis(milliseconds),
            ..Journey::new(Duration::from_secs(10), &Request::new(Method::GET, "/kv/A"), None)
                .situation(&nobody)
        };
        let error = Error::new(Kind::NoMajority, "said no_majority");
        journey.report(&error, &at(700), Duration::from_millis(200));
        assert!(told.lock().unwrap().is_empty());
        journey.report(&error, &at(700), Duration::from_millis(400));
        assert_eq!(*told.lock().unwrap(), [true]);
        drop(journey);
        assert_eq!(*told.lock().unwrap(), [true, false], "and that the wait is over");
    }
}
