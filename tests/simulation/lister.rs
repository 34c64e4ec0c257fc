//! A client that lists all keys, again and again, while slots move: it asks every group for a page, believes the pages only
//! if each slot is covered once, merges them, and goes on behind the first place where one of them ended.

use crate::event::{Answer, Caller, Event, Place, Question};
use crate::history::History;
use crate::keys;
use crate::system::{MS, SECOND, System};
use crate::workers::Workers;
use catstore::cluster::moves::SlotSet;
use catstore::cluster::slots::SLOTS;
use std::collections::BTreeMap;

/// Where it is, for the network.
pub const PLACE: Place = Place::Client(u64::MAX - 1);
/// So many pages that do not fit together, and it begins anew.
const TRIES: u64 = 60;

/// A page of a group.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// Keys in order.
    pub keys: Vec<Vec<u8>>,
    /// True if there are more behind them.
    pub more: bool,
    /// The slots that the page covers.
    pub slots: SlotSet,
}

/// The client.
#[derive(Default)]
pub struct Lister {
    /// When the list under way began.
    began: u64,
    listed: Vec<Vec<u8>>,
    after: Vec<u8>,
    pages: BTreeMap<u32, Page>,
    leaders: BTreeMap<u32, u64>,
    /// The number of the questions that it waits for.
    attempt: u64,
    tries: u64,
    /// When a list was complete last.
    complete: u64,
}

impl Lister {
    /// Asks every group for what is missing.
    pub fn act(&mut self, sys: &mut System, workers: &Workers) {
        if self.began == 0 {
            *self = Lister {
                began: sys.now,
                attempt: self.attempt,
                leaders: std::mem::take(&mut self.leaders),
                complete: self.complete,
                ..Lister::default()
            };
        }
        self.attempt += 1;
        self.tries += 1;
        if self.tries > TRIES {
            sys.count("list given up");
            self.began = 0;
            let pause = pause(sys);
            return sys.after(pause, Event::List(self.attempt));
        }
        for group in workers.ids().into_iter().filter(|group| !self.pages.contains_key(group)) {
            let there = workers.group(group).there();
            if there.is_empty() {
                continue;
            }
            let known = self.leaders.get(&group).copied().filter(|_| !sys.one_in(12));
            let to = Place::Worker(known.unwrap_or_else(|| there[sys.random.up_to(there.len() - 1)]));
            let caller = Caller::Lister { group, attempt: self.attempt };
            let question = Question::List(self.after.clone(), sys.between(1, 6) as usize);
            if let Some(delay) = sys.send(PLACE, to).first() {
                sys.after(*delay, Event::Question(to, caller, question));
            }
        }
        let patience = sys.between(20, 300) * MS;
        sys.after(patience, Event::List(self.attempt));
    }

    /// True if nothing came of the questions with this number.
    pub fn waits_for(&self, attempt: u64) -> bool {
        self.attempt == attempt
    }

    /// A group answers. Errors: a list that is not in order.
    pub fn answer(
        &mut self,
        sys: &mut System,
        workers: &Workers,
        history: &mut History,
        (group, attempt): (u32, u64),
        answer: Answer,
    ) -> Result<(), String> {
        if attempt != self.attempt || self.began == 0 {
            return Ok(());
        }
        match answer {
            Answer::Page(page) => {
                self.pages.insert(group, page);
            }
            Answer::Refused(_, leader) => {
                match leader {
                    Some(leader) => self.leaders.insert(group, leader),
                    None => self.leaders.remove(&group),
                };
                return Ok(());
            }
            _ => return Ok(()),
        }
        if workers.ids().iter().any(|group| !self.pages.contains_key(group)) {
            return Ok(());
        }
        self.merge(sys, history)
    }

    /// Takes the pages over, if they cover each slot once.
    fn merge(&mut self, sys: &mut System, history: &mut History) -> Result<(), String> {
        let pages = std::mem::take(&mut self.pages);
        let covered: u64 = pages.values().map(|page| u64::from(page.slots.count())).sum();
        let union = pages.values().fold(SlotSet::default(), |all, page| all.union(&page.slots));
        if covered != u64::from(SLOTS) || union.count() != SLOTS {
            sys.count("pages that do not fit together");
            return Ok(());
        }
        let ends = pages.values().filter(|page| page.more).filter_map(|page| page.keys.last());
        let end = ends.min().cloned();
        let keys = pages.values().flat_map(|page| &page.keys);
        let mut keys: Vec<Vec<u8>> =
            keys.filter(|key| end.as_ref().is_none_or(|end| *key <= end)).cloned().collect();
        keys.sort();
        self.listed.extend(keys);
        match end {
            Some(end) => self.after = end,
            None => {
                sys.count("key listing complete");
                let listed = std::mem::take(&mut self.listed);
                if let Some(pair) = listed.windows(2).find(|pair| pair[0] >= pair[1]) {
                    return Err(format!("a list holds {:?}, and then {:?}", pair[0], pair[1]));
                }
                let numbers = listed.iter().filter_map(|key| keys::number(key)).collect();
                history.listed(self.began, sys.now, numbers);
                (self.began, self.complete) = (0, sys.now);
                self.attempt += 1;
                let pause = pause(sys);
                sys.after(pause, Event::List(self.attempt));
                return Ok(());
            }
        }
        self.tries = 0;
        self.attempt += 1;
        sys.after(0, Event::List(self.attempt));
        Ok(())
    }

    /// What must hold at the end: a list was complete lately.
    pub fn judge(&self, now: u64) -> Result<(), String> {
        match self.complete + 10 * SECOND < now {
            true => Err(format!("no list was complete for {} ms", (now - self.complete) / MS)),
            false => Ok(()),
        }
    }
}

fn pause(sys: &mut System) -> u64 {
    sys.between(100, 1500) * MS
}
