//! Getting mail out: a lane an account, attempts over pooled authenticated connections, one verdict
//! table.
//!
//! Meets `submission` nowhere but in the queue.

mod attempt;
mod bounce;
mod doctor;
mod examine_api;
mod gate;
mod lane;
mod limits;
mod notice;
mod over;
mod plan;
mod pool;
mod probe;
mod sender;
mod sign_in;
mod storm;
mod transport;
pub mod verdict;
mod width;

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU32,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use tokio::sync::watch;

use self::lane::{Common, Lane};
pub use self::{
    sender::{Rewrite, SenderRule},
    transport::{Answers, Api, Cause, Failure, Head, Job, Phase},
};
use crate::{
    clock::Clock,
    mail::{AccountName, Address, QueueId, Reply},
    net::tasks::Tasks,
    oauth::{Diagnosis, Kind, Oauth, Service},
    queue::{Queue, Settlement},
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
    /// Reports that one address gets within an hour; beyond it failed messages are held. None: no
    /// limit.
    pub bounces_per_hour: Option<NonZeroU32>,
    /// After this a sender is told that mail is late.
    pub delay_warning: Duration,
    /// What follows when the final reply was lost.
    pub on_uncertain: OnUncertain,
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

/// What follows when a connection broke between the end of the data and the provider's reply: the
/// message may have been taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnUncertain {
    /// Tried again with the same Message-ID: perhaps twice, never lost.
    #[default]
    Retry,
    /// Held, so that a person looks whether it has arrived.
    Hold,
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
    /// By which way its mail goes.
    pub transport: Transport,
    /// The smarthost. Where mail goes by an API alone it is never spoken to.
    pub smtp: Smarthost,
    /// Pace.
    pub limits: Limits,
    /// As whom its mail leaves.
    pub sender: SenderRule,
    /// The account that sends its mail while it is on hold or over its daily limit.
    pub fallback: Option<AccountName>,
    /// Whether an operator has stopped it: nothing is sent until the operator lets it go on.
    pub is_stopped: bool,
}

/// By which way an account's mail goes.
#[derive(Debug, Clone, PartialEq)]
pub enum Transport {
    /// SMTP submission.
    Smtp,
    /// An API.
    Api(Api),
    /// SMTP, and the API while SMTP is switched off at the provider.
    Auto(Api),
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
    /// Recipients of one transaction; a message for more goes in several.
    pub recipients_per_message: usize,
}

/// How an account's lane stands. Holds no secret.
#[derive(Debug, Clone, PartialEq)]
pub struct LaneStatus {
    /// On hold: mail waits, nothing bounces, no retries burn.
    pub held: Option<Diagnosis>,
    /// On hold until a person releases it, and no other account stands in.
    pub awaits_release: bool,
    /// Not before then (throttled, or the connection failed).
    pub paused_until: Option<Timestamp>,
    /// The server or a token could not be had, and no message has passed since.
    pub failing: bool,
    /// What last kept the account from sending; it says why while there is a pause, and may be over
    /// else.
    pub trouble: String,
    /// When a message last went out.
    pub last_delivery_at: Option<Timestamp>,
    /// The pace as configured.
    pub limits: Limits,
    /// The pace now.
    pub pace: PaceStatus,
    /// Mail goes by the API although SMTP comes first.
    pub switched: Option<Switched>,
}

/// An account's pace now. A throttling reply lowers it; it recovers by itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PaceStatus {
    /// Upstream connections at once now.
    pub connections_now: usize,
    /// Messages a minute now; none: unlimited.
    pub messages_per_minute_now: Option<f64>,
    /// Whether the provider has slowed the account down.
    pub throttled: bool,
    /// Recipients of the last 24 hours; none: not counted, because there is no limit.
    pub recipients_last_day: Option<u32>,
}

/// Why mail goes by another way than the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switched {
    /// What carries it now.
    pub to: Service,
    /// Since when.
    pub since: Timestamp,
    /// What the first way says.
    pub diagnosis: Diagnosis,
}

