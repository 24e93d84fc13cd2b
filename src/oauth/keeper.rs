//! All accounts together: who refreshes which, sign-ins under way, changes of configuration.
//!
//! Holds no token itself; each account's refresher owns them. The locks here are held for lookups
//! alone, never over an await.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use oauth2::{PkceCodeChallenge, StandardDeviceAuthorizationResponse};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use url::Url;

use super::{
    AccessToken, Config, Diagnosis, Error, Grant, Key, Kind, Reached, Rotated, Seal, Service,
    SignIn, Status, TokenError,
    draft::{Apply, Arriving},
    expiry,
    grant::{Grants, Profile, authorization_url},
    identity::{Refused, Stranger},
    refresher::{self, Arrived, Beginning, Command, Handle, Parts, Serve},
    response::Granted,
    seal::Sealer,
    sign_in::{self, BROWSER_PATIENCE, Begun, Browser, Returned, SignIns},
    vault::Vault,
};
use crate::{
    clock::Clock, mail::AccountName, net::tasks::Tasks, store::SealedToken, telemetry::Metrics,
};

/// A device code is polled no longer than this, whatever its announced life.
const DEVICE_PATIENCE_MAX: Duration = Duration::from_secs(3600);

/// How long a fetch without a person may take before the one who waits is told.
pub(super) const UNATTENDED_PATIENCE: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) parts: Parts,
    pub(super) tasks: Tasks,
    accounts: Mutex<Accounts>,
    sign_ins: Mutex<SignIns>,
    /// What sign-ins of drafts have brought, until the configuration has the draft.
    arriving: Mutex<Arriving>,
    /// Two rotations at once would each forget the other's key.
    rotating: tokio::sync::Mutex<()>,
    /// Rises with each change of configuration, for those who wait for an account to appear.
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Accounts {
    handles: BTreeMap<AccountName, Handle>,
    /// Refreshers told to stop, which may still be storing a token: a new one of the same name
    /// waits for them.
    retired: BTreeMap<AccountName, mpsc::Sender<Command>>,
    sealer: Option<Arc<Sealer>>,
    key: Option<Key>,
    redirect_urls: Vec<Url>,
}

