//! An account's pace: messages a minute, recipients in 24 hours. Pure; time comes in.
//!
//! A throttling reply halves the rate at once, and it grows back step by step (multiplicative
//! decrease, additive increase): the provider's true limit is never known, only felt. An account
//! without a rate of its own is slowed from what it sent in the minute before.

use std::{collections::VecDeque, time::Duration};

use jiff::Timestamp;
use tokio::time::Instant;

use super::Limits;
use crate::{mail::Reply, store::Slots};

/// Counts what an account sends against its limits.
#[derive(Debug)]
pub(crate) struct Pace {
    rate: Rate,
    day: Option<Day>,
}

/// What an account may send and has sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Standing {
    /// Messages a minute now; none: unlimited.
    pub(crate) messages_per_minute: Option<f64>,
    /// Whether a throttling reply has lowered it.
    pub(crate) throttled: bool,
    /// Recipients of the last 24 hours; none: not counted.
    pub(crate) recipients_last_day: Option<u32>,
}

impl Pace {
    pub(crate) fn new(limits: &Limits, now: Instant) -> Self {
        Self {
            rate: Rate::new(limits.messages_per_minute, now),
            day: limits.recipients_per_day.map(Day::new),
        }
    }

    /// When a message for so many recipients may go; `None`: now. It is counted as a message, and its
    /// recipients are set aside until [`Pace::done`].
    pub(crate) fn take(&mut self, recipients: usize, now: Instant) -> Option<Pause> {
        let recipients = number(recipients);
        if let Some(pause) = self.day.as_mut().and_then(|d| d.full(recipients, now)) {
            return Some(pause);
        }
        if let Some(until) = self.rate.take(now) {
            return Some(Pause { until, day: false });
        }
        if let Some(day) = &mut self.day {
            day.reserved = day.reserved.saturating_add(recipients);
        }
        None
    }

    /// Counts recipients that the provider has taken, or may have.
    pub(crate) fn sent(&mut self, recipients: usize, now: Instant) {
        if let Some(day) = &mut self.day {
            day.add(number(recipients), now);
        }
    }

    /// The transaction of a message that was let through is over, whatever it came to.
    pub(crate) fn done(&mut self, recipients: usize) {
        if let Some(day) = &mut self.day {
            day.reserved = day.reserved.saturating_sub(number(recipients));
        }
    }

    /// The provider wants less, and nothing before `until`.
    pub(crate) fn throttle(&mut self, until: Instant, now: Instant) {
        self.rate.throttle(until, now);
    }

    /// Takes over what was sent before a restart; `wall` is the time of day now. A record that lies
    /// in the future (the clock went back) counts as sent now, and is news: else the next restart
    /// would say the same again.
    pub(crate) fn restore(&mut self, slots: &Slots, wall: Timestamp, now: Instant) {
        if let Some(day) = &mut self.day {
            day.news |= day.restore(slots, wall, now);
        }
    }

    /// What was sent, for the next process; `None`: as it was told before.
    pub(crate) fn news(&mut self, wall: Timestamp, now: Instant) -> Option<Slots> {
        let day = self.day.as_mut().filter(|day| day.news)?;
        day.news = false;
        day.forget(now);
        Some(day.slots(wall, now))
    }

    pub(crate) fn standing(&mut self, now: Instant) -> Standing {
        self.rate.relax(now);
        Standing {
            messages_per_minute: self.rate.per_minute(),
            throttled: self.rate.throttle.is_some(),
            recipients_last_day: self.day.as_mut().map(|day| {
                day.forget(now);
                day.used()
            }),
        }
    }
}

fn number(recipients: usize) -> u32 {
    u32::try_from(recipients).unwrap_or(u32::MAX)
}

/// Not before then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pause {
    pub(crate) until: Instant,
    /// Whether it is the limit of the day, which people want to be told of.
    pub(crate) day: bool,
}

