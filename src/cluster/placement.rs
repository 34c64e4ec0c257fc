//! Placement: how many slots each group should own, and which slots change hands for that. Pure and deterministic.
//!
//! Slots go up, never down: a group with fewer voters than the one that owns them would keep fewer copies, so it does
//! not get them unless somebody accepts that. Groups with the same number of voters are a *class*. The fairest shares
//! under that rule are an isotonic regression (Barlow et al., "Statistical Inference under Order Restrictions", 1972:
//! pool adjacent violators): from the fewest voters to the most, a class that owns more on average than the next one
//! shares with it, one that owns less keeps what it has and waits for members. Within what is pooled shares differ by
//! one slot at most, and whoever owns more than its share gives away just that.
//!
//! Left out: when a move begins (`planning`), and how it is carried out.

use super::moves::{SlotSet, Span};
use super::slots::{SLOTS, SlotTable};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// A group, as far as placement cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub group: u32,
    /// How many of its members vote; none if that is not known: then it keeps what it owns.
    pub voters: Option<usize>,
    /// How many members it has.
    pub members: usize,
    /// True if it can give slots now.
    pub may_give: bool,
    /// True if it can take slots now.
    pub may_take: bool,
    /// True while it is in a move: its share is counted, and no other move begins.
    pub busy: bool,
    /// True if it is to end without slots.
    pub draining: bool,
}

/// Slots that go from one group to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// The group that owns them.
    pub from: u32,
    /// The group that is to own them.
    pub to: u32,
    /// The slots; never none.
    pub slots: SlotSet,
}

/// A group that gets fewer slots than others because it has fewer voters than those that own them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waits {
    /// The group.
    pub group: u32,
    /// How many voters it needs.
    pub voters: usize,
    /// How many more members it needs for that; 0 if it has them and they do not vote yet.
    pub members: usize,
}

impl std::fmt::Display for Waits {
    /// `group 3 waits for 2 more members`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Waits { group, voters, members } = self;
        match members {
            0 => write!(f, "group {group} waits until {voters} of its members vote"),
            1 => write!(f, "group {group} waits for 1 more member"),
            _ => write!(f, "group {group} waits for {members} more members"),
        }
    }
}

/// Who should own how much, and what is to be done about it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// How many slots each group should own.
    pub shares: BTreeMap<u32, u16>,
    /// What can begin now, one after the other or, between other groups, at once.
    pub transfers: Vec<Transfer>,
    /// The groups that wait for members, ascending.
    pub waits: Vec<Waits>,
}

/// A group with what it owns.
struct Holder<'a> {
    candidate: &'a Candidate,
    owned: u16,
    /// The voters that count; 0 for all where fewer copies are accepted.
    class: usize,
    share: u16,
}

/// Where the slots of `table` should be. Slots of groups that are no candidates stay.
pub fn place(table: &SlotTable, candidates: &[Candidate], accept_fewer_copies: bool) -> Placement {
    let draining = candidates.iter().any(|candidate| candidate.draining);
    // Whoever cannot take is counted nevertheless, so that an outage moves nothing twice. But who leaves does not wait.
    let counts = |candidate: &&Candidate| {
        let able = candidate.may_take || candidate.busy || candidate.draining;
        (candidate.voters.is_some() || accept_fewer_copies) && (able || !draining)
    };
    let mut holders: Vec<Holder<'_>> = candidates
        .iter()
        .filter(counts)
        .map(|candidate| {
            let class = if accept_fewer_copies { 0 } else { candidate.voters.unwrap_or_default() };
            Holder { candidate, owned: table.count(candidate.group), class, share: 0 }
        })
        .collect();
    holders.sort_by_key(|holder| (holder.class, holder.candidate.group));
    let blocks = pool(&holders);
    let mut rest = holders.as_mut_slice();
    for block in &blocks {
        let (own, others) = rest.split_at_mut(block.holders);
        share_out(own);
        rest = others;
    }
    let mut shares: BTreeMap<u32, u16> =
        candidates.iter().map(|candidate| (candidate.group, table.count(candidate.group))).collect();
    shares.extend(holders.iter().map(|holder| (holder.candidate.group, holder.share)));
    Placement { transfers: transfers(table, &holders), waits: waits(&holders, &blocks), shares }
}

