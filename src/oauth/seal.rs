//! Tokens at rest: XChaCha20-Poly1305 under one key, bound to account and version.
//!
//! A sealed record is `format (1) | version (8, big endian) | nonce (24) | ciphertext and tag`; the
//! seal also covers the account's name and the version, so that a record cannot be moved to another
//! account nor an old one passed off as the current one.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use base64::{Engine as _, engine::general_purpose};
use chacha20poly1305::{
    KeyInit as _, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, Payload},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer};
use zeroize::Zeroizing;

use super::{Error, Key, Service, identity::Subject};
use crate::{mail::AccountName, secret::Secret, store::SealedToken};

/// The form described above.
const FORMAT: u8 = 1;
const KEY_LEN: usize = 32;
const NONCE_LEN: usize = 24;
const HEADER_LEN: usize = 1 + 8;

/// A key file holds 64 hexadecimal digits and a line end for each of a few keys; a longer one is
/// something else.
const KEY_FILE_MAX: u64 = 1024;

/// What is kept of an account. It exists in the clear in memory alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// None: nobody signed in, an application has tokens of its own.
    #[serde(default, serialize_with = "exposed")]
    pub(super) refresh_token: Option<Secret>,
    /// Where the refresh token came from (the token endpoint, or the issuer that names it): it is
    /// shown to nobody else.
    pub(super) token_url: String,
    /// Whose tokens they are.
    pub(super) client_id: String,
    /// Who signed in, where the provider said: nobody else's tokens take the place of these.
    #[serde(default)]
    pub(super) subject: Option<Subject>,
    /// When a person consented.
    #[serde(default)]
    pub(super) consented_at: Option<Timestamp>,
    /// Where the provider puts an end to the consent itself.
    #[serde(default)]
    pub(super) consent_ends_at: Option<Timestamp>,
    /// The access tokens at hand.
    #[serde(default)]
    pub(super) access: BTreeMap<Service, Access>,
}

/// An access token with what is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Access {
    #[serde(serialize_with = "exposed_always")]
    pub(super) token: Secret,
    pub(super) obtained_at: Timestamp,
    pub(super) expires_at: Timestamp,
    /// As granted, if told.
    #[serde(default)]
    pub(super) scope: Option<String>,
    /// What it was asked for: it is used for nothing else.
    pub(super) asked_scope: String,
}

/// With the next, the one place where a secret is written out: into bytes about to be sealed.
fn exposed<S: Serializer>(secret: &Option<Secret>, serializer: S) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(Secret::expose).serialize(serializer)
}

fn exposed_always<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
    secret.expose().serialize(serializer)
}

/// Why a record cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unopened {
    #[error("the stored token was sealed with another key or is damaged")]
    Seal,
    #[error("the stored token was written by a newer gatepost or is damaged")]
    Format,
}

/// A record opened from what the store held.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) record: Record,
    /// Whether it is the generation before: the current one could not be opened.
    pub(super) previous: bool,
}

/// Seals and opens. Shows no octet of its keys. The first key seals; the others only open, while
/// records go over from one to the next.
#[derive(PartialEq, Eq)]
pub(super) struct Sealer(Vec<OneKey>);

type OneKey = Zeroizing<[u8; KEY_LEN]>;

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer(..)")
    }
}

impl Sealer {
    /// Takes the key from where the configuration says. Blocking.
    ///
    /// # Errors
    /// [`Error::Key`], with the remedy.
    pub(super) fn from_key(key: &Key) -> Result<Self, Error> {
        match key {
            Key::Given(secret) => parse_all(secret.expose())
                .map(Self)
                .ok_or_else(|| Error::Key {
                    path: "(given)".into(),
                    reason: "not 32 octets in hex or base64; make one with `openssl rand -hex 32`"
                        .to_owned(),
                }),
            Key::File(path) => {
                let keys = read_or_make(path).map_err(|reason| told(path, reason))?;
                Ok(Self(keys))
            }
        }
    }

