//! Sign-ins with a profile that is not in force yet: its success is what puts it in force.
//!
//! Order: tokens come and are found to be of use; the change is applied (made durable, taken by all
//! parts) with the tokens held ready; the account's refresher takes them before it does anything else;
//! then the result is told. Whatever fails before the change is applied leaves what was before
//! untouched. A process that dies between the change and its tokens leaves the change in force and the
//! account asking for a sign-in.

use std::{collections::BTreeMap, fmt, pin::Pin, sync::Arc};

use tokio::sync::oneshot;
use url::Url;

use super::{
    Account, Config, Diagnosis, Error, Grant, Provider, SignIn,
    error::{Failure, Severity},
    grant::Profile,
    identity::Refused,
    keeper::{Keeper, UNATTENDED_PATIENCE, stopped},
    refresher::{self, Arrived, Command},
    response::Granted,
    sign_in::{self, Begun},
};
use crate::mail::AccountName;

/// A profile that is not in force yet, with the account that signs in to prove it.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    /// The account's name.
    pub account: AccountName,
    /// The profile.
    pub provider: Provider,
    /// The account.
    pub settings: Account,
}

impl Draft {
    /// The account and its profile in a configuration; `None`: it has no such account that signs in.
    #[must_use]
    pub fn of(config: &Config, account: &AccountName) -> Option<Self> {
        let settings = config.accounts.get(account)?;
        Some(Self {
            account: account.clone(),
            provider: config.providers.get(&settings.provider)?.clone(),
            settings: settings.clone(),
        })
    }

    fn profile(self) -> Arc<Profile> {
        Arc::new(Profile {
            name: self.account,
            provider_name: self.settings.provider.clone(),
            provider: self.provider,
            account: self.settings,
        })
    }
}

impl Provider {
    /// Whether tokens come from `other` exactly as from this one: what differs is for people alone.
    #[must_use]
    pub fn is_alike(&self, other: &Self) -> bool {
        let other = Self {
            description: self.description.clone(),
            client_secret_expires_at: self.client_secret_expires_at,
            certificate_expires_at: self.certificate_expires_at,
            ..other.clone()
        };
        *self == other
    }
}

impl Provider {
    /// Whether the client's secrets go to the same servers as those of `other`, on the same way.
    #[must_use]
    pub fn sends_secrets_like(&self, other: &Self) -> bool {
        let origins = |provider: &Self| {
            let urls = [
                &provider.token_url,
                &provider.device_authorization_url,
                &provider.revocation_url,
            ];
            urls.map(|url| url.as_ref().map(Url::origin))
        };
        let issuers =
            |provider: &Self| provider.issuer.clone().filter(|_| provider.is_discovered());
        let is_same_way = self.ca_file == other.ca_file && self.proxy == other.proxy;
        is_same_way && origins(self) == origins(other) && issuers(self) == issuers(other)
    }
}

/// The same remedy, where saving a profile is what begins a sign-in: `gatepost login` knows the profile
/// that is in force, or no such account.
pub(super) fn begun_by_saving(told: Diagnosis, account: &AccountName) -> Diagnosis {
    let login = format!("gatepost login {account}");
    let by_command = [
        format!("{login} --device"),
        format!("{login} --no-browser"),
        login,
    ];
    let remedy = by_command.iter().fold(told.remedy, |remedy, command| {
        remedy.replace(command, "save the provider again")
    });
    Diagnosis { remedy, ..told }
}

/// What puts a draft in force: durable, and taken by every part. `Err`: nothing has changed.
pub type Applied = Pin<Box<dyn Future<Output = Result<(), Diagnosis>> + Send>>;

/// Makes [`Applied`]; called once, and only when tokens have come.
pub struct Apply(Box<dyn FnOnce() -> Applied + Send>);

impl Apply {
    /// From a function.
    #[must_use]
    pub fn new(apply: impl FnOnce() -> Applied + Send + 'static) -> Self {
        Self(Box::new(apply))
    }
}

impl fmt::Debug for Apply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Apply(..)")
    }
}

/// Tokens on their way to refreshers that do not know their profile yet.
pub(super) type Arriving = BTreeMap<AccountName, (Arc<Profile>, Arrived)>;

impl Keeper {
    /// See [`super::Oauth::begin_draft_sign_in`].
    pub(super) async fn begin_draft(
        self: &Arc<Self>,
        draft: Draft,
        device: bool,
        apply: Apply,
    ) -> Result<SignIn, Error> {
        let profile = draft.profile();
        self.sign_ins().has_room()?;
        let begun = match (profile.account.grant, device) {
            (
                Grant::ClientCredentials
                | Grant::ServiceAccount
                | Grant::WorkloadIdentity
                | Grant::ManagedIdentity,
                _,
            ) => self.begin_unattended_draft(&profile, apply),
            (Grant::DeviceCode, _) | (Grant::AuthorizationCode, true) => {
                self.begin_device(&profile, Some(apply)).await
            }
            (Grant::AuthorizationCode, false) => self.begin_browser(&profile, Some(apply)).await,
        };
        begun.map_err(|error| match error {
            Error::Provider(told) => Error::Provider(begun_by_saving(told, &profile.name)),
            Error::Key { .. } | Error::Store(_) | Error::Account(_) => error,
        })
    }

