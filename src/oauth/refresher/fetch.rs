//! Getting a token for one service, and what follows: stored, then handed out; or tried again later.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use oauth2::TokenResponse as _;
use tokio::time::Instant;

use super::{Live, Refresher, Serve};
use crate::{
    oauth::{
        AccessToken, Service, TokenError, Warning,
        error::{self, About, Failure, Severity},
        expiry::{self, Consent},
        grant::{Grants, Profile},
        identity::{self, Subject},
        response::Granted,
        seal::{Access, Record},
        state::{self, Chance},
    },
    secret::Secret,
    store::SealedToken,
};

impl Refresher {
    /// One request for a token, and everything that follows from its answer.
    pub(super) async fn refresh(&mut self, service: Service) {
        let way = match self.way() {
            Ok(way) => way,
            Err(diagnosis) => return self.rest(&diagnosis),
        };
        self.schedule(service).next = None;
        self.show(service, |slot| slot.busy = true);
        let started = Instant::now();
        let profile = Arc::clone(&self.profile);
        let answer = match &way {
            Some(token) => {
                let record = self.record.as_ref();
                let subject = record.and_then(|record| record.subject.clone());
                let wanted = (service, token);
                renew(&self.parts.grants, &profile, wanted, subject.as_ref()).await
            }
            None => self.parts.grants.unattended(&profile, service).await,
        };
        match answer {
            Ok(granted) => {
                let live = self.enter(service, &granted, started);
                self.save().await;
                self.hand_out(service, live);
            }
            Err(failure) => self.refused(service, *failure),
        }
    }

    /// Takes a new access token, perhaps with a new refresh token, into the record. It may be handed
    /// out once the record is stored.
    pub(super) fn enter(&mut self, service: Service, granted: &Granted, asked: Instant) -> Live {
        let life = state::life(granted.expires_in);
        let token = Secret::new(granted.access_token().secret().as_str());
        let now = self.parts.clock.now();
        let expires_at = after(now, life);
        let access = Access {
            token: token.clone(),
            obtained_at: now,
            expires_at,
            scope: granted.scope.clone(),
            asked_scope: self.profile.scope(service).to_owned(),
        };
        let provider = &self.profile.provider;
        let mut record = self.record.take().unwrap_or_else(|| Record {
            refresh_token: None,
            token_url: String::new(),
            client_id: String::new(),
            subject: None,
            consented_at: None,
            consent_ends_at: None,
            access: std::collections::BTreeMap::new(),
        });
        if record.client_id != provider.client_id || record.token_url != self.profile.source() {
            // Tokens of another client have no place beside this one.
            record.access.clear();
            record.client_id.clone_from(&provider.client_id);
            self.profile.source().clone_into(&mut record.token_url);
        }
        if let Some(rotated) = granted.refresh() {
            record.refresh_token = Some(Secret::new(rotated));
        }
        if let Some(seconds) = granted.refresh_token_expires_in {
            record.consent_ends_at = Some(after(now, Duration::from_secs(seconds)));
        }
        record.access.insert(service, access);
        let wanted = &self.profile.account.services;
        record
            .access
            .retain(|service, _| wanted.contains_key(service));
        self.record = Some(record);
        let schedule = self.schedule(service);
        schedule.failures = 0;
        schedule.next = Some(asked + state::refresh_after(life, Chance::draw()));
        self.count("refreshed");
        tracing::info!(event = "token_refreshed", account = %self.profile.name, %service,
            provider = %self.profile.provider_name, expires_in_s = life.as_secs(),
            rotated = granted.refresh().is_some(), elapsed_ms = millis(asked));
        Live {
            token: self.generation(token),
            // Counted from before the request: the provider's count began no earlier.
            ends: asked + life,
            expires_at,
        }
    }

    pub(super) fn hand_out(&mut self, service: Service, live: Live) {
        let now = self.parts.clock.now();
        self.look_ahead(now);
        self.view.send_modify(|view| {
            view.tokens_kept = true;
            view.last_refresh_at = Some(now);
            let slot = view.slots.entry(service).or_default();
            slot.token = Some(live);
            slot.trouble = None;
            slot.busy = false;
        });
    }