/// How long a reply asks to be left alone: `try again in 300 seconds`, `retry after 5 minutes`,
/// `Retry-After: 120` (a transport over HTTP writes the header so into the reply's text). `None`: it
/// says nothing about it. Bounded, because it is a stranger's word.
pub(crate) fn retry_after(reply: &Reply) -> Option<Duration> {
    if reply.is_positive() {
        return None;
    }
    let text = reply.text.to_ascii_lowercase();
    let words: Vec<&str> = text
        .split(|c: char| c.is_whitespace() || matches!(c, ':' | '=' | ',' | ';' | '(' | ')'))
        .filter(|word| !word.is_empty())
        .collect();
    let at = words.windows(2).position(|pair| match pair {
        [before, number] => {
            matches!(*before, "in" | "after" | "retry-after") && digits(number).is_some()
        }
        _ => false,
    })?;
    let asks = text.contains("retry") || text.contains("again") || text.contains("back");
    let (number, glued) = words.get(at + 1).and_then(|word| digits(word))?;
    let unit = if glued.is_empty() {
        words.get(at + 2).copied().unwrap_or_default()
    } else {
        glued
    };
    let seconds = match unit.trim_end_matches(['.', '!']) {
        "s" | "sec" | "secs" | "second" | "seconds" => number,
        "m" | "min" | "mins" | "minute" | "minutes" => number.saturating_mul(60),
        "h" | "hr" | "hrs" | "hour" | "hours" => number.saturating_mul(3600),
        // The header has no unit.
        _ if words.get(at).is_some_and(|word| *word == "retry-after") => number,
        _ => return None,
    };
    let wait = Duration::from_secs(seconds);
    (asks && !wait.is_zero()).then(|| wait.min(RETRY_AFTER_MAX))
}

/// A number and what is written against it: `300`, `300s`.
fn digits(word: &str) -> Option<(u64, &str)> {
    let end = word
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(word.len());
    let (number, rest) = word.split_at_checked(end)?;
    Some((number.parse().ok()?, rest))
}

/// A token bucket in the form of a schedule: the instant at which the next message is due.
#[derive(Debug)]
struct Rate {
    limit: Option<u32>,
    /// Below the limit, or where there is none.
    throttle: Option<Throttle>,
    due: Instant,
    /// Messages of the minute that began then, and of the one before.
    minute: (Instant, u32, u32),
}

/// A rate found by being told off.
#[derive(Debug)]
struct Throttle {
    per_minute: f64,
    /// Added after each [`RAISE_EVERY`].
    step: f64,
    /// Where it ends.
    ceiling: f64,
    /// When it was last raised, or is first allowed again.
    raised_at: Instant,
}

impl Rate {
    fn new(limit: Option<u32>, now: Instant) -> Self {
        Self {
            limit: limit.map(|limit| limit.max(1)),
            throttle: None,
            // Nothing at once at first: the process before may have sent until just now.
            due: now,
            minute: (now, 0, 0),
        }
    }

    /// An eighth of the limit may go at once.
    fn burst(limit: u32) -> u32 {
        (limit / BURST_PART).max(1)
    }

    /// Between two messages, and how far the schedule may lag behind.
    fn interval(&self) -> Option<(Duration, Duration)> {
        if let Some(throttle) = &self.throttle {
            return Some((MINUTE.div_f64(throttle.per_minute), Duration::ZERO));
        }
        let limit = self.limit?;
        let burst = Self::burst(limit);
        // What goes at once is missing later: no 60 seconds whatever see more than the limit.
        let interval = MINUTE / (limit - burst + 1) + ROUNDED_UP;
        Some((interval, interval * (burst - 1)))
    }

    fn per_minute(&self) -> Option<f64> {
        let throttle = self.throttle.as_ref();
        throttle
            .map(|throttle| throttle.per_minute)
            .or(self.limit.map(f64::from))
    }

