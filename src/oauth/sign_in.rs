//! Sign-ins under way: one an account, each named by an id, its `state` good for one use within ten
//! minutes (RFC 6749 §10.12, RFC 9700).
//!
//! The verifier and the `state` exist in memory alone; the verifier leaves it once, the `state` with the
//! address that a person opens, which is told to whoever may sign in until it is used. What the browser
//! brings back is read strictly; nothing of it is stored before the code has been redeemed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use oauth2::{CsrfToken, PkceCodeVerifier};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use url::form_urlencoded;

use super::{
    Diagnosis, Error, SignIn, SignInStatus, Standing,
    discovery::{AnswersAs, Endpoints},
    draft::{self, Apply},
    error::{self, Failure, Severity},
    grant::Profile,
    response::Refusal,
};
use crate::mail::AccountName;

/// How long a person has for the browser.
pub(super) const BROWSER_PATIENCE: Duration = Duration::from_secs(10 * 60);

/// Drafts whose sign-in is under way at once: nobody fills in more forms at the same time, and their
/// names are not bounded by the configuration.
const DRAFTS_MAX: usize = 32;

/// Random octets of `state`: 256 bits.
const STATE_LEN: u32 = 32;

/// Random octets of an id, and of a nonce.
const ID_LEN: u32 = 16;

/// How a sign-in ended; `None`: not yet.
pub(super) type Outcome = Option<Result<(), Diagnosis>>;

/// What only the browser's return may use, and only once.
#[derive(Debug)]
pub(super) struct Browser {
    pub(super) state: CsrfToken,
    pub(super) verifier: PkceCodeVerifier,
    /// Whom the answer must name.
    answers_as: AnswersAs,
    /// What the id token must repeat, where one is asked for.
    pub(super) nonce: Option<String>,
}

impl Browser {
    pub(super) fn new(verifier: PkceCodeVerifier, endpoints: &Endpoints) -> Self {
        let nonce = || CsrfToken::new_random_len(ID_LEN).into_secret();
        Self {
            state: CsrfToken::new_random_len(STATE_LEN),
            verifier,
            answers_as: endpoints.answers_as.clone(),
            nonce: endpoints.asks_openid.then(nonce),
        }
    }
}

/// A sign-in that has begun.
#[derive(Debug)]
struct Pending {
    id: String,
    profile: Arc<Profile>,
    deadline: Instant,
    browser: Option<Browser>,
    outcome: watch::Sender<Outcome>,
    cancelled: CancellationToken,
    stage: Stage,
    /// How a person goes on with it; none: that is over.
    how: Option<SignIn>,
}

/// Whether a sign-in is one of a profile that is in force.
#[derive(Debug)]
enum Stage {
    /// It is.
    InForce,
    /// It is, and what the sign-in brought is being handed over.
    Adopting,
    /// Its success puts the profile in force.
    Draft(Option<Apply>),
    /// That is happening now.
    Applying,
}

/// What the one who began it gets.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) id: String,
    pub(super) cancelled: CancellationToken,
}

/// A browser that came back with the right `state`.
#[derive(Debug)]
pub(super) struct Returned {
    pub(super) id: String,
    pub(super) profile: Arc<Profile>,
    pub(super) verifier: PkceCodeVerifier,
    pub(super) nonce: Option<String>,
    /// What puts the profile in force, if it is a draft.
    pub(super) apply: Option<Apply>,
    /// The code, or why there is none.
    pub(super) code: Result<String, Diagnosis>,
}

/// All sign-ins, at most one an account: bounded by the configuration, and by [`DRAFTS_MAX`].
#[derive(Debug, Default)]
pub(super) struct SignIns {
    all: BTreeMap<AccountName, Pending>,
    /// Rises with whatever begins, comes back or ends.
    turns: u64,
}

impl SignIns {
    /// Registers a sign-in; one of the same account that was under way is cancelled.
    ///
    /// # Errors
    /// [`Error::Account`]: what one has brought is being put in force at this moment.
    pub(super) fn begin(
        &mut self,
        profile: &Arc<Profile>,
        patience: Duration,
        browser: Option<Browser>,
    ) -> Result<Begun, Error> {
        self.insert(profile, patience, browser, Stage::InForce)
    }

