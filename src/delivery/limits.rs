//! An account's pace: messages a minute, recipients in 24 hours. Pure; time comes in.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::Limits;

/// Counts what an account sends against its limits.
#[derive(Debug)]
pub(crate) struct Pace {
    bucket: Option<Bucket>,
    day: Option<Day>,
}

impl Pace {
    pub(crate) fn new(limits: &Limits, now: Instant) -> Self {
        Self {
            bucket: limits.messages_per_minute.map(|n| Bucket::new(n, now)),
            day: limits.recipients_per_day.map(Day::new),
        }
    }

    /// When a message for so many recipients may go; `None`: now, and it is counted as a message.
    /// The recipients are counted by [`Pace::sent`], once the provider has taken them.
    pub(crate) fn take(&mut self, recipients: usize, now: Instant) -> Option<Pause> {
        let recipients = u32::try_from(recipients).unwrap_or(u32::MAX);
        if let Some(until) = self.day.as_mut().and_then(|d| d.full(recipients, now)) {
            return Some(Pause { until, day: true });
        }
        let until = self.bucket.as_mut()?.take(now)?;
        Some(Pause { until, day: false })
    }

    /// Counts recipients the provider has taken.
    pub(crate) fn sent(&mut self, recipients: usize, now: Instant) {
        if let Some(day) = &mut self.day {
            day.add(u32::try_from(recipients).unwrap_or(u32::MAX), now);
        }
    }
}

/// Not before then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pause {
    pub(crate) until: Instant,
    /// Whether it is the limit of the day, which people want to be told of.
    pub(crate) day: bool,
}

/// A token bucket in the form of a schedule: the instant at which the next message is due.
#[derive(Debug)]
struct Bucket {
    interval: Duration,
    /// How far the schedule may lag behind: what may be sent at once.
    slack: Duration,
    due: Instant,
}

impl Bucket {
    fn new(per_minute: u32, now: Instant) -> Self {
        let per_minute = per_minute.max(1);
        let interval = MINUTE / per_minute;
        // An eighth of the limit at once: with it, no window of a minute sees more than 9/8.
        let burst = (per_minute / BURST_PART).max(1);
        let slack = interval * (burst - 1);
        Self {
            interval,
            slack,
            due: now,
        }
    }

    fn take(&mut self, now: Instant) -> Option<Instant> {
        let earliest = now.checked_sub(self.slack).unwrap_or(now);
        let due = self.due.max(earliest);
        if due > now {
            return Some(due);
        }
        self.due = due + self.interval;
        None
    }
}

/// Recipients of the last 24 hours, in slots of half an hour. Forgotten at a restart: the provider
/// then tells us, and the verdict table waits.
#[derive(Debug)]
struct Day {
    limit: u32,
    /// Start of a slot and its recipients, oldest first; one per [`SLOT`], so at most 49.
    slots: VecDeque<(Instant, u32)>,
}

impl Day {
    fn new(limit: u32) -> Self {
        Self {
            limit,
            slots: VecDeque::new(),
        }
    }

    /// When there will be room for so many; `None`: there is. An empty window takes anything, else
    /// a message for more recipients than the limit would never go.
    fn full(&mut self, recipients: u32, now: Instant) -> Option<Instant> {
        while let Some((start, _)) = self.slots.front() {
            if *start + DAY + SLOT > now {
                break;
            }
            self.slots.pop_front();
        }
        let mut used: u32 = self.slots.iter().map(|(_, count)| count).sum();
        let mut until = None;
        for (start, count) in &self.slots {
            if used.saturating_add(recipients) <= self.limit {
                break;
            }
            used = used.saturating_sub(*count);
            until = Some(*start + DAY + SLOT);
        }
        until
    }

    fn add(&mut self, recipients: u32, now: Instant) {
        match self.slots.back_mut() {
            Some((start, count)) if now < *start + SLOT => {
                *count = count.saturating_add(recipients)
            }
            Some(_) | None => self.slots.push_back((now, recipients)),
        }
    }
}

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);
/// Fine enough: a limit that slides is never exact at the provider either.
const SLOT: Duration = Duration::from_secs(1800);
/// The part of a minute's messages that may go at once.
const BURST_PART: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(messages_per_minute: Option<u32>, recipients_per_day: Option<u32>) -> Limits {
        Limits {
            connections: 2,
            messages_per_minute,
            recipients_per_day,
            recipients_per_message: 100,
        }
    }

    #[test]
    fn no_minute_sees_more_than_the_provider_allows() {
        // The preset for Exchange is 25; the provider's limit is 30 in any 60 seconds.
        let start = Instant::now();
        let mut pace = Pace::new(&limits(Some(25), None), start);
        let mut sent = Vec::new();
        let mut now = start;
        while now < start + Duration::from_secs(300) {
            match pace.take(1, now) {
                None => sent.push(now),
                Some(pause) => {
                    assert!(pause.until > now && !pause.day);
                    now = pause.until;
                }
            }
        }
        for first in &sent {
            let window = sent
                .iter()
                .filter(|t| **t >= *first && **t < *first + MINUTE);
            assert!(window.count() <= 28);
        }
        assert!(
            (125..=128).contains(&sent.len()),
            "and the limit is used: {}",
            sent.len()
        );
    }

    #[test]
    fn an_idle_hour_earns_no_more_than_a_burst() {
        let start = Instant::now();
        let mut pace = Pace::new(&limits(Some(16), None), start);
        let later = start + Duration::from_secs(3600);
        let burst = (0..100)
            .take_while(|_| pace.take(1, later).is_none())
            .count();
        assert_eq!(burst, 2);
    }

    #[test]
    fn the_day_slides() {
        let start = Instant::now();
        let mut pace = Pace::new(&limits(None, Some(100)), start);
        assert_eq!(pace.take(60, start), None);
        pace.sent(60, start);
        let noon = start + DAY / 2;
        assert_eq!(pace.take(40, noon), None);
        pace.sent(40, noon);
        let pause = pace.take(1, noon).expect("full");
        assert!(pause.day && pause.until <= start + DAY + SLOT);
        assert_eq!(
            pace.take(60, pause.until),
            None,
            "the first 60 have left the window"
        );
        assert!(pace.take(61, pause.until).is_some());
        assert!(pace.take(500, pause.until).is_some());
        let empty = start + DAY * 3;
        assert_eq!(
            pace.take(500, empty),
            None,
            "more than a day's worth goes alone"
        );
    }

    #[test]
    fn without_limits_nothing_waits() {
        let now = Instant::now();
        let mut pace = Pace::new(&limits(None, None), now);
        assert!((0..10_000).all(|_| pace.take(1000, now).is_none()));
    }
}
