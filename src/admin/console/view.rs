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
            QueueState::Queued => badge("good", "queued"),
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
