//! Values in chunks that come from another group: before their records are taken, a majority of this group has the chunks.

use super::super::door::Door;
use super::super::many::blocking;
use super::commit::{Elsewhere, secure};
use super::held::Held;
use crate::error::{Error, Kind, Result};
use crate::replica::Manifest;
use crate::replica::command::{Command, MoveStep, Reply, Request};
use crate::replica::handle::KeyspaceHandle;
use crate::replica::keyspace::manifest_of;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a step waits for chunks; its source asks again.
const PATIENCE: Duration = Duration::from_secs(3);

/// True while chunks of a move come in: one step at a time.
#[derive(Default)]
pub(crate) struct Taking(Arc<AtomicBool>);

/// The turn of a step, which ends when it is dropped.
struct Turn(Arc<AtomicBool>);

impl Taking {
    /// Takes the turn, if nobody has it.
    fn begin(&self) -> Option<Turn> {
        let taken = self.0.swap(true, Ordering::AcqRel);
        (!taken).then(|| Turn(Arc::clone(&self.0)))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Proposes a step of a move that group `from` asks for. The chunks of the values that it brings come first.
///
/// Errors: `Overloaded` while they are on their way; those of `Keeper::secure`, `ChunkMissing` also if a value was replaced at
/// its source meanwhile; those of the replica.
pub(crate) async fn take_moved(
    door: &Door,
    replica: &KeyspaceHandle,
    from: u32,
    mut step: MoveStep,
    deadline: Instant,
) -> Result<Reply> {
    let held = bring(door, replica, from, &mut step).await?;
    let reply = replica.submit(Request { id: None, command: Command::Move(step) }, deadline).await;
    let known = !matches!(&reply, Err(error) if error.kind() == Kind::UnknownOutcome);
    if let Some(held) = held.filter(|_| known) {
        held.end();
    }
    reply
}

/// Sees to it that a majority has the chunks that `step` brings, and notes in it who has them.
async fn bring(
    door: &Door,
    replica: &KeyspaceHandle,
    from: u32,
    step: &mut MoveStep,
) -> Result<Option<Held>> {
    let (MoveStep::Copy { rows, secured, .. } | MoveStep::Follow { rows, secured, .. }) = step else {
        return Ok(None);
    };
    let manifests: Vec<Manifest> = rows.iter().filter_map(manifest_of).collect();
    if manifests.is_empty() {
        return Ok(None);
    }
    let site = &door.site;
    let turn = site.worker()?.taking.begin().ok_or_else(on_their_way)?;
    let id = super::session::random()?;
    let view = site.view();
    let members = view.group(from).map(|group| &group.members[..]).unwrap_or_default();
    let addresses: Vec<&str> = members.iter().map(|member| member.address.as_str()).collect();
    let source = Elsewhere::of(door, &addresses.join(","));
    let (keeper, held) = (Arc::clone(replica.keeper()), Held::new(replica, id));
    let job = actix_web::rt::spawn(blocking(move || {
        let done = secure(&keeper, id, &manifests, &source);
        drop(turn);
        Ok((done, held))
    }));
    // If it takes longer, it goes on by itself, and the next try finds what is here by then.
    let (done, held) = match tokio::time::timeout(PATIENCE, job).await {
        Err(_) => return Err(on_their_way()),
        Ok(Err(_)) => return Err(Error::new(Kind::Failed, "bringing chunks did not come to its end")),
        Ok(Ok(finished)) => finished?,
    };
    match done {
        Ok(done) => {
            *secured = done;
            Ok(Some(held))
        }
        Err(error) => {
            held.end();
            Err(error)
        }
    }
}

fn on_their_way() -> Error {
    Error::new(Kind::Overloaded, "the chunks of the values that move are on their way")
}