impl Keeper {
    pub(super) fn new(
        vault: Vault,
        clock: Arc<dyn Clock>,
        tasks: Tasks,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            parts: Parts {
                grants: Grants::new(Arc::clone(&clock)),
                vault,
                clock,
                metrics,
                generations: Arc::default(),
            },
            tasks,
            accounts: Mutex::default(),
            sign_ins: Mutex::default(),
            arriving: Mutex::default(),
            rotating: tokio::sync::Mutex::default(),
            changes: watch::Sender::new(0),
        }
    }

    fn accounts(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn sign_ins(&self) -> MutexGuard<'_, SignIns> {
        self.sign_ins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn arriving(&self) -> MutexGuard<'_, Arriving> {
        self.arriving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn handle(&self, account: &AccountName) -> Option<Handle> {
        self.accounts().handles.get(account).cloned()
    }

    /// The account's handle, if it has tokens for `service`.
    fn serving(&self, account: &AccountName, service: Service) -> Result<Handle, TokenError> {
        let handle = self.handle(account).ok_or_else(|| not_ours(account))?;
        if handle.profile.account.services.contains_key(&service) {
            return Ok(handle);
        }
        let reason = format!("the account's transport needs no token for {service}");
        let diagnosis = handle
            .profile
            .diagnosis(reason, "set transport of the account");
        Err(TokenError::SignInNeeded(diagnosis))
    }

    pub(super) async fn configure(&self, config: Config) -> Result<(), Error> {
        let profiles = profiles(&config)?;
        let key: Key = config.key;
        let named = key.clone();
        // Reads, and at first start writes, a file.
        let sealer = tokio::task::spawn_blocking(move || Sealer::from_key(&key))
            .await
            .map_err(|error| Error::Account(error.to_string()))??;
        let mut stored: BTreeMap<AccountName, SealedToken> = BTreeMap::new();
        for token in self.parts.vault.tokens().await? {
            stored.insert(token.account.clone(), token);
        }
        let urls = config
            .providers
            .into_values()
            .map(|provider| provider.redirect_url);
        let told = {
            let mut accounts = self.accounts();
            let mut arriving = self.arriving();
            accounts.change(profiles, Arc::new(sealer), &mut arriving, |beginning| {
                let Start {
                    profile,
                    sealer,
                    predecessor,
                    arrived,
                } = beginning;
                let stored = stored.remove(&profile.name);
                let beginning = Beginning {
                    stored,
                    predecessor,
                    arrived,
                };
                let tasks = self.tasks.child();
                refresher::start(self.parts.clone(), profile, sealer, beginning, &tasks)
            })
        };
        let mut redirect_urls: Vec<Url> = urls.collect();
        redirect_urls.sort();
        redirect_urls.dedup();
        {
            let mut accounts = self.accounts();
            accounts.redirect_urls = redirect_urls;
            accounts.key = Some(named);
        }
        let current = self.accounts().handles.clone();
        self.sign_ins().keep(|profile| {
            current
                .get(&profile.name)
                .is_some_and(|handle| *handle.profile == *profile)
        });
        for (commands, command) in told {
            // A refresher that has ended needs no configuration.
            drop(commands.send(command).await);
        }
        self.changes.send_modify(|count| *count += 1);
        Ok(())
    }

    pub(super) async fn access_token(
        &self,
        account: &AccountName,
        service: Service,
    ) -> Result<AccessToken, TokenError> {
        let handle = self.serving(account, service)?;
        let mut view = handle.view.clone();
        loop {
            let wall = self.parts.clock.now();
            let served = view
                .borrow_and_update()
                .serve(service, Instant::now(), wall);
            match served {
                Serve::Token(token) => return Ok(token),
                Serve::Refused(error) => return Err(error),
                Serve::Wait => {}
                Serve::Wake(generation) => {
                    let command = Command::Wake {
                        service,
                        generation,
                    };
                    handle
                        .commands
                        .send(command)
                        .await
                        .map_err(|_| stopping())?;
                }
            }
            view.changed().await.map_err(|_| stopping())?;
        }
    }

    pub(super) async fn refresh_after(
        &self,
        account: &AccountName,
        service: Service,
        stale: u64,
    ) -> Result<AccessToken, TokenError> {
        let handle = self.serving(account, service)?;
        let (reply, answer) = oneshot::channel();
        let command = Command::Force {
            service,
            stale,
            reply,
        };
        handle
            .commands
            .send(command)
            .await
            .map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }

    pub(super) async fn changed(&self, account: &AccountName, service: Service, generation: u64) {
        let mut changes = self.changes.subscribe();
        // A token that cannot be had is no news, or a lane on hold would turn in a circle.
        let news = |view: &refresher::View| {
            let (now, wall) = (Instant::now(), self.parts.clock.now());
            match view.serve(service, now, wall) {
                Serve::Token(token) => token.generation != generation,
                Serve::Wake(overdue) => overdue != generation,
                Serve::Refused(_) | Serve::Wait => false,
            }
        };
        loop {
            let appeared = async {
                match self.handle(account) {
                    Some(mut handle) => handle.view.wait_for(news).await.is_ok(),
                    None => false,
                }
            };
            let ended = tokio::select! {
                // Else the account is unknown, or its refresher ended: only a change helps.
                true = appeared => return,
                ended = changes.changed() => ended,
            };
            if ended.is_err() {
                return;
            }
        }
    }

    /// See [`super::Oauth::rotate_key`].
    pub(super) async fn rotate_key<F, R>(&self, others: F) -> Result<Rotated, Error>
    where
        F: FnOnce(Seal) -> R,
        R: Future<Output = Result<usize, crate::store::Error>>,
    {
        let _one_at_a_time = self.rotating.lock().await;
        let key = self.accounts().key.clone();
        let key = key.ok_or_else(|| Error::Account(stopping().to_string()))?;
        let wanted = key.clone();
        let staged = in_background(move || Sealer::staged(&wanted)).await?;
        let staged = Arc::new(staged);
        let handles = {
            let mut accounts = self.accounts();
            accounts.sealer = Some(Arc::clone(&staged));
            accounts.handles.clone()
        };
        for handle in handles.values() {
            let (reply, stored) = oneshot::channel();
            let sealer = Arc::clone(&staged);
            // One that has ended, or could not store, is found out below.
            drop(
                handle
                    .commands
                    .send(Command::Reseal { sealer, reply })
                    .await,
            );
            drop(stored.await);
        }
        let alone = staged.first();
        let mut rotated = Rotated {
            resealed: others(Seal::of(&staged)).await?,
            ..Rotated::default()
        };
        for token in self.parts.vault.tokens().await? {
            let token = match handles.contains_key(&token.account) {
                true => token,
                // Of an account that is not configured now; it may come back.
                false => self.resealed(&staged, token).await?,
            };
            if alone.opens_all(&token) {
                rotated.resealed += 1;
            } else if staged.open(&token).is_ok() {
                rotated.waiting.push(token.account);
            } else {
                rotated.locked.push(token.account);
            }
        }
        if rotated.waiting.is_empty() {
            let wanted = key.clone();
            in_background(move || alone.settle(&wanted)).await?;
            rotated.old_key_needed = false;
        }
        tracing::info!(
            event = "key_rotated",
            resealed = rotated.resealed,
            waiting = rotated.waiting.len(),
            locked = rotated.locked.len()
        );
        Ok(rotated)
    }

    async fn resealed(&self, staged: &Sealer, token: SealedToken) -> Result<SealedToken, Error> {
        let Ok(opened) = staged.open(&token) else {
            return Ok(token);
        };
        let version = token.version + 1;
        let Some(record) = staged.seal(&token.account, version, &opened.record) else {
            return Ok(token);
        };
        let resealed = SealedToken {
            account: token.account,
            version,
            record,
            previous: None,
        };
        self.parts.vault.put(resealed.clone()).await?;
        Ok(resealed)
    }

    pub(super) async fn reach(&self, account: &AccountName) -> Option<Result<Reached, Diagnosis>> {
        let profile = self.handle(account)?.profile;
        let reached = self.parts.grants.reach(&profile).await;
        Some(reached.map_err(|failure| failure.diagnosis))
    }

    pub(super) fn status(&self, account: &AccountName) -> Option<Status> {
        let handle = self.handle(account)?;
        let view = handle.view.borrow();
        let warnings = expiry::warnings(&handle.profile, view.consent, self.parts.clock.now());
        Some(Status {
            warnings,
            ..view.status(Instant::now())
        })
    }

    pub(super) fn redirect_urls(&self) -> Vec<Url> {
        let mut urls = self.accounts().redirect_urls.clone();
        urls.extend(self.sign_ins().redirect_urls().cloned());
        urls
    }

    pub(super) async fn sign_out(&self, account: &AccountName) -> Result<Option<Diagnosis>, Error> {
        let handle = self.handle(account).ok_or_else(|| needs_none(account))?;
        let (reply, answer) = oneshot::channel();
        let gone = || Error::Account(stopping().to_string());
        let command = Command::SignOut { reply };
        handle.commands.send(command).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    pub(super) async fn begin_sign_in(
        self: &Arc<Self>,
        account: &AccountName,
        device: bool,
    ) -> Result<SignIn, Error> {
        let handle = self.handle(account).ok_or_else(|| needs_none(account))?;
        match (handle.profile.account.grant, device) {
            (
                Grant::ClientCredentials
                | Grant::ServiceAccount
                | Grant::WorkloadIdentity
                | Grant::ManagedIdentity,
                _,
            ) => self.begin_unattended(handle),
            (Grant::DeviceCode, _) | (Grant::AuthorizationCode, true) => {
                self.begin_device(&handle.profile, None).await
            }
            (Grant::AuthorizationCode, false) => self.begin_browser(&handle.profile, None).await,
        }
    }

    /// `apply`: the profile is a draft.
    pub(super) async fn begin_browser(
        &self,
        profile: &Arc<Profile>,
        apply: Option<Apply>,
    ) -> Result<SignIn, Error> {
        let endpoints = self.parts.grants.endpoints(profile).await;
        let endpoints = endpoints.map_err(|failure| Error::Provider(sign_in::told(*failure)))?;
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let browser = Browser::new(verifier, &endpoints);
        let url =
            authorization_url(profile, &endpoints, &browser, challenge).map_err(Error::Provider)?;
        let browser = Some(browser);
        let begun = match apply {
            None => self.sign_ins().begin(profile, BROWSER_PATIENCE, browser),
            Some(_) => (self.sign_ins()).begin_draft(profile, BROWSER_PATIENCE, browser, apply),
        }?;
        let sign_in = SignIn::Browser {
            id: begun.id,
            url: url.into(),
            expires_at: self.in_future(BROWSER_PATIENCE),
            // Google has the endpoint, but refuses the scope of mail there.
            device: endpoints.device_authorization.is_some()
                && profile.provider.kind != Kind::Google,
        };
        self.sign_ins().tell(&sign_in);
        Ok(sign_in)
    }

    /// `apply`: the profile is a draft.
    pub(super) async fn begin_device(
        self: &Arc<Self>,
        profile: &Arc<Profile>,
        apply: Option<Apply>,
    ) -> Result<SignIn, Error> {
        let answer = self.parts.grants.begin_device(profile).await;
        let begun_there = answer.map_err(|failure| Error::Provider(sign_in::told(*failure)))?;
        let patience = begun_there.expires_in().min(DEVICE_PATIENCE_MAX);
        let begun = match apply {
            None => self.sign_ins().begin(profile, patience, None),
            Some(_) => self.sign_ins().begin_draft(profile, patience, None, None),
        }?;
        let sign_in = SignIn::Device {
            id: begun.id.clone(),
            verification_uri: begun_there.verification_uri().to_string(),
            verification_uri_complete: begun_there
                .verification_uri_complete()
                .map(|uri| uri.secret().clone()),
            user_code: begun_there.user_code().secret().clone(),
            expires_at: self.in_future(patience),
        };
        self.sign_ins().tell(&sign_in);
        let (keeper, profile) = (Arc::clone(self), Arc::clone(profile));
        self.tasks.spawn("device_sign_in", async move {
            let there = (begun_there, patience);
            keeper.poll_device(&profile, begun, there, apply).await;
        });
        Ok(sign_in)
    }

    async fn poll_device(
        &self,
        profile: &Arc<Profile>,
        begun: Begun,
        (begun_there, patience): (StandardDeviceAuthorizationResponse, Duration),
        apply: Option<Apply>,
    ) {
        let grants = &self.parts.grants;
        let polled = grants.poll_device(profile, &begun_there, patience);
        let granted = tokio::select! {
            () = begun.cancelled.cancelled() => return,
            () = self.tasks.stopped() => return,
            granted = polled => granted,
        };
        let result = match (granted, apply) {
            (Ok(granted), None) => self.adopt(&begun.id, profile, (granted, None)).await,
            (Ok(granted), Some(apply)) => {
                let brought = (granted, None);
                self.adopt_draft(&begun.id, profile, brought, apply).await
            }
            (Err(failure), _) => Err(sign_in::told(*failure).into()),
        };
        // Whoever waits is told; nobody else asks.
        self.settle(&begun.id, profile, result).unwrap_or_default();
    }

    fn begin_unattended(self: &Arc<Self>, handle: Handle) -> Result<SignIn, Error> {
        let profile = Arc::clone(&handle.profile);
        let mut sign_ins = self.sign_ins();
        let begun = sign_ins.begin(&profile, UNATTENDED_PATIENCE, None)?;
        let sign_in = SignIn::Unattended {
            id: begun.id.clone(),
        };
        sign_ins.tell(&sign_in);
        drop(sign_ins);
        let keeper = Arc::clone(self);
        self.tasks.spawn("unattended_sign_in", async move {
            let (reply, answer) = oneshot::channel();
            let command = Command::Fetch { reply };
            let result = match handle.commands.send(command).await {
                Ok(()) => answer.await.unwrap_or_else(|_| Err(stopped())),
                Err(_) => Err(stopped()),
            };
            let result = result.map_err(Refused::Told);
            keeper
                .settle(&begun.id, &profile, result)
                .unwrap_or_default();
        });
        Ok(sign_in)
    }

    pub(super) async fn sign_in_result(&self, id: &str) -> Result<(), Diagnosis> {
        let waiter = self.sign_ins().waiter(id);
        let (mut outcome, deadline) = waiter.ok_or_else(sign_in::unknown)?;
        let ended = tokio::time::timeout_at(deadline, outcome.wait_for(Option::is_some));
        let ended = ended
            .await
            .map(|ended| ended.map(|outcome| outcome.clone()));
        let ended = match ended {
            Ok(ended) => ended,
            // What has begun in time is told as it ends.
            Err(_) if self.sign_ins().is_applying(id) => {
                let ended = outcome.wait_for(Option::is_some).await;
                ended.map(|outcome| outcome.clone())
            }
            Err(_) => return Err(sign_in::timed_out()),
        };
        ended
            .ok()
            .flatten()
            .unwrap_or_else(|| Err(sign_in::unknown()))
    }

    pub(super) fn cancel_sign_in(&self, id: &str) -> bool {
        self.sign_ins().cancel(id)
    }

    pub(super) async fn callback(self: &Arc<Self>, query: &str) -> Result<AccountName, Diagnosis> {
        let returned = self.sign_ins().returned(query)?;
        let account = returned.profile.name.clone();
        let (reply, answer) = oneshot::channel();
        let keeper = Arc::clone(self);
        // A task of its own: a browser that leaves now must not lose a code already redeemed.
        self.tasks.spawn("browser_sign_in", async move {
            let (id, profile) = (returned.id.clone(), Arc::clone(&returned.profile));
            let result = keeper.redeem(returned).await;
            drop(reply.send(keeper.settle(&id, &profile, result)));
        });
        answer.await.unwrap_or_else(|_| Err(stopped()))?;
        Ok(account)
    }

    async fn redeem(&self, returned: Returned) -> Result<(), Refused> {
        let Returned {
            id,
            profile,
            verifier,
            nonce,
            apply,
            code,
        } = returned;
        let granted = self.parts.grants.redeem(&profile, code?, verifier).await;
        let granted = granted.map_err(|failure| sign_in::told(*failure))?;
        match apply {
            None => self.adopt(&id, &profile, (granted, nonce.as_deref())).await,
            Some(apply) => {
                let brought = (granted, nonce.as_deref());
                self.adopt_draft(&id, &profile, brought, apply).await
            }
        }
    }

    /// Hands what a sign-in brought to the account's refresher, if the account is still the one
    /// that was signed in, and it was whom the account wants who signed in. (What a stranger brought is
    /// forgotten, not revoked: at some providers that would end every sign-in of that user here.)
    async fn adopt(
        &self,
        id: &str,
        profile: &Arc<Profile>,
        (granted, nonce): (Granted, Option<&str>),
    ) -> Result<(), Refused> {
        refresher::check_sign_in(profile, &granted).map_err(|failure| sign_in::told(*failure))?;
        let identified = self.parts.grants.identify(profile, &granted, nonce).await;
        let handle = self.handle(&profile.name);
        let Some(handle) = handle.filter(|handle| handle.profile == *profile) else {
            let diagnosis = profile.diagnosis(
                "the configuration of this account changed meanwhile",
                "begin again: gatepost login ACCOUNT",
            );
            return Err(diagnosis.into());
        };
        let subject = match identified {
            Ok(subject) => subject,
            Err(refused) => {
                if let Refused::Stranger(stranger) = &refused {
                    let diagnosis = stranger.diagnosis.clone();
                    // A refresher that has ended shows nothing.
                    drop(handle.commands.send(Command::Remark { diagnosis }).await);
                }
                return Err(refused);
            }
        };
        self.sign_ins().may_adopt(id)?;
        let (reply, answer) = oneshot::channel();
        let command = Command::Adopt {
            granted: Box::new(granted),
            subject,
            reply,
        };
        handle.commands.send(command).await.map_err(|_| stopped())?;
        let adopted = answer.await.unwrap_or_else(|_| Err(stopped()));
        adopted.map_err(Refused::Told)
    }

    /// Records and logs how a sign-in ended. Names of people are fields of their own: whether they
    /// are written is the operator's choice.
    pub(super) fn settle(
        &self,
        id: &str,
        profile: &Profile,
        result: Result<(), Refused>,
    ) -> Result<(), Diagnosis> {
        let (account, provider) = (&profile.name, &profile.provider_name);
        match &result {
            Ok(()) => tracing::info!(event = "signed_in", %account, %provider),
            Err(Refused::Told(diagnosis)) => {
                tracing::warn!(event = "sign_in_failed", %account, %provider, reason = %diagnosis);
            }
            Err(Refused::Stranger(stranger)) => {
                let Stranger {
                    signed_in_as,
                    expected,
                    ..
                } = &**stranger;
                let reason = "another user signed in than the account wants";
                tracing::warn!(event = "sign_in_failed", %account, %provider, reason, signed_in_as,
                    expected);
            }
        }
        let result = result.map_err(Refused::into_diagnosis);
        self.sign_ins().settle(id, result)
    }

    fn in_future(&self, span: Duration) -> Timestamp {
        let now = self.parts.clock.now();
        let span = SignedDuration::try_from(span).unwrap_or_default();
        now.saturating_add(span).unwrap_or(now)
    }
}

/// What a new refresher needs.
struct Start {
    profile: Arc<Profile>,
    sealer: Arc<Sealer>,
    predecessor: Option<mpsc::Sender<Command>>,
    arrived: Option<Arrived>,
}

impl Accounts {
    /// Brings the refreshers in line with `profiles`; returns what to tell those that go on.
    fn change(
        &mut self,
        profiles: BTreeMap<AccountName, Profile>,
        sealer: Arc<Sealer>,
        arriving: &mut Arriving,
        mut start: impl FnMut(Start) -> Handle,
    ) -> Vec<(mpsc::Sender<Command>, Command)> {
        let mut arrived = |profile: &Profile| {
            let (signed_in, _) = arriving.get(&profile.name)?;
            let is_meant = **signed_in == *profile;
            let found = is_meant.then(|| arriving.remove(&profile.name));
            found.flatten().map(|(_, arrived)| arrived)
        };
        let mut told = Vec::new();
        self.retired.retain(|_, commands| !commands.is_closed());
        let gone = |name: &AccountName| !profiles.contains_key(name);
        let removed: Vec<AccountName> = self.handles.keys().filter(|n| gone(n)).cloned().collect();
        for name in removed {
            if let Some(handle) = self.handles.remove(&name) {
                handle.tasks.stop();
                self.retired.insert(name, handle.commands);
            }
        }
        let same_key = self.sealer.as_ref() == Some(&sealer);
        for (name, profile) in profiles {
            match self.handles.get_mut(&name) {
                Some(handle) if same_key && *handle.profile == profile => {}
                Some(handle) => {
                    let arrived = arrived(&profile).map(Box::new);
                    handle.profile = Arc::new(profile);
                    let command = Command::Configure {
                        profile: Arc::clone(&handle.profile),
                        sealer: Arc::clone(&sealer),
                        arrived,
                    };
                    told.push((handle.commands.clone(), command));
                }
                None => {
                    let arrived = arrived(&profile);
                    let predecessor = self.retired.remove(&name);
                    let sealer = Arc::clone(&sealer);
                    let profile = Arc::new(profile);
                    let handle = start(Start {
                        profile,
                        sealer,
                        predecessor,
                        arrived,
                    });
                    self.handles.insert(name, handle);
                }
            }
        }
        self.sealer = Some(sealer);
        told
    }
}

fn profiles(config: &Config) -> Result<BTreeMap<AccountName, Profile>, Error> {
    let mut profiles = BTreeMap::new();
    for (name, account) in &config.accounts {
        let provider = config.providers.get(&account.provider).ok_or_else(|| {
            Error::Account(format!(
                "account {name} names the provider {}, which does not exist",
                account.provider
            ))
        })?;
        let profile = Profile {
            name: name.clone(),
            provider_name: account.provider.clone(),
            provider: provider.clone(),
            account: account.clone(),
        };
        profiles.insert(name.clone(), profile);
    }
    Ok(profiles)
}

/// Runs what reads and writes files off the runtime's threads.
async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::Account(error.to_string()))?
}

fn not_ours(account: &AccountName) -> TokenError {
    TokenError::SignInNeeded(Diagnosis {
        reason: format!("the account {account} has no OAuth provider"),
        remedy: "set its provider in the configuration".to_owned(),
    })
}

fn needs_none(account: &AccountName) -> Error {
    Error::Account(format!(
        "there is no account {account} that signs in at an OAuth provider; see: gatepost accounts"
    ))
}

pub(super) fn stopped() -> Diagnosis {
    Diagnosis {
        reason: "gatepost is stopping".to_owned(),
        remedy: "try again when it is up".to_owned(),
    }
}

fn stopping() -> TokenError {
    TokenError::Retrying(stopped())
}
