//! "The script broke because the command said something else." Every subcommand: what it prints where, and the
//! exit codes that scripts rely on.

use crate::common;
use crate::common::finish;
use crate::common::{Cluster, Home, Outcome, free_port, listed};
use std::process::Command;
use std::time::{Duration, Instant};

/// Asserts a failure that a person can use: nothing on standard output, one line on standard error.
#[track_caller]
fn fails(outcome: Outcome, code: i32) -> String {
    let outcome = outcome.exits(code);
    assert!(outcome.out.is_empty(), "a failure printed: {}", outcome.text());
    assert_eq!(outcome.err.trim_end().lines().count(), 1, "one line, please: {}", outcome.err);
    outcome.err
}

#[test]
fn put_get_delete() {
    let cluster = Cluster::start();
    let put = cluster.run(&["put", "A", "happy"]).exits(0);
    assert!(put.out.is_empty(), "put has nothing to print: {}", put.text());
    assert_eq!(cluster.run(&["get", "A"]).exits(0).out, b"happy", "raw bytes, nothing added");
    let said = fails(cluster.run(&["get", "B"]), 1);
    assert!(said.contains('B'), "{said}");
    fails(cluster.run(&["delete", "B"]), 1);
    let stale = cluster.run(&["get", "A", "--stale"]).exits(0);
    assert_eq!((stale.out.as_slice(), stale.err.as_str()), (b"happy".as_slice(), ""), "no lag in a script");
    let said = fails(cluster.run(&["get", "B", "--stale"]), 1);
    assert!(said.contains("--stale"), "{said}");
    cluster.run(&["delete", "A"]).exits(0);
    fails(cluster.run(&["get", "A"]), 1);

    // Awkward keys and values.
    for key in ["with space", "a/b", "100%", "😀", "-", "--"] {
        let (put, get) = (["put", "--", key, "value"], ["get", "--", key]);
        cluster.run(&put).exits(0);
        assert_eq!(cluster.run(&get).exits(0).out, b"value", "{key}");
    }
    cluster.run(&["put", "empty", ""]).exits(0);
    assert!(cluster.run(&["get", "empty"]).exits(0).out.is_empty());
    // Through a worker as well.
    assert_eq!(cluster.home.run_at(&cluster.worker, &["get", "a/b"]).exits(0).out, b"value");
}

#[test]
fn values_that_look_like_options_and_standard_input() {
    let cluster = Cluster::start();
    cluster.run(&["put", "A", "-5"]).exits(0);
    assert_eq!(cluster.run(&["get", "A"]).exits(0).out, b"-5");
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let put = ["put", "A", "-"];
    cluster.home.run_with_input(&cluster.master, &put, &bytes).exits(0);
    assert_eq!(cluster.run(&["get", "A"]).exits(0).out, bytes);
    cluster.run(&put).exits(0);
    assert!(cluster.run(&["get", "A"]).exits(0).out.is_empty(), "an empty standard input is an empty value");
}

#[test]
fn conditions_and_time_to_live() {
    let cluster = Cluster::start();
    cluster.run(&["put", "A", "1", "--if-absent"]).exits(0);
    fails(cluster.run(&["put", "A", "2", "--if-absent"]), 1);
    let version = cluster.worker.get("/kv/A").version().to_string();
    fails(cluster.run(&["put", "A", "2", "--if-version", "999999"]), 1);
    cluster.run(&["put", "A", "2", "--if-version", &version]).exits(0);
    fails(cluster.run(&["delete", "A", "--if-version", &version]), 1);
    let version = cluster.worker.get("/kv/A").version().to_string();
    cluster.run(&["delete", "A", "--if-version", &version]).exits(0);
    cluster.run(&["put", "T", "soon gone", "--ttl", "1s"]).exits(0);
    common::until("it expires", || (cluster.run(&["get", "T"]).code == 1).then_some(()));
    cluster.run(&["put", "T", "x", "--ttl", "cat"]).exits(2);
}

