//! The last hour, minute by minute: what was delivered and what came back. In memory alone; made of
//! the metrics, so that nothing on mail's way has to count twice.

use std::sync::{Mutex, PoisonError};

/// Minutes of the charts.
pub(super) const MINUTES: usize = 60;

/// Recipients in one minute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Minute {
    /// Delivered.
    pub(super) delivered: u64,
    /// Returned to their senders: refused, or too old.
    pub(super) failed: u64,
}

/// A ring of minutes. The totals that it is told of never fall.
#[derive(Debug, Default)]
pub(in crate::admin) struct History(Mutex<State>);

#[derive(Debug)]
struct State {
    minutes: [Minute; MINUTES],
    /// The minute that is counted now, since the start of the process.
    now: u64,
    totals: Minute,
}

impl Default for State {
    fn default() -> Self {
        Self {
            minutes: [Minute::default(); MINUTES],
            now: 0,
            totals: Minute::default(),
        }
    }
}

impl History {
    /// Notes the totals as they are in minute `now`.
    pub(super) fn note(&self, now: u64, totals: Minute) {
        let mut state = self.lock();
        let passed = now.saturating_sub(state.now);
        for minute in (state.now.saturating_add(1)..=now).rev().take(MINUTES) {
            if let Some(slot) = state.slot(minute) {
                *slot = Minute::default();
            }
        }
        if passed > 0 {
            state.now = now;
        }
        let before = std::mem::replace(&mut state.totals, totals);
        let now = state.now;
        if let Some(slot) = state.slot(now) {
            slot.delivered += totals.delivered.saturating_sub(before.delivered);
            slot.failed += totals.failed.saturating_sub(before.failed);
        }
    }

    /// The minutes of the last hour, the current one last.
    pub(super) fn last_hour(&self) -> Vec<Minute> {
        let state = self.lock();
        let first = (state.now + 1) % minutes();
        let (newer, older) = state.minutes.split_at(usize::try_from(first).unwrap_or(0));
        older.iter().chain(newer).copied().collect()
    }

    /// How many minutes ago it began; none: an hour or more.
    pub(super) fn begun(&self) -> Option<u64> {
        Some(self.lock().now).filter(|ago| *ago < minutes())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn slot(&mut self, minute: u64) -> Option<&mut Minute> {
        let index = usize::try_from(minute % minutes()).ok()?;
        self.minutes.get_mut(index)
    }
}

fn minutes() -> u64 {
    u64::try_from(MINUTES).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(delivered: u64, failed: u64) -> Minute {
        Minute { delivered, failed }
    }

    /// Differences fall into the minute in which they are seen, and leave after an hour.
    #[test]
    fn each_minute_has_its_own() {
        let history = History::default();
        history.note(0, totals(3, 0));
        history.note(0, totals(4, 1));
        history.note(2, totals(10, 1));
        let hour = history.last_hour();
        assert_eq!(hour.len(), MINUTES);
        assert_eq!(hour[57..], [totals(4, 1), totals(0, 0), totals(6, 0)]);
        assert!(hour[..57].iter().all(|minute| *minute == Minute::default()));
        assert_eq!(history.begun(), Some(2));

        history.note(61, totals(11, 1));
        let hour = history.last_hour();
        assert_eq!(hour[0], totals(6, 0), "59 minutes ago");
        assert_eq!(hour[59], totals(1, 0));
        assert_eq!(history.begun(), None);
        assert_eq!(hour.iter().map(|m| m.delivered).sum::<u64>(), 7);

        // A machine that slept for a day.
        history.note(2000, totals(12, 3));
        let hour = history.last_hour();
        assert_eq!(hour[59], totals(1, 2));
        assert_eq!(hour.iter().map(|m| m.delivered).sum::<u64>(), 1);
    }
}
