//! Reading: on a connection of its own, off the runtime's threads. Every body is checked.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError},
};

use bytes::Bytes;
use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};

use super::{
    Entry, EntryState, Error, Filter, SealedToken, Store, body,
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

const MISMATCH: &str = "the body no longer matches its digest";

impl Store {
    /// Entries of `account` that are due at `now`, oldest due time first, at most `limit`.
    ///
    /// # Errors
    /// [`Error::Refused`] or [`Error::Broken`].
    pub async fn due(
        &self,
        account: AccountName,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<Located>, Error> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.read("reading due messages", move |connection| {
            connection
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM messages
                     WHERE state = 0 AND account = ?1 AND next_attempt_at <= ?2
                     ORDER BY next_attempt_at LIMIT ?3"
                ))?
                .query_map(
                    params![account.as_str(), now.as_millisecond(), limit],
                    Located::read,
                )?
                .collect()
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

    /// Messages by account and state.
    ///
    /// # Errors
    /// As [`Store::due`].
    pub async fn counts(&self) -> Result<Vec<(AccountName, EntryState, u64)>, Error> {
        self.read("counting messages", |connection| {
            connection
                .prepare_cached("SELECT account, state, COUNT(*) FROM messages GROUP BY 1, 2")?
                .query_map([], |row| {
                    // As [`Located::read`] does with a damaged row.
                    let account: String = row.get(0).unwrap_or_default();
                    let state = EntryState::from_i64(row.get(1).unwrap_or(-1));
                    let count: i64 = row.get(2)?;
                    Ok((
                        AccountName::new(&account),
                        state,
                        u64::try_from(count).unwrap_or(0),
                    ))
                })?
                .collect()
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

    async fn read<T, F>(&self, operation: &'static str, query: F) -> Result<T, Error>
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

async fn blocking<T, F>(operation: &'static str, work: F) -> Result<T, Error>
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
