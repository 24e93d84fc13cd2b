//! Getting mail out: a lane an account, attempts over pooled authenticated connections, one verdict
//! table.
//!
//! Meets `submission` nowhere but in the queue.

mod attempt;
mod bounce;
mod lane;
mod limits;
mod transport;
pub mod verdict;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;

use self::lane::Lane;
pub use self::transport::Phase;
use crate::{
    clock::Clock,
    mail::{AccountName, Address},
    net::{tasks::Tasks, tls::client::Connectors},
    oauth::{Diagnosis, Kind, Oauth},
    queue::Queue,
    secret::Secret,
    telemetry::Metrics,
};

/// What delivery needs to know.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Our EHLO name, and Reporting-MTA in DSNs.
    pub hostname: String,
    /// Who is told about failures.
    pub bounce_to: BounceTo,
    /// After this a sender is told that mail is late.
    pub delay_warning: Duration,
    /// Every account.
    pub accounts: Vec<Account>,
}

/// Who is told about failures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BounceTo {
    /// The reverse-path.
    Sender,
    /// This address, whoever sent.
    Address(Address),
    /// Nobody: a message that fails is held instead, so that nothing ends in silence.
    None,
}

/// An account as delivery sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Account {
    /// Its name.
    pub name: AccountName,
    /// The mailbox: the XOAUTH2 user, and the sender of its DSNs.
    pub mailbox: String,
    /// Which rows of the verdict table apply.
    pub kind: Kind,
    /// The smarthost.
    pub smtp: Smarthost,
    /// Pace.
    pub limits: Limits,
}

/// The upstream submission server of an account.
#[derive(Debug, Clone, PartialEq)]
pub struct Smarthost {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// When TLS begins.
    pub tls: Tls,
    /// How we authenticate.
    pub auth: Auth,
    /// Extra trust anchors, PEM.
    pub ca_file: Option<PathBuf>,
}

/// When TLS begins upstream. The certificate is always verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// After STARTTLS; without it nothing is sent.
    Starttls,
    /// At once.
    Implicit,
    /// Never (loopback, or no credentials).
    None,
}

/// How we authenticate upstream.
#[derive(Debug, Clone, PartialEq)]
pub enum Auth {
    /// XOAUTH2 with the account's token.
    Xoauth2 {
        /// `user=`.
        username: String,
    },
    /// OAUTHBEARER (RFC 7628) with the account's token.
    OauthBearer {
        /// The authzid.
        username: String,
    },
    /// PLAIN, or LOGIN where only that is offered.
    Password {
        /// authcid.
        username: String,
        /// The password.
        password: Secret,
    },
    /// Not at all.
    None,
}

/// An account's pace. Presets lie under the provider's published limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Upstream connections at once.
    pub connections: usize,
    /// Messages a minute; none: unlimited.
    pub messages_per_minute: Option<u32>,
    /// Recipients in 24 hours; none: unlimited.
    pub recipients_per_day: Option<u32>,
}

/// How an account's lane stands. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneStatus {
    /// On hold: mail waits, nothing bounces, no retries burn.
    pub held: Option<Diagnosis>,
    /// Not before then (throttled, or the connection failed).
    pub paused_until: Option<Timestamp>,
    /// When a message last went out.
    pub last_delivery_at: Option<Timestamp>,
}

/// One step of a test message, told as it happens.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ProbeStep {
    /// `connect`, `tls`, `ehlo`, `auth`, `mail`, `rcpt`, `data`.
    pub step: String,
    /// Whether it went well.
    pub ok: bool,
    /// What was seen (the reply, the TLS version), or what is wrong and the remedy.
    pub detail: String,
    /// Milliseconds it took.
    pub elapsed_ms: u64,
}

/// What delivery needs of the rest.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Where mail comes from.
    pub queue: Queue,
    /// Where tokens come from.
    pub oauth: Oauth,
    /// Wall clock.
    pub clock: Arc<dyn Clock>,
    /// Owner of the lanes.
    pub tasks: Tasks,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// The lanes. Clones share them.
