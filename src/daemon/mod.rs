//! Builds bottom-up, starts, reloads, drains: the only file that knows everyone.
//!
//! Start: metrics, store, what was made in the console and with it the whole configuration, queue,
//! tokens, lanes, control surface, listeners. What can fail for
//! reasons of this machine (a port in use) comes after the store's lock is held and before the
//! first client is greeted. Stop: the other way round, each part within its share of the drain
//! limit; whatever is unfinished then is in the store.

pub(crate) mod beginning;
mod change;
mod reload;
pub mod supervise;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use beginning::Beginning;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::mpsc;

use crate::{
    admin::{self, Admin},
    clock::{Clock, SystemClock},
    config::{Config, Foundation, Sources},
    delivery::{self, Delivery},
    net::tasks::Tasks,
    notify::{self, Notifier},
    oauth::Oauth,
    queue::Queue,
    registry::Registry,
    submission::{self, Submission},
    telemetry::Metrics,
};

/// Sessions finish the transaction under way; a 25 MiB upload over a slow line takes a while.
const SUBMISSION_DRAIN_MAX: Duration = Duration::from_secs(12);
/// Lanes finish and settle the transactions under way.
const DELIVERY_DRAIN_MAX: Duration = Duration::from_secs(10);
/// Answers of the control surface, refreshes of tokens. The three together stay below 30 s, which is
/// what container runtimes are told to wait.
const REST_DRAIN_MAX: Duration = Duration::from_secs(3);
/// Notices that wait for the queue; their workers wait behind.
const NOTICES_WAITING_MAX: usize = 1;
/// Reloads that may wait: one runs, one waits with the newest file, more would read the same.
const RELOADS_WAITING_MAX: usize = 1;
/// Changes from the console that may wait: each is one person's or one program's.
const CHANGES_WAITING_MAX: usize = 16;
/// A crash may forget so much of when API keys were used.
const KEY_USES_KEPT_EVERY: Duration = Duration::from_secs(600);

/// As many descriptors as the system lets us have: the soft limit of 1024 is meant for programs that
/// use select(2), and a session takes one.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(event = "descriptor_limit", %error, "keeping the limit as it is");
    }
}

/// A running daemon. Its parts are shared handles.
#[derive(Debug, Clone)]
pub struct Daemon {
    /// Accept, lease, settle.
    pub queue: Queue,
    /// Tokens.
    pub oauth: Oauth,
    /// Lanes.
    pub delivery: Delivery,
    /// Listeners.
    pub submission: Submission,
    /// The console's bound TCP address.
    pub console: Option<SocketAddr>,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    admin: Admin,
    notify: Notifier,
    owners: Owners,
    sources: Sources,
    /// The configuration in force. An async lock: it also makes reloads take turns.
    config: tokio::sync::Mutex<Config>,
    /// What was made in the console.
    registry: Registry,
}

/// The task sets, one a part, so that each can be drained in its turn.
#[derive(Debug, Default)]
struct Owners {
    submission: Tasks,
    delivery: Tasks,
    oauth: Tasks,
    admin: Tasks,
}

impl Daemon {
    /// Builds every part bottom-up and starts it. `Ok`: listeners are bound, the store is open.
    ///
    /// # Errors
    /// Whatever part could not start, with the remedy. Parts that had started are drained.
    pub async fn start(foundation: Foundation, sources: Sources) -> anyhow::Result<Self> {
        raise_descriptor_limit();
        let owners = Owners::default();
        let started = Box::pin(build(foundation, sources, &owners)).await;
        match started {
            Ok(built) => Ok(built.into_daemon(owners)),
            Err(error) => {
                owners.drain().await;
                Err(error)
            }
        }
    }

    /// Reads the configuration again and applies it; on an error the old one stays in force.
    ///
    /// # Errors
    /// Every problem.
    pub async fn reload(&self) -> anyhow::Result<()> {
        match self.reload_all().await {
            Ok(_) => Ok(()),
            Err(problems) => Err(anyhow::anyhow!(problems.join("\n"))),
        }
    }

