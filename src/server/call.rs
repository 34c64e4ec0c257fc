//! Calls from this node to another on a thread that may block: registration, heartbeats, and asking who holds a
//! port. Bounded in time and in the length of the answer; proxies of the environment are not for us.

use crate::cluster::view::Problem;
use crate::error::{Error, Kind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::Read as _;
use std::time::Duration;

/// The longest answer that is read: a chunk of a snapshot with one large row.
const LARGEST: u64 = 24 << 20;

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
        Caller { agent: ureq::Agent::new_with_config(config), token }
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
