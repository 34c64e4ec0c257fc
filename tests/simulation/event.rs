//! Who is where, and everything that can happen.

use crate::carrier::Ordered;
use crate::lister::Page;
use crate::node::{Order, is_of_chunks};
use catstore::cluster::directory::{DirectoryCommand, DirectoryReply};
use catstore::cluster::membership::Wanted;
use catstore::cluster::moves::SlotSet;
use catstore::error::Kind;
use catstore::replica::Manifest;
use catstore::replica::blobs::Mark;
use catstore::replica::command::{Reply, Request};
use catstore::replica::core::Status;
use raft::eraftpb::Message;
use std::sync::Arc;

/// A machine of the simulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// A master, by Raft id.
    Master(u64),
    /// A worker, by Raft id.
    Worker(u64),
    /// A client.
    Client(u64),
}

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// Killed: what it wrote is there.
    Kill,
    /// Without power: what was not synced may be lost.
    Power,
    /// Closed cleanly.
    Close,
}

/// What a member does to the world around it, while it runs.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Others see this from now on.
    Publish(Status),
    /// Messages leave.
    Send(Vec<Message>),
}

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// A client, in one attempt of an operation.
    Client {
        /// Which client.
        client: u64,
        /// Which attempt.
        attempt: u64,
    },
    /// Who looks after the cluster, about this task.
    Operator(u64),
    /// What carries out the move of this worker's group.
    Mover {
        /// Which worker, by Raft id.
        worker: u64,
        /// Which question.
        number: u64,
    },
    /// Who lists all keys.
    Lister {
        /// Which group is asked.
        group: u32,
        /// In which attempt.
        attempt: u64,
    },
}

/// What is asked of a member.
#[derive(Debug, Clone)]
pub enum Question {
    /// A command to the keyspace.
    Write(Request),
    /// A linearizable read of a key.
    Read(Vec<u8>),
    /// A read of what is there, however old.
    ReadStale(Vec<u8>),
    /// So many keys at most behind this one.
    List(Vec<u8>, usize),
    /// A chunk of the upload with this number.
    Store(u64, Vec<u8>),
    /// The end of an upload: a command that names its chunks.
    Commit(u64, Request),
    /// A command to the directory.
    Direct(Box<DirectoryCommand>),
}

/// What a member answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The keyspace's reply.
    Key(Reply),
    /// The directory's reply.
    Directory(DirectoryReply),
    /// The chunk is stored.
    Stored,
    /// A record whose value is in chunks: stamp and version.
    Chunked(Manifest, u64, u64),
    /// A record: stamp and version.
    Record(Option<(u64, u64)>),
    /// The group that owned these slots was cleared.
    Cleared(Reply, SlotSet),
    /// The group that was asked does not own the slot; perhaps this one does.
    Moved(Option<u32>),
    /// The slot is on its way to another group.
    Frozen,
    /// Keys.
    Page(Page),
    /// It was not done (or, if the kind says so, nobody knows); perhaps this member leads.
    Refused(Kind, Option<u64>),
}

