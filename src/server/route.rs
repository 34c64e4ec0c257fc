//! What a request asks for, as a pure function of its method, raw path and raw query. The raw path is split before
//! it is decoded, so that `%2F` stays inside a key. Headers play no part here; conditions and ranges have their
//! own files.

mod between;

pub use between::Commit;
use between::{chunk, chunk_name, commit, number, upload};

use super::{percent, query::Query, ttl};
use crate::error::{Error, Kind, Result};
use crate::replica::Name;
use crate::replica::reader::ListQuery;

/// The longest key in bytes.
pub const LONGEST_KEY: usize = 4096;
/// The most keys of one page of a list.
pub const LONGEST_PAGE: usize = 10_000;

/// The parameters of a list.
const LIST: [&str; 5] = ["prefix", "after", "limit", "values", "consistency"];

const PATHS: &str = "the paths are /put/KEY/VALUE /put_file/KEY/PATH /get/KEY /delete/KEY /clear/IDX /close/IDX \
/worker/IDX /verify/IDX /master /kv/KEY /kv /batch /cluster /health /metrics";

/// Which of the two interfaces a request came through; they word the same outcome differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// The paths that can be typed by hand.
    Classic,
    /// `/kv`.
    Resource,
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Read one key.
    Get {
        /// The key.
        key: Vec<u8>,
        /// How to word the answer.
        style: Style,
        /// True for `?consistency=stale`.
        stale: bool,
    },
    /// Store one key.
    Put {
        /// The key.
        key: Vec<u8>,
        /// How to word the answer.
        style: Style,
        /// The value that stands in the path; the body is the value if there is none.
        value: Option<Vec<u8>>,
        /// Milliseconds to live.
        ttl: Option<u64>,
    },
    /// Store one key, of whose chunks only some are sent.
    PutChunks {
        /// The key.
        key: Vec<u8>,
        /// Milliseconds to live.
        ttl: Option<u64>,
    },
    /// Say which chunks of a value to come are there.
    HasChunks {
        /// The key.
        key: Vec<u8>,
    },
    /// A chunk of an upload (between nodes).
    TakeChunk {
        /// The upload.
        upload: u64,
        /// The slot of its key.
        slot: u16,
    },
    /// Which chunks of an upload are there (between nodes).
    HoldChunks {
        /// The upload.
        upload: u64,
        /// The slot of its key.
        slot: u16,
    },
    /// Store a value whose chunks were sent (between nodes).
    Commit(Commit),
    /// A chunk, for another group (between nodes).
    GiveChunk(Name),
    /// A question of another member about chunks (between nodes).
    AskChunks,
    /// Store a file of this worker's disk.
    PutFile {
        /// The key.
        key: Vec<u8>,
        /// The path below `--files`.
        path: Vec<u8>,
    },
    /// Remove one key.
    Delete {
        /// The key.
        key: Vec<u8>,
        /// How to word the answer.
        style: Style,
    },
    /// One page of keys.
    List {
        /// Which ones.
        query: ListQuery,
        /// True for `consistency=stale`.
        stale: bool,
    },
    /// Several operations at once.
    Batch,
    /// Remove every key of a group.
    Clear(u32),
    /// Stop serving; the index names a worker, none the master.
    Close(Option<u32>),
    /// Open the master if it was closed, and describe it.
    Master,
    /// Open the worker if it was closed, and describe it.
    Worker(Option<u32>),
    /// Begin to read and mend everything that a worker holds.
    Verify(u32),
    /// How far that is.
    Verification(u32),
    /// The routes of the cluster.
    Cluster,
    /// Whether this node can serve.
    Health,
    /// Numbers for Prometheus.
    Metrics,
    /// A worker starts (between nodes).
    Register,
    /// A worker lives (between nodes).
    Heartbeat,
    /// A master starts (between nodes).
    RegisterMaster,
    /// Revive a group from one copy.
    Promote,
    /// Raft messages of another member (between nodes).
    Parcel,
    /// A chunk of a snapshot (between nodes).
    Chunk {
        /// The snapshot.
        id: u64,
        /// The Raft id of the member that pulls it.
        peer: u64,
        /// The row that it has already; none only says that the snapshot is still needed.
        after: Option<Vec<u8>>,
    },
    /// Order a digest of members' contents (between nodes).
    OrderDigest,
    /// A digest that was ordered (between nodes).
    Digest(u64),
    /// A step of a move of slots (between groups).
    Move,
    /// What a worker knows, should the masters be lost; it is not opened (between nodes).
    Facts,
    /// Recovered masters say who they are (between nodes).
    Recovered,
    /// One page of the keys of one group (between nodes).
    ListGroup {
        /// The group.
        group: u32,
        /// Which keys.
        query: ListQuery,
        /// True for `consistency=stale`.
        stale: bool,
    },
    /// Move slots until every group has its share.
    Rebalance,
    /// Let a group, or one worker, leave.
    Drain,
    /// Call a move off.
    CancelMove,
}

