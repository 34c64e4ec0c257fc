//! catstore: parse, log, run, exit code.

use catstore::cmd::{Cli, output, report};
use catstore::error::{Error, Kind};
use clap::Parser;
use clap::error::ErrorKind;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

/// Faster than the system's with many small buffers on two threads, and it gives memory back. Large buffers do not begin 16
/// bytes into a page, where some processors take five times as long to copy what is read from a file or a socket.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and the version, on standard output.
        Err(error) if !error.use_stderr() => error.exit(),
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => error.exit(),
        Err(error) => {
            output::note(report::usage(&error.render().to_string()));
            return ExitCode::from(exit_code(Kind::Usage));
        }
    };
    start_log(cli.is_node());
    let json = cli.wants_json();
    match cli.run() {
        Ok(()) => {
            output::afterthoughts();
            ExitCode::SUCCESS
        }
        Err(error) => fail(&of_catstore(error), json),
    }
}

/// The error of ours that is the root of what a command gives up with; anything else is the system's.
fn of_catstore(error: anyhow::Error) -> Error {
    error.downcast::<Error>().unwrap_or_else(|other| Error::new(Kind::System, format!("{other:#}")))
}

/// Tells the error and turns it into an exit code.
fn fail(error: &Error, json: bool) -> ExitCode {
    if output::is_reader_gone(error) {
        return ExitCode::SUCCESS;
    }
    if json && !report::is_told(error) {
        // If standard output fails too, the line below is all that can be done.
        let _ = output::json(&report::problem(error));
    }
    output::note(report::line(error));
    ExitCode::from(exit_code(error.kind()))
}

/// Nodes say what they do, with times. Client commands say one line if they fail, and log only what `RUST_LOG` asks for.
fn start_log(is_node: bool) {
    // What raft-engine warns of is the torn tail that every kill leaves: no news to whoever runs a node. Nor is what
    // actix calls an error, a head that it cannot read: the client is told, and strangers must not fill the log.
    let filter =
        if is_node { "warn,catstore=info,raft_engine=error,actix_http::h1::dispatcher=off" } else { "off" };
    let mut builder = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(filter));
    if !is_node {
        builder.format(|out, record| writeln!(out, "catstore: {}", record.args()));
    } else if std::io::stderr().is_terminal() {
        // A line of progress may stand there that is written over.
        builder.format(|out, record| {
            let (level, style) = (record.level(), out.default_level_style(record.level()));
            let (time, target) = (out.timestamp(), record.target());
            writeln!(out, "\r\x1b[K[{time} {style}{level:<5}{style:#} {target}] {}", record.args())
        });
    }
    builder.init();
}

/// The exit code for an error of `kind`: 1 the answer is no, 2 usage, 3 the cluster cannot be reached or cannot serve,
/// 4 refused, 5 a damaged or foreign data folder, 6 it may have been written.
fn exit_code(kind: Kind) -> u8 {
    match kind {
        Kind::NotFound | Kind::ConditionFailed => 1,
        Kind::BadRequest
        | Kind::MethodNotAllowed
        | Kind::KeyEmpty
        | Kind::KeyTooLong
        | Kind::UrlTooLong
        | Kind::HeadTooLarge
        | Kind::CrossSlot
        | Kind::OutOfRange
        | Kind::Usage => 2,
        Kind::TooSlow
        | Kind::NoWorker
        | Kind::NoMajority
        | Kind::Closed
        | Kind::Overloaded
        | Kind::Moved
        | Kind::Frozen
        | Kind::Failed
        | Kind::Unreachable => 3,
        Kind::Unauthorized
        | Kind::Forbidden
        | Kind::Conflict
        | Kind::ChunkMissing
        | Kind::ValueTooLarge
        | Kind::TooLarge
        | Kind::DiskFull
        | Kind::System => 4,
        Kind::Damaged | Kind::ValueHurt | Kind::Foreign => 5,
        Kind::UnknownOutcome => 6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_error_has_an_exit_code_that_is_not_success() {
        for kind in Kind::ALL {
            assert!((1..=6).contains(&exit_code(kind)), "{kind:?}");
        }
        assert_eq!(exit_code(Kind::NotFound), 1);
        assert_eq!(exit_code(Kind::ValueTooLarge), 4);
        assert_eq!(exit_code(Kind::UnknownOutcome), 6);
    }
}
