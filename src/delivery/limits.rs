//! An account's pace: messages a minute, evenly, and recipients a day. In memory.

use std::time::Duration;

use tokio::time::Instant;

use super::Limits;

const DAY: Duration = Duration::from_secs(86_400);
const MINUTE: Duration = Duration::from_secs(60);

/// What has been sent lately. Time comes in as an argument.
#[derive(Debug)]
pub(super) struct Pace {
    limits: Limits,
    /// When the bucket of messages is full again: never more than a minute's worth at once.
    full_at: Instant,
    day_began: Instant,
    recipients: u32,
}

impl Pace {
    pub(super) fn new(limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            full_at: now,
            day_began: now,
            recipients: 0,
        }
    }

    /// Takes room for one message to `recipients`; `Err`: not before then, nothing was taken.
    pub(super) fn take(&mut self, recipients: u32, now: Instant) -> Result<(), Instant> {
        if now.duration_since(self.day_began) >= DAY {
            self.day_began = now;
            self.recipients = 0;
        }
        let wanted = self.recipients.saturating_add(recipients);
        // A message larger than the whole day goes alone: waiting would not help it.
        if self
            .limits
            .recipients_per_day
            .is_some_and(|max| wanted > max)
            && self.recipients > 0
        {
            return Err(self.day_began + DAY);
        }
        if let Some(rate) = self.limits.messages_per_minute.filter(|rate| *rate > 0) {
            let step = MINUTE / rate;
            let full_at = self.full_at.max(now) + step;
            if full_at > now + MINUTE {
                return Err(full_at - MINUTE);
            }
            self.full_at = full_at;
        }
        self.recipients = wanted;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_minutes_worth_goes_at_once_then_one_at_a_time() {
        let limits = Limits {
            connections: 1,
            messages_per_minute: Some(30),
            recipients_per_day: Some(40),
        };
        let now = Instant::now();
        let mut pace = Pace::new(limits, now);
        for _ in 0..30 {
            assert_eq!(pace.take(1, now), Ok(()));
        }
        let next = now + Duration::from_secs(2);
        assert_eq!(pace.take(1, now), Err(next));
        assert_eq!(pace.take(1, next), Ok(()));
        let later = now + Duration::from_secs(3_600);
        assert_eq!(
            pace.take(10, later),
            Err(now + DAY),
            "31 + 10 recipients are above 40"
        );
        assert_eq!(pace.take(9, later), Ok(()));
        assert_eq!(pace.take(10, now + DAY), Ok(()), "a new day");
    }
}
