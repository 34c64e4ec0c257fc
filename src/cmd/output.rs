//! Standard output and standard error. A reader that went away (`catstore list | head`) is no failure: it ends the
//! command quietly, by an error whose cause is [`ReaderGone`].

use super::text;
use crate::error::{Error, Kind, Result};
use std::fmt;
use std::io::{self, BufRead, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

/// What is said after a command that succeeded.
static AFTERTHOUGHTS: Mutex<Vec<String>> = Mutex::new(Vec::new());
/// A notice that waits on a terminal stays on one line of this many columns.
const COLUMNS: usize = 79;

/// The cause of an error that came up because nobody reads standard output any more.
#[derive(Debug)]
pub struct ReaderGone;

impl fmt::Display for ReaderGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the reader is gone")
    }
}

impl std::error::Error for ReaderGone {}

/// True if `error` only says that nobody reads standard output any more.
pub fn is_reader_gone(error: &Error) -> bool {
    std::error::Error::source(error).is_some_and(|cause| {
        // What is written as a stream fails with an error of I/O.
        let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause.is::<ReaderGone>() || inner.is_some_and(|inner| inner.is::<ReaderGone>())
    })
}

/// Standard output for a value that comes as a stream. If nobody reads it any more, it fails with [`ReaderGone`].
pub struct Stream(io::StdoutLock<'static>);

/// Standard output as a stream.
pub fn stream() -> io::BufWriter<Stream> {
    io::BufWriter::with_capacity(128 * 1024, Stream(io::stdout().lock()))
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(told)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(told)
    }
}

fn told(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        io::Error::new(io::ErrorKind::BrokenPipe, ReaderGone)
    } else {
        error
    }
}

/// Writes bytes to standard output and flushes it.
pub fn write(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(failed)
}

/// The error for standard output that failed.
pub fn failed(error: io::Error) -> Error {
    let wrong = Error::new(Kind::System, "standard output cannot be written");
    if error.kind() == io::ErrorKind::BrokenPipe { wrong.cause(ReaderGone) } else { wrong.cause(error) }
}

/// Writes one JSON document to standard output.
pub fn json(document: &impl serde::Serialize) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(document)
        .map_err(|error| Error::new(Kind::System, "the answer cannot be written as JSON").cause(error))?;
    text.push(b'\n');
    write(&text)
}

/// A remark for the person at the terminal; nothing where standard error is no terminal.
pub fn remark(text: impl fmt::Display) {
    if io::stderr().is_terminal() {
        note(text);
    }
}

/// Keeps a remark until the command has succeeded: one that fails says its error and nothing else.
pub fn afterthought(text: impl fmt::Display) {
    AFTERTHOUGHTS.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_string());
}

/// Says what was kept.
pub fn afterthoughts() {
    for text in AFTERTHOUGHTS.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        remark(text);
    }
}

/// Shows what a command waits for, on a line that goes away again; nothing where standard error is no terminal.
pub fn waiting(text: Option<&str>) {
    if io::stderr().is_terminal() {
        let _ = write!(io::stderr(), "\r\x1b[K{}", text.map(one_line).unwrap_or_default());
    }
}

/// A text as one line of a terminal.
pub fn one_line(text: &str) -> String {
    let line = text::escape(text.as_bytes());
    if line.chars().count() <= COLUMNS {
        line
    } else {
        line.chars().take(COLUMNS - 1).chain(['…']).collect()
    }
}

/// A line on standard error, terminal or not. Nobody may be there to read it.
pub fn note(text: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Asks `question` on the terminal; true for yes. Without a terminal, whoever wrote the script of `command` must have
/// said `--yes`.
pub fn agreed(command: &str, question: &str) -> Result<bool> {
    let (input, mut output) = (io::stdin(), io::stderr());
    if !input.is_terminal() || !output.is_terminal() {
        let detail = format!("{command} asks first, and there is no terminal to ask on");
        return Err(Error::new(Kind::Usage, detail).hint("say --yes"));
    }
    let _ = write!(output, "{question} [y/N] ");
    let mut answer = String::new();
    input
        .lock()
        .read_line(&mut answer)
        .map_err(|error| Error::new(Kind::System, "the answer cannot be read").cause(error))?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// True if standard output is a terminal.
pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_went_away_is_told_from_other_errors() {
        assert!(is_reader_gone(&failed(io::ErrorKind::BrokenPipe.into())));
        assert!(!is_reader_gone(&failed(io::ErrorKind::Other.into())));
        let streamed = |kind: io::ErrorKind| Error::new(Kind::System, "x").cause(told(kind.into()));
        assert!(is_reader_gone(&streamed(io::ErrorKind::BrokenPipe)));
        assert!(!is_reader_gone(&streamed(io::ErrorKind::StorageFull)));
        assert!(!is_reader_gone(&Error::new(Kind::System, "x")));
    }

    #[test]
    fn a_notice_is_one_line() {
        assert_eq!(one_line("a\nb\x1b"), "a\\nb\\x1B");
        assert_eq!(one_line(&"é".repeat(79)), "é".repeat(79));
        assert_eq!(one_line(&"é".repeat(80)), "é".repeat(78) + "…");
    }
}
