//! Reading: on a connection of its own, off the runtime's threads. Every body is checked.

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{Arc, PoisonError},
};

use bytes::Bytes;
use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, Rows, params};

use super::{
    Entry, EntryState, Error, Filter, SealedToken, Slots, Store, body,
    failure::{Failure, Fault},
    row::{COLUMNS, Located},
};
use crate::mail::{AccountName, Body, BodyFile, Message, QueueId};

/// What reading a body came to.
#[derive(Debug)]
pub enum StoredBody {
    /// Read and verified.
    Intact(Message),
    /// Missing, or not what was stored: the reason, and what is there.
    Damaged(String, Option<Message>),
}

/// Due messages taken out of the store at once, without their bodies.
pub const WINDOW_MAX: usize = 64;
/// Of one sender, while others may have some: so many stand before what another sends now.
const SENDER_MAX: usize = 16;

/// Whose turn it is.
#[derive(Debug, Clone, Default)]
pub struct Turn {
    /// The sender that came last; none: nobody yet.
    pub last: Option<String>,
    /// Messages that are not wanted, because somebody has them.
    pub known: HashSet<QueueId>,
}

/// Due messages.
#[derive(Debug)]
pub struct Due {
    /// These.
    pub found: Vec<Located>,
    /// Whether more are due.
    pub more: bool,
    /// The sender that came last.
    pub last: Option<String>,
}

const MISMATCH: &str = "the body no longer matches its digest";

impl Store {
    /// Entries of `account` that are due at `now` and not known to the caller, at most
    /// [`WINDOW_MAX`]. When there are more, senders take turns: each has at most 16, and
    /// the next call goes on behind the sender that came last.
    ///
    /// # Errors
    /// [`Error::Refused`] or [`Error::Broken`].
    pub async fn due(
        &self,
        account: AccountName,
        now: Timestamp,
        turn: Turn,
    ) -> Result<Due, Error> {
        self.read("reading due messages", move |connection| {
            let search = Search {
                connection,
                account: account.as_str(),
                now: now.as_millisecond(),
                known: &turn.known,
            };
            if search.fit_into_window()? {
                return Ok(Due {
                    found: search.oldest()?,
                    more: false,
                    last: turn.last,
                });
            }
            search.in_turns(turn.last.as_deref())
        })
        .await
    }