    /// Drains: stop accepting, finish transactions, settle, flush. Returns when all is done or the
    /// drain limit has passed (what is then unfinished is in the store).
    pub async fn stop(&self) {
        self.inner.owners.drain().await;
        if let Err(error) = self.queue.close().await {
            tracing::warn!(event = "journal_kept", %error);
        }
    }

    /// Reloads in a task of the daemon's own, so that whoever asks goes on meanwhile.
    pub(crate) fn reload_in_background<F>(&self, done: F)
    where
        F: FnOnce(bool) + Send + 'static,
    {
        let daemon = self.clone();
        (self.inner.owners.admin).spawn("reload", async move {
            done(daemon.reload_all().await.is_ok());
        });
    }

    /// Where the console is and how to get in; none: there is no console.
    pub(crate) fn invite(&self) -> Option<admin::api::Invitation> {
        self.inner.admin.invite()
    }

    /// Stops accepting at once, without waiting for anybody: after the store has failed.
    pub fn stop_accepting(&self) {
        self.inner.owners.submission.stop();
    }
}

impl Owners {
    /// Top down: nobody is stopped while someone above could still need it.
    async fn drain(&self) {
        for (part, tasks, limit) in [
            ("submission", &self.submission, SUBMISSION_DRAIN_MAX),
            ("delivery", &self.delivery, DELIVERY_DRAIN_MAX),
            ("admin", &self.admin, REST_DRAIN_MAX),
            ("oauth", &self.oauth, REST_DRAIN_MAX),
        ] {
            tasks.stop();
            if tokio::time::timeout(limit, tasks.drained()).await.is_err() {
                tracing::warn!(event = "drain_cut_short", part);
            }
        }
    }
}

/// Everything that has been started, before it is handed out.
struct Built {
    queue: Queue,
    oauth: Oauth,
    delivery: Delivery,
    submission: Submission,
    admin: Admin,
    notify: Notifier,
    config: Config,
    sources: Sources,
    registry: Registry,
    requests: reload::Requests,
}

impl Built {
    fn into_daemon(self, owners: Owners) -> Daemon {
        let daemon = Daemon {
            queue: self.queue,
            oauth: self.oauth,
            delivery: self.delivery,
            submission: self.submission,
            console: self.admin.console(),
            inner: Arc::new(Inner {
                admin: self.admin,
                notify: self.notify,
                owners,
                sources: self.sources,
                config: tokio::sync::Mutex::new(self.config),
                registry: self.registry.clone(),
            }),
        };
        let tasks = &daemon.inner.owners.admin;
        tasks.spawn("reload", reload::serve(daemon.clone(), self.requests));
        tasks.spawn("key_uses", keep_key_uses(self.registry, tasks.clone()));
        daemon
    }
}

/// Stores now and then, and at the end, when API keys were last used.
async fn keep_key_uses(registry: Registry, tasks: Tasks) {
    let mut ticks = tokio::time::interval(KEY_USES_KEPT_EVERY);
    loop {
        let is_over = tokio::select! {
            _ = ticks.tick() => false,
            () = tasks.stopped() => true,
        };
        if let Err(error) = registry.keep_uses().await {
            tracing::warn!(event = "key_uses_unsaved", %error);
        }
        if is_over {
            return;
        }
    }
}

