//! What must survive a power cut: messages with their bodies, sealed tokens, and what was made in the
//! console.
//!
//! SQLite in WAL mode with `synchronous=FULL`; one writer thread commits whatever waits at the same
//! moment in one transaction (group commit). Bodies above [`INLINE_BODY_MAX`] are synced files
//! beside the database. Only `queue`, `oauth` and `registry` write here.

mod along;
mod body;
mod entry;
mod failure;
mod lock;
mod made;
mod read;
mod row;
mod schema;
mod space;
mod trace;
mod writer;

use std::{
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::{mpsc, oneshot};

use self::{
    along::Along,
    failure::{Failure, Health},
    row::Encoded,
    space::Space,
    writer::{Job, Operation},
};
pub use self::{
    along::{Slots, TraceLimits, TraceRow},
    body::Spill,
    entry::{Entry, EntryState, Filter, RecipientEntry, RecipientState, SealedToken},
    made::{MadeChange, MadeRow},
    read::{Due, StoredBody, Turn, WINDOW_MAX},
    row::Located,
    space::FreeSpace,
    trace::{TraceAt, TracePage},
};
use crate::{
    mail::{AccountName, Body, Message, QueueId},
    telemetry::Metrics,
};

/// Bodies up to this size lie in the database; above it, writing them twice (journal, then tree)
/// costs more than a file of their own.
pub const INLINE_BODY_MAX: usize = 256 * 1024;

/// Operations that may wait for the writer; more callers wait at the door.
const WAITING_MAX: usize = 1024;
const DATABASE: &str = "gatepost.sqlite3";
const BODIES: &str = "bodies";

/// Where the store lives.
#[derive(Debug, Clone)]
pub struct Config {
    /// The state directory; created 0700 when missing.
    pub state_dir: PathBuf,
}

impl Config {
    /// Whether there ever was a store.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.state_dir.join(DATABASE).exists()
    }
}