/// One step of a test message, told as it happens.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ProbeStep {
    /// `token`, `connect`, `tls`, `ehlo`, `auth`, `mail`, `rcpt`, `data`; of an examination also
    /// `endpoint`, `offers` and `switch`.
    pub step: String,
    /// Whether it went well.
    pub ok: bool,
    /// What was seen (the reply, the TLS version), or what is wrong and the remedy.
    pub detail: String,
    /// Milliseconds it took.
    pub elapsed_ms: u64,
}

/// The lanes. Clones share them.
#[derive(Debug, Clone)]
pub struct Delivery {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    parts: Parts,
    lanes: Mutex<BTreeMap<AccountName, Arc<Lane>>>,
    /// Outcomes that the store did not take: those messages are not sent again, by no lane.
    unsettled: Mutex<HashMap<QueueId, Settlement>>,
    /// Reports sent of late, of all accounts: a storm goes by more than one.
    reports: Mutex<storm::Reports>,
    progress: AtomicU64,
}

impl Inner {
    fn lane(&self, account: &AccountName) -> Option<Arc<Lane>> {
        self.lanes().get(account).cloned()
    }

    fn lanes(&self) -> MutexGuard<'_, BTreeMap<AccountName, Arc<Lane>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reports(&self) -> MutexGuard<'_, storm::Reports> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unsettled(&self) -> MutexGuard<'_, HashMap<QueueId, Settlement>> {
        let unsettled = self.unsettled.lock();
        unsettled.unwrap_or_else(PoisonError::into_inner)
    }
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

impl Delivery {
    /// Starts a lane an account. When told to stop, lanes finish the transactions under way, settle
    /// them and give the rest back.
    #[must_use]
    pub fn start(config: Config, parts: Parts) -> Self {
        let delivery = Self {
            inner: Arc::new(Inner {
                lanes: Mutex::default(),
                unsettled: Mutex::default(),
                reports: Mutex::default(),
                progress: AtomicU64::new(0),
                parts,
            }),
        };
        delivery.reconfigure(config);
        let tended = delivery.clone();
        let tasks = delivery.inner.parts.tasks.clone();
        delivery.inner.parts.tasks.spawn("delivery", async move {
            let mut ticks = tokio::time::interval(TEND_EVERY);
            let mut slow_ticks = tokio::time::interval(QUEUE_TENDED_EVERY);
            loop {
                tokio::select! {
                    () = tasks.stopped() => return,
                    _ = ticks.tick() => tended.tend(),
                    // A task of its own: a slow disk is not taken for lanes that stand still.
                    _ = slow_ticks.tick() => {
                        let queue = tended.inner.parts.queue.clone();
                        tasks.spawn("queue_tended", async move { queue.tend().await });
                    }
                }
            }
        });
        delivery
    }

    /// Lanes that send nothing: for looking at accounts while no daemon runs.
    #[must_use]
    pub fn at_rest(config: Config, parts: Parts) -> Self {
        parts.tasks.stop();
        let delivery = Self {
            inner: Arc::new(Inner {
                lanes: Mutex::default(),
                unsettled: Mutex::default(),
                reports: Mutex::default(),
                progress: AtomicU64::new(0),
                parts,
            }),
        };
        delivery.reconfigure(config);
        delivery
    }

    /// Takes a new configuration: unchanged lanes go on, changed ones drain and restart.
    pub fn reconfigure(&self, config: Config) {
        let common = Common {
            hostname: config.hostname,
            bounce_to: config.bounce_to,
            bounces_per_hour: config.bounces_per_hour,
            delay_warning: config.delay_warning,
            on_uncertain: config.on_uncertain,
        };
        let mut lanes = self.inner.lanes();
        let mut before = std::mem::take(&mut *lanes);
        for account in config.accounts {
            let name = account.name.clone();
            let lane = match before.remove(&name) {
                Some(lane) if lane.account == account && lane.common == common => lane,
                changed => {
                    let drained = changed.map(|lane| lane.stop());
                    Lane::start(account, common.clone(), &self.inner, drained)
                }
            };
            lanes.insert(name, lane);
        }
        for lane in before.into_values() {
            lane.stop();
        }
    }

