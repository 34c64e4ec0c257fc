//! The leader's part of an upload: chunks come in, go to the voters, and at the end a majority must have all of them.

use super::ledger::Mark;
use super::talk::{self, Question};
use super::{Keeper, lock, parcel};
use crate::error::{Error, Kind, Result};
use crate::replica::command::Secured;
use crate::replica::core::{Role, Status};
use crate::replica::shared::Members;
use crate::store::chunk::{Manifest, Name};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// No upload: chunks are only looked up.
pub const NO_UPLOAD: u64 = 0;
/// So many uploads may be under way at once.
const MOST: usize = 4096;
/// How long a leader waits to hear of a majority.
const ELECTED: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(20);
/// So many names are asked for at once.
const ASKED: usize = 8192;

/// Uploads under way at this member, which leads, by the number that who sends them gave them.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    known: HashMap<u64, Upload>,
}

#[derive(Debug)]
struct Upload {
    mark: Mark,
    heard: Instant,
    /// Voters that lack a chunk of it, or may.
    failed: BTreeSet<u64>,
    /// True while its command is on its way.
    kept: bool,
}

/// Where a chunk comes from that no member of the group has.
pub type Source<'a> = &'a (dyn Fn(&Name) -> Result<Option<Vec<u8>>> + Sync);

/// True if `holders` are a majority of the voters, old and new.
pub fn is_majority(holders: &[u64], voters: &[u64], outgoing: &[u64]) -> bool {
    let most = |voters: &[u64]| {
        voters.is_empty() || 2 * voters.iter().filter(|id| holders.contains(id)).count() > voters.len()
    };
    !voters.is_empty() && most(voters) && most(outgoing)
}

impl Keeper {
    /// Stores a chunk of the upload `id` here and at the voters that can be reached; returns once a majority has it synced.
    ///
    /// Errors: `Moved` if this member does not lead, `NoMajority`, `Overloaded`, `DiskFull`, `Failed`.
    pub fn store(&self, id: u64, name: &Name, bytes: &[u8]) -> Result<()> {
        let (mark, failed) = self.enter(id)?;
        lock(&self.ledger).mark(name, mark);
        let members = self.wait_for_majority(&failed)?;
        let voters = self.reachable_voters(&members, &failed);
        let question = if voters.is_empty() { Vec::new() } else { talk::take(mark, name, bytes) };
        let mut own = Ok(());
        let hurt =
            self.ask_voters(&voters, &question, &mut || own = self.put(name, bytes), &mut |_, _| Ok(()));
        own?;
        let failed = self.note_failed(id, &hurt)?;
        self.check_majority(&members, &failed)
    }

    /// Makes sure that a majority has every chunk of these values. What is missing here comes from `source`, or from
    /// another member. From here on the upload must be ended by [`Keeper::end`]: it does not end by itself.
    ///
    /// Errors: as [`Keeper::store`]; `ChunkMissing` if a chunk is nowhere.
    pub fn secure(&self, id: u64, manifests: &[Manifest], source: Source<'_>) -> Result<Secured> {
        let (mark, failed) = self.enter(id)?;
        let members = self.wait_for_majority(&failed)?;
        // Whoever comes later was not asked for the first names.
        let voters = self.reachable_voters(&members, &failed);
        lock(&self.uploads).known.entry(id).and_modify(|upload| upload.kept = true);
        let mut securing = Securing { keeper: self, id, mark, members, voters, source };
        for manifest in manifests {
            // Nodes come first: without them the names behind them are not known.
            self.names(manifest, &mut |names| securing.names(names))?;
        }
        let mut holders = securing.voters;
        holders.push(self.own.id);
        Ok(Secured { term: mark.term, holders })
    }

    /// The upload is over. Its chunks are held until [`Keeper::settle`] is told that what became of its command is known.
    pub fn end(&self, id: u64) -> Option<Mark> {
        lock(&self.uploads).known.remove(&id).map(|upload| upload.mark)
    }

    /// True while this member is open and its term is `term`.
    pub fn is_still_in(&self, term: u64) -> bool {
        self.standing.check_open().is_ok() && self.standing.status().term == term
    }

    /// What became of the command of an upload is known, and applied if it was written.
    pub fn settle(&self, mark: Mark) {
        lock(&self.ledger).end(mark);
    }

