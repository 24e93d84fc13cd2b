//! What a failure of the disk means: one table, and the memory that a store has failed for good.
//!
//! After a failed sync the kernel forgets which pages it could not write, so a second sync that
//! "succeeds" proves nothing (fsyncgate). A store that saw one takes nothing more in this process.

use std::{io, sync::Arc};

use rusqlite::ffi;
use tokio::sync::SetOnce;

use super::Error;

/// Whom a failure concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// There is no space: rolled back, works again when there is.
    Full,
    /// A write failed and SQLite does not say why: full (quota) if a probe is refused for that
    /// reason, else as [`Fault::Broken`].
    Doubtful,
    /// This operation alone cannot be done, or not now; the store is sound.
    Refused,
    /// An index contradicts its table: works again when it is made anew.
    Index,
    /// The disk failed or the database is damaged.
    Broken,
}

/// A failure, ready to be told to every operation it concerns.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) fault: Fault,
    pub(super) operation: &'static str,
    pub(super) source: Arc<dyn std::error::Error + Send + Sync>,
}

impl Failure {
    pub(super) fn sqlite(operation: &'static str, error: rusqlite::Error) -> Self {
        Self {
            fault: of_sqlite(&error),
            operation,
            source: Arc::new(error),
        }
    }

    pub(super) fn io(operation: &'static str, error: io::Error) -> Self {
        Self {
            fault: of_io(&error),
            operation,
            source: Arc::new(error),
        }
    }

    pub(super) fn error(&self) -> Error {
        let source = Arc::clone(&self.source);
        let operation = self.operation;
        match self.fault {
            Fault::Full => Error::Full(source),
            Fault::Refused | Fault::Index => Error::Refused { operation, source },
            Fault::Doubtful | Fault::Broken => Error::Broken { operation, source },
        }
    }
}

/// The table for SQLite's result codes.
fn of_sqlite(error: &rusqlite::Error) -> Fault {
    let Some(error) = error.sqlite_error() else {
        // The rest are conversions between Rust and SQL: the operation's own fault.
        return Fault::Refused;
    };
    match error.extended_code {
        // A write or the growth of the shared index failed with something else than ENOSPC:
        // EDQUOT looks like this.
        ffi::SQLITE_IOERR_WRITE | ffi::SQLITE_IOERR_SHMSIZE | ffi::SQLITE_IOERR_TRUNCATE => {
            Fault::Doubtful
        }
        ffi::SQLITE_IOERR_NOMEM => Fault::Refused,
        ffi::SQLITE_CORRUPT_INDEX => Fault::Index,
        code => match code & 0xff {
            ffi::SQLITE_FULL => Fault::Full,
            // Another process (an operator's sqlite3) holds the write lock beyond our patience;
            // memory is short; or the row itself is impossible.
            ffi::SQLITE_BUSY
            | ffi::SQLITE_LOCKED
            | ffi::SQLITE_NOMEM
            | ffi::SQLITE_CONSTRAINT
            | ffi::SQLITE_TOOBIG
            | ffi::SQLITE_MISMATCH
            | ffi::SQLITE_RANGE => Fault::Refused,
            _ => Fault::Broken,
        },
    }
}

/// The table for the system's errors, met with body files.
pub(super) fn of_io(error: &io::Error) -> Fault {
    use rustix::io::Errno;
    let is = |errno: Errno| error.raw_os_error() == Some(errno.raw_os_error());
    if is(Errno::NOSPC) || is(Errno::DQUOT) {
        Fault::Full
    } else if is(Errno::MFILE) || is(Errno::NFILE) || is(Errno::NOMEM) || is(Errno::FBIG) {
        // Out of descriptors or memory for a moment; or the file is beyond a limit.
        Fault::Refused
    } else {
        Fault::Broken
    }
}

/// Whether the store has failed for good.
#[derive(Debug, Default)]
pub(super) struct Health(SetOnce<Failure>);

impl Health {
    /// Declares the store failed. The first failure stays the reason.
    pub(super) fn poison(&self, failure: &Failure) {
        let broken = Failure {
            fault: Fault::Broken,
            ..failure.clone()
        };
        if self.0.set(broken).is_ok() {
            tracing::error!(
                event = "store_failed",
                operation = failure.operation,
                error = %failure.source,
                "nothing more is accepted; the process must restart"
            );
        }
    }

    /// `Err` once the store has failed.
    pub(super) fn check(&self) -> Result<(), Error> {
        self.failure().map_err(|failure| failure.error())
    }

    /// As [`Health::check`], for the writer.
    pub(super) fn failure(&self) -> Result<(), Failure> {
        self.0.get().map_or(Ok(()), |failure| Err(failure.clone()))
    }

    /// Resolves when the store has failed. Cancel safe.
    pub(super) async fn failed(&self) -> Error {
        self.0.wait().await.error()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_space_can_cure_is_full() {
        let sqlite = |code| of_sqlite(&rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
        for (code, fault) in [
            (ffi::SQLITE_FULL, Fault::Full),
            (ffi::SQLITE_IOERR_WRITE, Fault::Doubtful),
            (ffi::SQLITE_IOERR_SHMSIZE, Fault::Doubtful),
            (ffi::SQLITE_IOERR_FSYNC, Fault::Broken),
            (ffi::SQLITE_IOERR_DIR_FSYNC, Fault::Broken),
            (ffi::SQLITE_IOERR_READ, Fault::Broken),
            (ffi::SQLITE_IOERR, Fault::Broken),
            (ffi::SQLITE_READONLY, Fault::Broken),
            (ffi::SQLITE_CORRUPT, Fault::Broken),
            (ffi::SQLITE_CORRUPT_INDEX, Fault::Index),
            (ffi::SQLITE_NOTADB, Fault::Broken),
            (ffi::SQLITE_CONSTRAINT_PRIMARYKEY, Fault::Refused),
            (ffi::SQLITE_BUSY, Fault::Refused),
            (ffi::SQLITE_BUSY_SNAPSHOT, Fault::Refused),
            (ffi::SQLITE_NOMEM, Fault::Refused),
        ] {
            assert_eq!(sqlite(code), fault, "{code}");
        }
        for (errno, fault) in [
            (rustix::io::Errno::NOSPC, Fault::Full),
            (rustix::io::Errno::DQUOT, Fault::Full),
            (rustix::io::Errno::IO, Fault::Broken),
            (rustix::io::Errno::ROFS, Fault::Broken),
            (rustix::io::Errno::MFILE, Fault::Refused),
            (rustix::io::Errno::FBIG, Fault::Refused),
        ] {
            assert_eq!(of_io(&io::Error::from(errno)), fault, "{errno}");
        }
    }

    #[tokio::test]
    async fn the_first_failure_stays_the_reason() {
        let health = Health::default();
        assert!(health.check().is_ok());
        for operation in ["first", "second"] {
            health.poison(&Failure::io(operation, io::Error::other("gone")));
        }
        let Error::Broken { operation, .. } = health.failed().await else {
            panic!("not broken");
        };
        assert_eq!(operation, "first");
    }
}
