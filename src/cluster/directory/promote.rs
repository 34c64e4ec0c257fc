//! What happens when members are lost for good: another worker takes a lost one's place, or a group whose majority
//! is gone goes on from one copy, or from nothing.
//!
//! A group that goes on without its majority does so under a new incarnation, and every member that is not part of
//! it is removed for good: whatever comes back is refused.

use super::register::{Place, Revival};
use super::{Directory, DirectoryReply, GroupEntry, Heard, list, refused};
use crate::cluster::view::RegisterRequest;

impl Directory {
    /// The place of the lost worker `lost`. With a majority the group goes on as it is. Without one, and if the loss
    /// is accepted, it goes on from the copy that reaches furthest, or empty if no copy is there.
    pub(super) fn place_of(
        &self,
        lost: u32,
        request: &RegisterRequest,
        alive: &[u32],
        heard: &Heard,
    ) -> Result<Place, DirectoryReply> {
        let Some(worker) = self.workers.get(&lost) else { return Err(self.no_worker(lost, "replace")) };
        let group = worker.group;
        if let Some(why) = &worker.removed {
            return Err(refused(
                format!("worker {lost} was removed already: {why}"),
                match self.members(group).next() {
                    Some(member) => format!("to join its group say --clone {member}"),
                    None => format!("group {group} was dissolved: leave out --replace"),
                },
            ));
        }
        if alive.contains(&lost) {
            return Err(refused(
                format!("worker {lost} is alive at {}: it needs no replacement", worker.address),
                "stop it first; if it was just stopped, try again in 5 seconds",
            ));
        }
        if let Some(source) =
            request.clone.filter(|source| self.workers.get(source).map(|source| source.group) != Some(group))
        {
            return Err(refused(
                format!("worker {lost} is in group {group}, worker {source} is not"),
                "say either --replace or --clone",
            ));
        }
        let mut place = Place { group: Some(group), replaces: Some(lost), ..Place::default() };
        let heard = &self.still(group, heard);
        if self.has_majority(group, heard, Some(lost)) {
            return Ok(place);
        }
        let survivor = heard.furthest(Some(lost));
        if !request.accept_data_loss {
            return Err(self.refuse_loss(lost, group, survivor));
        }
        check_closed(heard)?;
        if survivor.is_none() {
            self.check_given_up(lost, group)?;
        }
        let incarnation = self.group(group).incarnation + 1;
        place.revival = survivor.map_or(Revival::Empty, Revival::From);
        place.note = Some(match survivor {
            Some(survivor) => format!(
                "group {group} goes on from worker {survivor}'s copy as incarnation {incarnation}: what it did not hold is lost"
            ),
            None => {
                format!("group {group} begins anew as incarnation {incarnation}: its former keys are lost")
            }
        });
        Ok(place)
    }

    /// Refuses to begin anew without members that were alive a while ago: they may be on their way back.
    fn check_given_up(&self, lost: u32, group: u32) -> Result<(), DirectoryReply> {
        let is_dead = |index: &u32| self.workers.get(index).is_some_and(|worker| worker.dead);
        let missed: Vec<u32> =
            self.members(group).filter(|index| *index != lost && !is_dead(index)).collect();
        if missed.is_empty() {
            return Ok(());
        }
        let seconds = self.settings.dead_after_ms / 1000;
        Err(refused(
            format!(
                "group {group} would begin anew, and EMPTY, but its members {} may come back",
                list(missed)
            ),
            format!("start them; who is silent for {seconds} s (--dead-after of the masters) counts as dead"),
        ))
    }

    /// Says what the loss would be.
    fn refuse_loss(&self, lost: u32, group: u32, survivor: Option<u32>) -> DirectoryReply {
        let others: Vec<u32> = self.members(group).filter(|index| *index != lost).collect();
        let detail = format!("without worker {lost} group {group} has no majority");
        let folder = self.workers.get(&lost).map(|worker| worker.data.as_str()).unwrap_or_default();
        let again = format!("start worker {lost} again on {folder}");
        refused(
            detail,
            match survivor {
                Some(survivor) => format!(
                    "{again}; or add --accept-data-loss: the group goes on from worker {survivor}'s copy, which may lack the last writes"
                ),
                None if others.is_empty() => format!(
                    "{again}; or add --accept-data-loss: the group begins anew, and EMPTY, all its keys are lost"
                ),
                None => format!(
                    "{again}, or first the others of its group ({}); or add --accept-data-loss: the group begins anew, and EMPTY, all its keys are lost",
                    list(others)
                ),
            },
        )
    }

