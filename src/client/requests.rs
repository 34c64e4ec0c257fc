//! The client's methods: each names a request, whom it is for, and how to read its answer.

use super::answer::Answer;
use super::body::Body;
use super::encode::{key_path, percent_encode};
use super::routes::Target;
use super::wire::{Failure, Request};
use super::{Client, Condition, ListOptions, MAX_KEY, Operation, parse_address};
use crate::cluster::verifying::Verification;
use crate::cluster::view::{BatchBody, BatchOp, BatchReply, ClusterView, ListPage, WorkerFacts};
use crate::error::{Error, Kind, Result};
use std::time::Instant;
use ureq::http::Method;

impl Client {
    /// Removes `key`; false if it did not exist.
    ///
    /// Errors as [`Client::put`].
    pub fn delete(&self, key: impl AsRef<[u8]>, condition: Condition) -> Result<bool> {
        let key = checked(key.as_ref())?;
        let mut request = Request::new(Method::DELETE, key_path(key));
        request.headers.extend(condition.header());
        let told = &[Kind::ConditionFailed, Kind::NotFound];
        match self.write(Operation { target: Target::Key(key), request, told }, |_| Ok(true)) {
            Err(error) if error.kind() == Kind::NotFound => Ok(false),
            done => done,
        }
    }

    /// One page of keys in byte order.
    pub fn list(&self, options: &ListOptions) -> Result<ListPage> {
        let mut query = Vec::new();
        if !options.prefix.is_empty() {
            query.push(format!("prefix={}", percent_encode(&options.prefix)));
        }
        if let Some(after) = &options.after {
            query.push(format!("after={}", percent_encode(after)));
        }
        if let Some(limit) = options.limit {
            query.push(format!("limit={limit}"));
        }
        if options.values {
            query.push("values=true".to_owned());
        }
        let path = if query.is_empty() { "/kv".to_owned() } else { format!("/kv?{}", query.join("&")) };
        let request = Request::new(Method::GET, path);
        self.run(&Operation { target: Target::Any, request, told: &[] }, |mut answer| answer.json())
    }

    /// Applies all operations of a batch, or none. All keys must lie in one slot.
    ///
    /// Errors as [`Client::put`], and `CrossSlot`.
    pub fn batch(&self, body: &BatchBody) -> Result<BatchReply> {
        let json = batch_body(body)?;
        self.write(batch(body, &json), batched)
    }

    /// Removes every key of group `group`; how many there were, if the node says so.
    pub fn clear(&self, group: u32) -> Result<Option<u64>> {
        let request = Request::new(Method::POST, format!("/clear/{group}"));
        self.write(Operation { target: Target::Group(group), request, told: &[] }, |mut answer| {
            let bytes = answer.bytes().unwrap_or_default();
            let document: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
            Ok(document.get("keys").or(document.get("cleared")).unwrap_or(&document).as_u64())
        })
    }

    /// Closes the store of worker `index`; its process stays.
    pub fn close(&self, index: u32) -> Result<()> {
        self.control(Target::Worker(index), &format!("/close/{index}"))
    }

    /// Opens the store of worker `index` again.
    pub fn open(&self, index: u32) -> Result<()> {
        self.control(Target::Worker(index), &format!("/worker/{index}"))
    }

    /// Begins to verify everything that worker `index` holds, and says how far that is. One that is under way goes on; one
    /// whose end nobody has heard of is told instead. The worker is asked once, and not for long; to ask again is safe.
    ///
    /// Errors: `NotFound` for no such worker; `Closed`; `Unreachable`.
    pub fn verify(&self, index: u32) -> Result<Verification> {
        self.ask_verifier(index, Method::POST)
    }

    /// How far the verification of worker `index` is, or how its last one ended. It is asked once, and not for long.
    ///
    /// Errors: as [`Client::verify`]; `NotFound` also if there was none since the worker was opened.
    pub fn verification(&self, index: u32) -> Result<Verification> {
        self.ask_verifier(index, Method::GET)
    }

