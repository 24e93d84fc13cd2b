//! The one-time code of a console without a password: shown on the terminal, good for one login.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::random::{self, Hashed};

/// Enough to walk from the terminal to the browser. The code stands in the log, so it must not be
/// worth anything to who reads that later.
pub(super) const LIFE: Duration = Duration::from_secs(60 * 60);

/// The code that is good now, if there is one.
#[derive(Debug, Default)]
pub(super) struct OneTimeCode(Mutex<Option<(Hashed, Instant)>>);

impl OneTimeCode {
    /// A new code, in the place of the one before. `None`: the system gives no randomness.
    pub(super) fn renew(&self, now: Instant) -> Option<String> {
        let code = random::token()?;
        *self.lock() = Some((random::hash(&code), now + LIFE));
        Some(code)
    }

    /// A code where there is none yet. `None`: there is one, which somebody has asked for and holds.
    pub(super) fn first(&self, now: Instant) -> Option<String> {
        let code = random::token()?;
        let mut current = self.lock();
        if current.is_some() {
            return None;
        }
        *current = Some((random::hash(&code), now + LIFE));
        Some(code)
    }

    /// Whether `code` is good; then it is used up.
    pub(super) fn redeem(&self, code: &str, now: Instant) -> bool {
        let mut current = self.lock();
        let hash = random::hash(code);
        let is_good = current.is_some_and(|(good, end)| good == hash && now < end);
        if is_good {
            *current = None;
        }
        is_good
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(Hashed, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Once, not too late, not after a newer one; a wrong guess does not use it up.
    #[test]
    fn a_code_is_good_once() {
        let (code, now) = (OneTimeCode::default(), Instant::now());
        assert!(!code.redeem("", now));
        let shown = code.first(now).unwrap();
        assert!(code.redeem(&shown, now));
        let first = code.renew(now).unwrap();
        assert!(!code.redeem("guess", now));
        assert!(code.redeem(&first, now));
        assert!(!code.redeem(&first, now));

        let second = code.renew(now).unwrap();
        let third = code.renew(now).unwrap();
        assert_eq!(code.first(now), None, "what somebody holds stays good");
        assert!(!code.redeem(&second, now));
        assert!(!code.redeem(&third, now + LIFE));
        assert!(!format!("{code:?}").contains(&third));
    }
}
