//! Tells a person: by webhook, by a command, by mail through another account.
//!
//! Whoever sees the parts ([`Observation`]) hands over what is wrong; [`Conditions`] decides what of
//! it is told; each way has a worker with a bounded queue of its own, so that one that hangs holds
//! up no other. Nothing here decides about mail that is relayed, and nothing waits for a notice.
//!
//! A notice holds no secret: it is made of the diagnoses that `gatepost accounts` shows. Mail
//! addresses are taken out of it unless the log may have them too.

mod command;
mod condition;
mod webhook;
mod words;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use self::words::Sender;
pub use self::{
    condition::{Condition, Conditions, Event, Kind, Notice, Observation, Severity},
    webhook::Webhook,
    words::letter,
};
use crate::{
    clock::Clock,
    mail::{AccountName, Address},
    net::{http::Clients, tasks::Tasks},
    telemetry::Metrics,
};

/// Notices that wait for one way. More are wrong at once only when everything is; the newest are
/// dropped then, and the log has them.
const WAITING_MAX: usize = 64;

/// Who is told, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Posted to.
    pub webhook: Option<Webhook>,
    /// Run, its arguments behind it; empty: none.
    pub command: Vec<String>,
    /// Mailed.
    pub mail: Option<Mail>,
    /// Whether mail addresses may stand in notices.
    pub addresses: bool,
    /// This relay's name.
    pub hostname: String,
}

/// Notices by mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// The account that sends them.
    pub account: AccountName,
    /// Who gets them.
    pub to: Address,
}

/// What this needs of the rest.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Wall clock.
    pub clock: Arc<dyn Clock>,
    /// Owner of the workers.
    pub tasks: Tasks,
    /// Counts what became of notices.
    pub metrics: Arc<Metrics>,
    /// Whoever accepts mail. It lives above this module, so it is a channel.
    pub mailbox: mpsc::Sender<MailRequest>,
}

/// A wish to have a notice mailed, with the place for the answer.
#[derive(Debug)]
pub struct MailRequest {
    /// What.
    pub notice: Notice,
    /// Through whom, to whom.
    pub mail: Mail,
    /// Whether it is in the queue; else why not.
    pub done: oneshot::Sender<Result<String, String>>,
}

/// A way in which people are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// A POST.
    Webhook,
    /// A program.
    Command,
    /// A message.
    Mail,
}

impl Channel {
    /// Every way.
    pub const ALL: [Self; 3] = [Self::Webhook, Self::Command, Self::Mail];

    /// The word for it in events and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Command => "command",
            Self::Mail => "mail",
        }
    }

    fn is_set(self, config: &Config) -> bool {
        match self {
            Self::Webhook => config.webhook.is_some(),
            Self::Command => !config.command.is_empty(),
            Self::Mail => config.mail.is_some(),
        }
    }

    /// Whether it leads where it led before.
    fn is_same(self, old: &Config, new: &Config) -> bool {
        match self {
            Self::Webhook => old.webhook == new.webhook,
            Self::Command => old.command == new.command,
            Self::Mail => old.mail == new.mail,
        }
    }
}

/// What became of a test notice on one way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// Which way.
    pub channel: Channel,
    /// Whether it went well.
    pub ok: bool,
    /// What was seen, or what is wrong.
    pub detail: String,
}

/// Why a notice did not go. Never holds the webhook's URL.
#[derive(Debug)]
struct Failure {
    what: String,
    /// Whether it may go later.
    again: bool,
    /// When the other side wants to be asked again.
    after: Option<Duration>,
}

impl Failure {
    fn last(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            again: false,
            after: None,
        }
    }
}

/// Tells people. Clones share it.
#[derive(Debug, Clone)]
pub struct Notifier {
    inner: Arc<Inner>,
    waiting: [mpsc::Sender<Waiting>; 3],
}

/// A notice that waits for one way.
#[derive(Debug)]
struct Waiting {
    notice: Arc<Notice>,
    /// [`Set::led`] when it was handed over.
    led: u64,
}

/// The ways as they are set.
#[derive(Debug)]
struct Set {
    config: Config,
    /// How often each way was led elsewhere.
    led: [u64; 3],
}

impl Set {
    fn led(&self, channel: Channel) -> u64 {
        let mut ways = Channel::ALL.into_iter().zip(self.led);
        ways.find(|(way, _)| *way == channel)
            .map_or(0, |(_, led)| led)
    }
}

#[derive(Debug)]
struct Inner {
    parts: Parts,
    set: Mutex<Arc<Set>>,
    /// Locked before `set`: what is told and to whom is decided at once.
    conditions: Mutex<Conditions>,
    clients: Clients,
}