    fn ask_verifier(&self, index: u32, method: Method) -> Result<Verification> {
        let view = self.known(Instant::now() + self.deadline)?;
        let Some((_, member)) = view.worker(index) else {
            return Err(super::nobody(Target::Worker(index)));
        };
        let request = Request { asks: true, ..Request::new(method, format!("/verify/{index}")) };
        self.once(&member.address, &request)?.json().map_err(|failure| failure.error)
    }

    pub(super) fn control(&self, target: Target<'_>, path: &str) -> Result<()> {
        self.run(&Operation { target, request: Request::new(Method::POST, path), told: &[] }, |_| Ok(()))
    }

    /// The cluster as a node of it sees it now, masters asked first; as it was last known if nobody answers any more.
    pub fn cluster(&self) -> Result<ClusterView> {
        let end = Instant::now() + self.deadline;
        if self.cluster_known().is_some() {
            self.refresh(end);
        }
        self.known(end).map(|view| (*view).clone())
    }

    /// The cluster as the client knows it, without asking; `None` before the first request.
    pub fn cluster_known(&self) -> Option<std::sync::Arc<ClusterView>> {
        self.routes().view.clone()
    }

    /// What the worker at `address` says of itself.
    ///
    /// Errors: `Closed` if it is closed (to ask `/worker` itself would open it).
    pub fn worker_facts(&self, address: &str) -> Result<WorkerFacts> {
        self.health(address).and_then(|()| self.document(address, "/worker"))
    }

    /// Whether the node at `address` can serve; the error says why not.
    pub fn health(&self, address: &str) -> Result<()> {
        self.once(address, &Request::new(Method::GET, "/health")).map(|_| ())
    }

    pub(super) fn document<T: serde::de::DeserializeOwned>(&self, address: &str, path: &str) -> Result<T> {
        self.once(address, &Request::new(Method::GET, path))?.json().map_err(|failure| failure.error)
    }

    /// One attempt at one node, for questions about that very node.
    fn once(&self, address: &str, request: &Request<'_>) -> Result<Answer> {
        let address = parse_address(address)?;
        let left = super::find::ANSWER.min(self.deadline);
        let cluster = self.cluster_id();
        self.wire.send(&address, request, cluster.as_ref(), left).map_err(|failure| failure.error)
    }
}

/// A batch as it travels.
pub(super) fn batch_body(body: &BatchBody) -> Result<Vec<u8>> {
    let wrong = |error| Error::new(Kind::BadRequest, "the batch cannot be written as JSON").cause(error);
    serde_json::to_vec(body).map_err(wrong)
}

/// The request of a batch, which is `json`.
pub(super) fn batch<'a>(body: &'a BatchBody, json: &'a [u8]) -> Operation<'a> {
    let first = body.ops.first().map(|op| match op {
        BatchOp::Put { key, .. } | BatchOp::Delete { key } | BatchOp::Check { key, .. } => key.0.as_slice(),
    });
    let target = first.map_or(Target::Any, Target::Key);
    let mut request = Request { body: Body::Bytes(json), ..Request::new(Method::POST, "/batch") };
    request.headers.push(("Content-Type", "application/json".to_owned()));
    Operation { target, request, told: &[Kind::ConditionFailed] }
}

/// What the answer to a batch says.
pub(super) fn batched(mut answer: Answer) -> Result<BatchReply, Failure> {
    answer.json().map_err(|failure| {
        let detail = "the batch was taken, but its answer did not arrive whole";
        Failure::answered(Error::new(Kind::UnknownOutcome, detail).hint("read it back").cause(failure.error))
    })
}

/// A key that a node can take. Checked here because an empty one would be another path.
pub(super) fn checked(key: &[u8]) -> Result<&[u8]> {
    match key.len() {
        0 => Err(Error::new(Kind::KeyEmpty, "the key is empty").hint("a key has 1 to 4096 bytes")),
        1..=MAX_KEY => Ok(key),
        length => Err(Error::new(Kind::KeyTooLong, format!("the key has {length} bytes"))
            .hint("a key has 1 to 4096 bytes")),
    }
}
