//! The one writer: takes what waits at this moment, commits once, then answers everyone.
//!
//! It also copies the journal back itself, after the answers. SQLite's own checkpoint swallows a
//! failed sync of the database file; the next one, which the kernel lets "succeed", would start the
//! journal over, and accepted mail would be gone. Here such a failure is the end of the store, with
//! the journal still whole for the next process.

use std::{io, sync::Arc, thread, time::Instant};

use jiff::Timestamp;
use rusqlite::{Connection, Row, params};
use tokio::sync::{mpsc, oneshot};

use super::{
    EntryState, Error, MadeChange, SealedToken,
    along::{Along, Load},
    failure::{Failure, Fault, Health},
    made,
    row::Encoded,
    space::Space,
};
use crate::{
    mail::{AccountName, Body, Message, QueueId},
    telemetry::Metrics,
};

/// The journal is copied back when it has so many pages of 16 KiB, and after each commit again while
/// a reader keeps it from starting over.
const WAL_PAGES_MAX: i64 = 128;
/// The journal's size then.
pub(super) const WAL_BYTES_MAX: u64 = 128 * 16 * 1024;
/// Operations in one commit: bounds how long the first one waits for the last.
const GROUP_MAX: usize = 256;
/// Octets in one commit, give or take one operation: bounds how far the journal, which cannot start
/// over within a commit, grows beyond its limit.
pub(super) const GROUP_BYTES_MAX: u64 = WAL_BYTES_MAX;
/// Groups that take nothing along after it has failed: a table that cannot be written costs mail one
/// commit more in so many.
const GROUPS_WITHOUT_LOAD: u32 = 256;
/// SQLite's own recursion is shallow; the default 2 MiB would only be reserved.
const STACK_BYTES: usize = 512 * 1024;

/// What can be written.
#[derive(Debug)]
pub(super) enum Operation {
    Insert(Box<(Encoded, Message)>),
    Settle {
        id: QueueId,
        /// `None`: no recipient is open, the message is forgotten.
        left: Option<Box<Encoded>>,
        reports: Vec<(Encoded, Message)>,
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
    ChangeMade(Vec<MadeChange>),
    /// Nothing but what goes along, and old trace rows go.
    Tidy,
    /// The journal goes back into the database.
    Fold,
}

impl Operation {
    /// What it adds to a transaction, about.
    fn bytes(&self) -> u64 {
        match self {
            Self::Insert(row) => inserted(&row.0, &row.1),
            Self::Settle { left, reports, .. } => {
                let left = left.as_ref().map_or(0, |row| row.bytes());
                let reports = reports.iter().map(|(row, message)| inserted(row, message));
                left + reports.sum::<u64>()
            }
            Self::PutToken(token) => u64::try_from(token.record.len()).unwrap_or(u64::MAX),
            Self::ChangeMade(changes) => changes.iter().map(made::bytes).sum(),
            Self::Alter { .. }
            | Self::Delete(_)
            | Self::DeleteToken(_)
            | Self::Tidy
            | Self::Fold => 0,
        }
    }
}

fn inserted(row: &Encoded, message: &Message) -> u64 {
    match message.body {
        Body::Memory(_) => row.bytes() + message.size,
        Body::File(_) => row.bytes(),
    }
}

/// An operation and who waits for it.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) operation: Operation,
    pub(super) done: oneshot::Sender<Result<(), Error>>,
}

impl Job {
    fn is_tidy(&self) -> bool {
        matches!(self.operation, Operation::Tidy)
    }
}

/// Starts the writer thread; it ends when every sender is gone.
pub(super) fn spawn(
    connection: Connection,
    mut jobs: mpsc::Receiver<Job>,
    health: Arc<Health>,
    (space, along): (Space, Arc<Along>),
    metrics: Arc<Metrics>,
) -> io::Result<()> {
    let mut writer = Writer {
        connection,
        health,
        space,
        along,
        without_load: 0,
        metrics,
    };
    let run = move || {
        writer.note_spare();
        while let Some(group) = next_group(&mut jobs) {
            writer.process(group);
            writer.note_spare();
            if writer.checkpoint("NOOP") >= WAL_PAGES_MAX {
                writer.checkpoint("PASSIVE");
            }
        }
    };
    thread::Builder::new()
        .name("store-writer".into())
        .stack_size(STACK_BYTES)
        .spawn(run)
        .map(drop)
}

