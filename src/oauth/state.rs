//! When a token is refreshed, and how it stands. Pure: time and chance come in as arguments.
//!
//! Inside a run every span is measured on the monotonic clock; the wall clock only judges what was
//! stored by an earlier run, and can cost no more than one refresh when it jumps.

use std::time::Duration;

use jiff::Timestamp;

/// Assumed when the provider does not say (RFC 6749 §5.1 only recommends `expires_in`).
const LIFE_UNTOLD: Duration = Duration::from_secs(300);

/// A shorter life would turn refreshing into an attack on the provider.
const LIFE_MIN: Duration = Duration::from_secs(60);

/// A longer one is not believed; so even an idle account is refreshed daily, and no inactivity
/// limit (months) is ever near.
const LIFE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Some servers (Exchange's high volume endpoint) refuse tokens that are about to expire.
const EARLY: Duration = Duration::from_secs(10 * 60);

/// Below this life, 80 % alone decides.
const EARLY_FROM: Duration = Duration::from_secs(15 * 60);

/// A token is used up to this long before its end: an AUTH exchange must still find it alive.
pub(super) const MARGIN: Duration = Duration::from_secs(5);

/// Waits between attempts after transient failures grow from here ...
const BACKOFF_MIN: Duration = Duration::from_secs(5);

/// ... to here.
const BACKOFF_MAX: Duration = Duration::from_secs(5 * 60);

/// A `Retry-After` beyond this is cut: a mistaken header must not silence an account for a day.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Between attempts while a person must mend something at the provider: mail flows again by itself
/// soon after, and the provider sees no hammering.
pub(super) const PROBE_EVERY: Duration = Duration::from_secs(15 * 60);

/// Between refreshes forced by a server that refused the token: if a new one is refused as well,
/// a newer one will be too.
pub(super) const FORCED_EVERY: Duration = Duration::from_secs(5 * 60);

/// A number in 0..1, drawn by the caller.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chance(f64);

impl Chance {
    /// From the system's source; one half if that fails (jitter is not a secret).
    pub(super) fn draw() -> Self {
        getrandom::u32().map_or(Self(0.5), |n| {
            Self(f64::from(n) / (f64::from(u32::MAX) + 1.0))
        })
    }
}

/// How long an access token lives, from what the provider said.
pub(super) fn life(expires_in: Option<u64>) -> Duration {
    expires_in
        .map_or(LIFE_UNTOLD, Duration::from_secs)
        .clamp(LIFE_MIN, LIFE_MAX)
}

/// When to refresh a token of this life, from its receipt on: at 80 % or up to a tenth of the life
/// earlier, and ten minutes before the end at the latest.
pub(super) fn refresh_after(life: Duration, chance: Chance) -> Duration {
    let at = life.mul_f64(0.8 - 0.1 * chance.0);
    if life < EARLY_FROM {
        at
    } else {
        at.min(life.saturating_sub(EARLY))
    }
}

/// How long to wait after the `failures`-th transient failure in a row (1 for the first).
pub(super) fn backoff(failures: u32, retry_after: Option<Duration>, chance: Chance) -> Duration {
    match retry_after {
        Some(wish) => {
            let wait = wish.clamp(BACKOFF_MIN, RETRY_AFTER_MAX);
            wait.mul_f64(1.0 + 0.09 * chance.0)
        }
        None => {
            let steps = failures.saturating_sub(1).min(16);
            let wait = BACKOFF_MIN.saturating_mul(1 << steps).min(BACKOFF_MAX);
            wait.mul_f64(0.75 + 0.5 * chance.0)
        }
    }
}

/// A stored token's age and what is left of it, or `None` when it cannot be trusted to live: it has
/// expired, or the wall clock stands before its receipt.
pub(super) fn revive(
    obtained_at: Timestamp,
    expires_at: Timestamp,
    now: Timestamp,
) -> Option<(Duration, Duration)> {
    let age = Duration::try_from(now.duration_since(obtained_at)).ok()?;
    let left = Duration::try_from(expires_at.duration_since(now)).ok()?;
    (left > MARGIN && age + left <= LIFE_MAX).then_some((age, left))
}

#[cfg(test)]
mod tests {
    use std::{cmp::Reverse, collections::BinaryHeap};

    use super::*;

    const MINUTE: u64 = 60;

    /// A year of a thousand accounts whose tokens live an hour, by these functions alone (with the
    /// keeper whole: `tests/year.rs`). Every day the provider is away for five minutes, at another time.
    #[test]
    fn no_token_of_a_thousand_runs_out_in_a_year_and_load_is_smooth() {
        const ACCOUNTS: u64 = 1000;
        const LIFE: u64 = 3600;
        const DAY: u64 = 86_400;
        const YEAR: u64 = 365 * DAY;
        const AWAY: u64 = 5 * MINUTE;
        // Who was turned away comes back within this.
        const AFTERMATH: u64 = 20 * MINUTE;
        let away_from = |day: u64| day * DAY + day * 12_347 % (DAY - AFTERMATH - AWAY);
        let mut draw = 1_u64;
        let mut chance = || {
            draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            Chance(f64::from(u32::try_from(draw >> 33).unwrap()) / f64::from(1_u32 << 31))
        };
        let life = life(Some(LIFE));
        // When each is due and its failures in a row, the next one first; when its token ends.
        let mut due: BinaryHeap<Reverse<(u64, u64, u32)>> =
            (0..ACCOUNTS).map(|n| Reverse((n * 2, n, 0))).collect();
        let mut ends = vec![LIFE; 1000];
        let mut minutes = vec![0_u32; usize::try_from(YEAR / MINUTE).unwrap()];
        while let Some(Reverse((now, account, failures))) = due.pop() {
            if now >= YEAR {
                break;
            }
            minutes[usize::try_from(now / MINUTE).unwrap()] += 1;
            let end = &mut ends[usize::try_from(account).unwrap()];
            assert!(now < *end, "account {account} has no token at {now}");
            let away = away_from(now / DAY);
            let (wait, failures) = if (away..away + AWAY).contains(&now) {
                (backoff(failures + 1, None, chance()), failures + 1)
            } else {
                *end = now + LIFE;
                (refresh_after(life, chance()), 0)
            };
            due.push(Reverse((now + wait.as_secs().max(1), account, failures)));
        }
        let is_calm = |minute: u64| {
            let away = away_from(minute * MINUTE / DAY);
            // The minute in which it goes away counts the first who try again.
            !(away.saturating_sub(MINUTE)..away + AWAY + AFTERMATH).contains(&(minute * MINUTE))
        };
        let mean = minutes.iter().sum::<u32>() / u32::try_from(minutes.len()).unwrap();
        let calm = (0..).zip(&minutes).filter(|(minute, _)| is_calm(*minute));
        let peak = calm.map(|(_, load)| *load).max().unwrap();
        assert!(peak <= 4 * mean, "{peak} a minute, {mean} on average");
    }

    #[test]
    fn a_told_life_is_believed_within_bounds() {
        for (told, seconds) in [
            (None, 300),
            (Some(0), 60),
            (Some(3599), 3599),
            (Some(u64::MAX), 86_400),
        ] {
            assert_eq!(life(told).as_secs(), seconds);
        }
    }

    #[test]
    fn a_refresh_is_due_at_eighty_percent_and_ten_minutes_before_the_end() {
        for (minutes, latest) in [(60, 48), (75, 60), (20, 10), (15, 5), (10, 8), (1, 0)] {
            let life = Duration::from_secs(minutes * MINUTE);
            for chance in [0.0, 0.5, 0.999] {
                let due = refresh_after(life, Chance(chance));
                assert!(due <= life.mul_f64(0.8), "{minutes}");
                assert!(due >= Duration::from_secs(latest * MINUTE).mul_f64(0.8));
                if minutes >= 15 {
                    assert!(due + EARLY <= life, "{minutes}");
                }
            }
        }
    }

    #[test]
    fn waits_grow_to_a_bound_and_retry_after_is_kept_within_a_tenth() {
        let wait = |n| backoff(n, None, Chance(0.5)).as_secs();
        assert_eq!([wait(1), wait(2), wait(3), wait(40)], [5, 10, 20, 300]);
        for chance in [0.0, 0.999] {
            let wish = Duration::from_secs(120);
            let wait = backoff(9, Some(wish), Chance(chance));
            assert!(wait >= wish && wait < wish.mul_f64(1.1));
        }
        let silly = Some(Duration::from_secs(u64::MAX));
        assert!(backoff(1, silly, Chance(0.9)) < Duration::from_secs(4000));
    }

    #[test]
    fn a_stored_token_is_trusted_only_between_receipt_and_end() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let (got, end) = (at("2026-01-01T12:00:00Z"), at("2026-01-01T13:00:00Z"));
        let hour = |a: u64, b: u64| Some((Duration::from_secs(a), Duration::from_secs(b)));
        for (now, expected) in [
            ("2026-01-01T12:10:00Z", hour(600, 3000)),
            ("2026-01-01T11:59:59Z", None),
            ("2026-01-01T13:00:00Z", None),
            ("2036-01-01T12:00:00Z", None),
        ] {
            assert_eq!(revive(got, end, at(now)), expected, "{now}");
        }
        assert_eq!(
            revive(got, at("2030-01-01T00:00:00Z"), got),
            None,
            "no life of years"
        );
    }
}
