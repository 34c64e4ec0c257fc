//! Generations of the state: `state/CURRENT` names the live one.

use super::state::{Batch, Generations, State};
use crate::error::Result;
use std::sync::Arc;

/// The generations of one folder, on LevelDB.
pub struct LevelGenerations {}

impl Generations for LevelGenerations {
    fn live(&self) -> Arc<dyn State> {
        todo!()
    }

    fn replace(&mut self, rows: &Batch) -> Result<Arc<dyn State>> {
        let _ = rows;
        todo!()
    }
}