    /// What records are sealed with from now on: for a key file a new key, put in front of those that
    /// are there, so that whatever happens next every record can be opened; for a given key the one
    /// that its owner has put in front. Blocking.
    ///
    /// # Errors
    /// [`Error::Key`]; the file is as it was.
    pub(super) fn staged(key: &Key) -> Result<Self, Error> {
        let Self(mut keys) = Self::from_key(key)?;
        if let Key::File(path) = key {
            keys.insert(0, random().map_err(|error| told(path, error.to_string()))?);
            write(path, &keys).map_err(|error| told(path, not_written(&error)))?;
        }
        Ok(Self(keys))
    }

    /// The first key alone.
    pub(super) fn first(&self) -> Self {
        Self(self.0.first().cloned().into_iter().collect())
    }

    /// Forgets the keys that nothing is sealed with any more. Blocking.
    ///
    /// # Errors
    /// [`Error::Key`]; the file is as it was.
    pub(super) fn settle(&self, key: &Key) -> Result<(), Error> {
        match key {
            Key::File(path) => {
                write(path, &self.0).map_err(|error| told(path, not_written(&error)))
            }
            Key::Given(_) => Ok(()),
        }
    }

    /// Whether every record of an account, the one before included, opens.
    pub(super) fn opens_all(&self, token: &SealedToken) -> bool {
        let before = token.previous.as_deref();
        let opens = |bytes: &[u8], expected: &dyn Fn(i64) -> bool| {
            self.open_one(&token.account, bytes, expected).is_ok()
        };
        opens(&token.record, &|version| version == token.version)
            && before.is_none_or(|bytes| opens(bytes, &|version| version < token.version))
    }

    /// Seals a record as this account's `version`. `None` when the system gives no randomness.
    pub(super) fn seal(
        &self,
        account: &AccountName,
        version: i64,
        record: &Record,
    ) -> Option<Vec<u8>> {
        let plain = Zeroizing::new(serde_json::to_vec(record).ok()?);
        let sealed = self.encrypt(&plain, &bound_to(account, version))?;
        let mut bytes = Vec::with_capacity(HEADER_LEN + sealed.len());
        bytes.push(FORMAT);
        bytes.extend_from_slice(&version.to_be_bytes());
        bytes.extend_from_slice(&sealed);
        Some(bytes)
    }

    /// Nonce, ciphertext and tag, under the first key; `bound` is covered as well. `None` when the
    /// system gives no randomness.
    pub(super) fn encrypt(&self, plain: &[u8], bound: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).ok()?;
        let payload = Payload {
            msg: plain,
            aad: bound,
        };
        let cipher = XChaCha20Poly1305::new((&**self.0.first()?).into());
        let sealed = cipher.encrypt(&XNonce::from(nonce), payload).ok()?;
        let mut bytes = Vec::with_capacity(NONCE_LEN + sealed.len());
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(&sealed);
        Some(bytes)
    }

    /// What [`Sealer::encrypt`] was given, by whichever key opens it.
    pub(super) fn decrypt(&self, bytes: &[u8], bound: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>()?;
        let plain = self.0.iter().find_map(|key| {
            let payload = Payload {
                msg: sealed,
                aad: bound,
            };
            let cipher = XChaCha20Poly1305::new((&**key).into());
            cipher.decrypt(&XNonce::from(*nonce), payload).ok()
        });
        plain.map(Zeroizing::new)
    }

    /// Opens what the store held: the current record, else the one before it.
    ///
    /// # Errors
    /// Why the current one could not be opened.
    pub(super) fn open(&self, token: &SealedToken) -> Result<Opened, Unopened> {
        let current = self.open_one(&token.account, &token.record, |v| v == token.version);
        let failed = match current {
            Ok(record) => {
                return Ok(Opened {
                    record,
                    previous: false,
                });
            }
            Err(failed) => failed,
        };
        let before = token.previous.as_deref().ok_or(failed)?;
        let record = self
            .open_one(&token.account, before, |v| v < token.version)
            .map_err(|_| failed)?;
        Ok(Opened {
            record,
            previous: true,
        })
    }

    fn open_one(
        &self,
        account: &AccountName,
        bytes: &[u8],
        expected: impl Fn(i64) -> bool,
    ) -> Result<Record, Unopened> {
        let (&format, rest) = bytes.split_first().ok_or(Unopened::Format)?;
        let (version, sealed) = rest.split_first_chunk::<8>().ok_or(Unopened::Format)?;
        let version = i64::from_be_bytes(*version);
        if format != FORMAT || sealed.len() < NONCE_LEN {
            return Err(Unopened::Format);
        }
        if !expected(version) {
            return Err(Unopened::Seal);
        }
        let plain = self.decrypt(sealed, &bound_to(account, version));
        let plain = plain.ok_or(Unopened::Seal)?;
        serde_json::from_slice(&plain).map_err(|_| Unopened::Format)
    }
}

