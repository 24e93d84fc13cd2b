//! Reading: on a connection of its own, off the runtime's threads. Every body is checked.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError},
};

use bytes::Bytes;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    Entry, EntryState, Error, Filter, SealedToken, Store, body,
    failure::{Failure, Fault},
};
use crate::mail::{AccountName, Body, BodyFile, Digest, Message, QueueId};

/// An entry and where its octets are.
#[derive(Debug, Clone)]
pub struct Located {
    /// The entry.
    pub entry: Entry,
    digest: Digest,
    in_file: bool,
}

/// What reading a body came to.
#[derive(Debug)]
pub enum StoredBody {
    /// Read and verified.
    Intact(Message),
    /// Missing, or not what was stored: the reason, and what is there.
    Damaged(String, Option<Message>),
}

const MISMATCH: &str = "the body no longer matches its digest";
const COLUMNS: &str = "SELECT entry, state, next_attempt_at, reason, digest, in_file FROM messages";

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
                    "{COLUMNS} WHERE state = 0 AND account = ?1 AND next_attempt_at <= ?2
                     ORDER BY next_attempt_at LIMIT ?3"
                ))?
                .query_map(
                    params![account.as_str(), now.as_millisecond(), limit],
                    located,
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
            let mut statement = connection.prepare_cached(&format!(
                "{COLUMNS} WHERE id > ?1 AND (?2 IS NULL OR account = ?2)
                 AND (?3 IS NULL OR state = ?3) ORDER BY id"
            ))?;
            let mut rows = statement.query(params![after, account, state])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                if found.len() >= limit {
                    break;
                }
                let entry = located(row)?.entry;
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
                .prepare_cached(&format!("{COLUMNS} WHERE id = ?1"))?
                .query_row([id.as_i64()], located)
                .optional()
        })
        .await
    }

    /// The octets of a message, verified against the digest taken when it was accepted.
    ///
    /// # Errors
    /// As [`Store::due`]; damage is no error but a [`StoredBody::Damaged`].
    pub async fn body(&self, located: &Located) -> Result<StoredBody, Error> {
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
        let octets: Option<Vec<u8>> = self
            .read("reading a body", move |connection| {
                connection
                    .prepare_cached("SELECT octets FROM bodies WHERE id = ?1")?
                    .query_row([id.as_i64()], |row| row.get(0))
                    .optional()
            })
            .await?;
        let Some(octets) = octets else {
            return Ok(StoredBody::Damaged("the body is missing".into(), None));
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
                    let account: String = row.get(0)?;
                    let count: i64 = row.get(2)?;
                    let state = EntryState::from_i64(row.get(1)?);
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
                    let account: String = row.get(0)?;
                    Ok(SealedToken {
                        account: AccountName::new(&account),
                        version: row.get(1)?,
                        record: row.get(2)?,
                        previous: row.get(3)?,
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

fn located(row: &Row<'_>) -> rusqlite::Result<Located> {
    let text: String = row.get(0)?;
    let mut entry: Entry = serde_json::from_str(&text).map_err(|e| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(e))
    })?;
    // An operator's change is written to the columns alone.
    entry.state = EntryState::from_i64(row.get(1)?);
    entry.next_attempt_at =
        Timestamp::from_millisecond(row.get(2)?).unwrap_or(entry.next_attempt_at);
    entry.reason = row.get(3)?;
    let digest: Vec<u8> = row.get(4)?;
    let digest = Digest(digest.try_into().unwrap_or([0; 32]));
    Ok(Located {
        entry,
        digest,
        in_file: row.get(5)?,
    })
}