    /// How an account's lane stands; `None`: no such account.
    #[must_use]
    pub fn status(&self, account: &AccountName) -> Option<LaneStatus> {
        self.inner.lane(account).map(|lane| lane.status())
    }

    /// What a person does about the reason with which a message of `account` waits; none: nothing.
    #[must_use]
    pub fn remedy(&self, account: &AccountName, reason: &str) -> Option<String> {
        let lane = self.inner.lane(account)?;
        let verdict = verdict::told_as(lane.account.kind, reason)?;
        Some(lane.remedy(&verdict)).filter(|remedy| !remedy.is_empty())
    }

    /// What a reply about a recipient means; none: it is good news.
    #[must_use]
    pub fn explain(&self, account: &AccountName, reply: &Reply) -> Option<Diagnosis> {
        let lane = self.inner.lane(account)?;
        let verdict = verdict::judge(lane.account.kind, Phase::Rcpt, reply);
        (!reply.is_positive()).then(|| Diagnosis {
            reason: verdict.reason.to_owned(),
            remedy: lane.remedy(&verdict),
        })
    }

    /// Ends a hold or a pause at once (`gatepost queue retry|release --account`).
    pub fn wake(&self, account: &AccountName) {
        if let Some(lane) = self.inner.lane(account) {
            lane.wake();
        }
    }

    /// Sends one test message past the queue, telling each step. The last step says how it ended.
    pub async fn probe(&self, account: &AccountName, to: Address) -> Vec<ProbeStep> {
        let told = watch::Sender::default();
        self.probe_telling(account, to, &told).await;
        told.send_replace(Vec::new())
    }

    /// The same with each step in `told` as it happens; one that turns out to mean something else is
    /// replaced by its meaning.
    pub async fn probe_telling(
        &self,
        account: &AccountName,
        to: Address,
        told: &watch::Sender<Vec<ProbeStep>>,
    ) {
        let Some(lane) = self.inner.lane(account) else {
            let step = ProbeStep {
                step: "connect".to_owned(),
                ok: false,
                detail: format!("there is no account {account}"),
                elapsed_ms: 0,
            };
            return told.send_modify(|told| told.push(step));
        };
        let id = self.inner.parts.queue.next_id();
        lane.probe(&to, id, told).await;
    }

    /// Looks at each step of an account's way but the message, and names the switch that is off. The
    /// steps called `switch` are that. `None`: no such account.
    pub async fn examine(&self, account: &AccountName) -> Option<Vec<ProbeStep>> {
        let told = watch::Sender::default();
        let lane = self.inner.lane(account)?;
        lane.examine(&told).await;
        Some(told.send_replace(Vec::new()))
    }

    /// The same with each step in `told` as it happens; none: no such account.
    pub async fn examine_telling(
        &self,
        account: &AccountName,
        told: &watch::Sender<Vec<ProbeStep>>,
    ) {
        if let Some(lane) = self.inner.lane(account) {
            lane.examine(told).await;
        }
    }

    /// A number that rises while the lanes turn; the watchdog compares it.
    #[must_use]
    pub fn progress(&self) -> u64 {
        self.inner.progress.load(Ordering::Relaxed)
    }

    /// Looks after every lane; that this returns is what [`Delivery::progress`] shows.
    fn tend(&self) {
        let lanes: Vec<_> = self.inner.lanes().values().cloned().collect();
        let mut slowed = BTreeMap::from(SLOWED.map(|how| (how, 0)));
        for lane in lanes {
            lane.tend();
            if let Some(count) = lane.slowed().and_then(|how| slowed.get_mut(how)) {
                *count += 1;
            }
        }
        let gauges = &self.inner.parts.metrics.accounts_slowed;
        for (how, count) in slowed {
            gauges.get_or_create(&[("how", how)]).set(count);
        }
        self.inner.progress.fetch_add(1, Ordering::Relaxed);
    }
}

/// What an account does instead of sending at full pace, for the metric.
const SLOWED: [&str; 5] = ["held", "token", "paused", "quota", "throttled"];
/// The queue's housekeeping.
const QUEUE_TENDED_EVERY: Duration = Duration::from_secs(60);
/// Often enough for idle connections and for a watchdog of 30 s.
const TEND_EVERY: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