async fn build(foundation: Foundation, sources: Sources, owners: &Owners) -> anyhow::Result<Built> {
    let metrics = Arc::new(Metrics::new());
    let clock: Arc<dyn Clock> = SystemClock::shared();
    let shared = (Arc::clone(&clock), &metrics);
    let beginning = Beginning::open(foundation, &sources, shared).await?;
    let Beginning {
        store,
        registry,
        config,
    } = beginning;
    let queue = Queue::new(
        config.queue.clone(),
        store.clone(),
        Arc::clone(&clock),
        Arc::clone(&metrics),
    );
    queue.keep_traces(config.trace);
    let oauth = Oauth::start(
        config.oauth.clone(),
        store,
        Arc::clone(&clock),
        owners.oauth.clone(),
        Arc::clone(&metrics),
    );
    let oauth = oauth.await.context("tokens cannot be kept")?;
    let delivery = start_delivery(&config, (&queue, &oauth, &clock, &metrics), owners);
    let notify = start_notify(&config, &delivery, &clock, owners, &metrics);
    let (reload, reloads) = mpsc::channel(RELOADS_WAITING_MAX);
    let (changes, changes_wanted) = mpsc::channel(CHANGES_WAITING_MAX);
    let parts = admin::Parts {
        queue: queue.clone(),
        oauth: oauth.clone(),
        delivery: delivery.clone(),
        clock: Arc::clone(&clock),
        tasks: owners.admin.clone(),
        metrics: Arc::clone(&metrics),
        notify: notify.clone(),
        reload,
        registry: registry.clone(),
        changes,
    };
    let admin = Admin::start(&config.admin, view(&config), parts).await?;
    let parts = submission::Parts {
        queue: queue.clone(),
        clock,
        tasks: owners.submission.clone(),
        metrics,
    };
    let listeners = config.listeners.clone();
    let submission = Submission::start(listeners, config.rules.clone(), parts).await?;
    admin.listening(submission.clone());
    Ok(Built {
        queue,
        oauth,
        delivery,
        submission,
        admin,
        notify,
        config,
        sources,
        registry,
        requests: reload::Requests {
            reloads,
            changes: changes_wanted,
        },
    })
}

/// Notices by mail go into the queue like any message; delivery knows the accounts.
fn start_notify(
    config: &Config,
    delivery: &Delivery,
    clock: &Arc<dyn Clock>,
    owners: &Owners,
    metrics: &Arc<Metrics>,
) -> Notifier {
    let (mailbox, requests) = mpsc::channel(NOTICES_WAITING_MAX);
    let mailing = delivery.clone().mail_notices(requests);
    owners.delivery.spawn("notices", mailing);
    // With the control surface: its drain comes late, so that the word of a failed store still goes.
    let parts = notify::Parts {
        clock: Arc::clone(clock),
        tasks: owners.admin.clone(),
        metrics: Arc::clone(metrics),
        mailbox,
    };
    Notifier::start(config.notify.clone(), parts)
}

fn start_delivery(
    config: &Config,
    (queue, oauth, clock, metrics): (&Queue, &Oauth, &Arc<dyn Clock>, &Arc<Metrics>),
    owners: &Owners,
) -> Delivery {
    Delivery::start(
        config.delivery.clone(),
        delivery::Parts {
            queue: queue.clone(),
            oauth: oauth.clone(),
            clock: Arc::clone(clock),
            tasks: owners.delivery.clone(),
            metrics: Arc::clone(metrics),
        },
    )
}

/// What pages and listings show of the configuration.
fn view(config: &Config) -> admin::View {
    let accounts = config.delivery.accounts.iter().map(|account| {
        let grant = config.oauth.accounts.get(&account.name);
        admin::api::AccountFacts {
            name: account.name.clone(),
            mailbox: account.mailbox.clone(),
            provider: grant.map(|grant| grant.provider.clone()),
            grant: grant.map(|grant| grant.grant),
            transport: (&account.transport).into(),
        }
    });
    admin::View {
        accounts: accounts.collect(),
        default_account: config.rules.router.default_account.clone(),
        state_dir: config.store.state_dir.clone(),
        config_file: config.file.clone(),
        public_url: config.admin.public_url.clone(),
        password_hash: config.admin.password_hash.clone(),
        hostname: config.rules.hostname.clone(),
        listeners: config.listeners.clone(),
        settings: config.settings.clone(),
        warnings: config.warnings.clone(),
        written: config.written.clone(),
        providers: (config.oauth.providers.iter())
            .map(|(name, provider)| (name.clone(), provider.into()))
            .collect(),
        redirect_url: config.admin.redirect_url(),
    }
}
