//! One task an account owns its tokens: every request that uses its refresh token goes through here,
//! one after the other, so that no refresh token is ever used twice at the same time.
//!
//! Order on success: seal, store (durable), then hand out. When the disk is full the stored record
//! stays as it was, the new tokens serve from memory, and storing is tried again until it succeeds.
//! On an error nothing is deleted.

mod person;
mod view;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use jiff::SignedDuration;
use oauth2::TokenResponse as _;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

pub(super) use person::check_sign_in;
use view::Live;
pub(super) use view::{Serve, View};

use super::{
    AccessToken, Diagnosis, Error, Grant, TokenError,
    error::{Failure, Severity},
    grant::{Grants, Profile},
    response::Granted,
    seal::{Record, Sealer},
    state::{self, Chance},
    vault::Vault,
};
use crate::{
    clock::Clock, net::tasks::Tasks, secret::Secret, store::SealedToken, telemetry::Metrics,
};

/// Commands waiting for one account. Beyond that callers wait to ask.
const COMMANDS_MAX: usize = 32;

/// What all refreshers share.
#[derive(Debug, Clone)]
pub(super) struct Parts {
    pub(super) grants: Grants,
    pub(super) vault: Vault,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<Metrics>,
    /// Generations are unique in the process, so that they rise over a restart of an account too.
    pub(super) generations: Arc<AtomicU64>,
}

/// What a refresher is asked to do.
#[derive(Debug)]
pub(super) enum Command {
    /// A server refused the token of this generation: get another.
    Force {
        stale: u64,
        reply: oneshot::Sender<Result<AccessToken, TokenError>>,
    },
    /// See [`Serve::Wake`].
    Wake { generation: u64 },
    /// A person signed in.
    Adopt {
        granted: Box<Granted>,
        reply: oneshot::Sender<Result<(), Diagnosis>>,
    },
    /// Get a token now, whatever was wrong before (client credentials).
    Fetch {
        reply: oneshot::Sender<Result<(), Diagnosis>>,
    },
    /// Forget everything.
    SignOut {
        reply: oneshot::Sender<Result<bool, Error>>,
    },
    /// The configuration changed.
    Configure {
        profile: Arc<Profile>,
        sealer: Arc<Sealer>,
    },
}

/// The way to an account's refresher. Clones lead to the same one.
#[derive(Debug, Clone)]
pub(super) struct Handle {
    pub(super) profile: Arc<Profile>,
    pub(super) view: watch::Receiver<View>,
    pub(super) commands: mpsc::Sender<Command>,
    /// Stops this refresher alone.
    pub(super) tasks: Tasks,
}

/// What a refresher begins with.
#[derive(Debug)]
pub(super) struct Beginning {
    pub(super) stored: Option<SealedToken>,
    /// A refresher of the same account that is ending: it may still be about to store a token.
    pub(super) predecessor: Option<mpsc::Sender<Command>>,
}

/// The task of one account.
#[derive(Debug)]
struct Refresher {
    parts: Parts,
    profile: Arc<Profile>,
    sealer: Arc<Sealer>,
    view: watch::Sender<View>,
    record: Option<Record>,
    /// Version and bytes last known to be stored.
    version: i64,
    sealed: Option<Vec<u8>>,
    /// The stored record cannot be opened: it is not overwritten before a new sign-in.
    locked: bool,
    /// When to refresh or to probe.
    next: Option<Instant>,
    /// When to try storing again; none: everything is stored.
    save_at: Option<Instant>,
    failures: u32,
    save_failures: u32,
    forced_at: Option<Instant>,
}

/// Starts an account's refresher as a task.
pub(super) fn start(
    parts: Parts,
    profile: Arc<Profile>,
    sealer: Arc<Sealer>,
    beginning: Beginning,
    tasks: &Tasks,
) -> Handle {
    let (view, seen) = watch::channel(View::new());
    let (sender, commands) = mpsc::channel(COMMANDS_MAX);
    let handle = Handle {
        profile: Arc::clone(&profile),
        view: seen,
        commands: sender,
        tasks: tasks.clone(),
    };
    let mut refresher = Refresher {
        parts,
        profile,
        sealer,
        view,
        record: None,
        version: 0,
        sealed: None,
        locked: false,
        next: None,
        save_at: None,
        failures: 0,
        save_failures: 0,
        forced_at: None,
    };
    let predecessor = beginning.predecessor;
    if predecessor.is_none() {
        // At once, so that the account's status is right from the first moment.
        refresher.load(beginning.stored);
    }
    let stop = tasks.clone();
    tasks.spawn(
        "token_refresher",
        refresher.run(predecessor, commands, stop),
    );
    handle
}

