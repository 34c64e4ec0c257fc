//! The arrows between the rooms of the house, checked on the sources: who may name whom, who may do I/O, where
//! `unsafe` and the storage libraries live, and how long a file may be. A small reader of Rust's tokens finds the
//! paths that each file names; code below `#[cfg(test)]` may look where it wants and is left out.

// A test stops at the first surprise, in its helpers too.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Room, and the other rooms that it may name.
const ARROWS: &[(&str, &[&str])] = &[
    ("main", &["cmd", "error"]),
    ("cmd", &["client", "server", "cluster", "error"]),
    ("client", &["cluster", "error"]),
    ("server", &["replica", "cluster", "error"]),
    ("replica", &["store", "cluster", "error"]),
    ("store", &["cluster", "error"]),
    ("cluster", &["error"]),
    ("error", &[]),
];

/// Crate, and the places (a room, or a file of one) that may name it.
const CRATES: &[(&str, &[&str])] = &[
    ("leveldb", &["store/leveldb.rs"]),
    ("leveldb_sys", &["store/leveldb.rs"]),
    ("raft_engine", &["store/raft_engine.rs", "store/zero_filled.rs"]),
    ("quick_cache", &["store/warm.rs"]),
    ("tikv_jemallocator", &["main"]),
    ("raft", &["store", "replica"]),
    ("protobuf", &["store", "replica"]),
    ("actix_web", &["cmd", "server"]),
    ("actix_http", &["server"]),
    ("actix_service", &["server"]),
    ("awc", &["server"]),
    ("ureq", &["client", "server"]),
    ("clap", &["cmd", "main"]),
];

/// What decides takes time, disk, network and chance from outside.
const PURE: &[&str] = &[
    "cluster",
    "replica/core.rs",
    "replica/member.rs",
    "replica/machine.rs",
    "replica/keyspace.rs",
    "replica/changes.rs",
    "replica/repeats.rs",
    "replica/directory.rs",
    "replica/command.rs",
    "server/range/mod.rs",
    "server/range/header.rs",
    "server/range/join.rs",
    "server/range/multipart.rs",
];

/// What pure code may not name.
const OUTSIDE: &[&str] = &[
    "std::fs",
    "std::net",
    "std::thread",
    "std::env",
    "std::process",
    "std::time::Instant::now",
    "std::time::SystemTime",
    "tokio::time",
    "tokio::net",
    "tokio::fs",
    "tokio::task",
    "tokio::spawn",
    "getrandom",
];

const LONGEST_FILE: usize = 600;

/// `#[cfg(test)]` as tokens.
const CFG_TEST: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];

#[test]
fn the_sources_keep_the_arrows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &root, &mut files);
    assert!(files.len() > 20, "only {} files of src were found", files.len());
    let tests: Vec<String> = files.iter().flat_map(|(name, source)| test_files(name, source)).collect();
    let violations: Vec<String> = files
        .iter()
        .filter(|(name, _)| !tests.contains(name))
        .flat_map(|(name, source)| check(name, source))
        .collect();
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

#[test]
fn planted_violations_are_seen() {
    let planted: &[(&str, &str, &str)] = &[
        ("store/log.rs", "use crate::server::Thing;", "server"),
        ("store/log.rs", "fn f() { super::super::replica::go() }", "replica"),
        ("store/mod.rs", "use super::client;", "client"),
        ("cmd/put.rs", "use crate::{client::Client, store::{keys, log}};", "store"),
        ("cmd/put.rs", "mod inner { use super::super::super::replica; }", "replica"),
        ("main.rs", "use catstore::store;", "store"),
        ("error.rs", "use crate::cluster;", "cluster"),
        ("client/mod.rs", "use crate::*;", "*"),
        ("store/folder.rs", "use leveldb::database::Database;", "leveldb"),
        ("store/folder.rs", "fn f() { unsafe { leveldb_sys::leveldb_free(p) } }", "leveldb_sys"),
        ("store/mod.rs", "use ::leveldb::database::Database;", "leveldb"),
        ("store/log.rs", "type E = raft_engine::Engine;", "raft_engine"),
        ("server/mod.rs", "use raft::eraftpb::Entry;", "raft"),
        ("replica/driver.rs", "use actix_web::web;", "actix_web"),
        ("cluster/view.rs", "use std::fs;", "std::fs"),
        ("cluster/view.rs", "use std::{net::IpAddr, fmt};", "std::net"),
        ("replica/core.rs", "use std::time::Instant;\nfn f() { Instant::now(); }", "std::time::Instant::now"),
        ("replica/member.rs", "use std::time;\nfn f() { time::SystemTime::now(); }", "std::time::SystemTime"),
        ("replica/core.rs", "use std::thread as t;\nfn f() { t::sleep(x) }", "std::thread"),
        ("server/mod.rs", "fn f() { unsafe { g() } }", "unsafe"),
    ];
    for (name, source, seen) in planted {
        let violations = check(name, source);
        assert!(
            violations.iter().any(|line| line.contains(&format!("`{seen}`"))),
            "{name}: {source}\nshould have been refused for {seen}; got {violations:?}"
        );
    }
    assert_eq!(check("cluster/view.rs", &"\n".repeat(LONGEST_FILE + 1)).len(), 1);
}

