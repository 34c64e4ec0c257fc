//! The mode of this process as a value: starting, open, closed, failed. Open and close swap it; requests take a
//! copy and never hold a lock while they wait. A closed node keeps its folder, and with it the folder's lock, so
//! that nobody else opens it behind our back.

use crate::error::{Error, Kind, Result};
use crate::replica::Folder;
use crate::replica::handle::{DirectoryHandle, KeyspaceHandle, Lead, Numbers, Options};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, TryLockError};
use std::time::{Duration, Instant};

/// How long a replica may take until it serves.
const READY: Duration = Duration::from_secs(60);

/// What both kinds of replica handles can do.
pub(crate) trait Replica: Clone + Send + Sync + 'static {
    /// Opens the stores of a folder and starts the replica.
    fn open(folder: Folder, options: &Options, run: u64) -> Result<Self>;
    /// Blocks until it serves.
    fn wait_ready(&self, deadline: Instant) -> Result<()>;
    /// Who orders the writes.
    fn lead(&self) -> Lead;
    /// Hands the lead over, if it can. Blocks.
    fn leave(&self, patience: Duration);
    /// Closes it and gives the folder back.
    fn close(&self) -> Result<Folder>;
    /// Why it stopped by itself.
    fn failure(&self) -> Option<Error>;
    /// Its numbers.
    fn numbers(&self) -> Numbers;
    /// How often its folder was opened, this time included.
    fn starts(&self) -> u64;
}

macro_rules! replica {
    ($handle:ty) => {
        impl Replica for $handle {
            fn open(folder: Folder, options: &Options, run: u64) -> Result<Self> {
                <$handle>::open(folder, options, run)
            }
            fn wait_ready(&self, deadline: Instant) -> Result<()> {
                <$handle>::wait_ready(self, deadline)
            }
            fn lead(&self) -> Lead {
                <$handle>::lead(self)
            }
            fn leave(&self, patience: Duration) {
                <$handle>::leave(self, patience);
            }
            fn close(&self) -> Result<Folder> {
                <$handle>::close(self)
            }
            fn failure(&self) -> Option<Error> {
                <$handle>::failure(self)
            }
            fn numbers(&self) -> Numbers {
                <$handle>::numbers(self)
            }
            fn starts(&self) -> u64 {
                <$handle>::starts(self)
            }
        }
    };
}

replica!(KeyspaceHandle);
replica!(DirectoryHandle);

/// What a node does at the moment.
pub(crate) enum Mode<H> {
    /// It has not served yet.
    Starting,
    /// It serves.
    Open(H),
    /// It was closed, or is being closed or opened.
    Closed,
    /// It cannot serve any more.
    Failed(Error),
}

impl<H> Mode<H> {
    /// The word that facts show.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Mode::Starting => "starting",
            Mode::Open(_) => "open",
            Mode::Closed => "closed",
            Mode::Failed(_) => "failed",
        }
    }
}

/// A node: its mode, and what it needs to open again.
pub(crate) struct Node<H> {
    name: &'static str,
    options: Options,
    mode: RwLock<Arc<Mode<H>>>,
    /// The folder while no replica holds it. Held during a change of mode, so that there is one at a time.
    folder: Mutex<Option<Folder>>,
    starts: AtomicU64,
    /// The random number of this run of the process.
    run: AtomicU64,
}

impl<H: Replica> Node<H> {
    /// A node that has not started; `name` is `worker` or `master`, for messages.
    pub(crate) fn new(name: &'static str, options: Options) -> Node<H> {
        Node {
            name,
            options,
            mode: RwLock::new(Arc::new(Mode::Starting)),
            folder: Mutex::new(None),
            starts: AtomicU64::new(0),
            run: AtomicU64::new(0),
        }
    }

