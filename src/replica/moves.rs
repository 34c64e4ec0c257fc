//! What a group knows of the moves that it is in: one row of its state, changed by entries only.
//!
//! At most one move in which the group gives ([`Outgoing`]) and one in which it takes ([`Incoming`]); of those that are
//! over, the last of each kind, so that what comes late is known to be late.
//!
//! A group that goes on from a copy, or from nothing, as another incarnation may lack the end of moves. It serves nothing
//! until it has adopted what the masters say of its slots ([`Moves::awaits`]).

use crate::cluster::moves::SlotSet;
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};

/// The layout of the row of a group that never adopted its slots.
const LAYOUT: u8 = 1;
/// The layout of the row of one that did: what it adopted is behind the rest.
const ADOPTED: u8 = 2;

/// The moves of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moves {
    /// The move in which it gives slots away.
    pub outgoing: Option<Outgoing>,
    /// The move in which it takes slots.
    pub incoming: Option<Incoming>,
    /// The last move in which it gave, or declined to; 0 if there was none.
    pub last_out: u64,
    /// The last move in which it took, or refused to; 0 if there was none.
    pub last_in: u64,
    /// True if it took the slots of `last_in`.
    pub took: bool,
    /// The incarnation that began with the slots that the masters gave it; 0: none but the first.
    #[serde(skip)]
    pub adopted: u64,
    /// The move in which the group was to take slots then, whose end this copy may lack; 0 if there was none. Once it is
    /// over the masters' word on those slots counts.
    #[serde(skip)]
    pub pending: u64,
}

/// A move at its source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outgoing {
    /// Its id.
    pub id: u64,
    /// Counts from 1; each begins the copy anew.
    pub attempt: u64,
    /// The slots.
    pub slots: SlotSet,
    /// The target's group.
    pub to: u32,
    /// How far it is.
    pub phase: OutPhase,
    /// The number of the first change that follows the copy of this attempt.
    pub base: u64,
    /// Rows of the outbox below this number are gone.
    pub swept: u64,
    /// Changes below this number are at the target.
    pub first: u64,
    /// The number of the next change.
    pub next: u64,
    /// The row up to which records were removed.
    #[serde(with = "serde_bytes")]
    pub cursor: Vec<u8>,
}

/// How far a move is at its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutPhase {
    /// It serves the slots, and notes what changes.
    Following,
    /// Requests for the slots wait.
    Frozen,
    /// The target owns the slots.
    Given,
    /// The target refused: the slots are served here, and the outbox is removed.
    Withdrawn,
    /// Nothing is left of it.
    Done {
        /// True if the target refused.
        withdrawn: bool,
    },
}

/// A move at its target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incoming {
    /// Its id.
    pub id: u64,
    /// Which attempt of the source.
    pub attempt: u64,
    /// The slots.
    pub slots: SlotSet,
    /// The source's group.
    pub from: u32,
    /// This group.
    pub to: u32,
    /// How far it is.
    pub phase: InPhase,
    /// Slots whose rows are to be removed.
    pub purge: SlotSet,
    /// The row up to which rows were removed, or up to which the copy came.
    #[serde(with = "serde_bytes")]
    pub cursor: Vec<u8>,
    /// True once the copy is complete.
    pub complete: bool,
    /// The number of the next change.
    pub next: u64,
    /// Records that are here.
    pub keys: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// Those with a time to live.
    pub expiring: u64,
}

/// How far a move is at its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum InPhase {
    /// What is left of the slots is removed.
    Purging,
    /// It takes what comes.
    Receiving,
    /// It owns the slots.
    Active,
    /// It never takes them; what came is removed.
    Refused,
}

/// The first attempt of a source in this incarnation: later than any of a former one, whose copies are left behind.
pub fn first_attempt(incarnation: u64) -> u64 {
    (incarnation << 32) + 1
}

impl Outgoing {
    /// A move of which nothing was sent yet.
    pub fn bare(id: u64, attempt: u64, slots: SlotSet, to: u32, phase: OutPhase) -> Outgoing {
        let (base, swept, first, next) = (0, 0, 0, 0);
        Outgoing { id, attempt, slots, to, phase, base, swept, first, next, cursor: Vec::new() }
    }
}