/// A file that no `mod` names is not compiled, and nobody would miss its tests.
#[test]
fn every_file_with_tests_of_processes_is_run() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/processes");
    let main = fs::read_to_string(folder.join("main.rs")).unwrap();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let named = name == "main" || main.lines().any(|line| line == format!("mod {name};"));
        assert!(named, "{} is not a module of tests/processes/main.rs", path.display());
    }
}

#[test]
fn files_of_tests_are_known_by_their_parent() {
    let source = "pub mod log;\n#[cfg(test)]\nmod suite;\n#[cfg(test)]\npub(crate) mod tests { mod inner; }";
    assert_eq!(test_files("store/mod.rs", source), ["store/suite.rs", "store/suite/mod.rs"]);
    assert_eq!(
        test_files("store/log.rs", "#[cfg(test)]\nmod tests;"),
        ["store/log/tests.rs", "store/log/tests/mod.rs"]
    );
}

#[test]
fn what_is_allowed_is_let_through() {
    let fine: &[(&str, &str)] = &[
        ("store/folder.rs", "use super::{leveldb::Level, raft_engine::EngineLog};"),
        ("store/mod.rs", "pub mod leveldb;\nfn f() { leveldb::open() }"),
        ("store/leveldb.rs", "use leveldb::database::Database;\nfn f() { unsafe { leveldb_sys::x() } }"),
        (
            "server/mod.rs",
            "//! crate::store\n// unsafe\nfn f() { g(\"crate::store unsafe\", 'u', r#\"std::fs\"#) }",
        ),
        ("server/mod.rs", "#[cfg(test)]\nmod tests { use crate::store; fn f() { unsafe {} } }"),
        ("server/mod.rs", "#[cfg(test)]\nmod tests;\nuse crate::cluster::view;"),
        ("replica/core.rs", "use std::time::Instant;\nfn f<'a>(now: Instant) -> &'a str { \"x\" }"),
        (
            "cmd/mod.rs",
            "use crate::{client, cluster::slots, error::{Error, Result}, server};\nuse super::cmd::put;",
        ),
        ("lib.rs", "pub mod store; pub mod cmd;"),
    ];
    for (name, source) in fine {
        assert_eq!(check(name, source), Vec::<String>::new(), "{name}: {source}");
    }
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
            files.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
}

/// What is wrong with one file; `name` is its path below `src`.
fn check(name: &str, source: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if source.lines().count() > LONGEST_FILE {
        wrong.push(format!("src/{name}: over {LONGEST_FILE} lines; it wants to be two files"));
    }
    if name == "lib.rs" || name.ends_with("/tests.rs") || name.contains("/tests/") {
        return wrong;
    }
    let module = module_path(name);
    let room = module[0].as_str();
    let tokens = without_tests(tokens(source));
    if room != "store" && tokens.iter().any(|token| token == "unsafe") {
        wrong.push(format!("src/{name}: `unsafe` lives in src/store only"));
    }
    for path in paths(&tokens, &module) {
        let text = path.join("::");
        if path[0] == "crate" {
            let target = path.get(1).map_or("", String::as_str);
            let may = ARROWS.iter().find(|(from, _)| *from == room).map_or(&[][..], |(_, to)| to);
            if target != room && !may.contains(&target) {
                wrong.push(format!("src/{name}: {room} may not name `{target}` ({text})"));
            }
        }
        if let Some((_, places)) = CRATES.iter().find(|(library, _)| path[0] == *library)
            && !within(name, room, places)
        {
            wrong.push(format!("src/{name}: only {places:?} may name `{}` ({text})", path[0]));
        }
        if within(name, room, PURE)
            && let Some(outside) = OUTSIDE.iter().find(|outside| begins_with(&text, outside))
        {
            wrong.push(format!("src/{name}: decides, and may not name `{outside}` ({text})"));
        }
    }
    wrong
}

