//! The space of rows that are gone comes back when what is left around them is written anew. That is done slice by slice,
//! so that a replica that is closed meanwhile, or a state that is given up, waits for one slice at most.

use crate::error::Result;
use crate::store::keys;
use crate::store::state::State;
use std::ops::ControlFlow;

/// A slice holds about so many bytes of rows.
const SLICE: usize = 64 << 20;
/// After so many rows it is asked again whether it is to go on: who answers takes a lock that readers take too.
const ROWS: usize = 1000;

/// Writes all rows of `state` anew, until `ended`. Errors: as [`State::scan`].
pub(super) fn run(state: &dyn State, ended: &dyn Fn() -> bool) -> Result<()> {
    let (mut from, last) = keys::everything();
    loop {
        let (mut rows, mut bytes, mut end) = (0, 0, None);
        state.scan(&from, &last, &mut |row, value| {
            rows += 1;
            bytes += row.len() + value.len();
            if bytes < SLICE && (rows % ROWS != 0 || !ended()) {
                return ControlFlow::Continue(());
            }
            end = Some(row.to_vec());
            ControlFlow::Break(())
        })?;
        if ended() {
            return Ok(());
        }
        state.compact(&from, end.as_ref().unwrap_or(&last));
        match end {
            Some(end) => from = end,
            None => return Ok(()),
        }
    }
}
