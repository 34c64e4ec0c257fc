//! The line that says how far a value is: a bar, its rate, and the time that is left.

use super::{output, progress, text};
use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// The line is written anew at most so often.
const EVERY: Duration = Duration::from_millis(100);

/// A line on a terminal about a value on its way; nothing for what is quick, or where standard error is no terminal.
pub struct Bar {
    name: String,
    start: Instant,
    /// What was done when the rate began to be measured, and when that was.
    first: Cell<Option<(u64, Instant)>>,
    shown: Cell<Option<Instant>>,
    terminal: bool,
}

impl Bar {
    /// A bar for what is called `name`.
    pub fn new(name: String) -> Bar {
        let (first, shown, start) = (Cell::new(None), Cell::new(None), Instant::now());
        Bar { name, start, first, shown, terminal: std::io::stderr().is_terminal() }
    }

    /// `done` bytes of `total` are there; of these `held` were there before, and tell nothing of the rate.
    pub fn show(&self, done: u64, held: u64, total: Option<u64>) {
        let now = Instant::now();
        let fresh = done.saturating_sub(held);
        let first = match self.first.get() {
            Some((bytes, at)) if bytes <= fresh => (bytes, at),
            // It begins, or begins anew.
            _ => (fresh, now),
        };
        self.first.set(Some(first));
        if !self.terminal || now.duration_since(self.shown.get().unwrap_or(self.start)) < EVERY {
            return;
        }
        self.shown.set(Some(now));
        let rate = rate(fresh - first.0, now.duration_since(first.1));
        let line = output::one_line(&format!("{}: {}", self.name, how_far(done, held, total, rate)));
        let _ = write!(std::io::stderr(), "\r\x1b[K{line}");
    }

    /// Another stage begins: the rate is measured anew.
    pub fn restart(&self) {
        self.first.set(None);
    }

    /// Takes the line away.
    pub fn clear(&self) {
        if self.shown.take().is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Bytes a second; nothing where too little is known.
fn rate(bytes: u64, time: Duration) -> Option<u64> {
    (time >= EVERY).then(|| (bytes as f64 / time.as_secs_f64()) as u64)
}

fn how_far(done: u64, held: u64, total: Option<u64>, rate: Option<u64>) -> String {
    let mut line = match total {
        Some(total) => progress::bar(done, total),
        None => text::bytes(done),
    };
    if held > 0 {
        line.push_str(&format!(", {} there", text::bytes(held)));
    }
    if let Some(rate) = rate {
        line.push_str(&format!(", {}/s", text::bytes(rate)));
        let left = total.and_then(|total| total.saturating_sub(done).checked_div(rate));
        if let Some(left) = left {
            line.push_str(&format!(", {} left", progress::time(left)));
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars() {
        let half = format!("[{}{}]", "#".repeat(15), " ".repeat(15));
        assert_eq!(how_far(5, 0, Some(10), None), format!("{half} 5 bytes of 10 bytes"));
        let line = how_far(512, 256, Some(1024), Some(256));
        assert_eq!(line, format!("{half} 512 bytes of 1.0 KiB, 256 bytes there, 256 bytes/s, 2 s left"));
        assert_eq!(how_far(512, 0, None, Some(256)), "512 bytes, 256 bytes/s");
        assert_eq!(
            how_far(0, 0, Some(10), Some(0)),
            format!("[{}] 0 bytes of 10 bytes, 0 bytes/s", " ".repeat(30))
        );
    }

    #[test]
    fn rates() {
        assert_eq!(rate(10, Duration::from_millis(10)), None);
        assert_eq!(rate(10, Duration::from_secs(5)), Some(2));
    }
}
