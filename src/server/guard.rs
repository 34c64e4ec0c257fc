//! Who may ask: the token, and browsers that act for another site. A pure decision over a few headers.
//!
//! A node on localhost can be reached by every web page that the user opens, and classic GETs write. So a request
//! that would change something is refused if a browser says that it comes from another site, if its `Host` is not
//! ours (a rebound name), or if it is a prefetch that nobody asked for.

use crate::error::{Error, Kind, Result};
use actix_web::http::header::HeaderValue;
use std::net::IpAddr;
use std::sync::OnceLock;

/// What the guard knows of this node.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    token: Option<String>,
    names: Vec<String>,
    cluster: OnceLock<HeaderValue>,
}

/// The headers that the guard looks at, raw.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked<'a> {
    /// `Authorization`.
    pub authorization: Option<&'a [u8]>,
    /// `Host`, or the authority of an absolute request target.
    pub host: Option<&'a [u8]>,
    /// `Origin`.
    pub origin: Option<&'a [u8]>,
    /// `Sec-Fetch-Site`.
    pub fetch_site: Option<&'a [u8]>,
    /// `Sec-Purpose`, `Purpose` or `X-Moz`.
    pub purpose: Option<&'a [u8]>,
}

impl Guard {
    /// A guard that asks for `token`, and takes `names` (host names or `host:port`) as this node's own.
    pub fn new(token: Option<String>, names: impl IntoIterator<Item = String>) -> Guard {
        let names = names.into_iter().map(|name| host_of(&name).to_ascii_lowercase()).collect();
        Guard { token, names, cluster: OnceLock::new() }
    }

    /// The token that nodes of this cluster send each other.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// The id of this node's cluster, which never changes once `id` knows it.
    pub fn cluster(&self, id: impl FnOnce() -> Option<String>) -> Option<&HeaderValue> {
        if let Some(known) = self.cluster.get() {
            return Some(known);
        }
        let value = HeaderValue::try_from(id()?).ok()?;
        Some(self.cluster.get_or_init(|| value))
    }

    /// Refuses a request for the cluster `given` on a node of the cluster `own`. Errors with [`Kind::Moved`].
    pub fn check_cluster(own: &HeaderValue, given: &HeaderValue) -> Result<()> {
        if own == given {
            return Ok(());
        }
        let shown = |id: &HeaderValue| -> String {
            String::from_utf8_lossy(id.as_bytes()).chars().take(100).flat_map(char::escape_debug).collect()
        };
        let (own, given) = (shown(own), shown(given));
        Err(Error::new(
            Kind::Moved,
            format!("this node belongs to cluster {own}, not {given}; nothing was done"),
        )
        .hint("ask a node of your cluster for its routes: catstore status"))
    }

    /// Refuses a request without the token. Errors with [`Kind::Unauthorized`].
    pub fn check_token(&self, authorization: Option<&[u8]>) -> Result<()> {
        let Some(token) = &self.token else { return Ok(()) };
        let Some(header) = authorization else {
            return Err(Error::new(Kind::Unauthorized, "this node asks for a token")
                .hint("send Authorization: Bearer TOKEN, or give --token-file FILE"));
        };
        let given = match header.split_at_checked(7) {
            Some((scheme, given)) if scheme.eq_ignore_ascii_case(b"Bearer ") => given.trim_ascii(),
            _ => b"",
        };
        if same(given, token.as_bytes()) {
            return Ok(());
        }
        Err(Error::new(Kind::Unauthorized, "the token is not the one of this cluster")
            .hint("use the token file that the master was started with"))
    }

    /// Refuses what a browser sends for another site. Only for requests that change something.
    /// Errors with [`Kind::Forbidden`].
    pub fn check_site(&self, asked: &Asked<'_>) -> Result<()> {
        if asked
            .purpose
            .is_some_and(|purpose| purpose.to_ascii_lowercase().windows(8).any(|w| w == b"prefetch"))
        {
            return Err(forbidden("a prefetch changes nothing"));
        }
        if asked.fetch_site.is_some_and(|site| !matches!(site, b"same-origin" | b"none")) {
            return Err(forbidden("the request comes from another web site"));
        }
        let host = match asked.host.map(std::str::from_utf8) {
            None => None,
            Some(Ok(host)) => Some(host),
            Some(Err(_)) => return Err(forbidden("the Host header is not a name")),
        };
        if host.is_some_and(|host| !self.is_ours(host)) {
            let shown: String = host.unwrap_or_default().chars().take(100).collect();
            return Err(forbidden(&format!("`{}` is not a name of this node", shown.escape_debug()))
                .hint("start the node with --allow-host NAME if it is"));
        }
        match asked.origin {
            Some(origin) if !same_origin(origin, host) => {
                Err(forbidden("the request comes from a page of another origin"))
            }
            _ => Ok(()),
        }
    }

