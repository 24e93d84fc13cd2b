//! The database's shape and its history: one list of steps, applied once each.

use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{Error, failure::Failure, writer::WAL_PAGES_MAX};

/// Each step leads from its index to the next schema version (`user_version`). Never edit one that
/// was released; add the next.
const STEPS: &[&str] = &["
    CREATE TABLE messages (
        id INTEGER PRIMARY KEY,
        account TEXT NOT NULL,
        state INTEGER NOT NULL,
        next_attempt_at INTEGER NOT NULL,
        sender TEXT NOT NULL,
        reason TEXT,
        digest BLOB NOT NULL,
        in_file INTEGER NOT NULL,
        entry TEXT NOT NULL
    ) STRICT;
    CREATE INDEX messages_due ON messages (account, next_attempt_at) WHERE state = 0;
    CREATE TABLE bodies (id INTEGER PRIMARY KEY, octets BLOB NOT NULL) STRICT;
    CREATE TABLE tokens (
        account TEXT PRIMARY KEY,
        version INTEGER NOT NULL,
        record BLOB NOT NULL,
        previous BLOB
    ) STRICT, WITHOUT ROWID;
"];

fn known() -> i64 {
    i64::try_from(STEPS.len()).unwrap_or(i64::MAX)
}

/// Looks at an existing database without writing a byte of it or beside it.
pub(super) fn refuse_newer(path: &Path) -> Result<(), Error> {
    if !path.exists() {
        return Ok(());
    }
    let found = (|| {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))
    })();
    let found = match found {
        // A crash left a journal that only a writer may play back: the writer looks then.
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::ReadOnly) => return Ok(()),
        found => found.map_err(|e| Failure::sqlite("looking at the database", e).error())?,
    };
    if found > known() {
        return Err(Error::Newer {
            path: path.to_owned(),
            found,
            known: known(),
        });
    }
    Ok(())
}

/// Opens the database for the writer, brought to the newest schema.
pub(super) fn open(path: &Path) -> Result<Connection, Error> {
    open_tuned(path).map_err(|e| Failure::sqlite("opening the database", e).error())
}

fn open_tuned(path: &Path) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open(path)?;
    connection.set_prepared_statement_cache_capacity(32);
    connection.pragma_update(None, "page_size", 16_384)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // 2 MiB: the right edges of the trees, where mail comes and goes.
    connection.pragma_update(None, "cache_size", -2_048)?;
    connection.pragma_update(None, "wal_autocheckpoint", WAL_PAGES_MAX)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    let transaction = connection.transaction()?;
    let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let done = usize::try_from(version).unwrap_or(0);
    for step in STEPS.iter().skip(done) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", known())?;
    transaction.commit()?;
    Ok(connection)
}

/// Bounds what the reading side keeps in memory.
pub(super) fn tune_reader(connection: &Connection) -> Result<(), Error> {
    connection
        .pragma_update(None, "cache_size", -512)
        .and_then(|()| connection.busy_timeout(std::time::Duration::from_secs(5)))
        .map_err(|e| Failure::sqlite("opening the database for reading", e).error())
}
