//! Four files in and four out at the same time.

use crate::common::{Cluster, private_memory, resident};
use crate::make_file;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub fn measure() {
    let cluster = Cluster::start();
    let home = &cluster.home;
    let file = home.path("file");
    make_file(&file, 1024);
    let file = file.display().to_string();
    cluster.run(&["put-file", "film", &file]).exits(0);
    let pid = cluster.worker.pid();
    std::thread::sleep(Duration::from_secs(3));
    let idle = (private_memory(pid), resident(pid));
    let done = AtomicBool::new(false);
    let most = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut most = (0, 0);
            while !done.load(Ordering::Relaxed) {
                most = (most.0.max(private_memory(pid)), most.1.max(resident(pid)));
                std::thread::sleep(Duration::from_millis(20));
            }
            most
        });
        let clients: Vec<_> = (0..4)
            .flat_map(|number| {
                let (file, cluster) = (&file, &cluster);
                let put = scope
                    .spawn(move || drop(cluster.run(&["put-file", &format!("f{number}"), file]).exits(0)));
                let out = cluster.home.path(format!("out-{number}")).display().to_string();
                let get = scope.spawn(move || drop(cluster.run(&["get", "film", "-o", &out]).exits(0)));
                [put, get]
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().expect("a client"));
        done.store(true, Ordering::Relaxed);
        watcher.join().expect("the watcher")
    });
    let above = |most: u64, idle: u64| most.saturating_sub(idle) >> 20;
    println!(
        "\nmemory of the worker while 4 clients put and 4 get 1 GiB each, above idle ({} MiB):",
        idle.1 >> 20
    );
    println!(
        "its own {} MiB, with mapped files {} MiB (target 100)",
        above(most.0, idle.0),
        above(most.1, idle.1)
    );
}