    /// When the next message of `account` after `now` is due.
    ///
    /// # Errors
    /// As [`Store::due`].
    pub async fn next_due(
        &self,
        account: AccountName,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, Error> {
        self.read("reading the next due time", move |connection| {
            let due: Option<i64> = connection
                .prepare_cached(
                    "SELECT MIN(next_attempt_at) FROM messages
                     WHERE state = 0 AND account = ?1 AND next_attempt_at > ?2",
                )?
                .query_row(params![account.as_str(), now.as_millisecond()], |row| {
                    row.get(0)
                })?;
            Ok(due.and_then(|ms| Timestamp::from_millisecond(ms).ok()))
        })
        .await
    }

    /// Entries that match, oldest first.
    ///
    /// # Errors
    /// As [`Store::due`].
    pub async fn list(&self, filter: Filter) -> Result<Vec<Entry>, Error> {
        self.read("listing the queue", move |connection| {
            let after = filter.after.map_or(-1, QueueId::as_i64);
            let account = filter.account.as_ref().map(AccountName::as_str);
            let state = filter.state.map(EntryState::as_i64);
            let limit = filter
                .limit
                .map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
            if !filter.ids.is_empty() {
                return by_ids(connection, &filter, limit);
            }
            let mut statement = connection.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM messages WHERE id > ?1 AND (?2 IS NULL OR account = ?2)
                 AND (?3 IS NULL OR state = ?3) ORDER BY id"
            ))?;
            let mut rows = statement.query(params![after, account, state])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                if found.len() >= limit {
                    break;
                }
                let entry = Located::read(row)?.entry;
                if filter.matches(&entry) {
                    found.push(entry);
                }
            }
            Ok(found)
        })
        .await
    }

    /// One entry.
    ///
    /// # Errors
    /// As [`Store::due`].
    pub async fn find(&self, id: QueueId) -> Result<Option<Located>, Error> {
        self.read("reading a message", move |connection| {
            connection
                .prepare_cached(&format!("SELECT {COLUMNS} FROM messages WHERE id = ?1"))?
                .query_row([id.as_i64()], Located::read)
                .optional()
        })
        .await
    }

    /// The octets of a message, verified against the digest taken when it was accepted.
    ///
    /// # Errors
    /// As [`Store::due`]; damage is no error but a [`StoredBody::Damaged`].
    pub async fn body(&self, located: &Located) -> Result<StoredBody, Error> {
        let body = self.verified(located).await?;
        let Some(reason) = located.damage.clone() else {
            return Ok(body);
        };
        // Nobody knows whom sound octets are for, but a person may want to see them.
        Ok(match body {
            StoredBody::Intact(message) => StoredBody::Damaged(reason, Some(message)),
            StoredBody::Damaged(_, message) => StoredBody::Damaged(reason, message),
        })
    }

    async fn verified(&self, located: &Located) -> Result<StoredBody, Error> {
        let (id, digest, size) = (located.entry.id, located.digest, located.entry.size);
        if located.in_file {
            let path: PathBuf = body::path(&self.inner.bodies, id);
            return blocking("reading a body file", move || {
                let verified = body::verify(&path, digest);
                let body = Body::File(Arc::new(BodyFile { path }));
                let message = Message { body, size, digest };
                Ok(match verified {
                    Ok(true) => StoredBody::Intact(message),
                    Ok(false) => StoredBody::Damaged(MISMATCH.into(), Some(message)),
                    Err(e) => {
                        StoredBody::Damaged(format!("the body file cannot be read: {e}"), None)
                    }
                })
            })
            .await;
        }
        let octets: Result<Vec<u8>, String> = self
            .read("reading a body", move |connection| {
                let octets = connection
                    .prepare_cached("SELECT octets FROM bodies WHERE id = ?1")?
                    .query_row([id.as_i64()], |row| row.get(0));
                match octets.optional() {
                    Ok(Some(octets)) => Ok(Ok(octets)),
                    Ok(None) => Ok(Err("the body is missing".into())),
                    Err(error) if is_damage(&error) => {
                        Ok(Err(format!("the body cannot be read: {error}")))
                    }
                    Err(error) => Err(error),
                }
            })
            .await?;
        let octets = match octets {
            Ok(octets) => octets,
            Err(reason) => return Ok(StoredBody::Damaged(reason, None)),
        };
        let intact = body::digest(&octets) == digest;
        let message = Message {
            body: Body::Memory(Bytes::from(octets)),
            size,
            digest,
        };
        Ok(if intact {
            StoredBody::Intact(message)
        } else {
            StoredBody::Damaged(MISMATCH.into(), Some(message))
        })
    }

    /// Messages by account and state, and the oldest of each.
    ///
    /// # Errors
    /// As [`Store::due`].
    pub async fn counts(&self) -> Result<Vec<(AccountName, EntryState, u64, QueueId)>, Error> {
        self.read("counting messages", |connection| {
            connection
                .prepare_cached(
                    "SELECT account, state, COUNT(*), MIN(id) FROM messages GROUP BY 1, 2",
                )?
                .query_map([], |row| {
                    // As [`Located::read`] does with a damaged row.
                    let account: String = row.get(0).unwrap_or_default();
                    let state = EntryState::from_i64(row.get(1).unwrap_or(-1));
                    let count: i64 = row.get(2)?;
                    Ok((
                        AccountName::new(&account),
                        state,
                        u64::try_from(count).unwrap_or(0),
                        QueueId::from_i64(row.get(3)?),
                    ))
                })?
                .collect()
        })
        .await
    }

    /// What an account has sent; empty: nothing is known.
    ///
    /// # Errors
    /// As [`Store::due`].
    pub async fn usage(&self, account: AccountName) -> Result<Slots, Error> {
        self.read("reading what an account has sent", move |connection| {
            let slots: Option<String> = connection
                .prepare_cached("SELECT slots FROM usage WHERE account = ?1")?
                .query_row([account.as_str()], |row| row.get(0))
                .optional()?;
            // A damaged record is no record: the provider's own limit still stands.
            let slots = slots.and_then(|slots| serde_json::from_str(&slots).ok());
            Ok(slots.unwrap_or_default())
        })
        .await
    }

    /// Every sealed token.
    ///
    /// # Errors
    /// As [`Store::due`].
    pub async fn tokens(&self) -> Result<Vec<SealedToken>, Error> {
        self.read("reading sealed tokens", |connection| {
            connection
                .prepare_cached("SELECT account, version, record, previous FROM tokens")?
                .query_map([], |row| {
                    // A damaged one fails at its seal, and the others do not with it.
                    let account: String = row.get(0).unwrap_or_default();
                    Ok(SealedToken {
                        account: AccountName::new(&account),
                        version: row.get(1).unwrap_or_default(),
                        record: row.get(2).unwrap_or_default(),
                        previous: row.get(3).unwrap_or_default(),
                    })
                })?
                .collect()
        })
        .await
    }

    pub(super) async fn read<T, F>(&self, operation: &'static str, query: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let reader = Arc::clone(&self.inner.reader);
        blocking(operation, move || {
            let connection = reader.lock().unwrap_or_else(PoisonError::into_inner);
            query(&connection)
        })
        .await
    }
}

/// A search for due messages.
struct Search<'a> {
    connection: &'a Connection,
    account: &'a str,
    now: i64,
    known: &'a HashSet<QueueId>,
}

