//! `catstore verify [IDX]`: begins the verification at the workers, or takes it up, and waits for its end.

use super::words;
use crate::client::Client;
use crate::cluster::verifying::{Course, Verification};
use crate::cluster::view::Problem;
use crate::cmd::options::ClientArgs;
use crate::cmd::{output, progress, report, text};
use crate::error::{Error, Kind, Result};
use serde::Serialize;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How long a worker may be silent before the command gives it up: one that stops because its store is damaged does not
/// come back.
const SILENCE: Duration = Duration::from_secs(10);

/// One worker's verification, as the command follows it.
struct Followed {
    index: u32,
    last: Option<Verification>,
    heard: Instant,
    error: Option<Error>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Document<'a> {
    /// True if every worker was read to the end and nothing is hurt.
    whole: bool,
    workers: Vec<Line<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Line<'a> {
    Verification(&'a Verification),
    Refused {
        worker: u32,
        #[serde(flatten)]
        problem: Problem,
    },
}

/// Verifies worker `index`, or all.
pub fn run(index: Option<u32>, json: bool, args: &ClientArgs) -> Result<()> {
    let client = args.client()?;
    let mut all: Vec<Followed> = workers(&client, index)?.into_iter().map(Followed::new).collect();
    let ended = progress::wait(|| {
        // All at once: one that is down takes its time.
        std::thread::scope(|scope| {
            for followed in &mut all {
                scope.spawn(|| followed.look(&client));
            }
        });
        let running = all.iter().filter(|followed| !followed.is_over());
        let lines: Vec<String> = running.flat_map(Followed::lines).collect();
        Ok((!lines.is_empty()).then_some(lines))
    })?;
    let outcome = if ended { judge(&all) } else { Ok(()) };
    if json {
        let lines = all.iter().map(Followed::line).collect();
        output::json(&Document { whole: ended && outcome.is_ok(), workers: lines })?;
    } else {
        for last in all.iter().filter_map(Followed::done) {
            output::write((words::ending(last) + "\n").as_bytes())?;
        }
    }
    if !ended {
        let which = index.map(|index| format!(" {index}")).unwrap_or_default();
        let command = format!("catstore verify{which}{}", args.words());
        output::note(format!("it goes on without this command; `{command}` takes it up again"));
    }
    outcome.map_err(|error| if json { report::told("not everything is whole", error) } else { error })
}

/// The workers to verify.
fn workers(client: &Client, index: Option<u32>) -> Result<Vec<u32>> {
    if let Some(index) = index {
        return Ok(vec![index]);
    }
    let view = client.cluster()?;
    let mut all: Vec<u32> =
        view.groups.iter().flat_map(|group| &group.members).map(|member| member.index).collect();
    all.sort_unstable();
    match all.is_empty() {
        true => Err(Error::new(Kind::NoWorker, "no worker stores keys yet")
            .hint("start one: catstore worker 3001 --master 3000")),
        false => Ok(all),
    }
}

impl Followed {
    fn new(index: u32) -> Followed {
        Followed { index, last: None, heard: Instant::now(), error: None }
    }

    fn is_over(&self) -> bool {
        self.error.is_some() || self.done().is_some()
    }

    /// The verification, once everything was read.
    fn done(&self) -> Option<&Verification> {
        self.last.as_ref().filter(|last| last.course == Course::Done)
    }

    fn hear(&mut self, verification: Verification) {
        self.heard = Instant::now();
        if verification.course == Course::Failed {
            self.error = Some(failed(self.index, &verification));
        }
        self.last = Some(verification);
    }

    /// Begins it, or asks how far it is, unless it is over.
    fn look(&mut self, client: &Client) {
        if self.is_over() {
            return;
        }
        let has_begun = self.last.is_some();
        let asked = if has_begun { client.verification(self.index) } else { client.verify(self.index) };
        match asked {
            Ok(verification) => self.hear(verification),
            Err(error) => self.error = gives_up(self.index, has_begun, error, self.heard.elapsed()),
        }
    }

    fn lines(&self) -> Vec<String> {
        match &self.last {
            Some(last) => words::how_far(last),
            None => vec![format!("worker {}: waiting for its answer", self.index)],
        }
    }

    fn line(&self) -> Line<'_> {
        match (&self.error, &self.last) {
            (None, Some(last)) => Line::Verification(last),
            (error, _) => {
                let nothing = Error::new(Kind::Unreachable, "nothing was heard of it");
                let problem = report::problem(error.as_ref().unwrap_or(&nothing));
                Line::Refused { worker: self.index, problem }
            }
        }
    }
}

