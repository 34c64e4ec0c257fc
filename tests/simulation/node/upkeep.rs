//! What a worker's process has to do with chunks: it tells its keeper what was applied, as the driver does, and ends uploads
//! once what became of their commands is known.

use super::{Node, Subject};
use crate::ether::{Line, Room, Stand, file_time};
use crate::event::Event;
use crate::system::{MS, SECOND, System};
use catstore::error::{Error, Kind, Result};
use catstore::replica::Name;
use catstore::replica::blobs::{Chunks as _, Ground, Keeper, Mark, Round};
use catstore::replica::command::Secured;
use catstore::replica::core::Role;
use catstore::replica::machine::Position;
use catstore::replica::member::{Outputs, Ticket};
use catstore::replica::parcel::{Gate, Sender};
use catstore::replica::shared::Members;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Up;

/// The chunks of a process.
pub struct Upkeep {
    /// Its keeper, and how others reach it.
    pub room: Arc<Room>,
    /// What parcels say of its chunks.
    pub(super) complete: u64,
    /// Uploads whose command waits for its reply.
    pub(super) endings: BTreeMap<Ticket, Ending>,
    /// Uploads of which nobody knows what became of them until this command is answered, and how often that was tried.
    pub(super) settling: BTreeMap<Ticket, (Mark, u64)>,
    pub(super) readers: BTreeMap<u64, super::chunks::Reader>,
    pub(super) read: u64,
    /// The round under way, and how often it found somebody reading.
    pub(super) round: Option<(Round, u64)>,
    /// True while a look at what may be missing is planned.
    checks: bool,
    /// True if it is slow to fetch what is missing.
    lazy: bool,
}

/// An upload that is about to end.
pub(super) struct Ending {
    pub(super) upload: u64,
    /// The upload that brought the chunks.
    pub(super) brought: Option<u64>,
    pub(super) names: Vec<Name>,
    pub(super) secured: Secured,
}

impl Upkeep {
    /// The keeper of the member `own`, which was just opened.
    pub(super) fn open<M: Subject>(
        sys: &mut System,
        node: &Node<M>,
        own: &Sender,
        gate: &Arc<Gate>,
        (position, term): (Position, u64),
        stand: Stand,
    ) -> Upkeep {
        let (ether, stand) = (sys.ether.clone(), Arc::new(stand));
        let keeper = Keeper::new_without_threads(Ground {
            blobs: Box::new(node.disk.blobs(file_time(&ether))),
            own: own.clone(),
            wire: Arc::new(Line { from: node.id, ether: ether.clone() }),
            standing: stand.clone(),
            applied: (position.index, position.term),
            term,
            keep: Duration::ZERO,
            lanes: 1,
        });
        let room = Arc::new(Room { keeper, stand, gate: gate.clone() });
        ether.opens(node.id, &room);
        let first = sys.between(100 * MS, 3 * SECOND);
        sys.after(first, Event::Collect(node.place(), node.life));
        Upkeep {
            room,
            complete: 0,
            endings: BTreeMap::new(),
            settling: BTreeMap::new(),
            readers: BTreeMap::new(),
            read: 0,
            round: None,
            checks: false,
            lazy: sys.one_in(6),
        }
    }

    /// A run has ended: the keeper hears what was applied, before anybody is answered.
    fn ran<R, B>(&mut self, outputs: &Outputs<R, B>, at: Position) {
        let keeper = &self.room.keeper;
        self.complete = keeper.complete();
        if outputs.installed || outputs.replaced {
            keeper.replaced(at.index, at.term);
        } else if outputs.entries > 0 {
            keeper.applied(at.index, at.term, outputs.chunked.clone());
        }
    }
}