#[test]
fn files_in_and_out() {
    let cluster = Cluster::start();
    let here = cluster.home.path("here");
    let picture: Vec<u8> = (0..=255).rev().cycle().take(1 << 20).collect();
    std::fs::write(here.join("cat.jpg"), &picture).unwrap();
    cluster.run(&["put-file", "B", "cat.jpg"]).exits(0);
    let to_file = cluster.run(&["get", "B", "-o", "copy.jpg"]).exits(0);
    assert!(to_file.out.is_empty());
    assert_eq!(std::fs::read(here.join("copy.jpg")).unwrap(), picture);
    assert_eq!(cluster.run(&["get", "B"]).exits(0).out, picture);

    // A failed get leaves the file that was there, and nothing beside it.
    std::fs::write(here.join("kept"), "before").unwrap();
    fails(cluster.run(&["get", "absent", "-o", "kept"]), 1);
    assert_eq!(std::fs::read_to_string(here.join("kept")).unwrap(), "before");
    let names = std::fs::read_dir(&here).unwrap().count();
    assert_eq!(names, 3, "something was left behind");

    let said = fails(cluster.run(&["put-file", "B", "absent.jpg"]), 2);
    assert!(said.contains("absent.jpg"), "{said}");
    let outcome = cluster.run(&["put-file", "B", "."]);
    assert_ne!(outcome.code, 0);
    assert_eq!(cluster.worker.value("B").unwrap(), picture, "a failure changes nothing");
    let large = vec![7; (8 << 20) + 1];
    std::fs::write(here.join("large"), &large).unwrap();
    cluster.run(&["put-file", "L", "large"]).exits(0);
    cluster.home.run_with_input(&cluster.master, &["put", "M", "-"], &large).exits(0);
    assert!(cluster.worker.value("L").unwrap() == large && cluster.worker.value("M").unwrap() == large);
}

#[test]
fn the_limit_is_the_workers_not_the_commands() {
    let cluster = Cluster::with(&["--max-value", "1000"]);
    std::fs::write(cluster.home.path("here/large"), vec![b'x'; 1001]).unwrap();
    std::fs::write(cluster.home.path("here/fits"), vec![b'x'; 1000]).unwrap();
    cluster.run(&["put-file", "L", "fits"]).exits(0);
    let value = "x".repeat(1001);
    for line in [["put-file", "L", "large"], ["put", "L", &value]] {
        let said = fails(cluster.run(&line), 4);
        assert!(said.contains("1000"), "which limit? {said}");
    }
    assert_eq!(cluster.worker.value("L").map(|value| value.len()), Some(1000));
    // A node never takes more than this version can hold.
    let outcome = cluster.home.launch("worker", free_port(), &["--max-value", "65TiB"]).refuse().exits(2);
    assert!(outcome.err.contains("--max-value"), "{}", outcome.err);
}

#[test]
fn list_in_every_form() {
    let cluster = Cluster::start();
    for number in 0..30 {
        cluster.worker.put(format!("cat/{number:02}"), "12345");
    }
    cluster.worker.put("dog", "x");
    cluster.worker.put([0xff, 0], "binary");
    let lines = |arguments: &[&str]| -> Vec<String> {
        let text = cluster.run(arguments).exits(0).text();
        text.lines().map(str::to_owned).collect()
    };
    let cats: Vec<String> = (0..30).map(|number| format!("cat/{number:02}")).collect();
    assert_eq!(lines(&["list", "cat/", "--keys-only"]), cats);
    assert_eq!(lines(&["list", "cat/", "--keys-only", "--limit", "5"]), cats[..5]);
    assert_eq!(lines(&["list", "cat/", "--keys-only", "--limit", "5", "--after", "cat/09"]), cats[10..15]);
    assert_eq!(lines(&["list", "cat/"]).iter().filter(|line| line.contains("cat/")).count(), 30);
    assert!(lines(&["list", "nothing"]).is_empty());
    let page = cluster.run(&["list", "cat/", "--json"]).exits(0).json();
    assert_eq!(listed(&page), cats, "{page}");
    assert_eq!(page["keys"][0]["size"], 5, "{page}");
    let all = cluster.run(&["list", "--json"]).exits(0).json();
    assert_eq!(all["keys"].as_array().map(Vec::len), Some(32), "{all}");
    assert_eq!(all["keys"][31]["key"]["base64"], "/wA=", "{all}");
    assert!(!cluster.run(&["list"]).exits(0).out.contains(&0xff), "raw bytes could drive a terminal");
}

