//! The one writer: takes what waits at this moment, commits once, then answers everyone.

use std::{io, sync::Arc, thread};

use jiff::Timestamp;
use rusqlite::{Connection, params};
use tokio::sync::{mpsc, oneshot};

use super::{
    Entry, EntryState, Error, SealedToken,
    failure::{Failure, Fault, Health},
    space::Space,
};
use crate::{
    mail::{AccountName, Body, Message, QueueId},
    telemetry::Metrics,
};

/// The journal is copied back when it has so many pages of 16 KiB.
pub(super) const WAL_PAGES_MAX: i64 = 128;
/// The journal's size then.
pub(super) const WAL_BYTES_MAX: u64 = 128 * 16 * 1024;
/// Operations in one commit: bounds how long the first one waits for the last.
const GROUP_MAX: usize = 256;
/// SQLite's own recursion is shallow; the default 2 MiB would only be reserved.
const STACK_BYTES: usize = 512 * 1024;

/// What can be written.
#[derive(Debug)]
pub(super) enum Operation {
    Insert(Box<(Entry, Message)>),
    Settle {
        entry: Box<Entry>,
        done: bool,
        reports: Vec<(Entry, Message)>,
    },
    Alter {
        ids: Vec<QueueId>,
        state: EntryState,
        next_attempt_at: Timestamp,
        reason: Option<String>,
    },
    Delete(Vec<QueueId>),
    PutToken(SealedToken),
    DeleteToken(AccountName),
}

/// An operation and who waits for it.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) operation: Operation,
    pub(super) done: oneshot::Sender<Result<(), Error>>,
}

/// Starts the writer thread; it ends when every sender is gone.
pub(super) fn spawn(
    connection: Connection,
    mut jobs: mpsc::Receiver<Job>,
    health: Arc<Health>,
    space: Space,
    metrics: Arc<Metrics>,
) -> io::Result<()> {
    let mut writer = Writer {
        connection,
        health,
        space,
        metrics,
    };
    let run = move || {
        let mut group = Vec::new();
        while let Some(first) = jobs.blocking_recv() {
            group.push(first);
            while group.len() < GROUP_MAX {
                let Ok(next) = jobs.try_recv() else { break };
                group.push(next);
            }
            writer.commit_group(&mut group);
        }
    };
    thread::Builder::new()
        .name("store-writer".into())
        .stack_size(STACK_BYTES)
        .spawn(run)
        .map(drop)
}

struct Writer {
    connection: Connection,
    health: Arc<Health>,
    space: Space,
    metrics: Arc<Metrics>,
}

impl Writer {
    fn commit_group(&mut self, group: &mut Vec<Job>) {
        let size = u64::try_from(group.len()).unwrap_or(0);
        match self.commit(group) {
            Ok(()) => {
                self.metrics.store_commits.inc();
                self.metrics.store_operations.inc_by(size);
                group.drain(..).for_each(|job| answer(job, Ok(())));
            }
            // One operation's own fault must not take down the others: each alone.
            Err(failure) if group.len() > 1 && failure.fault == Fault::Refused => {
                for job in group.drain(..) {
                    let result = self.commit(std::slice::from_ref(&job));
                    let result = result.map_err(|failure| self.judge(failure));
                    answer(job, result);
                }
            }
            Err(failure) => {
                let error = self.judge(failure);
                group
                    .drain(..)
                    .for_each(|job| answer(job, Err(error.clone())));
            }
        }
    }

    /// All or nothing, synced. Nothing is committed after a failure for good.
    fn commit(&mut self, group: &[Job]) -> Result<(), Failure> {
        if self.health.check().is_err() {
            return Err(Failure::io(
                "writing",
                io::Error::other("the store has failed before"),
            ));
        }
        let step = |operation| move |e| Failure::sqlite(operation, e);
        let transaction = self
            .connection
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .map_err(step("beginning a transaction"))?;
        for job in group {
            apply(&transaction, &job.operation).map_err(step("writing to the database"))?;
        }
        transaction.commit().map_err(step("committing to disk"))
    }

    fn judge(&self, mut failure: Failure) -> Error {
        if failure.fault == Fault::Doubtful {
            failure.fault = self.space.probe();
        }
        if failure.fault == Fault::Broken {
            self.health.poison(&failure);
        }
        failure.error()
    }
}

fn answer(job: Job, result: Result<(), Error>) {
    // Whoever asked may have gone; what was committed stays committed.
    drop(job.done.send(result));
}

fn apply(connection: &Connection, operation: &Operation) -> rusqlite::Result<()> {
    match operation {
        Operation::Insert(row) => insert(connection, &row.0, &row.1),
        Operation::Settle {
            entry,
            done,
            reports,
        } => {
            if *done {
                delete(connection, entry.id)?;
            } else {
                update(connection, entry)?;
            }
            reports
                .iter()
                .try_for_each(|(entry, message)| insert(connection, entry, message))
        }
        Operation::Alter {
            ids,
            state,
            next_attempt_at,
            reason,
        } => {
            let mut statement = connection.prepare_cached(
                "UPDATE messages SET state = ?2, next_attempt_at = ?3, reason = ?4 WHERE id = ?1",
            )?;
            for id in ids {
                let due = next_attempt_at.as_millisecond();
                statement.execute(params![id.as_i64(), state.as_i64(), due, reason])?;
            }
            Ok(())
        }
        Operation::Delete(ids) => ids.iter().try_for_each(|id| delete(connection, *id)),
        Operation::PutToken(token) => connection
            .prepare_cached(
                "INSERT INTO tokens (account, version, record, previous) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (account) DO UPDATE SET version = ?2, record = ?3, previous = ?4",
            )?
            .execute(params![
                token.account.as_str(),
                token.version,
                token.record,
                token.previous
            ])
            .map(drop),
        Operation::DeleteToken(account) => connection
            .prepare_cached("DELETE FROM tokens WHERE account = ?1")?
            .execute([account.as_str()])
            .map(drop),
    }
}

fn json(entry: &Entry) -> rusqlite::Result<String> {
    serde_json::to_string(entry).map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))
}

fn insert(connection: &Connection, entry: &Entry, message: &Message) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO messages
             (id, account, state, next_attempt_at, sender, reason, digest, in_file, entry)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            entry.id.as_i64(),
            entry.account.as_str(),
            entry.state.as_i64(),
            entry.next_attempt_at.as_millisecond(),
            entry.reverse_path.to_string(),
            entry.reason,
            message.digest.0.as_slice(),
            matches!(message.body, Body::File(_)),
            json(entry)?,
        ])?;
    if let Body::Memory(octets) = &message.body {
        connection
            .prepare_cached("INSERT INTO bodies (id, octets) VALUES (?1, ?2)")?
            .execute(params![entry.id.as_i64(), octets.as_ref()])?;
    }
    Ok(())
}

fn update(connection: &Connection, entry: &Entry) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE messages SET state = ?2, next_attempt_at = ?3, reason = ?4, entry = ?5
             WHERE id = ?1",
        )?
        .execute(params![
            entry.id.as_i64(),
            entry.state.as_i64(),
            entry.next_attempt_at.as_millisecond(),
            entry.reason,
            json(entry)?,
        ])
        .map(drop)
}

fn delete(connection: &Connection, id: QueueId) -> rusqlite::Result<()> {
    for statement in [
        "DELETE FROM messages WHERE id = ?1",
        "DELETE FROM bodies WHERE id = ?1",
    ] {
        connection
            .prepare_cached(statement)?
            .execute([id.as_i64()])?;
    }
    Ok(())
}