    /// What is known of the consent.
    pub(super) fn consent(&self) -> Consent {
        let record = self.record.as_ref();
        record.map_or_else(Consent::default, |record| Consent {
            at: record.consented_at,
            ends_at: record.consent_ends_at,
        })
    }

    /// Tells the log what ends soon, at each step once.
    fn look_ahead(&mut self, now: Timestamp) {
        let consent = self.consent();
        self.view.send_modify(|view| view.consent = consent);
        let warnings = expiry::warnings(&self.profile, consent, now);
        let steps: Vec<usize> = warnings.iter().map(|w| w.step(now)).collect();
        if steps == self.warned {
            return;
        }
        self.warned = steps;
        for Warning {
            reason,
            remedy,
            expires_at,
        } in warnings
        {
            tracing::warn!(event = "expires_soon", account = %self.profile.name,
                provider = %self.profile.provider_name, %expires_at, reason, remedy);
        }
    }

    /// A request failed: when to try again follows from how, and for which services from what it is
    /// about.
    pub(super) fn refused(&mut self, service: Service, failure: Failure) {
        let Failure {
            severity,
            about,
            mut diagnosis,
            retry_after,
            code,
            aadsts,
            trace_id,
        } = failure;
        let (kind, wall) = (self.profile.provider.kind, self.parts.clock.now());
        if code == "invalid_grant" && self.consent().died_in_testing(kind, wall) {
            let reason = "Google ended the sign-in after 7 days: the consent screen is in testing";
            diagnosis = self.profile.diagnosis(reason, expiry::PUBLISH);
        }
        let now = Instant::now();
        let wait = match severity {
            Severity::Transient => {
                let failures = self.schedule(service).failures.saturating_add(1);
                self.schedule(service).failures = failures;
                Some(state::backoff(failures, retry_after, Chance::draw()))
            }
            Severity::Mend => Some(state::PROBE_EVERY),
            Severity::SignIn => None,
        };
        let retry_in_s = wait.map(|wait| wait.as_secs());
        let reason = diagnosis.to_string();
        let (account, provider) = (&self.profile.name, &self.profile.provider_name);
        let trace_id = trace_id.unwrap_or_default();
        if severity == Severity::Transient {
            self.count("retrying");
            tracing::warn!(event = "token_refused", %account, %service, %provider, error = %code,
                aadsts, trace_id, retry_in_s, reason);
        } else {
            self.count("refused");
            tracing::error!(event = "token_refused", %account, %service, %provider, error = %code,
                aadsts, trace_id, retry_in_s, reason);
        }
        // A refresh token that is not accepted any more is not shown again for another service.
        let shared = about == About::Account && severity != Severity::Transient;
        let services = if shared {
            self.services()
        } else {
            vec![service]
        };
        for service in services {
            self.schedule(service).next = wait.map(|wait| now + wait);
            self.show(service, |slot| {
                slot.trouble = Some((severity, diagnosis.clone()));
                slot.busy = false;
            });
        }
    }

    pub(super) fn count(&self, result: &'static str) {
        let family = &self.parts.metrics.token_refreshes;
        family.get_or_create(&[("result", result)]).inc();
    }

    /// Seals and stores the record. Failing, the record stored before stays and this is tried again.
    pub(super) async fn save(&mut self) {
        let Some(record) = self.record.as_ref().filter(|_| !self.locked) else {
            self.save_at = None;
            return;
        };
        let version = self.version + 1;
        let sealed = self.sealer.seal(&self.profile.name, version, record);
        let stored = match sealed.clone() {
            Some(record) => {
                let account = self.profile.name.clone();
                let previous = self.sealed.clone();
                let token = SealedToken {
                    account,
                    version,
                    record,
                    previous,
                };
                self.parts
                    .vault
                    .put(token)
                    .await
                    .map_err(|error| error.to_string())
            }
            None => Err("the system gives no randomness".to_owned()),
        };
        match stored {
            Ok(()) => {
                self.version = version;
                self.sealed = sealed;
                self.save_at = None;
                self.save_failures = 0;
            }
            Err(error) => {
                self.save_failures = self.save_failures.saturating_add(1);
                let wait = state::backoff(self.save_failures, None, Chance::draw());
                self.save_at = Some(Instant::now() + wait);
                tracing::error!(event = "token_unsaved", account = %self.profile.name, error,
                    retry_in_s = wait.as_secs(),
                    "the new token serves from memory; a restart before it is stored may need a new sign-in");
            }
        }
    }