fn within(name: &str, room: &str, places: &[&str]) -> bool {
    places.iter().any(|place| *place == room || *place == name)
}

fn begins_with(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// `store/log.rs` is the module `store::log`, `store/mod.rs` is `store`.
fn module_path(name: &str) -> Vec<String> {
    let mut parts: Vec<String> = name.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    parts
}

/// Splits a source into words, `::` and single characters; comments, strings and lifetimes are dropped.
fn tokens(source: &str) -> Vec<String> {
    let bytes = source.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let byte = rest[0];
        if rest.starts_with(b"//") {
            at += rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        } else if rest.starts_with(b"/*") {
            at += block_comment(rest);
        } else if let Some(length) = string(rest) {
            at += length;
        } else if byte == b'\'' {
            at += quote(rest);
        } else if byte.is_ascii_alphanumeric() || byte == b'_' {
            let length =
                rest.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count();
            found.push(String::from_utf8_lossy(&rest[..length]).into_owned());
            at += length;
        } else if rest.starts_with(b"::") {
            found.push("::".to_owned());
            at += 2;
        } else {
            if byte.is_ascii_punctuation() {
                found.push(char::from(byte).to_string());
            }
            at += 1;
        }
    }
    found
}

fn block_comment(rest: &[u8]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// The length of the string literal that `rest` begins with, of any kind.
fn string(rest: &[u8]) -> Option<usize> {
    let prefix = rest.iter().take_while(|byte| matches!(byte, b'b' | b'c' | b'r')).count();
    let raw = rest[..prefix].contains(&b'r');
    let hashes = rest[prefix..].iter().take_while(|byte| **byte == b'#').count();
    let open = prefix + hashes;
    if prefix > 2 || (hashes > 0 && !raw) || rest.get(open) != Some(&b'"') {
        return None;
    }
    let mut at = open + 1;
    while at < rest.len() {
        if !raw && rest[at] == b'\\' {
            at += 2;
        } else if rest[at] == b'"'
            && rest[at + 1..].iter().take(hashes).filter(|byte| **byte == b'#').count() == hashes
        {
            return Some(at + 1 + hashes);
        } else {
            at += 1;
        }
    }
    Some(rest.len())
}

/// The length of the character literal, or of the lifetime's tick, that `rest` begins with.
fn quote(rest: &[u8]) -> usize {
    if rest.get(1) == Some(&b'\\') {
        return 3 + rest[3..].iter().position(|byte| *byte == b'\'').map_or(0, |end| end + 1);
    }
    let character = std::str::from_utf8(&rest[1..rest.len().min(5)]).map_or_else(
        |error| std::str::from_utf8(&rest[1..1 + error.valid_up_to()]).unwrap().chars().next(),
        |text| text.chars().next(),
    );
    let length = 1 + character.map_or(0, char::len_utf8);
    if rest.get(length) == Some(&b'\'') { length + 1 } else { 1 }
}

/// The files of the modules that `name` declares below `#[cfg(test)]`, as far as they are one file each.
fn test_files(name: &str, source: &str) -> Vec<String> {
    let tokens = tokens(source);
    let starts = (0..tokens.len()).filter(|at| tokens[*at..].iter().take(CFG_TEST.len()).eq(CFG_TEST.iter()));
    let declared = starts.filter_map(|at| {
        let item = &tokens[at + CFG_TEST.len()..];
        let word = item
            .iter()
            .take_while(|token| *token != ";" && *token != "{")
            .position(|token| token == "mod")?;
        (item.get(word + 2).is_some_and(|token| token == ";")).then(|| item[word + 1].clone())
    });
    let folder = module_path(name).join("/");
    declared
        .flat_map(|module| [format!("{folder}/{module}.rs"), format!("{folder}/{module}/mod.rs")])
        .collect()
}

/// Drops every item that follows `#[cfg(test)]`: up to its closing brace, or its semicolon.
fn without_tests(tokens: Vec<String>) -> Vec<String> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if !tokens[at..].iter().take(CFG_TEST.len()).eq(CFG_TEST.iter()) {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let mut depth = 0;
        at += CFG_TEST.len();
        while at < tokens.len() {
            let token = tokens[at].as_str();
            at += 1;
            depth += i32::from(token == "{") - i32::from(token == "}");
            if depth == 0 && (token == "}" || token == ";") {
                break;
            }
        }
    }
    kept
}

