//! Bearer keys of the API. A key is 256 random bits, so a plain hash is enough to keep: there is
//! nothing to guess.

use std::fmt;

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest::{SHA256, digest},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{Entries, Entry, Section, Settings};

/// What keys begin with, so that they are found where they do not belong (secret scanners).
const PREFIX: &str = "gatepost_";
/// Random octets of a key.
const KEY_LEN: usize = 32;

const HASH: &str = "hash";
const USED: &str = "last_used_at";

/// A key that was just made: shown once, kept nowhere.
pub struct NewKey {
    /// The key itself.
    pub key: String,
    /// What is kept of it.
    pub settings: Settings,
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NewKey(..)")
    }
}

/// Makes a key. `None`: the system gives no randomness.
#[must_use]
pub fn new_key() -> Option<NewKey> {
    let mut octets = zeroize::Zeroizing::new([0; KEY_LEN]);
    getrandom::fill(octets.as_mut()).ok()?;
    let key = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(*octets));
    let hash = URL_SAFE_NO_PAD.encode(hash(&key));
    let settings = Settings::from_iter([(HASH.to_owned(), Value::from(hash))]);
    Some(NewKey { key, settings })
}

fn hash(key: &str) -> impl AsRef<[u8]> {
    digest(&SHA256, key.as_bytes())
}

/// The name of the key that this is. Every key is compared, whichever it is.
pub(super) fn find(entries: &Entries, given: &str) -> Option<String> {
    let given = hash(given);
    let mut found = None;
    for (name, entry) in entries.of(Section::Key) {
        let stored = entry.settings.get(HASH).and_then(Value::as_str);
        let stored = URL_SAFE_NO_PAD.decode(stored.unwrap_or_default());
        let stored = stored.unwrap_or_default();
        if verify_slices_are_equal(&stored, given.as_ref()).is_ok() {
            found = Some(name.to_owned());
        }
    }
    found
}

/// When the key was last used, as stored.
pub(super) fn stored_use(entry: &Entry) -> Option<Timestamp> {
    entry.settings.get(USED)?.as_str()?.parse().ok()
}

/// Notes a use if the stored one is older than `every`; whether it is.
pub(super) fn note_use(entry: &mut Entry, at: Timestamp, every: SignedDuration) -> bool {
    let is_news = stored_use(entry).is_none_or(|before| at.duration_since(before) >= every);
    if is_news {
        let at = Value::from(at.to_string());
        entry.settings.insert(USED.to_owned(), at);
    }
    is_news
}
