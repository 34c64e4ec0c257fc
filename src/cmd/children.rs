//! Nodes as child processes: started with a pipe that ties their life to ours, awaited until they are ready, stopped
//! politely and then for certain.

use super::parent;
use crate::error::{Error, Kind, Result};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How often things are looked at that cannot be waited for.
const LOOK: Duration = Duration::from_millis(20);
/// What may steer a node from the environment, and must not.
const VARIABLES: [&str; 5] = ["CATSTORE_MASTER", "CATSTORE_DATA", "CATSTORE_TOKEN_FILE", "MASTER", "CLONE"];

/// A node that runs as a child process. It is killed when this value is dropped.
pub struct Node {
    name: String,
    child: Child,
    lines: Receiver<String>,
    log: PathBuf,
}

impl Node {
    /// Starts this same program with `arguments`; what it logs goes to a file in `folder`, which is also where it runs.
    pub fn start(name: &str, arguments: &[String], folder: &Path) -> Result<Node> {
        let program = std::env::current_exe().map_err(|error| {
            Error::new(Kind::System, "this program's own file cannot be found").cause(error)
        })?;
        Node::start_program(name, &program, arguments, folder)
    }

    fn start_program(name: &str, program: &Path, arguments: &[String], folder: &Path) -> Result<Node> {
        let wrong = |error| Error::new(Kind::System, format!("{name} cannot be started")).cause(error);
        let log = folder.join(format!("{}.log", name.replace(' ', "-")));
        let mut command = Command::new(program);
        for variable in VARIABLES {
            command.env_remove(variable);
        }
        let mut child = command
            .args(arguments)
            .env(parent::VARIABLE, "1")
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).map_err(wrong)?)
            // Ctrl-C on the terminal is for us; we stop the nodes in order.
            .process_group(0)
            .spawn()
            .map_err(wrong)?;
        let (sender, lines) = channel();
        if let Some(stdout) = child.stdout.take() {
            // Ends with the child, and reads on so that the child never waits for us.
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(std::result::Result::ok) {
                    let _ = sender.send(line);
                }
            });
        }
        Ok(Node { name: name.to_owned(), child, lines, log })
    }

    /// Waits for the line `ready …` and returns it. `stop` is asked now and then; if it says yes, `Ok(None)`.
    pub fn ready(&mut self, deadline: Instant, stop: impl Fn() -> bool) -> Result<Option<String>> {
        loop {
            match self.lines.recv_timeout(LOOK) {
                Ok(line) if line.starts_with("ready ") => return Ok(Some(line)),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {}
                // Its output is closed: it is about to end.
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(LOOK),
            }
            if stop() {
                return Ok(None);
            }
            if let Some(error) = self.ended() {
                return Err(error);
            }
            if Instant::now() >= deadline {
                return Err(self.failed("is not ready in time"));
            }
        }
    }

    /// The error for a node that ended although nobody asked it to.
    pub fn ended(&mut self) -> Option<Error> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(self.failed(&format!("ended by itself ({status})"))),
            Err(error) => Some(self.failed("cannot be watched").cause(error)),
        }
    }

    /// What went wrong, with the last line of its log, since its folder is about to go.
    fn failed(&self, what: &str) -> Error {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let last = log.lines().rev().find(|line| !line.trim().is_empty());
        let said = last.map(|line| format!(", and said last: {}", line.trim())).unwrap_or_default();
        Error::new(Kind::System, format!("{} {what}{said}", self.name))
    }

    /// Asks the node to stop, waits, and kills it if it does not.
    pub fn stop(mut self) {
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            // A child that was not waited for keeps its number: this cannot hit a stranger.
            if let Ok(None) = self.child.try_wait() {
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        let deadline = Instant::now() + parent::GRACE;
        while let Ok(None) = self.child.try_wait()
            && Instant::now() < deadline
        {
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, folder: &Path) -> Node {
        let arguments = ["-c".to_owned(), script.to_owned()];
        Node::start_program("worker 0", Path::new("/bin/sh"), &arguments, folder).unwrap()
    }

    #[test]
    fn a_node_is_awaited_and_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let mut node = shell("echo first; echo ready here; exec cat", folder.path());
        let deadline = Instant::now() + Duration::from_secs(10);
        assert_eq!(node.ready(deadline, || false).unwrap().as_deref(), Some("ready here"));
        assert!(node.ended().is_none());
        let start = Instant::now();
        node.stop();
        assert!(start.elapsed() < parent::GRACE);
    }

    #[test]
    fn a_node_that_fails_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let mut node = shell("echo the port is in use >&2; exit 4", folder.path());
        let error = node.ready(Instant::now() + Duration::from_secs(10), || false).unwrap_err().to_string();
        assert!(
            error.contains("worker 0 ended by itself") && error.contains("the port is in use"),
            "{error}"
        );
    }

    #[test]
    fn a_node_that_is_late_or_not_wanted_any_more_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let mut node = shell("exec cat", folder.path());
        assert!(node.ready(Instant::now() + Duration::from_secs(10), || true).unwrap().is_none());
        let late = node.ready(Instant::now(), || false).unwrap_err();
        assert!(late.to_string().contains("not ready in time"), "{late}");
        // Its standard input closes with the value: this ends, and leaves no process.
        drop(node);
    }
}
