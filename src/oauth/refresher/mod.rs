//! One task an account owns its tokens: every request that uses its refresh token goes through here,
//! one after the other, so that no refresh token is ever used twice at the same time.
//!
//! Order on success: seal, store (durable), then hand out. When the disk is full the stored record
//! stays as it was, the new tokens serve from memory, and storing is tried again until it succeeds.
//! On an error nothing is deleted.

mod fetch;
mod person;
mod view;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

pub(super) use person::{Gathered, check_sign_in, gather};
use view::{Live, Slot};
pub(super) use view::{Serve, View};

use super::{
    AccessToken, Diagnosis, Error, Service, TokenError,
    error::Severity,
    grant::{Grants, Profile},
    identity::Subject,
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
        service: Service,
        stale: u64,
        reply: oneshot::Sender<Result<AccessToken, TokenError>>,
    },
    /// See [`Serve::Wake`].
    Wake { service: Service, generation: u64 },
    /// A person signed in.
    Adopt {
        granted: Box<Granted>,
        /// Who, where the provider says.
        subject: Option<Subject>,
        reply: oneshot::Sender<Result<(), Diagnosis>>,
    },
    /// Somebody signed in whom the account does not want: shown while it waits for a sign-in.
    Remark { diagnosis: Diagnosis },
    /// Get every token now, whatever was wrong before (no person is needed).
    Fetch {
        reply: oneshot::Sender<Result<(), Diagnosis>>,
    },
    /// Forget everything.
    SignOut {
        reply: oneshot::Sender<Result<Option<Diagnosis>, Error>>,
    },
    /// Seal the record with the first key of this sealer; whether it is stored so.
    Reseal {
        sealer: Arc<Sealer>,
        reply: oneshot::Sender<bool>,
    },
    /// The configuration changed.
    Configure {
        profile: Arc<Profile>,
        sealer: Arc<Sealer>,
        /// What a sign-in with just this profile has brought.
        arrived: Option<Box<Arrived>>,
    },
    /// A sign-in with the profile as it is has brought this.
    Take { arrived: Box<Arrived> },
}

/// What the sign-in of a draft has brought, for a refresher that now has that profile.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) gathered: Gathered,
    pub(super) reply: oneshot::Sender<Result<(), Diagnosis>>,
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
    /// What a sign-in has brought, which is newer than what is stored.
    pub(super) arrived: Option<Arrived>,
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
    /// One for each service of the account.
    schedules: BTreeMap<Service, Schedule>,
    /// When to try storing again; none: everything is stored.
    save_at: Option<Instant>,
    save_failures: u32,
    /// How far each warning about what ends has come when it was last told.
    warned: Vec<usize>,
}

/// When what happens to the token for one service.
#[derive(Debug, Default)]
struct Schedule {
    /// When to refresh or to probe.
    next: Option<Instant>,
    /// Transient failures in a row.
    failures: u32,
    /// When a server's refusal last forced a refresh.
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
    let (view, seen) = watch::channel(View::default());
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
        schedules: BTreeMap::new(),
        save_at: None,
        save_failures: 0,
        warned: Vec::new(),
    };
    let Beginning {
        stored,
        predecessor,
        arrived,
    } = beginning;
    if predecessor.is_none() {
        // At once, so that the account's status is right from the first moment.
        refresher.load(stored);
    }
    let stop = tasks.clone();
    let before = (predecessor, arrived);
    tasks.spawn("token_refresher", refresher.run(before, commands, stop));
    handle
}