#[test]
fn clear_one_and_all() {
    let cluster = Cluster::start();
    for number in 0..5 {
        cluster.worker.put(number.to_string(), "x");
    }
    cluster.run(&["clear", "0", "--yes"]).exits(0);
    assert_eq!(cluster.worker.get("/kv").json()["keys"].as_array().map(Vec::len), Some(0));
    cluster.worker.put("A", "x");
    cluster.run(&["clear", "--all", "--yes"]).exits(0);
    assert_eq!(cluster.worker.value("A"), None);
    let outcome = cluster.run(&["clear", "7", "--yes"]);
    assert!(matches!(outcome.code, 1 | 4), "exit {}: {}", outcome.code, outcome.err);
    cluster.run(&["clear"]).exits(2);
}

#[test]
fn status_for_people_and_programs() {
    let cluster = Cluster::start();
    cluster.worker.put("A", "happy");
    common::until("the master knows of the key", || {
        let said = cluster.run(&["status", "--json"]).exits(0).json();
        (said["groups"][0]["keys"] == 1).then_some(())
    });
    let said = cluster.run(&["status"]).exits(0).text();
    for part in [cluster.worker.port.to_string(), cluster.master.port.to_string(), "16384".into()] {
        assert!(said.contains(&part), "no {part} in:\n{said}");
    }
    assert!(said.contains("1 member: lose worker 0 and its keys are gone"), "{said}");
    // Asked by way of a worker it is the same cluster.
    let by_worker = cluster.home.run_at(&cluster.worker, &["status", "--json"]).exits(0).json();
    assert_eq!(by_worker["cluster"], cluster.master.get("/master").json()["cluster"]);
}

#[test]
fn nobody_there_is_exit_3_and_soon() {
    let home = Home::new();
    let port = free_port().to_string();
    let start = Instant::now();
    for arguments in [
        vec!["get", "A"],
        vec!["put", "A", "b"],
        vec!["delete", "A"],
        vec!["list"],
        vec!["status"],
        vec!["clear", "0", "--yes"],
        vec!["close", "0"],
        vec!["open", "0"],
    ] {
        let mut words = arguments.clone();
        words.extend(["--master", &port]);
        let said = fails(home.run(&words), 3);
        assert!(said.contains(&port), "{arguments:?} does not say whom it asked: {said}");
    }
    assert!(start.elapsed() < Duration::from_secs(60), "8 refusals took {:?}", start.elapsed());
    // Of a list of addresses one that answers is enough, in any of their forms.
    let cluster = Cluster::start();
    cluster.worker.put("A", "happy");
    let there = cluster.master.port;
    for list in [
        format!("{port},{there}"),
        format!("127.0.0.1:{there}"),
        format!("http://127.0.0.1:{there}"),
        format!("localhost:{there}"),
    ] {
        assert_eq!(cluster.home.run(&["get", "A", "--master", &list]).exits(0).out, b"happy", "{list}");
    }
}

#[test]
fn a_command_that_waited_in_vain_says_one_line() {
    let home = Home::new();
    // A master without a worker: commands wait some seconds for the first one.
    let master = home.master();
    for arguments in [["get", "A"].as_slice(), &["put", "A", "b"]] {
        let said = fails(home.run_at(&master, arguments), 3);
        assert!(said.contains("worker"), "{said}");
    }
    // A token file that others can read is worth a word, but not beside an error.
    let token = home.path("here/token");
    std::fs::write(&token, "secret").unwrap();
    fails(home.run(&["get", "A", "--token-file", "token", "--master", &free_port().to_string()]), 3);
}

