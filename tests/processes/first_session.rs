//! "I typed what the page says and it does not work." The first lines that anybody types, in their order, and the
//! older program's session.

use crate::common;
use crate::common::{Cluster, Home, Launch, Node, free_port};
use std::path::Path;
use std::process::Command;

/// The line `catstore WORDS` as a person types it: no `--data`, so that the default folder is used.
fn typed(home: &Home, port: u16, words: &[&str]) -> Launch {
    let mut launch = home.launch("master", port, &[]);
    launch.words = words.iter().map(|word| (*word).to_owned()).collect();
    launch
}

fn first_lines(home: &Home, master_port: u16, worker_port: u16, here: &Path) -> (Node, Node) {
    let (master_text, worker_text) = (master_port.to_string(), worker_port.to_string());
    let master = typed(home, master_port, &["master", &master_text]).here(here).serve();
    let worker = ["worker", &worker_text, "--master", &master_text, "--clone", "0"];
    let worker = typed(home, worker_port, &worker).here(here).serve();
    (worker, master)
}

#[test]
fn four_lines_in_four_terminals_and_again_after_a_stop() {
    let home = Home::new();
    let (master_port, worker_port) = (free_port(), free_port());
    let (mut worker, mut master) = first_lines(&home, master_port, worker_port, &home.path("here"));

    let folder = |role: &str, port: u16| home.path("data").join(format!("catstore/{role}-{port}"));
    let worker_folder = folder("worker", worker_port);
    let expected =
        format!("ready worker 0 at http://127.0.0.1:{worker_port} data {}", worker_folder.display());
    assert_eq!(worker.ready, expected);
    let ready = &master.ready;
    assert!(ready.starts_with("ready master"), "{ready}");
    assert!(ready.contains(&format!("http://127.0.0.1:{master_port}")), "{ready}");
    assert!(ready.ends_with(&folder("master", master_port).display().to_string()), "{ready}");
    assert!(worker.log().contains("founds"), "no note that --clone 0 founds worker 0:\n{}", worker.log());
    // The note belongs to the first start, and to standard error.
    assert!(worker_folder.join("identity.json").is_file());

    home.run_at(&master, &["put", "A", "happy"]).exits(0);
    assert_eq!(home.run_at(&master, &["get", "A"]).exits(0).text(), "happy");

    worker.stop();
    master.stop();
    drop((worker, master));
    let elsewhere = home.path("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let (mut worker, mut master) = first_lines(&home, master_port, worker_port, &elsewhere);
    assert_eq!(worker.ready, expected);
    assert_eq!(home.run_at(&master, &["get", "A"]).exits(0).text(), "happy");
    home.run_at(&master, &["put", "A", "happier"]).exits(0);

    // And in the other order: the worker is stopped last and started first; it has lived here before.
    master.stop();
    worker.stop();
    drop((worker, master));
    let (worker, master) = first_lines(&home, master_port, worker_port, &home.path("here"));
    assert_eq!(home.run_at(&master, &["get", "A"]).exits(0).text(), "happier");
    assert_eq!(home.run_at(&worker, &["get", "A"]).exits(0).text(), "happier");
    assert!(!home.path("here").join("catstore").exists(), "nothing is left in the current folder");
    assert_eq!(std::fs::read_dir(home.path("here")).unwrap().count(), 0);
}

#[test]
fn the_data_folder_can_be_named_by_the_environment() {
    let home = Home::new();
    let port = free_port();
    let folder = home.path("chosen/deep/below");
    let words = ["master", &port.to_string()];
    let mut launch = typed(&home, port, &words).env("CATSTORE_DATA", &folder.display().to_string());
    let master = launch.serve();
    assert!(master.ready.ends_with(&format!("data {}", folder.display())), "{}", master.ready);
    drop(master);

    // Without XDG_DATA_HOME the folder is below HOME.
    launch = typed(&home, port, &words);
    launch.environment.retain(|(key, _)| key != "XDG_DATA_HOME");
    let master = launch.serve();
    let expected = home.path("home").join(format!(".local/share/catstore/master-{port}"));
    assert!(master.ready.ends_with(&format!("data {}", expected.display())), "{}", master.ready);
}

/// Runs a shell line in a folder with the program on PATH; gives what it printed and how it ended.
fn shell(home: &Home, here: &Path, line: &str) -> (bool, String) {
    let program_folder = Path::new(common::PROGRAM).parent().expect("the program's folder");
    let path = format!("{}:{}", program_folder.display(), std::env::var("PATH").unwrap_or_default());
    let mut command: Command = home.command("sh");
    command.args(["-c", line]).current_dir(here).env("PATH", path);
    let outcome = common::finish(command, &[]);
    (outcome.code == 0, format!("{}{}", outcome.text(), outcome.err))
}

#[test]
fn the_older_programs_session_works_as_typed() {
    let home = Home::new();
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let here = home.path("here");
    std::fs::copy(project.join("examples/cat.jpg"), here.join("cat.jpg")).expect("examples/cat.jpg");

    let (m, w, c) = (free_port(), free_port(), free_port());
    let master = typed(&home, m, &["master", &m.to_string()]).serve();
    let worker = typed(&home, w, &["worker", &w.to_string()]).env("MASTER", &m.to_string()).serve();
    assert!(worker.ready.starts_with("ready worker 0 at "), "{}", worker.ready);

    let scripts = project.join("examples");
    let line = format!("{0}/start-master {m} && {0}/demo {w} 0", scripts.display());
    let (ended_well, said) = shell(&home, &here, &line);
    assert!(ended_well, "{line}\n{said}");

    let clone = typed(&home, c, &["worker", &c.to_string()]).env("MASTER", &m.to_string()).env("CLONE", "0");
    let mut clone = clone.serve();
    assert!(clone.ready.starts_with("ready worker 1 at "), "{}", clone.ready);
    assert!(clone.log().contains("worker 1 and worker 0 hold the same"), "{}", clone.log());

    let (ended_well, said) =
        shell(&home, &here, &format!("curl -sS localhost:{m}/master; curl -sS localhost:{w}/worker"));
    assert!(ended_well, "{said}");
    assert!(said.contains("\"workers\"") && said.contains("\"uuid\""), "{said}");

    // `--X` is curl's own abbreviation of `--xattr`: that is how the lines were written down.
    let curl = |path: &str| shell(&home, &here, &format!("curl -sS --X http://localhost:{w}/{path}"));
    if !curl("health").0 {
        println!("skipped the rest: this curl does not know the abbreviation --X");
        return;
    }
    assert!(curl("put/'A'/'happy'").0);
    assert!(curl("put_file/'B'/'cat.jpg'").0);
    assert_eq!(curl("get/'A'/").1, "happy");
    let picture = std::fs::read(here.join("cat.jpg")).unwrap();
    assert_eq!(worker.get("/get/B").must_be(200).body, picture);
    assert_eq!(master.get("/get/B").must_be(200).body, picture);
    assert_eq!(clone.get("/get/B").must_be(200).body, picture);
    clone.get("/clear/1").must_be_problem(409, "conflict");
    assert!(curl("delete/'A'").0);
    worker.get("/get/A").must_be_problem(404, "not_found");
    worker.get("/get/B").must_be(200);
    assert!(curl("clear/0").0);
    worker.get("/get/B").must_be_problem(404, "not_found");
    clone.get("/get/B").must_be_problem(404, "not_found");

    // The same lines start it again; the environment names its own group and changes nothing.
    clone.stop();
    clone.restart();
    assert!(clone.ready.starts_with("ready worker 1 at "), "{}", clone.ready);
}

#[test]
fn a_second_founder_is_welcome_and_forwards() {
    let cluster = Cluster::start();
    let second = cluster.home.worker(&cluster.master);
    assert!(second.ready.starts_with("ready worker 1 at "), "{}", second.ready);
    cluster.worker.put("A", "happy");
    assert_eq!(second.value("A").as_deref(), Some(b"happy".as_slice()));
    second.put("A", "forwarded");
    assert_eq!(cluster.worker.value("A").as_deref(), Some(b"forwarded".as_slice()));

    let said = cluster.run(&["status"]).exits(0).text();
    assert!(said.contains("lose worker 0 and its keys are gone"), "{said}");
    let slots = &second.get("/cluster").must_be(200).json()["slots"];
    assert_eq!(slots.as_array().map(Vec::len), Some(1), "{slots}");
    assert_eq!(slots[0]["group"], 0, "{slots}");

    // A worker that does not exist cannot be cloned; the error lists those that do.
    let launch = cluster.home.launch(
        "worker",
        free_port(),
        &["--master", &cluster.master.port.to_string(), "--clone", "7"],
    );
    let outcome = launch.refuse().exits(4);
    assert!(outcome.err.contains('7') && outcome.err.contains("0, 1"), "{}", outcome.err);
}

#[test]
fn clone_naming_itself_changes_nothing_and_another_group_is_refused() {
    let cluster = Cluster::start();
    let mut second = cluster.home.worker(&cluster.master);
    second.stop();
    let mut launch = second.launch.clone();
    launch.words.extend(["--clone".into(), "1".into()]);
    let mut again = launch.serve();
    assert!(again.ready.starts_with("ready worker 1 at "), "{}", again.ready);
    again.stop();
    *launch.words.last_mut().unwrap() = "0".into();
    let outcome = launch.refuse().exits(4);
    assert!(outcome.err.contains("worker 1"), "{}", outcome.err);
}
