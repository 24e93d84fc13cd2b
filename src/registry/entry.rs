//! The entries as values, and how they lie in the store. Pure.

use std::{collections::BTreeMap, fmt, sync::Arc};

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::{
    oauth::Seal,
    secret::Secret,
    store::{self, MadeChange, MadeRow},
};

/// A section's keys and values, as the file would have them; no secrets.
pub type Settings = Map<String, Value>;

/// What kind of thing an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Section {
    /// `[provider.NAME]`
    Provider,
    /// `[account.NAME]`
    Account,
    /// `[[client]]`: a device's login.
    Client,
    /// A bearer key of the API; the file has no such section.
    Key,
    /// A network that listeners let in beside those of their `allow`.
    Allow,
    /// An account that an operator has stopped; the file has no such section.
    Hold,
    /// The account that is `default_account` where the file names none; at most one.
    Default,
}

impl Section {
    /// Every one.
    pub const ALL: [Self; 7] = [
        Self::Provider,
        Self::Account,
        Self::Client,
        Self::Key,
        Self::Allow,
        Self::Hold,
        Self::Default,
    ];

    /// Its word, in the store, in the log and before the names of keys.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::Account => "account",
            Self::Client => "client",
            Self::Key => "key",
            Self::Allow => "allow",
            Self::Hold => "hold",
            Self::Default => "default",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|section| section.name() == name)
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why an entry cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Its row is not what was written.
    #[error("its row in the store is damaged; make it again")]
    Unreadable,
    /// Its secrets do not open.
    #[error(
        "its secret was sealed with another key or is damaged; restore the key that sealed it and reload, or enter the secret again"
    )]
    Locked,
}

/// One entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its keys and values, without secrets.
    pub settings: Settings,
    /// Its secrets by their dotted key: `client_secret`, `smtp.password`.
    pub secrets: BTreeMap<String, Secret>,
    /// When a person last changed it.
    pub changed_at: Timestamp,
    /// Why it cannot be used; `None`: it can.
    pub damage: Option<Damage>,
    /// As it lies in the store, for one that does not open: it is not written over.
    kept: Option<Arc<MadeRow>>,
}

/// What becomes of an entry.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// It stands there, in place of the one before it.
    Put {
        /// Where.
        section: Section,
        /// Its name there.
        name: String,
        /// Its keys and values, without secrets.
        settings: Settings,
        /// Its secrets by their dotted key.
        secrets: BTreeMap<String, Secret>,
    },
    /// It is gone.
    Remove {
        /// Where.
        section: Section,
        /// Its name there.
        name: String,
    },
}

impl Change {
    /// Which entry it is about.
    #[must_use]
    pub fn about(&self) -> (Section, &str) {
        match self {
            Self::Put { section, name, .. } | Self::Remove { section, name } => (*section, name),
        }
    }
}

/// Every entry, by section and name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Entries(BTreeMap<(Section, String), Entry>);

impl Entries {
    /// One entry.
    #[must_use]
    pub fn get(&self, section: Section, name: &str) -> Option<&Entry> {
        self.0.get(&(section, name.to_owned()))
    }

    pub(super) fn get_mut(&mut self, section: Section, name: &str) -> Option<&mut Entry> {
        self.0.get_mut(&(section, name.to_owned()))
    }

