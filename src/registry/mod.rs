//! What was made in the console: providers, accounts, client logins, API keys, allowed networks.
//!
//! An entry has the keys that its section has in the file; `config` lays all of them below the file
//! and judges both alike. It lies in the store as one row, its secrets sealed with the key that seals
//! tokens and bound to the rest of the row. Of passwords of clients and of API keys only hashes are
//! kept.
//!
//! Order of a change: durable first, then in force. A crash between the two is a change that has been
//! made: the next start has it.

mod entry;
mod key;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::{SignedDuration, Timestamp};

pub use self::{
    entry::{Change, Damage, Entries, Entry, Section, Settings},
    key::{NewKey, new_key},
};
use crate::{
    clock::Clock,
    oauth::Seal,
    store::{self, MadeChange, Store},
};

/// How old the stored time of a key's last use may become: a day-old hint is enough to see that a
/// key is not used any more, and no request waits for the disk.
const USE_STORED_EVERY: SignedDuration = SignedDuration::from_hours(1);

/// The entries, and the one way to change them. Clones share them.
#[derive(Debug, Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    clock: Arc<dyn Clock>,
    held: Mutex<Held>,
    /// Rows are written by one at a time, so that a change and a change of the key see each other.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Held {
    seal: Seal,
    entries: Arc<Entries>,
    /// When each key was last used, as far as this process has seen.
    used: BTreeMap<String, Timestamp>,
}

impl Registry {
    /// Reads every entry. One that is damaged or was sealed with another key is kept as it is
    /// ([`Entry::damage`]) and does not touch the others.
    ///
    /// # Errors
    /// The store's.
    pub async fn open(
        store: Store,
        seal: Seal,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, store::Error> {
        let entries = Entries::read(store.made().await?, &seal);
        for (section, name, damage) in entries.damaged() {
            tracing::error!(event = "made_entry_damaged", section = %section, name, %damage);
        }
        Ok(Self {
            inner: Arc::new(Inner {
                store,
                clock,
                held: Mutex::new(Held {
                    seal,
                    entries: Arc::new(entries),
                    used: BTreeMap::new(),
                }),
                writing: tokio::sync::Mutex::default(),
            }),
        })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.inner
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Every entry, as of now.
    #[must_use]
    pub fn entries(&self) -> Arc<Entries> {
        Arc::clone(&self.held().entries)
    }

    /// What the entries would be after these changes.
    #[must_use]
    pub fn preview(&self, changes: &[Change]) -> Entries {
        self.entries().with(changes, self.inner.clock.now())
    }

    /// Makes changes: all of them or none. `Ok`: durable, and what [`Registry::entries`] says.
    ///
    /// # Errors
    /// The store's; nothing has changed then.
    pub async fn change(&self, changes: &[Change]) -> Result<(), store::Error> {
        let _one_at_a_time = self.inner.writing.lock().await;
        self.write(&self.preview(changes)).await
    }

    /// Goes back to how the entries were: a change could not be put in force.
    ///
    /// # Errors
    /// The store's; the change then stands, and the next start has it.
    pub async fn restore(&self, before: &Entries) -> Result<(), store::Error> {
        let _one_at_a_time = self.inner.writing.lock().await;
        self.write(before).await
    }

    /// Brings rows and memory to `wanted`.
    async fn write(&self, wanted: &Entries) -> Result<(), store::Error> {
        let (seal, before) = {
            let held = self.held();
            (held.seal.clone(), Arc::clone(&held.entries))
        };
        let rows = wanted.rows_beside(&before, &seal)?;
        if !rows.is_empty() {
            self.inner.store.change_made(rows).await?;
        }
        let mut held = self.held();
        // Another key of the same name was never used.
        held.used
            .retain(|name, _| wanted.has_alike(&before, Section::Key, name));
        held.entries = Arc::new(wanted.clone());
        Ok(())
    }

    /// Seals every secret with another key; how many rows that were. For a change of the key, and for
    /// [`crate::oauth::Oauth::rotate_key`]. What opens with neither the old nor the new key stays as
    /// it is; what opens now is taken in.
    ///
    /// # Errors
    /// The store's; every row then opens with the key it had.
    pub async fn reseal(&self, seal: Seal) -> Result<usize, store::Error> {
        let _one_at_a_time = self.inner.writing.lock().await;
        let opened = self.entries().reopened(&seal);
        let rows: Vec<MadeChange> = opened.sealed_rows(&seal)?;
        let count = rows.len();
        if count > 0 {
            self.inner.store.change_made(rows).await?;
        }
        let mut held = self.held();
        held.entries = Arc::new(opened);
        held.seal = seal;
        Ok(count)
    }

    /// The key that rows are sealed with.
    #[must_use]
    pub fn seal(&self) -> Seal {
        self.held().seal.clone()
    }

    /// Whether this is the key that rows are sealed with.
    #[must_use]
    pub fn is_sealed_with(&self, seal: &Seal) -> bool {
        self.held().seal == *seal
    }

    /// The name of the API key that this is; its use is remembered. Takes as long for a wrong key as
    /// for a right one.
    #[must_use]
    pub fn key(&self, given: &str) -> Option<String> {
        let entries = self.entries();
        let name = key::find(&entries, given)?;
        let now = self.inner.clock.now();
        let mut held = self.held();
        // Removed at this very moment, or replaced by another of its name: it is good no more.
        if !held.entries.has_alike(&entries, Section::Key, &name) {
            return None;
        }
        held.used.insert(name.clone(), now);
        Some(name)
    }

    /// When a key was last used; `None`: never, as far as is known.
    #[must_use]
    pub fn key_used_at(&self, name: &str) -> Option<Timestamp> {
        let held = self.held();
        let seen = held.used.get(name).copied();
        seen.or_else(|| key::stored_use(held.entries.get(Section::Key, name)?))
    }

    /// Stores when keys were last used, where that is news worth a write. For whoever tends the
    /// process from time to time.
    ///
    /// # Errors
    /// The store's; the times stay in memory.
    pub async fn keep_uses(&self) -> Result<(), store::Error> {
        let _one_at_a_time = self.inner.writing.lock().await;
        let used = self.held().used.clone();
        let mut entries = (*self.entries()).clone();
        let mut is_news = false;
        for (name, at) in used {
            if let Some(entry) = entries.get_mut(Section::Key, &name) {
                is_news |= key::note_use(entry, at, USE_STORED_EVERY);
            }
        }
        if is_news {
            self.write(&entries).await?;
        }
        Ok(())
    }
}