/// Every path of a file, made absolute: `super` and `self` against `module`, first words against its imports.
fn paths(tokens: &[String], module: &[String]) -> Vec<Vec<String>> {
    let mut imports: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut found: Vec<Vec<String>> = Vec::new();
    // Names and the brace depths of the inline modules that the reader is in.
    let mut inline: Vec<(String, usize)> = Vec::new();
    let (mut depth, mut at) = (0usize, 0usize);
    while at < tokens.len() {
        let token = tokens[at].as_str();
        let next = tokens.get(at + 1).map(String::as_str);
        let here: Vec<String> = module.iter().chain(inline.iter().map(|(name, _)| name)).cloned().collect();
        match token {
            "mod" if tokens.get(at + 2).is_some_and(|token| token == "{") => {
                inline.push((tokens[at + 1].clone(), depth));
                at += 2;
                continue;
            }
            "mod" if next.is_some() => {
                let mut declared: Vec<String> = here;
                declared.insert(0, "crate".to_owned());
                declared.push(tokens[at + 1].clone());
                imports.insert(tokens[at + 1].clone(), declared);
            }
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                if inline.last().is_some_and(|(_, opened)| *opened == depth) {
                    inline.pop();
                }
            }
            "use" => {
                at += 1;
                let mut tree = Vec::new();
                use_tree(tokens, &mut at, &[], &mut tree);
                for (path, name) in tree {
                    let path = absolute(path, &here);
                    imports.insert(name, path.clone());
                    found.push(path);
                }
                continue;
            }
            _ if next == Some("::") && is_word(token) => {
                let mut path = Vec::new();
                // A leading `::` means a crate, whatever was imported.
                if at > 0 && tokens[at - 1] == "::" {
                    path.push("::".to_owned());
                }
                path.push(token.to_owned());
                while tokens.get(at + 1).is_some_and(|token| token == "::")
                    && tokens.get(at + 2).is_some_and(|token| is_word(token))
                {
                    path.push(tokens[at + 2].clone());
                    at += 2;
                }
                found.push(absolute(path, &here));
            }
            _ => {}
        }
        at += 1;
    }
    for path in &mut found {
        if path[0] == "::" {
            path.remove(0);
        } else if let Some(full) = imports.get(&path[0])
            && full[0] != path[0]
            && path.len() > 1
        {
            let rest = path.split_off(1);
            *path = full.iter().cloned().chain(rest).collect();
        }
    }
    found
}

/// Reads one use tree at `at`, which is left behind it; collects (path, local name).
fn use_tree(tokens: &[String], at: &mut usize, prefix: &[String], found: &mut Vec<(Vec<String>, String)>) {
    let mut path = prefix.to_vec();
    while let Some(token) = tokens.get(*at) {
        match token.as_str() {
            "{" => {
                *at += 1;
                while tokens.get(*at).is_some_and(|token| token != "}") {
                    use_tree(tokens, at, &path, found);
                    *at += usize::from(tokens.get(*at).is_some_and(|token| token == ","));
                }
                *at += 1;
                return;
            }
            "::" if path.is_empty() => path.push("::".to_owned()),
            "::" => {}
            "as" => {
                *at += 2;
                let name = tokens.get(*at - 1).cloned().unwrap_or_default();
                found.push((path, name));
                return;
            }
            word if is_word(word) || word == "*" => path.push(word.to_owned()),
            _ => break,
        }
        *at += 1;
    }
    if let Some(last) = path.last().cloned() {
        if last == "self" && path.len() > 1 {
            path.pop();
        }
        let name = path.last().cloned().unwrap_or(last);
        found.push((path, name));
    }
}

fn is_word(token: &str) -> bool {
    token.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
}

/// `crate`, `catstore`, `self` and `super` at the head of a path, seen from the module `here`.
fn absolute(path: Vec<String>, here: &[String]) -> Vec<String> {
    let supers = path.iter().take_while(|part| *part == "super").count();
    let (up, skip) = match path[0].as_str() {
        "catstore" => (here.len(), 1),
        "self" => (0, 1),
        "super" => (supers, supers),
        _ => return path,
    };
    let base = &here[..here.len().saturating_sub(up)];
    let head = std::iter::once("crate".to_owned());
    head.chain(base.iter().cloned()).chain(path[skip..].iter().cloned()).collect()
}