    /// Whether an entry is what it was in `other`. A key's use is no change of it.
    #[must_use]
    pub fn has_alike(&self, other: &Self, section: Section, name: &str) -> bool {
        match (self.get(section, name), other.get(section, name)) {
            (None, None) => true,
            (Some(one), Some(other)) => {
                one.changed_at == other.changed_at && (section == Section::Key || one == other)
            }
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The entries of a section, by name.
    pub fn of(&self, section: Section) -> impl Iterator<Item = (&str, &Entry)> {
        let entries = self.0.iter().filter(move |((of, _), _)| *of == section);
        entries.map(|((_, name), entry)| (name.as_str(), entry))
    }

    /// Every entry with its section and name.
    pub fn iter(&self) -> impl Iterator<Item = (Section, &str, &Entry)> {
        let entries = self.0.iter();
        entries.map(|((section, name), entry)| (*section, name.as_str(), entry))
    }

    /// Whether nothing was ever made.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those that cannot be used.
    pub(super) fn damaged(&self) -> impl Iterator<Item = (Section, &str, Damage)> {
        let entries = self.iter();
        entries.filter_map(|(section, name, entry)| Some((section, name, entry.damage?)))
    }

    /// The entries after these changes.
    #[must_use]
    pub fn with(&self, changes: &[Change], now: Timestamp) -> Self {
        let mut after = self.clone();
        // As the store has it.
        let now = Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now);
        for change in changes {
            let (section, name) = change.about();
            let place = (section, name.to_owned());
            match change {
                Change::Put {
                    settings, secrets, ..
                } => {
                    let entry = Entry {
                        settings: settings.clone(),
                        secrets: secrets.clone(),
                        changed_at: now,
                        damage: None,
                        kept: None,
                    };
                    after.0.insert(place, entry);
                }
                Change::Remove { .. } => {
                    after.0.remove(&place);
                }
            }
        }
        after
    }

    /// Takes what the store holds. A row of a section that this version does not know is left there
    /// and not looked at.
    pub(super) fn read(rows: Vec<MadeRow>, seal: &Seal) -> Self {
        let entries = rows.into_iter().filter_map(|row| {
            let section = Section::parse(&row.section)?;
            let name = row.name.clone();
            Some(((section, name), Entry::read(row, seal)))
        });
        Self(entries.collect())
    }

    /// The entries with another try at those that were locked.
    pub(super) fn reopened(&self, seal: &Seal) -> Self {
        let mut after = self.clone();
        for entry in after.0.values_mut() {
            if let Some(kept) = entry.kept.clone() {
                *entry = Entry::read((*kept).clone(), seal);
            }
        }
        after
    }

    /// What to write so that the store goes from `before` to this.
    ///
    /// # Errors
    /// [`store::Error::Refused`]: the system gives no randomness.
    pub(super) fn rows_beside(
        &self,
        before: &Self,
        seal: &Seal,
    ) -> Result<Vec<MadeChange>, store::Error> {
        let gone = before.0.keys().filter(|place| !self.0.contains_key(place));
        let mut rows: Vec<MadeChange> = gone
            .map(|(section, name)| MadeChange::Remove {
                section: section.name().to_owned(),
                name: name.clone(),
            })
            .collect();
        for (place, entry) in &self.0 {
            if before.0.get(place) != Some(entry) {
                rows.push(MadeChange::Put(entry.row(place, seal)?));
            }
        }
        Ok(rows)
    }

    /// The rows of all that has secrets.
    ///
    /// # Errors
    /// [`store::Error::Refused`]: the system gives no randomness.
    pub(super) fn sealed_rows(&self, seal: &Seal) -> Result<Vec<MadeChange>, store::Error> {
        let sealed = self.0.iter().filter(|(_, entry)| !entry.secrets.is_empty());
        let rows = sealed.map(|(place, entry)| entry.row(place, seal).map(MadeChange::Put));
        rows.collect()
    }
}

impl Entry {
    fn read(row: MadeRow, seal: &Seal) -> Self {
        let settings = serde_json::from_str(&row.settings).ok();
        let secrets = match &row.sealed {
            None => Some(BTreeMap::new()),
            Some(sealed) => seal.open(sealed, &bound(&row.section, &row.name, &row.settings)),
        };
        let damage = match (&settings, &secrets) {
            (None, _) => Some(Damage::Unreadable),
            (Some(_), None) => Some(Damage::Locked),
            (Some(_), Some(_)) => None,
        };
        Self {
            settings: settings.unwrap_or_default(),
            secrets: secrets.unwrap_or_default(),
            changed_at: row.changed_at,
            damage,
            kept: damage.map(|_| Arc::new(row)),
        }
    }

    fn row(&self, place: &(Section, String), seal: &Seal) -> Result<MadeRow, store::Error> {
        if let Some(kept) = &self.kept {
            return Ok((**kept).clone());
        }
        let (section, name) = (place.0.name(), &place.1);
        let settings = Value::Object(self.settings.clone()).to_string();
        let sealed = match self.secrets.is_empty() {
            true => None,
            false => {
                let bound = bound(section, name, &settings);
                let sealed = seal.seal(&self.secrets, &bound);
                Some(sealed.ok_or_else(no_randomness)?)
            }
        };
        Ok(MadeRow {
            section: section.to_owned(),
            name: name.clone(),
            settings,
            sealed,
            changed_at: self.changed_at,
        })
    }
}

/// What a row's secrets are good with: this row as it stands. Who could write to the store but lacks
/// the key cannot make a client secret go to another token URL.
fn bound(section: &str, name: &str, settings: &str) -> String {
    format!("{section}\0{name}\0{settings}")
}

fn no_randomness() -> store::Error {
    store::Error::Refused {
        operation: "sealing a secret",
        source: Arc::new(std::io::Error::other("the system gives no randomness")),
    }
}
