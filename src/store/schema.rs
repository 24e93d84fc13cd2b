//! The database's shape and its history: one list of steps, applied once each.

use std::{
    fs::{File, Permissions},
    io::{self, ErrorKind},
    os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use rusqlite::{Connection, config::DbConfig};

use super::{Error, failure::Failure, writer::WAL_BYTES_MAX};

/// Where the file's header keeps `user_version`, big-endian.
const VERSION_OFFSET: u64 = 60;

/// Each step leads from its index to the next schema version (`user_version`). Never edit one that
/// was released; add the next.
const STEPS: &[&str] = &[
    "
    CREATE TABLE messages (
        id INTEGER PRIMARY KEY,
        account TEXT NOT NULL,
        state INTEGER NOT NULL,
        next_attempt_at INTEGER NOT NULL,
        reason TEXT,
        digest BLOB NOT NULL,
        in_file INTEGER NOT NULL,
        entry TEXT NOT NULL,
        entry_digest BLOB NOT NULL
    ) STRICT;
    CREATE INDEX messages_due ON messages (account, next_attempt_at) WHERE state = 0;
    CREATE TABLE bodies (id INTEGER PRIMARY KEY, octets BLOB NOT NULL) STRICT;
    CREATE TABLE tokens (
        account TEXT PRIMARY KEY,
        version INTEGER NOT NULL,
        record BLOB NOT NULL,
        previous BLOB
    ) STRICT, WITHOUT ROWID;
",
    "
    -- Whose turn a message is. What an older version has left counts as one sender's.
    ALTER TABLE messages ADD COLUMN sender TEXT NOT NULL DEFAULT '';
    CREATE INDEX messages_turn ON messages (account, sender, next_attempt_at) WHERE state = 0;
    CREATE TABLE usage (account TEXT PRIMARY KEY, slots TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE traces (
        seq INTEGER PRIMARY KEY,
        id INTEGER NOT NULL,
        at INTEGER NOT NULL,
        received INTEGER NOT NULL,
        total INTEGER NOT NULL,
        event TEXT NOT NULL
    ) STRICT;
    CREATE INDEX traces_id ON traces (id);
",
    "
    -- What was made in the console.
    CREATE TABLE made (
        section TEXT NOT NULL,
        name TEXT NOT NULL,
        settings TEXT NOT NULL,
        sealed BLOB,
        changed_at INTEGER NOT NULL,
        PRIMARY KEY (section, name)
    ) STRICT, WITHOUT ROWID;
",
];

fn known() -> i64 {
    i64::try_from(STEPS.len()).unwrap_or(i64::MAX)
}

/// Opens the database for the writer, brought to the newest schema.
///
/// # Errors
/// [`Error::Newer`] before a byte of database or journal is changed; else what the disk says.
pub(super) fn open(path: &Path) -> Result<Connection, Error> {
    let header =
        version_in_header(path).map_err(|e| Failure::io("looking at the database", e).error())?;
    refuse_newer(path, header)?;
    make_private(path).map_err(|e| Failure::io("protecting the database", e).error())?;
    let failed = |e| Failure::sqlite("opening the database", e).error();
    let mut connection = Connection::open(path).map_err(failed)?;
    // A close that copied the journal back would change a newer database, and after a failed sync
    // it would "succeed" and remove the journal that alone has the mail. The writer copies itself.
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .map_err(failed)?;
    // A newer version may stand in the journal alone: its last process was killed.
    let version = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(failed)?;
    refuse_newer(path, version)?;
    prepare(&mut connection, version).map_err(failed)?;
    Ok(connection)
}

/// Mail and sealed tokens are in it, and the folder may be one that everybody can look into. SQLite
/// gives what it puts beside it the same permissions.
fn make_private(path: &Path) -> io::Result<()> {
    let file = File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))
}

/// What the file says without its journal, read without SQLite, which would make files beside it.
fn version_in_header(path: &Path) -> io::Result<i64> {
    let mut version = [0; 4];
    match File::open(path).and_then(|file| file.read_exact_at(&mut version, VERSION_OFFSET)) {
        Ok(()) => Ok(i32::from_be_bytes(version).into()),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof) => Ok(0),
        Err(error) => Err(error),
    }
}