impl Notifier {
    /// Starts a worker for each way. When told to stop, each tries once what still waits for it.
    #[must_use]
    pub fn start(config: Config, parts: Parts) -> Self {
        let inner = Arc::new(Inner {
            parts,
            set: Mutex::new(Arc::new(Set {
                config,
                led: [0; 3],
            })),
            conditions: Mutex::default(),
            clients: Clients::default(),
        });
        let waiting = Channel::ALL.map(|channel| {
            let (sender, notices) = mpsc::channel(WAITING_MAX);
            let worker = Worker {
                inner: Arc::clone(&inner),
                channel,
            };
            inner.parts.tasks.spawn("notify", worker.run(notices));
            for result in RESULTS {
                inner.counter(channel, result).inc_by(0);
            }
            sender
        });
        Self { inner, waiting }
    }

    /// Takes a new configuration. Whom a way leads to that is new is told what stands: to them it is
    /// news. What still waits for such a way and stands is told once, therefore.
    pub fn reconfigure(&self, config: Config) {
        let conditions = self.inner.lock_conditions();
        let old = self.inner.set();
        let new = |channel: &Channel| !channel.is_same(&old.config, &config);
        let new: Vec<Channel> = Channel::ALL.into_iter().filter(new).collect();
        let led = Channel::ALL.map(|way| old.led(way) + u64::from(new.contains(&way)));
        let set = Arc::new(Set { config, led });
        *self.inner.lock_set() = Arc::clone(&set);
        if new.is_empty() {
            return;
        }
        for notice in conditions.standing(self.inner.parts.clock.now()) {
            self.tell(&set, &new, notice);
        }
    }

    /// Takes what one look at the parts has seen, and tells what is to be told. Never waits.
    pub fn observe(&self, seen: Observation) {
        let at = self.inner.parts.clock.now();
        let mut conditions = self.inner.lock_conditions();
        let set = self.inner.set();
        for notice in conditions.observe(seen, Instant::now(), at) {
            self.tell(&set, &Channel::ALL, notice);
        }
    }

    /// What each way is set to, without secrets; `None`: it is not set. A webhook's URL is one, and
    /// the arguments of a command may hold one.
    #[must_use]
    pub fn ways(&self) -> Vec<(Channel, Option<String>)> {
        let set = self.inner.set();
        let config = &set.config;
        let set_to = |channel| match channel {
            Channel::Webhook => config
                .webhook
                .as_ref()
                .map(|_| "a URL, kept secret".to_owned()),
            Channel::Command => config
                .command
                .first()
                .map(|program| match config.command.len() {
                    1 => program.clone(),
                    words => format!("{program} and {} more words", words - 1),
                }),
            Channel::Mail => config.mail.as_ref().map(|mail| {
                let Mail { account, to } = mail;
                format!("to {to}, through account {account}")
            }),
        };
        Channel::ALL
            .map(|channel| (channel, set_to(channel)))
            .into()
    }

    /// Sends a test notice, `only` one way or every way that is set, once; what became of each. Empty:
    /// none is set.
    pub async fn test(&self, only: Option<Channel>) -> Vec<Tried> {
        let set = self.inner.set();
        let notice = Notice::test(self.inner.parts.clock.now());
        let is_meant = |way: &Channel| only.is_none_or(|only| *way == only);
        let ways = Channel::ALL.into_iter();
        let ways = ways.filter(|way| way.is_set(&set.config) && is_meant(way));
        let mut tried = Vec::new();
        for channel in ways {
            let sent = self.inner.send(channel, &set.config, &notice).await;
            let ok = sent.is_ok();
            let detail = sent.unwrap_or_else(|failure| failure.what);
            tried.push(Tried {
                channel,
                ok,
                detail,
            });
        }
        tried
    }

    /// Gives a notice to those of `channels` that are set.
    fn tell(&self, set: &Set, channels: &[Channel], notice: Notice) {
        tracing::warn!(
            event = "notice",
            about = notice.event.name(),
            kind = notice.kind.name(),
            account = notice.account.as_ref().map(tracing::field::display),
            title = notice.title,
        );
        let notice = Arc::new(if set.config.addresses {
            notice
        } else {
            without_addresses(notice)
        });
        for (channel, waiting) in Channel::ALL.into_iter().zip(&self.waiting) {
            if !channels.contains(&channel) || !channel.is_set(&set.config) {
                continue;
            }
            let one = Waiting {
                notice: Arc::clone(&notice),
                led: set.led(channel),
            };
            if waiting.try_send(one).is_err() {
                tracing::warn!(
                    event = "notice_dropped",
                    channel = channel.name(),
                    remedy = "too many wait for it: see why it does not take them",
                );
                self.inner.counter(channel, "dropped").inc();
            }
        }
    }
}

fn without_addresses(notice: Notice) -> Notice {
    Notice {
        title: words::without_addresses(&notice.title),
        reason: words::without_addresses(&notice.reason),
        remedy: words::without_addresses(&notice.remedy),
        ..notice
    }
}

/// What can become of a notice on one way.
const RESULTS: [&str; 4] = ["sent", "failed", "dropped", "skipped"];

impl Inner {
    fn set(&self) -> Arc<Set> {
        Arc::clone(&self.lock_set())
    }

