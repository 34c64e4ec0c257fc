//! `catstore promote IDX`: revives a group whose majority is gone from the copy of one member. It says first what may
//! be missing, and does it only with `--accept-data-loss`.

use super::options::ClientArgs;
use super::{output, report};
use crate::client::Client;
use crate::cluster::view::{Problem, PromoteReply};
use crate::error::{Error, Kind, Result};
use serde::Serialize;
use std::time::{Duration, Instant};

/// How long the group is given to serve again: the worker hears of it within a second and opens its store anew.
const SERVE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(100);

/// Arguments of `catstore promote`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The worker whose copy the group goes on from
    #[arg(value_name = "IDX")]
    index: u32,
    /// Does it; without this it only says what may be missing
    #[arg(long)]
    accept_data_loss: bool,
    /// One JSON document
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// What `--json` prints where nothing was done: a problem document, and what it would be.
#[derive(Serialize)]
struct Refusal<'a> {
    #[serde(flatten)]
    problem: Problem,
    #[serde(flatten)]
    reply: &'a PromoteReply,
}

impl Args {
    /// Says what may be missing; with the flag, promotes and waits until the group serves.
    pub fn run(self) -> Result<()> {
        let client = self.client.client()?;
        let plan = client.promote(self.index, false)?;
        if plan.incarnation.is_none() {
            if !self.accept_data_loss {
                return Err(self.refuse(&plan)?);
            }
            output::note(warning(&plan));
        }
        let done = client.promote(self.index, true)?;
        // What the first answer said: the second one may be that of a repeat.
        let done = PromoteReply { incarnation: done.incarnation, ..plan };
        wait_until_it_serves(&client, &done)?;
        if self.json {
            return output::json(&done);
        }
        let incarnation = done.incarnation.unwrap_or_default();
        let line = format!(
            "group {} serves again: incarnation {incarnation}, from worker {}'s copy\n",
            done.group, done.index
        );
        output::write(line.as_bytes())
    }

    /// The error for who did not say `--accept-data-loss`; with `--json` its document is printed.
    fn refuse(&self, plan: &PromoteReply) -> Result<Error> {
        let command = format!("catstore promote {} --accept-data-loss{}", self.index, self.client.words());
        let error = Error::new(Kind::Conflict, warning(plan)).hint(format!(
            "nothing was done: start a lost voter again if you can (catstore status says how), else type: {command}"
        ));
        if !self.json {
            return Ok(error);
        }
        output::json(&Refusal { problem: report::problem(&error), reply: plan })?;
        Ok(report::told("nothing was promoted", error))
    }
}

/// What the promotion costs, as a sentence.
fn warning(plan: &PromoteReply) -> String {
    let PromoteReply { group, index, missing, left_behind, .. } = plan;
    let others: Vec<String> = left_behind.iter().map(|index| format!("worker {index}")).collect();
    let never = match others.is_empty() {
        true => String::new(),
        false => format!("; {} may never come back to it", others.join(", ")),
    };
    format!(
        "group {group} would go on from worker {index}'s copy, and acknowledged writes may be lost: {missing}{never}"
    )
}

/// Waits until the promoted worker leads the group's new incarnation and knows its slots.
fn wait_until_it_serves(client: &Client, done: &PromoteReply) -> Result<()> {
    let deadline = Instant::now() + SERVE;
    let serves = |client: &Client| {
        let view = client.cluster().ok()?;
        let (_, member) = view.worker(done.index)?;
        let facts = client.worker_facts(&member.address).ok()?;
        let leads = facts.role == "leader" && Some(facts.incarnation) >= done.incarnation;
        (leads && !facts.awaits).then_some(())
    };
    while serves(client).is_none() {
        if Instant::now() >= deadline {
            output::waiting(None);
            let detail =
                format!("worker {} is promoted, but group {} does not serve yet", done.index, done.group);
            return Err(Error::new(Kind::NoMajority, detail)
                .hint(format!("see catstore status, and the log of worker {}", done.index)));
        }
        output::waiting(Some(&format!("worker {} is promoted; waiting until it serves", done.index)));
        std::thread::sleep(LOOK);
    }
    output::waiting(None);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warning_says_what_is_lost_and_who_is_left() {
        let plan = PromoteReply {
            group: 0,
            index: 1,
            missing: "its log ends at entry 7".into(),
            incarnation: None,
            left_behind: vec![0, 2],
        };
        assert_eq!(
            warning(&plan),
            "group 0 would go on from worker 1's copy, and acknowledged writes may be lost: its log ends at entry 7; \
             worker 0, worker 2 may never come back to it"
        );
    }
}