/// Neighbouring classes that share their slots.
struct Block {
    /// How many holders, in their order.
    holders: usize,
    slots: u64,
    /// Of the holders, those that are to own slots.
    takers: u64,
    /// Voters of the lowest class that owns slots.
    needs: usize,
}

impl Block {
    /// True if this one owns more for each taker than `other`, or one of them has nobody who could own slots.
    fn shares_with(&self, other: &Block) -> bool {
        let nobody = self.takers == 0 && self.slots > 0 || other.takers == 0 && other.slots == 0;
        nobody || self.slots * other.takers > other.slots * self.takers
    }
}

/// Pools classes, from the fewest voters to the most. The holders are sorted by class.
fn pool(holders: &[Holder<'_>]) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    for class in holders.chunk_by(|one, two| one.class == two.class) {
        let slots = class.iter().map(|holder| u64::from(holder.owned)).sum();
        let takers = class.iter().filter(|holder| !holder.candidate.draining).count() as u64;
        let needs = if slots > 0 { class[0].class } else { usize::MAX };
        let mut block = Block { holders: class.len(), slots, takers, needs };
        while let Some(below) = blocks.pop_if(|below| below.shares_with(&block)) {
            block.holders += below.holders;
            block.slots += below.slots;
            block.takers += below.takers;
            block.needs = block.needs.min(below.needs);
        }
        blocks.push(block);
    }
    blocks
}