    /// The same with a profile that is not in force; `apply` is handed out with the browser's return.
    ///
    /// # Errors
    /// As [`SignIns::begin`].
    pub(super) fn begin_draft(
        &mut self,
        profile: &Arc<Profile>,
        patience: Duration,
        browser: Option<Browser>,
        apply: Option<Apply>,
    ) -> Result<Begun, Error> {
        self.insert(profile, patience, browser, Stage::Draft(apply))
    }

    fn insert(
        &mut self,
        profile: &Arc<Profile>,
        patience: Duration,
        browser: Option<Browser>,
        stage: Stage,
    ) -> Result<Begun, Error> {
        let current = self.all.get(&profile.name);
        if current.is_some_and(Pending::is_being_applied) {
            return Err(Error::Account(
                "what the last sign-in of this account has brought is being put in force: try again \
                 in a moment"
                    .to_owned(),
            ));
        }
        let pending = Pending {
            id: CsrfToken::new_random_len(ID_LEN).into_secret(),
            profile: Arc::clone(profile),
            deadline: Instant::now() + patience,
            browser,
            outcome: watch::Sender::new(None),
            cancelled: CancellationToken::new(),
            stage,
            how: None,
        };
        self.turns += 1;
        let begun = Begun {
            id: pending.id.clone(),
            cancelled: pending.cancelled.clone(),
        };
        if let Some(old) = self.all.insert(profile.name.clone(), pending) {
            old.cancel("another sign-in of this account was begun");
        }
        Ok(begun)
    }

    /// Keeps how a person goes on, for who comes back to it.
    pub(super) fn tell(&mut self, how: &SignIn) {
        let mut all = self.all.values_mut();
        if let Some(pending) = all.find(|pending| pending.id == how.id()) {
            pending.how = Some(how.clone());
        }
    }

    /// How a sign-in stands; none: it is not known, or not any more.
    pub(super) fn status(&self, id: &str) -> Option<SignInStatus> {
        let pending = self.all.values().find(|pending| pending.id == id)?;
        Some(SignInStatus {
            account: pending.profile.name.clone(),
            provider: pending.profile.provider_name.clone(),
            is_draft: pending.is_draft(),
            standing: pending.standing(Instant::now()),
        })
    }

    /// Which sign-in a browser comes back to; its `state` is not used up.
    pub(super) fn named(&self, query: &str) -> Option<String> {
        let state = Callback::parse(query).ok()?.state;
        let found = self.all.values().find(|pending| pending.is_of(&state))?;
        Some(found.id.clone())
    }

    /// Changes whenever one begins or ends, the last by running out of time.
    pub(super) fn marks(&self) -> (u64, usize) {
        let now = Instant::now();
        let late = self.all.values().filter(|pending| pending.deadline < now);
        (self.turns, late.count())
    }

    /// Forgets drafts whose time is over; whether there is room for another.
    ///
    /// # Errors
    /// [`Error::Account`]: too many are under way.
    pub(super) fn has_room(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        self.all.retain(|_, pending| {
            !pending.is_draft() || pending.deadline > now || pending.is_being_applied()
        });
        let drafts = self.all.iter().filter(|(_, pending)| pending.is_draft());
        if drafts.clone().count() < DRAFTS_MAX {
            return Ok(());
        }
        // How an old one ended is forgotten before a new one is refused.
        let over = drafts.filter(|(_, pending)| pending.outcome.borrow().is_some());
        let oldest = over.min_by_key(|(_, pending)| pending.deadline);
        if let Some(account) = oldest.map(|(account, _)| account.clone()) {
            self.all.remove(&account);
            return Ok(());
        }
        Err(Error::Account(
            "too many sign-ins of new profiles are under way: finish one, or wait ten minutes"
                .to_owned(),
        ))
    }

    /// From here on the draft is put in force, whatever else begins: who waits for it waits until it is
    /// told.
    ///
    /// # Errors
    /// It was replaced or cancelled, or its time is over: nothing may be changed.
    pub(super) fn may_apply(&mut self, id: &str) -> Result<(), Diagnosis> {
        let pending = self.all.values_mut().find(|pending| pending.id == id);
        let pending = pending.ok_or_else(unknown)?;
        if pending.cancelled.is_cancelled() {
            return Err(unknown());
        }
        if Instant::now() > pending.deadline {
            return Err(timed_out());
        }
        pending.stage = Stage::Applying;
        Ok(())
    }

