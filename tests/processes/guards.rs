//! "A web page wrote to my store." Who may ask for what: the token, requests from other sites, foreign hosts,
//! prefetches, files of the worker's disk, and addresses beyond this machine.

use crate::common;
use crate::common::{Cluster, Home, Node, encode, free_port};
use serde_json::json;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

/// Makes a token file with `catstore token` and gives its path and content.
fn token(home: &Home) -> (PathBuf, String) {
    let path = home.path("token");
    home.run(&["token", &path.display().to_string()]).exits(0);
    let content = std::fs::read_to_string(&path).expect("a token file").trim().to_owned();
    (path, content)
}

#[test]
fn a_token_file_is_secret_and_every_one_is_another() {
    let home = Home::new();
    let (path, content) = token(&home);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    assert!(content.len() >= 22, "128 bits are 22 characters at least: {} here", content.len());
    // One that exists is not replaced: nodes may be using it.
    let outcome = home.run(&["token", &path.display().to_string()]);
    assert_ne!(outcome.code, 0);
    assert_eq!(std::fs::read_to_string(&path).unwrap().trim(), content);
    assert!(!outcome.err.contains(&content));
    assert_ne!(token(&Home::new()).1, content);
}

#[test]
fn without_the_token_nothing_is_served() {
    let home = Home::new();
    let (path, content) = token(&home);
    let file = path.display().to_string();
    let master = home.start("master", &["--token-file", &file]);
    let worker = home.start("worker", &["--master", &master.port.to_string(), "--token-file", &file]);
    let bearer = format!("Bearer {content}");
    for node in [&worker, &master] {
        let mut wrong = content.clone();
        wrong.replace_range(0..1, if content.starts_with('0') { "1" } else { "0" });
        for value in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer cat",
            &format!("Bearer {wrong}"),
            &format!("Basic {content}"),
            &content,
        ] {
            let headers: &[(&str, &str)] = if value.is_empty() { &[] } else { &[("Authorization", value)] };
            for (method, path) in [
                ("PUT", "/kv/A"),
                ("GET", "/kv/A"),
                ("GET", "/put/A/b"),
                ("GET", "/cluster"),
                ("GET", "/kv"),
                ("POST", "/batch"),
                ("GET", "/clear/0"),
            ] {
                let body = (method != "GET").then_some(b"x".as_slice());
                let reply = node.ask(method, path, headers, body).must_be_problem(401, "unauthorized");
                assert!(!reply.text().contains(&content), "the token is in the answer");
            }
        }
        // The roads between the nodes are no side door.
        for path in ["/worker", "/master", "/metrics", "/close/0", "/close"] {
            assert!(matches!(node.get(path).status, 401 | 404 | 405), "{path}: {}", node.get(path).status);
        }
        let headers = [("Authorization", bearer.as_str())];
        let reply = node.ask("PUT", "/kv/A", &headers, Some(b"happy"));
        assert!(matches!(reply.status, 200 | 201), "{} {}", reply.status, reply.text());
        assert_eq!(node.ask("GET", "/kv/A", &headers, None).must_be(200).text(), "happy");
        node.ask("GET", "/health", &headers, None).must_be(200);
    }

    // The command line: by option, by environment, and not at all.
    home.run_at(&master, &["get", "A", "--token-file", &file]).exits(0);
    let mut command: Command = home.command(common::PROGRAM);
    command
        .args(["get", "A"])
        .env("CATSTORE_MASTER", worker.port.to_string())
        .env("CATSTORE_TOKEN_FILE", &file);
    assert_eq!(common::finish(command, &[]).exits(0).text(), "happy");
    let refused = home.run_at(&master, &["get", "A"]).exits(4);
    assert!(refused.err.contains("token"), "{}", refused.err);

    // A worker without the token is not let in.
    let port = master.port.to_string();
    let outcome = home.launch("worker", free_port(), &["--master", &port]).refuse();
    assert!(matches!(outcome.code, 3 | 4), "exit {}: {}", outcome.code, outcome.err);
    assert!(outcome.err.contains("token"), "{}", outcome.err);
    for node in [&worker, &master] {
        assert!(!node.log().contains(&content), "the token is in the log");
    }
}

/// Asserts that a request is refused with 403 and changes nothing.
#[track_caller]
fn forbidden(node: &Node, method: &str, path: &str, headers: &[(&str, &str)]) {
    let body = matches!(method, "PUT" | "POST").then_some(b"evil".as_slice());
    let reply = node.ask(method, path, headers, body);
    assert_eq!(reply.status, 403, "{method} {path} {headers:?} on port {}: {}", node.port, reply.text());
    reply.must_be_problem(403, "forbidden");
}