/// Waits for an operation, and takes along what waits behind it; `None`: every sender is gone.
fn next_group(jobs: &mut mpsc::Receiver<Job>) -> Option<Vec<Job>> {
    let mut group = vec![jobs.blocking_recv()?];
    let mut bytes = 0;
    while let Some(last) = group.last() {
        bytes += last.operation.bytes();
        if group.len() == GROUP_MAX || bytes >= GROUP_BYTES_MAX {
            break;
        }
        let Ok(next) = jobs.try_recv() else { break };
        group.push(next);
    }
    Some(group)
}

struct Writer {
    connection: Connection,
    health: Arc<Health>,
    space: Space,
    along: Arc<Along>,
    /// Groups that still take nothing along, because it failed.
    without_load: u32,
    metrics: Arc<Metrics>,
}

impl Writer {
    /// Commits a group, or as much of it as can be; everyone is answered.
    fn process(&mut self, group: Vec<Job>) {
        let load = self.load(&group);
        let mut result = self.commit(&group, load.as_ref());
        if let (Err(failure), Some(load)) = (&result, load)
            && failure.fault != Fault::Broken
        {
            // Whatever it was: mail does not wait for what goes along.
            tracing::warn!(event = "trace_lost", error = %failure.source, rows = load.rows());
            self.metrics.trace_events_lost.inc_by(load.rows());
            self.without_load = GROUPS_WITHOUT_LOAD;
            result = self.commit(&group, None);
        }
        if let Err(failure) = &result
            && self.cure(failure)
        {
            result = self.commit(&group, None);
        }
        match result {
            Ok(()) => self.committed(group),
            // One operation's own fault must not take down the others, and new mail that has to wait
            // for space must not keep an outcome from being recorded: each alone.
            Err(failure) if group.len() > 1 && failure.fault != Fault::Broken => {
                group.into_iter().for_each(|job| self.process(vec![job]));
            }
            Err(failure) => {
                for job in group {
                    answer(job, Err(failure.error()));
                }
            }
        }
    }

    /// What goes along with a group.
    fn load(&mut self, group: &[Job]) -> Option<Load> {
        let load = self.along.take();
        if self.without_load > 0 {
            self.without_load -= 1;
            self.metrics.trace_events_lost.inc_by(load.rows());
            return None;
        }
        let tidy = group.iter().any(Job::is_tidy);
        (tidy || !load.is_empty()).then_some(load)
    }

    fn committed(&self, group: Vec<Job>) {
        let size = u64::try_from(group.len()).unwrap_or(0);
        self.metrics.store_commits.inc();
        self.metrics.store_operations.inc_by(size);
        let is_fold = |job: &Job| matches!(job.operation, Operation::Fold);
        if group.iter().any(is_fold) {
            self.checkpoint("TRUNCATE");
        }
        for job in group {
            answer(job, Ok(()));
        }
    }

    /// Says how much new mail the table takes without growing.
    fn note_spare(&self) {
        let number = |pragma: &str| {
            let mut statement = self.connection.prepare_cached(pragma)?;
            statement
                .query_row([], |row| row.get::<_, i64>(0))
                .map(|number| u64::try_from(number).unwrap_or_default())
        };
        let pages = number("PRAGMA freelist_count");
        let spare = pages.and_then(|pages| Ok(pages.saturating_mul(number("PRAGMA page_size")?)));
        // Not to be had: then nothing is counted on, and the reserve is as it would be without.
        self.space.note_spare(spare.unwrap_or_default());
    }

