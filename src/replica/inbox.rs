//! The way into the replica thread: commands and reads of callers, messages of other members, and what other threads
//! finished. Everything that waits is bounded; callers are told when it is full, members send again.

use super::machine::Machine;
use super::mailbox::{self, Refused};
use super::parcel::Progress;
use super::shared::{Shared, lock};
use crate::cluster::membership::Wanted;
use crate::error::{Error, Kind, Result};
use raft::eraftpb::Message;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// At most so many commands and reads wait.
pub(super) const INBOX: usize = 16384;
/// At most so many bytes of commands wait.
const INBOX_BYTES: u64 = 128 << 20;
/// At most so many bytes of messages of other members wait.
const MESSAGE_BYTES: usize = 96 << 20;

/// A command and who waits for its reply.
pub(super) struct Submitted<M: Machine> {
    pub(super) command: M::Command,
    pub(super) size: u64,
    pub(super) deadline: Instant,
    pub(super) reply: oneshot::Sender<Result<M::Reply>>,
}

/// What the thread is given. `S` is what a close gives back, `B` what a fetch builds.
pub(super) enum Job<M: Machine, S, B> {
    Command(Submitted<M>),
    Read(oneshot::Sender<Result<()>>),
    /// Messages of other members wait.
    Wake,
    Unreachable(u64),
    SnapshotUsed {
        id: u64,
        peer: u64,
    },
    Fetched(u64, Option<B>),
    Flushed(Result<u64>),
    Want(Wanted),
    /// Hand over what can be; the sender is told when nothing is left to hand over.
    Leave(Sender<()>),
    Close(Sender<S>),
}

/// Messages of other members that wait for the thread.
#[derive(Default)]
pub(super) struct Mail {
    letters: Vec<Letter>,
    bytes: usize,
}

/// What one member sent at once.
pub(super) struct Letter {
    pub(super) from: u64,
    pub(super) progress: Progress,
    pub(super) messages: Vec<Message>,
}

/// The way in. All clones lead to the same thread.
pub struct Inbox<M: Machine, S, B> {
    pub(super) sender: mailbox::Sender<Job<M, S, B>>,
    pub(super) mail: Arc<Mutex<Mail>>,
    pub(super) shared: Arc<Shared<M>>,
}

impl<M: Machine, S, B> Clone for Inbox<M, S, B> {
    fn clone(&self) -> Self {
        Inbox { sender: self.sender.clone(), mail: self.mail.clone(), shared: self.shared.clone() }
    }
}

impl Mail {
    /// Everything that waits.
    pub(super) fn take(&mut self) -> Vec<Letter> {
        self.bytes = 0;
        std::mem::take(&mut self.letters)
    }
}

impl<M: Machine, S, B> Inbox<M, S, B> {
    /// Puts a command into the inbox; its reply arrives at the receiver, which is dropped without one only if the
    /// thread died: an unknown outcome.
    ///
    /// Errors: `Overloaded`, `Closed`, `Failed`: certainly not written.
    pub fn send(
        &self,
        command: M::Command,
        deadline: Instant,
    ) -> Result<oneshot::Receiver<Result<M::Reply>>> {
        self.shared.check_open()?;
        let size = M::size(&command) as u64;
        let gauges = &self.shared.gauges;
        let queued = gauges.queued_bytes.fetch_add(size, Ordering::Relaxed);
        if queued > 0 && queued + size > INBOX_BYTES {
            gauges.queued_bytes.fetch_sub(size, Ordering::Relaxed);
            return Err(overloaded("writes wait for the disk"));
        }
        let (reply, receiver) = oneshot::channel();
        gauges.queued.fetch_add(1, Ordering::Relaxed);
        self.sender.try_send(Job::Command(Submitted { command, size, deadline, reply })).map_err(
            |refused| {
                gauges.queued_bytes.fetch_sub(size, Ordering::Relaxed);
                gauges.queued.fetch_sub(1, Ordering::Relaxed);
                self.refused(refused, "writes wait for the disk")
            },
        )?;
        Ok(receiver)
    }

    /// Asks for the right to one read: `Ok` once every write that was acknowledged before is applied here.
    /// Errors: `Overloaded`, `Closed`, `Failed`; at the receiver also `Moved`.
    pub fn confirm_read(&self) -> Result<oneshot::Receiver<Result<()>>> {
        self.shared.check_open()?;
        let (reply, receiver) = oneshot::channel();
        self.sender
            .try_send_now(Job::Read(reply))
            .map_err(|refused| self.refused(refused, "reads wait for a majority"))?;
        Ok(receiver)
    }

    /// Messages that member `from` sent when it was as far as `progress`; `bytes` is their size. They are dropped, with
    /// `Overloaded`, while too many wait.
    pub fn receive(&self, from: u64, progress: Progress, messages: Vec<Message>, bytes: usize) -> Result<()> {
        self.shared.check_open()?;
        {
            let mut mail = lock(&self.mail);
            if mail.bytes > 0 && mail.bytes + bytes > MESSAGE_BYTES {
                return Err(overloaded("messages of other members wait"));
            }
            mail.bytes += bytes;
            mail.letters.push(Letter { from, progress, messages });
        }
        self.post(Job::Wake);
        Ok(())
    }

    /// What the thread shares.
    pub fn shared(&self) -> &Arc<Shared<M>> {
        &self.shared
    }

    /// A job that may be lost while the inbox is full: somebody says it again, or the next tick finds it.
    pub(super) fn post(&self, job: Job<M, S, B>) {
        let _ = self.sender.try_send_now(job);
    }

    /// Hands over what can be; returns when that is done, or after `patience`.
    pub fn leave(&self, patience: Duration) {
        let (sender, receiver) = std::sync::mpsc::channel();
        if self.sender.send(Job::Leave(sender)).is_ok() {
            // Without an answer in time the others elect somebody.
            let _ = receiver.recv_timeout(patience);
        }
    }

    /// Lets the thread finish what was accepted before this call and end; waits for what it gives back.
    pub fn close(&self, patience: Duration) -> Result<S> {
        let (sender, receiver) = std::sync::mpsc::channel();
        self.sender.send(Job::Close(sender)).map_err(|_| self.shared.closed_error())?;
        receiver
            .recv_timeout(patience)
            .map_err(|_| Error::new(Kind::Failed, "the replica did not stop in time"))
    }

    fn refused(&self, refused: Refused, what: &str) -> Error {
        match refused {
            Refused::Full => overloaded(what),
            Refused::Gone => self.shared.closed_error(),
        }
    }
}

fn overloaded(what: &str) -> Error {
    Error::new(Kind::Overloaded, format!("too many {what}")).hint("try again a little later")
}