/// What the seal covers besides the record.
fn bound_to(account: &AccountName, version: i64) -> Vec<u8> {
    let mut bound = b"gatepost token\0".to_vec();
    bound.extend_from_slice(&version.to_be_bytes());
    bound.extend_from_slice(account.as_str().as_bytes());
    bound
}

/// Keys apart by white space or commas: at least one.
fn parse_all(text: &str) -> Option<Vec<OneKey>> {
    let texts = text.split(|char: char| char.is_whitespace() || char == ',');
    let keys: Option<Vec<_>> = texts.filter(|text| !text.is_empty()).map(parse).collect();
    keys.filter(|keys| !keys.is_empty())
}

fn told(path: &Path, reason: String) -> Error {
    Error::Key {
        path: path.to_owned(),
        reason,
    }
}

fn not_written(error: &std::io::Error) -> String {
    format!("cannot be written: {error}; let the daemon's user write to its folder")
}

/// 32 octets from hex or any usual base64.
fn parse(text: &str) -> Option<Zeroizing<[u8; KEY_LEN]>> {
    let text = text.trim();
    let octets = Zeroizing::new(if text.len() == 2 * KEY_LEN {
        let pairs = text.as_bytes().chunks_exact(2);
        pairs
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
            .collect::<Option<Vec<u8>>>()?
    } else {
        let text = text.trim_end_matches('=');
        general_purpose::STANDARD_NO_PAD
            .decode(text)
            .or_else(|_| general_purpose::URL_SAFE_NO_PAD.decode(text))
            .ok()?
    });
    let mut key = Zeroizing::new([0; KEY_LEN]);
    if octets.len() != KEY_LEN {
        return None;
    }
    key.copy_from_slice(&octets);
    Some(key)
}

fn read_or_make(path: &Path) -> Result<Vec<OneKey>, String> {
    match std::fs::metadata(path) {
        Ok(metadata) => read(path, &metadata),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let made = random().and_then(|key| {
                let keys = vec![key];
                write(path, &keys).map(|()| keys)
            });
            made.map_err(|error| not_written(&error))
        }
        Err(error) => Err(format!("{error}; let the daemon's user read it")),
    }
}

fn read(path: &Path, metadata: &std::fs::Metadata) -> Result<Vec<OneKey>, String> {
    if !metadata.is_file() || metadata.len() > KEY_FILE_MAX {
        return Err("not a key file; name another file, one is made when missing".to_owned());
    }
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        let shown = path.display();
        return Err(format!(
            "others may read it (mode {mode:04o}); run: chmod 0600 {shown}"
        ));
    }
    // The owner of /proc/self is this process's user; where there is no /proc, the mode must do.
    let me = std::fs::metadata("/proc/self").ok().map(|own| own.uid());
    if me.is_some_and(|me| metadata.uid() != me && metadata.uid() != 0) {
        return Err("it belongs to another user; make it the daemon's own".to_owned());
    }
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(|e| e.to_string())?);
    parse_all(&text).ok_or_else(|| {
        "it does not hold 32 octets in hex or base64; restore it from a backup, or move it away \
         and sign in every account again"
            .to_owned()
    })
}

fn random() -> Result<OneKey, std::io::Error> {
    let mut key = Zeroizing::new([0; KEY_LEN]);
    getrandom::fill(key.as_mut()).map_err(std::io::Error::other)?;
    Ok(key)
}