#[test]
fn usage_errors_are_exit_2() {
    let home = Home::new();
    for arguments in [
        vec![],
        vec!["cat"],
        vec!["get"],
        vec!["put", "A"],
        vec!["get", "A", "B"],
        vec!["put", "A", "b", "--fly"],
        vec!["worker"],
        vec!["worker", "cat"],
        vec!["master", "99999"],
        vec!["get", "A", "--master", "not an address"],
        vec!["list", "--limit", "cat"],
        vec!["clear", "cat"],
        vec!["completions", "cat"],
        vec!["promote"],
        vec!["promote", "cat"],
        vec!["promote", "-1"],
        vec!["worker", "3001", "--clone", "cat"],
        vec!["worker", "3001", "--replace", "cat"],
        vec!["worker", "3001", "--accept-data-loss"],
        vec!["worker", "3001", "--reads", "often"],
        vec!["master", "--join", "not an address"],
        vec!["master", "--join", ""],
        vec!["master", "--replicas", "0"],
        vec!["master", "--replicas", "cat"],
        vec!["master", "--dead-after", "0"],
        vec!["master", "--dead-after", "soon"],
        vec!["close"],
        vec!["close", "0", "1"],
    ] {
        let outcome = home.run(&arguments);
        assert_eq!(outcome.code, 2, "{arguments:?}: {}", outcome.err);
        assert!(!outcome.err.is_empty(), "{arguments:?}");
    }
    // An empty key is refused wherever it is noticed.
    let cluster = Cluster::start();
    let outcome = cluster.run(&["put", "", "x"]);
    assert!(matches!(outcome.code, 2 | 4), "exit {}: {}", outcome.code, outcome.err);
    let outcome = cluster.run(&["get", &"k".repeat(4097)]);
    assert!(matches!(outcome.code, 2 | 4), "exit {}: {}", outcome.code, outcome.err);
}

