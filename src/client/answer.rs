//! Answers of nodes: what they carry, and what those mean that are no success.

use super::decide::Outcome;
use super::wire::{CLUSTER, Failure};
use crate::cluster::view::Problem;
use crate::error::{Advice, Error, Kind};
use std::io::Read;
use std::time::Duration;
use ureq::http::{HeaderMap, HeaderName};

/// `Catstore-Epoch`: the epoch of the routes of the node that answered.
const EPOCH: HeaderName = HeaderName::from_static("catstore-epoch");
/// `Catstore-Error`: the word of an error, also where the answer has no body.
const ERROR: HeaderName = HeaderName::from_static("catstore-error");
/// A document or a value that is held in memory may not be larger than this.
const MOST_BYTES: u64 = super::MAX_HELD as u64;
/// A problem document may not be larger than this.
const MOST_PROBLEM_BYTES: u64 = 64 * 1024;

/// A good answer: its headers, and its body still to be read.
pub(super) struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub(super) address: String,
    pub(super) body: ureq::Body,
}

impl Answer {
    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The kind of error that a header names: all there is of it in an answer to HEAD.
    fn word(&self) -> Option<Kind> {
        self.header(ERROR.as_str()).and_then(Kind::from_word)
    }

    /// The node that answered.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The epoch of the node's routes, if it names it.
    pub fn epoch(&self) -> Option<u64> {
        self.header(EPOCH.as_str())?.parse().ok()
    }

    /// The whole body. A body that breaks off fails like a broken connection.
    pub fn bytes(&mut self) -> Result<Vec<u8>, Failure> {
        self.body.with_config().limit(MOST_BYTES).read_to_vec().map_err(|error| {
            let (outcome, kind) = match error {
                ureq::Error::BodyExceedsLimit(_) => (Outcome::Answered(Kind::TooLarge, None), Kind::TooLarge),
                _ => (Outcome::Broken, Kind::Unreachable),
            };
            let detail = format!("the answer of {} broke off", self.address);
            Failure { outcome, error: Error::new(kind, detail).cause(error) }
        })
    }

    /// The body as JSON.
    pub fn json<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, Failure> {
        let bytes = self.bytes()?;
        serde_json::from_slice(&bytes)
            .map_err(|error| self.stranger("what it sent is no document of catstore").cause(error))
            .map_err(Failure::answered)
    }

    /// The body as a stream.
    pub fn reader(&mut self) -> impl Read + '_ {
        self.body.with_config().limit(u64::MAX).reader()
    }

    /// The node does not behave like a node of catstore.
    pub fn stranger(&self, why: &str) -> Error {
        Error::new(Kind::Unreachable, format!("{} does not answer like catstore: {why}", self.address))
            .hint("check the address, or start a master with `catstore master 3000`")
    }

    /// An answer of something that is no node of our cluster. It says nothing about our keys; but what took a write
    /// may have passed it on to whoever owns the key.
    pub fn into_foreign_failure(self, write: bool) -> Failure {
        let who = match self.header(CLUSTER.as_str()) {
            Some(cluster) => format!("{} belongs to another cluster: {cluster}", self.address),
            None => format!("{} does not answer like a node of this cluster", self.address),
        };
        let is_success = (200..300).contains(&self.status);
        if is_success && write {
            let error = unknown(format!("{who}; it answered {}, the change may have been made", self.status));
            return Failure { outcome: Outcome::Taken, error };
        }
        let stranger = Error::new(Kind::Unreachable, who)
            .hint("`catstore status` says which nodes of this cluster are down");
        if is_success {
            return Failure { outcome: Outcome::Broken, error: stranger };
        }
        // A node of ours that only begins to start does not know its cluster yet.
        let may_start = self.status == 503 && self.header(CLUSTER.as_str()).is_none();
        let failure = self.into_failure(write);
        match failure.outcome {
            Outcome::Answered(Kind::UnknownOutcome, _) => Failure { outcome: Outcome::Taken, ..failure },
            Outcome::Answered(kind, _) if may_start && kind.advice() == Advice::Retry => failure,
            _ => Failure { outcome: Outcome::Answered(Kind::Unreachable, None), error: stranger },
        }
    }

    /// An answer that is no success: its problem document, else what its status says.
    pub fn into_failure(mut self, write: bool) -> Failure {
        let retry_after =
            self.header("Retry-After").and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
        let is_problem =
            self.header("Content-Type").is_some_and(|text| text.starts_with("application/problem+json"));
        let body = self.body.with_config().limit(MOST_PROBLEM_BYTES).read_to_vec().unwrap_or_default();
        let problem = is_problem.then(|| serde_json::from_slice::<Problem>(&body).ok()).flatten();
        let error = match problem {
            Some(problem) => {
                let kind = Kind::from_word(&problem.kind).or_else(|| by_status(self.status, write));
                let error = Error::new(kind.unwrap_or(Kind::Unreachable), problem.detail);
                match problem.hint {
                    Some(hint) => error.hint(hint),
                    None => error,
                }
            }
            None => match (self.word(), by_status(self.status, write)) {
                (Some(kind), _) => Error::new(kind, format!("{} answered {}", self.address, kind.word())),
                (None, Some(Kind::UnknownOutcome)) => unknown(format!(
                    "{} answered {}; the change may have been made",
                    self.address, self.status
                )),
                (None, Some(kind @ (Kind::Overloaded | Kind::DiskFull))) => Error::new(
                    kind,
                    format!("{} answered {}; nothing was written", self.address, self.status),
                ),
                // Without a problem document even a plain 404 says nothing about a key.
                _ => self.stranger(&format!("it said {} and no reason", self.status)),
            },
        };
        // A stranger that refused has done nothing: 3xx and 4xx of anything that speaks HTTP.
        Failure { outcome: Outcome::Answered(error.kind(), retry_after), error }
    }
}

/// What a status means where no known word says it. `None`: the node did nothing, for no reason that we know.
fn by_status(status: u16, write: bool) -> Option<Kind> {
    match status {
        401 => Some(Kind::Unauthorized),
        403 => Some(Kind::Forbidden),
        404 => Some(Kind::NotFound),
        405 => Some(Kind::MethodNotAllowed),
        409 => Some(Kind::Conflict),
        412 => Some(Kind::ConditionFailed),
        413 => Some(Kind::ValueTooLarge),
        400..=499 => Some(Kind::BadRequest),
        // Ours say why with a document. What says it without one may be a proxy that has lost the answer.
        500..=599 if write => Some(Kind::UnknownOutcome),
        503 => Some(Kind::Overloaded),
        507 => Some(Kind::DiskFull),
        _ => None,
    }
}

/// The error for a write that may have been done.
pub(super) fn unknown(detail: String) -> Error {
    Error::new(Kind::UnknownOutcome, detail).hint("read it back before you write again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_without_a_word_never_claims_too_much() {
        assert_eq!(by_status(500, true), Some(Kind::UnknownOutcome));
        assert_eq!(by_status(502, true), Some(Kind::UnknownOutcome));
        assert_eq!(by_status(504, true), Some(Kind::UnknownOutcome));
        assert_eq!(by_status(500, false), None);
        assert_eq!(by_status(503, true), Some(Kind::UnknownOutcome));
        assert_eq!(by_status(503, false), Some(Kind::Overloaded));
        assert_eq!(by_status(507, true), Some(Kind::UnknownOutcome));
        assert_eq!(by_status(507, false), Some(Kind::DiskFull));
        assert_eq!(by_status(418, true), Some(Kind::BadRequest));
        assert_eq!(by_status(302, true), None);
    }
}