impl Search<'_> {
    /// Whether no more are due than are taken at once. Looks at an index alone.
    fn fit_into_window(&self) -> rusqlite::Result<bool> {
        let mut statement = self.connection.prepare_cached(
            "SELECT id FROM messages WHERE state = 0 AND account = ?1 AND next_attempt_at <= ?2
             ORDER BY next_attempt_at",
        )?;
        let mut rows = statement.query(params![self.account, self.now])?;
        let mut unknown = 0;
        while let Some(row) = rows.next()? {
            unknown += usize::from(!self.known.contains(&QueueId::from_i64(row.get(0)?)));
            if unknown > WINDOW_MAX {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn oldest(&self) -> rusqlite::Result<Vec<Located>> {
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM messages
             WHERE state = 0 AND account = ?1 AND next_attempt_at <= ?2
             ORDER BY next_attempt_at"
        ))?;
        self.unknown(
            statement.query(params![self.account, self.now])?,
            WINDOW_MAX,
        )
    }

    /// The first unknown ones; the others' rows are not decoded.
    fn unknown(&self, mut rows: Rows<'_>, most: usize) -> rusqlite::Result<Vec<Located>> {
        let mut found = Vec::new();
        while found.len() < most {
            let Some(row) = rows.next()? else { break };
            if !self.known.contains(&QueueId::from_i64(row.get(0)?)) {
                found.push(Located::read(row)?);
            }
        }
        Ok(found)
    }

    /// The next senders, once around at most, share what is taken. A sender is found by one step
    /// into the index, however many messages it has.
    fn in_turns(&self, last: Option<&str>) -> rusqlite::Result<Due> {
        let senders = self.senders_after(last)?;
        let share = WINDOW_MAX / senders.len().max(1);
        let share = share.clamp(1, SENDER_MAX);
        let mut of_sender = self.connection.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM messages
             WHERE state = 0 AND account = ?1 AND sender = ?2 AND next_attempt_at <= ?3
             ORDER BY next_attempt_at"
        ))?;
        let mut found = Vec::new();
        for sender in &senders {
            let rows = of_sender.query(params![self.account, sender, self.now])?;
            found.extend(self.unknown(rows, share)?);
        }
        Ok(Due {
            found,
            more: true,
            last: senders.into_iter().next_back(),
        })
    }

    /// The senders behind `last`, then those before it, each once.
    fn senders_after(&self, last: Option<&str>) -> rusqlite::Result<Vec<String>> {
        let mut senders: Vec<String> = Vec::new();
        let mut at = last.map(str::to_owned);
        let mut wrapped = last.is_none();
        while senders.len() < WINDOW_MAX {
            match self.sender_after(at.as_deref())? {
                // Around: the first one again.
                Some(sender) if wrapped && senders.first() == Some(&sender) => break,
                Some(sender) => {
                    at = Some(sender.clone());
                    senders.push(sender);
                }
                None if wrapped => break,
                None => (wrapped, at) = (true, None),
            }
        }
        Ok(senders)
    }

    fn sender_after(&self, sender: Option<&str>) -> rusqlite::Result<Option<String>> {
        const FIRST: &str = "SELECT sender FROM messages WHERE state = 0 AND account = ?1
             ORDER BY sender LIMIT 1";
        const NEXT: &str = "SELECT sender FROM messages WHERE state = 0 AND account = ?1
             AND sender > ?2 ORDER BY sender LIMIT 1";
        let read = |row: &Row<'_>| row.get(0);
        let found = match sender {
            None => {
                let mut statement = self.connection.prepare_cached(FIRST)?;
                statement.query_row(params![self.account], read)
            }
            Some(sender) => {
                let mut statement = self.connection.prepare_cached(NEXT)?;
                statement.query_row(params![self.account, sender], read)
            }
        };
        found.optional()
    }
}

/// The entries among `filter.ids` that match: each looked up, however long the queue is.
fn by_ids(connection: &Connection, filter: &Filter, limit: usize) -> rusqlite::Result<Vec<Entry>> {
    let mut ids = filter.ids.clone();
    ids.sort_unstable();
    ids.dedup();
    let mut statement =
        connection.prepare_cached(&format!("SELECT {COLUMNS} FROM messages WHERE id = ?1"))?;
    let mut found = Vec::new();
    let ids = ids.into_iter();
    for id in ids.filter(|id| filter.after.is_none_or(|after| *id > after)) {
        if found.len() >= limit {
            break;
        }
        let located = statement.query_row([id.as_i64()], Located::read);
        let entry = located.optional()?.map(|located| located.entry);
        found.extend(entry.filter(|entry| filter.matches_but_ids(entry)));
    }
    Ok(found)
}

/// Whether it is no use to read again: the row is of another type, or leads into the void.
fn is_damage(error: &rusqlite::Error) -> bool {
    error
        .sqlite_error_code()
        .is_none_or(|code| code == ErrorCode::DatabaseCorrupt)
}

pub(super) async fn blocking<T, F>(operation: &'static str, work: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: FnOnce() -> rusqlite::Result<T> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|e| {
            let mut failure = Failure::sqlite(operation, e);
            // A reading side that fails loses nothing: the operation is refused, no more.
            failure.fault = Fault::Refused;
            failure.error()
        }),
        Err(e) => Err(Failure::io(operation, std::io::Error::other(e)).error()),
    }
}
