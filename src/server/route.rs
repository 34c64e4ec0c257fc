//! What a request asks for, as a pure function of its method, raw path and raw query. The raw path is split before
//! it is decoded, so that `%2F` stays inside a key. Headers play no part here; conditions and ranges have their
//! own files.

use super::{percent, query::Query, ttl};
use crate::error::{Error, Kind, Result};
use crate::replica::reader::ListQuery;

/// The longest key in bytes.
pub const LONGEST_KEY: usize = 4096;
/// The most keys of one page of a list.
pub const LONGEST_PAGE: usize = 10_000;

const PATHS: &str = "the paths are /put/KEY/VALUE /put_file/KEY/PATH /get/KEY /delete/KEY /clear/IDX /close/IDX \
/worker/IDX /master /kv/KEY /kv /batch /cluster /health /metrics";

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
    List(ListQuery),
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
}

impl Action {
    /// True if the request is about keys and values, which a closed worker does not serve.
    pub fn is_data(&self) -> bool {
        matches!(
            self,
            Action::Get { .. }
                | Action::Put { .. }
                | Action::PutFile { .. }
                | Action::Delete { .. }
                | Action::List(_)
                | Action::Batch
                | Action::Clear(_)
        )
    }

    /// True if the request may change something: guards against other sites look only at those.
    pub fn changes(&self) -> bool {
        !matches!(
            self,
            Action::Get { .. } | Action::List(_) | Action::Cluster | Action::Health | Action::Metrics
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
    Key(&'a str),
    Keys,
    Batch,
    Cluster,
    Health,
    Metrics,
    Register,
    Heartbeat,
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
    let allow = methods(&place);
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
        "master" if bare => Place::Master,
        "batch" if bare => Place::Batch,
        "cluster" if bare => Place::Cluster,
        "health" if bare => Place::Health,
        "metrics" if bare => Place::Metrics,
        "internal" if one == Some("register") => Place::Register,
        "internal" if one == Some("heartbeat") => Place::Heartbeat,
        _ => return None,
    };
    Some(place)
}

fn methods(place: &Place<'_>) -> &'static str {
    match place {
        Place::Put(_) | Place::PutFile(_) => "GET, PUT, POST, OPTIONS",
        Place::Get(_) | Place::Keys | Place::Cluster | Place::Health | Place::Metrics => "GET, HEAD, OPTIONS",
        Place::Delete(_) | Place::Clear(_) => "GET, DELETE, POST, OPTIONS",
        Place::Close(_) | Place::Master | Place::Worker(_) => "GET, POST, OPTIONS",
        Place::Key(_) => "GET, HEAD, PUT, DELETE, OPTIONS",
        Place::Batch | Place::Register | Place::Heartbeat => "POST, OPTIONS",
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
        Place::Keys => list(query),
        place => {
            no_query(query)?;
            Ok(match place {
                Place::Clear(text) => Action::Clear(index(text)?),
                Place::Close(text) => Action::Close(text.map(index).transpose()?),
                Place::Worker(text) => Action::Worker(text.map(index).transpose()?),
                Place::Master => Action::Master,
                Place::Cluster => Action::Cluster,
                Place::Health => Action::Health,
                Place::Metrics => Action::Metrics,
                Place::Register => Action::Register,
                Place::Heartbeat => Action::Heartbeat,
                _ => Action::Batch,
            })
        }
    }
}

fn resource(key: Vec<u8>, method: &str, query: Option<&str>) -> Result<Action> {
    match method {
        "PUT" => {
            let mut query = Query::parse(query, &["ttl"])?;
            let ttl = query.text("ttl")?.as_deref().map(ttl::parse).transpose()?;
            Ok(Action::Put { key, style: Style::Resource, value: None, ttl })
        }
        "DELETE" => {
            no_query(query)?;
            Ok(Action::Delete { key, style: Style::Resource })
        }
        _ => get(key, Style::Resource, query),
    }
}

fn get(key: Vec<u8>, style: Style, query: Option<&str>) -> Result<Action> {
    if query.is_none() {
        return Ok(Action::Get { key, style, stale: false });
    }
    let mut query = Query::parse(query, &["consistency"])?;
    let stale = query.word("consistency", &["linearizable", "stale"])? == Some(1);
    Ok(Action::Get { key, style, stale })
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

fn list(query: Option<&str>) -> Result<Action> {
    let mut query = Query::parse(query, &["prefix", "after", "limit", "values"])?;
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
    Ok(Action::List(ListQuery { prefix, after, limit, values }))
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn action(method: &str, target: &str) -> Action {
        let (path, query) =
            target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        match parse(method, path, query) {
            Ok(Route::Do(action)) => action,
            other => panic!("{method} {target}: {other:?}"),
        }
    }

    fn kind(method: &str, target: &str) -> Kind {
        let (path, query) =
            target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        parse(method, path, query).unwrap_err().error.kind()
    }

    fn put(key: &[u8], value: &[u8]) -> Action {
        Action::Put { key: key.to_vec(), style: Style::Classic, value: Some(value.to_vec()), ttl: None }
    }

    fn get(key: &[u8], style: Style) -> Action {
        Action::Get { key: key.to_vec(), style, stale: false }
    }

    #[test]
    fn classic_paths() {
        assert_eq!(action("GET", "/put/A/happy"), put(b"A", b"happy"));
        assert_eq!(action("POST", "/put/a%2Fb/x/y/"), put(b"a/b", b"x/y/"));
        assert_eq!(action("PUT", "/put/A/"), put(b"A", b""));
        assert_eq!(action("GET", "/put/A/%00%ff%25"), put(b"A", b"\x00\xff%"));
        assert_eq!(action("GET", "/get/A/"), get(b"A", Style::Classic));
        assert_eq!(action("HEAD", "/get/%F0%9F%90%88"), get("🐈".as_bytes(), Style::Classic));
        assert_eq!(
            action("DELETE", "/delete/A"),
            Action::Delete { key: b"A".to_vec(), style: Style::Classic }
        );
        assert_eq!(
            action("GET", "/put_file/B/cat.jpg"),
            Action::PutFile { key: b"B".to_vec(), path: b"cat.jpg".to_vec() }
        );
        assert_eq!(action("GET", "/clear/0/"), Action::Clear(0));
        assert_eq!(action("GET", "/close"), Action::Close(None));
        assert_eq!(action("GET", "/close/"), Action::Close(None));
        assert_eq!(action("POST", "/close/3"), Action::Close(Some(3)));
        assert_eq!(action("GET", "/master/"), Action::Master);
        assert_eq!(action("GET", "/worker"), Action::Worker(None));
        assert_eq!(action("GET", "/worker/7"), Action::Worker(Some(7)));
    }

    #[test]
    fn the_resource() {
        assert_eq!(action("GET", "/kv/a/b%2Fc/"), get(b"a/b/c/", Style::Resource));
        assert_eq!(
            action("GET", "/kv/a?consistency=stale"),
            Action::Get { key: b"a".to_vec(), style: Style::Resource, stale: true }
        );
        assert_eq!(
            action("PUT", "/kv/a?ttl=5m"),
            Action::Put { key: b"a".to_vec(), style: Style::Resource, value: None, ttl: Some(300_000) }
        );
        assert_eq!(
            action("GET", "/kv?prefix=a%20&after=a%20b&limit=5&values=true"),
            Action::List(ListQuery {
                prefix: b"a ".to_vec(),
                after: Some(b"a b".to_vec()),
                limit: 5,
                values: true
            })
        );
        assert_eq!(action("POST", "/batch"), Action::Batch);
        assert_eq!(action("POST", "/internal/register"), Action::Register);
    }

    #[test]
    fn what_is_wrong_has_its_own_word() {
        let table = [
            ("GET", "/", Kind::NotFound),
            ("GET", "/nothing", Kind::NotFound),
            ("GET", "/master/x", Kind::NotFound),
            ("GET", "/internal/other", Kind::NotFound),
            ("GET", "/get/%zz", Kind::BadRequest),
            ("GET", "/get/a%4", Kind::BadRequest),
            ("GET", "/get/a/b", Kind::BadRequest),
            ("GET", "/get/", Kind::KeyEmpty),
            ("GET", "/kv/", Kind::KeyEmpty),
            ("GET", "/put//x", Kind::KeyEmpty),
            ("GET", "/put/A", Kind::BadRequest),
            ("GET", "/put/A/b?", Kind::BadRequest),
            ("GET", "/put/A/b?c=d", Kind::BadRequest),
            ("GET", "/get/A?x=1", Kind::BadRequest),
            ("GET", "/kv?limit=0", Kind::BadRequest),
            ("GET", "/kv?limit=10001", Kind::BadRequest),
            ("GET", "/kv?values=yes", Kind::BadRequest),
            ("PUT", "/kv/a?ttl=0", Kind::BadRequest),
            ("GET", "/clear/x", Kind::BadRequest),
            ("GET", "/clear", Kind::BadRequest),
            ("GET", "/close/-1", Kind::BadRequest),
            ("GET", "/worker/99999999999", Kind::BadRequest),
            ("HEAD", "/put/A/x", Kind::MethodNotAllowed),
            ("HEAD", "/delete/A", Kind::MethodNotAllowed),
            ("HEAD", "/master", Kind::MethodNotAllowed),
            ("POST", "/get/A", Kind::MethodNotAllowed),
            ("GET", "/batch", Kind::MethodNotAllowed),
            ("BREW", "/kv/a", Kind::MethodNotAllowed),
        ];
        for (method, target, expected) in table {
            assert_eq!(kind(method, target), expected, "{method} {target}");
        }
        assert_eq!(action("GET", &format!("/kv/{}", "k".repeat(4096))), get(&[b'k'; 4096], Style::Resource));
        assert_eq!(kind("GET", &format!("/kv/{}", "k".repeat(4097))), Kind::KeyTooLong);
        assert_eq!(parse("BREW", "/batch", None).unwrap_err().allow, Some("POST, OPTIONS"));
    }

    #[test]
    fn options_and_head_change_nothing() {
        assert_eq!(
            parse("OPTIONS", "*", None).unwrap(),
            Route::Options("GET, HEAD, PUT, POST, DELETE, OPTIONS")
        );
        for path in [
            "/put/A/x",
            "/put_file/A/x",
            "/delete/A",
            "/clear/0",
            "/close/0",
            "/close",
            "/master",
            "/worker/0",
            "/batch",
        ] {
            assert!(matches!(parse("OPTIONS", path, None), Ok(Route::Options(_))), "{path}");
            assert!(parse("HEAD", path, None).is_err(), "{path}");
            if path != "/batch" {
                assert!(action("GET", path).changes(), "{path}");
            }
        }
    }

    proptest! {
        #[test]
        fn arbitrary_requests_never_panic(method in "[A-Z]{0,8}", path: String, query: Option<String>) {
            let _ = parse(&method, &path, query.as_deref());
        }

        #[test]
        fn plausible_requests_never_panic(
            method in "GET|PUT|POST|DELETE|HEAD|OPTIONS",
            path in "/(put|get|kv|delete|clear|put_file|close|worker|internal)?/[a%0-9F/]{0,8}",
            query in proptest::option::of("(ttl|limit|prefix|consistency)?=?[0-9a-z%]{0,6}"),
        ) {
            let _ = parse(&method, &path, query.as_deref());
        }

        #[test]
        fn any_key_can_be_asked_for(key in proptest::collection::vec(any::<u8>(), 1..60)) {
            prop_assert_eq!(action("GET", &format!("/get/{}", percent::encode(&key))), get(&key, Style::Classic));
            prop_assert_eq!(action("GET", &format!("/kv/{}", percent::encode(&key))), get(&key, Style::Resource));
        }
    }
}