    fn begin_unattended_draft(
        self: &Arc<Self>,
        profile: &Arc<Profile>,
        apply: Apply,
    ) -> Result<SignIn, Error> {
        let mut sign_ins = self.sign_ins();
        let begun = sign_ins.begin_draft(profile, UNATTENDED_PATIENCE, None, None)?;
        let sign_in = SignIn::Unattended {
            id: begun.id.clone(),
        };
        sign_ins.tell(&sign_in);
        drop(sign_ins);
        let (keeper, profile) = (Arc::clone(self), Arc::clone(profile));
        self.tasks.spawn("unattended_sign_in", async move {
            let result = keeper.prove_unattended(&begun, &profile, apply).await;
            keeper
                .settle(&begun.id, &profile, result)
                .unwrap_or_default();
        });
        Ok(sign_in)
    }

    /// The provider gives the application a token, or the draft comes to nothing.
    async fn prove_unattended(
        &self,
        begun: &Begun,
        profile: &Arc<Profile>,
        apply: Apply,
    ) -> Result<(), Refused> {
        let fetched = self.fetch_one(profile);
        let proved = tokio::select! {
            () = begun.cancelled.cancelled() => return Err(sign_in::unknown().into()),
            () = self.tasks.stopped() => return Err(stopped().into()),
            proved = fetched => proved,
        };
        proved.map_err(|failure| sign_in::told(*failure))?;
        self.sign_ins().may_apply(&begun.id)?;
        (apply.0)().await?;
        // Its refresher has begun to fetch; what comes of it is the sign-in's result.
        let handle = self.handle(&profile.name);
        let handle = handle.ok_or_else(stopped)?;
        let (reply, answer) = oneshot::channel();
        let sent = handle.commands.send(Command::Fetch { reply }).await;
        sent.map_err(|_| stopped())?;
        let fetched = answer.await.unwrap_or_else(|_| Err(stopped()));
        fetched.map_err(Refused::Told)
    }

    /// A token for whichever service gives one.
    async fn fetch_one(&self, profile: &Profile) -> Result<(), Box<Failure>> {
        let mut refused = None;
        for service in profile.account.services.keys() {
            match self.parts.grants.unattended(profile, *service).await {
                Ok(_) => return Ok(()),
                Err(failure) => {
                    // What a person must mend says more than trouble on the way.
                    let is_definite = failure.severity != Severity::Transient;
                    if refused.is_none() || is_definite {
                        refused = Some(failure);
                    }
                }
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// What a person's sign-in brought puts the draft in force, and is then the account's.
    pub(super) async fn adopt_draft(
        &self,
        id: &str,
        profile: &Arc<Profile>,
        (granted, nonce): (Granted, Option<&str>),
        apply: Apply,
    ) -> Result<(), Refused> {
        refresher::check_sign_in(profile, &granted).map_err(|failure| sign_in::told(*failure))?;
        let grants = &self.parts.grants;
        let subject = grants.identify(profile, &granted, nonce).await?;
        let gathered = refresher::gather(grants, profile, granted, subject).await?;
        self.sign_ins().may_apply(id)?;
        let name = &profile.name;
        let (reply, answer) = oneshot::channel();
        let arrived = Arrived { gathered, reply };
        self.arriving()
            .insert(name.clone(), (Arc::clone(profile), arrived));
        let applied = (apply.0)().await;
        let left = self.arriving().remove(name);
        applied?;
        if let Some((profile, arrived)) = left {
            // Nothing about the account itself has changed: its refresher goes on as it was.
            let handle = self.handle(name).filter(|it| it.profile == profile);
            let handle = handle.ok_or_else(stopped)?;
            let arrived = Box::new(arrived);
            let sent = handle.commands.send(Command::Take { arrived }).await;
            sent.map_err(|_| stopped())?;
        }
        let adopted = answer.await.unwrap_or_else(|_| Err(stopped()));
        adopted.map_err(Refused::Told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_command_is_named_that_would_sign_in_with_another_profile() {
        let alerts = AccountName::new("alerts");
        for (remedy, wanted) in [
            (
                "begin again: gatepost login alerts --device",
                "begin again: save the provider again",
            ),
            (
                "sign in again and consent: gatepost login alerts; or ask",
                "sign in again and consent: save the provider again; or ask",
            ),
            ("wait a minute", "wait a minute"),
        ] {
            let told = Diagnosis {
                reason: "no".to_owned(),
                remedy: remedy.to_owned(),
            };
            assert_eq!(begun_by_saving(told, &alerts).remedy, wanted);
        }
    }
}