    fn take(&mut self, now: Instant) -> Option<Instant> {
        self.relax(now);
        if let Some((interval, slack)) = self.interval() {
            let earliest = now.checked_sub(slack).unwrap_or(now);
            let due = self.due.max(earliest);
            if due > now {
                return Some(due);
            }
            self.due = due + interval;
        }
        self.turn_minute(now);
        self.minute.1 = self.minute.1.saturating_add(1);
        None
    }

    fn turn_minute(&mut self, now: Instant) {
        let (began, count, _) = self.minute;
        let age = now.saturating_duration_since(began);
        if age >= MINUTE * 2 {
            self.minute = (now, 0, 0);
        } else if age >= MINUTE {
            self.minute = (began + MINUTE, 0, count);
        }
    }

    fn throttle(&mut self, until: Instant, now: Instant) {
        // What was on its way together is told off together, once.
        if self.throttle.as_ref().is_some_and(|t| now < t.raised_at) {
            return;
        }
        self.relax(now);
        self.turn_minute(now);
        let (_, count, before) = self.minute;
        let observed = f64::from(count.max(before).max(OBSERVED_MIN));
        let rate = self.per_minute().unwrap_or(observed);
        let ceiling = match (&self.throttle, self.limit) {
            (_, Some(limit)) => f64::from(limit),
            (Some(throttle), None) => throttle.ceiling,
            (None, None) => observed * 2.0,
        };
        let floor = RATE_MIN.min(ceiling);
        self.throttle = Some(Throttle {
            per_minute: (rate / 2.0).max(floor),
            step: ceiling / RAISES,
            ceiling,
            raised_at: until,
        });
        self.due = self.due.max(until);
    }

    /// Raises a lowered rate by as many steps as have passed.
    fn relax(&mut self, now: Instant) {
        while let Some(throttle) = &mut self.throttle {
            if now < throttle.raised_at + RAISE_EVERY {
                return;
            }
            throttle.raised_at += RAISE_EVERY;
            throttle.per_minute += throttle.step;
            if throttle.per_minute >= throttle.ceiling {
                self.throttle = None;
                // The rate of a lowered account leaves no credit for a burst.
                self.due = self.due.max(now);
            }
        }
    }
}

/// Recipients of the last 24 hours, in slots of half an hour. Inside a run the monotonic clock counts,
/// so that a jump of the time of day neither opens nor closes the window; the time of day counts
/// across restarts alone.
#[derive(Debug)]
struct Day {
    limit: u32,
    /// When a slot leaves the window and its recipients, oldest first.
    slots: VecDeque<(Instant, u32)>,
    /// Recipients of transactions under way.
    reserved: u32,
    /// Whether the slots have changed since they were told.
    news: bool,
}

impl Day {
    fn new(limit: u32) -> Self {
        Self {
            limit,
            slots: VecDeque::new(),
            reserved: 0,
            news: false,
        }
    }

    fn used(&self) -> u32 {
        let counts = self.slots.iter().map(|(_, count)| *count);
        counts.fold(0, u32::saturating_add)
    }

    fn forget(&mut self, now: Instant) {
        while self.slots.front().is_some_and(|(ends, _)| *ends <= now) {
            self.slots.pop_front();
        }
    }

    /// When there will be room for so many; `None`: there is. An empty window takes anything, else
    /// a message for more recipients than the limit would never go.
    fn full(&mut self, recipients: u32, now: Instant) -> Option<Pause> {
        self.forget(now);
        let fits = |used: u32| used.saturating_add(recipients) <= self.limit;
        let mut used = self.used();
        if fits(used.saturating_add(self.reserved)) || (used == 0 && self.reserved == 0) {
            return None;
        }
        if fits(used) || used == 0 {
            // What is under way will tell.
            let until = now + RESERVED_WAIT;
            return Some(Pause { until, day: false });
        }
        let mut until = now;
        for (ends, count) in &self.slots {
            if fits(used) {
                break;
            }
            used = used.saturating_sub(*count);
            until = *ends;
        }
        Some(Pause { until, day: true })
    }

