//! Where a node serves and by which address others reach it. A worker that only its own machine can reach is no
//! use to a master elsewhere, nor the reverse: such pairs are refused with the command to type instead.

use super::config::{NodeOptions, WorkerOptions};
use crate::error::{Error, Kind, Result};
use std::net::{IpAddr, ToSocketAddrs, UdpSocket};

/// True if `host` (a name or an IP literal) means this machine only.
pub fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// `host:port`, with brackets around an IPv6 literal.
pub fn join(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Host and port of `host:port`.
pub fn split(address: &str) -> (&str, Option<u16>) {
    match address.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port.parse().ok()),
        _ => (address, None),
    }
}

/// The address that a node on `port` tells others. A wildcard host is replaced by the address from which this
/// machine reaches `towards`.
pub fn advertised(options: &NodeOptions, port: u16, towards: Option<&str>) -> String {
    if let Some(given) = &options.advertise {
        return match split(given) {
            (_, Some(_)) => given.clone(),
            (host, None) => join(host, port),
        };
    }
    let wildcard = options.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified());
    if !wildcard {
        return join(&options.host, port);
    }
    let outward = towards.and_then(local_address).or_else(|| local_address("192.0.2.1:9"));
    join(&outward.map_or_else(|| "127.0.0.1".to_owned(), |ip| ip.to_string()), port)
}

/// Refuses a worker and a master of which only one can be reached from other machines. `advertised` is the
/// worker's own address. Errors with [`Kind::Conflict`].
pub fn check_pair(options: &WorkerOptions, advertised: &str, master: &str) -> Result<()> {
    let Some(master_is_local) = resolves_to_loopback(master) else { return Ok(()) };
    let worker_is_local = is_loopback(split(advertised).0);
    if worker_is_local == master_is_local {
        return Ok(());
    }
    let mut command = format!("catstore worker {} --master {master}", options.node.port);
    if let Some(clone) = options.clone {
        command.push_str(&format!(" --clone {clone}"));
    }
    command.push_str(&format!(" --data {}", quote(&options.node.data.to_string_lossy())));
    if worker_is_local {
        command.push_str(" --host 0.0.0.0 --token-file FILE");
        Err(Error::new(
            Kind::Conflict,
            format!("the master {master} is on the network, but {advertised} can be reached from this machine only"),
        )
        .hint(format!("type: {command}")))
    } else {
        Err(Error::new(
            Kind::Conflict,
            format!("the master {master} can be reached from its own machine only, but {advertised} is on the network"),
        )
        .hint(format!("type: {command} --host 127.0.0.1; or start the master with --host 0.0.0.0")))
    }
}

/// `text` as one word of a shell command.
pub fn quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=@%+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// None if the name does not resolve.
fn resolves_to_loopback(address: &str) -> Option<bool> {
    let (host, _) = split(address);
    if is_loopback(host) {
        return Some(true);
    }
    address.to_socket_addrs().ok()?.next().map(|resolved| resolved.ip().is_loopback())
}

/// The local address of a route to `towards`; no packet is sent.
fn local_address(towards: &str) -> Option<IpAddr> {
    let towards = towards.to_socket_addrs().ok()?.next()?;
    let any = if towards.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(towards).ok()?;
    socket.local_addr().ok().map(|local| local.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(host: &str, advertise: Option<&str>) -> WorkerOptions {
        WorkerOptions {
            node: NodeOptions {
                host: host.into(),
                port: 3001,
                data: "/my data".into(),
                advertise: advertise.map(str::to_owned),
                allow_hosts: Vec::new(),
                token: None,
                insecure: true,
                threads: None,
                cache: 0,
            },
            masters: Vec::new(),
            clone: Some(0),
            replace: None,
            accept_data_loss: false,
            files: None,
            max_value: 1,
            reserve: 0,
            keep_uploads: std::time::Duration::ZERO,
            quorum_reads: false,
        }
    }

    #[test]
    fn addresses_come_apart_and_together() {
        assert_eq!(split("a:1"), ("a", Some(1)));
        assert_eq!(split("[::1]:1"), ("[::1]", Some(1)));
        assert_eq!(split("::1"), ("::1", None));
        assert_eq!(split("a"), ("a", None));
        assert_eq!(join("::1", 5), "[::1]:5");
        assert_eq!(join("a", 5), "a:5");
        assert!(
            is_loopback("127.0.0.7") && is_loopback("[::1]") && is_loopback("LOCALHOST") && !is_loopback("a")
        );
    }

    #[test]
    fn a_node_tells_others_where_it_is() {
        assert_eq!(advertised(&worker("127.0.0.1", None).node, 7, None), "127.0.0.1:7");
        assert_eq!(advertised(&worker("10.0.0.5", None).node, 7, None), "10.0.0.5:7");
        assert_eq!(advertised(&worker("0.0.0.0", Some("cats.example")).node, 7, None), "cats.example:7");
        assert_eq!(advertised(&worker("0.0.0.0", Some("cats.example:80")).node, 7, None), "cats.example:80");
        assert_eq!(advertised(&worker("0.0.0.0", None).node, 7, Some("127.0.0.1:3000")), "127.0.0.1:7");
    }

    #[test]
    fn half_reachable_pairs_are_refused_with_a_command() {
        assert!(check_pair(&worker("127.0.0.1", None), "127.0.0.1:3001", "localhost:3000").is_ok());
        assert!(check_pair(&worker("10.0.0.5", None), "10.0.0.5:3001", "10.0.0.1:3000").is_ok());
        let error = check_pair(&worker("127.0.0.1", None), "127.0.0.1:3001", "10.0.0.1:3000").unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict);
        let hint = error.hint_text().unwrap();
        assert!(hint.contains(
            "catstore worker 3001 --master 10.0.0.1:3000 --clone 0 --data '/my data' --host 0.0.0.0"
        ));
        assert!(check_pair(&worker("10.0.0.5", None), "10.0.0.5:3001", "127.0.0.1:3000").is_err());
    }

    #[test]
    fn words_of_a_shell_command() {
        assert_eq!(quote("/a/b-c.d"), "/a/b-c.d");
        assert_eq!(quote("a b"), "'a b'");
        assert_eq!(quote("a'b"), "'a'\\''b'");
        assert_eq!(quote(""), "''");
    }
}
