//! What must survive a power cut: messages with their bodies, and sealed tokens.
//!
//! SQLite in WAL mode with `synchronous=FULL`; one writer thread commits whatever waits at the same
//! moment in one transaction (group commit). Bodies above [`INLINE_BODY_MAX`] are synced files
//! beside the database. Only `queue` and `oauth` write here.

use std::{path::PathBuf, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    mail::{AccountName, BodyType, Message, QueueId, Recipient, Reply, Ret, ReversePath},
    telemetry::Metrics,
};

/// Bodies up to this size lie in the database; above it, writing them twice (journal, then tree)
/// costs more than a file of their own.
pub const INLINE_BODY_MAX: usize = 256 * 1024;

/// Where the store lives.
#[derive(Debug, Clone)]
pub struct Config {
    /// The state directory; created 0700 when missing.
    pub state_dir: PathBuf,
}

/// A message with everything known about it but its octets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name for ever.
    pub id: QueueId,
    /// The account that sends it.
    pub account: AccountName,
    /// Where failures go.
    pub reverse_path: ReversePath,
    /// Who gets it, and how far each has come.
    pub recipients: Vec<RecipientEntry>,
    /// `BODY=`.
    pub body: BodyType,
    /// `SMTPUTF8`.
    pub smtputf8: bool,
    /// `RET=`.
    pub ret: Option<Ret>,
    /// `ENVID=`, in xtext.
    pub envid: Option<String>,
    /// Octets.
    pub size: u64,
    /// When we said 250.
    pub received_at: Timestamp,
    /// Login name of the client, if it had one.
    pub client: Option<String>,
    /// Queued, held or quarantined.
    pub state: EntryState,
    /// When it is due again.
    pub next_attempt_at: Timestamp,
    /// Attempts made (those that throttling cut short are not counted).
    pub attempts: u32,
    /// Whether an attempt lost its final reply.
    pub uncertain: bool,
    /// Why it is where it is, in plain words.
    pub reason: Option<String>,
}

/// One recipient of an [`Entry`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientEntry {
    /// Address and DSN parameters.
    #[serde(flatten)]
    pub recipient: Recipient,
    /// How far it has come.
    pub state: RecipientState,
    /// The provider's last reply about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<Reply>,
}

/// How far a recipient has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecipientState {
    /// Not tried yet.
    Queued,
    /// Tried, will be tried again.
    Deferred,
    /// The provider took it.
    Delivered,
    /// Refused for good; the sender was told if there is one.
    Bounced,
    /// Given up after the lifetime; the sender was told if there is one.
    Expired,
}

impl RecipientState {
    /// Whether this recipient still waits for its outcome.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, Self::Queued | Self::Deferred)
    }
}

/// What the queue does with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryState {
    /// Delivered when due.
    Queued,
    /// Waits for a person.
    Held,
    /// Its body no longer matches its digest; waits for a person.
    Quarantined,
}

/// What [`Store::list`] selects. All given conditions must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Filter {
    /// These ids only.
    pub ids: Vec<QueueId>,
    /// This account only.
    pub account: Option<AccountName>,
    /// Pattern for the reverse-path (`*` matches any run).
    pub sender: Option<String>,
    /// In this state only.
    pub state: Option<EntryState>,
    /// Ids greater than this one (paging).
    pub after: Option<QueueId>,
    /// At most so many; none: all.
    pub limit: Option<u32>,
}

/// A sealed record: the store sees ciphertext only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedToken {
    /// Whose.
    pub account: AccountName,
    /// Rises with each write; part of what the seal protects.
    pub version: i64,
    /// The sealed record.
    pub record: Vec<u8>,
    /// The record before it, one generation.
    pub previous: Option<Vec<u8>>,
}

/// Why the store refused. Nothing of the refused operation is left behind.
#[derive(Debug, thiserror::Error)]
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
    _private: (),
}

impl Store {
    /// Opens (or makes) the store and takes its lock for the life of the process. Blocking.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Newer`], or what the disk says.
    pub fn open(_config: &Config, _metrics: Arc<Metrics>) -> Result<Self, Error> {
        todo!()
    }

    /// Every sealed token.
    pub async fn tokens(&self) -> Result<Vec<SealedToken>, Error> {
        todo!()
    }

    /// Stores a sealed token durably.
    pub async fn put_token(&self, _token: SealedToken) -> Result<(), Error> {
        todo!()
    }

    /// Deletes an account's sealed token durably.
    pub async fn delete_token(&self, _account: &AccountName) -> Result<(), Error> {
        todo!()
    }

    /// Unused yet: names the values so that the skeleton compiles.
    #[doc(hidden)]
    pub fn _uses(_: Message) {}
}