impl Action {
    /// True if the request is about keys and values, which a closed worker does not serve.
    pub fn is_data(&self) -> bool {
        matches!(
            self,
            Action::Get { .. }
                | Action::Put { .. }
                | Action::PutChunks { .. }
                | Action::HasChunks { .. }
                | Action::TakeChunk { .. }
                | Action::HoldChunks { .. }
                | Action::Commit(_)
                | Action::PutFile { .. }
                | Action::Delete { .. }
                | Action::List { .. }
                | Action::ListGroup { .. }
                | Action::Batch
                | Action::Clear(_)
        )
    }

    /// True if the request may change something: guards against other sites look only at those.
    pub fn changes(&self) -> bool {
        !matches!(
            self,
            Action::Get { .. }
                | Action::List { .. }
                | Action::ListGroup { .. }
                | Action::Cluster
                | Action::Health
                | Action::Metrics
                | Action::Verification(_)
                | Action::Chunk { .. }
                | Action::GiveChunk(_)
                | Action::Digest(_)
                | Action::Facts
        )
    }
}

/// A request that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// Do this; for HEAD the answer's body is left out.
    Do(Action),
    /// `OPTIONS`: name the methods.
    Options(&'static str),
}

/// A request that was not understood.
#[derive(Debug)]
pub struct Refusal {
    /// Why.
    pub error: Error,
    /// For a method that does not fit: those that do.
    pub allow: Option<&'static str>,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Refusal { error, allow: None }
    }
}