#[derive(Debug, Clone)]
pub struct Delivery {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    parts: Parts,
    connectors: Connectors,
    lanes: Mutex<BTreeMap<AccountName, Running>>,
    progress: AtomicU64,
}

#[derive(Debug)]
struct Running {
    lane: Arc<Lane>,
    config: Arc<lane::Config>,
    tasks: Tasks,
}

/// How often idle lanes tell that the runtime turns.
const TICK: Duration = Duration::from_secs(5);

impl Delivery {
    /// Starts a lane an account. When told to stop, lanes finish the transactions under way, settle
    /// them and give the rest back.
    #[must_use]
    pub fn start(config: Config, parts: Parts) -> Self {
        let tasks = parts.tasks.clone();
        let inner = Inner {
            parts,
            connectors: Connectors::new(),
            lanes: Mutex::default(),
            progress: AtomicU64::new(0),
        };
        let delivery = Self {
            inner: Arc::new(inner),
        };
        delivery.reconfigure(config);
        let ticking = Arc::clone(&delivery.inner);
        tasks.clone().spawn("delivery_tick", async move {
            while tokio::time::timeout(TICK, tasks.stopped()).await.is_err() {
                ticking.progress.fetch_add(1, Ordering::Relaxed);
            }
        });
        delivery
    }

    /// Takes a new configuration: unchanged lanes go on, changed ones drain and restart.
    pub fn reconfigure(&self, config: Config) {
        let inner = &self.inner;
        let mut lanes = inner.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *lanes);
        for account in config.accounts {
            let name = account.name.clone();
            let wanted = lane::Config {
                hostname: config.hostname.clone(),
                bounce_to: config.bounce_to.clone(),
                account,
            };
            let running = match before.remove(&name) {
                Some(running) if *running.config == wanted => running,
                changed => {
                    if let Some(changed) = changed {
                        changed.tasks.stop();
                    }
                    self.run(wanted)
                }
            };
            lanes.insert(name, running);
        }
        before.values().for_each(|gone| gone.tasks.stop());
    }

    fn run(&self, config: lane::Config) -> Running {
        let config = Arc::new(config);
        let tasks = self.inner.parts.tasks.child();
        let parts = Parts {
            tasks: tasks.clone(),
            ..self.inner.parts.clone()
        };
        let lane = Lane::new(Arc::clone(&config), parts, self.inner.connectors.clone());
        tasks.spawn("lane", Arc::clone(&lane).run());
        Running {
            lane,
            config,
            tasks,
        }
    }

    fn lane(&self, account: &AccountName) -> Option<Arc<Lane>> {
        let lanes = self
            .inner
            .lanes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        lanes.get(account).map(|running| Arc::clone(&running.lane))
    }

    /// How an account's lane stands; `None`: no such account.
    #[must_use]
    pub fn status(&self, account: &AccountName) -> Option<LaneStatus> {
        self.lane(account).map(|lane| lane.status())
    }

    /// Ends a hold or a pause at once (`gatepost queue retry|release --account`).
    pub fn wake(&self, account: &AccountName) {
        if let Some(lane) = self.lane(account) {
            lane.wake();
        }
    }

    /// Sends one test message past the queue, telling each step. The last step says how it ended.
    pub async fn probe(&self, account: &AccountName, to: Address) -> Vec<ProbeStep> {
        match self.lane(account) {
            Some(lane) => lane.probe(to).await,
            None => vec![ProbeStep {
                step: "connect".to_owned(),
                ok: false,
                detail: format!("no account is called {account}; `gatepost accounts` lists them"),
                elapsed_ms: 0,
            }],
        }
    }

    /// A number that rises while the lanes turn; the watchdog compares it.
    #[must_use]
    pub fn progress(&self) -> u64 {
        self.inner.progress.load(Ordering::Relaxed)
    }
}