    /// Which of these chunks are whole here, with CRC-32 and length of each. They are kept for a while, and for the upload
    /// `id` if it is one. Errors as [`Keeper::store`].
    pub fn hold(&self, id: u64, names: &[Name]) -> Result<Vec<Option<(u32, u32)>>> {
        self.check_leads()?;
        if id != NO_UPLOAD {
            let (mark, _) = self.enter(id)?;
            let mut ledger = lock(&self.ledger);
            names.iter().for_each(|name| ledger.mark(name, mark));
        }
        names
            .iter()
            .map(|name| {
                let Some(bytes) = self.read_here(name)? else { return Ok(None) };
                self.blobs.touch(name);
                Ok(Some((crc32fast::hash(&bytes), bytes.len() as u32)))
            })
            .collect()
    }

    /// Ends uploads of which nothing was heard for as long as `forgotten`.
    pub fn expire_uploads(&self, forgotten: Duration) {
        let now = self.standing.now();
        let mut uploads = lock(&self.uploads);
        let over: Vec<u64> = uploads
            .known
            .iter()
            .filter(|(_, upload)| !upload.kept && now.saturating_duration_since(upload.heard) > forgotten)
            .map(|(id, _)| *id)
            .collect();
        let marks: Vec<Mark> =
            over.iter().filter_map(|id| uploads.known.remove(id)).map(|upload| upload.mark).collect();
        drop(uploads);
        let mut ledger = lock(&self.ledger);
        marks.into_iter().for_each(|mark| ledger.end(mark));
    }

    fn check_leads(&self) -> Result<Status> {
        self.standing.check_open()?;
        let status = self.standing.status();
        match status.role {
            Role::Leader => Ok(status),
            _ => Err(Error::new(Kind::Moved, "this member does not lead its group")),
        }
    }

    /// The mark of the upload, which begins here if it is not known, and the voters that it does without.
    fn enter(&self, id: u64) -> Result<(Mark, BTreeSet<u64>)> {
        let status = self.check_leads()?;
        let mut uploads = lock(&self.uploads);
        if let Some(upload) = uploads.known.get_mut(&id) {
            if upload.mark.term != status.term {
                return Err(took_over());
            }
            upload.heard = self.standing.now();
            return Ok((upload.mark, upload.failed.clone()));
        }
        if uploads.known.len() >= MOST {
            return Err(Error::new(Kind::Overloaded, format!("{MOST} values are already on their way in")));
        }
        let mark = lock(&self.ledger).begin(status.term);
        let upload = Upload { mark, heard: self.standing.now(), failed: BTreeSet::new(), kept: false };
        uploads.known.insert(id, upload);
        Ok((mark, BTreeSet::new()))
    }

    fn note_failed(&self, id: u64, hurt: &[u64]) -> Result<BTreeSet<u64>> {
        let mut uploads = lock(&self.uploads);
        let upload = uploads.known.get_mut(&id).ok_or_else(took_over)?;
        upload.failed.extend(hurt);
        upload.heard = self.standing.now();
        Ok(upload.failed.clone())
    }

    fn reachable_voters(&self, members: &Members, failed: &BTreeSet<u64>) -> Vec<u64> {
        let voters: BTreeSet<u64> = members.voters.iter().chain(&members.outgoing).copied().collect();
        let reachable = |id: &u64| *id != self.own.id && !failed.contains(id) && members.active.contains(id);
        voters.into_iter().filter(reachable).collect()
    }

    /// Waits a moment for voters that were not heard of yet, as after an election.
    fn wait_for_majority(&self, failed: &BTreeSet<u64>) -> Result<Arc<Members>> {
        for _ in 0..ELECTED.as_millis() / POLL.as_millis() {
            let members = self.standing.members();
            if self.check_majority(&members, failed).is_ok() {
                return Ok(members);
            }
            self.standing.sleep(POLL);
        }
        let members = self.standing.members();
        self.check_majority(&members, failed).map(|()| members)
    }

