//! "My video does not come back as I sent it." Files of awkward sizes, in and out by HTTP, by the commands and by
//! `/put_file`, at the leader, at a member that does not lead, at a worker of another group and at the master, with and
//! without a length.

// A test stops at the first surprise, in its helpers too.
#![allow(clippy::unwrap_used)]

use crate::common;
use crate::common::group::Group;
use crate::common::home::Home;
use crate::common::http::encode;
use crate::common::{Dice, Node, Outcome};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

const INLINE: usize = 64 << 10;
const CHUNK: usize = 1 << 20;

/// A file of `length` random bytes.
fn file(home: &Home, name: &str, length: usize) -> PathBuf {
    let path = home.path(name);
    File::create(&path).unwrap().write_all(&Dice::fresh().bytes(length)).unwrap();
    path
}

fn same(one: &Path, other: &Path, what: &str) {
    let equal = std::fs::read(one).unwrap() == std::fs::read(other).unwrap();
    assert!(equal, "{what}: {} and {} differ", one.display(), other.display());
}

fn curl(home: &Home, arguments: &[&str]) -> Outcome {
    let mut command = home.command("curl");
    command.args(["--silent", "--show-error", "--fail"]).args(arguments);
    common::home::finish(command, b"").exits(0)
}

fn url(node: &Node, path: &str) -> String {
    format!("http://127.0.0.1:{}{path}", node.port)
}

#[test]
fn every_size_goes_in_and_out_through_every_door() {
    let group = Group::start(3, &[]);
    let home = &group.home;
    let lone = home.worker(&group.master);
    let all = [0, 1, INLINE - 1, INLINE, INLINE + 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5];
    let mut nodes = group.nodes();
    nodes.push(("another group".to_owned(), &lone));
    for (number, (name, node)) in nodes.iter().enumerate() {
        // What is cut where is the leader's; the others send it on.
        let sizes = if number == 0 { &all[..] } else { &all[4..7] };
        for size in sizes.iter().copied() {
            let sent = file(home, &format!("sent-{number}-{size}"), size);
            let got = home.path(format!("got-{number}-{size}"));
            let (sent_text, got_text) = (sent.display().to_string(), got.display().to_string());
            let what = format!("{size} bytes through {name}");
            for (by, key) in ["length", "chunked", "command"].map(|by| (by, format!("{by}-{number}-{size}")))
            {
                let target = url(node, &format!("/kv/{key}"));
                // curl never ends an empty body of unknown length.
                let by = if size == 0 && by == "chunked" { "length" } else { by };
                match by {
                    "length" => drop(curl(home, &["-T", &sent_text, &target])),
                    "chunked" => {
                        let chunked = ["-H", "Transfer-Encoding: chunked", "-T", &sent_text, &target];
                        drop(curl(home, &chunked));
                    }
                    _ => drop(home.run_at(node, &["put-file", &key, &sent_text]).exits(0)),
                }
                curl(home, &["-o", &got_text, &target]);
                same(&sent, &got, &format!("{what}, {by}, by curl"));
                home.run_at(node, &["get", &key, "-o", &got_text]).exits(0);
                same(&sent, &got, &format!("{what}, {by}, by get"));
            }
        }
    }
}

#[test]
fn cat_pictures_and_pipes() {
    let group = Group::start(1, &[]);
    let (home, worker) = (&group.home, &group.workers[0]);
    let cat = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/cat.jpg")).unwrap();
    let large = Dice::fresh().bytes(2 * CHUNK + 77);
    for (key, value) in [("cat", &cat), ("large", &large), ("empty", &Vec::new())] {
        home.run_with_input(worker, &["put", key, "-"], value).exits(0);
        assert!(home.run_at(worker, &["get", key]).exits(0).out == *value, "{key} through pipes");
        assert!(worker.value(key).unwrap() == *value, "{key} by HTTP");
    }
}

#[test]
fn files_of_the_workers_own_disk() {
    let group = Group::start(3, &[]);
    let home = &group.home;
    for (number, (name, node)) in
        group.nodes().into_iter().enumerate().filter(|(_, (name, _))| name != "the master")
    {
        for size in [0, INLINE, INLINE + 1, 2 * CHUNK + 1] {
            let below = format!("own-{number}-{size}");
            let sent = file(home, &format!("here/{below}"), size);
            let key = format!("file-{number}-{size}");
            let said = node.get(&format!("/put_file/{key}/{}", encode(&below))).must_be(200);
            assert!(said.text().starts_with(&format!("{key}: {size} byte")), "{name}: {}", said.text());
            assert!(
                node.value(&key).unwrap() == std::fs::read(&sent).unwrap(),
                "{size} bytes through {name}"
            );
        }
    }
}

#[test]
fn parts_of_a_file_and_a_download_that_goes_on() {
    let group = Group::start(3, &[]);
    let home = &group.home;
    let sent = file(home, "video", 3 * CHUNK + 100);
    let bytes = std::fs::read(&sent).unwrap();
    for (name, node) in group.nodes() {
        let key = format!("video of {name}");
        let target = url(node, &format!("/kv/{}", encode(&key)));
        curl(home, &["-T", &sent.display().to_string(), &target]);
        for (from, to) in
            [(0, 0), (CHUNK - 1, CHUNK), (CHUNK, 2 * CHUNK + 5), (3 * CHUNK + 99, 3 * CHUNK + 99)]
        {
            let part = node.ask(
                "GET",
                &format!("/kv/{}", encode(&key)),
                &[("Range", &format!("bytes={from}-{to}"))],
                None,
            );
            let part = part.must_be(206);
            assert!(part.body == bytes[from..=to], "{from}-{to} of {name}");
            let place = format!("bytes {from}-{to}/{}", bytes.len());
            assert_eq!(part.header("content-range"), Some(place.as_str()));
        }
        node.ask("GET", &format!("/kv/{}", encode(&key)), &[("Range", "bytes=99999999-")], None).must_be(416);
        let half = home.path(format!("half of {name}"));
        std::fs::write(&half, &bytes[..CHUNK + 17]).unwrap();
        curl(home, &["-C", "-", "-o", &half.display().to_string(), &target]);
        same(&sent, &half, "curl -C -");
    }
}

#[test]
fn an_interrupted_put_file_goes_on_where_it_was() {
    let group = Group::start(3, &[]);
    let home = &group.home;
    let node = &group.workers[0];
    let sent = file(home, "long", 24 * CHUNK + 3);
    let text = sent.display().to_string();
    // A client that dies in the middle: curl is held to a rate and killed.
    let mut command = home.command("curl");
    command.args(["--silent", "--limit-rate", "8M", "-T", &text, &url(node, "/kv/long")]);
    let mut upload =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let stored = || common::files_below(&group.workers[0].data.join("blobs")).len();
    common::until("some chunks are there", || (stored() >= 6).then_some(()));
    upload.kill().unwrap();
    upload.wait().unwrap();
    assert_eq!(node.value("long"), None, "nothing of it is to be seen");
    let before = received(node);
    home.run_at(node, &["put-file", "long", &text, "--resume"]).exits(0);
    let sent_again = received(node) - before;
    assert!(sent_again < 21 * CHUNK as u64, "{sent_again} bytes were sent again");
    assert!(node.value("long").unwrap() == std::fs::read(&sent).unwrap());
}

/// Bytes of bodies that the node has received.
fn received(node: &Node) -> u64 {
    let page = node.get("/metrics").must_be(200).text();
    common::counter(&page, "catstore_body_bytes_total") as u64
}