    /// From here on the account takes what the sign-in brought: it can no longer be cancelled.
    ///
    /// # Errors
    /// It was replaced or cancelled: nothing may be changed.
    pub(super) fn may_adopt(&mut self, id: &str) -> Result<(), Diagnosis> {
        let pending = self.all.values_mut().find(|pending| pending.id == id);
        let pending = pending.filter(|pending| !pending.cancelled.is_cancelled());
        pending.ok_or_else(unknown)?.stage = Stage::Adopting;
        Ok(())
    }

    /// Whether a draft is being put in force.
    pub(super) fn is_applying(&self, id: &str) -> bool {
        let mut all = self.all.values();
        all.any(|pending| pending.id == id && matches!(pending.stage, Stage::Applying))
    }

    /// Where the browsers of drafts under way come back to.
    pub(super) fn redirect_urls(&self) -> impl Iterator<Item = &url::Url> {
        let now = Instant::now();
        let drafts = self.all.values().filter(move |pending| {
            let is_open = pending.outcome.borrow().is_none() && pending.deadline > now;
            pending.is_draft() && is_open
        });
        drafts.map(|pending| &pending.profile.provider.redirect_url)
    }

    /// Ends a sign-in that nobody wants any more; whether there was one to end.
    pub(super) fn cancel(&mut self, id: &str) -> bool {
        let pending = self.all.values_mut().find(|pending| pending.id == id);
        let open = |pending: &&mut Pending| {
            let is_open = matches!(pending.stage, Stage::InForce | Stage::Draft(_));
            is_open && pending.outcome.borrow().is_none()
        };
        let Some(pending) = pending.filter(open) else {
            return false;
        };
        pending.end();
        pending.cancel("the sign-in was cancelled");
        self.turns += 1;
        true
    }

    /// Records how a sign-in ended, if it is still the account's current one; what a person is told.
    pub(super) fn settle(
        &mut self,
        id: &str,
        result: Result<(), Diagnosis>,
    ) -> Result<(), Diagnosis> {
        let Some(pending) = self.all.values_mut().find(|pending| pending.id == id) else {
            return result;
        };
        let result = if pending.is_draft() {
            result.map_err(|told| draft::begun_by_saving(told, &pending.profile.name))
        } else {
            result
        };
        pending.end();
        // One that was cancelled stays so.
        pending.outcome.send_if_modified(|outcome| {
            let is_open = outcome.is_none();
            if is_open {
                *outcome = Some(result.clone());
            }
            is_open
        });
        self.turns += 1;
        result
    }

    /// Where to wait for a sign-in's end, and until when.
    pub(super) fn waiter(&self, id: &str) -> Option<(watch::Receiver<Outcome>, Instant)> {
        let pending = self.all.values().find(|pending| pending.id == id)?;
        Some((pending.outcome.subscribe(), pending.deadline))
    }

    /// Cancels those whose account was changed or removed. A draft is compared when it is applied.
    pub(super) fn keep(&mut self, unchanged: impl Fn(&Profile) -> bool) {
        self.turns += 1;
        self.all.retain(|_, pending| {
            let keep = pending.is_draft() || unchanged(&pending.profile);
            if !keep {
                pending.cancel("the configuration of this account changed");
            }
            keep
        });
    }

    /// What the browser brought back. The `state` is used up whatever else is wrong.
    ///
    /// # Errors
    /// The diagnosis to show; no sign-in is meant, or the one meant has failed.
    pub(super) fn returned(&mut self, query: &str) -> Result<Returned, Diagnosis> {
        let callback = Callback::parse(query)?;
        let now = Instant::now();
        let mut all = self.all.values_mut();
        let pending = all.find(|pending| pending.is_of(&callback.state));
        let pending = pending.ok_or_else(unknown)?;
        let browser = pending.browser.take().ok_or_else(unknown)?;
        pending.how = None;
        self.turns += 1;
        if now > pending.deadline {
            return Err(timed_out());
        }
        Ok(Returned {
            id: pending.id.clone(),
            profile: Arc::clone(&pending.profile),
            verifier: browser.verifier,
            nonce: browser.nonce,
            apply: match &mut pending.stage {
                Stage::Draft(apply) => apply.take(),
                Stage::InForce | Stage::Adopting | Stage::Applying => None,
            },
            code: callback.code(&pending.profile, &browser.answers_as),
        })
    }
}

impl Pending {
    fn is_draft(&self) -> bool {
        match self.stage {
            Stage::InForce | Stage::Adopting => false,
            Stage::Draft(_) | Stage::Applying => true,
        }
    }