    fn lock_conditions(&self) -> std::sync::MutexGuard<'_, Conditions> {
        self.conditions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_set(&self) -> std::sync::MutexGuard<'_, Arc<Set>> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counter(
        &self,
        channel: Channel,
        result: &'static str,
    ) -> prometheus_client::metrics::counter::Counter {
        let labels = [("channel", channel.name()), ("result", result)];
        self.parts.metrics.notices.get_or_create(&labels).clone()
    }

    /// Once, one way; what was seen.
    async fn send(
        &self,
        channel: Channel,
        config: &Config,
        notice: &Notice,
    ) -> Result<String, Failure> {
        let hostname = &config.hostname;
        let json = || words::json(notice, Sender { hostname });
        match (channel, &config.webhook, &config.mail) {
            (Channel::Webhook, Some(webhook), _) => {
                let now = self.parts.clock.now();
                webhook.post(&self.clients, json(), now).await
            }
            (Channel::Command, ..) => command::run(&config.command, notice, &json()).await,
            (Channel::Mail, _, Some(mail)) => self.post(mail.clone(), notice.clone()).await,
            (Channel::Webhook | Channel::Mail, ..) => Err(Failure::last("it is not set any more")),
        }
    }

    async fn post(&self, mail: Mail, notice: Notice) -> Result<String, Failure> {
        let (done, answer) = oneshot::channel();
        let request = MailRequest { notice, mail, done };
        let stopping = || Failure::last("the daemon is stopping");
        let handed = self.parts.mailbox.send(request).await;
        handed.map_err(|_| stopping())?;
        let accepted = answer.await.map_err(|_| stopping())?;
        accepted.map_err(|what| Failure {
            what,
            // The store may take mail again in a moment.
            again: true,
            after: None,
        })
    }
}

/// Sends what waits for one way, in turn.
struct Worker {
    inner: Arc<Inner>,
    channel: Channel,
}

impl Worker {
    async fn run(self, mut notices: mpsc::Receiver<Waiting>) {
        while let Some(waiting) = self.next(&mut notices).await {
            self.deliver(&waiting).await;
        }
    }

    /// The next notice; when told to stop, what waits, then none.
    async fn next(&self, notices: &mut mpsc::Receiver<Waiting>) -> Option<Waiting> {
        tokio::select! {
            notice = notices.recv() => notice,
            () = self.inner.parts.tasks.stopped() => notices.try_recv().ok(),
        }
    }

    /// Until it went, or will never.
    async fn deliver(&self, waiting: &Waiting) {
        let notice = &*waiting.notice;
        let channel = self.channel.name();
        let mut tries = 0;
        let failure = loop {
            let set = self.inner.set();
            if let Some(why) = self.skipped(&set, waiting) {
                tracing::warn!(
                    event = "notice_skipped",
                    channel,
                    kind = notice.kind.name(),
                    why
                );
                self.inner.counter(self.channel, "skipped").inc();
                return;
            }
            let sent = self.inner.send(self.channel, &set.config, notice).await;
            tries += 1;
            let failure = match sent {
                Ok(detail) => {
                    tracing::info!(
                        event = "notice_sent",
                        channel,
                        kind = notice.kind.name(),
                        detail
                    );
                    self.inner.counter(self.channel, "sent").inc();
                    return;
                }
                Err(failure) => failure,
            };
            let pause = webhook::pause(tries).filter(|_| failure.again);
            let Some(pause) = pause else { break failure };
            let pause = pause.max(failure.after.unwrap_or_default());
            tracing::debug!(
                event = "notice_deferred",
                channel,
                tries,
                error = failure.what
            );
            tokio::select! {
                () = tokio::time::sleep(pause.min(webhook::PAUSE_MAX)) => {}
                () = self.inner.parts.tasks.stopped() => break failure,
            }
        };
        tracing::warn!(
            event = "notice_failed",
            channel,
            kind = notice.kind.name(),
            tries,
            error = failure.what,
            remedy = "`gatepost test --notify` tries every way at once",
        );
        self.inner.counter(self.channel, "failed").inc();
    }

    /// Why a notice does not go this way at all.
    fn skipped(&self, set: &Set, waiting: &Waiting) -> Option<&'static str> {
        let notice = &*waiting.notice;
        if !self.channel.is_set(&set.config) {
            return Some("it is not set any more");
        }
        // What is over stands no more, so nothing repeats it.
        if waiting.led != set.led(self.channel) && notice.event != Event::Recovered {
            return Some("the way leads elsewhere since, and was told what stands");
        }
        let mail = set
            .config
            .mail
            .as_ref()
            .filter(|_| self.channel == Channel::Mail)?;
        let is_own = notice.account.as_ref() == Some(&mail.account);
        // An account that has recovered sends, and so does one until its secret ends.
        let can_send = notice.event == Event::Recovered || notice.kind == Kind::Expiring;
        (is_own && !can_send).then_some(
            "it is about the very account that would send it: name another in notify.account, \
             or set notify.webhook or notify.command as well",
        )
    }
}

#[cfg(test)]
mod tests;