impl Refresher {
    async fn run(
        mut self,
        (predecessor, arrived): (Option<mpsc::Sender<Command>>, Option<Arrived>),
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
        if let Some(arrived) = arrived {
            self.take_arrived(arrived).await;
        }
        loop {
            let next = self.due().map(|(at, _)| at);
            let due = [next, self.save_at].into_iter().flatten().min();
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
        if let Some((_, service)) = self.due().filter(|(at, _)| *at <= now) {
            self.refresh(service).await;
        }
    }

    /// What is due first, and when.
    fn due(&self) -> Option<(Instant, Service)> {
        let schedules = self.schedules.iter();
        let due = schedules.filter_map(|(service, schedule)| Some((schedule.next?, *service)));
        due.min()
    }

    fn services(&self) -> Vec<Service> {
        self.profile.account.services.keys().copied().collect()
    }

    fn schedule(&mut self, service: Service) -> &mut Schedule {
        self.schedules.entry(service).or_default()
    }

    /// Shows how the token for a service stands.
    fn show(&self, service: Service, change: impl FnOnce(&mut Slot)) {
        self.view
            .send_modify(|view| change(view.slots.entry(service).or_default()));
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Force {
                service,
                stale,
                reply,
            } => {
                let answer = self.force(service, stale).await;
                answer_to(reply, answer);
            }
            Command::Wake {
                service,
                generation,
            } => self.wake(service, generation).await,
            Command::Adopt {
                granted,
                subject,
                reply,
            } => {
                let answer = self.adopt(*granted, subject).await;
                answer_to(reply, answer);
            }
            Command::Remark { diagnosis } => self.remark(&diagnosis),
            Command::Fetch { reply } => {
                self.locked = false;
                for service in self.services() {
                    self.refresh(service).await;
                }
                let trouble = |slot: &Slot| slot.trouble.as_ref().map(|(_, told)| told.clone());
                let trouble = self.view.borrow().slots.values().find_map(trouble);
                answer_to(reply, trouble.map_or(Ok(()), Err));
            }
            Command::SignOut { reply } => {
                let answer = self.sign_out().await;
                answer_to(reply, answer);
            }
            Command::Reseal { sealer, reply } => {
                let stored = self.reseal(sealer).await;
                answer_to(reply, stored);
            }
            Command::Configure {
                profile,
                sealer,
                arrived,
            } => {
                self.configure(profile, sealer).await;
                // Before the tokens of before are shown to anybody.
                if let Some(arrived) = arrived {
                    self.take_arrived(*arrived).await;
                }
            }
            Command::Take { arrived } => self.take_arrived(*arrived).await,
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
                let obtained = opened
                    .record
                    .access
                    .values()
                    .map(|access| access.obtained_at);
                let obtained_at = obtained.max();
                self.view
                    .send_modify(|view| view.last_refresh_at = obtained_at);
                self.record = Some(opened.record);
                let consent = self.consent();
                self.view.send_modify(|view| view.consent = consent);
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
                if !self.profile.account.grant.is_unattended() {
                    let diagnosis = self.profile.diagnosis(
                        unopened.to_string(),
                        "restore the key that sealed it and reload, or sign in again: \
                         gatepost login ACCOUNT",
                    );
                    self.rest(&diagnosis);
                }
            }
        }
    }

    /// Decides, after tokens or configuration changed, what there is to do: serve the access tokens
    /// at hand, get them now, or wait for a person.
    fn consider(&mut self) {
        let services = self.services();
        self.schedules.clear();
        let tokens_kept = self.record.is_some() || self.locked;
        self.view.send_modify(|view| {
            view.tokens_kept = tokens_kept;
            view.slots.retain(|service, _| services.contains(service));
        });
        if let Err(diagnosis) = self.way() {
            self.rest(&diagnosis);
            return;
        }
        for service in services {
            let revived = self.revive(service);
            let (live, due) = match revived {
                Some((live, due)) => (Some(live), due),
                None => (None, Instant::now()),
            };
            self.schedule(service).next = Some(due);
            self.show(service, |slot| {
                slot.busy = live.is_none();
                slot.token = live;
                slot.trouble = None;
            });
        }
    }

    /// The stored access token, if it may be used for what is configured now, and when to refresh.
    fn revive(&self, service: Service) -> Option<(Live, Instant)> {
        let record = self.record.as_ref()?;
        let access = record.access.get(&service)?;
        let provider = &self.profile.provider;
        let same = record.token_url == self.profile.source()
            && record.client_id == provider.client_id
            && access.asked_scope == self.profile.scope(service);
        let wall = self.parts.clock.now();
        let (age, left) = state::revive(access.obtained_at, access.expires_at, wall)?;
        let due = state::refresh_after(age + left, Chance::draw()).saturating_sub(age);
        let now = Instant::now();
        let live = Live {
            token: self.generation(access.token.clone()),
            ends: now + left,
            expires_at: access.expires_at,
        };
        same.then_some((live, now + due))
    }

    fn generation(&self, token: Secret) -> AccessToken {
        let generation = self.parts.generations.fetch_add(1, Ordering::Relaxed) + 1;
        AccessToken { token, generation }
    }

    /// The refresh token to use; `None`: none is needed.
    fn way(&self) -> Result<Option<Secret>, Diagnosis> {
        if self.profile.account.grant.is_unattended() {
            return Ok(None);
        }
        let record = self.record.as_ref();
        let Some((record, token)) = record.and_then(|r| Some((r, r.refresh_token.clone()?))) else {
            return Err(self
                .profile
                .diagnosis("not signed in", "sign in: gatepost login ACCOUNT"));
        };
        if !self.profile.may_show(&record.token_url) {
            return Err(self.profile.diagnosis(
                "the sign-in belongs to another provider than the one configured now",
                "sign in again: gatepost login ACCOUNT",
            ));
        }
        Ok(Some(token))
    }

    /// Nothing to do until a person acts.
    fn rest(&mut self, diagnosis: &Diagnosis) {
        for service in self.services() {
            self.schedule(service).next = None;
            self.show(service, |slot| {
                slot.trouble = Some((Severity::SignIn, diagnosis.clone()));
                slot.token = None;
                slot.busy = false;
            });
        }
    }

    /// Stores the record under another key, the generation before it as well: what an old key opens
    /// is of no use once that key is gone.
    async fn reseal(&mut self, sealer: Arc<Sealer>) -> bool {
        self.sealer = sealer;
        if let Some(record) = self.record.as_ref().filter(|_| !self.locked) {
            let name = &self.profile.name;
            self.sealed = self.sealer.seal(name, self.version, record);
            self.save().await;
        }
        self.save_at.is_none()
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
