//! Passwords of clients: argon2id, off the async threads, a few at a time.
//!
//! A right password is remembered for the life of the process as a keyed hash over name, password
//! and stored hash, so that a device that logs in for every message costs one argon2 and not
//! thousands; a changed password or client never matches what was remembered. A wrong name takes
//! as long as a wrong password and reads the same.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use argon2::{Argon2, PasswordHash, PasswordHasher, PasswordVerifier};
use aws_lc_rs::{hmac, rand::SystemRandom};
use tokio::{
    sync::Semaphore,
    task,
    time::{self, Instant},
};

use super::{Client, backoff::Backoff};
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
    backoff: Backoff,
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
    /// Right, of a client that is disabled.
    Disabled,
    /// Not checked: too many failed before.
    TooSoon(Duration),
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
            backoff: Backoff::default(),
        }
    }

    /// Checks a password. Cancel safe; the hashing then goes on to its end unseen.
    pub(super) async fn check(
        &self,
        clients: &BTreeMap<String, Client>,
        peer: Option<IpAddr>,
        username: &str,
        password: &Secret,
    ) -> Outcome {
        let wait = || self.backoff.wait(peer, username, Instant::now());
        if let Some(wait) = wait() {
            return Outcome::TooSoon(wait);
        }
        let client = clients.get(username);
        let stored = client
            .or_else(|| clients.values().next())
            .map_or(NOBODY, |client| &client.password_hash)
            .to_owned();
        let tag = self.tag(username, password, &stored);
        let disabled = client.is_some_and(|client| client.disabled);
        let remembered = tag.is_some_and(|tag| self.remembered().contains(&tag));
        if client.is_some() && !disabled && remembered {
            self.backoff.succeeded(peer, username, Instant::now());
            return Outcome::Right;
        }
        let Ok(Ok(turn)) = time::timeout(WAIT_MAX, self.turns.acquire()).await else {
            return Outcome::Busy;
        };
        // Guesses that came at once wait for their turns together: each sees what the others came to.
        if let Some(wait) = wait() {
            return Outcome::TooSoon(wait);
        }
        let password = password.clone();
        let check = task::spawn_blocking(move || verify_password(&password, &stored));
        let right = check.await.unwrap_or(false) && client.is_some();
        if !right || disabled {
            self.backoff.failed(peer, username, Instant::now());
            return if right {
                Outcome::Disabled
            } else {
                Outcome::Wrong
            };
        }
        self.backoff.succeeded(peer, username, Instant::now());
        drop(turn);
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

/// Whether `password` is the one that `stored`, a PHC string, was made of. Blocking (argon2id).
#[must_use]
pub fn verify_password(password: &Secret, stored: &str) -> bool {
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
            disabled: false,
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
            let outcome = logins
                .check(&known, None, username, &Secret::new(password))
                .await;
            assert_eq!(outcome, expected, "{username} {password}");
        }
        let secret = Secret::new("secret");
        let nobody = BTreeMap::new();
        assert_eq!(
            logins.check(&nobody, None, "printer", &secret).await,
            Outcome::Wrong
        );
        // A changed password makes what was remembered worthless.
        let changed = clients("other");
        assert_eq!(
            logins.check(&changed, None, "printer", &secret).await,
            Outcome::Wrong
        );
    }

    #[tokio::test(start_paused = true)]
    async fn guesses_are_slowed_where_they_come_from_and_a_disabled_client_is_refused() {
        let logins = Logins::new();
        let mut known = clients("secret");
        let (guesser, other) = (Some([192, 0, 2, 1].into()), Some([192, 0, 2, 2].into()));
        let (right, wrong) = (Secret::new("secret"), Secret::new("guess"));
        let mut checked = 0;
        // Each name a hundred times, as fast as it goes, and all at once.
        for _ in 0..10 {
            let guesses = (0..10).flat_map(|_| ["printer", "nobody"]);
            let checks = guesses.map(|name| logins.check(&known, guesser, name, &wrong));
            let outcomes = join_all(checks).await;
            checked += outcomes.iter().filter(|o| **o == Outcome::Wrong).count();
        }
        assert!(
            (5..=10).contains(&checked),
            "{checked} guesses were checked"
        );
        let outcome = logins.check(&known, guesser, "printer", &right).await;
        assert!(matches!(outcome, Outcome::TooSoon(_)), "{outcome:?}");
        let outcome = logins.check(&known, other, "printer", &right).await;
        assert_eq!(outcome, Outcome::Right);

        known.get_mut("printer").unwrap().disabled = true;
        let outcome = logins.check(&known, other, "printer", &right).await;
        assert_eq!(outcome, Outcome::Disabled, "also what was remembered");
        let outcome = logins.check(&known, other, "printer", &wrong).await;
        assert_eq!(outcome, Outcome::Wrong);
    }

    /// Runs futures side by side.
    async fn join_all<F: Future<Output = Outcome>>(
        futures: impl Iterator<Item = F>,
    ) -> Vec<Outcome> {
        let mut waiting: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
        std::future::poll_fn(|cx| {
            let mut pending = false;
            for (future, outcome) in &mut waiting {
                if outcome.is_none()
                    && let std::task::Poll::Ready(ready) = future.as_mut().poll(cx)
                {
                    *outcome = Some(ready);
                }
                pending |= outcome.is_none();
            }
            if pending {
                std::task::Poll::Pending
            } else {
                std::task::Poll::Ready(())
            }
        })
        .await;
        waiting
            .into_iter()
            .filter_map(|(_, outcome)| outcome)
            .collect()
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
