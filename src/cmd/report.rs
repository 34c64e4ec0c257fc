//! How an error is told: one line for people, one problem document for programs.

use crate::cluster::view::Problem;
use crate::error::Error;
use std::fmt;

/// The cause of an error whose problem document stands on standard output already.
#[derive(Debug)]
struct Told(Error);

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Told {}

/// Marks an error as told in JSON; `what` is what came of it, for the line on standard error.
pub fn told(what: &str, error: Error) -> Error {
    Error::new(error.kind(), what).cause(Told(error))
}

/// True if the error's problem document stands on standard output already.
pub fn is_told(error: &Error) -> bool {
    std::error::Error::source(error).is_some_and(|cause| cause.is::<Told>())
}

/// The error as one line: what happened; what to do.
pub fn line(error: &Error) -> String {
    let text = error.to_string();
    format!("catstore: {}", text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// What `clap` says of a wrong command line, as one line: what is wrong; what it suggests; the usage.
pub fn usage(rendered: &str) -> String {
    let join = |paragraph: &str| paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    let paragraphs = rendered.split("\n\n").map(join).filter(|paragraph| !paragraph.is_empty());
    let wanted = paragraphs.filter(|paragraph| !paragraph.starts_with("For more information"));
    let told = wanted.map(|paragraph| match paragraph.strip_prefix("error: ") {
        Some(wrong) => wrong.to_owned(),
        None => paragraph.replacen("Usage: ", "usage: ", 1),
    });
    format!("catstore: {}", told.collect::<Vec<_>>().join("; "))
}

/// The error as a problem document. Its status is 0: no HTTP is involved.
pub fn problem(error: &Error) -> Problem {
    let detail = match std::error::Error::source(error) {
        Some(cause) => format!("{}: {cause}", error.detail()),
        None => error.detail().to_owned(),
    };
    let title = error.kind().word().replace('_', " ");
    Problem {
        kind: error.kind().word().to_owned(),
        title,
        status: 0,
        detail,
        hint: error.hint_text().map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn usage_errors_are_one_line() {
        let rendered = "error: these are missing:\n  <VALUE>\n\nUsage: catstore put <KEY> <VALUE>\n\nFor more information, try '--help'.\n";
        assert_eq!(
            usage(rendered),
            "catstore: these are missing: <VALUE>; usage: catstore put <KEY> <VALUE>"
        );
    }

    #[test]
    fn errors_are_one_line_and_one_document() {
        let error = Error::new(Kind::NoMajority, "group 0\nhas no leader").hint("wait");
        assert_eq!(line(&error), "catstore: group 0 has no leader; wait");
        let document = problem(&error);
        assert_eq!((document.kind.as_str(), document.hint.as_deref()), ("no_majority", Some("wait")));
        let again = told("the list broke off", error);
        assert!(is_told(&again));
        assert_eq!(again.kind(), Kind::NoMajority);
    }
}
