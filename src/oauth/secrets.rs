//! Secrets that others keep in the store beside the tokens (client secrets, passwords), under the key
//! that seals tokens.

use std::{collections::BTreeMap, sync::Arc};

use zeroize::Zeroizing;

use super::{Error, Key, seal::Sealer};
use crate::secret::Secret;

/// The form: one octet, then nonce, ciphertext and tag.
const FORMAT: u8 = 1;

/// Seals and opens secrets. Shows no octet of its keys; clones share them. Equal: the same keys in
/// the same order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal(Arc<Sealer>);

impl Seal {
    /// Takes the key from where the configuration says; a missing key file is made. Blocking.
    ///
    /// # Errors
    /// [`Error::Key`], with the remedy.
    pub fn from_key(key: &Key) -> Result<Self, Error> {
        Sealer::from_key(key).map(|sealer| Self(Arc::new(sealer)))
    }

    pub(super) fn of(sealer: &Arc<Sealer>) -> Self {
        Self(Arc::clone(sealer))
    }

    /// Seals named secrets. `bound` is what they may be used with: they open together with exactly
    /// that and nothing else, so that a row moved or altered in the store leads no secret elsewhere.
    /// `None`: the system gives no randomness.
    #[must_use]
    pub fn seal(&self, secrets: &BTreeMap<String, Secret>, bound: &str) -> Option<Vec<u8>> {
        let exposed: BTreeMap<&str, &str> = secrets
            .iter()
            .map(|(name, secret)| (name.as_str(), secret.expose()))
            .collect();
        let plain = Zeroizing::new(serde_json::to_vec(&exposed).ok()?);
        let mut bytes = vec![FORMAT];
        bytes.append(&mut self.0.encrypt(&plain, &covered(bound))?);
        Some(bytes)
    }

    /// What was sealed with any of the keys for `bound`. `None`: with none of them, or it is damaged.
    #[must_use]
    pub fn open(&self, bytes: &[u8], bound: &str) -> Option<BTreeMap<String, Secret>> {
        let sealed = bytes.strip_prefix(&[FORMAT])?;
        let plain = self.0.decrypt(sealed, &covered(bound))?;
        serde_json::from_slice(&plain).ok()
    }
}

/// Apart from tokens: neither opens in the place of the other.
fn covered(bound: &str) -> Vec<u8> {
    let mut covered = b"gatepost secrets\0".to_vec();
    covered.extend_from_slice(bound.as_bytes());
    covered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(digit: &str) -> Seal {
        Seal::from_key(&Key::Given(Secret::new(digit.repeat(64)))).unwrap()
    }

    #[test]
    fn secrets_come_back_with_what_they_are_bound_to_and_nothing_else() {
        let secrets = BTreeMap::from([("client_secret".to_owned(), Secret::new("canary"))]);
        let sealed = seal("1").seal(&secrets, "provider contoso").unwrap();
        assert!(!sealed.windows(6).any(|window| window == b"canary"));
        assert_eq!(seal("1").open(&sealed, "provider contoso"), Some(secrets));
        assert_eq!(seal("1").open(&sealed, "provider other"), None);
        assert_eq!(seal("2").open(&sealed, "provider contoso"), None);
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert_eq!(seal("1").open(&damaged, "provider contoso"), None, "{at}");
            assert_eq!(seal("1").open(&sealed[..at], "provider contoso"), None);
        }
    }

    /// While a key goes over to the next, both open.
    #[test]
    fn an_older_key_still_opens() {
        let secrets = BTreeMap::from([("password".to_owned(), Secret::new("x"))]);
        let sealed = seal("1").seal(&secrets, "a").unwrap();
        let both = Key::Given(Secret::new(format!(
            "{} {}",
            "2".repeat(64),
            "1".repeat(64)
        )));
        let both = Seal::from_key(&both).unwrap();
        assert_eq!(both.open(&sealed, "a"), Some(secrets.clone()));
        let resealed = both.seal(&secrets, "a").unwrap();
        assert_eq!(seal("2").open(&resealed, "a"), Some(secrets));
    }
}
