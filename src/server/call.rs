//! Calls from this node to another on a thread that may block: registration, heartbeats, and asking who holds a
//! port. Bounded in time and in the length of the answer; proxies of the environment are not for us.

use crate::cluster::view::Problem;
use crate::error::{Error, Kind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

/// The longest answer that is read: a chunk of a snapshot with one large row.
const LARGEST: u64 = 24 << 20;

/// What a name was found to mean is believed for so long.
const BELIEVED: Duration = Duration::from_secs(5);
/// Nodes have no more names than this; beyond, all are looked up anew.
const MOST_NAMES: usize = 256;

/// A client for calls between nodes.
pub(crate) struct Caller {
    agent: ureq::Agent,
    token: Option<String>,
}

impl Caller {
    /// A caller that sends `token`.
    pub(crate) fn new(token: Option<String>) -> Caller {
        let config = ureq::Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("catstore/", env!("CARGO_PKG_VERSION")))
            .build();
        let agent = ureq::Agent::with_parts(config, DefaultConnector::default(), Places::default());
        Caller { agent, token }
    }

    /// Sends a document and reads the answer's.
    ///
    /// Errors: [`Kind::Unreachable`] if nothing answered, or something that is not catstore; the kind of the problem
    /// document otherwise.
    pub(crate) fn post<T: Serialize, R: DeserializeOwned>(
        &self,
        address: &str,
        path: &str,
        document: &T,
        timeout: Duration,
    ) -> Result<R> {
        let body = serde_json::to_vec(document)
            .map_err(|error| Error::new(Kind::System, "cannot write the request as JSON").cause(error))?;
        let mut request =
            self.agent.post(format!("http://{address}{path}")).header("Content-Type", "application/json");
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let answer = request.config().timeout_global(Some(timeout)).build().send(&body[..]);
        read(answer, address)
    }

    /// Sends bytes and reads the answer's. Errors as [`Caller::post`].
    pub(crate) fn post_bytes(
        &self,
        address: &str,
        path: &str,
        body: &[u8],
        timeout: Duration,
    ) -> Result<Vec<u8>> {
        let mut request = self
            .agent
            .post(format!("http://{address}{path}"))
            .header("Content-Type", "application/octet-stream");
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        read_bytes(request.config().timeout_global(Some(timeout)).build().send(body), address)
    }

    /// Reads bytes. Errors as [`Caller::post`].
    pub(crate) fn get_bytes(&self, address: &str, path: &str, timeout: Duration) -> Result<Vec<u8>> {
        let mut request = self.agent.get(format!("http://{address}{path}"));
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        read_bytes(request.config().timeout_global(Some(timeout)).build().call(), address)
    }

    /// Reads a document.
    pub(crate) fn get<R: DeserializeOwned>(&self, address: &str, path: &str, timeout: Duration) -> Result<R> {
        let mut request = self.agent.get(format!("http://{address}{path}"));
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        read(request.config().timeout_global(Some(timeout)).build().call(), address)
    }
}

/// Where nodes are. Numbers are read, and names are looked up now and then: the resolver of `ureq` starts a thread for
/// each request, which costs more than a parcel.
#[derive(Debug, Default)]
struct Places {
    lookup: DefaultResolver,
    names: Mutex<HashMap<String, (Instant, Vec<SocketAddr>)>>,
}

impl Places {
    fn known(&self, name: &str) -> Option<Vec<SocketAddr>> {
        if let Ok(place) = name.parse() {
            return Some(vec![place]);
        }
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(name).filter(|(since, _)| since.elapsed() < BELIEVED).map(|(_, places)| places.clone())
    }

    fn keep(&self, name: &str, places: Vec<SocketAddr>) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= MOST_NAMES {
            names.clear();
        }
        names.insert(name.to_owned(), (Instant::now(), places));
    }
}

impl Resolver for Places {
    fn resolve(
        &self,
        uri: &ureq::http::Uri,
        config: &ureq::config::Config,
        timeout: NextTimeout,
    ) -> std::result::Result<ResolvedSocketAddrs, ureq::Error> {
        let name = uri.authority().map_or("", |authority| authority.as_str());
        if let Some(places) = self.known(name) {
            let mut known = self.empty();
            places.into_iter().for_each(|place| known.push(place));
            return Ok(known);
        }
        let found = self.lookup.resolve(uri, config, timeout)?;
        self.keep(name, found.to_vec());
        Ok(found)
    }
}

fn read<R: DeserializeOwned>(
    answer: std::result::Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    address: &str,
) -> Result<R> {
    serde_json::from_slice(&read_bytes(answer, address)?).map_err(|_| stranger(address))
}

/// Not a refusal: nothing of this cluster has spoken.
fn stranger(address: &str) -> Error {
    Error::new(Kind::Unreachable, format!("what answers at {address} is not a catstore node"))
}

/// Reads a body into room that is made once if the answer says how long it is: a chunk of a snapshot is long.
fn read_body(body: &mut ureq::Body) -> std::result::Result<Vec<u8>, ureq::Error> {
    let length = body.content_length().filter(|length| *length <= LARGEST);
    let mut reader = body.with_config().limit(LARGEST).reader();
    let mut bytes = vec![0; length.unwrap_or_default() as usize];
    reader.read_exact(&mut bytes)?;
    // Behind that there is nothing; reading the end of it gives the connection back.
    reader.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn read_bytes(
    answer: std::result::Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    address: &str,
) -> Result<Vec<u8>> {
    let unreachable =
        |error: ureq::Error| Error::new(Kind::Unreachable, format!("{address} does not answer")).cause(error);
    let mut answer = answer.map_err(unreachable)?;
    let status = answer.status();
    let body = read_body(answer.body_mut()).map_err(unreachable)?;
    if status.is_success() {
        return Ok(body);
    }
    match serde_json::from_slice::<Problem>(&body) {
        Ok(problem) => {
            let kind = Kind::from_word(&problem.kind).unwrap_or(Kind::Unreachable);
            let error = Error::new(kind, format!("{address} says: {}", problem.detail));
            Err(match problem.hint {
                Some(hint) => error.hint(hint),
                None => error,
            })
        }
        Err(_) => Err(stranger(address)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_and_names_are_remembered() {
        let places = Places::default();
        let number: SocketAddr = "127.0.0.1:3001".parse().unwrap();
        assert_eq!(places.known("127.0.0.1:3001"), Some(vec![number]));
        assert_eq!(places.known("[::1]:3001"), Some(vec!["[::1]:3001".parse().unwrap()]));
        assert_eq!(places.known("kitchen:3001"), None);
        places.keep("kitchen:3001", vec![number]);
        assert_eq!(places.known("kitchen:3001"), Some(vec![number]));
        for name in 0..2 * MOST_NAMES {
            places.keep(&name.to_string(), vec![number]);
        }
        assert!(places.names.lock().unwrap().len() <= MOST_NAMES);
    }
}