/// Writes the file whole or not at all: beside its place first, synced, then moved.
fn write(path: &Path, keys: &[OneKey]) -> Result<(), std::io::Error> {
    let mut text = Zeroizing::new(String::with_capacity(keys.len() * (2 * KEY_LEN + 1)));
    for key in keys {
        for octet in key.iter() {
            text.push_str(&format!("{octet:02x}"));
        }
        text.push('\n');
    }
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let chance = getrandom::u32().map_err(std::io::Error::other)?;
    let beside = path.with_extension(format!("new-{chance:08x}"));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    std::fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn sealer(octet: u8) -> Sealer {
        Sealer(vec![Zeroizing::new([octet; KEY_LEN])])
    }

    fn record(token: &str) -> Record {
        Record {
            refresh_token: Some(Secret::new(token)),
            token_url: "https://login.example.com/token".to_owned(),
            client_id: "client".to_owned(),
            subject: None,
            consented_at: None,
            consent_ends_at: None,
            access: BTreeMap::from([(
                Service::Graph,
                Access {
                    token: Secret::new("canary-access"),
                    obtained_at: Timestamp::UNIX_EPOCH,
                    expires_at: Timestamp::UNIX_EPOCH,
                    scope: None,
                    asked_scope: String::new(),
                },
            )]),
        }
    }

    fn sealed(version: i64, token: &str) -> SealedToken {
        let account = AccountName::new("alerts");
        let bytes = sealer(1).seal(&account, version, &record(token)).unwrap();
        SealedToken {
            account,
            version,
            record: bytes,
            previous: None,
        }
    }

    #[test]
    fn a_record_comes_back_and_its_secrets_are_not_in_the_sealed_bytes() {
        let token = sealed(7, "canary-refresh");
        let found = token.record.windows(6).any(|window| window == b"canary");
        assert!(!found);
        let opened = sealer(1).open(&token).unwrap();
        assert_eq!(opened.record, record("canary-refresh"));
        assert!(!opened.previous);
    }

    #[test]
    fn no_other_key_account_or_version_opens_it() {
        let good = sealed(7, "token");
        assert_eq!(sealer(2).open(&good).unwrap_err(), Unopened::Seal);
        let moved = SealedToken {
            account: AccountName::new("other"),
            ..good.clone()
        };
        assert_eq!(sealer(1).open(&moved).unwrap_err(), Unopened::Seal);
        let rolled_back = SealedToken {
            version: 8,
            ..good.clone()
        };
        assert_eq!(sealer(1).open(&rolled_back).unwrap_err(), Unopened::Seal);
        for at in 0..good.record.len() {
            let mut damaged = good.clone();
            damaged.record[at] ^= 1;
            assert!(sealer(1).open(&damaged).is_err(), "octet {at}");
            damaged.record.truncate(at);
            assert!(sealer(1).open(&damaged).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn the_generation_before_serves_when_the_current_one_is_damaged() {
        let mut token = sealed(8, "new");
        token.previous = Some(sealed(7, "old").record);
        token.record[20] ^= 1;
        let opened = sealer(1).open(&token).unwrap();
        assert!(opened.previous);
        assert_eq!(opened.record, record("old"));
    }

    #[test]
    fn a_key_is_read_in_hex_and_base64() {
        let hex = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF\n";
        let base64 = "ABEiM0RVZneImaq7zN3u/wARIjNEVWZ3iJmqu8zd7v8=";
        assert_eq!(parse(hex), parse(base64));
        assert!(parse(hex).is_some());
        assert_eq!(
            parse(hex),
            parse(&base64.replace('/', "_").replace('=', ""))
        );
        for bad in ["", "00", "xyz", &"0".repeat(63)] {
            assert!(
                Sealer::from_key(&Key::Given(Secret::new(bad))).is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_missing_key_file_is_made_private_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token.key");
        let made = Sealer::from_key(&Key::File(path.clone())).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(Sealer::from_key(&Key::File(path)).unwrap(), made);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_key_file_that_others_can_read_or_that_is_damaged_is_refused_untouched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token.key");
        for (text, mode, said) in [
            ("00".repeat(32), 0o644, "chmod 0600"),
            ("short".into(), 0o600, "backup"),
        ] {
            std::fs::write(&path, &text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let refused = Sealer::from_key(&Key::File(path.clone()))
                .unwrap_err()
                .to_string();
            assert!(refused.contains(said), "{refused}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}
