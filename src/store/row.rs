//! An [`Entry`] as a row of `messages`, there and back.
//!
//! Encoded in the caller's task, so that the writer thread, which everyone waits for, only binds.
//! Reading fails on nothing that stands in a row: one that makes no sense (a flipped bit) becomes a
//! quarantined entry that says what is wrong, so that a bad row hides no good ones.

use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::Row;

use super::{Entry, EntryState, Error, body};
use crate::mail::{AccountName, BodyType, Digest, QueueId, ReversePath};

/// The columns that [`Located::read`] wants, in its order.
pub(super) const COLUMNS: &str =
    "id, account, state, next_attempt_at, reason, digest, in_file, entry, entry_digest";

/// An entry on its way into the store.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) entry: Entry,
    pub(super) json: String,
    /// Of the JSON: a flipped bit in an address must not send mail to somebody else.
    pub(super) digest: Digest,
}

impl Encoded {
    pub(super) fn new(entry: Entry) -> Result<Self, Error> {
        let json = serde_json::to_string(&entry).map_err(|e| Error::Refused {
            operation: "encoding an entry",
            source: Arc::new(e),
        })?;
        Ok(Self {
            digest: body::digest(json.as_bytes()),
            entry,
            json,
        })
    }

    pub(super) fn bytes(&self) -> u64 {
        u64::try_from(self.json.len()).unwrap_or(u64::MAX)
    }
}

/// An entry and where its octets are.
#[derive(Debug, Clone)]
pub struct Located {
    /// The entry.
    pub entry: Entry,
    pub(super) digest: Digest,
    pub(super) in_file: bool,
    /// What is wrong with the row. The entry is quarantined then, whatever the row says.
    pub(super) damage: Option<String>,
}

#[derive(Debug, thiserror::Error)]
enum Damage {
    #[error(transparent)]
    Column(#[from] rusqlite::Error),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Time(#[from] jiff::Error),
    #[error("it no longer matches its digest")]
    Mismatch,
    #[error("it says two things of its id or account")]
    Contradiction,
}

impl Located {
    /// Of the octets, when they were accepted.
    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    /// Reads [`COLUMNS`].
    ///
    /// # Errors
    /// Only without an id, which a row cannot be.
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let id = QueueId::from_i64(row.get(0)?);
        Ok(Self::decode(id, row).unwrap_or_else(|damage| Self::damaged(id, row, &damage)))
    }

    fn decode(id: QueueId, row: &Row<'_>) -> Result<Self, Damage> {
        let json: String = row.get(7)?;
        if body::digest(json.as_bytes()) != Digest(row.get(8)?) {
            return Err(Damage::Mismatch);
        }
        let mut entry: Entry = serde_json::from_str(&json)?;
        let account: String = row.get(1)?;
        if entry.id != id || entry.account.as_str() != account {
            return Err(Damage::Contradiction);
        }
        // An operator's change is written to the columns alone.
        entry.state = EntryState::from_i64(row.get(2)?);
        entry.next_attempt_at = Timestamp::from_millisecond(row.get(3)?)?;
        entry.reason = row.get(4)?;
        Ok(Self {
            entry,
            digest: Digest(row.get(5)?),
            in_file: row.get(6)?,
            damage: None,
        })
    }

    fn damaged(id: QueueId, row: &Row<'_>, damage: &Damage) -> Self {
        let reason = format!("its record in the store is damaged: {damage}");
        let account: String = row.get(1).unwrap_or_default();
        let entry = Entry {
            id,
            account: AccountName::new(&account),
            reverse_path: ReversePath::Null,
            recipients: Vec::new(),
            body: BodyType::default(),
            smtputf8: false,
            ret: None,
            envid: None,
            size: 0,
            received_at: Timestamp::UNIX_EPOCH,
            client: None,
            state: EntryState::Quarantined,
            next_attempt_at: Timestamp::UNIX_EPOCH,
            attempts: 0,
            uncertain: false,
            delay_warned: false,
            reason: Some(reason.clone()),
        };
        Self {
            entry,
            digest: Digest(row.get(5).unwrap_or_default()),
            in_file: row.get(6).unwrap_or_default(),
            damage: Some(reason),
        }
    }
}
