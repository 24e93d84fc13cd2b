//! How an account stands, as everyone may see it, and what someone gets who wants a token. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::oauth::{
    AccessToken, Diagnosis, Service, State, Status, TokenError, error::Severity, expiry::Consent,
    state,
};

/// An access token that may still live.
#[derive(Debug, Clone)]
pub(in crate::oauth) struct Live {
    pub(in crate::oauth) token: AccessToken,
    pub(in crate::oauth) ends: Instant,
    pub(in crate::oauth) expires_at: Timestamp,
}

/// How an account stands, as everyone may see it.
#[derive(Debug, Clone, Default)]
pub(in crate::oauth) struct View {
    /// One for each service of the account.
    pub(in crate::oauth) slots: BTreeMap<Service, Slot>,
    pub(in crate::oauth) last_refresh_at: Option<Timestamp>,
    pub(in crate::oauth) consent: Consent,
    /// There is a record, be it of use or not.
    pub(in crate::oauth) tokens_kept: bool,
}

/// How the token for one service stands.
#[derive(Debug, Clone)]
pub(in crate::oauth) struct Slot {
    pub(in crate::oauth) token: Option<Live>,
    pub(in crate::oauth) trouble: Option<(Severity, Diagnosis)>,
    /// A request is under way (or the task has not looked yet).
    pub(in crate::oauth) busy: bool,
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            token: None,
            trouble: None,
            busy: true,
        }
    }
}

/// What [`View::serve`] says to someone who wants a token.
#[derive(Debug)]
pub(in crate::oauth) enum Serve {
    Token(AccessToken),
    Refused(TokenError),
    /// A request is under way.
    Wait,
    /// The token's end has come on one of the clocks and the refresher has not noticed: the
    /// machine slept, or the wall clock jumped.
    Wake(u64),
}

impl View {
    /// What someone gets who wants a token for `service` now.
    pub(in crate::oauth) fn serve(&self, service: Service, now: Instant, wall: Timestamp) -> Serve {
        // Without a slot the task has not looked yet.
        let slot = self.slots.get(&service);
        slot.map_or(Serve::Wait, |slot| slot.serve(now, wall))
    }

    /// The account's status for people: what is best of its tokens, and what is wrong with any.
    pub(in crate::oauth) fn status(&self, now: Instant) -> Status {
        let best = self.slots.values().min_by_key(|slot| slot.rank(now));
        let trouble = |slot: &Slot| slot.trouble.as_ref().map(|trouble| trouble.1.clone());
        let diagnosis = best.and_then(trouble);
        Status {
            state: best.map_or(State::Refreshing, |slot| slot.state(now)),
            diagnosis: diagnosis.or_else(|| self.slots.values().find_map(trouble)),
            token_expires_at: best.and_then(|slot| Some(slot.token.as_ref()?.expires_at)),
            last_refresh_at: self.last_refresh_at,
            tokens_kept: self.tokens_kept,
            warnings: Vec::new(),
        }
    }
}

impl Slot {
    /// What someone gets who wants a token now.
    fn serve(&self, now: Instant, wall: Timestamp) -> Serve {
        let transient = match &self.trouble {
            Some((Severity::Mend | Severity::SignIn, diagnosis)) => {
                return Serve::Refused(TokenError::SignInNeeded(diagnosis.clone()));
            }
            Some((Severity::Transient, diagnosis)) => Some(diagnosis),
            None => None,
        };
        let overdue = match &self.token {
            Some(live) if live.ends > now + state::MARGIN => {
                // A wall clock that says otherwise is believed for one refresh; if that fails, the
                // token serves to its end on the clock that cannot jump.
                if transient.is_some() || wall < live.expires_at {
                    return Serve::Token(live.token.clone());
                }
                Some(live.token.generation)
            }
            Some(live) => Some(live.token.generation),
            None => None,
        };
        match (self.busy, transient, overdue) {
            (true, _, _) | (false, None, None) => Serve::Wait,
            (false, Some(diagnosis), _) => Serve::Refused(TokenError::Retrying(diagnosis.clone())),
            (false, None, Some(generation)) => Serve::Wake(generation),
        }
    }

    fn state(&self, now: Instant) -> State {
        let live = self.token.as_ref().is_some_and(|live| live.ends > now);
        match &self.trouble {
            Some((Severity::Mend | Severity::SignIn, _)) => State::SignInNeeded,
            Some((Severity::Transient, _)) => State::Retrying,
            None if live => State::Ready,
            None => State::Refreshing,
        }
    }

    /// Best first.
    fn rank(&self, now: Instant) -> u8 {
        match self.state(now) {
            State::Ready => 0,
            State::Retrying => 1,
            State::Refreshing => 2,
            State::SignInNeeded => 3,
        }
    }
}