    fn add(&mut self, recipients: u32, now: Instant) {
        self.news = true;
        match self.slots.back_mut() {
            Some((ends, count)) if now + DAY < *ends => *count = count.saturating_add(recipients),
            Some(_) | None => self.slots.push_back((now + DAY + SLOT, recipients)),
        }
    }

    fn restore(&mut self, slots: &Slots, wall: Timestamp, now: Instant) -> bool {
        let mut from_future = false;
        let mut restored = VecDeque::new();
        // A record of more slots than a day has is no record of ours: its newest count.
        let newest = slots.len().saturating_sub(SLOTS_MAX);
        for (start, count) in slots.iter().skip(newest) {
            let age = wall.as_second().saturating_sub(*start);
            from_future |= age < 0;
            let age = Duration::from_secs(u64::try_from(age).unwrap_or(0));
            if let Some(left) = (DAY + SLOT).checked_sub(age).filter(|left| !left.is_zero()) {
                restored.push_back((now + left, *count));
            }
        }
        restored.make_contiguous().sort_by_key(|(ends, _)| *ends);
        restored.append(&mut self.slots);
        self.slots = restored;
        from_future
    }

    fn slots(&self, wall: Timestamp, now: Instant) -> Slots {
        let slots = self.slots.iter().map(|(ends, count)| {
            let left = ends.saturating_duration_since(now);
            let age = (DAY + SLOT).saturating_sub(left).as_secs();
            let age = i64::try_from(age).unwrap_or(i64::MAX);
            (wall.as_second().saturating_sub(age), *count)
        });
        slots.collect()
    }
}