impl<M: Subject> Up<M> {
    /// What the driver tells of a run at its end.
    pub(super) fn tell_of_chunks(&mut self, now: u64, outputs: &Outputs<M::Reply, super::MemoryBuilding>) {
        let Some(upkeep) = &mut self.upkeep else { return };
        upkeep.ran(outputs, self.member.machine().position());
        self.member.note_complete(upkeep.complete);
        let stand = &upkeep.room.stand;
        stand.shows(self.live.0.clone());
        stand.publish(self.status, self.lease);
        if std::mem::take(&mut self.ticked) {
            let core = self.member.core();
            let membership = core.membership();
            let leads = self.status.role == Role::Leader;
            stand.knows(Members {
                voters: membership.voters.clone(),
                outgoing: membership.voters_outgoing.clone(),
                standbys: membership.learners.clone(),
                active: if leads { core.active(now) } else { Vec::new() },
            });
        }
    }

    /// The command with this ticket is answered: if it belongs to an upload, that is over. Errors: a chunk is gone that must
    /// still be there.
    pub(super) fn end_upload(
        &mut self,
        sys: &mut System,
        (life, now): (u64, u64),
        ticket: Ticket,
        reply: &Result<M::Reply>,
    ) -> std::result::Result<(), String> {
        let Some(upkeep) = &mut self.upkeep else { return Ok(()) };
        let place = M::place(self.own.id);
        if let Some((mark, tries)) = upkeep.settling.remove(&ticket) {
            match reply {
                Ok(_) => {
                    sys.count("upload settled late");
                    upkeep.room.keeper.settle(mark);
                }
                Err(_) => sys.after(SECOND, Event::Settle(place, life, mark, tries + 1)),
            }
        }
        let Some(ending) = upkeep.endings.remove(&ticket) else { return Ok(()) };
        let leads = self.lease > now && self.status.term == ending.secured.term;
        if reply.is_ok() && leads {
            let index = self.member.machine().position().index;
            sys.secured(self.own.group, index, &ending.secured.holders, &ending.names)?;
        }
        if let Some(mark) = ending.brought.filter(|_| reply.is_ok()).and_then(|id| upkeep.room.keeper.end(id))
        {
            upkeep.room.keeper.settle(mark);
        }
        let Some(mark) = upkeep.room.keeper.end(ending.upload) else { return Ok(()) };
        match reply {
            Err(error) if error.kind() == Kind::UnknownOutcome => {
                sys.after(0, Event::Settle(place, life, mark, 0));
            }
            _ => upkeep.room.keeper.settle(mark),
        }
        Ok(())
    }

    /// A command was refused: it was certainly not written.
    pub(super) fn refuse_upload(
        &mut self,
        sys: &mut System,
        times: (u64, u64),
        ticket: Ticket,
        error: &Error,
    ) -> std::result::Result<(), String> {
        self.end_upload(sys, times, ticket, &Err(error.clone()))
    }
}

impl<M: Subject> Node<M> {
    /// Plans a look at what may be missing, if something may be. In the calm looks follow each other quickly: a member that
    /// never gets through its queue is no voter at the end, and rightly so.
    pub(super) fn plan_check(&mut self, sys: &mut System, pause: u64) {
        let (place, life) = (self.place(), self.life);
        let Some(upkeep) = self.up.as_mut().and_then(|up| up.upkeep.as_mut()) else { return };
        if upkeep.checks || upkeep.room.keeper.lacks_nothing() {
            return;
        }
        upkeep.checks = true;
        let longest = match upkeep.lazy && sys.faults {
            true => 8 * SECOND,
            false if sys.faults && sys.one_in(8) => 2 * SECOND,
            false => 40 * MS,
        };
        let later = pause + sys.between(0, longest);
        sys.after(later, Event::Check(place, life));
    }

    /// The planned look is due.
    pub(super) fn begin_check(&mut self) -> Option<Arc<Room>> {
        let upkeep = self.up.as_mut()?.upkeep.as_mut()?;
        upkeep.checks = false;
        Some(upkeep.room.clone())
    }

    /// It does nothing before then.
    pub fn pause(&mut self, until: u64) {
        self.paused_until = until;
        if let Some(upkeep) = self.up.as_ref().and_then(|up| up.upkeep.as_ref()) {
            upkeep.room.stand.pause(until);
        }
    }
}