/// Why the store refused. Nothing of the refused operation is left behind.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Another process holds the state directory.
    #[error("{path} is in use by {holder}: stop that process, or choose another state_dir", path = path.display())]
    Locked {
        /// The state directory.
        path: PathBuf,
        /// `process 4711`.
        holder: String,
    },
    /// The schema is newer than this program.
    #[error("{path} was written by a newer gatepost (schema {found}, this program knows {known}): install that version or newer; nothing was changed", path = path.display())]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The newest version known here.
        known: i64,
    },
    /// No space left: try again when there is (452).
    #[error("disk full")]
    Full(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// This operation alone could not be done; the store is sound (451).
    #[error("{operation}")]
    Refused {
        /// What was being done.
        operation: &'static str,
        /// What the system said.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The disk refused; the store takes nothing more and the process should restart (451).
    #[error("store failed: {operation}")]
    Broken {
        /// What was being done.
        operation: &'static str,
        /// What the system said.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
}

/// The store. Clones share one writer.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    writer: mpsc::Sender<Job>,
    reader: Arc<Mutex<Connection>>,
    health: Arc<Health>,
    space: Space,
    along: Arc<Along>,
    metrics: Arc<Metrics>,
    database: PathBuf,
    bodies: PathBuf,
    /// Held for the life of the process; the kernel frees it even after `kill -9`.
    _lock: std::fs::File,
}

impl Store {
    /// Opens (or makes) the store and takes its lock for the life of the process. Blocking.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Newer`], or what the disk says.
    pub fn open(config: &Config, metrics: Arc<Metrics>) -> Result<Self, Error> {
        let dir = &config.state_dir;
        let bodies = dir.join(BODIES);
        make_dir(dir)?;
        let lock = lock::take(dir)?;
        let database = dir.join(DATABASE);
        let writer_connection = schema::open(&database)?;
        make_dir(&bodies)?;
        body::recover(&bodies, &writer_connection)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let reader = Connection::open_with_flags(&database, flags)
            .map_err(|e| Failure::sqlite("opening the database for reading", e).error())?;
        schema::tune_reader(&reader)?;

        let health = Arc::new(Health::default());
        let space = Space::new(dir);
        let along = Arc::new(Along::default());
        let (sender, jobs) = mpsc::channel(WAITING_MAX);
        writer::spawn(
            writer_connection,
            jobs,
            Arc::clone(&health),
            (space.clone(), Arc::clone(&along)),
            Arc::clone(&metrics),
        )
        .map_err(|e| Failure::io("starting the writer thread", e).error())?;
        let inner = Inner {
            writer: sender,
            reader: Arc::new(Mutex::new(reader)),
            health,
            space,
            along,
            metrics,
            database,
            bodies,
            _lock: lock,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Whether the store still takes writes.
    ///
    /// # Errors
    /// [`Error::Broken`] once a commit or sync has failed; [`Error::Full`] without free space.
    pub fn ready(&self) -> Result<(), Error> {
        self.inner.health.check()?;
        self.inner.space.require(0).map_err(|f| f.error())
    }

    /// The space under the state directory; `None`: the system does not say. One cheap system call.
    #[must_use]
    pub fn space(&self) -> Option<FreeSpace> {
        self.inner.space.free()
    }

    /// Resolves when the store has failed for good. Cancel safe.
    pub async fn failed(&self) -> Error {
        self.inner.health.failed().await
    }

    /// Makes a message durable.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Refused`] or [`Error::Broken`]; nothing is left behind.
    pub async fn insert(&self, entry: Entry, message: Message) -> Result<(), Error> {
        let row = Encoded::new(entry)?;
        let body = message.body.clone();
        let wanted = match &body {
            Body::Memory(_) => message.size,
            // It is on the disk already.
            Body::File(_) => 0,
        };
        let inserted = match self.inner.space.require(wanted) {
            Ok(()) => {
                self.write(Operation::Insert(Box::new((row, message))))
                    .await
            }
            Err(failure) => Err(failure.error()),
        };
        // Rolled back for sure. After another failure the row may be there at the next start.
        if let Err(Error::Full(_) | Error::Refused { .. }) = inserted {
            self.forget_file(&body);
        }
        inserted
    }

    /// Replaces an entry (or removes it when none of its recipients is open) and inserts the
    /// reports it owes, all in one commit.
    ///
    /// # Errors
    /// As [`Store::insert`].
    pub async fn settle(
        &self,
        entry: Entry,
        body: &Body,
        reports: Vec<(Entry, Message)>,
    ) -> Result<(), Error> {
        let id = entry.id;
        let done = !entry.recipients.iter().any(|r| r.state.is_open());
        let left = if done {
            None
        } else {
            Some(Box::new(Encoded::new(entry)?))
        };
        let encode = |(entry, message)| Ok((Encoded::new(entry)?, message));
        let reports = reports
            .into_iter()
            .map(encode)
            .collect::<Result<_, Error>>()?;
        self.write(Operation::Settle { id, left, reports }).await?;
        if done {
            self.forget_file(body);
        }
        Ok(())
    }

    /// Changes state, due time and reason of messages.
    ///
    /// # Errors
    /// As [`Store::insert`].
    pub async fn alter(
        &self,
        ids: Vec<QueueId>,
        state: EntryState,
        next_attempt_at: Timestamp,
        reason: Option<String>,
    ) -> Result<(), Error> {
        self.write(Operation::Alter {
            ids,
            state,
            next_attempt_at,
            reason,
        })
        .await
    }

    /// Forgets messages.
    ///
    /// # Errors
    /// As [`Store::insert`].
    pub async fn delete(&self, ids: Vec<QueueId>) -> Result<(), Error> {
        let files: Vec<PathBuf> = ids
            .iter()
            .map(|id| body::path(&self.inner.bodies, *id))
            .collect();
        self.write(Operation::Delete(ids)).await?;
        for file in files {
            body::remove(&file);
        }
        Ok(())
    }

    /// Removes the body of a message that was never inserted.
    pub fn forget(&self, message: &Message) {
        self.forget_file(&message.body);
    }

    /// Writes an account's sealed token, replacing the one before it.
    ///
    /// # Errors
    /// As [`Store::insert`].
    pub async fn put_token(&self, token: SealedToken) -> Result<(), Error> {
        self.write(Operation::PutToken(token)).await
    }

    /// Forgets an account's token.
    ///
    /// # Errors
    /// As [`Store::insert`].
    pub async fn delete_token(&self, account: &AccountName) -> Result<(), Error> {
        self.write(Operation::DeleteToken(account.clone())).await
    }

    /// Hands over a fact for the trace. It goes along with the next commit, so hand it over before
    /// what it tells of; one for which there is no room is dropped and counted.
    pub fn trace(&self, row: TraceRow) {
        if !self.inner.along.trace(row) {
            self.inner.metrics.trace_events_lost.inc();
        }
    }

    /// How much of the trace is kept from now on.
    pub fn limit_traces(&self, limits: TraceLimits) {
        self.inner.along.limit(limits);
    }

    /// Hands over what an account has sent. It goes along with the next commit.
    pub fn note_usage(&self, account: AccountName, slots: Slots) {
        self.inner.along.usage(account, slots);
    }

    /// Commits what waits to go along, and gives up a bounded number of old trace rows. Syncs
    /// nothing when there is nothing.
    ///
    /// # Errors
    /// As [`Store::insert`].
    pub async fn tidy(&self) -> Result<(), Error> {
        self.write(Operation::Tidy).await
    }

    /// Copies the journal back into the database file, so that what a stopped process leaves is
    /// one file. Nothing depends on it.
    ///
    /// # Errors
    /// As [`Store::insert`].
    pub async fn fold(&self) -> Result<(), Error> {
        self.write(Operation::Fold).await
    }

    /// Starts a body file.
    ///
    /// # Errors
    /// As [`Store::insert`].
    pub fn spill(&self, id: QueueId) -> Result<Spill, Error> {
        self.inner.health.check()?;
        self.inner.space.require(0).map_err(|f| f.error())?;
        let health = Arc::clone(&self.inner.health);
        Ok(Spill::new(&self.inner.bodies, id, health))
    }

    async fn write(&self, operation: Operation) -> Result<(), Error> {
        self.inner.health.check()?;
        let _waiting = Waiting::new(&self.inner.metrics);
        let (done, answer) = oneshot::channel();
        let gone = || {
            let error = std::io::Error::other("the writer thread ended");
            let failure = Failure::io("writing", error);
            // It panicked: a daemon that refuses for ever is worse than one that restarts.
            self.inner.health.poison(&failure);
            failure.error()
        };
        self.inner
            .writer
            .send(Job { operation, done })
            .await
            .map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    fn forget_file(&self, body: &Body) {
        if let Body::File(file) = body {
            body::remove(&file.path);
        }
    }
}

/// Counts an operation that waits for the writer, also when whoever asked goes away.
struct Waiting<'a>(&'a Metrics);

impl<'a> Waiting<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        metrics.store_waiting.inc();
        Self(metrics)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.store_waiting.dec();
    }
}

fn make_dir(path: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| Failure::io("making the state directory", e).error())
}