    /// The mode now.
    pub(crate) fn mode(&self) -> Arc<Mode<H>> {
        Arc::clone(&self.mode.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// How the stores are opened.
    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// How often the folder was opened, this time included.
    pub(crate) fn starts(&self) -> u64 {
        self.starts.load(Ordering::Relaxed)
    }

    /// The random number of this run; 0 before it is known.
    pub(crate) fn run(&self) -> u64 {
        self.run.load(Ordering::Relaxed)
    }

    /// Sets the number of this run, before the first start.
    pub(crate) fn set_run(&self, run: u64) {
        self.run.store(run, Ordering::Relaxed);
    }

    /// Numbers of the replica if it is open.
    pub(crate) fn numbers(&self) -> Option<Numbers> {
        match &*self.mode() {
            Mode::Open(replica) => Some(replica.numbers()),
            _ => None,
        }
    }

    /// Why this node does not serve now, if it does not.
    pub(crate) fn obstacle(&self) -> Option<Error> {
        match &*self.mode() {
            Mode::Open(replica) => replica.failure().or_else(|| {
                (replica.lead() == Lead::Nobody).then(|| {
                    Error::new(
                        Kind::NoMajority,
                        format!("this {} knows nobody who leads its group", self.name),
                    )
                    .hint("see catstore status for who is down and how to start it")
                })
            }),
            mode => Some(self.refusal(mode)),
        }
    }

    /// The error that a mode other than `Open` answers.
    pub(crate) fn refusal(&self, mode: &Mode<H>) -> Error {
        match mode {
            Mode::Starting => Error::new(Kind::NoMajority, format!("this {} is starting", self.name))
                .hint("ask again in a moment"),
            Mode::Failed(error) => error.clone(),
            Mode::Closed | Mode::Open(_) => Error::new(Kind::Closed, format!("this {} is closed", self.name)),
        }
    }

    /// Starts for the first time. Blocks.
    pub(crate) fn start(&self, folder: Folder) -> Result<()> {
        *self.lock()? = Some(folder);
        self.open().map(|_| ())
    }

    /// Opens the replica if it is not open; true if it was not. Blocks.
    pub(crate) fn open(&self) -> Result<bool> {
        let mut folder = self.lock()?;
        match &*self.mode() {
            Mode::Open(_) => return Ok(false),
            Mode::Failed(error) => return Err(error.clone()),
            Mode::Starting | Mode::Closed => {}
        }
        let Some(own) = folder.take() else {
            return Err(self.refusal(&Mode::Starting));
        };
        let opened = H::open(own, &self.options, self.run()).and_then(|replica| {
            replica.wait_ready(Instant::now() + READY)?;
            Ok(replica)
        });
        match opened {
            Ok(replica) => {
                self.starts.store(replica.starts(), Ordering::Relaxed);
                self.set(Mode::Open(replica));
                Ok(true)
            }
            Err(error) => {
                self.set(Mode::Failed(error.clone()));
                Err(error)
            }
        }
    }

    /// Hands the lead over, if the replica is open and another member can take it. Returns true if it leads then, or is
    /// not open. Blocks, for `patience` at most.
    pub(crate) fn leave(&self, patience: Duration) -> bool {
        let Mode::Open(replica) = &*self.mode() else { return true };
        replica.leave(patience);
        replica.lead() == Lead::Here
    }

    /// Closes the replica, changes its folder and opens it again. Blocks.
    pub(crate) fn reopen(&self, change: impl FnOnce(&mut Folder) -> Result<()>) -> Result<()> {
        self.close()?;
        if let Some(folder) = self.lock()?.as_mut() {
            change(folder)?;
        }
        self.open().map(drop)
    }

    /// Closes the replica if it is open. Blocks until everything accepted is done.
    pub(crate) fn close(&self) -> Result<()> {
        let mut folder = self.lock()?;
        let mode = self.mode();
        let replica = match &*mode {
            Mode::Open(replica) => replica,
            Mode::Closed => return Ok(()),
            mode => return Err(self.refusal(mode)),
        };
        self.set(Mode::Closed);
        match replica.close() {
            Ok(own) => {
                *folder = Some(own);
                Ok(())
            }
            Err(error) => {
                self.set(Mode::Failed(error.clone()));
                Err(error)
            }
        }
    }

    /// Looks whether the replica failed, and notes it. Returns the failure the first time it is seen.
    pub(crate) fn check(&self) -> Option<Error> {
        let mode = self.mode();
        let Mode::Open(replica) = &*mode else { return None };
        let failure = replica.failure()?;
        self.set(Mode::Failed(failure.clone()));
        Some(failure)
    }

    fn set(&self, mode: Mode<H>) {
        *self.mode.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(mode);
    }

    fn lock(&self) -> Result<std::sync::MutexGuard<'_, Option<Folder>>> {
        match self.folder.try_lock() {
            Ok(guard) => Ok(guard),
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => {
                Err(Error::new(Kind::Closed, format!("this {} is being closed or opened", self.name))
                    .hint("ask again in a moment"))
            }
        }
    }
}
