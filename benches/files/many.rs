//! One file for many clients, against nginx.

use crate::common::{Cluster, Session, free_port, within};
use crate::{make_file, median};
use std::process::{Command, Stdio};
use std::time::Duration;

const MEBIBYTES: usize = 10;

pub fn measure(rounds: usize) {
    let cluster = Cluster::start();
    let home = &cluster.home;
    let folder = home.path("www");
    std::fs::create_dir(&folder).expect("a folder");
    make_file(&folder.join("film"), MEBIBYTES);
    cluster.run(&["put-file", "film", &folder.join("film").display().to_string()]).exits(0);
    let port = free_port();
    let config = home.path("nginx.conf");
    let text = format!(
        "daemon off; user root; worker_processes auto; pid {0}/pid; error_log {0}/error; events {{}} \
         http {{ access_log off; sendfile on; server {{ listen 127.0.0.1:{port}; root {0}; }} }}",
        folder.display()
    );
    std::fs::write(&config, text).expect("a file");
    let mut nginx = Command::new("nginx")
        .args(["-c", &config.display().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nginx (scripts/setup bench installs it)");
    within(Duration::from_secs(10), "nginx answers", || {
        Session::new(port).send("GET", "/film", &[], None).ok().filter(|reply| reply.status == 200).map(drop)
    });
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        theirs.push(wrk(&format!("http://127.0.0.1:{port}/film")));
        ours.push(wrk(&format!("http://127.0.0.1:{}/kv/film", cluster.worker.port)));
    }
    // Its workers would outlive a kill.
    let pid = rustix::process::Pid::from_child(&nginx);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("nginx ends");
    nginx.wait().expect("nginx ends");
    let row = |name: &str, speeds: &[f64]| {
        let each: Vec<String> = speeds.iter().map(|speed| format!("{speed:.0}")).collect();
        println!("| {name} | {:.0} MiB/s | {} |", median(speeds.to_vec()), each.join(", "));
    };
    println!("\n{rounds} rounds, 20 connections that get a file of {MEBIBYTES} MiB\n");
    println!("| who | speed | each round |\n|---|---|---|");
    row("nginx, sendfile", &theirs);
    row("a worker", &ours);
    println!("| **ratio** | **{:.2}** (target 0.7) | |", median(ours) / median(theirs));
}

/// MiB a second.
fn wrk(url: &str) -> f64 {
    let out = Command::new("wrk")
        .args(["-t1", "-c20", "-d5s", url])
        .output()
        .expect("wrk (scripts/setup bench installs it)");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let line =
        text.lines().find_map(|line| line.trim().strip_prefix("Transfer/sec:")).expect("wrk says how fast");
    let line = line.trim();
    let (number, unit) = line.split_at(line.find(|c: char| c.is_alphabetic()).unwrap_or(line.len()));
    let factor = match unit {
        "GB" => 1024.0,
        "MB" => 1.0,
        "KB" => 1.0 / 1024.0,
        unit => panic!("wrk says {unit}"),
    };
    number.parse::<f64>().expect("a number") * factor
}
