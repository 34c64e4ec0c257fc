//! The one error type of catstore. A [`Kind`] is a stable word that programs may match on; its [`Advice`] says
//! what the caller does next. HTTP status codes live in `server/error.rs` and exit codes in `main.rs`; nothing
//! else knows either.

use std::fmt;
use std::sync::Arc;

/// Shorthand for results that carry an [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, as a stable word. [`Kind::word`] is what travels in `application/problem+json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The key (or worker, or path) does not exist.
    NotFound,
    /// A condition (`If-Match`, `If-None-Match`, `check`) did not hold; nothing was written.
    ConditionFailed,
    /// The request cannot be understood.
    BadRequest,
    /// The path exists, the method does not fit it.
    MethodNotAllowed,
    /// The key has no bytes.
    KeyEmpty,
    /// The key is longer than 4096 bytes.
    KeyTooLong,
    /// The value is longer than `--max-value`.
    ValueTooLarge,
    /// The request as a whole is larger than this node takes.
    TooLarge,
    /// The request's URL is longer than this node takes.
    UrlTooLong,
    /// The request's line and headers are more than this node takes.
    HeadTooLarge,
    /// The keys of a batch lie in more than one slot.
    CrossSlot,
    /// The range that was asked for lies outside the value.
    OutOfRange,
    /// The request came too slowly and was cut off.
    TooSlow,
    /// The token is missing or wrong.
    Unauthorized,
    /// The request is refused by a guard (another site, a foreign host, a path outside `--files`).
    Forbidden,
    /// The request contradicts what this node or cluster is (another worker, a clone's index, a used folder).
    Conflict,
    /// A chunk that an upload names without its bytes is not held; nothing was written.
    ChunkMissing,
    /// No worker holds slots yet.
    NoWorker,
    /// The group has no leader that answers; nothing was written.
    NoMajority,
    /// This node was closed by `/close`.
    Closed,
    /// A queue or a limit is full; nothing was written.
    Overloaded,
    /// The disk has too little free space; nothing was written.
    DiskFull,
    /// The write may or may not have happened.
    UnknownOutcome,
    /// The slot belongs to another group than the one that was asked.
    Moved,
    /// The slot is on its way to another group, or the group is in a move: nothing was done, a little later it may be.
    Frozen,
    /// This node's disk returned an error and it stopped serving.
    Failed,
    /// Stored bytes fail their checksum or their format.
    Damaged,
    /// No member that answers has the value of a key whole.
    ValueHurt,
    /// A data folder belongs to another cluster, role or a newer format, or is in use.
    Foreign,
    /// No node of the cluster answered.
    Unreachable,
    /// The command line or configuration is wrong.
    Usage,
    /// The operating system refused something outside the store (a port in use, a file that cannot be read).
    System,
}

/// What a caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// The same request will get the same answer.
    Never,
    /// Nothing was written; the same request may succeed a little later.
    Retry,
    /// Nothing was written; another node may answer.
    Elsewhere,
    /// It may have been written; only a read or the same request id can tell.
    Unknown,
}

impl Kind {
    /// Every kind, for tests and documentation.
    pub const ALL: [Kind; 32] = [
        Kind::NotFound,
        Kind::ConditionFailed,
        Kind::BadRequest,
        Kind::MethodNotAllowed,
        Kind::KeyEmpty,
        Kind::KeyTooLong,
        Kind::ValueTooLarge,
        Kind::TooLarge,
        Kind::UrlTooLong,
        Kind::HeadTooLarge,
        Kind::CrossSlot,
        Kind::OutOfRange,
        Kind::TooSlow,
        Kind::ChunkMissing,
        Kind::Unauthorized,
        Kind::Forbidden,
        Kind::Conflict,
        Kind::NoWorker,
        Kind::NoMajority,
        Kind::Closed,
        Kind::Overloaded,
        Kind::DiskFull,
        Kind::UnknownOutcome,
        Kind::Moved,
        Kind::Frozen,
        Kind::Failed,
        Kind::Damaged,
        Kind::ValueHurt,
        Kind::Foreign,
        Kind::Unreachable,
        Kind::Usage,
        Kind::System,
    ];

    /// The stable word, as it stands in the `type` of a problem document.
    pub fn word(self) -> &'static str {
        match self {
            Kind::NotFound => "not_found",
            Kind::ConditionFailed => "condition_failed",
            Kind::BadRequest => "bad_request",
            Kind::MethodNotAllowed => "method_not_allowed",
            Kind::KeyEmpty => "key_empty",
            Kind::KeyTooLong => "key_too_long",
            Kind::ValueTooLarge => "value_too_large",
            Kind::TooLarge => "too_large",
            Kind::UrlTooLong => "url_too_long",
            Kind::HeadTooLarge => "head_too_large",
            Kind::CrossSlot => "cross_slot",
            Kind::OutOfRange => "out_of_range",
            Kind::TooSlow => "too_slow",
            Kind::ChunkMissing => "chunk_missing",
            Kind::Unauthorized => "unauthorized",
            Kind::Forbidden => "forbidden",
            Kind::Conflict => "conflict",
            Kind::NoWorker => "no_worker",
            Kind::NoMajority => "no_majority",
            Kind::Closed => "closed",
            Kind::Overloaded => "overloaded",
            Kind::DiskFull => "disk_full",
            Kind::UnknownOutcome => "unknown_outcome",
            Kind::Moved => "moved",
            Kind::Frozen => "moving",
            Kind::Failed => "failed",
            Kind::Damaged => "damaged",
            Kind::ValueHurt => "value_hurt",
            Kind::Foreign => "foreign",
            Kind::Unreachable => "unreachable",
            Kind::Usage => "usage",
            Kind::System => "system",
        }
    }

    /// The kind whose [`Kind::word`] is `word`.
    pub fn from_word(word: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.word() == word)
    }

    /// What the caller can do next.
    pub fn advice(self) -> Advice {
        match self {
            Kind::NoWorker | Kind::NoMajority | Kind::Overloaded | Kind::Frozen => Advice::Retry,
            Kind::Moved | Kind::Closed | Kind::Failed | Kind::Unreachable => Advice::Elsewhere,
            Kind::UnknownOutcome => Advice::Unknown,
            _ => Advice::Never,
        }
    }
}

/// An error: its kind, one sentence of what happened to what, a hint of what to do, and the cause.
#[derive(Debug, Clone)]
pub struct Error {
    kind: Kind,
    detail: String,
    hint: Option<String>,
    cause: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; `detail` says what happened, and to what.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Error {
        Error { kind, detail: detail.into(), hint: None, cause: None }
    }

    /// Adds what to do next.
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }

    /// Keeps the error that led to this one.
    pub fn cause(mut self, cause: impl std::error::Error + Send + Sync + 'static) -> Error {
        self.cause = Some(Arc::new(cause));
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What happened, and to what.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// What to do next, if there is something to do.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)?;
        if let Some(cause) = &self.cause {
            write!(f, ": {cause}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_distinct_and_come_back() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_word(kind.word()), Some(kind));
        }
        assert_eq!(Kind::from_word("nonsense"), None);
    }
}
