//! What a person does to an account: signing in and out.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Arrived, Refresher, answer_to,
    fetch::{self, after},
};
use crate::{
    oauth::{
        Diagnosis, Error, Kind, Service,
        error::{self, Failure, Severity},
        grant::{Grants, Profile},
        identity::Subject,
        preset,
        response::Granted,
        seal::Record,
    },
    secret::Secret,
};

/// What a sign-in brought, with a token for each service that gives one.
#[derive(Debug)]
pub(in crate::oauth) struct Gathered {
    granted: Granted,
    subject: Option<Subject>,
    asked: Instant,
    /// The service that the sign-in's own token opens.
    opened: Option<Service>,
    /// The newest refresh token.
    refresh: Option<Secret>,
    answers: Vec<(Service, Result<Granted, Box<Failure>>)>,
}

/// Gets the tokens that a sign-in promises. Nothing is given up for them yet.
///
/// # Errors
/// They are of no use: no service has its token, or may have it in a minute.
pub(in crate::oauth) async fn gather(
    grants: &Grants,
    profile: &Profile,
    granted: Granted,
    subject: Option<Subject>,
) -> Result<Gathered, Diagnosis> {
    let asked = Instant::now();
    let opened = profile.opened_by_sign_in();
    let mut refresh = granted.refresh().map(Secret::new);
    let mut answers = Vec::new();
    for service in profile.account.services.keys().copied() {
        if Some(service) == opened {
            continue;
        }
        let Some(token) = &refresh else { continue };
        let answer = fetch::renew(grants, profile, (service, token), subject.as_ref()).await;
        // One that rotates serves once.
        let rotated = answer.as_ref().ok().and_then(Granted::refresh);
        refresh = rotated.map(Secret::new).or(refresh);
        answers.push((service, answer));
    }
    let of_use = |answer: &Result<Granted, Box<Failure>>| match answer {
        Ok(_) => true,
        Err(failure) => failure.severity == Severity::Transient,
    };
    if opened.is_none() && !answers.iter().any(|(_, answer)| of_use(answer)) {
        let refused = answers.into_iter().find_map(|(_, answer)| answer.err());
        return Err(refused.map_or_else(
            || profile.diagnosis("no token for the mail service came", "begin again"),
            |failure| failure.diagnosis,
        ));
    }
    Ok(Gathered {
        granted,
        subject,
        asked,
        opened,
        refresh,
        answers,
    })
}

impl Refresher {
    /// A sign-in brought tokens. Those of before are given up only when the new ones are of use: at
    /// least one service has its token, or may have it in a minute.
    pub(super) async fn adopt(
        &mut self,
        granted: Granted,
        subject: Option<Subject>,
    ) -> Result<(), Diagnosis> {
        let profile = Arc::clone(&self.profile);
        let gathered = gather(&self.parts.grants, &profile, granted, subject).await?;
        self.take(gathered).await
    }

    /// What arrived is this account's.
    pub(super) async fn take_arrived(&mut self, arrived: Arrived) {
        let answer = self.take(arrived.gathered).await;
        answer_to(arrived.reply, answer);
    }

    async fn take(&mut self, gathered: Gathered) -> Result<(), Diagnosis> {
        let Gathered {
            granted,
            subject,
            asked,
            opened,
            refresh,
            answers,
        } = gathered;
        self.record = Some(self.consented(&granted, subject));
        self.locked = false;
        self.consider();
        let mut live = Vec::new();
        if let Some(service) = opened {
            live.push((service, self.enter(service, &granted, asked)));
        }
        let mut refused = Vec::new();
        for (service, answer) in answers {
            match answer {
                Ok(granted) => live.push((service, self.enter(service, &granted, asked))),
                Err(failure) => refused.push((service, failure)),
            }
        }
        if let (Some(record), Some(token)) = (&mut self.record, refresh) {
            record.refresh_token = Some(token);
        }
        self.save().await;
        for (service, live) in live {
            self.hand_out(service, live);
        }
        for (service, failure) in refused {
            self.refused(service, *failure);
        }
        if self.save_at.is_some() {
            return Err(self.profile.diagnosis(
                "signed in and mail flows, but the token could not be stored yet",
                "free disk space; storing is tried again by itself",
            ));
        }
        Ok(())
    }

    /// Shows why a sign-in was refused while the account waits for one; an account that works goes on
    /// without a word.
    pub(super) fn remark(&self, diagnosis: &Diagnosis) {
        for service in self.services() {
            self.show(service, |slot| {
                if let Some((Severity::SignIn, told)) = &mut slot.trouble {
                    told.clone_from(diagnosis);
                }
            });
        }
    }

    /// The record of a fresh consent, without any access token.
    fn consented(&self, granted: &Granted, subject: Option<Subject>) -> Record {
        let now = self.parts.clock.now();
        let ends = granted.refresh_token_expires_in;
        Record {
            refresh_token: granted.refresh().map(Secret::new),
            token_url: self.profile.source().to_owned(),
            client_id: self.profile.provider.client_id.clone(),
            subject,
            consented_at: Some(now),
            consent_ends_at: ends.map(|seconds| after(now, Duration::from_secs(seconds))),
            access: BTreeMap::new(),
        }
    }

    pub(super) async fn sign_out(&mut self) -> Result<Option<Diagnosis>, Error> {
        let record = self.record.as_ref();
        let access = |record: &Record| Some(record.access.values().next()?.token.clone());
        let token = record.and_then(|r| r.refresh_token.clone().or_else(|| access(r)));
        let unrevoked = match token {
            Some(token) => self.parts.grants.revoke(&self.profile, &token).await.err(),
            None => Some(self.profile.diagnosis(
                "there was no token",
                "if the application may still have access, remove it at the provider",
            )),
        };
        self.record = None;
        self.sealed = None;
        self.locked = false;
        self.save_at = None;
        let diagnosis = self
            .profile
            .diagnosis("signed out", "sign in: gatepost login ACCOUNT");
        self.rest(&diagnosis);
        self.parts.vault.delete(&self.profile.name).await?;
        self.view.send_modify(|view| view.tokens_kept = false);
        let revoked = unrevoked.is_none();
        tracing::info!(event = "signed_out", account = %self.profile.name, revoked);
        Ok(unrevoked)
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