/// Sets the shares of a block: the same for all that stay, or one more for those that own most. Its lower classes get
/// no more than they own together, because slots do not go down.
fn share_out(holders: &mut [Holder<'_>]) {
    let takers = holders.iter().filter(|holder| !holder.candidate.draining).count() as u64;
    let total: u64 = holders.iter().map(|holder| u64::from(holder.owned)).sum();
    let (Some(level), Some(mut more)) = (total.checked_div(takers), total.checked_rem(takers)) else {
        // Nobody may have them: they wait where they are.
        holders.iter_mut().for_each(|holder| holder.share = holder.owned);
        return;
    };
    // For each end of a class: how many slots are left over if everybody up to there has the lower share.
    let mut spare: Vec<(usize, i64)> = Vec::new();
    let mut left = 0i64;
    for holder in holders.iter_mut() {
        holder.share = if holder.candidate.draining { 0 } else { level as u16 };
        left += i64::from(holder.owned) - i64::from(holder.share);
        match spare.last_mut() {
            Some((class, kept)) if *class == holder.class => *kept = left,
            _ => spare.push((holder.class, left)),
        }
    }
    let mut order: Vec<usize> = (0..holders.len()).filter(|at| !holders[*at].candidate.draining).collect();
    order.sort_by_key(|at| {
        let holder = &holders[*at];
        (
            u64::from(holder.owned) <= level,
            Reverse(holder.class),
            Reverse(holder.owned),
            holder.candidate.group,
        )
    });
    for at in order {
        let class = holders[at].class;
        let fits = spare.iter().filter(|(end, _)| *end >= class).all(|(_, left)| *left > 0);
        if more > 0 && fits {
            more -= 1;
            holders[at].share += 1;
            spare.iter_mut().filter(|(end, _)| *end >= class).for_each(|(_, left)| *left -= 1);
        }
    }
}

/// Who waits for members: whoever would get more if voters did not count, or could take what has nowhere to go.
fn waits(holders: &[Holder<'_>], blocks: &[Block]) -> Vec<Waits> {
    let mut waits = Vec::new();
    let mut first = 0;
    for (at, block) in blocks.iter().enumerate() {
        let own = &holders[first..first + block.holders];
        first += block.holders;
        let Some(above) = blocks[at + 1..].iter().find(|above| above.slots > 0) else { break };
        // A slot more or less is no reason to wait.
        let gains =
            above.takers == 0 || above.slots * block.takers >= (block.slots + block.takers) * above.takers;
        for holder in own.iter().filter(|holder| gains && !holder.candidate.draining) {
            let members = above.needs.saturating_sub(holder.candidate.members);
            waits.push(Waits { group: holder.candidate.group, voters: above.needs, members });
        }
    }
    waits.sort_by_key(|waits| waits.group);
    waits
}

/// Who gives what to whom: of those that can now, the largest to the largest.
fn transfers(table: &SlotTable, holders: &[Holder<'_>]) -> Vec<Transfer> {
    let able = |holder: &&Holder<'_>| !holder.candidate.busy;
    let mut givers: Vec<(usize, u32, u16)> = holders
        .iter()
        .filter(able)
        .filter(|holder| holder.candidate.may_give && holder.owned > holder.share)
        .map(|holder| (holder.class, holder.candidate.group, holder.owned - holder.share))
        .collect();
    let mut takers: Vec<(usize, u32, u16)> = holders
        .iter()
        .filter(able)
        .filter(|holder| holder.candidate.may_take && holder.owned < holder.share)
        .map(|holder| (holder.class, holder.candidate.group, holder.share - holder.owned))
        .collect();
    // The lowest classes have the fewest to take from.
    takers.sort_by_key(|(class, group, lacks)| (*class, Reverse(*lacks), *group));
    let mut owned: BTreeMap<u32, SlotSet> = BTreeMap::new();
    let mut transfers = Vec::new();
    for (class, to, mut lacks) in takers {
        while lacks > 0 {
            let may = givers.iter_mut().filter(|(from, _, spare)| *from <= class && *spare > 0);
            let Some((_, from, spare)) = may.min_by_key(|(_, group, spare)| (Reverse(*spare), *group)) else {
                break;
            };
            let count = lacks.min(*spare);
            lacks -= count;
            *spare -= count;
            let taken = owned.get(&to).cloned().unwrap_or_else(|| table.of(to));
            let left = owned.entry(*from).or_insert_with(|| table.of(*from));
            let slots = cut(left, &taken, count);
            *left = left.minus(&slots);
            owned.insert(to, taken.union(&slots));
            transfers.push(Transfer { from: *from, to, slots });
        }
    }
    transfers
}

/// Chooses `count` slots of `from`, in few runs, beside slots of `beside` where that can be.
fn cut(from: &SlotSet, beside: &SlotSet, count: u16) -> SlotSet {
    let mut chosen: Vec<Span> = Vec::new();
    let mut spans: Vec<Span> = from.spans().to_vec();
    let mut lacks = count;
    while lacks > 0 && !spans.is_empty() {
        let length = |span: &Span| span.last - span.first + 1;
        let touches = |slot: Option<u16>| slot.is_some_and(|slot| slot < SLOTS && beside.contains(slot));
        let begins = |span: &Span| touches(span.first.checked_sub(1));
        let ends = |span: &Span| touches(span.last.checked_add(1));
        // One run that is long enough: the one that touches, else one that fits, else the shortest. Else the longest.
        let best = (0..spans.len()).min_by_key(|at| {
            let span = &spans[*at];
            let (long, joins) = (length(span) >= lacks, begins(span) || ends(span));
            let size = if long { length(span) } else { SLOTS - length(span) };
            (!long, !joins, length(span) != lacks, size, *at)
        });
        let Some(at) = best else { break };
        let span = spans[at];
        let take = lacks.min(length(&span));
        lacks -= take;
        let rest = length(&span) - take;
        let (piece, kept) = match begins(&span) {
            true => (Span { last: span.last - rest, ..span }, Span { first: span.first + take, ..span }),
            false => (
                Span { first: span.first + rest, ..span },
                Span { last: span.last.wrapping_sub(take), ..span },
            ),
        };
        chosen.push(piece);
        match rest {
            0 => drop(spans.remove(at)),
            _ => spans[at] = kept,
        }
    }
    SlotSet::of(chosen)
}

#[cfg(test)]
#[path = "placement_tests.rs"]
mod tests;