/// A path that is known, before its parts are decoded.
enum Place<'a> {
    Put(&'a str),
    PutFile(&'a str),
    Get(&'a str),
    Delete(&'a str),
    Clear(&'a str),
    Close(Option<&'a str>),
    Master,
    Worker(Option<&'a str>),
    Verify(&'a str),
    Key(&'a str),
    Keys,
    Batch,
    Cluster,
    Health,
    Metrics,
    Register,
    Heartbeat,
    RegisterMaster,
    Promote,
    Parcel,
    Chunk(&'a str),
    TakeChunk(&'a str),
    HoldChunks(&'a str),
    Commit(&'a str),
    GiveChunk(&'a str),
    AskChunks,
    OrderDigest,
    Digest(&'a str),
    Move,
    Facts,
    Recovered,
    ListGroup,
    Rebalance,
    Drain,
    CancelMove,
}

/// Reads a request line. `path` is the raw path, beginning with `/`; `query` what stands behind `?`.
pub fn parse(method: &str, path: &str, query: Option<&str>) -> Result<Route, Refusal> {
    if method == "OPTIONS" && path == "*" {
        return Ok(Route::Options("GET, HEAD, PUT, POST, DELETE, OPTIONS"));
    }
    let place = place(path).ok_or_else(|| {
        let shown: String = path.chars().take(80).collect();
        Error::new(Kind::NotFound, format!("there is no path {}", shown.escape_debug())).hint(PATHS)
    })?;
    let allow = methods(&place, query);
    if method == "OPTIONS" {
        return Ok(Route::Options(allow));
    }
    if !allow.split(", ").any(|known| known == method) {
        let shown: String = method.chars().take(20).collect();
        let detail = format!("{} does not fit this path", shown.escape_debug());
        let error = Error::new(Kind::MethodNotAllowed, detail).hint(format!("use one of: {allow}"));
        return Err(Refusal { error, allow: Some(allow) });
    }
    Ok(Route::Do(action(place, method, query)?))
}

/// Checks the length of a key. Errors: [`Kind::KeyEmpty`], [`Kind::KeyTooLong`].
pub fn check_key(key: &[u8]) -> Result<()> {
    match key.len() {
        0 => Err(Error::new(Kind::KeyEmpty, "the key is empty").hint("a key has 1 to 4096 bytes")),
        1..=LONGEST_KEY => Ok(()),
        length => Err(Error::new(Kind::KeyTooLong, format!("the key has {length} bytes"))
            .hint(format!("a key has at most {LONGEST_KEY} bytes"))),
    }
}

fn place(path: &str) -> Option<Place<'_>> {
    let rest = path.strip_prefix('/')?;
    let (head, tail) = match rest.split_once('/') {
        Some((head, tail)) => (head, Some(tail)),
        None => (rest, None),
    };
    let one = tail.map(|tail| tail.strip_suffix('/').unwrap_or(tail));
    let bare = one.is_none_or(str::is_empty);
    let place = match head {
        "kv" => tail.map_or(Place::Keys, Place::Key),
        "get" => Place::Get(one.unwrap_or_default()),
        "put" => Place::Put(tail.unwrap_or_default()),
        "put_file" => Place::PutFile(tail.unwrap_or_default()),
        "delete" => Place::Delete(one.unwrap_or_default()),
        "clear" => Place::Clear(one.unwrap_or_default()),
        "close" => Place::Close(one.filter(|index| !index.is_empty())),
        "worker" => Place::Worker(one.filter(|index| !index.is_empty())),
        "verify" => Place::Verify(one.unwrap_or_default()),
        "master" if bare => Place::Master,
        "batch" if bare => Place::Batch,
        "cluster" if bare => Place::Cluster,
        "health" if bare => Place::Health,
        "metrics" if bare => Place::Metrics,
        "internal" if one == Some("register") => Place::Register,
        "internal" if one == Some("heartbeat") => Place::Heartbeat,
        "internal" if one == Some("register-master") => Place::RegisterMaster,
        "internal" if one == Some("promote") => Place::Promote,
        "internal" if one == Some("raft") => Place::Parcel,
        "internal" if one == Some("chunks") => Place::AskChunks,
        "internal" if one == Some("digest") => Place::OrderDigest,
        "internal" if one == Some("move") => Place::Move,
        "internal" if one == Some("facts") => Place::Facts,
        "internal" if one == Some("recovered") => Place::Recovered,
        "internal" if one == Some("list") => Place::ListGroup,
        "internal" if one == Some("rebalance") => Place::Rebalance,
        "internal" if one == Some("drain") => Place::Drain,
        "internal" if one == Some("cancel-move") => Place::CancelMove,
        "internal" => match one?.split_once('/')? {
            ("snapshot", rest) => Place::Chunk(rest),
            ("upload", rest) => Place::TakeChunk(rest),
            ("hold", rest) => Place::HoldChunks(rest),
            ("commit", rest) => Place::Commit(rest),
            ("chunk", rest) => Place::GiveChunk(rest),
            ("digest", rest) => Place::Digest(rest),
            _ => return None,
        },
        _ => return None,
    };
    Some(place)
}

fn methods(place: &Place<'_>, query: Option<&str>) -> &'static str {
    match place {
        Place::Put(_) | Place::PutFile(_) => "GET, PUT, POST, OPTIONS",
        Place::Get(_) | Place::Keys | Place::Cluster | Place::Health | Place::Metrics => "GET, HEAD, OPTIONS",
        Place::Delete(_) | Place::Clear(_) => "GET, DELETE, POST, OPTIONS",
        Place::Close(_) | Place::Master | Place::Worker(_) | Place::Verify(_) => "GET, POST, OPTIONS",
        Place::Key(_) if query == Some("chunks") => "PUT, POST, OPTIONS",
        Place::Key(_) => "GET, HEAD, PUT, DELETE, OPTIONS",
        Place::Commit(_) => "PUT, OPTIONS",
        Place::Batch
        | Place::Register
        | Place::Heartbeat
        | Place::RegisterMaster
        | Place::Promote
        | Place::Parcel
        | Place::TakeChunk(_)
        | Place::HoldChunks(_)
        | Place::AskChunks
        | Place::OrderDigest
        | Place::Move
        | Place::Rebalance
        | Place::Drain
        | Place::CancelMove
        | Place::Recovered => "POST, OPTIONS",
        Place::Chunk(_) | Place::GiveChunk(_) | Place::Digest(_) | Place::ListGroup | Place::Facts => {
            "GET, OPTIONS"
        }
    }
}

fn action(place: Place<'_>, method: &str, query: Option<&str>) -> Result<Action> {
    match place {
        Place::Get(key) => get(segment_key(key)?, Style::Classic, query),
        Place::Put(rest) => put(rest, query),
        Place::PutFile(rest) => {
            no_query(query)?;
            let (key, path) = key_and_rest(rest, "/put_file/KEY/PATH")?;
            Ok(Action::PutFile { key, path: percent::decode(path.as_bytes())? })
        }
        Place::Delete(key) => {
            no_query(query)?;
            Ok(Action::Delete { key: segment_key(key)?, style: Style::Classic })
        }
        Place::Key(key) => resource(decode_key(key)?, method, query),
        Place::Keys => {
            let mut query = Query::parse(query, &LIST)?;
            let (query, stale) = list(&mut query)?;
            Ok(Action::List { query, stale })
        }
        Place::ListGroup => {
            let mut query = Query::parse(query, &[&LIST[..], &["group"]].concat())?;
            let group = index(&query.text("group")?.unwrap_or_default())?;
            let (query, stale) = list(&mut query)?;
            Ok(Action::ListGroup { group, query, stale })
        }
        Place::Chunk(rest) => chunk(rest, query),
        Place::Commit(rest) => commit(rest, query).map(Action::Commit),
        place => {
            no_query(query)?;
            Ok(match place {
                Place::Clear(text) => Action::Clear(index(text)?),
                Place::Close(text) => Action::Close(text.map(index).transpose()?),
                Place::Worker(text) => Action::Worker(text.map(index).transpose()?),
                Place::Verify(text) if method == "POST" => Action::Verify(index(text)?),
                Place::Verify(text) => Action::Verification(index(text)?),
                Place::Master => Action::Master,
                Place::Cluster => Action::Cluster,
                Place::Health => Action::Health,
                Place::Metrics => Action::Metrics,
                Place::Register => Action::Register,
                Place::Heartbeat => Action::Heartbeat,
                Place::RegisterMaster => Action::RegisterMaster,
                Place::Promote => Action::Promote,
                Place::Parcel => Action::Parcel,
                Place::AskChunks => Action::AskChunks,
                Place::TakeChunk(rest) => {
                    let (upload, slot) = upload(rest)?;
                    Action::TakeChunk { upload, slot }
                }
                Place::HoldChunks(rest) => {
                    let (upload, slot) = upload(rest)?;
                    Action::HoldChunks { upload, slot }
                }
                Place::GiveChunk(name) => Action::GiveChunk(chunk_name(name)?),
                Place::OrderDigest => Action::OrderDigest,
                Place::Move => Action::Move,
                Place::Facts => Action::Facts,
                Place::Recovered => Action::Recovered,
                Place::Rebalance => Action::Rebalance,
                Place::Drain => Action::Drain,
                Place::CancelMove => Action::CancelMove,
                Place::Digest(text) => Action::Digest(number(text)?),
                _ => Action::Batch,
            })
        }
    }
}

fn resource(key: Vec<u8>, method: &str, query: Option<&str>) -> Result<Action> {
    match method {
        "POST" => Ok(Action::HasChunks { key }),
        "PUT" => {
            let (chunks, query) = with_chunks(query);
            let mut query = Query::parse(query, &["ttl"])?;
            let ttl = query.text("ttl")?.as_deref().map(ttl::parse).transpose()?;
            if chunks {
                return Ok(Action::PutChunks { key, ttl });
            }
            Ok(Action::Put { key, style: Style::Resource, value: None, ttl })
        }
        "DELETE" => {
            no_query(query)?;
            Ok(Action::Delete { key, style: Style::Resource })
        }
        _ => get(key, Style::Resource, query),
    }
}

/// Takes the word `chunks` from the beginning of a query.
fn with_chunks(query: Option<&str>) -> (bool, Option<&str>) {
    match query.and_then(|query| query.strip_prefix("chunks")) {
        Some("") => (true, None),
        Some(rest) if rest.starts_with('&') => (true, Some(rest)),
        _ => (false, query),
    }
}

fn get(key: Vec<u8>, style: Style, query: Option<&str>) -> Result<Action> {
    if query.is_none() {
        return Ok(Action::Get { key, style, stale: false });
    }
    let mut query = Query::parse(query, &["consistency"])?;
    let stale = consistency(&mut query)?;
    Ok(Action::Get { key, style, stale })
}

/// True for `consistency=stale`.
fn consistency(query: &mut Query) -> Result<bool> {
    Ok(query.word("consistency", &["linearizable", "stale"])? == Some(1))
}

fn put(rest: &str, query: Option<&str>) -> Result<Action> {
    let (key, value) = key_and_rest(rest, "/put/KEY/VALUE")?;
    let value = percent::decode(value.as_bytes())?;
    if query == Some("") {
        return Err(Error::new(Kind::BadRequest, "the value ends with a bare ?").hint("write a ? as %3F"));
    }
    let mut query = Query::parse(query, &["ttl"])?;
    let ttl = query.text("ttl")?.as_deref().map(ttl::parse).transpose()?;
    Ok(Action::Put { key, style: Style::Classic, value: Some(value), ttl })
}

/// Which keys a list asks for, and whether it may be stale.
fn list(query: &mut Query) -> Result<(ListQuery, bool)> {
    let limit = match query.text("limit")? {
        None => 1000,
        Some(text) => {
            text.parse().ok().filter(|limit| (1..=LONGEST_PAGE).contains(limit)).ok_or_else(|| {
                Error::new(Kind::BadRequest, "`limit` is not a number of keys")
                    .hint(format!("limit is 1 to {LONGEST_PAGE}"))
            })?
        }
    };
    let values = query.word("values", &["false", "true"])? == Some(1);
    let prefix = query.bytes("prefix").unwrap_or_default();
    let after = query.bytes("after");
    for key in [Some(&prefix), after.as_ref()].into_iter().flatten().filter(|key| !key.is_empty()) {
        check_key(key)?;
    }
    let stale = consistency(query)?;
    Ok((ListQuery { prefix, after, limit, values }, stale))
}

fn no_query(query: Option<&str>) -> Result<()> {
    Query::parse(query, &[]).map(|_| ())
}

fn decode_key(text: &str) -> Result<Vec<u8>> {
    let key = percent::decode(text.as_bytes())?;
    check_key(&key)?;
    Ok(key)
}

fn segment_key(text: &str) -> Result<Vec<u8>> {
    if text.contains('/') {
        return Err(Error::new(Kind::BadRequest, "the key is more than one path segment")
            .hint("write a slash in a key as %2F, or use /kv/KEY"));
    }
    decode_key(text)
}

fn key_and_rest<'a>(text: &'a str, form: &str) -> Result<(Vec<u8>, &'a str)> {
    match text.split_once('/') {
        Some((key, rest)) => Ok((decode_key(key)?, rest)),
        None if text.is_empty() => {
            Err(Error::new(Kind::KeyEmpty, "the key is missing").hint(form.to_owned()))
        }
        None => Err(Error::new(Kind::BadRequest, "something is missing behind the key")
            .hint(format!("the form is {form}; to send a body use PUT /kv/KEY"))),
    }
}

fn index(text: &str) -> Result<u32> {
    let number = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    number.ok_or_else(|| {
        let shown: String = text.chars().take(20).collect();
        Error::new(Kind::BadRequest, format!("`{}` is not the index of a worker", shown.escape_debug()))
            .hint("an index is a number such as 0; /cluster lists them")
    })
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