/// Every request that changes something.
const CHANGES: [(&str, &str); 10] = [
    ("PUT", "/kv/A"),
    ("DELETE", "/kv/A"),
    ("POST", "/batch"),
    ("GET", "/put/A/evil"),
    ("POST", "/put/A/evil"),
    ("GET", "/put_file/A/cat.jpg"),
    ("GET", "/delete/A"),
    ("GET", "/clear/0"),
    ("GET", "/close/0"),
    ("POST", "/clear/0"),
];

#[test]
fn no_other_site_changes_anything() {
    let cluster = Cluster::start();
    std::fs::write(cluster.home.path("here/cat.jpg"), "a picture").unwrap();
    cluster.worker.put("A", "happy");
    for node in [&cluster.worker, &cluster.master] {
        for (method, path) in CHANGES {
            if path.starts_with("/put_file") && node.port == cluster.master.port {
                continue;
            }
            forbidden(node, method, path, &[("Sec-Fetch-Site", "cross-site")]);
            forbidden(node, method, path, &[("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "no-cors")]);
            forbidden(node, method, path, &[("Origin", "http://evil.example")]);
            forbidden(node, method, path, &[("Origin", "null")]);
            forbidden(node, method, path, &[("Host", "evil.example")]);
            forbidden(node, method, path, &[("Host", &format!("evil.example:{}", node.port))]);
            forbidden(node, method, path, &[("Host", "localhost.evil.example")]);
            forbidden(node, method, path, &[("Sec-Purpose", "prefetch")]);
            forbidden(node, method, path, &[("Sec-Purpose", "prefetch;prerender")]);
        }
        forbidden(node, "GET", "/close", &[("Sec-Fetch-Site", "cross-site")]);
    }
    assert_eq!(cluster.worker.value("A").as_deref(), Some(b"happy".as_slice()));
    cluster.master.get("/health").must_be(200);
}

#[test]
fn our_own_addresses_are_not_foreign() {
    let home = Home::new();
    let master = home.start("master", &["--allow-host", "cats.example"]);
    let worker =
        home.start("worker", &["--master", &master.port.to_string(), "--allow-host", "cats.example"]);
    for node in [&worker, &master] {
        let port = node.port;
        let hosts =
            ["localhost", "LocalHost", "127.0.0.1", "127.0.0.2", "[::1]", "192.168.0.7", "cats.example"];
        for host in hosts.iter().flat_map(|host| [(*host).to_owned(), format!("{host}:{port}")]) {
            let reply = node.ask("PUT", "/kv/A", &[("Host", &host)], Some(b"x"));
            assert!(matches!(reply.status, 200 | 201), "Host: {host}: {} {}", reply.status, reply.text());
        }
        for headers in [
            vec![("Sec-Fetch-Site", "none")],
            vec![("Sec-Fetch-Site", "same-origin"), ("Origin", "http://localhost:1")],
        ] {
            // What somebody types into the address line, and a page that this node served.
            let mut headers = headers;
            let origin = format!("http://localhost:{port}");
            let host = format!("localhost:{port}");
            for header in &mut headers {
                if header.0 == "Origin" {
                    header.1 = &origin;
                }
            }
            headers.push(("Host", &host));
            node.ask("GET", "/put/A/typed", &headers, None).must_be(200);
        }
        // Reads change nothing: a link from elsewhere may be followed.
        let reply = node.ask("GET", "/get/A", &[("Sec-Fetch-Site", "cross-site")], None);
        assert!(matches!(reply.status, 200 | 403), "{}", reply.status);
    }
}

#[test]
fn put_file_gives_nothing_away() {
    let home = Home::new();
    let master = home.master();
    let files = home.path("files");
    let secret = home.path("secret");
    std::fs::create_dir_all(files.join("sub/.hidden")).unwrap();
    std::fs::create_dir(&secret).unwrap();
    for (path, content) in [
        (files.join("open.txt"), "open"),
        (files.join(".dot"), "hidden"),
        (files.join("sub/.dot"), "hidden"),
        (files.join("sub/.hidden/file"), "hidden"),
        (files.join("sub/open.txt"), "open too"),
        (secret.join("file"), "secret"),
    ] {
        std::fs::write(path, content).unwrap();
    }
    symlink(secret.join("file"), files.join("link out")).unwrap();
    symlink("../secret/file", files.join("relative link out")).unwrap();
    symlink(&secret, files.join("folder out")).unwrap();
    symlink("open.txt", files.join("link inside")).unwrap();
    symlink(files.join(".dot"), files.join("link to dot")).unwrap();
    symlink("/dev/zero", files.join("zero")).unwrap();
    let fifo = Command::new("mkfifo").arg(files.join("fifo")).status();
    assert!(fifo.is_ok_and(|status| status.success()), "mkfifo");

    // The data folder lies inside the served folder on purpose.
    let port = master.port.to_string();
    let shown = files.display().to_string();
    let launch = home.launch("worker", free_port(), &["--master", &port, "--files", &shown]);
    let worker = launch.data(&files.join("data")).serve();

    for (path, value) in [("open.txt", "open"), ("sub/open.txt", "open too"), ("sub%2Fopen.txt", "open too")]
    {
        worker.get(&format!("/put_file/F/{path}")).must_be(200);
        assert_eq!(worker.value("F").unwrap(), value.as_bytes(), "{path}");
        worker.ask("DELETE", "/kv/F", &[], None).must_be(204);
    }
    let identity = files.join("data/identity.json");
    assert!(identity.is_file());
    for path in [
        ".dot",
        "sub/.dot",
        "sub/.hidden/file",
        "sub/../.dot",
        "link out",
        "relative link out",
        "folder out/file",
        "link to dot",
        "zero",
        "fifo",
        "sub",
        "sub/",
        ".",
        "..",
        "../secret/file",
        "sub/../../secret/file",
        "data/identity.json",
        "data/state/CURRENT",
        "data",
    ] {
        for text in [encode(path), path.split('/').map(encode).collect::<Vec<_>>().join("/")] {
            // In plain, and with the dots hidden from whatever tidies up paths on the way.
            for text in [text.clone(), text.replace('.', "%2e")] {
                let reply = worker.get(&format!("/put_file/F/{text}"));
                assert!(
                    matches!(reply.status, 403 | 404),
                    "{path} as {text}: {} {}",
                    reply.status,
                    reply.text()
                );
                assert_eq!(worker.value("F"), None, "{path} as {text} was stored");
            }
        }
    }
    for path in [
        ".dot",
        "sub/.dot",
        "link%20out",
        "folder%20out/file",
        "fifo",
        "sub",
        "data/identity.json",
        "%2e%2e/secret/file",
    ] {
        worker.get(&format!("/put_file/F/{path}")).must_be_problem(403, "forbidden");
    }
    for absolute in [secret.join("file"), files.join("open.txt"), PathBuf::from("/etc/passwd")] {
        for path in [absolute.display().to_string(), encode(absolute.display().to_string())] {
            let reply = worker.get(&format!("/put_file/F/{path}"));
            assert!(matches!(reply.status, 403 | 404), "{path}: {} {}", reply.status, reply.text());
            assert_eq!(worker.value("F"), None, "{path}");
        }
    }
    let reply = worker.get("/put_file/F/open.txt%00.jpg");
    assert!((400..500).contains(&reply.status), "{}", reply.status);
    worker.get("/put_file/F/absent").must_be_problem(404, "not_found");
    // The data folder's name does not help under another one either.
    symlink("data", files.join("alias")).unwrap();
    worker.get("/put_file/F/alias/identity.json").must_be_problem(403, "forbidden");
    assert_eq!(worker.get("/kv").json()["keys"], json!([]));
}

#[test]
fn beyond_this_machine_needs_a_token_or_a_word() {
    let home = Home::new();
    let master = home.master();
    let port = master.port.to_string();
    for (role, arguments) in [
        ("master", vec!["--host", "0.0.0.0"]),
        ("worker", vec!["--host", "0.0.0.0", "--master", &port]),
        ("master", vec!["--host", "::"]),
    ] {
        let launch = home.launch(role, free_port(), &arguments);
        let outcome = launch.refuse();
        assert!(matches!(outcome.code, 2 | 4), "exit {}: {}", outcome.code, outcome.err);
        assert!(
            outcome.err.contains("--token-file") && outcome.err.contains("--insecure"),
            "{}",
            outcome.err
        );
        assert!(!launch.data.exists(), "a refused start leaves no folder");
    }
    let (path, content) = token(&home);
    let open = home.start("master", &["--host", "0.0.0.0", "--token-file", &path.display().to_string()]);
    open.get("/kv/A").must_be_problem(401, "unauthorized");
    let bearer = format!("Bearer {content}");
    open.ask("GET", "/health", &[("Authorization", &bearer)], None);
    let insecure = home.start("master", &["--host", "0.0.0.0", "--insecure"]);
    insecure.get("/master").must_be(200);
    // An empty or readable-by-all token file is no protection.
    let empty = home.path("empty");
    std::fs::write(&empty, "\n").unwrap();
    std::fs::set_permissions(&empty, std::fs::Permissions::from_mode(0o600)).unwrap();
    let outcome =
        home.launch("master", free_port(), &["--token-file", &empty.display().to_string()]).refuse();
    assert_ne!(outcome.code, 0);
    let outcome = home.launch("master", free_port(), &["--token-file", "/nowhere/token"]).refuse();
    assert!(outcome.err.contains("/nowhere/token"), "{}", outcome.err);
}