    /// Whether `state` is this one's.
    fn is_of(&self, state: &str) -> bool {
        let browser = self.browser.as_ref();
        browser.is_some_and(|browser| browser.state.secret() == state)
    }

    fn standing(&self, now: Instant) -> Standing {
        if let Some(result) = self.outcome.borrow().clone() {
            return Standing::Ended(result);
        }
        if now > self.deadline && !matches!(self.stage, Stage::Applying) {
            return Standing::Ended(Err(timed_out()));
        }
        let how = self.how.clone();
        how.map_or(Standing::Finishing, Standing::Waiting)
    }

    /// What a person could still do with it is forgotten.
    fn end(&mut self) {
        self.browser = None;
        self.how = None;
    }

    /// Nobody may come between: whoever waits for it is told how it ends, and its tokens are on their
    /// way.
    fn is_being_applied(&self) -> bool {
        matches!(self.stage, Stage::Applying) && self.outcome.borrow().is_none()
    }

    fn cancel(&self, reason: &str) {
        self.cancelled.cancel();
        let diagnosis = Diagnosis {
            reason: reason.to_owned(),
            remedy: "begin again".to_owned(),
        };
        self.outcome.send_if_modified(|outcome| {
            let open = outcome.is_none();
            if open {
                *outcome = Some(Err(diagnosis));
            }
            open
        });
    }
}

/// The diagnosis for an id or a `state` that is not known (any more).
pub(super) fn unknown() -> Diagnosis {
    Diagnosis {
        reason: "this sign-in is not known, was already used or was replaced by another".to_owned(),
        remedy: "begin the sign-in again".to_owned(),
    }
}

/// The diagnosis for a person who did not come back.
pub(super) fn timed_out() -> Diagnosis {
    Diagnosis {
        reason: "nobody completed the sign-in in time".to_owned(),
        remedy: "begin the sign-in again".to_owned(),
    }
}

/// A failure of a sign-in in words for a person who waits: nothing is tried again by itself here.
pub(super) fn told(failure: Failure) -> Diagnosis {
    let mut diagnosis = failure.diagnosis;
    if failure.severity == Severity::Transient && failure.code != error::PROXY {
        diagnosis.remedy =
            "begin the sign-in again in a minute; if it stays, check the provider's URLs"
                .to_owned();
    }
    diagnosis
}

/// The parameters of RFC 6749 §4.1.2 and RFC 9207.
#[derive(Debug, Default)]
struct Callback {
    state: String,
    code: Option<String>,
    error: Option<String>,
    error_description: Option<String>,
    iss: Option<String>,
}

impl Callback {
    /// Reads a query, or a whole redirect address as a person pastes it.
    fn parse(text: &str) -> Result<Self, Diagnosis> {
        let text = text.trim();
        let query = match text.split_once('?') {
            Some((_, query)) => query,
            None => text,
        };
        let query = query.split('#').next().unwrap_or_default();
        let mut state = None;
        let mut callback = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let slot = match name.as_ref() {
                "state" => &mut state,
                "code" => &mut callback.code,
                "error" => &mut callback.error,
                "error_description" => &mut callback.error_description,
                "iss" => &mut callback.iss,
                _ => continue,
            };
            // RFC 6749 §3.1: a parameter stands once or the request is malformed.
            if slot.replace(value.into_owned()).is_some() {
                return Err(malformed());
            }
        }
        callback.state = state.filter(|s| !s.is_empty()).ok_or_else(malformed)?;
        Ok(callback)
    }

    /// The code, if the provider that was asked gave one.
    fn code(self, profile: &Profile, expected: &AnswersAs) -> Result<String, Diagnosis> {
        if !expected.fits(self.iss.as_deref()) {
            let reason = match self.iss {
                Some(_) => "the answer names another issuer than the provider that was asked",
                None => "the answer does not say who issued it (iss), as the provider promises",
            };
            return Err(profile.diagnosis(
                reason,
                "do not go on with this browser window; begin again: gatepost login ACCOUNT",
            ));
        }
        if let Some(error) = self.error {
            let refusal = Refusal::new(&error, self.error_description.as_deref());
            return Err(told(*profile.judge(400, &refusal)));
        }
        self.code
            .filter(|code| !code.is_empty())
            .ok_or_else(malformed)
    }
}

fn malformed() -> Diagnosis {
    Diagnosis {
        reason: "the address lacks the parameters of a sign-in (state and code, each once)"
            .to_owned(),
        remedy: "paste the whole address the browser was sent to, or begin again".to_owned(),
    }
}
