//! The machines of the simulation: the workers' keyspace and the masters' directory.

use crate::event::{Answer, Place, Question};
use crate::history;
use crate::node::Subject;
use catstore::error::{Error, Kind, Result};
use catstore::replica::Record;
use catstore::replica::command::Request;
use catstore::replica::directory::DirectoryMachine;
use catstore::replica::keyspace::{Keyspace, Published, expired};
use catstore::replica::parcel;
use catstore::store::keys;
use catstore::store::state::State;
use std::sync::Arc;

impl Subject for Keyspace {
    const GROUP: u32 = 0;

    fn place(id: u64) -> Place {
        Place::Worker(id)
    }

    fn answer(reply: Self::Reply) -> Answer {
        Answer::Key(reply)
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
        let stamp = history::stamp(record.value());
        let stamp = stamp.ok_or_else(|| Error::new(Kind::Damaged, "a value that nobody wrote"))?;
        Ok(Answer::Record(Some((stamp, record.meta.version))))
    }

    fn version(published: &Published) -> u64 {
        published.counters.version
    }
}

impl Subject for DirectoryMachine {
    const GROUP: u32 = parcel::MASTERS;

    fn place(id: u64) -> Place {
        Place::Master(id)
    }

    fn answer(reply: Self::Reply) -> Answer {
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

    fn version(_: &Arc<catstore::cluster::directory::Directory>) -> u64 {
        0
    }
}
