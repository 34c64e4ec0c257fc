//! How a process ends: killed, without power, at a fault of its disk, or closed.

use super::{Node, Subject, respond};
use crate::event::{Answer, Death, Event};
use crate::system::System;
use catstore::error::{Error, Kind, Result as Done};
use catstore::replica::member::Ticket;
use catstore::store::log::{LogWrite, RaftLog};
use catstore::store::state::Generations;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

impl<M: Subject> Node<M> {
    /// The process ends.
    pub fn die(&mut self, sys: &mut System, death: Death) -> Result<(), String> {
        match death {
            Death::Close => self.close(sys)?,
            death => self.fall(sys, death),
        }
        Ok(())
    }

    /// The process ends without a close.
    pub fn fall(&mut self, sys: &mut System, death: Death) {
        if self.up.take().is_none() && death != Death::Power {
            return;
        }
        self.life += 1;
        self.planned = None;
        if death == Death::Power {
            sys.count("power lost");
            let seed = sys.random.draw();
            self.disk.crash(seed);
            self.power_lost = true;
            // The clock begins anew with the machine.
            self.clock.base_ms = sys.between(20_000, 60_000);
            self.clock.since = sys.now;
        } else {
            sys.count("killed");
            self.disk.kill();
        }
    }

    fn close(&mut self, sys: &mut System) -> Result<(), String> {
        let place = self.place();
        let Some(up) = self.up.take() else { return Ok(()) };
        sys.count("closed");
        self.life += 1;
        self.planned = None;
        for (ticket, _) in &up.queue {
            if let Some(caller) = up.callers.get(ticket) {
                respond(sys, place, *caller, Answer::Refused(Kind::Closed, None));
            }
        }
        let queued: Vec<Ticket> = up.queue.iter().map(|(ticket, _)| *ticket).collect();
        for (ticket, caller) in up.callers.iter().filter(|(ticket, _)| !queued.contains(ticket)) {
            let _ = ticket;
            respond(sys, place, *caller, Answer::Refused(Kind::UnknownOutcome, None));
        }
        for (caller, _, _) in up.readers.values() {
            respond(sys, place, *caller, Answer::Refused(Kind::Closed, None));
        }
        drop(up.pull);
        let (mut log, generations) = up.member.into_stores();
        // A close that a fault of the disk cuts short is a kill.
        let hard_state = Some(log.hard_state());
        let _ = log.write(LogWrite { hard_state, sync: true, ..LogWrite::default() });
        let _ = generations.live().flush();
        self.disk.kill();
        Ok(())
    }

    /// The planned fault of the disk has happened: the process ends.
    pub fn disk_failed(&mut self, sys: &mut System, after: u64) {
        self.dying = true;
        if let Some(upkeep) = self.up.as_ref().and_then(|up| up.upkeep.as_ref()) {
            upkeep.room.stand.close();
        }
        let death = self.planned.take().unwrap_or(Death::Kill);
        sys.after(after, Event::Die(self.place(), self.life, death));
    }
}

/// Raft gives up with a panic where it cannot read the log: an error, if a crash is the reason.
pub(super) fn or_crashed<T>(run: impl FnOnce() -> Done<T>) -> Done<T> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let crashed = panic.downcast_ref::<String>().is_some_and(|text| text.contains("crashed"));
        if !crashed {
            resume_unwind(panic);
        }
        Err(Error::new(Kind::Failed, "crashed"))
    })
}
