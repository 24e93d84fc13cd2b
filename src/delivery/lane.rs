//! One lane an account: up to `limits.connections` workers, each with a connection it reuses.
//!
//! A worker awaits the settlement of a message before it takes the next, so that a crash can repeat
//! at most one message a connection. Trouble of the account never touches a message: its lease goes
//! back unchanged.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use jiff::SignedDuration;
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use super::{
    Account, Auth, BounceTo, LaneStatus, Parts, ProbeStep,
    attempt::{self, Upshot},
    bounce,
    limits::Pace,
    transport::{
        Cause, Failure, Job, Phase,
        smtp::{Connection, Journal},
    },
    verdict::{Action, judge},
};
use crate::{
    mail::{Address, BodyType, Recipient, ReversePath},
    net::tls::client::Connectors,
    oauth::{AccessToken, Diagnosis, TokenError},
    queue::{Lease, Settlement},
};

/// What a lane is made of.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Config {
    pub(super) hostname: String,
    pub(super) bounce_to: BounceTo,
    pub(super) account: Account,
}

/// An idle connection is closed before the provider closes it.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// Pauses after trouble of the account double from here ..
const PAUSE_FIRST: Duration = Duration::from_secs(1);
/// .. to here.
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// An account on hold is tried again so often: somebody may have mended it at the provider.
const HOLD_PROBE: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(super) struct Lane {
    config: Arc<Config>,
    parts: Parts,
    connectors: Connectors,
    state: Mutex<State>,
    pace: Mutex<Pace>,
    workers: AtomicUsize,
    woken: Notify,
}

#[derive(Debug)]
struct State {
    status: LaneStatus,
    /// Troubles in a row.
    troubles: u32,
    /// No attempt before then.
    closed_until: Option<Instant>,
    /// The token whose refusal was answered with a forced refresh.
    refused: Option<u64>,
}

/// A connection and the token it signed in with.
struct Session {
    connection: Connection,
    generation: u64,
}

/// Why a message could not be tried at all.
enum Trouble {
    /// Wait a little.
    Pause(String),
    /// Wait for a person, a new token, or the next probe.
    Hold(Diagnosis, u64),
}