    /// Copies the journal back (`NOOP`: only looks); how many pages it has. A failure for good ends the
    /// store.
    fn checkpoint(&self, mode: &str) -> i64 {
        if self.health.check().is_err() {
            return 0;
        }
        let pages = |row: &Row<'_>| row.get(1);
        let result = self
            .connection
            .prepare_cached(&format!("PRAGMA wal_checkpoint({mode})"))
            .and_then(|mut pragma| pragma.query_row([], pages));
        result.unwrap_or_else(|error| {
            let failure = self.judge(Failure::sqlite("copying the journal back", error));
            if failure.fault != Fault::Broken {
                // What is in the journal is safe there.
                tracing::warn!(event = "journal_kept", error = %failure.source);
            }
            0
        })
    }

    /// All or nothing, synced. Nothing is committed after a failure for good.
    fn commit(&mut self, group: &[Job], load: Option<&Load>) -> Result<(), Failure> {
        self.health.failure()?;
        self.transact(group, load)
            .map_err(|failure| self.judge(failure))
    }

    fn transact(&mut self, group: &[Job], load: Option<&Load>) -> Result<(), Failure> {
        let step = |operation| move |e| Failure::sqlite(operation, e);
        let transaction = self
            .connection
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .map_err(step("beginning a transaction"))?;
        for job in group {
            apply(&transaction, &job.operation).map_err(step("writing to the database"))?;
        }
        if let Some(load) = load {
            let tidy = group.iter().any(Job::is_tidy);
            load.write(&transaction, tidy).map_err(|error| Failure {
                // Never the store's end: what is wrong with the disk shows without it as well.
                fault: Fault::Refused,
                ..step("writing what goes along")(error)
            })?;
        }
        let started = Instant::now();
        transaction.commit().map_err(step("committing to disk"))?;
        let took = started.elapsed().as_secs_f64();
        self.metrics.store_commit_seconds.observe(took);
        Ok(())
    }

    /// What a failure was, in the end. One for good ends the store.
    fn judge(&self, mut failure: Failure) -> Failure {
        if failure.fault == Fault::Doubtful {
            failure.fault = self.space.probe();
        }
        if failure.fault == Fault::Broken {
            self.health.poison(&failure);
        }
        failure
    }

    /// Whether something was done that gives another try a chance.
    fn cure(&self, failure: &Failure) -> bool {
        match failure.fault {
            // Starting the journal over gives the space in it to what is written next.
            Fault::Full => {
                self.checkpoint("PASSIVE");
                true
            }
            // Rows say all that an index says. While one contradicts a damaged row, that row can be
            // neither quarantined nor deleted.
            Fault::Index => {
                tracing::error!(event = "index_rebuilt", error = %failure.source);
                self.connection
                    .execute_batch("REINDEX")
                    .map_err(|error| self.judge(Failure::sqlite("rebuilding an index", error)))
                    .is_ok()
            }
            Fault::Doubtful | Fault::Refused | Fault::Broken => false,
        }
    }
}

fn answer(job: Job, result: Result<(), Error>) {
    // Whoever asked may have gone; what was committed stays committed.
    drop(job.done.send(result));
}

fn apply(connection: &Connection, operation: &Operation) -> rusqlite::Result<()> {
    match operation {
        Operation::Insert(row) => insert(connection, &row.0, &row.1),
        Operation::Settle { id, left, reports } => {
            match left {
                Some(row) => update(connection, row)?,
                None => delete(connection, *id)?,
            }
            reports
                .iter()
                .try_for_each(|(row, message)| insert(connection, row, message))
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
        Operation::Tidy | Operation::Fold => Ok(()),
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
        Operation::ChangeMade(changes) => changes
            .iter()
            .try_for_each(|change| made::apply(connection, change)),
    }
}

fn insert(connection: &Connection, row: &Encoded, message: &Message) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO messages
             (id, account, state, next_attempt_at, reason, digest, in_file, entry, entry_digest,
              sender)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?
        .execute(params![
            row.entry.id.as_i64(),
            row.entry.account.as_str(),
            row.entry.state.as_i64(),
            row.entry.next_attempt_at.as_millisecond(),
            row.entry.reason,
            message.digest.0.as_slice(),
            matches!(message.body, Body::File(_)),
            row.json,
            row.digest.0.as_slice(),
            row.entry.turn(),
        ])?;
    if let Body::Memory(octets) = &message.body {
        connection
            .prepare_cached("INSERT INTO bodies (id, octets) VALUES (?1, ?2)")?
            .execute(params![row.entry.id.as_i64(), octets.as_ref()])?;
    }
    Ok(())
}