    fn check_majority(&self, members: &Members, failed: &BTreeSet<u64>) -> Result<()> {
        let mut holders = self.reachable_voters(members, failed);
        holders.push(self.own.id);
        match is_majority(&holders, &members.voters, &members.outgoing) {
            true => Ok(()),
            false => Err(Error::new(
                Kind::NoMajority,
                "no majority of the group took the value; nothing was written",
            )
            .hint("try again a little later")),
        }
    }

    /// Asks voters; returns those that did not answer as they should.
    fn ask_voters(
        &self,
        voters: &[u64],
        question: &[u8],
        meanwhile: &mut dyn FnMut(),
        judge: &mut dyn FnMut(u64, Vec<u8>) -> Result<()>,
    ) -> Vec<u64> {
        let sealed = |voter: &u64| (*voter, parcel::envelope(&self.own, *voter, question));
        let questions: Vec<(u64, Vec<u8>)> = voters.iter().map(sealed).collect();
        let answers = self.wire.ask_all(&questions, meanwhile);
        let mut hurt = Vec::new();
        for (voter, answer) in voters.iter().zip(answers) {
            if let Err(error) = answer.and_then(|answer| judge(*voter, answer)) {
                log::debug!("voter {voter} does without a value for now: {error}");
                hurt.push(*voter);
            }
        }
        hurt
    }

    /// Gets a chunk that is not here.
    fn obtain(&self, name: &Name, source: Source<'_>) -> Result<()> {
        let bytes = match source(name)?.filter(|bytes| Name::of(bytes) == *name) {
            Some(bytes) => bytes,
            None => self.pull(name).map_err(|error| {
                Error::new(Kind::ChunkMissing, format!("chunk {} is not here", name.hex()))
                    .hint("send its bytes too")
                    .cause(error)
            })?,
        };
        self.put(name, &bytes)
    }
}

/// Names on their way to a majority.
struct Securing<'a> {
    keeper: &'a Keeper,
    id: u64,
    mark: Mark,
    members: Arc<Members>,
    /// Those who have everything so far.
    voters: Vec<u64>,
    source: Source<'a>,
}

impl Securing<'_> {
    fn names(&mut self, names: &[Name]) -> Result<()> {
        names.chunks(ASKED).try_for_each(|names| self.some(names))
    }

    fn some(&mut self, names: &[Name]) -> Result<()> {
        let (keeper, mark) = (self.keeper, self.mark);
        let mut ledger = lock(&keeper.ledger);
        names.iter().for_each(|name| ledger.mark(name, mark));
        drop(ledger);
        let missing: Vec<&Name> = names.iter().filter(|name| !keeper.blobs.touch(name)).collect();
        keeper.in_lanes(&missing, &|name| keeper.obtain(name, self.source))?;
        let question = Question::Held(mark, names.to_vec()).encode();
        let hurt = keeper.ask_voters(&self.voters, &question, &mut || (), &mut |voter, answer| {
            let held = talk::decode_held(names.len(), &answer)?;
            let lacking: Vec<&Name> =
                names.iter().zip(held).filter(|(_, held)| !held).map(|(name, _)| name).collect();
            keeper.in_lanes(&lacking, &|name| {
                let bytes = keeper.read(name)?;
                keeper.ask(voter, &talk::take(mark, name, &bytes)).map(drop)
            })
        });
        self.voters.retain(|voter| !hurt.contains(voter));
        let failed = keeper.note_failed(self.id, &hurt)?;
        let others = self.members.voters.iter().chain(&self.members.outgoing);
        let lost = others.filter(|voter| !self.voters.contains(voter)).copied().chain(failed).collect();
        keeper.check_majority(&self.members, &lost)
    }
}

fn took_over() -> Error {
    Error::new(
        Kind::NoMajority,
        "the lead of the group changed while the value was on its way; nothing was written",
    )
    .hint("send it again; put-file --resume sends only what is missing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_is_one_of_the_old_and_of_the_new_voters() {
        assert!(is_majority(&[1], &[1], &[]));
        assert!(!is_majority(&[1], &[1, 2], &[]) && !is_majority(&[], &[], &[]));
        assert!(is_majority(&[1, 3], &[1, 2, 3], &[]));
        assert!(!is_majority(&[1, 2], &[1, 2, 3], &[3, 4, 5]));
        assert!(is_majority(&[1, 2, 4, 5], &[1, 2, 3], &[3, 4, 5]));
    }
}
