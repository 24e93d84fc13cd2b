//! What goes along with the next commit and is never the reason for one: trace rows, and how much
//! each account has sent.
//!
//! It is handed over without waiting and costs no sync of its own. It can never fail or delay mail:
//! a commit that fails with it is made again without, and what there is no room for is dropped and
//! counted. What a crash takes is what the last commit had not taken along.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use crate::mail::{AccountName, QueueId};

/// Rows that may wait for a commit; a busy daemon commits hundreds of times a second.
const ROWS_MAX: usize = 4096;
/// Octets of theirs: bounds what they add to a commit and so to the journal.
const BYTES_MAX: u64 = 1024 * 1024;
/// What a row costs beside its event.
const ROW_BYTES: u64 = 64;
/// Rows given up with a commit beyond twice those it adds: an overfull trace shrinks in steps that
/// nobody waits for.
const PRUNED_MIN: i64 = 16;
/// Rows given up when nothing else is to be done.
const PRUNED_MAX: i64 = 1000;

/// A fact about a message. What it says is the queue's business.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceRow {
    /// The message.
    pub id: QueueId,
    /// When.
    pub at: Timestamp,
    /// Whether it is the fact that the message was received: the one that searches look at.
    pub received: bool,
    /// What happened, as JSON.
    pub event: String,
}

impl TraceRow {
    fn bytes(&self) -> u64 {
        u64::try_from(self.event.len())
            .unwrap_or(u64::MAX)
            .saturating_add(ROW_BYTES)
    }
}

/// How much of the trace is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceLimits {
    /// Octets; beyond, the oldest go first.
    pub bytes_max: u64,
    /// Older rows go.
    pub since: Timestamp,
}

/// Recipients an account has sent to: the start of each span of time, in seconds since the Unix
/// epoch, with their number, oldest first.
pub type Slots = Vec<(i64, u32)>;

/// What waits for the next commit. Shared with the writer.
#[derive(Debug)]
pub(super) struct Along(Mutex<Waiting>);

#[derive(Debug)]
struct Waiting {
    rows: Vec<TraceRow>,
    bytes: u64,
    usage: BTreeMap<AccountName, Slots>,
    limits: TraceLimits,
}

/// What one commit takes along.
#[derive(Debug)]
pub(super) struct Load {
    rows: Vec<TraceRow>,
    usage: BTreeMap<AccountName, Slots>,
    limits: TraceLimits,
}

impl Default for Along {
    fn default() -> Self {
        Self(Mutex::new(Waiting {
            rows: Vec::new(),
            bytes: 0,
            usage: BTreeMap::new(),
            limits: TraceLimits {
                bytes_max: u64::MAX,
                since: Timestamp::MIN,
            },
        }))
    }
}

impl Along {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a row; false: there is no room, it is lost.
    pub(super) fn trace(&self, row: TraceRow) -> bool {
        let mut waiting = self.lock();
        let bytes = waiting.bytes.saturating_add(row.bytes());
        let fits = waiting.rows.len() < ROWS_MAX && bytes <= BYTES_MAX;
        if fits {
            waiting.bytes = bytes;
            waiting.rows.push(row);
        }
        fits
    }

    /// What an account has sent; the newest word counts.
    pub(super) fn usage(&self, account: AccountName, slots: Slots) {
        self.lock().usage.insert(account, slots);
    }

    pub(super) fn limit(&self, limits: TraceLimits) {
        self.lock().limits = limits;
    }

    /// Everything that waits.
    pub(super) fn take(&self) -> Load {
        let mut waiting = self.lock();
        waiting.bytes = 0;
        Load {
            rows: std::mem::take(&mut waiting.rows),
            usage: std::mem::take(&mut waiting.usage),
            limits: waiting.limits,
        }
    }
}

impl Load {
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.usage.is_empty()
    }

    /// Rows that are lost without it.
    pub(super) fn rows(&self) -> u64 {
        u64::try_from(self.rows.len()).unwrap_or(u64::MAX)
    }

    /// Writes it into the transaction under way. `tidy`: nothing else is to be done, so that more
    /// old rows can go.
    pub(super) fn write(&self, connection: &Connection, tidy: bool) -> rusqlite::Result<()> {
        for (account, slots) in &self.usage {
            let slots = serde_json::to_string(slots).unwrap_or_default();
            connection
                .prepare_cached(
                    "INSERT INTO usage (account, slots) VALUES (?1, ?2)
                     ON CONFLICT (account) DO UPDATE SET slots = ?2",
                )?
                .execute(params![account.as_str(), slots])?;
        }
        if self.rows.is_empty() && !tidy {
            return Ok(());
        }
        let mut total = newest_total(connection)?;
        for row in &self.rows {
            total = total.saturating_add(row.bytes().try_into().unwrap_or(i64::MAX));
            connection
                .prepare_cached(
                    "INSERT INTO traces (id, at, received, total, event)
                     VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute(params![
                    row.id.as_i64(),
                    row.at.as_millisecond(),
                    row.received,
                    total,
                    row.event
                ])?;
        }
        let added = i64::try_from(self.rows.len()).unwrap_or(i64::MAX);
        let most = match tidy {
            true => PRUNED_MAX,
            false => added.saturating_mul(2) + PRUNED_MIN,
        };
        prune(connection, self.limits, most)
    }
}