    fn is_ours(&self, host: &str) -> bool {
        let name = host_of(host).to_ascii_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name);
        name == "localhost" || name.parse::<IpAddr>().is_ok() || self.names.iter().any(|known| known == name)
    }
}

/// The host of `host`, `host:port`, `[v6]` or `[v6]:port`.
fn host_of(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    match authority.rsplit_once(':') {
        Some((host, _)) if !host.contains(':') => host,
        _ => authority,
    }
}

fn same_origin(origin: &[u8], host: Option<&str>) -> bool {
    let Ok(origin) = std::str::from_utf8(origin) else { return false };
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    match (authority, host) {
        (Some(authority), Some(host)) => authority.eq_ignore_ascii_case(host),
        _ => false,
    }
}

/// Compares in a time that does not depend on where the two differ.
fn same(given: &[u8], token: &[u8]) -> bool {
    let mut difference = given.len() ^ token.len();
    for (position, byte) in token.iter().enumerate() {
        let other = given.get(position).copied().unwrap_or(0);
        difference |= usize::from(std::hint::black_box(byte ^ other));
    }
    std::hint::black_box(difference) == 0
}

fn forbidden(detail: &str) -> Error {
    Error::new(Kind::Forbidden, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn guard() -> Guard {
        Guard::new(Some("secret".into()), ["cats.example:3000".into(), "Other.example".into()])
    }

    #[test]
    fn the_token_is_asked_for() {
        let table: [(Option<&[u8]>, bool); 8] = [
            (None, false),
            (Some(b"Bearer secret"), true),
            (Some(b"bearer secret"), true),
            (Some(b"Bearer secre"), false),
            (Some(b"Bearer secret1"), false),
            (Some(b"Bearer "), false),
            (Some(b"Basic secret"), false),
            (Some(b"secret"), false),
        ];
        for (header, passes) in table {
            assert_eq!(guard().check_token(header).is_ok(), passes, "{header:?}");
        }
        assert!(Guard::default().check_token(None).is_ok());
    }

    #[test]
    fn other_sites_change_nothing() {
        let ours = Asked { host: Some(b"127.0.0.1:3000"), ..Asked::default() };
        let table: Vec<(&str, Asked<'_>, bool)> = vec![
            ("curl", ours, true),
            ("no host", Asked::default(), true),
            ("localhost", Asked { host: Some(b"localhost:3000"), ..ours }, true),
            ("v6", Asked { host: Some(b"[::1]:3000"), ..ours }, true),
            ("advertised", Asked { host: Some(b"CATS.example:80"), ..ours }, true),
            ("allowed", Asked { host: Some(b"other.example."), ..ours }, true),
            ("rebound", Asked { host: Some(b"evil.example:3000"), ..ours }, false),
            ("localhost of evil", Asked { host: Some(b"localhost.evil.example"), ..ours }, false),
            ("not a name", Asked { host: Some(b"\xff"), ..ours }, false),
            ("typed", Asked { fetch_site: Some(b"none"), ..ours }, true),
            (
                "own page",
                Asked { fetch_site: Some(b"same-origin"), origin: Some(b"http://127.0.0.1:3000"), ..ours },
                true,
            ),
            ("other port", Asked { origin: Some(b"http://127.0.0.1:8080"), ..ours }, false),
            ("same site", Asked { fetch_site: Some(b"same-site"), ..ours }, false),
            ("cross site", Asked { fetch_site: Some(b"cross-site"), ..ours }, false),
            ("null origin", Asked { origin: Some(b"null"), ..ours }, false),
            ("foreign origin", Asked { origin: Some(b"https://evil.example"), ..ours }, false),
            ("prefetch", Asked { purpose: Some(b"prefetch"), ..ours }, false),
            ("prerender", Asked { purpose: Some(b"Prefetch;prerender"), ..ours }, false),
            ("other purpose", Asked { purpose: Some(b"preview"), ..ours }, true),
        ];
        for (name, asked, passes) in table {
            assert_eq!(guard().check_site(&asked).is_ok(), passes, "{name}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_headers_never_panic(host: Option<Vec<u8>>, origin: Option<Vec<u8>>, purpose: Option<Vec<u8>>, text: String) {
            let asked = Asked { host: host.as_deref(), origin: origin.as_deref(), purpose: purpose.as_deref(), ..Asked::default() };
            let _ = guard().check_site(&asked);
            let _ = guard().check_site(&Asked { host: Some(text.as_bytes()), ..asked });
            let _ = guard().check_token(host.as_deref());
        }
    }
}