impl Moves {
    /// Layout: one byte, 1, then the fields as postcard writes them; or 2, and behind them what was adopted.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let failed = |error| Error::new(Kind::Failed, "the moves do not encode").cause(error);
        if self.adopted == 0 {
            return postcard::to_extend(self, vec![LAYOUT]).map_err(failed);
        }
        let row = postcard::to_extend(self, vec![ADOPTED]).map_err(failed)?;
        postcard::to_extend(&(self.adopted, self.pending), row).map_err(failed)
    }

    /// Errors: `Damaged`; `Foreign` for a layout of a later version.
    pub fn decode(row: &[u8]) -> Result<Moves> {
        let damaged = || Error::new(Kind::Damaged, "the row of moves is not readable");
        let (layout, rest) = row.split_first().ok_or_else(damaged)?;
        if ![LAYOUT, ADOPTED].contains(layout) {
            return Err(Error::new(Kind::Foreign, format!("moves of layout {layout} are not known here"))
                .hint("a newer catstore wrote them: run that version on this folder"));
        }
        let (mut moves, rest): (Moves, &[u8]) =
            postcard::take_from_bytes(rest).map_err(|error| damaged().cause(error))?;
        if *layout == ADOPTED {
            (moves.adopted, moves.pending) =
                postcard::from_bytes(rest).map_err(|error| damaged().cause(error))?;
        }
        let sets = moves.outgoing.iter().map(|out| &out.slots);
        let sets = sets.chain(moves.incoming.iter().flat_map(|incoming| [&incoming.slots, &incoming.purge]));
        for set in sets {
            set.check().map_err(|why| Error::new(Kind::Damaged, why))?;
        }
        Ok(moves)
    }

    /// True if requests for `slot` wait.
    pub fn freezes(&self, slot: u16) -> bool {
        self.outgoing.as_ref().is_some_and(|out| out.phase == OutPhase::Frozen && out.slots.contains(slot))
    }

    /// True if requests for some slot wait.
    pub fn freezes_any(&self) -> bool {
        self.outgoing.as_ref().is_some_and(|out| out.phase == OutPhase::Frozen)
    }

    /// True if changes of `slot` are noted in the outbox.
    pub fn follows(&self, slot: u16) -> bool {
        self.outgoing.as_ref().is_some_and(|out| out.phase == OutPhase::Following && out.slots.contains(slot))
    }

    /// The group that `slot` was given to by a move that the masters may not know to be over.
    pub fn given_to(&self, slot: u16) -> Option<u32> {
        let out = self.outgoing.as_ref()?;
        let given = matches!(out.phase, OutPhase::Given | OutPhase::Done { withdrawn: false });
        (given && out.slots.contains(slot)).then_some(out.to)
    }

    /// True if records of `slot` are here that the group does not own yet.
    pub fn receives(&self, slot: u16) -> bool {
        let incoming = self.incoming.as_ref().filter(|incoming| incoming.phase != InPhase::Active);
        incoming.is_some_and(|incoming| incoming.slots.contains(slot) || incoming.purge.contains(slot))
    }

    /// True if the incarnation that began with this member ([`crate::store::identity::Identity::adopts`]; 0: none did) has
    /// not adopted what the masters say of its slots: it serves nothing until then, and takes no other members.
    pub fn awaits(&self, began: u64) -> bool {
        self.adopted < began
    }

    /// True if the move is over that the masters' last word left open. `open`: the unfinished move that the group is in.
    pub fn lacks_an_end(&self, open: Option<u64>) -> bool {
        self.pending != 0 && open != Some(self.pending)
    }

    /// The last move that the group knows of; 0 if there was none. What the masters say counts only if they know it too.
    pub fn latest(&self) -> u64 {
        let out = self.outgoing.as_ref().map_or(0, |out| out.id);
        let incoming = self.incoming.as_ref().map_or(0, |incoming| incoming.id);
        out.max(incoming).max(self.last_out).max(self.last_in).max(self.pending)
    }

    /// A move by which something came that is not to stay, so that it has to be refused first: it is over for the masters,
    /// who know `open` as the unfinished move of the group and `own` as its slots.
    pub fn leftover(&self, own: &SlotSet, open: Option<u64>) -> Option<u64> {
        let incoming = self.incoming.as_ref().filter(|incoming| Some(incoming.id) != open)?;
        let stays = match incoming.phase {
            InPhase::Active => true,
            InPhase::Receiving => incoming.slots.overlaps(own),
            InPhase::Purging | InPhase::Refused => false,
        };
        (!stays).then_some(incoming.id)
    }

    /// The move that touches the group: it must not be cleared.
    pub fn touches(&self) -> Option<u64> {
        let out = self.outgoing.as_ref().filter(|out| !matches!(out.phase, OutPhase::Done { .. }));
        out.map(|out| out.id).or(self.incoming.as_ref().map(|incoming| incoming.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::moves::Span;
    use proptest::prelude::*;

    fn moves() -> Moves {
        let slots = SlotSet::of([Span { first: 3, last: 9 }]);
        Moves {
            outgoing: Some(Outgoing {
                id: 7,
                attempt: 2,
                slots: slots.clone(),
                to: 1,
                phase: OutPhase::Frozen,
                base: 4,
                swept: 3,
                first: 5,
                next: 6,
                cursor: vec![2, 9],
            }),
            incoming: Some(Incoming {
                id: 8,
                attempt: 1,
                slots: slots.clone(),
                from: 3,
                to: 0,
                phase: InPhase::Receiving,
                purge: SlotSet::default(),
                cursor: Vec::new(),
                complete: true,
                next: 300,
                keys: 1,
                bytes: 2,
                expiring: 0,
            }),
            last_out: 5,
            last_in: 6,
            took: true,
            ..Moves::default()
        }
    }

    #[test]
    fn golden_row() {
        let row = moves().encode().unwrap();
        assert_eq!(
            row,
            [
                1, 1, 7, 2, 1, 3, 9, 1, 1, 4, 3, 5, 6, 2, 2, 9, 1, 8, 1, 1, 3, 9, 3, 0, 1, 0, 0, 1, 172, 2,
                1, 2, 0, 5, 6, 1
            ]
        );
        assert_eq!(Moves::decode(&row).unwrap(), moves());
        assert_eq!(Moves::decode(&Moves::default().encode().unwrap()).unwrap(), Moves::default());
        let adopted = Moves { adopted: 3, pending: 300, ..moves() };
        let longer = adopted.encode().unwrap();
        assert_eq!(
            (longer[0], &longer[1..row.len()], &longer[row.len()..]),
            (2, &row[1..], &[3, 172, 2][..])
        );
        assert_eq!(Moves::decode(&longer).unwrap(), adopted);
        assert_eq!(Moves::decode(&longer[..longer.len() - 1]).unwrap_err().kind(), Kind::Damaged);
        assert_eq!(Moves::decode(&[3]).unwrap_err().kind(), Kind::Foreign);
        assert_eq!(Moves::decode(&row[..row.len() - 1]).unwrap_err().kind(), Kind::Damaged);
    }

    #[test]
    fn a_slot_is_where_its_move_is() {
        let mut moves = moves();
        assert!(moves.freezes(3) && !moves.freezes(10) && !moves.follows(3) && moves.receives(9));
        let set = |moves: &mut Moves, phase| moves.outgoing.as_mut().unwrap().phase = phase;
        set(&mut moves, OutPhase::Following);
        assert!(!moves.freezes(3) && moves.follows(3) && moves.given_to(3).is_none());
        set(&mut moves, OutPhase::Given);
        assert_eq!((moves.given_to(3), moves.given_to(10), moves.touches()), (Some(1), None, Some(7)));
        set(&mut moves, OutPhase::Done { withdrawn: true });
        assert_eq!((moves.given_to(3), moves.touches()), (None, Some(8)));
    }

    proptest! {
        #[test]
        fn arbitrary_rows_never_panic(row: Vec<u8>) {
            let _ = Moves::decode(&row);
        }
    }
}