    /// Revives a group from the copy of worker `index`. A repeat changes nothing.
    pub(super) fn promote(&mut self, index: u32, heard: &Heard) -> Result<DirectoryReply, DirectoryReply> {
        let Some(worker) = self.workers.get(&index) else { return Err(self.no_worker(index, "promote")) };
        let group = worker.group;
        if let Some(why) = &worker.removed {
            return Err(refused(
                format!("worker {index} was removed: {why}"),
                format!("members of its group: {}", list(self.members(group))),
            ));
        }
        let entry = self.group(group);
        if entry.promoted == Some(index) && self.members(group).all(|member| member == index) {
            return Ok(DirectoryReply::Promoted {
                group,
                incarnation: entry.incarnation,
                left_behind: Vec::new(),
            });
        }
        self.check_promotion(index, group, &self.still(group, heard))?;
        self.epoch += 1;
        let left_behind = self.revive(group, index, &[]);
        Ok(DirectoryReply::Promoted { group, incarnation: self.group(group).incarnation, left_behind })
    }

    /// Refuses to promote a worker while the group can serve without, or where another copy is the better one.
    fn check_promotion(&self, index: u32, group: u32, heard: &Heard) -> Result<(), DirectoryReply> {
        if !heard.able.contains(&index) {
            return Err(refused(
                format!("worker {index} is not alive"),
                format!("start it first; members of group {group}: {}", list(self.members(group))),
            ));
        }
        if self.has_majority(group, heard, None) {
            return Err(refused(
                format!("a majority of group {group} is alive (workers {})", list(heard.able.clone())),
                match heard.closed.first() {
                    Some(closed) => format!("nothing needs to be lost: catstore open {closed}"),
                    None => "nothing needs to be lost: the group serves by itself".into(),
                },
            ));
        }
        check_closed(heard)?;
        let Some(own) = heard.last.get(&index) else {
            return Err(refused(
                format!("worker {index} holds no copy of group {group} yet"),
                format!("promote another: those that hold one are {}", list(heard.last.keys().copied())),
            ));
        };
        if let Some((further, last)) = heard
            .furthest(None)
            .and_then(|other| heard.last.get_key_value(&other))
            .filter(|(_, last)| *last > own)
        {
            return Err(refused(
                format!(
                    "worker {further} holds more: its log ends at entry {}, worker {index}'s at entry {}",
                    last.1, own.1
                ),
                format!("catstore promote {further} --accept-data-loss"),
            ));
        }
        Ok(())
    }

    /// The group goes on from the copy of `member`; all others but `beside` are left behind.
    pub(super) fn revive(&mut self, group: u32, member: u32, beside: &[u32]) -> Vec<u32> {
        let others = self.members(group).filter(|index| *index != member && !beside.contains(index));
        let left_behind: Vec<u32> = others.collect();
        for index in &left_behind {
            self.remove(*index, format!("left behind when worker {member} was promoted"));
        }
        if let Some(worker) = self.workers.get_mut(&member) {
            worker.dead = false;
        }
        self.new_incarnation(group, Some(member), None);
        left_behind
    }

    /// The group goes on empty, founded by the new worker `founder`.
    pub(super) fn begin_anew(&mut self, group: u32, founder: u32) {
        let others: Vec<u32> = self.members(group).filter(|index| *index != founder).collect();
        for index in others {
            self.remove(index, format!("group {group} began anew with worker {founder}"));
        }
        self.new_incarnation(group, None, Some(founder));
    }

    /// The group goes on as another. A move in which it takes slots is called off: what came may not be there any more.
    /// One in which it gives goes on: its target may own the slots already, and the source has to ask it.
    fn new_incarnation(&mut self, group: u32, promoted: Option<u32>, founder: Option<u32>) {
        let before = self.group(group);
        let incarnation = before.incarnation + 1;
        self.groups.insert(group, GroupEntry { incarnation, promoted, founder, ..before });
        self.call_off_moves_to(group);
    }
}

/// A copy is chosen among those whose end is known: whoever is closed must be opened first.
fn check_closed(heard: &Heard) -> Result<(), DirectoryReply> {
    match heard.closed.first() {
        Some(closed) => Err(refused(
            format!("worker {closed} is closed and may hold more than the others"),
            format!("catstore open {closed}"),
        )),
        None => Ok(()),
    }
}
