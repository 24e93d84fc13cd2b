//! Passwords of clients: argon2id, off the async threads, a few at a time.
//!
//! A right password is remembered for the life of the process as a keyed hash over name, password
//! and stored hash, so that a device that logs in for every message costs one argon2 and not
//! thousands; a changed password or client never matches what was remembered. A wrong name takes
//! as long as a wrong password and reads the same.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use argon2::{Argon2, PasswordHash, PasswordHasher, PasswordVerifier};
use aws_lc_rs::{hmac, rand::SystemRandom};
use tokio::{sync::Semaphore, task, time};

use super::Client;
use crate::secret::Secret;

/// Logins remembered; beyond it all are forgotten and cost an argon2 again.
const REMEMBERED_MAX: usize = 1024;
/// Checks at once at most: each takes some 20 MiB for its time.
const CHECKS_AT_ONCE_MAX: usize = 4;
/// How long a login waits for its turn before it is told to come later.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// What an unknown name is checked against when no client is configured: argon2id with the
/// parameters of [`hash_password`]; nothing hashes to it.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$Z2F0ZXBvc3Rub2JvZHk$\
                      AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Checks logins.
pub(super) struct Logins {
    /// None when the system gives no randomness: then nothing is remembered.
    key: Option<hmac::Key>,
    remembered: Mutex<HashSet<[u8; 32]>>,
    turns: Semaphore,
}

impl std::fmt::Debug for Logins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Logins(..)")
    }
}

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Right,
    Wrong,
    /// No turn came up in time.
    Busy,
}

impl Logins {
    pub(super) fn new() -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self {
            key: hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok(),
            remembered: Mutex::default(),
            turns: Semaphore::new(cores.min(CHECKS_AT_ONCE_MAX)),
        }
    }

    /// Checks a password. Cancel safe; the hashing then goes on to its end unseen.
    pub(super) async fn check(
        &self,
        clients: &BTreeMap<String, Client>,
        username: &str,
        password: &Secret,
    ) -> Outcome {
        let client = clients.get(username);
        let stored = client
            .or_else(|| clients.values().next())
            .map_or(NOBODY, |client| &client.password_hash)
            .to_owned();
        let tag = self.tag(username, password, &stored);
        if client.is_some() && tag.is_some_and(|tag| self.remembered().contains(&tag)) {
            return Outcome::Right;
        }
        let Ok(Ok(turn)) = time::timeout(WAIT_MAX, self.turns.acquire()).await else {
            return Outcome::Busy;
        };
        let password = password.clone();
        let check = task::spawn_blocking(move || verify(&password, &stored));
        let right = check.await.unwrap_or(false) && client.is_some();
        drop(turn);
        if !right {
            return Outcome::Wrong;
        }
        if let Some(tag) = tag {
            let mut remembered = self.remembered();
            if remembered.len() >= REMEMBERED_MAX {
                remembered.clear();
            }
            remembered.insert(tag);
        }
        Outcome::Right
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, HashSet<[u8; 32]>> {
        self.remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The keyed hash; each part with its length, so that no two logins give the same octets.
    fn tag(&self, username: &str, password: &Secret, stored: &str) -> Option<[u8; 32]> {
        let mut context = hmac::Context::with_key(self.key.as_ref()?);
        for part in [username, password.expose(), stored] {
            context.update(&part.len().to_le_bytes());
            context.update(part.as_bytes());
        }
        context.sign().as_ref().try_into().ok()
    }
}

fn verify(password: &Secret, stored: &str) -> bool {
    PasswordHash::new(stored).is_ok_and(|stored| {
        Argon2::default()
            .verify_password(password.expose().as_bytes(), &stored)
            .is_ok()
    })
}

/// A PHC string for `password`, for `[[client]] password_hash`. Blocking (argon2id).
///
/// # Errors
/// When the system has no randomness.
pub fn hash_password(password: &Secret) -> Result<String, io::Error> {
    Argon2::default()
        .hash_password(password.expose().as_bytes())
        .map(|hash| hash.to_string())
        .map_err(|error| io::Error::other(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(password: &str) -> BTreeMap<String, Client> {
        let client = Client {
            password_hash: hash_password(&Secret::new(password)).unwrap(),
            account: None,
            senders: Vec::new(),
        };
        BTreeMap::from([("printer".to_owned(), client)])
    }

    #[tokio::test]
    async fn only_the_right_password_of_a_known_client_logs_in() {
        let logins = Logins::new();
        let known = clients("secret");
        for (username, password, expected) in [
            ("printer", "secret", Outcome::Right),
            ("printer", "secret", Outcome::Right),
            ("printer", "Secret", Outcome::Wrong),
            ("printer", "", Outcome::Wrong),
            // The hash that an unknown name is checked against is another client's.
            ("scanner", "secret", Outcome::Wrong),
            ("", "", Outcome::Wrong),
        ] {
            let outcome = logins.check(&known, username, &Secret::new(password)).await;
            assert_eq!(outcome, expected, "{username} {password}");
        }
        let secret = Secret::new("secret");
        let nobody = BTreeMap::new();
        assert_eq!(
            logins.check(&nobody, "printer", &secret).await,
            Outcome::Wrong
        );
        // A changed password makes what was remembered worthless.
        let changed = clients("other");
        assert_eq!(
            logins.check(&changed, "printer", &secret).await,
            Outcome::Wrong
        );
    }

    #[test]
    fn what_nobody_is_checked_against_is_a_real_hash() {
        assert!(PasswordHash::new(NOBODY).is_ok());
        let ours = hash_password(&Secret::new("x")).unwrap();
        assert!(
            ours.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{ours}"
        );
    }
}
