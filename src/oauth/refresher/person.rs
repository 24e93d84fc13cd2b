//! What a person does to an account: signing in and out.

use std::sync::Arc;

use tokio::time::Instant;

use super::Refresher;
use crate::{
    oauth::{
        Diagnosis, Error, Kind,
        error::{self, Failure, Severity},
        grant::Profile,
        preset,
        response::Granted,
        state,
    },
    secret::Secret,
};

impl Refresher {
    /// A sign-in brought tokens. Those of before are given up only when the new ones are of use.
    pub(super) async fn adopt(&mut self, granted: &Granted) -> Result<(), Diagnosis> {
        let provider = &self.profile.provider;
        let other =
            preset::needs_other_resource(provider.kind, &provider.scope, &provider.refresh_scope)
                && !preset::redeems_part(provider.kind, &provider.scope, &provider.refresh_scope);
        let asked = Instant::now();
        let refresh = granted.refresh().map(Secret::new);
        if let (true, Some(token)) = (other, &refresh) {
            let profile = Arc::clone(&self.profile);
            match self.parts.grants.refresh(&profile, token).await {
                Ok(second) => self.settle_in(&second, refresh, asked).await,
                Err(failure) if failure.severity == Severity::Transient => {
                    // Signed in all the same: the rest is the refresher's daily work.
                    let mut record = self.record_of(granted, None, state::life(None));
                    record.access_token = None;
                    self.locked = false;
                    self.record = Some(record);
                    self.save().await;
                    self.consider();
                    self.refused(*failure);
                }
                Err(failure) => return Err(failure.diagnosis),
            }
        } else {
            self.settle_in(granted, None, asked).await;
        }
        if self.save_at.is_some() {
            return Err(self.profile.diagnosis(
                "signed in and mail flows, but the token could not be stored yet",
                "free disk space; storing is tried again by itself",
            ));
        }
        Ok(())
    }

    async fn settle_in(&mut self, granted: &Granted, before: Option<Secret>, asked: Instant) {
        self.locked = false;
        self.forced_at = None;
        self.take(granted, before, asked).await;
    }

    pub(super) async fn sign_out(&mut self) -> Result<bool, Error> {
        let record = self.record.as_ref();
        let token = record.and_then(|r| r.refresh_token.as_ref().or(r.access_token.as_ref()));
        let revoked = match token {
            Some(token) => self.parts.grants.revoke(&self.profile, token).await,
            None => false,
        };
        self.record = None;
        self.sealed = None;
        self.locked = false;
        self.save_at = None;
        let diagnosis = self
            .profile
            .diagnosis("signed out", "sign in: gatepost login ACCOUNT");
        self.rest(Severity::SignIn, diagnosis);
        self.parts.vault.delete(&self.profile.name).await?;
        tracing::info!(event = "signed_out", account = %self.profile.name, revoked);
        Ok(revoked)
    }
}

/// A sign-in without a refresh token would end within the hour.
pub(in crate::oauth) fn check_sign_in(
    profile: &Profile,
    granted: &Granted,
) -> Result<(), Box<Failure>> {
    if preset::lacks_google_mail(
        profile.provider.kind,
        &profile.provider.scope,
        granted.scope.as_deref(),
    ) {
        let diagnosis = profile.diagnosis(
            "the permission to send mail was not ticked",
            "sign in again and tick it: gatepost login ACCOUNT",
        );
        return Err(error::definite(
            Severity::SignIn,
            "scope_missing",
            diagnosis,
        ));
    }
    if granted.refresh().is_none() {
        let remedy = match profile.provider.kind {
            Kind::Microsoft => "add offline_access to scope, then: gatepost login ACCOUNT",
            Kind::Google => {
                "remove the client's access in the Google account, then: gatepost login ACCOUNT"
            }
            Kind::Custom => {
                "ask the provider how a client gets one (often the scope offline_access), then: \
                 gatepost login ACCOUNT"
            }
        };
        let diagnosis = profile.diagnosis("the provider gave no refresh token", remedy);
        return Err(error::definite(
            Severity::SignIn,
            "no_refresh_token",
            diagnosis,
        ));
    }
    Ok(())
}
