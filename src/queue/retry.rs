//! When to try again: exponential, jittered, bounded. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// The retry schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Wait after the first attempt.
    pub first: Duration,
    /// No wait is longer.
    pub max: Duration,
    /// After this the message is given up and its sender told.
    pub lifetime: Duration,
    /// After this the sender is told that it is late.
    pub delay_warning: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(60),
            max: Duration::from_secs(3600),
            lifetime: Duration::from_secs(5 * 86_400),
            delay_warning: Duration::from_secs(4 * 3600),
        }
    }
}

/// A message is not given up before so many attempts: a clock that jumped ahead expires nothing.
const ATTEMPTS_MIN: u32 = 2;

impl Policy {
    /// When a message that has had `attempts` attempts (this one included) is tried again; `None`:
    /// its lifetime is over. `chance` in 0..1 spreads the wait by a fifth to either side, so that
    /// a smarthost that comes back is not met by everyone at once.
    #[must_use]
    pub fn next_attempt(
        &self,
        received_at: Timestamp,
        attempts: u32,
        now: Timestamp,
        chance: f64,
    ) -> Option<Timestamp> {
        let age = now.duration_since(received_at);
        let over = SignedDuration::try_from(self.lifetime).is_ok_and(|lifetime| age >= lifetime);
        if over && attempts >= ATTEMPTS_MIN {
            return None;
        }
        let doublings = attempts.saturating_sub(1).min(20);
        let wait = self.first.saturating_mul(1 << doublings).min(self.max);
        let wait = wait.mul_f64(0.8 + 0.4 * chance.clamp(0.0, 1.0));
        Some(now.checked_add(wait).unwrap_or(Timestamp::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    #[test]
    fn waits_double_up_to_the_longest_and_are_spread() {
        let policy = Policy::default();
        for (attempts, chance, wait) in [
            (1, 0.5, 60),
            (2, 0.5, 120),
            (3, 0.5, 240),
            (40, 0.5, 3600),
            (1, 0.0, 48),
            (1, 1.0, 72),
        ] {
            assert_eq!(
                policy.next_attempt(at(0), attempts, at(0), chance),
                Some(at(wait))
            );
        }
    }

    #[test]
    fn a_message_expires_after_its_lifetime_but_never_at_its_first_attempt() {
        let policy = Policy::default();
        let late = at(5 * 86_400);
        assert_eq!(policy.next_attempt(at(0), 2, late, 0.5), None);
        assert!(
            policy.next_attempt(at(0), 1, late, 0.5).is_some(),
            "a clock jump expires nothing"
        );
    }
}
