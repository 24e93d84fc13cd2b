//! Reading the trace: on a connection of its own, so that a search never stands in the way of mail,
//! and page by page, so that none holds the journal back for long.

use rusqlite::{Connection, OpenFlags, Row, params};

use jiff::Timestamp;

use super::{Error, Store, TraceRow, read::blocking};
use crate::mail::QueueId;

/// Rows looked at for one page: some tens of milliseconds.
const ROWS_MAX: i64 = 20_000;
/// As the store's other connections.
const BUSY_MAX: std::time::Duration = std::time::Duration::from_secs(5);

/// A place in the trace; a search goes backwards from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct TraceAt(i64);

/// Messages that were found, newest first, with all that is known of them.
#[derive(Debug)]
pub struct TracePage {
    /// Each with its rows, oldest first.
    pub found: Vec<(QueueId, Vec<TraceRow>)>,
    /// Where to go on; none: this was all.
    pub next: Option<TraceAt>,
}

impl Store {
    /// All that is known of one message, oldest first.
    ///
    /// # Errors
    /// As [`Store::due`].
    pub async fn trace_of(&self, id: QueueId) -> Result<Vec<TraceRow>, Error> {
        self.read_trace(move |connection| rows_of(connection, id))
            .await
    }

    /// Messages whose received row fits, newest first, at most `limit` on a page.
    ///
    /// # Errors
    /// As [`Store::due`].
    pub async fn search_trace<F>(
        &self,
        before: Option<TraceAt>,
        limit: usize,
        fits: F,
    ) -> Result<TracePage, Error>
    where
        F: Fn(&TraceRow) -> bool + Send + 'static,
    {
        self.read_trace(move |connection| search(connection, before, limit, fits))
            .await
    }

    async fn read_trace<T, F>(&self, query: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let database = self.inner.database.clone();
        let opened = move || {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(database, flags)?;
            connection.busy_timeout(BUSY_MAX)?;
            query(&connection)
        };
        blocking("reading the trace", opened).await
    }
}

fn search(
    connection: &Connection,
    before: Option<TraceAt>,
    limit: usize,
    fits: impl Fn(&TraceRow) -> bool,
) -> rusqlite::Result<TracePage> {
    let before = before.map_or(i64::MAX, |at| at.0);
    let mut statement = connection.prepare(
        "SELECT id, at, received, event, seq FROM traces WHERE seq < ?1 ORDER BY seq DESC LIMIT ?2",
    )?;
    let mut rows = statement.query(params![before, ROWS_MAX])?;
    let (mut ids, mut last, mut seen) = (Vec::new(), before, 0);
    while let Some(row) = rows.next()? {
        last = row.get(4)?;
        seen += 1;
        let Some(found) = read(row) else { continue };
        if found.received && fits(&found) {
            ids.push(found.id);
            if ids.len() >= limit {
                break;
            }
        }
    }
    drop(rows);
    let is_end = seen < ROWS_MAX && ids.len() < limit;
    let of = |id| Ok((id, rows_of(connection, id)?));
    Ok(TracePage {
        found: ids.into_iter().map(of).collect::<rusqlite::Result<_>>()?,
        next: (!is_end).then_some(TraceAt(last)),
    })
}

fn rows_of(connection: &Connection, id: QueueId) -> rusqlite::Result<Vec<TraceRow>> {
    let mut statement = connection
        .prepare_cached("SELECT id, at, received, event FROM traces WHERE id = ?1 ORDER BY seq")?;
    let rows = statement.query_map([id.as_i64()], |row| Ok(read(row)))?;
    rows.filter_map(Result::transpose).collect()
}

/// A row; `None`: it is damaged, and hides no others.
fn read(row: &Row<'_>) -> Option<TraceRow> {
    Some(TraceRow {
        id: QueueId::from_i64(row.get(0).ok()?),
        at: Timestamp::from_millisecond(row.get(1).ok()?).ok()?,
        received: row.get(2).ok()?,
        event: row.get(3).ok()?,
    })
}