/// The error for a verification that came to nothing.
fn failed(index: u32, verification: &Verification) -> Error {
    let kind = verification.failure.as_deref().and_then(Kind::from_word).unwrap_or(Kind::Failed);
    let why = verification.error.as_deref().unwrap_or("it does not say why");
    match kind {
        Kind::Damaged => {
            Error::new(kind, format!("worker {index} has stopped, because its store is damaged: {why}"))
        }
        _ => Error::new(kind, format!("the verification of worker {index} ended early: {why}")),
    }
}

/// What to make of a worker that does not say how far it is: none as long as it may still do so.
fn gives_up(index: u32, has_begun: bool, error: Error, silence: Duration) -> Option<Error> {
    match error.kind() {
        Kind::NotFound if has_begun => Some(
            Error::new(Kind::Unreachable, format!("worker {index} began anew, and its verification ended"))
                .hint(format!("catstore verify {index} begins it again")),
        ),
        Kind::Closed => Some(
            Error::new(Kind::Closed, format!("worker {index} is closed"))
                .hint(format!("catstore open {index}, then the same command")),
        ),
        Kind::NotFound | Kind::Damaged | Kind::Failed | Kind::Unauthorized | Kind::Forbidden => Some(error),
        _ if silence < SILENCE => None,
        _ => {
            let again = if has_begun { " any more" } else { "" };
            let detail = format!("worker {index} does not answer{again}: {}", error.detail());
            Some(Error::new(error.kind(), detail).hint(
                "its log says why; if its store is damaged, put another worker in its place with --replace",
            ))
        }
    }
}

/// The error that the command ends with: hurt keys first, then what kept it from reading everything.
fn judge(all: &[Followed]) -> Result<()> {
    let hurt: Vec<&Verification> = all
        .iter()
        .filter_map(|followed| followed.last.as_ref())
        .filter(|last| last.findings.hurt > 0)
        .collect();
    if let Some(worst) = hurt.iter().max_by_key(|last| last.findings.hurt) {
        // Members of a group have the same keys.
        let keys: BTreeSet<&[u8]> =
            hurt.iter().flat_map(|last| &last.findings.hurt_keys).map(|key| key.0.as_slice()).collect();
        let count = worst.findings.hurt.max(keys.len() as u64);
        let verb = if count == 1 { "is" } else { "are" };
        let what = text::plural(count, "key");
        let named = words::named(keys, count);
        let detail = format!("{what} {verb} hurt and could not be mended: {named}");
        let why = worst.findings.reason.as_deref().unwrap_or("no member has all of it");
        return Err(Error::new(Kind::Damaged, detail).hint(format!(
            "{why}; start members that are down and verify again, else put these keys again, or delete them"
        )));
    }
    let damaged = |error: &&Error| error.kind() == Kind::Damaged;
    let errors = || all.iter().filter_map(|followed| followed.error.as_ref());
    errors().find(damaged).or_else(|| errors().next()).cloned().map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn followed(index: u32, keys: &[&str]) -> Followed {
        let mut verification =
            Verification { worker: index, course: Course::Done, ..Verification::default() };
        keys.iter().for_each(|key| verification.findings.note_hurt(key.as_bytes(), "no member has it"));
        let mut followed = Followed::new(index);
        followed.hear(verification);
        followed
    }

    #[test]
    fn hurt_keys_are_named_once_and_count_most() {
        assert!(judge(&[followed(0, &[])]).is_ok());
        let mut silent = Followed::new(2);
        silent.error = Some(Error::new(Kind::Unreachable, "x"));
        assert_eq!(judge(&[followed(0, &[]), silent]).unwrap_err().kind(), Kind::Unreachable);
        let error = judge(&[followed(0, &["a", "b"]), followed(1, &["a", "b"])]).unwrap_err();
        assert_eq!(error.kind(), Kind::Damaged);
        assert_eq!(error.detail(), "2 keys are hurt and could not be mended: a, b");
    }

    #[test]
    fn a_worker_that_stops_is_given_up() {
        let now = Duration::ZERO;
        let away = || Error::new(Kind::Unreachable, "refused");
        assert!(gives_up(1, true, away(), now).is_none());
        assert_eq!(gives_up(1, false, away(), SILENCE).unwrap().kind(), Kind::Unreachable);
        for kind in [Kind::Closed, Kind::Damaged, Kind::Failed] {
            assert_eq!(gives_up(1, true, Error::new(kind, "x"), now).unwrap().kind(), kind);
        }
        let rotten = Verification {
            course: Course::Failed,
            failure: Some("damaged".into()),
            error: Some("a record is rotten; replace it".into()),
            ..Verification::default()
        };
        let error = failed(1, &rotten);
        assert_eq!(error.kind(), Kind::Damaged);
        assert!(
            error.to_string().contains("worker 1 has stopped") && error.to_string().contains("replace it")
        );
    }
}