/// Something that happens. A life number that is not that of the place means that it is over.
#[derive(Debug)]
pub enum Event {
    /// A member looks at what there is to do.
    Wake(Place, u64),
    /// A member does something to the world.
    Effect(Place, u64, Effect),
    /// A run of a member has come to its end.
    Finish(Place, u64),
    /// The process ends.
    Die(Place, u64, Death),
    /// The process starts.
    Start(Place),
    /// A parcel arrives.
    Parcel(Place, Arc<Vec<u8>>),
    /// A message of another member that a planted bug made up.
    Forged(Place, Box<Message>),
    /// A sender learns that its parcel did not arrive.
    Unreachable(Place, u64, u64),
    /// A flush is done.
    Flushed(Place, u64),
    /// A member asks for the next chunk of a snapshot.
    Ask(Place, u64, Pulling),
    /// The member that holds the snapshot is asked.
    Serve(Place, Place, u64, Pulling, Vec<u8>),
    /// A chunk arrives, or the word that there is none.
    Chunk(Place, u64, Pulling, Option<Vec<u8>>),
    /// All chunks are written.
    Pulled(Place, u64, Pulling),
    /// The directory's wish arrives.
    Want(Place, u64, Wanted),
    /// The directory's orders arrive at a worker.
    Ordered(u64, Ordered),
    /// The mover of a worker looks again.
    Carry(u64, u64),
    /// The mover of a worker was not answered in time.
    CarryInVain(u64, u64),
    /// A member is asked to hand over.
    Leave(Place, u64),
    /// A question arrives.
    Question(Place, Caller, Question),
    /// An answer arrives.
    Answer(Caller, Answer),
    /// A command whose chunks a majority has is submitted.
    Submit(Place, u64, Box<Order>),
    /// Whoever waits for the command of an upload goes away.
    GiveUp(Place, u64, u64),
    /// What became of the command of an upload is to be found out; tried so many times.
    Settle(Place, u64, Mark, u64),
    /// A worker looks at values that may lack chunks.
    Check(Place, u64),
    /// A worker begins a round of its collector.
    Collect(Place, u64),
    /// The round ends.
    EndRound(Place, u64),
    /// Somebody reads the next chunk of a value.
    ReadOn(Place, u64, u64),
    /// A question about chunks arrives that was given up.
    Straggler(Place, Vec<u8>),
    /// A client acts.
    Client(u64),
    /// Who lists all keys goes on, if it still waits for the questions with this number.
    List(u64),
    /// A client loses patience with an attempt.
    Patience(u64, u64),
    /// A worker tells a master that it is there.
    Heartbeat(Place),
    /// The heartbeat arrives.
    Heard(Place, Place),
    /// Masters look after their cluster.
    Duty,
    /// The operator asks again about this task.
    Again(u64),
    /// A worker that was replaced is there again.
    ComeBack(u64),
    /// A machine has been down for a while, and may be lost for good; asked so many times more.
    Lost(Place, u32),
    /// Something goes wrong.
    Trouble,
    /// The second act of a scene.
    Scene(Scene),
    /// Nobody writes from here on.
    Quiet,
    /// The network is as usual again.
    Calm,
}

impl Event {
    /// True if it is about chunks.
    pub fn is_of_chunks(&self) -> bool {
        match self {
            Event::Submit(..)
            | Event::GiveUp(..)
            | Event::Settle(..)
            | Event::Check(..)
            | Event::Collect(..)
            | Event::EndRound(..)
            | Event::ReadOn(..)
            | Event::Straggler(..) => true,
            Event::Question(_, _, question) => is_of_chunks(question),
            _ => false,
        }
    }

    /// The member that it happens to, of those that happen to one.
    pub fn member(&self) -> Option<Place> {
        match self {
            Event::Wake(place, _)
            | Event::Effect(place, ..)
            | Event::Finish(place, _)
            | Event::Die(place, ..)
            | Event::Start(place)
            | Event::Parcel(place, _)
            | Event::Forged(place, _)
            | Event::Unreachable(place, ..)
            | Event::Flushed(place, _)
            | Event::Ask(place, ..)
            | Event::Serve(place, ..)
            | Event::Chunk(place, ..)
            | Event::Pulled(place, ..)
            | Event::Want(place, ..)
            | Event::Leave(place, _)
            | Event::Submit(place, ..)
            | Event::GiveUp(place, ..)
            | Event::Settle(place, ..)
            | Event::Check(place, _)
            | Event::Collect(place, _)
            | Event::EndRound(place, _)
            | Event::ReadOn(place, ..)
            | Event::Straggler(place, _)
            | Event::Question(place, ..) => Some(*place),
            _ => None,
        }
    }
}

/// A pull of a snapshot: which one, and the number of the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pulling {
    /// The snapshot.
    pub id: u64,
    /// The question.
    pub number: u64,
}

/// What follows later in a scene.
#[derive(Debug, Clone, Copy)]
pub enum Scene {
    /// The leader hears nothing of any voter but this follower, nor they of it, so that they want to lead.
    CutOff {
        /// Who leads.
        leader: u64,
        /// Who follows.
        follower: u64,
    },
    /// This follower dies and comes back at once while its leader cannot reach it.
    RestartWithinPromise {
        /// Who leads.
        leader: u64,
        /// Who dies.
        follower: u64,
    },
    /// The leader hands over, and then hears nothing of it.
    HandOver {
        /// Who leads.
        leader: u64,
    },
}