fn update(connection: &Connection, row: &Encoded) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE messages SET state = ?2, next_attempt_at = ?3, reason = ?4, entry = ?5,
             entry_digest = ?6 WHERE id = ?1",
        )?
        .execute(params![
            row.entry.id.as_i64(),
            row.entry.state.as_i64(),
            row.entry.next_attempt_at.as_millisecond(),
            row.entry.reason,
            row.json,
            row.digest.0.as_slice(),
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

#[cfg(test)]
mod tests {
    use rusqlite::OpenFlags;

    use super::*;
    use crate::store::{Config, Store, schema};

    const WAITING: usize = 300;

    fn token(len: usize) -> SealedToken {
        SealedToken {
            account: AccountName::new("alerts"),
            version: 1,
            record: vec![0x55; len],
            previous: None,
        }
    }

    fn job(len: usize) -> Job {
        Job {
            operation: Operation::PutToken(token(len)),
            done: oneshot::channel().0,
        }
    }

    #[test]
    fn a_group_is_bound_by_count_and_by_octets() {
        let half = usize::try_from(GROUP_BYTES_MAX / 2).unwrap();
        for (jobs, groups) in [
            (vec![0; 300], vec![256, 44]),
            (vec![half; 5], vec![2, 2, 1]),
            (vec![0, 3 * half, 0, 0], vec![2, 2]),
        ] {
            let (sender, mut waiting) = mpsc::channel(WAITING);
            for len in jobs {
                sender.try_send(job(len)).unwrap();
            }
            drop(sender);
            let taken = std::iter::from_fn(|| next_group(&mut waiting).map(|group| group.len()));
            assert_eq!(taken.collect::<Vec<_>>(), groups);
        }
    }

    #[tokio::test]
    async fn the_journal_starts_over() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = dir.path().to_owned();
        let store = Store::open(&Config { state_dir }, Arc::new(Metrics::new())).unwrap();
        for n in 0..160 {
            // SQLite does not write what has not changed.
            let mut token = token(64 * 1024);
            token.record.fill(n);
            store.put_token(token).await.unwrap();
        }
        let journal = dir.path().join("gatepost.sqlite3-wal");
        let len = std::fs::metadata(&journal).unwrap().len();
        assert!((WAL_BYTES_MAX..2 * WAL_BYTES_MAX).contains(&len), "{len}");
        store.fold().await.unwrap();
        assert_eq!(std::fs::metadata(&journal).unwrap().len(), 0);
    }

    /// The sync itself is failed by `tests/it/disk.rs`; here, what follows from it.
    #[test]
    fn a_journal_that_cannot_be_copied_back_is_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gatepost.sqlite3");
        let sound = schema::open(&path).unwrap();
        let mut writer = Writer {
            connection: Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)
                .unwrap(),
            health: Arc::default(),
            space: Space::new(dir.path()),
            along: Arc::default(),
            without_load: 0,
            metrics: Arc::new(Metrics::new()),
        };
        writer.checkpoint("PASSIVE");
        assert!(matches!(writer.health.check(), Err(Error::Broken { .. })));
        writer.connection = sound;
        let (done, mut answer) = oneshot::channel();
        let operation = Operation::PutToken(token(1));
        writer.process(vec![Job { operation, done }]);
        assert!(matches!(answer.try_recv(), Ok(Err(Error::Broken { .. }))));
    }
}