/// A division that left something out would let one message more into a minute.
const ROUNDED_UP: Duration = Duration::from_nanos(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);
/// Fine enough: a limit that slides is never exact at the provider either.
const SLOT: Duration = Duration::from_secs(1800);
/// Slots of a day, the one under way and the one that is leaving.
const SLOTS_MAX: usize = 50;
/// The part of a minute's messages that may go at once.
const BURST_PART: u32 = 8;
/// A lowered rate grows so often.
const RAISE_EVERY: Duration = Duration::from_secs(60);
/// By this part of the full rate: a halved one is back within five minutes.
const RAISES: f64 = 10.0;
/// Messages a minute below which no reply pushes: mail still moves, and finds out.
const RATE_MIN: f64 = 1.0;
/// Fewer messages in the minute before say nothing about how many are too many: an account that has
/// sent one is not slowed to one a minute. The lowest limit that a provider publishes is 30.
const OBSERVED_MIN: u32 = 20;
/// Between two looks at whether a transaction under way has left room.
const RESERVED_WAIT: Duration = Duration::from_secs(1);
/// No reply makes us wait longer; a day is the longest limit there is.
const RETRY_AFTER_MAX: Duration = DAY;

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

    /// When messages go that are always there, until `end`.
    fn sent(pace: &mut Pace, start: Instant, end: Instant) -> Vec<Instant> {
        let mut sent = Vec::new();
        let mut now = start;
        while now < end {
            match pace.take(1, now) {
                None => {
                    sent.push(now);
                    pace.done(1);
                }
                Some(pause) => {
                    assert!(pause.until > now && !pause.day);
                    now = pause.until;
                }
            }
        }
        sent
    }

    fn most_in_a_minute(sent: &[Instant]) -> usize {
        let windows = sent.iter().map(|first| {
            let inside = |at: &&Instant| **at >= *first && **at < *first + MINUTE;
            sent.iter().filter(inside).count()
        });
        windows.max().unwrap_or(0)
    }

    #[test]
    fn no_minute_sees_more_than_the_limit() {
        for limit in [1, 2, 7, 8, 25, 28, 100] {
            let start = Instant::now();
            let mut pace = Pace::new(&limits(Some(limit), None), start);
            // An idle hour earns the burst, and no more.
            let later = start + MINUTE * 60;
            let all = sent(&mut pace, later, later + MINUTE * 10);
            let most = most_in_a_minute(&all);
            let limit = usize::try_from(limit).unwrap();
            assert!(most <= limit, "{most} of {limit}");
            assert!(
                all.len() >= limit * 10 * 8 / 10,
                "{} of {limit} used",
                all.len()
            );
        }
    }

    #[test]
    fn a_restart_earns_no_burst() {
        let start = Instant::now();
        let mut pace = Pace::new(&limits(Some(80), None), start);
        assert_eq!(
            sent(&mut pace, start, start + Duration::from_millis(1)).len(),
            1
        );
    }

    #[test]
    fn throttling_halves_the_rate_and_it_grows_back_step_by_step() {
        let start = Instant::now();
        let mut pace = Pace::new(&limits(Some(20), None), start);
        let until = start + MINUTE;
        pace.throttle(until, start);
        // Those told off together with it do not count again.
        pace.throttle(until, start);
        assert_eq!(pace.standing(until).messages_per_minute, Some(10.0));
        assert!(
            pace.take(1, start)
                .is_some_and(|pause| pause.until == until)
        );
        let all = sent(&mut pace, until, until + MINUTE * 8);
        let of_minute = |n: u32| {
            let from = until + MINUTE * n;
            all.iter()
                .filter(|t| **t >= from && **t < from + MINUTE)
                .count()
        };
        let by_minute: Vec<_> = (0..8).map(of_minute).collect();
        assert_eq!(by_minute[..4], [10, 12, 14, 16], "{by_minute:?}");
        assert!(by_minute[4..].iter().all(|n| *n >= 18), "{by_minute:?}");
        assert!(!pace.standing(until + MINUTE * 8).throttled);
        // Again and again, it is never pushed to nothing.
        let mut now = until + MINUTE * 8;
        for _ in 0..20 {
            pace.throttle(now, now);
            now += Duration::from_secs(1);
        }
        assert_eq!(pace.standing(now).messages_per_minute, Some(RATE_MIN));
    }

    #[test]
    fn without_a_rate_of_its_own_an_account_is_slowed_from_what_it_sent() {
        let start = Instant::now();
        let mut pace = Pace::new(&limits(None, None), start);
        assert!(
            (0..600).all(|_| pace.take(1000, start).is_none()),
            "nothing waits"
        );
        pace.throttle(start, start);
        assert_eq!(pace.standing(start).messages_per_minute, Some(300.0));
        let later = start + MINUTE * 20;
        assert_eq!(
            pace.standing(later).messages_per_minute,
            None,
            "found to be well"
        );
    }

    #[test]
    fn the_day_slides() {
        let start = Instant::now();
        let mut pace = Pace::new(&limits(None, Some(100)), start);
        let mut send = |recipients, now| {
            let pause = pace.take(recipients, now);
            if pause.is_none() {
                pace.done(recipients);
                pace.sent(recipients, now);
            }
            pause
        };
        assert_eq!(send(60, start), None);
        let noon = start + DAY / 2;
        assert_eq!(send(40, noon), None);
        let pause = send(1, noon).expect("full");
        assert!(pause.day && pause.until <= start + DAY + SLOT);
        assert!(send(61, pause.until).is_some());
        assert!(send(500, pause.until).is_some());
        assert_eq!(
            send(60, pause.until),
            None,
            "the first 60 have left the window"
        );
        let empty = start + DAY * 3;
        assert_eq!(send(500, empty), None, "more than a day's worth goes alone");
    }

    #[test]
    fn what_is_under_way_counts() {
        let now = Instant::now();
        let mut pace = Pace::new(&limits(None, Some(100)), now);
        assert_eq!(pace.take(60, now), None);
        let pause = pace.take(60, now).expect("not both");
        assert!(!pause.day, "the first may come to nothing");
        pace.done(60);
        assert_eq!(pace.take(60, now), None);
        pace.sent(60, now);
        pace.done(60);
        assert!(pace.take(60, now).is_some_and(|pause| pause.day));
    }

    #[test]
    fn a_restart_forgets_nothing_and_no_jump_of_the_clock_opens_or_closes_the_window() {
        let wall = |hours: i64| Timestamp::from_second(1_800_000_000 + hours * 3600).unwrap();
        let hours = |n: u32| Duration::from_secs(3600) * n;
        let start = Instant::now();
        let again = |slots: &Slots, at: Timestamp| {
            let mut pace = Pace::new(&limits(None, Some(100)), start);
            pace.restore(slots, at, start);
            let news = pace.news(at, start);
            (pace, news)
        };
        let told = |pace: &Pace, at: Timestamp| pace.day.as_ref().unwrap().slots(at, start);
        let full_until = |pace: &mut Pace| pace.take(1, start).map(|pause| pause.until - start);
        let (mut pace, _) = again(&Vec::new(), wall(0));
        pace.sent(100, start);
        let slots = pace.news(wall(0), start).unwrap();
        assert_eq!(pace.news(wall(0), start), None, "told once");
        assert_eq!(slots, [(wall(0).as_second(), 100)]);

        let (mut pace, news) = again(&slots, wall(10));
        assert_eq!(full_until(&mut pace), Some(hours(14) + SLOT));
        assert_eq!(news, None);
        // Told to the next but one, it has the same age.
        assert_eq!(told(&pace, wall(10)), slots);
        let (mut pace, _) = again(&slots, wall(25));
        assert_eq!(full_until(&mut pace), None, "a day is over");

        // The clock was years ahead when it was written: it counts as sent now, and no longer.
        let (mut pace, news) = again(&slots, wall(-100_000));
        assert_eq!(full_until(&mut pace), Some(DAY + SLOT));
        let mended = news.expect("to be written anew, or the next restart says the same");
        let (mut pace, news) = again(&mended, wall(-99_990));
        assert_eq!(
            (full_until(&mut pace), news),
            (Some(hours(14) + SLOT), None)
        );

        // Within a run the time of day changes nothing, also not in what is written.
        let (mut pace, _) = again(&slots, wall(1));
        let (mut next, _) = again(&told(&pace, wall(50_000)), wall(50_001));
        assert_eq!(full_until(&mut pace), Some(hours(23) + SLOT));
        assert_eq!(full_until(&mut next), Some(hours(22) + SLOT));

        let garbage = (0..10_000).map(|n| (n * 7 - 30_000, u32::MAX)).collect();
        let (mut pace, _) = again(&garbage, wall(-500_000));
        assert!(full_until(&mut pace) <= Some(DAY + SLOT));
    }

    #[test]
    fn a_reply_that_names_its_time_is_believed_within_bounds() {
        for (text, seconds) in [
            ("Greylisted, please try again in 300 seconds", Some(300)),
            ("too much mail; retry after 5 minutes.", Some(300)),
            ("Too Many Requests (Retry-After: 120)", Some(120)),
            ("please come back in 90s", Some(90)),
            ("try again in 1 hour", Some(3600)),
            ("try again in 1000000 hours", Some(86_400)),
            ("try again later", None),
            ("try again in 0 seconds", None),
            ("mailbox in 3 minutes full", None),
            ("retry in 5 attempts", None),
            ("try again in 99999999999999999999 s", None),
            ("", None),
        ] {
            let wait = retry_after(&Reply::new(451, None, text));
            assert_eq!(wait.map(|wait| wait.as_secs()), seconds, "{text}");
        }
        assert_eq!(
            retry_after(&Reply::new(250, None, "retry in 5 seconds")),
            None
        );
    }
}
