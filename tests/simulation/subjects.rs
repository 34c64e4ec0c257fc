//! The machines of the simulation: the workers' keyspace and the masters' directory.

use crate::event::{Answer, Place, Question};
use crate::history;
use crate::lister::Page;
use crate::node::{Subject, Wish};
use catstore::cluster::moves::{SlotSet, Span};
use catstore::cluster::slots::slot;
use catstore::error::{Error, Kind, Result};
use catstore::replica::Record;
use catstore::replica::command::{Reply, Request};
use catstore::replica::directory::DirectoryMachine;
use catstore::replica::keyspace::{Keyspace, Published, expired};
use catstore::store::keys;
use catstore::store::record::decode_meta;
use catstore::store::state::State;
use std::ops::ControlFlow;
use std::sync::Arc;

/// The slots that a group owns.
pub fn owned(published: &Published) -> SlotSet {
    let ranges = published.slots.ranges().iter();
    SlotSet::of(ranges.map(|range| Span { first: range.first, last: range.last }))
}

impl Subject for Keyspace {
    const KEEPS_CHUNKS: bool = true;

    fn place(id: u64) -> Place {
        Place::Worker(id)
    }

    fn answer(reply: Self::Reply, published: &Published) -> Answer {
        match reply {
            Reply::Cleared { .. } => Answer::Cleared(reply, owned(published)),
            Reply::Frozen { .. } => Answer::Frozen,
            reply => Answer::Key(reply),
        }
    }

    fn command(question: Question) -> Option<Request> {
        match question {
            Question::Write(request) => Some(request),
            _ => None,
        }
    }

    fn read(state: &dyn State, published: &Published, key: &[u8]) -> Result<Answer> {
        let Some(row) = state.get(&keys::record(key))? else { return Ok(Answer::Record(None)) };
        let record = Record::decode(row)?;
        if expired(&record.meta, published.counters.clock) {
            return Ok(Answer::Record(None));
        }
        if let Some(manifest) = record.manifest() {
            // Different values may have the same chunks: the checksum tells which one it is.
            return Ok(Answer::Chunked(manifest, u64::from(record.meta.checksum), record.meta.version));
        }
        let stamp = history::stamp(record.value());
        let stamp = stamp.ok_or_else(|| Error::new(Kind::Damaged, "a value that nobody wrote"))?;
        Ok(Answer::Record(Some((stamp, record.meta.version))))
    }

    fn page(state: &dyn State, published: &Published, after: &[u8], limit: usize) -> Result<Answer> {
        let mut page = Page { keys: Vec::new(), more: false, slots: owned(published) };
        let mut problem = None;
        let (from, to) = keys::records();
        let behind = [&keys::record(after)[..], &[0]].concat();
        state.scan(&from.max(behind), &to, &mut |row, value| {
            let Some(key) = keys::record_key(row) else { return ControlFlow::Break(()) };
            match decode_meta(value) {
                Ok((meta, _)) if expired(&meta, published.counters.clock) => {}
                Ok(_) if published.slots.owner(slot(key)).is_none() => {}
                Ok(_) if page.keys.len() == limit => page.more = true,
                Ok(_) => page.keys.push(key.to_vec()),
                Err(error) => problem = Some(error),
            }
            if page.more || problem.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        problem.map_or(Ok(Answer::Page(page)), Err)
    }

    fn refuses(published: &Published, wish: &Wish) -> Option<Answer> {
        let slot = match wish {
            Wish::Key(key) => slot(key),
            Wish::Page(..) => return published.moves.freezes_any().then_some(Answer::Frozen),
        };
        match published.serves(slot).err()?.kind() {
            Kind::Frozen => Some(Answer::Frozen),
            _ => Some(Answer::Moved(published.moves.given_to(slot))),
        }
    }

    fn version(published: &Published) -> u64 {
        published.counters.version
    }
}

impl Subject for DirectoryMachine {
    const KEEPS_CHUNKS: bool = false;

    fn place(id: u64) -> Place {
        Place::Master(id)
    }

    fn answer(reply: Self::Reply, _: &Self::Published) -> Answer {
        Answer::Directory(reply)
    }

    fn command(question: Question) -> Option<Self::Command> {
        match question {
            Question::Direct(command) => Some(*command),
            _ => None,
        }
    }

    fn read(_: &dyn State, _: &Self::Published, _: &[u8]) -> Result<Answer> {
        Ok(Answer::Record(None))
    }

    fn page(_: &dyn State, _: &Self::Published, _: &[u8], _: usize) -> Result<Answer> {
        Ok(Answer::Record(None))
    }

    fn refuses(_: &Self::Published, _: &Wish) -> Option<Answer> {
        None
    }

    fn version(_: &Arc<catstore::cluster::directory::Directory>) -> u64 {
        0
    }
}