impl Refresher {
    async fn run(
        mut self,
        predecessor: Option<mpsc::Sender<Command>>,
        mut commands: mpsc::Receiver<Command>,
        tasks: Tasks,
    ) {
        if let Some(predecessor) = predecessor {
            predecessor.closed().await;
            match self.parts.vault.token(&self.profile.name).await {
                Ok(stored) => self.load(stored),
                Err(error) => {
                    tracing::error!(event = "store_failed", error = %error);
                    self.load(None);
                }
            }
        }
        loop {
            let due = [self.next, self.save_at].into_iter().flatten().min();
            tokio::select! {
                biased;
                () = tasks.stopped() => break,
                command = commands.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => break,
                },
                () = until(due) => self.act().await,
            }
        }
        if self.save_at.is_some() {
            self.save().await;
        }
    }

    async fn act(&mut self) {
        let now = Instant::now();
        if self.save_at.is_some_and(|at| at <= now) {
            self.save().await;
        }
        if self.next.is_some_and(|at| at <= now) {
            self.refresh().await;
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Force { stale, reply } => {
                let answer = self.force(stale).await;
                answer_to(reply, answer);
            }
            Command::Wake { generation } => {
                let view = self.view.borrow().clone();
                let same = view
                    .token
                    .is_some_and(|live| live.token.generation == generation);
                if same && view.trouble.is_none() {
                    self.refresh().await;
                }
            }
            Command::Adopt { granted, reply } => {
                let answer = self.adopt(&granted).await;
                answer_to(reply, answer);
            }
            Command::Fetch { reply } => {
                self.locked = false;
                self.refresh().await;
                let trouble = self.view.borrow().trouble.clone();
                answer_to(
                    reply,
                    trouble.map_or(Ok(()), |(_, diagnosis)| Err(diagnosis)),
                );
            }
            Command::SignOut { reply } => {
                let answer = self.sign_out().await;
                answer_to(reply, answer);
            }
            Command::Configure { profile, sealer } => self.configure(profile, sealer).await,
        }
    }

    /// Takes what the store held.
    fn load(&mut self, stored: Option<SealedToken>) {
        let Some(stored) = stored else {
            self.record = None;
            self.consider();
            return;
        };
        self.version = stored.version;
        match self.sealer.open(&stored) {
            Ok(opened) => {
                if opened.previous {
                    tracing::warn!(event = "token_record_damaged", account = %self.profile.name,
                        "the current record cannot be opened; the one before it is used");
                }
                self.sealed = if opened.previous {
                    stored.previous
                } else {
                    Some(stored.record)
                };
                let obtained_at = opened.record.obtained_at;
                self.view
                    .send_modify(|view| view.last_refresh_at = Some(obtained_at));
                self.record = Some(opened.record);
                self.locked = false;
                self.consider();
            }
            Err(unopened) => {
                self.sealed = Some(stored.record);
                self.record = None;
                self.locked = true;
                tracing::error!(event = "token_record_locked", account = %self.profile.name,
                    error = %unopened);
                self.consider();
                if self.profile.account.grant != Grant::ClientCredentials {
                    let diagnosis = self.profile.diagnosis(
                        unopened.to_string(),
                        "restore the key that sealed it and reload, or sign in again: \
                         gatepost login ACCOUNT",
                    );
                    self.rest(Severity::SignIn, diagnosis);
                }
            }
        }
    }

    /// Decides, after tokens or configuration changed, what there is to do: serve the access token
    /// at hand, get one now, or wait for a person.
    fn consider(&mut self) {
        self.failures = 0;
        self.forced_at = None;
        if let Err(diagnosis) = self.way() {
            self.rest(Severity::SignIn, diagnosis);
            return;
        }
        let revived = self.record.as_ref().and_then(|record| self.revive(record));
        match revived {
            Some((live, due)) => {
                self.next = Some(due);
                self.view.send_modify(|view| {
                    view.token = Some(live);
                    view.trouble = None;
                    view.busy = false;
                });
            }
            None => {
                self.next = Some(Instant::now());
                self.view.send_modify(|view| {
                    view.token = None;
                    view.trouble = None;
                    view.busy = true;
                });
            }
        }
    }

    /// The stored access token, if it may be used for what is configured now, and when to refresh.
    fn revive(&self, record: &Record) -> Option<(Live, Instant)> {
        let token = record.access_token.clone()?;
        let provider = &self.profile.provider;
        let same = record.token_url == provider.token_url.as_str()
            && record.client_id == provider.client_id
            && record.asked_scope == self.profile.unattended_scope();
        let wall = self.parts.clock.now();
        let (age, left) = state::revive(record.obtained_at, record.expires_at, wall)?;
        let due = state::refresh_after(age + left, Chance::draw()).saturating_sub(age);
        let now = Instant::now();
        let live = Live {
            token: self.generation(token),
            ends: now + left,
            expires_at: record.expires_at,
        };
        same.then_some((live, now + due))
    }

    fn generation(&self, token: Secret) -> AccessToken {
        let generation = self.parts.generations.fetch_add(1, Ordering::Relaxed) + 1;
        AccessToken { token, generation }
    }

    /// The refresh token to use; `None`: none is needed.
    fn way(&self) -> Result<Option<Secret>, Diagnosis> {
        if self.profile.account.grant == Grant::ClientCredentials {
            return Ok(None);
        }
        let record = self.record.as_ref();
        let Some((record, token)) = record.and_then(|r| Some((r, r.refresh_token.clone()?))) else {
            return Err(self
                .profile
                .diagnosis("not signed in", "sign in: gatepost login ACCOUNT"));
        };
        let from = url::Url::parse(&record.token_url).map(|url| url.origin());
        if from.ok() != Some(self.profile.provider.token_url.origin()) {
            return Err(self.profile.diagnosis(
                "the sign-in belongs to another provider than the one configured now",
                "sign in again: gatepost login ACCOUNT",
            ));
        }
        Ok(Some(token))
    }

    /// One request for a token, and everything that follows from its answer.
    async fn refresh(&mut self) {
        let way = match self.way() {
            Ok(way) => way,
            Err(diagnosis) => return self.rest(Severity::SignIn, diagnosis),
        };
        self.next = None;
        self.view.send_modify(|view| view.busy = true);
        let started = Instant::now();
        let profile = Arc::clone(&self.profile);
        let answer = match &way {
            Some(token) => self.parts.grants.refresh(&profile, token).await,
            None => self.parts.grants.client_credentials(&profile).await,
        };
        match answer {
            Ok(granted) => self.take(&granted, way, started).await,
            Err(failure) => self.refused(*failure),
        }
    }

    /// A new access token, perhaps with a new refresh token: sealed, stored, then handed out.
    async fn take(&mut self, granted: &Granted, before: Option<Secret>, asked: Instant) {
        let life = state::life(granted.expires_in);
        let rotated = granted.refresh().is_some();
        let record = self.record_of(granted, before, life);
        let token = granted.access_token().secret().as_str();
        let live = Live {
            token: self.generation(Secret::new(token)),
            // Counted from before the request: the provider's count began no earlier.
            ends: asked + life,
            expires_at: record.expires_at,
        };
        let obtained_at = record.obtained_at;
        self.record = Some(record);
        self.save().await;
        self.failures = 0;
        self.next = Some(asked + state::refresh_after(life, Chance::draw()));
        self.view.send_modify(|view| {
            view.token = Some(live);
            view.trouble = None;
            view.busy = false;
            view.last_refresh_at = Some(obtained_at);
        });
        self.count("refreshed");
        tracing::info!(event = "token_refreshed", account = %self.profile.name,
            provider = %self.profile.provider_name, expires_in_s = life.as_secs(), rotated,
            elapsed_ms = millis(asked));
    }

    fn record_of(
        &self,
        granted: &Granted,
        before: Option<Secret>,
        life: std::time::Duration,
    ) -> Record {
        let now = self.parts.clock.now();
        let after = |span: std::time::Duration| {
            let span = SignedDuration::try_from(span).unwrap_or_default();
            now.saturating_add(span).unwrap_or(now)
        };
        let ends = granted.refresh_token_expires_in;
        Record {
            refresh_token: granted.refresh().map(Secret::new).or(before),
            access_token: Some(Secret::new(granted.access_token().secret().as_str())),
            obtained_at: now,
            expires_at: after(life),
            scope: granted.scope.clone(),
            token_url: self.profile.provider.token_url.to_string(),
            client_id: self.profile.provider.client_id.clone(),
            asked_scope: self.profile.unattended_scope().into_owned(),
            consent_ends_at: ends.map(|s| after(std::time::Duration::from_secs(s))),
        }
    }

    /// A request failed: when to try again follows from how.
    fn refused(&mut self, failure: Failure) {
        let Failure {
            severity,
            diagnosis,
            retry_after,
            code,
            aadsts,
            trace_id,
        } = failure;
        let now = Instant::now();
        let wait = match severity {
            Severity::Transient => {
                self.failures = self.failures.saturating_add(1);
                Some(state::backoff(self.failures, retry_after, Chance::draw()))
            }
            Severity::Mend => Some(state::PROBE_EVERY),
            Severity::SignIn => None,
        };
        self.next = wait.map(|wait| now + wait);
        let retry_in_s = wait.map(|wait| wait.as_secs());
        let reason = diagnosis.to_string();
        let (account, provider) = (&self.profile.name, &self.profile.provider_name);
        let trace_id = trace_id.unwrap_or_default();
        if severity == Severity::Transient {
            self.count("retrying");
            tracing::warn!(event = "token_refused", %account, %provider, error = %code, aadsts,
                trace_id, retry_in_s, reason);
        } else {
            self.count("refused");
            tracing::error!(event = "token_refused", %account, %provider, error = %code, aadsts,
                trace_id, retry_in_s, reason);
        }
        self.view.send_modify(|view| {
            view.trouble = Some((severity, diagnosis));
            view.busy = false;
        });
    }

    /// Nothing to do until a person acts.
    fn rest(&mut self, severity: Severity, diagnosis: Diagnosis) {
        self.next = None;
        self.view.send_modify(|view| {
            view.trouble = Some((severity, diagnosis));
            view.token = None;
            view.busy = false;
        });
    }

    fn count(&self, result: &'static str) {
        let family = &self.parts.metrics.token_refreshes;
        family.get_or_create(&[("result", result)]).inc();
    }

    /// Seals and stores the record. Failing, the record stored before stays and this is tried again.
    async fn save(&mut self) {
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

    /// A token newer than `stale`: the one at hand, or one by a forced refresh, of which there is
    /// one in [`state::FORCED_EVERY`].
    async fn force(&mut self, stale: u64) -> Result<AccessToken, TokenError> {
        let now = Instant::now();
        let wall = self.parts.clock.now();
        let served = self.view.borrow().serve(now, wall);
        match served {
            Serve::Token(token) if token.generation != stale => return Ok(token),
            Serve::Refused(error) => return Err(error),
            Serve::Token(_) | Serve::Wait | Serve::Wake(_) => {}
        }
        let waiting = self.view.borrow().trouble.clone();
        if let Some((_, diagnosis)) = waiting {
            return Err(TokenError::Retrying(diagnosis));
        }
        if self
            .forced_at
            .is_some_and(|at| now - at < state::FORCED_EVERY)
        {
            return Err(TokenError::Retrying(self.profile.diagnosis(
                "the mail server refuses a token that was refreshed moments ago",
                "check the mailbox, its permissions and the scope: gatepost test ACCOUNT",
            )));
        }
        self.forced_at = Some(now);
        self.refresh().await;
        let served = self
            .view
            .borrow()
            .serve(Instant::now(), self.parts.clock.now());
        let trouble = self.view.borrow().trouble.clone();
        match (served, trouble) {
            (Serve::Refused(error), _) => Err(error),
            (_, Some((_, diagnosis))) => Err(TokenError::Retrying(diagnosis)),
            (Serve::Token(token), None) => Ok(token),
            (Serve::Wait | Serve::Wake(_), None) => {
                let said = "the new token has already expired";
                let clock = "check this machine's clock";
                Err(TokenError::Retrying(self.profile.diagnosis(said, clock)))
            }
        }
    }

    async fn configure(&mut self, profile: Arc<Profile>, sealer: Arc<Sealer>) {
        self.profile = profile;
        let other_key = *self.sealer != *sealer;
        self.sealer = sealer;
        if self.locked {
            match self.parts.vault.token(&self.profile.name).await {
                Ok(stored) => return self.load(stored),
                Err(error) => tracing::error!(event = "store_failed", error = %error),
            }
        }
        if other_key && self.record.is_some() {
            self.save().await;
        }
        self.consider();
    }
}

/// A caller may have gone away; then nobody needs the answer.
fn answer_to<T>(reply: oneshot::Sender<T>, answer: T) {
    drop(reply.send(answer));
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