    /// See [`super::Serve::Wake`].
    pub(super) async fn wake(&mut self, service: Service, generation: u64) {
        let slot = self.view.borrow().slots.get(&service).cloned();
        let Some(slot) = slot else { return };
        let same = slot
            .token
            .is_some_and(|live| live.token.generation == generation);
        if same && slot.trouble.is_none() {
            self.refresh(service).await;
        }
    }

    /// A token newer than `stale`: the one at hand, or one by a forced refresh, of which there is
    /// one in [`state::FORCED_EVERY`].
    pub(super) async fn force(
        &mut self,
        service: Service,
        stale: u64,
    ) -> Result<AccessToken, TokenError> {
        let now = Instant::now();
        match self.serve(service, now) {
            Serve::Token(token) if token.generation != stale => return Ok(token),
            Serve::Refused(error) => return Err(error),
            Serve::Token(_) | Serve::Wait | Serve::Wake(_) => {}
        }
        if let Some(diagnosis) = self.trouble(service) {
            return Err(TokenError::Retrying(diagnosis));
        }
        let forced_at = self.schedule(service).forced_at;
        if forced_at.is_some_and(|at| now - at < state::FORCED_EVERY) {
            return Err(TokenError::JustReplaced(self.profile.diagnosis(
                "the mail server refuses a token that was refreshed moments ago",
                "check the mailbox, its permissions and the scope: gatepost test ACCOUNT",
            )));
        }
        self.schedule(service).forced_at = Some(now);
        self.refresh(service).await;
        match (self.serve(service, Instant::now()), self.trouble(service)) {
            (Serve::Refused(error), _) => Err(error),
            (_, Some(diagnosis)) => Err(TokenError::Retrying(diagnosis)),
            (Serve::Token(token), None) => Ok(token),
            (Serve::Wait | Serve::Wake(_), None) => {
                let said = "the new token has already expired";
                let clock = "check this machine's clock";
                Err(TokenError::Retrying(self.profile.diagnosis(said, clock)))
            }
        }
    }

    fn serve(&self, service: Service, now: Instant) -> Serve {
        let wall = self.parts.clock.now();
        self.view.borrow().serve(service, now, wall)
    }

    fn trouble(&self, service: Service) -> Option<crate::oauth::Diagnosis> {
        let view = self.view.borrow();
        let (_, diagnosis) = view.slots.get(&service)?.trouble.as_ref()?;
        Some(diagnosis.clone())
    }
}

/// One use of a refresh token. What comes is of the person who signed in, or of no use (OpenID
/// Connect Core 1.0 §12.2).
pub(super) async fn renew(
    grants: &Grants,
    profile: &Profile,
    (service, token): (Service, &Secret),
    subject: Option<&Subject>,
) -> Result<Granted, Box<Failure>> {
    let granted = grants.refresh(profile, service, token).await?;
    match (subject, &granted.id_token) {
        (Some(subject), Some(id_token)) if !identity::is_same(subject, id_token) => {
            let diagnosis = profile.diagnosis(
                "the provider answered a refresh with a token of somebody else",
                "sign in again: gatepost login ACCOUNT; if it comes back, tell the provider's \
                 operator",
            );
            Err(error::definite(
                Severity::SignIn,
                "other_subject",
                diagnosis,
            ))
        }
        _ => Ok(granted),
    }
}

/// `now` and so long.
pub(super) fn after(now: Timestamp, span: Duration) -> Timestamp {
    let span = SignedDuration::try_from(span).unwrap_or_default();
    now.saturating_add(span).unwrap_or(now)
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
