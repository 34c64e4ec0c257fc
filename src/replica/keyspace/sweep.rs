//! Sweeps: what has expired or is too old goes, some thousands of rows at a time.

use super::{Keyspace, REMEMBER_MS};
use crate::error::Result;
use crate::replica::changes::Changes;
use crate::replica::command::Reply;
use crate::replica::repeats::Last;
use crate::store::keys;

/// A sweep removes at most so many records, so many request ids, and so many sessions.
pub(super) const SWEEP_ROWS: usize = 4000;
/// A sweep ends after records of so many bytes: each is read once.
const SWEEP_BYTES: u64 = 16 << 20;

impl Keyspace {
    /// While requests for slots wait, because another group is about to own them, nothing is removed: what follows the
    /// copy has come to its end.
    pub(super) fn sweep(&mut self, changes: &mut Changes<'_>) -> Result<Reply> {
        if self.moves.freezes_any() {
            self.more_to_sweep = false;
            self.swept_at = self.counters.clock;
            return Ok(Reply::Swept { rows: 0 });
        }
        let (from, to) = keys::expiries_until(self.counters.clock);
        let expiries = changes.first_rows(&from, &to, SWEEP_ROWS)?;
        let (mut rows, mut bytes) = (0u64, 0);
        let full = expiries.len() >= SWEEP_ROWS;
        let mut cut = false;
        for row in expiries {
            if bytes >= SWEEP_BYTES {
                cut = true;
                break;
            }
            rows += 1;
            let Some((at, key)) = keys::expiry_parts(&row) else { continue };
            match self.current(changes, key)? {
                Some(meta) if meta.expires == Some(at) => {
                    bytes += meta.size;
                    self.counters.version += 1;
                    self.remove(changes, key, &meta);
                }
                _ => changes.delete(row),
            }
        }
        if rows > 0 && self.moves.incoming.is_some() {
            // What it removed of slots that come in is counted there.
            self.write_moves(changes)?;
        }
        if let Some(until) = self.counters.clock.checked_sub(REMEMBER_MS) {
            let forgotten = [self.forget_requests(changes, until)?, self.forget_sessions(changes, until)?];
            cut |= forgotten.iter().any(|(_, full)| *full);
            rows += forgotten.iter().map(|(rows, _)| rows).sum::<u64>();
        }
        self.more_to_sweep = full || cut;
        self.swept_at = self.counters.clock;
        Ok(Reply::Swept { rows })
    }

    /// Forgets requests up to `until`: how many, and whether there may be more. Each is met by two sweeps, ten minutes of
    /// the group's clock apart, before it is forgotten: a clock that jumps ahead, as with a new leader, makes nobody's
    /// repeat a new request.
    fn forget_requests(&mut self, changes: &mut Changes<'_>, until: u64) -> Result<(u64, bool)> {
        let (from, to) = keys::request_ages_until(until);
        let ages = changes.first_rows(&from, &to, SWEEP_ROWS)?;
        let full = ages.len() >= SWEEP_ROWS;
        let mut rows = 0;
        for row in ages {
            if let Some((_, slot, id)) = keys::request_age_parts(&row) {
                let request = keys::request(slot, id);
                if changes.get(&request)?.is_none() {
                    // It went with its slot.
                } else if changes.get(&row)?.is_some_and(|met| met == keys::MET_ONCE) {
                    changes.delete(request);
                    self.counters.requests = self.counters.requests.saturating_sub(1);
                    rows += 1;
                } else {
                    changes.put(keys::request_age(self.counters.clock, slot, id), keys::MET_ONCE.to_vec());
                }
            }
            changes.delete(row);
        }
        Ok((rows, full))
    }

    /// Forgets sessions that were idle since a sweep last wrote their age rows; writes those of the others anew. So each
    /// is met idle by two sweeps, ten minutes of the group's clock apart: a clock that jumps ahead, as with a new leader,
    /// makes nobody's repeat a new request.
    fn forget_sessions(&mut self, changes: &mut Changes<'_>, until: u64) -> Result<(u64, bool)> {
        let (from, to) = keys::session_ages_until(until);
        let ages = changes.first_rows(&from, &to, SWEEP_ROWS)?;
        let full = ages.len() >= SWEEP_ROWS;
        let mut rows = 0;
        for row in ages {
            if let Some((swept, session)) = keys::session_age_parts(&row) {
                let last =
                    changes.get(&keys::session(&session))?.map(|row| Last::decode(&row)).transpose()?;
                if last.is_some_and(|last| last.request.at >= swept) {
                    changes.put(keys::session_age(self.counters.clock, &session), Vec::new());
                } else {
                    changes.delete(keys::session(&session));
                    self.counters.requests = self.counters.requests.saturating_sub(1);
                    rows += 1;
                }
            }
            changes.delete(row);
        }
        Ok((rows, full))
    }
}