fn refuse_newer(path: &Path, found: i64) -> Result<(), Error> {
    if found <= known() {
        return Ok(());
    }
    Err(Error::Newer {
        path: path.to_owned(),
        found,
        known: known(),
    })
}

fn prepare(connection: &mut Connection, version: i64) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(32);
    connection.pragma_update(None, "page_size", 16_384)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // 2 MiB: the right edges of the trees, where mail comes and goes.
    connection.pragma_update(None, "cache_size", -2_048)?;
    // SQLite's own checkpoint swallows a failed sync; see the writer.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    // A journal that a long listing let grow shrinks when it starts over.
    connection.pragma_update(
        None,
        "journal_size_limit",
        (2 * WAL_BYTES_MAX).cast_signed(),
    )?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    let transaction = connection.transaction()?;
    let done = usize::try_from(version).unwrap_or(0);
    for step in STEPS.iter().skip(done) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", known())?;
    transaction.commit()
}

/// Bounds what the reading side keeps in memory.
pub(super) fn tune_reader(connection: &Connection) -> Result<(), Error> {
    connection
        .pragma_update(None, "cache_size", -512)
        .and_then(|()| connection.busy_timeout(std::time::Duration::from_secs(5)))
        .map_err(|e| Failure::sqlite("opening the database for reading", e).error())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program of the future opened the database, and ended in order or was killed.
    fn newer(path: &Path, killed: bool) {
        drop(open(path).unwrap());
        let connection = Connection::open(path).unwrap();
        connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, killed)
            .unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
    }

    /// Whoever may look into the folder.
    #[test]
    fn the_database_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gatepost.sqlite3");
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        let connection = open(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(&dir.path().join("gatepost.sqlite3-wal")), 0o600);
        drop(connection);
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        drop(open(&path).unwrap());
        assert_eq!(mode(&path), 0o600, "an older version's");
    }

    #[test]
    fn a_newer_version_is_refused_untouched_also_when_only_the_journal_knows_it() {
        for killed in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("gatepost.sqlite3");
            newer(&path, killed);
            assert_eq!(version_in_header(&path).unwrap() == 99, !killed);
            let wal = dir.path().join("gatepost.sqlite3-wal");
            let files = || (std::fs::read(&path).unwrap(), std::fs::read(&wal).ok());
            let before = files();
            assert!(matches!(open(&path), Err(Error::Newer { found: 99, .. })));
            assert!(before == files(), "killed: {killed}");
        }
    }

    /// A store that the first version left is taken over with its mail.
    #[test]
    fn every_older_version_is_led_up_to_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        for version in 0..STEPS.len() {
            let path = dir.path().join(format!("{version}.sqlite3"));
            let connection = Connection::open(&path).unwrap();
            for step in STEPS.iter().take(version) {
                connection.execute_batch(step).unwrap();
            }
            connection
                .pragma_update(None, "user_version", i64::try_from(version).unwrap())
                .unwrap();
            if version > 0 {
                let row = "INSERT INTO messages
                     (id, account, state, next_attempt_at, reason, digest, in_file, entry, entry_digest)
                     VALUES (1, 'a', 0, 0, NULL, x'', 0, '{}', x'')";
                connection.execute_batch(row).unwrap();
            }
            drop(connection);
            let connection = open(&path).unwrap();
            let now = connection.pragma_query_value(None, "user_version", |row| row.get(0));
            assert_eq!(now, Ok(known()));
            let left = "SELECT COUNT(*) FROM messages WHERE sender = ''";
            let left: i64 = connection.query_row(left, [], |row| row.get(0)).unwrap();
            assert_eq!(left, i64::from(version > 0));
        }
    }

    #[test]
    fn an_empty_file_is_a_first_start_that_crashed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gatepost.sqlite3");
        std::fs::write(&path, []).unwrap();
        open(&path).unwrap();
    }
}
