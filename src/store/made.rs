//! Rows of what was made in the console: the store sees their settings as text and their secrets
//! sealed.

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::{Error, Operation, Store};

/// One entry as it lies in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeRow {
    /// `provider`, `account` ..
    pub section: String,
    /// Its name in that section.
    pub name: String,
    /// Its settings, a JSON object.
    pub settings: String,
    /// Its secrets; none: it has none.
    pub sealed: Option<Vec<u8>>,
    /// When a person last changed it.
    pub changed_at: Timestamp,
}

/// What becomes of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MadeChange {
    /// It stands there, in place of the one before it.
    Put(MadeRow),
    /// It is gone.
    Remove {
        /// Its section.
        section: String,
        /// Its name.
        name: String,
    },
}

impl Store {
    /// Every row.
    ///
    /// # Errors
    /// As [`Store::due`].
    pub async fn made(&self) -> Result<Vec<MadeRow>, Error> {
        self.read("reading what was made in the console", |connection| {
            connection
                .prepare_cached("SELECT section, name, settings, sealed, changed_at FROM made")?
                .query_map([], |row| {
                    // A damaged one is found out by who reads its settings; the others are not.
                    let at = row.get(4).unwrap_or_default();
                    Ok(MadeRow {
                        section: row.get(0).unwrap_or_default(),
                        name: row.get(1).unwrap_or_default(),
                        settings: row.get(2).unwrap_or_default(),
                        sealed: row.get(3).unwrap_or_default(),
                        changed_at: Timestamp::from_millisecond(at).unwrap_or_default(),
                    })
                })?
                .collect()
        })
        .await
    }

    /// Makes these changes, all or none. `Ok`: durable.
    ///
    /// # Errors
    /// As [`Store::insert`].
    pub async fn change_made(&self, changes: Vec<MadeChange>) -> Result<(), Error> {
        self.write(Operation::ChangeMade(changes)).await
    }
}

/// Writes one change inside the writer's transaction.
pub(super) fn apply(connection: &Connection, change: &MadeChange) -> rusqlite::Result<()> {
    match change {
        MadeChange::Put(row) => connection
            .prepare_cached(
                "INSERT INTO made (section, name, settings, sealed, changed_at)
                 VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (section, name)
                 DO UPDATE SET settings = ?3, sealed = ?4, changed_at = ?5",
            )?
            .execute(params![
                row.section,
                row.name,
                row.settings,
                row.sealed,
                row.changed_at.as_millisecond(),
            ]),
        MadeChange::Remove { section, name } => connection
            .prepare_cached("DELETE FROM made WHERE section = ?1 AND name = ?2")?
            .execute([section, name]),
    }
    .map(drop)
}

/// What a change adds to a transaction, about.
pub(super) fn bytes(change: &MadeChange) -> u64 {
    match change {
        MadeChange::Put(row) => {
            let sealed = row.sealed.as_ref().map_or(0, Vec::len);
            u64::try_from(row.settings.len() + sealed).unwrap_or(u64::MAX)
        }
        MadeChange::Remove { .. } => 0,
    }
}
