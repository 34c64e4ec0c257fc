//! The command line: one file per subcommand, its arguments and what it prints.
//!
//! The way of a command: `main` parses [`Cli`] and calls [`Cli::run`], which hands over to the subcommand's `run`. It
//! makes its client from [`options::ClientArgs`], asks it, and prints by way of [`output`]. `master` and `worker` turn
//! their arguments into the options of the server and run it.
//!
//! Invariants: standard output carries what was asked for and nothing else; remarks and errors go to standard error,
//! an error as one line; values and tokens are never logged; what is text for people (tables, progress, remarks) shows
//! up on terminals only.
//!
//! Left out: exit codes (`main`), how requests travel and when they are repeated (`client`), what nodes do (`server`).

pub mod bar;
pub mod bench;
pub mod children;
pub mod clear;
pub mod close;
pub mod completions;
pub mod delete;
pub mod demo;
pub mod drain;
pub mod get;
pub mod list;
pub mod master;
pub mod open;
pub mod options;
pub mod output;
pub mod parent;
pub mod parse;
pub mod partial;
pub mod progress;
pub mod promote;
pub mod put;
pub mod put_file;
pub mod rebalance;
pub mod report;
pub mod room;
pub mod signals;
pub mod status;
pub mod text;
pub mod token;
pub mod verify;
pub mod worker;

use clap::{Parser, Subcommand};

const LONG_ABOUT: &str = "\
catstore is a simple distributed key-value store: one binary, values over plain HTTP, LevelDB on every worker, a \
master that knows who holds what. An acknowledged write is on disk, and a read is never stale unless you ask for it.";

const MANUAL: &str = "\
A first cluster, each line in a terminal of its own:
  catstore master 3000                    the master; it keeps the directory
  catstore worker 3001 --master 3000      a worker; it keeps the keys
  catstore put A happy
  catstore get A

Or all of it at once, in a temporary folder, until Ctrl-C:
  catstore demo

A second machine is one command away, and a third makes any one of them expendable:
  catstore worker 3002 --master 3000 --clone 0    a clone of worker 0: the same keys, kept live
  catstore worker 3003 --master 3000 --clone 0    now any 1 of 3 may be lost
  catstore master 3010 --join 3000                a second master; with a third any 1 of them may be lost
  catstore worker 3004 --master 3000 --replace 1  takes the place of worker 1, whose disk is lost
  catstore promote 2                              the majority is lost for good: says what would be missing if the
                                                  group went on from worker 2's copy, and how to do it

More room, while everybody writes:
  catstore worker 3005 --master 3000        a worker without --clone founds a group, and gets its share of the keys
  catstore rebalance --dry-run              says what would move where
  catstore drain --group 5                  its keys go to the other groups, then its workers end
  catstore drain 1                          worker 1 leaves its group, without another in its place

Values:
  echo meow | catstore put sound -        `-` is standard input
  catstore put counter -5 --if-absent     only if the key does not exist
  catstore put session x --ttl 60s        gone after a minute
  tar c photos | catstore put photos -    of any size, as it comes
  catstore put-file cat cat.jpg           a file, with its content type
  catstore put-file cat cat.jpg --resume  goes on where an earlier one broke off
  catstore get cat -o copy.jpg            written beside, renamed at the end
  catstore get cat -o copy.jpg --resume   keeps what came when it breaks off, and goes on from there
  catstore list user/ --limit 10          keys that begin with `user/`
  catstore delete A

The cluster:
  catstore status --watch                 nodes, groups, what each may lose, and how far moves are
  catstore verify                         reads everything that the workers hold, and mends what a disk has rotted
  catstore verify --data /backup/0        checks the folder of a worker that does not run; changes nothing
  catstore close 0 ; catstore open 0      close a worker's store, for a backup, and open it again
  catstore close --master 3010            the same for one of the masters
  catstore clear 0                        removes every key of group 0
  catstore bench --reads 90               how fast it is, on keys of its own that it removes again

The same with curl:
  curl -X PUT --data-binary happy localhost:3000/kv/A
  curl localhost:3000/kv/A

