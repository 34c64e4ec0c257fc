//! The client's methods: each names a request, whom it is for, and how to read its answer.

use super::encode::{key_path, parse_etag, percent_encode};
use super::routes::Target;
use super::values::ttl_text;
use super::wire::{Answer, Failure, Request};
use super::{
    Client, Condition, ListOptions, MAX_KEY, MAX_VALUE, Operation, PutOptions, Stored, parse_address,
};
use crate::cluster::view::{BatchBody, BatchOp, BatchReply, ClusterView, ListPage, WorkerFacts};
use crate::error::{Error, Kind, Result};
use std::time::Instant;
use ureq::http::Method;

impl Client {
    /// Stores `value` under `key`.
    ///
    /// It is sent again, under one request id, until it is answered or the deadline passes.
    ///
    /// Errors: `ConditionFailed`; `UnknownOutcome` if it may have been written; all others: it was not.
    pub fn put(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: PutOptions<'_>,
    ) -> Result<Stored> {
        let (key, value) = (checked(key.as_ref())?, value.as_ref());
        if value.len() > MAX_VALUE {
            return Err(too_large(value.len() as u64));
        }
        let mut path = key_path(key);
        if let Some(ttl) = options.ttl {
            path = format!("{path}?ttl={}", ttl_text(ttl));
        }
        let mut request =
            Request { body: Some(value), progress: options.progress, ..Request::new(Method::PUT, path) };
        let content_type = options.content_type.unwrap_or_else(|| "application/octet-stream".to_owned());
        request.headers.push(("Content-Type", content_type));
        request.headers.extend(options.condition.header());
        let told = &[Kind::ConditionFailed];
        self.write(Operation { target: Target::Key(key), request, told }, |answer| {
            let version = answer.header("ETag").and_then(parse_etag).ok_or_else(|| {
                let detail = format!("{} took the value but named no version", answer.address());
                Failure::answered(Error::new(Kind::UnknownOutcome, detail).hint("read it back"))
            })?;
            Ok(Stored { version, created: answer.status == 201 })
        })
    }

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
        let json = serde_json::to_vec(body).map_err(|error| {
            Error::new(Kind::BadRequest, "the batch cannot be written as JSON").cause(error)
        })?;
        let first = body.ops.first().map(|op| match op {
            BatchOp::Put { key, .. } | BatchOp::Delete { key } | BatchOp::Check { key, .. } => {
                key.0.as_slice()
            }
        });
        let target = first.map_or(Target::Any, Target::Key);
        let mut request = Request { body: Some(&json), ..Request::new(Method::POST, "/batch") };
        request.headers.push(("Content-Type", "application/json".to_owned()));
        let told = &[Kind::ConditionFailed];
        self.write(Operation { target, request, told }, |mut answer| {
            answer.json().map_err(|failure| {
                let detail = "the batch was taken, but its answer did not arrive whole";
                Failure::answered(
                    Error::new(Kind::UnknownOutcome, detail).hint("read it back").cause(failure.error),
                )
            })
        })
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
        self.once(address, "/health").map(|_| ())
    }

    pub(super) fn document<T: serde::de::DeserializeOwned>(&self, address: &str, path: &str) -> Result<T> {
        self.once(address, path)?.json().map_err(|failure| failure.error)
    }

    /// One attempt at one node, for questions about that very node.
    fn once(&self, address: &str, path: &str) -> Result<Answer> {
        let address = parse_address(address)?;
        let left = super::find::ANSWER.min(self.deadline);
        let (request, cluster) = (Request::new(Method::GET, path), self.cluster_id());
        self.wire.send(&address, &request, cluster.as_ref(), left).map_err(|failure| failure.error)
    }
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

/// The error for a value that no node of this version takes.
pub fn too_large(size: u64) -> Error {
    Error::new(Kind::ValueTooLarge, format!("the value has {size} bytes, the limit is {MAX_VALUE} (8 MiB)"))
        .hint("split it over several keys; nothing was written")
}
