//! How values are said on pages: states as badges, moments, sizes. Pure.

use jiff::{Timestamp, Unit};

use crate::admin::{
    api::{AccountState, QueueState},
    text,
};

/// A state in a word or two, and how it is to be taken. The colour never says anything alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::admin) struct Badge {
    /// The class of the style sheet: `good`, `busy`, `warn` or `bad`.
    pub(in crate::admin) tone: &'static str,
    /// The word.
    pub(in crate::admin) word: &'static str,
}

const fn badge(tone: &'static str, word: &'static str) -> Badge {
    Badge { tone, word }
}

impl From<AccountState> for Badge {
    fn from(state: AccountState) -> Self {
        match state {
            AccountState::Ready => badge("good", "ready"),
            AccountState::Refreshing => badge("busy", "refreshing"),
            AccountState::Retrying => badge("warn", "retrying"),
            AccountState::SignInNeeded => badge("bad", "sign-in needed"),
            AccountState::Held => badge("bad", "on hold"),
        }
    }
}

impl From<QueueState> for Badge {
    fn from(state: QueueState) -> Self {
        match state {
            QueueState::Queued => badge("plain", "queued"),
            QueueState::Delivering => badge("busy", "delivering"),
            QueueState::Deferred => badge("warn", "deferred"),
            QueueState::Held => badge("bad", "held"),
            QueueState::Uncertain => badge("warn", "uncertain"),
        }
    }
}

/// A moment: for a machine, for a person, and as seen from now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::admin) struct Moment {
    /// RFC 3339.
    pub(in crate::admin) exact: String,
    /// `2026-11-25 20:23 UTC`
    pub(in crate::admin) said: String,
    /// `3m ago`, `in 47m`
    pub(in crate::admin) relative: String,
}

impl Moment {
    pub(in crate::admin) fn new(moment: Timestamp, now: Timestamp) -> Self {
        let exact = moment.round(Unit::Second).unwrap_or(moment);
        Self {
            exact: exact.to_string(),
            said: moment.strftime("%Y-%m-%d %H:%M UTC").to_string(),
            relative: text::relative(moment, now),
        }
    }
}

/// One bar for each value, as numbers for an SVG without styles: a unit wide each, 100 high at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::admin) struct Chart {
    /// What a screen reader says in its place.
    pub(in crate::admin) label: String,
    /// The sum.
    pub(in crate::admin) total: u64,
    /// How many values there are.
    pub(in crate::admin) width: usize,
    /// Those that are not zero.
    pub(in crate::admin) bars: Vec<Bar>,
}

/// A bar of a [`Chart`], from the top left corner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::admin) struct Bar {
    pub(in crate::admin) x: usize,
    pub(in crate::admin) y: u64,
    pub(in crate::admin) height: u64,
}

impl Chart {
    /// `what`: `delivered`.
    pub(in crate::admin) fn new(what: &str, values: &[u64]) -> Self {
        let total: u64 = values.iter().sum();
        let most = values.iter().copied().max().unwrap_or(0);
        let bars = values.iter().enumerate().filter_map(|(x, value)| {
            // One of a thousand is still to be seen.
            let height = value.saturating_mul(100).checked_div(most)?;
            let height = if *value > 0 { height.max(2) } else { 0 };
            let y = 100_u64.saturating_sub(height);
            (height > 0).then_some(Bar { x, y, height })
        });
        Self {
            label: format!("{total} {what} in the last hour, at most {most} in a minute"),
            total,
            width: values.len(),
            bars: bars.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_fill_the_height() {
        let chart = Chart::new("delivered", &[0, 1, 500, 1000]);
        let heights: Vec<_> = chart.bars.iter().map(|bar| (bar.x, bar.height)).collect();
        assert_eq!(heights, [(1, 2), (2, 50), (3, 100)]);
        assert!(chart.bars.iter().all(|bar| bar.y + bar.height == 100));
        let wanted = "1501 delivered in the last hour, at most 1000 in a minute";
        assert_eq!((chart.total, chart.label.as_str()), (1501, wanted));
        assert_eq!(Chart::new("delivered", &[0, 0]).bars, []);
        assert_eq!(Chart::new("delivered", &[]).bars, []);
    }

    #[test]
    fn a_moment_is_said_three_ways() {
        let now: Timestamp = "2026-11-25T20:23:07.5Z".parse().unwrap();
        let then: Timestamp = "2026-11-25T20:20:07.4Z".parse().unwrap();
        let moment = Moment::new(then, now);
        assert_eq!(moment.exact, "2026-11-25T20:20:07Z");
        assert_eq!(moment.said, "2026-11-25 20:20 UTC");
        assert_eq!(moment.relative, "3m ago");
    }
}