Where things are:
  Client commands find the cluster at --master ADDR,…, else $CATSTORE_MASTER, else 127.0.0.1:3000;
  any node will do. ADDR is 3000, host:3000 or http://host:3000.
  Nodes keep their data in --data, else $CATSTORE_DATA, else in
  ${XDG_DATA_HOME:-~/.local/share}/catstore/ROLE-PORT.
  A node that listens beyond this machine wants a token: see `catstore token`.

Exit codes:
  0  done
  1  the answer is no: the key is absent, the condition failed
  2  usage
  3  the cluster cannot be reached, or has no majority
  4  refused
  5  a damaged or foreign data folder
  6  it may have been written: read it back";

/// The command line of catstore.
#[derive(Debug, Parser)]
#[command(name = "catstore", version, about = "A simple distributed key-value store", long_about = LONG_ABOUT)]
#[command(after_long_help = MANUAL, after_help = "`catstore help` shows examples, and where things are.")]
#[command(arg_required_else_help = true, max_term_width = 110, propagate_version = false)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs a master: it keeps the directory of workers, groups and slots
    Master(master::Args),
    /// Runs a worker: it keeps keys
    Worker(worker::Args),
    /// Stores a value under a key
    Put(put::Args),
    /// Stores the contents of a file under a key
    PutFile(put_file::Args),
    /// Prints the value of a key
    Get(get::Args),
    /// Removes a key
    Delete(delete::Args),
    /// Lists keys in byte order
    List(list::Args),
    /// Removes every key of a group, or of all groups
    Clear(clear::Args),
    /// Closes the store of a worker, or a master; the process stays
    Close(close::Args),
    /// Opens what `close` closed
    Open(open::Args),
    /// Shows nodes, groups, and what each group may lose
    Status(status::Args),
    /// Revives a group whose majority is gone from one member's copy, after saying what may be missing
    Promote(promote::Args),
    /// Moves slots until every group has its share
    Rebalance(rebalance::Args),
    /// Takes a worker out of its group, or a group out of the cluster: its slots go to the others first
    Drain(drain::Args),
    /// Has a worker read and check everything that it holds, and mend it from the others; --data reads a folder
    Verify(verify::Args),
    /// Puts load on a running cluster and says how fast it was
    Bench(bench::Args),
    /// Runs a cluster in a temporary folder until Ctrl-C, with a value and a picture in it
    Demo(demo::Args),
    /// Makes a token file for nodes that listen beyond this machine
    Token(token::Args),
    /// Prints completions for a shell
    Completions(completions::Args),
}

impl Cli {
    /// Does what was asked for. What it gives up with is a [`crate::error::Error`], unless a library's own error comes
    /// through.
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Master(args) => args.run(),
            Command::Worker(args) => args.run(),
            Command::Put(args) => args.run(),
            Command::PutFile(args) => args.run(),
            Command::Get(args) => args.run(),
            Command::Delete(args) => args.run(),
            Command::List(args) => args.run(),
            Command::Clear(args) => args.run(),
            Command::Close(args) => args.run(),
            Command::Open(args) => args.run(),
            Command::Status(args) => args.run(),
            Command::Promote(args) => args.run(),
            Command::Rebalance(args) => args.run(),
            Command::Drain(args) => args.run(),
            Command::Verify(args) => args.run(),
            Command::Bench(args) => args.run(),
            Command::Demo(args) => args.run(),
            Command::Token(args) => args.run(),
            Command::Completions(args) => args.run(),
        }?;
        Ok(())
    }

    /// True for commands that run a node: they log what they do.
    pub fn is_node(&self) -> bool {
        matches!(self.command, Command::Master(_) | Command::Worker(_))
    }

    /// True if standard output is to carry one JSON document, whatever happens.
    pub fn wants_json(&self) -> bool {
        match &self.command {
            Command::List(args) => args.json,
            Command::Status(args) => args.json,
            Command::Promote(args) => args.json,
            Command::Verify(args) => args.json,
            Command::Bench(args) => args.json,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