#[test]
fn what_comes_later_is_absent() {
    let home = Home::new();
    for arguments in [vec!["master", "--yes"], vec!["master", "--recover", "3001", "--join", "3000"]] {
        let outcome = home.run(&arguments);
        assert_eq!(outcome.code, 2, "{arguments:?}: {}", outcome.err);
    }
    let manual = home.run(&["help"]).exits(0).text();
    for word in [
        "master",
        "worker",
        "put",
        "put-file",
        "get",
        "delete",
        "list",
        "clear",
        "close",
        "open",
        "status",
        "promote",
        "rebalance",
        "bench",
        "drain",
        "verify",
        "demo",
        "token",
        "completions",
    ] {
        assert!(manual.contains(word), "{word} is not in the manual");
        home.run(&[word, "--help"]).exits(0);
    }
    for line in [
        "catstore put A happy",
        "catstore worker 3002 --master 3000 --clone 0",
        "catstore master 3010 --join 3000",
        "--replace 1",
        "catstore promote 2",
    ] {
        assert!(manual.contains(line), "a short manual, with examples: {line}");
    }
    assert!(home.run(&["--version"]).exits(0).text().contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn completions_for_the_usual_shells() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = home.run(&["completions", shell]).exits(0).text();
        assert!(script.contains("catstore") && script.contains("put-file"), "{shell}");
        for word in ["promote", "accept-data-loss", "dead-after", "replace"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}

/// What a command prints on a terminal, with its exit code. Nothing if there is no `script` to give it one.
fn on_a_terminal(cluster: &Cluster, line: &str) -> Option<(i32, String)> {
    let mut command: Command = cluster.home.command("script");
    let line = format!("{} {line}", common::PROGRAM);
    command.args(["-qec", &line, "/dev/null"]).env("CATSTORE_MASTER", cluster.master.port.to_string());
    if Command::new("script").arg("--version").output().is_err() {
        println!("skipped: there is no `script` to make a terminal with");
        return None;
    }
    let outcome = finish(command, &[]);
    Some((outcome.code, outcome.text()))
}

#[test]
fn on_a_terminal_it_talks_to_a_person() {
    let cluster = Cluster::start();
    let Some((code, said)) = on_a_terminal(&cluster, "put A happy") else { return };
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("A: 5 bytes, version 1, synced on 1 of 1"), "{said}");
    let (_, said) = on_a_terminal(&cluster, "get A").expect("a terminal");
    assert!(said.contains("happy\r\n"), "a newline after text: {said:?}");
    cluster.worker.put("B", b"\x1b[2J\0\xff");
    let (code, said) = on_a_terminal(&cluster, "get B").expect("a terminal");
    assert_ne!(code, 0, "{said:?}");
    assert!(!said.contains("\x1b[2J") && said.contains("-o"), "binary does not go to a terminal: {said:?}");
    for line in ["get A --stale", "get A --stale -o copy"] {
        let (code, said) = on_a_terminal(&cluster, line).expect("a terminal");
        assert!(code == 0 && said.contains("Catstore-Applied-Lag"), "{line}: {said:?}");
    }
    // A key cannot drive the terminal either.
    cluster.worker.put("\x1b[2J", "x");
    for line in ["list", "list --keys-only", "get --stale nothing$(printf '\\033[2J')"] {
        let (_, said) = on_a_terminal(&cluster, line).expect("a terminal");
        assert!(!said.contains("\x1b[2J"), "{line}: {said:?}");
    }
}

#[test]
fn a_closed_pipe_is_no_crash() {
    let cluster = Cluster::start();
    cluster.worker.put("large", vec![b'x'; 4 << 20]);
    let mut command: Command = cluster.home.command("sh");
    let line = format!("{} get large | head -c 10", common::PROGRAM);
    command.args(["-c", &line]).env("CATSTORE_MASTER", cluster.master.port.to_string());
    let outcome = finish(command, &[]);
    assert_eq!(outcome.out, b"xxxxxxxxxx");
    assert!(!outcome.err.contains("panicked"), "{}", outcome.err);
}

#[test]
fn nothing_is_written_to_the_current_folder_or_the_log() {
    let cluster = Cluster::start();
    cluster.run(&["put", "a key", "a very secret value"]).exits(0);
    cluster.run(&["get", "a key"]).exits(0);
    cluster.run(&["status"]).exits(0);
    assert_eq!(std::fs::read_dir(cluster.home.path("here")).unwrap().count(), 0);
    for node in [&cluster.worker, &cluster.master] {
        assert!(!node.log().contains("a very secret value"), "values do not belong in logs");
    }
}

#[test]
fn the_demo_shows_itself_and_leaves_nothing_behind() {
    let home = Home::new();
    let outcome = home.run(&["demo", "--exit"]).exits(0);
    let said = format!("{}{}", outcome.text(), outcome.err);
    assert!(said.contains("ready worker 0 at ") && !said.contains("--clone"), "{said}");
    // The others clone the first.
    let said = home.run(&["demo", "--workers", "3", "--exit"]).exits(0).text();
    assert!(said.contains("ready worker 2 at ") && said.contains("--clone 0"), "{said}");
    assert!(said.contains("any 1 of 3 may be lost"), "{said}");
    let left: Vec<_> =
        std::fs::read_dir(home.path("tmp")).unwrap().flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "{left:?}");
    for folder in ["here", "data"] {
        assert_eq!(std::fs::read_dir(home.path(folder)).unwrap().count(), 0, "in {folder}");
    }
}

#[test]
fn a_master_joins_its_own_cluster_and_no_other() {
    let cluster = Cluster::start();
    let port = free_port();
    let own = port.to_string();
    // Itself.
    let launch = cluster.home.launch("master", port, &["--join", &own]);
    let said = launch.refuse().exits(2).err;
    assert!(said.contains("cannot join itself"), "{said}");
    // A master's folder that belongs to another cluster.
    let other = Cluster::start();
    let mut founded = other.home.master();
    founded.stop();
    let mut launch = founded.launch.clone();
    launch.words.extend(["--join".into(), cluster.master.port.to_string()]);
    let said = launch.refuse().exits(4).err;
    assert!(said.contains("belongs to cluster"), "{said}");
    // A folder that has its place may be told to join its own cluster again, by any of its nodes.
    let mut joined = cluster.home.start("master", &["--join", &cluster.worker.port.to_string()]);
    assert!(joined.ready.starts_with("ready master at "), "{}", joined.ready);
    joined.stop();
    joined.restart();
    // Somebody that is no catstore.
    let stranger = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = stranger.local_addr().unwrap().port().to_string();
    drop(stranger);
    let launch = cluster.home.launch("master", free_port(), &["--join", &port]);
    let said = launch.refuse().exits(3).err;
    assert!(said.contains(&port) && said.contains("without --join it founds a cluster"), "{said}");
}
