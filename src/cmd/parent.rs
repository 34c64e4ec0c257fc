//! Nodes that were started by `demo` must not outlive it, however it ends: they watch a pipe that closes with it.

use rustix::process::{Signal, getpid, kill_process};
use std::io::Read;
use std::time::Duration;

/// Set for a node whose standard input is such a pipe.
pub const VARIABLE: &str = "CATSTORE_PARENT_PIPE";
/// A node that was asked to stop is given so long.
pub const GRACE: Duration = Duration::from_secs(5);

/// If this process was started with such a pipe, stops it once the pipe closes: as by SIGTERM, and if that does not
/// help, at once.
pub fn watch() {
    if std::env::var_os(VARIABLE).is_none_or(|value| value != "1") {
        return;
    }
    let watcher = || {
        let mut buffer = [0; 64];
        let mut input = std::io::stdin().lock();
        loop {
            match input.read(&mut buffer) {
                Ok(0) => break,
                Err(error) if error.kind() != std::io::ErrorKind::Interrupted => break,
                _ => {}
            }
        }
        log::info!("the process that started this one is gone; stopping");
        if let Err(error) = kill_process(getpid(), Signal::TERM) {
            log::warn!("cannot stop gracefully: {error}");
        }
        std::thread::sleep(GRACE);
        std::process::exit(0);
    };
    if let Err(error) = std::thread::Builder::new().name("parent".to_owned()).spawn(watcher) {
        log::warn!("cannot watch the process that started this one: {error}");
    }
}
