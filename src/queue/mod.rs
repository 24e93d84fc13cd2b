//! Who is due when: accept, lease, settle, hold, release. Knows neither SMTP nor OAuth.
//!
//! `accept` makes a message durable and hands it, still in memory, to its account's lane when the
//! lane has room; `lease` gives the lane what is due; `settle` records outcomes durably before
//! anything is forgotten. A backlog costs disk, not memory.

pub mod retry;

use std::sync::Arc;

use jiff::Timestamp;

use crate::{
    clock::Clock,
    mail::{AccountName, Envelope, Message, QueueId, Reply},
    store::{self, Entry, Filter, RecipientState, Store},
    telemetry::Metrics,
};

/// What the queue needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// When a deferred message is tried again, and when it is given up.
    pub retry: retry::Policy,
}

/// A message to take responsibility for.
#[derive(Debug, Clone)]
pub struct NewEntry {
    /// From [`Queue::next_id`].
    pub id: QueueId,
    /// The account that sends it.
    pub account: AccountName,
    /// Sender and recipients.
    pub envelope: Envelope,
    /// The octets.
    pub message: Message,
    /// Login name of the client, if it had one.
    pub client: Option<String>,
}

/// The queue. Clones share it.
#[derive(Debug, Clone)]
pub struct Queue {
    _private: (),
}

/// A message leased to a lane. Dropping it without [`Queue::settle`] gives it back unchanged: it is
/// due again at once (shutdown, or the account went on hold before the attempt began).
#[derive(Debug)]
pub struct Lease {
    /// Everything about the message.
    pub entry: Entry,
    /// Its octets, verified.
    pub message: Message,
    _private: (),
}

/// What an attempt came to.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// By index into `entry.recipients`; recipients not named keep their state.
    pub outcomes: Vec<(usize, RecipientState, Option<Reply>)>,
    /// What happens to recipients still open. Ignored when none is.
    pub next: Next,
    /// Why, in plain words.
    pub reason: Option<String>,
    /// Whether this counts as an attempt (throttling does not).
    pub counted: bool,
    /// Whether the final reply was lost.
    pub uncertain: bool,
    /// DSNs that this settlement owes; accepted in the same commit.
    pub reports: Vec<NewEntry>,
    /// Whether one of them tells the sender that the message is late.
    pub delay_warned: bool,
}

/// What happens to the recipients that an attempt left open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Tried again then.
    RetryAt(Timestamp),
    /// Waits for a person.
    Hold,
}

/// How many messages of an account wait where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Will be delivered.
    pub queued: u64,
    /// Wait for a person (held or quarantined).
    pub held: u64,
}

/// What an operator does with messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Due now.
    Retry,
    /// Waits for a person.
    Hold,
    /// No longer waits; due now.
    Release,
    /// Forgotten, without a DSN.
    Delete,
}

impl Queue {
    /// A queue over `store`. Messages found there are due when their time comes.
    #[must_use]
    pub fn new(
        _config: Config,
        _store: Store,
        _clock: Arc<dyn Clock>,
        _metrics: Arc<Metrics>,
    ) -> Self {
        todo!()
    }

    /// A fresh queue id.
    #[must_use]
    pub fn next_id(&self) -> QueueId {
        todo!()
    }

    /// Starts a body file for a message above [`store::INLINE_BODY_MAX`].
    ///
    /// # Errors
    /// [`store::Error::Full`] or [`store::Error::Broken`].
    pub async fn spill(&self, _id: QueueId) -> Result<Spill, store::Error> {
        todo!()
    }

    /// Takes responsibility for a message: when this returns `Ok`, it survives a power loss. The
    /// caller may then, and only then, reply 250 (RFC 5321 §4.2.5, §6.1).
    ///
    /// # Errors
    /// [`store::Error::Full`] (452) or [`store::Error::Broken`] (451); nothing is left behind.
    ///
    /// # Cancel safety
    /// Not cancel safe: dropping the future may leave an unacknowledged message that will still be
    /// delivered.
    pub async fn accept(&self, _entry: NewEntry) -> Result<(), store::Error> {
        todo!()
    }

    /// Whether the store still takes messages; `Err` says why not, for 451 and `/readyz`.
    ///
    /// # Errors
    /// What [`Queue::accept`] would answer.
    pub fn ready(&self) -> Result<(), store::Error> {
        todo!()
    }

    /// Resolves when the store has failed for good: the process must stop accepting and restart.
    pub async fn failed(&self) -> store::Error {
        todo!()
    }

    /// The next due message of `account`; waits until there is one. Fresh messages come from
    /// memory, in turn with due ones from the store. Messages that fail their digest are
    /// quarantined here and never returned. Cancel safe.
    pub async fn lease(&self, _account: &AccountName) -> Lease {
        todo!()
    }

    /// Records what an attempt came to. When it returns `Ok`, the outcome survives a power loss;
    /// a message with no open recipient is gone.
    ///
    /// # Errors
    /// The store's. The lease is then given back.
    pub async fn settle(&self, _lease: Lease, _settlement: Settlement) -> Result<(), store::Error> {
        todo!()
    }

    /// When a message that has had `attempts` attempts is tried again; `None`: its lifetime is over.
    #[must_use]
    pub fn next_attempt(&self, _entry: &Entry) -> Option<Timestamp> {
        todo!()
    }

    /// Entries that match, oldest first.
    ///
    /// # Errors
    /// The store's.
    pub async fn list(&self, _filter: Filter) -> Result<Vec<Entry>, store::Error> {
        todo!()
    }

    /// One entry with its octets (also when held or quarantined).
    ///
    /// # Errors
    /// The store's.
    pub async fn read(&self, _id: QueueId) -> Result<Option<(Entry, Message)>, store::Error> {
        todo!()
    }

    /// Applies `operation` to every matching entry; how many there were. A message that is being
    /// delivered at this moment is not touched by hold and delete; it is counted by neither.
    ///
    /// # Errors
    /// The store's.
    pub async fn operate(&self, _filter: Filter, _op: Operation) -> Result<u64, store::Error> {
        todo!()
    }

    /// What waits, by account.
    ///
    /// # Errors
    /// The store's.
    pub async fn counts(&self) -> Result<Vec<(AccountName, Counts)>, store::Error> {
        todo!()
    }

    /// Ids leased at this moment (state `delivering` in listings).
    #[must_use]
    pub fn leased(&self) -> Vec<QueueId> {
        todo!()
    }
}

/// A body being written to a file. Dropped unfinished, the file is removed.
#[derive(Debug)]
pub struct Spill {
    _private: (),
}

impl Spill {
    /// Appends octets.
    ///
    /// # Errors
    /// [`store::Error::Full`] or [`store::Error::Broken`].
    pub async fn write(&mut self, _octets: &[u8]) -> Result<(), store::Error> {
        todo!()
    }

    /// Syncs file and directory and gives the message.
    ///
    /// # Errors
    /// As [`Spill::write`].
    pub async fn finish(self) -> Result<Message, store::Error> {
        todo!()
    }
}
