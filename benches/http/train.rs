//! What the release binary is trained by: a little of everything that a cluster does, so that the compiler knows which code is
//! used much. `scripts/trained` runs it with a build that counts; it measures nothing.
//!
//! Left out on purpose: failures. What happens then must work, and need not be fast.

use crate::shared::cluster::{Cluster, Node};
use crate::shared::hello::Hello;
use crate::shared::load::{Data, raw_get};
use crate::shared::{CONNECTIONS, Result, VALUE, leveldb, note, wrk};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Each load runs so long.
const SECONDS: u64 = 5;
const KEYS: &str = "50000";

pub fn run() -> Result<()> {
    wrk::present()?;
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let cluster = Cluster::start(folder.path())?;
    let master = cluster.master.address();
    values(&master)?;
    others(&cluster, folder.path())?;
    files(&master, folder.path())?;
    let mut more = groups(&cluster)?;
    more.iter_mut().try_for_each(Node::stop)?;
    cluster.stop()
}

/// Small values, one at a time and in batches, and some that are larger.
fn values(master: &str) -> Result<()> {
    for load in [
        ["--reads", "95", "--zipf", "0.99"].as_slice(),
        &["--reads", "50"],
        &["--reads", "0"],
        &["--reads", "0", "--batch", "100"],
        &["--reads", "80", "--size", "4KiB"],
        &["--reads", "80", "--size", "100KiB", "--keys", "1000"],
    ] {
        bench(master, load)?;
    }
    Ok(())
}

/// The load of the other benchmarks, by wrk: another client's way to say the same. What catstore is compared with in this
/// program, the bare server and LevelDB's writers, is trained too.
fn others(cluster: &Cluster, folder: &Path) -> Result<()> {
    note("wrk");
    let data = Data::plain(50_000, VALUE);
    let worker = cluster.worker.address();
    data.load(&worker)?;
    let hello = Hello::start(folder, &raw_get(&worker, &data.key(0))?)?;
    let (get, put) = (wrk::Script::get(folder, &data)?, wrk::Script::put(folder, &data)?);
    let batch = wrk::Script::batch(folder, &data, 100)?;
    let absent = wrk::Script::absent(folder, data.keys)?;
    for (script, address) in [(&get, &worker), (&get, &hello.address()), (&put, &worker), (&batch, &worker)] {
        wrk::run(script, address, CONNECTIONS, SECONDS)?;
    }
    wrk::run_absent(&absent, &worker, CONNECTIONS, SECONDS)?;
    leveldb::synced_puts(&folder.join("group-commit"), &data, Duration::from_secs(SECONDS))?;
    hello.stop()
}

/// A file in, out, listed and verified.
fn files(master: &str, folder: &Path) -> Result<()> {
    note("files");
    let (file, back) = (folder.join("file"), folder.join("back"));
    // Bytes that do not repeat: the same chunk would be stored once.
    let bytes: Vec<u8> =
        (0..64_u64 << 17).flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect();
    fs::write(&file, bytes)?;
    let (file, back) = (file.display().to_string(), back.display().to_string());
    catstore(master, &["put-file", "film", &file])?;
    for _ in 0..4 {
        catstore(master, &["get", "film", "-o", &back])?;
        fs::remove_file(&back)?;
    }
    catstore(master, &["list", "--limit", "5000"])?;
    catstore(master, &["verify"])
}

/// Two more members, so that writes and reads go through a group of three; a second group, to which slots move, and back.
fn groups(cluster: &Cluster) -> Result<Vec<Node>> {
    note("groups");
    let master = cluster.master.address();
    let mut nodes =
        vec![cluster.join("second", &["--clone", "0"])?, cluster.join("third", &["--clone", "0"])?];
    bench(&master, &["--reads", "20"])?;
    bench(&master, &["--reads", "0", "--batch", "100"])?;
    nodes.push(cluster.join("founder", &[])?);
    catstore(&master, &["rebalance"])?;
    bench(&master, &["--reads", "50"])?;
    // It is called after its founder, who came after three others.
    catstore(&master, &["drain", "--group", "3"])?;
    bench(&master, &["--reads", "50"])?;
    Ok(nodes)
}

fn bench(master: &str, load: &[&str]) -> Result<()> {
    note(&format!("catstore bench {}", load.join(" ")));
    let seconds = SECONDS.to_string();
    let mut words = vec!["bench", "--json", "--seconds", &seconds];
    if !load.contains(&"--keys") {
        words.extend(["--keys", KEYS]);
    }
    words.extend(load);
    catstore(master, &words)
}

fn catstore(master: &str, words: &[&str]) -> Result<()> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_catstore"));
    command.args(words).args(["--master", master]).stdout(Stdio::null());
    match command.status()?.success() {
        true => Ok(()),
        false => Err(format!("catstore {} failed", words.join(" ")).into()),
    }
}