/// `total` of a row is what all rows up to it have cost since the first: the difference between the
/// newest and the oldest is the size of the trace, found without reading it.
fn newest_total(connection: &Connection) -> rusqlite::Result<i64> {
    connection
        .prepare_cached("SELECT total FROM traces ORDER BY seq DESC LIMIT 1")?
        .query_row([], |row| row.get(0))
        .optional()
        .map(Option::unwrap_or_default)
}

/// Gives up the oldest rows beyond the limits, at most so many.
fn prune(connection: &Connection, limits: TraceLimits, most: i64) -> rusqlite::Result<()> {
    let bytes_max = i64::try_from(limits.bytes_max).unwrap_or(i64::MAX);
    let least = newest_total(connection)?.saturating_sub(bytes_max);
    let since = limits.since.as_millisecond();
    let last: Option<i64> = connection
        .prepare_cached(
            "SELECT MAX(seq) FROM (SELECT seq, at, total FROM traces ORDER BY seq LIMIT ?1)
             WHERE at < ?2 OR total <= ?3",
        )?
        .query_row(params![most, since, least], |row| row.get(0))?;
    let Some(last) = last else { return Ok(()) };
    connection
        .prepare_cached("DELETE FROM traces WHERE seq <= ?1")?
        .execute([last])
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::schema;

    fn row(id: i64, second: i64, len: usize) -> TraceRow {
        TraceRow {
            id: QueueId::from_i64(id),
            at: Timestamp::from_second(second).unwrap(),
            received: true,
            event: "x".repeat(len),
        }
    }

    fn kept(connection: &Connection) -> Vec<i64> {
        let mut statement = connection
            .prepare("SELECT id FROM traces ORDER BY seq")
            .unwrap();
        let ids = statement.query_map([], |row| row.get(0)).unwrap();
        ids.map(Result::unwrap).collect()
    }

    fn add(along: &Along, connection: &Connection, row: TraceRow) {
        assert!(along.trace(row));
        along.take().write(connection, false).unwrap();
    }

    #[test]
    fn the_trace_keeps_its_size_and_its_age() {
        let dir = tempfile::tempdir().unwrap();
        let connection = schema::open(&dir.path().join("db")).unwrap();
        let along = Along::default();
        along.limit(TraceLimits {
            bytes_max: 10 * (100 + ROW_BYTES),
            since: Timestamp::MIN,
        });
        for n in 0..50 {
            add(&along, &connection, row(n, n, 100));
        }
        assert_eq!(kept(&connection), (40..50).collect::<Vec<_>>());
        // One that is as large as all leaves none of the others.
        add(&along, &connection, row(50, 50, 1600));
        assert_eq!(kept(&connection), [50]);
        for n in 51..60 {
            add(&along, &connection, row(n, n, 10));
        }
        along.limit(TraceLimits {
            bytes_max: u64::MAX,
            since: Timestamp::from_second(55).unwrap(),
        });
        along.take().write(&connection, true).unwrap();
        assert_eq!(kept(&connection), (55..60).collect::<Vec<_>>());
    }

    #[test]
    fn what_waits_is_bounded() {
        let along = Along::default();
        let large = usize::try_from(BYTES_MAX / 2).unwrap();
        assert!(along.trace(row(1, 1, large)));
        assert!(!along.trace(row(1, 1, large)), "two are too much");
        assert!(along.trace(row(1, 1, 1)));
        assert_eq!(along.take().rows(), 2);
        let taken = (0..).take_while(|n| along.trace(row(*n, 1, 1))).count();
        assert_eq!(taken, ROWS_MAX);
    }

    #[test]
    fn of_what_an_account_has_sent_the_last_word_counts() {
        let dir = tempfile::tempdir().unwrap();
        let connection = schema::open(&dir.path().join("db")).unwrap();
        let along = Along::default();
        for count in 1..=3 {
            along.usage(AccountName::new("alerts"), vec![(1800, count)]);
        }
        along.take().write(&connection, false).unwrap();
        let slots: String = connection
            .query_row("SELECT slots FROM usage", [], |row| row.get(0))
            .unwrap();
        assert_eq!(slots, "[[1800,3]]");
    }
}