impl Lane {
    pub(super) fn new(config: Arc<Config>, parts: Parts, connectors: Connectors) -> Arc<Self> {
        let state = State {
            status: LaneStatus {
                held: None,
                paused_until: None,
                last_delivery_at: None,
            },
            troubles: 0,
            closed_until: None,
            refused: None,
        };
        let pace = Mutex::new(Pace::new(config.account.limits.clone(), Instant::now()));
        Arc::new(Self {
            config,
            parts,
            connectors,
            state: Mutex::new(state),
            pace,
            workers: AtomicUsize::new(0),
            woken: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn status(&self) -> LaneStatus {
        self.state().status.clone()
    }

    pub(super) fn wake(&self) {
        self.open_again();
        self.woken.notify_waiters();
    }

    fn open_again(&self) {
        let mut state = self.state();
        state.closed_until = None;
        state.status.paused_until = None;
        state.status.held = None;
    }

    /// The first worker; it starts others while there is more to do than it can.
    pub(super) async fn run(self: Arc<Self>) {
        self.workers.store(1, Ordering::Relaxed);
        self.work(true).await;
    }

    async fn work(self: Arc<Self>, first: bool) {
        let mut session: Option<Session> = None;
        loop {
            if self.parts.tasks.is_stopped() {
                break;
            }
            let lease = tokio::select! {
                () = self.parts.tasks.stopped() => break,
                lease = timeout(IDLE_MAX, self.next()) => lease,
            };
            match lease {
                Ok(lease) => {
                    self.hire();
                    session = self.deliver(lease, session).await;
                }
                Err(_) => {
                    if let Some(idle) = session.take() {
                        idle.connection.quit().await;
                    }
                    if !first {
                        break;
                    }
                }
            }
        }
        self.workers.fetch_sub(1, Ordering::Relaxed);
        if let Some(session) = session {
            session.connection.quit().await;
        }
    }

    /// One more worker for the next message, up to the account's connections.
    fn hire(self: &Arc<Self>) {
        let max = self.config.account.limits.connections;
        let more = |n: usize| (n < max).then_some(n + 1);
        if self
            .workers
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
        {
            let lane = Arc::clone(self);
            self.parts.tasks.spawn("lane_worker", lane_worker(lane));
        }
    }

    /// The next message, once the account may send. Cancel safe.
    async fn next(&self) -> Lease {
        loop {
            self.opened().await;
            let lease = self.parts.queue.lease(&self.config.account.name).await;
            if self.closed_until().is_some() {
                // Closed while we waited: the message goes back.
                continue;
            }
            loop {
                let taken = self.take_pace(&lease);
                let Err(until) = taken else { return lease };
                tokio::time::sleep_until(until).await;
            }
        }
    }

    fn take_pace(&self, lease: &Lease) -> Result<(), Instant> {
        let recipients = u32::try_from(attempt::open(&lease.entry).len()).unwrap_or(u32::MAX);
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.take(recipients, Instant::now())
    }

    fn closed_until(&self) -> Option<Instant> {
        self.state()
            .closed_until
            .filter(|until| *until > Instant::now())
    }

    async fn opened(&self) {
        while let Some(until) = self.closed_until() {
            // Woken, or late enough: either way look again.
            drop(tokio::time::timeout_at(until, self.woken.notified()).await);
        }
    }

    async fn deliver(self: &Arc<Self>, lease: Lease, session: Option<Session>) -> Option<Session> {
        let started = Instant::now();
        let mut reused = session.is_some();
        let mut session = session;
        loop {
            let mut current = match session.take() {
                Some(current) => current,
                None => match self.connect(&mut Journal::silent()).await {
                    Ok(fresh) => fresh,
                    Err(trouble) => {
                        self.close(trouble, &lease);
                        return None;
                    }
                },
            };
            match self.attempt(&lease, &mut current).await {
                // The provider closed an idle connection: no error, once more on a fresh one.
                Err(failure) if reused && !failure.uncertain && failure.cause.is_disconnect() => {
                    reused = false;
                }
                Err(failure) => {
                    self.failed(lease, failure).await;
                    return None;
                }
                Ok((indexes, answers)) => {
                    let (entry, message) = (&lease.entry, &lease.message);
                    let judged = (indexes.as_slice(), answers);
                    let (settlement, upshot) =
                        attempt::settle(&self.config, &self.parts, entry, message, judged);
                    let generation = current.generation;
                    self.settle(lease, settlement, started).await;
                    self.conclude(upshot, generation).await;
                    return current.connection.is_usable().then_some(current);
                }
            }
        }
    }

    async fn attempt(
        &self,
        lease: &Lease,
        session: &mut Session,
    ) -> Result<(Vec<usize>, super::transport::Answers), Failure> {
        let entry = &lease.entry;
        let indexes = attempt::open(entry);
        let recipients = indexes.iter().filter_map(|i| entry.recipients.get(*i));
        let job = Job {
            sender: &entry.reverse_path,
            recipients: recipients.map(|r| &r.recipient).collect(),
            body: entry.body,
            smtputf8: entry.smtputf8,
            ret: entry.ret,
            envid: entry.envid.as_deref(),
            message: &lease.message,
        };
        let answers = session
            .connection
            .transact(&job, std::future::ready(true))
            .await?;
        Ok((indexes, answers))
    }

    /// An authenticated connection. A refused token is answered with exactly one forced refresh.
    async fn connect(&self, journal: &mut Journal) -> Result<Session, Trouble> {
        let account = &self.config.account;
        let oauth = matches!(
            account.smtp.auth,
            Auth::Xoauth2 { .. } | Auth::OauthBearer { .. }
        );
        let mut token = if oauth {
            Some(self.token().await?)
        } else {
            None
        };
        loop {
            self.parts.metrics.upstream_connections.inc();
            let hostname = &self.config.hostname;
            let opened = Connection::open(&account.smtp, hostname, &self.connectors, journal).await;
            let mut connection = opened.map_err(|f| self.trouble(&f, 0).0)?;
            let secret = token.as_ref().map(|t: &AccessToken| &t.token);
            let smtp = &account.smtp;
            let signed_in = connection.authenticate(&smtp.auth, smtp.port, secret).await;
            let generation = token.as_ref().map_or(0, |t| t.generation);
            let Err(failure) = signed_in else {
                return Ok(Session {
                    connection,
                    generation,
                });
            };
            let (trouble, action) = self.trouble(&failure, generation);
            let again = self.state().refused != Some(generation);
            if action != Action::Reauthorise || !oauth || !again {
                return Err(trouble);
            }
            let refreshed = self
                .parts
                .oauth
                .refresh_after(&account.name, generation)
                .await;
            let Ok(fresh) = refreshed else {
                return Err(trouble);
            };
            self.state().refused = Some(fresh.generation);
            token = Some(fresh);
        }
    }

    async fn token(&self) -> Result<AccessToken, Trouble> {
        match self
            .parts
            .oauth
            .access_token(&self.config.account.name)
            .await
        {
            Ok(token) => Ok(token),
            Err(TokenError::SignInNeeded(diagnosis)) => Err(Trouble::Hold(diagnosis, 0)),
            Err(TokenError::Retrying(diagnosis)) => Err(Trouble::Pause(diagnosis.to_string())),
        }
    }

    fn trouble(&self, failure: &Failure, generation: u64) -> (Trouble, Action) {
        let Cause::Refused { reply, challenge } = &failure.cause else {
            return (Trouble::Pause(failure.to_string()), Action::SlowDown);
        };
        let mut verdict = judge(self.config.account.kind, failure.phase, reply);
        let said = match challenge {
            Some(challenge) => format!(" ({reply}; the server explains: {challenge})"),
            None => format!(" ({reply})"),
        };
        verdict.diagnosis.reason.push_str(&said);
        let trouble = match verdict.action {
            Action::Hold | Action::Reauthorise | Action::Bounce => {
                Trouble::Hold(verdict.diagnosis, generation)
            }
            Action::SlowDown | Action::Retry | Action::Delivered => {
                Trouble::Pause(verdict.diagnosis.to_string())
            }
        };
        (trouble, verdict.action)
    }

    /// Nothing is sent for a while; the lease goes back by being dropped.
    fn close(self: &Arc<Self>, trouble: Trouble, lease: &Lease) {
        let queue_id = lease.entry.id;
        match trouble {
            Trouble::Pause(reason) => self.pause(&reason),
            Trouble::Hold(diagnosis, generation) => {
                tracing::debug!(event = "returned", %queue_id);
                self.hold(diagnosis, generation);
            }
        }
    }

    fn pause(&self, reason: &str) {
        let mut state = self.state();
        state.troubles = state.troubles.saturating_add(1);
        let doublings = state.troubles.saturating_sub(1).min(16);
        let wait = PAUSE_FIRST.saturating_mul(1 << doublings).min(PAUSE_MAX);
        let spread = f64::from(getrandom::u32().unwrap_or(0)) / f64::from(u32::MAX);
        let wait = wait.mul_f64(0.8 + 0.4 * spread);
        state.closed_until = Some(Instant::now() + wait);
        let wait = SignedDuration::try_from(wait).unwrap_or_default();
        state.status.paused_until = self.parts.clock.now().checked_add(wait).ok();
        drop(state);
        let account = &self.config.account.name;
        let smarthost = &self.config.account.smtp.host;
        tracing::warn!(event = "paused", %account, smarthost, wait_ms = wait.as_millis(), reason);
    }

    fn hold(self: &Arc<Self>, diagnosis: Diagnosis, generation: u64) {
        let account = self.config.account.name.clone();
        let mut state = self.state();
        let news = state.status.held.as_ref() != Some(&diagnosis);
        state.closed_until = Some(Instant::now() + HOLD_PROBE);
        state.status.held = Some(diagnosis.clone());
        drop(state);
        if news {
            let Diagnosis { reason, remedy } = diagnosis;
            tracing::warn!(event = "held", %account, reason, remedy);
        }
        // Mail flows again by itself the moment there is a new token.
        let (oauth, tasks) = (self.parts.oauth.clone(), self.parts.tasks.clone());
        let lane = Arc::clone(self);
        self.parts.tasks.spawn("lane_hold", async move {
            tokio::select! {
                () = tasks.stopped() => {}
                () = tokio::time::sleep(HOLD_PROBE) => {}
                () = oauth.changed(&account, generation) => lane.wake(),
            }
        });
    }

    async fn failed(&self, lease: Lease, failure: Failure) {
        let error = failure.to_string();
        let started = Instant::now();
        let settlement = if failure.uncertain {
            attempt::uncertain(&self.parts, &lease.entry, &error)
        } else {
            let (entry, message) = (&lease.entry, &lease.message);
            attempt::deferred(&self.config, &self.parts, entry, message, &error)
        };
        tracing::warn!(
            event = "deferred", queue_id = %lease.entry.id, account = %lease.entry.account,
            uncertain = failure.uncertain, error,
        );
        self.settle(lease, settlement, started).await;
        self.pause(&error);
    }

    async fn settle(&self, lease: Lease, settlement: Settlement, started: Instant) {
        let queue_id = lease.entry.id;
        let result = if settlement.counted {
            "done"
        } else {
            "throttled"
        };
        self.parts
            .metrics
            .attempts
            .get_or_create(&[("result", result)])
            .inc();
        let settled = self.parts.queue.settle(lease, settlement).await;
        let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        match settled {
            Ok(()) => tracing::debug!(event = "settled", %queue_id, elapsed_ms),
            Err(error) => tracing::error!(
                event = "store_refused", %queue_id, %error,
                "the outcome is not recorded: the message may be sent again",
            ),
        }
    }

    async fn conclude(self: &Arc<Self>, upshot: Upshot, generation: u64) {
        match upshot {
            Upshot::Fine => {
                let mut state = self.state();
                state.troubles = 0;
                state.refused = None;
                state.status.held = None;
                state.status.paused_until = None;
                state.status.last_delivery_at = Some(self.parts.clock.now());
            }
            Upshot::SlowDown => self.pause("the provider slows us down"),
            Upshot::Hold(diagnosis) => self.hold(diagnosis, generation),
            Upshot::Reauthorise(diagnosis) => {
                let account = &self.config.account.name;
                let first = self.state().refused.replace(generation) != Some(generation);
                let refreshed = first
                    && self
                        .parts
                        .oauth
                        .refresh_after(account, generation)
                        .await
                        .is_ok();
                if !refreshed {
                    self.hold(diagnosis, generation);
                }
            }
        }
    }

    /// A test message past the queue.
    pub(super) async fn probe(&self, to: Address) -> Vec<ProbeStep> {
        let mut journal = Journal::telling();
        let mut session = match self.connect(&mut journal).await {
            Ok(session) => session,
            Err(Trouble::Pause(reason)) => {
                journal.record("auth", false, || reason);
                return journal.take();
            }
            Err(Trouble::Hold(diagnosis, _)) => {
                journal.record("auth", false, || diagnosis.to_string());
                return journal.take();
            }
        };
        let mailbox = &self.config.account.mailbox;
        let text = format!(
            "From: <{mailbox}>\r\nTo: <{to}>\r\nSubject: Gatepost test message\r\n\
             Message-ID: <{}.test@{}>\r\nDate: {}\r\n\r\n\
             This message was sent by `gatepost test`. Mail flows.\r\n",
            self.parts.queue.next_id(),
            self.config.hostname,
            crate::mail::header::date(self.parts.clock.now()),
        );
        let sender = Address::parse(mailbox).map_or(ReversePath::Null, ReversePath::Address);
        let recipient = Recipient::new(to);
        let message = bounce::in_memory(text.into_bytes());
        let job = Job {
            sender: &sender,
            recipients: vec![&recipient],
            body: BodyType::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
            message: &message,
        };
        let answers = session
            .connection
            .transact(&job, std::future::ready(true))
            .await;
        let steps = session.connection.journal();
        match answers {
            Err(failure) => steps.record(failure.phase.name(), false, || failure.to_string()),
            Ok(answers) => {
                for (phase, reply) in answers.iter().filter(|(_, r)| !r.is_positive()) {
                    let verdict = judge(self.config.account.kind, *phase, reply);
                    let detail = || format!("{reply}: {}", verdict.diagnosis);
                    steps.record(Phase::name(*phase), false, detail);
                }
            }
        }
        let steps = session.connection.journal().take();
        session.connection.quit().await;
        steps
    }
}

async fn lane_worker(lane: Arc<Lane>) {
    lane.work(false).await;
}
